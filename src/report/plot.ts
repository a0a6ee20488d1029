/**
 * A page with charts that opens without a server and without network: one HTML file, the charts inline SVG, light and
 * dark by the reader's preference.
 */
import { percent } from './units.js';

/** What a part of a bar stands for; the colour follows. */
export type Tone = 'good' | 'late' | 'dropped' | 'busy';

export interface Segment {
  readonly value: number;
  readonly tone: Tone;
  /** Shown when pointed at. */
  readonly title: string;
}

export interface Bar {
  readonly label: string;
  readonly segments: readonly Segment[];
  /** Written behind the bar. */
  readonly text: string;
}

/** A value to compare with: a line across all bars. */
export interface Mark {
  readonly value: number;
  readonly label: string;
}

/** Lying bars, one below the other, from 0. */
export interface BarChart {
  readonly kind: 'bars';
  readonly title: string;
  readonly note: string;
  readonly bars: readonly Bar[];
  readonly marks: readonly Mark[];
  /** What the tones mean; none where there is one only. */
  readonly legend: readonly (readonly [Tone, string])[];
}

/** Standing columns of shares (0 … 1), one for each number from 0. */
export interface ColumnChart {
  readonly kind: 'columns';
  readonly title: string;
  readonly note: string;
  readonly shares: readonly number[];
  /** What a number counts: `GPU`. */
  readonly what: string;
}

/** Values at even distances in time, as lines from 0. */
export interface LineChart {
  readonly kind: 'lines';
  readonly title: string;
  readonly note: string;
  readonly lines: readonly { readonly tone: Tone | 'mark'; readonly label: string; readonly values: readonly number[] }[];
  /** Below the time axis, evenly spread from its begin to its end. */
  readonly ticks: readonly string[];
  /** A value in words, for the axis. */
  readonly text: (value: number) => string;
}

export interface PlotPage {
  readonly title: string;
  readonly subtitle: string;
  readonly charts: readonly (BarChart | ColumnChart | LineChart)[];
}

/** In the units of the drawing, which is scaled to the width of the page. */
const WIDTH = 760;
const LABEL_WIDTH = 158;
const TEXT_WIDTH = 150;
const ROW_HEIGHT = 34;
const BAR_HEIGHT = 20;
const MARK_ROW = 18;
const COLUMNS_LEFT = 46;
const COLUMNS_HEIGHT = 120;
const LINES_HEIGHT = 180;
const AXIS_HEIGHT = 22;
/** More columns than this would be thinner than a line: neighbours are drawn as their mean. */
const MOST_COLUMNS = 256;
/** Letters are about this wide at the size of the labels. */
const LETTER_WIDTH = 7.2;

const STYLE = `
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d2430; --soft: #5d6878; --line: #d5dae2; --good: #2f6fc4; --late: #e0a100; --dropped: #c8432f; --busy: #2a8c82; --mark: #6b4fa0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181f; --ink: #e6eaf0; --soft: #9aa5b5; --line: #343c49; --good: #5b9bea; --late: #e8b93c; --dropped: #e8705c; --busy: #4bb5a8; --mark: #b39ae8; }
}
body { margin: 0 auto; max-width: 800px; padding: 24px 20px 48px; background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 0 0 4px; }
h2 { font-size: 16px; margin: 32px 0 2px; }
p { margin: 0 0 10px; color: var(--soft); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
text { fill: var(--ink); font: 13px system-ui, sans-serif; }
text.soft { fill: var(--soft); font-size: 12px; }
text.mark { fill: var(--mark); font-size: 12px; }
line { stroke: var(--line); }
line.mark { stroke: var(--mark); stroke-dasharray: 5 4; }
rect.good { fill: var(--good); } rect.late { fill: var(--late); } rect.dropped { fill: var(--dropped); } rect.busy { fill: var(--busy); } rect.mark { fill: var(--mark); } polyline { fill: none; stroke-width: 1.5; } polyline.good { stroke: var(--good); } polyline.late { stroke: var(--late); } polyline.dropped { stroke: var(--dropped); } polyline.busy { stroke: var(--busy); } polyline.mark { stroke: var(--mark); }
rect.track { fill: var(--line); opacity: .35; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 8px; color: var(--soft); font-size: 13px; }
.legend svg { display: inline-block; width: 12px; height: 12px; margin-right: 6px; vertical-align: -1px; }
`;

