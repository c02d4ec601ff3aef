// The open image's pixels: at most 2,048 px at first, all of them once one zooms in past that. Of a very large image
// only the part in view is decoded in full.

import { getBlob, imagePath } from "./server.js";
import { app, busy, emit } from "./store.js";
import { paneWidth, view } from "./viewport.js";

const FIRST = 2048;
const WHOLE = 40e6; // pixels up to which the full image is kept decoded

/** `bitmap` covers x, y, w, h of the image; `part` lies over it where more is known. */
export const pixels = { id: null, base: null, part: null };
let full = null;
let wanted = 0;
let timer = 0;

export async function openPixels(image) {
  const turn = ++wanted;
  full = null;
  const blob = await getBlob(imagePath(image.id, `pixels?max=${FIRST}`));
  const bitmap = await createImageBitmap(blob);
  if (turn !== wanted) return bitmap.close();
  pixels.base?.bitmap.close();
  pixels.part?.bitmap.close();
  const base = { bitmap, x: 0, y: 0, w: image.width, h: image.height };
  Object.assign(pixels, { id: image.id, base, part: null });
  emit("view");
}

/** After a zoom or a move: is there more to see than is decoded? */
export function refine() {
  clearTimeout(timer);
  const { base, id } = pixels;
  if (!base || !app.image || app.image.id !== id) return;
  const known = base.bitmap.width / base.w;
  if (known >= 0.999 || view.scale * devicePixelRatio <= known * 1.1) return;
  timer = setTimeout(() => load(app.image).catch(() => busy("")), 120);
}

async function load(image) {
  const turn = wanted;
  const part = visiblePart(image);
  if (pixels.part && contains(pixels.part, part)) return;
  if (full === null) {
    busy("Loading all pixels…");
    full = await getBlob(imagePath(image.id, "pixels?max=65500"));
    busy("");
  }
  const isWhole = image.width * image.height <= WHOLE;
  const area = isWhole ? { x: 0, y: 0, w: image.width, h: image.height } : grown(part, image);
  const bitmap = await createImageBitmap(full, area.x, area.y, area.w, area.h);
  if (turn !== wanted) return bitmap.close();
  pixels.part?.bitmap.close();
  pixels.part = { bitmap, ...area };
  emit("view");
}

function visiblePart({ width, height }) {
  const [halfW, halfH] = [paneWidth() / 2 / view.scale, view.height / 2 / view.scale];
  const x = Math.max(0, Math.floor(view.x - halfW));
  const y = Math.max(0, Math.floor(view.y - halfH));
  return { x, y, w: Math.min(width, Math.ceil(view.x + halfW)) - x, h: Math.min(height, Math.ceil(view.y + halfH)) - y };
}

function grown(part, { width, height }) {
  const x = Math.max(0, part.x - (part.w >> 1));
  const y = Math.max(0, part.y - (part.h >> 1));
  return { x, y, w: Math.min(width - x, part.w * 2), h: Math.min(height - y, part.h * 2) };
}

const contains = (a, b) => a.x <= b.x && a.y <= b.y && a.x + a.w >= b.x + b.w && a.y + a.h >= b.y + b.h;

const thumbnails = new Map();

/** Address of a small copy of an image, loaded once. */
export function thumbnail(id) {
  if (!thumbnails.has(id))
    thumbnails.set(id, getBlob(imagePath(id, "pixels?max=96")).then((blob) => URL.createObjectURL(blob)));
  return thumbnails.get(id);
}
