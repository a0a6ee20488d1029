/** `rubato simulate`: policies side by side under one load, in virtual time. */
import { InvalidOptionError } from '../model/errors.js';
import { type BarChart, type ColumnChart, plotPage } from '../report/plot.js';
import { Progress } from '../report/progress.js';
import { fixed, percent, short, si } from '../report/units.js';
import { largestScale, meanScale } from '../sim/segments.js';
import { checkSimulation, offeredOverTime } from '../sim/simulate.js';
import type { Workload } from '../sim/workload.js';
import { countBefore, type Recorded, recordedOf, type TraceFlags } from './recorded.js';
import { boundsText, commonFigures, headOf, latencyFigures, type Page, type PolicyReport, printPolicies, reportPolicy, type SimulationReport, sizeText, speedFigure } from './simulation-report.js';
import { PolicyPool, type RateFlags, rateOf, setupOf, type SimulationFlags } from './simulation-setup.js';

export interface SimulateFlags extends SimulationFlags, RateFlags, TraceFlags {}

export interface SimulateReport extends SimulationReport {
  /** What was simulated, in one line. */
  readonly title: string;
  readonly seed: number;
  /** Offered requests per second in equal parts of the counted seconds; null where the rate is constant. */
  readonly offeredOverTime: readonly number[] | null;
}

const DEFAULT_SECONDS = 60;
/** The rate meter's window: before it is full, target sizes are guesses. */
export const DEFAULT_WARM_UP_SECONDS = 5;
/** More policies than this would make a page of column charts without end. */
const MOST_COLUMN_CHARTS = 12;
const OFFERED_PARTS = 60;

interface Load {
  readonly ratePerSecond: number;
  readonly seconds: number;
  readonly warmupSeconds: number;
  readonly trace: { readonly traceNs: Float64Array; readonly traceModels: Int32Array } | null;
  readonly text: string;
}

export async function simulateReport(flags: SimulateFlags): Promise<SimulateReport> {
  const setup = setupOf(flags);
  const { policies, margins } = setup;
  const recorded = recordedOf(flags, setup.workload, flags.seed);
  const workload = recorded?.workload ?? setup.workload;
  const { ratePerSecond, seconds, warmupSeconds, trace, text } = recorded === null ? plainLoad(flags, workload) : traceLoad(flags, recorded);
  const options = { workload, gpus: workload.gpus, ratePerSecond, seconds, warmupSeconds, seed: flags.seed, margins };
  checkSimulation(options);
  const progress = new Progress(workload.name, policies.length);
  const pool = new PolicyPool(setup, (runs) => progress.update(runs, `${runs} of ${policies.length} policies`));
  progress.update(0, 'simulating');
  try {
    const results = await Promise.all(policies.map(async (policy) => pool.runnerOf(policy, trace ?? {})(options)));
    return {
      title: `${workload.name}: ${sizeText(workload)}, ${text}`,
      ...headOf(workload, seconds, warmupSeconds),
      seed: flags.seed,
      offeredOverTime: trace === null && workload.segments.length === 0 ? null : offeredOverTime({ ...options, ...trace }, OFFERED_PARTS),
      policies: results.map((result, k) => reportPolicy(policies[k]!, result.offered / seconds, [result], pool.simulatedSecondsPerSecond(policies[k]!))),
    };
  } finally {
    progress.end();
    await pool.stop();
  }
}

function plainLoad(flags: SimulateFlags, workload: Workload): Load {
  const ratePerSecond = rateOf(flags, workload);
  return {
    ratePerSecond,
    seconds: flags.seconds ?? workload.seconds ?? DEFAULT_SECONDS,
    warmupSeconds: flags.warmup ?? DEFAULT_WARM_UP_SECONDS,
    trace: null,
    text: rateText(ratePerSecond, workload),
  };
}

function rateText(ratePerSecond: number, { segments }: Workload): string {
  if (segments.length === 0) return `${si(ratePerSecond)} requests/s`;
  return `${si(ratePerSecond * meanScale(segments))} requests/s on average, at most ${si(ratePerSecond * largestScale(segments))}`;
}

