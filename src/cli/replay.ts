/** `rubato simulate --trace RECORDING`: recorded traffic as it was, and what it would have been with something changed. */
import { availableParallelism } from 'node:os';
import { basename } from 'node:path';
import { Piscina } from 'piscina';
import { formatDurationNs, parseDurationNs, parsePositiveDurationNs } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { Progress } from '../report/progress.js';
import { fixed, percent, short } from '../report/units.js';
import { policyName } from '../sim/own-policies.js';
import { type Recording, readRecording, type RecordedTotals } from '../sim/recording.js';
import { type Change, differenceOf, type Figures, figuresOf, NO_CHANGE, recordedFigures, recordedPolicy, type Replay, replayOf, workloadOf } from '../sim/replay.js';
import type { SimulationMargins, SimulationResult } from '../sim/result.js';
import { checkSimulation } from '../sim/simulate.js';
import type { Answer, ReplayTask } from './policy.worker.js';
import { plotSimulate, type SimulateFlags } from './simulate.js';
import { answered } from './simulation-setup.js';
import { type Figure, headOf, type Page, type PolicyReport, printPolicies, reportPolicy, type SimulationHead } from './simulation-report.js';

export interface ReplayFlags extends SimulateFlags {
  /** MODEL=DURATION */
  slo?: readonly string[];
  sloScale?: number;
}

/** Whether a flag was given, where it has a default that is not a recording's. */
export type IsGiven = (flag: keyof ReplayFlags) => boolean;

/** One simulated run: the figures to compare, and the report of any simulated policy. */
export interface ReplayedRun extends PolicyReport, Figures {
  readonly gpus: number;
}

export interface WhatIf extends ReplayedRun {
  /** From the baseline to this. */
  readonly difference: Figures;
}

export interface ReplayReport extends SimulationHead {
  readonly title: string;
  readonly recording: { readonly file: string; readonly requests: number; readonly isWhole: boolean; readonly totals: RecordedTotals | null };
  readonly change: { readonly gpus: number | null; readonly speed: number; readonly sloScale: number; readonly slosMs: Readonly<Record<string, number>> };
  /** What happened when it was recorded; null when the recording was cut off. */
  readonly recorded: Figures | null;
  /** The recording simulated as it was. */
  readonly baseline: ReplayedRun;
  readonly whatIfs: readonly WhatIf[];
  readonly notes: readonly string[];
}

/** Flags that a recording answers itself. */
const NOT_FOR_RECORDINGS = ['workload', 'arrivals', 'rate', 'load', 'timeColumn', 'seconds', 'warmup'] as const;

/** @throws InvalidOptionError that names the flag, or the file and the line. */
export async function replayReport(flags: ReplayFlags, file: string, isGiven: IsGiven): Promise<ReplayReport> {
  for (const flag of NOT_FOR_RECORDINGS) {
    if (isGiven(flag)) throw new InvalidOptionError(`--${flag.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`, `${file} is a recording, which has its own models and times; leave it out`);
  }
  const change = changeOf(flags);
  const policies = isGiven('policy') ? [...new Set(flags.policy.split(',').map((name) => policyName(name.trim(), '--policy')))] : null;
  const recording = readRecording(file);
  const margins = marginsOf(flags, recording, isGiven);
  const before = replayOf(recording, NO_CHANGE, margins);
  const after = replayOf(recording, change, margins);
  for (const replay of [before, after]) checkReplay(replay);
  const isChanged = change.gpus !== null || change.speed !== 1 || change.sloScale !== 1 || change.slosNs.size > 0;
  const tasks: ReplayTask[] = (policies ?? (isChanged ? [null] : [])).map((policy) => ({ replay: after, policy }));
  const [baseline, ...runs] = await runAll([{ replay: before, policy: null }, ...tasks], basename(file));
  const { totals } = recording;
  return {
    title: titleOf(recording, change),
    ...headOf({ ...workloadOf(before), name: basename(file) }, before.seconds, 0),
    recording: { file, requests: recording.timesNs.length, isWhole: totals !== null, totals },
    change: { ...change, slosMs: Object.fromEntries([...change.slosNs].map(([name, ns]) => [name, ns / 1e6])) },
    recorded: totals === null ? null : recordedFigures(totals),
    baseline: baseline!,
    whatIfs: runs.map((run) => ({ ...run, difference: differenceOf(run, baseline!) })),
    notes: notesOf(recording),
  };
}

