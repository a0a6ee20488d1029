/**
 * Measures groups of cases: each figure is the median of some runs. The cases of a group take turns, so that a noisy
 * moment of the machine hits one run of many, and a case is compared with its rivals run by run.
 */
import Benchmark from 'benchmark';

/** Something that takes nanoseconds. The package `benchmark` calls it as often as it takes to time it. */
export interface Case {
  readonly name: string;
  /** Units of work in one call: enough that the call itself costs nothing beside them. */
  readonly times: number;
  /** Does the work and returns a sum over its results, so that no compiler finds them useless. */
  readonly run: () => number;
  /** Whether what `calls` calls have returned in all is right. */
  readonly check: (sum: number, calls: number) => boolean;
  /** Names of rows of the same group that this one is compared with; the first is shown in the table. */
  readonly versus?: readonly string[];
}

/**
 * Something that takes two threads or the event loop: it times itself, and its results are put through the same statistics.
 * `benchmark` cannot: its deferred form counts one round through the event loop per unit, which is longer than what is
 * measured here, and it knows nothing of a unit that begins on one thread and ends on another.
 */
export interface TimedCase {
  readonly name: string;
  readonly measure: (quick: boolean) => Promise<Sample>;
  readonly versus?: readonly string[];
}

export interface Sample {
  readonly ns: number;
  /** What else was seen in this run, by name. */
  readonly also?: Readonly<Record<string, number>>;
}

export interface Group {
  /** For `--only`. */
  readonly name: string;
  readonly title: string;
  /** What is counted. */
  readonly unit: string;
  /** What the reader must know to compare the rows. */
  readonly note?: string;
  readonly open: () => Opened | Promise<Opened>;
}

/** The cases of a group, with all that they need. */
export interface Opened {
  readonly cases: readonly (Case | TimedCase)[];
  readonly close?: () => Promise<void>;
}

export interface Effort {
  readonly runs: number;
  readonly quick: boolean;
}

export interface Row {
  readonly name: string;
  readonly nsMedian: number;
  readonly nsMin: number;
  readonly nsMax: number;
  readonly perSecond: number;
  readonly nsRuns: readonly number[];
  /** Time of the rival / time of this row, median over the runs. */
  readonly versus: readonly { readonly rival: string; readonly ratio: number }[];
  readonly also: Readonly<Record<string, number>>;
}

/** Five short runs show more of the machine's noise than a long one. */
const USUAL = { minTime: 0.003, maxTime: 0.03, minSamples: 11 };
const QUICK = { minTime: 0.002, maxTime: 0.004, minSamples: 1 };

export async function measureGroup(group: Group, { runs, quick }: Effort): Promise<Row[]> {
  const { cases, close } = await group.open();
  try {
    const samples = cases.map(() => [] as Sample[]);
    for (let run = 0; run < runs; run++) {
      for (const [n, each] of cases.entries()) samples[n]!.push('run' in each ? measure(each, quick, run === 0) : await each.measure(quick));
    }
    return cases.map((each, n) => rowOf(each, samples[n]!, (rival) => samples[indexOf(cases, rival)]!));
  } finally {
    await close?.();
  }
}

function measure({ name, times, run, check }: Case, quick: boolean, cold: boolean): Sample {
  let sum = 0;
  let calls = 0;
  const call = (): void => {
    sum += run();
    calls++;
  };
  // For the compiler: `benchmark` counts its first calls, which find the code cold, when runs are as short as these.
  const warmUntilMs = performance.now() + (cold ? (quick ? 2 : 20) : 0);
  while (performance.now() < warmUntilMs) call();
  // No setup or teardown: with them benchmark compiles the source text anew, without what it closes over.
  const benchmark = new Benchmark(name, call, quick ? QUICK : USUAL).run();
  if (benchmark.error !== undefined) throw new Error(`${name}: ${String(benchmark.error)}`);
  if (!check(sum, calls)) throw new Error(`${name}: ${calls} calls gave ${sum}, which is wrong: what was timed did not do its work`);
  // Not the mean: one sample in which another program had the core would be most of it.
  return { ns: (median(benchmark.stats.sample) * 1e9) / times };
}

function indexOf(cases: readonly (Case | TimedCase)[], name: string): number {
  const index = cases.findIndex((each) => each.name === name);
  if (index < 0) throw new Error(`no case is called ${name}`);
  return index;
}

function rowOf({ name, versus = [] }: Case | TimedCase, samples: readonly Sample[], samplesOf: (rival: string) => readonly Sample[]): Row {
  const nsRuns = samples.map(({ ns }) => ns);
  const nsMedian = median(nsRuns);
  const also = Object.fromEntries(Object.keys(samples[0]?.also ?? {}).map((key) => [key, median(samples.map((each) => each.also![key]!))]));
  return {
    name, nsMedian, nsMin: Math.min(...nsRuns), nsMax: Math.max(...nsRuns), perSecond: 1e9 / nsMedian, nsRuns,
    versus: versus.map((rival) => ({ rival, ratio: median(samplesOf(rival).map(({ ns }, run) => ns / nsRuns[run]!)) })),
    also,
  };
}

export function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
}

/** A check for cases whose every call returns the same. */
export function always(expected: number): Case['check'] {
  return (sum, calls) => calls > 0 && sum === calls * expected;
}

/** Whole numbers below `limit` that look random and are the same every time. */
export function scrambled(count: number, limit: number): Float64Array {
  let state = 1;
  return Float64Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    return Math.floor(((state >>> 0) / 2 ** 32) * limit);
  });
}
