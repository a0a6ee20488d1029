import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Random } from '#rubato/model/random.js';
import { CONDITIONS, DROP_POLICIES } from '#rubato/protocol/config.js';
import { Arrivals } from '#rubato/sim/arrivals.js';
import { OWN_POLICIES, POLICIES, policyName } from '#rubato/sim/own-policies.js';
import { badRate, type SimulationResult } from '#rubato/sim/result.js';
import type { OwnOptions } from '#rubato/sim/simulate.js';
import { loadWorkload, parseWorkload, staggeredOptimum, type Workload } from '#rubato/sim/workload.js';

const NO_MARGINS = { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 };
const DELAYS = { controlNs: 100e3, transferNs: 50e3, responseNs: 2e6, jitterNs: 100e3 };
const R50 = loadWorkload('r50');
const MIX3 = loadWorkload('mix3');

function run(policy: string, workload: Workload, load: number, more: Partial<OwnOptions> = {}): SimulationResult {
  const ratePerSecond = load * staggeredOptimum(workload);
  return OWN_POLICIES.get(policy)!({ workload, gpus: workload.gpus, ratePerSecond, seed: 1, seconds: 2, warmupSeconds: 0.5, margins: NO_MARGINS, ...more });
}

const busyGpus = (result: SimulationResult): number => result.busyNs.reduce((sum, ns) => sum + ns, 0) / 1e9 / result.seconds;
const dropped = (result: SimulationResult): number => Object.values(result.droppedByReason).reduce((sum, count) => sum + count, 0);

/** What must hold between the numbers of any result. */
function check(result: SimulationResult): void {
  assert.equal(result.good + result.late + dropped(result), result.offered);
  for (const key of ['offered', 'good', 'late', 'batches', 'batched'] as const) assert.equal(result.models.reduce((sum, model) => sum + model[key], 0), result[key], key);
  for (const model of result.models) {
    assert.equal(model.good + model.late + model.dropped, model.offered, model.name);
    assert.ok(model.latencyP50Ns <= model.latencyP99Ns);
  }
  for (const busyNs of result.busyNs) assert.ok(busyNs >= 0 && busyNs <= result.seconds * 1e9, `${busyNs} ns busy in ${result.seconds} s`);
}