/** All of the trace, without a warm-up, unless the flags say otherwise. */
function traceLoad(flags: SimulateFlags, { path, speed, timesNs, models }: Recorded): Load {
  if (flags.rate !== undefined) throw new InvalidOptionError('--rate', 'a trace has its own; change it with --speed');
  if (flags.load !== undefined) throw new InvalidOptionError('--load', 'a trace has its own; change it with --speed');
  const warmupSeconds = flags.warmup ?? 0;
  const wholeSeconds = Math.max(1, Math.ceil(timesNs.at(-1)! / 1e9 + 1e-9));
  const seconds = flags.seconds ?? wholeSeconds - warmupSeconds;
  if (!(seconds > 0)) throw new InvalidOptionError('--warmup', `got ${warmupSeconds}, must be shorter than the trace, which takes ${wholeSeconds} s at speed ${speed}`);
  const fromNs = warmupSeconds * 1e9;
  const counted = countBefore(timesNs, fromNs + seconds * 1e9) - countBefore(timesNs, fromNs);
  if (counted === 0) throw new InvalidOptionError('--trace', `no request of ${path} arrives within the counted seconds, ${warmupSeconds} to ${warmupSeconds + seconds}`);
  return { ratePerSecond: counted / seconds, seconds, warmupSeconds, trace: { traceNs: timesNs, traceModels: models }, text: `${counted} recorded arrivals at speed ${speed}` };
}

export function printSimulate(report: SimulateReport, page: Page): void {
  const models = report.policies[0]!.models.length;
  const title = `${report.title}; ${short(report.seconds)} s simulated${report.warmupSeconds > 0 ? ` after ${short(report.warmupSeconds)} s of warm-up` : ''}, seed ${report.seed}`;
  const notes = `Bad: dropped or late, of all offered. Speed: simulated seconds per second, one thread. For comparison: ${boundsText(report)}.`;
  printPolicies(page, title, report.policies, [
    ['offered /s', ({ rate }) => si(rate)],
    ['goodput /s', ({ goodput }) => si(goodput)],
    ...commonFigures(models),
    ...latencyFigures(models),
    speedFigure,
  ], notes);
}

/** Good, late and dropped per policy, and how busy each GPU was. */
export function plotSimulate(report: SimulateReport): string {
  const bars: BarChart = {
    kind: 'bars',
    title: 'Requests per second',
    note: 'What became of the offered requests.',
    bars: report.policies.map((policy) => outcomeBar(policy)),
    marks: [],
    legend: [['good', 'good'], ['late', 'late'], ['dropped', 'dropped']],
  };
  const busy = report.policies.slice(0, MOST_COLUMN_CHARTS).map((policy): ColumnChart => ({
    kind: 'columns',
    title: `Busy share of each GPU: ${policy.policy}`,
    note: `${fixed(policy.meanBusyGpus, 2)} busy on average, ${policy.gpusUsed} of ${report.gpus} used, mean batch ${fixed(policy.meanBatch, 1)}.`,
    shares: policy.busyShare,
    what: 'GPU',
  }));
  const subtitle = `${report.title}; ${short(report.seconds)} s simulated, seed ${report.seed}; ${boundsText(report)}.`;
  return plotPage({ title: `rubato simulate ${report.workload}`, subtitle, charts: [bars, ...offeredChart(report), ...busy] });
}

/** Nothing where the rate is constant. */
function offeredChart({ offeredOverTime: rates, seconds }: SimulateReport): ColumnChart[] {
  if (rates === null) return [];
  const most = Math.max(...rates);
  const note = `Each part is ${short(seconds / rates.length)} s; 100 % are ${si(most)} requests/s.`;
  return [{ kind: 'columns', title: 'Offered requests over time', note, shares: rates.map((rate) => (most === 0 ? 0 : rate / most)), what: 'part' }];
}

function outcomeBar({ policy, offered, good, late, rate, badRate }: PolicyReport): BarChart['bars'][number] {
  const part = (count: number): number => (offered === 0 ? 0 : (rate * count) / offered);
  const title = (count: number, word: string): string => `${policy}: ${si(part(count))}/s ${word}`;
  const dropped = offered - good - late;
  return {
    label: policy,
    segments: [
      { value: part(good), tone: 'good', title: title(good, 'good') },
      { value: part(late), tone: 'late', title: title(late, 'late') },
      { value: part(dropped), tone: 'dropped', title: title(dropped, 'dropped') },
    ],
    text: `${si(part(good))}/s, ${percent(badRate)} bad`,
  };
}