function changeOf({ gpus, speed, sloScale, slo }: ReplayFlags): Change {
  const slosNs = new Map<string, number>();
  for (const given of slo ?? []) {
    const at = given.lastIndexOf('=');
    if (at < 1) throw new InvalidOptionError('--slo', `got "${given}", must be MODEL=DURATION such as r50=20ms`);
    const time = given.slice(at + 1).trim();
    slosNs.set(given.slice(0, at).trim(), parsePositiveDurationNs(time !== '' && Number.isFinite(Number(time)) ? Number(time) : time, '--slo'));
  }
  return { gpus: gpus ?? null, speed, sloScale: sloScale ?? 1, slosNs };
}

/** Those of the recording, as far as the flags do not say otherwise. */
function marginsOf(flags: ReplayFlags, { margins }: Recording, isGiven: IsGiven): SimulationMargins {
  const margin = (flag: 'control' | 'transfer' | 'response' | 'jitter', recordedNs: number): number => (isGiven(flag) ? parseDurationNs(flags[flag], `--${flag}`) : recordedNs);
  return {
    controlNs: margin('control', margins.controlNs),
    transferNs: margin('transfer', margins.transferNs),
    responseNs: margin('response', margins.responseNs),
    jitterNs: margin('jitter', margins.jitterNs),
  };
}

function checkReplay(replay: Replay): void {
  checkSimulation({ workload: workloadOf(replay), gpus: replay.gpus, seconds: replay.seconds, warmupSeconds: 0, ratePerSecond: 1, seed: 1, margins: replay.margins });
}

async function runAll(tasks: readonly ReplayTask[], name: string): Promise<ReplayedRun[]> {
  const pool = new Piscina({ filename: new URL('./policy.worker.js', import.meta.url).href, minThreads: 1, maxThreads: availableParallelism(), concurrentTasksPerWorker: 1 });
  const progress = new Progress(name, tasks.length);
  let runs = 0;
  progress.update(0, 'replaying');
  try {
    return await Promise.all(tasks.map(async ({ replay, policy }) => {
      const { result, wallSeconds } = answered((await pool.run({ replay, policy }, { name: 'runRecorded' })) as Answer<SimulationResult>);
      progress.update(++runs, `${runs} of ${tasks.length} runs`);
      const report = reportPolicy(policy ?? recordedPolicy(replay.models), result.offered / result.seconds, [result], result.seconds / wallSeconds);
      return { ...report, ...figuresOf(result), gpus: replay.gpus };
    }));
  } finally {
    progress.end();
    await pool.destroy();
  }
}

function titleOf({ file, timesNs, gpus, models }: Recording, { gpus: otherGpus, speed, sloScale, slosNs }: Change): string {
  const what = [
    ...(otherGpus === null ? [] : [`${otherGpus} ${otherGpus === 1 ? 'GPU' : 'GPUs'}`]),
    ...[...slosNs].map(([name, ns]) => `SLO of ${name} ${formatDurationNs(ns)}`),
    ...(sloScale === 1 ? [] : [`SLOs × ${short(sloScale)}`]),
    ...(speed === 1 ? [] : [`speed ${short(speed)}`]),
  ];
  return `${basename(file)}: ${timesNs.length} requests in ${short(timesNs.at(-1)! / 1e9)} s, ${models.length} ${models.length === 1 ? 'model' : 'models'}, ${gpus} ${gpus === 1 ? 'GPU' : 'GPUs'}${what.length === 0 ? '' : `; what if: ${what.join(', ')}`}`;
}

