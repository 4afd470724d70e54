// One rollout: where it stands, what the evidence says, what comes next, what was decided, and what may be done.
import { html, Component } from "/console/dom.js";
import { get, path, send } from "/console/api.js";
import { Actions } from "/console/actions.js";
import { Evidence } from "/console/evidence.js";
import { Ladder } from "/console/ladder.js";
import { about, duration, rate, time, weight } from "/console/numbers.js";
import { Failure, Phase, Split, Swatch, active, save } from "/console/parts.js";
import { Series } from "/console/series.js";
import { Story } from "/console/story.js";
import { Versions } from "/console/versions.js";

// Evidence comes four times a second; a page that people read changes once.
const CALM_MS = 1000;
const LOOK_MS = 4000;
const AGAIN_MS = 1000;
const TRIES = 8;

export class RolloutPage extends Component {
  constructor() {
    super();
    this.state = { rollout: null, route: null, decisions: [], series: null, latencies: null, error: null, copied: "" };
  }

  componentDidMount() {
    this.props.attach(this);
    this.timer = setInterval(() => {
      if (document.visibilityState !== "visible") return;
      if (!this.state.rollout) this.refresh();
      else this.look();
    }, LOOK_MS);
    this.refresh();
  }

  componentWillUnmount() {
    clearInterval(this.timer);
    clearTimeout(this.calm);
    clearTimeout(this.again);
  }

  // Everything anew: at the start, and whenever the stream was lost.
  async refresh() {
    const { id } = this.props;
    try {
      const [rollout, story, series] = await Promise.all([
        get(path("rollouts", id)),
        get(path("rollouts", id, "story")),
        get(path("rollouts", id, "series")),
      ]);
      this.setState({ rollout, decisions: story.decisions, series: new Series(series), error: null }, () => {
        clearTimeout(this.again);
        if (this.unfinished()) this.again = setTimeout(() => this.refresh(), AGAIN_MS);
      });
      await this.look(rollout);
    } catch (error) {
      this.setState({ error });
    }
  }

  // Intervals are computed a little later than a verdict; one that came very early is read once more, a few times.
  unfinished() {
    const { rollout } = this.state;
    const seen = rollout.analysis?.findings.filter((one) => one.stable_events + one.canary_events > 0) ?? [];
    if (active(rollout.phase) || seen.length === 0 || seen.some((one) => "difference" in one.details)) return false;
    this.tries = (this.tries ?? 0) + 1;
    return this.tries <= TRIES;
  }

  // What no event tells: traffic and latencies.
  async look(read = null) {
    const rollout = read ?? this.state.rollout;
    if (!rollout || !(read || active(rollout.phase))) return;
    try {
      const latencies = await get(path("rollouts", rollout.id, "latencies"));
      this.setState({ latencies });
      const route = await get(path("routes", rollout.route));
      this.setState({ route });
    } catch (error) {
      // A route that was removed from the configuration still has its past rollouts.
      if (error.status === 404) this.setState({ route: null });
    }
  }

  onEvent(event) {
    if (event.rollout_id !== this.props.id) return;
    this.newest = event;
    if (event.kind !== "analysis") {
      clearTimeout(this.calm);
      this.calm = null;
      this.refresh();
      return;
    }
    this.calm ??= setTimeout(() => {
      this.calm = null;
      const rollout = { ...this.newest.data, allowed: this.newest.data.allowed ?? this.state.rollout?.allowed };
      const { series } = this.state;
      if (!series || !this.state.rollout || rollout.revision < this.state.rollout.revision) return;
      series.append(rollout, Date.parse(this.newest.at) / 1000);
      this.setState({ rollout });
    }, CALM_MS);
  }

  async report(format) {
    const { rollout } = this.state;
    const text = await (await send("GET", `${path("rollouts", rollout.id, "report")}?format=${format}`)).text();
    if (format === "html") {
      save(`${rollout.id}.html`, text, "text/html");
      return;
    }
    try {
      await navigator.clipboard.writeText(text);
      this.setState({ copied: "Copied." });
    } catch {
      save(`${rollout.id}.md`, text, "text/markdown");
    }
    setTimeout(() => this.setState({ copied: "" }), 3000);
  }

