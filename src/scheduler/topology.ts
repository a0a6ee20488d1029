/**
 * Which threads a scheduler runs on, and which shard owns which model. Pure functions of numbers; only `usableCores`
 * looks at the machine.
 */
import { availableParallelism } from 'node:os';
import { describeValue } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { si } from '../report/units.js';
import { cpuQuota, type CpuQuota } from './cpu-quota.js';
import type { WaitingStrategy } from './waiter.js';

export const TOPOLOGIES = ['auto', 'single', 'split'] as const;

export interface Topology {
  /** `single`: one thread hosts all shards and the dispatcher. `split`: a thread per shard, and one to dispatch and emulate GPUs. */
  readonly kind: 'single' | 'split';
  readonly shards: number;
  /** Threads that the scheduler starts; the one that makes it comes on top. */
  readonly threads: number;
  readonly waiting: WaitingStrategy;
  /** One or two sentences with the numbers that decided. */
  readonly reason: string;
}

export interface TopologyWish {
  readonly topology?: (typeof TOPOLOGIES)[number] | undefined;
  readonly shards?: number | undefined;
  readonly waiting?: WaitingStrategy | undefined;
}

/** What of a model says how many requests a GPU can run. */
export interface ProfiledModel {
  /** ℓ in ns by batch size, never falling, as in `SchedulerConfig.profiles`. */
  readonly profile: Float64Array;
  readonly maxBatch: number;
  readonly sloNs: number;
}

/** What one thread serves for sure: about 100 ns per request, with room for the batches. */
export const THREAD_REQUESTS_PER_SECOND = 8e6;
/** The dispatch thread and the program's own. */
const OTHER_THREADS = 2;
/** Two shard threads beside those: a single one serves hardly more than one thread for everything. */
const LEAST_SPLIT_CORES = OTHER_THREADS + 2;

/**
 * The threads for this wish, machine and load. What is wished explicitly is done; `shards` alone means that many in one
 * thread. `load.capacityPerSecond` is what the GPUs can do at best, see `poolCapacityPerSecond`.
 * @throws InvalidOptionError for shards that would own no model, or numbers out of range.
 */
export function chooseTopology(wish: TopologyWish, machine: { readonly usableCores: number }, load: { readonly models: number; readonly capacityPerSecond: number }): Topology {
  checkCount(machine.usableCores, 'usableCores');
  checkCount(load.models, 'models');
  checkAmount(load.capacityPerSecond, 'capacityPerSecond', 'rate');
  if (wish.shards !== undefined && !(Number.isInteger(wish.shards) && wish.shards >= 1 && wish.shards <= load.models)) {
    throw new InvalidOptionError('shards', `got ${describeValue(wish.shards)}, must be an integer from 1 to ${load.models}, the number of models: each shard needs one`);
  }
  const { kind, shards, why } = chooseThreads(wish, machine.usableCores, load.models, load.capacityPerSecond);
  const threads = kind === 'single' ? 1 : shards + 1;
  const { waiting, remark } = chooseWaiting(wish.waiting ?? 'balanced', threads, machine.usableCores);
  return { kind, shards, threads, waiting, reason: why + remark };
}

/** Kind, number of shards and why, in one sentence. */
function chooseThreads(wish: TopologyWish, cores: number, models: number, capacity: number): { kind: Topology['kind']; shards: number; why: string } {
  if (wish.topology === 'single' || (wish.topology !== 'split' && wish.shards !== undefined)) {
    const shards = wish.shards ?? 1;
    const cause = wish.topology === 'single' ? 'Single was asked for' : 'Shards were asked for, but not split';
    return { kind: 'single', shards, why: `${cause}: one thread hosts ${counted(shards, 'shard')} and the dispatcher.` };
  }
  if (wish.topology === 'split' && wish.shards !== undefined) {
    return { kind: 'split', shards: wish.shards, why: `Split was asked for, with ${counted(wish.shards, 'shard')}.` };
  }
  const rates = `the GPUs can run up to ${si(capacity)} requests/s and one thread serves about ${si(THREAD_REQUESTS_PER_SECOND)}/s`;
  const needed = Math.max(1, Math.ceil(capacity / THREAD_REQUESTS_PER_SECOND));
  if (wish.topology !== 'split') {
    if (needed === 1) return { kind: 'single', shards: 1, why: `One thread is enough: ${rates}.` };
    if (cores < LEAST_SPLIT_CORES) {
      return { kind: 'single', shards: 1, why: `One thread for want of cores: ${rates}, but splitting takes ${counted(LEAST_SPLIT_CORES, 'usable core')} and this process has ${cores}.` };
    }
  }
  const shards = Math.max(1, Math.min(needed, cores - OTHER_THREADS, models));
  const limit = models <= cores - OTHER_THREADS ? counted(models, 'model') : counted(cores, 'usable core');
  const cause = wish.topology === 'split' ? 'Split was asked for' : 'Split pays';
  return { kind: 'split', shards, why: `${cause}: ${rates}, which takes ${counted(needed, 'shard')}${shards === needed ? '' : `; held to ${shards} by ${limit}`}.` };
}

