import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { IndexSet } from '#rubato/dispatch/index-set.js';

describe('IndexSet', () => {
  it('agrees with a set of numbers, whatever its size', () => {
    const step = fc.record({ index: fc.nat(), add: fc.boolean() });
    fc.assert(fc.property(fc.constantFrom(1, 2, 31, 32, 33, 1000, 1024, 1025, 40_000), fc.array(step, { maxLength: 200, size: 'max' }), (size, steps) => {
      const set = new IndexSet(size);
      const expected = new Set<number>();
      for (const { index, add } of steps) {
        const number = index % size;
        if (add) set.add(number);
        else set.delete(number);
        if (add) expected.add(number);
        else expected.delete(number);
        assert.equal(set.has(number), add);
        assert.equal(set.size, expected.size);
        assert.equal(set.first(), expected.size === 0 ? -1 : Math.min(...expected));
      }
    }), { numRuns: 100 });
  });

  it('empties from the least to the largest', () => {
    const set = new IndexSet(2000);
    for (let index = 1999; index >= 0; index -= 3) set.add(index);
    const seen: number[] = [];
    for (let index = set.first(); index >= 0; index = set.first()) {
      seen.push(index);
      set.delete(index);
    }
    assert.deepEqual(seen, Array.from({ length: 667 }, (_, k) => 1 + 3 * k));
  });
});
