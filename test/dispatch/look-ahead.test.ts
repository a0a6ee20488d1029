import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { BUCKETS, LookAhead } from '#rubato/dispatch/look-ahead.js';
import { LEARNT } from '#rubato/dispatch/reserve-choice.js';

const BUCKET = 10;

function most(ahead: LookAhead, aheadNs: number): number {
  ahead.aheadNs = aheadNs;
  return ahead.most();
}

function whenAbove(ahead: LookAhead, limit: number, aheadNs: number): number {
  ahead.aheadNs = aheadNs;
  ahead.findAbove(limit);
  return ahead.aboveNs;
}

function advanceTo(ahead: LookAhead, nowNs: number): void {
  ahead.nowNs[0] = nowNs;
  ahead.advance();
}

describe('the look-ahead', () => {
  it('counts who runs or is expected at once, each until its end', () => {
    const ahead = new LookAhead(3, 2, BUCKET);
    ahead.occupy(0, 100);
    ahead.expect(0, 50, 200);
    ahead.expect(1, 90, 150);
    ahead.expect(2, 100, 300);
    assert.equal(most(ahead, 0), 1);
    assert.equal(most(ahead, 50), 2);
    assert.equal(most(ahead, 500), 3);
    ahead.forget(1);
    assert.equal(most(ahead, 500), 2);
    ahead.occupy(1, Infinity);
    assert.equal(most(ahead, 1e6), 3);
    ahead.occupy(1, -Infinity);
    assert.equal(most(ahead, 1e6), 2);
  });

  it('says when too many will first be in sight', () => {
    const ahead = new LookAhead(2, 1, BUCKET);
    ahead.expect(0, 500, 900);
    ahead.expect(1, 700, 800);
    assert.equal(whenAbove(ahead, 0, 100), 400);
    assert.equal(whenAbove(ahead, 1, 100), 600);
    assert.equal(whenAbove(ahead, 2, 100), Infinity);
    advanceTo(ahead, 599);
    assert.equal(most(ahead, 100), 1);
    advanceTo(ahead, 600);
    assert.equal(most(ahead, 100), 2);
    assert.equal(whenAbove(ahead, 1, 100), Infinity);
  });

  it('agrees with a scan of all times, however time goes on', () => {
    const span = fc.record({ index: fc.nat(5), begin: fc.integer({ min: -50, max: 3000 }), length: fc.integer({ min: 0, max: 14_000 }) });
    const step = fc.oneof(
      span.map((value) => ({ kind: 'expect' as const, ...value })),
      span.map((value) => ({ kind: 'occupy' as const, ...value })),
      fc.nat(5).map((index) => ({ kind: 'forget' as const, index, begin: 0, length: 0 })),
      fc.oneof(fc.nat(60), fc.nat(3000), fc.nat(40_000)).map((length) => ({ kind: 'wait' as const, index: 0, begin: 0, length })),
    );
    fc.assert(fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
      const ahead = new LookAhead(6, 6, BUCKET);
      const spans = new Map<number, { from: number; to: number }>();
      let now = 0;
      /** What lies beyond the ring is taken for its end, as seen at that time. */
      const bucketOf = (time: number): number => Math.min(Math.floor(now / BUCKET) + BUCKETS - 1, Math.max(Math.floor(now / BUCKET), Math.floor(time / BUCKET)));
      for (const { kind, index, begin, length } of steps) {
        if (kind === 'wait') advanceTo(ahead, (now += length));
        else if (kind === 'forget') {
          ahead.forget(index);
          spans.delete(index);
        } else if (kind === 'expect') {
          ahead.expect(index, now + begin, now + begin + length);
          spans.set(index, { from: bucketOf(now + begin), to: bucketOf(now + begin + length) });
        } else {
          ahead.occupy(index, now + length);
          spans.set(6 + index, { from: bucketOf(0), to: bucketOf(now + length) });
        }
        const bucket = Math.floor(now / BUCKET);
        const occ = (at: number): number => [...spans.values()].filter(({ from, to }) => from <= at && at < to).length;
        for (const buckets of [0, 1, 7, 300, BUCKETS - 1]) {
          const expected = Math.max(...Array.from({ length: buckets + 1 }, (_, k) => occ(bucket + k)));
          assert.equal(most(ahead, buckets * BUCKET), expected, `${buckets} buckets from ${bucket}`);
        }
        for (const limit of [0, 1, 2]) {
          const first = Array.from({ length: BUCKETS }, (_, k) => k).find((k) => occ(bucket + k) > limit) ?? 0;
          const when = first > 7 ? (bucket + first - 7) * BUCKET : Infinity;
          assert.equal(whenAbove(ahead, limit, 7 * BUCKET), when, `first above ${limit} in ${first} buckets from ${bucket}`);
        }
      }
    }), { numRuns: 150 });
  });
});

describe('the reserve', () => {
  it('gives way to a share of the GPUs that was chosen instead, and learns nothing meanwhile', () => {
    const ahead = new LookAhead(1, 8, BUCKET);
    for (let k = 0; k < 8; k++) ahead.lost(8);
    assert.deepEqual([ahead.reserve, ahead.unreserved(8)], [2, 6]);
    ahead.keep(0.5);
    ahead.lost(8);
    assert.deepEqual([ahead.reserve, ahead.unreserved(8)], [2, 4]);
    ahead.keep(0);
    assert.equal(ahead.unreserved(8), 8);
    ahead.keep(LEARNT);
    ahead.lost(8);
    assert.deepEqual([ahead.reserve, ahead.unreserved(8)], [2.25, 6]);
  });

  it('grows with batches that waited for a GPU, by how long, and shrinks with those that did not', () => {
    const ahead = new LookAhead(1, 1, BUCKET);
    ahead.granted(100, 100, 16);
    assert.equal(ahead.reserve, 0.25);
    ahead.granted(5, 100, 16);
    assert.equal(ahead.reserve, 0.375);
    for (let k = 0; k < 99; k++) ahead.granted(0, 100, 16);
    assert.ok(Math.abs(ahead.reserve - 0.125) < 1e-9, `${ahead.reserve}`);
  });

  it('grows as much with a batch that was lost as with the longest wait', () => {
    const ahead = new LookAhead(1, 1, BUCKET);
    ahead.lost(16);
    assert.equal(ahead.reserve, 0.25);
  });

  it('stands still when one batch of a hundred waits, on two GPUs one of five hundred; and stays between none and all GPUs', () => {
    for (const [gpus, batches] of [[64, 100], [10, 100], [2, 500]] as const) {
      const ahead = new LookAhead(1, 1, BUCKET);
      for (let k = 0; k < 4; k++) ahead.granted(100, 100, gpus);
      for (let k = 0; k < 20 * batches; k++) ahead.granted(k % batches === 0 ? 100 : 0, 100, gpus);
      assert.ok(Math.abs(ahead.reserve - 1) < 1e-9, `${gpus} GPUs: ${ahead.reserve}`);
      for (let k = 0; k < 1000; k++) ahead.granted(100, 100, gpus);
      assert.equal(ahead.reserve, gpus);
      for (let k = 0; k < 5 * batches * gpus; k++) ahead.granted(0, 100, gpus);
      assert.equal(ahead.reserve, 0);
    }
  });

  it('leaves no count of GPUs small enough to wait for when it is all of them', () => {
    const ahead = new LookAhead(1, 1, BUCKET);
    assert.equal(ahead.unreserved(1), 1);
    ahead.lost(1);
    assert.ok(most(ahead, BUCKET) > ahead.unreserved(1), `${ahead.unreserved(1)}`);
    assert.equal(ahead.unreserved(16), 17);
  });
});
