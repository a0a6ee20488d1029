import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { fixedDelay } from '#rubato/sim/policies/fixed-delay.js';
import { holdsOnRandomWorkloads, MS, play } from './harness.js';

describe('fixed-delay', () => {
  it('runs a preferred batch when it has gathered, and what there is when the delay is over', () => {
    // ℓ(b) = b + 5, SLO 100, preferred 3, delay 10.
    const { log } = play(fixedDelay({ preferredBatch: 3, delayNs: 10 * MS }), {
      models: [{ alpha: 1, beta: 5, slo: 100 }],
      gpus: 2,
      arrivals: [[0], [1], [2], [20], [25], [40], [41], [41.5], [41.6], [42]],
    });
    assert.deepEqual(log, [
      '2: GPU 0 runs 0[0 1 2] from 2 to 10', // the third makes it preferred
      '30: GPU 0 runs 0[3 4] from 30 to 37', // since 20, delay over
      '41.5: GPU 0 runs 0[5 6 7] from 41.5 to 49.5',
      '51.6: GPU 0 runs 0[8 9] from 51.6 to 58.6', // two are not preferred: since 41.6
    ]);
  });

  it('when all GPUs are busy, takes the preferred size while no delay is over, and everything once it is', () => {
    const scenario = (last: number) => ({
      models: [{ alpha: 1, beta: 5, slo: 100 }],
      arrivals: [[0], [0], [1], [2], [3], [4], [last]] as [number][],
    });
    const policy = fixedDelay({ preferredBatch: 2, delayNs: 8 * MS });
    assert.deepEqual(play(policy, scenario(5)).log, [
      '0: GPU 0 runs 0[0 1] from 0 to 7',
      '7: GPU 0 runs 0[2 3] from 7 to 14', // head since 1: 9 is not reached, so two although five wait
      '14: GPU 0 runs 0[4 5 6] from 14 to 22', // head since 3: over
    ]);
  });

  it('lets the deadline of the oldest cut a batch, drops what cannot make it, and serves the oldest head first', () => {
    const { log } = play(fixedDelay({ preferredBatch: 4, delayNs: 0 }), {
      models: [{ alpha: 1, beta: 5, slo: 13 }, { alpha: 1, beta: 9, slo: 100 }],
      arrivals: [[0, 0], [1, 0], [1, 0], [2, 0], [2, 0], [3, 1], [4, 0]],
    });
    assert.deepEqual(log, [
      '0: GPU 0 runs 0[0] from 0 to 6',
      '6: GPU 0 runs 0[1 2 3] from 6 to 14', // D = 14: three
      '14: drops 4 (expired)', // D = 15
      '14: GPU 0 runs 1[5] from 14 to 24', // since 3, before 6, since 4
      '24: drops 6 (expired)',
    ]);
  });

  it('prefers half of the largest batch that runs in half the SLO, and delays by 5 % of it', () => {
    // ℓ(b) ≤ 50: b = 45, so 22.
    const burst = Array.from({ length: 22 }, (): [number] => [1]);
    const { log } = play(fixedDelay(), { models: [{ alpha: 1, beta: 5, slo: 100 }], gpus: 2, arrivals: [...burst, [2]] });
    assert.deepEqual(log.map((line) => line.replace(/\[.*\]/, '')), ['1: GPU 0 runs 0 from 1 to 28', '7: GPU 1 runs 0 from 7 to 13']);
  });

  holdsOnRandomWorkloads(fixedDelay(), ({ late, droppedByReason }) => {
    assert.equal(late, 0);
    assert.deepEqual(Object.keys(droppedByReason).filter((reason) => reason !== 'expired'), []);
  });
});