/** What keeps the recorded figures and the simulated ones apart. */
function notesOf({ totals, timesNs, hasChanges }: Recording): string[] {
  const notes: string[] = [];
  const say = (count: number, text: string): void => void (count > 0 && notes.push(`${count} ${text}`));
  if (totals === null) notes.push('The recording was cut off: what happened is not known, and nothing after its last whole line.');
  say(totals?.lost ?? 0, 'requests are LOST: they came faster than they could be written, and are missing in every simulated figure.');
  say(totals?.refused ?? 0, 'requests were refused at once and are not in the recording.');
  say(totals?.cancelled ?? 0, 'requests were cancelled; simulated, they are not.');
  say(totals?.failed ?? 0, 'requests failed on their device; simulated, none does.');
  say((totals?.closed ?? 0) + (totals?.inFlight ?? 0), 'requests had not ended when the scheduler was closed.');
  if (totals?.stopped !== undefined) notes.push(`Recording ended early: ${totals.stopped}.`);
  if (totals !== null && totals.requests !== timesNs.length) notes.push(`The file says that it holds ${totals.requests} requests, it holds ${timesNs.length}.`);
  if (hasChanges) notes.push('Models or GPUs were changed while it was recorded; simulated are the most GPUs that there were, and each model as it was last, with its SLOs as they came.');
  return notes;
}

// ── the text for people ────────────────────────────────────────────────────────────────────────────────────────────

interface Column extends Figures {
  readonly policy: string;
  readonly difference: Figures | null;
}

export function printReplay(report: ReplayReport, page: Page): void {
  const { recorded, baseline, whatIfs, change } = report;
  const isPlain = whatIfs.length === 1 && whatIfs[0]!.policy === baseline.policy;
  const columns: Column[] = [
    ...(recorded === null ? [] : [{ ...recorded, policy: 'recorded', difference: null }]),
    { ...baseline, policy: 'baseline', difference: null },
    ...whatIfs.map((run) => ({ ...run, policy: isPlain ? 'what if' : run.policy })),
  ];
  const hint = whatIfs.length > 0 ? 'In brackets: the difference to the baseline.' : 'Change something with --gpus, --slo, --slo-scale, --speed or --policy.';
  const notes = [`Recorded: what happened. Baseline: the same, simulated (${baseline.policy}${whatIfs.length > 0 && change.gpus !== null ? `, ${baseline.gpus} GPUs` : ''}). ${hint} Bad: dropped or late, of all requests.`, ...report.notes];
  printPolicies(page, report.title, columns, figureRows(columns), notes.join('\n'));
}

function figureRows(columns: readonly Column[]): Figure<Column>[] {
  const row = (name: string, value: (figures: Figures) => number, text: (value: number) => string): Figure<Column> => [
    name,
    (column) => `${text(value(column))}${column.difference === null ? '' : ` (${signed(value(column.difference), text)})`}`,
  ];
  const reasons = [...new Set(columns.flatMap((column) => Object.keys(column.droppedByReason)))].filter((reason) => columns.some((column) => (column.droppedByReason[reason] ?? 0) > 0));
  return [
    row('requests', ({ requests }) => requests, short),
    row('good', ({ good }) => good, short),
    row('bad', ({ badRate }) => badRate, percent),
    row('late', ({ late }) => late, short),
    row('dropped', ({ dropped }) => dropped, short),
    ...reasons.map((reason) => row(`  ${reason}`, ({ droppedByReason }) => droppedByReason[reason] ?? 0, short)),
    row('mean batch', ({ meanBatch }) => meanBatch, (value) => fixed(value, 2)),
    row('GPU-seconds', ({ gpuSeconds }) => gpuSeconds, (value) => fixed(value, 2)),
    row('GPUs used', ({ gpusUsed }) => gpusUsed, short),
  ];
}

function signed(value: number, text: (value: number) => string): string {
  const size = text(Math.abs(value));
  return value === 0 || Number(size) === 0 ? '±0' : `${value > 0 ? '+' : '-'}${size}`;
}

/** The page of any simulated policies, with the baseline as the first. */
export function plotReplay(report: ReplayReport): string {
  const baseline = { ...report.baseline, policy: `baseline: ${report.baseline.policy}` };
  return plotSimulate({ ...report, seed: 1, offeredOverTime: null, policies: [baseline, ...report.whatIfs] });
}
