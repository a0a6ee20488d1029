/**
 * Clockwork (Gujarati et al., "Serving DNNs like Clockwork", OSDI 2020): the controller predicts how long each model
 * runs at each of a few batch sizes from its last ten runs, and orders what it could do by the latest moment at which
 * it could still start. A GPU is given the first of these that it can start in time, at most one batch ahead of the
 * running one and only shortly before it becomes free. A request is dropped as soon as it is certain that it cannot be met.
 */
import { TimeTree } from '../../clock/time-tree.js';
import type { MakePolicy, Policy, PolicyModel, Stage } from './policy.js';
import { RequestQueue } from './queue.js';

export interface ClockworkOptions {
  /** Batch sizes that are used, in order; those above a model's largest are left out. Default 1, 2, 4, 8, 16. */
  readonly sizes?: readonly number[];
  /** Go on doubling the largest of the sizes up to the model's largest batch that runs within its SLO, and use that one too. Default false. */
  readonly upToLargest?: boolean;
  /** How long before a GPU becomes free its next batch is chosen. Default 5 ms, the schedule-ahead of Clockwork's controller. */
  readonly aheadNs?: number;
}

const DEFAULT_SIZES = [1, 2, 4, 8, 16];
const DEFAULT_AHEAD_NS = 5e6;
const RUNS = 10;

export function clockwork(options: ClockworkOptions = {}): MakePolicy {
  return (stage) => new Clockwork(stage, options);
}

/** Timers: one per model for the moment at which its oldest request cannot be met any more, then one per GPU that is to be given a batch. */
class Clockwork implements Policy {
  readonly name = 'clockwork';
  readonly timers: number;
  readonly #stage: Stage;
  readonly #aheadNs: number;
  readonly #queues: readonly RequestQueue[];
  readonly #predictions: readonly Predictions[];
  /** By GPU: when it may be given a batch; Infinity while it has one ahead. */
  readonly #wantsAt: TimeTree;
  /** By GPU: when all it was given is predicted to have run. */
  readonly #freeNs: TimeTree;
  /** By GPU: batches it was given and has not ended, the running one first. */
  readonly #given: Given[][];

  constructor(stage: Stage, options: ClockworkOptions) {
    this.#stage = stage;
    this.#aheadNs = options.aheadNs ?? DEFAULT_AHEAD_NS;
    this.timers = stage.models.length + stage.gpus;
    this.#queues = stage.models.map(() => new RequestQueue());
    this.#predictions = stage.models.map((model) => new Predictions(batchSizes(model, options), model.profile.ns));
    this.#wantsAt = new TimeTree(stage.gpus);
    this.#freeNs = new TimeTree(stage.gpus);
    this.#given = Array.from({ length: stage.gpus }, () => []);
    for (let gpu = 0; gpu < stage.gpus; gpu++) {
      this.#wantsAt.set(gpu, 0);
      this.#freeNs.set(gpu, 0);
    }
  }

  onArrival(request: number, model: number): void {
    this.#queues[model]!.push(request);
    this.#dropHopeless(model);
    this.#schedule();
  }