  render({ now }, { rollout, route, decisions, series, latencies, error, copied }) {
    if (!rollout) return error ? html`<h1>Rollout</h1><${Failure} error=${error} retry=${() => this.refresh()} />` : html`<p class="loading">Reading the rollout…</p>`;
    // After the end the route's numbers are about other roles: the canary is stable then, or gone.
    const current = route && route.rollout_id === rollout.id && active(rollout.phase) ? route : null;
    const share = current ? current.canary_percent : rollout.canary_percent;
    return html`
      <nav class="crumbs" aria-label="Where you are"><a href="#/routes">Routes</a> / <a href=${`#/history/${encodeURIComponent(rollout.route)}`}>${rollout.route}</a> / <span>${rollout.id}</span></nav>
      <section class=${`verdict ${toneOf(rollout)}`} aria-labelledby="verdict">
        <div class="title">
          <h1 id="verdict">${headline(rollout)}</h1>
          <${Phase} phase=${rollout.phase} />
        </div>
        <p class="reason">${because(rollout)}</p>
        <div class="versions">
          <div><${Swatch} of="stable" /><b>${rollout.stable ?? "nothing"}</b> <span class="num">${weight(100 - share)}${current ? ` · ${rate(current.stable_per_s)}` : ""}</span></div>
          <${Split} percent=${share} stable=${rollout.stable} canary=${rollout.canary} />
          <div class="right"><span class="num">${current ? `${rate(current.canary_per_s)} · ` : ""}${weight(share)}</span> <b>${rollout.canary}</b><${Swatch} of="canary" /></div>
        </div>
        ${forecast(rollout, current)}
        ${[...rollout.warnings, ...(current?.warning ? [current.warning] : [])].map((warning) => html`<p class="held">▲ ${warning}</p>`)}
        <div class="tools">
          <${Actions} rollout=${rollout} route=${route} done=${() => this.refresh()} />
          <div class="reports">
            <button class="quiet" onClick=${() => this.report("html")}>Download report</button>
            <button class="quiet" onClick=${() => this.report("markdown")}>Copy as Markdown</button>
            <span role="status">${copied}</span>
          </div>
        </div>
        <p class="dim small">Began ${time(rollout.started_at)}. Last changed ${time(rollout.updated_at)} by ${rollout.by}.</p>
      </section>
      ${error && html`<${Failure} error=${error} retry=${() => this.refresh()} />`}
      <${Ladder} rollout=${rollout} decisions=${decisions} now=${now} />
      <${Evidence} rollout=${rollout} series=${series} decisions=${decisions} />
      <${Versions} rollout=${rollout} route=${route} latencies=${latencies} />
      <${Story} decisions=${decisions} />
    `;
  }
}

function toneOf({ phase, analysis }) {
  if (phase === "ROLLED_BACK" || phase === "RETURNING") return "bad";
  if (phase === "PROMOTED") return "good";
  if (phase === "PAUSED" || phase === "WAITING" || analysis?.verdict === "ERROR") return "held";
  return "";
}

// The verdict as one sentence.
function headline({ phase, analysis, canary, stable, causes, canary_percent: share, step, steps, gate }) {
  const names = causes.map((name) => name.replaceAll("_", " "));
  const named = names.length > 2 ? `${names.slice(0, 2).join(", ")} and ${names.length - 2} more` : names.join(" and ");
  switch (phase) {
    case "ROLLED_BACK":
      return named ? `${canary} was rolled back: ${named}` : `${canary} was rolled back`;
    case "RETURNING":
      return `${canary} is being rolled back${named ? `: ${named}` : ""}`;
    case "PROMOTED":
      return `${canary} was promoted`;
    case "WITHDRAWN":
      return `The rollout of ${canary} was withdrawn`;
    case "PAUSED":
      return `Paused at ${weight(share)}: automation does nothing until somebody resumes`;
    case "WAITING":
      return gate === "canary" ? `Waiting until ${canary} has a healthy endpoint` : `Waiting for the gate “${gate}”`;
    case "WARMING":
      return `${canary} is warming up; what it answers is not judged yet`;
    case "BAKING":
      return `${canary} has almost all traffic and is still watched`;
    default:
  }
  switch (analysis?.verdict) {
    case "PASS":
      return `${canary} is proven good enough for this step`;
    case "FAIL":
      return `${canary} is worse than ${stable}`;
    case "ERROR":
      return `${canary} cannot be judged now`;
    case "NODATA":
    case undefined:
      return `Step ${step} of ${steps}: waiting for ${canary}'s first requests`;
    default:
      return suspicious(analysis) ? `Step ${step} of ${steps}: ${canary} looks worse, not yet proven` : `Step ${step} of ${steps}: no sign of harm, not yet proven good`;
  }
}

function suspicious(analysis) {
  return (analysis.log_e_bad ?? 0) > Math.log(20);
}

function because(rollout) {
  const { phase, analysis } = rollout;
  const live = active(phase) && phase !== "RETURNING" && analysis;
  return live && phase !== "PAUSED" ? `${analysis.reason}.` : `${rollout.reason}.`;
}

// When there will be proof, at this traffic and this effect; an average, not a promise.
function forecast(rollout, route) {
  const { analysis, phase } = rollout;
  if (!analysis || !["PROGRESSING", "PAUSED"].includes(phase)) return null;
  const open = analysis.findings.filter((one) => one.decides && one.verdict === "UNDECIDED" && one.details.needed_s > 0);
  if (open.length === 0) return analysis.verdict === "PASS" ? html`<p class="forecast">Proof is there; the step ends when its floor has passed.</p>` : null;
  const last = open.reduce((a, b) => (a.details.needed_s > b.details.needed_s ? a : b));
  const requests = last.details.canary_needed ? `, about ${about(last.details.canary_needed)} more canary requests` : "";
  return html`<p class="forecast">At this traffic, a decision in about <b>${duration(last.details.needed_s)}</b>${requests}: ${last.metric.replaceAll("_", " ")} takes longest.</p>`;
}
