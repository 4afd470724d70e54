// All routes: who serves them, how traffic is split, how they fare, and what was decided last.
import { html, Component } from "/console/dom.js";
import { get } from "/console/api.js";
import { ago, rate, weight } from "/console/numbers.js";
import { Failure, Phase, Split, Swatch, active, rolloutLink } from "/console/parts.js";
import { StartButton } from "/console/actions.js";

const PAGE = 50;
const EVERY_MS = 2000;

export class RoutesPage extends Component {
  constructor() {
    super();
    this.state = { routes: null, total: 0, search: "", offset: 0, error: null };
  }

  componentDidMount() {
    this.props.attach(this);
    this.timer = setInterval(() => document.visibilityState === "visible" && this.refresh(), EVERY_MS);
    this.refresh();
  }

  componentWillUnmount() {
    clearInterval(this.timer);
    clearTimeout(this.typing);
  }

  onEvent() {
    // Many decisions at once are one look.
    this.soon ??= setTimeout(() => {
      this.soon = null;
      this.refresh();
    }, 300);
  }

  async refresh() {
    const { search, offset } = this.state;
    const query = new URLSearchParams({ limit: PAGE, offset });
    if (search) query.set("search", search);
    try {
      const { routes, total } = await get(`/api/v1/routes?${query}`);
      if (search === this.state.search && offset === this.state.offset) this.setState({ routes, total, error: null });
    } catch (error) {
      this.setState({ error });
    }
  }

  search(text) {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.setState({ search: text, offset: 0 }, () => this.refresh()), 200);
  }

  turn(by) {
    this.setState(({ offset }) => ({ offset: Math.max(0, offset + by) }), () => this.refresh());
  }

  render({ now }, { routes, total, search, offset, error }) {
    const many = total > PAGE || search;
    return html`
      <div class="head">
        <h1>Routes</h1>
        ${many &&
        html`<label class="search"
          ><span class="hidden">Search routes</span
          ><input type="search" placeholder="Search routes and versions" onInput=${(e) => this.search(e.target.value)}
        /></label>`}
      </div>
      ${error && html`<${Failure} error=${error} retry=${() => this.refresh()} />`}
      ${!routes && !error && html`<p class="loading">Reading the routes…</p>`}
      ${routes && routes.length === 0 && html`<p class="empty">${search ? "No route matches." : "No routes."}</p>`}
      <ul class="routes">
        ${(routes ?? []).map((route) => html`<${RouteCard} key=${route.name} route=${route} now=${now} done=${() => this.refresh()} />`)}
      </ul>
      ${total > PAGE &&
      html`<nav class="pager" aria-label="Pages of routes">
        <button disabled=${offset === 0} onClick=${() => this.turn(-PAGE)}>Previous</button>
        <span>${offset + 1}–${Math.min(offset + PAGE, total)} of ${total}</span>
        <button disabled=${offset + PAGE >= total} onClick=${() => this.turn(PAGE)}>Next</button>
      </nav>`}
    `;
  }
}

function RouteCard({ route, now, done }) {
  const down = route.endpoints.filter((endpoint) => endpoint.healthy === false);
  const share = route.canary_percent;
  return html`
    <li class="card route">
      <div class="title">
        <h2>${route.rollout_id ? html`<a href=${rolloutLink(route.rollout_id)}>${route.name}</a>` : route.name}</h2>
        <${Phase} phase=${route.phase} />
        <span class="path">${[...route.hosts, route.path_prefix].join(" ")}</span>
      </div>
      <div class="versions">
        <div>
          <${Swatch} of="stable" /><b>${route.stable ?? "nothing deployed"}</b>${" "}
          <span class="num">${weight(100 - share)} · ${rate(route.stable_per_s)}</span>
        </div>
        <${Split} percent=${share} stable=${route.stable} canary=${route.canary} />
        <div class="right">
          ${route.canary
            ? html`<span class="num">${rate(route.canary_per_s)} · ${weight(share)}</span> <b>${route.canary}</b
                ><${Swatch} of="canary" />`
            : html`<span class="dim">no canary</span>`}
        </div>
      </div>
      <div class="below">
        <span class=${down.length ? "bad" : "dim"}>
          ${down.length
            ? `▲ ${down.length} of ${route.endpoints.length} endpoints down: ${down[0].url}`
            : `${route.endpoints.length} ${route.endpoints.length === 1 ? "endpoint" : "endpoints"} up`}
        </span>
        ${route.warning && html`<span class="held">▲ ${route.warning}</span>`}
        ${route.decision
          ? html`<span class="decision" title=${route.decision}
              >${ago(route.decided_at, now)} by ${route.decided_by}: ${route.decision}</span
            >`
          : html`<span class="dim">no decisions yet</span>`}
        ${route.canary && !active(route.phase) && html`<${StartButton} route=${route} done=${done} />`}
      </div>
    </li>
  `;
}
