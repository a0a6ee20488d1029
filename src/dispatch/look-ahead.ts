/**
 * How many GPUs will be wanted at once, if every model waits for its frontrun: the look-ahead of the policy `adaptive`
 * (ALGORITHM.md 1.7, parts 2 and 3), and the reserve of GPUs that it keeps.
 *
 *   occ(x) = GPUs busy past x + candidates that are expected to start by x and whose deadline lies after x
 *
 * Time is cut in buckets. A busy GPU or a candidate is +1 in the bucket where it begins and −1 where it ends; occ is the
 * sum from the past up to a bucket. What lies in the past is folded into one number, `#begun`; the future is a ring of buckets, the
 * leaves of a tree that knows of each node the sum and the largest sum from its left end, at least 0. So a change, and the
 * largest occ of any stretch of time, cost O(log buckets).
 */
import { LEARNT } from './reserve-choice.js';

export const BUCKETS = 1024;
/** The longest SLO has half of the ring: what lies beyond its end is taken for its end. */
export const BUCKETS_PER_SLO = BUCKETS / 2;
const NEVER = 2 ** 52;
const NOTHING = -1;
/**
 * Aims at so many batches that wait longer for a GPU than they can bear: one of a thousand for each GPU, because of fewer GPUs the
 * next one is as much longer in coming, so that a miss costs as many more requests; and one of a hundred at most.
 */
const MISSED_SHARE_PER_GPU = 0.001;
const MOST_MISSED_SHARE = 0.01;
const STEP = 0.25;
/** A wait of this share of a batch time counts as a whole miss. */
const WHOLE_MISS = 0.1;
/**
 * By this share more GPUs may be wanted at once than there are: of G busy ones the next is free after a G-th of a batch time,
 * so this is a wait of about the same share of one. Less than one GPU up to nine.
 */
const OVERBOOKED = 0.1;
/** Less than any count of GPUs that are wanted. */
const NONE = -1;

/** In `#cells`: the bucket of now, counted from time 0; the reserve that was learnt; how far is looked ahead; an answer; what is kept; an answer of `#findBucket`. */
const NOW = 0;
const RESERVE = 1;
const AHEAD = 2;
const WHEN_ABOVE = 3;
const SHARE = 4;
const BUCKET = 5;
/** In `learnFrom`. */
export const LEARN_WAIT_NS = 0;
export const LEARN_BATCH_NS = 1;

export class LookAhead {
  readonly #bucketNs: number;
  /** What may be no small integer: a field that becomes one of another kind makes V8 drop all code that reads it. */
  readonly nowNs = new Float64Array(1);
  /** What `learn` is given. */
  readonly learnFrom = new Float64Array(2);
  readonly #cells = new Float64Array(8);
  /** occ in the bucket of now. */
  #begun = 0;
  readonly #sum = new Int32Array(2 * BUCKETS);
  readonly #peak = new Int32Array(2 * BUCKETS);
  /**
   * What was last said of each candidate and, from `gpuAt` on, of each GPU: begin and end, −Infinity as its end if there is none. Who stores here tells `note`:
   * times that were arguments would be boxed.
   */
  readonly saidFromNs: Float64Array;
  readonly saidToNs: Float64Array;
  readonly gpuAt: number;
  /** Who is not placed as was said yet: many come and go before anybody looks. */
  readonly #said: Int32Array;
  readonly #isSaid: Uint8Array;
  #saidCount = 0;
  /** Leaves that have changed since the tree was looked at: where nobody looks, a change costs one addition. */
  readonly #changed = new Int32Array(BUCKETS);
  readonly #isChanged = new Uint8Array(BUCKETS);
  #changedCount = 0;
  /** By candidate, then by GPU: buckets of begin and end. */
  readonly #from: Float64Array;
  readonly #to: Float64Array;
  /** Whether, and for which limit, the last answers still hold. */
  #mostHolds = false;
  #most = 0;
  #whenHolds = false;
  #whenLimit = 0;
  /** Of the walk under way. */
  #walked = 0;
  #found = 0;

