// What is drawn on canvases beside lines: colours, marks, limits, what is expected, and the place in time.

import { el } from "./dom.js";
import { known } from "./format.js";

export const COLOURS = ["blue", "vermillion", "green", "purple", "orange", "black", "sky", "yellow"];
export const MARKS = ["circle", "square", "triangle", "diamond", "down", "plus", "cross", "bar"];
export const palette = {};

/** Read the colours anew: a canvas does not follow the style sheet by itself. */
export function readColours() {
  const probe = el("span", "probe");
  document.body.append(probe);
  for (const name of [...COLOURS, "ink", "muted", "grid", "surface", "bad"]) {
    probe.style.color = `var(--${name})`;
    palette[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  written.clear();
}

const written = new Map();
const LABELS_KEPT = 300;
const LABEL_HEIGHT = 18;

/** A text as a picture: to write costs ten times what it takes to copy what was written before. */
function picture(text, colour) {
  const ratio = window.devicePixelRatio;
  const key = `${ratio} ${colour} ${text}`;
  let made = written.get(key);
  if (!made) {
    if (written.size >= LABELS_KEPT) written.clear();
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("2d");
    const font = `${Chart.defaults.font.size}px ${Chart.defaults.font.family}`;
    context.font = font;
    const width = Math.ceil(context.measureText(text).width) + 6;
    canvas.width = width * ratio;
    canvas.height = LABEL_HEIGHT * ratio;
    context.scale(ratio, ratio);
    context.font = font;
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.lineWidth = 3;
    context.strokeStyle = palette.surface;
    context.strokeText(text, 3, LABEL_HEIGHT / 2);
    context.fillStyle = colour;
    context.fillText(text, 3, LABEL_HEIGHT / 2);
    made = { canvas, width };
    written.set(key, made);
  }
  return made;
}

/** Write so that the text begins (`left`), ends (`right`) or has its middle (`center`) at a point. */
export function drawLabel(context, text, colour, x, y, align) {
  const { canvas, width } = picture(text, colour);
  const left = align === "left" ? x - 3 : align === "right" ? x - width + 3 : x - width / 2;
  context.drawImage(canvas, Math.round(left), Math.round(y - LABEL_HEIGHT / 2), width, LABEL_HEIGHT);
}

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
export const over = {
  id: "over",
  afterDatasetsDraw(chart) {
    const { graph, ctx: context, chartArea: area, scales } = chart;
    if (!area || !graph) return;
    context.save();
    context.beginPath();
    context.rect(area.left, area.top - 6, area.right - area.left, area.bottom - area.top + 6);
    context.clip();
    graph.limits.forEach((limit, place) => drawLimit(context, area, scales, limit, place, graph.limits.length));
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

function drawLimit(context, area, scales, { value, colour, words, axis = "y" }, place, many) {
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
  // Limits may lie close to each other, so their words stand side by side.
  const x = area.left + 6 + place * Math.min(130, (area.right - area.left) / many);
  drawLabel(context, words, palette[colour], x, y - 8, "left");
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

