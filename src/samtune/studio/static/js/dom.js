// Building the page's elements. Text always goes in as text: a class name with HTML in it stays a name.

const SVG = "http://www.w3.org/2000/svg";

/** An element: attributes, `on...` listeners, `class`, `dataset`; children are nodes or text. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** One of the symbols in index.html. */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

export const byId = (id) => document.getElementById(id);

/** Put new children in place of the old ones, keeping the keyboard's focus on the element with the same `data-key`. */
export function replace(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children.flat().filter(Boolean));
  if (focused) parent.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

/** Read out by screen readers. */
export function announce(text) {
  byId("announce").textContent = text;
}

export const percent = (share) => `${Math.round(100 * share)} %`;
export const figure = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));

/** An image's file without its folders, and without Roboflow's long hash. */
export function shortName(name) {
  const file = name.slice(name.lastIndexOf("/") + 1);
  return file.replace(/_(jpe?g|png|tiff?|bmp|webp)\.rf\.([0-9a-f]{4})[0-9a-f]*\.\w+/i, ".$1 · $2");
}

/** Seconds as a person says them. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
