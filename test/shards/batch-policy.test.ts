import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { DROP_NEVER, DROP_TIMEOUT, DROP_WINDOW } from '#rubato/protocol/config.js';
import { BatchPolicy, DEADLINE, GPU_FREE, NOW_PLUS_CONTROL, TRANSFER } from '#rubato/shards/batch-policy.js';
import { DeadlineQueue } from '#rubato/shards/deadline-queue.js';
import { decide, ReferenceQueue } from '../sim/reference-policy.js';

const margins = { controlNs: 3, transferNs: 2, responseNs: 0, jitterNs: 0 };

interface Choice {
  readonly size: number;
  readonly overdue: boolean;
  readonly deadline: number;
  readonly expired: readonly number[];
}

/** One real queue and policy. */
class Model {
  readonly queue = new DeadlineQueue(new Int32Array(4096));
  readonly policy = new BatchPolicy();
  readonly profile: LatencyProfile;

  constructor(profile: LatencyProfile) {
    this.profile = profile;
  }

  choose(now: number, target: number, drop: number, gpuFree = -Infinity, hint = 0, { controlNs, transferNs } = { controlNs: 0, transferNs: 0 }): Choice {
    const { policy } = this;
    policy.cells[NOW_PLUS_CONTROL] = now + controlNs;
    policy.cells[TRANSFER] = transferNs;
    policy.cells[GPU_FREE] = gpuFree;
    policy.choose(this.queue, this.profile.ns, this.profile.maxBatch, target, drop, hint);
    return {
      size: policy.size, overdue: policy.overdue, deadline: policy.size === 0 ? Infinity : policy.cells[DEADLINE]!,
      expired: [...policy.expired.subarray(0, policy.expiredCount)],
    };
  }
}

const linear = (alphaNs: number, betaNs: number, maxBatch: number): LatencyProfile => LatencyProfile.linear({ alphaNs, betaNs, maxBatch }, 'p');

describe('BatchPolicy agrees with the rules as written', () => {
  for (const [drop, name] of [[DROP_WINDOW, 'window'], [DROP_TIMEOUT, 'timeout'], [DROP_NEVER, 'never']] as const) {
    it(`under ${name}, over a life of arrivals, decisions and batches, with any hint`, () => {
      const step = fc.record({
        wait: fc.oneof(fc.constant(0), fc.nat(8)),
        arrivals: fc.array(fc.nat(60), { maxLength: 8 }),
        target: fc.integer({ min: 1, max: 40 }),
        hint: fc.nat(50),
        gpuFree: fc.oneof(fc.constant(-Infinity), fc.integer({ min: -5, max: 20 })),
        take: fc.boolean(),
      });
      fc.assert(fc.property(fc.array(step, { maxLength: 60, size: 'max' }), fc.nat(4), fc.integer({ min: 1, max: 10 }), fc.integer({ min: 1, max: 40 }), (steps, alphaNs, betaNs, maxBatch) => {
        const model = new Model(linear(alphaNs, betaNs, maxBatch));
        const reference = new ReferenceQueue();
        const rules = { latencyNs: model.profile.ns, maxBatch, sloNs: 0, dropPolicy: drop, condition: 0 };
        let now = 0;
        let slot = 0;
        for (const { wait, arrivals, target, hint, gpuFree, take } of steps) {
          now += wait;
          for (const slack of arrivals) {
            model.queue.push(slot, now + slack);
            reference.push({ slot, order: slot, deadline: now + slack });
            slot++;
          }
          const size = Math.min(target, maxBatch);
          const expected = decide(reference, rules, margins, now, now + gpuFree, size, 1);
          const choice = model.choose(now, size, drop, now + gpuFree, hint, margins);
          assert.deepEqual(choice, { size: expected.size, overdue: expected.overdue, deadline: expected.deadline, expired: expected.expired.map((entry) => entry.slot) });
          assert.deepEqual([model.queue.prefixCount, model.queue.suffixCount], [reference.prefix.length, reference.suffix.length]);
          if (!take) continue;
          const out = new Int32Array(choice.size);
          model.queue.takeOldest(choice.size, out, 0);
          assert.deepEqual([...out], reference.takeOldest(choice.size).map((entry) => entry.slot));
        }
      }), { numRuns: 250 });
    });
  }
});

