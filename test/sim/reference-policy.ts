/**
 * The batch policy, the target size and the schedulable window once more, as ALGORITHM 1.2 to 1.4 say them: sorted
 * arrays, linear scans, nothing incremental but what the rules themselves call incremental (a request that the window
 * has passed over does not come back). Slow and obvious; the tests hold the real one against it, decision by decision.
 */
import { DROP_ADAPTIVE, DROP_NEVER, DROP_TIMEOUT, WANT_ADAPTIVE, WANT_FRONTRUN, WANT_IMMEDIATE, WANT_LATEST, WANT_TARGET_DELAY, WANT_TARGET_SIZE } from '#rubato/protocol/config.js';

export interface Entry {
  readonly deadline: number;
  /** Order of arrival: among equal deadlines the lower goes first. */
  readonly order: number;
  readonly slot: number;
}

export interface PolicyModel {
  /** Index = b; +Infinity above maxBatch. */
  readonly latencyNs: Float64Array;
  readonly maxBatch: number;
  readonly sloNs: number;
  readonly dropPolicy: number;
  readonly condition: number;
}

export interface PolicyMargins {
  readonly controlNs: number;
  readonly transferNs: number;
  readonly responseNs: number;
  readonly jitterNs: number;
}

export interface Decision {
  readonly size: number;
  /** The batch: the `size` oldest that survive. */
  readonly batch: readonly Entry[];
  /** Dropped, oldest first. */
  readonly expired: readonly Entry[];
  /** The batch size for which they were dropped. */
  readonly expiredFor: number;
  /** Deadline of the oldest survivor. */
  readonly deadline: number;
  /** Under drop policy `never`: the oldest cannot make it and is served late. */
  readonly overdue: boolean;
}

export interface Window {
  readonly leadNs: number;
  readonly earliestNs: number;
  /** max(earliest, min(want, latest)): the start if a GPU is free. */
  readonly readyNs: number;
  readonly invalidAfterNs: number;
}

const before = (a: Entry, b: Entry): boolean => a.deadline < b.deadline || (a.deadline === b.deadline && a.order < b.order);

function insert(list: Entry[], entry: Entry): void {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (before(list[middle]!, entry)) low = middle + 1;
    else high = middle;
  }
  list.splice(low, 0, entry);
}

export class ReferenceQueue {
  readonly prefix: Entry[] = [];
  readonly suffix: Entry[] = [];
  /** Deadline of the request that was passed over last. */
  #boundary = -Infinity;

  get count(): number {
    return this.prefix.length + this.suffix.length;
  }

  /** All of it, oldest first. */
  all(): Entry[] {
    return [...this.prefix, ...this.suffix];
  }

