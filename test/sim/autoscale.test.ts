/** Load-proportional use of the GPUs, and what a pool that follows the advice makes of a changing load. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { autoscale, type AutoscaleOptions, type AutoscaleResult, oracle } from '#rubato/sim/autoscale.js';
import { POLICIES } from '#rubato/sim/own-policies.js';
import { ArrivalStream } from '#rubato/sim/policies/stream.js';
import { badRate, type SimulationResult } from '#rubato/sim/result.js';
import { dayShape, MINUTES_PER_DAY, VaryingArrivals } from '#rubato/sim/varying-load.js';
import { loadWorkload, parseWorkload, staggeredOptimum } from '#rubato/sim/workload.js';

const MARGINS = { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 };
const ADAPTIVE = { name: 'adaptive+adaptive', condition: 5, dropPolicy: 3 };
/** r50 four times as slow: the same on a quarter of the requests. */
const SLOW = parseWorkload({ gpus: 8, models: [{ alphaUs: 4320, betaUs: 20400, sloMs: 400 }] }, 'slow', 'slow');

function play(options: Partial<AutoscaleOptions> & Pick<AutoscaleOptions, 'ratesPerSecond'>): AutoscaleResult {
  return autoscale({ workload: SLOW, policy: ADAPTIVE, stepSeconds: 2, startupSeconds: 5, gpus: 8, mostGpus: 16, seed: 1, margins: MARGINS, ...options });
}

const usedOf = (shares: readonly number[]): number[] => shares.flatMap((share, gpu) => (share > 0 ? [gpu] : []));

describe('the GPUs in use', () => {
  const levels = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1];
  for (const name of ['r50', 'mix3']) {
    it(`follow a load from 10 % to 100 % and back, the lowest-numbered first and the rest fully idle: ${name}`, () => {
      const workload = loadWorkload(name);
      const rates = levels.map((level) => level * staggeredOptimum(workload));
      const { steps } = play({ workload, ratesPerSecond: rates, stepSeconds: 4, mostGpus: 8, follows: false });
      const used = steps.map(({ busyShare }) => usedOf(busyShare));
      used.forEach((numbers, step) => assert.deepEqual(numbers, numbers.map((_, k) => k), `at ${levels[step]} GPUs ${numbers} are in use`));
      for (const [step, { busyShare }] of steps.entries()) {
        const mean = busyShare.reduce((sum, share) => sum + share, 0);
        assert.ok(used[step]!.length <= mean + 3, `at ${levels[step]} ${used[step]!.length} GPUs are in use, ${mean} are busy`);
        // A batch counts where it ends, so a full GPU may have a little more or less than the whole time.
        for (let gpu = 1; gpu < 8; gpu++) assert.ok(Math.min(1, busyShare[gpu]!) <= busyShare[gpu - 1]! + 0.05, `at ${levels[step]} GPU ${gpu} is busier than the one before: ${busyShare}`);
      }
      assert.ok(used[0]!.length <= 3 && used.at(-1)!.length <= 3, `${used[0]!.length} and ${used.at(-1)!.length} of 8 at 10 %`);
      assert.equal(used[9]!.length, 8, 'all of them at 100 %');
    });
  }
});

describe('the advice', () => {
  it('changes no decision, however often it is computed, and is the same for any number of shards', () => {
    const options = { workload: loadWorkload('mix3'), ratesPerSecond: [2000, 8000, 4000], mostGpus: 8, follows: false };
    const plain = play({ ...options, advice: { epochNs: 3600e9, hysteresis: 3 } });
    const often = play({ ...options, advice: { epochNs: 100e6, hysteresis: 1 } });
    const decided = ({ steps }: AutoscaleResult): unknown[] => steps.map(({ offered, good, busyShare }) => [offered, good, busyShare]);
    assert.deepEqual(decided(often), decided(plain));
    assert.notDeepEqual(often.steps.map(({ wanted }) => wanted), plain.steps.map(({ wanted }) => wanted));
    assert.deepEqual(play({ ...options, follows: true, shards: 3 }), play({ ...options, follows: true }));
  });

  it('is one GPU when next to nothing comes', () => {
    const { steps } = play({ ratesPerSecond: [0.001, 0.001, 0.001, 0.001, 0.001] });
    assert.deepEqual([steps.at(-1)!.wanted, steps.at(-1)!.gpus], [1, 1]);
  });

  it('does not flap at a constant load', () => {
    for (const workload of [SLOW, loadWorkload('mix3')]) {
      for (const load of [0.15, 0.37, 0.5, 0.62, 0.745, 0.88]) {
        const rate = load * staggeredOptimum(workload);
        const { steps, offered, good } = play({ workload, ratesPerSecond: new Array<number>(45).fill(rate) });
        const settled = steps.slice(10);
        const changes = settled.filter(({ wanted }, k) => k > 0 && wanted !== settled[k - 1]!.wanted).length;
        assert.ok(changes <= 2, `${workload.name} at ${load}: ${settled.map(({ wanted }) => wanted)}`);
        assert.ok(badRate({ offered, good }) <= 0.01, `${workload.name} at ${load}: ${badRate({ offered, good })} bad`);
      }
    }
  });

  it('has the pool grow within seconds when the load doubles', () => {
    const rate = 0.4 * staggeredOptimum(SLOW);
    const { steps } = play({ ratesPerSecond: [...new Array<number>(10).fill(rate), ...new Array<number>(10).fill(2 * rate)], startupSeconds: 1 });
    assert.ok(steps[9]!.wanted <= 5, `${steps[9]!.wanted} at 40 %`);
    assert.ok(steps[13]!.gpus >= 7, `${steps[13]!.gpus} eight seconds after`);
    const last = steps.slice(-4);
    assert.ok(last.every((step) => badRate(step) <= 0.01), 'and then it is carried');
  });
});

