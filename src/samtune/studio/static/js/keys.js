// Which key does what. Every action has default keys; a person's own go before them and are kept in the preferences.

import { ACTIONS } from "./actions.js";
import { prefer, prefs } from "./prefs.js";

let capture = null;

/** "Ctrl+Shift+z", "Tab", "?": how a key press is written. */
export function written(event) {
  const name = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isSign = event.key.length === 1 && event.key.toLowerCase() === event.key.toUpperCase();
  const parts = [];
  if (event.ctrlKey || event.metaKey) parts.push("Ctrl");
  if (event.altKey) parts.push("Alt");
  if (event.shiftKey && !isSign) parts.push("Shift");
  return [...parts, name].join("+");
}

const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc", Delete: "Del" };

/** A key as people read it. */
export const readable = (key) =>
  key.split(/\+(?=.)/).map((part) => NAMES[part] ?? (part.length === 1 ? part.toUpperCase() : part)).join(" ");

export const keysOf = (action) => prefs.keys[action.id] ?? action.keys;
export const firstKey = (id) => keysOf(ACTIONS.find((action) => action.id === id))[0];

/** Give an action a key; whoever had it loses it. */
export function remap(id, key) {
  const keys = { ...prefs.keys };
  for (const action of ACTIONS) {
    const had = keysOf(action);
    if (action.id !== id && had.includes(key)) keys[action.id] = had.filter((other) => other !== key);
  }
  keys[id] = [key];
  prefer({ keys });
}

export const resetKeys = () => prefer({ keys: {} });

/** The next key press goes to `listener`, written out, or null for Escape. */
export function captureKey(listener) {
  capture = listener;
}

export function startKeys() {
  window.addEventListener("keydown", onKey, { capture: true });
  // A button pressed with the mouse must not take the next Space or Enter.
  document.addEventListener("click", (event) => {
    if (event.detail > 0 && event.target.closest?.("#middle button, #right button, #left button, #top button"))
      document.activeElement?.blur();
  });
}

function onKey(event) {
  if (capture && !["Shift", "Control", "Alt", "Meta"].includes(event.key)) {
    event.preventDefault();
    event.stopPropagation();
    const listener = capture;
    capture = null;
    listener(event.key === "Escape" ? null : written(event));
    return;
  }
  const { target } = event;
  if (document.querySelector("dialog[open]") || target.closest?.("input:not([type=range]), select, textarea")) return;
  const key = written(event);
  if ((key === "Enter" || key === "Space") && target.closest?.("button, a, input")) return;
  if (key.startsWith("Arrow") && target.closest?.("[role=tablist], input")) return;
  const action = ACTIONS.find((one) => keysOf(one).includes(key));
  if (!action || (action.when && !action.when(event))) return;
  event.preventDefault();
  action.run(event);
}
