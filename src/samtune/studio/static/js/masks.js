// Masks: the part of the image they cover, x, y, w, h in pixels, and `bits`, 0 or 1, row by row. A mask never changes;
// painting makes a new one. Outlines and coloured bitmaps are made when first drawn and kept beside the mask.

import { base64, bitsOf, grayPng } from "./png.js";

export const EMPTY = Object.freeze({ x: 0, y: 0, w: 0, h: 0, bits: new Uint8Array(0) });

/** From the server's `{bbox, png}`. */
export async function decode({ bbox: [x, y, w, h], png }) {
  if (!png || w === 0 || h === 0) return EMPTY;
  const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
  return { x, y, w, h, bits: await bitsOf(bytes, w, h) };
}

/** To the server's `{bbox, png}`, as tight as the mask; null where no pixel is set. */
export async function encode(mask) {
  const tight = trim(mask);
  if (tight === EMPTY) return null;
  const png = await base64(await grayPng(tight.bits, tight.w, tight.h));
  return { bbox: [tight.x, tight.y, tight.w, tight.h], png };
}

export function area(mask) {
  let sum = 0;
  for (const bit of mask.bits) sum += bit;
  return sum;
}

/** Is the pixel that holds the point (x, y) set? */
export function covers(mask, x, y) {
  const column = Math.floor(x) - mask.x;
  const row = Math.floor(y) - mask.y;
  return column >= 0 && row >= 0 && column < mask.w && row < mask.h && mask.bits[row * mask.w + column] === 1;
}

function crop(mask, x, y, w, h) {
  const bits = new Uint8Array(w * h);
  const left = Math.max(x, mask.x);
  const right = Math.min(x + w, mask.x + mask.w);
  for (let row = Math.max(y, mask.y); row < Math.min(y + h, mask.y + mask.h); row++) {
    const from = (row - mask.y) * mask.w - mask.x;
    if (right > left) bits.set(mask.bits.subarray(from + left, from + right), (row - y) * w + left - x);
  }
  return { x, y, w, h, bits };
}

export function trim(mask) {
  let [left, top, right, bottom] = [mask.w, mask.h, 0, 0];
  for (let row = 0; row < mask.h; row++)
    for (let column = 0; column < mask.w; column++)
      if (mask.bits[row * mask.w + column]) {
        left = Math.min(left, column);
        right = Math.max(right, column + 1);
        top = Math.min(top, row);
        bottom = row + 1;
      }
  if (right === 0) return EMPTY;
  if (left === 0 && top === 0 && right === mask.w && bottom === mask.h) return mask;
  return crop(mask, mask.x + left, mask.y + top, right - left, bottom - top);
}

/** The mask after a stroke of a round brush from one point to another; `value` 1 paints, 0 erases. */
export function paint(mask, from, to, radius, value, width, height) {
  const left = Math.max(0, Math.floor(Math.min(from.x, to.x) - radius));
  const top = Math.max(0, Math.floor(Math.min(from.y, to.y) - radius));
  const right = Math.min(width, Math.ceil(Math.max(from.x, to.x) + radius));
  const bottom = Math.min(height, Math.ceil(Math.max(from.y, to.y) + radius));
  if (right <= left || bottom <= top) return mask;
  const result = value ? joined(mask, left, top, right, bottom) : crop(mask, mask.x, mask.y, mask.w, mask.h);
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = dx * dx + dy * dy || 1;
  for (let y = Math.max(top, result.y); y < Math.min(bottom, result.y + result.h); y++)
    for (let x = Math.max(left, result.x); x < Math.min(right, result.x + result.w); x++) {
      const [px, py] = [x + 0.5 - from.x, y + 0.5 - from.y];
      const t = Math.min(1, Math.max(0, (px * dx + py * dy) / length));
      const distance = (px - t * dx) ** 2 + (py - t * dy) ** 2;
      if (distance <= radius * radius) result.bits[(y - result.y) * result.w + x - result.x] = value;
    }
  return result;
}

function joined(mask, left, top, right, bottom) {
  if (mask.w === 0) return crop(mask, left, top, right - left, bottom - top);
  const x = Math.min(mask.x, left);
  const y = Math.min(mask.y, top);
  return crop(mask, x, y, Math.max(mask.x + mask.w, right) - x, Math.max(mask.y + mask.h, bottom) - y);
}

const kept = new WeakMap();

function keptFor(mask, name, make) {
  if (!kept.has(mask)) kept.set(mask, new Map());
  const drawn = kept.get(mask);
  if (!drawn.has(name)) drawn.set(name, make());
  return drawn.get(name);
}

