/**
 * The waiting requests of one model in the order (deadline, arrival), cut in two: the *prefix*, older requests that
 * the window has passed over, and the *suffix*, the window (ALGORITHM.md 1.2).
 *
 *   ring       head ─── prefix ─── boundary ─── suffix ─── tail      deadlines that came in order: O(1) each
 *   heaps      prefix heap               suffix heap                 deadlines that came out of order: O(log n)
 *
 * Only four things are ever done: append anywhere, look at or take the oldest of either part, pass the oldest of
 * the suffix over to the prefix (in the ring: boundary + 1), and remove a cancelled one (in the ring: a tombstone).
 *
 * An element goes to a heap only if a later deadline has been appended to the ring since the queue was last empty
 * (`lastDeadline`), so among equals the ring's are always the earlier arrivals and need no order of their own.
 */
import { ARRIVAL } from '../protocol/scratch.js';
import { SlotHeap } from './slot-heap.js';

const { deadlineNs: ARRIVAL_DEADLINE_NS, next: ARRIVAL_NEXT, slot: ARRIVAL_SLOT } = ARRIVAL.at;
const ARRIVAL_WORDS = ARRIVAL.words;

/** Index into `oldest`. */
export const PREFIX = 0;
export const SUFFIX = 1;
const LAST = 2;
const BOUNDARY = 3;

const NONE = -1;
/** Ring positions are kept modulo 2^30 in `positions`, so that they are never negative there. */
const POSITION_MASK = 2 ** 30 - 1;
const FIRST_CAPACITY = 64;

export class DeadlineQueue {
  /** Deadline of the oldest of each part, +Infinity when it is empty: `oldest[PREFIX]`, `oldest[SUFFIX]`. */
  readonly oldest = new Float64Array([Infinity, Infinity, -Infinity, -Infinity]);
  prefixCount = 0;
  suffixCount = 0;

  #deadlines = new Float64Array(FIRST_CAPACITY);
  #slots = new Int32Array(FIRST_CAPACITY);
  #mask = FIRST_CAPACITY - 1;
  #head = 0;
  #boundary = 0;
  #tail = 0;
  #order = 0;
  readonly #prefixHeap: SlotHeap;
  readonly #suffixHeap: SlotHeap;
  /** By slot, shared by all queues of a shard: where the slot's entry is, in a heap or in the ring before `#noted`. */
  readonly #positions: Int32Array;
  #noted = 0;

  /** `start`: of the ring's positions, which wrap at 2^32. */
  constructor(positions: Int32Array, start = 0) {
    this.#positions = positions;
    this.#head = this.#boundary = this.#tail = this.#noted = start | 0;
    this.#prefixHeap = new SlotHeap(positions, PREFIX);
    this.#suffixHeap = new SlotHeap(positions, SUFFIX);
  }

  get count(): number {
    return this.prefixCount + this.suffixCount;
  }

