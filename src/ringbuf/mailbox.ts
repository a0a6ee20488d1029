/**
 * Mailboxes: one latest value per box, one writer, one reader, neither ever waits. A triple buffer per box:
 *
 *   byte   0  state  i32   which slot belongs to whom, and whether the middle one is fresh
 *        128  three slots of `recordBytes` (rounded up to 64)
 *
 *   state = writer | middle << 2 | reader << 4 | fresh << 6      each of 0, 1, 2, all different
 *
 * The writer fills its own slot and swaps it with the middle one; the reader swaps its own with the middle one
 * if that is fresh. Both swap by compareExchange, so a replacement for a dead side reads its slot from the
 * word, and a value is never torn. The writer retries at most once: the reader swaps only a fresh slot, which
 * makes it stale, and stale slots are left alone.
 */
import { checkPiece, LINE_BYTES } from './layout.js';

const FRESH = 1 << 6;
const EMPTY = 0 | (1 << 2) | (2 << 4);

function slotBytes(recordBytes: number): number {
  return Math.ceil(recordBytes / 64) * 64;
}

function boxBytes(recordBytes: number): number {
  return Math.ceil((LINE_BYTES + 3 * slotBytes(recordBytes)) / LINE_BYTES) * LINE_BYTES;
}

/** Whether the writer, the middle and the reader have three different slots out of 0, 1, 2. */
function isState(state: number): boolean {
  return ((1 << (state & 3)) | (1 << ((state >> 2) & 3)) | (1 << ((state >> 4) & 3))) === 0b111 && state >>> 7 === 0;
}

/** Bytes that `count` mailboxes take. */
export function mailboxBytes(count: number, recordBytes: number): number {
  if (!Number.isInteger(count) || count < 1) throw new RangeError(`${count} mailboxes: the count must be a positive integer`);
  if (!Number.isInteger(recordBytes) || recordBytes < 8 || recordBytes % 8 !== 0) {
    throw new RangeError(`mailbox record size ${recordBytes}: it must be a positive multiple of 8 bytes`);
  }
  return count * boxBytes(recordBytes);
}

/** Makes all boxes empty. Once, by the thread that allocates them. */
export function initMailboxes(buffer: SharedArrayBuffer, byteOffset: number, count: number, recordBytes: number): void {
  checkPiece('mailboxes', buffer, byteOffset, mailboxBytes(count, recordBytes));
  const i32 = new Int32Array(buffer);
  for (let box = 0; box < count; box++) Atomics.store(i32, (byteOffset + box * boxBytes(recordBytes)) >> 2, EMPTY);
}

export class Mailboxes {
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  readonly #base: number;
  readonly #boxWords: number;
  readonly #slotWords: number;

  /** Throws when a state word does not give three different slots to the two sides and the middle. */
  constructor(buffer: SharedArrayBuffer, byteOffset: number, count: number, recordBytes: number) {
    checkPiece('mailboxes', buffer, byteOffset, mailboxBytes(count, recordBytes));
    this.i32 = new Int32Array(buffer);
    this.f64 = new Float64Array(buffer, 0, buffer.byteLength >> 3);
    this.#base = byteOffset >> 2;
    this.#boxWords = boxBytes(recordBytes) >> 2;
    this.#slotWords = slotBytes(recordBytes) >> 2;
    for (let box = 0; box < count; box++) {
      const state = Atomics.load(this.i32, this.#base + box * this.#boxWords);
      if (!isState(state)) throw new RangeError(`mailbox ${box} of ${count}: its state word is ${state}; was initMailboxes called?`);
    }
  }

  /** Word index of the slot that the writer may fill. (Only the writer changes which it is, so a plain look will do.) */
  slot(box: number): number {
    const at = this.#base + box * this.#boxWords;
    return at + (LINE_BYTES >> 2) + (this.i32[at]! & 3) * this.#slotWords;
  }

  /** Makes the writer's slot the newest value. */
  publish(box: number): void {
    const at = this.#base + box * this.#boxWords;
    const i32 = this.i32;
    for (let attempt = 0; attempt < 3; attempt++) {
      const state = Atomics.load(i32, at);
      const swapped = ((state >> 2) & 3) | ((state & 3) << 2) | (state & (3 << 4)) | FRESH;
      if (Atomics.compareExchange(i32, at, state, swapped) === state) return;
    }
    throw new Error(`mailbox ${box}: a publish was disturbed three times, so it has more than one writer or reader`);
  }

  /** Word index of the value that the reader took last, or of an empty one. For a reader that has lost what it read. */
  taken(box: number): number {
    const at = this.#base + box * this.#boxWords;
    return at + (LINE_BYTES >> 2) + ((Atomics.load(this.i32, at) >> 4) & 3) * this.#slotWords;
  }

  /** Word index of the newest value if there is one that was not taken yet, else -1. Valid until the next `take`. */
  take(box: number): number {
    const at = this.#base + box * this.#boxWords;
    const i32 = this.i32;
    // No plain look: on arm64 it may run ahead of the exchange that has just cleared this box's bit (dirty-bitmap.ts).
    let state = Atomics.load(i32, at);
    while ((state & FRESH) !== 0) {
      // Only the writer can interfere, and it can do so again only after filling another slot: this ends.
      const swapped = (state & 3) | (((state >> 4) & 3) << 2) | (((state >> 2) & 3) << 4);
      const seen = Atomics.compareExchange(i32, at, state, swapped);
      if (seen === state) return at + (LINE_BYTES >> 2) + ((state >> 2) & 3) * this.#slotWords;
      state = seen;
    }
    return -1;
  }
}
