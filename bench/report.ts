/** The rows as a table for people and as JSON, and the floors that DESIGN.md sets. */
import { cpus, loadavg, totalmem } from 'node:os';
import { columnsOf, renderTable, wrap, type Column } from '#rubato/report/table.js';
import { fixed, percent, short, si } from '#rubato/report/units.js';
import { median, type Effort, type Group, type Row } from './harness.js';
import { PROMISE_ROW, TIMER_LATE_P99_MS } from './promise.js';
import { ringName, setName } from './ring.js';
import { CORES_USED } from './threads.js';

export interface Measured {
  readonly group: Group;
  readonly rows: readonly Row[];
}

/** Two threads that shared one core have measured the operating system. */
const LEAST_CORES = 1.3;

export function textOf({ group, rows }: Measured): string {
  const columns = [`per ${group.unit}`, 'ns', 'min–max', 'per second'].map((head): Column => ({ head }));
  columns.push({ head: 'beside', align: 'left' });
  const cells = rows.map(({ name, nsMedian, nsMin, nsMax, perSecond, versus }) => [
    name, nanoseconds(nsMedian), `${nanoseconds(nsMin)}–${nanoseconds(nsMax)}`, si(perSecond),
    versus.length === 0 ? '' : `${times(versus[0]!.ratio)} ${rivalWord(versus[0]!.rival)}`,
  ]);
  const notes = [...(group.note === undefined ? [] : [group.note]), ...coresNote(rows), ...timerNotes(rows)];
  return [`${group.name}: ${group.title}`, renderTable(columns, cells), ...notes.map((note) => wrap(note, columnsOf()))].join('\n');
}

/** Only of what looks all the time: who sleeps in between does not take a core. */
function coresNote(rows: readonly Row[]): string[] {
  const cores = Math.min(...rows.filter(({ name }) => name.startsWith('ring') || name.endsWith('awake')).map(({ also }) => also[CORES_USED] ?? Infinity));
  return cores < LEAST_CORES ? [`The two threads had ${fixed(cores, 1)} cores: something else runs here, and these figures say little.`] : [];
}

function timerNotes(rows: readonly Row[]): string[] {
  return rows.filter(({ also }) => TIMER_LATE_P99_MS in also).map(({ name, also }) => `${name}: a 10 ms timer beside it is ${short(also[TIMER_LATE_P99_MS]!)} ms late at p99; ` +
    `${fixed(also['cpuNsPerRequest']!, 0)} ns of CPU per request, all threads; ${percent(also['badShare']!)} bad.`);
}

function nanoseconds(ns: number): string {
  return ns >= 99.95 ? Math.round(ns).toString() : fixed(ns, ns >= 9.995 ? 1 : 2);
}

function times(ratio: number): string {
  return `${ratio >= 99.95 ? Math.round(ratio) : fixed(ratio, ratio >= 9.995 ? 1 : 2)}×`;
}

/** 'flatqueue, 64 GPUs' is called flatqueue beside a row of 64 GPUs. */
function rivalWord(rival: string): string {
  return rival.split(/[ ,:]/, 1)[0]!;
}

// ── floors ─────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Floor {
  readonly what: string;
  readonly group: string;
  readonly row: string;
  readonly measure: (row: Row) => number;
  readonly limit: number;
  /** Whether the limit is the most that may be, or the least. */
  readonly most?: true;
  readonly show: (value: number) => string;
}

const FLOORS: readonly Floor[] = [
  { what: 'ring, 32 B, bulk 64, records/s', group: 'ring', row: ringName(32, 64), measure: (row) => row.perSecond, limit: 200e6, show: si },
  { what: 'ring, 32 B, bulk 64, of TypedArray.set', group: 'ring', row: ringName(32, 64), measure: shareOfSet, limit: 0.2, show: (share) => percent(share, 0) },
  { what: 'histogram record, ns', group: 'histogram', row: 'histogram', measure: (row) => row.nsMedian, limit: 8, most: true, show: short },
  { what: 'promises, submit to result, per second', group: 'promise', row: PROMISE_ROW, measure: (row) => row.perSecond, limit: 2e6, show: si },
  { what: 'promises, timer late at p99, ms', group: 'promise', row: PROMISE_ROW, measure: (row) => row.also[TIMER_LATE_P99_MS]!, limit: 5, most: true, show: short },
];

function shareOfSet(row: Row): number {
  return row.versus.find(({ rival }) => rival === setName(32, 64))!.ratio;
}

interface FloorResult {
  readonly what: string;
  readonly limit: number;
  readonly bound: 'least' | 'most';
  readonly measured: number;
  readonly met: boolean;
  readonly text: string;
}

/** Those of the groups that were measured. */
function floorsOf(all: readonly Measured[]): FloorResult[] {
  return FLOORS.flatMap(({ what, group, row, measure, limit, most, show }) => {
    const found = all.find((each) => each.group.name === group)?.rows.find(({ name }) => name === row);
    if (found === undefined) return [];
    const measured = measure(found);
    const met = most === true ? measured <= limit : measured >= limit;
    const bound = most === true ? 'most' as const : 'least' as const;
    return [{ what, limit, bound, measured, met, text: `${met ? 'met   ' : 'MISSED'} ${what}: ${show(measured)} (at ${bound} ${show(limit)})` }];
  });
}

export function closingText(all: readonly Measured[], effort: Effort): string {
  const lines = floorsOf(all).map(({ text }) => text);
  if (lines.length > 0) lines.unshift('Floors:');
  const { processor, cores, node, loadAverage } = machine();
  lines.push(wrap(`Median of ${effort.runs} ${effort.quick ? 'short runs, which say little' : 'runs'}; Node ${node}, ${processor}, ${cores} cores, load ${short(loadAverage)}.`, columnsOf()));
  return lines.join('\n');
}

function machine(): { processor: string; cores: number; memoryBytes: number; platform: string; node: string; v8: string; loadAverage: number } {
  const all = cpus();
  return {
    processor: all[0]?.model.trim() ?? 'unknown processor', cores: all.length, memoryBytes: totalmem(), platform: `${process.platform} ${process.arch}`,
    node: process.versions.node, v8: process.versions.v8, loadAverage: loadavg()[0]!,
  };
}

/** `referenceNs`: the step of the group `reference`, which is always measured. */
export function jsonOf(all: readonly Measured[], reference: Row, effort: Effort): string {
  const groups = all.map(({ group: { name, title, unit, note }, rows }) => ({ name, title, unit, note: note ?? null, rows }));
  const floors = floorsOf(all).map(({ text: _, ...floor }) => floor);
  return `${JSON.stringify({ machine: machine(), referenceNs: median(reference.nsRuns), ...effort, groups, floors }, null, 2)}\n`;
}
