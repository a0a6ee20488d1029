/**
 * A pool of GPUs that follows the advice of the dispatcher (ALGORITHM.md 1.6) while the load changes, in virtual time. The
 * advisor is the one that runs live; GPUs come and go by the same rows and the same publication as `addDevice` and
 * `removeDevice` use. Beside it the oracle: in each step the fewest GPUs that `plan` finds for its rate.
 */
import { describeValue } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { type AdviceConfig, DEFAULT_ADVICE, type GpuConfig } from '../protocol/config.js';
import { type Observer, UNWATCHED } from '../protocol/observer.js';
import { OUTCOME, outcomeOf } from '../protocol/outcome.js';
import { GPU_ACTIVE, GPU_LEAVING, GPU_NONE, SpecTable } from '../protocol/specs.js';
import { GPU } from '../protocol/tables.js';
import type { PolicyRunner } from './goodput.js';
import { plan } from './plan.js';
import type { SimulationMargins } from './result.js';
import { checkSimulation, configOf, type OwnPolicy } from './simulate.js';
import { VaryingArrivals } from './varying-load.js';
import { VirtualHost } from './virtual-host.js';
import type { Workload } from './workload.js';

export interface AutoscaleOptions {
  readonly workload: Workload;
  readonly policy: OwnPolicy;
  /** Of all models together, one for each step. */
  readonly ratesPerSecond: ArrayLike<number>;
  readonly stepSeconds: number;
  /** From the decision to start a GPU until it takes batches. It is paid for meanwhile. */
  readonly startupSeconds: number;
  /** At the start, and at most. */
  readonly gpus: number;
  readonly mostGpus: number;
  readonly seed: number;
  readonly margins: SimulationMargins;
  readonly advice?: AdviceConfig;
  /** Default 1. Changes nothing in the result. */
  readonly shards?: number;
  /** False: the GPUs of the start stay, whatever is advised. */
  readonly follows?: boolean;
}

export interface AutoscaleStep {
  readonly ratePerSecond: number;
  readonly offered: number;
  readonly good: number;
  /** GPUs paid for, in the mean. */
  readonly gpus: number;
  /** Wanted at its end, and why. */
  readonly wanted: number;
  readonly reason: string;
  /** By GPU: busy time of the batches that were to start in this step, as a share of the step. */
  readonly busyShare: readonly number[];
}

export interface AutoscaleResult {
  readonly steps: readonly AutoscaleStep[];
  readonly offered: number;
  readonly good: number;
  readonly gpuSeconds: number;
  readonly added: number;
  readonly removed: number;
  /** The most GPUs that were there at once. */
  readonly mostGpus: number;
}

/** Requests in flight at once are provided for with this much room. */
const ROOM = 4;
const LEAST_SLOT_SHIFT = 10;
const MOST_SLOT_SHIFT = 20;
const DEVICE: GpuConfig = { host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 };

/** @throws InvalidOptionError for an option that is wrong. */
export function autoscale(options: AutoscaleOptions): AutoscaleResult {
  const { gpus, mostGpus, startupSeconds, stepSeconds, ratesPerSecond, workload, seed, margins } = options;
  if (!(startupSeconds >= 0 && startupSeconds < Infinity)) throw new InvalidOptionError('startupSeconds', `got ${describeValue(startupSeconds)}, must be >= 0`);
  if (!(Number.isInteger(mostGpus) && mostGpus >= gpus)) throw new InvalidOptionError('mostGpus', `got ${describeValue(mostGpus)}, must be an integer and at least the ${gpus} of the start`);
  if (!(stepSeconds > 0 && stepSeconds < Infinity)) throw new InvalidOptionError('stepSeconds', `got ${describeValue(stepSeconds)}, must be > 0`);
  checkSimulation({ workload, gpus, ratePerSecond: ratesPerSecond[0] ?? 0, seed, seconds: stepSeconds, warmupSeconds: 0, margins });
  return new Run(options).play();
}

class Run {
  readonly #options: AutoscaleOptions;
  readonly #host: VirtualHost;
  readonly #pool: Pool;
  readonly #stepNs: number;
  readonly #steps: number;
  /** By slot: the step in which its request came. */
  readonly #stepOf: Int32Array;
  /** By step; busy time also by GPU. */
  readonly #offered: Float64Array;
  readonly #good: Float64Array;
  readonly #busyNs: Float64Array;
  readonly #latenciesNs: readonly Float64Array[];

