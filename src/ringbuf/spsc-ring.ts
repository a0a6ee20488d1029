/**
 * Single-producer single-consumer ring of fixed-size records in shared memory.
 *
 *   byte   0  head   i32   records committed   written by the producer, published by Atomics.store
 *        128  tail   i32   records released    written by the consumer, published by Atomics.store
 *        256  records, `capacity` × `recordBytes`
 *
 * Positions are 32-bit and wrap: only their difference counts, and it is at most the capacity (≤ 2^30).
 * Each side keeps the other's position from its last look and looks again only when that is used up,
 * so a bulk of any length costs one atomic store and at most one atomic load on each side. A look that finds nothing new is a plain load.
 */
import { checkPiece, LINE_BYTES } from './layout.js';

const HEADER_BYTES = 2 * LINE_BYTES;
const MAX_CAPACITY = 2 ** 30;

/** Bytes that a ring takes. Throws if the capacity is not a power of two or the record size not a multiple of 8. */
export function ringBytes(capacity: number, recordBytes: number): number {
  if (!Number.isInteger(capacity) || capacity < 1 || capacity > MAX_CAPACITY || (capacity & (capacity - 1)) !== 0) {
    throw new RangeError(`ring capacity ${capacity}: it must be a power of two between 1 and ${MAX_CAPACITY}`);
  }
  if (!Number.isInteger(recordBytes) || recordBytes < 8 || recordBytes % 8 !== 0) {
    throw new RangeError(`ring record size ${recordBytes}: it must be a positive multiple of 8 bytes`);
  }
  return HEADER_BYTES + capacity * recordBytes;
}

/** Where a ring lies; cloned to the threads that use it. */
export interface RingPlace {
  readonly buffer: SharedArrayBuffer;
  readonly byteOffset: number;
  readonly capacity: number;
  readonly recordBytes: number;
}

/** Sets both positions before either side attaches (tests start near the wrap). A fresh ring starts at 0 by itself. */
export function resetRing(place: RingPlace, position: number): void {
  const i32 = new Int32Array(place.buffer);
  Atomics.store(i32, place.byteOffset >> 2, position | 0);
  Atomics.store(i32, (place.byteOffset + LINE_BYTES) >> 2, position | 0);
}

/**
 * `declare` keeps the fields out of the emitted class, whose constructor sets each once. Emitted fields would start as
 * undefined, and V8 then no longer knows what they hold: that doubles the time per record (6.1 instead of 3.7 ns).
 */
class RingSide {
  /** Views over the whole buffer; indices come from `claim` and `word`. */
  declare readonly i32: Int32Array;
  declare readonly f32: Float32Array;
  declare readonly f64: Float64Array;
  declare readonly capacity: number;
  declare protected readonly mask: number;
  declare protected readonly words: number;
  declare protected readonly base: number;
  declare protected readonly headAt: number;
  declare protected readonly tailAt: number;

  constructor(place: RingPlace) {
    checkPiece('ring', place.buffer, place.byteOffset, ringBytes(place.capacity, place.recordBytes));
    this.i32 = new Int32Array(place.buffer);
    this.f32 = new Float32Array(place.buffer);
    this.f64 = new Float64Array(place.buffer, 0, place.buffer.byteLength >> 3);
    this.capacity = place.capacity;
    this.mask = place.capacity - 1;
    this.words = place.recordBytes >> 2;
    this.headAt = place.byteOffset >> 2;
    this.tailAt = (place.byteOffset + LINE_BYTES) >> 2;
    this.base = (place.byteOffset + HEADER_BYTES) >> 2;
  }
}

/** The producer's side: claim, fill, commit. */
export class RingWriter extends RingSide {
  /** Position of the next claim; equals the shared head once everything claimed is committed. */
  #position = 0;
  /** Claims are allowed up to here: the consumer's last known position + capacity. */
  #limit = 0;
  /** Position of the first record of the last bulk claim. */
  #bulk = 0;

  constructor(place: RingPlace) {
    super(place);
    this.#position = Atomics.load(this.i32, this.headAt);
    this.#limit = (Atomics.load(this.i32, this.tailAt) + this.capacity) | 0;
    this.#bulk = this.#position;
  }

