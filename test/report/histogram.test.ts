import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  RowReader,
  addCounts,
  emptyHistogram,
  hgrm,
  histogramOf,
  mergeHistograms,
  percentileNs,
  sumCounts,
  summaryMs,
  summaryUs,
} from '#rubato/report/histogram.js';
import { BUCKETS, HistogramTable, RANGE_NS, bucketOf } from '#rubato/ringbuf/log-linear.js';

const valueNs = fc.double({ min: 0, max: 36.9, noNaN: true }).map((power) => Math.floor(2 ** power));
const valuesNs = fc.array(valueNs, { minLength: 1, maxLength: 300 });

function rowOf(valuesNs: readonly number[]): Int32Array {
  const table = new HistogramTable(new SharedArrayBuffer(HistogramTable.bytes(1)), 0, 1);
  for (const value of valuesNs) table.record(0, value);
  return table.counts(0);
}

function assertWithin(actual: number, expected: number, share: number, what: string): void {
  assert.ok(Math.abs(actual - expected) <= expected * share, `${what}: ${actual} instead of ${expected}`);
}

describe('a histogram of a row', () => {
  it('keeps the count, and each percentile within 1 %', () => {
    fc.assert(
      fc.property(valuesNs, (values) => {
        const histogram = histogramOf(rowOf(values));
        assert.equal(histogram.totalCount, values.length);
        const sorted = [...values].sort((a, b) => a - b);
        for (const percent of [1, 50, 90, 99, 99.9, 100]) {
          const rank = Math.max(1, Math.ceil((percent / 100) * values.length - 1e-9));
          assertWithin(percentileNs(histogram, percent), sorted[rank - 1]!, 0.01, `p${percent}`);
        }
        assertWithin(summaryMs(histogram).max, sorted.at(-1)! / 1e6, 0.01, 'max');
      }),
    );
  });

  it('keeps the mean within 1 %', () => {
    fc.assert(
      fc.property(valuesNs, (values) => {
        const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
        assert.ok(Math.abs(histogramOf(rowOf(values)).mean - mean) <= mean * 0.01 + 0.5);
      }),
    );
  });

  it('is exact for values below 128 ns', () => {
    for (const value of [0, 1, 63, 64, 127]) assert.equal(percentileNs(histogramOf(rowOf([value])), 50), value);
  });

  it('holds the longest value that a row can count', () => {
    const histogram = histogramOf(rowOf([RANGE_NS - 1, Infinity]));
    assert.equal(histogram.totalCount, 2);
    assertWithin(percentileNs(histogram, 100), RANGE_NS, 0.01, 'max');
  });

  it('never shows a percentile above the maximum', () => {
    fc.assert(
      fc.property(valuesNs, (values) => {
        const { p50, p90, p99, p999, max } = summaryUs(histogramOf(rowOf(values)));
        assert.ok(p50 <= p90 && p90 <= p99 && p99 <= p999 && p999 <= max);
      }),
    );
  });

  it('reads counts above 2^31 as what they are', () => {
    const row = new Int32Array(BUCKETS);
    row[bucketOf(1e6)] = -2; // 4 294 967 294
    const histogram = histogramOf(row, row);
    assert.equal(histogram.totalCount, 2 * (2 ** 32 - 2));
  });

  it('refuses a row with another number of buckets, with both numbers', () => {
    assert.throws(() => histogramOf(new Int32Array(10)), { name: 'RangeError', message: /2048.*10/ });
    assert.throws(() => sumCounts([new Int32Array(10)]), RangeError);
  });
});

describe('an empty histogram', () => {
  it('gives zeros, and count 0 to tell', () => {
    const zeros = { p50: 0, p90: 0, p99: 0, p999: 0, max: 0, mean: 0, count: 0 };
    assert.deepEqual(summaryMs(emptyHistogram()), zeros);
    assert.deepEqual(summaryUs(histogramOf(rowOf([]))), zeros);
  });

  it('differs in its count from a histogram of zeros', () => {
    assert.equal(summaryMs(histogramOf(rowOf([0, 0]))).count, 2);
  });
});

