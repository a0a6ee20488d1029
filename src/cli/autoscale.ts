/** `rubato autoscale`: a pool that follows the scheduler's advice through a day, beside the fewest GPUs that would do. */
import { parseDurationNs, parsePositiveDurationNs } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { type LineChart, plotPage } from '../report/plot.js';
import { Progress } from '../report/progress.js';
import { fixed, percent, short, si } from '../report/units.js';
import { type AutoscaleResult, oracle } from '../sim/autoscale.js';
import { ownPolicy } from '../sim/own-policies.js';
import { badRate } from '../sim/result.js';
import { checkSimulation } from '../sim/simulate.js';
import { dayShape } from '../sim/varying-load.js';
import { type SearchFlags, seedsOf } from './goodput.js';
import { DEFAULT_WARM_UP_SECONDS } from './simulate.js';
import { type Page, printPolicies, sizeText } from './simulation-report.js';
import { PolicyPool, type RateFlags, rateOf, setupOf } from './simulation-setup.js';

export interface AutoscaleFlags extends SearchFlags, RateFlags {
  minute: string;
  startup: string;
  mostGpus?: number;
  epoch: string;
  hysteresis: number;
}

/** One minute of the day. */
export interface AutoscaleMinute {
  readonly rate: number;
  /** Paid for, in the mean. */
  readonly gpus: number;
  readonly oracleGpus: number;
  readonly busyGpus: number;
  readonly badRate: number;
  readonly wanted: number;
  readonly reason: string;
}

export interface AutoscalePolicy {
  readonly policy: string;
  readonly offered: number;
  readonly good: number;
  readonly badRate: number;
  readonly gpuHours: number;
  readonly oracleGpuHours: number;
  /** As many as the oracle's most, all day. */
  readonly fixedGpuHours: number;
  readonly shareOfOracle: number;
  readonly added: number;
  readonly removed: number;
  readonly mostGpus: number;
  readonly minutes: readonly AutoscaleMinute[];
}

export interface AutoscaleReport {
  readonly title: string;
  readonly workload: string;
  readonly peakRate: number;
  readonly minuteSeconds: number;
  readonly startupSeconds: number;
  readonly epochSeconds: number;
  readonly hysteresis: number;
  readonly seed: number;
  readonly policies: readonly AutoscalePolicy[];
}

const DEFAULT_PLAN_SECONDS = 10;
/** What `--most-gpus` is without being given. */
const ROOM = 2;

export async function autoscaleReport(flags: AutoscaleFlags): Promise<AutoscaleReport> {
  const setup = setupOf(flags);
  const { workload, margins } = setup;
  const policies = setup.policies.map((name) => ownPolicy(name, '--policy'));
  const peakRate = rateOf(flags, workload);
  const stepSeconds = parsePositiveDurationNs(flags.minute, '--minute') / 1e9;
  const startupSeconds = parseDurationNs(flags.startup, '--startup') / 1e9;
  const advice = { epochNs: parsePositiveDurationNs(flags.epoch, '--epoch'), hysteresis: flags.hysteresis };
  const ratesPerSecond = dayShape().map((share) => share * peakRate);
  // What the first minute might need, and one.
  const gpus = 1 + Math.ceil((ratesPerSecond[0]! / peakRate) * workload.gpus);
  const mostGpus = flags.mostGpus ?? Math.max(gpus, ROOM * workload.gpus);
  if (mostGpus < gpus) throw new InvalidOptionError('--most-gpus', `got ${mostGpus}, the day begins with ${gpus}`);
  const planned = { workload, margins, seconds: flags.seconds ?? DEFAULT_PLAN_SECONDS, warmupSeconds: flags.warmup ?? DEFAULT_WARM_UP_SECONDS, seeds: seedsOf(flags) };
  checkSimulation({ ...planned, gpus: workload.gpus, ratePerSecond: peakRate, seed: flags.seed });
  const progress = new Progress(`a day of ${workload.name}`, 0);
  const pool = new PolicyPool(setup, (runs) => progress.update(runs, `${runs} runs`));
  progress.update(0, 'simulating');
  try {
    const found = await Promise.all(policies.map(async (policy) => {
      const common = { ratesPerSecond, stepSeconds, startupSeconds, gpus, mostGpus, margins, seed: flags.seed, advice, shards: setup.shards };
      const [day, fewest] = await Promise.all([pool.autoscale({ policy, ...common }), oracle(pool.runnerOf(policy.name), ratesPerSecond, planned)]);
      return policyReport(policy.name, day, fewest, stepSeconds);
    }));
    return {
      title: `${workload.name}: a day with a peak of ${si(peakRate)} requests/s, for ${sizeText(workload)}`,
      workload: workload.name,
      peakRate,
      minuteSeconds: stepSeconds,
      startupSeconds,
      epochSeconds: advice.epochNs / 1e9,
      hysteresis: advice.hysteresis,
      seed: flags.seed,
      policies: found,
    };
  } finally {
    progress.end();
    await pool.stop();
  }
}

