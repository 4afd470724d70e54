// The evidence of one rollout over time: what the gateway has kept of it, and what the stream adds.
//
// Columns, one for each number of each metric, all as long as `at`. When they grow too long every second point goes,
// so that a rollout of days is as quick to draw as one of minutes.

const POINTS_MAX = 720;
export const COLUMNS = ["log_e_bad", "log_e_ok", "effect", "low", "high", "margin_low", "margin_high"];

// What a finding says of the size of the difference: shares as shares, latencies in microseconds.
export function effectOf(finding) {
  const { details } = finding;
  const name = "p95_difference_us" in details ? "p95_difference_us" : "difference";
  const value = (key) => details[key] ?? null;
  return {
    unit: name === "p95_difference_us" ? "us" : "share",
    effect: value(name) ?? plain(finding),
    low: value(`${name}_low`),
    high: value(`${name}_high`),
    margin_low: value("margin_low"),
    margin_high: value("margin_high"),
  };
}

// Before intervals can be computed: the plain difference; not of latencies, which come in slices.
function plain({ details, stable_events: s, stable_trials: ofStable, canary_events: c, canary_trials: ofCanary }) {
  return "slices" in details || !ofStable || !ofCanary ? null : c / ofCanary - s / ofStable;
}

export class Series {
  constructor(body) {
    this.at = body.at;
    this.everyS = body.every_s;
    this.metrics = new Map(body.metrics.map((one) => [one.metric, one]));
    this.whole = body.log_e_bad;
    this.percent = body.canary_percent;
  }

  append(rollout, atS) {
    const last = this.at.at(-1) ?? 0;
    if (!rollout.analysis || atS - last < this.everyS) return;
    this.at.push(atS);
    this.whole.push(rollout.analysis.log_e_bad);
    this.percent.push(rollout.canary_percent);
    for (const finding of rollout.analysis.findings) {
      const { unit, ...numbers } = effectOf(finding);
      const known = this.metrics.get(finding.metric) ?? this.add(finding.metric, unit);
      known.unit = unit;
      const row = { log_e_bad: finding.log_e_bad, log_e_ok: finding.log_e_ok, ...numbers };
      for (const column of COLUMNS) known[column].push(row[column] ?? null);
    }
    for (const one of this.metrics.values()) {
      for (const column of COLUMNS) while (one[column].length < this.at.length) one[column].push(null);
    }
    if (this.at.length > POINTS_MAX) this.thin();
  }

  add(metric, unit) {
    const blank = Array(this.at.length - 1).fill(null);
    const one = { metric, unit, ...Object.fromEntries(COLUMNS.map((column) => [column, [...blank]])) };
    this.metrics.set(metric, one);
    return one;
  }

  thin() {
    const half = (values) => values.filter((_, at) => at % 2 === 0 || at === values.length - 1);
    this.everyS *= 2;
    this.at = half(this.at);
    this.whole = half(this.whole);
    this.percent = half(this.percent);
    for (const one of this.metrics.values()) for (const column of COLUMNS) one[column] = half(one[column]);
  }
}
