// One run on the page: its state, cards, graphs and panels.

import { Cards, Pill } from "./cards.js";
import { TimeGraph } from "./charts.js";
import { el, icon, setAttribute, setClass, setIcon, setText } from "./dom.js";
import { MISSING, age, celsius, clock, known, number, span } from "./format.js";
import { COLOURS, MARKS } from "./marks.js";
import { exportAddress } from "./net.js";
import { Crystal, Heartbeat, Neural, Shield } from "./panels.js";
import { ORIGINS, STATES } from "./words.js";

/** Data that is so many periods late, and at least so old, is stale. */
const STALE_PERIODS = 20;
const STALE_MS = 2_000;

const UNHEARD = { word: "Running when last heard of", shape: "unknown", tone: "warn" };

const share = (name) => (frame) => frame.column(name).map((value) => (known(value) ? value / 1e4 : null));
const degrees = (name) => (frame) => frame.column(name).map((value) => (known(value) ? value / 1e3 : null));
const said = (digits, unit) => (value) => (known(value) ? `${number(value, digits)} ${unit}` : MISSING);

export class RunView {
  /** `follow(columns)` is asked for anything that is drawn again; `overlay` says that a graph wants the other run. */
  constructor(run, { overlay }) {
    this.run = run;
    this.overlaid = new Set();
    const { about } = run;
    this.title = el("h2", "", {}, about.name);
    this.state = new Pill();
    this.spoken = el("p", "visually-hidden", { role: "status" });
    this.origin = el("span", "pill plain", {}, "");
    this.ageShape = icon("good");
    this.age = el("span", "", {}, "");
    this.ageRoot = el("span", "pill plain age", {}, this.ageShape, this.age);
    this.facts = el("p", "about", {}, "");
    this.links = el("span", "links", {}, "Export ", this.link("csv"), " ", this.link("json"));
    this.again = el("p", "again", { hidden: true });
    this.cards = new Cards(about);
    this.heat = this.temperatures(about);
    this.use = new TimeGraph({
      title: "CPU and GPU use", className: "wide", y: { low: 0, high: 100, words: " %" },
      series: [
        { name: "CPU", colour: "blue", mark: "circle", of: share("cpu_load_ppm"), words: said(1, "%") },
        { name: "GPU", colour: "vermillion", mark: "square", of: share("gpu_busy_ppm"), words: said(1, "%") },
      ],
    });
    this.heartbeat = new Heartbeat();
    this.shield = new Shield(about);
    this.neural = new Neural();
    this.crystal = new Crystal();
    this.panels = [this.heartbeat, this.shield, this.neural, this.crystal];
    this.graphs = [this.heat, this.use, ...this.heartbeat.graphs, this.neural.graph];
    for (const graph of this.graphs) this.button(graph, overlay);
    for (const { root } of this.panels) {
      root.addEventListener("toggle", () => {
        for (const graph of this.graphs) graph.stale = true;
      });
    }
    this.root = el("article", "view", { "aria-label": about.name },
      el("header", "head", {}, this.title, this.state.root, this.origin, this.ageRoot, this.spoken, this.facts, this.links),
      this.again, this.cards.root, el("div", "graphs", {}, this.heat.root, this.use.root),
      el("div", "panels", {}, ...this.panels.map((panel) => panel.root)));
  }

  link(format) {
    return el("a", "", { href: exportAddress(this.run.id, format), download: `${this.run.about.name}.${format}` }, format.toUpperCase());
  }

  temperatures(about) {
    const forecast = about.learns ? about.forecast_ms : 0;
    const graph = new TimeGraph({
      title: "Temperatures", className: "wide", note: forecast ? `dashed: the forecast, ${span(forecast)} ahead` : "", y: { words: " °C", low: 20, high: 60 },
      series: about.sensors.map(({ name }, place) => ({
        name, colour: COLOURS[place % COLOURS.length], mark: MARKS[place % MARKS.length], of: degrees(`${name}_worst_millicelsius`),
        words: said(1, "°C"),
      })),
    });
    graph.limits = about.sensors.map(({ name, limit_millicelsius: limit }, place) => ({
      value: limit / 1e3, colour: COLOURS[place % COLOURS.length], words: `${name} limit ${number(limit / 1e3)}`,
    }));
    graph.y.high = Math.max(60, ...about.sensors.map((sensor) => sensor.limit_millicelsius / 1e3 + 5));
    return graph;
  }

  /** A switch that draws the other run's lines over this graph's. Shown where there is another run. */
  button(graph, overlay) {
    const node = el("button", "quiet overlay", { type: "button", "aria-pressed": "false", hidden: true }, "Overlay");
    node.addEventListener("click", () => {
      const on = !this.overlaid.has(graph);
      if (on) this.overlaid.add(graph);
      else this.overlaid.delete(graph);
      setAttribute(node, "aria-pressed", String(on));
      graph.stale = true;
      overlay();
    });
    graph.tools.append(node);
    graph.overlay = node;
  }

