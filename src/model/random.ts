import { describeValue } from './duration.js';
import { InvalidOptionError } from './errors.js';

/**
 * Seeded random numbers: xoshiro128** (Blackman and Vigna), its state filled by a splitmix over seed and stream.
 * The same seed and stream give the same numbers on every machine (up to the last bit of Math.log and Math.pow).
 * Not for secrets.
 */
export class Random {
  // Signed 32-bit integers: V8 keeps them unboxed, so drawing allocates nothing.
  #s0 = 0;
  #s1 = 0;
  #s2 = 0;
  #s3 = 0;
  #spareNormal = NaN;

  /**
   * @param seed an integer from 0 to 2^53 - 1.
   * @param stream an integer from 0 to 2^32 - 1: each gives an independent sequence of the same seed, as for one model of a workload.
   * @throws InvalidOptionError for any other.
   */
  constructor(seed: number, stream = 0) {
    if (!Number.isSafeInteger(seed) || seed < 0) {
      throw new InvalidOptionError('seed', `got ${describeValue(seed)}, must be an integer from 0 to 2^53 - 1`);
    }
    if (!Number.isInteger(stream) || stream < 0 || stream >= 2 ** 32) {
      throw new InvalidOptionError('stream', `got ${describeValue(stream)}, must be an integer from 0 to 2^32 - 1`);
    }
    const low = seed | 0;
    const high = Math.floor(seed / 2 ** 32) | 0;
    // Chained, so that each of the three words reaches all of the state.
    let word = splitmix(splitmix(splitmix(low) ^ high) ^ stream);
    this.#s0 = word = splitmix(word);
    this.#s1 = word = splitmix(word ^ low);
    this.#s2 = word = splitmix(word ^ high);
    this.#s3 = word = splitmix(word ^ stream);
    if ((this.#s0 | this.#s1 | this.#s2 | this.#s3) === 0) this.#s0 = 1; // all zero would stay zero
  }

  /** The generator in a given state of four words, not all zero; for replays and for the published test vectors. */
  static fromState(s0: number, s1: number, s2: number, s3: number): Random {
    if (((s0 | s1 | s2 | s3) >>> 0) === 0) throw new InvalidOptionError('state', 'got four zeros, must have a set bit');
    const random = new Random(0);
    random.#s0 = s0 | 0;
    random.#s1 = s1 | 0;
    random.#s2 = s2 | 0;
    random.#s3 = s3 | 0;
    return random;
  }

  /** An integer from 0 to 2^32 - 1. */
  nextUint32(): number {
    const s1 = this.#s1;
    const times5 = Math.imul(s1, 5);
    const result = Math.imul((times5 << 7) | (times5 >>> 25), 9);
    const s2 = this.#s2 ^ this.#s0;
    const s3 = this.#s3 ^ s1;
    this.#s1 = s1 ^ s2;
    this.#s0 = this.#s0 ^ s3;
    this.#s2 = s2 ^ (s1 << 9);
    this.#s3 = (s3 << 11) | (s3 >>> 21);
    return result >>> 0;
  }

  /** In [0, 1), with 53 random bits. */
  uniform(): number {
    const high = this.nextUint32() >>> 5;
    const low = this.nextUint32() >>> 6;
    return (high * 0x4000000 + low) / 0x20000000000000;
  }

  /** Exponential of mean 1: the gaps of a Poisson process of rate 1. Finite, at least 0. */
  exponential(): number {
    return -Math.log1p(-this.uniform());
  }

  /** Normal of mean 0 and variance 1, by Marsaglia's polar method. */
  normal(): number {
    const spare = this.#spareNormal;
    if (!Number.isNaN(spare)) {
      this.#spareNormal = NaN;
      return spare;
    }
    // Ends: each turn is accepted with probability pi / 4.
    for (;;) {
      const x = 2 * this.uniform() - 1;
      const y = 2 * this.uniform() - 1;
      const square = x * x + y * y;
      if (square >= 1 || square === 0) continue;
      const scale = Math.sqrt((-2 * Math.log(square)) / square);
      this.#spareNormal = y * scale;
      return x * scale;
    }
  }

  /**
   * Gamma of the given shape > 0 and scale 1 (mean = variance = shape), by Marsaglia and Tsang,
   * "A simple method for generating gamma variables" (2000); a shape below 1 is boosted from shape + 1.
   * @throws InvalidOptionError for a shape that is not a finite number > 0.
   */
  gamma(shape: number): number {
    if (!(shape > 0 && shape < Infinity)) {
      throw new InvalidOptionError('shape', `got ${describeValue(shape)}, must be a finite number > 0`);
    }
    const boost = shape < 1 ? Math.pow(1 - this.uniform(), 1 / shape) : 1;
    const d = (shape < 1 ? shape + 1 : shape) - 1 / 3;
    const c = 1 / Math.sqrt(9 * d);
    // Ends: each turn is accepted with probability above 0.95.
    for (;;) {
      const x = this.normal();
      const root = 1 + c * x;
      if (root <= 0) continue;
      const v = root * root * root;
      const u = 1 - this.uniform();
      if (Math.log(u) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v * boost;
    }
  }
}

/** One step of splitmix32: the golden-ratio increment and the finaliser of MurmurHash3. */
function splitmix(word: number): number {
  let mixed = (word + 0x9e3779b9) | 0;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}
