import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { PolicyRunner } from '#rubato/sim/goodput.js';
import { POLICIES } from '#rubato/sim/own-policies.js';
import { plan } from '#rubato/sim/plan.js';
import type { SimulationOptions, SimulationResult } from '#rubato/sim/result.js';
import { loadWorkload } from '#rubato/sim/workload.js';

const R50 = loadWorkload('r50');
const COMMON = { workload: R50, ratePerSecond: 5000, seconds: 2, warmupSeconds: 1, seeds: [1, 2], margins: { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 } };

function madeUp(badRateAt: (options: SimulationOptions) => number): PolicyRunner {
  return (options): SimulationResult => {
    assert.equal(options.workload.gpus, options.gpus);
    const offered = 1e6;
    return { policy: 'made up', offered, good: Math.round(offered * (1 - badRateAt(options))), late: 0, droppedByReason: {}, batches: 1, batched: 1, busyNs: [0], seconds: options.seconds, models: [] };
  };
}

describe('plan', () => {
  for (const needed of [1, 5, 6, 7, 15, 40]) {
    test(`finds that ${needed} GPUs are needed, and what one fewer costs`, async () => {
      const found = await plan(madeUp(({ gpus }) => (gpus >= needed ? 0.004 : 0.01 + 0.01 * (needed - gpus))), COMMON);
      assert.equal(found.gpus, needed);
      assert.equal(found.gpusByFluidBound, 6);
      assert.ok(Math.abs(found.badRate! - 0.004) < 1e-9);
      if (needed === 1) assert.equal(found.badRateWithOneFewer, null);
      else assert.ok(Math.abs(found.badRateWithOneFewer! - 0.02) < 1e-9, `${found.badRateWithOneFewer}`);
      assert.equal(found.results.length, 2);
    });
  }

  test('judges by all seeds together', async () => {
    const found = await plan(madeUp(({ gpus, seed }) => (gpus >= 9 ? 0 : gpus === 8 && seed === 1 ? 0.015 : 0.004 + 0.1 * (8 - gpus))), COMMON);
    assert.equal(found.gpus, 8);
    assert.ok(Math.abs(found.badRate! - 0.0095) < 1e-9);
  });

  test('has no answer where no number of GPUs is enough', async () => {
    const found = await plan(madeUp(() => 0.02), COMMON);
    assert.deepEqual([found.gpus, found.badRate, found.badRateWithOneFewer, found.results], [null, null, null, []]);
  });

  test('refuses a rate that not even 4096 GPUs could carry', async () => {
    await assert.rejects(plan(madeUp(() => 0), { ...COMMON, ratePerSecond: 1e9 }), { message: /^ratePerSecond: got 1000000000, 4096 GPUs can run at most \d+ requests\/s/ });
  });

  test('of our own: eager dispatch needs no fewer GPUs than deferred for r50, and one fewer is too few', async () => {
    const deferred = await plan(POLICIES.get('frontrun+window')!, { ...COMMON, seeds: [1] });
    const eager = await plan(POLICIES.get('immediate+window')!, { ...COMMON, seeds: [1] });
    assert.ok(deferred.gpus === 6 && eager.gpus! >= 6, `${deferred.gpus}, ${eager.gpus}`);
    assert.ok(deferred.badRate! <= 0.01 && deferred.badRateWithOneFewer! > 0.05, `${deferred.badRate}, ${deferred.badRateWithOneFewer}`);
  });
});