describe('a pool that follows the advice through a day', () => {
  it('has at most 1 % bad, and at most 15 % more GPU-hours than the oracle', async () => {
    const peak = 0.95 * staggeredOptimum(SLOW);
    const ratesPerSecond = dayShape().filter((_, minute) => minute % 4 === 0).map((share) => share * peak);
    const day = play({ ratesPerSecond, gpus: 2 });
    const fewest = await oracle(POLICIES.get('adaptive+adaptive')!, ratesPerSecond, { workload: SLOW, margins: MARGINS, seconds: 10, warmupSeconds: 5, seeds: [1] });
    const share = day.gpuSeconds / (2 * fewest.reduce((sum, gpus) => sum + gpus, 0));
    assert.ok(badRate(day) <= 0.01, `${badRate(day)} bad`);
    assert.ok(share <= 1.15, `${share} of the oracle's GPU-hours`);
    assert.ok(day.added > 5 && day.removed > 5, 'it has followed');
    assert.ok(day.gpuSeconds < 0.65 * 2 * 8 * fewest.length, 'far less than eight GPUs all day');
  });

  it('pays for what starts and what leaves, and has no more than it may', () => {
    const rate = 0.6 * staggeredOptimum(SLOW);
    const day = play({ ratesPerSecond: [rate, rate, rate, rate, rate], gpus: 1, mostGpus: 4, startupSeconds: 3 });
    assert.equal(day.mostGpus, 4);
    assert.equal(day.steps.at(-1)!.gpus, 4);
    const still = play({ ratesPerSecond: [rate, rate], gpus: 3, follows: false });
    assert.equal(still.gpuSeconds, 12);
  });

  it('refuses options that make no sense', () => {
    assert.throws(() => play({ ratesPerSecond: [100], startupSeconds: -1 }), { message: /^startupSeconds: got -1, must be >= 0/ });
    assert.throws(() => play({ ratesPerSecond: [100], mostGpus: 7 }), { message: /^mostGpus: got 7, must be an integer and at least the 8/ });
    assert.throws(() => play({ ratesPerSecond: [100, 0] }), { message: /^ratesPerSecond\[1\]: got 0, must be a finite number > 0/ });
    assert.throws(() => play({ ratesPerSecond: [] }), { message: /^ratePerSecond: got 0/ });
  });
});

describe('the oracle', () => {
  it('is what plan finds for each rate, though it does not plan each', async () => {
    let runs = 0;
    const needs = (rate: number): number => Math.ceil(rate / 250);
    const run = ({ gpus, ratePerSecond }: { gpus: number; ratePerSecond: number }): SimulationResult => {
      runs++;
      return { policy: 'made up', offered: 1000, good: gpus >= needs(ratePerSecond) ? 1000 : 900, late: 0, droppedByReason: {}, batches: 1, batched: 1, busyNs: [0], seconds: 1, models: [] };
    };
    const rates = Array.from({ length: 90 }, (_, k) => 20 * (1 + ((k * 37) % 90)));
    const found = await oracle(run, rates, { workload: SLOW, margins: MARGINS, seconds: 1, warmupSeconds: 0, seeds: [1] });
    assert.deepEqual(found, rates.map(needs));
    assert.ok(runs < 200, `${runs} runs`);
  });
});

describe('arrivals at varying rates', () => {
  it('come at the rate of each step, and end after the last', () => {
    const arrivals = new VaryingArrivals(loadWorkload('mix3'), [1000, 4000, 500], 2e9, 7);
    const counts = [0, 0, 0];
    let before = 0;
    for (; arrivals.nextNs < Infinity; arrivals.advance()) {
      assert.ok(arrivals.nextNs >= before);
      before = arrivals.nextNs;
      counts[Math.floor(before / 2e9)]!++;
    }
    assert.equal(arrivals.model, -1);
    for (const [step, expected] of [2000, 8000, 1000].entries()) assert.ok(Math.abs(counts[step]! - expected) < 4 * Math.sqrt(expected), `${counts[step]} in step ${step}`);
  });

  it('are those of the plain stream where the rate stays', () => {
    const workload = loadWorkload('mix3-b');
    const plain = new ArrivalStream(workload, 3000, 5);
    const varying = new VaryingArrivals(workload, [3000, 3000], 1e9, 5);
    for (; varying.nextNs < Infinity; varying.advance(), plain.advance()) assert.deepEqual([varying.nextNs, varying.model], [plain.nextNs, plain.model]);
    assert.ok(plain.nextNs >= 2e9);
  });
});

describe('the day', () => {
  it('has 1,440 minutes between a tenth and the whole of its peak', () => {
    const day = dayShape();
    assert.equal(day.length, MINUTES_PER_DAY);
    assert.deepEqual([Math.min(...day), Math.max(...day)], [0.1, 1]);
    const mean = day.reduce((sum, share) => sum + share, 0) / day.length;
    assert.ok(mean > 0.35 && mean < 0.5, `${mean}`);
  });
});
