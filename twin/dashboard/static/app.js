// The page: which runs are shown, at what time, and when they are drawn again.

import { recolour } from "./charts.js";
import { el, icon, setAttribute, setIcon, setText } from "./dom.js";
import { clock } from "./format.js";
import { Experiments } from "./experiments.js";
import { readColours } from "./marks.js";
import { Refused, ask, listen, takeToken } from "./net.js";
import { Run } from "./run.js";
import { themeSwitch } from "./theme.js";
import { Transport } from "./transport.js";
import { RunView } from "./view.js";

/**
 * What costs is a frame, whatever changes in it. So everything that is seen is drawn at once, every second; while a
 * record plays, the first row and the first two graphs move four times as often.
 */
const BEAT_MS = 250;
const FOLLOW_BEATS = 4;
const AROUND_MS = 2_000;
/** Whoever has not answered for so long will hardly come back by itself. */
const LONG_MS = 60_000;

const at = (id) => document.getElementById(id);
const picks = { run: at("run-pick"), other: at("other-pick"), range: at("range-pick") };
const runs = new Map();
const shown = { views: [], link: "new", range: null, drawn: false };
const linkShape = icon("unlinked");
const linkWords = el("span", "", {}, "connecting");
at("link").append(linkShape, linkWords);
const experiments = new Experiments(at("experiments"));
const transport = new Transport(at("transport"), { changed: () => draw(true), jump: toDifference });

function notice(words, tone = "bad") {
  setText(at("notice"), words);
  setAttribute(at("notice"), "data-tone", tone);
  at("notice").hidden = !words;
}

const NO_TOKEN = "This page needs its token. Open the address, with ?token=, that twin printed when it started.";
const NEW_TOKEN = "The server was started anew and has another token. Open the address that it printed; this page keeps trying.";

/** Where else the runs can be seen, once nobody has answered for a while. */
function elsewhere() {
  if (performance.now() - shown.downAt < LONG_MS) return "";
  return ` Nobody has answered for a minute: twin dashboard ${shown.views.map(({ run }) => run.about.run_dir).join(" ")} shows ${
    shown.views.length > 1 ? "these runs" : "the run"}.`;
}

function link(state) {
  shown.link = state;
  setIcon(linkShape, state === "up" ? "linked" : "unlinked");
  const over = shown.views.length && shown.views.every(({ run }) => run.about.origin === "live" && !run.goesOn);
  setText(linkWords, state === "up" ? "connected" : over ? "the run is over" : "connection lost");
  setAttribute(at("link"), "data-tone", state === "up" ? "good" : over ? "calm" : "bad");
  if (state === "up") shown.downAt = null;
  else shown.downAt ??= performance.now();
  if (state !== "up" && over) notice("The run is over, and its page with it. What you see is how it ended.", "calm");
  else if (state === "down" && shown.views.length) notice(`The connection is lost. What you see is the last that came; trying again every two seconds.${elsewhere()}`);
  else if (state === "strange") notice(NEW_TOKEN);
  else notice("");
  if (state === "up") refresh();
  draw(true);
}

/** Ask which runs there are, and fill those that are shown with what came meanwhile. */
async function refresh() {
  try {
    const answer = await ask("/api/runs");
    for (const about of answer.runs) know(about);
    order(answer.runs);
    experiments.show(answer.experiments ?? []);
    pickable();
    if (!shown.views.length) await fromAddress();
    else await Promise.all(shown.views.map((view) => view.run.open()));
    if (shown.link === "up" || !runs.size) notice(runs.size || (answer.experiments ?? []).length ? "" : "There is no run to show.");
    draw(true);
  } catch (refused) {
    if (!(refused instanceof Refused)) throw refused;
    if (refused.status === 401 || refused.status === 403) notice(shown.views.length ? NEW_TOKEN : NO_TOKEN);
    else notice(`The server does not answer as it should: ${refused.message}.`);
  }
}

function know(about) {
  const run = runs.get(about.id);
  if (run) run.update(about);
  else runs.set(about.id, new Run(about));
}

