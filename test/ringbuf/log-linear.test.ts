import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { BUCKETS, HistogramTable, RANGE_NS, TABLE_ALIGN_BYTES, bucketHighNs, bucketLowNs, bucketOf } from '#rubato/ringbuf/log-linear.js';

/** Values spread evenly over the powers of two, so that every bucket width is tried. */
const valueNs = fc
  .tuple(fc.integer({ min: 0, max: 36 }), fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }))
  .map(([power, part]) => Math.min(RANGE_NS - 1, Math.floor(2 ** power * (1 + part))));

const bucket = fc.integer({ min: 0, max: BUCKETS - 1 });

function makeTable(rows: number): HistogramTable {
  return new HistogramTable(new SharedArrayBuffer(HistogramTable.bytes(rows)), 0, rows);
}

function total(counts: Int32Array): number {
  return counts.reduce((sum, count) => sum + (count >>> 0), 0);
}

describe('log-linear buckets', () => {
  it('hold every value that they are asked for', () => {
    fc.assert(
      fc.property(valueNs, (value) => {
        const at = bucketOf(value);
        assert.ok(bucketLowNs(at) <= value && value < bucketHighNs(at), `${value} in bucket ${at}`);
      }),
      { numRuns: 5000 },
    );
  });

  it('hold fractions of a nanosecond where their whole part is', () => {
    fc.assert(
      fc.property(valueNs, fc.double({ min: 0, max: 0.99, noNaN: true }), (value, fraction) => {
        assert.equal(bucketOf(value + fraction), bucketOf(value));
      }),
    );
  });

  it('tile the range without a gap or an overlap', () => {
    assert.equal(bucketLowNs(0), 0);
    for (let at = 0; at < BUCKETS; at++) {
      assert.equal(bucketOf(bucketLowNs(at)), at, `the low end of bucket ${at}`);
      assert.equal(bucketOf(bucketHighNs(at) - 1), at, `the high end of bucket ${at}`);
      assert.equal(bucketHighNs(at), bucketLowNs(at + 1));
    }
    assert.equal(bucketHighNs(BUCKETS - 1), RANGE_NS);
  });

  it('are at most 1/64 of their values wide, and exact below 128 ns', () => {
    fc.assert(
      fc.property(bucket, (at) => {
        const width = bucketHighNs(at) - bucketLowNs(at);
        if (bucketLowNs(at) < 128) assert.equal(width, 1);
        else assert.ok(width / bucketLowNs(at) <= 1 / 64);
      }),
      { numRuns: BUCKETS },
    );
  });

  it('are in the order of their values', () => {
    fc.assert(fc.property(valueNs, valueNs, (a, b) => assert.ok(a > b || bucketOf(a) <= bucketOf(b))));
  });

  it('count what is below 0 as 0, and what is too long or no number in the last bucket', () => {
    for (const value of [-0, -1, -1e300, -Infinity]) assert.equal(bucketOf(value), 0, String(value));
    for (const value of [RANGE_NS, RANGE_NS * 2, 1e300, Infinity, NaN]) assert.equal(bucketOf(value), BUCKETS - 1, String(value));
  });
});