describe('merging', () => {
  it('gives the same as one histogram of all values, by histograms or by rows, and changes no part', () => {
    fc.assert(
      fc.property(valuesNs, valuesNs, (a, b) => {
        const parts = [histogramOf(rowOf(a)), emptyHistogram(), histogramOf(rowOf(b))];
        const all = summaryMs(histogramOf(rowOf([...a, ...b])));
        assert.deepEqual(summaryMs(mergeHistograms(...parts)), all);
        assert.deepEqual(summaryMs(histogramOf(sumCounts([rowOf(a), rowOf(b)]))), all);
        assert.deepEqual(parts.map((part) => part.totalCount), [a.length, 0, b.length]);
      }),
      { numRuns: 30 },
    );
  });

  it('adds a row to what is there', () => {
    const histogram = addCounts(histogramOf(rowOf([10])), rowOf([20, 20]));
    assert.equal(histogram.totalCount, 3);
    assert.equal(percentileNs(histogram, 50), 20);
  });
});

describe('a row reader', () => {
  it('leaves out what was there before it was made', () => {
    const row = rowOf([5, 5, 7]);
    const reader = new RowReader(row);
    row[5]! += 1;
    assert.equal(reader.read()[5], 1);
    assert.equal(reader.read()[7], 0);
    row[7]! += 2;
    assert.equal(reader.read()[7], 2);
    assert.equal(reader.read()[5], 1);
  });

  it('counts on across the wrap of a 32-bit word', () => {
    const row = new Int32Array(BUCKETS);
    const reader = new RowReader(row);
    let expected = 0;
    for (const step of [0x7fffffff, 0x7fffffff, 0x7fffffff, 5, 0xfffffffe, 0xffffffff]) {
      row[9] = (row[9]! + step) | 0;
      expected += step;
      assert.equal(reader.read()[9], expected);
    }
  });

  it('starts again when it is reset', () => {
    const row = rowOf([3]);
    const reader = new RowReader(row);
    row[3]! += 4;
    reader.read();
    reader.reset();
    assert.equal(reader.read()[3], 0);
    row[3]! += 2;
    assert.equal(reader.read()[3], 2);
  });
});

describe('a percentile file', () => {
  it('has the header, rising lines and the footer that plotters expect', () => {
    const values = Array.from({ length: 5000 }, (_, i) => 1_000_000 + i * 10_000);
    const text = hgrm(histogramOf(rowOf(values)), 1e6);
    const lines = text.split('\n');
    assert.match(lines[0]!, /^\s*Value\s+Percentile\s+TotalCount\s+1\/\(1-Percentile\)$/);
    const data = lines.filter((line) => /^\s*\d/.test(line)).map((line) => line.trim().split(/\s+/).map(Number));
    assert.ok(data.length > 20);
    for (const [i, [value, share, count]] of data.entries()) {
      const before = data[i - 1] ?? [0, 0, 0];
      assert.ok(value! >= before[0]! && share! >= before[1]! && count! >= before[2]!, lines[i]);
    }
    assert.deepEqual(data.at(-1)!.slice(1), [1, 5000]);
    assertWithin(data.at(-1)![0]!, 50.99, 0.01, 'last value in ms');
    assert.match(text, /#\[Mean\s+=\s+[\d.]+, StdDeviation\s+=\s+[\d.]+\]/);
    assert.match(text, /#\[Max\s+=\s+[\d.]+, Total count\s+=\s+5000\]/);
  });

  it('of an empty histogram has header and footer, and no NaN', () => {
    const text = hgrm(emptyHistogram());
    assert.match(text, /Total count\s+=\s+0\]/);
    assert.doesNotMatch(text, /NaN|Infinity/);
  });

  it('refuses a unit that is not a positive number', () => {
    for (const unit of [0, -1, NaN, Infinity]) assert.throws(() => hgrm(emptyHistogram(), unit), { name: 'RangeError', message: /unitDivisor/ });
  });
});
