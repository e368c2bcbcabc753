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

const UNHEARD = { word: "unknown", shape: "unknown", tone: "calm" };

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
    this.absent = el("span", "pill absent", { hidden: true, "data-tone": "warn" }, "");
    this.origin = el("span", "pill plain", {}, "");
    this.ageShape = icon("good");
    this.age = el("span", "", {}, "");
    this.ageRoot = el("span", "pill plain age", {}, this.ageShape, this.age);
    this.facts = el("p", "about", {}, "");
    this.exports = [this.link("csv"), this.link("json")];
    this.links = el("span", "links", {}, "Export ", this.exports[0], " ", this.exports[1]);
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
      this.head = el("header", "head", {}, this.title, this.state.root, this.absent, this.origin, this.ageRoot, this.spoken, this.facts, this.links),
      this.again, this.cards.root, el("div", "graphs", {}, this.heat.root, this.use.root),
      el("div", "panels", {}, ...this.panels.map((panel) => panel.root)));
  }

  link(format) {
    const link = el("a", "", { role: "link", download: `${this.run.about.name}.${format}` }, format.toUpperCase());
    link.from = exportAddress(this.run.id, format);
    setAttribute(link, "href", link.from);
    return link;
  }

  temperatures(about) {
    const forecast = about.learns ? about.forecast_ms : 0;
    const ahead = forecast ? `; dashed: the forecast, ${span(forecast)} ahead` : "";
    const graph = new TimeGraph({
      title: "Temperatures", className: "wide", note: `the hotter of reading and model${ahead}`, y: { words: " °C", low: 20, high: 60 },
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

  /** How high the head is by what stands in it. */
  get headHeight() {
    return this.links.getBoundingClientRect().bottom - this.head.getBoundingClientRect().top;
  }

  /** The state line: how the run stands, where its records come from, and how old they are. */
  showState(linkUp) {
    const { run } = this;
    const { about } = run;
    const unheard = run.goesOn && !linkUp;
    const state = unheard ? UNHEARD : (STATES[about.state] ?? { ...UNHEARD, word: about.state });
    this.state.set(state);
    setText(this.title, about.name);
    setText(this.origin, [ORIGINS[about.origin] ?? about.origin, about.backend].filter(Boolean).join(", "));
    this.reachable(linkUp);
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

  /** What cannot be fetched is no link. */
  reachable(on) {
    for (const link of this.exports) {
      setAttribute(link, "href", on ? link.from : null);
      setAttribute(link, "aria-disabled", on ? null : "true");
    }
  }

  isStale(linkUp) {
    const { run } = this;
    if (!run.goesOn) return false;
    return !linkUp || run.ageMs > Math.max(STALE_MS, STALE_PERIODS * run.about.period_ms);
  }

  /** The values at this time of the run, of what is folded or out of sight too: that can be listened to, found and printed. */
  showRecord(when, changed) {
    const { run } = this;
    const record = run.at(when.nowNs, when.aheadNs, changed);
    const absent = run.absent(when.nowNs);
    const isNewest = !absent && (!run.newest.last || when.nowNs >= run.newest.last.time_ns);
    this.record = record;
    setText(this.absent, absent);
    if (this.absent.hidden === Boolean(absent)) this.absent.hidden = !absent;
    setClass(this.root, "absent", Boolean(absent));
    this.cards.show(record, absent);
    this.shield.show(record);
    this.neural.show(run, record, isNewest);
    this.crystal.show(run);
    setAttribute(this.root, "data-cycle", record ? String(record.cycle) : null);
    setAttribute(this.root, "data-time", record ? String(record.time_ns) : null);
  }

  /** The graphs that are seen, `all` of them, or only the `first` two, if they are due. `beside` is the view of the run beside this one, which some of them may draw too. */
  showGraphs(when, beside, horizonNs, { all, first }, changed) {
    const frame = this.run.graphs(when.firstNs, when.lastNs, when.aheadNs, changed);
    const other = beside?.run ?? null;
    const others = other && other.graphs(when.firstNs, when.lastNs, when.aheadNs, changed);
    const key = [frame.lastNs, frame.times.length, when.firstNs, when.lastNs, when.nowNs, others?.lastNs, others?.times.length].join(" ");
    const moved = this.shownKey !== key;
    // What is not due now is due later.
    if (all) this.shownKey = key;
    const heartless = this.heartbeat.why_(frame);
    this.heartbeat.nothing(heartless);
    this.expect();
    const absent = this.run.absent(when.nowNs);
    for (const [place, graph] of this.graphs.entries()) {
      if (!(moved || graph.stale) || !(all || (first && (graph === this.heat || graph === this.use)))) continue;
      const sources = [{ name: this.run.about.name, frame, absent }];
      if (others && this.overlaid.has(graph)) sources.push({ name: other.about.name, frame: others, absent: other.absent(when.nowNs) });
      if (!graph.visible) graph.tell(sources, when);
      else graph.show(sources, { ...when, horizonNs: graph === this.heat ? horizonNs : 0, twin: beside?.graphs[place].extent(others, when.firstNs, when.lastNs) });
    }
    const { portrait } = this.heartbeat;
    if (all && (moved || portrait.stale)) {
      portrait.tell(frame, when.nowNs, absent);
      if (portrait.visible) portrait.show(frame, when.firstNs, when.nowNs, beside?.heartbeat.portrait.extent(others, when.firstNs, when.nowNs));
    }
    if (all) this.shield.list(frame, when.firstNs, when.nowNs);
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
