/**
 * The report of a run: from plain totals to stable JSON, and from there to text that explains itself.
 *
 * The words: a request is *offered*; it is *refused* at once or *accepted*; an accepted one ends exactly once, as
 * completed, late, dropped, cancelled, failed or closed, or is still in flight when the totals are taken.
 * *Good* is completed: delivered within its deadline.
 */

import { availableParallelism, cpus, totalmem } from 'node:os';
import { RubatoError } from '../model/errors.js';
import { addCounts, emptyHistogram, percentilesMs, percentilesUs, sumCounts } from './histogram.js';
import type { BucketCounts, Histogram, Percentiles } from './histogram.js';
import { bold, columnsOf, dim, printable, renderTable, wantsColour, wrap } from './table.js';
import { fixed, percent, short, si } from './units.js';

export type DropReason = 'expired' | 'queue-full' | 'infeasible';

export const DROP_REASONS: readonly DropReason[] = ['expired', 'queue-full', 'infeasible'];

/** More rows than this are read by a program, from the JSON. */
const MODELS_SHOWN = 24;
const LABEL_WIDTH = 11;
/** At most this share may be bad in a load that counts as sustained. */
const SUSTAINED_BAD_RATE = 0.01;

const PERCENTILES = ['p50', 'p90', 'p99', 'p999', 'max'] as const;

/** A space that `wrap` does not break at. */
const NO_BREAK = '\u00a0';

// ── what goes in ───────────────────────────────────────────────────────────────────────────────────────────────────

/** One model's counters and histogram rows over the run. Rows that nobody measured may be left out. */
export interface ModelTotals {
  readonly name: string;
  /** Requests asked for, the refused ones included. */
  readonly offered: number;
  /** Turned away at once, never accepted. */
  readonly refused: number;
  readonly completed: number;
  readonly late: number;
  readonly dropped: Readonly<Record<DropReason, number>>;
  readonly cancelled: number;
  readonly failed: number;
  readonly closed: number;
  /** Batches that a device ran, and the requests in them. */
  readonly batches: number;
  readonly batchedRequests: number;
  /** Intended arrival to delivery at the client, of delivered requests (completed and late). */
  readonly latency?: BucketCounts | undefined;
  /** Arrival to start of the batch. */
  readonly queue?: BucketCounts | undefined;
  /** Start to end of the batch on its device. */
  readonly exec?: BucketCounts | undefined;
  /** End on the device to delivery at the client. */
  readonly delivery?: BucketCounts | undefined;
}

/** The machine that a run was made on; nothing that names it or its owner. */
export interface MachineFacts {
  readonly cpu: string;
  /** What this process may use. */
  readonly cores: number;
  readonly memoryGiB: number;
  readonly node: string;
  readonly platform: string;
  readonly arch: string;
  /** Nanoseconds per step of a fixed loop in the same run: tells a slow machine from a slow scheduler. */
  readonly referenceLoopNs?: number | undefined;
}

export interface RunTotals {
  /** What was run, in a few words: the first line of the printed report. */
  readonly title?: string | undefined;
  /** Length of the measured part. */
  readonly seconds: number;
  /** CPU time that the measured part took, user and system. */
  readonly cpuSeconds: number;
  readonly grants: number;
  /** What the GPUs could run at best, N·b/ℓ(b), in requests per second. */
  readonly gpuCapacityPerSecond: number;
  /** Busy time of each GPU, by number. */
  readonly gpuBusySeconds: ArrayLike<number>;
  /** Actual start of each batch − its planned exec. */
  readonly lateness?: BucketCounts | undefined;
  readonly models: readonly ModelTotals[];
  readonly machine?: MachineFacts | undefined;
}

// ── what comes out: the JSON of --json, documented key by key ──────────────────────────────────────────────────────

/** Counts of requests. `accepted = completed + late + dropped + cancelled + failed + closed + inFlight`. */
export interface OutcomeCounts {
  /** All that was asked for: `refused + accepted`. */
  readonly offered: number;
  readonly refused: number;
  readonly accepted: number;
  /** Delivered within the deadline: the good ones. */
  readonly completed: number;
  /** Delivered after the deadline. */
  readonly late: number;
  /** Given up by the scheduler: the sum of `droppedByReason`. */
  readonly dropped: number;
  readonly droppedByReason: Readonly<Record<DropReason, number>>;
  /** Given up by the caller. Not bad. */
  readonly cancelled: number;
  /** The device reported an error. */
  readonly failed: number;
  /** Ended because the scheduler was closed. Not bad. */
  readonly closed: number;
  /** Accepted and without an outcome when the totals were taken. */
  readonly inFlight: number;
  /** Share (0 … 1) of the offered that were refused, dropped, failed or late; 0 if none were offered. */
  readonly badRate: number;
}

