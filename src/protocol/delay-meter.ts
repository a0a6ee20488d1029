/**
 * Follows the p99 of a delay (the margins c, r and j of ALGORITHM.md 1.1). Samples are counted in a private histogram;
 * every 100 ms, if there were at least 20, its p99 becomes the estimate, which falls by at most 10 % at a time, so
 * that a quiet moment does not forget a busy one. Until then the estimate is what it was given: be generous there,
 * since a cold start is slow. The estimate lies in a cell of the caller's choice, which may be a shared word.
 */
import { BUCKETS, bucketHighNs, bucketOf } from '../ringbuf/log-linear.js';

const PERIOD_NS = 100e6;
const LEAST_SAMPLES = 20;
const SLOWEST_FALL = 0.9;

export class DelayMeter {
  readonly #counts = new Int32Array(BUCKETS);
  readonly #cell: Float64Array;
  readonly #at: number;
  readonly #leastNs: number;
  readonly #mostAt: number;
  #samples = 0;
  #dueNs = 0;

  /** The estimate is `cell[at]`, kept between `leastNs` and `cell[mostAt]`. */
  constructor(cell: Float64Array, at: number, leastNs: number, mostAt: number) {
    this.#cell = cell;
    this.#at = at;
    this.#leastNs = leastNs;
    this.#mostAt = mostAt;
  }

  get estimateNs(): number {
    return this.#cell[this.#at]!;
  }

  add(delayNs: number, nowNs: number): void {
    this.#counts[bucketOf(delayNs)]!++;
    this.#samples++;
    if (nowNs >= this.#dueNs) this.#update(nowNs);
  }

  #update(nowNs: number): void {
    this.#dueNs = nowNs + PERIOD_NS;
    if (this.#samples < LEAST_SAMPLES) return;
    const p99 = this.#p99();
    const floor = this.#cell[this.#at]! * SLOWEST_FALL;
    this.#cell[this.#at] = Math.min(Math.max(p99, floor, this.#leastNs), this.#cell[this.#mostAt]!);
    this.#counts.fill(0);
    this.#samples = 0;
  }

  #p99(): number {
    let above = this.#samples * 0.01;
    let bucket = BUCKETS - 1;
    while (bucket > 0 && this.#counts[bucket]! <= above) above -= this.#counts[bucket--]!;
    return bucketHighNs(bucket) - 1;
  }
}
