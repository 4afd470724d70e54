// Numbers as people read them. The same rules as gateway/core/numbers.py.

export const none = "–";

export function count(n) {
  return n === null || n === undefined ? none : Math.round(n).toLocaleString("en-US");
}

// Three digits are enough for what was measured.
function digits(value, n = 3) {
  const text = value.toPrecision(n);
  return text.includes("e") ? String(Number(text)) : text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

export function percent(share, n = 3) {
  if (share === null || share === undefined || !Number.isFinite(share)) return none;
  return `${share === 0 ? "0" : digits(100 * share, n)} %`;
}

export function weight(value) {
  return `${value.toLocaleString("en-US", { maximumFractionDigits: 2 })} %`;
}

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return none;
  return `${perSecond < 9.95 ? digits(perSecond, 2) : count(perSecond)}/s`;
}

// A count that is an average: two digits.
export function about(n) {
  if (n < 100) return count(Math.ceil(n));
  const scale = 10 ** (Math.floor(Math.log10(n)) - 1);
  return count(Math.round(n / scale) * scale);
}

export function points(share) {
  const value = 100 * share;
  const text = Math.abs(value) < 0.005 ? "0" : digits(value, 2);
  return `${value > 0.005 ? "+" : ""}${text} ${text === "1" ? "point" : "points"}`;
}

export function milliseconds(us) {
  return us === null || us === undefined ? none : `${digits(us / 1000)} ms`;
}

export function duration(seconds) {
  const sizes = [[1, 100, "s"], [60, 100, "min"], [3600, 48, "h"], [86400, 800, "days"]];
  for (const [size, most, unit] of sizes) {
    const value = seconds / size;
    if (value < most) return `${value < 9.95 ? digits(value, 2) : Math.round(value)} ${unit}`;
  }
  return `${Math.round(seconds / 86400)} days`;
}

export function ago(iso, nowMs = Date.now()) {
  const seconds = Math.max(0, (nowMs - Date.parse(iso)) / 1000);
  return seconds < 2 ? "just now" : `${duration(Math.floor(seconds))} ago`;
}

export function time(iso) {
  const at = new Date(iso);
  const today = new Date().toDateString() === at.toDateString();
  const clock = at.toLocaleTimeString([], { hour12: false });
  return today ? clock : `${at.toLocaleDateString([], { year: "numeric", month: "short", day: "numeric" })} ${clock}`;
}

// Evidence as odds. By Ville's inequality a healthy canary's evidence ever reaches E with a chance of at most 1 in E.
export function oneIn(logE) {
  if (logE === null || logE === undefined || logE <= 0.05) return "nothing unusual";
  return `1 in ${expected(logE)}`;
}

export function expected(logE) {
  const ten = logE / Math.LN10;
  if (ten < 6) {
    const value = 10 ** ten;
    return value < 10 ? digits(value, 2) : about(value);
  }
  if (ten < 9) return `${digits(10 ** (ten - 6), 2)} million`;
  return ten < 12 ? `${digits(10 ** (ten - 9), 2)} billion` : "over a trillion";
}
