// Charts on uPlot: lines with bands, thresholds and marks, drawn in the colours of the style sheet.
import { html, Component } from "/console/dom.js";

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const printing = matchMedia("print");
const dark = matchMedia("(prefers-color-scheme: dark)");

export class Chart extends Component {
  componentDidMount() {
    this.resize = new ResizeObserver(() => this.fit());
    this.resize.observe(this.box);
    this.again = () => this.build();
    dark.addEventListener("change", this.again);
    printing.addEventListener("change", this.again);
    if (!window.uPlot) window.addEventListener("load", this.again, { once: true });
    this.build();
  }

  componentWillUnmount() {
    this.resize.disconnect();
    dark.removeEventListener("change", this.again);
    printing.removeEventListener("change", this.again);
    this.plot?.destroy();
  }

  componentDidUpdate(before) {
    if (!this.plot || shape(before) !== shape(this.props)) this.build();
    else if (before.data !== this.props.data) this.plot.setData(this.props.data);
  }

  fit() {
    const width = this.box.clientWidth;
    if (this.plot && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: this.props.height ?? 200 });
    else if (!this.plot && width > 0) this.build();
  }

  build() {
    this.plot?.destroy();
    this.plot = null;
    const { data, log, xLog, height = 200, format, xFormat, sync, lines, bands = [] } = this.props;
    const width = this.box.clientWidth;
    if (!window.uPlot || width === 0 || data[0].length < 2) return;
    const ink = style("--dim");
    const grid = { stroke: style("--line"), width: 1 };
    const axis = { stroke: ink, grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    this.plot = new window.uPlot(
      {
        width,
        height,
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { show: false }, sync: sync ? { key: sync } : undefined },
        scales: {
          x: xLog ? { time: false, distr: 3 } : { time: true },
          y: log ? { distr: 3, range: (_, low, high) => this.logRange(low, high) } : { range: (_, low, high) => this.range(low, high) },
        },
        axes: [
          { ...axis, size: 28, space: 90, values: (_, splits) => splits.map((v) => (v === null ? "" : (xFormat ?? clock)(v))) },
          { ...axis, size: 74, values: (_, splits) => splits.map((v) => (v === null ? "" : format(v))) },
        ],
        series: [
          {},
          ...lines.map((line) => ({
            label: line.label,
            stroke: () => style(line.color),
            width: line.width ?? 2,
            dash: line.dash,
            fill: line.fill ? () => style(line.fill) : undefined,
            paths: line.steps ? window.uPlot.paths.stepped({ align: 1 }) : undefined,
            points: { show: false },
            spanGaps: true,
          })),
        ],
        bands: bands.map((band) => ({ series: band.series, fill: () => style(band.color) })),
        hooks: {
          drawAxes: [(plot) => this.under(plot)],
          draw: [(plot) => this.over(plot)],
          setCursor: [(plot) => this.read(plot)],
        },
      },
      data,
      this.box,
    );
  }

  // Both thresholds and nothing else decide how much is seen of a path that is far from them.
  range(low, high) {
    const levels = (this.props.levels ?? []).map((level) => level.value).filter(Number.isFinite);
    const ends = [low, high, ...levels].filter(Number.isFinite);
    if (ends.length === 0) return [0, 1];
    const [from, to] = [Math.min(...ends), Math.max(...ends)];
    const room = (to - from || Math.abs(to) || 1) * 0.12;
    return [this.props.floor !== undefined ? Math.min(this.props.floor, from) : from - room, to + room];
  }

  logRange(low, high) {
    const levels = (this.props.levels ?? []).map((level) => level.value);
    const to = Math.max(100, high ?? 1, ...levels) * 2.5;
    return [0.5, to];
  }

  under(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    for (const level of this.props.levels ?? []) {
      const y = Math.round(plot.valToPos(level.value, "y", true));
      if (y < bbox.top - 1 || y > bbox.top + bbox.height + 1) continue;
      ctx.strokeStyle = style(level.color);
      ctx.lineWidth = 1.5 * devicePixelRatio;
      ctx.setLineDash(level.solid ? [] : [6 * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      if (level.label) {
        ctx.fillStyle = style(level.color);
        ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
        ctx.textAlign = "left";
        ctx.textBaseline = "bottom";
        ctx.fillText(level.label, bbox.left + 6 * devicePixelRatio, y - 3 * devicePixelRatio);
      }
    }
    ctx.restore();
  }

  over(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    for (const mark of this.props.marks ?? []) {
      const x = Math.round(plot.valToPos(mark.at, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = style(mark.color);
      ctx.fillStyle = style(mark.color);
      ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.beginPath();
      ctx.arc(x, bbox.top + 4 * devicePixelRatio, 3 * devicePixelRatio, 0, 7);
      ctx.fill();
    }
    ctx.restore();
  }

  read(plot) {
    const at = plot.cursor.idx;
    if (at === null || at === undefined) {
      this.readout.textContent = "";
      return;
    }
    const { lines, data, format, xFormat } = this.props;
    const where = (xFormat ?? clock)(data[0][at]);
    const said = lines.filter((line) => line.label && data[lines.indexOf(line) + 1][at] !== null);
    this.readout.textContent = `${where}   ${said.map((line) => `${line.label} ${(line.format ?? format)(data[lines.indexOf(line) + 1][at])}`).join("   ")}`;
  }

  render({ title, describe, lines, levels = [], bands = [], data, empty, marks }) {
    const few = data[0].length < 2;
    return html`
      <figure class="chart">
        <figcaption>
          <b>${title}</b>
          <ul class="legend">
            ${lines.filter((line) => line.label && !line.hidden).map((line) => html`<li><i class=${`key ${line.dash ? "dashed" : ""}`} style=${{ borderColor: `var(${line.color})` }}></i>${line.label}</li>`)}
            ${bands.map((band) => band.label && html`<li><i class="key block" style=${{ background: `var(${band.color})` }}></i>${band.label}</li>`)}
            ${levels.map((level) => level.key && html`<li><i class=${`key ${level.solid ? "" : "dashed"}`} style=${{ borderColor: `var(${level.color})` }}></i>${level.key}</li>`)}
            ${marks?.length > 0 && html`<li><i class="key dot"></i>decision</li>`}
          </ul>
        </figcaption>
        <div class="plot" role="img" aria-label=${describe} ref=${(box) => (this.box = box ?? this.box)}>
          ${few && html`<p class="empty">${empty ?? "Not enough data yet."}</p>`}
        </div>
        <output class="readout" aria-hidden="true" ref=${(one) => (this.readout = one ?? this.readout)}></output>
      </figure>
    `;
  }
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
}

function shape({ title, lines, bands, log, data }) {
  return JSON.stringify([title, lines.map(({ label, color, dash, width }) => [label, color, dash, width]), bands, log, data[0].length < 2]);
}