describe('BatchPolicy', () => {
  it('passes over heads that would not make the batch of all, and drops them only for the batch it chooses', () => {
    const model = new Model(linear(1, 5, 64));
    for (let slot = 0; slot < 6; slot++) model.queue.push(slot, slot < 2 ? 8 : 20);
    // Six end at 11: the two that are due at 8 are passed over. Four would end at 9: too late for them.
    assert.deepEqual(model.choose(0, 64, DROP_WINDOW), { size: 4, overdue: false, deadline: 20, expired: [0, 1] });
  });

  it('keeps under `timeout` what makes it alone, and grows the batch while the oldest makes it', () => {
    const model = new Model(linear(1, 5, 64));
    for (let slot = 0; slot < 6; slot++) model.queue.push(slot, slot < 2 ? 8 : 20);
    assert.deepEqual(model.choose(0, 64, DROP_TIMEOUT), { size: 3, overdue: false, deadline: 8, expired: [] });
    assert.deepEqual(model.choose(3, 64, DROP_TIMEOUT), { size: 4, overdue: false, deadline: 20, expired: [0, 1] });
  });

  it('takes the free lunch beyond the target', () => {
    const model = new Model(linear(1, 5, 64));
    for (let slot = 0; slot < 10; slot++) model.queue.push(slot, 12);
    assert.equal(model.choose(0, 2, DROP_WINDOW).size, 7);
  });

  it('runs what was passed over when nothing follows, and leaves nothing without an answer', () => {
    const model = new Model(linear(1, 5, 64));
    for (let slot = 0; slot < 8; slot++) model.queue.push(slot, 12);
    assert.equal(model.choose(0, 64, DROP_WINDOW).size, 7);
    const [window, rest] = [new Int32Array(8), model.queue.suffixCount];
    assert.equal(rest, 7);
    model.queue.takeOldest(7, window, 0);
    // One is left; at 7 it cannot make even a batch of one.
    assert.deepEqual(model.choose(6, 64, DROP_WINDOW), { size: 1, overdue: false, deadline: 12, expired: [] });
    assert.deepEqual(model.choose(7, 64, DROP_WINDOW), { size: 0, overdue: false, deadline: Infinity, expired: [7] });
  });

  it('meets a deadline that is exactly the end', () => {
    const model = new Model(linear(1, 5, 64));
    model.queue.push(0, 6);
    assert.equal(model.choose(0, 1, DROP_WINDOW).size, 1);
    assert.deepEqual(model.choose(1, 1, DROP_WINDOW).expired, [0]);
  });

  it('does not start before the GPU is free', () => {
    const model = new Model(linear(1, 5, 64));
    for (let slot = 0; slot < 4; slot++) model.queue.push(slot, 12);
    assert.equal(model.choose(0, 64, DROP_WINDOW, -Infinity).size, 4);
    assert.equal(model.choose(0, 64, DROP_WINDOW, 4).size, 3);
  });

  it('serves late requests first under `never`, in batches of the target size', () => {
    const model = new Model(linear(1, 5, 8));
    for (let slot = 0; slot < 20; slot++) model.queue.push(slot, 3);
    assert.deepEqual(model.choose(0, 6, DROP_NEVER), { size: 6, overdue: true, deadline: 3, expired: [] });
    assert.equal(model.choose(0, 40, DROP_NEVER).size, 8);
  });

  it('lists any number of expired requests at once', () => {
    const model = new Model(linear(0, 1, 8));
    for (let slot = 0; slot < 4096; slot++) model.queue.push(slot, 10);
    const { expired } = model.choose(100, 8, DROP_WINDOW);
    assert.deepEqual(expired, Array.from({ length: 4096 }, (_, slot) => slot));
  });
});
