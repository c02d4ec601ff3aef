// The object being made: its prompts, the masks the model answered, and what a brush changed. Each step is a value of
// its own, so that undo and redo only put an earlier one back.

import { announce, percent } from "./dom.js";
import { report } from "./toast.js";
import { imagePath, post } from "./server.js";
import { push } from "./history.js";
import { decode, EMPTY, paint } from "./masks.js";
import { app, busy, emit, objectById } from "./store.js";

const BLANK = {
  box: null, // x0, y0, x1, y1 in pixels of the image
  points: [], // x, y, 1 positive or 0 negative
  masks: [], // {mask, iou, previous}
  chosen: 0,
  score: null, // logit that there is an object
  edited: null, // the mask after the brush; it goes before the model's
  objectId: null, // the saved object that this one replaces
  category: null, // of that object
  clicks: 0,
  started: 0, // when the person began, performance.now()
  multimask: false,
  answered: true, // false while the model is asked, or when asking failed
  pending: null, // a promise that ends with the model's answer
};

export const currentMask = (draft) => draft.edited ?? draft.masks[draft.chosen]?.mask ?? null;
export const currentIou = (draft) => (draft.edited ? null : (draft.masks[draft.chosen]?.iou ?? null));

let abort = null;

/** Take a step: `changes` to the draft; `ask` whether the model is asked about it. Nobody marks what is not seen. */
export function step(changes, ask) {
  if (app.image.problem) {
    report(app.image.problem);
    return undefined;
  }
  const before = app.draft;
  const began = before ?? { ...BLANK, started: performance.now() };
  const after = { ...began, ...changes };
  const previous = changes.previous ?? null;
  after.pending = null;
  const redo = () => {
    put(after);
    if (ask && !after.answered) after.pending = askModel(after, previous);
    return after.pending;
  };
  push({ image: app.image.id, undo: () => put(before), redo, name: "prompt" });
  after.answered = !ask;
  return redo();
}

function put(draft) {
  abort?.abort();
  app.draft = draft;
  app.hover = null;
  if (app.compare) {
    app.compare = null;
    emit("compare");
  }
  emit("draft");
}

/** What the model is asked: the same body for predict and compare. */
export function question({ box, points }, previous, multimask) {
  const pairs = points.map(([x, y]) => [x, y]);
  return { model: app.active, box, points: pairs, labels: points.map((point) => point[2]), previous, multimask };
}

async function askModel(draft, previous) {
  const started = performance.now();
  const image = app.image;
  abort = new AbortController();
  if (!image.embedded) busy("Preparing this image for the model…");
  try {
    const body = question(draft, previous, draft.multimask);
    const answer = await post(imagePath(image.id, "predict"), body, abort.signal);
    draft.masks = await decodeAll(answer);
    draft.chosen = draft.multimask ? answer.best : Math.min(answer.best, draft.masks.length - 1);
    draft.score = answer.object_score;
    draft.answered = true;
    if (!image.embedded) {
      image.embedded = true;
      emit("images");
    }
    if (app.draft !== draft) return;
    emit("draft");
    requestAnimationFrame(() => {
      // asked for after the drawing, and so called after it, in the same frame
      app.latency = performance.now() - started;
      performance.measure("click-to-mask", { start: started });
      emit("status");
    });
    announce(spoken(draft));
  } catch (error) {
    if (error.name !== "AbortError") report(error);
  } finally {
    busy("");
  }
}

function spoken(draft) {
  const of = draft.masks.length > 1 ? `mask ${draft.chosen + 1} of ${draft.masks.length}` : "mask";
  return `${of}, predicted overlap ${percent(currentIou(draft) ?? 0)}. Enter accepts, Escape drops.`;
}

export const decodeAll = (answer) =>
  Promise.all(
    answer.masks.map(async ({ mask, iou, previous }) => ({
      mask: await decode(mask),
      iou,
      previous: previous ?? answer.previous,
    })),
  );

export function addPoint(x, y, label) {
  const draft = app.draft;
  const points = [...(draft?.points ?? []), [x, y, label]];
  const previous = draft?.masks[draft.chosen]?.previous ?? null;
  const multimask = points.length === 1 && !draft?.box;
  return step({ points, previous, multimask, edited: null, clicks: (draft?.clicks ?? 0) + 1 }, true);
}

export function removePoint(index) {
  const { draft } = app;
  const points = draft.points.filter((_, i) => i !== index);
  const changes = { points, previous: null, edited: null, clicks: draft.clicks + 1 };
  if (points.length === 0 && !draft.box) return step({ ...changes, masks: [] }, false);
  return step({ ...changes, multimask: points.length === 1 && !draft.box }, true);
}

export function setBox(box) {
  const changes = { box, previous: null, multimask: false, edited: null, clicks: (app.draft?.clicks ?? 0) + 1 };
  return step({ ...changes, points: app.draft?.points ?? [] }, true);
}

/** The next of the three masks; asks for three where only one is there. */
export function nextMask(direction) {
  const { draft } = app;
  if (!draft || (!draft.box && draft.points.length === 0)) return;
  if (draft.masks.length < 2) {
    step({ multimask: true, edited: null, previous: null }, true);
    return;
  }
  const chosen = (draft.chosen + direction + draft.masks.length) % draft.masks.length;
  step({ chosen, edited: null }, false);
  announce(spoken(app.draft));
}

export function dropDraft() {
  if (!app.draft) return false;
  const before = app.draft;
  push({ image: app.image.id, undo: () => put(before), redo: () => put(null), name: "drop" });
  put(null);
  return true;
}

/** Forget the draft without a step of history, after it was accepted or the image changed. */
export const clearDraft = () => put(null);
export const restoreDraft = (draft) => put(draft);

/** Correct a saved object: its mask and box become the draft. */
export function fixObject(id) {
  const object = objectById(id);
  if (!object) return;
  const { mask } = object;
  const box = [mask.x, mask.y, mask.x + mask.w, mask.y + mask.h];
  step({ ...BLANK, box, edited: mask, objectId: id, category: object.category_id, started: performance.now() }, false);
}

let stroke = null;

/** Brush or eraser: between `beginStroke` and `endStroke` the mask changes as the pointer moves. */
export function beginStroke(point, radius, value) {
  if (!app.draft && app.selected && objectById(app.selected)) fixObject(app.selected);
  const before = app.draft;
  stroke = { mask: (before && currentMask(before)) ?? EMPTY, last: point, radius, value, before };
  moveStroke(point);
}

export function moveStroke(point) {
  if (!stroke) return;
  const { width, height } = app.image;
  stroke.mask = paint(stroke.mask, stroke.last, point, stroke.radius, stroke.value, width, height);
  stroke.last = point;
  app.draft = { ...(stroke.before ?? { ...BLANK, started: performance.now() }), edited: stroke.mask };
  emit("draft");
}

export function endStroke() {
  if (!stroke) return;
  const { mask, before } = stroke;
  stroke = null;
  app.draft = before;
  step({ edited: mask, clicks: (before?.clicks ?? 0) + 1 }, false);
}
