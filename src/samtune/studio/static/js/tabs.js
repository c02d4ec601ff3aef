// The tabs of the right panel, and on a narrow screen the three views.

import { byId } from "./dom.js";

const TABS = ["annotate", "model", "stats"];

export function startTabs() {
  for (const name of TABS) byId(`tab-${name}`).addEventListener("click", () => showTab(name));
  byId("right").querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = TABS.findIndex((name) => event.target.id === `tab-${name}`);
    const name = TABS[(at + step + TABS.length) % TABS.length];
    showTab(name);
    byId(`tab-${name}`).focus();
  });
  for (const button of byId("bottom").children) button.addEventListener("click", () => showView(button.dataset.view));
  showView("canvas");
}

export function showTab(name) {
  for (const other of TABS) {
    const isShown = other === name;
    byId(`tab-${other}`).setAttribute("aria-selected", String(isShown));
    byId(`tab-${other}`).tabIndex = isShown ? 0 : -1;
    byId(`panel-${other}`).hidden = !isShown;
  }
  showView("panel");
}

export function showView(name) {
  document.body.dataset.view = name;
  for (const button of byId("bottom").children) button.setAttribute("aria-pressed", String(button.dataset.view === name));
}