  push(entry: Entry): void {
    // What sorts before a request that the window has passed over is passed over with it.
    if (this.prefix.length > 0 && entry.deadline < this.#boundary) insert(this.prefix, entry);
    else insert(this.suffix, entry);
  }

  pass(): void {
    const head = this.suffix.shift()!;
    this.#boundary = head.deadline;
    this.prefix.push(head);
  }

  remove(slot: number): boolean {
    for (const list of [this.prefix, this.suffix]) {
      const at = list.findIndex((entry) => entry.slot === slot);
      if (at >= 0) {
        list.splice(at, 1);
        return true;
      }
    }
    return false;
  }

  takeOldest(count: number): Entry[] {
    const taken = this.prefix.splice(0, count);
    return [...taken, ...this.suffix.splice(0, count - taken.length)];
  }
}

/** finish(b) of ALGORITHM 1.1. */
export function finishNs(model: PolicyModel, margins: PolicyMargins, nowNs: number, gpuFreeNs: number, size: number): number {
  const latency = size <= model.maxBatch ? model.latencyNs[size]! : Infinity;
  return Math.max(nowNs + margins.controlNs + margins.transferNs * size, gpuFreeNs) + latency;
}

/** ALGORITHM 1.2. Passes requests over in `queue` and removes the expired ones from it; the batch stays in it. `dropShare` is θ. */
export function decide(queue: ReferenceQueue, model: PolicyModel, margins: PolicyMargins, nowNs: number, gpuFreeNs: number, target: number, dropShare: number): Decision {
  const finish = (size: number): number => finishNs(model, margins, nowNs, gpuFreeNs, size);
  while (queue.suffix.length > 0 && queue.suffix[0]!.deadline < finish(queue.suffix.length)) queue.pass();

  if (model.dropPolicy === DROP_NEVER) {
    const size = Math.min(target, queue.count, model.maxBatch);
    const deadline = queue.all()[0]?.deadline ?? Infinity;
    if (size > 0 && deadline < finish(size)) return { size, batch: queue.all().slice(0, size), expired: [], expiredFor: 0, deadline, overdue: true };
    return grown(queue, model, finish, size, [], 0);
  }

  const wanted = model.dropPolicy === DROP_TIMEOUT ? 1 : model.dropPolicy === DROP_ADAPTIVE ? Math.max(1, Math.floor(dropShare * target)) : target;
  const size = Math.min(wanted, queue.suffix.length);
  // With an empty window the prefix is tried alone, and only what cannot make even a batch of one is dropped.
  const expiredFor = Math.max(1, size);
  const expired: Entry[] = [];
  while (queue.prefix.length > 0 && queue.prefix[0]!.deadline < finish(expiredFor)) expired.push(queue.prefix.shift()!);
  return grown(queue, model, finish, size === 0 && queue.count > 0 ? 1 : size, expired, expiredFor);
}

/** Steps 3 and 4: the free lunch. */
function grown(queue: ReferenceQueue, model: PolicyModel, finish: (size: number) => number, from: number, expired: Entry[], expiredFor: number): Decision {
  const survivors = queue.all();
  const deadline = survivors[0]?.deadline ?? Infinity;
  let size = from;
  while (size > 0 && size < survivors.length && size < model.maxBatch && deadline >= finish(size + 1)) size++;
  return { size, batch: survivors.slice(0, size), expired, expiredFor, deadline, overdue: false };
}

/** ALGORITHM 1.4, without the GPU's term. `targetDelayNs` = last exec + t/λ. */
export function windowOf(decision: Decision, model: PolicyModel, margins: PolicyMargins, nowNs: number, target: number, targetDelayNs: number): Window {
  const { size, deadline } = decision;
  const leadNs = margins.controlNs + margins.transferNs * size;
  const earliestNs = nowNs + leadNs;
  if (decision.overdue) return { leadNs, earliestNs, readyNs: earliestNs, invalidAfterNs: Infinity };
  const longer = size + 1 <= model.maxBatch ? model.latencyNs[size + 1]! : Infinity;
  const latest = deadline - margins.jitterNs - model.latencyNs[size]!;
  const frontrun = deadline - margins.jitterNs - longer - margins.transferNs;
  const wants: Record<number, number> = {
    [WANT_FRONTRUN]: frontrun,
    [WANT_ADAPTIVE]: frontrun,
    [WANT_LATEST]: latest,
    [WANT_IMMEDIATE]: earliestNs,
    [WANT_TARGET_SIZE]: size >= target ? earliestNs : frontrun,
    [WANT_TARGET_DELAY]: targetDelayNs,
  };
  return {
    leadNs,
    earliestNs,
    readyNs: Math.max(earliestNs, Math.min(wants[model.condition]!, latest)),
    invalidAfterNs: deadline - model.latencyNs[size]!,
  };
}

const SAMPLE_NS = 50e6;
const SAMPLES = 100;

/** The rate meter of ALGORITHM 1.3: every arrival is remembered. */
export class ReferenceMeter {
  readonly #arrivals: number[] = [];
  /** Whole samples at the last call, and what the rate was then. */
  #whole = 0;
  #rate: number | null = null;

  arrive(nowNs: number): void {
    this.#arrivals.push(nowNs);
  }

  /** End of the last whole sample by `nowNs`. */
  wholeUntilNs(nowNs: number): number {
    const start = this.#arrivals[0]!;
    return start + Math.floor((nowNs - start) / SAMPLE_NS) * SAMPLE_NS;
  }

