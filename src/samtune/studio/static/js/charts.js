// Line charts in SVG, drawn by hand: a few hundred points at most.

import { figure, svg } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [288, 128, 34, 34, 8, 20];

/** A scale from values to the chart's height; `digits` of its labels. */
function scale(values, floor = null) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (floor !== null) low = Math.min(floor, low);
  if (high - low < 1e-6) high = low + 1;
  return { low, high, at: (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low)) };
}

/**
 * Up to two lines over the same x: `a` on the left axis, `b` on the right one.
 * Each is [[x, y], ...]; `dots` of `a` are drawn faintly behind a smoothed line; `marks` are x where something changed.
 */
export function lineChart({ label, a, b = [], dots = [], marks = [], xLabel, floorA = null }) {
  const xs = [...a, ...b, ...dots].map(([x]) => x);
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const x = (value) => LEFT + ((WIDTH - LEFT - RIGHT) * (value - first)) / Math.max(1e-9, last - first);
  const parts = [];
  const left = scale([...a, ...dots].map(([, y]) => y), floorA);
  for (const share of [0, 0.5, 1]) {
    const value = left.low + share * (left.high - left.low);
    parts.push(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: left.at(value), y2: left.at(value) }));
    parts.push(text(LEFT - 6, left.at(value) + 3, "end", axis(value)));
  }
  for (const mark of marks) parts.push(svg("line", { class: "switch", x1: x(mark), x2: x(mark), y1: TOP, y2: HEIGHT - BOTTOM }));
  for (const [px, py] of dots) parts.push(svg("circle", { class: "dot", cx: x(px), cy: left.at(py), r: 2 }));
  parts.push(line(a, x, left.at, "a"));
  if (b.length) {
    const right = scale(b.map(([, y]) => y));
    for (const share of b.length > 1 ? [0, 1] : [1]) {
      const value = right.low + share * (right.high - right.low);
      parts.push(text(WIDTH - RIGHT + 6, right.at(value) + 3, "start", axis(value)));
    }
    parts.push(line(b, x, right.at, "b"));
    for (const [px, py] of b) parts.push(svg("circle", { class: "dot b", cx: x(px), cy: right.at(py), r: 2.2 }));
  }
  parts.push(text(LEFT, HEIGHT - 4, "start", String(first)), text(WIDTH - RIGHT, HEIGHT - 4, "end", `${xLabel} ${last}`));
  return svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, parts);
}

const axis = (value) => (Math.abs(value) >= 10 ? value.toFixed(0) : figure(value, Math.abs(value) < 1 ? 2 : 1));
const text = (x, y, anchor, content) => svg("text", { x, y, "text-anchor": anchor }, content);

function line(points, x, y, name) {
  const d = points.map(([px, py], i) => `${i ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");
  return svg("path", { class: name, d });
}

/** Means over the last `count` values, so that a trend shows. */
export function smoothed(points, count) {
  return points.map(([x], i) => {
    const those = points.slice(Math.max(0, i - count + 1), i + 1);
    return [x, those.reduce((sum, [, y]) => sum + y, 0) / those.length];
  });
}