describe('simulate', () => {
  test('gives what the paper promises for l(b) = b + 5, SLO 12 and an arrival every 0.75 on 3 GPUs: batches of 4, and nobody idle', () => {
    const workload = parseWorkload({ gpus: 3, arrivals: 'const', models: [{ alphaUs: 1000, betaUs: 5000, sloMs: 12, maxBatch: 64 }] }, 'paper', 'paper');
    const options = { ratePerSecond: 1e3 / 0.75, seconds: 1.8, warmupSeconds: 0.9 };
    const deferred = run('frontrun+window', workload, 1, options);
    check(deferred);
    assert.deepEqual([deferred.offered, deferred.good, deferred.batches, deferred.batched], [2400, 2400, 600, 2400]);
    assert.deepEqual(deferred.busyNs, [1.8e9, 1.8e9, 1.8e9]);
    assert.ok(badRate(run('immediate+window', workload, 1, options)) > 0.2);
  });

  // Theirs: bad %, mean batch, busy GPUs. Longer runs are in paper.test.ts.
  const peers: [policy: string, load: number, bad: number, batch: number, busy: number][] = [
    ['frontrun+window', 0.2, 0, 50, 1.7], ['frontrun+window', 0.8, 0, 70, 6.4], ['immediate+window', 0.2, 0, 1.3, 6.9], ['immediate+window', 0.8, 0, 14, 8],
  ];
  for (const [policy, load, bad, batch, busy] of peers) {
    test(`agrees with the authors’ own program: ${policy} on r50 at ${100 * load} %`, () => {
      const result = run(policy, R50, load, { margins: DELAYS, seconds: 4, warmupSeconds: 5 });
      check(result);
      const meanBatch = result.batched / result.batches;
      assert.ok(Math.abs(100 * badRate(result) - bad) <= 0.05, `bad ${100 * badRate(result)} %`);
      assert.ok(Math.abs(meanBatch / batch - 1) <= 0.06, `mean batch ${meanBatch}`);
      assert.ok(Math.abs(busyGpus(result) - busy) <= 0.12, `busy ${busyGpus(result)}`);
    });
  }

  test('is its options: the same twice, whatever the shards, and another for another seed', () => {
    for (const policy of ['frontrun+window', 'immediate+timeout', 'target-size+window']) {
      for (const load of [0.5, 1.1]) {
        const one = run(policy, MIX3, load, { shards: 1, seconds: 1 });
        check(one);
        assert.deepEqual(run(policy, MIX3, load, { shards: 1, seconds: 1 }), one);
        assert.deepEqual(run(policy, MIX3, load, { shards: 4, seconds: 1 }), one);
        assert.notDeepEqual(run(policy, MIX3, load, { seed: 2, seconds: 1 }), one);
      }
    }
  });

  test('counts exactly the requests that arrive within the counted seconds, each model from its own stream', () => {
    const result = run('frontrun+window', MIX3, 0.6, { seconds: 1.5, warmupSeconds: 0.7, seed: 9 });
    MIX3.models.forEach(({ arrivals, rateShare }, model) => {
      const stream = new Arrivals(arrivals, 0.6 * staggeredOptimum(MIX3) * rateShare, new Random(9, model));
      let counted = 0;
      for (let at = stream.nextGapNs(); at < 2.2e9; at += stream.nextGapNs()) if (at >= 0.7e9) counted++;
      assert.equal(result.models[model]!.offered, counted);
    });
  });

  test('counts no work outside the counted seconds', () => {
    // One batch of 100 ms starts at 0, the next at 400 ms: 50 and 20 ms of them lie within 50 to 420 ms.
    const workload = parseWorkload({ gpus: 1, models: [{ alphaUs: 0, betaUs: 100_000, sloMs: 300, maxBatch: 4 }] }, 'slow', 'slow');
    const traceNs = Float64Array.of(0, 0, 400e6);
    const result = run('immediate+window', workload, 1, { traceNs, ratePerSecond: 3, warmupSeconds: 0.05, seconds: 0.37 });
    assert.deepEqual([result.offered, result.good, result.batches, result.batched], [1, 1, 1, 1]);
    assert.deepEqual(result.busyNs, [70e6]);
    assert.ok(Math.abs(result.models[0]!.latencyP50Ns / 100e6 - 1) < 0.008);
  });

  test('runs every condition with every drop policy, past the limit as well', () => {
    assert.equal(OWN_POLICIES.size, CONDITIONS.length * DROP_POLICIES.length);
    for (const name of OWN_POLICIES.keys()) {
      const result = run(name, MIX3, 1.2, { seconds: 0.4, warmupSeconds: 0.2 });
      check(result);
      assert.equal(result.policy, name);
      if (name.endsWith('+never')) assert.ok(dropped(result) === 0 && result.late > 0, `${name}: ${dropped(result)} dropped, ${result.late} late`);
      else assert.ok(result.late === 0 && dropped(result) > 0, `${name}: ${dropped(result)} dropped, ${result.late} late`);
    }
  });

  test('has room for whatever is in flight: a burst far above the mean never meets a full queue', () => {
    const traceNs = new Float64Array(40_000).fill(5e6);
    const burst = run('frontrun+window', R50, 1, { traceNs, ratePerSecond: 1, warmupSeconds: 0, seconds: 1 });
    check(burst);
    assert.deepEqual([burst.offered, burst.droppedByReason['queue-full']], [40_000, 0]);
    assert.ok(burst.good > 500);
  });

  test('plays a trace: each request is of a model drawn by its share', () => {
    const traceNs = Float64Array.from({ length: 20_000 }, (_, k) => k * 1e5);
    const result = run('frontrun+window', MIX3, 1, { traceNs, ratePerSecond: 1e4, warmupSeconds: 0, seconds: 2 });
    check(result);
    assert.equal(result.offered, 20_000);
    MIX3.models.forEach(({ rateShare }, model) => assert.ok(Math.abs(result.models[model]!.offered / 20_000 - rateShare) < 0.02));
  });

  test('simulates nothing when nothing arrives', () => {
    const result = run('frontrun+window', R50, 1, { ratePerSecond: 1e-3, seconds: 0.1 });
    check(result);
    assert.deepEqual([result.offered, badRate(result), busyGpus(result)], [0, 0, 0]);
  });

  const refused: [what: string, more: Partial<OwnOptions>, said: RegExp][] = [
    ['no GPU', { gpus: 0 }, /^gpus: got 0, must be an integer >= 1/],
    ['a rate of 0', { ratePerSecond: 0 }, /^ratePerSecond: got 0, must be > 0/],
    ['no time', { seconds: 0 }, /^seconds: got 0, must be > 0/],
    ['a negative warm-up', { warmupSeconds: -1 }, /^warmupSeconds: got -1/],
    ['an SLO that the delays use up', { margins: { ...NO_MARGINS, responseNs: 95e6 } }, /^model m0: slo: got 100 ms, must be at least 101\.18 ms: l\(1\) = 6\.18 ms and delays of 95 ms/],
  ];
  for (const [what, more, said] of refused) {
    test(`refuses ${what}`, () => assert.throws(() => run('frontrun+window', R50, 1, more), { name: 'InvalidOptionError', message: said }));
  }
});

describe('a rival', () => {
  test('is offered the very same requests as we are, from a rate as from a trace', () => {
    const traceNs = Float64Array.from({ length: 5_000 }, (_, k) => k * 1e5);
    const options = { workload: MIX3, gpus: 8, ratePerSecond: 4000, seed: 3, seconds: 0.4, warmupSeconds: 0.1, margins: NO_MARGINS };
    const offered = (name: string, more: object): number[] => POLICIES.get(name)!({ ...options, ...more }).models.map((model) => model.offered);
    const rivals = [...POLICIES.keys()].filter((name) => !OWN_POLICIES.has(name));
    assert.ok(rivals.length > 0);
    for (const rival of rivals) {
      assert.deepEqual(offered(rival, {}), offered('frontrun+window', {}), rival);
      assert.deepEqual(offered(rival, { traceNs }), offered('frontrun+window', { traceNs }), rival);
    }
  });

  test('that plays by the authors’ rules does as well as ours on r50', () => {
    const result = POLICIES.get('symphony-reference')!({ workload: R50, gpus: 8, ratePerSecond: 5583, seed: 1, seconds: 2, warmupSeconds: 5, margins: DELAYS });
    check(result);
    assert.ok(badRate(result) < 0.001 && Math.abs(result.batched / result.batches / 70 - 1) < 0.06, `bad ${badRate(result)}, mean batch ${result.batched / result.batches}`);
  });
});

describe('the names of policies', () => {
  test('may leave out the drop policy', () => {
    assert.equal(policyName('frontrun', '--policy'), 'frontrun+window');
    assert.equal(policyName('target-size+timeout', '--policy'), 'target-size+timeout');
  });

  test('are listed when one is unknown', () => {
    assert.throws(() => policyName('lazy', '--policy'), { message: /^--policy: got "lazy", must be one of frontrun\+window, .*immediate\+timeout/ });
  });
});