/** The whole file. */
export function plotPage({ title, subtitle, charts }: PlotPage): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${escaped(title)}</h1>
<p>${escaped(subtitle)}</p>
${charts.map((chart) => (chart.kind === 'bars' ? barChart(chart) : chart.kind === 'columns' ? columnChart(chart) : lineChart(chart))).join('\n')}
</body>
</html>
`;
}

function barChart({ title, note, bars, marks, legend }: BarChart): string {
  const most = Math.max(...bars.map(total), ...marks.map(({ value }) => value), 1e-9);
  const room = WIDTH - LABEL_WIDTH - TEXT_WIDTH;
  const x = (value: number): number => LABEL_WIDTH + (value / most) * room;
  const top = marks.length * MARK_ROW;
  const bottom = top + bars.length * ROW_HEIGHT;
  const rows = bars.map((bar, row) => barRow(bar, top + row * ROW_HEIGHT, x));
  // Each label stands left of its line, and the highest value on top: so no line crosses a label.
  const lines = [...marks].sort((a, b) => b.value - a.value).map(({ value, label }, row) => {
    const at = x(value);
    const anchor = at - label.length * LETTER_WIDTH > 0 ? 'end' : 'start';
    return `<line class="mark" x1="${px(at)}" y1="${row * MARK_ROW + 4}" x2="${px(at)}" y2="${bottom}"/>`
      + `<text class="mark" x="${px(at + (anchor === 'end' ? -5 : 5))}" y="${row * MARK_ROW + 13}" text-anchor="${anchor}">${escaped(label)}</text>`;
  });
  const axis = `<line x1="${LABEL_WIDTH}" y1="${top}" x2="${LABEL_WIDTH}" y2="${bottom}"/>`;
  return section(title, note, `${legendOf(legend)}${svg(bottom, title, [axis, ...rows, ...lines])}`);
}

function barRow(bar: Bar, y: number, x: (value: number) => number): string {
  const middle = y + ROW_HEIGHT / 2;
  const parts = [`<text x="${LABEL_WIDTH - 10}" y="${middle + 4.5}" text-anchor="end">${escaped(clipped(bar.label, LABEL_WIDTH - 14))}</text>`];
  let from = 0;
  for (const { value, tone, title } of bar.segments) {
    if (value > 0) parts.push(`<rect class="${tone}" x="${px(x(from))}" y="${middle - BAR_HEIGHT / 2}" width="${px(x(from + value) - x(from))}" height="${BAR_HEIGHT}"><title>${escaped(title)}</title></rect>`);
    from += value;
  }
  parts.push(`<text class="soft" x="${WIDTH}" y="${middle + 4.5}" text-anchor="end">${escaped(bar.text)}</text>`);
  return parts.join('');
}

function columnChart({ title, note, shares, what }: ColumnChart): string {
  const perColumn = Math.ceil(shares.length / MOST_COLUMNS);
  const count = Math.ceil(shares.length / perColumn);
  // Few columns stay as narrow as many: a page of several charts is compared column by column.
  const pitch = Math.min(48, (WIDTH - COLUMNS_LEFT) / count);
  const width = pitch * 0.78;
  const right = COLUMNS_LEFT + pitch * count;
  const y = (share: number): number => 8 + (1 - share) * COLUMNS_HEIGHT;
  const parts = [0, 0.5, 1].map((share) => `<line x1="${COLUMNS_LEFT}" y1="${y(share)}" x2="${px(right)}" y2="${y(share)}"/><text class="soft" x="${COLUMNS_LEFT - 6}" y="${y(share) + 4}" text-anchor="end">${share * 100} %</text>`);
  // A number below every so many columns, so that they do not touch.
  const every = Math.ceil((String(shares.length).length * LETTER_WIDTH + 8) / pitch);
  for (let column = 0; column < count; column++) {
    const first = column * perColumn;
    const part = shares.slice(first, first + perColumn);
    const share = part.reduce((sum, each) => sum + each, 0) / part.length;
    const left = COLUMNS_LEFT + column * pitch + (pitch - width) / 2;
    const name = part.length === 1 ? `${what} ${first}` : `${what}s ${first} to ${first + part.length - 1}`;
    parts.push(`<rect class="track" x="${px(left)}" y="${y(1)}" width="${px(width)}" height="${COLUMNS_HEIGHT}"><title>${escaped(`${name}: ${percent(share, 1)}`)}</title></rect>`);
    parts.push(`<rect class="busy" x="${px(left)}" y="${px(y(share))}" width="${px(width)}" height="${px(y(0) - y(share))}"><title>${escaped(`${name}: ${percent(share, 1)}`)}</title></rect>`);
    if (column % every === 0) parts.push(`<text class="soft" x="${px(left + width / 2)}" y="${y(0) + 16}" text-anchor="middle">${first}</text>`);
  }
  return section(title, note, svg(8 + COLUMNS_HEIGHT + AXIS_HEIGHT, title, parts));
}

function lineChart({ title, note, lines, ticks, text }: LineChart): string {
  const most = Math.max(...lines.flatMap(({ values }) => values), 1e-9);
  const right = WIDTH - 8;
  const y = (value: number): number => 8 + (1 - value / most) * LINES_HEIGHT;
  const parts = [0, 0.5, 1].map((share) => `<line x1="${COLUMNS_LEFT}" y1="${y(share * most)}" x2="${right}" y2="${y(share * most)}"/><text class="soft" x="${COLUMNS_LEFT - 6}" y="${y(share * most) + 4}" text-anchor="end">${escaped(text(share * most))}</text>`);
  for (const { tone, label, values } of lines) {
    const step = (right - COLUMNS_LEFT) / values.length;
    // A value holds until the next one.
    const points = values.flatMap((value, k) => [k, k + 1].map((at) => `${px(COLUMNS_LEFT + at * step)},${px(y(value))}`));
    parts.push(`<polyline class="${tone}" points="${points.join(' ')}"><title>${escaped(label)}</title></polyline>`);
  }
  ticks.forEach((tick, k) => parts.push(`<text class="soft" x="${px(COLUMNS_LEFT + (k * (right - COLUMNS_LEFT)) / (ticks.length - 1))}" y="${8 + LINES_HEIGHT + 16}" text-anchor="middle">${escaped(tick)}</text>`));
  return section(title, note, `${legendOf(lines.map(({ tone, label }) => [tone, label]))}${svg(8 + LINES_HEIGHT + AXIS_HEIGHT, title, parts)}`);
}

function legendOf(legend: readonly (readonly [Tone | 'mark', string])[]): string {
  const keys = legend.map(([tone, what]) => `<span><svg viewBox="0 0 12 12"><rect class="${tone}" width="12" height="12" rx="2"/></svg>${escaped(what)}</span>`);
  return keys.length === 0 ? '' : `<div class="legend">${keys.join('')}</div>\n`;
}

function section(title: string, note: string, content: string): string {
  return `<section>\n<h2>${escaped(title)}</h2>\n<p>${escaped(note)}</p>\n${content}\n</section>`;
}

function svg(height: number, label: string, parts: readonly string[]): string {
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escaped(label)}">\n${parts.join('\n')}\n</svg>`;
}

function total(bar: Bar): number {
  return bar.segments.reduce((sum, { value }) => sum + value, 0);
}

function px(value: number): string {
  return (Math.round(value * 10) / 10).toString();
}

function clipped(text: string, width: number): string {
  const most = Math.floor(width / LETTER_WIDTH);
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

/** Names come from files. */
function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
