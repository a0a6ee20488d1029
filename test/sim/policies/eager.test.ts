import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { eager } from '#rubato/sim/policies/eager.js';
import { holdsOnRandomWorkloads, play } from './harness.js';

describe('eager', () => {
  it('runs what waits as soon as a GPU is free, as much as the oldest deadline allows, and drops what cannot make it', () => {
    // ℓ(b) = b + 5, SLO 12, one GPU: with the head's deadline D, the largest b with t + b + 5 ≤ D.
    const { log } = play(eager(), {
      models: [{ alpha: 1, beta: 5, slo: 12 }],
      arrivals: [[0], [1], [2], [3], [4], [5], [5.5], [30]],
    });
    assert.deepEqual(log, [
      '0: GPU 0 runs 0[0] from 0 to 6', // alone, at once
      '6: GPU 0 runs 0[1 2] from 6 to 13', // D = 13: 6 + 2 + 5 = 13
      '13: drops 3 (expired)', // D = 15 < 13 + 6
      '13: drops 4 (expired)', // D = 16
      '13: drops 5 (expired)', // D = 17
      '13: drops 6 (expired)', // D = 17.5
      '30: GPU 0 runs 0[7] from 30 to 36',
    ]);
  });

  it('takes the model whose oldest request waits longest, and the lowest-numbered idle GPU', () => {
    const { log } = play(eager(), {
      models: [{ alpha: 1, beta: 9, slo: 100 }, { alpha: 1, beta: 4, slo: 100 }],
      gpus: 2,
      arrivals: [[0, 0], [0, 1], [1, 1], [2, 0], [3, 1]],
    });
    assert.deepEqual(log, [
      '0: GPU 0 runs 0[0] from 0 to 10',
      '0: GPU 1 runs 1[1] from 0 to 5',
      '5: GPU 1 runs 1[2 4] from 5 to 11', // since 1, model 0 only since 2
      '10: GPU 0 runs 0[3] from 10 to 20',
    ]);
  });

  it('sends a batch c + δb before it starts, and keeps r off the deadline', () => {
    const { log } = play(eager(), {
      models: [{ alpha: 1, beta: 5, slo: 12 }],
      arrivals: [[0], [1], [1]],
      margins: { controlNs: 0.5e6, transferNs: 0.25e6, responseNs: 1e6 },
    });
    assert.deepEqual(log, [
      '0: GPU 0 runs 0[0] from 0.75 to 6.75',
      // D = 1 + 12 − 1 = 12: one alone would end at 6.75 + 0.75 + 6 = 13.5.
      '6.75: drops 1 (expired)',
      '6.75: drops 2 (expired)',
    ]);
  });

  holdsOnRandomWorkloads(eager(), ({ late, droppedByReason }) => {
    assert.equal(late, 0);
    assert.deepEqual(Object.keys(droppedByReason).filter((reason) => reason !== 'expired'), []);
  });
});
