// Both versions side by side: requests, failures by class, latencies overlaid, what the models answer.
import { html } from "/console/dom.js";
import { Chart } from "/console/charts.js";
import { count, milliseconds, percent, rate } from "/console/numbers.js";
import { PREDICTED, Swatch } from "/console/parts.js";

const LATENCIES = { latency: "Latency (first byte)", duration: "Duration (last byte)", first_token: "Time to first token", gap: "Longest pause of a stream", time_per_event: "Time per token" };

// Latencies of streams of tokens, each with a row of its own where there are any.
const STREAMED = ["first_token", "gap", "time_per_event"];
const MEANS = ["answer_length", "prompt_tokens", "completion_tokens"];

// The findings by what they are about.
export function sorted(findings) {
  const found = { failures: [], latencies: [], means: [], predictions: [], others: [] };
  for (const finding of findings) {
    const { metric } = finding;
    if (metric in LATENCIES) found.latencies.push(finding);
    else if (MEANS.includes(metric) || finding.details.stable_mean !== undefined) found.means.push(finding);
    else if (PREDICTED.test(metric)) found.predictions.push(finding);
    else if (metric === "sample_ratio" || metric.startsWith("guardrail:")) found.others.push(finding);
    else found.failures.push(finding);
  }
  return found;
}

export function Versions({ rollout, route, latencies }) {
  const { analysis } = rollout;
  const findings = sorted(analysis?.findings ?? []);
  const seen = findings.failures.filter((one) => one.stable_events + one.canary_events > 0);
  const unseen = findings.failures.filter((one) => one.stable_events + one.canary_events === 0 && one.canary_trials > 0);
  const predictions = findings.predictions.filter((one) => one.stable_events + one.canary_events > 0);
  const causes = new Set(rollout.causes);
  const row = (finding) => html`
    <tr key=${finding.metric} class=${causes.has(finding.metric) ? "cause" : ""}>
      <th scope="row">${causes.has(finding.metric) ? "✕ " : ""}${finding.metric.replaceAll("_", " ")}</th>
      <td class="num">${share(finding.stable_events, finding.stable_trials)}</td>
      <td class="num">${share(finding.canary_events, finding.canary_trials)}</td>
    </tr>
  `;
  const streamed = findings.latencies.filter((one) => STREAMED.includes(one.metric) && one.details.stable_p95_us !== undefined);
  const means = findings.means.filter((one) => one.details.stable_mean !== undefined);
  const quantile = (q) => (arm) => findings.latencies.find((one) => one.metric === "latency")?.details[`${arm}_p${q}_us`];
  return html`
    <section class="card" aria-labelledby="versions-title">
      <h2 id="versions-title">Both versions</h2>
      <div class="two wide">
        <div class="scroll" tabindex="0" role="region" aria-label="Both versions in numbers">
          <table class="compare">
            <thead>
              <tr>
                <td></td>
                <th scope="col"><${Swatch} of="stable" />${rollout.stable ?? "nothing"}</th>
                <th scope="col"><${Swatch} of="canary" />${rollout.canary}</th>
              </tr>
            </thead>
            <tbody>
              <tr><th scope="row">Requests judged</th><td class="num">${count(analysis?.stable_requests)}</td><td class="num">${count(analysis?.canary_requests)}</td></tr>
              ${route && route.rollout_id === rollout.id && html`<tr><th scope="row">Traffic now</th><td class="num">${rate(route.stable_per_s)}</td><td class="num">${rate(route.canary_per_s)}</td></tr>`}
              ${seen.length > 0 && html`<tr class="group"><th colspan="3" scope="rowgroup">Failures by class</th></tr>`}
              ${seen.map(row)}
              ${unseen.length > 0 && html`<tr class="dim"><th scope="row" title=${unseen.map((one) => one.metric).join(", ")}>${unseen.length} more classes</th><td class="num">0</td><td class="num">0</td></tr>`}
              <tr class="group"><th colspan="3" scope="rowgroup">Latency</th></tr>
              ${[50, 95, 99].map(
                (q) => html`<tr key=${q} class=${causes.has("latency") && q === 95 ? "cause" : ""}>
                  <th scope="row">p${q}</th><td class="num">${milliseconds(quantile(q)("stable"))}</td><td class="num">${milliseconds(quantile(q)("canary"))}</td>
                </tr>`,
              )}
              ${streamed.length > 0 && html`<tr class="group"><th colspan="3" scope="rowgroup">Streams, p95</th></tr>`}
              ${streamed.map(
                (one) => html`<tr key=${one.metric} class=${causes.has(one.metric) ? "cause" : ""}>
                  <th scope="row">${causes.has(one.metric) ? "✕ " : ""}${LATENCIES[one.metric]}</th>
                  <td class="num">${milliseconds(one.details.stable_p95_us)}</td><td class="num">${milliseconds(one.details.canary_p95_us)}</td>
                </tr>`,
              )}
              ${means.length > 0 && html`<tr class="group"><th colspan="3" scope="rowgroup">Averages</th></tr>`}
              ${means.map(
                (one) => html`<tr key=${one.metric} class=${causes.has(one.metric) ? "cause" : ""}>
                  <th scope="row">${causes.has(one.metric) ? "✕ " : ""}${one.metric.replaceAll("_", " ")}</th>
                  <td class="num">${average(one.details.stable_mean)}</td><td class="num">${average(one.details.canary_mean)}</td>
                </tr>`,
              )}
              ${predictions.some((one) => causes.has(one.metric)) && html`<tr class="group"><th colspan="3" scope="rowgroup">Predictions</th></tr>`}
              ${predictions.filter((one) => causes.has(one.metric)).map(row)}
            </tbody>
          </table>
        </div>
        <div>
          <${Distributions} latencies=${latencies} rollout=${rollout} />
          ${predictions.length > 0 && html`<${Predictions} findings=${predictions} causes=${causes} rollout=${rollout} />`}
        </div>
      </div>
      ${rollout.compared && html`<p class="dim">${rollout.compared}</p>`}
    </section>
  `;
}

