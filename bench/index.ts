/**
 * npm run bench [-- --runs N] [-- --json FILE]: the microbenchmarks in one table. Each figure is the median of N runs
 * (5), with the smallest and the largest beside it; the cases take turns, so that a noisy moment hits one run of many.
 */
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import Benchmark from 'benchmark';
import { renderTable } from '#rubato/report/table.js';
import { fixed, percent, short, si } from '#rubato/report/units.js';
import { describePromiseRun, type PromiseRun, runPromisePath } from './promise.js';
import { cases, transfer, type Case } from './ring.js';

/** Short runs: five of 0.1 s show more of the noise than one of 0.5 s. */
const RUN = { minTime: 0.015, maxTime: 0.06, minSamples: 5 };
const TRANSFER_BULKS = [8, 64, 512];
/** The floor of the promise path: results per second on one thread, and how late a timer beside it may be. */
const PROMISE_FLOOR = { perSecond: 1e6, timerLateP99Ms: 5 };
/** The floors of the ring: at bulk 64, records per second and the share of TypedArray.set. */
const FLOOR = { name: 'ring claimMany, bulk 64', perSecond: 200e6, share: 0.2 };

interface Figure {
  readonly name: string;
  readonly unit: string;
  readonly nsMedian: number;
  readonly nsMin: number;
  readonly nsMax: number;
  readonly perSecond: number;
  /** Time of the yardstick / time of this. */
  readonly shareOfSet: number | null;
  /** Of two threads. */
  readonly coresUsed: number | null;
}

const { values } = parseArgs({ options: { runs: { type: 'string', default: '5' }, json: { type: 'string' } } });
const runs = Number(values.runs);
if (!Number.isInteger(runs) || runs < 1) throw new RangeError(`--runs ${values.runs}: it must be a positive integer`);

const list = cases();
const samplesNs = list.map(() => [] as number[]);
for (let run = 0; run < runs; run++) list.forEach((each, n) => samplesNs[n]!.push(measureNs(each)));
const figures = list.map((each, n) => figureOf(each, samplesNs[n]!));
for (const bulk of TRANSFER_BULKS) figures.push(await transferFigure(bulk));
const promises: PromiseRun[] = [];
for (let run = 0; run < runs; run++) promises.push(await runPromisePath(2));
promises.sort((a, b) => a.perSecond - b.perSecond);
print(figures);
printPromises();
if (values.json !== undefined) writeJson(values.json, figures);

/** Nanoseconds per unit in one run. */
function measureNs({ name, times, run }: Case): number {
  // No setup or teardown: with them benchmark compiles the source text anew, without what it closes over.
  const benchmark = new Benchmark(name, run, RUN).run();
  if (benchmark.error !== undefined) throw new Error(`${name}: ${String(benchmark.error)}`);
  return (benchmark.stats.mean * 1e9) / times;
}

function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
}

function figureOf({ name, unit, yardstick }: Case, ns: readonly number[]): Figure {
  const of = list.findIndex((each) => each.name === yardstick);
  // Run by run, because both have seen the same moments of the machine.
  const shareOfSet = of < 0 ? null : median(ns.map((each, run) => samplesNs[of]![run]! / each));
  return { name, unit, ...spread(ns), shareOfSet, coresUsed: null };
}

async function transferFigure(bulk: number): Promise<Figure> {
  const transfers = [];
  for (let run = 0; run < runs; run++) transfers.push(await transfer(bulk));
  const coresUsed = median(transfers.map((each) => each.coresUsed));
  return {
    name: `ring, two threads, bulk ${bulk}`, unit: 'record', ...spread(transfers.map((each) => 1e9 / each.perSecond)), shareOfSet: null, coresUsed,
  };
}

function spread(ns: readonly number[]): Pick<Figure, 'nsMedian' | 'nsMin' | 'nsMax' | 'perSecond'> {
  const nsMedian = median(ns);
  return { nsMedian, nsMin: Math.min(...ns), nsMax: Math.max(...ns), perSecond: 1e9 / nsMedian };
}

function print(all: readonly Figure[]): void {
  const columns = ['what', 'ns each', 'min', 'max', 'per second', 'of set'].map((head) => ({ head }));
  const rows = all.map((each) => [
    each.name, fixed(each.nsMedian, 2), fixed(each.nsMin, 2), fixed(each.nsMax, 2), `${si(each.perSecond)} ${each.unit}s`,
    each.shareOfSet === null ? '' : percent(each.shareOfSet, 0),
  ]);
  console.log(renderTable(columns, rows));
  const cores = Math.min(...all.map((each) => each.coresUsed ?? Infinity));
  if (cores < 1.3) console.log(`The two threads had ${fixed(cores, 1)} cores: something else runs here, and their figures say nothing.`);
  const ring = all.find(({ name }) => name === FLOOR.name)!;
  const met = ring.perSecond >= FLOOR.perSecond && ring.shareOfSet! >= FLOOR.share;
  console.log(`\nMedian of ${short(runs)} runs; Node ${process.versions.node}, ${cpus()[0]?.model ?? 'unknown processor'}, ${cpus().length} cores.`);
  console.log(`Floor of the ring at bulk 64 (${si(FLOOR.perSecond)} records/s and ${percent(FLOOR.share, 0)} of set): ${met ? 'met' : 'missed'}.`);
}

function printPromises(): void {
  const run = promises[promises.length >> 1]!;
  const timerLateP99Ms = median(promises.map((each) => each.timerLateP99Ms));
  const met = run.perSecond >= PROMISE_FLOOR.perSecond && timerLateP99Ms <= PROMISE_FLOOR.timerLateP99Ms;
  console.log(`\nPromise path: ${describePromiseRun({ ...run, timerLateP99Ms })}; ${si(promises[0]!.perSecond)} to ${si(promises.at(-1)!.perSecond)}/s.`);
  console.log(`Floor (${si(PROMISE_FLOOR.perSecond)}/s, timer ${PROMISE_FLOOR.timerLateP99Ms} ms late at p99): ${met ? 'met' : 'missed'}.`);
}

function writeJson(file: string, all: readonly Figure[]): void {
  const text = `${JSON.stringify({ node: process.versions.node, cpu: cpus()[0]?.model ?? null, cores: cpus().length, runs, figures: all, promises }, null, 2)}\n`;
  if (file === '-') process.stdout.write(text);
  else writeFileSync(file, text);
}
