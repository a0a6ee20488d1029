/**
 * Shepherd's online policy "Flex" as the paper authors' baseline has it (PEER.md 9.1): for an idle GPU the largest
 * batch that any model can make, and a batch at least 3.03 times as large may take the place of a running one, whose
 * work is lost. A batch of a model is the oldest of its requests (those that run on this GPU included), as many as the
 * earliest deadline among them allows.
 *
 * Theirs looks for expired requests only at the end of the latest deadline, so one expired head blocks its model for
 * good: `expireFrom: 'back'`. The fair one removes them from the front. Theirs keeps nothing off the deadline for the
 * response; here all policies do.
 */
import type { MakePolicy, Policy, Stage } from './policy.js';
import { largestBatchInTime, RequestQueue } from './queue.js';

export interface ShepherdOptions {
  /** A batch this many times as large pre-empts; Infinity for never. Default 3.03, as theirs. */
  readonly preemptAt?: number;
  /** Where expired requests are looked for; default front. */
  readonly expireFrom?: 'front' | 'back';
}

const NO_MODEL = -1;
const NONE = new Int32Array(0);

export function shepherd(options: ShepherdOptions = {}): MakePolicy {
  return (stage) => new Shepherd(stage, options.preemptAt ?? 3.03, options.expireFrom ?? 'front');
}

class Shepherd implements Policy {
  readonly name: string;
  readonly timers = 0;
  readonly #stage: Stage;
  readonly #preemptAt: number;
  readonly #fromFront: boolean;
  readonly #queues: readonly RequestQueue[];
  readonly #allModels: readonly number[];
  /** By GPU: what runs. */
  readonly #runningModel: Int32Array;
  readonly #running: Int32Array[];
  /** The batch that was found last. */
  #foundModel = NO_MODEL;
  #foundSize = 0;

  constructor(stage: Stage, preemptAt: number, expireFrom: 'front' | 'back') {
    this.name = `shepherd${preemptAt === Infinity ? '-nonpreemptive' : ''}${expireFrom === 'back' ? '-authors' : ''}`;
    this.#stage = stage;
    this.#preemptAt = preemptAt;
    this.#fromFront = expireFrom === 'front';
    this.#queues = stage.models.map(() => new RequestQueue());
    this.#allModels = stage.models.map((_, model) => model);
    this.#runningModel = new Int32Array(stage.gpus).fill(NO_MODEL);
    this.#running = Array.from({ length: stage.gpus }, () => NONE);
  }

  onArrival(request: number, model: number): void {
    this.#queues[model]!.push(request);
    const changed = [model];
    // Ends: each round after the first needs a pre-emption, and each of those makes a batch several times as large.
    for (let next = changed.pop(); next !== undefined; next = changed.pop()) {
      for (let gpu = 0; gpu < this.#stage.gpus; gpu++) {
        const running = this.#runningModel[gpu]!;
        this.#find(gpu, running === NO_MODEL || running === next ? [next] : [next, running]);
        if (this.#foundSize === 0) continue;
        if (running === NO_MODEL) {
          this.#run(gpu);
        } else if (this.#foundSize >= this.#preemptAt * this.#running[gpu]!.length) {
          this.#queues[running]!.putBack(this.#stage.preempt(gpu));
          if (this.#foundModel !== model) changed.push(this.#foundModel);
          this.#run(gpu);
        }
      }
    }
  }

  onBatchEnd(gpu: number): void {
    this.#runningModel[gpu] = NO_MODEL;
    this.#running[gpu] = NONE;
    this.#find(gpu, this.#allModels);
    if (this.#foundSize > 0) this.#run(gpu);
  }

  onTimer(): void {}

  #run(gpu: number): void {
    const { nowNs, margins } = this.#stage;
    const model = this.#foundModel;
    const requests = this.#queues[model]!.take(this.#foundSize);
    this.#stage.start(gpu, model, requests, nowNs + margins.controlNs + margins.transferNs * requests.length);
    this.#runningModel[gpu] = model;
    this.#running[gpu] = requests;
  }

  /** The largest batch that one of the models could start now on this GPU in place of what runs; the first of equal ones. */
  #find(gpu: number, models: readonly number[]): void {
    this.#foundModel = NO_MODEL;
    this.#foundSize = 0;
    for (const model of models) {
      this.#expire(model);
      const size = this.#batchSize(model, this.#runningModel[gpu] === model ? this.#running[gpu]! : NONE);
      if (size <= this.#foundSize) continue;
      this.#foundModel = model;
      this.#foundSize = size;
    }
  }

  #batchSize(model: number, running: Int32Array): number {
    const { nowNs, models, margins, deadlinesNs } = this.#stage;
    const queue = this.#queues[model]!;
    const total = queue.length + running.length;
    if (total === 0) return 0;
    const oldest = queue.length === 0 ? running[0]! : running.length === 0 ? queue.at(0) : Math.min(queue.at(0), running[0]!);
    return largestBatchInTime(models[model]!.profile.ns, nowNs + margins.controlNs, margins.transferNs, 0, deadlinesNs[oldest]!, total);
  }

  /** Drops requests that could not end in time even alone and at once, up to the first that could. */
  #expire(model: number): void {
    const { nowNs, models, margins, deadlinesNs } = this.#stage;
    const queue = this.#queues[model]!;
    const finishNs = nowNs + margins.controlNs + margins.transferNs + models[model]!.profile.latencyNs(1);
    while (queue.length > 0 && deadlinesNs[queue.at(this.#fromFront ? 0 : queue.length - 1)]! < finishNs) {
      this.#stage.drop(this.#fromFront ? queue.shift() : queue.pop(), 'expired');
    }
  }
}
