import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { clockwork, Predictions } from '#rubato/sim/policies/clockwork.js';
import { holdsOnRandomWorkloads, MS, play } from './harness.js';

describe('clockwork', () => {
  it('gives a GPU its next batch shortly before it is free, and takes the size that must start first', () => {
    // ℓ(b) = b + 5, SLO 30, one GPU, 5 ms ahead.
    const { log } = play(clockwork(), {
      models: [{ alpha: 1, beta: 5, slo: 30 }],
      arrivals: [[0], [0.5], [2], [3], [4], [5], [5.5]],
    });
    assert.deepEqual(log, [
      '0: GPU 0 runs 0[0] from 0 to 6',
      '1: GPU 0 runs 0[1] from 6 to 12', // 5 before 6
      '7: GPU 0 runs 0[2 3 4 5] from 12 to 21', // one is ahead until 6; of five the largest size is 4, by 32 − 9 = 23
      '16: GPU 0 runs 0[6] from 21 to 27',
    ]);
  });

  it('takes the model whose batch must start first', () => {
    const { log } = play(clockwork({ aheadNs: 0 }), {
      models: [{ alpha: 1, beta: 9, slo: 60 }, { alpha: 1, beta: 4, slo: 50 }, { alpha: 1, beta: 20, slo: 70 }],
      arrivals: [[0, 0], [1, 1], [2, 0], [3, 2]],
    });
    assert.deepEqual(log, [
      '0: GPU 0 runs 0[0] from 0 to 10',
      '10: GPU 0 runs 1[1] from 10 to 15', // by 51 − 5 = 46
      '15: GPU 0 runs 0[2] from 15 to 25', // by 62 − 10 = 52, equal to 73 − 21 = 52: the lower number
      '25: GPU 0 runs 2[3] from 25 to 46',
    ]);
  });

  it('has one batch ahead and no more, on the GPU that is free first', () => {
    const early = clockwork({ aheadNs: 100 * MS });
    assert.deepEqual(play(early, { models: [{ alpha: 1, beta: 5, slo: 30 }], arrivals: [[0], [1], [2]] }).log, [
      '0: GPU 0 runs 0[0] from 0 to 6',
      '1: GPU 0 runs 0[1] from 6 to 12',
      '6: GPU 0 runs 0[2] from 12 to 18',
    ]);
    const two = { models: [{ alpha: 1, beta: 9, slo: 60 }, { alpha: 1, beta: 4, slo: 50 }], gpus: 2 };
    assert.equal(play(early, { ...two, arrivals: [[0, 0], [0, 1], [1, 1]] }).log[2], '1: GPU 1 runs 1[2] from 5 to 10');
  });

  it('drops at once what no GPU can run in time', () => {
    const { log } = play(clockwork(), {
      models: [{ alpha: 1, beta: 29, slo: 100 }, { alpha: 1, beta: 5, slo: 12 }],
      arrivals: [[0, 0], [1, 1], [20, 1]],
    });
    // D = 13 < 30 + 6, D = 32 < 36.
    assert.deepEqual(log, ['0: GPU 0 runs 0[0] from 0 to 30', '1: drops 1 (expired)', '20: drops 2 (expired)']);
  });

  it('drops what waits when its time is over', () => {
    const { log } = play(clockwork({ sizes: [2] }), { models: [{ alpha: 1, beta: 5, slo: 20 }], arrivals: [[0]] });
    assert.deepEqual(log, ['13.000001: drops 0 (expired)']); // 20 − 7
  });

  it('goes on doubling up to the largest batch within the SLO on request', () => {
    // The GPU is busy from 0.5 to 0.75 + ℓ, when `count` of D = 1 + SLO wait; ℓ(b) = b / 2 + 5.
    const second = (count: number, slo: number, upToLargest: boolean): string => {
      const burst = Array.from({ length: count }, (): [number] => [1]);
      const { log } = play(clockwork({ upToLargest, aheadNs: 0 }), {
        models: [{ alpha: 0.5, beta: 5, slo }, { alpha: 0, beta: 0.5, slo: 90 }], arrivals: [[0.75, 1], ...burst],
      });
      return log[1]!.replace(/\[.*\]/, (list) => ` ${list.split(' ').length}`);
    };
    assert.equal(second(8, 8.4, true), '1.25: GPU 0 runs 0 6 from 1.25 to 9.25'); // ℓ(6) = 8 ≤ 8.4
    assert.equal(second(8, 8.4, false), '1.25: GPU 0 runs 0 4 from 1.25 to 8.25');
    assert.equal(second(40, 24, true), '1.25: GPU 0 runs 0 32 from 1.25 to 22.25'); // ℓ(38) = 24 is too long after 1
    assert.equal(second(40, 24, false), '1.25: GPU 0 runs 0 16 from 1.25 to 14.25');
  });

  it('predicts the longest of the last ten runs of a size, and the profile before the first', () => {
    const predictions = new Predictions([1, 2], Float64Array.of(0, 60, 70, Infinity));
    assert.deepEqual([predictions.of(1), predictions.of(2)], [60, 70]);
    predictions.ran(1, 65);
    for (let run = 0; run < 9; run++) predictions.ran(1, 50 + run);
    assert.deepEqual([predictions.of(1), predictions.of(2)], [65, 70]);
    predictions.ran(1, 40);
    assert.equal(predictions.of(1), 58);
  });

  holdsOnRandomWorkloads(clockwork(), ({ late, droppedByReason }) => {
    assert.equal(late, 0);
    assert.deepEqual(Object.keys(droppedByReason).filter((reason) => reason !== 'expired'), []);
  });
  describe('with all batch sizes', () => holdsOnRandomWorkloads(clockwork({ upToLargest: true })));
});