  onTimer(timer: number): void {
    if (timer < this.#stage.models.length) this.#dropHopeless(timer);
    this.#schedule();
  }

  onBatchEnd(gpu: number): void {
    const given = this.#given[gpu]!;
    const { model, size, startNs } = given.shift()!;
    this.#predictions[model]!.ran(size, this.#stage.nowNs - startNs);
    if (given.length === 0) this.#freeNs.set(gpu, this.#stage.nowNs);
    this.#wantSoon(gpu);
    this.#schedule();
  }

  /** Gives batches to GPUs that want one, those that become free first before others. */
  #schedule(): void {
    for (;;) {
      const gpu = this.#nextGpu();
      if (gpu < 0 || !this.#giveBatch(gpu)) return;
      for (let model = 0; model < this.#queues.length; model++) this.#dropHopeless(model);
    }
  }

  /** Of the GPUs that want a batch now, the one that becomes free first. */
  #nextGpu(): number {
    let best = -1;
    if (this.#wantsAt.min() > this.#stage.nowNs) return best;
    for (let gpu = 0; gpu < this.#stage.gpus; gpu++) {
      if (this.#wantsAt.get(gpu) <= this.#stage.nowNs && (best < 0 || this.#startNs(gpu, 1) < this.#startNs(best, 1))) best = gpu;
    }
    return best;
  }

  /** False when there is none that the GPU could start in time. */
  #giveBatch(gpu: number): boolean {
    const { deadlinesNs } = this.#stage;
    let bestLatestNs = Infinity;
    let bestModel = -1;
    let bestSize = 0;
    for (let model = 0; model < this.#queues.length; model++) {
      const queue = this.#queues[model]!;
      if (queue.length === 0) continue;
      const deadlineNs = deadlinesNs[queue.at(0)]!;
      for (const size of this.#predictions[model]!.sizes) {
        if (size > queue.length) break;
        const latestNs = deadlineNs - this.#predictions[model]!.of(size);
        if (latestNs < this.#startNs(gpu, size)) break;
        if (latestNs >= bestLatestNs) continue;
        bestLatestNs = latestNs;
        bestModel = model;
        bestSize = size;
      }
    }
    if (bestModel < 0) return false;
    const startNs = Math.max(this.#startNs(gpu, bestSize), this.#stage.busyUntilNs[gpu]!);
    this.#stage.start(gpu, bestModel, this.#queues[bestModel]!.take(bestSize), startNs);
    this.#given[gpu]!.push({ model: bestModel, size: bestSize, startNs });
    this.#freeNs.set(gpu, startNs + this.#predictions[bestModel]!.of(bestSize));
    this.#wantSoon(gpu);
    return true;
  }

  #wantSoon(gpu: number): void {
    const wantsNs = this.#given[gpu]!.length > 1 ? Infinity : this.#freeNs.get(gpu) - this.#aheadNs;
    this.#wantsAt.set(gpu, wantsNs);
    this.#stage.setTimer(this.#stage.models.length + gpu, wantsNs > this.#stage.nowNs ? wantsNs : Infinity);
  }

  #startNs(gpu: number, size: number): number {
    const { nowNs, margins } = this.#stage;
    return Math.max(nowNs + margins.controlNs + margins.transferNs * size, this.#freeNs.get(gpu));
  }

  /** Drops what could not be met even alone on the GPU that is free first, and looks again when that becomes so for the next. */
  #dropHopeless(model: number): void {
    const { nowNs, margins, deadlinesNs } = this.#stage;
    const queue = this.#queues[model]!;
    const smallest = this.#predictions[model]!.sizes[0]!;
    const inputsNs = margins.controlNs + margins.transferNs * smallest;
    const runsNs = this.#predictions[model]!.of(smallest);
    const finishNs = Math.max(nowNs + inputsNs, this.#freeNs.min()) + runsNs;
    while (queue.length > 0 && deadlinesNs[queue.at(0)]! < finishNs) this.#stage.drop(queue.shift(), 'expired');
    this.#stage.setTimer(model, queue.length === 0 ? Infinity : deadlinesNs[queue.at(0)]! - runsNs - inputsNs + 1);
  }
}

function batchSizes({ profile, sloNs }: PolicyModel, { sizes = DEFAULT_SIZES, upToLargest = false }: ClockworkOptions): number[] {
  if (!upToLargest) return sizes.filter((size) => size <= profile.maxBatch);
  const largest = Math.max(1, profile.largestBatchWithin(sloNs));
  const used = sizes.filter((size) => size < largest);
  for (let size = 2 * (used.at(-1) ?? largest); size < largest; size *= 2) used.push(size);
  return [...used, largest];
}

interface Given {
  readonly model: number;
  readonly size: number;
  readonly startNs: number;
}

/** How long a model runs at each of its batch sizes: the 99th percentile of its last ten runs, which is their longest; before the first, the profile. */
export class Predictions {
  readonly sizes: readonly number[];
  readonly #ofSize = new Map<number, { readonly lastNs: number[]; p99Ns: number }>();

  constructor(sizes: readonly number[], profileNs: Float64Array) {
    this.sizes = sizes;
    for (const size of sizes) this.#ofSize.set(size, { lastNs: [], p99Ns: profileNs[size]! });
  }

  of(size: number): number {
    return this.#ofSize.get(size)!.p99Ns;
  }

  ran(size: number, durationNs: number): void {
    const runs = this.#ofSize.get(size)!;
    runs.lastNs.push(durationNs);
    if (runs.lastNs.length > RUNS) runs.lastNs.shift();
    runs.p99Ns = Math.max(...runs.lastNs);
  }
}
