// The panel of classes and objects.

import { chooseClass } from "./actions.js";
import { byId, el, figure, icon, replace } from "./dom.js";
import { fixObject } from "./draft.js";
import { area } from "./masks.js";
import { addClass, deleteObject, discard, retry } from "./saving.js";
import { app, classById, colorOf, emit, nameOf, on } from "./store.js";
import { report } from "./toast.js";
import { show } from "./viewport.js";

export function startAnnotate() {
  on("classes state", listClasses);
  on("objects selected classes image", listObjects);
  byId("add-class").addEventListener("submit", onAdd);
}

async function onAdd(event) {
  event.preventDefault();
  const input = event.target.elements.name;
  if (!input.value.trim()) return;
  try {
    await addClass(input.value.trim());
    input.value = "";
    input.blur();
  } catch (error) {
    report(error);
  }
}

const swatch = (categoryId) => el("span", { class: "swatch", vars: { "--color": colorOf(categoryId) } });

function listClasses() {
  if (!classById(app.category)) app.category = app.classes[0]?.id ?? null;
  const rows = app.classes.map((one, i) =>
    el("button", { class: "row", role: "radio", "aria-checked": String(one.id === app.category), "data-key": `class-${one.id}`, onclick: () => chooseClass(one) },
      swatch(one.id), el("span", { class: "text", title: one.name }, one.name), i < 9 ? el("kbd", {}, String(i + 1)) : null));
  replace(byId("classes"), rows.length ? rows : el("p", { class: "blank-note" }, "No classes yet. The first object makes one named “object”."));
}

function listObjects() {
  byId("object-count").textContent = app.objects.length ? String(app.objects.length) : "";
  const rows = app.objects.map(row).reverse();
  replace(byId("objects"), rows.length ? rows : el("li", { class: "blank-note" }, "Click on an object or draw a box around it. Enter keeps the mask."));
  byId("objects").querySelector(".current")?.scrollIntoView({ block: "nearest" });
}

const SOURCES = { person: "", import: "imported", proposal: "proposed" };

function row(object) {
  const isSelected = object.id === app.selected;
  const facts = [`${area(object.mask).toLocaleString("en")} px`];
  if (SOURCES[object.source]) facts.push(SOURCES[object.source]);
  else if (object.clicks) facts.push(`${object.clicks} ${object.clicks === 1 ? "prompt" : "prompts"}`);
  if (object.iou !== null) facts.push(`IoU ≈ ${figure(object.iou)}`);
  const select = () => {
    app.selected = isSelected ? null : object.id;
    emit("selected");
    if (app.selected) show(object.mask);
  };
  const main = el("button", { class: "row", "data-key": `object-${object.id}`, "aria-pressed": String(isSelected), onclick: select },
    swatch(object.category_id),
    el("span", { class: "text" }, el("span", {}, nameOf(object.category_id)), el("br"), el("small", {}, facts.join(" · "))),
    badge(object));
  return el("li", { class: `object ${isSelected ? "current" : ""}` }, main, el("span", { class: "acts" }, acts(object)));
}

function badge(object) {
  if (object.saving === "saving") return el("span", { class: "badge" }, "saving");
  return object.saving === "failed" ? el("span", { class: "badge bad" }, "not saved") : null;
}

function acts(object) {
  const button = (name, label, run) =>
    el("button", { class: "ghost square small", "aria-label": label, title: label, onclick: run, "data-key": `${name}-${object.id}` }, icon(name));
  if (object.saving === "failed")
    return [button("redo", "Try to save again", () => retry(object)), button("close", "Discard", () => discard(object))];
  if (object.saving) return [];
  return [
    button("edit", "Correct this object", () => { app.selected = object.id; emit("selected"); fixObject(object.id); }),
    button("trash", "Delete this object", () => deleteObject(object.id)),
  ];
}