  /** Mean over the last 100 whole samples of 50 ms, counted from the first arrival; null before the first is whole. */
  ratePerSecond(nowNs: number): number | null {
    if (this.#arrivals.length === 0) return null;
    const start = this.#arrivals[0]!;
    const whole = Math.floor((nowNs - start) / SAMPLE_NS);
    if (whole === this.#whole) return this.#rate;
    const samples = Math.min(SAMPLES, whole);
    const to = start + whole * SAMPLE_NS;
    const from = to - samples * SAMPLE_NS;
    this.#whole = whole;
    this.#rate = this.#arrivals.filter((at) => at >= from && at < to).length / ((samples * SAMPLE_NS) / 1e9);
    return this.#rate;
  }
}

/** t of ALGORITHM 1.3 by linear scan: ℓ(b)(1 + 1/n) with n = λℓ(b)/b is ℓ(b) + b/λ, in both cases. */
export function targetSize(model: PolicyModel, margins: PolicyMargins, ratePerSecond: number | null): number {
  const fits = (size: number): boolean =>
    ratePerSecond === null
      ? model.latencyNs[size]! <= model.sloNs / 2
      : model.latencyNs[size]! + size * (1e9 / ratePerSecond + margins.transferNs) <= model.sloNs - margins.controlNs - margins.responseNs;
  let target = 1;
  while (target < model.maxBatch && fits(target + 1)) target++;
  return target;
}

/** What a model was when its shard has looked at it last. */
export interface SeenModel {
  readonly model: PolicyModel;
  readonly ratePerSecond: number;
  readonly target: number;
  readonly ratedUntilNs: number;
}

/** The share of a rate that still counts, if its model had no request since. */
function leftOf({ ratedUntilNs }: SeenModel, nowNs: number): number {
  return Math.min(1, Math.max(0, 1 - (nowNs - ratedUntilNs - SAMPLE_NS) / (SAMPLES * SAMPLE_NS)));
}

/** α and β of the line through ℓ(1) and ℓ(t). */
function lineOf(model: PolicyModel, target: number): { slope: number; fixed: number } {
  const one = model.latencyNs[1]!;
  const end = Math.max(2, target);
  const slope = model.maxBatch === 1 ? one : (model.latencyNs[end]! - one) / (end - 1);
  return { slope, fixed: one - slope };
}

/**
 * κ of ALGORITHM 1.7 by its meaning: the scale at which batches of κt just keep the GPUs busy, Σ λ·ℓ(κt)/(κt) = G, found
 * by halving. ℓ is the line through ℓ(1) and ℓ(t); a model that had no request for a while is forgotten little by little.
 */
export function batchScale(models: readonly SeenModel[], gpus: number, nowNs: number): number {
  const lines = models.map((seen) => ({ perNs: (seen.ratePerSecond * leftOf(seen, nowNs)) / 1e9, target: seen.target, ...lineOf(seen.model, seen.target) }));
  const busy = (scale: number): number => lines.reduce((sum, { perNs, slope, fixed, target }) => sum + perNs * (slope + fixed / (scale * target)), 0);
  if (busy(Infinity) >= gpus) return Infinity;
  let [low, high] = [0, 1e12];
  for (let k = 0; k < 200; k++) {
    const middle = low === 0 ? high / 2 : (low + high) / 2;
    if (busy(middle) > gpus) low = middle;
    else high = middle;
    if (high < 1e-12) return 0;
  }
  return high;
}

/** H: how long a batch of the target size takes, in the mean of all batches; on few GPUs the longest. */
export function aheadNs(models: readonly SeenModel[], gpus: number, nowNs: number): number {
  const batches = models.map((seen) => ({ weight: (seen.ratePerSecond * leftOf(seen, nowNs)) / seen.target, lengthNs: seen.model.latencyNs[seen.target]! }));
  if (gpus < 10) return Math.max(0, ...batches.filter(({ weight }) => weight > 0).map(({ lengthNs }) => lengthNs));
  const all = batches.reduce((sum, { weight }) => sum + weight, 0);
  return all === 0 ? 0 : batches.reduce((sum, { weight, lengthNs }) => sum + weight * lengthNs, 0) / all;
}

/** The requests that a batch needs before it is worth an early start: half of those that come in the fixed part of its time. */
export function worthSize({ model, ratePerSecond, target }: SeenModel): number {
  return 0.5 * lineOf(model, target).fixed * (ratePerSecond / 1e9);
}

/** How much later than its frontrun a batch may start: seven tenths of the time in which one of t requests shrinks to θt; on few GPUs not at all. */
export function bearableNs({ model, target }: SeenModel, share: number, gpus: number): number {
  if (gpus < 10) return 0;
  return 0.7 * (1 - share) * (model.latencyNs[target]! - model.latencyNs[1]!);
}

/** So many GPUs may be wanted at once before batches start early; when all are kept in reserve they always do. */
export function unreserved(gpus: number, reserve: number): number {
  return Math.floor((gpus - reserve) * 1.1) || -Infinity;
}

/** What a batch that bore its wait takes off the reserve, so that it stands still when one of 1000 for each GPU, but at most one of 100, adds 1/4. */
export function reserveGivenUp(gpus: number): number {
  const others = Math.max(100, 1000 / gpus) - 1;
  return 0.25 / others;
}

/** So many GPUs are wanted by the models whose requests can wait no longer than `waitNs`. */
export interface Tight {
  readonly waitNs: number;
  readonly wanted: number;
}

/** In the order of how long requests can wait: the GPUs that all models up to one keep busy in batches of the target size, and 0.75 square roots of that. */
export function tightModels(models: readonly SeenModel[], gpus: number, nowNs: number): Tight[] {
  if (gpus > 16) return [];
  const inOrder = models.map((seen) => ({ seen, waitNs: seen.model.sloNs - seen.model.latencyNs[1]! })).sort((a, b) => a.waitNs - b.waitNs);
  let load = 0;
  return inOrder.map(({ seen, waitNs }) => {
    load += ((seen.ratePerSecond * leftOf(seen, nowNs)) / 1e9) * (seen.model.latencyNs[seen.target]! / seen.target);
    return { waitNs, wanted: Math.min(gpus - 1, Math.ceil(load + 0.75 * Math.sqrt(load))) };
  });
}

/** Whether a batch that takes `lengthNs` leaves too few GPUs to those who cannot wait for half of it. `freeBy`: how many GPUs, the one that it takes included, are free in time. */
export function holdsUp(lengthNs: number, tight: readonly Tight[], freeBy: (waitNs: number) => number): boolean {
  return tight.some(({ waitNs, wanted }) => wanted > 0 && lengthNs > 2 * waitNs && freeBy(waitNs) - 1 < wanted);
}

/** θ. */
export function dropShare(models: readonly SeenModel[], gpus: number, nowNs: number): number {
  return Math.min(0.8, 0.9 * batchScale(models, gpus, nowNs));
}
