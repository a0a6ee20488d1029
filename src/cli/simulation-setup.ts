/** What `simulate`, `goodput` and `plan` have in common: their flags, and the threads in which policies run. */
import { availableParallelism } from 'node:os';
import { Piscina } from 'piscina';
import { parseDurationNs } from '../model/duration.js';
import { InvalidOptionError, RubatoError } from '../model/errors.js';
import { parseArrivals } from '../sim/arrivals.js';
import type { PolicyRunner } from '../sim/goodput.js';
import { policyName } from '../sim/own-policies.js';
import type { SimulationMargins, SimulationResult } from '../sim/result.js';
import type { OwnOptions } from '../sim/simulate.js';
import { loadWorkload, shippedWorkloads, staggeredOptimum, withArrivals, type Workload } from '../sim/workload.js';
import type { OutputOptions } from './output.js';
import type { AutoscaleOptions, AutoscaleResult } from '../sim/autoscale.js';
import type { Answer, AutoscaleTask, PolicyTask, WorkloadSource } from './policy.worker.js';

export interface SimulationFlags extends OutputOptions {
  workload?: string;
  gpus?: number;
  arrivals?: string;
  policy: string;
  seed: number;
  seconds?: number;
  warmup?: number;
  control: string;
  transfer: string;
  response: string;
  jitter: string;
  shards: number;
}

export interface RateFlags {
  rate?: number;
  load?: number;
}

export interface SimulationSetup {
  readonly source: WorkloadSource;
  readonly workload: Workload;
  readonly policies: readonly string[];
  readonly margins: SimulationMargins;
  readonly shards: number;
}

/** Where neither the flags nor the workload state a rate: the same as `bench load`. */
const DEFAULT_LOAD = 0.6;
const SEARCH_SECONDS = 30;

/** @throws InvalidOptionError that names the flag, or the file and the field in it. */
export function setupOf(flags: SimulationFlags): SimulationSetup {
  // Not a requiredOption: that would be asked for before a misspelled one is noticed.
  if (flags.workload === undefined) throw new InvalidOptionError('--workload', `is missing, must be one of ${shippedWorkloads().join(', ')} or a JSON or YAML file`);
  const loaded = loadWorkload(flags.workload);
  const arrivals = flags.arrivals ?? null;
  const workload = withArrivals(loaded, arrivals === null ? null : parseArrivals(arrivals, '--arrivals'));
  const policies = flags.policy.split(',').map((name) => policyName(name.trim(), '--policy'));
  return {
    source: { nameOrFile: flags.workload, arrivals },
    workload: { ...workload, gpus: flags.gpus ?? workload.gpus },
    policies: [...new Set(policies)],
    margins: {
      controlNs: parseDurationNs(flags.control, '--control'),
      transferNs: parseDurationNs(flags.transfer, '--transfer'),
      responseNs: parseDurationNs(flags.response, '--response'),
      jitterNs: parseDurationNs(flags.jitter, '--jitter'),
    },
    shards: flags.shards,
  };
}

export function rateOf({ rate, load }: RateFlags, workload: Workload): number {
  if (rate !== undefined && load !== undefined) throw new InvalidOptionError('--load', 'stands beside --rate, must be the one or the other');
  if (load === undefined) return rate ?? workload.ratePerSecond ?? DEFAULT_LOAD * staggeredOptimum(workload);
  return load * staggeredOptimum(workload);
}

/**
 * The length of each run of a search: segments make sense as a whole only.
 * @throws InvalidOptionError for a workload that cannot have another rate.
 */
export function searchSeconds(flags: SimulationFlags, { trace, segments, seconds }: Workload): number {
  if (trace !== null) throw new InvalidOptionError('--workload', 'plays a trace, which has a rate of its own; only simulate and bench load do that');
  return flags.seconds ?? (segments.length > 0 ? seconds : null) ?? SEARCH_SECONDS;
}

/** What a policy thread has answered. Throws RubatoError for what the task refused. */
export function answered<R>(answer: Answer<R>): { readonly result: R; readonly wallSeconds: number } {
  if (!('result' in answer)) throw new RubatoError(answer.code, answer.message);
  return answer;
}

/** Threads that run policies, as many as there are cores. */
export class PolicyPool {
  readonly #setup: SimulationSetup;
  readonly #pool: Piscina;
  readonly #onRun: (runs: number) => void;
  #runs = 0;
  /** By policy: simulated seconds and the time that they took. */
  readonly #simulated = new Map<string, { simulatedSeconds: number; wallSeconds: number }>();

  /** `onRun` is told after each run how many there were. */
  constructor(setup: SimulationSetup, onRun: (runs: number) => void) {
    this.#setup = setup;
    this.#onRun = onRun;
    this.#pool = new Piscina({ filename: new URL('./policy.worker.js', import.meta.url).href, minThreads: 1, maxThreads: availableParallelism(), concurrentTasksPerWorker: 1 });
  }

  runnerOf(policy: string, trace: Pick<OwnOptions, 'traceNs' | 'traceModels'> = {}): PolicyRunner {
    return async ({ workload: _, ...options }): Promise<SimulationResult> => {
      const { source, shards } = this.#setup;
      const task: PolicyTask = { policy, source, options: { ...options, shards, ...trace } };
      const answer = answered((await this.#pool.run(task)) as Answer<SimulationResult>);
      const sum = this.#simulated.get(policy) ?? { simulatedSeconds: 0, wallSeconds: 0 };
      sum.simulatedSeconds += options.warmupSeconds + options.seconds;
      sum.wallSeconds += answer.wallSeconds;
      this.#simulated.set(policy, sum);
      this.#onRun(++this.#runs);
      return answer.result;
    };
  }

  async autoscale(options: Omit<AutoscaleOptions, 'workload'>): Promise<AutoscaleResult> {
    const task: AutoscaleTask = { source: this.#setup.source, options };
    const { result } = answered((await this.#pool.run(task, { name: 'runAutoscale' })) as Answer<AutoscaleResult>);
    this.#onRun(++this.#runs);
    return result;
  }

  /** How much faster than real time one thread has run this policy. */
  simulatedSecondsPerSecond(policy: string): number {
    const sum = this.#simulated.get(policy);
    return sum === undefined ? 0 : sum.simulatedSeconds / sum.wallSeconds;
  }

  /** Ends the threads, whatever they are doing. */
  async stop(): Promise<void> {
    await this.#pool.destroy();
  }
}
