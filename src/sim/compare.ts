/** Policies compared by the highest rate they sustain, with as many requests per run whatever the workload. */
import { lastThatHolds, isSustained } from './goodput.js';
import { POLICIES } from './own-policies.js';
import { badRate, type SimulationResult } from './result.js';
import { fluidBound, staggeredOptimum, type Workload } from './workload.js';

export interface Comparison {
  /** Requests per run. */
  readonly requests: number;
  readonly seed: number;
}

/** Rates are told as shares of `yardstick`, in steps of this. */
const STEP = 0.0025;
const STRIDE = 8;
const MOST = 4;
/** A run must see more than a few seconds of its workload; hours with few requests pass quickly. */
const LEAST_SECONDS = 3;
const MOST_SECONDS = 20_000;
const WARM_UP_SECONDS = 2;
const MARGINS = { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 };

/** The lower one of the two bounds, in requests per second. */
export function yardstick(workload: Workload): number {
  return Math.min(fluidBound(workload), staggeredOptimum(workload));
}

/** One run at a share of the yardstick. */
export function runAt(policy: string, workload: Workload, share: number, { requests, seed }: Comparison): SimulationResult {
  const ratePerSecond = share * yardstick(workload);
  const seconds = Math.min(MOST_SECONDS, Math.max(LEAST_SECONDS, requests / ratePerSecond));
  return POLICIES.get(policy)!({ workload, gpus: workload.gpus, ratePerSecond, seed, seconds, warmupSeconds: WARM_UP_SECONDS, margins: MARGINS });
}

export function badAt(policy: string, workload: Workload, share: number, comparison: Comparison): number {
  return badRate(runAt(policy, workload, share, comparison));
}

/** The highest share of the yardstick with at most 1 % bad; the search begins at `near`. */
export async function goodputShare(policy: string, workload: Workload, comparison: Comparison, near = 1): Promise<number> {
  const holds = async (steps: number): Promise<boolean> => isSustained(runAt(policy, workload, steps * STEP, comparison));
  return STEP * (await lastThatHolds(holds, { start: Math.round(near / STEP), stride: STRIDE, least: 1, most: MOST / STEP }));
}
