import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Random } from '#rubato/model/random.js';

const DRAWS = 200_000;

/** Mean and variance of DRAWS numbers. */
function moments(draw: () => number): { mean: number; variance: number } {
  let sum = 0;
  let squares = 0;
  for (let i = 0; i < DRAWS; i++) {
    const x = draw();
    sum += x;
    squares += x * x;
  }
  const mean = sum / DRAWS;
  return { mean, variance: squares / DRAWS - mean * mean };
}

function near(actual: number, expected: number, tolerance: number, what: string): void {
  assert(Math.abs(actual - expected) <= tolerance, `${what}: ${actual}, expected ${expected} +- ${tolerance}`);
}

describe('Random', () => {
  it('is xoshiro128**: the first numbers from the state 1, 2, 3, 4 are those of the reference', () => {
    const random = Random.fromState(1, 2, 3, 4);
    const expected = [11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804];
    assert.deepEqual(expected.map(() => random.nextUint32()), expected);
  });

  it('repeats itself for the same seed and stream, and for no other', () => {
    const key = fc.tuple(fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }), fc.integer({ min: 0, max: 0xffffffff }));
    fc.assert(fc.property(key, key, ([seed, stream], [otherSeed, otherStream]) => {
      const firsts = (random: Random): string => [1, 2, 3, 4].map(() => random.nextUint32()).join();
      const numbers = firsts(new Random(seed, stream));
      assert.equal(firsts(new Random(seed, stream)), numbers);
      if (seed !== otherSeed || stream !== otherStream) assert.notEqual(firsts(new Random(otherSeed, otherStream)), numbers);
    }));
    assert.notEqual(new Random(1).nextUint32(), new Random(1 + 2 ** 32).nextUint32());
    assert.notEqual(new Random(1, 2).nextUint32(), new Random(2, 1).nextUint32());
  });

  it('refuses a seed or stream that is no integer in range', () => {
    for (const seed of [-1, 1.5, NaN, Infinity, 2 ** 53]) assert.throws(() => new Random(seed), /seed: got/);
    for (const stream of [-1, 0.5, NaN, 2 ** 32]) assert.throws(() => new Random(1, stream), /stream: got/);
    assert.throws(() => Random.fromState(0, 0, 0, 0), /four zeros/);
  });

  it('draws uniform numbers in [0, 1)', () => {
    const random = new Random(7);
    const { mean, variance } = moments(() => {
      const x = random.uniform();
      assert(x >= 0 && x < 1);
      return x;
    });
    near(mean, 0.5, 0.004, 'mean');
    near(variance, 1 / 12, 0.002, 'variance');
  });

  it('draws exponential numbers of mean 1', () => {
    const random = new Random(8);
    const { mean, variance } = moments(() => random.exponential());
    near(mean, 1, 0.015, 'mean');
    near(variance, 1, 0.05, 'variance');
  });

  it('draws normal numbers of mean 0 and variance 1', () => {
    const random = new Random(9);
    const { mean, variance } = moments(() => random.normal());
    near(mean, 0, 0.015, 'mean');
    near(variance, 1, 0.02, 'variance');
  });

  it('draws gamma numbers whose mean and variance are the shape', () => {
    for (const shape of [0.1, 0.5, 1, 2.5, 30]) {
      const random = new Random(10);
      const { mean, variance } = moments(() => random.gamma(shape));
      near(mean / shape, 1, 0.04, `mean of shape ${shape}`);
      near(variance / shape, 1, 0.1, `variance of shape ${shape}`);
    }
  });

  it('refuses a shape that is not a finite number > 0', () => {
    for (const shape of [0, -1, NaN, Infinity]) assert.throws(() => new Random(1).gamma(shape), /shape: got/);
  });
});
