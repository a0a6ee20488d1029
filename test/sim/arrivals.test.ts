import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { InvalidOptionError } from '#rubato/model/errors.js';
import { Random } from '#rubato/model/random.js';
import { Arrivals, formatArrivals, parseArrivals } from '#rubato/sim/arrivals.js';

function gapsOf(pattern: string, ratePerSecond: number, count: number, seed = 1): number[] {
  const arrivals = new Arrivals(parseArrivals(pattern, 'arrivals'), ratePerSecond, new Random(seed));
  return Array.from({ length: count }, () => arrivals.nextGapNs());
}

function squaredVariation(gaps: readonly number[]): number {
  const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
  return gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / gaps.length / mean ** 2;
}

describe('parseArrivals', () => {
  it('reads the three patterns, and formatArrivals writes them', () => {
    assert.deepEqual(parseArrivals('const', 'a'), { kind: 'const', shape: Infinity });
    assert.deepEqual(parseArrivals('poisson', 'a'), { kind: 'poisson', shape: 1 });
    assert.deepEqual(parseArrivals('gamma:0.1', 'a'), { kind: 'gamma', shape: 0.1 });
    for (const text of ['const', 'poisson', 'gamma:0.1', 'gamma:20']) assert.equal(formatArrivals(parseArrivals(text, 'a')), text);
  });

  it('refuses anything else with the allowed patterns', () => {
    for (const wrong of ['gamma', 'gamma:', 'gamma:0', 'gamma:-1', 'gamma:x', 'gamma:1e9', 'Poisson', '', 5, null, undefined, {}]) {
      assert.throws(() => parseArrivals(wrong, 'models[0].arrivals'), (error) => {
        assert(error instanceof InvalidOptionError);
        assert.match(error.message, /^models\[0\]\.arrivals: got .*, must be "const", "poisson" or "gamma:SHAPE"/);
        return true;
      });
    }
  });
});

describe('Arrivals', () => {
  it('come at whole nanoseconds that never fall', () => {
    fc.assert(fc.property(fc.constantFrom('const', 'poisson', 'gamma:0.1', 'gamma:3'), fc.double({ min: 0.01, max: 1e9, noNaN: true }), (pattern, rate) => {
      for (const gap of gapsOf(pattern, rate, 50)) assert(Number.isInteger(gap) && gap >= 0 && !Object.is(gap, -0), `${gap}`);
    }));
  });

  it('keep their rate although gaps are rounded', () => {
    const sum = gapsOf('const', 30e6, 3_000_000).reduce((total, gap) => total + gap, 0);
    assert(Math.abs(sum - 100e6) <= 1, `${sum}`);
  });

  it('begin at a phase where they are const, and go on evenly', () => {
    const arrivals = new Arrivals(parseArrivals('const', 'arrivals'), 1000, new Random(1), 0.25);
    assert.deepEqual(Array.from({ length: 3 }, () => arrivals.nextGapNs()), [750_000, 1e6, 1e6]);
    const others = ['poisson', 'gamma:2'].map((pattern) => [0, 0.25].map((phase) => new Arrivals(parseArrivals(pattern, 'a'), 1000, new Random(1), phase).nextGapNs()));
    for (const [without, withPhase] of others) assert.equal(withPhase, without);
  });

  it('have a mean gap of 1 / rate and a squared variation of 1 / shape', () => {
    const cases: [string, number][] = [['const', 0], ['poisson', 1], ['gamma:0.1', 10], ['gamma:4', 0.25]];
    for (const [pattern, expected] of cases) {
      const gaps = gapsOf(pattern, 1000, 200_000);
      const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
      assert(Math.abs(mean / 1e6 - 1) < 0.03, `${pattern}: mean gap ${mean}`);
      assert(Math.abs(squaredVariation(gaps) - expected) <= 0.1 * expected + 1e-9, `${pattern}: ${squaredVariation(gaps)}`);
    }
  });

  it('are the same for the same seed', () => {
    assert.deepEqual(gapsOf('gamma:0.1', 500, 100, 3), gapsOf('gamma:0.1', 500, 100, 3));
    assert.notDeepEqual(gapsOf('gamma:0.1', 500, 100, 3), gapsOf('gamma:0.1', 500, 100, 4));
  });

  it('refuse a rate that is not a finite number > 0', () => {
    for (const rate of [0, -1, NaN, Infinity]) {
      assert.throws(() => new Arrivals(parseArrivals('poisson', 'a'), rate, new Random(1)), /ratePerSecond: got/);
    }
  });
});
