/**
 * A load that changes over time: pieces of a straight line, a scale of the rate each, one after the other and then from
 * the beginning. A model's arrivals are drawn as at a constant rate and laid on the area below that line, so that any
 * pattern keeps its shape while the rate moves.
 */
import { Random } from '../model/random.js';
import { type ArrivalPattern, type ArrivalProcess, Arrivals, checkRate, drawGap, meanDraw } from './arrivals.js';

/** Plain data, so that it can be sent to another thread. */
export interface Segment {
  readonly seconds: number;
  /** Of the workload's rate, at the beginning of the segment and at its end; between them in a straight line. */
  readonly fromScale: number;
  readonly toScale: number;
  /** In place of every model's own pattern; null keeps them. */
  readonly arrivals: ArrivalPattern | null;
}

export interface ModelLoad {
  readonly pattern: ArrivalPattern;
  /** At scale 1. A model of rate 0 has no arrivals. */
  readonly ratePerSecond: number;
  readonly segments: readonly Segment[];
  /** How long the load stays as it is at the beginning of the first segment. */
  readonly leadInNs: number;
}

/** The parts of a circle that lie farthest apart, however many there are. */
const GOLDEN = (Math.sqrt(5) - 1) / 2;
const NEVER: ArrivalProcess = { nextGapNs: () => Infinity };

/** The arrivals of one model: they depend on its load, its number and the seed, and on no other model. */
export function openArrivals(load: ModelLoad, seed: number, model: number): ArrivalProcess {
  if (load.ratePerSecond === 0) return NEVER;
  const random = new Random(seed, model);
  const phase = model * GOLDEN - Math.floor(model * GOLDEN);
  if (load.segments.length === 0) return new Arrivals(load.pattern, load.ratePerSecond, random, phase);
  return new SegmentedArrivals(load, random, phase);
}

export function cycleSeconds(segments: readonly Segment[]): number {
  return segments.reduce((sum, { seconds }) => sum + seconds, 0);
}

/** Over one cycle; 1 where there are no segments. */
export function meanScale(segments: readonly Segment[]): number {
  if (segments.length === 0) return 1;
  const area = segments.reduce((sum, { seconds, fromScale, toScale }) => sum + (seconds * (fromScale + toScale)) / 2, 0);
  return area / cycleSeconds(segments);
}

/** 1 where there are no segments. */
export function largestScale(segments: readonly Segment[]): number {
  return segments.length === 0 ? 1 : Math.max(...segments.map(({ fromScale, toScale }) => Math.max(fromScale, toScale)));
}

/** A segment as the process walks along it. Areas in ns at scale 1. */
interface Leg {
  readonly lengthNs: number;
  readonly fromScale: number;
  readonly slopePerNs: number;
  readonly area: number;
  readonly shape: number;
  readonly meanDraw: number;
}

class SegmentedArrivals implements ArrivalProcess {
  readonly #random: Random;
  readonly #meanGapNs: number;
  readonly #legs: readonly Leg[];
  /** The first leg that comes again: 1 behind a lead-in, else 0. */
  readonly #cycleStart: number;
  readonly #cycleNs: number;
  readonly #cycleArea: number;
  /** Where the last arrival was, before rounding: the leg, when that began, and how far into it. */
  #leg = 0;
  #legStartNs = 0;
  #insideNs = 0;
  #lastNs = 0;
  /** Part of the first gap that is over at the start. */
  #over: number;

  constructor({ pattern, ratePerSecond, segments, leadInNs }: ModelLoad, random: Random, phase: number) {
    checkRate(ratePerSecond);
    this.#random = random;
    this.#meanGapNs = 1e9 / ratePerSecond;
    const { fromScale, arrivals } = segments[0]!;
    const leadIn = leadInNs > 0 ? [{ seconds: leadInNs / 1e9, fromScale, toScale: fromScale, arrivals }] : [];
    this.#cycleStart = leadIn.length;
    this.#legs = [...leadIn, ...segments].map((segment) => legOf(segment, pattern));
    const cycle = this.#legs.slice(this.#cycleStart);
    this.#cycleNs = cycle.reduce((sum, { lengthNs }) => sum + lengthNs, 0);
    this.#cycleArea = cycle.reduce((sum, { area }) => sum + area, 0);
    this.#over = (arrivals ?? pattern).kind === 'const' ? phase : 0;
  }

  nextGapNs(): number {
    const { shape, meanDraw: mean } = this.#legs[this.#leg]!;
    this.#walk(this.#meanGapNs * (drawGap(this.#random, shape) / mean - this.#over));
    this.#over = 0;
    const nowNs = Math.floor(this.#legStartNs + this.#insideNs + 0.5);
    const gapNs = nowNs - this.#lastNs;
    this.#lastNs = nowNs;
    return gapNs;
  }

  /** Goes on until so much area lies behind. Ends: what is left shrinks with each cycle, whose area is above 0. */
  #walk(area: number): void {
    let leg = this.#legs[this.#leg]!;
    let ahead = areaBetween(leg, this.#insideNs, leg.lengthNs);
    while (area > ahead) {
      area -= ahead;
      this.#legStartNs += leg.lengthNs;
      this.#insideNs = 0;
      if (++this.#leg === this.#legs.length) {
        this.#leg = this.#cycleStart;
        const cycles = Math.floor(area / this.#cycleArea);
        this.#legStartNs += cycles * this.#cycleNs;
        area = Math.max(0, area - cycles * this.#cycleArea);
      }
      leg = this.#legs[this.#leg]!;
      ahead = leg.area;
    }
    if (area > 0) this.#insideNs = Math.min(leg.lengthNs, this.#insideNs + lengthOf(leg, this.#insideNs, area));
  }
}

function legOf({ seconds, fromScale, toScale, arrivals }: Segment, own: ArrivalPattern): Leg {
  const lengthNs = Math.round(seconds * 1e9);
  const pattern = arrivals ?? own;
  const slopePerNs = (toScale - fromScale) / lengthNs;
  return { lengthNs, fromScale, slopePerNs, area: (lengthNs * (fromScale + toScale)) / 2, shape: pattern.shape, meanDraw: meanDraw(pattern) };
}

function areaBetween({ fromScale, slopePerNs }: Leg, fromNs: number, toNs: number): number {
  return (toNs - fromNs) * (fromScale + (slopePerNs * (fromNs + toNs)) / 2);
}

/** How long it takes from there until this area lies behind: the root of scale·t + slope·t²/2 = area, without cancellation. */
function lengthOf({ fromScale, slopePerNs }: Leg, insideNs: number, area: number): number {
  const scale = fromScale + slopePerNs * insideNs;
  return (2 * area) / (scale + Math.sqrt(Math.max(0, scale * scale + 2 * slopePerNs * area)));
}
