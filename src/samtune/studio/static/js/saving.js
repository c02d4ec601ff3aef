// Changes on their way to the disk. They go one after the other, and nothing is called saved before the server, which
// answers after fsync, has said so.

import { announce } from "./dom.js";
import { clearDraft, currentIou, currentMask, restoreDraft } from "./draft.js";
import { hold, push } from "./history.js";
import { decode, encode } from "./masks.js";
import { get, imagePath, post, ServerError } from "./server.js";
import { app, classById, emit, imageById, objectById } from "./store.js";
import { notice, report } from "./toast.js";

/** `waiting` changes not yet answered; `failed` ones that the server refused; `saved` how many it has confirmed. */
export const saving = { waiting: 0, failed: 0, saved: 0 };
const revisions = new Map();
const leaving = new Set(); // ids of objects being deleted: a second press of the key is no second deletion
let line = Promise.resolve();
let serial = 0;

function send(imageId, body) {
  saving.waiting += 1;
  emit("saving");
  const result = line.then(() => sendNow(imageId, body));
  line = result.catch(() => {});
  return result.then(
    (answer) => done(answer),
    (error) => {
      saving.waiting -= 1;
      emit("saving");
      throw error;
    },
  );
}

function done(answer) {
  saving.waiting -= 1;
  saving.saved += 1;
  emit("saving", "saved");
  return answer;
}

async function sendNow(imageId, body) {
  try {
    const answer = await post(imagePath(imageId, "objects"), { ...body, revision: revisions.get(imageId) });
    revisions.set(imageId, answer.revision);
    return answer;
  } catch (error) {
    if (!(error instanceof ServerError) || error.status !== 409) throw error;
    await loadObjects(imageById(imageId));
    if (body.action !== "accept") throw error;
    // A new object does not touch what the other tab did: it is added to that.
    notice("Another tab changed this image. Its objects were loaded again and yours was added.");
    const answer = await post(imagePath(imageId, "objects"), { ...body, revision: revisions.get(imageId) });
    revisions.set(imageId, answer.revision);
    return answer;
  }
}

/** The objects of an image from the server; what is still unsaved here stays. */
export async function loadObjects(image) {
  const { revision, objects } = await get(imagePath(image.id, "objects"));
  const decoded = await Promise.all(
    objects.map(async (object) => ({ ...object, mask: await decode(object.mask), saving: null })),
  );
  revisions.set(image.id, revision);
  if (app.image?.id !== image.id) return;
  app.objects = [...decoded, ...app.objects.filter((object) => object.saving && object.image === image.id)];
  count(image.id);
  emit("objects");
}

function count(imageId) {
  const image = imageById(imageId);
  if (app.image?.id === imageId) image.objects = app.objects.filter((object) => !object.saving).length;
  if (image.status === "new" && image.objects > 0) image.status = "open";
  emit("images");
}

export async function ensureClass() {
  if (classById(app.category)) return app.category;
  if (app.classes.length === 0) await addClass("object");
  app.category ??= app.classes[0].id;
  return app.category;
}

export async function addClass(name) {
  const added = await post("/api/classes", { name });
  if (!classById(added.id)) app.classes = [...app.classes, added];
  app.category = added.id;
  emit("classes");
  return added;
}

/** Accept the draft: as a new object, or in place of the one it corrects. */
export async function accept() {
  const draft = app.draft;
  if (!draft) return;
  await draft.pending;
  if (app.draft !== draft || !draft.answered) return;
  const mask = currentMask(draft);
  if (!mask || mask.bits.indexOf(1) < 0) {
    notice("There is no mask to accept yet: click on an object, draw a box around it, or paint it.");
    return;
  }
  if (draft.objectId) await change(draft.objectId, { mask }, draft);
  else await add(draft, mask);
}

async function add(draft, mask) {
  const category = await ensureClass();
  const object = {
    id: `new-${++serial}`,
    image: app.image.id,
    category_id: category,
    mask,
    iou: currentIou(draft),
    clicks: draft.clicks,
    seconds: (performance.now() - draft.started) / 1000,
    source: "person",
    model: app.active,
    saving: "saving",
  };
  if (app.draft === draft) clearDraft();
  place(object);
  app.selected = null;
  const imageId = app.image.id;
  const save = store(object, imageId);
  push({
    image: imageId,
    name: "accept",
    undo: async () => {
      await remove(object, imageId);
      restoreDraft(draft);
    },
    redo: async () => {
      clearDraft();
      await bringBack(object, imageId);
    },
  });
  await save;
}

function place(object) {
  app.objects = [...app.objects, object];
  emit("objects", "selected");
}

