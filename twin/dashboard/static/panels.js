// The panels below the graphs: heartbeat, Crystal Core, the learner, the shield.

import { Badges, Meter, Pill, Value } from "./cards.js";
import { Portrait, TimeGraph, seen } from "./charts.js";
import { el, setAttribute, setClass, setText } from "./dom.js";
import { MISSING, arrows, bytes, channel, clock, count, known, micro, number } from "./format.js";
import { ACTIONS, fansOf, stands, troubles } from "./words.js";

const ONE_Q48 = 65_536;

/** A column divided, with gaps where it is missing. */
const scaled = (name, scale) => (frame) => frame.column(name).map((value) => (known(value) ? value / scale : null));

const hits = (frame) => {
  const all = frame.column("word_executions_delta");
  return frame.column("cache_hits_delta").map((value, i) => (known(value) && all[i] > 0 ? (100 * value) / all[i] : null));
};

const with_ = (digits, unit) => (value) => (known(value) ? `${number(value, digits)} ${unit}` : MISSING);

/** A panel that can be folded; `why` says in one line why there is nothing in it. */
class Panel {
  constructor(title, says) {
    this.why = el("p", "empty", { hidden: true });
    this.body = el("div", "body");
    this.root = el("details", "panel", { open: true },
      el("summary", "", {}, el("h3", "", {}, title), el("span", "says", {}, says)), this.why, this.body);
    this.visible = false;
    this.root.of = this;
    seen.observe(this.root);
  }

  nothing(why) {
    setText(this.why, why);
    if (this.why.hidden === Boolean(why)) this.why.hidden = !why;
    if (this.body.hidden !== Boolean(why)) this.body.hidden = Boolean(why);
    return Boolean(why);
  }

  /** Whether somebody could see what it shows. */
  get isSeen() {
    return this.visible && this.root.open;
  }

  remove() {
    seen.unobserve(this.root);
  }
}

function facts(pairs) {
  const list = el("dl", "facts");
  for (const [name, node] of pairs) list.append(el("div", "", {}, el("dt", "", {}, name), el("dd", "", {}, node)));
  return list;
}

export class Heartbeat extends Panel {
  constructor() {
    super("Heartbeat", "how the loops pace themselves by the word load: words offered, of the most there can be");
    const line = (name, colour, mark, of, words, axis) => ({ name, colour, mark, of, words, axis });
    const interval = scaled("tick_interval_ns", 1e6);
    const load = scaled("load_ppm", 1e4);
    this.graphs = [
      new TimeGraph({
        title: "Interval against word load", y: { low: 0, words: " ms", digits: 1 }, y1: { low: 0, high: 100, words: " %" },
        series: [line("interval", "blue", "circle", interval, with_(2, "ms")),
          line("word load", "orange", "square", load, with_(1, "%"), "y1")],
      }),
      new TimeGraph({
        title: "Window", y: { low: 0 },
        series: [line("words looked at", "purple", "diamond", scaled("window_width", 1), count)],
      }),
      new TimeGraph({
        title: "Heat of all words", y: { low: 0 },
        series: [line("executions", "vermillion", "triangle", scaled("heat_total_q48", ONE_Q48),
          (value) => number(value, 0))],
      }),
      new TimeGraph({
        title: "Cache hits", y: { low: 0, high: 100, words: " %" },
        series: [line("of executions", "green", "down", hits, with_(1, "%"))],
      }),
    ];
    this.portrait = new Portrait({
      title: "Phase portrait", colour: "blue",
      x: { name: "word load", of: load, said: with_(1, "%"), words: " %", low: 0, high: 100 },
      y: { name: "interval", of: interval, said: with_(2, "ms"), words: " ms", low: 0, digits: 1 },
    });
    this.body.append(el("div", "small-graphs", {}, ...this.graphs.map((graph) => graph.root), this.portrait.root));
  }

  why_(frame) {
    if (!frame.times.length) return "";
    return frame.column("tick_interval_ns").some(known) ? "" : "No tick is stored of this run: --ticks all keeps them.";
  }
}

