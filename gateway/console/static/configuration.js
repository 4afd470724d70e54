// The configuration as it is served, each value with where it came from.
import { html, Component } from "/console/dom.js";
import { get } from "/console/api.js";
import { time } from "/console/numbers.js";
import { Failure } from "/console/parts.js";

const SHOWN = 400;

export class ConfigurationPage extends Component {
  constructor() {
    super();
    this.state = { rows: null, source: null, search: "", given: false, error: null };
  }

  componentDidMount() {
    this.props.attach(this);
    this.refresh();
  }

  async refresh() {
    try {
      const [given, whole, source] = await Promise.all(
        ["config", "config?defaults=true", "config/source"].map((what) => get(`/api/v1/${what}`)),
      );
      const lines = new Map(source.lines.map(({ path, line }) => [JSON.stringify(path), line]));
      this.setState({ rows: [...flattened(whole, given, lines, [], [])], source, error: null });
    } catch (error) {
      this.setState({ error });
    }
  }

  render(_, { rows, source, search, given, error }) {
    const wanted = (rows ?? []).filter(
      (row) => (!given || row.given) && (!search || `${row.path} ${row.value}`.toLowerCase().includes(search.toLowerCase())),
    );
    return html`
      <div class="head">
        <h1>Configuration</h1>
        <label class="search"
          ><span class="hidden">Search keys and values</span
          ><input type="search" placeholder="Search keys and values" onInput=${(e) => this.setState({ search: e.target.value })}
        /></label>
        <label class="check"><input type="checkbox" checked=${given} onChange=${(e) => this.setState({ given: e.target.checked })} /> Only what was given</label>
      </div>
      ${error && html`<${Failure} error=${error} retry=${() => this.refresh()} />`}
      ${source && html`<p>${origin(source)}</p>`}
      ${rows &&
      html`
        <div class="scroll card flush" tabindex="0" role="region" aria-label="Configuration">
          <table class="list keys">
            <thead><tr><th>Key</th><th>Value</th><th>Comes from</th></tr></thead>
            <tbody>
              ${wanted.slice(0, SHOWN).map(
                (row) => html`<tr key=${row.path} class=${row.given ? "" : "dim"}>
                  <td class="path">${row.path}</td><td class="path">${row.value}</td><td>${cameFrom(row, source)}</td>
                </tr>`,
              )}
            </tbody>
          </table>
        </div>
        <p class="dim">${wanted.length > SHOWN ? `The first ${SHOWN} of ${wanted.length} values: search to narrow them down.` : `${wanted.length} values.`} Secrets are not shown.</p>
      `}
    `;
  }
}

function origin(source) {
  if (source.source === "api") return `In force: what ${source.by} gave over the API at ${time(source.at)}, in place of ${source.file}.`;
  return `In force: ${source.file}, as it was when the gateway last read it.`;
}

// The file's name is short here; its whole path stands above.
function cameFrom(row, source) {
  if (!row.given) return "default";
  if (row.line) return `${source.file.split("/").pop()}:${row.line}`;
  return source.source === "api" ? "given over the API" : "the file";
}

// Every leaf with its path; `given` is the same tree without defaults. Entries of a list are named where they have names;
// `exact` is the path with their numbers, by which `lines` knows the line of the file.
function* flattened(whole, given, lines, path, exact) {
  if (Array.isArray(whole) && whole.some((entry) => entry !== null && typeof entry === "object")) {
    for (const [at, entry] of whole.entries()) {
      const inner = Array.isArray(given) ? given[at] : undefined;
      yield* flattened(entry, inner, lines, [...path, entry?.name ?? String(at)], [...exact, at]);
    }
  } else if (whole !== null && typeof whole === "object" && !Array.isArray(whole) && Object.keys(whole).length > 0) {
    for (const key of Object.keys(whole)) {
      const inner = given !== null && typeof given === "object" ? given[key] : undefined;
      yield* flattened(whole[key], inner, lines, [...path, key], [...exact, key]);
    }
  } else {
    const value = typeof whole === "string" ? whole : Array.isArray(whole) ? whole.join(", ") || "[]" : JSON.stringify(whole);
    yield { path: path.join("."), value, given: given !== undefined, line: lines.get(JSON.stringify(exact)) };
  }
}
