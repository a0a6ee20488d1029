/** From results of simulations to the JSON of `simulate`, `goodput` and `plan`, and to the figures of their tables. */
import { bold, columnsOf, dim, printable, renderTable, wantsColour, wrap } from '../report/table.js';
import { fixed, percent, short, si } from '../report/units.js';
import { badRate, type SimulationResult } from '../sim/result.js';
import { fluidBound, staggeredOptimum, type Workload } from '../sim/workload.js';

/** What is known before any policy has run. */
export interface SimulationHead {
  readonly workload: string;
  readonly gpus: number;
  /** Requests per second. */
  readonly staggeredOptimum: number;
  readonly fluidBound: number;
  readonly seconds: number;
  readonly warmupSeconds: number;
}

export interface SimulatedModelReport {
  readonly name: string;
  readonly offered: number;
  readonly good: number;
  readonly late: number;
  readonly dropped: number;
  readonly badRate: number;
  readonly meanBatch: number;
  /** Arrival → end on the device; mean over the seeds where there are several. */
  readonly latencyP50Ms: number;
  readonly latencyP99Ms: number;
}

/** One policy under one load: of several seeds together where there are several. */
export interface PolicyReport {
  readonly policy: string;
  /** Offered requests per second. */
  readonly rate: number;
  /** Good requests per second. */
  readonly goodput: number;
  readonly badRate: number;
  readonly offered: number;
  readonly good: number;
  readonly late: number;
  readonly droppedByReason: Readonly<Record<string, number>>;
  readonly batches: number;
  readonly meanBatch: number;
  /** GPUs busy at the same time, on average. */
  readonly meanBusyGpus: number;
  /** GPUs that ran anything. */
  readonly gpusUsed: number;
  /** Busy share (0 … 1) of each GPU. */
  readonly busyShare: readonly number[];
  /** How much faster than real time one thread was. */
  readonly simulatedSecondsPerSecond: number;
  readonly models: readonly SimulatedModelReport[];
}

export interface SimulationReport<T extends PolicyReport = PolicyReport> extends SimulationHead {
  readonly policies: readonly T[];
}

export function headOf(workload: Workload, seconds: number, warmupSeconds: number): SimulationHead {
  return { workload: workload.name, gpus: workload.gpus, staggeredOptimum: staggeredOptimum(workload), fluidBound: fluidBound(workload), seconds, warmupSeconds };
}

/** `results` differ in their seed only. Without any everything is 0. */
export function reportPolicy(policy: string, rate: number, results: readonly SimulationResult[], simulatedSecondsPerSecond: number): PolicyReport {
  const seconds = sum(results, (result) => result.seconds);
  const offered = sum(results, (result) => result.offered);
  const good = sum(results, (result) => result.good);
  const batches = sum(results, (result) => result.batches);
  const reasons = new Set(results.flatMap((result) => Object.keys(result.droppedByReason)));
  const gpus = results[0]?.busyNs.length ?? 0;
  const busyShare = Array.from({ length: gpus }, (_, gpu) => sum(results, (result) => result.busyNs[gpu]!) / 1e9 / seconds);
  return {
    policy,
    rate,
    goodput: ratio(good, seconds),
    badRate: badRate({ offered, good }),
    offered,
    good,
    late: sum(results, (result) => result.late),
    droppedByReason: Object.fromEntries([...reasons].map((reason) => [reason, sum(results, (result) => result.droppedByReason[reason] ?? 0)])),
    batches,
    meanBatch: ratio(sum(results, (result) => result.batched), batches),
    meanBusyGpus: sum(busyShare, (share) => share),
    gpusUsed: busyShare.filter((share) => share > 0).length,
    busyShare,
    simulatedSecondsPerSecond,
    models: (results[0]?.models ?? []).map(({ name }, model) => reportModel(name, results.map((result) => result.models[model]!))),
  };
}

