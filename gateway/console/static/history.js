// Past rollouts, newest first: searched and paged by the gateway, so that thousands stay quick.
import { html, Component } from "/console/dom.js";
import { get } from "/console/api.js";
import { count, duration, time } from "/console/numbers.js";
import { Failure, Phase, Swatch, rolloutLink } from "/console/parts.js";

const PAGE = 50;

export class HistoryPage extends Component {
  constructor({ name }) {
    super();
    this.state = { rollouts: null, next: null, search: name ?? "", error: null };
  }

  componentDidMount() {
    this.props.attach(this);
    this.refresh();
  }

  componentWillUnmount() {
    clearTimeout(this.typing);
    clearTimeout(this.soon);
  }

  onEvent(event) {
    if (!event.rollout_id || (this.state.rollouts ?? []).length > PAGE) return;
    this.soon ??= setTimeout(() => {
      this.soon = null;
      this.refresh();
    }, 500);
  }

  async refresh() {
    await this.read(null);
  }

  async read(before) {
    const { search, rollouts } = this.state;
    const query = new URLSearchParams({ limit: PAGE });
    if (search) query.set("search", search);
    if (before) query.set("before", before);
    try {
      const page = await get(`/api/v1/rollouts?${query}`);
      if (search !== this.state.search) return;
      const all = before ? [...rollouts, ...page.rollouts] : page.rollouts;
      this.setState({ rollouts: all, next: page.next_before, error: null });
    } catch (error) {
      this.setState({ error });
    }
  }

  search(text) {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.setState({ search: text }, () => this.refresh()), 200);
  }

  render(_, { rollouts, next, search, error }) {
    return html`
      <div class="head">
        <h1>History</h1>
        <label class="search"
          ><span class="hidden">Search rollouts</span
          ><input
            type="search"
            defaultValue=${search}
            placeholder="Route, version, phase, reason or person"
            onInput=${(e) => this.search(e.target.value)}
        /></label>
      </div>
      ${error && html`<${Failure} error=${error} retry=${() => this.refresh()} />`}
      ${rollouts && rollouts.length === 0 && html`<p class="empty">${search ? "No rollout matches." : "No rollouts yet."}</p>`}
      ${rollouts &&
      rollouts.length > 0 &&
      html`
        <div class="scroll" tabindex="0" role="region" aria-label="Rollouts">
          <table class="list">
            <thead>
              <tr><th>Rollout</th><th>Versions</th><th>Outcome</th><th>Why</th><th class="num">Canary requests</th><th>Began</th><th class="num">Took</th></tr>
            </thead>
            <tbody>
              ${rollouts.map(
                (one) => html`
                  <tr key=${one.id}>
                    <td><a href=${rolloutLink(one.id)}>${one.route}</a><br /><small class="dim">${one.id}</small></td>
                    <td><${Swatch} of="stable" />${one.stable ?? "nothing"}<br /><${Swatch} of="canary" />${one.canary}</td>
                    <td><${Phase} phase=${one.phase} /></td>
                    <td class="why">${one.reason}<br /><small class="dim">by ${one.by}</small></td>
                    <td class="num">${count(one.canary_requests)}</td>
                    <td><time datetime=${one.started_at}>${time(one.started_at)}</time></td>
                    <td class="num">${duration((Date.parse(one.updated_at) - Date.parse(one.started_at)) / 1000)}</td>
                  </tr>
                `,
              )}
            </tbody>
          </table>
        </div>
        ${next && html`<nav class="pager" aria-label="Older rollouts"><button onClick=${() => this.read(next)}>Show older ones</button></nav>`}
      `}
    `;
  }
}