export interface ModelReport extends OutcomeCounts {
  readonly name: string;
  /** The same number as `completed`. */
  readonly good: number;
  readonly offeredPerSecond: number;
  readonly goodRequestsPerSecond: number;
  /** Requests per batch; 0 if there was none. */
  readonly meanBatch: number;
  /** Intended arrival to delivery. */
  readonly latencyMs: Percentiles;
  /** Arrival to start of the batch. */
  readonly queueMs: Percentiles;
  /** On the device. */
  readonly execMs: Percentiles;
  /** End on the device to delivery. */
  readonly deliveryUs: Percentiles;
}

export interface RunReport extends OutcomeCounts {
  readonly title?: string;
  readonly seconds: number;
  /** Completed requests per second. */
  readonly goodRequestsPerSecond: number;
  /** The same number as `goodRequestsPerSecond`, under the field's word for it. */
  readonly goodput: number;
  readonly offeredPerSecond: number;
  /** Outcomes of every kind per second, good or bad: what the scheduler decided. */
  readonly decisionsPerSecond: number;
  readonly grantsPerSecond: number;
  /** What the GPUs could run at best; near it they are the limit, not the scheduler. */
  readonly gpuCapacityPerSecond: number;
  readonly meanBatch: number;
  readonly latencyMs: Percentiles;
  /** Actual start of a batch − its planned exec. */
  readonly latenessUs: Percentiles;
  /** GPUs that ran at least one batch. */
  readonly gpusUsed: number;
  readonly gpusTotal: number;
  /** GPUs busy at the same time, on average over the run. */
  readonly gpusBusyMean: number;
  /** CPU seconds per million decisions. */
  readonly cpuSecondsPerMillion: number;
  readonly models: readonly ModelReport[];
  readonly machine: MachineFacts;
}

// ── the way between ────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Builds the report. Throws RangeError where the run has no length, and RubatoError (`ERR_RUBATO_BROKEN_INVARIANT`)
 * where a model has more outcomes than accepted requests: then the counters are wrong and so is every figure.
 */
export function buildRunReport(input: RunTotals): RunReport {
  const { seconds } = input;
  if (!(seconds > 0 && seconds < Infinity)) throw new RangeError(`run report: seconds must be positive, got ${seconds}`);
  // One histogram for all conversions: a fresh one per figure costs more than the conversion.
  const scratch = emptyHistogram();
  const models = input.models.map((model) => reportModel(model, seconds, scratch));
  const counts = addOutcomes(models);
  const decisions = counts.accepted - counts.inFlight;
  const busySeconds = Array.from(input.gpuBusySeconds);
  return {
    ...(input.title === undefined ? {} : { title: input.title }),
    seconds,
    goodRequestsPerSecond: counts.completed / seconds,
    goodput: counts.completed / seconds,
    offeredPerSecond: counts.offered / seconds,
    decisionsPerSecond: decisions / seconds,
    grantsPerSecond: input.grants / seconds,
    gpuCapacityPerSecond: input.gpuCapacityPerSecond,
    meanBatch: ratio(sum(input.models, (model) => model.batchedRequests), sum(input.models, (model) => model.batches)),
    ...counts,
    latencyMs: percentilesMs(refill(scratch, sumCounts(input.models.flatMap(({ latency }) => latency ?? [])))),
    latenessUs: percentilesUs(refill(scratch, input.lateness)),
    gpusUsed: busySeconds.filter((busy) => busy > 0).length,
    gpusTotal: busySeconds.length,
    gpusBusyMean: sum(busySeconds, (busy) => busy) / seconds,
    cpuSecondsPerMillion: ratio(input.cpuSeconds, decisions / 1e6),
    models,
    machine: input.machine ?? machineFacts(),
  };
}

/** The machine that this process runs on. */
export function machineFacts(referenceLoopNs?: number): MachineFacts {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    node: process.version,
    platform: process.platform,
    arch: process.arch,
    ...(referenceLoopNs === undefined ? {} : { referenceLoopNs }),
  };
}

function reportModel(model: ModelTotals, seconds: number, scratch: Histogram): ModelReport {
  return {
    name: model.name,
    ...countOutcomes(model),
    good: model.completed,
    offeredPerSecond: model.offered / seconds,
    goodRequestsPerSecond: model.completed / seconds,
    meanBatch: ratio(model.batchedRequests, model.batches),
    latencyMs: percentilesMs(refill(scratch, model.latency)),
    queueMs: percentilesMs(refill(scratch, model.queue)),
    execMs: percentilesMs(refill(scratch, model.exec)),
    deliveryUs: percentilesUs(refill(scratch, model.delivery)),
  };
}

