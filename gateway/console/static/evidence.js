// The evidence: what each metric says, its effect over time against the margin, and the odds against the thresholds.
import { html, Component } from "/console/dom.js";
import { Chart } from "/console/charts.js";
import { effectOf } from "/console/series.js";
import { expected, milliseconds, oneIn, percent, points } from "/console/numbers.js";
import { PREDICTED, Verdict } from "/console/parts.js";

const LOG_MAX = Math.log(1e9);

export class Evidence extends Component {
  constructor() {
    super();
    this.state = { chosen: null };
  }

  // The metric that decided; else the one that somebody chose; else the one that is nearest to a verdict.
  selected(findings, causes) {
    const names = findings.map((one) => one.metric);
    if (names.includes(this.state.chosen)) return this.state.chosen;
    const cause = causes.find((name) => names.includes(name));
    if (cause) return cause;
    if (names.includes(this.nearest)) return this.nearest;
    const deciding = findings.filter((one) => one.decides && one.canary_trials > 0);
    deciding.sort((a, b) => (b.log_e_bad ?? 0) - (a.log_e_bad ?? 0));
    this.nearest = deciding[0]?.metric;
    return this.nearest ?? names[0];
  }

  render({ rollout, series, decisions }) {
    const { analysis } = rollout;
    if (!analysis) return html`<section class="card"><h2>Evidence</h2><p class="empty">Nothing has been judged yet.</p></section>`;
    const causes = rollout.phase === "ROLLED_BACK" || analysis.verdict === "FAIL" ? [...analysis.causes, ...rollout.causes] : [];
    const findings = [...analysis.findings].sort((a, b) => rank(a, causes) - rank(b, causes));
    const quiet = findings.filter((one) => silent(one) && !causes.includes(one.metric));
    const calm = findings.filter((one) => PREDICTED.test(one.metric) && !quiet.includes(one) && !causes.includes(one.metric) && !unusual(one));
    const folded = calm.length > 2 && !this.state.all ? calm : [];
    const shown = findings.filter((one) => !quiet.includes(one) && !folded.includes(one));
    const chosen = this.selected(shown, causes);
    const finding = shown.find((one) => one.metric === chosen);
    const marks = decisions.map((one) => ({ at: Date.parse(one.at) / 1000, color: tone(one) }));
    return html`
      <section class="card" aria-labelledby="evidence-title">
        <h2 id="evidence-title">Evidence</h2>
        <p class="odds">${whole(analysis)}</p>
        <div class="scroll" tabindex="0" role="region" aria-label="What each metric says">
          <table class="list metrics">
            <thead>
              <tr><th>Metric</th><th>Verdict</th><th class="num">Effect <small>with 95 % band</small></th><th>A healthy canary would look like this</th><th>Proof that it is good enough</th></tr>
            </thead>
            <tbody>
              ${shown.map((one) => html`<${Metric} key=${one.metric} finding=${one} cause=${causes.includes(one.metric)} chosen=${one.metric === chosen} choose=${() => this.setState({ chosen: one.metric })} />`)}
            </tbody>
          </table>
        </div>
        ${calm.length > 2 &&
        html`<p>
          <button class="quiet" aria-expanded=${this.state.all ? "true" : "false"} onClick=${() => this.setState({ all: !this.state.all })}>
            ${this.state.all ? "Fold" : "Show"} ${calm.length} metrics of predictions in which nothing is unusual
          </button>
          <span class="dim">${calm.filter((one) => one.verdict === "PASS").length} of them are proven good enough.</span>
        </p>`}
        ${quiet.length > 0 && html`<details class="dim"><summary>${quiet.length} more metrics had no event in either version</summary><p>${quiet.map((one) => one.metric).join(", ")}</p></details>`}
        ${finding && html`<${Paths} finding=${finding} analysis=${analysis} series=${series} marks=${marks} cause=${causes.includes(chosen)} />`}
      </section>
    `;
  }
}

function rank(finding, causes) {
  if (causes.includes(finding.metric)) return 0;
  if (finding.verdict === "FAIL" || finding.verdict === "ERROR") return 1;
  return finding.decides ? 2 : 3;
}

function unusual(finding) {
  return finding.verdict === "FAIL" || (finding.log_e_bad ?? 0) > Math.log(10);
}

function silent(finding) {
  return finding.stable_events + finding.canary_events === 0 && !finding.details.stable_p50_us && finding.metric !== "sample_ratio";
}

function tone(decision) {
  if (decision.phase === "ROLLED_BACK" || decision.phase === "RETURNING") return "--bad";
  if (decision.phase === "PROMOTED" || decision.phase === "BAKING") return "--good";
  return decision.automatic ? "--dim" : "--held";
}

// All metrics together, as odds.
function whole(analysis) {
  const odds = oneIn(analysis.log_e_bad);
  const limit = analysis.log_e_bad_needed === null ? "" : ` It is rolled back at 1 in ${expected(analysis.log_e_bad_needed)}.`;
  if (odds === "nothing unusual") return `All metrics together: nothing that a healthy canary would not show.${limit}`;
  return `All metrics together: odds that a healthy canary would look like this: ${odds}.${limit}`;
}