  push(slot: number, deadlineNs: number): void {
    const oldest = this.oldest;
    if (deadlineNs < oldest[LAST]! && this.prefixCount + this.suffixCount > 0) {
      this.#pushOutOfOrder(slot, deadlineNs);
      return;
    }
    if (((this.#tail - this.#head) | 0) > this.#mask) this.#makeRoom(1);
    const at = this.#tail & this.#mask;
    this.#deadlines[at] = deadlineNs;
    this.#slots[at] = slot;
    this.#tail = (this.#tail + 1) | 0;
    oldest[LAST] = deadlineNs;
    if (this.suffixCount++ === 0) oldest[SUFFIX] = deadlineNs;
  }

  /**
   * Pushes `count` arrivals (protocol/scratch.ts) that are linked from number `first` on, the words of number 0 being at `arrivals`. `inOrder`: none has
   * an earlier deadline than the one before it.
   */
  pushLinked(i32: Int32Array, f64: Float64Array, arrivals: number, first: number, count: number, inOrder: boolean): void {
    const oldest = this.oldest;
    let at = arrivals + first * ARRIVAL_WORDS;
    const firstDeadlineNs = f64[(at >> 1) + ARRIVAL_DEADLINE_NS]!;
    if (!inOrder || (firstDeadlineNs < oldest[LAST]! && this.prefixCount + this.suffixCount > 0)) {
      for (let left = count; left > 0; left--) {
        this.push(i32[at + ARRIVAL_SLOT]!, f64[(at >> 1) + ARRIVAL_DEADLINE_NS]!);
        at = arrivals + i32[at + ARRIVAL_NEXT]! * ARRIVAL_WORDS;
      }
      return;
    }
    if (((this.#tail - this.#head) | 0) + count - 1 > this.#mask) this.#makeRoom(count);
    const deadlines = this.#deadlines;
    const slots = this.#slots;
    const mask = this.#mask;
    let tail = this.#tail;
    let deadlineNs = firstDeadlineNs;
    for (let left = count; left > 0; left--) {
      deadlineNs = f64[(at >> 1) + ARRIVAL_DEADLINE_NS]!;
      deadlines[tail & mask] = deadlineNs;
      slots[tail & mask] = i32[at + ARRIVAL_SLOT]!;
      tail = (tail + 1) | 0;
      at = arrivals + i32[at + ARRIVAL_NEXT]! * ARRIVAL_WORDS;
    }
    this.#tail = tail;
    oldest[LAST] = deadlineNs;
    if (this.suffixCount === 0) oldest[SUFFIX] = firstDeadlineNs;
    this.suffixCount += count;
  }

  /** Pushes `count` arrivals that lie one after another from word `at` on. */
  pushRow(i32: Int32Array, f64: Float64Array, at: number, count: number): void {
    const oldest = this.oldest;
    if (((this.#tail - this.#head) | 0) + count - 1 > this.#mask) this.#makeRoom(count);
    const deadlines = this.#deadlines;
    const slots = this.#slots;
    const mask = this.#mask;
    const end = at + count * ARRIVAL_WORDS;
    let tail = this.#tail;
    let lastNs = this.prefixCount + this.suffixCount > 0 ? oldest[LAST]! : -Infinity;
    let record = at;
    for (; record < end; record += ARRIVAL_WORDS) {
      const deadlineNs = f64[(record >> 1) + ARRIVAL_DEADLINE_NS]!;
      if (deadlineNs < lastNs) break;
      lastNs = deadlineNs;
      deadlines[tail & mask] = deadlineNs;
      slots[tail & mask] = i32[record + ARRIVAL_SLOT]!;
      tail = (tail + 1) | 0;
    }
    if (record > at) {
      this.#tail = tail;
      oldest[LAST] = lastNs;
      if (this.suffixCount === 0) oldest[SUFFIX] = f64[(at >> 1) + ARRIVAL_DEADLINE_NS]!;
      this.suffixCount += (record - at) / ARRIVAL_WORDS;
    }
    for (; record < end; record += ARRIVAL_WORDS) this.push(i32[record + ARRIVAL_SLOT]!, f64[(record >> 1) + ARRIVAL_DEADLINE_NS]!);
  }

  /** Passes the oldest of the suffix over to the prefix. The suffix must not be empty. */
  pass(): void {
    const deadline = this.oldest[SUFFIX]!;
    if (this.#oldestIsInHeap(SUFFIX)) {
      const order = this.#suffixHeap.firstOrder();
      this.#prefixHeap.push(this.#suffixHeap.shift(), deadline, order);
    } else {
      this.#boundary = (this.#boundary + 1) | 0;
    }
    this.suffixCount--;
    if (this.prefixCount++ === 0) this.oldest[PREFIX] = deadline;
    this.oldest[BOUNDARY] = deadline;
    this.#lookAgain(SUFFIX);
  }

  /** As `pass`, `count` times. */
  passMany(count: number): void {
    let left = count;
    if (left > 0 && this.#suffixHeap.count === 0 && this.#prefixHeap.count === 0) {
      const slots = this.#slots;
      const mask = this.#mask;
      const oldest = this.oldest;
      if (this.prefixCount === 0) oldest[PREFIX] = oldest[SUFFIX]!;
      let boundary = this.#boundary;
      for (; left > 0; boundary = (boundary + 1) | 0) if (slots[boundary & mask] !== NONE) left--;
      oldest[BOUNDARY] = this.#deadlines[(boundary - 1) & mask]!;
      this.#boundary = boundary;
      this.suffixCount -= count;
      this.prefixCount += count;
      this.#lookAgain(SUFFIX);
    }
    for (; left > 0; left--) this.pass();
  }

  /** Takes the oldest of a part out and returns its slot. The part must not be empty. */
  shift(part: number): number {
    let slot: number;
    if (this.#oldestIsInHeap(part)) {
      slot = (part === PREFIX ? this.#prefixHeap : this.#suffixHeap).shift();
    } else if (part === PREFIX) {
      slot = this.#slots[this.#head & this.#mask]!;
      this.#head = (this.#head + 1) | 0;
    } else {
      slot = this.#slots[this.#boundary & this.#mask]!;
      this.#slots[this.#boundary & this.#mask] = NONE;
      this.#boundary = (this.#boundary + 1) | 0;
      if (this.prefixCount === 0) this.#head = this.#boundary;
    }
    if (part === PREFIX) this.prefixCount--;
    else this.suffixCount--;
    this.#lookAgain(part);
    return slot;
  }

  /** Takes the `count` oldest, prefix before suffix, into `out` from `at`. There must be that many. */
  takeOldest(count: number, out: Int32Array, at: number): void {
    let left = count;
    if (this.#prefixHeap.count === 0 && this.prefixCount > 0) left = this.#takeRun(PREFIX, left, out, at);
    while (left > 0 && this.prefixCount > 0) out[at + count - left--] = this.shift(PREFIX);
    if (left > 0 && this.#suffixHeap.count === 0 && this.prefixCount === 0) left = this.#takeRun(SUFFIX, left, out, at + count - left);
    while (left > 0) out[at + count - left--] = this.shift(SUFFIX);
  }

  /** Takes from a part of the ring alone, without looking at the head after each; returns how many are left to take. */
  #takeRun(part: number, count: number, out: Int32Array, at: number): number {
    const slots = this.#slots;
    const mask = this.#mask;
    const end = part === PREFIX ? this.#boundary : this.#tail;
    let position = part === PREFIX ? this.#head : this.#boundary;
    let taken = 0;
    while (taken < count && position !== end) {
      const slot = slots[position & mask]!;
      position = (position + 1) | 0;
      if (slot !== NONE) out[at + taken++] = slot;
    }
    this.#head = position;
    if (part === PREFIX) {
      this.prefixCount -= taken;
    } else {
      this.#boundary = position;
      this.suffixCount -= taken;
    }
    this.#lookAgain(part);
    return count - taken;
  }

  /** Removes the request in `slot` if it waits here; returns whether it did. A stale position finds another slot, or none. */
  remove(slot: number): boolean {
    this.#notePositions();
    const position = this.#positions[slot]!;
    if (position < 0) {
      const code = -1 - position;
      const part = code & 1;
      if (!(part === PREFIX ? this.#prefixHeap : this.#suffixHeap).removeIfAt(code >> 1, slot)) return false;
      this.#removed(part);
      return true;
    }
    const at = position & this.#mask;
    const fromHead = (position - this.#head) & POSITION_MASK;
    if (fromHead >= ((this.#tail - this.#head) | 0) || this.#slots[at] !== slot) return false;
    this.#slots[at] = NONE;
    this.#removed(((position - this.#boundary) << 2) < 0 ? PREFIX : SUFFIX);
    return true;
  }

  /** Of what the ring holds. Only cancels ask for it, so most requests come and go without. */
  #notePositions(): void {
    let at = this.#noted;
    for (; at !== this.#tail; at = (at + 1) | 0) {
      const slot = this.#slots[at & this.#mask]!;
      if (slot !== NONE) this.#positions[slot] = at & POSITION_MASK;
    }
    this.#noted = at;
  }

  #removed(part: number): void {
    if (part === PREFIX) this.prefixCount--;
    else this.suffixCount--;
    this.#lookAgain(part);
  }

  #pushOutOfOrder(slot: number, deadlineNs: number): void {
    this.#order = (this.#order + 1) | 0;
    // A request that sorts before what the window has passed over is passed over with it.
    if (this.prefixCount > 0 && deadlineNs < this.oldest[BOUNDARY]!) {
      this.#prefixHeap.push(slot, deadlineNs, this.#order);
      this.prefixCount++;
      if (deadlineNs < this.oldest[PREFIX]!) this.oldest[PREFIX] = deadlineNs;
    } else {
      this.#suffixHeap.push(slot, deadlineNs, this.#order);
      this.suffixCount++;
      if (deadlineNs < this.oldest[SUFFIX]!) this.oldest[SUFFIX] = deadlineNs;
    }
  }

  /** Whether the oldest of a non-empty part is in its heap. Skips tombstones, so that the ring's head is real. */
  #oldestIsInHeap(part: number): boolean {
    const heap = part === PREFIX ? this.#prefixHeap : this.#suffixHeap;
    if (heap.count === 0) return false;
    const inRing = part === PREFIX ? this.#head !== this.#boundary : this.#boundary !== this.#tail;
    if (!inRing) return true;
    const at = (part === PREFIX ? this.#head : this.#boundary) & this.#mask;
    return heap.firstDeadline() < this.#deadlines[at]!;
  }

  /** Skips tombstones at the head of a part and notes the deadline of its oldest. */
  #lookAgain(part: number): void {
    const slots = this.#slots;
    const mask = this.#mask;
    let first: number;
    let end: number;
    if (part === PREFIX) {
      first = this.#head;
      end = this.#boundary;
      while (first !== end && slots[first & mask] === NONE) first = (first + 1) | 0;
      this.#head = first;
    } else {
      first = this.#boundary;
      end = this.#tail;
      while (first !== end && slots[first & mask] === NONE) first = (first + 1) | 0;
      if (this.#head === this.#boundary) this.#head = first;
      this.#boundary = first;
    }
    if (((this.#noted - this.#head) | 0) < 0) this.#noted = this.#head;
    const heap = part === PREFIX ? this.#prefixHeap : this.#suffixHeap;
    const oldest = this.oldest;
    oldest[part] = first === end ? Infinity : this.#deadlines[first & mask]!;
    if (heap.count > 0 && heap.firstDeadline() < oldest[part]!) oldest[part] = heap.firstDeadline();
  }

  /** `count` more do not fit into the ring: close the gaps that cancelled requests have left, or make it larger. Amortised O(1) per push. */
  #makeRoom(count: number): void {
    const capacity = this.#mask + 1;
    const live = this.prefixCount + this.suffixCount - this.#prefixHeap.count - this.#suffixHeap.count;
    let grown = capacity;
    while (live + count - 1 > grown / 2) grown *= 2;
    const deadlines = new Float64Array(grown);
    const slots = new Int32Array(grown);
    const mask = grown - 1;
    let to = this.#head;
    let boundary = this.#head;
    for (let from = this.#head; from !== this.#tail; from = (from + 1) | 0) {
      if (from === this.#boundary) boundary = to;
      const slot = this.#slots[from & this.#mask]!;
      if (slot === NONE) continue;
      deadlines[to & mask] = this.#deadlines[from & this.#mask]!;
      slots[to & mask] = slot;
      to = (to + 1) | 0;
    }
    if (this.#boundary === this.#tail) boundary = to;
    this.#deadlines = deadlines;
    this.#slots = slots;
    this.#mask = mask;
    this.#boundary = boundary;
    this.#tail = to;
    this.#noted = this.#head;
  }
}
