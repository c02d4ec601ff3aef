// The bars over the canvas, the line below it, and what the head says about saving.

import { setOpacity, setTool, toggleHidden, toggleSign } from "./actions.js";
import { canCompare, compare } from "./compare.js";
import { byId, el, figure, icon, percent, replace, shortName } from "./dom.js";
import { currentIou, dropDraft, nextMask, step } from "./draft.js";
import { canRedo, canUndo, redo, undo } from "./history.js";
import { firstKey, readable } from "./keys.js";
import { askProposals } from "./proposals.js";
import { accept, saving } from "./saving.js";
import { app, nameOf, on } from "./store.js";
import { fit, fitScale, view, zoom } from "./viewport.js";

export function startBars() {
  on("tool history models state", tools);
  on("view look", zoomBar);
  on("draft classes", draftBar);
  on("saving", saved);
  on("status image view pointer", status);
  on("image state", empty);
  saved();
}

function button(id, name, label, run, attributes = {}) {
  const title = `${label} (${readable(firstKey(id) ?? "no key")})`;
  return el("button", { "aria-label": title, title, onclick: run, "data-key": id, ...attributes }, icon(name));
}

function tools() {
  const tool = (name, label) =>
    button(`tool-${name}`, name, label, () => setTool(name), { "aria-pressed": String(app.tool === name) });
  byId("stage").dataset.tool = app.tool;
  replace(byId("tools"),
    tool("prompt", "Clicks and boxes"), tool("brush", "Brush"), tool("eraser", "Eraser"), tool("select", "Select and move"),
    el("hr"),
    button("sign", app.sign ? "plus" : "minus", app.sign ? "Clicks are positive" : "Clicks are negative", toggleSign),
    button("proposals", "sparkle", "Propose objects", askProposals),
    el("hr"),
    button("undo", "undo", "Undo", undo, { disabled: !canUndo() }),
    button("redo", "redo", "Redo", redo, { disabled: !canRedo() }),
    el("hr"),
    button("hide", "eye", "Hide and show masks", toggleHidden, { "aria-pressed": String(app.hidden) }),
    canCompare() ? button("flip", "flip", "Flip between base and tuned", () => compare("flip")) : null,
    canCompare() ? button("split", "split", "Base beside tuned", () => compare("split")) : null);
}

function zoomBar() {
  if (!app.image) return;
  const slider = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: app.opacity, "aria-label": "Opacity of masks", title: "Opacity of masks ([ and ])", "data-key": "opacity", oninput: (event) => setOpacity(Number(event.target.value)) });
  if (document.activeElement?.dataset.key === "opacity") return; // it is being dragged
  replace(byId("zoom"), slider, button("zoom-out", "minus", "Zoom out", () => zoom(1 / 1.3)),
    button("fit", "fit", "Whole image", fit, { disabled: view.scale === fitScale() }), button("zoom-in", "plus", "Zoom in", () => zoom(1.3)));
}

function draftBar() {
  const bar = byId("draft-bar");
  const { draft } = app;
  bar.hidden = draft === null;
  if (!draft) return;
  const iou = currentIou(draft);
  const what = draft.objectId ? `Correcting object ${draft.objectId}` : `New ${nameOf(app.category)}`;
  const facts = [];
  if (!draft.answered) facts.push("asking the model…");
  else if (draft.edited) facts.push("painted by hand");
  else if (iou !== null) facts.push(`predicted IoU ${figure(iou)}`);
  if (draft.score !== null && draft.score < 0) facts.push("perhaps no object here");
  const three = draft.masks.length > 1 && draft.answered
    ? el("span", { class: "thirds", role: "group", "aria-label": "Masks" }, draft.masks.map((mask, i) =>
        el("button", { "aria-pressed": String(!draft.edited && draft.chosen === i), "aria-label": `Mask ${i + 1}, predicted IoU ${percent(mask.iou)}`, title: `IoU ${figure(mask.iou)} (Tab)`, "data-key": `mask-${i}`, onclick: () => step({ chosen: i, edited: null }, false) }, String(i + 1))))
    : draft.box && draft.answered && !draft.edited
      ? el("button", { class: "small", title: "Tab", onclick: () => nextMask(1), "data-key": "three" }, "3 masks")
      : null;
  replace(bar, el("span", { class: "what" }, el("b", {}, what), el("small", {}, facts.join(" · "))), three,
    el("button", { class: "ghost", onclick: dropDraft, "data-key": "drop" }, "Drop ", el("kbd", {}, readable(firstKey("drop") ?? "–"))),
    el("button", { class: "primary", onclick: accept, id: "accept", "data-key": "accept" }, draft.objectId ? "Replace " : "Accept ", el("kbd", {}, readable(firstKey("accept") ?? "–"))));
}

/** "Saved" only after the server has answered. */
function saved() {
  const node = byId("saved");
  const { waiting, failed, saved: count } = saving;
  const [kind, text] = failed
    ? ["bad", failed === 1 ? "1 object not saved" : `${failed} objects not saved`]
    : waiting
      ? ["wait", "Saving…"]
      : count
        ? ["ok", "All changes saved"]
        : ["", "No changes yet"];
  node.className = `saved ${kind}`;
  if (node.textContent !== text) node.textContent = text;
}

function status() {
  const { image, pointer } = app;
  byId("status-image").textContent = image ? `${shortName(image.name)} · ${image.width} × ${image.height}` : "";
  byId("status-busy").textContent = app.busy;
  byId("status-zoom").textContent = image ? percent(view.scale) : "";
  byId("status-latency").textContent = app.latency === null ? "" : `mask in ${Math.round(app.latency)} ms`;
  byId("status-at").textContent = image && pointer.at ? `${Math.floor(pointer.at.x)}, ${Math.floor(pointer.at.y)}` : "";
}

function empty() {
  const node = byId("empty");
  const problem = app.image?.problem;
  node.hidden = !problem && (app.image !== null || app.images.length > 0);
  if (problem) replace(node, el("b", {}, "This image cannot be shown"), el("span", {}, problem.message));
  else if (!node.hidden) replace(node, el("b", {}, "No images"), el("span", {}, "The studio was started on a folder without images it can read."));
}
