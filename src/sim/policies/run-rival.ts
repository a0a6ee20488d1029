/** Runs a rival policy in virtual time, and stops it when it does what no real scheduler could do. */
import { TimeTree } from '../../clock/time-tree.js';
import type { SimulatedModel, SimulationMargins, SimulationOptions, SimulationResult } from '../result.js';
import type { MakePolicy, Policy, PolicyModel, Stage } from './policy.js';
import { type ArrivalSource, ArrivalStream } from './stream.js';

export interface RivalSettings {
  /** Count as the paper authors' tool does: good when device end < arrival + SLO, without the response delay. Default false. */
  readonly peerCounting?: boolean;
  /** In place of the workload's own arrivals. Those at or after the end of the counted time do not come. */
  readonly arrivals?: ArrivalSource;
  readonly observer?: RivalObserver;
}

/** Is told what a policy does, as it does it. */
export interface RivalObserver {
  started?(nowNs: number, gpu: number, model: number, requests: Int32Array, startNs: number, endNs: number): void;
  preempted?(nowNs: number, gpu: number, requests: Int32Array): void;
  dropped?(nowNs: number, request: number, reason: string): void;
}

/** Reason of requests that the policy has left lying. */
export const UNFINISHED = 'unfinished';

const WAITING = 0;
const ISSUED = 1;
const ENDED = 2;

/** Events at one instant after which it is certain that they will not end. */
const MOST_EVENTS = 1_000_000;
const FIRST_CAPACITY = 1024;
/** After the last arrival a policy that for so long neither starts nor ends anything has forgotten what still waits. */
const QUIET_SLOS = 10;
const QUIET_NS = 10e9;

interface Batch {
  readonly model: number;
  readonly requests: Int32Array;
  readonly startNs: number;
  readonly endNs: number;
}

/**
 * Arrivals in [warm-up, warm-up + seconds) count, and the run goes on until every request has ended; those that
 * the policy has left lying are dropped as `unfinished`. A run depends on its arguments only.
 * @throws Error that names time, GPU or request when the policy breaks a rule of `Stage`, or does not come to rest at one instant.
 */
export function runRival(makePolicy: MakePolicy, options: SimulationOptions, settings: RivalSettings = {}): SimulationResult {
  return new RivalRun(makePolicy, options, settings).play();
}

class RivalRun implements Stage {
  nowNs = 0;
  readonly models: readonly PolicyModel[];
  readonly gpus: number;
  readonly margins: SimulationMargins;
  modelOf = new Int32Array(FIRST_CAPACITY);
  arrivalsNs = new Float64Array(FIRST_CAPACITY);
  deadlinesNs = new Float64Array(FIRST_CAPACITY);
  readonly busyUntilNs: Float64Array;

  /** By request: when its batch ended. */
  #endsNs = new Float64Array(FIRST_CAPACITY);
  #states = new Uint8Array(FIRST_CAPACITY);
  #arrived = 0;
  #open = 0;
  /** The first request that counts. */
  #firstCounted = 0;

  readonly #options: SimulationOptions;
  readonly #settings: RivalSettings;
  readonly #arrivals: ArrivalSource;
  readonly #fromNs: number;
  readonly #toNs: number;
  readonly #policy: Policy;
  readonly #timers: TimeTree;
  /** By GPU: end of the batch that is to end first. */
  readonly #batchEnds: TimeTree;
  /** By GPU: what was issued and has not ended, in order. */
  readonly #issued: Batch[][];
  #inFlight = 0;
  #lastProgressNs = 0;

  readonly #busyNs: number[];
  readonly #batches: Int32Array;
  readonly #batched: Int32Array;
  readonly #droppedOf: Int32Array;
  readonly #reasons: Record<string, number> = {};

  constructor(makePolicy: MakePolicy, options: SimulationOptions, settings: RivalSettings) {
    const { workload, gpus, ratePerSecond, seed, seconds, warmupSeconds, margins } = options;
    this.#options = options;
    this.#settings = settings;
    this.models = workload.models.map(({ name, profile, sloNs }) => ({ name, profile, sloNs }));
    this.gpus = gpus;
    this.margins = margins;
    this.#fromNs = Math.round(warmupSeconds * 1e9);
    this.#toNs = Math.round((warmupSeconds + seconds) * 1e9);
    this.#arrivals = settings.arrivals ?? new ArrivalStream(workload, ratePerSecond, seed);
    this.busyUntilNs = new Float64Array(gpus);
    this.#batchEnds = new TimeTree(gpus);
    this.#issued = Array.from({ length: gpus }, () => []);
    this.#busyNs = new Array<number>(gpus).fill(0);
    this.#batches = new Int32Array(this.models.length);
    this.#batched = new Int32Array(this.models.length);
    this.#droppedOf = new Int32Array(this.models.length);
    this.#policy = makePolicy(this);
    this.#timers = new TimeTree(Math.max(1, this.#policy.timers));
  }