function countOutcomes(model: ModelTotals): OutcomeCounts {
  const { offered, refused, completed, late, cancelled, failed, closed } = model;
  const droppedByReason = { ...model.dropped };
  const dropped = sum(DROP_REASONS, (reason) => droppedByReason[reason]);
  const accepted = offered - refused;
  const ended = completed + late + dropped + cancelled + failed + closed;
  if (!(ended <= accepted)) {
    throw new RubatoError('ERR_RUBATO_BROKEN_INVARIANT', `model ${model.name}: ${ended} outcomes of ${accepted} accepted requests`);
  }
  const badRate = ratio(refused + dropped + failed + late, offered);
  return { offered, refused, accepted, completed, late, dropped, droppedByReason, cancelled, failed, closed, inFlight: accepted - ended, badRate };
}

function addOutcomes(parts: readonly OutcomeCounts[]): OutcomeCounts {
  const refused = sum(parts, (part) => part.refused);
  const offered = sum(parts, (part) => part.offered);
  const late = sum(parts, (part) => part.late);
  const dropped = sum(parts, (part) => part.dropped);
  const failed = sum(parts, (part) => part.failed);
  return {
    offered,
    refused,
    accepted: offered - refused,
    completed: sum(parts, (part) => part.completed),
    late,
    dropped,
    droppedByReason: {
      expired: sum(parts, (part) => part.droppedByReason.expired),
      'queue-full': sum(parts, (part) => part.droppedByReason['queue-full']),
      infeasible: sum(parts, (part) => part.droppedByReason.infeasible),
    },
    cancelled: sum(parts, (part) => part.cancelled),
    failed,
    closed: sum(parts, (part) => part.closed),
    inFlight: sum(parts, (part) => part.inFlight),
    badRate: ratio(refused + dropped + failed + late, offered),
  };
}

function refill(histogram: Histogram, counts: BucketCounts | undefined): Histogram {
  histogram.reset();
  return counts === undefined ? histogram : addCounts(histogram, counts);
}

function sum<T>(items: readonly T[], pick: (item: T) => number): number {
  return items.reduce((total, item) => total + pick(item), 0);
}

function ratio(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}

// ── the text for people ────────────────────────────────────────────────────────────────────────────────────────────

export interface PrintOptions {
  /** Columns of the terminal; default: those of stdout. */
  readonly columns?: number;
  /** Default: whether stdout wants colours. */
  readonly colour?: boolean;
  /** Most models to show one by one; default 24. The JSON has them all. */
  readonly models?: number;
}

interface Page {
  readonly columns: number;
  readonly colour: boolean;
  readonly write: (text: string) => void;
}

/** Prints a report through `write`, which is given whole lines. No line is longer than the terminal is wide. */
export function printRunReport(report: RunReport, write: (text: string) => void, options: PrintOptions = {}): void {
  const page: Page = { columns: options.columns ?? columnsOf(), colour: options.colour ?? wantsColour(), write };
  printHeadline(page, report);
  printTotals(page, report);
  printTimes(page, report);
  printModels(page, report, Math.max(1, options.models ?? MODELS_SHOWN));
  line(page, 'machine', machineText(report.machine));
}

function printHeadline(page: Page, report: RunReport): void {
  if (report.title !== undefined) page.write(`${dim(wrap(printable(report.title), page.columns), page.colour)}\n`);
  const headline =
    report.offered === 0
      ? 'No request was offered.'
      : `Goodput ${si(report.goodput)} requests/s: ${percent(report.completed / report.offered)} of ${si(report.offered)} offered in ${short(report.seconds)} s met their deadline.`;
  page.write(`${bold(wrap(headline, page.columns), page.colour)}\n`);
  explain(page, 'Goodput counts only the requests that finish within their deadline, per second.');
  page.write('\n');
}

function printTotals(page: Page, report: RunReport): void {
  line(page, 'offered', `${si(report.offeredPerSecond)}/s: ${countsText([['accepted', report.accepted], ['refused at once', report.refused]])}`);
  line(
    page,
    'outcomes',
    countsText([
      ['completed', report.completed],
      ['late', report.late],
      ['dropped', report.dropped],
      ['failed', report.failed],
      ['cancelled', report.cancelled],
      ['closed', report.closed],
      ['in flight', report.inFlight],
    ]),
  );
  line(page, 'bad', badText(report));
  line(
    page,
    'decisions',
    `${si(report.decisionsPerSecond)}/s of every outcome, ${si(report.grantsPerSecond)} grants/s, mean batch ${fixed(report.meanBatch, 1)}`,
  );
  line(
    page,
    'GPUs',
    `${report.gpusUsed} of ${report.gpusTotal} used, ${fixed(report.gpusBusyMean, 1)} busy on average; together they could run ${si(report.gpuCapacityPerSecond)} requests/s`,
  );
  line(page, 'CPU', `${short(report.cpuSecondsPerMillion)} s per million decisions`);
  page.write('\n');
}

