// Where the image lies on the canvas: scale in CSS pixels per image pixel, and the image point in a pane's middle.
// With base beside tuned there are two panes of one width, and both show the same part of the image.

import { app, emit } from "./store.js";

export const view = { scale: 1, x: 0, y: 0, panes: 1, width: 1, height: 1 };
const MOST = 64;

export const paneWidth = () => view.width / view.panes;

export function fitScale() {
  const margin = Math.min(64, view.width * 0.09); // the tools, the zoom and the mask's bar lie beside the image
  const { width, height } = app.image;
  return Math.min((paneWidth() - 2 * margin) / width, (view.height - 2 * margin) / height, MOST);
}

export function fit() {
  if (!app.image) return;
  Object.assign(view, { scale: Math.max(1e-3, fitScale()), x: app.image.width / 2, y: app.image.height / 2 });
  emit("view");
}

/** The image point under a point of the canvas, both with x to the right and y down. */
export function toImage(px, py) {
  const middle = paneWidth() * (paneOf(px) + 0.5);
  return { x: view.x + (px - middle) / view.scale, y: view.y + (py - view.height / 2) / view.scale };
}

export const paneOf = (px) => (view.panes === 2 && px >= paneWidth() ? 1 : 0);

export function toCanvas(x, y, pane = 0) {
  return {
    x: paneWidth() * (pane + 0.5) + (x - view.x) * view.scale,
    y: view.height / 2 + (y - view.y) * view.scale,
  };
}

/** Zoom so that the image point under (px, py) stays there. */
export function zoomAt(px, py, factor) {
  if (!app.image) return;
  const before = toImage(px, py);
  const least = Math.min(1, fitScale()) / 4;
  view.scale = Math.min(MOST, Math.max(least, view.scale * factor));
  const after = toImage(px, py);
  pan(before.x - after.x, before.y - after.y);
}

export const zoom = (factor) => zoomAt(paneWidth() / 2, view.height / 2, factor);

/** Move the view by image pixels; its middle stays on the image. */
export function pan(dx, dy) {
  if (!app.image) return;
  view.x = Math.min(app.image.width, Math.max(0, view.x + dx));
  view.y = Math.min(app.image.height, Math.max(0, view.y + dy));
  emit("view");
}

/** Bring a box into view with room around it, without zooming in further than helps. */
export function show({ x, y, w, h }) {
  const room = Math.min((paneWidth() * 0.5) / w, (view.height * 0.5) / h);
  const scale = Math.max(fitScale(), Math.min(room, 8));
  Object.assign(view, { scale, x: x + w / 2, y: y + h / 2 });
  emit("view");
}

export function setPanes(panes) {
  if (view.panes === panes) return;
  const wasFitted = app.image && view.scale <= fitScale() * 1.02;
  view.panes = panes;
  if (wasFitted) fit();
  else emit("view");
}
