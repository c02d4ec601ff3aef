// Drawing: three canvases over each other, for the image, the masks, and what moves with the pointer. Each is drawn
// again only when what it shows has changed, at most once per frame.

import { byId } from "./dom.js";
import { bitmap, outline, stairs } from "./masks.js";
import { pixels, refine } from "./pixels.js";
import { currentMask } from "./draft.js";
import { app, colorOf, nameOf, on } from "./store.js";
import { fit, paneOf, paneWidth, toCanvas, view } from "./viewport.js";

const STEPS_FROM = 6; // scale from which the pixels' own sides are drawn
const DRAFT = "#ffffff";
const POSITIVE = "#1f8fff";
const NEGATIVE = "#e0562a";
const layers = {};
const dirty = new Set();
let style;

export function startScene() {
  for (const name of ["image", "masks", "cursor"]) layers[name] = byId(`layer-${name}`).getContext("2d");
  new ResizeObserver(resize).observe(byId("stage"));
  on("view image compare theme", () => redraw("image", "masks", "cursor"));
  on("objects selected draft hover proposals look classes", () => redraw("masks"));
  on("pointer tool draft", () => redraw("cursor"));
  on("view", refine);
}

function redraw(...names) {
  if (dirty.size === 0) requestAnimationFrame(draw);
  for (const name of names) dirty.add(name);
}

function resize() {
  const { clientWidth, clientHeight } = byId("stage");
  if (clientWidth === 0 || clientHeight === 0) return;
  const first = view.width === 1;
  Object.assign(view, { width: clientWidth, height: clientHeight });
  for (const { canvas } of Object.values(layers)) {
    canvas.width = Math.round(clientWidth * devicePixelRatio);
    canvas.height = Math.round(clientHeight * devicePixelRatio);
  }
  if (first) fit();
  redraw("image", "masks", "cursor");
}

function draw() {
  style = getComputedStyle(document.documentElement);
  const names = [...dirty];
  dirty.clear();
  const painters = { image: paintImage, masks: paintMasks, cursor: paintCursor };
  for (const name of names) {
    const context = layers[name];
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    if (app.image) eachPane(context, (pane) => painters[name](context, pane));
  }
}

function eachPane(context, paint) {
  for (let pane = 0; pane < view.panes; pane++) {
    context.save();
    context.beginPath();
    context.rect(pane * paneWidth() + (pane ? 1 : 0), 0, paneWidth() - (pane ? 1 : 0), view.height);
    context.clip();
    paint(pane);
    context.restore();
  }
}

/** Until the function returns, one unit is one pixel of the image. */
function inImage(context, pane, paint) {
  const { x, y } = toCanvas(0, 0, pane);
  context.save();
  context.translate(x, y);
  context.scale(view.scale, view.scale);
  paint();
  context.restore();
}

function paintImage(context, pane) {
  if (!pixels.base || pixels.id !== app.image.id) return;
  const { x, y } = toCanvas(0, 0, pane);
  context.save();
  context.shadowColor = "rgba(0, 0, 0, 0.28)";
  context.shadowBlur = 18;
  context.fillStyle = style.getPropertyValue("--stage");
  context.fillRect(x, y, app.image.width * view.scale, app.image.height * view.scale);
  context.restore();
  inImage(context, pane, () => {
    for (const level of [pixels.base, pixels.part]) {
      if (!level) continue;
      context.imageSmoothingEnabled = (view.scale * level.w) / level.bitmap.width < 2.5;
      context.imageSmoothingQuality = "high";
      context.drawImage(level.bitmap, level.x, level.y, level.w, level.h);
    }
  });
}

function paintMasks(context, pane) {
  if (pixels.id !== app.image.id) return;
  inImage(context, pane, () => {
    if (!app.hidden) for (const object of app.objects) paintObject(context, object);
    for (const { mask, category_id, score } of app.proposals)
      if (score >= app.threshold) paintMask(context, mask, colorOf(category_id), { fill: 0.14, width: 1, dash: [3, 3] });
    const compared = comparedMask(pane);
    const draft = app.draft && currentMask(app.draft);
    if (compared) paintDraft(context, compared);
    else if (draft) paintDraft(context, draft);
    else if (app.hover) paintMask(context, app.hover, colorOf(app.category), { fill: 0.22, width: 1.25, dash: [4, 3] });
  });
  const selected = app.objects.find((object) => object.id === app.selected);
  if (selected && !app.hidden && !app.draft && !app.compare) paintLabel(context, pane, selected);
}

function paintObject(context, object) {
  if (app.draft?.objectId === object.id || (app.compare && object.id === app.selected)) return;
  const isSelected = object.id === app.selected;
  const dash = object.saving ? [2, 3] : [];
  paintMask(context, object.mask, colorOf(object.category_id), {
    fill: isSelected ? Math.min(0.75, app.opacity + 0.18) : app.opacity,
    width: isSelected ? 2.25 : 1.25,
    halo: isSelected,
    dash,
  });
}

