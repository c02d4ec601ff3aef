// Links to an image and an object: #image=ID&object=OID, or &box=x0,y0,x1,y1 for the object there. The address follows
// what is shown.

import { open } from "./images.js";
import { app, emit, objectById, on } from "./store.js";
import { notice } from "./toast.js";
import { show } from "./viewport.js";

const LEAST_IOU = 0.3; // of boxes, from which on an object is the one that a link means

export function startLinks() {
  on("image selected", follow);
  window.addEventListener("hashchange", () => {
    const link = asked();
    const { image, object, box } = link;
    if (image && (image !== app.image?.id || box || (object && object !== app.selected))) goTo(link);
  });
}

export function asked() {
  const parts = new URLSearchParams(location.hash.slice(1));
  return { image: parts.get("image"), object: parts.get("object"), box: parts.get("box") };
}

function follow() {
  if (!app.image) return;
  const parts = new URLSearchParams({ image: app.image.id });
  if (app.selected && !app.selected.startsWith("new-")) parts.set("object", app.selected);
  history.replaceState(null, "", `#${parts}`);
}

/** Open an image, and select one of its objects in the middle of the view. */
export async function goTo({ image, object = null, box = null }) {
  await open(image);
  if (!object && !box) return;
  const place = box && placeOf(box.split(",").map(Number));
  const found = object ? objectById(object) : objectAt(place);
  if (!found) {
    notice(object ? `Object ${object} is not in this image any more.` : "No object is annotated at this place.");
    if (place) show(place);
    return;
  }
  app.selected = found.id;
  emit("selected");
  show(found.mask);
}

const placeOf = ([x0, y0, x1, y1]) => ({ x: x0, y: y0, w: x1 - x0, h: y1 - y0 });

/** The object whose box agrees most with a place; undefined where none does by LEAST_IOU. */
function objectAt(place) {
  const ranked = app.objects.map((one) => [iou(one.mask, place), one]).sort((a, b) => b[0] - a[0]);
  return ranked.length && ranked[0][0] >= LEAST_IOU ? ranked[0][1] : undefined;
}

function iou(a, b) {
  const side = (from, length) => Math.min(a[from] + a[length], b[from] + b[length]) - Math.max(a[from], b[from]);
  const shared = Math.max(0, side("x", "w")) * Math.max(0, side("y", "h"));
  return shared / (a.w * a.h + b.w * b.h - shared);
}
