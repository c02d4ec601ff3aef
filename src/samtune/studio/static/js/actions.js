// Everything that can be done with a key: what it is called, its default keys, and what it does.

import { announce } from "./dom.js";
import { compare } from "./compare.js";
import { openExport, openHelp } from "./dialogs.js";
import { dropDraft, fixObject, nextMask } from "./draft.js";
import { redo, undo } from "./history.js";
import { nextUncertain, openBeside } from "./images.js";
import { cycleModel } from "./models.js";
import { clickCrosshair, cornerCrosshair, moveCrosshair, resizeBrush } from "./pointer.js";
import { prefer } from "./prefs.js";
import { acceptAllProposals, askProposals } from "./proposals.js";
import { openReview } from "./review.js";
import { accept, change, deleteObject, setStatus } from "./saving.js";
import { app, emit, nameOf } from "./store.js";
import { notice } from "./toast.js";
import { fit, pan, view, zoom } from "./viewport.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const arrows = (prefix = "") => Object.keys(ARROWS).map((key) => prefix + key);
const onCanvas = (event) => !event.target.closest?.("#left, #right, #top, #bottom");

export function setTool(tool) {
  app.tool = tool;
  emit("tool", "pointer");
  announce(`Tool: ${tool}`);
}

export function setOpacity(opacity) {
  app.opacity = Math.min(1, Math.max(0, opacity));
  prefer({ opacity: app.opacity });
  emit("look");
}

export function toggleHidden() {
  app.hidden = !app.hidden;
  emit("look", "tool");
}

export function toggleSign() {
  app.sign = app.sign ? 0 : 1;
  emit("tool");
  announce(app.sign ? "Clicks are positive" : "Clicks are negative");
}

/** The class for new objects; that of the selected object changes with it. */
export function chooseClass(category) {
  app.category = category.id;
  emit("classes", "draft");
  if (app.selected && !app.draft) change(app.selected, { category_id: category.id });
  announce(`Class ${nameOf(category.id)}`);
}

function escape() {
  if (app.pointer.corner) {
    app.pointer.corner = app.pointer.drag = null;
    emit("pointer");
  } else if (app.compare) {
    app.compare = null;
    emit("compare", "draft");
  } else if (dropDraft()) announce("Dropped");
  else if (app.proposals.length) {
    app.proposals = [];
    emit("proposals");
  } else if (app.selected) {
    app.selected = null;
    emit("selected");
  }
}

function stepObject(direction) {
  const ids = app.objects.map((object) => object.id);
  if (!ids.length) return;
  const at = ids.indexOf(app.selected);
  app.selected = ids[at < 0 ? (direction > 0 ? 0 : ids.length - 1) : (at + direction + ids.length) % ids.length];
  emit("selected");
  const object = app.objects.find((one) => one.id === app.selected);
  announce(`Object ${app.selected}, ${nameOf(object.category_id)}`);
}

function needSelected(work) {
  if (app.selected) work(app.selected);
  else notice("Select an object first: in the list, with J and K, or with the select tool.");
}

const action = (group, id, label, keys, run, when = undefined) => ({ group, id, label, keys, run, when });

const CLASSES = Array.from({ length: 9 }, (_, i) =>
  action("Classes", `class-${i + 1}`, `Class ${i + 1}`, [`${i + 1}`], () => {
    if (app.classes[i]) chooseClass(app.classes[i]);
  }),
);