function badText(counts: OutcomeCounts): string {
  const share = (count: number): string => percent(counts.offered === 0 ? 0 : count / counts.offered);
  const dropped = DROP_REASONS.filter((reason) => counts.droppedByReason[reason] > 0);
  const parts = [
    ...(counts.refused > 0 ? [`refused ${share(counts.refused)}`] : []),
    ...dropped.map((reason) => `dropped (${reason}) ${share(counts.droppedByReason[reason])}`),
    ...(counts.failed > 0 ? [`failed ${share(counts.failed)}`] : []),
    ...(counts.late > 0 ? [`late ${share(counts.late)}`] : []),
  ];
  const verdict = counts.badRate <= SUSTAINED_BAD_RATE ? 'sustained (at most 1 %)' : 'not sustained (more than 1 %)';
  const consists = parts.length === 0 ? 'none was refused, dropped, failed or late' : parts.map(unbroken).join(', ');
  return `${percent(counts.badRate)} of offered, ${verdict}: ${consists}`;
}

function printTimes(page: Page, report: RunReport): void {
  const heads = ['p50', 'p90', 'p99', 'p99.9', 'max'];
  const row = (name: string, unit: string, figures: Percentiles): string[] => [
    `${name} (${unit})`,
    ...PERCENTILES.map((key) => figure(figures, key)),
  ];
  table(page, ['', ...heads], [row('latency', 'ms', report.latencyMs), row('lateness', 'µs', report.latenessUs)]);
  explain(page, 'Latency: from the intended arrival of a request to its delivery.');
  explain(page, 'Lateness: how long after its planned moment a batch really started.');
  page.write('\n');
}

function printModels(page: Page, report: RunReport, shown: number): void {
  if (report.models.length === 0) return;
  const models = report.models.length > shown ? [...report.models].sort(worstFirst).slice(0, shown) : report.models;
  table(
    page,
    ['model', 'offered\n/s', 'good', 'mean\nbatch', 'latency\np50', 'latency\np99', 'latency\nmax', 'wait\np99', 'exec\np99', 'deliv.\np99'],
    models.map((model) => [
      model.name,
      si(model.offeredPerSecond),
      model.offered === 0 ? '–' : percent(model.good / model.offered, 1),
      fixed(model.meanBatch, 1),
      figure(model.latencyMs, 'p50'),
      figure(model.latencyMs, 'p99'),
      figure(model.latencyMs, 'max'),
      figure(model.queueMs, 'p99'),
      figure(model.execMs, 'p99'),
      figure(model.deliveryUs, 'p99'),
    ]),
  );
  if (models.length < report.models.length) {
    explain(page, `The ${models.length} models with the highest bad rate; ${report.models.length - models.length} more are in the JSON.`);
  }
  explain(page, 'Latency is the wait for its batch to start, the exec on the GPU and the delivery to the client; in ms, delivery in µs.');
  page.write('\n');
}

function machineText(machine: MachineFacts): string {
  const reference = machine.referenceLoopNs === undefined ? '' : `, reference loop ${short(machine.referenceLoopNs)} ns a step`;
  return `${printable(machine.cpu)}, ${machine.cores} cores, ${machine.memoryGiB} GiB, Node ${machine.node}, ${machine.platform} ${machine.arch}${reference}`;
}

function worstFirst(a: ModelReport, b: ModelReport): number {
  return b.badRate - a.badRate || b.offered - a.offered;
}

/** A figure that nothing was recorded for is a dash, not a zero. */
function figure(figures: Percentiles, key: (typeof PERCENTILES)[number]): string {
  return figures.count === 0 ? '–' : short(figures[key]);
}

/** Keeps the words of one item on one line; `line` puts the spaces back. */
function unbroken(text: string): string {
  return text.replaceAll(' ', NO_BREAK);
}

function countsText(counts: readonly (readonly [string, number])[]): string {
  return counts.map(([word, count]) => unbroken(`${word} ${si(count)}`)).join(', ');
}

function line(page: Page, label: string, text: string): void {
  const wrapped = wrap(label.padEnd(LABEL_WIDTH, NO_BREAK) + text, page.columns, LABEL_WIDTH).replaceAll(NO_BREAK, ' ');
  page.write(`${bold(wrapped.slice(0, LABEL_WIDTH), page.colour)}${wrapped.slice(LABEL_WIDTH)}\n`);
}

function explain(page: Page, text: string): void {
  page.write(`${dim(wrap(text, page.columns), page.colour)}\n`);
}

function table(page: Page, heads: readonly string[], rows: readonly (readonly string[])[]): void {
  page.write(`${renderTable(heads.map((head) => ({ head })), rows, page)}\n`);
}
