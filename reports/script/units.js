// Numbers and times as text, as harness/units.py writes them.

const NONE = "–";
const SCALES = [[1e-9, "ns"], [1e-6, "µs"], [1e-3, "ms"], [1, "s"]];

// Three significant digits, thousands apart; whole digits are never cut.
function significant(value, digits = 3) {
  if (value === null || !Number.isFinite(value)) { return NONE; }
  const power = Number(value.toExponential(digits - 1).split("e")[1]);
  const decimals = Math.min(Math.max(0, digits - 1 - power), 12);
  const text = value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  return Number(text.replace(/,/g, "")) === 0 ? "0" : text;
}

function shownSize(value) {
  return Math.abs(Number(significant(value).replace(/,/g, "")));
}

// The unit in which a time, rounded as it is printed, stays below a thousand: its size in seconds and its name.
function timeScale(seconds) {
  if (!seconds || !Number.isFinite(seconds)) { return SCALES[2]; }
  return SCALES.find((scale) => shownSize(seconds / scale[0]) < 1000) || SCALES[3];
}

function duration(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) { return NONE; }
  if (shownSize(seconds) >= 120) { return (seconds < 0 ? "-" : "") + clockTime(Math.abs(seconds)); }
  const [size, name] = timeScale(seconds);
  return significant(seconds / size) + " " + name;
}

// Such as 2m 05s, then 1h 05m: rounded first and split then, so that no part is ever 60.
function clockTime(seconds) {
  const two = (value) => String(value).padStart(2, "0");
  const whole = Math.round(seconds);
  if (whole < 3600) { return Math.floor(whole / 60) + "m " + two(whole % 60) + "s"; }
  const minutes = Math.round(seconds / 60);
  return Math.floor(minutes / 60).toLocaleString("en-US") + "h " + two(minutes % 60) + "m";
}

function count(value) {
  return value === null || !Number.isFinite(value) ? NONE : Math.round(value).toLocaleString("en-US");
}

function share(value) {
  return value === null || !Number.isFinite(value) ? NONE : significant(100 * value) + " %";
}

// A moment of the run: seconds to the microsecond, as stamps are compared by.
function moment(seconds, decimals = 6) {
  return Number.isFinite(seconds) ? seconds.toFixed(decimals) + " s" : NONE;
}
