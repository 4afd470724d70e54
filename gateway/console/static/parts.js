// What several pages show: phases, versions, errors, empty lists.
import { html } from "/console/dom.js";

// Each phase has a word, a mark and a colour: none of them carries the meaning alone.
const PHASES = {
  IDLE: ["no rollout", "○", "plain"],
  WARMING: ["warming up", "◔", "going"],
  WAITING: ["waiting", "◷", "held"],
  PROGRESSING: ["progressing", "◐", "going"],
  PAUSED: ["paused", "Ⅱ", "held"],
  BAKING: ["baking", "◕", "going"],
  RETURNING: ["rolling back", "↩", "bad"],
  PROMOTED: ["promoted", "✓", "good"],
  ROLLED_BACK: ["rolled back", "✕", "bad"],
  WITHDRAWN: ["withdrawn", "–", "plain"],
};

// The metrics of what the models answer.
export const PREDICTED = /^(class_|over_p|low_confidence$|unreadable$|nan$|empty$|finish_|tool_|bad_tool_arguments$|refusal$|empty_answer$|json_text$)/;

export function active(phase) {
  return ["WARMING", "WAITING", "PROGRESSING", "PAUSED", "BAKING", "RETURNING"].includes(phase);
}

export function phaseWord(phase) {
  return PHASES[phase]?.[0] ?? String(phase).toLowerCase();
}

export function Phase({ phase }) {
  const [word, mark, tone] = PHASES[phase] ?? [phase, "?", "plain"];
  return html`<span class=${`pill ${tone}`}><span aria-hidden="true">${mark}</span> ${word}</span>`;
}

const VERDICTS = {
  PASS: ["good enough", "✓", "good"],
  FAIL: ["worse", "✕", "bad"],
  UNDECIDED: ["undecided", "·", "plain"],
  NODATA: ["no data", "–", "plain"],
  ERROR: ["cannot be judged", "!", "held"],
};

export function Verdict({ verdict }) {
  const [word, mark, tone] = VERDICTS[verdict] ?? [verdict, "?", "plain"];
  return html`<span class=${`pill ${tone}`}><span aria-hidden="true">${mark}</span> ${word}</span>`;
}

export function Swatch({ of }) {
  return html`<i class=${`swatch ${of}`} aria-hidden="true"></i>`;
}

// Traffic as one bar: stable from the left, the canary from the right.
export function Split({ percent, stable, canary }) {
  const shown = percent > 0 && percent < 1.5 ? 1.5 : percent;
  return html`<span
    class="split"
    role="img"
    aria-label=${`${percent} % of requests go to ${canary ?? "no canary"}, the rest to ${stable ?? "nothing"}`}
    >${shown > 0 && html`<span style=${{ width: `${shown}%` }}></span>`}</span
  >`;
}

export function Failure({ error, retry }) {
  return html`
    <div class="notice bad" role="alert">
      <strong>${error.title ?? "Cannot reach the gateway"}</strong> ${error.detail || error.message}
      ${retry && html` <button onClick=${retry}>Try again</button>`}
    </div>
  `;
}

export function rolloutLink(id) {
  return `#/rollouts/${encodeURIComponent(id)}`;
}

// Hand a text to the person as a file. The address of the text lives for a moment only.
export function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