/** A simulated second counts as so much of the day as it stands for. */
function policyReport(policy: string, day: AutoscaleResult, fewest: readonly number[], stepSeconds: number): AutoscalePolicy {
  const gpuHours = day.gpuSeconds / stepSeconds / 60;
  const oracleGpuHours = fewest.reduce((sum, gpus) => sum + gpus, 0) / 60;
  return {
    policy,
    offered: day.offered,
    good: day.good,
    badRate: badRate(day),
    gpuHours,
    oracleGpuHours,
    fixedGpuHours: (Math.max(...fewest) * fewest.length) / 60,
    shareOfOracle: gpuHours / oracleGpuHours,
    added: day.added,
    removed: day.removed,
    mostGpus: day.mostGpus,
    minutes: day.steps.map((step, k) => ({
      rate: step.ratePerSecond,
      gpus: step.gpus,
      oracleGpus: fewest[k]!,
      busyGpus: step.busyShare.reduce((sum, share) => sum + share, 0),
      badRate: badRate(step),
      wanted: step.wanted,
      reason: step.reason,
    })),
  };
}

function conditionsOf({ minuteSeconds, startupSeconds, epochSeconds, hysteresis }: AutoscaleReport): string {
  return `A minute is simulated as ${short(minuteSeconds)} s, so the load changes ${short(60 / minuteSeconds)} times as fast as in a real day; a GPU takes ${short(startupSeconds)} simulated s to start and is paid for meanwhile; epochs of ${short(epochSeconds)} s, hysteresis ${hysteresis}.`;
}

export function printAutoscale(report: AutoscaleReport, page: Page): void {
  const notes = `${conditionsOf(report)} The oracle has, in each minute, the fewest GPUs that plan finds for its load. Fixed: as many as the oracle's most, all day.`;
  printPolicies(page, `${report.title}, seed ${report.seed}`, report.policies, [
    ['bad', ({ badRate: bad }) => percent(bad)],
    ['GPU-hours', ({ gpuHours }) => fixed(gpuHours, 1)],
    ['  oracle', ({ oracleGpuHours }) => fixed(oracleGpuHours, 1)],
    ['  of the oracle', ({ shareOfOracle }) => percent(shareOfOracle, 1)],
    ['  fixed', ({ fixedGpuHours }) => fixed(fixedGpuHours, 1)],
    ['GPUs added', ({ added }) => String(added)],
    ['GPUs removed', ({ removed }) => String(removed)],
    ['most GPUs', ({ mostGpus }) => String(mostGpus)],
  ], notes);
}

const HOURS = ['0 h', '4 h', '8 h', '12 h', '16 h', '20 h', '24 h'];

/** The load, the GPUs and what was bad, over the day. */
export function plotAutoscale(report: AutoscaleReport): string {
  const [first] = report.policies;
  const load: LineChart = { kind: 'lines', title: 'Load', note: 'Requests per second that are offered.', ticks: HOURS, text: si, lines: [{ tone: 'good', label: 'offered', values: first!.minutes.map(({ rate }) => rate) }] };
  const charts = report.policies.flatMap(({ policy, minutes, badRate: bad, gpuHours, oracleGpuHours }): LineChart[] => [
    {
      kind: 'lines',
      title: `GPUs: ${policy}`,
      note: `${fixed(gpuHours, 1)} GPU-hours; the oracle has ${fixed(oracleGpuHours, 1)}.`,
      ticks: HOURS,
      text: (value) => short(value),
      lines: [
        { tone: 'good', label: 'paid for', values: minutes.map(({ gpus }) => gpus) },
        { tone: 'mark', label: 'oracle', values: minutes.map(({ oracleGpus }) => oracleGpus) },
        { tone: 'busy', label: 'busy', values: minutes.map(({ busyGpus }) => busyGpus) },
      ],
    },
    { kind: 'lines', title: `Bad: ${policy}`, note: `${percent(bad)} over the day.`, ticks: HOURS, text: (value) => percent(value, 1), lines: [{ tone: 'dropped', label: 'bad', values: minutes.map((minute) => minute.badRate) }] },
  ]);
  return plotPage({ title: `rubato autoscale ${report.workload}`, subtitle: `${report.title}. ${conditionsOf(report)}`, charts: [load, ...charts] });
}
