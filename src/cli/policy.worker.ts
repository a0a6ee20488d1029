/** Runs one policy on one load in a thread of its own, so that the program stays interruptible and uses every core. */
import { RubatoError } from '../model/errors.js';
import { parseArrivals } from '../sim/arrivals.js';
import { POLICIES } from '../sim/own-policies.js';
import type { SimulationResult } from '../sim/result.js';
import type { OwnOptions } from '../sim/simulate.js';
import { type Replay, runReplay } from '../sim/replay.js';
import { loadWorkload, withArrivals, type Workload } from '../sim/workload.js';
import { autoscale, type AutoscaleOptions, type AutoscaleResult } from '../sim/autoscale.js';

/** A workload is loaded anew in each thread: a profile has methods and cannot be sent. */
export interface WorkloadSource {
  readonly nameOrFile: string;
  /** Replaces every model's pattern; null keeps them. */
  readonly arrivals: string | null;
}

export interface PolicyTask {
  readonly policy: string;
  readonly source: WorkloadSource;
  readonly options: Omit<OwnOptions, 'workload'>;
}

const workloads = new Map<string, Workload>();

function workloadOf({ nameOrFile, arrivals }: WorkloadSource): Workload {
  const key = JSON.stringify([nameOrFile, arrivals]);
  let workload = workloads.get(key);
  if (workload === undefined) {
    workload = withArrivals(loadWorkload(nameOrFile), arrivals === null ? null : parseArrivals(arrivals, '--arrivals'));
    workloads.set(key, workload);
  }
  return workload;
}

export interface AutoscaleTask {
  readonly source: WorkloadSource;
  readonly options: Omit<AutoscaleOptions, 'workload'>;
}

export type Answer<R> =
  | { readonly result: R; readonly wallSeconds: number }
  /** Errors lose their class on the way between threads. */
  | { readonly code: string; readonly message: string };

function timed<R>(run: () => R): Answer<R> {
  try {
    const startMs = performance.now();
    const result = run();
    return { result, wallSeconds: (performance.now() - startMs) / 1e3 };
  } catch (error) {
    if (error instanceof RubatoError) return { code: error.code, message: error.message };
    throw error;
  }
}

export default function runPolicy({ policy, source, options }: PolicyTask): Answer<SimulationResult> {
  return timed(() => POLICIES.get(policy)!({ ...options, workload: { ...workloadOf(source), gpus: options.gpus } }));
}

export function runAutoscale({ source, options }: AutoscaleTask): Answer<AutoscaleResult> {
  return timed(() => autoscale({ ...options, workload: workloadOf(source) }));
}

export interface ReplayTask {
  readonly replay: Replay;
  /** Null: as every model was scheduled when it was recorded. */
  readonly policy: string | null;
}

export function runRecorded({ replay, policy }: ReplayTask): Answer<SimulationResult> {
  return timed(() => runReplay(replay, policy));
}