  /** The state line: how the run stands, where its records come from, and how old they are. */
  showState(linkUp) {
    const { run } = this;
    const { about } = run;
    const unheard = run.goesOn && !linkUp;
    const state = unheard ? UNHEARD : (STATES[about.state] ?? { ...UNHEARD, word: about.state });
    this.state.set(state);
    setText(this.title, about.name);
    setText(this.origin, `${ORIGINS[about.origin] ?? about.origin}, ${about.backend}`);
    const old = run.ageMs;
    const stale = this.isStale(linkUp);
    setIcon(this.ageShape, stale ? "stale" : run.goesOn ? "running" : "ended");
    setAttribute(this.ageRoot, "data-tone", stale ? "warn" : "calm");
    const lost = run.lost ? `, ${run.lost} not seen` : "";
    setText(this.age, run.goesOn ? `${stale ? "stale: " : ""}${age(old)}${lost}` : `${span(run.lengthNs / 1e6)} long${lost}`);
    setClass(this.root, "stale", stale);
    // Said aloud when it changes, not as often as records come.
    setText(this.spoken, `${about.name}: ${state.word}${stale ? ", its values are stale" : ""}`);
    const control = `${about.scenario}, seed ${about.seed}`;
    setText(this.facts, [control === about.name ? "" : control, about.machine, `loops ${about.config}`, `${about.law} law`,
      `${about.period_ms} ms a cycle`].filter(Boolean).join(" · "));
    const over = about.origin === "live" && !run.goesOn;
    if (this.again.hidden === over) this.again.hidden = !over;
    if (over) setText(this.again, `This run is over. To see it again: twin dashboard ${about.run_dir}`);
  }

  isStale(linkUp) {
    const { run } = this;
    if (!run.goesOn) return false;
    return !linkUp || run.ageMs > Math.max(STALE_MS, STALE_PERIODS * run.about.period_ms);
  }

  /** The values at this time of the run. What is folded or out of sight is written when it is time for `all`. */
  showRecord(when, all, changed) {
    const { run } = this;
    const record = run.at(when.nowNs, when.aheadNs, changed);
    const isNewest = !run.newest.last || when.nowNs >= run.newest.last.time_ns;
    this.record = record;
    this.cards.show(record);
    if (all || this.shield.isSeen) this.shield.show(record);
    if (all || this.neural.isSeen) this.neural.show(run, record, isNewest);
    if (all || this.crystal.isSeen) this.crystal.show(run);
    setAttribute(this.root, "data-cycle", record ? String(record.cycle) : null);
    setAttribute(this.root, "data-time", record ? String(record.time_ns) : null);
  }

  /** The graphs that are seen, `all` of them, or only the `first` two, if they are due. `other` is the run beside this one, which some of them may draw too. */
  showGraphs(when, other, horizonNs, { all, first }, changed) {
    const frame = this.run.graphs(when.firstNs, when.lastNs, when.aheadNs, changed);
    const others = other && this.overlaid.size ? other.graphs(when.firstNs, when.lastNs, when.aheadNs, changed) : null;
    const key = [frame.lastNs, frame.times.length, when.firstNs, when.lastNs, when.nowNs, others?.lastNs].join(" ");
    const moved = this.shownKey !== key;
    // What is not due now is due later.
    if (all) this.shownKey = key;
    const heartless = this.heartbeat.why_(frame);
    this.heartbeat.nothing(heartless);
    this.expect();
    for (const graph of this.graphs) {
      if (!graph.visible || !(moved || graph.stale) || !(all || (first && (graph === this.heat || graph === this.use)))) continue;
      const sources = [{ name: this.run.about.name, frame }];
      if (others && this.overlaid.has(graph)) sources.push({ name: other.about.name, frame: others });
      graph.show(sources, { ...when, horizonNs: graph === this.heat ? horizonNs : 0 });
    }
    const { portrait } = this.heartbeat;
    if (all && portrait.visible && (moved || portrait.stale)) portrait.show(frame, when.firstNs, when.nowNs);
    if (this.shield.isSeen) this.shield.list(frame, when.firstNs, when.nowNs);
  }

  /** How far the forecast reaches, as long as it does not take up the graph. */
  horizonNs(when) {
    const ns = (this.run.about.forecast_ms ?? 0) * 1e6;
    return this.run.about.learns && ns && when.nowNs + ns > when.lastNs ? when.nowNs + ns - when.lastNs : 0;
  }

  expect() {
    const { about } = this.run;
    const { record } = this;
    const ns = (about.forecast_ms ?? 0) * 1e6;
    this.heat.ahead = [];
    if (!record || !ns) return;
    about.sensors.forEach(({ name }, place) => {
      const from = record[`${name}_worst_millicelsius`];
      const to = record[`${name}_forecast_millicelsius`];
      if (!known(from) || !known(to)) return;
      this.heat.ahead.push({
        fromX: record.time_ns / 1e9, fromY: from / 1e3, toX: (record.time_ns + ns) / 1e9, toY: to / 1e3,
        colour: COLOURS[place % COLOURS.length], mark: MARKS[place % MARKS.length],
        words: `${name} expected ${celsius(to)} °C at ${clock(record.time_ns + ns)}`,
      });
    });
  }

  /** Whether another run is beside it, whose lines may be drawn over these. */
  beside(on) {
    for (const graph of this.graphs) {
      graph.overlay.hidden = !on;
      if (!on && this.overlaid.delete(graph)) {
        setAttribute(graph.overlay, "aria-pressed", "false");
        graph.stale = true;
      }
    }
  }

  remove() {
    for (const panel of this.panels) panel.remove();
    for (const graph of [...this.graphs, this.heartbeat.portrait]) graph.remove();
    this.root.remove();
  }
}