export class Shield extends Panel {
  constructor(about) {
    super("Shield", "what it let pass, what it changed, and why");
    this.state = new Pill();
    this.about = about;
    this.reason = el("span", "text", {}, "");
    this.badges = new Badges(el("p", "badges"));
    this.fans = fansOf(about).map((fan) => ({ ...fan, node: el("span", "number", {}, MISSING) }));
    this.rows = about.outputs.map((output) => this.output(output));
    this.suspicion = el("span", "text", {}, "");
    this.unchecked = el("span", "text", {}, "");
    this.failed = el("span", "text", {}, "");
    this.changes = el("ol", "changes");
    this.none = el("p", "of", {}, "None in what the graphs show.");
    this.body.append(
      el("div", "lead", {}, this.state.root, this.badges.root, this.reason),
      el("div", "scroll", { tabindex: "0", role: "region", "aria-label": "Commands" }, el("table", "outputs", {},
        el("thead", "", {}, el("tr", "", {}, ...["Output", "Asked", "Commanded", "Applied", "Of its range"].map(
          (name) => el("th", "", { scope: "col" }, name)))),
        el("tbody", "", {}, ...this.rows.map((row) => row.root)))),
      facts([...this.fans.map(({ name, node }) => [`${name} fan`, node]), ["Suspected", this.suspicion], ["Cannot be checked", this.unchecked], ["Not applied", this.failed]]),
      el("h4", "", {}, "Latest changes"), this.none, this.changes);
  }

  output({ name, least, most }) {
    const said = channel(name);
    const cells = ["asked", "command", "applied"].map((column) => ({ column: `${name}_${column}`, node: el("td", "number", {}, MISSING) }));
    const meter = new Meter();
    const root = el("tr", "", {}, el("th", "", { scope: "row" }, said.words), ...cells.map((cell) => cell.node),
      el("td", "", {}, meter.root));
    return { root, cells, meter, said, least, most };
  }

  show(record) {
    const changed = record?.shield_changed ?? "";
    const amiss = troubles(this.about, record);
    const failsafe = record?.source === "failsafe";
    if (failsafe) this.state.set({ word: "Failsafe: full cooling, safe caps", shape: "over", tone: "bad" });
    else if (changed) {
      const many = changed.split("; ").length;
      this.state.set({ word: `Changed ${many} ${many > 1 ? "outputs" : "output"}`, shape: "warm", tone: "warn" });
    } else this.state.set({ word: record ? "Passed as asked" : MISSING, shape: record ? "good" : "unknown", tone: record && !amiss.length ? "good" : "calm" });
    setText(this.reason, failsafe ? record.reason : arrows(changed));
    for (const { cells, meter, said, least, most } of this.rows) {
      for (const { column, node } of cells) setText(node, said.value(record?.[column]));
      const asked = record?.[cells[0].column];
      const given = record?.[cells[1].column];
      setClass(cells[1].node, "changed", known(asked) && known(given) && asked !== given);
      meter.set(known(given) && most > least ? (given - least) / (most - least) : null);
    }
    for (const fan of this.fans) {
      const rpm = record?.[fan.column];
      setText(fan.node, known(rpm) ? `${number(rpm)} rpm` : MISSING);
      setClass(fan.node, "changed", stands(record, fan));
    }
    setAttribute(this.badges.root, "data-many", String(amiss.length));
    this.badges.set(amiss);
    const nothing = record ? "nothing" : MISSING;
    setText(this.suspicion, record?.suspicion || nothing);
    setText(this.unchecked, record?.unchecked || nothing);
    setText(this.failed, record?.apply_failed || nothing);
  }

  /** The latest changes of its mind in this frame, newest first: the first cycle of each alike. */
  list(frame, firstNs, nowNs) {
    const changes = frame.column("shield_changed");
    const sources = frame.column("source");
    const reasons = frame.column("reason");
    const found = [];
    for (let i = frame.times.length - 1; i >= 0 && frame.times[i] >= firstNs && found.length < 6; i -= 1) {
      if (frame.times[i] > nowNs) continue;
      const what = sources[i] === "failsafe" ? `Failsafe: ${reasons[i]}` : arrows(changes[i] ?? "");
      const before = i > 0 ? (sources[i - 1] === "failsafe" ? `Failsafe: ${reasons[i - 1]}` : arrows(changes[i - 1] ?? "")) : "";
      if (what && what !== before) found.push([clock(frame.times[i]), what]);
    }
    const key = JSON.stringify(found);
    if (this.listed === key) return;
    this.listed = key;
    this.none.hidden = found.length > 0;
    this.changes.replaceChildren(...found.map(([when, what]) => el("li", "", {}, el("b", "number", {}, when), el("span", "", {}, what))));
  }
}

