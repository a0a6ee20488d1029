/** `rubato goodput`: the highest rate that each policy sustains with at most 1 % bad. */
import { InvalidOptionError } from '../model/errors.js';
import { type Mark, plotPage } from '../report/plot.js';
import { Progress } from '../report/progress.js';
import { percent, short, si } from '../report/units.js';
import { goodput } from '../sim/goodput.js';
import { checkSimulation } from '../sim/simulate.js';
import { DEFAULT_WARM_UP_SECONDS } from './simulate.js';
import { boundsText, commonFigures, headOf, type Page, type PolicyReport, printPolicies, reportPolicy, type SimulationReport, sizeText, speedFigure } from './simulation-report.js';
import { PolicyPool, searchSeconds, setupOf, type SimulationFlags } from './simulation-setup.js';

export interface SearchFlags extends SimulationFlags {
  seeds: number;
}

export interface GoodputFlags extends SearchFlags {
  resolution: number;
}

/** `rate` is the highest that was sustained, the mean over the seeds; the other figures are those at that rate. */
export interface GoodputPolicy extends PolicyReport {
  readonly shareOfStaggeredOptimum: number;
  readonly shareOfFluidBound: number;
  readonly seeds: readonly { readonly seed: number; readonly rate: number }[];
}

export interface GoodputReport extends SimulationReport<GoodputPolicy> {
  readonly title: string;
  readonly seeds: readonly number[];
  readonly resolution: number;
}

export function seedsOf({ seed, seeds }: SearchFlags): number[] {
  return Array.from({ length: seeds }, (_, k) => seed + k);
}

export async function goodputReport(flags: GoodputFlags): Promise<GoodputReport> {
  const setup = setupOf(flags);
  const { workload, policies, margins } = setup;
  const seconds = searchSeconds(flags, workload);
  const warmupSeconds = flags.warmup ?? DEFAULT_WARM_UP_SECONDS;
  const options = { workload, gpus: workload.gpus, seconds, warmupSeconds, margins, seeds: seedsOf(flags), resolution: flags.resolution };
  checkSimulation({ ...options, ratePerSecond: 1, seed: flags.seed });
  const head = headOf(workload, seconds, warmupSeconds);
  if (head.staggeredOptimum * flags.resolution * seconds < 1) throw new InvalidOptionError('--seconds', `got ${seconds}, too few for a workload of at most ${si(head.staggeredOptimum)} requests/s`);
  const progress = new Progress(`goodput of ${workload.name}`, 0);
  const pool = new PolicyPool(setup, (runs) => progress.update(runs, `${runs} runs`));
  progress.update(0, 'simulating');
  try {
    const found = await Promise.all(policies.map(async (policy): Promise<GoodputPolicy> => {
      const { seeds, ratePerSecond } = await goodput(pool.runnerOf(policy), options);
      const results = seeds.flatMap(({ result }) => result ?? []);
      return {
        ...reportPolicy(policy, ratePerSecond, results, pool.simulatedSecondsPerSecond(policy)),
        shareOfStaggeredOptimum: ratePerSecond / head.staggeredOptimum,
        shareOfFluidBound: ratePerSecond / head.fluidBound,
        seeds: seeds.map(({ seed, ratePerSecond: rate }) => ({ seed, rate })),
      };
    }));
    return { title: `${workload.name}: ${sizeText(workload)}, highest rate with at most 1 % bad`, ...head, seeds: options.seeds, resolution: flags.resolution, policies: found };
  } finally {
    progress.end();
    await pool.stop();
  }
}

export function printGoodput(report: GoodputReport, page: Page): void {
  const title = `${report.title}; mean of ${report.seeds.length} × ${short(report.seconds)} s simulated`;
  const notes = `Everything below the rate is measured at that rate, which is found in steps of ${percent(report.resolution, 1)} of the staggered optimum. Of optimum, of bound: ${boundsText(report)}.`;
  const spread = ({ seeds }: GoodputPolicy): string => si((Math.max(...seeds.map(({ rate }) => rate)) - Math.min(...seeds.map(({ rate }) => rate))) / 2);
  printPolicies(page, title, report.policies, [
    ['rate /s', ({ rate }) => (rate === 0 ? 'none' : si(rate))],
    ['  ± seeds', spread],
    ['of optimum', ({ shareOfStaggeredOptimum: share }) => percent(share, 1)],
    ['of bound', ({ shareOfFluidBound: share }) => percent(share, 1)],
    ['goodput /s', ({ goodput: good }) => si(good)],
    ...commonFigures(report.policies[0]!.models.length),
    speedFigure,
  ], notes);
}

export function plotGoodput(report: GoodputReport): string {
  const marks: Mark[] = [
    { value: report.staggeredOptimum, label: `staggered optimum ${si(report.staggeredOptimum)}/s` },
    { value: report.fluidBound, label: `fluid bound ${si(report.fluidBound)}/s` },
  ];
  return plotPage({
    title: `rubato goodput ${report.workload}`,
    subtitle: `${report.title}; ${report.seeds.length} × ${short(report.seconds)} s simulated.`,
    charts: [{
      kind: 'bars',
      title: 'Highest sustained rate',
      note: 'Requests per second of which at most 1 % were bad.',
      bars: report.policies.map(({ policy, rate, shareOfStaggeredOptimum: share }) => ({
        label: policy,
        segments: [{ value: rate, tone: 'good', title: `${policy}: ${si(rate)}/s` }],
        text: `${si(rate)}/s, ${percent(share, 1)}`,
      })),
      marks,
      legend: [],
    }],
  });
}
