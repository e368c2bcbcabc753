// How far experiments are: each, and each of its configurations.

import { Meter, Pill } from "./cards.js";
import { el, setAttribute, setText } from "./dom.js";
import { MISSING, count, known, number, span } from "./format.js";
import { STATES } from "./words.js";

const UNKNOWN = { word: "Unknown", shape: "unknown", tone: "calm" };

/** How much is done, how fast it goes, and how long it takes yet. */
function progress({ done, total, failed, state, jobs_per_second: rate, left_seconds: left }) {
  const parts = [`${count(done)} of ${count(total)} runs done`];
  if (known(failed)) parts.push(`${count(failed)} failed`);
  if (state === "running" && known(rate)) parts.push(`${number(rate, rate < 10 ? 2 : 0)} runs a second`);
  if (state === "running" && known(left)) parts.push(`${span(left * 1_000)} left`);
  return parts.join(", ");
}

/** What was chosen, or why nothing was. */
function choice({ state, golden, tie, why, directory }) {
  if (golden) return `Golden: ${golden}${Array.isArray(tie) && tie.length ? `, tied with ${tie.join(", ")}` : ""}.`;
  if (Array.isArray(tie) && tie.length) return `No golden configuration: ${tie.join(", ")} are tied.`;
  if (state === "ended") return why || `No golden configuration; ${directory}/golden.json says why.`;
  return state === "stopped" ? "It was stopped: the same twin experiment goes on with it, and chooses once all is done." : "Chosen once all is done.";
}

const full = ({ done, total }) => (known(done) && total > 0 ? done / total : null);

/** One experiment, and bars that stay where they are as its configurations go on. */
class Entry {
  constructor() {
    this.title = el("h4", "", {}, "");
    this.state = new Pill();
    this.where = el("p", "of", {}, "");
    this.meter = new Meter();
    this.figure = el("p", "", {}, "");
    this.chosen = el("p", "", {}, "");
    this.list = el("ul", "bars configurations");
    this.bars = [];
    this.root = el("section", "experiment", {}, el("div", "title", {}, this.title, this.state.root), this.where, this.meter.root,
      this.figure, this.chosen, this.list);
  }

  show(one) {
    setText(this.title, one.name ?? one.id);
    setAttribute(this.root, "aria-label", `${one.name ?? one.id} in ${one.directory}`);
    setText(this.where, [one.directory, one.scenario, known(one.ticks) ? `${count(one.ticks)} ticks a run` : ""].filter(Boolean).join(" · "));
    this.state.set(one.trouble ? { word: "Cannot be read", shape: "lost", tone: "bad" } : (STATES[one.state] ?? UNKNOWN));
    this.meter.set(full(one));
    setText(this.figure, one.trouble ?? progress(one));
    setText(this.chosen, one.trouble ? "" : choice(one));
    const each = one.configurations ?? [];
    while (this.bars.length > each.length) this.bars.pop().root.remove();
    while (this.bars.length < each.length) {
      const bar = { name: el("span", "name", {}, ""), meter: new Meter(), figure: el("b", "number", {}, MISSING) };
      bar.root = el("li", "", {}, bar.name, bar.meter.root, bar.figure);
      this.bars.push(bar);
      this.list.append(bar.root);
    }
    each.forEach((configuration, place) => {
      const bar = this.bars[place];
      setText(bar.name, configuration.name);
      bar.meter.set(full(configuration));
      const failed = known(configuration.failed) && configuration.failed ? `, ${count(configuration.failed)} failed` : "";
      setText(bar.figure, `${count(configuration.done)} of ${count(configuration.total)}${failed}`);
    });
  }
}

export class Experiments {
  constructor(root) {
    this.root = root;
    this.entries = new Map();
    root.append(el("h3", "", { id: "experiments-title" }, "Experiments"));
  }

  show(experiments) {
    this.root.hidden = experiments.length === 0;
    const there = new Set(experiments.map((one) => one.id));
    for (const [id, entry] of this.entries) {
      if (there.has(id)) continue;
      entry.root.remove();
      this.entries.delete(id);
    }
    for (const one of experiments) {
      let entry = this.entries.get(one.id);
      if (!entry) {
        entry = new Entry();
        this.entries.set(one.id, entry);
        this.root.append(entry.root);
      }
      entry.show(one);
    }
  }
}
