// The story of decisions, newest first: when, who, what became of the weight, why, and on which numbers.
import { html } from "/console/dom.js";
import { count, percent, time, weight } from "/console/numbers.js";
import { phaseWord } from "/console/parts.js";

const MARKS = { ROLLED_BACK: ["✕", "bad"], RETURNING: ["↩", "bad"], PROMOTED: ["✓", "good"], BAKING: ["◕", "good"], PAUSED: ["Ⅱ", "held"], WAITING: ["◷", "held"] };

export function Story({ decisions }) {
  return html`
    <section class="card" aria-labelledby="story-title">
      <h2 id="story-title">Decisions</h2>
      ${decisions.length === 0 && html`<p class="empty">Nothing was decided yet.</p>`}
      <ol class="story" reversed>
        ${[...decisions].reverse().map((one) => {
          const [mark, tone] = MARKS[one.phase] ?? ["→", "plain"];
          const moved = one.canary_percent !== one.canary_percent_before;
          return html`
            <li key=${one.seq} class=${tone}>
              <span class="mark" aria-hidden="true">${mark}</span>
              <div>
                <p>
                  <b>${one.phase_before === one.phase ? phaseWord(one.phase) : `${phaseWord(one.phase_before)} → ${phaseWord(one.phase)}`}</b>
                  ${moved && html` <span class="num">${weight(one.canary_percent_before)} → ${weight(one.canary_percent)}</span>`}
                  <span class="dim"> ${one.automatic ? "automatically" : html`by <b>${one.by}</b>`}, <time datetime=${one.at}>${time(one.at)}</time></span>
                </p>
                <p>${one.reason}</p>
                ${one.numbers.length > 0 && html`<${Numbers} decision=${one} />`}
              </div>
            </li>
          `;
        })}
      </ol>
    </section>
  `;
}

function Numbers({ decision }) {
  const rows = decision.numbers.filter((one) => one.decides && one.stable_events + one.canary_events > 0);
  if (rows.length === 0) return null;
  return html`
    <details>
      <summary>The numbers of then (${count(decision.canary_requests)} canary requests)</summary>
      <table class="compare">
        <thead><tr><td></td><th scope="col">stable</th><th scope="col">canary</th></tr></thead>
        <tbody>
          ${rows.map(
            (one) => html`<tr key=${one.metric} class=${decision.causes.includes(one.metric) ? "cause" : ""}>
              <th scope="row">${one.metric.replaceAll("_", " ")}</th>
              <td class="num">${count(one.stable_events)} of ${count(one.stable_trials)} <span class="dim">${percent(one.stable_trials ? one.stable_events / one.stable_trials : 0)}</span></td>
              <td class="num">${count(one.canary_events)} of ${count(one.canary_trials)} <span class="dim">${percent(one.canary_trials ? one.canary_events / one.canary_trials : 0)}</span></td>
            </tr>`,
          )}
        </tbody>
      </table>
    </details>
  `;
}