  play(): SimulationResult {
    this.#policy.begin?.();
    let largestSloNs = 0;
    for (const { sloNs } of this.models) largestSloNs = Math.max(largestSloNs, sloNs);
    const quietNs = QUIET_SLOS * largestSloNs + QUIET_NS;
    let events = 0;
    for (;;) {
      const arrivalNs = this.#arrivals.nextNs < this.#toNs ? this.#arrivals.nextNs : Infinity;
      const endNs = this.#batchEnds.min();
      const timerNs = this.#timers.min();
      const nextNs = Math.min(endNs, arrivalNs, timerNs);
      if (nextNs === Infinity) break;
      if (arrivalNs === Infinity && this.#inFlight === 0 && (this.#open === 0 || nextNs > this.#lastProgressNs + quietNs)) break;
      if (nextNs > this.nowNs) events = 0;
      else if (++events > MOST_EVENTS) throw this.#error(`does not come to rest: ${MOST_EVENTS} events at one instant`);
      this.nowNs = Math.max(nextNs, this.nowNs);
      if (endNs === nextNs) this.#endBatch(this.#batchEnds.first());
      else if (arrivalNs === nextNs) this.#arrive(this.#arrivals.model);
      else this.#fire(this.#timers.first());
    }
    this.#dropLeftovers();
    return this.#result();
  }

  start(gpu: number, model: number, requests: Int32Array, startNs: number): void {
    const size = requests.length;
    const profile = this.models[model]!.profile;
    const earliestNs = this.nowNs + this.margins.controlNs + this.margins.transferNs * size;
    if (size < 1 || size > profile.maxBatch) throw this.#error(`starts a batch of ${size} of ${this.#nameOf(model)}, whose batches are 1 to ${profile.maxBatch}`);
    if (!(startNs >= earliestNs && Number.isSafeInteger(startNs))) throw this.#error(`starts a batch of ${size} at ${startNs} ns, the earliest is ${earliestNs} ns`);
    if (!(startNs >= this.busyUntilNs[gpu]!)) throw this.#error(`starts a batch at ${startNs} ns on GPU ${gpu}, which runs another until ${this.busyUntilNs[gpu]} ns`);
    for (const request of requests) {
      this.#mustWait(request, 'is started');
      if (this.modelOf[request] !== model) throw this.#error(`runs request ${request} of ${this.#nameOf(this.modelOf[request]!)} as one of ${this.#nameOf(model)}`);
      this.#states[request] = ISSUED;
    }
    const endNs = startNs + profile.latencyNs(size);
    const issued = this.#issued[gpu]!;
    issued.push({ model, requests, startNs, endNs });
    if (issued.length === 1) this.#batchEnds.set(gpu, endNs);
    this.busyUntilNs[gpu] = endNs;
    this.#inFlight++;
    this.#lastProgressNs = endNs;
    this.#settings.observer?.started?.(this.nowNs, gpu, model, requests, startNs, endNs);
  }

  drop(request: number, reason: string): void {
    this.#mustWait(request, 'is dropped');
    this.#states[request] = ENDED;
    this.#open--;
    this.#lastProgressNs = Math.max(this.#lastProgressNs, this.nowNs);
    this.#settings.observer?.dropped?.(this.nowNs, request, reason);
    if (this.arrivalsNs[request]! < this.#fromNs) return;
    this.#droppedOf[this.modelOf[request]!]!++;
    this.#reasons[reason] = (this.#reasons[reason] ?? 0) + 1;
  }

  preempt(gpu: number): Int32Array {
    const issued = this.#issued[gpu]!;
    const batch = issued.pop();
    if (batch === undefined) throw this.#error(`pre-empts GPU ${gpu}, which has no batch`);
    for (const request of batch.requests) this.#states[request] = WAITING;
    this.#account(gpu, batch, Math.max(batch.startNs, this.nowNs));
    if (this.nowNs > batch.startNs) this.#countBatch(batch, 0);
    if (issued.length === 0) this.#batchEnds.set(gpu, Infinity);
    this.busyUntilNs[gpu] = issued.at(-1)?.endNs ?? this.nowNs;
    this.#inFlight--;
    this.#lastProgressNs = Math.max(this.#lastProgressNs, this.nowNs);
    this.#settings.observer?.preempted?.(this.nowNs, gpu, batch.requests);
    return batch.requests;
  }

  setTimer(timer: number, atNs: number): void {
    if (!(timer >= 0 && timer < this.#policy.timers)) throw this.#error(`sets timer ${timer} of ${this.#policy.timers}`);
    if (Number.isNaN(atNs)) throw this.#error(`sets timer ${timer} to NaN`);
    this.#timers.set(timer, atNs > this.nowNs ? atNs : this.nowNs);
  }

  #arrive(model: number): void {
    const request = this.#arrived++;
    if (request === this.modelOf.length) this.#grow();
    const now = this.nowNs;
    this.modelOf[request] = model;
    this.arrivalsNs[request] = now;
    const ownSloNs = this.#arrivals.sloNs ?? 0;
    this.deadlinesNs[request] = now + (ownSloNs === 0 ? this.models[model]!.sloNs : ownSloNs) - this.margins.responseNs;
    this.#open++;
    if (now < this.#fromNs) this.#firstCounted = this.#arrived;
    this.#lastProgressNs = Math.max(this.#lastProgressNs, now);
    this.#arrivals.advance();
    this.#policy.onArrival(request, model);
  }

  #endBatch(gpu: number): void {
    const issued = this.#issued[gpu]!;
    const batch = issued.shift()!;
    this.#batchEnds.set(gpu, issued[0]?.endNs ?? Infinity);
    for (const request of batch.requests) {
      this.#states[request] = ENDED;
      this.#endsNs[request] = batch.endNs;
    }
    this.#open -= batch.requests.length;
    this.#inFlight--;
    this.#account(gpu, batch, batch.endNs);
    this.#countBatch(batch, batch.requests.length);
    this.#policy.onBatchEnd(gpu);
  }

  #fire(timer: number): void {
    this.#timers.set(timer, Infinity);
    this.#policy.onTimer(timer);
  }

  /** Adds what the batch used of the counted time. */
  #account(gpu: number, batch: Batch, untilNs: number): void {
    const busyNs = Math.min(untilNs, this.#toNs) - Math.max(batch.startNs, this.#fromNs);
    if (busyNs > 0) this.#busyNs[gpu]! += busyNs;
  }

  #countBatch(batch: Batch, size: number): void {
    if (batch.startNs < this.#fromNs || batch.startNs >= this.#toNs) return;
    this.#batches[batch.model]!++;
    this.#batched[batch.model]! += size;
  }

  #dropLeftovers(): void {
    for (let request = 0; request < this.#arrived; request++) {
      if (this.#states[request] === WAITING) this.drop(request, UNFINISHED);
    }
    if (this.#open !== 0) throw this.#error(`is left with ${this.#open} requests that are neither waiting nor ended`);
  }

  #result(): SimulationResult {
    const models = this.models.map((_, model) => this.#modelResult(model));
    const sum = (of: (model: SimulatedModel) => number): number => models.reduce((total, model) => total + of(model), 0);
    return {
      policy: this.#policy.name,
      offered: sum((model) => model.offered),
      good: sum((model) => model.good),
      late: sum((model) => model.late),
      droppedByReason: this.#reasons,
      batches: sum((model) => model.batches),
      batched: sum((model) => model.batched),
      busyNs: this.#busyNs,
      seconds: this.#options.seconds,
      models,
    };
  }

  #modelResult(model: number): SimulatedModel {
    const { name, sloNs } = this.models[model]!;
    const latenciesNs = new Float64Array(this.#arrived - this.#firstCounted);
    let ran = 0;
    let good = 0;
    for (let request = this.#firstCounted; request < this.#arrived; request++) {
      if (this.modelOf[request] !== model || this.#endsNs[request] === 0) continue;
      const latencyNs = this.#endsNs[request]! - this.arrivalsNs[request]!;
      if (this.#settings.peerCounting === true ? latencyNs < sloNs : this.#endsNs[request]! <= this.deadlinesNs[request]!) good++;
      latenciesNs[ran++] = latencyNs;
    }
    const sorted = latenciesNs.subarray(0, ran).sort();
    const dropped = this.#droppedOf[model]!;
    return {
      name,
      offered: ran + dropped,
      good,
      late: ran - good,
      dropped,
      batches: this.#batches[model]!,
      batched: this.#batched[model]!,
      latencyP50Ns: nearestRank(sorted, 0.5),
      latencyP99Ns: nearestRank(sorted, 0.99),
    };
  }

  #mustWait(request: number, deed: string): void {
    const state = request >= 0 && request < this.#arrived ? this.#states[request] : -1;
    if (state === WAITING) return;
    const fate = state === ISSUED ? 'is in a batch already' : state === ENDED ? 'has ended' : 'has not arrived';
    throw this.#error(`request ${request} ${deed} and ${fate}`);
  }

  #grow(): void {
    const longer = <T extends Float64Array | Int32Array | Uint8Array>(from: T, to: T): T => {
      to.set(from);
      return to;
    };
    const capacity = 2 * this.modelOf.length;
    this.modelOf = longer(this.modelOf, new Int32Array(capacity));
    this.arrivalsNs = longer(this.arrivalsNs, new Float64Array(capacity));
    this.deadlinesNs = longer(this.deadlinesNs, new Float64Array(capacity));
    this.#endsNs = longer(this.#endsNs, new Float64Array(capacity));
    this.#states = longer(this.#states, new Uint8Array(capacity));
  }

  #nameOf(model: number): string {
    return this.models[model]?.name ?? `model ${model}`;
  }

  #error(deed: string): Error {
    return new Error(`policy ${this.#policy.name} at ${this.nowNs} ns: ${deed}`);
  }
}

function nearestRank(sorted: Float64Array, share: number): number {
  return sorted.length === 0 ? 0 : sorted[Math.ceil(share * sorted.length) - 1]!;
}
