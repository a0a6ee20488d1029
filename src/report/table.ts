/** Text for people: tables without borders that fit the terminal they are shown on. */

import Table from 'cli-table3';

/** The library's own colours are off: it would ask the environment another way than `wantsColour`. */
const BORDERLESS = { style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [], compact: true } };

/** No lines but one below the heading, and `gap` spaces between columns. */
function borderless(gap: number): Record<string, string> {
  return {
    top: '', 'top-mid': '', 'top-left': '', 'top-right': '',
    bottom: '', 'bottom-mid': '', 'bottom-left': '', 'bottom-right': '',
    left: '', 'left-mid': '', right: '', 'right-mid': '',
    mid: '─', 'mid-mid': '─'.repeat(gap), middle: ' '.repeat(gap),
  };
}

const DEFAULT_COLUMNS = 80;
const NARROWEST_COLUMNS = 20;

// ── terminal ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** The part of a stream that decides how text is laid out on it. */
export interface Screen {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

/** Columns of a terminal; 80 where there is none, never below 20. */
export function columnsOf(screen: Screen = process.stdout): number {
  const columns = screen.isTTY === true ? screen.columns : undefined;
  return Math.max(NARROWEST_COLUMNS, columns === undefined || columns <= 0 ? DEFAULT_COLUMNS : columns);
}

/** Colours only on a terminal that can, and where NO_COLOR (https://no-color.org) is unset or empty. */
export function wantsColour(screen: Screen = process.stdout, env: NodeJS.ProcessEnv = process.env): boolean {
  return screen.isTTY === true && (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb';
}

export function bold(text: string, colour: boolean): string {
  return colour && text !== '' ? `\x1b[1m${text}\x1b[22m` : text;
}

export function dim(text: string, colour: boolean): string {
  return colour && text !== '' ? `\x1b[2m${text}\x1b[22m` : text;
}

/** Letters of one column each; the dash, dots and bars are our own. */
const NARROW = /^[\x20-\x7e\xa0-\xa8\xaa-\xac\xaf-\xff–…─█░]*$/;

/**
 * Columns that one line without control characters takes. Scripts with wide or combining letters are measured by
 * the table library itself, from how far it pads an empty cell below: two opinions on a width would tear a table apart.
 */
export function widthOf(text: string): number {
  if (NARROW.test(text)) return text.length;
  const table = new Table({ ...BORDERLESS, chars: borderless(0) });
  table.push([text], ['']);
  return table.toString().split('\n')[1]?.length ?? 0;
}

/** One line of text that is safe to print: names come from files, and must not move the cursor. */
export function printable(text: string): string {
  return text.replace(/\p{C}/gu, '?');
}

/** Shortens a text to `width` columns by leaving out its middle: names tend to differ at both ends. */
export function clip(text: string, width: number): string {
  if (widthOf(text) <= width) return text;
  const characters = [...text];
  let head = characters.splice(0, Math.ceil(characters.length / 2));
  let tail = characters;
  while (widthOf(head.join('')) + widthOf(tail.join('')) + 1 > width && head.length + tail.length > 0) {
    if (head.length > tail.length) head = head.slice(0, -1);
    else tail = tail.slice(1);
  }
  return width < 1 ? '' : `${head.join('')}…${tail.join('')}`;
}

/** Breaks a text between words; lines after the first begin with `indent` spaces. A longer word is cut. */
export function wrap(text: string, columns: number, indent = 0): string {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    const grown = line === '' ? word : `${line} ${word}`;
    if (line.trim() !== '' && widthOf(grown) > columns) {
      lines.push(line);
      line = ' '.repeat(indent) + clip(word, columns - indent);
    } else {
      line = clip(grown, columns);
    }
  }
  lines.push(line);
  return lines.map((each) => each.trimEnd()).join('\n');
}

// ── tables ─────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface Column {
  /** Heading; a line break makes it two lines. */
  readonly head: string;
  /** Numbers go right, the default of all but the first column. */
  readonly align?: 'left' | 'right';
}

export interface TableOptions {
  /** Columns of the terminal; default: those of stdout. */
  readonly columns?: number;
  /** Default: whether stdout wants colours. */
  readonly colour?: boolean;
}

/**
 * A table as text without a final line break; no line is longer than the terminal is wide.
 * What does not fit beside the first column goes into further blocks below, each of which repeats the first column.
 */
export function renderTable(columns: readonly Column[], rows: readonly (readonly string[])[], options: TableOptions = {}): string {
  for (const row of rows) {
    if (row.length !== columns.length) throw new RangeError(`table: a row has ${row.length} cells, the table ${columns.length} columns`);
  }
  if (columns.length === 0) return '';
  const screen = options.columns ?? columnsOf();
  const colour = options.colour ?? wantsColour();
  const cells = rows.map((row) => row.map(printable));
  const natural = columns.map(({ head }, x) => Math.max(...head.split('\n').map(widthOf), ...cells.map((row) => widthOf(row[x]!))));
  const total = natural.reduce((sum, width) => sum + width, 0);
  const gap = total + 2 * (columns.length - 1) <= screen ? 2 : 1;

  const keyMax = columns.length === 1 ? screen : Math.max(1, Math.floor(screen / 2) - gap);
  const keyWidth = Math.min(natural[0]!, keyMax);
  const blocks: number[][] = [[0]];
  let used = keyWidth;
  for (let x = 1; x < columns.length; x++) {
    const width = Math.min(natural[x]!, screen - keyWidth - gap);
    if (used + gap + width > screen && blocks.at(-1)!.length > 1) {
      blocks.push([0]);
      used = keyWidth;
    }
    blocks.at(-1)!.push(x);
    used += gap + width;
  }
  const widthAt = (x: number): number => Math.min(natural[x]!, x === 0 ? keyWidth : screen - keyWidth - gap);
  return blocks.map((block) => renderBlock(block, columns, cells, widthAt, gap, colour)).join('\n\n');
}

function renderBlock(
  block: readonly number[],
  columns: readonly Column[],
  cells: readonly (readonly string[])[],
  widthAt: (x: number) => number,
  gap: number,
  colour: boolean,
): string {
  const table = new Table({
    ...BORDERLESS,
    head: block.map((x) => columns[x]!.head.split('\n').map((line) => bold(clip(line, widthAt(x)), colour)).join('\n')),
    colWidths: block.map(widthAt),
    colAligns: block.map((x) => columns[x]!.align ?? (x === 0 ? 'left' : 'right')),
    rowAligns: ['bottom'],
    chars: borderless(gap),
  });
  for (const row of cells) table.push(block.map((x) => clip(row[x]!, widthAt(x))));
  return table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}
