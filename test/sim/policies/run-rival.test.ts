import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { badRate, type SimulationOptions } from '#rubato/sim/result.js';
import type { MakePolicy, Policy, Stage } from '#rubato/sim/policies/policy.js';
import { runRival } from '#rubato/sim/policies/run-rival.js';
import { ArrivalStream } from '#rubato/sim/policies/stream.js';
import { RIVALS } from '#rubato/sim/policies/index.js';
import { Arrivals } from '#rubato/sim/arrivals.js';
import { Random } from '#rubato/model/random.js';
import { loadWorkload, parseWorkload } from '#rubato/sim/workload.js';
import { type ByHand, MS, NO_MARGINS, play, workloadOf } from './harness.js';

const nothing = (): void => {};

/** A policy made of what is given, with one timer. */
function policy(parts: (stage: Stage) => Partial<Policy>): MakePolicy {
  return (stage) => ({ name: 'test', timers: 1, onArrival: nothing, onTimer: nothing, onBatchEnd: nothing, ...parts(stage) });
}

const one = (request: number): Int32Array => Int32Array.of(request);
const ONE_MODEL: ByHand = { models: [{ alpha: 1, beta: 5, slo: 20, maxBatch: 3 }], gpus: 2, arrivals: [[0], [1], [2], [3], [4]] };

describe('a run stops a policy that', () => {
  const breaches: [what: string, parts: (stage: Stage) => Partial<Policy>, expected: RegExp][] = [
    ['starts a request twice', (stage) => ({ onArrival: (request) => {
      stage.start(0, 0, one(request), stage.nowNs);
      stage.start(1, 0, one(request), stage.nowNs);
    } }), /at 0 ns: request 0 is started and is in a batch already/],
    ['holds a request twice in one batch', (stage) => ({ onArrival: (request) => stage.start(0, 0, Int32Array.of(request, request), stage.nowNs) }),
      /request 0 is started and is in a batch already/],
    ['starts a request that has ended', (stage) => ({ onArrival: (request) => {
      stage.drop(request, 'expired');
      stage.start(0, 0, one(request), stage.nowNs);
    } }), /request 0 is started and has ended/],
    ['starts a request of the future', (stage) => ({ onArrival: (request) => stage.start(0, 0, one(request + 1), stage.nowNs) }), /request 1 is started and has not arrived/],
    ['drops a request twice', (stage) => ({ onArrival: (request) => {
      stage.drop(request, 'expired');
      stage.drop(request, 'expired');
    } }), /request 0 is dropped and has ended/],
    ['drops a request that runs', (stage) => ({ onArrival: (request) => {
      stage.start(0, 0, one(request), stage.nowNs);
      stage.drop(request, 'expired');
    } }), /request 0 is dropped and is in a batch already/],
    ['runs two batches at once on a GPU', (stage) => ({ onArrival: (request) => stage.start(0, 0, one(request), stage.nowNs) }),
      /at 1000000 ns: starts a batch at 1000000 ns on GPU 0, which runs another until 6000000 ns/],
    ['starts a batch above maxBatch', (stage) => ({ onArrival: (request) => {
      if (request === 3) stage.start(0, 0, Int32Array.of(0, 1, 2, 3), stage.nowNs);
    } }), /starts a batch of 4 of m0, whose batches are 1 to 3/],
    ['starts an empty batch', (stage) => ({ onArrival: () => stage.start(0, 0, new Int32Array(0), stage.nowNs) }), /starts a batch of 0/],
    ['starts in the past', (stage) => ({ onArrival: (request) => stage.start(0, 0, one(request), stage.nowNs - 1) }), /starts a batch of 1 at -1 ns, the earliest is 0 ns/],
    ['starts between two nanoseconds', (stage) => ({ onArrival: (request) => stage.start(0, 0, one(request), stage.nowNs + 0.5) }), /at 0.5 ns/],
    ['pre-empts an idle GPU', (stage) => ({ onArrival: () => void stage.preempt(1) }), /pre-empts GPU 1, which has no batch/],
    ['sets a timer it does not have', (stage) => ({ onArrival: () => stage.setTimer(1, 5) }), /sets timer 1 of 1/],
    ['sets a timer to no time', (stage) => ({ onArrival: () => stage.setTimer(0, NaN) }), /to NaN/],
    ['does not come to rest', (stage) => ({ onArrival: () => stage.setTimer(0, 0), onTimer: () => stage.setTimer(0, 0) }), /does not come to rest/],
  ];
  for (const [what, parts, expected] of breaches) {
    it(what, () => assert.throws(() => play(policy(parts), ONE_MODEL), expected));
  }

  it('starts before its inputs can be there: c + δb after now', () => {
    const start = (lateNs: number): MakePolicy => policy((stage) => ({ onArrival: (request) => stage.start(0, 0, one(request), stage.nowNs + lateNs) }));
    const scenario: ByHand = { ...ONE_MODEL, arrivals: [[0]], margins: { controlNs: 1e5, transferNs: 5e4 } };
    assert.throws(() => play(start(149_999), scenario), /at 149999 ns, the earliest is 150000 ns/);
    assert.equal(play(start(150_000), scenario).result.good, 1);
  });

  it('runs a request as one of another model', () => {
    const wrong = policy((stage) => ({ onArrival: (request, model) => stage.start(0, 1 - model, one(request), stage.nowNs) }));
    const { models } = ONE_MODEL;
    assert.throws(() => play(wrong, { ...ONE_MODEL, models: [...models, ...models] }), /runs request 0 of m0 as one of m1/);
  });
});

