/** All that happens in a run, as a hash: the same scenario has the same. With `keep` as lines of text, too. */
export class Trace {
  #low = 0x811c9dc5 | 0;
  #high = 0x9e3779b9 | 0;
  readonly lines: string[] | null;
  readonly #words = new Int32Array(2);
  readonly #double = new Float64Array(this.#words.buffer);

  constructor(keep = false) {
    this.lines = keep ? [] : null;
  }

  note(what: string, ...numbers: readonly number[]): void {
    this.lines?.push(`${what} ${numbers.join(' ')}`);
    for (let k = 0; k < what.length; k++) this.#mix(what.charCodeAt(k));
    for (const number of numbers) {
      this.#double[0] = number;
      this.#mix(this.#words[0]!);
      this.#mix(this.#words[1]!);
    }
  }

  /** FNV-1a over words, twice with different primes. */
  #mix(word: number): void {
    this.#low = Math.imul(this.#low ^ word, 0x01000193);
    this.#high = Math.imul(this.#high ^ word ^ (this.#low >>> 15), 0x85ebca6b);
  }

  get hash(): string {
    return [this.#high, this.#low].map((word) => (word >>> 0).toString(16).padStart(8, '0')).join('');
  }
}