export class Neural extends Panel {
  constructor() {
    super("Learner", "what it proposes, and how far it is trusted");
    this.proposed = el("span", "action", {}, MISSING);
    this.followed = el("span", "of", {}, "");
    this.levels = [0, 10, 50, 100].map((level) => ({ level, node: el("li", "", {}, `${level} %`) }));
    this.note = el("span", "text", {}, "");
    this.reward = new Value("");
    this.anomaly = new Value("of the alarm");
    this.weights = el("code", "digest", {}, MISSING);
    this.bars = new Map();
    this.q = el("ul", "bars");
    this.noQ = el("p", "of", {}, "");
    this.losses = el("dl", "facts");
    this.graph = new TimeGraph({
      title: "Anomaly score and reward", y: { low: 0, digits: 1 },
      series: [
        { name: "anomaly, 1 is the alarm", colour: "purple", mark: "diamond", of: scaled("anomaly_micro", 1e6), words: (value) => number(value, 2) },
        { name: "reward", colour: "green", mark: "circle", of: scaled("reward_micro", 1e6), words: (value) => number(value, 2) },
      ],
    });
    this.graph.limits = [{ value: 1, colour: "muted", words: "alarm" }];
    this.body.append(
      el("div", "lead", {}, this.proposed, this.followed),
      facts([
        ["Authority", el("ol", "steps", {}, ...this.levels.map(({ node }) => node))], ["Why", this.note],
        ["Reward", this.reward.root], ["Anomaly", this.anomaly.root], ["Weights", this.weights],
      ]),
      el("h4", "", {}, "Q-values"), this.noQ, this.q, el("h4", "losses-title", {}, "Losses"), this.losses, this.graph.root);
  }

  show(run, record, isNewest) {
    if (this.nothing(run.about.learns ? "" : "This run has no learner: twin run --neural gives it one.")) return;
    setText(this.proposed, record?.proposed || MISSING);
    const followed = record && record.executed === record.proposed;
    setText(this.followed, record ? (followed ? `${ACTIONS[record.proposed] ?? ""}, as the baseline does`.replace(/^, /, "")
      : `proposed; executed was ${record.executed || MISSING}`) : "");
    if (followed) setText(this.followed, `proposed and executed: ${ACTIONS[record.proposed] ?? ""}`);
    for (const { level, node } of this.levels) {
      setAttribute(node, "aria-current", record?.authority_percent === level ? "true" : null);
    }
    setText(this.note, record?.learner_note || "nothing against it");
    this.reward.set(micro(record?.reward_micro), "the first cycle has none");
    this.anomaly.set(micro(record?.anomaly_micro), "the eye has not seen enough yet");
    setText(this.weights, record?.weights ? `${record.weights.slice(0, 16)}…` : MISSING);
    setAttribute(this.weights, "title", record?.weights || null);
    this.thinks(isNewest ? run.insight : null, isNewest);
  }

  thinks(insight, isNewest) {
    const values = Object.entries(insight?.q_values ?? {});
    setText(this.noQ, values.length ? "" : isNewest ? "Not told by what is recorded; a run that goes on, or is replayed, tells them."
      : "Told for the newest record only.");
    this.noQ.hidden = values.length > 0;
    this.q.hidden = values.length === 0;
    const most = Math.max(1e-9, ...values.map(([, value]) => Math.abs(value)));
    const best = Math.max(...values.map(([, value]) => value));
    for (const [name, value] of values) {
      let bar = this.bars.get(name);
      if (!bar) {
        bar = { fill: el("span", "fill"), figure: el("b", "number", {}, "") };
        bar.root = el("li", "", {}, el("span", "name", {}, name), el("span", "zero", { "aria-hidden": "true" }, bar.fill), bar.figure);
        this.bars.set(name, bar);
        this.q.append(bar.root);
      }
      const share = Math.round((value / most) * 200) / 200;
      if (bar.share !== share) {
        bar.share = share;
        bar.fill.style.transform = `scaleX(${share})`;
      }
      setText(bar.figure, `${number(value, 3)}${value === best ? " ◂" : ""}`);
      setClass(bar.root, "best", value === best);
    }
    const losses = Object.entries(insight?.losses ?? {});
    this.losses.hidden = losses.length === 0;
    this.losses.previousSibling.hidden = losses.length === 0;
    this.lossNodes ??= new Map();
    for (const [name, value] of losses) {
      let node = this.lossNodes.get(name);
      if (!node) {
        node = el("span", "number", {}, "");
        this.lossNodes.set(name, node);
        this.losses.append(el("div", "", {}, el("dt", "", {}, name.replaceAll("_", " ")), el("dd", "", {}, node)));
      }
      setText(node, known(value) ? value.toPrecision(3) : MISSING);
    }
  }
}