  /** Claims one record and returns its word index, or -1 when the ring is full. Nothing is visible before `commit`. */
  claim(): number {
    const position = this.#position;
    if (position === this.#limit) {
      this.#limit = (Atomics.load(this.i32, this.tailAt) + this.capacity) | 0;
      if (position === this.#limit) return -1;
    }
    this.#position = (position + 1) | 0;
    return this.base + (position & this.mask) * this.words;
  }

  /**
   * Claims up to `count` records at once and returns how many; the k-th of them is at `claimed(k)`.
   * Faster than that many `claim()`s, each of which waits for the position that the one before has stored (1.9, not 2.6 ns).
   * Throws when `count` is negative or exceeds the capacity.
   */
  claimMany(count: number): number {
    const room = this.room(count);
    this.#bulk = this.#position;
    this.#position = (this.#position + room) | 0;
    return room;
  }

  /** Word index of the `k`-th record of the last `claimMany`. Valid for k < what that returned. */
  claimed(k: number): number {
    return this.base + ((this.#bulk + k) & this.mask) * this.words;
  }

  /** How many of the `count` records of the last `claimMany`, from the `k`-th on, lie one after another: all but at the end of the ring. */
  claimedInARow(k: number, count: number): number {
    const toEnd = this.capacity - ((this.#bulk + k) & this.mask);
    return count < toEnd ? count : toEnd;
  }

  /** How many of `count` records could be claimed now. Throws when `count` is negative or exceeds the capacity. */
  room(count: number): number {
    if (count >>> 0 > this.capacity) refuseCount('room for', count, this.capacity);
    let room = (this.#limit - this.#position) | 0;
    if (room < count) {
      this.#limit = (Atomics.load(this.i32, this.tailAt) + this.capacity) | 0;
      room = (this.#limit - this.#position) | 0;
    }
    return room < count ? room : count;
  }

  /** Word index of the record that the next claim gives. */
  next(): number {
    return this.base + (this.#position & this.mask) * this.words;
  }

  /** How many of the next `count` records lie one after another: all but at the end of the ring. */
  nextInARow(count: number): number {
    const toEnd = this.capacity - (this.#position & this.mask);
    return count < toEnd ? count : toEnd;
  }

  /** Publishes everything claimed so far with one atomic store. */
  commit(): void {
    Atomics.store(this.i32, this.headAt, this.#position);
  }

  /** Forgets the claims that were not committed. */
  abort(): void {
    this.#position = Atomics.load(this.i32, this.headAt);
  }
}

/** The consumer's side: available, word, release. */
export class RingReader extends RingSide {
  #position = 0;
  #head = 0;

  constructor(place: RingPlace) {
    super(place);
    this.#position = Atomics.load(this.i32, this.tailAt);
    this.#head = Atomics.load(this.i32, this.headAt);
  }

  /** How many records can be read now, at most `limit`. */
  available(limit: number): number {
    let ready = (this.#head - this.#position) | 0;
    // A plain look first, since most find nothing new (`Atomics.load` is a call on Node 20): it may say what was, never what was not.
    if (ready < limit && this.i32[this.headAt] !== this.#head) {
      this.#head = Atomics.load(this.i32, this.headAt);
      ready = (this.#head - this.#position) | 0;
    }
    return ready < limit ? ready : limit;
  }

  /** Word index of the `k`-th unread record. Valid for k < available(). */
  word(k: number): number {
    return this.base + ((this.#position + k) & this.mask) * this.words;
  }

  /** How many of the next `count` records, from the `k`-th on, lie one after another: all but at the end of the ring. */
  inARow(k: number, count: number): number {
    const toEnd = this.capacity - ((this.#position + k) & this.mask);
    return count < toEnd ? count : toEnd;
  }

  /** Gives `count` records back to the producer with one atomic store. Throws when fewer were seen by `available`. */
  release(count: number): void {
    const ready = (this.#head - this.#position) | 0;
    if (count >>> 0 > ready) refuseCount('the release of', count, ready);
    this.#position = (this.#position + count) | 0;
    Atomics.store(this.i32, this.tailAt, this.#position);
  }
}

/**
 * Word indices of the records that are committed and not released. For recovery, by either side: what a dead thread had
 * said already, and what it had not taken yet. The other side may go on meanwhile.
 */
export function unreadRecords(place: RingPlace): number[] {
  const i32 = new Int32Array(place.buffer);
  const tail = Atomics.load(i32, (place.byteOffset + LINE_BYTES) >> 2);
  const count = (Atomics.load(i32, place.byteOffset >> 2) - tail) | 0;
  const base = (place.byteOffset + HEADER_BYTES) >> 2;
  return Array.from({ length: count }, (_, k) => base + ((tail + k) & (place.capacity - 1)) * (place.recordBytes >> 2));
}

function refuseCount(what: string, count: number, most: number): never {
  throw new RangeError(`ring: ${what} ${count} records was asked, it must be between 0 and ${most}`);
}