function paintDraft(context, mask) {
  paintMask(context, mask, colorOf(app.draft?.category ?? app.category), {
    fill: Math.min(0.8, app.opacity + 0.1),
    width: 1.75,
    line: DRAFT,
  });
}

/** One mask: a fill, a thin dark line beneath for contrast on any image, and the outline itself. */
function paintMask(context, mask, color, { fill, width, line = color, dash = [], halo = false }) {
  if (mask.w === 0) return;
  const steps = view.scale >= STEPS_FROM;
  const path = steps ? stairs(mask) : outline(mask);
  context.globalAlpha = fill;
  if (steps) {
    context.imageSmoothingEnabled = false;
    context.drawImage(bitmap(mask, color), mask.x, mask.y);
  } else {
    context.fillStyle = color;
    context.fill(path, "evenodd");
  }
  context.globalAlpha = 1;
  context.lineCap = context.lineJoin = "round";
  context.setLineDash([]);
  stroke(context, path, halo ? "#ffffff" : "rgba(0, 0, 0, 0.45)", width + (halo ? 2.5 : 1.5));
  context.setLineDash(dash.map((length) => length / view.scale));
  stroke(context, path, line, width);
  context.setLineDash([]);
}

function stroke(context, path, color, width) {
  context.strokeStyle = color;
  context.lineWidth = width / view.scale;
  context.stroke(path);
}

function paintLabel(context, pane, object) {
  const { mask } = object;
  const { x, y } = toCanvas(mask.x, mask.y, pane);
  const text = nameOf(object.category_id);
  context.font = "600 12px system-ui, sans-serif";
  const width = Math.min(220, context.measureText(text).width) + 24;
  const left = Math.max(pane * paneWidth() + 4, Math.min(x, (pane + 1) * paneWidth() - width - 4));
  const top = Math.max(4, y - 28);
  context.beginPath();
  context.roundRect(left, top, width, 22, 6);
  context.fillStyle = "rgba(16, 20, 28, 0.88)";
  context.fill();
  context.beginPath();
  context.arc(left + 11, top + 11, 4, 0, 7);
  context.fillStyle = colorOf(object.category_id);
  context.fill();
  context.fillStyle = "#ffffff";
  context.fillText(text, left + 19, top + 15, 204);
}

/** In comparison, the mask that this pane shows. */
function comparedMask(pane) {
  if (!app.compare?.base) return null;
  if (app.compare.mode === "split") return pane === 0 ? app.compare.base : app.compare.tuned;
  return app.compare[app.compare.shown];
}

function paintCursor(context, pane) {
  const { draft, pointer } = app;
  if (draft && !app.compare?.base) paintPrompts(context, pane, draft);
  if (pointer.drag) paintBox(context, pane, pointer.drag);
  if (pointer.at === null) return;
  const brush = app.tool === "brush" || app.tool === "eraser";
  const { x, y } = toCanvas(pointer.at.x, pointer.at.y, pane);
  if (brush) {
    circle(context, x, y, Math.max(1, pointer.radius * view.scale), "rgba(0, 0, 0, 0.6)", 2.5);
    circle(context, x, y, Math.max(1, pointer.radius * view.scale), "#ffffff", 1.25);
  } else if (pointer.keyboard || (view.panes === 2 && paneOf(pointer.px) !== pane)) {
    crosshair(context, x, y);
  }
}

function paintPrompts(context, pane, draft) {
  if (draft.box) paintBox(context, pane, draft.box);
  for (const [x, y, label] of draft.points) {
    const at = toCanvas(x, y, pane);
    context.beginPath();
    context.arc(at.x, at.y, 6.5, 0, 7);
    context.fillStyle = label ? POSITIVE : NEGATIVE;
    context.fill();
    circle(context, at.x, at.y, 6.5, "#ffffff", 1.5);
    context.fillStyle = "#ffffff";
    context.fillRect(at.x - 3.5, at.y - 0.75, 7, 1.5);
    if (label) context.fillRect(at.x - 0.75, at.y - 3.5, 1.5, 7);
  }
}

function paintBox(context, pane, [x0, y0, x1, y1]) {
  const from = toCanvas(x0, y0, pane);
  const to = toCanvas(x1, y1, pane);
  const sides = [from.x, from.y, to.x - from.x, to.y - from.y];
  context.lineWidth = 3;
  context.strokeStyle = "rgba(0, 0, 0, 0.4)";
  context.strokeRect(...sides);
  context.lineWidth = 1.5;
  context.strokeStyle = "#ffffff";
  context.setLineDash([5, 4]);
  context.strokeRect(...sides);
  context.setLineDash([]);
}

function circle(context, x, y, radius, color, width) {
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke();
}

function crosshair(context, x, y) {
  for (const [color, width] of [["rgba(0, 0, 0, 0.6)", 3], ["#ffffff", 1.25]]) {
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * dx, y + 4 * dy);
      context.lineTo(x + 14 * dx, y + 14 * dy);
    }
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
  }
}