function Metric({ finding, cause, chosen, choose }) {
  const { metric, verdict, decides, log_e_bad: bad, log_e_ok: ok, details } = finding;
  const effect = effectOf(finding);
  const say = effect.unit === "us" ? (v) => `${v > 0 ? "+" : ""}${milliseconds(v)}` : points;
  const needed = details.log_e_ok_needed;
  const done = needed ? Math.max(0, Math.min(1, (ok ?? 0) / needed)) : 0;
  return html`
    <tr class=${`${cause ? "cause" : ""} ${chosen ? "chosen" : ""} ${decides ? "" : "dim"}`}>
      <td><button class="link" aria-pressed=${chosen ? "true" : "false"} onClick=${choose}>${metric.replaceAll("_", " ")}</button>${decides ? "" : html` <small>advises</small>`}</td>
      <td>${cause ? html`<span class="pill bad"><span aria-hidden="true">✕</span> decided</span>` : html`<${Verdict} verdict=${verdict} />`}</td>
      <td class="num">${effect.effect === null || metric === "sample_ratio" ? "–" : say(effect.effect)}${effect.low !== null && effect.high !== null ? html`<br /><small class="dim">${say(effect.low)} to ${say(effect.high)}</small>` : ""}</td>
      <td>${oneIn(bad)}<br /><small class="dim">${details.log_e_bad_needed ? `alone it convicts at 1 in ${expected(details.log_e_bad_needed)}` : ""}</small></td>
      <td>
        ${needed
          ? html`<span class=${`proof ${done === 1 ? "good" : ""}`} role="img" aria-label=${`${percent(done, 2)} of the proof`}><span style=${{ width: `${100 * done}%` }}></span></span>
              <small class="dim">${done === 1 ? "proven" : verdict === "NODATA" ? "no data" : `${percent(done, 2)} of the way`}</small>`
          : html`<small class="dim">not needed</small>`}
      </td>
    </tr>
  `;
}

// One metric over time: how large the difference is, and how sure it is.
function Paths({ finding, analysis, series, marks, cause }) {
  const { metric, details } = finding;
  const column = series?.metrics.get(metric);
  if (!column) return html`<p class="empty">The path of ${metric.replaceAll("_", " ")} over time is not kept any more: this rollout is too old.</p>`;
  const us = column.unit === "us";
  const scale = us ? 1e-3 : 100;
  const scaled = (values) => values.map((value) => (value === null ? null : value * scale));
  const format = (value) => (us ? `${Number(value.toPrecision(3))} ms` : `${Number(value.toPrecision(3))} pts`);
  const effect = effectOf(finding);
  const excluded = effect.low !== null && (effect.low > 0 || effect.high < 0);
  const color = cause ? "--bad" : excluded ? "--ink" : "--noise";
  const soft = cause ? "--bad-soft" : excluded ? "--ink-soft" : "--noise-soft";
  const clipped = (values) => values.map((value) => (value === null ? null : Math.exp(Math.min(Math.max(value, Math.log(0.6)), LOG_MAX))));
  const odds = (value) => (value < 1.05 ? "even" : `1 in ${expected(Math.log(value))}`);
  const levels = [{ value: 0, color: "--line-strong", solid: true }];
  if (effect.margin_high !== null) levels.push({ value: effect.margin_high * scale, color: "--held", label: `margin: worse by ${format(effect.margin_high * scale)}`, key: "margin" });
  if (effect.margin_low !== null) levels.push({ value: effect.margin_low * scale, color: "--held", label: "margin", key: effect.margin_high === null ? "margin" : "" });
  const worst = details.log_e_bad_needed;
  const proof = details.log_e_ok_needed;
  const name = metric.replaceAll("_", " ");
  return html`
    <div class="two wide paths">
      <${Chart}
        title=${`Effect on ${name}${us ? " (p95)" : ""}`}
        describe=${`Effect of the canary on ${name} over time, with the band that holds it with 95 % probability at every moment. Now: ${finding.reason}`}
        data=${[series.at, scaled(column.low), scaled(column.high), scaled(column.effect)]}
        lines=${[{ label: "", hidden: true, color: soft, width: 0 }, { label: "", hidden: true, color: soft, width: 0 }, { label: "canary minus stable", color, width: 2.5 }]}
        bands=${[{ series: [2, 1], color: soft, label: "95 % band, at all times" }]}
        levels=${levels}
        marks=${marks}
        format=${format}
        sync="rollout"
        height=${230}
      />
      <${Chart}
        title=${`Odds on ${name}`}
        describe=${`Odds on ${name} over time. A healthy canary would look like this: ${oneIn(finding.log_e_bad)}.`}
        data=${[series.at, clipped(column.log_e_bad), clipped(column.log_e_ok)]}
        log=${true}
        lines=${[
          { label: "that it is worse", color: cause ? "--bad" : "--noise-strong", width: 2.5 },
          { label: "that it is good enough", color: "--good", width: 2, dash: [7, 4] },
        ]}
        levels=${[
          ...(worst ? [{ value: Math.exp(Math.min(worst, LOG_MAX)), color: "--bad", label: `rolled back at 1 in ${expected(worst)}` }] : []),
          ...(proof ? [{ value: Math.exp(Math.min(proof, LOG_MAX)), color: "--good", label: `proven at 1 in ${expected(proof)}` }] : []),
        ]}
        marks=${marks}
        format=${odds}
        sync="rollout"
        height=${230}
      />
    </div>
    <p class="sentence">${finding.reason}.</p>
  `;
}
