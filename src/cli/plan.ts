/** `rubato plan`: how many GPUs a load needs under each policy, and what one fewer would cost. */
import { plotPage } from '../report/plot.js';
import { Progress } from '../report/progress.js';
import { percent, short, si } from '../report/units.js';
import { plan } from '../sim/plan.js';
import { checkSimulation } from '../sim/simulate.js';
import { type SearchFlags, seedsOf } from './goodput.js';
import { DEFAULT_WARM_UP_SECONDS } from './simulate.js';
import { commonFigures, headOf, type Page, type PolicyReport, printPolicies, reportPolicy, type SimulationReport, speedFigure } from './simulation-report.js';
import { PolicyPool, type RateFlags, rateOf, searchSeconds, setupOf } from './simulation-setup.js';

export interface PlanFlags extends SearchFlags, RateFlags {}

/** The figures are those with `gpus` GPUs. */
export interface PlanPolicy extends PolicyReport {
  /** The fewest that sustain the load; null when none do. */
  readonly gpus: number | null;
  /** Null when one fewer would be none. */
  readonly badRateWithOneFewer: number | null;
}

/** `gpus`, `staggeredOptimum` and `fluidBound` are those of the workload as it is given. */
export interface PlanReport extends SimulationReport<PlanPolicy> {
  readonly title: string;
  readonly rate: number;
  readonly seeds: readonly number[];
  readonly gpusByFluidBound: number;
}

export async function planReport(flags: PlanFlags): Promise<PlanReport> {
  const setup = setupOf(flags);
  const { workload, policies, margins } = setup;
  const ratePerSecond = rateOf(flags, workload);
  const seconds = searchSeconds(flags, workload);
  const warmupSeconds = flags.warmup ?? DEFAULT_WARM_UP_SECONDS;
  const options = { workload, ratePerSecond, seconds, warmupSeconds, margins, seeds: seedsOf(flags) };
  checkSimulation({ ...options, gpus: workload.gpus, seed: flags.seed });
  const progress = new Progress(`plan of ${workload.name}`, 0);
  const pool = new PolicyPool(setup, (runs) => progress.update(runs, `${runs} runs`));
  progress.update(0, 'simulating');
  try {
    const found = await Promise.all(policies.map(async (policy) => {
      const { gpus, badRateWithOneFewer, results, gpusByFluidBound } = await plan(pool.runnerOf(policy), options);
      return { gpusByFluidBound, report: { ...reportPolicy(policy, ratePerSecond, results, pool.simulatedSecondsPerSecond(policy)), gpus, badRateWithOneFewer } };
    }));
    return {
      title: `${workload.name}: the fewest GPUs for ${si(ratePerSecond)} requests/s with at most 1 % bad`,
      ...headOf(workload, seconds, warmupSeconds),
      rate: ratePerSecond,
      seeds: options.seeds,
      gpusByFluidBound: found[0]!.gpusByFluidBound,
      policies: found.map(({ report }) => report),
    };
  } finally {
    progress.end();
    await pool.stop();
  }
}

export function printPlan(report: PlanReport, page: Page): void {
  const title = `${report.title}; ${report.seeds.length} × ${short(report.seconds)} s simulated`;
  const notes = `The fluid bound asks for ${report.gpusByFluidBound}. Everything below the number of GPUs is measured with that many; with one fewer: how much would be bad.`;
  printPolicies(page, title, report.policies, [
    ['GPUs', ({ gpus }) => (gpus === null ? 'none do' : String(gpus))],
    ['one fewer: bad', ({ badRateWithOneFewer: bad }) => (bad === null ? '–' : percent(bad))],
    ['goodput /s', ({ goodput }) => si(goodput)],
    ...commonFigures(report.policies[0]!.models.length),
    speedFigure,
  ], notes);
}

export function plotPlan(report: PlanReport): string {
  return plotPage({
    title: `rubato plan ${report.workload}`,
    subtitle: `${report.title}; ${report.seeds.length} × ${short(report.seconds)} s simulated.`,
    charts: [{
      kind: 'bars',
      title: 'GPUs needed',
      note: 'The fewest with which at most 1 % of the requests are bad.',
      bars: report.policies.map(({ policy, gpus, badRateWithOneFewer: bad }) => ({
        label: policy,
        segments: [{ value: gpus ?? 0, tone: 'busy', title: `${policy}: ${gpus ?? 'no number of'} GPUs` }],
        text: gpus === null ? 'not sustained' : `${gpus}${bad === null ? '' : `; one fewer: ${percent(bad, 1)} bad`}`,
      })),
      marks: [{ value: report.gpusByFluidBound, label: `fluid bound ${report.gpusByFluidBound}` }],
      legend: [],
    }],
  });
}
