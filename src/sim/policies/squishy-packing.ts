/**
 * Nexus' squishy bin packing (Shen et al., SOSP 2019, section 6), with the numbers of the paper authors' program
 * (PEER.md 9.2). A GPU runs its models in turn, once per duty cycle; a model's batch is what arrives in one cycle. A
 * model that needs whole GPUs saturates them; what remains of it (its residual) shares a GPU with others whose batches
 * also fit into the cycle. Rates are per second, times in ns.
 */
import type { SimulationMargins } from '../result.js';
import type { PolicyModel } from './policy.js';

/** What one GPU does for one model. */
export interface Load {
  readonly model: number;
  readonly ratePerSecond: number;
  /** What it could do on a GPU of its own. */
  readonly throughput: number;
  /** The longest cycle that it bears. */
  readonly dutyNs: number;
  /** Largest batch, and the one of the GPU's present cycle. */
  readonly maxBatch: number;
  batch: number;
}

/** Kept off the SLO where a largest batch is looked up. */
const NETWORK_ALLOWANCE_NS = 2e6;
const BATCH_EPSILON = 1e-3;
const LEAST_RATE = 1e-3;
const LEAST_ESTIMATE = 0.1;
/** A model whose rate falls below this share of what it has gives some of it back. */
const SHRINK_BELOW = 0.97;
/** Only above this occupancy does a GPU give models away. */
const SPILL_ABOVE = 1.05;

export class SquishyPacking {
  /** By GPU, in the order in which it runs them. */
  readonly gpus: Load[][];
  readonly #models: readonly PolicyModel[];
  readonly #margins: SimulationMargins;

  constructor(models: readonly PolicyModel[], gpus: number, margins: SimulationMargins) {
    this.#models = models;
    this.#margins = margins;
    this.gpus = Array.from({ length: gpus }, () => []);
  }

  /** What all GPUs together could do for a model. */
  throughput(model: number): number {
    let sum = 0;
    for (const loads of this.gpus) for (const load of loads) if (load.model === model) sum += load.throughput;
    return sum;
  }

