// The first row: what a newcomer reads in ten seconds.

import { el, icon, setAttribute, setClass, setIcon, setShare, setText } from "./dom.js";
import { MISSING, arrows, celsius, gigahertz, known, milliseconds, number, percent, perSecond, watts } from "./format.js";
import { ACTIONS, GAME_STATES, SOURCES, fansOf, heatState, stands, troubles, whyMissing } from "./words.js";

/** A value with its unit, which says why it is missing where it is. `shows` names what it is for whoever looks for it. */
export class Value {
  constructor(unit, className = "", shows = null) {
    this.figure = el("span", "figure", { "data-shows": shows }, MISSING);
    this.unit = el("span", "unit", {}, unit);
    this.root = el("span", `value ${className}`, {}, this.figure, this.unit);
  }

  set(text, why) {
    setText(this.figure, text);
    const missing = text === MISSING;
    setClass(this.root, "missing", missing);
    setAttribute(this.root, "title", missing ? why : null);
    setAttribute(this.figure, "role", missing ? "img" : null);
    setAttribute(this.figure, "aria-label", missing ? `not known: ${why}` : null);
  }
}

function card(title, pill, ...children) {
  return el("section", "card", { "aria-label": title },
    el("div", "title", {}, el("h3", "", {}, title), pill ? pill.root : ""), ...children);
}

/** A word with its shape; `tone` gives the colour, which is never alone. */
export class Pill {
  constructor() {
    this.shape = icon("unknown");
    this.word = el("span", "", {}, MISSING);
    this.root = el("span", "pill", {}, this.shape, this.word);
  }

  set({ word, shape, tone }) {
    setText(this.word, word);
    setIcon(this.shape, shape);
    setAttribute(this.root, "data-tone", tone);
  }
}

/** Pills after whatever stands in `root`, one for each thing that is amiss; those that are not needed are hidden. */
export class Badges {
  constructor(root) {
    this.root = root;
    this.pills = [];
  }

  set(amiss) {
    while (this.pills.length < amiss.length) {
      const pill = new Pill();
      this.pills.push(pill);
      this.root.append(pill.root);
    }
    this.pills.forEach((pill, place) => {
      if (pill.root.hidden !== place >= amiss.length) pill.root.hidden = place >= amiss.length;
      if (amiss[place]) pill.set(amiss[place]);
    });
  }
}

export class Meter {
  constructor() {
    this.bar = el("span", "fill");
    this.root = el("span", "meter", { "aria-hidden": "true" }, this.bar);
  }

  set(share) {
    setShare(this.bar, share);
  }
}

function row(name, value, more = "") {
  return el("div", "row", {}, el("span", "name", {}, name), value, more);
}

/** Draws its four cards from a record; `about` names the machine's sensors. */
export class Cards {
  constructor(about) {
    this.about = about;
    this.root = el("div", "cards");
    this.root.append(this.thermal(), this.resources(), this.power(), this.decisions());
  }

  thermal() {
    this.heat = new Pill();
    this.hottest = new Value("°C", "large", "hottest");
    this.hottestName = el("span", "of", {}, "");
    this.headroom = new Value("K", "", "headroom");
    this.headroomOf = el("span", "of", {}, "");
    this.toLimit = new Meter();
    this.actionNow = el("span", "text whole", {}, MISSING);
    this.fans = fansOf(this.about).map((fan) => ({ ...fan, value: new Value("", "", fan.column) }));
    this.badges = new Badges(el("span", "badges", {}, this.heat.root));
    this.warning = el("span", "text whole", { "data-shows": "warning" }, "");
    this.warningRow = row("Warning", this.warning);
    this.warningRow.hidden = true;
    return card("Thermal Status", this.badges, el("div", "lead", {}, this.hottest.root, this.hottestName),
      row("Headroom", el("span", "whole flow", {}, this.headroom.root, " ", this.headroomOf)), this.toLimit.root,
      this.fans.length ? row("Fans, rpm", el("span", "fans", {}, ...this.fans.map(({ name, value }) => el("span", "", {}, el("span", "of", {}, name), " ", value.root)))) : "",
      row("Action now", this.actionNow), this.warningRow);
  }

  resources() {
    const columns = [["CPU", "cpu_load_ppm"], ["GPU", "gpu_busy_ppm"], ["Memory", "memory_used_ppm"]];
    this.uses = columns.map(([name, column]) => {
      const value = new Value("%", "", column);
      const meter = new Meter();
      const more = el("span", "of", {}, "");
      return { value, meter, more, root: el("div", "use", {}, el("span", "name", {}, name), value.root, more, meter.root) };
    });
    return card("Resource Usage", null, ...this.uses.map((use) => use.root));
  }

  power() {
    this.total = new Value("", "large", "power");
    this.rate = new Value("", "large", "frame_rate_millihertz");
    this.cpuPower = new Value("W", "", "cpu_power_microwatts");
    this.gpuPower = new Value("W", "", "gpu_power_microwatts");
    this.latency = new Value("ms", "", "frame_latency_microseconds");
    return card("Power and Performance", null,
      el("div", "pair", {}, el("div", "", {}, this.total.root, el("span", "of", {}, "W, CPU and GPU")),
        el("div", "", {}, this.rate.root, el("span", "of", {}, "FPS"))),
      row("CPU, GPU", el("span", "two", {}, this.cpuPower.root, this.gpuPower.root)),
      row("Frame latency", this.latency.root));
  }

