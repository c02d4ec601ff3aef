// What the page knows, in one place, and who wants to hear of a change.

export const app = {
  models: [],
  active: null,
  classes: [],
  images: [],
  tune: null,
  stats: null,
  finderNote: "",
  image: null, // the open one of `images`; its `problem` is why it cannot be shown
  objects: [], // of the open image; `mask` is decoded, `saving` is null, "saving" or "failed"
  selected: null, // id of an object
  category: null, // id of the class for new objects
  draft: null, // see draft.js
  hover: null, // preview mask under the pointer
  proposals: [],
  threshold: 0.5,
  compare: null, // see compare.js
  pointer: { at: null, px: 0, drag: null, radius: 12, keyboard: false, corner: null }, // see pointer.js
  tool: "prompt", // prompt, brush, eraser, select
  sign: 1, // what a plain click says: 1 positive, 0 negative
  hidden: false,
  busy: "", // what the server is at, for the status line
  latency: null, // milliseconds from the last click to its mask
};

const listeners = new Map();

export function on(names, listener) {
  for (const name of names.split(" ")) listeners.set(name, [...(listeners.get(name) ?? []), listener]);
}

export function emit(...names) {
  for (const listener of new Set(names.flatMap((name) => listeners.get(name) ?? []))) listener();
}

export const imageById = (id) => app.images.find((image) => image.id === id);
export const objectById = (id) => app.objects.find((object) => object.id === id);
export const classById = (id) => app.classes.find((one) => one.id === id);
export const colorOf = (categoryId) => classById(categoryId)?.color ?? "#56B4E9";
export const nameOf = (categoryId) => classById(categoryId)?.name ?? "no class";
export const modelLabel = (key) => app.models.find((model) => model.key === key)?.label ?? key ?? "–";

/** Say what the server is at; an empty text says nothing. */
export function busy(text) {
  app.busy = text;
  emit("status");
}
