// Objects that the finder, or a grid of clicks, proposes: shown faintly, accepted one by one or all above a threshold.

import { byId, el, figure, replace } from "./dom.js";
import { decode } from "./masks.js";
import { acceptProposals } from "./saving.js";
import { imagePath, lastOnly, post } from "./server.js";
import { app, busy, emit, on } from "./store.js";
import { notice, report } from "./toast.js";

export function startProposals() {
  on("proposals image draft", paint);
}

const asking = lastOnly();

export async function askProposals() {
  const { image } = app;
  if (!image) return;
  busy("Looking for objects…");
  const isLast = asking();
  try {
    const { objects } = await post(imagePath(image.id, "proposals"), { model: app.active });
    const proposals = await Promise.all(objects.map(async (one) => ({ ...one, mask: await decode(one.mask) })));
    if (!isLast() || app.image !== image) return;
    app.proposals = proposals.filter(({ mask }) => mask.w > 0);
    if (app.proposals.length === 0) notice("No object was found that is not there already.");
    // The model has left out what it does not believe; where it is modest all the same, none would be shown.
    else if (above().length === 0) app.threshold = Math.floor(100 * Math.min(...app.proposals.map(({ score }) => score))) / 100;
    emit("proposals");
  } catch (error) {
    report(error);
  } finally {
    busy("");
  }
}

const above = () => app.proposals.filter((proposal) => proposal.score >= app.threshold);

export function acceptAllProposals() {
  if (above().length) return acceptProposals(above());
  return notice("There are no proposals to accept. R asks for some.");
}

function paint() {
  const bar = byId("proposal-bar");
  bar.hidden = app.proposals.length === 0 || app.draft !== null;
  if (bar.hidden) return;
  const slider = el("input", {
    type: "range", min: 0, max: 1, step: 0.01, value: app.threshold, "aria-label": "Least score of a proposal", "data-key": "threshold",
    oninput: (event) => {
      app.threshold = Number(event.target.value);
      words();
      emit("look");
    },
  });
  const count = el("span");
  const button = el("button", { class: "primary", "data-key": "all", onclick: acceptAllProposals });
  const clear = el("button", { class: "ghost", "data-key": "clear", onclick: () => { app.proposals = []; emit("proposals"); } }, "Clear");
  words();
  replace(bar, count, slider, button, clear);

  function words() {
    count.textContent = `${above().length} of ${app.proposals.length} proposals, score from ${figure(app.threshold)}`;
    button.textContent = `Accept ${above().length}`;
    button.disabled = above().length === 0;
  }
}
