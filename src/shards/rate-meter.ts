/**
 * Measured arrival rate per model: the mean of the last 100 samples of 50 ms (ALGORITHM.md 1.3). A model's samples
 * begin with its first request. The meter has no timer: it catches up when it is next looked at, so an idle model
 * costs nothing and the result depends on arrival times only.
 */
export const SAMPLE_NS = 50e6;
export const SAMPLES = 100;

export class RateMeter {
  /** Arrivals of the sample under way, by model: the caller counts here. */
  readonly arrivals: Int32Array;
  /** End of the sample under way; +Infinity before the first request. */
  readonly nextTickNs: Float64Array;
  readonly #ring: Int32Array;
  readonly #filled: Int32Array;
  readonly #cursor: Int32Array;
  readonly #sum: Float64Array;
  readonly #sumSquares: Float64Array;

  constructor(models: number) {
    this.arrivals = new Int32Array(models);
    this.nextTickNs = new Float64Array(models).fill(Infinity);
    this.#ring = new Int32Array(models * SAMPLES);
    this.#filled = new Int32Array(models);
    this.#cursor = new Int32Array(models);
    this.#sum = new Float64Array(models);
    this.#sumSquares = new Float64Array(models);
  }

  start(model: number, nowNs: number): void {
    this.nextTickNs[model] = nowNs + SAMPLE_NS;
  }

  /** Forgets everything: the number is another model's now. */
  reset(model: number): void {
    this.arrivals[model] = 0;
    this.nextTickNs[model] = Infinity;
    this.#filled[model] = 0;
    this.#cursor[model] = 0;
    this.#sum[model] = 0;
    this.#sumSquares[model] = 0;
  }

  /** Goes on from a rate that was measured until `untilNs`: as if its arrivals had been even. */
  resume(model: number, ratePerSecond: number, untilNs: number): void {
    const perSample = (ratePerSecond * SAMPLE_NS) / 1e9;
    for (let k = 0; k < SAMPLES; k++) this.#push(model, Math.floor((k + 1) * perSample) - Math.floor(k * perSample));
    this.nextTickNs[model] = untilNs + SAMPLE_NS;
  }

  /** Closes every sample that has ended by `nowNs`. */
  catchUp(model: number, nowNs: number): void {
    const ended = Math.floor((nowNs - this.nextTickNs[model]!) / SAMPLE_NS) + 1;
    // More than a full window of empty samples leaves the same as exactly one.
    const pushes = ended < SAMPLES + 1 ? ended : SAMPLES + 1;
    for (let i = 0; i < pushes; i++) {
      this.#push(model, this.arrivals[model]!);
      this.arrivals[model] = 0;
    }
    this.nextTickNs[model]! += ended * SAMPLE_NS;
  }

  #push(model: number, sample: number): void {
    const at = model * SAMPLES + this.#cursor[model]!;
    if (this.#filled[model] === SAMPLES) {
      const old = this.#ring[at]!;
      this.#sum[model]! -= old;
      this.#sumSquares[model]! -= old * old;
    } else {
      this.#filled[model]!++;
    }
    this.#ring[at] = sample;
    this.#sum[model]! += sample;
    this.#sumSquares[model]! += sample * sample;
    this.#cursor[model] = this.#cursor[model] === SAMPLES - 1 ? 0 : this.#cursor[model]! + 1;
  }

  /** Whether one whole sample has been measured. */
  known(model: number): boolean {
    return this.#filled[model]! > 0;
  }

  /** Mean rate in requests per second. */
  ratePerSecond(model: number): number {
    return this.#sum[model]! / ((this.#filled[model]! * SAMPLE_NS) / 1e9);
  }

  /** Standard deviation of the samples, in requests per second. */
  stdPerSecond(model: number): number {
    const n = this.#filled[model]!;
    const mean = this.#sum[model]! / n;
    return Math.sqrt(Math.max(0, this.#sumSquares[model]! / n - mean * mean)) / (SAMPLE_NS / 1e9);
  }

  /** Variance of the samples' arrivals over their mean: 1 for a Poisson process, 0 for an even one. */
  dispersion(model: number): number {
    const n = this.#filled[model]!;
    const mean = this.#sum[model]! / n;
    return mean > 0 ? Math.max(0, this.#sumSquares[model]! / n - mean * mean) / mean : 0;
  }
}

/**
 * Target batch size t (ALGORITHM.md 1.3): the largest b with ℓ(b) + b/λ + δb ≤ budget, at least 1. With n = λℓ(b)/b ≥ 1
 * GPUs this is the staggered bound ℓ(b)(1 + 1/n), with less than one GPU it is the time to gather and run.
 * `latencyNs[b]` is ℓ(b), +Infinity past the largest batch.
 */
export function targetBatch(latencyNs: Float64Array, maxBatch: number, budgetNs: number, ratePerSecond: number, transferNs: number): number {
  const gapNs = 1e9 / ratePerSecond + transferNs;
  let low = 1;
  let high = maxBatch;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (latencyNs[middle]! + middle * gapNs <= budgetNs) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** t before a rate is known: the largest b with ℓ(b) ≤ SLO / 2, at least 1. */
export function firstTargetBatch(latencyNs: Float64Array, maxBatch: number, sloNs: number): number {
  return targetBatch(latencyNs, maxBatch, sloNs / 2, Infinity, 0);
}