/** Send a new object; where that fails it stays on the page, named as not saved. */
function store(object, imageId) {
  object.stored = storeNow(object, imageId);
  return object.stored;
}

async function storeNow(object, imageId) {
  try {
    object.saving = "saving";
    emit("objects");
    const mask = await encode(object.mask);
    const { category_id, iou, clicks, seconds, source, model } = object;
    const body = { action: "accept", object: { category_id, mask, iou, clicks, seconds, source, model } };
    const answer = await send(imageId, body);
    object.id = answer.id;
    object.saving = null;
    count(imageId);
    announce("Saved.");
  } catch (error) {
    object.saving = "failed";
    report(error);
  }
  failures();
  emit("objects");
}

function failures() {
  saving.failed = app.objects.filter((object) => object.saving === "failed").length;
  emit("saving");
}

export const retry = (object) => store(object, object.image);

export function discard(object) {
  app.objects = app.objects.filter((other) => other !== object);
  failures();
  emit("objects");
}

async function remove(object, imageId) {
  await object.stored; // it may not even have been sent
  if (object.saving !== "failed") await send(imageId, { action: "delete", id: object.id });
  app.objects = app.objects.filter((other) => other.id !== object.id);
  if (app.selected === object.id) app.selected = null;
  count(imageId);
  failures();
  emit("objects", "selected");
}

async function bringBack(object, imageId) {
  if (object.saving === "failed") {
    place(object);
    return store(object, imageId);
  }
  await send(imageId, { action: "restore", id: object.id });
  if (!objectById(object.id)) place(object);
  count(imageId);
  return undefined;
}

export async function deleteObject(id) {
  const object = objectById(id);
  if (!object) return;
  if (object.saving === "failed") {
    discard(object);
    return;
  }
  if (object.saving || leaving.has(id)) return;
  const imageId = app.image.id;
  await attempt(async () => {
    leaving.add(id);
    await remove(object, imageId).finally(() => leaving.delete(id));
    push({
      image: imageId,
      name: "delete",
      undo: () => bringBack(object, imageId),
      redo: () => remove(object, imageId),
    });
  });
}

/** Change the class or the mask of a saved object. */
export async function change(id, after, draft = null) {
  const object = objectById(id);
  if (!object || object.saving) return;
  const imageId = app.image.id;
  const before = Object.fromEntries(Object.keys(after).map((key) => [key, object[key]]));
  const apply = async (values) => {
    const body = { action: "update", id, ...values };
    if (values.mask) body.mask = await encode(values.mask);
    await send(imageId, body);
    app.objects = app.objects.map((other) => (other.id === id ? { ...other, ...values } : other));
    emit("objects");
  };
  await attempt(async () => {
    await apply(after);
    if (draft && app.draft === draft) clearDraft();
    push({
      image: imageId,
      name: "change",
      undo: async () => {
        await apply(before);
        if (draft) restoreDraft(draft);
      },
      redo: async () => {
        if (draft) clearDraft();
        await apply(after);
      },
    });
  });
}

/** Accept several proposals at once; one undo takes all of them back. */
export async function acceptProposals(proposals) {
  const category = await ensureClass();
  const imageId = app.image.id;
  const objects = proposals.map((proposal) => ({
    id: `new-${++serial}`,
    image: imageId,
    category_id: classById(proposal.category_id) ? proposal.category_id : category,
    mask: proposal.mask,
    iou: Math.min(1, Math.max(0, proposal.score)),
    clicks: proposals.length === 1 ? 1 : 0,
    seconds: 0,
    source: "proposal",
    model: app.active,
    saving: "saving",
  }));
  app.proposals = app.proposals.filter((proposal) => !proposals.includes(proposal));
  emit("proposals");
  objects.forEach(place);
  push({
    image: imageId,
    name: "proposals",
    undo: async () => {
      for (const object of objects) await remove(object, imageId);
    },
    redo: async () => {
      for (const object of objects) await bringBack(object, imageId);
    },
  });
  await Promise.all(objects.map((object) => store(object, imageId)));
}

export async function setStatus(image, status) {
  const before = image.status;
  if (before === status) return;
  const apply = async (value) => {
    await send(image.id, { action: "status", status: value });
    image.status = value;
    emit("images");
  };
  await attempt(async () => {
    if (!revisions.has(image.id)) await loadObjects(image);
    await apply(status);
    push({ image: image.id, name: "status", undo: () => apply(before), redo: () => apply(status) });
  });
}

/** Undo and redo wait for a change under way, which takes its step of history at its end. */
const attempt = (work) => hold(work().catch(report));