/** Runs stand in the order in which the server lists them. */
function order(abouts) {
  for (const { id } of abouts) {
    const run = runs.get(id);
    runs.delete(id);
    runs.set(id, run);
  }
}

function pickable() {
  const names = [...runs.values()].map((run) => [run.id, run.about.name]);
  const key = JSON.stringify(names);
  if (picks.key === key) return;
  picks.key = key;
  const options = () => names.map(([id, name]) => el("option", "", { value: id }, name));
  const { run, other } = { run: picks.run.value, other: picks.other.value };
  picks.run.replaceChildren(...options());
  picks.other.replaceChildren(el("option", "", { value: "" }, "nothing"), ...options());
  if (runs.has(run)) picks.run.value = run;
  if (runs.has(other)) picks.other.value = other;
  at("beside").hidden = names.length < 2;
}

/** Which runs are shown stands behind the # of the address, so that it outlives a reload. */
async function fromAddress() {
  const hash = new URLSearchParams(window.location.hash.slice(1));
  const first = runs.get(hash.get("run")) ?? runs.values().next().value;
  if (!first) return;
  const others = [...runs.values()].filter((run) => run !== first);
  const second = hash.has("beside") ? runs.get(hash.get("beside")) : others[0];
  await choose(first.id, second && second !== first ? second.id : "");
}

async function choose(first, second) {
  picks.run.value = first;
  picks.other.value = second === first ? "" : second;
  const wanted = [first, picks.other.value].filter(Boolean).map((id) => runs.get(id));
  for (const view of shown.views.splice(0)) {
    view.remove();
  }
  const hash = new URLSearchParams({ run: first, beside: picks.other.value });
  window.history.replaceState(null, "", `#${hash}`);
  if (shown.range === null) {
    shown.range = wanted[0].about.origin === "live" ? "60" : "whole";
    picks.range.value = shown.range;
  }
  await Promise.all(wanted.map((run) => run.open()));
  shown.views = wanted.map((run) => new RunView(run, { overlay: () => draw(true) }));
  at("views").replaceChildren(...shown.views.map((view) => view.root));
  at("views").classList.toggle("several", shown.views.length > 1);
  for (const view of shown.views) view.beside(shown.views.length > 1);
  document.title = `${wanted.map((run) => run.about.name).join(" and ")} · pulsetwin`;
  transport.say("");
  draw(true);
}

/** The time that is shown, and the stretch around it that graphs show. */
function when() {
  const { periodNs } = transport;
  const { ns: nowNs } = transport;
  const range = picks.range.value;
  const common = { nowNs, aheadNs: transport.aheadNs };
  if (range === "whole") return { ...common, firstNs: 0, lastNs: Math.max(transport.lengthNs, periodNs), cursor: !transport.following };
  const length = range === "ten" ? 600e9 : Number(range) * periodNs;
  return { ...common, firstNs: Math.max(0, nowNs - length), lastNs: Math.max(nowNs, length), cursor: false };
}

let beat = 0;
let asked = false;

/** Draw at the next frame; `all` draws what is not due too. */
function draw(all) {
  shown.all ||= all;
  if (asked || document.hidden) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    drawNow(shown.all);
    shown.all = false;
  });
}

function drawNow(all) {
  if (!shown.views.length) return;
  const those = shown.views.map((view) => view.run);
  for (const run of those) run.fill();
  transport.bounds({
    lengthNs: Math.max(...those.map((run) => run.lengthNs)),
    goesOn: those.some((run) => run.goesOn),
    periodNs: those[0].about.period_ms * 1e6,
    several: those.length > 1,
  });
  transport.tick();
  transport.show();
  const now = when();
  const again = () => draw(true);
  // One time axis for all.
  const horizonNs = Math.max(...shown.views.map((view) => view.horizonNs(now)));
  shown.views.forEach((view, place) => {
    view.showState(shown.link === "up" || shown.link === "new");
    view.showRecord(now, again);
    view.showGraphs(now, shown.views[1 - place] ?? null, horizonNs, { all: all || beat % FOLLOW_BEATS === 0, first: transport.playing }, again);
  });
  if (all || beat % FOLLOW_BEATS === 0) align();
  if (!shown.drawn && shown.views.some((view) => view.record)) {
    shown.drawn = true;
    performance.mark("first-values");
  }
}

