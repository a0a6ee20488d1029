import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { firstTargetBatch, RateMeter, SAMPLE_NS, SAMPLES, targetBatch } from '#rubato/shards/rate-meter.js';

/** Feeds arrival times as the shard does: catch up, then count. */
function feed(meter: RateMeter, model: number, at: number): void {
  if (meter.nextTickNs[model] === Infinity) meter.start(model, at);
  else if (at >= meter.nextTickNs[model]!) meter.catchUp(model, at);
  meter.arrivals[model]!++;
}

/** Whole samples since the first arrival, the newest 100 of them, counted one by one. */
function naiveSamples(arrivals: readonly number[], now: number): number[] {
  const start = arrivals[0]!;
  const whole = Math.floor((now - start) / SAMPLE_NS);
  const samples = new Array<number>(whole).fill(0);
  for (const at of arrivals) if (Math.floor((at - start) / SAMPLE_NS) < whole) samples[Math.floor((at - start) / SAMPLE_NS)]!++;
  return samples.slice(-SAMPLES);
}

describe('RateMeter', () => {
  it('agrees with a count of all arrivals, over bursts, pauses and more than a window', () => {
    const gap = fc.oneof(
      { weight: 8, arbitrary: fc.integer({ min: 0, max: 30e6 }) },
      { weight: 3, arbitrary: fc.integer({ min: 30e6, max: 400e6 }) },
      { weight: 1, arbitrary: fc.integer({ min: 1e9, max: 20e9 }) },
      { weight: 1, arbitrary: fc.constantFrom(SAMPLE_NS, 2 * SAMPLE_NS, SAMPLES * SAMPLE_NS, (SAMPLES + 1) * SAMPLE_NS) },
    );
    fc.assert(fc.property(fc.array(gap, { minLength: 1, maxLength: 300, size: 'max' }), fc.nat(1e9), gap, (gaps, start, last) => {
      const meter = new RateMeter(3);
      const arrivals: number[] = [];
      let at = start;
      for (const step of gaps) {
        at += step;
        feed(meter, 1, at);
        arrivals.push(at);
      }
      at += last;
      if (at >= meter.nextTickNs[1]!) meter.catchUp(1, at);
      const samples = naiveSamples(arrivals, at);
      assert.equal(meter.known(1), samples.length > 0);
      assert.equal(meter.known(0), false);
      if (samples.length === 0) return;
      const mean = samples.reduce((sum, n) => sum + n, 0) / samples.length;
      const variance = samples.reduce((sum, n) => sum + (n - mean) ** 2, 0) / samples.length;
      assert.ok(Math.abs(meter.ratePerSecond(1) - mean * 20) < 1e-6, `rate ${meter.ratePerSecond(1)}, counted ${mean * 20}`);
      assert.ok(Math.abs(meter.stdPerSecond(1) - Math.sqrt(variance) * 20) < 1e-3, `std ${meter.stdPerSecond(1)}, counted ${Math.sqrt(variance) * 20}`);
      assert.ok(meter.nextTickNs[1]! > at && meter.nextTickNs[1]! <= at + SAMPLE_NS);
    }), { numRuns: 200 });
  });

  it('forgets everything over a pause of a day, in no more than a window of steps', () => {
    const meter = new RateMeter(1);
    for (let k = 0; k < 1_000; k++) feed(meter, 0, k * 1e6);
    const started = performance.now();
    meter.catchUp(0, 86_400e9);
    assert.ok(performance.now() - started < 50);
    assert.equal(meter.ratePerSecond(0), 0);
    assert.equal(meter.stdPerSecond(0), 0);
    assert.ok(meter.nextTickNs[0]! > 86_400e9);
  });
});

const profileArb = fc.record({ alphaNs: fc.integer({ min: 0, max: 2e6 }), betaNs: fc.integer({ min: 1, max: 10e6 }), maxBatch: fc.integer({ min: 1, max: 300 }) })
  .map((terms) => LatencyProfile.linear(terms, 'profile'));

describe('targetBatch', () => {
  /** Both formulas of ALGORITHM 1.3, as they stand there: staggered on n ≥ 1 GPUs, or gather and run on less than one. */
  function bySearch(profile: LatencyProfile, budgetNs: number, rate: number, transferNs: number): { staggered: number; gathered: number; gpus: number } {
    let staggered = 1;
    let gathered = 1;
    let gpus = 0;
    for (let b = 1; b <= profile.maxBatch; b++) {
      const needed = (rate / 1e9) * (profile.ns[b]! / b);
      const n = Math.max(1, needed);
      gpus = needed;
      if (profile.ns[b]! * (1 + 1 / n) > budgetNs - transferNs * b) break;
      staggered = b;
    }
    for (let b = 1; b <= profile.maxBatch; b++) if (profile.ns[b]! + (b / rate) * 1e9 + transferNs * b <= budgetNs) gathered = b;
    return { staggered, gathered, gpus };
  }

  it('is what a linear scan of the two formulas gives', () => {
    fc.assert(fc.property(
      profileArb, fc.integer({ min: 0, max: 500e6 }), fc.double({ min: 0.1, max: 1e6, noNaN: true }), fc.integer({ min: 0, max: 100e3 }),
      (profile, budgetNs, rate, transferNs) => {
        const { staggered, gathered, gpus } = bySearch(profile, budgetNs, rate, transferNs);
        const target = targetBatch(profile.ns, profile.maxBatch, budgetNs, rate, transferNs);
        // More than one GPU is needed at the batch where the search ended: the first formula holds, else the second.
        const expected = gpus > 1 ? staggered : gathered;
        if (target === expected) return;
        // The two ways of writing it may round apart at the very edge.
        const edge = Math.max(target, expected);
        assert.equal(Math.abs(target - expected), 1);
        assert.ok(Math.abs(profile.ns[edge]! + (edge / rate) * 1e9 + transferNs * edge - budgetNs) < 1e-3, `target ${target}, by search ${expected}`);
      },
    ), { numRuns: 3_000 });
  });

  it('is at least 1, at most maxBatch, 1 without arrivals, and never falls as the rate grows', () => {
    fc.assert(fc.property(profileArb, fc.integer({ min: 0, max: 500e6 }), fc.double({ min: 0, max: 1e6, noNaN: true }), (profile, budgetNs, rate) => {
      const target = targetBatch(profile.ns, profile.maxBatch, budgetNs, rate, 0);
      assert.ok(target >= 1 && target <= profile.maxBatch);
      assert.ok(targetBatch(profile.ns, profile.maxBatch, budgetNs, 2 * rate, 0) >= target);
      assert.equal(targetBatch(profile.ns, profile.maxBatch, budgetNs, 0, 0), 1);
    }));
  });

  it('before a rate is known is the largest batch within half the SLO', () => {
    fc.assert(fc.property(profileArb, fc.integer({ min: 1, max: 1e9 }), (profile, sloNs) => {
      let expected = 1;
      for (let b = 1; b <= profile.maxBatch; b++) if (profile.ns[b]! <= sloNs / 2) expected = b;
      assert.equal(firstTargetBatch(profile.ns, profile.maxBatch, sloNs), expected);
    }));
  });
});
