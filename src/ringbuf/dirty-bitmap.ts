/**
 * A set of small integers in shared memory: many threads mark, one reader collects. Levels of 32-bit words;
 * a bit in an upper level says that the word below it may be non-zero. The root is a single word, so looking
 * at a clean bitmap costs one plain load.
 *
 * Marking goes from leaf to root, collecting from root to leaf, and a word is exchanged with 0 *before* what
 * it stands for is read: a mark that comes later sets it again, so none is lost (it may be seen twice).
 * A bit that is set already needs no write: whoever clears it will look below afterwards.
 *
 * Therefore what a mark stands for must be published by an atomic store or exchange before it (a ring's commit, a
 * mailbox's publish). A plain store may still wait in the processor's store buffer while `mark` finds the bit set
 * and the reader takes it: then the reader sees the value from before, and no mark is left (seen on x86). For the same reason
 * the reader's first look at it must be atomic.
 */
import { checkPiece } from './layout.js';

function levelWords(size: number): number[] {
  const levels: number[] = [];
  let words = size;
  do {
    words = Math.ceil(words / 32);
    levels.push(words);
  } while (words > 1);
  return levels;
}

/** Bytes of a bitmap over 0 … size-1. */
export function dirtyBitmapBytes(size: number): number {
  if (!Number.isInteger(size) || size < 1 || size > 2 ** 30) throw new RangeError(`bitmap size ${size}: it must be an integer between 1 and 2^30`);
  const words = levelWords(size).reduce((sum, n) => sum + n, 0);
  return Math.ceil(words / 2) * 8;
}

export class DirtyBitmap {
  readonly size: number;
  readonly #i32: Int32Array;
  /** Word offset of each level; level 0 holds the members. */
  readonly #levels: Int32Array;
  readonly #root: number;
  /** Depth-first walk: the word under work at each level, and the bits of it that are left. */
  readonly #walkWord: Int32Array;
  readonly #walkBits: Int32Array;

  constructor(buffer: SharedArrayBuffer, byteOffset: number, size: number) {
    checkPiece('dirty bitmap', buffer, byteOffset, dirtyBitmapBytes(size));
    this.size = size;
    this.#i32 = new Int32Array(buffer);
    const words = levelWords(size);
    this.#levels = new Int32Array(words.length);
    let at = byteOffset >> 2;
    for (let level = 0; level < words.length; level++) {
      this.#levels[level] = at;
      at += words[level]!;
    }
    this.#root = this.#levels[words.length - 1]!;
    this.#walkWord = new Int32Array(words.length);
    this.#walkBits = new Int32Array(words.length);
  }

  /** Puts `index` into the set. Throws when it is outside 0 … size-1. */
  mark(index: number): void {
    if (index >>> 0 >= this.size) throw new RangeError(`dirty bitmap: index ${index} is outside 0 … ${this.size - 1}`);
    const i32 = this.#i32;
    let at = index;
    for (let level = 0; level < this.#levels.length; level++) {
      const word = this.#levels[level]! + (at >> 5);
      const bit = 1 << (at & 31);
      // A plain look may find a bit unset that is set, which only costs a write; one that is set must be so now.
      if ((i32[word]! & bit) === 0 || (Atomics.load(i32, word) & bit) === 0) Atomics.or(i32, word, bit);
      at >>= 5;
    }
  }

  /** Whether `collect` would have to look. */
  get dirty(): boolean {
    return this.#i32[this.#root] !== 0;
  }

  /**
   * Takes all marked numbers out of the set and writes them to `out`, in ascending order; returns how many.
   * When `out` has no room for a whole word of 32 the rest stays marked for the next call.
   * Throws when it has no room for even one word: then it would never get anywhere.
   */
  collect(out: Int32Array): number {
    if (out.length < 32 && out.length < this.size) {
      throw new RangeError(`dirty bitmap: collect has room for ${out.length} numbers, it needs at least ${Math.min(32, this.size)}`);
    }
    const i32 = this.#i32;
    const top = this.#levels.length - 1;
    if (Atomics.load(i32, this.#root) === 0) return 0;
    let count = 0;
    let level = top;
    this.#walkWord[top] = 0;
    this.#walkBits[top] = Atomics.exchange(i32, this.#root, 0);
    while (level <= top) {
      const bits = this.#walkBits[level]!;
      if (bits === 0) {
        level++;
        continue;
      }
      const bit = 31 - Math.clz32(bits & -bits);
      const at = this.#walkWord[level]! * 32 + bit;
      if (level === 0) {
        this.#walkBits[0] = bits & (bits - 1);
        out[count++] = at;
        continue;
      }
      if (level === 1 && count + 32 > out.length) {
        this.#putBack(level, top);
        return count;
      }
      this.#walkBits[level] = bits & (bits - 1);
      level--;
      this.#walkWord[level] = at;
      this.#walkBits[level] = Atomics.exchange(i32, this.#levels[level]! + at, 0);
    }
    return count;
  }

  /** Marks again what an unfinished walk has cleared, lowest level first, as `mark` does. */
  #putBack(from: number, top: number): void {
    for (let level = from; level <= top; level++) {
      if (level > from) this.#walkBits[level]! |= 1 << (this.#walkWord[level - 1]! & 31);
      const bits = this.#walkBits[level]!;
      if (bits !== 0) Atomics.or(this.#i32, this.#levels[level]! + this.#walkWord[level]!, bits);
    }
  }
}