/** What is beside each other begins at one height, however often a name wraps. */
function align() {
  if (shown.views.length < 2) return;
  const side = shown.views.every(({ root }) => root.offsetTop === shown.views[0].root.offsetTop);
  const height = side ? Math.ceil(Math.max(...shown.views.map((view) => view.headHeight))) : 0;
  for (const { head } of shown.views) {
    if (head.least === height) continue;
    head.least = height;
    head.style.minHeight = height ? `${height}px` : "";
  }
}

async function toDifference() {
  const [a, b] = shown.views.map((view) => view.run);
  transport.say("Looking for the first difference …");
  try {
    const { difference } = await ask("/api/difference", { a: a.id, b: b.id });
    if (!difference) transport.say("They are equal in every value.");
    else {
      const { column, table, time_ns: ns, note } = difference;
      const when = typeof ns === "number" ? ` at ${clock(ns)}` : "";
      if (when) {
        transport.playing = false;
        transport.go(ns);
      }
      const values = [difference.a, difference.b].map((value) => JSON.stringify(value)).join(" and ");
      transport.say(`First difference${when}, in the ${table} table: ${column} is ${values}.${note ? ` (${note})` : ""}`);
    }
  } catch (refused) {
    transport.say(`It cannot be told: ${refused.message}.`);
  }
}

/** What nobody tells of: how far experiments are, and what is in the pools that are looked at. */
async function lookAround() {
  if (document.hidden || shown.link !== "up") return;
  try {
    if (!at("experiments").hidden) experiments.show((await ask("/api/experiments")).experiments ?? []);
    let asked = false;
    for (const { run, crystal } of shown.views) {
      // A record that is followed or replayed is as old as the server says.
      if (run.goesOn && run.about.origin !== "live" && !asked) {
        asked = true;
        for (const about of (await ask("/api/runs")).runs) know(about);
      }
      if (crystal.isSeen || run.pool !== null) run.pool = run.goesOn ? (await ask("/api/pool", { run: run.id })).pool : null;
    }
  } catch {
    // The link says when nobody answers.
  }
}

function listenAll() {
  listen({
    metrics: ({ run, record, insight, lost, age_ms: ageMs }) => runs.get(run)?.hear(record, insight, lost, ageMs),
    run: async ({ run: about }) => {
      know(about);
      pickable();
      // The last records of a run that is over may not have been told one by one.
      if (shown.views.some(({ run }) => run.id === about.id)) await runs.get(about.id).open().catch(() => null);
      else if (!shown.views.length) await refresh();
      draw(true);
    },
  }, link);
}

async function start() {
  // The address keeps which runs are shown, so that its # is not for these; nor does anything jump.
  for (const skip of document.querySelectorAll(".skip")) {
    skip.addEventListener("click", (event) => {
      event.preventDefault();
      const to = document.querySelector(skip.dataset.to);
      to?.focus({ preventScroll: to.closest(".transport") !== null });
    });
  }
  themeSwitch(at("theme"), () => {
    readColours();
    recolour();
    draw(true);
  });
  if (!takeToken()) {
    notice(NO_TOKEN);
    setText(linkWords, "no token");
    return;
  }
  for (const pick of [picks.run, picks.other]) {
    pick.addEventListener("change", async () => {
      try {
        await choose(picks.run.value, picks.other.value);
      } catch (refused) {
        notice(`The run cannot be shown: ${refused.message}.`);
      }
    });
  }
  picks.range.addEventListener("change", () => {
    shown.range = picks.range.value;
    draw(true);
  });
  document.addEventListener("visibilitychange", () => draw(true));
  await refresh();
  listenAll();
  lookAround();
  window.setInterval(() => {
    beat += 1;
    if (transport.playing || beat % FOLLOW_BEATS === 0) draw(false);
  }, BEAT_MS);
  window.setInterval(lookAround, AROUND_MS);
}

start();
