// Axes whose size does not hang on what stands at them.

import { clock } from "./format.js";
import { drawLabel } from "./marks.js";

const AXIS_WIDTH = 46;

/** A number on an axis, in few letters. */
function short(value, digits) {
  for (const [size, letter] of [[1e6, " M"], [1e3, " k"]]) {
    if (Math.abs(value) >= size) return `${Number((value / size).toFixed(1))}${letter}`;
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

  drawLabels() {
    const { ctx: context } = this;
    const { color } = this.options.ticks;
    const across = this.isHorizontal();
    const right = this.options.position === "right";
    this.ticks.forEach(({ label }, place) => {
      const at = this.getPixelForTick(place);
      if (across) drawLabel(context, label, color, at, this.top + 13, "center");
      else drawLabel(context, label, color, right ? this.left + 8 : this.right - 8, at, right ? "left" : "right");
    });
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
export function axis(side, { low, high, digits = 0, words = "", grid = true, most = 6 }) {
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
export const timeAxis = () => ({
  type: "ruler",
  ruler: { ends: false, most: 8, time: true },
  grid: { display: false },
  ticks: { autoSkip: false, minRotation: 0, maxRotation: 0, callback: (value) => clock(value * 1e9, value % 1 ? 1 : 0) },
});
