// Which model answers, and where base and tuned disagree.

import { compare } from "./compare.js";
import { byId, el, figure, replace, shortName } from "./dom.js";
import { goTo } from "./link.js";
import { thumbnail } from "./pixels.js";
import { get, lastOnly, post } from "./server.js";
import { app, emit, imageById, modelLabel, on } from "./store.js";
import { notice, report } from "./toast.js";

export function startModels() {
  on("models state", list);
  byId("load-disagreements").addEventListener("click", loadDisagreements);
}

export async function useModel(key) {
  if (key === app.active) return;
  try {
    const { active } = await post("/api/models/active", { model: key });
    app.active = active;
    app.hover = null;
    emit("models", "hover", "refresh"); // the state says which images are ready for this model
    notice(`${modelLabel(active)} answers from now on.`);
  } catch (error) {
    report(error);
  }
}

export function cycleModel() {
  const keys = app.models.map((model) => model.key);
  if (keys.length < 2) notice("Only one model is here.");
  else useModel(keys[(keys.indexOf(app.active) + 1) % keys.length]);
}

function list() {
  replace(byId("models"), app.models.map(({ key, label }) =>
    el("button", { class: "row", role: "radio", "aria-checked": String(key === app.active), "data-key": key, onclick: () => useModel(key) },
      el("span", { class: "radio" }), el("span", { class: "text" }, label), key === "base" ? el("small", {}, "base") : null)));
  byId("load-disagreements").disabled = app.models.length < 2;
  if (app.models.length < 2)
    replace(byId("disagreements"), el("p", { class: "blank-note" }, "Tune a model to see where it differs from the base."));
}

const listing = lastOnly();

/** The list grows while the server goes through the images. */
async function loadDisagreements() {
  const isLast = listing();
  try {
    for (let waiting = 1; waiting > 0; ) {
      const answer = await get("/api/disagreements");
      if (!isLast()) return;
      ({ waiting } = answer);
      const note = waiting ? `${waiting} more images are still to be asked about…` : answer.objects.length ? "" : "No object is accepted yet.";
      replace(byId("disagreements"), note ? el("p", { class: "blank-note", role: "status" }, note) : null, answer.objects.slice(0, 40).map(disagreement));
    }
  } catch (error) {
    if (isLast()) report(error);
  }
}

function disagreement({ image_id, object_id, iou }) {
  const small = el("img", { alt: "" });
  thumbnail(image_id).then((src) => small.setAttribute("src", src)).catch(() => {});
  const show = async () => {
    await goTo({ image: image_id, object: object_id });
    compare("split");
  };
  return el("button", { class: "image", onclick: show, "data-key": `${image_id}/${object_id}` }, small,
    el("span", {}, el("b", {}, shortName(imageById(image_id)?.name ?? image_id)), el("small", {}, `object ${object_id}`)),
    el("small", {}, `IoU ${figure(iou)}`));
}