describe('a run', () => {
  it('drops as unfinished what a policy leaves lying, and ends although a timer goes on', () => {
    const idler = policy((stage) => ({ begin: () => stage.setTimer(0, 5 * MS), onTimer: () => stage.setTimer(0, stage.nowNs + 5 * MS) }));
    const { result, log } = play(idler, ONE_MODEL);
    assert.deepEqual(result.droppedByReason, { unfinished: 5 });
    assert.equal(log.length, 5);
  });

  it('waits for a batch that runs longer than anything may lie still', () => {
    const slow = policy((stage) => ({ begin: () => stage.setTimer(0, 1), onTimer: () => stage.setTimer(0, stage.nowNs + 1e9), onArrival: (request) => stage.start(0, 0, one(request), stage.nowNs) }));
    const { result } = play(slow, { models: [{ alpha: 1, beta: 60_000, slo: 60_001 }], arrivals: [[0]] });
    assert.equal(result.good, 1);
  });

  it('tells of batch ends, arrivals and timers of one instant in this order, by number', () => {
    const seen: string[] = [];
    const order = policy((stage) => ({
      timers: 3,
      begin: () => [2, 0, 1].forEach((timer) => stage.setTimer(timer, 6 * MS)),
      onArrival: (request, model) => {
        seen.push(`${stage.nowNs / MS} arrival ${model}`);
        if (stage.nowNs === 0) stage.start(1 - request, model, one(request), 0);
      },
      onTimer: (timer) => seen.push(`${stage.nowNs / MS} timer ${timer}`),
      onBatchEnd: (gpu) => seen.push(`${stage.nowNs / MS} end ${gpu}`),
    }));
    play(order, { models: [{ alpha: 1, beta: 5, slo: 20 }, { alpha: 1, beta: 5, slo: 20 }], gpus: 2, arrivals: [[0, 0], [0, 1], [6, 0], [6, 1]] });
    assert.deepEqual(seen, ['0 arrival 0', '0 arrival 1', '6 end 0', '6 end 1', '6 arrival 0', '6 arrival 1', '6 timer 0', '6 timer 1', '6 timer 2']);
  });

  it('calls a result good up to the last nanosecond of the SLO, the response delay included', () => {
    const atStart = (startMs: number): MakePolicy => policy((stage) => ({ onArrival: (request) => stage.start(0, 0, one(request), startMs * MS) }));
    const scenario: ByHand = { ...ONE_MODEL, arrivals: [[0]], margins: { responseNs: 2 * MS } };
    assert.equal(play(atStart(12), scenario).result.good, 1, '12 + 6 + 2 = 20');
    assert.equal(play(atStart(12.000001), scenario).result.late, 1);
  });

  it('counts as the authors’ tool on request: strictly before the SLO, without the response delay', () => {
    const options: SimulationOptions = {
      workload: parseWorkload({ gpus: 1, models: [{ alphaUs: 1000, betaUs: 5000, sloMs: 20, arrivals: 'const' }] }, 'w', 'w'),
      gpus: 1, ratePerSecond: 10, seed: 1, seconds: 1, warmupSeconds: 0, margins: { ...NO_MARGINS, responseNs: 2 * MS },
    };
    const atDelay = (delayNs: number): MakePolicy => policy((stage) => ({ onArrival: (request) => stage.start(0, 0, one(request), stage.nowNs + delayNs) }));
    const good = (delayNs: number, peerCounting: boolean): number => runRival(atDelay(delayNs), options, { peerCounting }).good;
    assert.deepEqual([good(12 * MS, false), good(13 * MS, false)], [9, 0]);
    assert.deepEqual([good(13 * MS, true), good(14 * MS - 1, true), good(14 * MS, true)], [9, 9, 0]);
  });

  it('counts what arrives after the warm-up and before the end, and what the GPUs did within that time', () => {
    const each = policy((stage) => ({ onArrival: (request) => stage.start(0, 0, one(request), stage.nowNs) }));
    const options: SimulationOptions = {
      workload: parseWorkload({ gpus: 1, models: [{ alphaUs: 20_000, betaUs: 30_000, sloMs: 60, arrivals: 'const' }] }, 'w', 'w'),
      gpus: 1, ratePerSecond: 10, seed: 1, seconds: 0.52, warmupSeconds: 0.42, margins: NO_MARGINS,
    };
    // Arrivals at 100, 200, … 900 ms run for 50 ms each; from 420 to 940 ms there are 500 … 900,
    // with 30 ms of the one of 400 and 40 ms of the last.
    const { offered, good, batches, batched, busyNs, models } = runRival(each, options);
    assert.deepEqual({ offered, good, batches, batched, busyNs }, { offered: 5, good: 5, batches: 5, batched: 5, busyNs: [270 * MS] });
    assert.equal(models[0]!.latencyP50Ns, 50 * MS);
  });

  it('counts batches by their start, and requests by their arrival', () => {
    const later = policy((stage) => ({ onArrival: (request) => stage.start(0, 0, one(request), stage.nowNs + 50 * MS) }));
    const options: SimulationOptions = {
      workload: parseWorkload({ gpus: 1, models: [{ alphaUs: 20_000, betaUs: 30_000, sloMs: 60, arrivals: 'const' }] }, 'w', 'w'),
      gpus: 1, ratePerSecond: 10, seed: 1, seconds: 0.52, warmupSeconds: 0.42, margins: NO_MARGINS,
    };
    // As above, but they start at 150, 250, … 950 ms: from 420 to 940 ms those of 450 … 850, of which the first arrived at 400.
    const { offered, late, batches, batched, busyNs } = runRival(later, options);
    assert.deepEqual({ offered, late, batches, batched, busyNs }, { offered: 5, late: 5, batches: 5, batched: 5, busyNs: [250 * MS] });
  });

  it('leaves a policy time to drop what waits, counted from what it did last', () => {
    const slow = policy((stage) => ({ onArrival: () => stage.setTimer(0, stage.nowNs + 5e9), onTimer: () => stage.drop(0, 'slow') }));
    assert.deepEqual(play(slow, { ...ONE_MODEL, arrivals: [[20_000]] }).log, ['25000: drops 0 (slow)']);
  });

  it('counts a pre-empted batch as one of none, and the time it wasted', () => {
    const preempts = policy((stage) => ({ onArrival: (request) => {
      if (request === 0) return stage.start(0, 0, one(0), 0);
      if (request > 1) return stage.drop(request, 'over');
      const lost = stage.preempt(0);
      stage.start(0, 0, Int32Array.of(...lost, request), stage.nowNs);
    } }));
    const { result, log } = play(preempts, { ...ONE_MODEL, arrivals: [[0], [2], [3]] });
    assert.deepEqual(log, ['0: GPU 0 runs 0[0] from 0 to 6', '2: GPU 0 loses [0]', '2: GPU 0 runs 0[0 1] from 2 to 9', '3: drops 2 (over)']);
    const { batches, batched, busyNs, good, droppedByReason } = result;
    assert.deepEqual({ batches, batched, busyNs, good, droppedByReason },
      { batches: 2, batched: 2, busyNs: [9 * MS, 0], good: 2, droppedByReason: { over: 1 } });
  });

  it('plays 100,000 requests in seconds at most, on any machine', () => {
    const options: SimulationOptions = {
      workload: loadWorkload('r50'), gpus: 8, ratePerSecond: 5000, seed: 1, seconds: 20, warmupSeconds: 0, margins: NO_MARGINS,
    };
    const before = process.cpuUsage();
    const { offered } = runRival(RIVALS['eager']!.make, options);
    const usedMs = process.cpuUsage(before).user / 1e3;
    assert.ok(offered > 99_000);
    assert.ok(usedMs < 5_000, `${usedMs} ms of processor time, where 150 are usual`);
  });
});

