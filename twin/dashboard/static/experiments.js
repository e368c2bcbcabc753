// How far experiments are.

import { Meter } from "./cards.js";
import { el, setText } from "./dom.js";
import { count, known } from "./format.js";

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
      const all = one.jobs ?? one.total;
      row.meter.set(known(one.done) && all > 0 ? one.done / all : null);
      setText(row.figure, `${count(one.done)} of ${count(all)} runs${one.failed ? `, ${count(one.failed)} failed` : ""}, ${one.state ?? ""}`);
    }
  }
}