  decisions() {
    this.action = el("span", "action", { "data-shows": "action" }, MISSING);
    this.meaning = el("span", "of", {}, "");
    this.source = new Pill();
    this.reason = el("span", "text whole", { "data-shows": "reason" }, MISSING);
    this.authority = new Value("%", "", "authority_percent");
    this.note = el("span", "of", {}, "");
    this.game = el("span", "text", { "data-shows": "game_state_code" }, MISSING);
    return card("Decisions", this.source, el("div", "lead", {}, this.action, this.meaning),
      row("Authority", this.authority.root, this.note), row("Game", this.game),
      el("div", "row tall", {}, el("span", "name", {}, "Because"), this.reason));
  }

  /** `absent` says why there is no record at this time, where there is none. */
  show(record, absent = "") {
    this.absent = absent;
    this.showHeat(record);
    this.showTroubles(record);
    this.showUses(record);
    this.showPower(record);
    this.showDecision(record);
  }

  showHeat(record) {
    let hottest = null;
    let nearest = null;
    let unknown = this.about.sensors.length === 0;
    for (const { name, limit_millicelsius: limit } of this.about.sensors) {
      const temperature = record?.[`${name}_worst_millicelsius`];
      if (!known(temperature)) {
        unknown = true;
        continue;
      }
      if (!hottest || temperature > hottest.temperature) hottest = { name, temperature };
      if (!nearest || limit - temperature < nearest.headroom) {
        nearest = { name, limit, temperature, headroom: limit - temperature };
      }
    }
    const none = record ? "no temperature is believed" : whyMissing(record, "", this.absent);
    this.hottest.set(celsius(hottest?.temperature), none);
    const read = record?.[`${hottest?.name}_temp_millicelsius`];
    const byModel = known(read) && read < hottest?.temperature ? " by model" : "";
    setText(this.hottestName, hottest ? `hottest: ${hottest.name}${byModel}${known(read) ? `, reading ${celsius(read)}\u00a0°C` : ""}` : "");
    // One sensor that nobody believes may be the one that is too hot.
    const state = heatState(unknown && !(nearest?.headroom <= 0) ? null : nearest.headroom);
    // Nothing is in order where something is amiss, however cool it is.
    this.amiss = troubles(this.about, record);
    this.heat.set(state.tone === "good" && this.amiss.length ? { ...state, tone: "calm" } : state);
    this.headroom.set(celsius(nearest?.headroom), none);
    setText(this.headroomOf, nearest ? `(${nearest.name}, limit ${number(nearest.limit / 1_000)} °C)` : "");
    this.toLimit.set(nearest ? nearest.temperature / nearest.limit : null);
    setText(this.actionNow, record ? this.acts(record.action) : MISSING);
  }

  showTroubles(record) {
    for (const fan of this.fans) {
      fan.value.set(number(record?.[fan.column]), whyMissing(record, fan.column, this.absent));
      setClass(fan.value.root, "changed", stands(record, fan));
    }
    const { amiss } = this;
    this.badges.set(amiss);
    setText(this.warning, amiss.map(({ says }) => says).join("; "));
    if (this.warningRow.hidden !== (amiss.length === 0)) this.warningRow.hidden = amiss.length === 0;
  }

  acts(action) {
    return ACTIONS[action] ? `${action}: ${ACTIONS[action]}` : action || MISSING;
  }

  showUses(record) {
    const clockOf = (name) => (known(record?.[name]) ? `at ${gigahertz(record[name])} GHz` : "");
    const total = record?.memory_total_kibibytes;
    const shown = [
      ["cpu_load_ppm", clockOf("cpu_clock_kilohertz")],
      ["gpu_busy_ppm", clockOf("gpu_clock_kilohertz")],
      ["memory_used_ppm", known(total) ? `of ${number(total / 2 ** 20)} GiB` : ""],
    ];
    shown.forEach(([name, more], place) => {
      const use = this.uses[place];
      const value = record?.[name];
      use.value.set(percent(value), whyMissing(record, name, this.absent));
      use.meter.set(known(value) ? value / 1e6 : null);
      setText(use.more, more);
    });
  }

  showPower(record) {
    const cpu = record?.cpu_power_microwatts;
    const gpu = record?.gpu_power_microwatts;
    const both = known(cpu) && known(gpu) ? cpu + gpu : null;
    this.total.set(watts(both), "it takes the power of both");
    this.cpuPower.set(watts(cpu), whyMissing(record, "cpu_power_microwatts", this.absent));
    this.gpuPower.set(watts(gpu), whyMissing(record, "gpu_power_microwatts", this.absent));
    this.rate.set(perSecond(record?.frame_rate_millihertz), whyMissing(record, "frame_rate_millihertz", this.absent));
    this.latency.set(milliseconds(record?.frame_latency_microseconds),
      whyMissing(record, "frame_latency_microseconds", this.absent));
  }

  showDecision(record) {
    setText(this.action, record?.action || MISSING);
    setText(this.meaning, ACTIONS[record?.action] ?? "");
    const source = SOURCES[record?.source] ?? { words: record?.source || MISSING, tone: "calm", shape: "unknown" };
    this.source.set({ word: source.words, shape: source.shape, tone: source.tone });
    const why = record?.source === "shield" ? `shield: ${arrows(record.shield_changed)}` : record?.reason;
    setText(this.reason, why || MISSING);
    setAttribute(this.reason, "title", why || null);
    const learns = known(record?.authority_percent);
    this.authority.set(number(record?.authority_percent), "nobody learns in this run");
    setText(this.note, learns ? "of the learner" : "no learner");
    const code = record?.game_state_code;
    setText(this.game, known(code) ? (GAME_STATES[code] ?? `state ${code}`) : MISSING);
    setAttribute(this.game, "title", known(code) ? null : whyMissing(record, "game_state_code", this.absent));
  }
}