describe('a histogram table', () => {
  it('counts each record in its row and its bucket, and nowhere else', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.integer({ min: 0, max: 2 }), valueNs), { maxLength: 200 }), (records) => {
        const table = makeTable(3);
        const expected = [0, 1, 2].map(() => new Int32Array(BUCKETS));
        for (const [row, value] of records) {
          table.record(row, value);
          expected[row]![bucketOf(value)]!++;
        }
        for (const row of [0, 1, 2]) assert.deepEqual(Array.from(table.counts(row)), Array.from(expected[row]!));
      }),
    );
  });

  it('counts many at once as it counts them one by one', () => {
    const table = makeTable(2);
    for (let i = 0; i < 37; i++) table.record(0, 123_456);
    table.recordMany(1, 123_456, 30);
    table.recordMany(1, 123_456, 0);
    table.recordMany(1, 123_456, 7);
    assert.deepEqual(table.counts(1), table.counts(0));
  });

  it('counts beyond 2^31 when it is read as unsigned', () => {
    const table = makeTable(1);
    table.recordMany(0, 5, 0x7fffffff);
    table.record(0, 5);
    table.recordMany(0, 5, 0x7ffffffe);
    assert.equal(table.counts(0)[5]! >>> 0, 0xfffffffe);
    table.record(0, 5);
    assert.equal(table.counts(0)[5]! >>> 0, 0xffffffff);
  });

  it('goes on with the counts that an earlier writer left', () => {
    const buffer = new SharedArrayBuffer(TABLE_ALIGN_BYTES + HistogramTable.bytes(1));
    new HistogramTable(buffer, TABLE_ALIGN_BYTES, 1).record(0, 1000);
    const successor = new HistogramTable(buffer, TABLE_ALIGN_BYTES, 1);
    successor.record(0, 1000);
    assert.equal(successor.counts(0)[bucketOf(1000)], 2);
    assert.equal(total(successor.counts(0)), 2);
  });

  it('shows the live counts, not a copy', () => {
    const table = makeTable(1);
    const counts = table.counts(0);
    table.record(0, 77);
    assert.equal(counts[77], 1);
    assert.equal(counts.length, BUCKETS);
  });

  it('refuses a row outside the table and leaves all counts as they were', () => {
    const table = makeTable(2);
    for (const row of [-1, 2, 1e9]) {
      assert.throws(() => table.record(row, 1), { name: 'RangeError', message: new RegExp(`row ${row} .* 1$`) });
      assert.throws(() => table.recordMany(row, 1, 1), RangeError);
      assert.throws(() => table.counts(row), RangeError);
    }
    assert.equal(total(table.counts(0)) + total(table.counts(1)), 0);
  });

  it('refuses a count that is negative, broken or too large', () => {
    const table = makeTable(1);
    for (const count of [-1, 0.5, NaN, 2 ** 32]) assert.throws(() => table.recordMany(0, 1, count), { name: 'RangeError', message: /got/ });
    assert.equal(total(table.counts(0)), 0);
  });

  it('refuses a buffer that is too small, with both numbers', () => {
    const buffer = new SharedArrayBuffer(HistogramTable.bytes(2) - 1);
    assert.throws(() => new HistogramTable(buffer, 0, 2), { name: 'RangeError', message: /16384.*16383/ });
    assert.throws(() => new HistogramTable(buffer, 8192, 1), { name: 'RangeError', message: /16384.*16383/ });
  });

  it('refuses an offset off the boundary, with both numbers', () => {
    const buffer = new SharedArrayBuffer(HistogramTable.bytes(4));
    for (const offset of [4, 64, 100.5, -128, NaN]) {
      assert.throws(() => new HistogramTable(buffer, offset, 1), { name: 'RangeError', message: new RegExp(`128, got ${offset}`) });
    }
  });

  it('refuses memory that is not shared, and a number of rows that is none', () => {
    const plain = new ArrayBuffer(HistogramTable.bytes(1)) as unknown as SharedArrayBuffer;
    assert.throws(() => new HistogramTable(plain, 0, 1), { name: 'TypeError', message: /SharedArrayBuffer.*ArrayBuffer/ });
    for (const rows of [0, -1, 1.5, NaN]) {
      assert.throws(() => new HistogramTable(new SharedArrayBuffer(8192), 0, rows), { name: 'RangeError', message: /rows/ });
    }
  });
});

describe('two threads at one table', () => {
  it('do not disturb each other when each writes its own row', async () => {
    const buffer = new SharedArrayBuffer(HistogramTable.bytes(2));
    const gate = new Int32Array(new SharedArrayBuffer(4));
    const records = 2_000_000;
    const ends = [0, 1].map(
      (row) =>
        new Promise<void>((resolve, reject) => {
          const worker = new Worker(WRITER, {
            eval: true,
            workerData: { module: import.meta.resolve('#rubato/ringbuf/log-linear.js'), buffer, gate: gate.buffer, row, records },
          });
          worker.once('error', reject).once('exit', (code) => (code === 0 ? resolve() : reject(new Error(`exit code ${code}`))));
        }),
    );
    await Promise.all(ends);

    const expected = makeTable(2);
    for (let i = 0; i < records; i++) {
      expected.record(0, spread(i, 1));
      expected.record(1, spread(i, 3));
    }
    const table = new HistogramTable(buffer, 0, 2);
    for (const row of [0, 1]) {
      assert.equal(total(table.counts(row)), records);
      assert.ok(Buffer.from(Int32Array.from(table.counts(row)).buffer).equals(Buffer.from(Int32Array.from(expected.counts(row)).buffer)));
    }
  });
});

function spread(i: number, factor: number): number {
  return (i * factor * 7919) & 0xffff;
}

const WRITER = `
const { workerData: { module, buffer, gate, row, records } } = require('node:worker_threads');
import(module).then(({ HistogramTable }) => {
  const table = new HistogramTable(buffer, 0, 2);
  const started = new Int32Array(gate);
  Atomics.add(started, 0, 1);
  Atomics.notify(started, 0);
  for (let seen; (seen = Atomics.load(started, 0)) < 2; ) Atomics.wait(started, 0, seen, 5000);
  for (let i = 0; i < records; i++) table.record(row, (i * (row === 0 ? 1 : 3) * 7919) & 0xffff);
});
`;