export const ACTIONS = [
  action("Mask", "accept", "Accept the mask", ["Enter", "Space"], accept),
  action("Mask", "drop", "Drop, close, deselect", ["Escape"], escape),
  action("Mask", "next-mask", "Next of the three masks", ["Tab"], () => nextMask(1), (event) => app.draft && onCanvas(event)),
  action("Mask", "previous-mask", "Previous mask", ["Shift+Tab"], () => nextMask(-1), (event) => app.draft && onCanvas(event)),
  action("Mask", "undo", "Undo", ["z", "Ctrl+z"], undo),
  action("Mask", "redo", "Redo", ["y", "Ctrl+y", "Ctrl+Shift+z"], redo),
  action("Mask", "proposals", "Propose objects", ["r"], askProposals),
  action("Mask", "accept-all", "Accept all proposals above the threshold", ["Shift+r"], acceptAllProposals),
  action("Tools", "tool-prompt", "Clicks and boxes", ["p"], () => setTool("prompt")),
  action("Tools", "tool-brush", "Brush", ["b"], () => setTool("brush")),
  action("Tools", "tool-eraser", "Eraser", ["e"], () => setTool("eraser")),
  action("Tools", "tool-select", "Select and move", ["v"], () => setTool("select")),
  action("Tools", "sign", "Clicks say: here, or not here", ["s"], toggleSign),
  action("Tools", "brush-smaller", "Smaller brush", [","], () => resizeBrush(1 / 1.25)),
  action("Tools", "brush-larger", "Larger brush", ["."], () => resizeBrush(1.25)),
  action("Without a mouse", "crosshair", "Move the crosshair", arrows(), (event) => {
    const [dx, dy] = ARROWS[event.key];
    moveCrosshair(12 * dx, 12 * dy);
  }),
  action("Without a mouse", "crosshair-fine", "Move it by one pixel", arrows("Shift+"), (event) => {
    const [dx, dy] = ARROWS[event.key];
    moveCrosshair(dx * view.scale, dy * view.scale);
  }),
  action("Without a mouse", "positive", "Positive click there", ["q"], () => clickCrosshair(false)),
  action("Without a mouse", "negative", "Negative click there", ["w"], () => clickCrosshair(true)),
  action("Without a mouse", "corner", "Start a box there, and end it", ["o"], cornerCrosshair),
  action("Images", "previous-image", "Previous image", ["a"], () => openBeside(-1)),
  action("Images", "next-image", "Next image", ["d"], () => openBeside(1)),
  action("Images", "uncertain", "Next uncertain image", ["n"], nextUncertain),
  action("Images", "done", "Image is done, or not", ["m"], () => {
    if (app.image) setStatus(app.image, app.image.status === "done" ? "open" : "done");
  }),
  action("Objects", "next-object", "Select the next object", ["j"], () => stepObject(1)),
  action("Objects", "previous-object", "Select the previous object", ["k"], () => stepObject(-1)),
  action("Objects", "fix", "Correct the selected object", ["f"], () => needSelected(fixObject)),
  action("Objects", "delete", "Delete the selected object", ["Delete", "Backspace"], () => needSelected(deleteObject)),
  action("Models", "flip", "Flip between base and tuned", ["c"], () => compare("flip")),
  action("Models", "split", "Base beside tuned", ["x"], () => compare("split")),
  action("Models", "model", "Use the next model", ["u"], cycleModel),
  action("View", "hide", "Hide and show masks", ["h"], toggleHidden),
  action("View", "fainter", "Masks fainter", ["["], () => setOpacity(app.opacity - 0.1)),
  action("View", "stronger", "Masks stronger", ["]"], () => setOpacity(app.opacity + 0.1)),
  action("View", "zoom-in", "Zoom in", ["+", "="], () => zoom(1.3)),
  action("View", "zoom-out", "Zoom out", ["-"], () => zoom(1 / 1.3)),
  action("View", "fit", "Whole image", ["0"], fit),
  action("View", "pan", "Move the view", arrows("Ctrl+"), (event) => {
    const [dx, dy] = ARROWS[event.key];
    pan((80 * dx) / view.scale, (80 * dy) / view.scale);
  }),
  action("Page", "review", "Review all objects", ["g"], openReview),
  action("Page", "export", "Export", ["Shift+e"], openExport),
  action("Page", "help", "Help and keys", ["?"], openHelp),
  ...CLASSES,
];
