/**
 * The rank thread of the paper authors' scheduler (PEER.md 6): matches the models' candidates with GPUs that are free
 * or will be. Its timers, from `firstTimer` on: one per model for its send time, then one per GPU.
 */
import { TimeTree } from '../../clock/time-tree.js';
import type { Stage } from './policy.js';

export class RankThread {
  readonly timers: number;
  /** The grant that the last timer made, −1 for none: to be answered by `updateGpu` and `setUpPlan`. */
  grantedModel = -1;
  grantedGpu = -1;
  grantedFreeNs = 0;

  readonly #stage: Stage;
  readonly #firstTimer: number;
  /** By GPU; Infinity while granted. */
  readonly #freeNs: TimeTree;
  /** By GPU: a count that tells which of two free times was set later. */
  readonly #setAt: Float64Array;
  #sets = 0;
  /** By model: its candidate; a size of 0 for none. */
  readonly #sizes: Int32Array;
  readonly #execNs: Float64Array;
  readonly #invalidAfterNs: Float64Array;
  /** By model that waits for a GPU. */
  readonly #waitingInvalid: TimeTree;
  /** By model that waits for a GPU: minus its c + δb. */
  readonly #waitingInputs: TimeTree;

  constructor(stage: Stage, firstTimer: number) {
    const models = stage.models.length;
    this.#stage = stage;
    this.#firstTimer = firstTimer;
    this.timers = models + stage.gpus;
    this.#freeNs = new TimeTree(stage.gpus);
    this.#setAt = new Float64Array(stage.gpus);
    for (let gpu = 0; gpu < stage.gpus; gpu++) this.#setFree(gpu, 0);
    this.#sizes = new Int32Array(models);
    this.#execNs = new Float64Array(models);
    this.#invalidAfterNs = new Float64Array(models);
    this.#waitingInvalid = new TimeTree(models);
    this.#waitingInputs = new TimeTree(models);
  }

  /** Takes a model's candidate in place of its last one. */
  setUpPlan(model: number, size: number, execNs: number, invalidAfterNs: number): void {
    this.#sizes[model] = size;
    this.#execNs[model] = execNs;
    this.#invalidAfterNs[model] = invalidAfterNs;
    this.#stage.setTimer(this.#firstTimer + model, execNs - this.#inputsNs(model));
    this.#stopWaiting(model);
    this.#setGpuTimer();
  }

  updateGpu(gpu: number, freeNs: number): void {
    this.#setFree(gpu, freeNs);
    this.#setGpuTimer();
  }

  onTimer(timer: number): void {
    const model = timer - this.#firstTimer;
    if (model < this.#stage.models.length) this.#onPlanTimer(model);
    else this.#onGpuTimer(model - this.#stage.models.length);
  }

  #onPlanTimer(model: number): void {
    if (this.#sizes[model] === 0) return;
    const inputsNs = this.#inputsNs(model);
    if (this.#stage.nowNs + inputsNs > this.#invalidAfterNs[model]!) return;
    const gpu = this.#leastFree();
    if (this.#freeNs.get(gpu) > this.#execNs[model]!) {
      this.#waitingInvalid.set(model, this.#invalidAfterNs[model]!);
      this.#waitingInputs.set(model, -inputsNs);
      this.#setGpuTimer();
    } else {
      this.#grant(model, gpu);
    }
  }

  #onGpuTimer(gpu: number): void {
    const freeNs = this.#freeNs.get(gpu);
    while (this.#waitingInvalid.min() < freeNs) this.#stopWaiting(this.#waitingInvalid.first());
    const model = this.#waitingInvalid.first();
    if (model >= 0) this.#grant(model, gpu);
    this.#setGpuTimer();
  }

  #grant(model: number, gpu: number): void {
    this.grantedModel = model;
    this.grantedGpu = gpu;
    this.grantedFreeNs = this.#freeNs.get(gpu);
    this.updateGpu(gpu, Infinity);
    this.#sizes[model] = 0;
    this.#stopWaiting(model);
  }

  /** Only the timer of the GPU that is free first is ever set or cancelled: others stay as they are. */
  #setGpuTimer(): void {
    const gpu = this.#leastFree();
    const isWaitedFor = this.#waitingInvalid.min() < Infinity;
    this.#stage.setTimer(this.#gpuTimer(gpu), isWaitedFor ? this.#freeNs.get(gpu) + this.#waitingInputs.min() : Infinity);
  }

  /** The GPU that has been free for longest, or will be free first; of several the one whose time was set last. */
  #leastFree(): number {
    const { nodes, leaves } = this.#freeNs;
    const leastNs = nodes[1]!;
    return this.#latestSet(nodes, leaves, 1, leastNs);
  }

  /** Below a node that holds the least free time: walks only to GPUs that share it. */
  #latestSet(nodes: Float64Array, leaves: number, node: number, leastNs: number): number {
    if (node >= leaves) return node - leaves;
    const left = nodes[2 * node] === leastNs;
    const right = nodes[2 * node + 1] === leastNs;
    if (!left || !right) return this.#latestSet(nodes, leaves, left ? 2 * node : 2 * node + 1, leastNs);
    const one = this.#latestSet(nodes, leaves, 2 * node, leastNs);
    const other = this.#latestSet(nodes, leaves, 2 * node + 1, leastNs);
    return other < this.#setAt.length && this.#setAt[other]! > this.#setAt[one]! ? other : one;
  }

  #setFree(gpu: number, freeNs: number): void {
    this.#freeNs.set(gpu, freeNs);
    this.#setAt[gpu] = ++this.#sets;
  }

  #stopWaiting(model: number): void {
    this.#waitingInvalid.set(model, Infinity);
    this.#waitingInputs.set(model, Infinity);
  }

  /** c + δb: how long before its start a batch must be sent. */
  #inputsNs(model: number): number {
    const { controlNs, transferNs } = this.#stage.margins;
    return controlNs + transferNs * this.#sizes[model]!;
  }

  #gpuTimer(gpu: number): number {
    return this.#firstTimer + this.#stage.models.length + gpu;
  }
}
