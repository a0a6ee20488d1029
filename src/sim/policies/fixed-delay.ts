/**
 * Dynamic batching with a preferred size and a largest delay, as Triton Inference Server documents it ("Batchers",
 * dynamic_batching: preferred_batch_size, max_queue_delay_microseconds; TensorFlow Serving's max_batch_size and
 * batch_timeout_micros are the same idea): when a GPU is free, a model with enough waiting for a batch of the
 * preferred size runs one of that size at once; otherwise it waits, until its oldest request has waited for the delay:
 * then the batch goes as it is, as large as what waits. Of several such models the one with the oldest request goes first.
 *
 * Those systems know no deadlines. So that the comparison is fair, a batch is never larger than its oldest request's
 * deadline allows, and a request that could not end in time even alone is dropped when its turn comes.
 */
import { TimeTree } from '../../clock/time-tree.js';
import type { MakePolicy, Policy, PolicyModel, Stage } from './policy.js';
import { largestBatchInTime, RequestQueue } from './queue.js';

export interface FixedDelayOptions {
  /** Preferred batch size of every model; default half of the largest b with ℓ(b) ≤ SLO / 2, at least 1. */
  readonly preferredBatch?: number;
  /** Largest delay of every model; default 5 % of its SLO. */
  readonly delayNs?: number;
}

const DEFAULT_DELAY_SHARE = 0.05;

export function fixedDelay(options: FixedDelayOptions = {}): MakePolicy {
  return (stage) => new FixedDelay(stage, options);
}

class FixedDelay implements Policy {
  readonly name = 'fixed-delay';
  /** By model: its oldest request has waited long enough. */
  readonly timers: number;
  readonly #stage: Stage;
  readonly #preferred: readonly number[];
  readonly #delaysNs: readonly number[];
  readonly #queues: readonly RequestQueue[];
  /** By model that may run: arrival of its oldest request. */
  readonly #ready: TimeTree;
  /** By GPU: 0 for an idle one; the lowest-numbered is used first. */
  readonly #idle: TimeTree;

  constructor(stage: Stage, options: FixedDelayOptions) {
    this.#stage = stage;
    this.timers = stage.models.length;
    this.#preferred = stage.models.map((model) => options.preferredBatch ?? defaultPreferred(model));
    this.#delaysNs = stage.models.map(({ sloNs }) => options.delayNs ?? Math.round(DEFAULT_DELAY_SHARE * sloNs));
    this.#queues = stage.models.map(() => new RequestQueue());
    this.#ready = new TimeTree(stage.models.length);
    this.#idle = new TimeTree(stage.gpus);
    for (let gpu = 0; gpu < stage.gpus; gpu++) this.#idle.set(gpu, 0);
  }

  onArrival(request: number, model: number): void {
    this.#queues[model]!.push(request);
    this.#lookAt(model);
    this.#fillGpus();
  }

  onTimer(model: number): void {
    this.#lookAt(model);
    this.#fillGpus();
  }

  onBatchEnd(gpu: number): void {
    this.#idle.set(gpu, 0);
    this.#fillGpus();
  }

  #fillGpus(): void {
    const { nowNs, models, margins, deadlinesNs } = this.#stage;
    for (let gpu = this.#idle.first(); gpu >= 0; gpu = this.#idle.first()) {
      const model = this.#ready.first();
      if (model < 0) return;
      const queue = this.#queues[model]!;
      const limit = this.#isDelayed(model) ? queue.length : this.#preferred[model]!;
      const issueNs = nowNs + margins.controlNs;
      const size = largestBatchInTime(models[model]!.profile.ns, issueNs, margins.transferNs, 0, deadlinesNs[queue.at(0)]!, limit);
      if (size === 0) {
        this.#stage.drop(queue.shift(), 'expired');
      } else {
        this.#stage.start(gpu, model, queue.take(size), issueNs + margins.transferNs * size);
        this.#idle.set(gpu, Infinity);
      }
      this.#lookAt(model);
    }
  }

  #isDelayed(model: number): boolean {
    return this.#stage.nowNs >= this.#stage.arrivalsNs[this.#queues[model]!.at(0)]! + this.#delaysNs[model]!;
  }

  #lookAt(model: number): void {
    const queue = this.#queues[model]!;
    const headNs = queue.length === 0 ? Infinity : this.#stage.arrivalsNs[queue.at(0)]!;
    const isReady = queue.length > 0 && (queue.length >= this.#preferred[model]! || this.#isDelayed(model));
    this.#ready.set(model, isReady ? headNs : Infinity);
    this.#stage.setTimer(model, isReady && this.#isDelayed(model) ? Infinity : headNs + this.#delaysNs[model]!);
  }
}

function defaultPreferred({ profile, sloNs }: PolicyModel): number {
  return Math.max(1, Math.floor(profile.largestBatchWithin(sloNs / 2) / 2));
}
