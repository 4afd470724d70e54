// What an operator may do, with its consequences spelled out before it is done.
//
// Each request says which state its sender has seen (If-Match). Of two operators who press at once the second is told
// what the first one did, and nothing happens twice.
import { html, Component } from "/console/dom.js";
import { change, get, path, send } from "/console/api.js";
import { about, duration, weight } from "/console/numbers.js";

// What goes where: in requests a minute where there is traffic, else in percent.
function flow(route, percent, to) {
  const perMinute = ((route.stable_per_s ?? 0) + (route.canary_per_s ?? 0)) * 60 * (percent / 100);
  if (percent === 0) return `No request will go to ${to}.`;
  if (perMinute < 1) return `${weight(percent)} of requests will go to ${to}; there is hardly any traffic now.`;
  return `About ${about(perMinute)} requests a minute (${weight(percent)}) will go to ${to}.`;
}

const stepPercent = (rollout, index) => rollout.plan.steps[index]?.percent;

const ACTIONS = {
  start: {
    label: "Start rollout",
    title: ({ route }) => `Start a rollout of ${route.canary} on ${route.name}?`,
    says: ({ route, retry, first }) => [
      first === undefined ? `It begins at the first step of the route's plan.` : flow(route, first, route.canary),
      `${route.stable ?? "Nothing"} serves the rest. Automation raises the weight only on proof, and rolls back on proof of harm.`,
      retry && `${route.canary} was rolled back here before: this tries the same version again.`,
    ],
    send: ({ route, retry, reason, etag }) =>
      change("POST", path("routes", route.name, "rollouts"), { retry: Boolean(retry), reason }, etag),
  },
  pause: {
    label: "Pause",
    title: ({ rollout }) => `Pause the rollout of ${rollout.canary}?`,
    says: ({ route, rollout }) => [
      `The weight stays at ${weight(rollout.canary_percent)} until somebody resumes. ${flow(route, rollout.canary_percent, rollout.canary)}`,
      "If the canary is proven worse it is still rolled back.",
      rollout.plan.pause_max_s && `After ${duration(rollout.plan.pause_max_s)} of pause it is rolled back.`,
    ],
  },
  resume: {
    label: "Resume",
    title: ({ rollout }) => `Resume the rollout of ${rollout.canary}?`,
    says: ({ route, rollout }) => [
      `Automation goes on at the weight of step ${rollout.step}.`,
      flow(route, stepPercent(rollout, rollout.step - 1) ?? rollout.canary_percent, rollout.canary),
    ],
  },
  approve: {
    label: "Approve",
    title: ({ rollout }) => `Open the gate “${rollout.gate}”?`,
    says: ({ rollout }) => [`The rollout of ${rollout.canary} goes on to what waits behind this gate.`, "It is still judged by its evidence."],
  },
  next: {
    label: "Next step",
    title: ({ rollout }) => `Go to step ${rollout.step + 1} without proof?`,
    says: ({ route, rollout }) => [
      flow(route, stepPercent(rollout, rollout.step), rollout.canary),
      "This does not wait for the evidence. It is still rolled back on proof of harm.",
    ],
    send: ({ rollout, reason, etag }) =>
      change("POST", path("rollouts", rollout.id, "promote"), { next_step: true, reason }, etag),
  },
  promote: {
    label: "Promote",
    title: ({ rollout }) => `Promote ${rollout.canary} now, whatever the evidence says?`,
    says: ({ route, rollout }) => [
      flow(route, 100 - (rollout.plan.bake_s ? rollout.plan.bake_holdout_percent : 0), rollout.canary),
      rollout.plan.bake_s
        ? `It is watched for another ${duration(rollout.plan.bake_s)} against a holdout.`
        : `${rollout.stable ?? "The version before"} gets no requests any more, and nothing is compared after that.`,
    ],
    danger: true,
    send: ({ rollout, reason, etag }) => change("POST", path("rollouts", rollout.id, "promote"), { reason }, etag),
  },
  abort: {
    label: "Roll back",
    title: ({ rollout }) => `Roll ${rollout.canary} back?`,
    says: ({ route, rollout }) => [
      `All requests go to ${rollout.stable ?? "nothing"}${rollout.plan.rollback_ramp_s && rollout.phase !== "RETURNING" ? ` within ${duration(rollout.plan.rollback_ramp_s)}` : " at once"}. ${flow(route, 0, rollout.canary)}`,
      `${rollout.canary} is not tried again on this route unless somebody asks for a retry.`,
    ],
    danger: true,
  },
  weight: {
    label: "Set weight",
    title: ({ route }) => `Set the canary's weight on ${route.name} by hand?`,
    says: ({ route, percent }) => [
      Number.isFinite(percent) ? flow(route, percent, route.canary) : "Give a weight from 0 to 100 %.",
      "During a rollout this suspends automation until somebody resumes.",
    ],
    send: ({ route, percent, reason, etag }) =>
      change("PUT", path("routes", route.name, "weight"), { canary_percent: percent, reason }, etag),
  },
};

// The way to a first rollout, from the list of routes.
export class StartButton extends Component {
  render({ route, done }, { open }) {
    return html`
      <button data-verb="start" onClick=${() => this.setState({ open: true })}>${ACTIONS.start.label}</button>
      ${open && html`<${Confirmation} verb="start" route=${route} done=${done} close=${() => this.setState({ open: false })} />`}
    `;
  }
}

class Confirmation extends Component {
  constructor({ route, rollout }) {
    super();
    // What was seen when the dialog opened is what is confirmed.
    this.state = { route, rollout, percent: route?.canary_percent ?? 0, reason: "", busy: false, error: null };
  }

