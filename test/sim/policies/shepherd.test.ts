import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { shepherd } from '#rubato/sim/policies/shepherd.js';
import { type ByHand, holdsOnRandomWorkloads, play } from './harness.js';

describe('shepherd', () => {
  it('pre-empts when a batch has gathered that is 3.03 times as large, its own requests included', () => {
    const { log, result } = play(shepherd(), { models: [{ alpha: 1, beta: 5, slo: 40 }], arrivals: [[0], [1], [2], [3], [4]] });
    assert.deepEqual(log, [
      '0: GPU 0 runs 0[0] from 0 to 6',
      '3: GPU 0 loses [0]', // 4 ≥ 3.03 · 1, where 3 was not
      '3: GPU 0 runs 0[0 1 2 3] from 3 to 12',
      '12: GPU 0 runs 0[4] from 12 to 18', // 5 < 3.03 · 4
    ]);
    assert.deepEqual([result.batches, result.batched, result.busyNs[0]], [3, 5, 18e6]);
  });

  it('pre-empts for another model, and runs what was pre-empted when its batch is the largest', () => {
    const scenario: ByHand = {
      models: [{ alpha: 1, beta: 5, slo: 50 }, { alpha: 1, beta: 5, slo: 20 }],
      arrivals: [[0, 0], [1, 1], [2, 1], [3, 1], [4, 1], [4.5, 1], [5, 1]],
    };
    assert.deepEqual(play(shepherd(), scenario).log, [
      '0: GPU 0 runs 0[0] from 0 to 6',
      '4: GPU 0 loses [0]',
      '4: GPU 0 runs 1[1 2 3 4] from 4 to 13',
      // Of model 0 there is one, of model 1 two with D = 24.5: 13 + 7 = 20.
      '13: GPU 0 runs 1[5 6] from 13 to 20',
      '20: GPU 0 runs 0[0] from 20 to 26',
    ]);
    assert.deepEqual(play(shepherd({ preemptAt: Infinity }), scenario).log, [
      '0: GPU 0 runs 0[0] from 0 to 6',
      '6: GPU 0 runs 1[1 2 3 4 5 6] from 6 to 17', // D = 21: all six
    ]);
  });

  it('takes the first model of those with equally large batches', () => {
    const { log } = play(shepherd(), { models: [{ alpha: 1, beta: 9, slo: 90 }, { alpha: 1, beta: 4, slo: 90 }], arrivals: [[0, 0], [1, 1], [2, 0]] });
    assert.deepEqual(log, ['0: GPU 0 runs 0[0] from 0 to 10', '10: GPU 0 runs 0[2] from 10 to 20', '20: GPU 0 runs 1[1] from 20 to 25']);
  });

  it('removes an expired head, where the authors’ lets it block its model for good', () => {
    const scenario: ByHand = {
      models: [{ alpha: 1, beta: 5, slo: 12 }],
      arrivals: [[0], [1], [1.5], [6.5], [9], [30]],
    };
    const begin = [
      '0: GPU 0 runs 0[0] from 0 to 6',
      '6: GPU 0 runs 0[1 2] from 6 to 13', // D = 13
    ];
    assert.deepEqual(play(shepherd(), scenario).log, [
      ...begin,
      '13: drops 3 (expired)', // D = 18.5 < 13 + 6
      '13: GPU 0 runs 0[4] from 13 to 19', // D = 21
      '30: GPU 0 runs 0[5] from 30 to 36',
    ]);
    const authors = play(shepherd({ expireFrom: 'back' }), scenario);
    assert.deepEqual(authors.log.slice(0, 2), begin);
    assert.deepEqual(authors.result.droppedByReason, { unfinished: 3 });
  });

  it('sends a batch c + δb before it starts, and keeps r off the deadline', () => {
    const { log } = play(shepherd(), {
      models: [{ alpha: 1, beta: 5, slo: 12 }], arrivals: [[0], [1]],
      margins: { controlNs: 0.5e6, transferNs: 0.25e6, responseNs: 1e6 },
    });
    // D = 12: one alone would end at 6.75 + 0.75 + 6.
    assert.deepEqual(log, ['0: GPU 0 runs 0[0] from 0.75 to 6.75', '6.75: drops 1 (expired)']);
  });

  const onlyExpired = ({ late, droppedByReason }: { late: number; droppedByReason: Readonly<Record<string, number>> }): void => {
    assert.equal(late, 0);
    assert.deepEqual(Object.keys(droppedByReason).filter((reason) => reason !== 'expired'), []);
  };
  holdsOnRandomWorkloads(shepherd(), onlyExpired);
  describe('without pre-emption', () => holdsOnRandomWorkloads(shepherd({ preemptAt: Infinity }), onlyExpired));
  describe('as the authors have it', () => holdsOnRandomWorkloads(shepherd({ expireFrom: 'back' })));
});
