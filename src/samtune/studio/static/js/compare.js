// Base beside tuned: the same prompts asked of both models, shown in turns or side by side, with the IoU between them.

import { byId, el, figure, replace } from "./dom.js";
import { question } from "./draft.js";
import { decode } from "./masks.js";
import { imagePath, lastOnly, post } from "./server.js";
import { app, busy, emit, modelLabel, objectById, on } from "./store.js";
import { notice, report } from "./toast.js";
import { setPanes } from "./viewport.js";

export function startCompare() {
  on("compare", paint);
}

export const canCompare = () => app.models.length > 1;

/** `app.compare`: {mode: "flip" | "split", shown: "base" | "tuned", base, tuned, model: key of the tuned one, iou}. */
export async function compare(mode) {
  if (!canCompare()) {
    notice("Only one model is here. Start samtune studio with a tuned run, or tune one on this page.");
    return;
  }
  if (app.compare?.mode === mode) {
    if (mode === "flip" && app.compare.shown === "tuned") app.compare = { ...app.compare, shown: "base" };
    else app.compare = null;
    emit("compare", "draft");
    return;
  }
  if (app.compare?.base) {
    app.compare = { ...app.compare, mode, shown: "tuned" };
    emit("compare", "draft");
    return;
  }
  await ask(mode);
}

const asking = lastOnly();

async function ask(mode) {
  const prompts = promptsHere();
  if (!prompts) {
    notice("Click on an object, draw a box, or select one first: both models are then asked the same.");
    return;
  }
  busy("Asking both models…");
  const isLast = asking();
  const { image, draft, selected } = app;
  try {
    const answer = await post(imagePath(image.id, "compare"), question(prompts, null, false));
    const [base, tuned] = await Promise.all([decode(answer.base), decode(answer.tuned)]);
    if (!isLast() || app.image !== image || app.draft !== draft || app.selected !== selected) return;
    app.compare = { mode, shown: "tuned", base, tuned, model: answer.model, iou: answer.iou };
    emit("compare", "draft");
  } catch (error) {
    report(error);
  } finally {
    busy("");
  }
}

function promptsHere() {
  if (app.draft && (app.draft.box || app.draft.points.length)) return app.draft;
  const object = objectById(app.selected);
  if (!object) return null;
  const { x, y, w, h } = object.mask;
  return { box: [x, y, x + w, y + h], points: [] };
}

function paint() {
  const shown = app.compare?.base ? app.compare : null;
  setPanes(shown?.mode === "split" ? 2 : 1);
  const bar = byId("compare-bar");
  bar.hidden = !shown;
  byId("stage").classList.toggle("split", shown?.mode === "split");
  if (!shown) return;
  const name = (side) => modelLabel(side === "base" ? "base" : shown.model);
  const label = (side) =>
    el("span", { class: `side ${shown.mode === "flip" && shown.shown !== side ? "off" : ""}` },
      el("b", {}, side === "base" ? "Base" : "Tuned"), " ", el("small", {}, name(side)));
  replace(bar, label("base"), el("span", { class: "iou" }, `IoU ${figure(shown.iou, 3)}`), label("tuned"));
}