  constructor(models: number, gpus: number, bucketNs: number) {
    this.gpuAt = models;
    this.#cells[SHARE] = LEARNT;
    this.#bucketNs = bucketNs;
    this.#from = new Float64Array(models + gpus).fill(NOTHING);
    this.#to = new Float64Array(models + gpus).fill(NOTHING);
    this.saidFromNs = new Float64Array(models + gpus).fill(-Infinity);
    this.saidToNs = new Float64Array(models + gpus);
    this.#said = new Int32Array(models + gpus);
    this.#isSaid = new Uint8Array(models + gpus);
  }

  /** GPUs to keep free for what is not expected, as learnt: as many as it takes that few batches find none. */
  get reserve(): number {
    return this.#cells[RESERVE]!;
  }

  /** This share of the GPUs is kept free instead, or LEARNT (reserve-choice.ts). Meanwhile nothing is learnt. */
  keep(share: number): void {
    this.#cells[SHARE] = share;
  }

  /** The candidate of a model is expected to start at `startNs`, and must have ended by `deadlineNs`. (The dispatcher stores this itself, and what `occupy` does.) */
  expect(model: number, startNs: number, deadlineNs: number): void {
    this.saidFromNs[model] = startNs;
    this.saidToNs[model] = deadlineNs;
    this.note(model);
  }

  /** The model has no candidate. */
  forget(model: number): void {
    this.saidToNs[model] = -Infinity;
    this.note(model);
  }

  /** A GPU is busy until `untilNs`; −Infinity: it is idle. */
  occupy(gpu: number, untilNs: number): void {
    this.saidToNs[this.gpuAt + gpu] = untilNs;
    this.note(this.gpuAt + gpu);
  }

  /** Something new was stored in `saidFromNs` or `saidToNs`. */
  note(index: number): void {
    if (this.#isSaid[index] !== 0) return;
    this.#isSaid[index] = 1;
    this.#said[this.#saidCount++] = index;
  }

  #placeAll(): void {
    for (let k = 0; k < this.#saidCount; k++) {
      const index = this.#said[k]!;
      this.#isSaid[index] = 0;
      if (this.saidToNs[index] === -Infinity) this.#remove(index);
      else this.#place(index);
    }
    this.#saidCount = 0;
  }