// What the models answer: the share of each class in both versions, as pairs of bars.
function Predictions({ findings, causes, rollout }) {
  const of = (events, trials) => (trials ? events / trials : 0);
  const most = Math.max(...findings.flatMap((one) => [of(one.stable_events, one.stable_trials), of(one.canary_events, one.canary_trials)]), 0.01);
  return html`
    <figure class="chart predictions">
      <figcaption><b>What the models answer, share of answers</b></figcaption>
      <table>
        <thead class="hidden"><tr><th scope="col">Prediction</th><th scope="col">${rollout.stable}</th><th scope="col">${rollout.canary}</th></tr></thead>
        <tbody>
          ${findings.map(
            (one) => html`<tr key=${one.metric} class=${causes.has(one.metric) ? "cause" : ""}>
              <th scope="row">${one.metric.replace(/^class_/, "").replaceAll("_", " ")}</th>
              <td><${Bar} of="stable" share=${of(one.stable_events, one.stable_trials)} most=${most} /></td>
              <td><${Bar} of="canary" share=${of(one.canary_events, one.canary_trials)} most=${most} /></td>
            </tr>`,
          )}
        </tbody>
      </table>
    </figure>
  `;
}

function Bar({ of, share, most }) {
  return html`<span class="share"><span class=${of} style=${{ width: `${(100 * share) / most}%` }}></span></span><span class="num">${percent(share, 2)}</span>`;
}

function average(value) {
  return Number(value.toPrecision(3)).toLocaleString("en-US");
}

function share(events, trials) {
  return html`${count(events)}<span class="of">${percent(trials ? events / trials : 0)}</span>`;
}

// The share of requests by latency, both versions over each other, on a logarithmic axis.
function Distributions({ latencies, rollout }) {
  const { edges_us: edges = [], stable = [], canary = [] } = latencies ?? {};
  const shares = (counts) => {
    const all = counts.reduce((sum, n) => sum + n, 0);
    return counts.map((n) => (all ? n / all : null));
  };
  const data = [edges.map((us) => us / 1000), shares(stable), shares(canary)];
  const sum = (counts) => count(counts.reduce((total, n) => total + n, 0));
  return html`<${Chart}
    title="Latency, share of requests"
    describe=${`Latency distributions: ${sum(stable)} requests of ${rollout.stable}, ${sum(canary)} of ${rollout.canary}. Their quantiles are in the table beside it.`}
    data=${data}
    xLog=${true}
    floor=${0}
    height=${250}
    xFormat=${(ms) => (ms >= 1000 ? `${ms / 1000} s` : `${Number(ms.toPrecision(3))} ms`)}
    format=${(value) => percent(value, 2)}
    lines=${[
      { label: rollout.stable ?? "stable", color: "--stable", fill: "--stable-soft", steps: true, width: 1.5 },
      { label: rollout.canary, color: "--canary", fill: "--canary-soft", steps: true, width: 2.5 },
    ]}
    empty="No latencies of both versions yet."
  />`;
}
