// Export, and help with the keys.

import { ACTIONS } from "./actions.js";
import { byId, el, icon, replace } from "./dom.js";
import { captureKey, keysOf, readable, remap, resetKeys } from "./keys.js";
import { prefer, prefs } from "./prefs.js";
import { post } from "./server.js";
import { app } from "./store.js";
import { report } from "./toast.js";

function head(dialog, id, title) {
  return el("div", { class: "dialog-head" }, el("h2", { id }, title),
    el("button", { class: "ghost square", "aria-label": "Close", onclick: () => dialog.close() }, icon("close")));
}

const FORMATS = [
  ["coco", "COCO", "one JSON, holes kept"],
  ["yolo", "YOLO", "a text per image"],
  ["masks", "Masks", "a PNG per object"],
];
let tolerance = 0;

export function openExport() {
  const dialog = byId("export");
  const result = el("div", { role: "status", id: "export-result" });
  const limit = el("input", { type: "number", name: "tolerance", min: 0, max: 100, step: 0.1, value: tolerance });
  const field = el("label", { class: "field" }, el("span", {}, "Simplify outlines by at most, in pixels"), limit,
    el("small", { class: "muted" }, "0 keeps every pixel. COCO keeps objects with holes exact in any case. What the studio itself keeps is never simplified."));
  const choices = FORMATS.map(([value, name, text], i) => el("label", {},
    el("input", { type: "radio", name: "format", value, checked: i === 0 }), el("b", {}, name), el("small", { class: "muted" }, text)));
  const form = el("form", { onsubmit: (event) => run(event, result), onchange: () => { field.hidden = new FormData(form).get("format") === "masks"; } },
    el("div", { class: "field" }, el("div", { class: "choices", role: "radiogroup", "aria-label": "Format" }, choices)), field,
    el("button", { class: "primary", type: "submit" }, icon("export"), "Export"));
  replace(dialog, head(dialog, "export-title", "Export"), form, result);
  form.dispatchEvent(new Event("change"));
  if (!dialog.open) dialog.showModal();
}

async function run(event, result) {
  event.preventDefault();
  const data = new FormData(event.target);
  tolerance = Number(data.get("tolerance"));
  replace(result, el("p", { class: "muted" }, "Writing…"));
  try {
    const { path, files, objects } = await post("/api/export", { format: data.get("format"), tolerance });
    replace(result, el("p", {}, `${objects} objects in ${files} files:`), el("p", { class: "path" }, path));
  } catch (error) {
    byId("export").close();
    report(error);
  }
}

const MOUSE = [
  ["Drag", "Box around an object"],
  ["Click", "Positive: this belongs to it"],
  ["Right click, Shift click", "Negative: this does not"],
  ["Click on a point", "Take the point away"],
  ["Ctrl click", "Select the object there"],
  ["Wheel, pinch", "Zoom"],
  ["Middle button, Alt drag", "Move the view"],
  ["Alt wheel", "Size of the brush"],
];

export function openHelp() {
  const dialog = byId("help");
  paintHelp(dialog);
  if (!dialog.open) dialog.showModal();
}

function paintHelp(dialog) {
  const groups = [...new Set(ACTIONS.map((action) => action.group))];
  const mouse = el("section", {}, el("h3", {}, "Mouse"), el("ul", {}, MOUSE.map(([keys, text]) => el("li", {}, text, el("span", { class: "muted small" }, keys)))));
  const sections = groups.map((group) => el("section", {}, el("h3", {}, group),
    el("ul", {}, ACTIONS.filter((action) => action.group === group).map((action) => keyRow(dialog, action)))));
  replace(dialog, head(dialog, "help-title", "Help and keys"),
    el("p", { class: "muted" }, "Click on a key to give an action another one. Escape leaves it as it was."),
    el("div", { class: "field" }, el("label", {}, el("input", { type: "checkbox", class: "check", checked: prefs.hover, onchange: (event) => prefer({ hover: event.target.checked }) }), " Show a preview of the mask under the pointer")),
    el("div", { class: "keys" }, mouse, sections),
    el("div", { class: "line" }, el("button", { onclick: () => { resetKeys(); paintHelp(dialog); }, "data-key": "reset" }, "All keys as they were"), el("span", { class: "muted small" }, ` samtune ${app.version ?? ""}`)));
}

function keyRow(dialog, action) {
  const keys = keysOf(action);
  const wait = (event) => {
    const button = event.currentTarget;
    button.classList.add("waiting");
    button.textContent = "Press a key…";
    captureKey((key) => {
      if (key !== null) remap(action.id, key);
      paintHelp(dialog);
    });
  };
  const label = `${action.label}: ${keys.map(readable).join(" or ") || "no key"}. Change`;
  return el("li", {}, action.label, el("button", { onclick: wait, "aria-label": label, "data-key": `key-${action.id}`, disabled: action.keys.length > 3 },
    keys.length ? keys.map((key) => el("kbd", {}, readable(key))) : "none"));
}
