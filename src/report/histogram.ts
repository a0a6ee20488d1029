/**
 * From the counts of `ringbuf/log-linear` to HdrHistogram: percentiles, summaries and percentile files.
 * All of it runs off the hot path; a conversion takes about half a millisecond and a histogram 230 KB.
 *
 * Each bucket is recorded at its middle, so a figure is at most 0.8 % off, plus 0.1 % of HdrHistogram's own.
 * The longest value is known to the same precision, no better.
 */

import { build } from 'hdr-histogram-js';
import type { Histogram } from 'hdr-histogram-js';
import { BUCKETS, RANGE_NS, bucketHighNs, bucketLowNs } from '../ringbuf/log-linear.js';

export type { Histogram } from 'hdr-histogram-js';

/** Counts per bucket: a live row of shared memory (int32, read as unsigned), or sums that no longer fit 32 bits. */
export type BucketCounts = Int32Array | Float64Array;

/** Percentiles of one figure, in the unit that the key or the maker's name says. All 0 where nothing was recorded. */
export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
  /** How many values: 0 tells "nothing recorded" from "all zero". */
  readonly count: number;
}

/** Percentiles and the mean, which costs some milliseconds. */
export interface Summary extends Percentiles {
  readonly mean: number;
}

const NS_PER_MS = 1e6;
const NS_PER_US = 1e3;

/** Steps per half-distance to 100 % in a percentile file; 5 is what HdrHistogram's own tools write. */
const HGRM_TICKS = 5;

function countAt(counts: BucketCounts, bucket: number): number {
  return counts instanceof Int32Array ? counts[bucket]! >>> 0 : counts[bucket]!;
}

function checkRow(counts: BucketCounts): void {
  if (counts.length !== BUCKETS) {
    throw new RangeError(`histogram row: needs ${BUCKETS} buckets, got ${counts.length}`);
  }
}

/** Sums rows, as of one model over several clients, or of all models. No rows: all zero. */
export function sumCounts(rows: Iterable<BucketCounts>): Float64Array {
  const sum = new Float64Array(BUCKETS);
  for (const row of rows) {
    checkRow(row);
    for (let bucket = 0; bucket < BUCKETS; bucket++) sum[bucket] = sum[bucket]! + countAt(row, bucket);
  }
  return sum;
}

/**
 * Reads one live row as the counts *since the reader was made* (or reset): what a warm-up put there is left out,
 * and the wrap of the 32-bit words does no harm as long as `read` is called at least once per 2^32 records in a bucket.
 */
export class RowReader {
  readonly #counts: Int32Array;
  readonly #seen: Int32Array;
  readonly #totals = new Float64Array(BUCKETS);

  constructor(counts: Int32Array) {
    checkRow(counts);
    this.#counts = counts;
    this.#seen = Int32Array.from(counts);
  }

  /** Counts since the start, up to now. The same array each time: copy it to keep it. */
  read(): Float64Array {
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const now = this.#counts[bucket]!;
      this.#totals[bucket] = this.#totals[bucket]! + ((now - this.#seen[bucket]!) >>> 0);
      this.#seen[bucket] = now;
    }
    return this.#totals;
  }

  /** Starts again from now. */
  reset(): void {
    this.#seen.set(this.#counts);
    this.#totals.fill(0);
  }
}

/** An empty HdrHistogram of nanoseconds that holds whatever a row can. Its counts are doubles: exact to 2^53. */
export function emptyHistogram(): Histogram {
  return build({
    bitBucketSize: 64,
    autoResize: false,
    lowestDiscernibleValue: 1,
    highestTrackableValue: RANGE_NS,
    numberOfSignificantValueDigits: 3,
    useWebAssembly: false,
  });
}

/** Adds a row to a histogram, each bucket at its middle (whole nanoseconds, rounded up as HdrHistogram does). */
export function addCounts(into: Histogram, counts: BucketCounts): Histogram {
  checkRow(counts);
  for (let bucket = 0; bucket < BUCKETS; bucket++) {
    const count = countAt(counts, bucket);
    if (count === 0) continue; // a count of 0 would still raise the maximum
    const lowNs = bucketLowNs(bucket);
    into.recordValueWithCount(lowNs + Math.floor((bucketHighNs(bucket) - lowNs) / 2), count);
  }
  return into;
}

/** One histogram of all the rows. */
export function histogramOf(...rows: BucketCounts[]): Histogram {
  const histogram = emptyHistogram();
  for (const row of rows) addCounts(histogram, row);
  return histogram;
}

/** A new histogram with the values of all of them; they stay as they are. */
export function mergeHistograms(...histograms: Histogram[]): Histogram {
  const merged = emptyHistogram();
  for (const histogram of histograms) {
    if (histogram.totalCount > 0) merged.add(histogram);
  }
  return merged;
}

/** Value (ns) that `percent` (0 … 100) of the values do not exceed; never above the maximum. 0 if empty. */
export function percentileNs(histogram: Histogram, percent: number): number {
  // HdrHistogram answers with the upper end of its own bucket, which may lie above the maximum that it reports.
  return Math.min(histogram.getValueAtPercentile(percent), histogram.maxValue);
}

/** Percentiles in units of `unitNs` nanoseconds. */
export function percentilesIn(histogram: Histogram, unitNs: number): Percentiles {
  return {
    p50: percentileNs(histogram, 50) / unitNs,
    p90: percentileNs(histogram, 90) / unitNs,
    p99: percentileNs(histogram, 99) / unitNs,
    p999: percentileNs(histogram, 99.9) / unitNs,
    max: histogram.maxValue / unitNs,
    count: histogram.totalCount,
  };
}

/** Percentiles in milliseconds. */
export function percentilesMs(histogram: Histogram): Percentiles {
  return percentilesIn(histogram, NS_PER_MS);
}

/** Percentiles in microseconds. */
export function percentilesUs(histogram: Histogram): Percentiles {
  return percentilesIn(histogram, NS_PER_US);
}

function summaryIn(histogram: Histogram, unitNs: number): Summary {
  return { ...percentilesIn(histogram, unitNs), mean: Math.round(histogram.mean) / unitNs };
}

/** Percentiles, mean (ms) and count. Of an empty histogram: all zero. */
export function summaryMs(histogram: Histogram): Summary {
  return summaryIn(histogram, NS_PER_MS);
}

/** Percentiles, mean (µs) and count. Of an empty histogram: all zero. */
export function summaryUs(histogram: Histogram): Summary {
  return summaryIn(histogram, NS_PER_US);
}

/**
 * The percentile distribution as text, in the format of HdrHistogram's plotters (`.hgrm`).
 * Values are nanoseconds divided by `unitDivisor`: 1e6 for milliseconds. An empty histogram gives header and footer only.
 */
export function hgrm(histogram: Histogram, unitDivisor: number = NS_PER_MS): string {
  if (!(unitDivisor > 0 && unitDivisor < Infinity)) {
    throw new RangeError(`hgrm: unitDivisor must be a positive number of nanoseconds, got ${unitDivisor}`);
  }
  return histogram.outputPercentileDistribution(HGRM_TICKS, unitDivisor);
}
