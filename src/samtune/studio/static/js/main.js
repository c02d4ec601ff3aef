// The page's start, and what keeps it up to date.

import { startAnnotate } from "./annotate.js";
import { startBars } from "./bars.js";
import { startCompare } from "./compare.js";
import { openExport, openHelp } from "./dialogs.js";
import { byId, el, shortName } from "./dom.js";
import { startHistory } from "./history.js";
import { open, startImages } from "./images.js";
import { startKeys } from "./keys.js";
import { asked, goTo, startLinks } from "./link.js";
import { startModels } from "./models.js";
import { startPointer } from "./pointer.js";
import { applyTheme, prefer, prefs } from "./prefs.js";
import { startProposals } from "./proposals.js";
import { openReview } from "./review.js";
import { saving } from "./saving.js";
import { startScene } from "./scene.js";
import { get, takeToken } from "./server.js";
import { startStats } from "./stats.js";
import { app, emit, on } from "./store.js";
import { startTabs } from "./tabs.js";
import { notice, report } from "./toast.js";
import { followTune, startTune } from "./tune.js";

const EVERY = 2500;

async function refresh() {
  const state = await get("/api/state");
  const known = new Map(app.images.map((image) => [image.id, image]));
  const { models, active, classes, tune, stats, version, name } = state;
  if (state.finder_note && state.finder_note !== app.finderNote) notice(state.finder_note, 0);
  Object.assign(app, { models, active, classes, tune, stats, version, name, finderNote: state.finder_note });
  // One value per image for the page's whole life: what others hold stays the one that changes.
  app.images = state.images.map((image) => Object.assign(known.get(image.id) ?? {}, image));
  byId("project").textContent = name;
  byId("project").title = state.note ?? "";
  document.title = `${name} · samtune studio`;
  emit("state", "images", "classes", "models");
  followTune();
  return state;
}

/** While images are being embedded, ask how far it is. */
async function keepFresh() {
  for (;;) {
    await new Promise((resume) => setTimeout(resume, EVERY));
    if (document.hidden || saving.waiting || app.images.every((image) => image.embedded)) continue;
    await refresh().catch(() => {});
  }
}

function startHead() {
  byId("open-review").addEventListener("click", openReview);
  byId("open-export").addEventListener("click", openExport);
  byId("open-help").addEventListener("click", openHelp);
  byId("open-theme").addEventListener("click", () => {
    const themes = ["system", "light", "dark"];
    prefer({ theme: themes[(themes.indexOf(prefs.theme) + 1) % 3] });
    applyTheme();
    emit("theme");
    notice({ system: "Light or dark as the system says.", light: "Light.", dark: "Dark." }[prefs.theme]);
  });
  window.addEventListener("beforeunload", (event) => {
    if (saving.waiting || saving.failed) event.preventDefault();
  });
}

function leftOut(problems) {
  const names = problems.slice(0, 3).map(({ where }) => shortName(where ?? "?")).join(", ");
  const count = problems.length === 1 ? "1 image was left out" : `${problems.length} images were left out`;
  notice(`${count}: ${names}${problems.length > 3 ? " and others" : ""}. samtune doctor says why.`, 0);
}

function lockedOut(error) {
  byId("empty").hidden = false;
  byId("empty").replaceChildren(el("b", {}, "This page cannot speak to the studio"),
    el("span", {}, "Open the address that samtune studio printed in the terminal; it holds a key for this session."));
  report(error);
}

async function start() {
  applyTheme();
  takeToken();
  app.opacity = prefs.opacity;
  for (const begin of [startHead, startTabs, startScene, startPointer, startKeys, startBars, startImages, startAnnotate,
    startProposals, startCompare, startModels, startTune, startStats, startLinks]) begin();
  startHistory(open);
  on("refresh", () => refresh().catch(report));
  const link = asked();
  try {
    const { problems = [] } = await refresh();
    if (problems.length) leftOut(problems);
  } catch (error) {
    lockedOut(error);
    return;
  }
  const first = app.images.find((image) => image.status !== "done") ?? app.images[0];
  if (link.image) await goTo(link);
  else if (first) await open(first.id);
  document.documentElement.dataset.ready = "true";
  keepFresh();
}

start();
