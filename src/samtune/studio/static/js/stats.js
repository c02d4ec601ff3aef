// Does the model save work? Seconds and prompts per object over time, and by model.

import { lineChart, smoothed } from "./charts.js";
import { byId, el, figure, replace } from "./dom.js";
import { get, lastOnly } from "./server.js";
import { app, emit, modelLabel, on } from "./store.js";

let timer = 0;

export function startStats() {
  on("stats state", paint);
  on("saved", () => {
    clearTimeout(timer);
    timer = setTimeout(reload, 400);
  });
}

const reading = lastOnly();

async function reload() {
  const isLast = reading();
  try {
    const stats = await get("/api/stats");
    if (!isLast()) return;
    app.stats = stats;
    emit("stats");
  } catch {
    // the next saved object asks again
  }
}

function paint() {
  const made = app.stats?.per_object ?? [];
  if (made.length < 2) {
    replace(byId("stats"), el("div", { class: "panel-head" }, el("h2", {}, "Work per object")),
      el("p", { class: "blank-note" }, "Seconds and prompts per object are drawn here once a few objects are accepted."));
    return;
  }
  replace(byId("stats"),
    el("div", { class: "panel-head" }, el("h2", {}, "Work per object"), el("span", { class: "muted small" }, `${made.length} objects made here`)),
    chart("Seconds", made, (one) => one.seconds), chart("Prompts", made, (one) => one.clicks), table());
}

function chart(name, made, value) {
  const dots = made.map((one, i) => [i + 1, value(one)]);
  const marks = made.map((one, i) => (i && one.model !== made[i - 1].model ? i + 0.5 : null)).filter(Boolean);
  const a = smoothed(dots, Math.max(3, Math.round(made.length / 10)));
  const label = `${name} per object: ${figure(a[0][1], 1)} at first, ${figure(a.at(-1)[1], 1)} lately`;
  return el("div", { class: "card" }, el("div", { class: "line" }, el("b", {}, `${name} per object`), el("span", { class: "big" }, figure(a.at(-1)[1], 1))),
    lineChart({ label, a, dots, marks, xLabel: "object", floorA: 0 }),
    marks.length ? el("p", { class: "legend" }, "Dotted upright lines: another model from there on.") : null);
}

function table() {
  const head = el("tr", {}, ["Model", "Objects", "Prompts", "Seconds"].map((name) => el("th", { scope: "col" }, name)));
  const rows = app.stats.by_model.map((one) =>
    el("tr", {}, el("td", {}, one.model ? modelLabel(one.model) : "by hand"), el("td", {}, String(one.objects)), el("td", {}, figure(one.clicks, 1)), el("td", {}, figure(one.seconds, 1))));
  return el("div", { class: "card" }, el("table", {}, el("thead", {}, head), el("tbody", {}, rows)));
}
