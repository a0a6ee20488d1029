import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { BufferPlan, LINE_BYTES, checkPiece, defineRecord, type FieldKind } from '#rubato/ringbuf/layout.js';

const SIZE: Record<FieldKind, number> = { i32: 4, f32: 4, f64: 8 };

describe('a record layout', () => {
  it('gives each field its offset in units of its own kind', () => {
    const layout = defineRecord('request', { deadlineNs: 'f64', slot: 'i32', generation: 'i32', budgetNs: 'f64' });
    assert.deepEqual(layout.at, { deadlineNs: 0, slot: 2, generation: 3, budgetNs: 2 });
    assert.equal(layout.bytes, 24);
    assert.equal(layout.words, 6);
  });

  it('rounds its size up to a multiple of 8', () => {
    assert.equal(defineRecord('odd', { a: 'i32' }).bytes, 8);
    assert.equal(defineRecord('odd', { a: 'i32', b: 'i32', c: 'i32' }).bytes, 16);
  });

  it('takes the size that is asked for', () => {
    const layout = defineRecord('wide', { a: 'i32' }, 64);
    assert.equal(layout.bytes, 64);
    assert.equal(layout.words, 16);
  });

  it('refuses a double that would start between two doubles, and says where', () => {
    assert.throws(() => defineRecord('crooked', { a: 'i32', b: 'f64' }), /RangeError: record crooked: field b .*byte 4.*multiple of 8/);
  });

  it('refuses fields that exceed the size, with both numbers', () => {
    assert.throws(() => defineRecord('fat', { a: 'f64', b: 'f64' }, 8), /RangeError: record fat: .*take 16 bytes.*size is 8/);
  });

  it('refuses a size that is not a multiple of 8', () => {
    assert.throws(() => defineRecord('bent', { a: 'i32' }, 12), /RangeError: record bent: .*size is 12.*multiple of 8/);
    assert.throws(() => defineRecord('bent', { a: 'i32' }, 8.5), /RangeError: record bent: .*size is 8\.5/);
  });

  it('never lets two fields share a byte, whatever they are', () => {
    const kinds = fc.array(fc.constantFrom<FieldKind>('i32', 'f32', 'f64'), { minLength: 1, maxLength: 20 });
    fc.assert(fc.property(kinds, (list) => {
      const aligned = list.toSorted((a, b) => SIZE[b] - SIZE[a]);
      const fields = Object.fromEntries(aligned.map((kind, n) => [`field${n}`, kind]));
      const layout = defineRecord('random', fields);
      const owner = new Array<number>(layout.bytes).fill(-1);
      aligned.forEach((kind, n) => {
        const from = layout.at[`field${n}`]! * SIZE[kind];
        for (let byte = from; byte < from + SIZE[kind]; byte++) {
          assert.equal(owner[byte], -1, `byte ${byte} of ${layout.bytes} belongs to fields ${owner[byte]} and ${n}`);
          owner[byte] = n;
        }
      });
    }));
  });
});

describe('a buffer plan', () => {
  it('hands out pieces that start on a line of their own and do not overlap', () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 1000 }), { maxLength: 30 }), (sizes) => {
      const plan = new BufferPlan();
      let end = 0;
      for (const bytes of sizes) {
        const at = plan.take(bytes);
        assert.equal(at % LINE_BYTES, 0);
        assert.ok(at >= end, `a piece at ${at}, the one before ends at ${end}`);
        end = at + bytes;
      }
      assert.ok(plan.bytes >= end && plan.bytes % LINE_BYTES === 0);
    }));
  });

  it('refuses a piece of no sensible size', () => {
    for (const bytes of [-1, 1.5, NaN, Infinity]) assert.throws(() => new BufferPlan().take(bytes), RangeError, String(bytes));
  });
});

describe('the check of a piece', () => {
  const buffer = new SharedArrayBuffer(1024);

  it('lets a piece pass that fits exactly', () => {
    checkPiece('piece', buffer, 0, 1024);
    checkPiece('piece', buffer, 1016, 8);
  });

  it('refuses a buffer that is not shared', () => {
    assert.throws(() => checkPiece('piece', new ArrayBuffer(1024) as unknown as SharedArrayBuffer, 0, 8), /TypeError: piece: .*SharedArrayBuffer/);
  });

  it('refuses a start between two doubles', () => {
    for (const at of [4, 1, 8.5, NaN]) assert.throws(() => checkPiece('piece', buffer, at, 8), /RangeError: piece: starts at byte .*multiple of 8/);
  });

  it('refuses a piece that ends outside, with both numbers', () => {
    assert.throws(() => checkPiece('piece', buffer, 1016, 16), /RangeError: piece: needs bytes 1016 to 1032, the buffer has 1024/);
    assert.throws(() => checkPiece('piece', buffer, -8, 16), /RangeError: piece: needs bytes -8 to 8, the buffer has 1024/);
  });
});
