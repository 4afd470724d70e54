// The plan as a ladder: each step with its weight, floors, gate and deadline, and where the rollout stands.
import { html } from "/console/dom.js";
import { count, duration, weight } from "/console/numbers.js";
import { active } from "/console/parts.js";

const ORDER = { hold: "holds", rollback: "rolls back", promote: "promotes", proceed: "goes on" };

export function Ladder({ rollout, decisions, now }) {
  const { plan, phase } = rollout;
  const ended = !active(phase);
  const promoted = phase === "PROMOTED" || phase === "BAKING";
  // With a mirror step, which is number 0, every other is one further on.
  const at = (promoted ? plan.steps.length : rollout.step - 1) + (plan.mirror ? 1 : 0);
  const entered = since(decisions, rollout);
  const rungs = plan.steps.map((step, index) => ({
    percent: step.percent,
    name: `Step ${index + 1}`,
    floors: floors(step),
    gate: step.gate,
    deadline: step.deadline_s ? `after ${duration(step.deadline_s)} it ${ORDER[step.on_deadline]}` : "",
    step,
  }));
  if (plan.bake_s) {
    rungs.push({ percent: 100 - plan.bake_holdout_percent, name: "Bake", floors: [`watched for ${duration(plan.bake_s)}`], gate: plan.promotion_gate });
  }
  rungs.push({ percent: 100, name: "Promoted", floors: [], gate: plan.bake_s ? "" : plan.promotion_gate });
  if (plan.mirror) {
    rungs.unshift({
      percent: 0,
      name: "Mirror",
      floors: floors(plan.mirror),
      deadline: plan.mirror.deadline_s ? `after ${duration(plan.mirror.deadline_s)} it ${ORDER[plan.mirror.on_deadline]}` : "",
      step: plan.mirror,
    });
  }
  const standing = phase === "BAKING" ? rungs.length - 2 : phase === "PROMOTED" ? rungs.length - 1 : at;
  return html`
    <section class="card" aria-labelledby="plan-title">
      <h2 id="plan-title">Plan</h2>
      <ol class="ladder">
        ${rungs.map((rung, index) => {
          const state = index < standing ? "done" : index === standing ? "here" : "ahead";
          const fell = state === "here" && (phase === "ROLLED_BACK" || phase === "RETURNING");
          return html`
            <li class=${`${state} ${fell ? "fell" : ""}`} aria-current=${state === "here" ? "step" : null}>
              <span class="column" aria-hidden="true"><span style=${{ height: `${Math.max(rung.percent, 2)}%` }}></span></span>
              <b class="num">${weight(rung.percent)}</b>
              <span class="name">${state === "done" ? "✓ " : fell ? "✕ " : state === "here" ? "▸ " : ""}${rung.name}</span>
              ${rung.gate && html`<span class="gate">gate: ${rung.gate}</span>`}
              ${state === "here" && !ended && rung.step && phase !== "RETURNING"
                ? html`<${Floor} step=${rung.step} entered=${entered} now=${now} requests=${rollout.canary_requests} />`
                : rung.floors.map((floor) => html`<span class="dim">${floor}</span>`)}
              ${rung.deadline && html`<span class="dim">${rung.deadline}</span>`}
            </li>
          `;
        })}
      </ol>
      <p class="dim">
        ${!ended && rollout.waiting_for && !rollout.waiting_for.startsWith("UNDECIDED") ? html`<b>Waiting for:</b> ${rollout.waiting_for}. ` : ""}
        Undecided after ${duration(plan.deadline_s)}, it ${ORDER[plan.on_deadline]}.${ended ? "" : ` ${left(rollout, plan, now)}`}
      </p>
    </section>
  `;
}

function floors(step) {
  return [`at least ${duration(step.min_time_s)}`, `and ${count(step.min_requests)} requests`];
}

function left(rollout, plan, now) {
  const seconds = plan.deadline_s - (now - Date.parse(rollout.started_at)) / 1000;
  return seconds > 0 ? `${duration(seconds)} are left.` : "";
}

// How much of the step's floor has passed: time, and canary requests since the step was entered.
function Floor({ step, entered, now, requests }) {
  const seconds = entered ? Math.max(0, (now - entered.atMs) / 1000) : 0;
  const had = entered ? Math.max(0, requests - entered.requests) : 0;
  const timed = seconds >= step.min_time_s;
  const counted = had >= step.min_requests;
  return html`
    <span class=${timed ? "good" : ""}>${timed ? "✓ " : ""}${duration(Math.min(seconds, step.min_time_s))} of ${duration(step.min_time_s)}</span>
    <span class=${counted ? "good" : ""}>${counted ? "✓ " : ""}${count(Math.min(had, step.min_requests))} of ${count(step.min_requests)} requests</span>
  `;
}

// When the step in force was entered, and how many requests the canary had had by then.
function since(decisions, rollout) {
  const entry = decisions.findLast((one) => one.canary_percent !== one.canary_percent_before || one.phase_before !== one.phase);
  return entry ? { atMs: Date.parse(entry.at), requests: entry.canary_requests ?? 0 } : { atMs: Date.parse(rollout.started_at), requests: 0 };
}
