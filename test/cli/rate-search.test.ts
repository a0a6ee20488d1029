import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { SloDrawer } from '#rubato/cli/deadline-order.js';
import { MATRIX_AXES, matrixLine, matrixPoints, profileFor } from '#rubato/cli/matrix.js';
import { highestRate, judgeProbe } from '#rubato/cli/rate-search.js';
import { joinStalls, type PhaseStalls, StallWatch } from '#rubato/cli/stalls.js';
import { stressFailures } from '#rubato/cli/stress.js';
import { OUTCOME } from '#rubato/protocol/outcome.js';

const OPTIONS = { first: 100, most: 1e6, step: 2, missesToStop: 2, resolution: 0.01, least: 1 };
const never = (): boolean => false;

describe('the search for the highest rate', () => {
  for (const limit of [3, 150, 4321, 900_000]) {
    test(`finds a limit of ${limit} to its resolution`, async () => {
      const { low, high } = await highestRate(OPTIONS, async (rate) => rate <= limit, never);
      assert.ok(low <= limit && limit < high, `${low} ${high}`);
      assert.ok(high - low <= 0.01 * high || high <= 1);
    });
  }

  test('passes over one rate that fails on the way up', async () => {
    const { low } = await highestRate(OPTIONS, async (rate) => rate !== 400 && rate <= 5000, never);
    assert.ok(low > 4900 && low <= 5000, `${low}`);
  });

  test('tries nothing above the most, and says so when that was passed', async () => {
    const tried: number[] = [];
    const found = await highestRate({ ...OPTIONS, most: 350 }, async (rate) => tried.push(rate) > 0, never);
    assert.deepEqual(found, { low: 350, high: 350 });
    assert.deepEqual(tried, [100, 200, 350]);
  });

  test('ends at an interrupt', async () => {
    let runs = 0;
    await highestRate(OPTIONS, async () => ++runs > 0, () => runs === 3);
    assert.equal(runs, 3);
  });
});

function report({ bad, stalledMs = 0, unusedMs = 1000, ended = 100_000 }: { bad: number; stalledMs?: number; unusedMs?: number; ended?: number }): PhaseStalls {
  const generator = { count: 1, longestNs: 1e6, totalNs: stalledMs * 0.4e6 };
  const scheduler = { count: 2, longestNs: 1e6, totalNs: stalledMs * 0.6e6 };
  return { generator, scheduler, counted: { ended, bad, spanNs: 1e9 }, unusedNs: unusedMs * 1e6 };
}

describe('a probe', () => {
  for (const [name, figures, verdict] of [
    ['with 1 % bad is sustained', { bad: 1000 }, 'sustained'],
    ['with more is not, where nothing stood still', { bad: 1001 }, 'exceeded'],
    ['with what a stall of 10 ms costs is stalled', { bad: 3000, stalledMs: 10 }, 'stalled'],
    ['with more than that is not', { bad: 3001, stalledMs: 10 }, 'exceeded'],
    ['is sustained in spite of stalls that cost nothing', { bad: 0, stalledMs: 900 }, 'sustained'],
    ['that stands still for more than a twentieth of the time shows nothing', { bad: 5000, stalledMs: 51 }, 'disturbed'],
    ['that stands still for as long though its threads had the processors is too slow', { bad: 5000, stalledMs: 51, unusedMs: 50 }, 'exceeded'],
    ['in which nothing ended shows nothing', { bad: 0, ended: 0 }, 'exceeded'],
  ] as const) {
    test(name, () => assert.equal(judgeProbe(report(figures)), verdict));
  }
});

describe('the rule of bench stress', () => {
  const good = { offered: 1000, lagP999Ms: 2, lagMaxMs: 20, badRate: 0.01 };
  test('passes at its limits', () => assert.deepEqual(stressFailures(good), []));
  for (const [name, change, reason] of [
    ['a late p99.9', { lagP999Ms: 2.1 }, 'the load generator was 2.1 ms late at p99.9, allowed are 2 ms'],
    ['a late worst', { lagMaxMs: 31 }, 'the load generator was 31.0 ms late at worst, allowed are 20 ms'],
    ['too many bad', { badRate: 0.0123 }, '1.23 % were bad, allowed are 1 %'],
    ['no load', { offered: 0 }, 'no request was offered'],
  ] as const) {
    test(`fails ${name} with that reason`, () => assert.deepEqual(stressFailures({ ...good, ...change }), [reason]));
  }
  test('gives every reason', () => assert.equal(stressFailures({ offered: 1, lagP999Ms: 3, lagMaxMs: 30, badRate: 1 }).length, 3));
});

