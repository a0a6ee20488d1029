/** A load that changes: arrivals at another rate in every step of time, and the day that comes with rubato. */
import { describeValue } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { type ArrivalSource, ArrivalStream } from './policies/stream.js';
import type { Workload } from './workload.js';

export const MINUTES_PER_DAY = 1440;

/**
 * The load in each minute of a day, as a share of its peak, in whole percent: 10 % in the night, a rise from six in the
 * morning, the peak at noon, a dip in the afternoon, a second, lower peak at half past eight in the evening; over all of it
 * a ripple of 47 minutes. A formula and no recording: two bells of a width of 150 and 120 minutes.
 */
export function dayShape(): Float64Array {
  const shares = Float64Array.from({ length: MINUTES_PER_DAY }, (_, minute) => {
    const bell = (peak: number, width: number): number => Math.exp(-(((minute - peak) / width) ** 2) / 2);
    const base = 0.1 + 0.88 * bell(720, 150) + 0.62 * bell(1230, 120);
    return base * (1 + 0.03 * Math.sin((2 * Math.PI * minute) / 47));
  });
  const peak = Math.max(...shares);
  return shares.map((share) => Math.max(0.1, Math.round((100 * share) / peak) / 100));
}

/**
 * The arrivals of a workload at one rate after the other, each for `stepNs`: those of the largest rate, on a clock that
 * runs slower when the rate is lower. So bursts stay as long in requests as they were.
 */
export class VaryingArrivals implements ArrivalSource {
  readonly #stream: ArrivalStream;
  readonly #rates: ArrayLike<number>;
  readonly #stepNs: number;
  readonly #peak: number;
  #step = 0;
  /** When the step begins on the stream's own clock, and how fast that runs. */
  #beginNs = 0;
  #pace: number;
  nextNs = 0;
  model = 0;

  /** @throws InvalidOptionError for a rate that is not a finite number > 0, or none. */
  constructor(workload: Workload, ratesPerSecond: ArrayLike<number>, stepNs: number, seed: number) {
    let peak = 0;
    for (let step = 0; step < ratesPerSecond.length; step++) {
      const rate = ratesPerSecond[step]!;
      if (!(rate > 0 && rate < Infinity)) throw new InvalidOptionError(`ratesPerSecond[${step}]`, `got ${describeValue(rate)}, must be a finite number > 0`);
      peak = Math.max(peak, rate);
    }
    if (peak === 0) throw new InvalidOptionError('ratesPerSecond', 'is empty, must hold at least one rate');
    this.#stream = new ArrivalStream(workload, peak, seed);
    this.#rates = ratesPerSecond;
    this.#stepNs = stepNs;
    this.#peak = peak;
    this.#pace = ratesPerSecond[0]! / peak;
    this.#look();
  }

  advance(): void {
    this.#stream.advance();
    this.#look();
  }

  #look(): void {
    const streamNs = this.#stream.nextNs;
    while (this.#step < this.#rates.length && streamNs >= this.#beginNs + this.#stepNs * this.#pace) {
      this.#beginNs += this.#stepNs * this.#pace;
      this.#step++;
      this.#pace = (this.#rates[this.#step] ?? this.#peak) / this.#peak;
    }
    const isOver = this.#step === this.#rates.length;
    this.nextNs = isOver ? Infinity : Math.floor(this.#step * this.#stepNs + (streamNs - this.#beginNs) / this.#pace);
    this.model = isOver ? -1 : this.#stream.model;
  }
}
