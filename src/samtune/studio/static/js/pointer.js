// Mouse, pen and fingers on the canvas, and the crosshair that the arrow keys move.

import { addPoint, beginStroke, decodeAll, endStroke, moveStroke, question, removePoint, setBox } from "./draft.js";
import { byId } from "./dom.js";
import { covers } from "./masks.js";
import { prefer, prefs } from "./prefs.js";
import { acceptProposals } from "./saving.js";
import { imagePath, post } from "./server.js";
import { app, emit } from "./store.js";
import { pan, toCanvas, toImage, view, zoomAt } from "./viewport.js";

/** `at` image point under the pointer or null; `drag` the box being drawn; `radius` of the brush in image pixels. */
const { pointer } = app;
const CLICK = 4; // CSS pixels a click may move
const NEAR = 9; // CSS pixels from a point's middle that still hit it
const PREVIEW = 120; // milliseconds a preview may take
const RETRY = 3000; // milliseconds until it is tried again where it took longer
const down = new Map();
let gesture = null;

export function startPointer() {
  pointer.radius = prefs.brush;
  const stage = byId("stage");
  stage.addEventListener("pointerdown", onDown);
  stage.addEventListener("pointermove", onMove);
  stage.addEventListener("pointerup", onUp);
  stage.addEventListener("pointercancel", cancel);
  stage.addEventListener("pointerleave", leave);
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("wheel", onWheel, { passive: false });
}

function place(event) {
  const { left, top } = byId("stage").getBoundingClientRect();
  return { px: event.clientX - left, py: event.clientY - top };
}

function inside({ x, y }) {
  const { width, height } = app.image;
  return { x: Math.min(width, Math.max(0, x)), y: Math.min(height, Math.max(0, y)) };
}

const isOnImage = ({ x, y }) => x >= 0 && y >= 0 && x < app.image.width && y < app.image.height;

function onDown(event) {
  if (!app.image || event.target.closest("[data-over]")) return;
  byId("stage").focus({ preventScroll: true });
  byId("stage").setPointerCapture(event.pointerId);
  const at = place(event);
  down.set(event.pointerId, at);
  if (down.size === 2) {
    endGesture();
    gesture = { kind: "pinch", ...pinch() };
    return;
  }
  const point = toImage(at.px, at.py);
  const negative = event.button === 2 || event.shiftKey !== (app.sign === 0);
  const moving = event.button === 1 || event.altKey || event.ctrlKey || app.tool === "select";
  if (moving) gesture = { kind: "pan", start: at, last: at };
  else if (app.tool === "prompt") gesture = { kind: "prompt", start: at, from: inside(point), negative };
  else {
    gesture = { kind: "stroke" };
    const erases = (app.tool === "eraser") !== (event.button === 2);
    beginStroke(point, pointer.radius, erases ? 0 : 1);
  }
}

function onMove(event) {
  if (!app.image) return;
  const at = place(event);
  Object.assign(pointer, { at: toImage(at.px, at.py), px: at.px, keyboard: false });
  emit("pointer");
  if (down.has(event.pointerId)) down.set(event.pointerId, at);
  if (!gesture) return preview();
  const moved = gesture.start && Math.hypot(at.px - gesture.start.px, at.py - gesture.start.py) > CLICK;
  if (gesture.kind === "pinch") movePinch();
  else if (gesture.kind === "pan" && (moved || gesture.moved)) {
    gesture.moved = true;
    pan((gesture.last.px - at.px) / view.scale, (gesture.last.py - at.py) / view.scale);
    gesture.last = at;
  } else if (gesture.kind === "prompt" && (moved || pointer.drag)) {
    const to = inside(pointer.at);
    pointer.drag = corners(gesture.from, to);
    app.hover = null;
  } else if (gesture.kind === "stroke") moveStroke(pointer.at);
  return undefined;
}

const corners = (a, b) => [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];

function onUp(event) {
  down.delete(event.pointerId);
  if (gesture?.kind === "pinch") {
    if (down.size === 0) gesture = null;
    return;
  }
  const ended = gesture;
  const box = pointer.drag;
  endGesture();
  if (!ended || !app.image) return;
  const at = place(event);
  const point = toImage(at.px, at.py);
  if (ended.kind === "prompt" && box) {
    if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) setBox(box.map(round));
  } else if (ended.kind === "prompt") click(point, at, ended.negative);
  else if (ended.kind === "pan" && !ended.moved) select(point);
}

const round = (value) => Math.round(100 * value) / 100;

/** A click of the prompt tool: takes a point away, accepts a proposal, or says "here" or "not here". */
export function click(point, at, negative) {
  if (!isOnImage(point)) return;
  const hit = (app.draft?.points ?? []).findIndex(([x, y]) => {
    const spot = toCanvas(x, y, at.px >= view.width / view.panes ? view.panes - 1 : 0);
    return Math.hypot(spot.x - at.px, spot.y - at.py) <= NEAR;
  });
  if (hit >= 0) {
    removePoint(hit);
    return;
  }
  const proposal = app.draft || negative ? null : proposalAt(point);
  if (proposal) acceptProposals([proposal]);
  else addPoint(round(point.x), round(point.y), negative ? 0 : 1);
}

