/**
 * Where the requests of a live run come from: due times and model numbers, in bulk, in order of time.
 */
import { TimeTree } from '../clock/time-tree.js';
import type { ArrivalPattern, ArrivalProcess } from '../sim/arrivals.js';
import { openArrivals, type Segment } from '../sim/segments.js';

/** Plain data, so that it can be sent to the threads that generate load. */
export type SourceSpec =
  /** Evenly spaced requests, each of a model drawn uniformly: cheap enough for tens of millions per second. */
  | { readonly kind: 'uniform'; readonly models: number; readonly ratePerSecond: number; readonly seed: number }
  /** Every model with its own arrival process; rates at scale 1. */
  | { readonly kind: 'mix'; readonly models: readonly { readonly pattern: ArrivalPattern; readonly ratePerSecond: number }[]; readonly segments: readonly Segment[]; readonly seed: number }
  /** Recorded arrivals: times in ns from the first, and models. */
  | { readonly kind: 'trace'; readonly timesNs: Float64Array; readonly models: Int32Array };

export interface Source {
  /** Due time of the next request, +Infinity when there is none. */
  readonly nextNs: number;
  /** Writes the requests due by `nowNs`, as many as fit; returns how many. */
  fill(nowNs: number, models: Int32Array, timesNs: Float64Array): number;
}

export function openSource(spec: SourceSpec, startNs: number): Source {
  switch (spec.kind) {
    case 'uniform':
      return new UniformSource(spec.models, spec.ratePerSecond, spec.seed, startNs);
    case 'mix':
      return new MixSource(spec, startNs);
    case 'trace':
      return new TraceSource(spec, startNs);
  }
}

class UniformSource implements Source {
  nextNs: number;
  readonly #models: number;
  readonly #gapNs: number;
  #state: number;

  constructor(models: number, ratePerSecond: number, seed: number, startNs: number) {
    this.#models = models;
    this.#gapNs = 1e9 / ratePerSecond;
    this.#state = seed | 0;
    this.nextNs = startNs;
  }

  fill(nowNs: number, models: Int32Array, timesNs: Float64Array): number {
    const most = timesNs.length;
    const gapNs = this.#gapNs;
    const modelCount = this.#models;
    let state = this.#state;
    let due = this.nextNs;
    let count = 0;
    while (due <= nowNs && count < most) {
      // A linear congruential step; its upper 16 bits scaled to the models, which are at most 4096.
      state = (Math.imul(state, 1664525) + 1013904223) | 0;
      models[count] = ((state >>> 16) * modelCount) >>> 16;
      timesNs[count] = due;
      due += gapNs;
      count++;
    }
    this.#state = state;
    this.nextNs = due;
    return count;
  }
}

class MixSource implements Source {
  readonly #due: TimeTree;
  readonly #arrivals: ArrivalProcess[];

  constructor(spec: SourceSpec & { kind: 'mix' }, startNs: number) {
    this.#due = new TimeTree(spec.models.length);
    this.#arrivals = spec.models.map(({ pattern, ratePerSecond }, model) => openArrivals({ pattern, ratePerSecond, segments: spec.segments, leadInNs: 0 }, spec.seed, model));
    this.#arrivals.forEach((arrivals, model) => this.#due.set(model, startNs + arrivals.nextGapNs()));
  }

  get nextNs(): number {
    return this.#due.min();
  }

  fill(nowNs: number, models: Int32Array, timesNs: Float64Array): number {
    const due = this.#due;
    let count = 0;
    while (due.min() <= nowNs && count < timesNs.length) {
      const model = due.first();
      const timeNs = due.get(model);
      models[count] = model;
      timesNs[count] = timeNs;
      due.set(model, timeNs + this.#arrivals[model]!.nextGapNs());
      count++;
    }
    return count;
  }
}

class TraceSource implements Source {
  readonly #timesNs: Float64Array;
  readonly #models: Int32Array;
  readonly #startNs: number;
  #next = 0;

  constructor({ timesNs, models }: SourceSpec & { kind: 'trace' }, startNs: number) {
    this.#timesNs = timesNs;
    this.#models = models;
    this.#startNs = startNs;
  }

  get nextNs(): number {
    return this.#next < this.#timesNs.length ? this.#startNs + this.#timesNs[this.#next]! : Infinity;
  }

  fill(nowNs: number, models: Int32Array, timesNs: Float64Array): number {
    let count = 0;
    while (this.nextNs <= nowNs && count < timesNs.length) {
      models[count] = this.#models[this.#next]!;
      timesNs[count] = this.nextNs;
      this.#next++;
      count++;
    }
    return count;
  }
}
