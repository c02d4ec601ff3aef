// All objects in a grid: filter, sort, and mend in place.

import { byId, el, figure, icon, replace } from "./dom.js";
import { goTo } from "./link.js";
import { loadObjects } from "./saving.js";
import { get, imagePath, lastOnly, post } from "./server.js";
import { app, emit, imageById, nameOf } from "./store.js";
import { report } from "./toast.js";
import { showView } from "./tabs.js";

const filter = { class: "", min_size: "", max_size: "", sort: "iou" };
let objects = [];
let total = 0; // of which the server sends the first

export function openReview() {
  const dialog = byId("review");
  replace(dialog, head(), el("div", { class: "review-grid", id: "review-grid" }, el("p", { class: "blank-note" }, "Looking for objects…")));
  if (!dialog.open) dialog.showModal();
  load();
}

function head() {
  const set = (name) => (event) => {
    filter[name] = event.target.value;
    load();
  };
  const option = ([value, text], chosen) => el("option", { value, selected: String(value) === String(chosen) }, text);
  const select = (name, label, options) => el("select", { "aria-label": label, onchange: set(name) }, options.map((one) => option(one, filter[name])));
  const size = (name, label) => el("input", { type: "number", min: 0, placeholder: label, "aria-label": `${label} in pixels`, value: filter[name], onchange: set(name) });
  return el("div", { class: "review-head" }, el("h2", {}, "Review"),
    select("class", "Class", [["", "All classes"], ...app.classes.map((one) => [one.id, one.name])]),
    size("min_size", "Min. area"), size("max_size", "Max. area"),
    select("sort", "Order", [["iou", "Lowest predicted IoU first"], ["size", "Smallest first"], ["doubt", "Most doubtful images first"]]),
    el("span", { class: "muted", id: "review-count", role: "status" }), el("span", { class: "spacer" }),
    el("button", { class: "ghost square", "aria-label": "Close the review", onclick: () => byId("review").close() }, icon("close")));
}

const listing = lastOnly();

async function load() {
  const isLast = listing();
  const asked = Object.entries(filter).filter(([, value]) => value !== "");
  try {
    const answer = await get(`/api/review?${new URLSearchParams(asked)}`);
    if (!isLast()) return;
    ({ objects, total } = answer);
    paint();
  } catch (error) {
    if (!isLast()) return;
    byId("review").close();
    report(error);
  }
}

function paint() {
  const all = total === 1 ? "1 object" : `${total.toLocaleString("en")} objects`;
  byId("review-count").textContent = objects.length < total ? `the first ${objects.length} of ${all}` : all;
  replace(byId("review-grid"), objects.length ? objects.map(tile) : el("p", { class: "blank-note" }, "No accepted object fits this filter."));
}

function tile(object) {
  const { image_id, object_id, category_id, area, iou, thumbnail } = object;
  const image = imageById(image_id)?.name ?? image_id;
  const open = () => {
    byId("review").close();
    showView("canvas");
    goTo({ image: image_id, object: object_id });
  };
  const classes = el("select", { "aria-label": `Class of object ${object_id}`, "data-key": `class-${object_id}`, onchange: (event) => mend(object, { action: "update", category_id: Number(event.target.value) }) },
    app.classes.map((one) => el("option", { value: one.id, selected: one.id === category_id }, one.name)));
  const label = `Open object ${object_id}, ${nameOf(category_id)}, in ${image}`;
  const remove = el("button", { class: "ghost square small", "aria-label": `Delete object ${object_id}`, title: "Delete", "data-key": `delete-${object_id}`, onclick: () => mend(object, { action: "delete" }) }, icon("trash"));
  return el("div", { class: "tile" },
    el("button", { onclick: open, "aria-label": label, title: `${image}: open`, "data-key": `open-${object_id}` }, el("img", { src: `data:image/png;base64,${thumbnail}`, alt: "" })),
    el("div", { class: "about" }, classes, remove),
    el("div", { class: "more" }, el("span", {}, `${area.toLocaleString("en")} px`), el("span", {}, iou === null ? "" : `IoU ≈ ${figure(iou)}`)));
}

/** Change an object where it stands; the grid shows it once the server has it. */
async function mend(object, body) {
  try {
    const { revision } = await get(imagePath(object.image_id, "objects"));
    await post(imagePath(object.image_id, "objects"), { ...body, id: object.object_id, revision });
    if (body.action === "delete") {
      objects = objects.filter((other) => other !== object);
      total -= 1;
    } else object.category_id = body.category_id;
    const image = imageById(object.image_id);
    if (app.image === image) await loadObjects(image);
    else if (body.action === "delete") image.objects -= 1;
    emit("images", "saved");
    paint();
  } catch (error) {
    byId("review").close();
    report(error);
  }
}
