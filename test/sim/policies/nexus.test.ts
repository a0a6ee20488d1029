import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { nexus, Route } from '#rubato/sim/policies/nexus.js';
import { runRival } from '#rubato/sim/policies/run-rival.js';
import { badRate } from '#rubato/sim/result.js';
import { holdsOnRandomWorkloads, NO_MARGINS, play, workloadOf } from './harness.js';

const FAIR = nexus({ quickStart: true, smoothRoutes: true });

describe('nexus', () => {
  it('runs what waits in rounds, which are 50 µs apart while nothing does', () => {
    const { log } = play(nexus(), { models: [{ alpha: 1, beta: 10, slo: 100 }], arrivals: [[0], [1], [2], [30.01]] });
    assert.deepEqual(log, [
      '0: GPU 0 runs 0[0] from 0 to 11',
      '11: GPU 0 runs 0[1 2] from 11 to 23',
      '30.05: GPU 0 runs 0[3] from 30.05 to 41.05', // 23 + 141 · 0.05
    ]);
  });

  it('drops requests that cannot make the batch it expects, which becomes smaller as the queue drains', () => {
    // ℓ(b) ≤ (40 − 2) / 2: 9 at a time.
    const nineAt = (atMs: number): [number][] => Array.from({ length: 9 }, () => [atMs]);
    const { log } = play(nexus(), { models: [{ alpha: 1, beta: 10, slo: 40 }], arrivals: [[0], ...nineAt(1), ...nineAt(5)] });
    assert.deepEqual(log, [
      '0: GPU 0 runs 0[0] from 0 to 11',
      '11: GPU 0 runs 0[1 2 3 4 5 6 7 8 9] from 11 to 30',
      // D = 45: at 30 there is time for ℓ = 15, five.
      ...[10, 11, 12, 13].map((request) => `30: drops ${request} (expired)`),
      '30: GPU 0 runs 0[14 15 16 17 18] from 30 to 45',
    ]);
  });

  it('has no way for a model without a GPU, and after the first second runs both in turn, in batches of the plan', () => {
    const { log } = play(FAIR, {
      models: [{ alpha: 1, beta: 10, slo: 100 }, { alpha: 1, beta: 10, slo: 100 }],
      arrivals: [[0, 0], [0, 1], [1001, 0], [1001, 0], [1001, 1]],
    });
    assert.deepEqual(log, [
      '0: drops 1 (no-route)',
      '0: GPU 0 runs 0[0] from 0 to 11',
      '1001: GPU 0 runs 0[2] from 1001 to 1012', // for 1/s a batch of 1
      '1012: GPU 0 runs 1[4] from 1012 to 1023',
      '1023: GPU 0 runs 0[3] from 1023 to 1034',
    ]);
  });

  it('chooses a batch c + δb before the running one ends', () => {
    const { log } = play(nexus(), {
      models: [{ alpha: 1, beta: 10, slo: 24 }], arrivals: [[0], [3]],
      margins: { controlNs: 1e6, transferNs: 0.5e6 },
    });
    // ℓ(b) ≤ (24 − 2) / 2: 1 at a time. c + δ = 1.5 before 12.5.
    assert.deepEqual(log, ['0: GPU 0 runs 0[0] from 1.5 to 12.5', '11: GPU 0 runs 0[1] from 12.5 to 23.5']);
  });

  it('deals requests out by deficit round robin, or smoothly', () => {
    const dealt = (rates: readonly number[], count: number, smooth = false): number[] => {
      const route = new Route(rates.map((ratePerSecond, gpu) => ({ gpu: 10 + gpu, ratePerSecond })), smooth);
      return Array.from({ length: count }, () => route.next());
    };
    assert.deepEqual(dealt([100, 300], 8), [10, 11, 11, 11, 10, 11, 11, 11]);
    assert.deepEqual(dealt([100, 150], 5), [10, 11, 10, 11, 11]); // what is left of a credit stays
    assert.deepEqual(dealt([], 2), [-1, -1]);
    assert.deepEqual(dealt([100, 300], 8, true), [11, 10, 11, 11, 11, 10, 11, 11]); // credits (1, 3), (2, 2), (−1, 5), (0, 4)
    assert.deepEqual(dealt([400, 400, 100], 9, true), [10, 11, 10, 11, 12, 10, 11, 10, 11]);
    assert.deepEqual(dealt([], 2, true), [-1, -1]);
  });

  it('comes to use the GPUs that a model needs: at once with a quick start, after 30 s as the authors have it', () => {
    // 39 of 49 ms each: 796/s a GPU.
    const options = {
      workload: workloadOf([{ alpha: 1, beta: 10, slo: 100 }], 4), gpus: 4, ratePerSecond: 1_900, seed: 1, margins: NO_MARGINS,
    };
    const quick = runRival(FAIR, { ...options, seconds: 10, warmupSeconds: 5 });
    assert.ok(badRate(quick) < 0.08, `${badRate(quick)} bad`);
    assert.equal(quick.busyNs[3], 0, 'three are enough');
    const before = runRival(nexus(), { ...options, seconds: 10, warmupSeconds: 5 });
    assert.ok(badRate(before) > 0.5, `${badRate(before)} bad with one GPU`);
    const after = runRival(nexus(), { ...options, seconds: 10, warmupSeconds: 31 });
    assert.ok(badRate(after) < 0.08, `${badRate(after)} bad`);
  });

  holdsOnRandomWorkloads(FAIR, ({ late, droppedByReason }) => {
    assert.equal(late, 0);
    assert.deepEqual(Object.keys(droppedByReason).filter((reason) => reason !== 'expired' && reason !== 'no-route'), []);
  });
  describe('as the authors have it', () => holdsOnRandomWorkloads(nexus(), undefined, 50));
});
