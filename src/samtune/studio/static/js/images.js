// The list of images, and opening one of them.

import { announce, byId, el, icon, percent, replace, shortName } from "./dom.js";
import { clearDraft } from "./draft.js";
import { openPixels, thumbnail } from "./pixels.js";
import { imagePath, post } from "./server.js";
import { loadObjects } from "./saving.js";
import { app, busy, emit, imageById, on } from "./store.js";
import { notice, report } from "./toast.js";
import { fit } from "./viewport.js";

const items = new Map(); // id of an image -> its element
let watcher;

export function startImages() {
  watcher = new IntersectionObserver(onSeen, { root: byId("image-list"), rootMargin: "200px" });
  byId("image-search").addEventListener("input", list);
  byId("image-filter").addEventListener("change", list);
  on("images image state", list);
}

function shown() {
  const text = byId("image-search").value.trim().toLowerCase();
  const filter = byId("image-filter").value;
  return app.images.filter(
    ({ name, status }) =>
      name.toLowerCase().includes(text) && (filter === "all" || (status === "done") === (filter === "done")),
  );
}

function list() {
  const images = shown();
  const wanted = images.map((image) => item(image));
  const held = byId("image-list");
  if (held.children.length !== wanted.length || wanted.some((node, i) => held.children[i] !== node))
    held.replaceChildren(...wanted);
  const done = app.images.filter((image) => image.status === "done").length;
  const ready = app.images.filter((image) => image.embedded).length;
  byId("image-count").textContent = `${done} of ${app.images.length} done`;
  const share = app.images.length ? done / app.images.length : 0;
  byId("done-meter").firstElementChild.style.setProperty("--share", share);
  byId("done-meter").setAttribute("aria-valuenow", Math.round(100 * share));
  byId("embedding").textContent = ready < app.images.length ? `${ready} of ${app.images.length} ready for clicks` : "";
}

function item(image) {
  const found = items.get(image.id) ?? blank(image);
  const button = found.firstElementChild;
  const isOpen = app.image?.id === image.id;
  if (isOpen && button.getAttribute("aria-current") !== "true") found.scrollIntoView({ block: "nearest" });
  button.setAttribute("aria-current", String(isOpen));
  const words = { new: "new", open: "begun", done: "done" };
  button.setAttribute("aria-label", `${image.name}, ${image.objects} objects, ${words[image.status]}`);
  const doubt = image.doubt === null || image.status === "done" ? null : el("span", { title: "How unsure the model is" }, `doubt ${percent(image.doubt)}`);
  replace(button.querySelector("small"), el("span", {}, image.objects === 1 ? "1 object" : `${image.objects} objects`), image.split ? el("span", {}, image.split) : null, doubt);
  const mark = button.querySelector(".mark");
  mark.className = `mark ${image.status}`;
  mark.title = words[image.status];
  replace(mark, image.status === "done" ? icon("check") : "");
  return found;
}

function blank(image) {
  const button = el(
    "button",
    { class: "image", onclick: () => open(image.id), "data-key": image.id },
    el("span", { class: "blank" }),
    el("span", {}, el("b", { title: image.name }, shortName(image.name)), el("small")),
    el("span", { class: "mark" }),
  );
  const node = el("li", { "data-image": image.id }, button);
  items.set(image.id, node);
  watcher.observe(node);
  return node;
}

function onSeen(entries) {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    thumbnail(target.dataset.image)
      .then((src) => target.querySelector(".blank")?.replaceWith(el("img", { src, alt: "", loading: "lazy" })))
      .catch(() => {}); // the image says what is wrong with it when it is opened
  }
}

/** Show an image: its pixels, its objects, and ask the server to embed it. */
export async function open(id) {
  const image = imageById(id);
  if (!image) {
    notice(`There is no image ${id} here.`);
    return;
  }
  if (app.image?.id === id && !image.problem) return;
  if (app.draft) clearDraft();
  image.problem = null;
  Object.assign(app, { image, objects: [], selected: null, proposals: [], compare: null, hover: null });
  fit();
  emit("image", "objects", "selected", "proposals", "compare", "draft");
  busy("Opening…");
  try {
    await Promise.all([openPixels(image), loadObjects(image)]);
    announce(`${image.name}, ${app.objects.length} objects`);
    busy("");
  } catch (error) {
    busy("");
    image.problem = error;
    report(error);
    if (app.image === image) emit("image"); // which says so in its place
    return;
  }
  embed(image);
}

async function embed(image) {
  if (image.embedded) return;
  busy("Preparing this image for the model…");
  try {
    await post(imagePath(image.id, "embed"));
    image.embedded = true;
    emit("images");
  } catch (error) {
    report(error);
  }
  busy("");
}

export function openBeside(direction) {
  const images = shown();
  if (!images.length) return undefined;
  const at = images.findIndex((image) => image.id === app.image?.id);
  const next = images[Math.min(images.length - 1, Math.max(0, at + direction))];
  if (next.id === app.image?.id) notice(direction > 0 ? "This is the last image." : "This is the first image.");
  return open(next.id);
}

/** Of the images that are not done, the one the model is least sure about; without such figures, the next one. */
export function nextUncertain() {
  const others = app.images.filter((image) => image.status !== "done" && image.id !== app.image?.id);
  if (!others.length) {
    notice("No other image is left to do.");
    return undefined;
  }
  const rated = others.filter((image) => image.doubt !== null);
  if (rated.length) return open(rated.reduce((a, b) => (b.doubt > a.doubt ? b : a)).id);
  const at = app.images.indexOf(app.image);
  return open((others.find((image) => app.images.indexOf(image) > at) ?? others[0]).id);
}
