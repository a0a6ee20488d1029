/**
 * The paper authors' own scheduler, as PEER.md describes it (sections 2 to 6; section 11 for beta-lambda), in virtual
 * time: its model threads and its rank thread take no time, so that a message is handled at the instant it is sent and
 * nothing is ever rejected for being under way. Kept with what looks like defects (section 10): stranded requests,
 * stale GPU timers, an empty grant that gives the GPU back as free now, GPUs chosen by the longest idle time.
 * In place of the last but one an overlap is impossible here: such a batch starts when the GPU is really free.
 *
 * One file for the model side (meter, target, batch policy, candidate, grants), one class below for the rank thread.
 */
import type { LatencyProfile } from '../../model/latency-profile.js';
import type { SimulationMargins } from '../result.js';
import type { MakePolicy, Policy, PolicyModel, Stage } from './policy.js';
import { RankThread } from './symphony-rank.js';

export const SYMPHONY_CONDITIONS = ['frontrun', 'immediate', 'target-size', 'target-delay', 'latest', 'beta-lambda'] as const;
export type SymphonyCondition = (typeof SYMPHONY_CONDITIONS)[number];
export type SymphonyDrop = 'window' | 'timeout';

export interface SymphonyOptions {
  /** When a batch may be scheduled; default frontrun, as theirs. */
  readonly condition?: SymphonyCondition;
  /** Default window, as theirs. */
  readonly drop?: SymphonyDrop;
}

const METER_PERIOD_NS = 50e6;
const METER_SAMPLES = 100;
/** Kept off the SLO where a largest batch is looked up. */
const NETWORK_ALLOWANCE_NS = 2e6;
/** Of the branch that has beta-lambda, which has no other jitter than this. */
const BETA_LAMBDA_JITTER_NS = 20e3;

export function symphonyReference(options: SymphonyOptions = {}): MakePolicy {
  return (stage) => new SymphonyReference(stage, options.condition ?? 'frontrun', options.drop ?? 'window');
}

/** Timers: one per model for its candidate's end, one for all meters, then those of the rank thread. */
class SymphonyReference implements Policy {
  readonly name: string;
  readonly timers: number;
  readonly #stage: Stage;
  readonly #models: readonly ModelThread[];
  readonly #rank: RankThread;
  readonly #meterTimer: number;

  constructor(stage: Stage, condition: SymphonyCondition, drop: SymphonyDrop) {
    this.#stage = stage;
    this.name = `symphony-reference ${condition} ${drop}`;
    this.#models = stage.models.map((_, model) => new ModelThread(stage, model, condition, drop));
    this.#meterTimer = stage.models.length;
    this.#rank = new RankThread(stage, this.#meterTimer + 1);
    this.timers = this.#meterTimer + 1 + this.#rank.timers;
  }

  begin(): void {
    this.#stage.setTimer(this.#meterTimer, METER_PERIOD_NS);
  }

  onArrival(request: number, model: number): void {
    this.#models[model]!.enqueue(request);
    this.#post(model);
  }

  onTimer(timer: number): void {
    if (timer === this.#meterTimer) {
      for (const model of this.#models) model.meter.seal(METER_PERIOD_NS / 1e9);
      this.#stage.setTimer(timer, this.#stage.nowNs + METER_PERIOD_NS);
    } else if (timer > this.#meterTimer) {
      this.#rank.onTimer(timer);
      this.#answerGrant();
    } else if (this.#models[timer]!.onDropTimer()) {
      this.#post(timer);
    }
  }

  /** A GPU counts as free when its batch was predicted to end; nobody asks when it does. */
  onBatchEnd(): void {}

  #post(model: number): void {
    const { size, execNs, invalidAfterNs } = this.#models[model]!;
    this.#rank.setUpPlan(model, size, execNs, invalidAfterNs);
  }

  #answerGrant(): void {
    const { grantedModel, grantedGpu, grantedFreeNs } = this.#rank;
    if (grantedModel < 0) return;
    this.#rank.grantedModel = -1;
    const finishNs = this.#models[grantedModel]!.onGrant(grantedGpu, grantedFreeNs);
    this.#rank.updateGpu(grantedGpu, finishNs);
    this.#post(grantedModel);
  }
}

/** One model's side: its requests, what batch they make, and when that may start. */
class ModelThread {
  readonly meter = new RateMeter();
  /** The candidate: batch size (0: none), when to start, and when that is too late. */
  size = 0;
  execNs = Infinity;
  invalidAfterNs = -Infinity;