describe('the watch for stalls', () => {
  function watched(countFromNs = 0): { watch: StallWatch; beat: () => void } {
    const buffer = new SharedArrayBuffer(256);
    const words = new Int32Array(buffer);
    return { watch: new StallWatch({ buffer, heartbeats: 128 }, countFromNs), beat: () => (words[32]! += 1) };
  }

  test('counts a generator that was away: between two turns, or since a request was due while it slept', () => {
    const { watch, beat } = watched();
    for (const [nowMs, sent, lagMs] of [[10, 1, 0], [13, 1, 2.9], [13.1, 1, 0.1], [20, 0, 0], [20.1, 1, 0.05], [30, 1, 2]] as const) {
      beat();
      watch.turn(nowMs * 1e6, sent, lagMs * 1e6);
    }
    const { generator, scheduler } = watch.report(2e9);
    assert.deepEqual(generator, { count: 2, longestNs: 2.9e6, totalNs: 4.9e6 });
    assert.equal(scheduler.count, 0);
  });

  test('does not take a generator for stalled that is late because it is too slow', () => {
    const { watch, beat } = watched();
    for (let turn = 0; turn < 100; turn++) {
      beat();
      watch.turn(turn * 2e5, 2048, turn * 1e6);
    }
    assert.equal(watch.report(2e9).generator.count, 0);
  });

  test('counts a scheduler that was given work and does not beat, not one that has nothing to do', () => {
    const { watch, beat } = watched();
    watch.turn(1e6, 0, 0);
    watch.turn(9e6, 5, 0); // it slept until now
    beat();
    watch.turn(9.1e6, 5, 0);
    for (const nowNs of [9.4e6, 10.1e6, 11.1e6]) watch.turn(nowNs, 0, 0);
    beat();
    watch.turn(11.2e6, 0, 0);
    assert.deepEqual(watch.report(2e9).scheduler, { count: 1, longestNs: 2e6, totalNs: 2e6 });
  });

  test('counts nothing of the lead-in, and what was lost as bad', () => {
    const { watch, beat } = watched(5e6);
    const outcomes = Int32Array.of(OUTCOME.completed | (7 << 5), OUTCOME.late, OUTCOME.expired, OUTCOME.completed);
    watch.turn(4e6, 1, 3e6);
    watch.ended(outcomes, 4, 4e6);
    beat();
    watch.turn(5e6, 1, 0);
    watch.ended(outcomes, 3, 5e6);
    watch.lost(2, 6e6);
    const { generator, counted } = watch.report(9e6);
    assert.equal(generator.count, 0);
    assert.deepEqual(counted, { ended: 5, bad: 4, spanNs: 4e6 });
  });

  test('of two load threads each stands for half of the load', () => {
    const joined = joinStalls([report({ bad: 5, stalledMs: 10 }), report({ bad: 7, stalledMs: 0 })]);
    assert.deepEqual(joined.generator, { count: 2, longestNs: 1e6, totalNs: 2e6 });
    assert.deepEqual(joined.scheduler, { count: 2, longestNs: 1e6, totalNs: 6e6 });
    assert.deepEqual(joined.counted, { ended: 200_000, bad: 12, spanNs: 1e9 });
  });
});

describe('the order of deadlines', () => {
  test('mixed: each model has its whole SLO and half of it, alternately', () => {
    const drawer = new SloDrawer('mixed', 2, 1);
    assert.deepEqual([0, 0, 1, 0, 1, 1].map((model) => drawer.next(model)), [0.5, 1, 0.5, 0.5, 1, 0.5]);
  });

  test('random: between half and the whole, evenly', () => {
    const drawer = new SloDrawer('random', 1, 1);
    const drawn = Array.from({ length: 10_000 }, () => drawer.next(0));
    assert.ok(drawn.every((share) => share >= 0.5 && share < 1));
    for (let tenth = 0; tenth < 10; tenth++) {
      const count = drawn.filter((share) => Math.floor((share - 0.5) * 20) === tenth).length;
      assert.ok(count > 850 && count < 1150, `${count} in tenth ${tenth}`);
    }
  });
});

describe('the matrix', () => {
  test('is a base point and one axis at a time from there', () => {
    const points = matrixPoints(MATRIX_AXES);
    assert.equal(points.length, 11);
    assert.deepEqual(points[0], { models: 64, gpus: 64, shards: 1, order: 'in-order' });
    for (const point of points.slice(1)) {
      const moved = (Object.keys(point) as (keyof typeof point)[]).filter((axis) => point[axis] !== points[0]![axis]);
      assert.equal(moved.length, 1, JSON.stringify(point));
    }
    assert.equal(new Set(points.map((point) => JSON.stringify(point))).size, 11);
  });

  test('has its base on the first value of an axis that lacks the usual one', () => {
    const points = matrixPoints({ models: [8, 9], gpus: [1024, 64], shards: [2], order: ['random'] });
    assert.deepEqual(points, [
      { models: 8, gpus: 64, shards: 2, order: 'random' },
      { models: 9, gpus: 64, shards: 2, order: 'random' },
      { models: 8, gpus: 1024, shards: 2, order: 'random' },
    ]);
  });

  test('chooses profiles whose GPUs can run at least 50 M requests/s, in a quarter of the SLO', () => {
    for (const gpus of MATRIX_AXES.gpus) {
      const profile = profileFor(gpus, 128, 20e6);
      const batchNs = profile.latencyNs(128);
      assert.ok(batchNs <= 5.01e6, `${batchNs} ns on ${gpus} GPUs`);
      assert.ok((gpus * 128e9) / batchNs > 50e6, `${(gpus * 128e9) / batchNs} on ${gpus} GPUs`);
    }
  });

  test('prints a point that has no figures with the reason', () => {
    const row = { models: 1, gpus: 8, shards: 1, order: 'in-order', profile: { alphaNs: 1, betaNs: 1, maxBatch: 8 }, sloMs: 20, problem: 'the GPUs are the limit', figures: null } as const;
    assert.match(matrixLine(row), /^ {5}1 {7}8 {7}1 {2}in-order {2}the GPUs are the limit\n$/);
  });
});
