/**
 * How many GPUs are wanted (ALGORITHM.md 1.6), at the end of each epoch:
 *
 *   the load needs    ⌈L + zσ⌉       L = Σ λℓ(t)/t GPUs at the target sizes (κ = 1), σ² = Σ (ℓ(t)/t)² Dλ/SLO
 *   missed > 1 %      ⌈g / (1 − β)⌉   of g GPUs, unless one was idle all the time: then it is not GPUs that lack
 *   learnt            g + 1           while the load is what g GPUs have missed at before
 *   release           the highest-numbered that have been idle (busy for at most a tenth of each epoch) for the
 *                     hysteresis, while the load fits without them
 *
 * D is the dispersion of the arrivals. σ is what chance adds to the load within an SLO: the square-root rule of staffing
 * (Halfin and Whitt, 1981), and the reason why more is added before anything is dropped: who waits for 1 % bad cannot
 * hold 1 %. How well several models share few GPUs no formula says; that is learnt, and slowly forgotten. Releasing asks
 * for more room than adding, so that a steady load does not do both in turn.
 *
 * It only looks: no decision depends on it. The epoch ends with the first poll after its time; nobody wakes for it.
 */
import { ADVICE, ADVICE_IDLE, ADVICE_LOAD, ADVICE_MISSED, ADVICE_STARTING, ADVICE_STEADY, adviceRow } from '../protocol/advice.js';
import { DEFAULT_ADVICE } from '../protocol/config.js';
import type { SharedMemory } from '../protocol/shared-memory.js';
import { CLIENT_MODEL, SHARD_MODEL } from '../protocol/tables.js';
import type { Cluster } from './cluster.js';
import type { GpuPool } from './gpu-pool.js';

/** z: σ above the mean load. Measured: 0 (r50 on 8 GPUs) to 1.2 (tight) are just enough for 1 % bad; the rest is learnt. */
const SPREADS = 0.75;
const RELEASE_SPREADS = 0.5;
/** Of the load at which so many GPUs have missed: below this they may be tried again. */
const RELEASE_SHARE = 0.9;
/** The learnt loads grow by this per epoch: what was true ten minutes ago may be so no more. */
const FORGET = 1 / 600;
/** Idle enough: what a GPU that is busy for less does, the others can do. With many models each of them is touched now and then. */
const IDLE_SHARE = 0.1;
const MOST_MISSED = 0.01;
/** Below this good share no more is asked for at once than 16 times what there is. */
const LEAST_GOOD_SHARE = 1 / 16;
/** What rounding may leave above a whole number. */
const SLACK = 1e-9;

export class Advisor {
  /** The first poll at or after it is to call `endEpoch`. */
  nextEpochNs = -Infinity;
  readonly #memory: SharedMemory;
  readonly #cluster: Cluster;
  readonly #pool: GpuPool;
  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  readonly #epochNs: number;
  readonly #hysteresisNs: number;
  #startedNs = 0;
  #isFirst = true;
  /** Which row of the advice is to be written next. */
  #row = 1;
  /** By epoch, in a ring of the hysteresis: what has to be left by a release. */
  readonly #needed: Float64Array;
  #epoch = 0;
  /** By number of GPUs: the load at which so many have missed, +Infinity for none. */
  readonly #shortAt: Float64Array;
  /** By GPU: busy time up to the epoch, and the end of the last epoch in which it was busy, or not there. */
  readonly #busyNs: Float64Array;
  readonly #lastBusyNs: Float64Array;
  /** Of all models, up to the epoch. */
  #arrived = 0;
  #refused = 0;
  #completed = 0;
  #missed = 0;
  #otherBad = 0;
  /** As of the epoch at hand. */
  #usedGpus = 0;
  #idleGpus = 0;
  #busyGpus = 0;
  #offeredPerSecond = 0;
  #badRate = 0;
  #missedRate = 0;