const TIERS = [["HOT", "vermillion"], ["WARM", "orange"], ["COLD", "sky"], ["FROZEN", "blue"]];
const SHADES = " .:-=+*#%@";

export class Crystal extends Panel {
  constructor() {
    super("Crystal Core", "the pool of words in memory");
    this.tiers = TIERS.map(([name]) => {
      const meter = new Meter();
      const figure = el("b", "number", {}, MISSING);
      return { name, meter, figure, root: el("li", `tier-${name.toLowerCase()}`, {}, el("span", "name", {}, name.toLowerCase()), meter.root, figure) };
    });
    this.fragmentation = new Value("%");
    this.accuracy = new Value("%");
    this.guesses = el("span", "of", {}, "");
    this.used = el("span", "number", {}, MISSING);
    this.cells = [];
    this.scale = el("p", "of", {}, "");
    this.map = el("div", "map", { role: "img" });
    this.body.append(
      facts([["Fragmentation", this.fragmentation.root], ["Prefetch accuracy", el("span", "", {}, this.accuracy.root, this.guesses)],
        ["Used, free", this.used]]),
      el("h4", "", {}, "Blocks by tier"), el("ul", "bars tiers", {}, ...this.tiers.map((tier) => tier.root)),
      el("h4", "", {}, "Block map"), this.map, this.scale);
  }

  show(run) {
    const { pool } = run;
    const gone = "The pool of a run is gone when it ends; twin run --crystal shows it while it goes on.";
    const none = "This run has no pool: twin run --crystal keeps its words in one.";
    const why = !run.goesOn ? gone : pool === undefined ? "Looking for its pool …" : none;
    if (this.nothing(pool ? "" : why)) return;
    const all = Object.values(pool.tiers ?? {}).reduce((sum, tier) => sum + tier.blocks, 0);
    for (const { name, meter, figure } of this.tiers) {
      const tier = pool.tiers?.[name];
      meter.set(tier && all ? tier.blocks / all : null);
      setText(figure, tier ? `${count(tier.blocks)} · ${bytes(tier.bytes)}` : MISSING);
    }
    this.fragmentation.set(known(pool.fragmentation) ? number(100 * pool.fragmentation, 1) : MISSING, "not known");
    this.accuracy.set(known(pool.guess_accuracy) ? number(100 * pool.guess_accuracy, 1) : MISSING, "nothing was foretold yet");
    setText(this.guesses, known(pool.guesses) ? ` of ${count(pool.guesses)} guesses` : "");
    setText(this.used, `${bytes(pool.used_bytes)}, ${bytes(pool.free_bytes)}`);
    const map = pool.map ?? "";
    setText(this.scale, map && known(pool.size_bytes) ? `Each square is ${bytes(pool.size_bytes / map.length)}: empty is free, full is taken.` : "");
    this.draw(map);
  }

  draw(map) {
    if (this.drawn === map) return;
    this.drawn = map;
    while (this.cells.length < map.length) this.cells.push(this.map.appendChild(el("i")));
    while (this.cells.length > map.length) this.cells.pop().remove();
    let taken = 0;
    for (let i = 0; i < map.length; i += 1) {
      const level = Math.max(0, SHADES.indexOf(map[i]));
      taken += level > 0;
      setAttribute(this.cells[i], "class", `level-${level}`);
    }
    setAttribute(this.map, "aria-label", `Block map: ${taken} of ${map.length} stretches hold something.`);
  }
}
