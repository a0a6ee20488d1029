/**
 * Eager batching, the plainest rule there is, as serving systems do it without a configured delay: a free GPU takes
 * the model whose oldest request waits longest, at once, in a batch as large as what waits and that request's
 * deadline allow. A request that could not end in time even alone is dropped when its turn comes.
 *
 * Rules: PEER.md and ALGORITHM.md 1.1 for the times (start = now + c + δb); a GPU is asked for when it is free, so it
 * idles for c + δb before each batch.
 */
import { TimeTree } from '../../clock/time-tree.js';
import type { MakePolicy, Policy, Stage } from './policy.js';
import { largestBatchInTime, RequestQueue } from './queue.js';

export function eager(): MakePolicy {
  return (stage) => new Eager(stage);
}

class Eager implements Policy {
  readonly name = 'eager';
  readonly timers = 0;
  readonly #stage: Stage;
  readonly #queues: readonly RequestQueue[];
  /** By model: arrival of its oldest request. */
  readonly #heads: TimeTree;
  /** By GPU: 0 for an idle one; the lowest-numbered is used first. */
  readonly #idle: TimeTree;

  constructor(stage: Stage) {
    this.#stage = stage;
    this.#queues = stage.models.map(() => new RequestQueue());
    this.#heads = new TimeTree(stage.models.length);
    this.#idle = new TimeTree(stage.gpus);
    for (let gpu = 0; gpu < stage.gpus; gpu++) this.#idle.set(gpu, 0);
  }

  onArrival(request: number, model: number): void {
    this.#queues[model]!.push(request);
    if (this.#queues[model]!.length === 1) this.#lookAtHead(model);
    this.#fillGpus();
  }

  onBatchEnd(gpu: number): void {
    this.#idle.set(gpu, 0);
    this.#fillGpus();
  }

  onTimer(): void {}

  #fillGpus(): void {
    const { nowNs, models, margins, deadlinesNs } = this.#stage;
    for (let gpu = this.#idle.first(); gpu >= 0; gpu = this.#idle.first()) {
      const model = this.#heads.first();
      if (model < 0) return;
      const queue = this.#queues[model]!;
      const issueNs = nowNs + margins.controlNs;
      const size = largestBatchInTime(models[model]!.profile.ns, issueNs, margins.transferNs, 0, deadlinesNs[queue.at(0)]!, queue.length);
      if (size === 0) {
        this.#stage.drop(queue.shift(), 'expired');
      } else {
        this.#stage.start(gpu, model, queue.take(size), issueNs + margins.transferNs * size);
        this.#idle.set(gpu, Infinity);
      }
      this.#lookAtHead(model);
    }
  }

  #lookAtHead(model: number): void {
    const queue = this.#queues[model]!;
    this.#heads.set(model, queue.length === 0 ? Infinity : this.#stage.arrivalsNs[queue.at(0)]!);
  }
}