function reportModel(name: string, parts: readonly SimulationResult['models'][number][]): SimulatedModelReport {
  const offered = sum(parts, (part) => part.offered);
  const good = sum(parts, (part) => part.good);
  return {
    name,
    offered,
    good,
    late: sum(parts, (part) => part.late),
    dropped: sum(parts, (part) => part.dropped),
    badRate: badRate({ offered, good }),
    meanBatch: ratio(sum(parts, (part) => part.batched), sum(parts, (part) => part.batches)),
    latencyP50Ms: sum(parts, (part) => part.latencyP50Ns) / parts.length / 1e6,
    latencyP99Ms: sum(parts, (part) => part.latencyP99Ns) / parts.length / 1e6,
  };
}

// ── the text for people ────────────────────────────────────────────────────────────────────────────────────────────

export interface Page {
  readonly write: (text: string) => void;
  readonly columns?: number;
}

/** A figure's name and what it is for one policy. */
export type Figure<T> = readonly [name: string, text: (policy: T) => string];

/** A title, one table with the policies side by side, and what it means. No line is longer than the terminal is wide. */
export function printPolicies<T extends { readonly policy: string }>(page: Page, title: string, policies: readonly T[], figures: readonly Figure<T>[], notes: string): void {
  const columns = page.columns ?? columnsOf();
  const colour = wantsColour();
  const heads = ['', ...policies.map(({ policy }) => policy.replace('+', '\n+'))];
  const rows = figures.map(([name, text]) => [name, ...policies.map(text)]);
  page.write(`${bold(wrap(printable(title), columns), colour)}\n\n`);
  page.write(`${renderTable(heads.map((head) => ({ head })), rows, { columns, colour })}\n\n`);
  page.write(`${dim(wrap(notes, columns), colour)}\n`);
}

/** Figures that every table has. */
export function commonFigures(models: number): Figure<PolicyReport>[] {
  const worst: Figure<PolicyReport> = ['worst model', ({ models: all }) => percent(Math.max(0, ...all.map((model) => model.badRate)))];
  return [
    ['bad', ({ badRate: bad, offered }) => (offered === 0 ? '–' : percent(bad))],
    ['  dropped', ({ good, late, offered }) => (offered === 0 ? '–' : percent((offered - good - late) / offered))],
    ['  late', ({ late, offered }) => (offered === 0 ? '–' : percent(late / offered))],
    ...(models > 1 ? [worst] : []),
    ['mean batch', ({ meanBatch, batches }) => (batches === 0 ? '–' : fixed(meanBatch, 1))],
    ['busy GPUs', ({ meanBusyGpus }) => fixed(meanBusyGpus, 2)],
    ['GPUs used', ({ gpusUsed }) => String(gpusUsed)],
  ];
}

export function latencyFigures(models: number): Figure<PolicyReport>[] {
  if (models > 1) return [];
  const latency = (key: 'latencyP50Ms' | 'latencyP99Ms') => ({ models: [model] }: PolicyReport) => (model === undefined || model.meanBatch === 0 ? '–' : `${short(model[key])} ms`);
  return [['latency p50', latency('latencyP50Ms')], ['latency p99', latency('latencyP99Ms')]];
}

export const speedFigure: Figure<PolicyReport> = ['speed', ({ simulatedSecondsPerSecond }) => (simulatedSecondsPerSecond === 0 ? '–' : `${si(simulatedSecondsPerSecond)} ×`)];

/** `8 GPUs, 3 models` */
export function sizeText(workload: Workload): string {
  const models = workload.models.length;
  return `${workload.gpus} ${workload.gpus === 1 ? 'GPU' : 'GPUs'}, ${models} ${models === 1 ? 'model' : 'models'}`;
}

export function boundsText({ staggeredOptimum: optimum, fluidBound: fluid }: SimulationHead): string {
  return `staggered optimum ${si(optimum)}/s, fluid bound ${si(fluid)}/s`;
}

function sum<T>(items: readonly T[], pick: (item: T) => number): number {
  return items.reduce((total, item) => total + pick(item), 0);
}

function ratio(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}