describe('the stream of arrivals', () => {
  const options = { workload: loadWorkload('mix3'), ratePerSecond: 3000, seed: 7 };

  it('is each model’s own process, with its share of the rate and a random stream of its number, from time 0', () => {
    const stream = new ArrivalStream(options.workload, options.ratePerSecond, options.seed);
    const seen: number[][] = [[], [], []];
    let last = 0;
    for (let count = 0; count < 1000; count++, stream.advance()) {
      assert.ok(stream.nextNs >= last);
      last = stream.nextNs;
      seen[stream.model]!.push(last);
    }
    for (const [model, { arrivals, rateShare }] of options.workload.models.entries()) {
      const process = new Arrivals(arrivals, 3000 * rateShare, new Random(7, model));
      let at = 0;
      for (const ns of seen[model]!) assert.equal(ns, (at += process.nextGapNs()));
      assert.ok(seen[model]!.length > 50);
    }
  });

  it('orders arrivals of one instant by model', () => {
    // So many that two come at the same nanosecond now and then.
    const poisson = { alphaUs: 1, betaUs: 1, sloMs: 9 };
    const stream = new ArrivalStream(parseWorkload({ gpus: 1, models: [poisson, poisson] }, 'w', 'w'), 1e9, 1);
    let together = 0;
    let [lastNs, lastModel] = [-1, -1];
    for (let count = 0; count < 1000; count++, stream.advance()) {
      assert.ok(stream.nextNs > lastNs || (stream.nextNs === lastNs && stream.model >= lastModel), `request ${count}`);
      if (stream.nextNs === lastNs && stream.model > lastModel) together++;
      [lastNs, lastModel] = [stream.nextNs, stream.model];
    }
    assert.ok(together > 100, `${together}`);
  });

  it('begins const models at phases that lie apart', () => {
    const constant = { alphaUs: 1, betaUs: 1, sloMs: 9, arrivals: 'const', count: 16 };
    const stream = new ArrivalStream(parseWorkload({ gpus: 1, models: [constant] }, 'w', 'w'), 1600, 1);
    const firsts: number[] = [];
    for (; firsts.length < 16; stream.advance()) firsts.push(stream.nextNs / MS);
    for (let i = 1; i < 16; i++) assert.ok(firsts[i]! - firsts[i - 1]! > 0.3 && firsts[15]! <= 10, `${firsts}`);
  });

  it('is the same for every policy', () => {
    const arrivalsOf = (make: MakePolicy): string => {
      const seen: string[] = [];
      const watched: MakePolicy = (stage) => {
        const inner = make(stage);
        return {
          name: inner.name, timers: inner.timers,
          begin: () => inner.begin?.(),
          onArrival: (request, model) => {
            seen.push(`${stage.nowNs} ${request} ${model}`);
            inner.onArrival(request, model);
          },
          onTimer: (timer) => inner.onTimer(timer),
          onBatchEnd: (gpu) => inner.onBatchEnd(gpu),
        };
      };
      runRival(watched, { ...options, gpus: 4, seconds: 0.5, warmupSeconds: 0.1, margins: NO_MARGINS });
      return seen.join('\n');
    };
    const all = Object.values(RIVALS).map(({ make }) => arrivalsOf(make));
    assert.ok(all[0]!.length > 1000);
    for (const seen of all) assert.equal(seen, all[0]);
  });
});

describe('the table of rivals', () => {
  it('has a source and a description for each, and each plays', () => {
    for (const [name, { make, source, description }] of Object.entries(RIVALS)) {
      assert.ok(source.length > 10 && description.length > 10, name);
      const result = runRival(make, {
        workload: workloadOf([{ alpha: 1, beta: 5, slo: 50 }], 2), gpus: 2, ratePerSecond: 50, seed: 1, seconds: 2, warmupSeconds: 0, margins: NO_MARGINS,
      });
      assert.ok(badRate(result) < 0.02, `${name}: ${badRate(result)} bad at a quarter of the load`);
    }
  });
});