/** A thread that spins while another waits for its core makes both late. */
function chooseWaiting(wished: WaitingStrategy, threads: number, cores: number): { waiting: WaitingStrategy; remark: string } {
  const busy = threads + 1;
  if (busy <= cores || wished === 'park') return { waiting: wished, remark: '' };
  const crowd = `${busy} threads, yours among them, share ${counted(cores, 'usable core')}`;
  if (wished === 'spin') return { waiting: 'spin', remark: ` It spins as asked, which slows everything down: ${crowd}; park suits better.` };
  return { waiting: 'park', remark: ` It parks and never spins: ${crowd}.` };
}

/** Requests per second that the GPUs can do at best, each running every model for an equal share of its time. */
export function poolCapacityPerSecond(models: readonly ProfiledModel[], gpus: readonly { readonly slowdown: number }[]): number {
  if (models.length === 0) return 0;
  let perGpu = 0;
  for (const { profile, maxBatch, sloNs } of models) perGpu += expectedLoad(profile, maxBatch, sloNs) / models.length;
  // A shard plans with ℓ whatever the GPU: the slowdown makes its batches longer, not smaller.
  let speed = 0;
  for (const { slowdown } of gpus) speed += 1 / slowdown;
  return perGpu * speed;
}

/**
 * Requests per second that one GPU can do of this model: what a model is reckoned at until its rate is measured.
 * The batch is the largest that can be kept up: while one is executed the next gathers, so each has half of the SLO.
 * @param profile ℓ in ns by batch size.
 */
export function expectedLoad(profile: Float64Array, maxBatch: number, sloNs: number): number {
  let fits = 1;
  let tooLarge = maxBatch + 1;
  while (tooLarge - fits > 1) {
    const middle = (fits + tooLarge) >>> 1;
    if (profile[middle]! <= sloNs / 2) fits = middle;
    else tooLarge = middle;
  }
  return (fits * 1e9) / profile[fits]!;
}

/**
 * The shard of each model, by its load in any one unit: the heaviest model first, each to the shard with the least load
 * so far, then with the fewest models, then with the lowest number. So no shard stays without a model where there are
 * enough, not even if all loads are 0.
 * @throws InvalidOptionError for a load that is negative or no number, or shards below 1.
 */
export function assignShards(loads: readonly number[], shards: number): number[] {
  const totals = new ShardTotals(shards);
  loads.forEach((load, model) => checkAmount(load, `loads[${model}]`, 'load'));
  // The sort is stable: of equal loads the lowest number comes first.
  const heaviestFirst = loads.map((_, model) => model).sort((a, b) => loads[b]! - loads[a]!);
  const shardOfModel = new Array<number>(loads.length).fill(0);
  for (const model of heaviestFirst) {
    const shard = totals.least();
    shardOfModel[model] = shard;
    totals.add(shard, loads[model]!);
  }
  return shardOfModel;
}

/**
 * The shard for a model that is added later, by the same rule; those assigned already stay where they are.
 * @throws InvalidOptionError for a shard that does not exist, a load that is negative or no number, or shards below 1.
 */
export function leastLoadedShard(assigned: readonly { readonly shard: number; readonly load: number }[], shards: number): number {
  const totals = new ShardTotals(shards);
  assigned.forEach(({ shard, load }, model) => {
    if (!(Number.isInteger(shard) && shard >= 0 && shard < shards)) {
      throw new InvalidOptionError(`assigned[${model}].shard`, `got ${describeValue(shard)}, must be an integer from 0 to ${shards - 1}`);
    }
    checkAmount(load, `assigned[${model}].load`, 'load');
    totals.add(shard, load);
  });
  return totals.least();
}

class ShardTotals {
  readonly #loads: Float64Array;
  readonly #models: Int32Array;

  constructor(shards: number) {
    checkCount(shards, 'shards');
    this.#loads = new Float64Array(shards);
    this.#models = new Int32Array(shards);
  }

  add(shard: number, load: number): void {
    this.#loads[shard]! += load;
    this.#models[shard]!++;
  }

  least(): number {
    let best = 0;
    for (let shard = 1; shard < this.#loads.length; shard++) {
      const more = this.#loads[shard]! - this.#loads[best]! || this.#models[shard]! - this.#models[best]!;
      if (more < 0) best = shard;
    }
    return best;
  }
}

/** Cores that threads of this process can keep busy: a container that grants 1.5 lets two run, if not all the time. */
export function usableCores(cores = availableParallelism(), quota: CpuQuota | null = cpuQuota()): number {
  return Math.max(1, Math.min(cores, Math.ceil(quota?.cores ?? cores)));
}

function counted(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? '' : 's'}`;
}

function checkCount(value: number, path: string): void {
  if (!(Number.isInteger(value) && value >= 1)) throw new InvalidOptionError(path, `got ${describeValue(value)}, must be an integer >= 1`);
}

function checkAmount(value: number, path: string, unit: string): void {
  if (!(value >= 0 && value < Infinity)) throw new InvalidOptionError(path, `got ${describeValue(value)}, must be a finite ${unit} >= 0`);
}
