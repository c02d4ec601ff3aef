// Short messages in a corner. An error shows all four of its parts and stays until it is closed.

import { announce, byId, el, icon } from "./dom.js";

const SHORT = 6000;

/** With 0 milliseconds it stays until it is closed. */
export function notice(text, milliseconds = SHORT) {
  show("notice", [el("p", {}, text)], milliseconds);
}

export function report(error) {
  const parts = error.parts ?? { found: error.message };
  if (!error.parts) console.error(error);
  const rows = [
    ["Expected", parts.expected],
    ["Where", parts.where],
    ["What to do", parts.do],
  ].filter(([, text]) => text);
  const list = el("dl", {}, rows.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]).flat());
  show("error", [el("p", { class: "found" }, parts.found ?? "something went wrong"), list], 0);
}

function show(kind, content, milliseconds) {
  const close = el("button", { class: "ghost small", "aria-label": "Close this message", onclick: () => toast.remove() }, icon("close"));
  const toast = el("div", { class: `toast ${kind}`, role: kind === "error" ? "alert" : "status" }, el("div", {}, content), close);
  const same = [...byId("toasts").children].find((other) => other.textContent === toast.textContent);
  same?.remove();
  byId("toasts").append(toast);
  while (byId("toasts").children.length > 3) byId("toasts").firstChild.remove();
  announce(content.map((node) => node.textContent).join(". "));
  if (milliseconds) setTimeout(() => toast.remove(), milliseconds);
}