  constructor(options: AutoscaleOptions) {
    const { workload, policy, ratesPerSecond, mostGpus, stepSeconds } = options;
    const longestSeconds = Math.max(...workload.models.map((model) => model.sloNs)) / 1e9;
    let peak = 0;
    for (let step = 0; step < ratesPerSecond.length; step++) peak = Math.max(peak, ratesPerSecond[step]!);
    const slotShift = Math.min(MOST_SLOT_SHIFT, Math.max(LEAST_SLOT_SHIFT, Math.ceil(Math.log2(ROOM * peak * longestSeconds))));
    this.#options = options;
    this.#stepNs = Math.round(stepSeconds * 1e9);
    this.#steps = ratesPerSecond.length;
    this.#stepOf = new Int32Array(2 ** slotShift);
    this.#offered = new Float64Array(this.#steps);
    this.#good = new Float64Array(this.#steps);
    this.#busyNs = new Float64Array(this.#steps * mostGpus);
    this.#latenciesNs = workload.models.map((model) => model.profile.ns);
    const config = { ...configOf(policy, options, slotShift), maxGpus: mostGpus, advice: options.advice ?? DEFAULT_ADVICE };
    this.#host = new VirtualHost(config, this.#observer());
    this.#host.onCompleted = (slots, outcomes, count) => this.#count(slots, outcomes, count);
    this.#pool = new Pool(this.#host, options.startupSeconds * 1e9);
  }

