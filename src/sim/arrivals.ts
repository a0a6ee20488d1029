import { describeValue } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import type { Random } from '../model/random.js';

/** How requests arrive: evenly, as a Poisson process, or in bursts (gamma gaps of a shape below 1). */
export interface ArrivalPattern {
  readonly kind: 'const' | 'poisson' | 'gamma';
  /** Shape of the gaps' gamma distribution; 1 for Poisson, Infinity for const. Their squared coefficient of variation is 1 / shape. */
  readonly shape: number;
}

/** A stream of arrivals. */
export interface ArrivalProcess {
  /** Whole nanoseconds from the last arrival (at first: from the start) to the next one, at least 0. */
  nextGapNs(): number;
}

const PATTERN = /^(?:(const|poisson)|gamma:(\d+(?:\.\d*)?|\.\d+))$/;
const SMALLEST_SHAPE = 0.001;
const LARGEST_SHAPE = 1e6;

/**
 * Reads `'const'`, `'poisson'` or `'gamma:SHAPE'`.
 * @throws InvalidOptionError for anything else.
 */
export function parseArrivals(value: unknown, path: string): ArrivalPattern {
  const match = typeof value === 'string' ? PATTERN.exec(value) : null;
  if (match?.[1] === 'const') return { kind: 'const', shape: Infinity };
  if (match?.[1] === 'poisson') return { kind: 'poisson', shape: 1 };
  const shape = Number(match?.[2]);
  if (shape >= SMALLEST_SHAPE && shape <= LARGEST_SHAPE) return { kind: 'gamma', shape };
  throw new InvalidOptionError(path, `got ${describeValue(value)}, must be "const", "poisson" or "gamma:SHAPE" ` +
    `with a shape from ${SMALLEST_SHAPE} to ${LARGEST_SHAPE}, such as "gamma:0.1"`);
}

/** The inverse of `parseArrivals`. */
export function formatArrivals(pattern: ArrivalPattern): string {
  return pattern.kind === 'gamma' ? `gamma:${pattern.shape}` : pattern.kind;
}

/** A gap in units of `meanDraw`. */
export function drawGap(random: Random, shape: number): number {
  if (shape === Infinity) return 1;
  if (shape === 1) return random.exponential();
  return random.gamma(shape);
}

/** The mean of `drawGap`. */
export function meanDraw({ kind, shape }: ArrivalPattern): number {
  return kind === 'gamma' ? shape : 1;
}

/** @throws InvalidOptionError for a rate that is not a finite number > 0. */
export function checkRate(ratePerSecond: number): void {
  if (ratePerSecond > 0 && ratePerSecond < Infinity) return;
  throw new InvalidOptionError('ratePerSecond', `got ${describeValue(ratePerSecond)}, must be a finite number > 0`);
}

/** Arrivals of one model at a mean rate; one class for all patterns, so that the caller's site stays monomorphic. */
export class Arrivals implements ArrivalProcess {
  readonly #random: Random;
  readonly #shape: number;
  readonly #scaleNs: number;
  /** What rounding the gaps to whole nanoseconds has left over: without it 30 M/s would come out as 30.3 M/s. */
  #carryNs = 0;

  /**
   * @param phase in [0, 1): the part of the first gap that is over at the start, of const arrivals only. Without it
   *   models of equal rates would arrive at the same instants.
   * @throws InvalidOptionError for a rate that is not a finite number > 0.
   */
  constructor(pattern: ArrivalPattern, ratePerSecond: number, random: Random, phase = 0) {
    checkRate(ratePerSecond);
    this.#random = random;
    this.#shape = pattern.shape;
    this.#scaleNs = 1e9 / ratePerSecond / meanDraw(pattern);
    if (pattern.kind === 'const') this.#carryNs = -phase * this.#scaleNs;
  }

  nextGapNs(): number {
    const exactNs = this.#carryNs + this.#scaleNs * drawGap(this.#random, this.#shape);
    const gapNs = Math.floor(exactNs + 0.5);
    this.#carryNs = exactNs - gapNs;
    return gapNs;
  }
}