  /** At first each model saturates a GPU of its own, as far as there are GPUs. */
  placeUnknown(): void {
    for (let model = 0; model < this.#models.length; model++) this.#place(model, 0);
  }

  /** Follows the measured rates, by model; NaN for one that is not to be touched. */
  update(ratesPerSecond: readonly number[]): void {
    const unplaced: { model: number; rate: number }[] = [];
    for (const [model, rate] of ratesPerSecond.entries()) {
      if (Number.isNaN(rate)) continue;
      const estimate = Math.max(rate, LEAST_ESTIMATE);
      const has = this.throughput(model);
      if (estimate < SHRINK_BELOW * has) this.#shrink(model, estimate);
      else if (estimate > has) unplaced.push({ model, rate: this.#grow(model, estimate) });
    }
    for (let gpu = 0; gpu < this.gpus.length; gpu++) {
      this.#setBatches(gpu);
      for (const { model, ratePerSecond: rate } of this.#spill(gpu)) unplaced.push({ model, rate });
    }
    unplaced.sort((a, b) => b.rate - a.rate || a.model - b.model);
    for (const { model, rate } of unplaced) {
      for (let left = rate; left >= LEAST_RATE;) {
        const placed = this.#place(model, left);
        if (placed === 0) break;
        left -= placed;
      }
    }
  }

  /** The largest batch and the longest cycle of a model at this rate, on a GPU of its own. */
  size(model: number, ratePerSecond: number): Load {
    const { profile, sloNs } = this.#models[model]!;
    const maxBatch = Math.max(1, profile.largestBatchWithin((sloNs - NETWORK_ALLOWANCE_NS) / 2));
    const maxThroughput = (maxBatch * 1e9) / profile.latencyNs(maxBatch);
    if (ratePerSecond === 0 || ratePerSecond >= maxThroughput) {
      return { model, ratePerSecond: maxThroughput, throughput: maxThroughput, dutyNs: profile.latencyNs(maxBatch), maxBatch, batch: maxBatch };
    }
    let b = maxBatch;
    while (b > 1 && ((b - 1) * 1e9) / ratePerSecond + this.#answerNs(model, b) > sloNs) b--;
    // Where the SLO leaves no time to gather a cycle is still no shorter than its batch.
    const dutyNs = Math.min(Math.max(sloNs - this.#answerNs(model, b), profile.latencyNs(b)), (b * 1e9) / ratePerSecond);
    return { model, ratePerSecond, throughput: (b * 1e9) / dutyNs, dutyNs, maxBatch, batch: b };
  }

  /** How full the GPU's cycle is: 1 when its batches follow without a gap; Infinity when one is above its largest. */
  occupancy(loads: readonly Load[]): number {
    const dutyNs = dutyCycleNs(loads);
    let execNs = 0;
    for (const load of loads) {
      const batch = batchOf(load, dutyNs);
      if (batch > load.maxBatch) return Infinity;
      execNs += this.#models[load.model]!.profile.latencyNs(batch);
    }
    return loads.length === 0 ? 0 : execNs / dutyNs;
  }

  /** From issue to answer: c + δb + ℓ(b) + r. */
  #answerNs(model: number, b: number): number {
    const { controlNs, transferNs, responseNs } = this.#margins;
    return controlNs + transferNs * b + this.#models[model]!.profile.latencyNs(b) + responseNs;
  }

  /** Keeps the GPUs that do most for the model, up to the rate, and takes it off the others. */
  #shrink(model: number, estimate: number): void {
    let left = estimate;
    for (const { gpu, load } of this.#byThroughput(model)) {
      if (left < LEAST_RATE) {
        this.#replace(gpu, load, null);
      } else if (load.throughput > left) {
        this.#replace(gpu, load, this.size(model, left));
        left = 0;
      } else {
        left -= load.throughput;
      }
    }
  }

  /** Lets each of the model's GPUs do as much as it can, and returns the rate that is left. */
  #grow(model: number, estimate: number): number {
    let left = estimate;
    for (const { gpu, load } of this.#byThroughput(model)) {
      if (left < LEAST_RATE) break;
      const resized = this.size(model, left);
      this.#replace(gpu, load, resized);
      left -= resized.throughput;
    }
    return Math.max(0, left);
  }

  #byThroughput(model: number): { gpu: number; load: Load }[] {
    const found = this.gpus.flatMap((loads, gpu) => loads.filter((load) => load.model === model).map((load) => ({ gpu, load })));
    return found.sort((a, b) => b.load.throughput - a.load.throughput || a.gpu - b.gpu);
  }

  #replace(gpu: number, load: Load, by: Load | null): void {
    const loads = this.gpus[gpu]!;
    loads.splice(loads.indexOf(load), 1, ...(by === null ? [] : [by]));
  }

  /** Takes off an overfull GPU what no longer fits beside the models that take longest. */
  #spill(gpu: number): Load[] {
    const loads = this.gpus[gpu]!;
    if (this.occupancy(loads) <= SPILL_ABOVE) return [];
    const execNs = (load: Load): number => this.#models[load.model]!.profile.latencyNs(Math.min(load.batch, load.maxBatch));
    const longestFirst = [...loads].sort((a, b) => execNs(b) - execNs(a));
    const kept: Load[] = [];
    for (const load of longestFirst) if (kept.length === 0 || this.occupancy([...kept, load]) <= 1) kept.push(load);
    const spilt = loads.filter((load) => !kept.includes(load));
    this.gpus[gpu] = loads.filter((load) => kept.includes(load));
    this.#setBatches(gpu);
    return spilt;
  }

  /** Gives the model the best GPU, and returns the rate that it has there; 0 when there is none. */
  #place(model: number, rate: number): number {
    const load = this.size(model, rate);
    let best = -1;
    let bestOccupancy = -1;
    // A load that saturates a GPU fits beside no other: of idle ones any is the best.
    for (let gpu = 0; gpu < this.gpus.length; gpu++) {
      const loads = this.gpus[gpu]!;
      if (loads.length > 0 && (rate < LEAST_RATE || this.occupancy(loads) >= 1 || loads.some((other) => other.model === model))) continue;
      const occupancy = this.occupancy([...loads, load]);
      if (loads.length > 0 && occupancy > 1) continue;
      if (occupancy <= bestOccupancy) continue;
      best = gpu;
      bestOccupancy = occupancy;
    }
    if (best < 0) return 0;
    this.gpus[best]!.push(load);
    this.#setBatches(best);
    return load.throughput;
  }

  #setBatches(gpu: number): void {
    const loads = this.gpus[gpu]!;
    const dutyNs = dutyCycleNs(loads);
    for (const load of loads) load.batch = Math.max(1, Math.min(load.maxBatch, batchOf(load, dutyNs)));
  }
}

function dutyCycleNs(loads: readonly Load[]): number {
  let dutyNs = Infinity;
  for (const load of loads) dutyNs = Math.min(dutyNs, load.dutyNs);
  return dutyNs;
}

/** What arrives for the model in one cycle. */
function batchOf(load: Load, dutyNs: number): number {
  return Math.ceil(dutyNs * 1e-9 * load.ratePerSecond - BATCH_EPSILON);
}