/** A smooth closed outline through the middles of the pixels' sides (marching squares). */
export const outline = (mask) => keptFor(mask, "outline", () => marched(mask));

/** The sides of the pixels themselves, for high zoom. */
export const stairs = (mask) => keptFor(mask, "stairs", () => pixelSides(mask));

/** The mask in one colour, a pixel per pixel. */
export function bitmap(mask, color) {
  return keptFor(mask, color, () => {
    const canvas = new OffscreenCanvas(Math.max(1, mask.w), Math.max(1, mask.h));
    const context = canvas.getContext("2d");
    context.fillStyle = color;
    changes(mask).forEach((row, y) => {
      for (let i = 0; i < row.length; i += 2) context.fillRect(row[i], y, row[i + 1] - row[i], 1);
    });
    return canvas;
  });
}

/** Of each row, where pixels begin to be set and where they cease to be, in turns. */
const changes = (mask) => keptFor(mask, "changes", () => {
  const { w, h, bits } = mask;
  const rows = Array.from({ length: h }, () => []);
  let at = bits.indexOf(1);
  while (at >= 0) {
    const found = bits.indexOf(0, at);
    const end = found < 0 ? bits.length : found;
    while (at < end) {
      const y = Math.floor(at / w);
      const stop = Math.min(end, (y + 1) * w);
      rows[y].push(at - y * w, stop - y * w);
      at = stop;
    }
    at = bits.indexOf(1, end);
  }
  return rows;
});

function marched(mask) {
  const stride = 2 * mask.w + 4;
  const rows = changes(mask);
  const next = new Map();
  for (let y = 0; y <= mask.h; y++) marchBetween(rows[y - 1] ?? [], rows[y] ?? [], (2 * y + 1) * stride + 1, stride, next);
  return closedPaths(mask, next, stride);
}

/** The steps of the outline around the corners between two rows of pixels, from the middle of one pixel's side to another. */
function marchBetween(above, below, start, stride, next) {
  let [i, j, a, d] = [0, 0, 0, 0];
  let before = 0;
  while (i < above.length || j < below.length) {
    const x = Math.min(above[i] ?? Infinity, below[j] ?? Infinity);
    const [b, c] = [above[i] === x ? 1 - a : a, below[j] === x ? 1 - d : d];
    const place = start + 2 * x;
    const [top, right, bottom, left] = [place - stride, place + 1, place + stride, place - 1];
    // From the last corner to this one the rows do not change: where they differ, a straight line.
    if (a !== d && left > before) next.set(a ? left : before, a ? before : left);
    // Inside lies to the right of the way; where two corners touch, the way goes around each of them.
    if (a && !b) next.set(top, a && !d ? left : d && !c ? bottom : right);
    if (b && !c) next.set(right, b && !a ? top : a && !d ? left : bottom);
    if (c && !d) next.set(bottom, c && !b ? right : b && !a ? top : left);
    if (d && !a) next.set(left, d && !c ? bottom : c && !b ? right : top);
    if (b !== a) i++;
    if (c !== d) j++;
    [a, d, before] = [b, c, right];
  }
}

function closedPaths(mask, next, stride) {
  const path = new Path2D();
  const place = (key) => [mask.x + ((key % stride) - 1) / 2, mask.y + (Math.floor(key / stride) - 1) / 2];
  while (next.size) {
    const [start] = next.keys();
    let key = start;
    let step = null;
    path.moveTo(...place(start));
    do {
      const following = next.get(key);
      next.delete(key);
      if (step !== null && following - key !== step) path.lineTo(...place(key));
      step = following - key;
      key = following;
    } while (key !== start);
    path.closePath();
  }
  return path;
}

function pixelSides(mask) {
  const { x: left, y: top, w, h, bits } = mask;
  const path = new Path2D();
  const at = (x, y) => (x >= 0 && y >= 0 && x < w && y < h ? bits[y * w + x] : 0);
  for (let y = 0; y <= h; y++)
    for (let x = 0, start; x < w; x++)
      if (at(x, y - 1) !== at(x, y)) {
        for (start = x; x < w && at(x, y - 1) !== at(x, y); ) x++;
        path.moveTo(left + start, top + y);
        path.lineTo(left + x, top + y);
      }
  for (let x = 0; x <= w; x++)
    for (let y = 0, start; y < h; y++)
      if (at(x - 1, y) !== at(x, y)) {
        for (start = y; y < h && at(x - 1, y) !== at(x, y); ) y++;
        path.moveTo(left + x, top + start);
        path.lineTo(left + x, top + y);
      }
  return path;
}
