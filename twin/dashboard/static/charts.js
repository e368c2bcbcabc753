// Graphs: lines over the time of the run, with limits, what is expected, and where the page stands in time.
// What costs is drawing, so nothing is drawn that is not seen, and nothing is animated.

import { axis, timeAxis } from "./axes.js";
import { el, icon, setAttribute, setText, unique } from "./dom.js";
import { MISSING, clock, known } from "./format.js";
import { drawMark, over, palette } from "./marks.js";
import { after } from "./store.js";

const charts = new Set();

/** Colours are others. */
export function recolour() {
  for (const chart of charts) chart.recolour();
}

/** What is not seen is not drawn: `of` an element watched is told whether it is `visible`. */
export const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      target.of.visible = isIntersecting;
      if (isIntersecting) target.of.stale = true;
    }
  },
  // Behind the bars above and below nothing is seen.
  { rootMargin: "-50px 0px -50px 0px" },
);

/** Of the library's own additions those that are not used, which would be asked at every turn. */
const WITHOUT = { legend: false, title: false, subtitle: false, filler: false, decimation: false, colors: false };

/** The lower and the higher of two, either of which may be missing. */
const least = (one, other) => (one === undefined || other < one ? other : one);
const most = (one, other) => (one === undefined || other > one ? other : one);

/** A frame of one record of another, so that not all of it is worked out for one value. */
const record = (frame, place) => ({ column: (name) => [frame.value(name, place)] });

/** What is common to all graphs: a heading, a legend that has the values in it, and the canvas. */
class Graph {
  constructor({ title, className = "", note = "" }) {
    this.visible = false;
    this.stale = true;
    this.limits = [];
    this.ahead = [];
    this.cursor = null;
    const id = unique("graph");
    this.legend = el("ul", "legend");
    this.canvas = el("canvas", "", { role: "img", "aria-label": title, tabindex: "-1" });
    this.canvas.of = this;
    this.empty = el("p", "empty", { hidden: true });
    this.tools = el("span", "tools");
    this.root = el("figure", `graph ${className}`, { "aria-labelledby": id },
      el("figcaption", "", {}, el("h4", "", { id }, title), note ? el("span", "note", {}, note) : "", this.tools),
      this.legend, el("div", "canvas", {}, this.canvas, this.empty));
    this.title = title;
    this.chart = null;
    charts.add(this);
    seen.observe(this.canvas);
  }

  /** Say why there is nothing, or (empty) that there is something. */
  nothing(why) {
    setText(this.empty, why);
    if (this.empty.hidden === Boolean(why)) this.empty.hidden = !why;
    if (this.canvas.hidden !== Boolean(why)) this.canvas.hidden = Boolean(why);
  }

  remove() {
    charts.delete(this);
    seen.unobserve(this.canvas);
    if (this.chart) {
      // A change of size that waits would draw what is no more.
      Object.assign(this.chart, { update: () => null, resize: () => null });
      this.chart.destroy();
    }
    this.root.remove();
  }
}

/**
 * Lines over time. `series` are `{key, name, colour, mark, axis, words, of(frame)}`: `of` gives values by place, and
 * `words` says one of them for people.
 */
export class TimeGraph extends Graph {
  constructor({ title, series, y, y1, className, note }) {
    super({ title, className, note });
    this.series = series;
    this.y = y;
    this.y1 = y1;
    this.entries = series.map((one) => this.entry(one, false));
    this.legend.append(...this.entries.map((entry) => entry.root));
    this.others = [];
  }

  entry(one, hollow) {
    const key = el("canvas", "key", { width: 44, height: 20, "aria-hidden": "true" });
    const value = el("b", "value", {}, MISSING);
    const root = el("li", "", {}, key, el("span", "", {}, one.name), value);
    return { root, key, value, one, hollow };
  }

  build() {
    const scales = {
      x: timeAxis(),
      y: axis("left", this.y),
    };
    if (this.y1) scales.y1 = axis("right", { ...this.y1, grid: false });
    this.chart = new Chart(this.canvas, {
      type: "line",
      data: { datasets: [] },
      plugins: [over],
      options: {
        animation: false,
        parsing: false,
        normalized: true,
        responsive: true,
        maintainAspectRatio: false,
        resizeDelay: 100,
        layout: { padding: { top: 6, right: this.y1 ? 0 : 8 } },
        interaction: { mode: "index", intersect: false, axis: "x" },
        elements: { line: { borderWidth: 1.8, tension: 0 }, point: { radius: 0, hitRadius: 0, hoverRadius: 3 } },
        scales,
        plugins: {
          ...WITHOUT,
          tooltip: {
            displayColors: false,
            callbacks: {
              title: (items) => clock(items[0].parsed.x * 1e9),
              label: (item) => `${item.dataset.label}: ${item.dataset.words(item.parsed.y)}`,
            },
          },
        },
      },
    });
    this.chart.graph = this;
    this.recolour();
  }

