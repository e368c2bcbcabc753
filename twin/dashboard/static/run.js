// A run as the page knows it: what it is, its newest records, and stretches of its course as they are needed.

import { clock, known } from "./format.js";
import { ask } from "./net.js";
import { Frame, KEPT, Newest } from "./store.js";

const POINTS = 600;
const NEAR_POINTS = 1_200;
/** A running run's longer graphs are asked for anew after so long, or after a part of what they show. */
const AGAIN_NS = 2e9;
/** Of runs that go on beside each other, none is behind the other for less than this. */
const BEHIND_NS = 2e9;

const EMPTY = new Frame({});

/** The columns that the page shows of a run. */
function shownColumns(about) {
  const sensors = about.sensors.flatMap(({ name }) => [`${name}_worst_millicelsius`, `${name}_forecast_millicelsius`]);
  const outputs = about.outputs.flatMap(({ name }) => [`${name}_asked`, `${name}_command`, `${name}_applied`]);
  const read = about.columns.filter((name) => /(_rpm|_temp_millicelsius)(_status)?$/.test(name));
  const wanted = new Set([...sensors, ...outputs, ...read, ..."cycle cpu_clock_kilohertz gpu_busy_ppm gpu_clock_kilohertz \
gpu_power_microwatts memory_total_kibibytes frame_rate_millihertz frame_latency_microseconds game_state_code \
cpu_load_ppm cpu_power_microwatts memory_used_ppm suspicion unchecked action source reason proposed executed \
learner_note weights authority_percent reward_micro anomaly_micro shield_changed apply_failed tick_interval_ns \
load_ppm word_executions_delta cache_hits_delta heat_total_q48 window_width gpu_busy_ppm_status \
gpu_power_microwatts_status frame_rate_millihertz_status frame_latency_microseconds_status game_state_code_status"
    .split(" ")]);
  return about.columns.filter((name) => wanted.has(name));
}

/** A stretch of the course that is kept, and asked for anew when it does not reach far enough or is too coarse. */
class Stretch {
  constructor(run, points) {
    this.run = run;
    this.points = points;
    this.frame = EMPTY;
    this.there = false;
    this.asking = false;
    this.retryAt = 0;
  }

  covers(firstNs, lastNs, aheadNs) {
    const { frame } = this;
    if (!this.there || frame.firstNs > firstNs || frame.lastNs < lastNs) return false;
    const thinned = frame.times.length >= this.points - 1;
    return !thinned || frame.lastNs - frame.firstNs <= 1.5 * (lastNs - firstNs) + 2 * aheadNs;
  }

  /** Have this stretch, and up to `aheadNs` more after it, soon; `changed` is called when it has come. */
  async want(firstNs, lastNs, aheadNs, changed) {
    const { run } = this;
    const from = Math.max(0, Math.floor(firstNs));
    const needed = Math.max(from, Math.ceil(Math.min(lastNs, run.lengthNs)));
    if (this.asking || this.covers(from, needed, aheadNs) || performance.now() < this.retryAt) return;
    this.asking = true;
    // What is yet to come of a run that goes on would count as there.
    const to = run.goesOn ? needed : Math.ceil(needed + aheadNs);
    try {
      const answer = await ask("/api/course", {
        run: run.id, columns: run.columns.join(","), first_ns: from, last_ns: to, points: this.points,
      });
      run.lengthNs = Math.max(run.lengthNs, answer.length_ns ?? 0);
      this.frame = new Frame(answer.columns, from, to);
      this.there = true;
      run.trouble = "";
    } catch (refused) {
      this.retryAt = performance.now() + 2_000;
      run.trouble = refused.message;
    } finally {
      this.asking = false;
    }
    changed();
  }
}

export class Run {
  constructor(about) {
    this.id = about.id;
    this.newest = new Newest();
    this.near = new Stretch(this, NEAR_POINTS);
    this.far = new Stretch(this, POINTS);
    this.insight = null;
    this.pool = undefined;
    this.lengthNs = 0;
    this.heardAt = performance.now();
    this.holes = false;
    this.filling = false;
    this.trouble = "";
    this.update(about);
  }