  constructor(memory: SharedMemory, cluster: Cluster, pool: GpuPool) {
    const { epochNs, hysteresis } = memory.config.advice ?? DEFAULT_ADVICE;
    this.#memory = memory;
    this.#cluster = cluster;
    this.#pool = pool;
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#epochNs = epochNs;
    this.#hysteresisNs = hysteresis * epochNs;
    this.#needed = new Float64Array(hysteresis).fill(Infinity);
    this.#shortAt = new Float64Array(memory.limits.gpus + 1).fill(Infinity);
    this.#busyNs = new Float64Array(memory.limits.gpus);
    this.#lastBusyNs = new Float64Array(memory.limits.gpus);
    this.#publish(0, 0, pool.activeCount, ADVICE_STARTING);
  }

  endEpoch(nowNs: number): void {
    const lengthNs = nowNs - this.#startedNs;
    this.#lookAtGpus(nowNs, lengthNs);
    this.#lookAtRequests(lengthNs);
    this.nextEpochNs = nowNs + this.#epochNs;
    this.#startedNs = nowNs;
    if (this.#isFirst) {
      this.#isFirst = false; // it has only seen what there was before
      return;
    }
    this.#advise(nowNs, lengthNs);
  }

  #advise(nowNs: number, lengthNs: number): void {
    const gpus = this.#pool.activeCount;
    const { loadGpus, spreadGpus } = this.#cluster;
    const isShort = this.#missedRate > MOST_MISSED && this.#usedGpus === gpus;
    this.#learn(gpus, isShort);
    const needed = this.#neededFor(loadGpus, loadGpus + SPREADS * spreadGpus);
    this.#needed[this.#epoch] = this.#neededFor(loadGpus / RELEASE_SHARE, loadGpus + (SPREADS + RELEASE_SPREADS) * spreadGpus);
    this.#epoch = this.#epoch + 1 < this.#needed.length ? this.#epoch + 1 : 0;
    const byMissed = isShort ? Math.ceil(gpus / Math.max(LEAST_GOOD_SHARE, 1 - this.#missedRate)) : 0;
    if (byMissed > 0 && byMissed >= needed) this.#publish(nowNs, lengthNs, byMissed, ADVICE_MISSED);
    else if (needed > gpus) this.#publish(nowNs, lengthNs, needed, ADVICE_LOAD);
    else this.#keep(nowNs, lengthNs, gpus);
  }

  /** Gives back what nothing needs. */
  #keep(nowNs: number, lengthNs: number, gpus: number): void {
    let needed = gpus - this.#idleGpus;
    for (let k = 0; k < this.#needed.length; k++) needed = Math.max(needed, this.#needed[k]!);
    const kept = Math.max(1, Math.min(gpus, needed));
    this.#publish(nowNs, lengthNs, kept, kept < gpus ? ADVICE_IDLE : ADVICE_STEADY);
  }

  /** At least 1, and more than have missed at this load. */
  #neededFor(loadGpus: number, roomyGpus: number): number {
    let needed = Math.max(1, Math.ceil(roomyGpus - SLACK));
    while (needed < this.#shortAt.length && this.#shortAt[needed]! <= loadGpus) needed++;
    return needed;
  }

  /** So many GPUs were too few for this load, and so would fewer have been. */
  #learn(gpus: number, isShort: boolean): void {
    const shortAt = this.#shortAt;
    for (let k = 0; k < shortAt.length; k++) shortAt[k]! *= 1 + FORGET;
    if (!isShort) return;
    // The measured rates lag behind a load that grows.
    const { loadGpus, ratePerSecond } = this.#cluster;
    const growth = ratePerSecond > 0 ? Math.max(1, this.#offeredPerSecond / ratePerSecond) : 1;
    for (let k = 0; k <= gpus; k++) shortAt[k] = Math.min(shortAt[k]!, loadGpus * growth);
  }

  /** Busy time counts up to now, that of the running batch as it was planned. */
  #lookAtGpus(nowNs: number, lengthNs: number): void {
    const pool = this.#pool;
    let busyNs = 0;
    this.#usedGpus = this.#idleGpus = 0;
    for (let gpu = 0; gpu < this.#busyNs.length; gpu++) {
      const total = pool.busyNsUpTo(gpu, nowNs);
      // A number that was given to another GPU counts from 0.
      const since = total < this.#busyNs[gpu]! ? total : total - this.#busyNs[gpu]!;
      this.#busyNs[gpu] = total;
      busyNs += since;
      const isActive = pool.isActive(gpu);
      const isUsed = since > 0 || pool.holdsWork(gpu);
      if (isActive && isUsed) this.#usedGpus++;
      if (!isActive || since > IDLE_SHARE * lengthNs) this.#lastBusyNs[gpu] = nowNs;
      if (!isActive) continue;
      if (nowNs - this.#lastBusyNs[gpu]! >= this.#hysteresisNs) this.#idleGpus++;
      else this.#idleGpus = 0;
    }
    this.#busyGpus = lengthNs > 0 ? busyNs / lengthNs : 0;
  }

  #lookAtRequests(lengthNs: number): void {
    const { completed: COMPLETED, late: LATE, expired: EXPIRED, queueFull: FULL, infeasible: INFEASIBLE, cancelled: CANCELLED, failed: FAILED, closed: CLOSED, queued: QUEUED, running: RUNNING } = SHARD_MODEL.at;
    const f64 = this.#f64;
    let completed = 0;
    let missed = 0;
    let otherBad = 0;
    let open = 0;
    for (let model = 0; model < this.#memory.limits.models; model++) {
      const row = ((this.#memory.shardModels >> 2) + model * SHARD_MODEL.words) >> 1;
      completed += f64[row + COMPLETED]!;
      missed += f64[row + LATE]! + f64[row + EXPIRED]! + f64[row + FULL]!;
      otherBad += f64[row + INFEASIBLE]! + f64[row + FAILED]!;
      open += f64[row + CANCELLED]! + f64[row + CLOSED]! + f64[row + QUEUED]! + f64[row + RUNNING]!;
    }
    const refused = this.#refusedSoFar();
    const arrived = completed + missed + otherBad + open;
    const judged = completed - this.#completed + (missed - this.#missed) + (otherBad - this.#otherBad) + (refused - this.#refused);
    this.#badRate = judged > 0 ? 1 - (completed - this.#completed) / judged : 0;
    this.#missedRate = judged > 0 ? (missed - this.#missed) / judged : 0;
    this.#offeredPerSecond = lengthNs > 0 ? ((arrived - this.#arrived + (refused - this.#refused)) / lengthNs) * 1e9 : 0;
    this.#completed = completed;
    this.#missed = missed;
    this.#otherBad = otherBad;
    this.#refused = refused;
    this.#arrived = arrived;
  }

  #refusedSoFar(): number {
    const { clients, limits } = this.#memory;
    let refused = 0;
    for (let client = 0; client < clients.length; client++) {
      const at = clients[client]!.models >> 3;
      for (let model = 0; model < limits.models; model++) refused += this.#f64[at + model * (CLIENT_MODEL.words >> 1) + CLIENT_MODEL.at.refused]!;
    }
    return refused;
  }

  #publish(nowNs: number, lengthNs: number, wanted: number, reason: number): void {
    const { advice } = this.#memory;
    const row = (advice >> 2) + adviceRow(this.#row);
    const i32 = this.#i32;
    const f64 = this.#f64;
    const double = row >> 1;
    i32[row + ADVICE.at.wanted] = Math.max(1, wanted);
    i32[row + ADVICE.at.reason] = reason;
    i32[row + ADVICE.at.gpus] = this.#pool.activeCount;
    i32[row + ADVICE.at.usedGpus] = this.#usedGpus;
    i32[row + ADVICE.at.idleGpus] = this.#idleGpus;
    f64[double + ADVICE.at.endedNs] = nowNs;
    f64[double + ADVICE.at.epochNs] = lengthNs;
    f64[double + ADVICE.at.busyGpus] = this.#busyGpus;
    f64[double + ADVICE.at.offeredPerSecond] = this.#offeredPerSecond;
    f64[double + ADVICE.at.badRate] = this.#badRate;
    f64[double + ADVICE.at.missedRate] = this.#missedRate;
    f64[double + ADVICE.at.loadGpus] = this.#cluster.loadGpus;
    f64[double + ADVICE.at.spreadGpus] = this.#cluster.spreadGpus;
    f64[double + ADVICE.at.scale] = this.#cluster.scale;
    Atomics.store(i32, advice >> 2, this.#row);
    this.#row ^= 1;
  }
}