  /** Time goes on, to `nowNs[0]`: what has begun by now is folded together. (As an argument it was boxed at every poll.) */
  advance(): void {
    const bucket = Math.floor(this.nowNs[0]! / this.#bucketNs);
    if (bucket !== this.#cells[NOW]!) this.#advanceTo(bucket);
  }

  #advanceTo(bucket: number): void {
    this.#placeAll(); // as seen from here
    this.#mostHolds = this.#whenHolds = false;
    if (bucket - this.#cells[NOW]! >= BUCKETS) {
      this.#settle();
      this.#begun += this.#sum[1]!;
      this.#sum.fill(0);
      this.#peak.fill(0);
      this.#cells[NOW] = bucket;
    }
    while (this.#cells[NOW]! < bucket) {
      this.#cells[NOW]!++;
      const value = this.#sum[BUCKETS + (this.#cells[NOW]! & (BUCKETS - 1))]!;
      if (value === 0) continue;
      this.#begun += value;
      this.#add(this.#cells[NOW]! & (BUCKETS - 1), -value);
    }
  }

  /** How far ahead is looked. */
  get aheadNs(): number {
    return this.#cells[AHEAD]!;
  }

  set aheadNs(ns: number) {
    this.#cells[AHEAD] = ns;
    this.#mostHolds = this.#whenHolds = false;
  }

  /** The largest occ from now until `aheadNs` from now. */
  most(): number {
    this.#placeAll();
    if (this.#mostHolds) return this.#most;
    this.#mostHolds = true;
    this.#settle();
    this.#walked = 0;
    this.#found = 0;
    const count = this.#ahead();
    const first = (this.#cells[NOW]! + 1) & (BUCKETS - 1);
    const straight = Math.min(count, BUCKETS - first);
    this.#walk(1, 0, BUCKETS, first, first + straight);
    if (count > straight) this.#walk(1, 0, BUCKETS, 0, count - straight);
    this.#most = this.#begun + this.#found;
    return this.#most;
  }

  /** Sets `aboveNs`: when an occ above `limit` will first lie less than `aheadNs` ahead; +Infinity if that is not expected, or now. */
  findAbove(limit: number): void {
    this.#placeAll();
    if (this.#whenHolds && limit === this.#whenLimit) return;
    this.#whenHolds = true;
    this.#whenLimit = limit;
    this.#cells[WHEN_ABOVE] = this.#firstAbove(limit);
  }

  /** Apart from `findAbove`: a double that a function returns may be boxed. */
  get aboveNs(): number {
    return this.#cells[WHEN_ABOVE]!;
  }

  #firstAbove(limit: number): number {
    this.#walked = this.#begun;
    if (this.#walked > limit) return Infinity;
    this.#settle();
    const first = (this.#cells[NOW]! + 1) & (BUCKETS - 1);
    let leaf = this.#find(1, 0, BUCKETS, first, BUCKETS, limit);
    if (leaf < 0) leaf = this.#find(1, 0, BUCKETS, 0, first - 1, limit);
    if (leaf < 0) return Infinity;
    const bucket = this.#cells[NOW]! + ((leaf - this.#cells[NOW]!) & (BUCKETS - 1));
    const when = bucket - this.#ahead();
    return when > this.#cells[NOW]! ? when * this.#bucketNs : Infinity;
  }

  /** So many GPUs may be wanted at once; none when all are kept in reserve: then whoever can start does. */
  unreserved(gpus: number): number {
    const kept = this.#cells[SHARE] === LEARNT ? this.#cells[RESERVE]! : this.#cells[SHARE]! * gpus;
    const left = Math.floor((gpus - kept) * (1 + OVERBOOKED));
    return left > 0 ? left : NONE;
  }

  /** A batch was granted a GPU `waitNs` later than it could bear; not above 0 if it could. `batchNs` is how long one of the target size takes. */
  granted(waitNs: number, batchNs: number, gpus: number): void {
    this.learnFrom[LEARN_WAIT_NS] = waitNs;
    this.learnFrom[LEARN_BATCH_NS] = batchNs;
    this.learn(gpus);
  }

  /** As `granted`, from what is in `learnFrom`. */
  learn(gpus: number): void {
    if (this.#cells[SHARE] !== LEARNT) return;
    const waitNs = this.learnFrom[LEARN_WAIT_NS]!;
    const missedShare = Math.min(MOST_MISSED_SHARE, MISSED_SHARE_PER_GPU * gpus);
    if (waitNs > 0) this.#cells[RESERVE]! += STEP * Math.min(1, waitNs / (WHOLE_MISS * this.learnFrom[LEARN_BATCH_NS]!));
    else this.#cells[RESERVE]! -= (STEP * missedShare) / (1 - missedShare);
    this.#cells[RESERVE] = Math.max(0, Math.min(gpus, this.#cells[RESERVE]!));
  }

  /** A batch that was due lost its heads, or all of it, before there was a GPU: the worst of waits, and none that a grant tells of. */
  lost(gpus: number): void {
    this.granted(Infinity, 1, gpus);
  }

  /** Buckets after that of now. */
  #ahead(): number {
    return Math.min(BUCKETS - 1, Math.ceil(this.#cells[AHEAD]! / this.#bucketNs)) | 0;
  }

  #place(index: number): void {
    const cells = this.#cells;
    this.#findBucket(this.saidFromNs, index);
    const from = cells[BUCKET]!;
    this.#findBucket(this.saidToNs, index);
    const to = cells[BUCKET]!;
    if (from === this.#from[index] && to === this.#to[index]) return;
    this.#remove(index);
    if (to <= from) return;
    this.#from[index] = from;
    this.#to[index] = to;
    this.#mark(this.#from, index, 1);
    this.#mark(this.#to, index, -1);
  }

  #remove(index: number): void {
    if (this.#from[index] === NOTHING) return;
    this.#mark(this.#from, index, -1);
    this.#mark(this.#to, index, 1);
    this.#from[index] = NOTHING;
  }

  /** BUCKET: what has begun, or ended, does so now at the latest; what is beyond the ring ends with it, or never. */
  #findBucket(timesNs: Float64Array, index: number): void {
    const cells = this.#cells;
    const bucket = Math.floor(timesNs[index]! / this.#bucketNs);
    if (timesNs[index] === Infinity) cells[BUCKET] = NEVER;
    else if (bucket <= cells[NOW]!) cells[BUCKET] = cells[NOW]!;
    else cells[BUCKET] = Math.min(bucket, cells[NOW]! + BUCKETS - 1);
  }

  #mark(buckets: Float64Array, index: number, value: number): void {
    const bucket = buckets[index]!;
    if (bucket === NEVER) return;
    this.#mostHolds = this.#whenHolds = false;
    if (bucket <= this.#cells[NOW]!) this.#begun += value;
    else this.#add(bucket & (BUCKETS - 1), value);
  }

  #add(leaf: number, value: number): void {
    this.#sum[BUCKETS + leaf]! += value;
    if (this.#isChanged[leaf] !== 0) return;
    this.#isChanged[leaf] = 1;
    this.#changed[this.#changedCount++] = leaf;
  }

  /** Brings the tree up to date with its leaves. */
  #settle(): void {
    const sum = this.#sum;
    const peak = this.#peak;
    for (let k = 0; k < this.#changedCount; k++) {
      const leaf = this.#changed[k]!;
      this.#isChanged[leaf] = 0;
      let node = BUCKETS + leaf;
      peak[node] = Math.max(0, sum[node]!);
      for (node >>= 1; node > 0; node >>= 1) {
        const nodeSum = sum[2 * node]! + sum[2 * node + 1]!;
        const nodePeak = Math.max(peak[2 * node]!, sum[2 * node]! + peak[2 * node + 1]!);
        if (sum[node] === nodeSum && peak[node] === nodePeak) break;
        sum[node] = nodeSum;
        peak[node] = nodePeak;
      }
    }
    this.#changedCount = 0;
  }

  /** Goes over the leaves `from … to - 1`; the largest sum on the way is found. */
  #walk(node: number, low: number, high: number, from: number, to: number): void {
    if (to <= low || high <= from) return;
    if (from <= low && high <= to) {
      this.#found = Math.max(this.#found, this.#walked + this.#peak[node]!);
      this.#walked += this.#sum[node]!;
      return;
    }
    const middle = (low + high) >> 1;
    this.#walk(2 * node, low, middle, from, to);
    this.#walk(2 * node + 1, middle, high, from, to);
  }

  /** As `#walk`, to the first leaf where the sum is above `limit`, or -1. */
  #find(node: number, low: number, high: number, from: number, to: number, limit: number): number {
    if (to <= low || high <= from) return -1;
    if (from <= low && high <= to) {
      if (this.#walked + this.#peak[node]! <= limit) {
        this.#walked += this.#sum[node]!;
        return -1;
      }
      if (node >= BUCKETS) return low;
    }
    const middle = (low + high) >> 1;
    const left = this.#find(2 * node, low, middle, from, to, limit);
    return left >= 0 ? left : this.#find(2 * node + 1, middle, high, from, to, limit);
  }
}
