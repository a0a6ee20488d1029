/**
 * `rubato bench stress`: the rule of the paper authors' stress tool, made fair. An open-loop load in real time passes while
 * its generator is never far behind *and* the requests end well; theirs looks at the generator only. A run that fails is
 * repeated once before it counts, because a machine may stall for milliseconds by itself.
 */
import { Progress } from '../report/progress.js';
import { buildRunReport, type RunReport } from '../report/run-report.js';
import { fixed, percent, si } from '../report/units.js';
import { highestRate, SUSTAINED_BAD_RATE } from './rate-search.js';
import { MOST_RATE_PER_SECOND, SyntheticRun, type SyntheticOptions } from './synthetic.js';
import { cpuText, stallFigures, type StallFigures, stallText } from './throughput.js';

export interface StressOptions extends SyntheticOptions {
  /** Null: search for the highest. */
  readonly ratePerSecond: number | null;
  readonly seconds: number;
}

/** What a run must not exceed. */
export const STRESS_RULE = { lagP999Ms: 2, lagMaxMs: 20, badRate: SUSTAINED_BAD_RATE } as const;

export interface StressFigures {
  readonly offered: number;
  /** How late the load generator was. */
  readonly lagP999Ms: number;
  readonly lagMaxMs: number;
  readonly badRate: number;
}

export interface StressRun extends StressFigures {
  readonly ratePerSecond: number;
  readonly seconds: number;
  /** Why it failed; empty if it passed. */
  readonly reasons: readonly string[];
}

export interface StressReport extends RunReport {
  readonly verdict: 'PASS' | 'FAIL' | 'interrupted';
  /** Why it failed; empty otherwise. */
  readonly reasons: readonly string[];
  readonly ratePerSecond: number;
  readonly lagP999Ms: number;
  readonly lagMaxMs: number;
  readonly rule: typeof STRESS_RULE;
  /** Whether the rate was searched for. */
  readonly searched: boolean;
  readonly stalls: StallFigures;
  /** Rates at which a run failed and its repetition passed. */
  readonly failedOnce: number;
  /** All of them, in order, shorter ones of the search included. */
  readonly runs: readonly StressRun[];
}

const FIRST_RATE_PER_SECOND = 50e3;
const STEP = 2;
const MISSES_TO_STOP = 2;
const RESOLUTION = 0.05;
/** The search gives up below this rate. */
const LEAST_RATE_PER_SECOND = 1e3;
/** Length of the runs that search; the rate that is found must then pass in one of full length. */
const SEARCH_SECONDS = 3;
const MOST_CONFIRMATIONS = 6;

/** Why a run fails the rule, in words; empty if it passes. */
export function stressFailures({ offered, lagP999Ms, lagMaxMs, badRate }: StressFigures): string[] {
  if (offered === 0) return ['no request was offered'];
  const reasons: string[] = [];
  if (lagP999Ms > STRESS_RULE.lagP999Ms) reasons.push(`the load generator was ${fixed(lagP999Ms, 1)} ms late at p99.9, allowed are ${STRESS_RULE.lagP999Ms} ms`);
  if (lagMaxMs > STRESS_RULE.lagMaxMs) reasons.push(`the load generator was ${fixed(lagMaxMs, 1)} ms late at worst, allowed are ${STRESS_RULE.lagMaxMs} ms`);
  if (badRate > STRESS_RULE.badRate) reasons.push(`${percent(badRate)} were bad, allowed are ${percent(STRESS_RULE.badRate, 0)}`);
  return reasons;
}

export async function benchStress(options: StressOptions, onInterrupt: (stop: () => void) => void): Promise<StressReport> {
  const run = await SyntheticRun.start(options);
  onInterrupt(() => run.interrupt());
  const progress = new Progress('stress', 0);
  try {
    const stress = new Stress(run, options, progress);
    await run.warmUp(options.ratePerSecond ?? FIRST_RATE_PER_SECOND, options.seconds, () => progress.update(0, 'warming up'));
    return options.ratePerSecond === null ? await stress.search() : await stress.confirm(options.ratePerSecond);
  } finally {
    progress.end();
    await run.stop();
  }
}

class Stress {
  readonly #runs: StressRun[] = [];
  readonly #run: SyntheticRun;
  readonly #options: StressOptions;
  readonly #progress: Progress;
  #failedOnce = 0;

  constructor(run: SyntheticRun, options: StressOptions, progress: Progress) {
    this.#run = run;
    this.#options = options;
    this.#progress = progress;
  }

