/**
 * A set of numbers 0 … size-1 with its least at hand: a bitmap, and over each 32 words of it a word that says which are not
 * empty, up to one word. The least is found in as many steps as there are levels (3 for 10,000), without a comparison that
 * a processor could guess wrong. Of one thread.
 */
export class IndexSet {
  readonly #words: Int32Array;
  /** Where each level begins in `#words`, the bitmap itself first. */
  readonly #levels: number[] = [];
  size = 0;

  constructor(size: number) {
    let words = 0;
    for (let level = size; level > 1 || words === 0; ) {
      this.#levels.push(words);
      level = Math.ceil(level / 32);
      words += level;
    }
    this.#words = new Int32Array(words);
  }

  has(index: number): boolean {
    return (this.#words[index >> 5]! & (1 << (index & 31))) !== 0;
  }

  add(index: number): void {
    if (this.has(index)) return;
    this.size++;
    let at = index;
    for (let level = 0; level < this.#levels.length; level++) {
      const word = this.#levels[level]! + (at >> 5);
      const before = this.#words[word]!;
      this.#words[word] = before | (1 << (at & 31));
      if (before !== 0) return;
      at >>= 5;
    }
  }

  delete(index: number): void {
    if (!this.has(index)) return;
    this.size--;
    let at = index;
    for (let level = 0; level < this.#levels.length; level++) {
      const word = this.#levels[level]! + (at >> 5);
      this.#words[word]! &= ~(1 << (at & 31));
      if (this.#words[word] !== 0) return;
      at >>= 5;
    }
  }

  /** The least, or -1. */
  first(): number {
    if (this.size === 0) return -1;
    let at = 0;
    for (let level = this.#levels.length - 1; level >= 0; level--) {
      const bits = this.#words[this.#levels[level]! + at]!;
      at = (at << 5) + 31 - Math.clz32(bits & -bits);
    }
    return at;
  }
}
