/**
 * What the policy `adaptive` needs to know of the cluster as a whole (ALGORITHM.md 1.7), computed every 50 ms from what
 * the shards say of their models:
 *
 *   κ = Σ λβ/t / (G − Σ λα)      θ = min(0.8, 0.9κ)
 *
 * κ is the scale at which batches of κt just carry the present load: smaller ones and the backlog grows without end,
 * larger ones and it heals by itself. So a late batch that would be smaller than θt is not worth saving, a larger one is.
 * α and β are those of the chord of ℓ from 1 to t, G the GPUs that take batches.
 */
import { MARGIN_DROP_SHARE, type SharedMemory } from '../protocol/shared-memory.js';
import { MODEL_ENDING, MODEL_NONE, MODEL_OFFER, MODEL_SPEC, profileView } from '../protocol/specs.js';
import { slopeOf } from '../protocol/slope.js';
import { SHARD_MODEL } from '../protocol/tables.js';

export const TICK_NS = 50e6;
/** A rate that is not looked at for longer than a tick is that of a model without requests, … */
const RATE_STANDS_NS = 50e6;
/** … and a mean over so long a time, of which ever less is left. */
const RATE_WINDOW_NS = 5e9;
const SHARE_OF_SCALE = 0.9;
const LARGEST_SHARE = 0.8;
/** Batches are of all sizes around the target, so each is granted a part of what one of the target size bears. */
const SHARE_OF_BEARABLE = 0.7;
/**
 * On fewer GPUs none is overbooked (look-ahead.ts) and the next one is far off: a wait is the first sign of a burst, and what starts
 * now may hold the GPU that others will want for as long as the longest batch takes.
 */
const MANY_GPUS = 10;
/** On more GPUs than this one of them is soon free, whatever runs (`tightNs`). */
const GPUS_TO_HOLD = 16;
/** GPUs that a load wants beyond its mean, in square roots of it. */
const SPREAD = 0.75;

export class Cluster {
  /** The first poll at or after it is to call `tick`. */
  nextTickNs = -Infinity;
  /** κ as of the last tick. */
  scale = 0;
  /** As of the last tick: how long a batch of the target size takes, by model. */
  readonly batchNs: Float64Array;
  /** How far to look ahead: the time of a batch of the target size, in the mean of all batches; on few GPUs that of the longest. */
  aheadNs = 0;
  /** By model: how much later than its frontrun a batch may start without giving up heads: meanwhile it shrinks from t to θt. */
  readonly bearsNs: Float64Array;
  /** GPUs that the load keeps busy in batches of the target sizes (κ = 1), and how much that varies within an SLO: one standard deviation. */
  loadGpus = 0;
  spreadGpus = 0;
  /**
   * `tightNs[n]`, n from 1 to one less than all GPUs: the models that want n GPUs between them, taken in the order of how long a request can wait,
   * have one that can wait no longer than this (its SLO less ℓ(1)). +Infinity where all models want fewer, and on more than 16 GPUs.
   */
  readonly tightNs = new Float64Array(GPUS_TO_HOLD).fill(Infinity);
  /** Requests per second of all models. */
  ratePerSecond = 0;
  /** Requests of all models that have ended late or expired, and that have ended so or in time, since the start. */
  badCount = 0;
  endedCount = 0;
  longestSloNs = 0;
  readonly #memory: SharedMemory;
  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  /** By model: the version of its spec that is known, whether it has load, and ℓ. */
  readonly #versions: Int32Array;
  readonly #counts: Uint8Array;
  readonly #maxBatch: Int32Array;
  readonly #sloNs: Float64Array;
  readonly #latencies: Float64Array[];
  /** GPUs that a model keeps busy in batches of the target size. */
  readonly #loadGpus: Float64Array;
  /** Models in the order of how long a request can wait; null until it is asked for, since sorting thousands takes milliseconds. */
  #byWait: number[] | null = null;

  constructor(memory: SharedMemory) {
    const { models } = memory.limits;
    this.#memory = memory;
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.batchNs = new Float64Array(models);
    this.bearsNs = new Float64Array(models);
    this.#versions = new Int32Array(models);
    this.#counts = new Uint8Array(models);
    this.#maxBatch = new Int32Array(models);
    this.#sloNs = new Float64Array(models);
    this.#latencies = new Array<Float64Array>(models).fill(new Float64Array(1));
    this.#loadGpus = new Float64Array(models);
    this.takeChanges();
  }

