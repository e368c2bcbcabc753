// How far experiments are.

import { Meter } from "./cards.js";
import { el, setText } from "./dom.js";
import { count, known, span } from "./format.js";

/** How far one is, in a line: what is left of a running one, what was chosen by an ended one. */
function progress({ done, total, state, left_seconds: left, golden, tie }) {
  const parts = [`${count(done)} of ${count(total)} runs`, state];
  if (known(left)) parts.push(`${span(left * 1_000)} left`);
  if (golden) parts.push(`${tie ? "a tie, " : ""}golden ${golden}`);
  return parts.filter(Boolean).join(", ");
}

export class Experiments {
  constructor(root) {
    this.root = root;
    this.rows = new Map();
    this.list = el("ul", "bars");
    root.append(el("h3", "", { id: "experiments-title" }, "Experiments"), this.list);
  }

  show(experiments) {
    this.root.hidden = experiments.length === 0;
    const there = new Set(experiments.map((one) => one.id));
    for (const [id, row] of this.rows) {
      if (there.has(id)) continue;
      row.root.remove();
      this.rows.delete(id);
    }
    for (const one of experiments) {
      let row = this.rows.get(one.id);
      if (!row) {
        row = { meter: new Meter(), figure: el("b", "number", {}, "") };
        row.root = el("li", "", {}, el("span", "name", {}, one.name ?? one.id), row.meter.root, row.figure);
        this.rows.set(one.id, row);
        this.list.append(row.root);
      }
      row.meter.set(known(one.done) && one.total > 0 ? one.done / one.total : null);
      setText(row.figure, one.trouble ?? progress(one));
    }
  }
}