  recolour() {
    this.stale = true;
    for (const entry of [...this.entries, ...this.others]) {
      const context = entry.key.getContext("2d");
      const colour = palette[entry.one.colour];
      context.setTransform(2, 0, 0, 2, 0, 0);
      context.clearRect(0, 0, 22, 10);
      context.strokeStyle = colour;
      context.lineWidth = 1.8;
      context.setLineDash(entry.hollow ? [5, 3] : []);
      context.beginPath();
      context.moveTo(0, 5);
      context.lineTo(22, 5);
      context.stroke();
      context.setLineDash([]);
      if (entry.one.mark) drawMark(context, entry.one.mark, 11, 5, 3, colour, entry.hollow);
    }
    if (!this.chart) return;
    const { scales } = this.chart.options;
    for (const scale of Object.values(scales)) {
      scale.ticks.color = palette.muted;
      scale.grid.color = palette.grid;
    }
    const { tooltip } = this.chart.options.plugins;
    Object.assign(tooltip, { backgroundColor: palette.ink, titleColor: palette.surface, bodyColor: palette.surface });
    for (const set of this.chart.data.datasets) set.borderColor = palette[set.colour];
  }

  /**
   * Show these sources, `{name, frame}`, from `firstNs` to `lastNs`; values in the legend are those at `nowNs`. The
   * second source, if there is one, is the other run's, drawn with broken lines and hollow marks.
   */
  show(sources, { firstNs, lastNs, nowNs, cursor, horizonNs = 0, twin = null }) {
    if (!this.chart) this.build();
    this.fit(sources);
    const { datasets } = this.chart.data;
    sources.forEach(({ frame }, source) => {
      const low = Math.max(0, after(frame.times, firstNs - 1) - 1);
      const high = Math.min(frame.times.length, after(frame.times, lastNs) + 1);
      this.series.forEach((one, place) => {
        const values = one.of(frame);
        const { data } = datasets[source * this.series.length + place];
        for (let i = low; i < high; i += 1) {
          const value = values[i];
          const point = (data[i - low] ??= { x: 0, y: 0 });
          point.x = frame.times[i] / 1e9;
          point.y = known(value) ? value : NaN;
        }
        data.length = Math.max(0, high - low);
      });
    });
    this.cursor = cursor ? nowNs / 1e9 : null;
    const { x } = this.chart.options.scales;
    for (const [name, own] of [["y", this.y], ["y1", this.y1]]) {
      if (!own) continue;
      // One axis for the same graph of the run beside it, too.
      const beside = twin?.[name] ?? {};
      Object.assign(this.chart.options.scales[name], { suggestedMin: least(own.low, beside.low), suggestedMax: most(own.high, beside.high) });
    }
    x.min = firstNs / 1e9;
    x.max = (lastNs + horizonNs) / 1e9;
    this.chart.update("none");
    this.stale = false;
    this.tell(sources, { firstNs, nowNs });
  }

  /** How far each axis reaches for this stretch of a run, for the same graph of the run beside it. */
  extent(frame, firstNs, lastNs) {
    const found = { y: { low: this.y.low, high: this.y.high }, y1: { low: this.y1?.low, high: this.y1?.high } };
    const from = Math.max(0, after(frame.times, firstNs - 1) - 1);
    const to = Math.min(frame.times.length, after(frame.times, lastNs) + 1);
    for (const one of this.series) {
      const reach = found[one.axis ?? "y"];
      for (const value of one.of(frame).slice(from, to)) {
        if (!known(value)) continue;
        reach.low = least(reach.low, value);
        reach.high = most(reach.high, value);
      }
    }
    return found;
  }

  /** The values at `nowNs` in words, whether or not the graph is seen: who listens, searches or prints reads them. */
  tell(sources, { firstNs, nowNs }) {
    sources.forEach(({ frame, absent }, source) => {
      const now = absent ? -1 : after(frame.times, nowNs) - 1;
      const entries = source ? this.others : this.entries;
      const here = record(frame, now);
      entries.forEach(({ value, one }) => setText(value, now < 0 ? MISSING : one.words(one.of(here)[0])));
    });
    this.describe(firstNs, nowNs);
  }

