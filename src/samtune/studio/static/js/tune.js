// The loop: tune on what was accepted, watch the curve, read the verdict, and decide about the new model.

import { lineChart } from "./charts.js";
import { byId, duration, el, figure, icon, percent, replace } from "./dom.js";
import { useModel } from "./models.js";
import { showTab } from "./tabs.js";
import { get, post } from "./server.js";
import { app, emit, modelLabel, on } from "./store.js";
import { notice, report } from "./toast.js";

const EVERY = 800;
let steps = "";
let polling = false;

export function startTune() {
  on("tune state models", paint);
  on("tune", chip);
  byId("tune-chip").addEventListener("click", () => showTab("model"));
}

export function followTune() {
  emit("tune");
  if (!polling && app.tune?.state === "running") poll();
}

async function poll() {
  polling = true;
  while (app.tune?.state === "running") {
    await new Promise((resume) => setTimeout(resume, EVERY));
    try {
      app.tune = await get("/api/tune");
    } catch {
      continue; // the next one may come through; what the person does says it if not
    }
    emit("tune");
  }
  polling = false;
  emit("refresh");
  if (app.tune.state === "done") notice("Tuning is done: the verdict is in the Model panel.");
}

async function start() {
  const asked = steps === "" ? null : Number(steps);
  try {
    app.tune = await post("/api/tune", { steps: asked });
    followTune();
  } catch (error) {
    report(error);
  }
}

async function cancel() {
  try {
    app.tune = await post("/api/tune/cancel");
    emit("tune");
  } catch (error) {
    report(error);
  }
}

function chip() {
  const node = byId("tune-chip");
  const { tune } = app;
  node.hidden = !tune || !["running", "done"].includes(tune.state) || (tune.state === "done" && tune.model === app.active);
  if (node.hidden) return;
  const share = tune.steps ? tune.step / tune.steps : 0;
  replace(node, icon("tune"), tune.state === "running" ? (share >= 1 ? "Comparing" : `Tuning ${percent(share)}`) : "New model");
}

function paint() {
  const tune = app.tune ?? { state: "idle", curve: [] };
  const cards = [control(tune)];
  if (tune.curve?.length > 1) cards.push(curve(tune));
  if (tune.state === "failed") cards.push(failure(tune.error));
  if (tune.verdict) cards.push(verdict(tune));
  replace(byId("tune"), cards);
}

function control(tune) {
  if (tune.state === "running") {
    const share = tune.steps ? tune.step / tune.steps : 0;
    const trained = share >= 1;
    const meter = el("div", { class: "meter", role: "progressbar", "aria-label": "Tuning", "aria-valuenow": Math.round(100 * share), "aria-valuemin": 0, "aria-valuemax": 100 }, el("i"));
    meter.firstElementChild.style.setProperty("--share", share);
    return el("div", { class: "card" },
      el("div", { class: "line" }, el("b", {}, trained ? "Comparing on held-out images" : tune.step ? `Step ${tune.step} of ${tune.steps}` : "Getting ready"),
        el("span", { class: "muted small" }, trained || tune.seconds_left === null ? "" : `${duration(tune.seconds_left)} left`)),
      meter,
      el("button", { onclick: cancel, "data-key": "cancel-tune" }, "Cancel"));
  }
  const input = el("input", { type: "number", min: 1, max: 1000000, placeholder: "automatic", value: steps, "data-key": "steps", "aria-label": "Steps", oninput: (event) => { steps = event.target.value; } });
  return el("div", { class: "card" },
    el("p", { class: "muted small" }, "Learns from the accepted objects of some images, and is judged on others it never saw."),
    el("label", { class: "line" }, "Steps", input),
    el("button", { class: "primary", id: "start-tune", onclick: start, "data-key": "start-tune" }, icon("tune"), tune.state === "done" ? "Tune again" : "Tune"),
    tune.state === "cancelled" ? el("p", { class: "muted small" }, "The last run was cancelled; nothing changed.") : null);
}

function curve({ curve: points }) {
  const a = points.filter(({ loss }) => loss !== null).map(({ step, loss }) => [step, loss]);
  const b = points.filter(({ iou }) => iou !== null).map(({ step, iou }) => [step, iou]);
  if (a.length < 2) return null;
  const label = `Training loss from ${figure(a[0][1])} to ${figure(a.at(-1)[1])} over ${a.at(-1)[0]} steps`;
  return el("div", { class: "card" }, lineChart({ label, a, b, xLabel: "step" }),
    el("p", { class: "legend" }, el("span", {}, el("i"), "loss"), b.length ? el("span", {}, el("i", { class: "b" }), "IoU on held-out images") : null));
}

function failure(error) {
  return el("div", { class: "card verdict bad", role: "alert" }, el("h3", {}, "Tuning failed"), el("p", {}, error?.found ?? ""), el("p", { class: "muted small" }, [error?.where, error?.do].filter(Boolean).join(". ")));
}

function verdict({ verdict: found, model }) {
  const [mean, low, high] = found.difference ?? [found.tuned - found.base, null, null];
  const sign = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
  const kind = low !== null && low > 0 ? "good" : high !== null && high < 0 ? "bad" : "";
  const number = (name, value) => el("div", {}, el("b", { class: "big" }, value), el("span", {}, name));
  const inUse = model === app.active;
  return el("div", { class: `card verdict ${kind}`, id: "verdict" },
    el("h3", {}, found.decision),
    el("div", { class: "numbers" }, number("IoU before", figure(found.base, 3)), number("IoU tuned", figure(found.tuned, 3)), number("change", sign(mean))),
    el("p", { class: "muted small" }, low === null ? "Too few held-out images for an interval." : `95 % interval of the change: ${sign(low)} to ${sign(high)}, on images it never saw.`),
    el("ul", {}, found.reasons.map((reason) => el("li", {}, reason))),
    model ? el("button", { class: inUse ? "" : "primary", id: "use-tuned", disabled: inUse, onclick: () => useModel(model), "data-key": "use-tuned" }, inUse ? icon("check") : null, inUse ? "In use" : `Use ${modelLabel(model)}`) : null);
}