  async componentDidMount() {
    this.dialog.showModal();
    await this.look();
  }

  componentWillUnmount() {
    this.dialog.close();
  }

  // The state that the operator is shown, with the tag that names it.
  async look() {
    const { route, rollout } = this.props;
    try {
      const answer = await send("GET", path("routes", route?.name ?? rollout.route));
      const now = await answer.json();
      const tag = answer.headers.get("etag");
      let etag = tag;
      let retry = false;
      let first;
      if (rollout && this.props.verb !== "weight" && this.props.verb !== "start") {
        const newest = await get(path("rollouts", rollout.id));
        etag = `"${newest.id}.${newest.revision}"`;
        this.setState({ rollout: newest });
      } else if (this.props.verb === "start") {
        const config = await get(path("routes", now.name, "config"));
        first = config.plan?.steps?.[0]?.percent;
        retry = now.phase === "ROLLED_BACK";
      }
      this.setState({ route: now, etag, retry, first });
    } catch (error) {
      this.setState({ error });
    }
  }

  async confirm(event) {
    event.preventDefault();
    const { verb, done, close } = this.props;
    const action = ACTIONS[verb];
    this.setState({ busy: true, error: null });
    const { rollout, reason, etag } = this.state;
    const fallback = () => change("POST", path("rollouts", rollout.id, verb), { reason }, etag);
    try {
      const result = await (action.send ?? fallback)(this.state);
      close();
      done(result);
    } catch (error) {
      this.setState({ busy: false, error, meanwhile: await this.meanwhile(error) });
      done(null);
    }
  }

  // Who was faster, and what they did.
  async meanwhile(error) {
    const id = this.state.rollout?.id ?? this.state.route?.rollout_id;
    if (!id || ![409, 412].includes(error.status)) return null;
    try {
      const { decisions } = await get(path("rollouts", id, "story"));
      return decisions.at(-1) ?? null;
    } catch {
      return null;
    }
  }

  render({ verb, close }, { route, rollout, percent, reason, busy, error, meanwhile, retry, first, etag }) {
    const action = ACTIONS[verb];
    const facts = { route: route ?? {}, rollout, percent, retry, first };
    const changed = error && [409, 412].includes(error.status);
    return html`
      <dialog ref=${(dialog) => (this.dialog = dialog ?? this.dialog)} onClose=${close} aria-labelledby="confirm-title">
        <form onSubmit=${(event) => this.confirm(event)}>
          <h2 id="confirm-title">${action.title(facts)}</h2>
          ${verb === "weight" &&
          html`<label>Weight in percent
            <input
              name="percent"
              type="number"
              min="0"
              max="100"
              step="0.01"
              required
              defaultValue=${this.props.route?.canary_percent ?? 0}
              onInput=${(e) => this.setState({ percent: e.target.valueAsNumber })}
          /></label>`}
          ${action.says(facts).filter(Boolean).map((sentence) => html`<p>${sentence}</p>`)}
          <label>Reason, for the journal
            <input name="reason" maxlength="500" value=${reason} onInput=${(e) => this.setState({ reason: e.target.value })} />
          </label>
          ${error &&
          html`<div class="notice bad" role="alert">
            <b>${changed ? "Somebody else was faster; nothing was done." : "Nothing was done."}</b>
            ${meanwhile ? html` ${meanwhile.by}: ${meanwhile.reason}.` : html` ${error.title}: ${error.detail || error.message}`}
          </div>`}
          <div class="buttons">
            <button type="button" onClick=${close}>Cancel</button>
            ${changed
              ? html`<button type="button" class="primary" onClick=${() => this.setState({ error: null, meanwhile: null }, () => this.look())}>Look again</button>`
              : html`<button type="submit" class=${action.danger ? "danger filled" : "primary"} disabled=${busy || !etag}>${action.label}</button>`}
          </div>
        </form>
      </dialog>
    `;
  }
}

// What may be done with a rollout now, in the order of use; the gateway says what is allowed. An open dialog stays open
// whatever happens meanwhile: it says itself that somebody was faster.
export class Actions extends Component {
  render({ rollout, route, done }, { open }) {
    const verbs = offered(rollout, route);
    return html`<div class="actions" role="group" aria-label="Actions">
        ${verbs.map(
          (verb, at) => html`<button
            key=${verb}
            class=${`${ACTIONS[verb].danger ? "danger" : ""} ${at === 0 && verb !== "abort" ? "primary" : ""}`}
            data-verb=${verb}
            onClick=${() => this.setState({ open: verb })}
          >
            ${ACTIONS[verb].label}
          </button>`,
        )}
      </div>
      ${open &&
      html`<${Confirmation} key=${open} verb=${open} route=${route} rollout=${rollout} done=${done} close=${() => this.setState({ open: null })} />`}`;
  }
}

function offered(rollout, route) {
  const allowed = new Set(rollout.allowed);
  const verbs = [];
  if (allowed.has("approve")) verbs.push("approve");
  if (allowed.has("resume")) verbs.push("resume");
  if (allowed.has("pause")) verbs.push("pause");
  if (allowed.has("promote")) {
    if (rollout.step < rollout.steps && rollout.phase !== "BAKING") verbs.push("next");
    verbs.push("promote");
  }
  if (allowed.has("set-weight") && route?.canary) verbs.push("weight");
  if (allowed.has("start") && route?.canary && route.rollout_id === rollout.id) verbs.push("start");
  if (allowed.has("abort")) verbs.push("abort");
  return verbs;
}
