/** A progress bar of one line on a terminal's stderr. Elsewhere it prints nothing, so that logs stay clean. */

import { clip, columnsOf, printable, wantsColour, widthOf } from './table.js';
import type { Screen } from './table.js';

/** Below this a bar says nothing. */
const NARROWEST_COLUMNS = 40;
/** The bar gives way to the note down to the shorter width. */
const SHORTEST_BAR = 10;
const WIDEST_BAR = 30;
/** Redrawing costs a system call and flickers: ten times a second is smooth enough. */
const REDRAW_MS = 100;
const ERASE_LINE = '\r\x1b[2K';

export interface ProgressOptions {
  /** Where the bar is drawn; default stderr. */
  readonly stream?: Screen & { write(text: string): unknown };
  readonly env?: NodeJS.ProcessEnv;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

export class Progress {
  readonly #label: string;
  readonly #total: number;
  readonly #stream: Screen & { write(text: string): unknown };
  readonly #colour: boolean;
  readonly #now: () => number;
  #shown: boolean;
  #drawn = false;
  #nextDrawMs = -Infinity;

  /** `total` is what `done` counts up to, in any unit; 0 where it is not known: then only label and note are shown. */
  constructor(label: string, total: number, options: ProgressOptions = {}) {
    const env = options.env ?? process.env;
    this.#label = printable(label);
    this.#total = total;
    this.#stream = options.stream ?? process.stderr;
    this.#colour = wantsColour(this.#stream, env);
    this.#now = options.now ?? (() => performance.now());
    this.#shown = this.#stream.isTTY === true && env['TERM'] !== 'dumb' && columnsOf(this.#stream) >= NARROWEST_COLUMNS;
  }

  /** Shows that `done` of the total is done, and a few words. Cheap: most calls draw nothing. */
  update(done: number, note = ''): void {
    if (!this.#shown) return;
    const nowMs = this.#now();
    if (nowMs < this.#nextDrawMs && !(done >= this.#total && this.#total > 0)) return;
    this.#nextDrawMs = nowMs + REDRAW_MS;
    this.#drawn = true;
    this.#stream.write(ERASE_LINE + this.#line(done, printable(note)));
  }

  /** Erases the bar. Later updates draw nothing. */
  end(): void {
    if (this.#drawn) this.#stream.write(ERASE_LINE);
    this.#shown = false;
    this.#drawn = false;
  }

  #line(done: number, note: string): string {
    const room = columnsOf(this.#stream) - 1; // a full last column makes some terminals wrap
    if (!(this.#total > 0)) return clip(`${this.#label}  ${note}`.trimEnd(), room);
    const share = Math.min(1, Math.max(0, done / this.#total)) || 0;
    const label = clip(this.#label, Math.floor(room / 3));
    const figure = `${Math.floor(share * 100)} %`.padStart(6);
    const left = room - widthOf(label) - 1 - figure.length;
    const width = Math.min(WIDEST_BAR, Math.max(SHORTEST_BAR, left - (note === '' ? 0 : widthOf(note) + 2)));
    const filled = Math.floor(share * width);
    const bar = '█'.repeat(filled);
    const rest = '░'.repeat(width - filled);
    const noteRoom = left - width - 2;
    const tail = note === '' || noteRoom < 4 ? '' : `  ${clip(note, noteRoom)}`;
    return `${label} ${this.#colour ? `\x1b[36m${bar}\x1b[39m` : bar}${rest}${figure}${tail}`;
  }
}