  update(about) {
    this.about = about;
    this.columns = shownColumns(about);
    this.lost = about.lost ?? 0;
    this.heard(about.age_ms);
  }

  /** What a loop sends is as old as its way here. What is followed or replayed is as old as is told, if it is. */
  heard(ageMs) {
    if (known(ageMs)) this.heardAt = performance.now() - ageMs;
    else if (this.about.origin !== "live") this.heardAt = null;
  }

  get goesOn() {
    return this.about.state === "running";
  }

  /** How old its newest record is (ms), null where that is not told, and for a run that is not going on. */
  get ageMs() {
    return this.goesOn && this.heardAt !== null ? performance.now() - this.heardAt : null;
  }

  /** Ask for what there is: the newest records of any run, and how long it is. */
  async open() {
    const [history, latest] = await Promise.all([
      ask("/api/metrics/history", { run: this.id, n: KEPT }),
      ask("/api/metrics/latest", { run: this.id }),
    ]);
    this.newest.merge(history.columns, history.rows);
    this.insight = latest.insight ?? null;
    this.about.state = latest.state ?? this.about.state;
    this.lengthNs = Math.max(this.lengthNs, this.newest.last?.time_ns ?? 0);
  }

  hear(record, insight, lost, ageMs) {
    const before = this.newest.last;
    if (!this.newest.add(record)) return;
    // More cycles than are told one by one, as of a run that is faster than time, are asked for together.
    this.holes ||= before !== null && record.cycle !== before.cycle + 1;
    this.lengthNs = Math.max(this.lengthNs, record.time_ns);
    this.insight = insight ?? this.insight;
    this.lost = lost ?? this.lost;
    if (this.about.origin === "live") this.heardAt = performance.now();
    else if (known(ageMs)) this.heard(ageMs);
  }

  /** Ask for the records that were not told, if there are any, and not more often than graphs are drawn. */
  async fill() {
    if (!this.holes || this.filling) return;
    this.filling = true;
    this.holes = false;
    try {
      const { columns, rows } = await ask("/api/metrics/history", { run: this.id, n: KEPT });
      this.newest.merge(columns, rows);
    } catch (refused) {
      this.trouble = refused.message;
    } finally {
      this.filling = false;
    }
  }

  /** The stretch from `firstNs` to `lastNs` for graphs, with what is there until the rest has come. */
  graphs(firstNs, lastNs, aheadNs, changed) {
    const newest = this.newest.asFrame();
    if (newest.times.length && newest.firstNs <= firstNs) return newest;
    if (lastNs - firstNs <= this.keptNs) return this.around(lastNs, aheadNs, changed);
    // Of a run that goes on, the end of a long graph may be a little behind.
    const late = this.goesOn ? Math.max(AGAIN_NS, (lastNs - firstNs) / 150) : 0;
    const { far } = this;
    if (!far.there || !far.covers(firstNs, lastNs - late, aheadNs)) far.want(firstNs, lastNs, aheadNs, changed);
    return far.frame;
  }

  /** Why there is no record at this time, because the run had ended or has not come so far; empty where there is one. */
  absent(ns) {
    const { period_ms: period } = this.about;
    if (this.goesOn) return this.lengthNs > 0 && ns > this.lengthNs + Math.max(BEHIND_NS, 20e6 * period) ? `not further than ${clock(this.lengthNs)} yet` : "";
    return ns > this.lengthNs + 0.5e6 * period ? `ended at ${clock(this.lengthNs)}` : "";
  }

  /** The record in force at this time of the run, null where it has none. */
  at(ns, aheadNs, changed) {
    if (this.absent(ns)) return null;
    const newest = this.newest.asFrame();
    if (newest.times.length && ns >= newest.firstNs) return newest.at(ns);
    return this.around(ns, aheadNs, changed).at(ns);
  }

  get keptNs() {
    return KEPT * this.about.period_ms * 1e6;
  }

  around(ns, aheadNs, changed) {
    this.near.want(ns - this.keptNs, ns, Math.max(aheadNs, this.keptNs), changed);
    return this.near.frame;
  }
}
