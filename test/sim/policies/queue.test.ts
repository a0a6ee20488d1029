import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { largestBatchInTime, RequestQueue } from '#rubato/sim/policies/queue.js';

describe('RequestQueue', () => {
  it('behaves as a sorted array under any sequence of calls', () => {
    const step = fc.tuple(fc.constantFrom('push', 'shift', 'pop', 'take', 'back'), fc.nat(20));
    fc.assert(fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      const queue = new RequestQueue();
      let model: number[] = [];
      const taken: Int32Array[] = [];
      let next = 0;
      for (const [what, count] of steps) {
        if (what === 'push') {
          for (let i = 0; i < count; i++) {
            queue.push(next);
            model.push(next++);
          }
        } else if (what === 'take') {
          const most = Math.min(count, model.length);
          const got = queue.take(most);
          assert.deepEqual([...got], model.splice(0, most));
          taken.push(got);
        } else if (what === 'back' && taken.length > 0) {
          const [back] = taken.splice(count % taken.length, 1);
          queue.putBack(back!);
          model = [...model, ...back!].sort((a, b) => a - b);
        } else if (model.length > 0 && what === 'shift') {
          assert.equal(queue.shift(), model.shift());
        } else if (model.length > 0 && what === 'pop') {
          assert.equal(queue.pop(), model.pop());
        }
        assert.deepEqual(Array.from({ length: queue.length }, (_, place) => queue.at(place)), model);
      }
    }), { numRuns: 300 });
  });
});

describe('largestBatchInTime', () => {
  it('is what trying every size gives', () => {
    const latencies = fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 30 });
    fc.assert(fc.property(latencies, fc.nat(20), fc.nat(3), fc.nat(60), fc.nat(150), fc.nat(40), (gaps, issue, transfer, free, deadline, limit) => {
      const ns = new Float64Array(gaps.length + 2);
      for (const [i, gap] of gaps.entries()) ns[i + 1] = ns[i]! + gap;
      ns[gaps.length + 1] = Infinity;
      let best = 0;
      for (let b = 1; b <= Math.min(limit, gaps.length); b++) if (Math.max(issue + transfer * b, free) + ns[b]! <= deadline) best = b;
      assert.equal(largestBatchInTime(ns, issue, transfer, free, deadline, limit), best);
    }));
  });
});