  fit(sources) {
    const { datasets } = this.chart.data;
    const wanted = sources.length * this.series.length;
    const names = sources.map((source) => source.name).join("\n");
    if (datasets.length === wanted && this.names === names) return;
    this.names = names;
    for (const entry of this.others.splice(0)) entry.root.remove();
    datasets.length = 0;
    sources.forEach((source, number) => {
      for (const one of this.series) {
        datasets.push({
          label: sources.length > 1 ? `${one.name}, ${source.name}` : one.name,
          data: [], words: one.words, mark: one.mark, hollow: number > 0, colour: one.colour,
          borderColor: palette[one.colour], borderDash: number ? [6, 4] : [], yAxisID: one.axis ?? "y",
        });
      }
      if (number) {
        this.others = this.series.map((one) => this.entry({ ...one, name: `${one.name}, ${source.name}` }, true));
        this.legend.append(...this.others.map((entry) => entry.root));
      }
    });
    this.recolour();
  }

  /** What is seen, in words, for who does not see it. */
  describe(firstNs, nowNs) {
    const parts = [...this.entries, ...this.others].map((entry) => `${entry.one.name} ${entry.value.textContent}`);
    const ahead = this.ahead.map(({ words }) => words);
    setAttribute(this.canvas, "aria-label",
      `${this.title} from ${clock(firstNs)} to ${clock(nowNs)} of the run: ${[...parts, ...ahead].join("; ")}.`);
  }
}

/** One quantity against another, the newest point marked: where a loop goes round is seen as a ring. */
export class Portrait extends Graph {
  constructor({ title, x, y, colour, note }) {
    super({ title, note });
    this.x = x;
    this.yOf = y;
    this.colour = colour;
    this.legend.append(el("li", "", {}, icon("linked"), el("span", "", {}, `${x.name} across, ${y.name} up`)));
  }

  build() {
    this.chart = new Chart(this.canvas, {
      type: "line",
      data: { datasets: [{ data: [], borderWidth: 1, pointRadius: 1.6 }, { data: [], pointRadius: 5, pointStyle: "rect" }] },
      options: {
        animation: false, parsing: false, responsive: true, maintainAspectRatio: false, resizeDelay: 100, events: [],
        layout: { padding: { top: 6, right: 18 } },
        scales: { x: axis("bottom", this.x), y: axis("left", this.yOf) },
        plugins: { ...WITHOUT, tooltip: false },
      },
    });
    this.recolour();
  }

  recolour() {
    this.stale = true;
    if (!this.chart) return;
    for (const scale of Object.values(this.chart.options.scales)) {
      scale.ticks.color = palette.muted;
      scale.grid.color = palette.grid;
    }
    const [course, last] = this.chart.data.datasets;
    Object.assign(course, { borderColor: palette[this.colour], backgroundColor: palette[this.colour] });
    Object.assign(last, { borderColor: palette.surface, backgroundColor: palette.ink });
  }

  /** The newest point in words, whether or not it is seen. */
  tell(frame, nowNs, absent) {
    const now = absent ? -1 : after(frame.times, nowNs) - 1;
    const here = record(frame, now);
    const said = (one) => one.said(now < 0 ? null : one.of(here)[0]);
    setAttribute(this.canvas, "aria-label", `${this.title}: ${this.x.name} ${said(this.x)}, ${this.yOf.name} ${said(this.yOf)} now.`);
  }

  extent(frame, firstNs, nowNs) {
    const found = { low: this.yOf.low, high: this.yOf.high };
    for (const value of this.yOf.of(frame).slice(after(frame.times, firstNs - 1), after(frame.times, nowNs))) {
      if (!known(value)) continue;
      found.low = least(found.low, value);
      found.high = most(found.high, value);
    }
    return found;
  }

  show(frame, firstNs, nowNs, twin = {}) {
    if (!this.chart) this.build();
    const { y } = this.chart.options.scales;
    Object.assign(y, { suggestedMin: least(this.yOf.low, twin.low), suggestedMax: most(this.yOf.high, twin.high) });
    const [course, last] = this.chart.data.datasets;
    const xs = this.x.of(frame);
    const ys = this.yOf.of(frame);
    let length = 0;
    const low = after(frame.times, firstNs - 1);
    const high = after(frame.times, nowNs);
    for (let i = low; i < high; i += 1) {
      if (!known(xs[i]) || !known(ys[i])) continue;
      const point = (course.data[length] ??= { x: 0, y: 0 });
      point.x = xs[i];
      point.y = ys[i];
      length += 1;
    }
    course.data.length = length;
    last.data = length ? [course.data[length - 1]] : [];
    this.chart.update("none");
    this.stale = false;
  }
}

Chart.defaults.font.family = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';
Chart.defaults.font.size = 11;
