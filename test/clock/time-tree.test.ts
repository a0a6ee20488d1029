import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { TimeTree } from '#rubato/clock/time-tree.js';

describe('TimeTree', () => {
  it('agrees with a linear scan for every size', () => {
    const time = fc.oneof({ weight: 6, arbitrary: fc.integer({ min: -5, max: 20 }) }, { weight: 2, arbitrary: fc.constantFrom(Infinity, -Infinity) });
    const steps = fc.array(fc.record({ index: fc.nat(1_000), time, upTo: time }), { maxLength: 120, size: 'max' });
    fc.assert(fc.property(fc.integer({ min: 1, max: 130 }), steps, (size, list) => {
      const tree = new TimeTree(size);
      const naive = new Array<number>(size).fill(Infinity);
      for (const { index, time: at, upTo } of list) {
        tree.set(index % size, at);
        naive[index % size] = at;
        const min = Math.min(...naive);
        assert.equal(tree.min(), min);
        assert.equal(tree.get(index % size), at);
        assert.equal(tree.first(), min === Infinity ? -1 : naive.indexOf(min));
        const limit = upTo === Infinity ? 1e300 : upTo;
        assert.equal(tree.lowestUpTo(limit), naive.findIndex((value) => value <= limit));
        assert.equal(tree.countUpTo(limit), naive.filter((value) => value <= limit).length);
      }
      assert.deepEqual(Array.from({ length: size }, (_, index) => tree.get(index)), naive);
    }), { numRuns: 400 });
  });

  it('is the same whether a time was set, stored and settled, or taken out', () => {
    const steps = fc.array(fc.record({ index: fc.nat(1_000), time: fc.integer({ min: 0, max: 20 }), how: fc.nat(2) }), { maxLength: 120, size: 'max' });
    fc.assert(fc.property(fc.integer({ min: 1, max: 70 }), steps, (size, list) => {
      const tree = new TimeTree(size);
      const set = new TimeTree(size);
      for (const { index, time, how } of list) {
        const at = index % size;
        set.set(at, how === 0 ? Infinity : time);
        if (how === 0) tree.clear(at);
        else if (how === 1) tree.set(at, time);
        else {
          tree.nodes[tree.leaves + at] = time;
          tree.settle(at);
        }
        assert.deepEqual(tree.nodes, set.nodes);
      }
    }), { numRuns: 200 });
  });

  it('starts with nothing in it', () => {
    const tree = new TimeTree(5);
    assert.equal(tree.min(), Infinity);
    assert.equal(tree.first(), -1);
    assert.equal(tree.lowestUpTo(1e300), -1);
  });

  it('refuses a size that is no positive integer', () => {
    for (const size of [0, -1, 1.5, NaN, Infinity]) assert.throws(() => new TimeTree(size), new RegExp(`time tree of ${size}`));
  });
});