  /** Models that have come, have changed or are gone (specs.ts). */
  takeChanges(): void {
    const memory = this.#memory;
    for (let model = 0; model < this.#versions.length; model++) {
      const spec = (memory.specs >> 2) + model * MODEL_SPEC.words;
      const version = Atomics.load(this.#i32, spec + MODEL_SPEC.at.version);
      if (version === this.#versions[model]) continue;
      this.#versions[model] = version;
      const state = this.#i32[spec + MODEL_SPEC.at.state]!;
      this.#counts[model] = state === MODEL_NONE || state === MODEL_ENDING ? 0 : 1;
      if (state === MODEL_NONE) continue;
      this.#maxBatch[model] = this.#i32[spec + MODEL_SPEC.at.maxBatch]!;
      this.#sloNs[model] = this.#f64[(((memory.offers >> 2) + model * MODEL_OFFER.words) >> 1) + MODEL_OFFER.at.sloNs]!;
      this.#latencies[model] = profileView(memory, this.#i32[spec + MODEL_SPEC.at.profile]!);
    }
    this.#byWait = null;
  }

  #sortByWait(): number[] {
    const models = Array.from(this.#counts.keys()).filter((model) => this.#counts[model] === 1);
    return models.sort((a, b) => this.#waitNs(a) - this.#waitNs(b) || a - b);
  }

  /** How long a request of a model can wait before it runs alone. */
  #waitNs(model: number): number {
    return this.#sloNs[model]! - this.#latencies[model]![1]!;
  }

  /** `gpus` take batches. Sums run in the order of model numbers, whichever shard a model belongs to. */
  tick(nowNs: number, gpus: number): void {
    this.nextTickNs = nowNs + TICK_NS;
    /** GPUs for the requests themselves, and for the fixed part of batches of the target sizes. */
    let requestGpus = 0;
    let batchGpus = 0;
    let batches = 0;
    let batchTime = 0;
    let variance = 0;
    let totalPerNs = 0;
    let longestNs = 0;
    this.badCount = this.endedCount = this.longestSloNs = 0;
    for (let model = 0; model < this.#counts.length; model++) {
      const row = (this.#memory.shardModels >> 2) + model * SHARD_MODEL.words;
      const bad = this.#f64[(row >> 1) + SHARD_MODEL.at.late]! + this.#f64[(row >> 1) + SHARD_MODEL.at.expired]!;
      this.badCount += bad;
      this.endedCount += bad + this.#f64[(row >> 1) + SHARD_MODEL.at.completed]!;
      if (this.#counts[model] === 0) continue;
      this.longestSloNs = Math.max(this.longestSloNs, this.#sloNs[model]!);
      const ratePerNs = this.#ratePerNs(row, nowNs);
      this.#loadGpus[model] = 0;
      if (ratePerNs === 0) continue;
      const target = this.#targetOf(model);
      const latencyNs = this.#latencies[model]!;
      const slopeNs = slopeOf(latencyNs, target, this.#maxBatch[model]!);
      this.batchNs[model] = latencyNs[target]!;
      batches += ratePerNs / target;
      batchTime += (ratePerNs / target) * latencyNs[target]!;
      longestNs = Math.max(longestNs, latencyNs[target]!);
      requestGpus += ratePerNs * slopeNs;
      batchGpus += (ratePerNs * (latencyNs[1]! - slopeNs)) / target;
      totalPerNs += ratePerNs;
      const shareNs = latencyNs[target]! / target;
      this.#loadGpus[model] = ratePerNs * shareNs;
      variance += (shareNs * shareNs * ratePerNs * this.#f64[(row >> 1) + SHARD_MODEL.at.dispersion]!) / this.#sloNs[model]!;
    }
    this.#findTight(gpus);
    const meanNs = batches > 0 ? batchTime / batches : 0;
    this.aheadNs = gpus < MANY_GPUS ? longestNs : meanNs;
    this.loadGpus = requestGpus + batchGpus;
    this.spreadGpus = Math.sqrt(variance);
    this.ratePerSecond = totalPerNs * 1e9;
    const left = gpus - requestGpus;
    this.scale = left > 0 ? Math.max(0, batchGpus / left) : Infinity;
    const share = Math.min(LARGEST_SHARE, SHARE_OF_SCALE * this.scale);
    this.#f64[(this.#memory.margins >> 3) + MARGIN_DROP_SHARE] = share;
    const borne = gpus < MANY_GPUS ? 0 : SHARE_OF_BEARABLE * (1 - share);
    for (let model = 0; model < this.#counts.length; model++) {
      if (this.#counts[model] === 0) continue;
      const latencyNs = this.#latencies[model]!;
      // A target of 0: no rate is known yet.
      const target = Math.max(1, this.#targetOf(model));
      this.bearsNs[model] = borne * (latencyNs[target]! - latencyNs[1]!);
    }
  }

  #findTight(gpus: number): void {
    this.tightNs.fill(Infinity);
    if (gpus < 2 || gpus > GPUS_TO_HOLD) return;
    const models = (this.#byWait ??= this.#sortByWait());
    let load = 0;
    let found = 0;
    for (let k = 0; k < models.length && found < gpus - 1; k++) {
      const model = models[k]!;
      load += this.#loadGpus[model]!;
      const wanted = Math.min(gpus - 1, Math.ceil(load + SPREAD * Math.sqrt(load)));
      while (found < wanted) this.tightNs[++found] = this.#waitNs(model);
    }
  }

  /** A profile may have become shorter since the shard has looked. */
  #targetOf(model: number): number {
    const row = (this.#memory.shardModels >> 2) + model * SHARD_MODEL.words;
    return Math.min(this.#i32[row + SHARD_MODEL.at.target]!, this.#maxBatch[model]!);
  }

  /**
   * A meter has no timer, so the rate of a model that gets no requests stays as it was. What it would say by now is known
   * well enough: if the arrivals of its window were even, as much of them is left as of the window.
   */
  #ratePerNs(row: number, nowNs: number): number {
    const rate = this.#f64[(row >> 1) + SHARD_MODEL.at.ratePerSecond]! / 1e9;
    const silentNs = nowNs - this.#f64[(row >> 1) + SHARD_MODEL.at.ratedUntilNs]! - RATE_STANDS_NS;
    if (silentNs <= 0) return rate;
    return silentNs < RATE_WINDOW_NS ? rate * (1 - silentNs / RATE_WINDOW_NS) : 0;
  }
}