  async search(): Promise<StressReport> {
    const most = Math.min(MOST_RATE_PER_SECOND, this.#run.capacity);
    const plan = { first: FIRST_RATE_PER_SECOND, most, step: STEP, missesToStop: MISSES_TO_STOP, resolution: RESOLUTION, least: Math.min(LEAST_RATE_PER_SECOND, most / 10) };
    const seconds = Math.min(SEARCH_SECONDS, this.#options.seconds);
    const { low, high } = await highestRate(plan, async (rate) => (await this.#passes(rate, seconds)).verdict === 'PASS', () => this.#run.interrupted);
    let rate = low > 0 ? low : high > 0 ? high : Math.min(FIRST_RATE_PER_SECOND, most);
    for (let attempt = 1; ; attempt++) {
      const report = await this.confirm(rate);
      if (report.verdict !== 'FAIL' || low === 0 || attempt === MOST_CONFIRMATIONS) return report;
      rate *= 1 - RESOLUTION;
    }
  }

  /** A run of full length. */
  async confirm(ratePerSecond: number): Promise<StressReport> {
    return this.#passes(ratePerSecond, this.#options.seconds);
  }

  /** One run, and if it fails another. */
  async #passes(ratePerSecond: number, seconds: number): Promise<StressReport> {
    const first = await this.#once(ratePerSecond, seconds);
    if (first.verdict !== 'FAIL') return first;
    const second = await this.#once(ratePerSecond, seconds);
    if (second.verdict !== 'PASS') return second;
    this.#failedOnce++;
    return { ...second, failedOnce: this.#failedOnce };
  }

  async #once(ratePerSecond: number, seconds: number): Promise<StressReport> {
    const onProgress = (gone: number): void => this.#progress.update(0, `${si(ratePerSecond)} requests/s, ${gone.toFixed(1)} of ${seconds} s`);
    const totals = await this.#run.offer({ ratePerSecond, seconds, detailed: true, onProgress });
    const report = buildRunReport(totals);
    const { lagP999Ms, lagMaxMs } = totals;
    const { offered, badRate } = report;
    const reasons = stressFailures({ offered, badRate, lagP999Ms, lagMaxMs });
    this.#runs.push({ ratePerSecond, seconds: totals.seconds, offered, lagP999Ms, lagMaxMs, badRate, reasons });
    const verdict = totals.interrupted ? 'interrupted' : reasons.length === 0 ? 'PASS' : 'FAIL';
    return {
      ...report,
      verdict,
      reasons: verdict === 'FAIL' ? reasons : [],
      ratePerSecond,
      lagP999Ms,
      lagMaxMs,
      rule: STRESS_RULE,
      searched: this.#options.ratePerSecond === null,
      stalls: stallFigures(totals.stalls, 0),
      failedOnce: this.#failedOnce,
      runs: [...this.#runs],
    };
  }
}

export function printStress(report: StressReport, write: (text: string) => void): void {
  const failed = report.runs.filter(({ reasons }) => reasons.length > 0).length;
  write(
    `\n${headline(report)}\n` +
      `  lag         p99.9 ${fixed(report.lagP999Ms, 2)} ms (at most ${STRESS_RULE.lagP999Ms}), worst ${fixed(report.lagMaxMs, 1)} ms (at most ${STRESS_RULE.lagMaxMs})\n` +
      `  requests    ${si(report.offered)} in ${fixed(report.seconds, 1)} s, bad ${percent(report.badRate)} (at most ${percent(STRESS_RULE.badRate, 0)})\n` +
      `  batches     ${si(report.grantsPerSecond)} grants/s, mean batch ${fixed(report.meanBatch, 1)}\n` +
      `  GPUs        could run ${si(report.gpuCapacityPerSecond)} requests/s, ${fixed(report.gpusBusyMean, 1)} of ${report.gpusTotal} busy\n` +
      `  latency     p50 ${fixed(report.latencyMs.p50, 2)}, p99 ${fixed(report.latencyMs.p99, 2)}, max ${fixed(report.latencyMs.max, 2)} ms\n` +
      `  stalls      ${stallText(report.stalls)}\n` +
      `  runs        ${report.runs.length} in all, ${failed} failed; at ${report.failedOnce} ${report.failedOnce === 1 ? 'rate' : 'rates'} one failed and its repetition passed\n` +
      `  CPU         ${cpuText(report)}\n`,
  );
}

function headline({ verdict, ratePerSecond, searched, reasons, title }: StressReport): string {
  const what = `${si(ratePerSecond)} requests/s (${title})`;
  switch (verdict) {
    case 'PASS':
      return `PASS: ${searched ? 'the highest rate found is ' : ''}${what}`;
    case 'FAIL':
      return `FAIL: ${what}: ${reasons.join('; ')}`;
    case 'interrupted':
      return `Interrupted: ${what}; no verdict`;
  }
}
