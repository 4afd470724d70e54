// The console's frame: which page is open, the stream of events, who is signed in, and how old the picture is.
import { html, render, Component } from "/console/dom.js";
import { EventFeed, get, signIn, signedIn, whenLocked } from "/console/api.js";
import { duration } from "/console/numbers.js";
import { RoutesPage } from "/console/routes.js";
import { RolloutPage } from "/console/rollout.js";
import { HistoryPage } from "/console/history.js";
import { FleetPage } from "/console/fleet.js";
import { ConfigurationPage } from "/console/configuration.js";

const PAGES = [
  ["routes", "Routes", RoutesPage],
  ["history", "History", HistoryPage],
  ["fleet", "Fleet", FleetPage],
  ["configuration", "Configuration", ConfigurationPage],
];
// What the lists follow. The evidence of every rollout would be too much for a page that does not show it.
const DECISIONS =
  "started,warming,waiting,advanced,paused,resumed,weight_set,baking,returning,promoted,rolled_back,withdrawn," +
  "restarted,weight,roles,health,ejection,readiness,worker,alarm";
const STALE_MS = 25_000;

function here() {
  const [page = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  try {
    return { page: page || "routes", name: decodeURIComponent(rest.join("/")) };
  } catch {
    return { page: "routes", name: "" };
  }
}

class App extends Component {
  constructor() {
    super();
    this.state = { at: here(), locked: null, now: Date.now(), problems: [] };
    this.epoch = 0;
  }

  componentDidMount() {
    whenLocked((error) => {
      this.feed?.close();
      this.feed = null;
      this.setState({ locked: signedIn().token ? `This token was refused: ${error.detail || error.title}.` : "" });
    });
    window.addEventListener("hashchange", () => this.go());
    setInterval(() => this.setState({ now: Date.now() }), 1000);
    this.go();
  }

  go() {
    const at = here();
    const kept = this.followed === this.streamOf(at);
    this.setState({ at });
    if (!kept) this.follow(at);
    document.title = `${at.name || PAGES.find(([key]) => key === at.page)?.[1] || "Canary gateway"} · Canary gateway`;
    window.scrollTo(0, 0);
  }

  streamOf({ page, name }) {
    return page === "rollouts" ? `?rollout=${encodeURIComponent(name)}` : `?kinds=${DECISIONS}`;
  }

  follow(at) {
    this.feed?.close();
    this.followed = this.streamOf(at);
    this.feed = new EventFeed(this.followed, {
      onOpen: () => {
        this.page?.refresh?.();
        this.look();
      },
      onEvent: (event) => {
        this.page?.onEvent?.(event);
        if (event.kind === "readiness" || event.kind === "alarm") this.look();
      },
      onChange: () => this.setState({ now: Date.now() }),
    });
  }

  async look() {
    try {
      const { alarms } = await get("/api/v1/alarms");
      this.setState({ problems: alarms });
    } catch {
      // The stream says that the gateway cannot be reached.
    }
  }

  unlock(token, name) {
    signIn(token, name);
    this.setState({ locked: null }, () => this.follow(this.state.at));
  }

  render(_, { at, locked, now, problems }) {
    const active = at.page === "rollouts" ? "routes" : at.page;
    return html`
      <a class="skip" href="#main" onClick=${(event) => skip(event)}>Skip to the page</a>
      <header class="bar">
        <a class="brand" href="#/routes"><img src="/console/icon.svg" alt="" width="22" height="22" /> Canary gateway</a>
        <nav aria-label="Pages">
          ${PAGES.map(
            ([key, title]) =>
              html`<a href=${`#/${key}`} aria-current=${key === active ? "page" : null}>${title}</a>`,
          )}
        </nav>
        <${Freshness} feed=${this.feed} now=${now} locked=${locked !== null} />
        <${Operator} onChange=${(token, name) => this.unlock(token, name)} />
      </header>
      ${problems.length > 0 &&
      locked === null &&
      html`<a class="notice bad" href="#/fleet" role="status">
        <span aria-hidden="true">▲</span> ${problems.length === 1 ? problems[0].reason : `${problems.length} alarms: ${problems[0].reason}; …`}
      </a>`}
      <main id="main" tabindex="-1">
        ${locked === null
          ? this.open(at, now)
          : html`<${SignIn} why=${locked} onSignIn=${(token, name) => this.unlock(token, name)} />`}
      </main>
      <footer>
        <span>Everything here comes from this gateway's own admin API.</span>
      </footer>
    `;
  }

  open(at, now) {
    // A page says that it is there: what happens is told to it alone.
    const attach = (page) => {
      this.page = page;
    };
    if (at.page === "rollouts") return html`<${RolloutPage} key=${at.name} id=${at.name} now=${now} attach=${attach} />`;
    const found = PAGES.find(([key]) => key === at.page);
    if (!found) return html`<h1>No such page</h1><p><a href="#/routes">All routes</a></p>`;
    return html`<${found[2]} key=${at.page} name=${at.name} now=${now} attach=${attach} />`;
  }
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

// How old the picture is. A stream that is open but silent for too long is as good as lost.
function Freshness({ feed, now, locked }) {
  if (locked) return html`<span class="fresh" role="status">signed out</span>`;
  const silentMs = feed ? now - feed.heardMs : 0;
  if (feed?.connected && silentMs < STALE_MS) {
    return html`<span class="fresh live" role="status"><i aria-hidden="true"></i>live</span>`;
  }
  const age = silentMs > 1500 ? `picture is ${duration(Math.floor(silentMs / 1000))} old, reconnecting` : "connecting";
  return html`<span class=${`fresh ${silentMs > 3000 ? "stale" : ""}`} role="status"><i aria-hidden="true"></i>${age}</span>`;
}

// Who acts, and with which token. Both are forgotten when the page is closed or loaded again.
class Operator extends Component {
  render({ onChange }, { open }) {
    const { token, name } = signedIn();
    return html`
      <div class="operator">
        <button class="quiet" aria-expanded=${open ? "true" : "false"} onClick=${() => this.setState({ open: !open })}>
          ${name || (token ? "signed in" : "you")}
        </button>
        ${open &&
        html`<div class="popover">
          <${Credentials}
            label="Use these"
            onSignIn=${(newToken, newName) => {
              onChange(newToken || undefined, newName);
              this.setState({ open: false });
            }}
          />
          ${token &&
          html`<button
            class="quiet"
            onClick=${() => {
              onChange("", "");
              this.setState({ open: false });
            }}
          >
            Sign out
          </button>`}
        </div>`}
      </div>
    `;
  }
}

function Credentials({ label, onSignIn }) {
  const submit = (event) => {
    event.preventDefault();
    const form = event.target;
    onSignIn(form.elements.token.value.trim(), form.elements.operator.value.trim());
    form.reset();
  };
  return html`
    <form class="credentials" onSubmit=${submit} autocomplete="off">
      <label>Your name, for the journal <input name="operator" maxlength="64" defaultValue=${signedIn().name} /></label>
      <label>Token <input name="token" type="password" autocomplete="off" spellcheck="false" /></label>
      <p class="hint">The token stays in this page's memory. Closing or loading the page again forgets it.</p>
      <button class="primary" type="submit">${label}</button>
    </form>
  `;
}

function SignIn({ why, onSignIn }) {
  return html`
    <section class="card narrow">
      <h1>Sign in</h1>
      ${why
        ? html`<p class="notice bad" role="alert">${why} Use a valid one.</p>`
        : html`<p>This gateway asks for a token: one of <code>admin.tokens</code> in its configuration.</p>`}
      <${Credentials} label="Sign in" onSignIn=${onSignIn} />
    </section>
  `;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