  play(): AutoscaleResult {
    const { epochNs } = this.#options.advice ?? DEFAULT_ADVICE;
    const arrivals = new VaryingArrivals(this.#options.workload, this.#options.ratesPerSecond, this.#stepNs, this.#options.seed);
    const steps: AutoscaleStep[] = [];
    const endNs = this.#steps * this.#stepNs;
    let epochEndNs = epochNs;
    while (steps.length < this.#steps) {
      const stepEndNs = (steps.length + 1) * this.#stepNs;
      const untilNs = Math.min(epochEndNs, stepEndNs, this.#pool.nextReadyNs);
      this.#offer(arrivals, untilNs);
      this.#host.advanceTo(untilNs);
      this.#pool.advance(untilNs);
      if (untilNs === epochEndNs) {
        epochEndNs += epochNs;
        if (this.#options.follows ?? true) this.#pool.follow(this.#host.stats.gpusWanted().wanted, untilNs);
      }
      if (untilNs === stepEndNs) steps.push(this.#endStep(steps.length));
    }
    this.#host.runOut(2 * endNs + 1e12);
    return this.#result(steps);
  }

  /** Submits what comes before `untilNs`. */
  #offer(arrivals: VaryingArrivals, untilNs: number): void {
    const host = this.#host;
    for (let now = arrivals.nextNs; now < untilNs; now = arrivals.nextNs) {
      if (host.nextEventNs() <= now) host.advanceTo(now);
      else host.clock.advanceTo(now);
      const step = Math.min(this.#steps - 1, Math.floor(now / this.#stepNs));
      for (; arrivals.nextNs === now; arrivals.advance()) {
        const slot = host.client.submit(arrivals.model, now, 0);
        this.#offered[step]! += 1;
        if (slot >= 0) this.#stepOf[slot] = step;
      }
      host.client.commit();
      host.settle();
    }
  }

  #count(slots: Int32Array, outcomes: Int32Array, count: number): void {
    for (let k = 0; k < count; k++) if (outcomeOf(outcomes[k]!) === OUTCOME.completed) this.#good[this.#stepOf[slots[k]!]!]! += 1;
  }

  /** Emulated batches without jitter take ℓ(b) from their planned start. */
  #observer(): Observer {
    return {
      ...UNWATCHED,
      planned: (_now, model, gpu, size, execNs) => {
        const step = Math.min(this.#steps - 1, Math.floor(execNs / this.#stepNs));
        this.#busyNs[step * this.#options.mostGpus + gpu]! += this.#latenciesNs[model]![size]!;
      },
    };
  }

  /** What is known at its end; requests and batches are filled in when all have ended. */
  #endStep(step: number): AutoscaleStep {
    const { wanted, reason } = this.#host.stats.gpusWanted();
    return { ratePerSecond: this.#options.ratesPerSecond[step]!, offered: 0, good: 0, gpus: this.#pool.takePaidNs() / this.#stepNs, wanted, reason, busyShare: [] };
  }

  #result(ended: readonly AutoscaleStep[]): AutoscaleResult {
    const { mostGpus } = this.#options;
    const steps = ended.map((step, k) => ({
      ...step,
      offered: this.#offered[k]!,
      good: this.#good[k]!,
      busyShare: Array.from(this.#busyNs.subarray(k * mostGpus, (k + 1) * mostGpus), (busyNs) => busyNs / this.#stepNs),
    }));
    const sum = (of: (step: AutoscaleStep) => number): number => steps.reduce((total, step) => total + of(step), 0);
    return {
      steps,
      offered: sum((step) => step.offered),
      good: sum((step) => step.good),
      gpuSeconds: (sum((step) => step.gpus) * this.#stepNs) / 1e9,
      added: this.#pool.added,
      removed: this.#pool.removed,
      mostGpus: this.#pool.most,
    };
  }
}

/** GPUs that start, take batches, or leave. All of them are paid for. */
class Pool {
  added = 0;
  removed = 0;
  most = 0;
  readonly #host: VirtualHost;
  readonly #specs: SpecTable;
  readonly #i32: Int32Array;
  readonly #startupNs: number;
  /** When those that start are ready, in order. */
  readonly #starting: number[] = [];
  #lastNs = 0;
  #paidNs = 0;

  constructor(host: VirtualHost, startupNs: number) {
    this.#host = host;
    this.#specs = new SpecTable(host.memory, true);
    this.#i32 = new Int32Array(host.memory.buffer);
    this.#startupNs = startupNs;
    this.most = this.#paid();
  }

  get nextReadyNs(): number {
    return this.#starting[0] ?? Infinity;
  }

  /** Time has gone on to `nowNs`: GPUs become ready, and those that leave may be gone. */
  advance(nowNs: number): void {
    this.#paidNs += this.#paid() * (nowNs - this.#lastNs);
    this.#lastNs = nowNs;
    let changed = false;
    for (const gpu of this.#numbers(GPU_LEAVING)) {
      if (!this.#isIdle(gpu)) continue;
      this.#specs.setGpuState(gpu, GPU_NONE);
      changed = true;
    }
    while (this.nextReadyNs <= nowNs) {
      const gpu = this.#numbers(GPU_NONE)[0];
      if (gpu === undefined) break; // one that leaves has still its number
      this.#starting.shift();
      this.#specs.writeGpu(gpu, DEVICE);
      changed = true;
    }
    if (changed) this.#publish();
  }

  /** Starts or takes away as many as it takes to have `wanted`. */
  follow(wanted: number, nowNs: number): void {
    const active = this.#numbers(GPU_ACTIVE);
    const { gpus } = this.#host.memory.limits;
    for (let there = active.length + this.#starting.length; there < Math.min(wanted, gpus); there++) {
      this.#starting.push(nowNs + this.#startupNs);
      this.added++;
    }
    // Those that start were wanted a moment ago; they come, and are then given back like any other.
    const excess = active.slice(wanted).reverse();
    for (const gpu of excess) this.#specs.setGpuState(gpu, GPU_LEAVING);
    this.removed += excess.length;
    if (excess.length > 0) this.#publish();
    this.advance(nowNs);
    this.most = Math.max(this.most, this.#paid());
  }

  /** GPU-nanoseconds since the last call. */
  takePaidNs(): number {
    const paidNs = this.#paidNs;
    this.#paidNs = 0;
    return paidNs;
  }

  #publish(): void {
    const version = this.#specs.publish();
    this.#host.settle();
    if (!this.#specs.acknowledged(version)) throw new Error('in virtual time every role takes a change in at once, but one has not');
  }

  #paid(): number {
    return this.#host.memory.limits.gpus - this.#numbers(GPU_NONE).length + this.#starting.length;
  }

  #numbers(state: number): number[] {
    return Array.from({ length: this.#host.memory.limits.gpus }, (_, gpu) => gpu).filter((gpu) => this.#specs.gpuState(gpu) === state);
  }

  #isIdle(gpu: number): boolean {
    const at = (this.#host.memory.gpus >> 2) + gpu * GPU.words;
    return this.#i32[at + GPU.at.grantModel] === -1 && this.#i32[at + GPU.at.nextRow] === -1 && this.#i32[at + GPU.at.runRow] === -1;
  }
}

export interface OracleOptions {
  readonly workload: Workload;
  readonly margins: SimulationMargins;
  readonly seconds: number;
  readonly warmupSeconds: number;
  readonly seeds: readonly number[];
}

/**
 * By step: the fewest GPUs that `plan` finds for its rate. A higher rate is taken to need at least as many, so rates between
 * two that need the same are not planned.
 * @throws InvalidOptionError when no number of GPUs sustains one of the rates.
 */
export async function oracle(run: PolicyRunner, ratesPerSecond: ArrayLike<number>, options: OracleOptions): Promise<number[]> {
  const rates = [...new Set(Array.from(ratesPerSecond))].sort((a, b) => a - b);
  const needed = new Map<number, number>();
  const planAt = async (k: number): Promise<number> => {
    const ratePerSecond = rates[k]!;
    const { gpus } = await plan(run, { ...options, ratePerSecond });
    if (gpus === null) throw new InvalidOptionError('ratePerSecond', `got ${ratePerSecond}, which no number of GPUs sustains`);
    needed.set(ratePerSecond, gpus);
    return gpus;
  };
  const fill = async (low: number, high: number): Promise<void> => {
    if (high - low < 2) return;
    const fewest = needed.get(rates[low]!)!;
    if (fewest === needed.get(rates[high]!)!) {
      for (let k = low + 1; k < high; k++) needed.set(rates[k]!, fewest);
      return;
    }
    const middle = (low + high) >> 1;
    await planAt(middle);
    await Promise.all([fill(low, middle), fill(middle, high)]);
  };
  await planAt(0);
  if (rates.length > 1) await planAt(rates.length - 1);
  await fill(0, rates.length - 1);
  return Array.from(ratesPerSecond, (rate) => needed.get(rate)!);
}
