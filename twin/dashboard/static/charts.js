// Graphs: lines over the time of the run, with limits, what is expected, and where the page stands in time.
// What costs is drawing, so nothing is drawn that is not seen, and nothing is animated.

import { el, icon, setAttribute, setText, unique } from "./dom.js";
import { MISSING, clock, known } from "./format.js";
import { after } from "./store.js";

export const COLOURS = ["blue", "vermillion", "green", "purple", "orange", "black", "sky", "yellow"];
export const MARKS = ["circle", "square", "triangle", "diamond", "down", "plus", "cross", "bar"];
const AXIS_WIDTH = 46;

const palette = {};

/** Read the colours anew: a canvas does not follow the style sheet by itself. */
export function readColours() {
  const probe = el("span", "probe");
  document.body.append(probe);
  for (const name of [...COLOURS, "ink", "muted", "grid", "surface", "bad"]) {
    probe.style.color = `var(--${name})`;
    palette[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  for (const chart of charts) chart.recolour();
}

const charts = new Set();

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

/** One of the eight marks around a point, hollow for what is not measured. */
export function drawMark(context, mark, x, y, size, colour, hollow = false) {
  context.beginPath();
  if (mark === "circle") context.arc(x, y, size, 0, 2 * Math.PI);
  else if (mark === "square") context.rect(x - size * 0.9, y - size * 0.9, size * 1.8, size * 1.8);
  else if (mark === "triangle" || mark === "down") {
    const up = mark === "triangle" ? 1 : -1;
    context.moveTo(x, y - up * size * 1.2);
    context.lineTo(x + size * 1.15, y + up * size * 0.8);
    context.lineTo(x - size * 1.15, y + up * size * 0.8);
    context.closePath();
  } else if (mark === "diamond") {
    context.moveTo(x, y - size * 1.3);
    context.lineTo(x + size * 1.3, y);
    context.lineTo(x, y + size * 1.3);
    context.lineTo(x - size * 1.3, y);
    context.closePath();
  } else {
    const slant = mark === "cross" ? 0.75 : 0;
    context.moveTo(x - size, y - size * slant);
    context.lineTo(x + size, y + size * slant);
    if (mark !== "bar") {
      context.moveTo(x - size * slant, y + size);
      context.lineTo(x + size * slant, y - size);
    }
    context.strokeStyle = colour;
    context.lineWidth = 2;
    context.stroke();
    return;
  }
  context.lineWidth = 1.5;
  context.strokeStyle = colour;
  context.fillStyle = hollow ? palette.surface : colour;
  context.fill();
  context.stroke();
}

/** Limits, marks on the lines, what is expected, and the place in time: drawn over the lines. */
const over = {
  id: "over",
  afterDatasetsDraw(chart) {
    const { graph, ctx: context, chartArea: area, scales } = chart;
    if (!area || !graph) return;
    context.save();
    context.beginPath();
    context.rect(area.left, area.top - 6, area.right - area.left, area.bottom - area.top + 6);
    context.clip();
    context.font = `11px ${Chart.defaults.font.family}`;
    graph.limits.forEach((limit, place) => drawLimit(context, area, scales, limit, place));
    chart.data.datasets.forEach((set, place) => {
      if (chart.isDatasetVisible(place)) drawMarks(context, chart.getDatasetMeta(place), set);
    });
    for (const ahead of graph.ahead) drawAhead(context, scales, ahead);
    if (known(graph.cursor)) {
      const x = scales.x.getPixelForValue(graph.cursor);
      context.strokeStyle = palette.ink;
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(x, area.top);
      context.lineTo(x, area.bottom);
      context.stroke();
    }
    context.restore();
  },
};

function drawLimit(context, area, scales, { value, colour, words, axis = "y" }, place) {
  const y = Math.round(scales[axis].getPixelForValue(value)) + 0.5;
  if (y < area.top - 1 || y > area.bottom + 1) return;
  context.strokeStyle = palette[colour];
  context.lineWidth = 1;
  context.setLineDash([10, 3, 2, 3]);
  context.beginPath();
  context.moveTo(area.left, y);
  context.lineTo(area.right, y);
  context.stroke();
  context.setLineDash([]);
  context.fillStyle = palette[colour];
  context.textAlign = "left";
  context.textBaseline = "bottom";
  // Limits may lie close to each other, so their words stand side by side.
  const x = area.left + 6 + 138 * place;
  context.strokeStyle = palette.surface;
  context.lineWidth = 3;
  context.lineJoin = "round";
  context.strokeText(words, x, y - 1);
  context.fillText(words, x, y - 1);
}

function drawMarks(context, meta, set) {
  const points = meta.data;
  if (!set.mark || !points.length) return;
  // A mark every 90 pixels or so, where nothing is missing, and always on the same records, so that none wanders.
  const scale = meta.xScale;
  const step = ((scale.max - scale.min) * 90) / Math.max(90, scale.width);
  let before = null;
  for (let i = 0; i < points.length; i += 1) {
    const part = Math.floor(set.data[i].x / step);
    if (points[i].skip || part === before) continue;
    if (before !== null) drawMark(context, set.mark, points[i].x, points[i].y, 3.2, set.borderColor, set.hollow);
    before = part;
  }
}

function drawAhead(context, scales, { fromX, fromY, toX, toY, colour, mark }) {
  const x = scales.x.getPixelForValue(toX);
  const y = scales.y.getPixelForValue(toY);
  context.strokeStyle = palette[colour];
  context.lineWidth = 1.8;
  context.setLineDash([4, 4]);
  context.beginPath();
  context.moveTo(scales.x.getPixelForValue(fromX), scales.y.getPixelForValue(fromY));
  context.lineTo(x, y);
  context.stroke();
  context.setLineDash([]);
  drawMark(context, mark, x - 5, y, 3.4, palette[colour], true);
}

/** A number on an axis, in few letters. */
function short(value, digits) {
  for (const [size, scale, letter] of [[1e6, 1e6, " M"], [1e4, 1e3, " k"]]) {
    if (Math.abs(value) >= size) return `${Number((value / scale).toFixed(1))}${letter}`;
  }
  return `${Number(value.toFixed(digits + 1))}`.replace("-", "−");
}

const STEPS_SECONDS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400];

/** The step between ticks, where there is room for so many of them. */
function step(span, most, isTime) {
  const least = span / Math.max(1, most);
  if (isTime) return STEPS_SECONDS.find((one) => one >= least) ?? Math.ceil(least / 86_400) * 86_400;
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((one) => one * power >= least * 0.999);
}

/**
 * An axis of a size that is known beforehand: numbers are not measured each time, and nothing moves when they get
 * longer. With `ruler.ends` it reaches to full steps, else its ends are those that it is given.
 */
class Ruler extends Chart.LinearScale {
  determineDataLimits() {
    const { min, max } = this.getMinMax(true);
    const { ruler, min: least, max: most, suggestedMin, suggestedMax } = this.options;
    let low = Math.min(Number.isFinite(min) ? min : Infinity, suggestedMin ?? Infinity);
    let high = Math.max(Number.isFinite(max) ? max : -Infinity, suggestedMax ?? -Infinity);
    if (!Number.isFinite(low)) low = 0;
    if (!(high > low)) high = low + 1;
    if (ruler.ends) {
      const each = step(high - low, ruler.most, false);
      low = Math.floor(low / each + 1e-6) * each;
      high = Math.ceil(high / each - 1e-6) * each;
    }
    this.min = least ?? low;
    this.max = most ?? high;
  }

  buildTicks() {
    const { ruler } = this.options;
    const room = this.isHorizontal() ? this.chart.width / 74 : ruler.most;
    const each = step(this.max - this.min, Math.min(ruler.most, room), ruler.time);
    const ticks = [];
    for (let i = Math.ceil(this.min / each - 1e-6); i * each <= this.max + each * 1e-6; i += 1) ticks.push({ value: i * each });
    return ticks;
  }

  fit() {
    if (this.isHorizontal()) {
      this.width = this.maxWidth;
      this.height = 22;
    } else {
      this.width = AXIS_WIDTH;
      this.height = this.maxHeight;
    }
    this.paddingTop = 0;
    this.paddingBottom = 0;
    this.paddingLeft = 0;
    this.paddingRight = 0;
  }

  _getLabelSizes() {
    return SIZES;
  }
}

Ruler.id = "ruler";
Ruler.defaults = Chart.LinearScale.defaults;
const SIZE = { width: 24, height: 11 };
const SIZES = { first: SIZE, last: SIZE, widest: SIZE, highest: SIZE, widths: [], heights: [] };
Chart.register(Ruler);

/** The settings of an axis of numbers. */
function axis(side, { low, high, digits = 0, words = "", grid = true, most = 6 }) {
  return {
    type: "ruler",
    ruler: { ends: true, most },
    position: side,
    suggestedMin: low,
    suggestedMax: high,
    border: { display: false },
    grid: { drawOnChartArea: grid, drawTicks: false },
    ticks: { autoSkip: false, minRotation: 0, maxRotation: 0, padding: 6, callback: (value) => `${short(value, digits)}${words}` },
  };
}

/** The settings of an axis of the run's time, in seconds. */
const timeAxis = () => ({
  type: "ruler",
  ruler: { ends: false, most: 8, time: true },
  grid: { display: false },
  ticks: { autoSkip: false, minRotation: 0, maxRotation: 0, callback: (value) => clock(value * 1e9, value % 1 ? 1 : 0) },
});

/** Of the library's own additions those that are not used, which would be asked at every turn. */
const WITHOUT = { legend: false, title: false, subtitle: false, filler: false, decimation: false, colors: false };

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
    this.saidAt = 0;
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
    this.chart?.destroy();
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
  show(sources, { firstNs, lastNs, nowNs, cursor, horizonNs = 0 }) {
    if (!this.chart) this.build();
    this.fit(sources);
    const { datasets } = this.chart.data;
    let some = false;
    sources.forEach(({ frame }, source) => {
      const low = Math.max(0, after(frame.times, firstNs - 1) - 1);
      const high = Math.min(frame.times.length, after(frame.times, lastNs) + 1);
      const now = after(frame.times, nowNs) - 1;
      this.series.forEach((one, place) => {
        const values = one.of(frame);
        const { data } = datasets[source * this.series.length + place];
        for (let i = low; i < high; i += 1) {
          const value = values[i];
          const point = (data[i - low] ??= { x: 0, y: 0 });
          point.x = frame.times[i] / 1e9;
          point.y = known(value) ? value : NaN;
          some ||= known(value);
        }
        data.length = Math.max(0, high - low);
        const entries = source ? this.others : this.entries;
        setText(entries[place].value, now < 0 ? MISSING : one.words(values[now] ?? null));
      });
    });
    this.cursor = cursor ? nowNs / 1e9 : null;
    const { x } = this.chart.options.scales;
    x.min = firstNs / 1e9;
    x.max = (lastNs + horizonNs) / 1e9;
    this.chart.update("none");
    this.describe(firstNs, nowNs);
    this.stale = false;
    return some;
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

  /** What is seen, in words, for who does not see it. Not at every update: nobody can listen that fast. */
  describe(firstNs, nowNs) {
    const now = performance.now();
    if (now - this.saidAt < 5_000) return;
    this.saidAt = now;
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
    this.legend.append(el("li", "", {}, icon("linked"), el("span", "", {}, `${x.name} across, ${y.name} upwards`)));
  }

  build() {
    this.chart = new Chart(this.canvas, {
      type: "line",
      data: { datasets: [{ data: [], borderWidth: 1, pointRadius: 1.6 }, { data: [], pointRadius: 5, pointStyle: "rect" }] },
      options: {
        animation: false, parsing: false, responsive: true, maintainAspectRatio: false, resizeDelay: 100, events: [],
        layout: { padding: { top: 6, right: 8 } },
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

  show(frame, firstNs, nowNs) {
    if (!this.chart) this.build();
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
    if (length) {
      const { x, y } = last.data[0];
      setAttribute(this.canvas, "aria-label",
        `${this.title}: ${this.x.name} ${this.x.said(x)}, ${this.yOf.name} ${this.yOf.said(y)} now.`);
    }
    return length > 0;
  }
}

Chart.defaults.font.family = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';
Chart.defaults.font.size = 11;
