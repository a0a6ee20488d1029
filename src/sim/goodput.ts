/** The highest rate that a policy sustains, found by simulating it again and again. */
import { describeValue } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import type { SimulationOptions, SimulationResult } from './result.js';
import { fluidBound, staggeredOptimum } from './workload.js';

/** A policy, in this thread or in another. */
export type PolicyRunner = (options: SimulationOptions) => SimulationResult | Promise<SimulationResult>;

/** A load counts as sustained when at most this share of it is bad. */
const SUSTAINED_BAD_RATE = 0.01;

/** Compares counts, because 1 − 0.99 is more than 0.01. */
export function isSustained({ offered, good }: Pick<SimulationResult, 'offered' | 'good'>): boolean {
  return offered - good <= SUSTAINED_BAD_RATE * offered;
}

export interface GoodputOptions extends Omit<SimulationOptions, 'ratePerSecond' | 'seed'> {
  /** Each gives a search of its own. */
  readonly seeds: readonly number[];
  /** Distance of the rates that are tried, as a share of the staggered optimum. Default 0.005. */
  readonly resolution?: number;
}

export interface SeedGoodput {
  readonly seed: number;
  /** The highest rate that was sustained; 0 when none was. */
  readonly ratePerSecond: number;
  /** What happened at that rate. */
  readonly result: SimulationResult | null;
}

export interface Goodput {
  /** Mean over the seeds. */
  readonly ratePerSecond: number;
  readonly staggeredOptimum: number;
  readonly fluidBound: number;
  readonly seeds: readonly SeedGoodput[];
}

const DEFAULT_RESOLUTION = 0.005;
/** No policy is far above both bounds: what they leave out, chance bunching and the 1 %, is a few percent; on one GPU staggering is no need. */
const MOST_OF_BOUND = 2.5;
/** Steps of the first seed's search at its start, which knows only the bound; the others start where the first has ended. */
const FIRST_STRIDE = 8;

export async function goodput(run: PolicyRunner, options: GoodputOptions): Promise<Goodput> {
  const { seeds, resolution = DEFAULT_RESOLUTION, ...common } = options;
  if (!(resolution > 0 && resolution < 1)) throw new InvalidOptionError('resolution', `got ${describeValue(resolution)}, must be a share > 0 and < 1`);
  if (seeds.length === 0) throw new InvalidOptionError('seeds', 'is empty, must hold at least one seed');
  const workload = { ...options.workload, gpus: options.gpus };
  const optimum = staggeredOptimum(workload);
  const fluid = fluidBound(workload);
  const step = optimum * resolution;
  const most = Math.ceil((MOST_OF_BOUND * Math.max(optimum, fluid)) / step);

  const search = async (seed: number, start: number, stride: number): Promise<{ steps: number; found: SeedGoodput }> => {
    const results = new Map<number, SimulationResult>();
    const holds = async (steps: number): Promise<boolean> => {
      const result = await run({ ...common, ratePerSecond: steps * step, seed });
      results.set(steps, result);
      return isSustained(result);
    };
    const steps = await lastThatHolds(holds, { start, stride, least: 1, most });
    return { steps, found: { seed, ratePerSecond: steps * step, result: results.get(steps) ?? null } };
  };

  const start = Math.max(1, Math.floor(Math.min(fluid, optimum) / step));
  const first = await search(seeds[0]!, start, FIRST_STRIDE);
  const others = await Promise.all(seeds.slice(1).map((seed) => search(seed, Math.max(1, first.steps), 1)));
  const found = [first, ...others].map((each) => each.found);
  const mean = found.reduce((sum, each) => sum + each.ratePerSecond, 0) / found.length;
  return { ratePerSecond: mean, staggeredOptimum: optimum, fluidBound: fluid, seeds: found };
}

export interface Range {
  readonly start: number;
  /** How far to go from the start at first; doubled until the edge is passed. */
  readonly stride: number;
  readonly least: number;
  readonly most: number;
}

/**
 * The last integer that holds before two in a row that do not; `least − 1` when no integer that was tried holds.
 * Nothing is asked twice. What holds need not end at one edge: a single failure between two that hold is passed over.
 */
export async function lastThatHolds(holds: (k: number) => Promise<boolean>, { start, stride, least, most }: Range): Promise<number> {
  const known = new Map<number, boolean>();
  const ask = async (k: number): Promise<boolean> => {
    const before = known.get(k);
    if (before !== undefined) return before;
    const answer = await holds(k);
    known.set(k, answer);
    return answer;
  };
  let { low, high } = await bracket(ask, { start: Math.min(most, Math.max(least, start)), stride, least, most });
  while (low >= least && low < most) {
    low = await bisect(ask, low, high);
    // The rate just above may have failed by chance only.
    if (low + 2 > most || !(await ask(low + 2))) break;
    ({ low, high } = await bracket(ask, { start: low + 2, stride: 1, least, most }));
  }
  return low;
}

/** `low` holds and `high` does not, or lies beyond the range. */
async function bracket(ask: (k: number) => Promise<boolean>, { start, stride, least, most }: Range): Promise<{ low: number; high: number }> {
  if (await ask(start)) {
    let low = start;
    for (let step = stride; low < most; step *= 2) {
      const next = Math.min(most, low + step);
      if (!(await ask(next))) return { low, high: next };
      low = next;
    }
    return { low, high: most + 1 };
  }
  let high = start;
  for (let step = stride; high > least; step *= 2) {
    const next = Math.max(least, high - step);
    if (await ask(next)) return { low: next, high };
    high = next;
  }
  return { low: least - 1, high };
}

async function bisect(ask: (k: number) => Promise<boolean>, from: number, to: number): Promise<number> {
  let low = from;
  let high = to;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (await ask(middle)) low = middle;
    else high = middle;
  }
  return low;
}
