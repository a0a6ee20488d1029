/**
 * Log-linear histograms in shared memory: the hot path of every latency figure.
 *
 * A value (nanoseconds, 0 … 2^37 ≈ 137 s) falls into one of 2048 buckets. Each power of two is cut into 64 equal
 * buckets, so a bucket is at most 1/64 of its values wide and its middle is at most 0.8 % off; below 128 ns the
 * buckets are one nanosecond wide and exact.
 *
 *   bucket      0 …  127   width 1            0 …  127 ns      exact
 *   bucket    128 …  191   width 2          128 …  255 ns
 *   bucket    192 …  255   width 4          256 …  511 ns
 *      …                   doubles every 64 buckets
 *   bucket   1984 … 2047   width 2^30      2^36 … 2^37 − 1 ns; the last one also counts all that is longer
 *
 * A table is `rows` such histograms, one after the other, nothing between:
 *
 *   byteOffset (multiple of 128)
 *   ├─ row 0: 2048 × int32 ─┼─ row 1: 2048 × int32 ─┼─ …
 *
 * Written by: one thread per row, always the same, by plain stores. Read by: any thread, at any time, by plain loads.
 * Nothing is published: each count is one aligned 32-bit word and cannot tear, so a reader sees every bucket at some
 * recent moment, the buckets not all at the same one. The memory outlives its writer; a successor just goes on.
 *
 * Bound: a count is an unsigned 32-bit number and wraps after 4 294 967 296 records in one bucket (3.5 minutes if
 * 20 M/s all fall into the same one). Read it as `counts[i]! >>> 0`. Who runs longer takes differences at least that
 * often: `(now − before) >>> 0` is right across one wrap (`RowReader` in report/ does so).
 */

const SUB_BITS = 6;
const SUB_BUCKETS = 1 << SUB_BITS;
const ROW_BITS = 11;

/** Buckets of one histogram, thus 32-bit words of one row. */
export const BUCKETS = 1 << ROW_BITS;

/** First value (ns) above the range; it and all above it count in the last bucket. */
export const RANGE_NS = 2 ** 37;

/** A table starts on such a boundary, so that two tables never share a cache line (nor the pair that is prefetched). */
export const TABLE_ALIGN_BYTES = 128;

const ROW_BYTES = BUCKETS * Int32Array.BYTES_PER_ELEMENT;

if (bucketOf(RANGE_NS - 1) !== BUCKETS - 1 || ROW_BYTES % TABLE_ALIGN_BYTES !== 0) {
  throw new RangeError(`log-linear layout: the range ends in bucket ${bucketOf(RANGE_NS - 1)} of ${BUCKETS}, a row has ${ROW_BYTES} bytes`);
}

/**
 * The bucket that counts `valueNs`; fractions are cut off. Below 0 counts as 0.
 * Above the range, and NaN, count in the last bucket: there a wrong figure is seen, in bucket 0 it would flatter.
 */
export function bucketOf(valueNs: number): number {
  if (valueNs < 2 * SUB_BUCKETS) return valueNs > 0 ? valueNs | 0 : 0;
  if (valueNs < 0x80000000) {
    const value = valueNs | 0;
    const shift = 31 - SUB_BITS - Math.clz32(value);
    return (shift << SUB_BITS) + (value >> shift);
  }
  if (valueNs < RANGE_NS) {
    // Does not fit an int32: its upper bits do, and hold all that the bucket depends on.
    const value = (valueNs * 2 ** -16) | 0;
    const shift = 31 - SUB_BITS - Math.clz32(value);
    return ((shift + 16) << SUB_BITS) + (value >> shift);
  }
  return BUCKETS - 1;
}

/** Smallest value (ns) of a bucket. `bucket` is an integer, 0 ≤ bucket ≤ BUCKETS. */
export function bucketLowNs(bucket: number): number {
  if (bucket < 2 * SUB_BUCKETS) return bucket;
  const shift = (bucket >> SUB_BITS) - 1;
  return (bucket - (shift << SUB_BITS)) * 2 ** shift;
}

/** First value (ns) above a bucket. The last bucket ends at RANGE_NS, though it counts longer values as well. */
export function bucketHighNs(bucket: number): number {
  return bucketLowNs(bucket + 1);
}

/** Histograms, one per row, over memory that the caller laid out. */
export class HistogramTable {
  readonly rows: number;
  readonly #words: Int32Array;

  /**
   * Looks at `rows` histograms at `byteOffset`; changes nothing, so that a restarted thread finds the old counts.
   * Throws TypeError if the buffer is not shared, RangeError if it is too small or the offset is not on a boundary.
   */
  constructor(buffer: SharedArrayBuffer, byteOffset: number, rows: number) {
    if (!(buffer instanceof SharedArrayBuffer)) {
      throw new TypeError(`histogram table: needs a SharedArrayBuffer, got ${Object.prototype.toString.call(buffer)}`);
    }
    if (!Number.isInteger(rows) || rows < 1) {
      throw new RangeError(`histogram table: rows must be an integer of at least 1, got ${rows}`);
    }
    if (!Number.isInteger(byteOffset) || byteOffset < 0 || byteOffset % TABLE_ALIGN_BYTES !== 0) {
      throw new RangeError(`histogram table: byteOffset must be a multiple of ${TABLE_ALIGN_BYTES}, got ${byteOffset}`);
    }
    if (byteOffset + HistogramTable.bytes(rows) > buffer.byteLength) {
      throw new RangeError(
        `histogram table: ${rows} rows at offset ${byteOffset} end at byte ${byteOffset + HistogramTable.bytes(rows)}, the buffer has ${buffer.byteLength}`,
      );
    }
    this.rows = rows;
    this.#words = new Int32Array(buffer, byteOffset, rows * BUCKETS);
  }

  /** Bytes that `rows` histograms take: 8192 each. */
  static bytes(rows: number): number {
    return rows * ROW_BYTES;
  }

  /** Counts one value. Only by the thread that owns the row. Throws RangeError for a row outside the table. */
  record(row: number, valueNs: number): void {
    if (row >>> 0 >= this.rows) refuseRow(row, this.rows);
    const words = this.#words;
    const word = (row << ROW_BITS) + bucketOf(valueNs);
    words[word] = (words[word]! + 1) | 0;
  }

  /** Counts one value `count` times (0 … 2^32 − 1): a whole batch that shares a figure costs one record. */
  recordMany(row: number, valueNs: number, count: number): void {
    if (row >>> 0 >= this.rows) refuseRow(row, this.rows);
    if (count >>> 0 !== count) refuseCount(count);
    const words = this.#words;
    const word = (row << ROW_BITS) + bucketOf(valueNs);
    words[word] = (words[word]! + count) | 0;
  }

  /** The live counts of a row: BUCKETS words to be read as unsigned (`>>> 0`). Not a copy; do not write to it. */
  counts(row: number): Int32Array {
    if (row >>> 0 >= this.rows) refuseRow(row, this.rows);
    return this.#words.subarray(row << ROW_BITS, (row + 1) << ROW_BITS);
  }
}

function refuseRow(row: number, rows: number): never {
  throw new RangeError(`histogram table: row ${row} is outside 0 … ${rows - 1}`);
}

function refuseCount(count: number): never {
  throw new RangeError(`histogram table: a count must be an integer from 0 to ${2 ** 32 - 1}, got ${count}`);
}
