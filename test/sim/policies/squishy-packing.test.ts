import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { SquishyPacking } from '#rubato/sim/policies/squishy-packing.js';
import { MS, NO_MARGINS } from './harness.js';

// ℓ(b) = b + 10 ms, SLO 100 ms. Saturated: the largest b with ℓ(b) ≤ (100 − 2) / 2 is 39, ℓ = 49 ms, 795.9/s.
const model = { name: 'm', profile: LatencyProfile.linear({ alphaNs: MS, betaNs: 10 * MS, maxBatch: 64 }, 'm'), sloNs: 100 * MS };
const MOST = 39 / 0.049;

function packing(models: number, gpus: number): SquishyPacking {
  const all = new SquishyPacking(Array.from({ length: models }, () => model), gpus, NO_MARGINS);
  all.placeUnknown();
  return all;
}

/** `model:batch` of each GPU's loads. */
const plan = (all: SquishyPacking): string[] => all.gpus.map((loads) => loads.map((load) => `${load.model}:${load.batch}`).join(' '));

describe('squishy packing', () => {
  it('sizes a model for its rate', () => {
    const all = packing(1, 1);
    const sizes = (rate: number): number[] => {
      const { batch, dutyNs, throughput } = all.size(0, rate);
      return [batch, dutyNs / MS, Math.round(throughput)];
    };
    assert.deepEqual(sizes(0), [39, 49, 796]);
    assert.deepEqual(sizes(2000), [39, 49, 796]);
    assert.deepEqual(sizes(500), [30, 60, 500]); // 29 · 2 + 40 = 98 ≤ 100, with 31 it is 101; min(100 − 40, 30 · 2)
    assert.deepEqual(sizes(200), [15, 75, 200]); // 14 · 5 + 25 = 95, then 101
    assert.deepEqual(sizes(100), [9, 81, 111]); // 8 · 10 + 19 = 99; min(100 − 19, 90)
  });

  it('begins with a saturated GPU for each model, as far as there are GPUs', () => {
    assert.deepEqual(plan(packing(3, 2)), ['0:39', '1:39']);
    assert.deepEqual(plan(packing(2, 3)), ['0:39', '1:39', '']);
  });

  it('shrinks models to their rates, and places a new one where it fits best', () => {
    const all = packing(3, 2);
    all.update([500, 200, 100]);
    // Beside 500/s: cycle 60, batches 30 and 6, (40 + 16) / 60. Beside 200/s: cycle 75, 15 and 8, (25 + 18) / 75.
    assert.deepEqual(plan(all), ['0:30 2:6', '1:15']);
    assert.ok(Math.abs(all.occupancy(all.gpus[0]!) - 56 / 60) < 1e-9);
  });

  it('moves what no longer fits beside the models that take longest', () => {
    const all = packing(3, 2);
    all.update([500, 200, 100]);
    all.update([500, 200, 200]); // (40 + 22) / 60 is above 1 and below 1.05: nothing moves
    assert.deepEqual(plan(all), ['0:30 2:12', '1:15']);
    all.update([500, 200, 250]); // (40 + 25) / 60; beside 200/s the cycle is 72: 15 and 18
    assert.deepEqual(plan(all), ['0:30', '1:15 2:18']);
  });

  it('saturates GPUs for a rate above that of one, and gives them back, those that do least first', () => {
    const all = packing(1, 4);
    all.update([2 * MOST + 500]);
    assert.deepEqual(plan(all), ['0:39', '0:39', '0:30', '']);
    all.update([MOST + 100]);
    assert.deepEqual(plan(all).map((loads) => loads.split(':')[0]), ['0', '0', '', '']);
    assert.ok(Math.abs(all.gpus[1]![0]!.ratePerSecond - 100) < 1e-6);
  });

  it('leaves a model alone within 3 % below what it has, and one that is not measured', () => {
    const all = packing(2, 2);
    all.update([0.975 * MOST, NaN]);
    assert.deepEqual(plan(all), ['0:39', '1:39']);
  });

  it('fills no cycle by more than 5 % and puts no model on a GPU twice, whatever the rates do', () => {
    const rates = fc.array(fc.tuple(fc.nat(2000), fc.nat(2000), fc.nat(300), fc.nat(5)), { minLength: 1, maxLength: 8 });
    fc.assert(fc.property(rates, fc.integer({ min: 1, max: 6 }), (steps, gpus) => {
      const all = packing(4, gpus);
      for (const step of steps) {
        all.update(step);
        for (const loads of all.gpus) {
          assert.ok(all.occupancy(loads) <= 1.05 + 1e-9, `occupancy ${all.occupancy(loads)}`);
          assert.equal(new Set(loads.map((load) => load.model)).size, loads.length);
          for (const { batch, maxBatch } of loads) assert.ok(batch >= 1 && batch <= maxBatch);
        }
      }
    }));
  });
});
