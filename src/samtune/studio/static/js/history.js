// Undo and redo without a limit. A step knows the image it belongs to: that image is opened before the step is undone.

import { app, emit } from "./store.js";
import { report } from "./toast.js";

const past = [];
const future = [];
let opener = null;
let turn = Promise.resolve();
let underway = Promise.resolve();

/** `open(id)` shows an image; main.js gives it. */
export function startHistory(open) {
  opener = open;
}

/** A step that has been taken: `{image, undo, redo, name}`. */
export function push(step) {
  past.push(step);
  future.length = 0;
  emit("history");
}

/** Undo and redo wait for `work`: a change whose step comes once the server has it, or they would take the one before. */
export function hold(work) {
  underway = Promise.allSettled([underway, work]);
  return work;
}

export const canUndo = () => past.length > 0;
export const canRedo = () => future.length > 0;
export const undo = () => move(past, future, "undo");
export const redo = () => move(future, past, "redo");

/** One after the other, however fast the key is pressed. */
function move(from, to, way) {
  turn = turn.then(async () => {
    await underway;
    const step = from.pop();
    if (!step) return;
    try {
      if (app.image?.id !== step.image) await opener(step.image);
      await step[way]();
      to.push(step);
    } catch (error) {
      from.push(step);
      report(error);
    }
    emit("history");
  });
  return turn;
}