  readonly #stage: Stage;
  readonly #model: number;
  readonly #condition: SymphonyCondition;
  readonly #drop: SymphonyDrop;
  readonly #profile: LatencyProfile;
  readonly #targets: TargetSizes;
  readonly #margins: SimulationMargins;
  readonly #jitterNs: number;
  /** Requests in order of deadline: the prefix from #head, the suffix from #middle, both before #tail. */
  #queue = new Int32Array(64);
  #head = 0;
  #middle = 0;
  #tail = 0;
  #lastExecNs = 0;

  constructor(stage: Stage, model: number, condition: SymphonyCondition, drop: SymphonyDrop) {
    this.#stage = stage;
    this.#model = model;
    this.#condition = condition;
    this.#drop = drop;
    this.#margins = stage.margins;
    this.#profile = stage.models[model]!.profile;
    this.#targets = new TargetSizes(stage.models[model]!, stage.margins);
    this.#jitterNs = condition === 'beta-lambda' ? Math.min(BETA_LAMBDA_JITTER_NS, stage.margins.jitterNs) : stage.margins.jitterNs;
  }

  enqueue(request: number): void {
    this.meter.count++;
    if (this.#tail === this.#queue.length) this.#makeRoom();
    this.#queue[this.#tail++] = request;
    this.updateCandidate(-Infinity);
  }

  /** False where nothing is done, as when only stranded requests are left. */
  onDropTimer(): boolean {
    if (this.size === 0) return false;
    this.updateCandidate(-Infinity);
    return true;
  }

  /** Runs what it has, and returns when the GPU is free again. */
  onGrant(gpu: number, freeNs: number): number {
    this.updateCandidate(freeNs);
    const size = this.size;
    if (size === 0) return this.#stage.nowNs;
    const execNs = this.execNs;
    const inputs = this.#queue.slice(this.#head, this.#head + size);
    this.#head += size;
    this.#middle = Math.max(this.#middle, this.#head);
    this.#stage.start(gpu, this.#model, inputs, Math.max(execNs, this.#stage.busyUntilNs[gpu]!));
    this.#lastExecNs = execNs;
    this.updateCandidate(-Infinity);
    return execNs + this.#profile.latencyNs(size);
  }

  updateCandidate(freeNs: number): void {
    const { nowNs, deadlinesNs } = this.#stage;
    const { controlNs, transferNs } = this.#margins;
    const target = this.#drop === 'timeout' ? 1 : this.#targets.at(this.meter.ratePerSecond);
    const size = this.#updateBatch(nowNs + controlNs, freeNs, target);
    this.size = size;
    if (size === 0) {
      this.execNs = Infinity;
      this.invalidAfterNs = -Infinity;
      this.#stage.setTimer(this.#model, Infinity);
      return;
    }
    const deadlineNs = deadlinesNs[this.#queue[this.#head]!]!;
    const inputsNs = controlNs + transferNs * size;
    const earliestNs = nowNs + inputsNs;
    const latestNs = deadlineNs - this.#jitterNs - this.#profile.latencyNs(size);
    const wantNs = this.#wantNs(size, target, deadlineNs, earliestNs, latestNs);
    // The branch that has beta-lambda does not hold the start back to the latest one.
    const boundNs = this.#condition === 'beta-lambda' ? wantNs : Math.min(wantNs, latestNs);
    this.execNs = Math.max(earliestNs, freeNs, boundNs);
    this.invalidAfterNs = deadlineNs - this.#profile.latencyNs(size);
    // Their second timer, at the deadline, would always come after this one, which sets both anew. A timer that fires
    // in its own instant would find everything as it was, for ever: theirs fires a little late instead.
    this.#stage.setTimer(this.#model, Math.max(this.invalidAfterNs - inputsNs, nowNs + 1));
  }

  /** The batch policy (PEER.md 3): moves the window, drops, and returns the size; the batch is the oldest survivors. */
  #updateBatch(issueNs: number, freeNs: number, target: number): number {
    const queue = this.#queue;
    const deadlinesNs = this.#stage.deadlinesNs;
    const transferNs = this.#margins.transferNs;
    const latencyNs = this.#profile.ns;
    const maxBatch = this.#profile.maxBatch;
    const tail = this.#tail;
    while (this.#middle < tail) {
      const window = tail - this.#middle;
      if (window <= maxBatch && deadlinesNs[queue[this.#middle]!]! >= Math.max(issueNs + transferNs * window, freeNs) + latencyNs[window]!) break;
      this.#middle++;
    }
    let size = Math.min(target, tail - this.#middle);
    if (size === 0) return 0; // what is left of the prefix is stranded
    const finishNs = Math.max(issueNs + transferNs * size, freeNs) + latencyNs[size]!;
    while (this.#head < this.#middle && deadlinesNs[queue[this.#head]!]! < finishNs) this.#stage.drop(queue[this.#head++]!, 'expired');
    const deadlineNs = deadlinesNs[queue[this.#head]!]!;
    const most = Math.min(tail - this.#head, maxBatch);
    while (size < most && deadlineNs >= Math.max(issueNs + transferNs * (size + 1), freeNs) + latencyNs[size + 1]!) size++;
    return size;
  }

  #wantNs(size: number, target: number, deadlineNs: number, earliestNs: number, latestNs: number): number {
    const frontrunNs = deadlineNs - this.#jitterNs - this.#profile.latencyNs(size + 1) - this.#margins.transferNs;
    switch (this.#condition) {
      case 'frontrun': return frontrunNs;
      case 'immediate': return earliestNs;
      case 'latest': return latestNs;
      case 'target-size': return size >= target ? earliestNs : frontrunNs;
      case 'target-delay': return this.#lastExecNs + this.#targetDelayNs(target);
      case 'beta-lambda': return this.#reachesBetaLambda(size, target) ? earliestNs : frontrunNs;
    }
  }

  /** How long a batch of the target size takes to gather. */
  #targetDelayNs(target: number): number {
    if (this.#drop === 'timeout') return 0;
    const rate = this.meter.ratePerSecond;
    return Number.isNaN(rate) ? this.#stage.models[this.#model]!.sloNs / 2 : Math.trunc((target / rate) * 1e9);
  }

  /** b ≥ β·λ, with β from the chord of the profile through b and the target size. */
  #reachesBetaLambda(size: number, target: number): boolean {
    const rate = this.meter.ratePerSecond;
    if (Number.isNaN(rate)) return false;
    const other = size === target ? size + 1 : target;
    const slopeNs = (this.#profile.latencyNs(other) - this.#profile.latencyNs(size)) / (other - size);
    const betaNs = this.#profile.latencyNs(size) - slopeNs * size;
    return size >= betaNs * 1e-9 * rate;
  }

  #makeRoom(): void {
    const queue = this.#tail - this.#head > this.#queue.length / 2 ? new Int32Array(2 * this.#queue.length) : this.#queue;
    queue.set(this.#queue.subarray(this.#head, this.#tail));
    this.#queue = queue;
    this.#middle -= this.#head;
    this.#tail -= this.#head;
    this.#head = 0;
  }
}

/** Arrivals per second, the mean of the last 100 samples of 50 ms. (Their standard deviation is measured and never used.) */
class RateMeter {
  count = 0;
  /** NaN before the first sample, and samples begin with the first request. */
  ratePerSecond = NaN;
  readonly #samples = new Float64Array(METER_SAMPLES);
  #sealed = 0;

  seal(seconds: number): void {
    if (this.#sealed === 0 && this.count === 0) return;
    const sample = this.count / seconds;
    const mean = this.#sealed === 0 ? 0 : this.ratePerSecond;
    const place = this.#sealed % METER_SAMPLES;
    const filled = this.#sealed < METER_SAMPLES;
    this.ratePerSecond = mean + (filled ? (sample - mean) / (this.#sealed + 1) : (sample - this.#samples[place]!) / METER_SAMPLES);
    if (this.ratePerSecond < 1e-9) this.ratePerSecond = 0;
    this.#samples[place] = sample;
    this.#sealed++;
    this.count = 0;
  }
}

/** The target size (PEER.md 2.3), looked up anew only when the rate has changed. */
class TargetSizes {
  readonly #model: PolicyModel;
  readonly #budgetS: number;
  readonly #transferS: number;
  readonly #firstTarget: number;
  #rate = NaN;
  #target = 0;

  constructor(model: PolicyModel, margins: SimulationMargins) {
    this.#model = model;
    this.#budgetS = (model.sloNs - margins.controlNs - margins.responseNs) / 1e9;
    this.#transferS = margins.transferNs / 1e9;
    this.#firstTarget = Math.max(1, model.profile.largestBatchWithin(model.sloNs / 2 - NETWORK_ALLOWANCE_NS));
  }

  at(ratePerSecond: number): number {
    if (Number.isNaN(ratePerSecond)) return this.#firstTarget;
    if (ratePerSecond === this.#rate) return this.#target;
    this.#rate = ratePerSecond;
    return (this.#target = this.#estimate(ratePerSecond));
  }

  #estimate(rate: number): number {
    const latencyS = (b: number): number => this.#model.profile.latencyNs(b) / 1e9;
    // Both loops end at the latest above the largest batch, which takes for ever.
    for (let b = 1; ; b++) {
      const l = latencyS(b);
      const gpus = (rate * l) / b;
      if (l * (1 + 1 / Math.max(1, gpus)) <= this.#budgetS - this.#transferS * b) continue;
      if (gpus > 1) return Math.max(1, b - 1);
      break;
    }
    for (let b = 2; ; b++) {
      if (latencyS(b) + b / rate + this.#transferS * b > this.#budgetS) return b - 1;
    }
  }
}
