// Records in memory: never more than the newest few, and one stretch of the course; so memory stays flat.

export const KEPT = 300;

/** The first place in `times` that is later than `ns`. */
export function after(times, ns) {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= ns) low = middle + 1;
    else high = middle;
  }
  return low;
}

const NOTHING = [];

/** Columns side by side, oldest first. `firstNs` and `lastNs` are what was asked for, which may hold no record. */
export class Frame {
  constructor(columns, firstNs = null, lastNs = null) {
    this.columns = columns;
    this.times = columns.time_ns ?? NOTHING;
    this.firstNs = firstNs ?? this.times[0] ?? 0;
    this.lastNs = lastNs ?? this.times.at(-1) ?? 0;
  }

  column(name) {
    return this.columns[name] ?? NOTHING;
  }

  value(name, place) {
    return this.columns[name]?.[place] ?? null;
  }

  /** The record in force at `ns`: the last one that is not later; null before the first. */
  at(ns) {
    const place = after(this.times, ns) - 1;
    if (place < 0) return null;
    const record = {};
    for (const [name, values] of Object.entries(this.columns)) record[name] = values[place];
    return record;
  }
}

/** The newest records of a run that is going on. Columns are made once they are looked at, and kept until the next. */
export class Newest {
  constructor() {
    this.rows = [];
    this.frame = null;
  }

  /** Take in a history: what is older or newer than it stays. */
  merge(columns, rows) {
    const records = rows.map((row) => Object.fromEntries(columns.map((name, place) => [name, row[place]])));
    if (!records.length) return;
    const first = records[0].time_ns;
    const last = records.at(-1).time_ns;
    // Older records that do not reach up to it would leave a hole.
    const older = this.rows.some((row) => row.time_ns >= first) ? this.rows.filter((row) => row.time_ns < first) : [];
    const newer = this.rows.filter((row) => row.time_ns > last);
    this.rows = [...older, ...records, ...newer].slice(-KEPT);
    this.frame = null;
  }

  /** False where it is not newer than what is there, which a history that came meanwhile has already. */
  add(record) {
    const last = this.rows.at(-1);
    if (last && record.time_ns <= last.time_ns) return false;
    this.rows.push(record);
    if (this.rows.length > KEPT) this.rows.shift();
    this.frame = null;
    return true;
  }

  get last() {
    return this.rows.at(-1) ?? null;
  }

  asFrame() {
    this.frame ??= new RowFrame(this.rows);
    return this.frame;
  }
}

class RowFrame {
  constructor(rows) {
    this.rows = rows;
    this.made = new Map();
    this.times = rows.map((row) => row.time_ns);
    this.firstNs = this.times[0] ?? 0;
    this.lastNs = this.times.at(-1) ?? 0;
  }

  column(name) {
    let values = this.made.get(name);
    if (!values) {
      values = this.rows.map((row) => row[name] ?? null);
      this.made.set(name, values);
    }
    return values;
  }

  value(name, place) {
    return this.rows[place]?.[name] ?? null;
  }

  at(ns) {
    return this.rows[after(this.times, ns) - 1] ?? null;
  }
}
