// Raw integers of the control table in words for people. What is missing is a dash with its reason, never 0.

export const MISSING = "–";
const MINUS = "−";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const formats = [0, 1, 2, 3].map(
  (digits) => new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }),
);

export const known = (value) => typeof value === "number" && Number.isFinite(value);

/** A number with so many digits behind the point, a dash where it is missing. */
export function number(value, digits = 0) {
  return known(value) ? formats[digits].format(value).replace("-", MINUS) : MISSING;
}

const scaled = (scale, digits) => (value) => number(known(value) ? value / scale : null, digits);

export const celsius = scaled(1_000, 1);
export const percent = scaled(10_000, 1);
export const watts = scaled(1_000_000, 1);
export const gigahertz = scaled(1_000_000, 2);
export const perSecond = scaled(1_000, 1);
export const milliseconds = scaled(1_000, 1);
export const micro = scaled(1_000_000, 2);

export function count(value) {
  return known(value) ? whole.format(value) : MISSING;
}

export function bytes(value) {
  if (!known(value)) return MISSING;
  if (value < 1_024) return `${value} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let place = -1;
  let left = value;
  do {
    left /= 1_024;
    place += 1;
  } while (left >= 1_024 && place < units.length - 1);
  return `${number(left, left < 100 ? 1 : 0)} ${units[place]}`;
}

/** A time of the run, from nanoseconds: 1:05.3, or 1:02:05.3 from an hour on. */
export function clock(ns, digits = 1) {
  if (!known(ns)) return MISSING;
  const steps = 10 ** digits;
  const units = Math.round((ns / 1e9) * steps);
  const seconds = Math.floor(units / steps);
  const rest = digits ? `.${String(units % steps).padStart(digits, "0")}` : "";
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(seconds / 3_600);
  const minutes = Math.floor(seconds / 60) % 60;
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(seconds % 60)}${rest}`;
}

/** How long ago, in words. */
export function age(ms) {
  if (!known(ms)) return "of unknown age";
  if (ms < 1_000) return "under 1 s old";
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 60) return `${seconds} s old`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min old` : `${Math.floor(minutes / 60)} h old`;
}

export function span(ms) {
  const seconds = ms / 1_000;
  if (seconds < 120) return `${number(seconds, seconds % 1 ? 1 : 0)} s`;
  return seconds < 7_200 ? `${number(seconds / 60, seconds % 60 ? 1 : 0)} min` : `${number(seconds / 3_600, 1)} h`;
}

const UNITS = [
  ["_kilohertz", 1e6, 2, "GHz"],
  ["_microwatts", 1e6, 1, "W"],
  ["_millicelsius", 1e3, 1, "°C"],
  ["_microseconds", 1e3, 1, "ms"],
  ["_rpm", 1, 0, "rpm"],
  ["_pwm", 1, 0, ""],
];

/** What a channel is called, and its value with its unit, from the name that ends in its raw unit. */
export function channel(name) {
  for (const [ending, scale, digits, unit] of UNITS) {
    if (!name.endsWith(ending)) continue;
    const stem = ending === "_pwm" ? name : name.slice(0, -ending.length);
    return {
      words: stem.replaceAll("_", " "),
      value: (raw) => (known(raw) ? `${number(raw / scale, digits)}${unit && ` ${unit}`}` : MISSING),
    };
  }
  return { words: name.replaceAll("_", " "), value: count };
}

/** What the shield writes with signs of a keyboard. */
export const arrows = (text) => text.replaceAll(" -> ", " → ");