function proposalAt({ x, y }) {
  const found = app.proposals.filter(({ mask, score }) => score >= app.threshold && covers(mask, x, y));
  return found.sort((a, b) => a.mask.w * a.mask.h - b.mask.w * b.mask.h)[0] ?? null;
}

function select({ x, y }) {
  const found = app.objects.filter((object) => covers(object.mask, x, y));
  app.selected = found.sort((a, b) => a.mask.w * a.mask.h - b.mask.w * b.mask.h)[0]?.id ?? null;
  emit("selected");
}

function endGesture() {
  if (gesture?.kind === "stroke") endStroke();
  gesture = null;
  pointer.drag = null;
  emit("pointer");
}

function cancel(event) {
  down.delete(event.pointerId);
  endGesture();
}

function leave() {
  pointer.at = null;
  if (app.hover) {
    app.hover = null;
    emit("hover");
  }
  emit("pointer");
}

function pinch() {
  const [a, b] = [...down.values()];
  return { px: (a.px + b.px) / 2, py: (a.py + b.py) / 2, apart: Math.hypot(a.px - b.px, a.py - b.py) };
}

function movePinch() {
  if (down.size < 2) return;
  const now = pinch();
  pan((gesture.px - now.px) / view.scale, (gesture.py - now.py) / view.scale);
  zoomAt(now.px, now.py, now.apart / Math.max(1, gesture.apart));
  Object.assign(gesture, now);
}

function onWheel(event) {
  if (!app.image || event.target.closest("[data-over]")) return;
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 16 : 1;
  if (event.altKey) return resizeBrush(event.deltaY < 0 ? 1.15 : 1 / 1.15);
  if (event.shiftKey) return pan((event.deltaY + event.deltaX) / view.scale, 0);
  const { px, py } = place(event);
  return zoomAt(px, py, Math.exp((-event.deltaY * lines) / (event.ctrlKey ? 120 : 420)));
}

export function resizeBrush(factor) {
  pointer.radius = Math.min(400, Math.max(0.5, pointer.radius * factor));
  prefer({ brush: pointer.radius });
  emit("pointer", "tool");
}

// The preview: one question at a time, only while nothing is being made. Where answers come too late, it is tried again
// now and then: what made them late may be over.

let asking = false;
let again = false;
let cost = 0;
let last = 0; // when it was tried

function wantsPreview() {
  const isReady = app.image?.embedded && !app.image.problem;
  const isIdle = isReady && !app.draft && !gesture && app.tool === "prompt" && !app.compare;
  return isIdle && prefs.hover && pointer.at && isOnImage(pointer.at) && !proposalAt(pointer.at);
}

async function preview() {
  const { image } = app;
  if (!wantsPreview() || (cost > PREVIEW && performance.now() < last + RETRY)) return clearPreview();
  if (asking) {
    again = true;
    return undefined;
  }
  asking = true;
  again = false;
  try {
    last = performance.now();
    const point = [round(pointer.at.x), round(pointer.at.y), 1];
    const answer = await post(imagePath(image.id, "predict"), question({ box: null, points: [point] }, null, true));
    const masks = await decodeAll(answer);
    cost = 0.6 * Math.min(cost, 4 * PREVIEW) + 0.4 * (performance.now() - last);
    if (app.image === image && wantsPreview()) {
      app.hover = masks[answer.best].mask;
      emit("hover");
    }
  } catch {
    cost = 4 * PREVIEW; // not so soon again; what really fails is said when one clicks
  } finally {
    asking = false;
  }
  if (again) preview();
  return undefined;
}

function clearPreview() {
  if (!app.hover) return;
  app.hover = null;
  emit("hover");
}

// The crosshair of the keyboard.

export function moveCrosshair(dx, dy) {
  const start = pointer.at ?? { x: view.x, y: view.y };
  pointer.at = inside({ x: start.x + dx / view.scale, y: start.y + dy / view.scale });
  pointer.keyboard = true;
  const at = toCanvas(pointer.at.x, pointer.at.y);
  pointer.px = at.x;
  const out = at.x < 20 || at.y < 20 || at.x > view.width / view.panes - 20 || at.y > view.height - 20;
  if (out) pan(dx / view.scale, dy / view.scale);
  if (pointer.corner) pointer.drag = corners(pointer.corner, pointer.at);
  emit("pointer");
}

/** A click where the crosshair is. */
export function clickCrosshair(negative) {
  const point = pointer.at ?? { x: view.x, y: view.y };
  const at = toCanvas(point.x, point.y);
  click(point, { px: at.x, py: at.y }, negative);
}

/** The first press starts a box at the crosshair, the second ends it. */
export function cornerCrosshair() {
  const point = pointer.at ?? { x: view.x, y: view.y };
  if (!pointer.corner) {
    pointer.corner = point;
    pointer.drag = [point.x, point.y, point.x, point.y];
  } else {
    const box = corners(pointer.corner, point);
    pointer.corner = pointer.drag = null;
    if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) setBox(box.map(round));
  }
  emit("pointer");
}
