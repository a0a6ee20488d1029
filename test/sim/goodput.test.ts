import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { goodput, lastThatHolds, type PolicyRunner } from '#rubato/sim/goodput.js';
import { POLICIES } from '#rubato/sim/own-policies.js';
import type { SimulationOptions, SimulationResult } from '#rubato/sim/result.js';
import { loadWorkload } from '#rubato/sim/workload.js';

const R50 = loadWorkload('r50');
const COMMON = { workload: R50, gpus: 8, seconds: 2, warmupSeconds: 1, margins: { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 } };

/** A policy of which only the bad rate matters. */
function madeUp(badRateAt: (options: SimulationOptions) => number): PolicyRunner {
  return (options): SimulationResult => {
    const offered = 1e6;
    return { policy: 'made up', offered, good: offered * (1 - badRateAt(options)), late: 0, droppedByReason: {}, batches: 1, batched: 1, busyNs: [0], seconds: options.seconds, models: [] };
  };
}

describe('the search for the last integer that holds', () => {
  async function search(holds: (k: number) => boolean, range: { start: number; stride?: number; least?: number; most?: number }): Promise<{ found: number; asked: number[] }> {
    const asked: number[] = [];
    const found = await lastThatHolds(async (k) => {
      asked.push(k);
      return holds(k);
    }, { stride: 1, least: 1, most: 1000, ...range });
    assert.equal(new Set(asked).size, asked.length, `asked twice: ${asked.join(' ')}`);
    for (const k of asked) assert.ok(k >= (range.least ?? 1) && k <= (range.most ?? 1000), `${k} is outside the range`);
    return { found, asked };
  }

  test('finds the edge from wherever it starts, and needs few questions near it', async () => {
    for (const edge of [1, 2, 7, 63, 500, 999, 1000]) {
      for (const start of [1, 2, 60, 500, 1000]) {
        for (const stride of [1, 8]) assert.equal((await search((k) => k <= edge, { start, stride })).found, edge, `edge ${edge} from ${start} by ${stride}`);
      }
    }
    const { asked } = await search((k) => k <= 503, { start: 500 });
    assert.ok(asked.length <= 6, `asked ${asked.join(' ')}`);
  });

  test('says so when nothing holds, and stays within the range when all does', async () => {
    assert.equal((await search(() => false, { start: 40 })).found, 0);
    assert.equal((await search(() => true, { start: 40 })).found, 1000);
    assert.equal((await search((k) => k <= -3, { start: -9, least: -20, most: -1 })).found, -3);
  });

  test('passes over one failure between two that hold, as chance makes them', async () => {
    assert.equal((await search((k) => k <= 130 && k !== 101, { start: 101 })).found, 130);
    assert.equal((await search((k) => k <= 130 && k !== 129, { start: 100 })).found, 130);
    assert.equal((await search((k) => k <= 130 && k !== 121 && k !== 125, { start: 118, stride: 7 })).found, 130);
  });

  test('ends where two in a row fail', async () => {
    const { found, asked } = await search((k) => k <= 100 || k === 103, { start: 99 });
    assert.equal(found, 100);
    assert.ok(asked.includes(101) && asked.includes(102));
  });
});

describe('goodput', () => {
  test('finds the highest rate of at most 1 % bad to the resolution, for each seed, and their mean', async () => {
    const limits = new Map([[5, 5000], [6, 5200], [7, 4000]]);
    const run = madeUp(({ ratePerSecond, seed }) => (ratePerSecond <= limits.get(seed)! ? 0.01 : 0.0101));
    const found = await goodput(run, { ...COMMON, seeds: [5, 6, 7], resolution: 0.001 });
    const step = 0.001 * found.staggeredOptimum;
    for (const { seed, ratePerSecond, result } of found.seeds) {
      assert.ok(ratePerSecond <= limits.get(seed)! && ratePerSecond > limits.get(seed)! - step, `seed ${seed}: ${ratePerSecond}`);
      assert.ok(result !== null && result.good === 0.99 * result.offered, 'with what happened at that rate');
    }
    assert.deepEqual(found.seeds.map(({ seed }) => seed), [5, 6, 7]);
    assert.ok(Math.abs(found.ratePerSecond - found.seeds.reduce((sum, { ratePerSecond }) => sum + ratePerSecond, 0) / 3) < 1e-6);
  });

  test('is 0 where no rate is sustained', async () => {
    const found = await goodput(madeUp(() => 0.5), { ...COMMON, seeds: [1, 2] });
    assert.deepEqual(found.seeds.map(({ ratePerSecond, result }) => [ratePerSecond, result]), [[0, null], [0, null]]);
    assert.equal(found.ratePerSecond, 0);
  });

  test('holds for the number of GPUs that is asked, not the workload’s', async () => {
    const four = await goodput(madeUp(({ ratePerSecond }) => (ratePerSecond > 3000 ? 1 : 0)), { ...COMMON, gpus: 4, seeds: [1] });
    assert.ok(four.fluidBound < 3600 && four.staggeredOptimum < 3600, `${four.fluidBound}, ${four.staggeredOptimum}`);
  });

  test('of our own on r50: deferred is above eager, both below the bound', async () => {
    const options = { ...COMMON, seeds: [1], resolution: 0.02 };
    const deferred = await goodput(POLICIES.get('frontrun+window')!, options);
    const eager = await goodput(POLICIES.get('immediate+window')!, options);
    const said = `deferred ${deferred.ratePerSecond}, eager ${eager.ratePerSecond}, bound ${deferred.fluidBound}`;
    assert.ok(deferred.ratePerSecond > 1.03 * eager.ratePerSecond && deferred.ratePerSecond <= 1.03 * deferred.fluidBound, said);
    assert.ok(eager.ratePerSecond > 0.8 * eager.fluidBound, said);
  });

  test('refuses a search without seeds or with a resolution that is no share', async () => {
    await assert.rejects(goodput(madeUp(() => 0), { ...COMMON, seeds: [] }), { message: /^seeds: is empty/ });
    await assert.rejects(goodput(madeUp(() => 0), { ...COMMON, seeds: [1], resolution: 0 }), { message: /^resolution: got 0/ });
  });
});
