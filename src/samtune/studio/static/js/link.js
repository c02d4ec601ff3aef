// Links to an image and an object: #image=ID&object=OID. The address follows what is shown.

import { open } from "./images.js";
import { app, emit, objectById, on } from "./store.js";
import { notice } from "./toast.js";
import { show } from "./viewport.js";

export function startLinks() {
  on("image selected", follow);
  window.addEventListener("hashchange", () => {
    const { image, object } = asked();
    if (image && (image !== app.image?.id || (object && object !== app.selected))) goTo(image, object);
  });
}

export function asked() {
  const parts = new URLSearchParams(location.hash.slice(1));
  return { image: parts.get("image"), object: parts.get("object") };
}

function follow() {
  if (!app.image) return;
  const parts = new URLSearchParams({ image: app.image.id });
  if (app.selected && !app.selected.startsWith("new-")) parts.set("object", app.selected);
  history.replaceState(null, "", `#${parts}`);
}

/** Open an image, and select one of its objects in the middle of the view. */
export async function goTo(image, object = null) {
  await open(image);
  if (!object) return;
  const found = objectById(object);
  if (!found) {
    notice(`Object ${object} is not in this image any more.`);
    return;
  }
  app.selected = object;
  emit("selected");
  show(found.mask);
}
