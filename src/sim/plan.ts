/** How many GPUs a load needs under a policy. */
import { InvalidOptionError } from '../model/errors.js';
import { isSustained, lastThatHolds, type PolicyRunner } from './goodput.js';
import { badRate, type SimulationOptions, type SimulationResult } from './result.js';
import { fluidBound, type Workload } from './workload.js';

export interface PlanOptions extends Omit<SimulationOptions, 'gpus' | 'seed'> {
  /** The bad rate of a number of GPUs is that of all seeds together. */
  readonly seeds: readonly number[];
}

export interface Plan {
  /** The fewest GPUs that sustain the load; null when even many times what the fluid bound asks for do not. */
  readonly gpus: number | null;
  /** What the fluid bound asks for. */
  readonly gpusByFluidBound: number;
  /** With that many GPUs; null when there is no such number. */
  readonly badRate: number | null;
  /** With one GPU fewer; null when that would be none. */
  readonly badRateWithOneFewer: number | null;
  /** With that many GPUs, by seed. */
  readonly results: readonly SimulationResult[];
}

const MOST_GPUS = 4096;
/** A policy that needs more than this many times what the fluid bound asks for does not sustain the load at all. */
const MOST_TIMES = 8;
const LEAST_TRIED = 16;

export async function plan(run: PolicyRunner, options: PlanOptions): Promise<Plan> {
  const { seeds, ...common } = options;
  if (seeds.length === 0) throw new InvalidOptionError('seeds', 'is empty, must hold at least one seed');
  const byBound = fewestByFluidBound(options.workload, options.ratePerSecond);
  const tried = new Map<number, { badRate: number; results: readonly SimulationResult[] }>();
  const sustains = async (gpus: number): Promise<boolean> => {
    const workload = { ...options.workload, gpus };
    const results = await Promise.all(seeds.map(async (seed) => run({ ...common, workload, gpus, seed })));
    const offered = results.reduce((sum, result) => sum + result.offered, 0);
    const good = results.reduce((sum, result) => sum + result.good, 0);
    tried.set(gpus, { badRate: badRate({ offered, good }), results });
    return isSustained({ offered, good });
  };
  const most = Math.min(MOST_GPUS, Math.max(LEAST_TRIED, MOST_TIMES * byBound));
  // Fewer is better: the search for the highest that holds runs over the negative numbers.
  const found = await lastThatHolds((k) => sustains(-k), { start: -byBound, stride: 1, least: -most, most: -1 });
  const gpus = found < -most ? null : -found;
  const chosen = gpus === null ? undefined : tried.get(gpus);
  return {
    gpus,
    gpusByFluidBound: byBound,
    badRate: chosen?.badRate ?? null,
    badRateWithOneFewer: gpus === null ? null : (tried.get(gpus - 1)?.badRate ?? null),
    results: chosen?.results ?? [],
  };
}

/** @throws InvalidOptionError for a rate that the largest number of GPUs could not carry. */
function fewestByFluidBound(workload: Workload, ratePerSecond: number): number {
  const carries = (gpus: number): boolean => fluidBound({ ...workload, gpus }) >= ratePerSecond;
  let low = 0;
  let high = 1;
  while (!carries(high)) {
    if (high >= MOST_GPUS) {
      throw new InvalidOptionError('ratePerSecond', `got ${ratePerSecond}, ${MOST_GPUS} GPUs can run at most ${Math.floor(fluidBound({ ...workload, gpus: MOST_GPUS }))} requests/s of this workload`);
    }
    low = high;
    high = Math.min(MOST_GPUS, 2 * high);
  }
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (carries(middle)) high = middle;
    else low = middle;
  }
  return high;
}
