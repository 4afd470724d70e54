// The gateway itself: whether it can do its work, its workers, endpoints, alarms, what it owes to hooks, its journal.
import { html, Component } from "/console/dom.js";
import { get } from "/console/api.js";
import { ago, count, duration } from "/console/numbers.js";
import { Failure } from "/console/parts.js";

const EVERY_MS = 3000;

export class FleetPage extends Component {
  constructor() {
    super();
    this.state = { error: null };
  }

  componentDidMount() {
    this.props.attach(this);
    this.timer = setInterval(() => document.visibilityState === "visible" && this.refresh(), EVERY_MS);
    this.refresh();
  }

  componentWillUnmount() {
    clearInterval(this.timer);
  }

  onEvent() {
    this.soon ??= setTimeout(() => {
      this.soon = null;
      this.refresh();
    }, 300);
  }

  async refresh() {
    try {
      const [{ workers }, { backends }, { alarms }, state] = await Promise.all(
        ["workers", "backends", "alarms", "state"].map((what) => get(`/api/v1/${what}`)),
      );
      this.setState({ workers, backends, alarms, state, error: null });
    } catch (error) {
      this.setState({ error });
    }
  }

  render({ now }, { workers, backends, alarms, state, error }) {
    if (!workers) return error ? html`<h1>Fleet</h1><${Failure} error=${error} />` : html`<h1>Fleet</h1><p class="loading">Reading…</p>`;
    return html`
      <div class="head"><h1>Fleet and health</h1></div>
      ${error && html`<${Failure} error=${error} />`}
      <section class="card">
        <h2>${state.ready ? html`<span class="good">✓</span> Ready` : html`<span class="bad">✕</span> Not ready`}</h2>
        ${state.reasons.map((reason) => html`<p class="bad">${reason}</p>`)}
        ${alarms.length === 0
          ? html`<p class="dim">No alarms.</p>`
          : html`<ul class="alarms">${alarms.map((alarm) => html`<li key=${alarm.what}><span class="bad" aria-hidden="true">▲</span> <b>${alarm.what}</b> ${alarm.reason}</li>`)}</ul>`}
      </section>
      <section class="card">
        <h2>Workers <small class="dim">${workers.length}</small></h2>
        <div class="scroll" tabindex="0" role="region" aria-label="Workers">
          <table class="list">
            <thead><tr><th>Worker</th><th class="num">Process</th><th class="num">Table</th><th class="num">Requests in flight</th><th class="num">Connections</th><th class="num">Last report</th></tr></thead>
            <tbody>
              ${workers.map(
                (one) => html`<tr key=${one.index}>
                  <td>${one.index}</td><td class="num">${one.pid}</td><td class="num">${one.epoch}</td><td class="num">${count(one.in_flight)}</td>
                  <td class="num">${count(one.connections)}</td>
                  <td class=${one.heard_ago_s > 2 ? "num bad" : "num"}>${one.heard_ago_s > 2 ? "▲ " : ""}${duration(one.heard_ago_s)} ago</td>
                </tr>`,
              )}
            </tbody>
          </table>
        </div>
      </section>
      <section class="card">
        <h2>Endpoints</h2>
        <div class="scroll" tabindex="0" role="region" aria-label="Endpoints">
          <table class="list">
            <thead><tr><th>Backend</th><th>Endpoint</th><th>Health</th><th>Routes</th></tr></thead>
            <tbody>
              ${backends.flatMap((backend) =>
                backend.endpoints.map(
                  (one) => html`<tr key=${`${backend.name} ${one.url}`}>
                    <td>${backend.name}${backend.panic && html` <span class="pill held">all endpoints in use: too few are healthy</span>`}</td>
                    <td class="path">${one.url}</td>
                    <td><${Health} endpoint=${one} now=${now} /></td>
                    <td>${backend.routes.join(", ") || html`<span class="dim">none</span>`}</td>
                  </tr>`,
                ),
              )}
            </tbody>
          </table>
        </div>
      </section>
      <div class="two">
        <section class="card">
          <h2>Hooks</h2>
          ${state.hooks.length === 0 && html`<p class="dim">No hooks are configured.</p>`}
          <dl class="facts">
            ${state.hooks.map(
              (hook) => html`<div key=${hook.name}><dt>${hook.name}</dt><dd class=${hook.pending ? "held" : ""}>${count(hook.pending)} owed, ${count(hook.delivered)} delivered${hook.dropped ? `, ${count(hook.dropped)} dropped` : ""}${hook.failed_attempts ? `, ${count(hook.failed_attempts)} failed attempts` : ""}</dd></div>`,
            )}
          </dl>
        </section>
        <section class="card">
          <h2>Journal</h2>
          <dl class="facts">
            <div><dt>Decisions</dt><dd class=${state.state_kept ? "" : "bad"}>${state.state_kept ? "are stored" : "▲ cannot be stored: no rollout starts or advances"}</dd></div>
            <div><dt>First table of this process came from</dt><dd>${state.table_source || "nothing yet"}</dd></div>
            <div><dt>Version</dt><dd>${state.version}</dd></div>
          </dl>
        </section>
      </div>
    `;
  }
}

function Health({ endpoint, now }) {
  const since = endpoint.since ? ` for ${ago(endpoint.since, now).replace(" ago", "")}` : "";
  if (endpoint.healthy === null) return html`<span class="dim">not probed</span>`;
  if (endpoint.healthy) return html`<span class="good">✓</span> up${since}${endpoint.unknown && html` <span class="held">probe undecided: ${endpoint.unknown}</span>`}`;
  return html`<span class="bad">✕ down${since}: ${endpoint.why}</span>${endpoint.kept && " (still used: it answers requests)"}`;
}
