// Names of the run's vocabulary in words, with the shape that goes with each.

export const STATES = {
  running: { word: "Running", shape: "running", tone: "good" },
  ended: { word: "Ended", shape: "ended", tone: "calm" },
  stopped: { word: "Stopped early", shape: "stopped", tone: "warn" },
  lost: { word: "Lost: its writer is gone", shape: "lost", tone: "bad" },
};

export const ORIGINS = { live: "live", replayed: "replayed", recorded: "recorded" };

export const ACTIONS = {
  noop: "nothing to change",
  throttle: "clock a step down",
  boost: "full clock",
  reduce_power: "less power",
  conservative: "safe caps",
};

export const SOURCES = {
  rules: { words: "the rules", tone: "calm", shape: "good" },
  pid: { words: "the PID loops", tone: "calm", shape: "good" },
  neural: { words: "the learner", tone: "calm", shape: "good" },
  shield: { words: "the shield changed it", tone: "warn", shape: "warm" },
  failsafe: { words: "failsafe: full cooling", tone: "bad", shape: "over" },
};

/** By code, as the application reports it. */
export const GAME_STATES = ["menu", "loading", "exploration", "combat"];

const STATUSES = ["valid", "not there", "permission denied", "read failed", "not an integer", "not renewed"];

/** Why a column has no value in a record, in words. */
export function whyMissing(record, name, absent = "") {
  if (!record) return absent ? `the run ${absent}` : "no record yet";
  if (!(name in record)) return "this machine does not tell it";
  const status = record[`${name}_status`];
  if (status) return STATUSES[status] ?? `status ${status}`;
  return "not known in this cycle";
}

/** The machine's fans: the column of their speed, what they are called, and the outputs that move them. */
export const fansOf = (about) => about.columns.filter((name) => name.endsWith("_rpm")).map((column) => ({
  column,
  name: column.replace(/(_fan)?_rpm$/, "").replaceAll("_", " "),
  output: about.outputs.find(({ name }) => name === column.replace(/_rpm$/, "_pwm"))?.name ?? "",
}));

const TURNS = / turns at /;
const STANDS_RPM = 30;

/** Whether this fan is told to turn and does not. */
export function stands(record, { column, output }) {
  const rpm = record?.[column];
  return typeof rpm === "number" && rpm < STANDS_RPM && record[`${output}_command`] > 0;
}

/** What is amiss with the machine in this record: a word with its shape, and what is known of it. */
export function troubles(about, record) {
  if (!record) return [];
  const found = [];
  const add = (word, shape, tone, says) => found.push({ word, shape, tone, says });
  const reason = record.reason ?? "";
  const still = fansOf(about).filter((fan) => stands(record, fan)).map(({ name }) => `${name} fan is told to turn and does not`);
  if (TURNS.test(reason)) add("Fan trouble", "over", "bad", reason);
  else if (still.length) add("Fan trouble", "over", "bad", still.join("; "));
  if (record.suspicion) add("Sensor suspected", "hot", "bad", record.suspicion);
  if (record.apply_failed) add("Not applied", "lost", "bad", record.apply_failed);
  if (record.unchecked) add("Not checked", "unknown", "warn", `${record.unchecked.split(" ").join(", ")}: the model cannot tell what to expect`);
  return found;
}

// The shield's own thresholds: fans rise from 20 K of headroom on, caps fall from 8 K on.
const WARM_MILLIKELVIN = 20_000;
const HOT_MILLIKELVIN = 8_000;

export function heatState(headroomMillikelvin) {
  if (headroomMillikelvin === null) return { word: "Not known", shape: "unknown", tone: "warn" };
  if (headroomMillikelvin <= 0) return { word: "Over its limit", shape: "over", tone: "bad" };
  if (headroomMillikelvin < HOT_MILLIKELVIN) return { word: "Hot", shape: "hot", tone: "bad" };
  if (headroomMillikelvin < WARM_MILLIKELVIN) return { word: "Warm", shape: "warm", tone: "warn" };
  return { word: "Cool", shape: "good", tone: "good" };
}
