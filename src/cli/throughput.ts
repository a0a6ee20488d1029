/**
 * `rubato bench throughput`: the highest open-loop rate that the scheduler sustains with at most 1 % bad.
 * The rate is raised by half until it is not sustained any more, then bisected, then confirmed by a run of full length.
 * The search excuses what stalls of the machine have cost; the confirmation does not.
 */
import { RubatoError } from '../model/errors.js';
import { Progress } from '../report/progress.js';
import { buildRunReport, type RunReport } from '../report/run-report.js';
import { fixed, percent, si } from '../report/units.js';
import type { PhaseTotals } from './live-run.js';
import { highestRate, judgeProbe, type ProbeVerdict, SUSTAINED_BAD_RATE } from './rate-search.js';
import { type PhaseStalls, STALL_NS, stalledShare, takenShare } from './stalls.js';
import { badRateOf, GPU_LIMITED_SHARE, MOST_RATE_PER_SECOND, SyntheticRun, type SyntheticOptions } from './synthetic.js';

export interface ThroughputOptions extends SyntheticOptions {
  /** Length of a confirming run. */
  readonly seconds: number;
  /** The search goes no further after this time, and what it has found by then is confirmed. */
  readonly searchSeconds?: number;
  /** Before the progress, as "3 of 11". */
  readonly label?: string;
}

export interface ThroughputReport extends RunReport {
  /** The rate that was offered in the confirming run. */
  readonly ratePerSecond: number;
  /** Whether at most 1 % were bad in it. */
  readonly sustained: boolean;
  /** How late the load generator was, ms. */
  readonly lagP999Ms: number;
  readonly lagMaxMs: number;
  readonly stalls: StallFigures;
}

/** How often the load generator and the scheduler stood still in the run, for more than 0.5 ms each time. */
export interface StallFigures {
  readonly generator: number;
  readonly generatorLongestMs: number;
  readonly scheduler: number;
  readonly schedulerLongestMs: number;
  /** Share of the time for which either stood still. */
  readonly share: number;
  /** How much of that somebody else can have taken; the rest is the scheduler's own. */
  readonly takenShare: number;
  /** Runs of the search and the confirmation that failed because of stalls only. */
  readonly runsStalled: number;
}

const FIRST_RATE_PER_SECOND = 0.5e6;
const RESOLUTION = 0.03;
const STEP = 2;
const MISSES_TO_STOP = 3;
/** Below this part of what the GPUs can run the search gives up. */
const LEAST_SHARE = 0.002;
const PROBE_SECONDS = 0.7;
const MOST_LEAD_SECONDS = 0.3;
const TRIES_TO_AGREE = 2;
/** Runs of a search that are repeated because somebody else had the machine; from then on they count as failed. */
const MOST_DISTURBED = 8;
const MOST_CONFIRMATIONS = 8;
const HURRIED_CONFIRMATIONS = 3;
/** A confirmation that fails lowers the rate by the resolution at first, then by more: the machine is busier than the search saw. */
const SMALL_STEPS = 3;
const LARGE_STEP = 0.1;
/** Confirmations at the same rate before it is lowered though only stalls have failed them. */
const STALLED_CONFIRMATIONS = 3;

export async function benchThroughput(options: ThroughputOptions, onInterrupt: (stop: () => void) => void): Promise<ThroughputReport> {
  const run = await SyntheticRun.start(options);
  onInterrupt(() => run.interrupt());
  const progress = new Progress(options.label ?? 'finding the highest rate', 0);
  try {
    const search = new ThroughputSearch(run, options, progress);
    const { rate, totals } = await search.find();
    const sustained = badRateOf(totals) <= SUSTAINED_BAD_RATE;
    if (sustained && rate >= GPU_LIMITED_SHARE * run.capacity) {
      throw new RubatoError(
        'ERR_RUBATO_GPU_LIMITED',
        `the GPUs are the limit here, not the scheduler: ${options.gpus} GPUs can run ${si(run.capacity)} requests/s, ${si(rate)} were sustained; give it more --gpus or a faster --profile`,
      );
    }
    return {
      ...buildRunReport(totals),
      ratePerSecond: rate,
      sustained,
      lagP999Ms: totals.lagP999Ms,
      lagMaxMs: totals.lagMaxMs,
      stalls: stallFigures(totals.stalls, search.runsStalled),
    };
  } finally {
    progress.end();
    await run.stop();
  }
}

class ThroughputSearch {
  /** Runs that failed because of stalls. */
  runsStalled = 0;
  #disturbed = 0;
  readonly #run: SyntheticRun;
  readonly #options: ThroughputOptions;
  readonly #progress: Progress;
  /** A short confirmation, as in a test, has short probes. */
  readonly #probeSeconds: number;
  readonly #leadSeconds: number;

  constructor(run: SyntheticRun, options: ThroughputOptions, progress: Progress) {
    this.#run = run;
    this.#options = options;
    this.#progress = progress;
    this.#probeSeconds = Math.min(PROBE_SECONDS, options.seconds);
    this.#leadSeconds = Math.min(MOST_LEAD_SECONDS, options.seconds, (2 * options.sloNs) / 1e9);
  }

  async find(): Promise<{ rate: number; totals: PhaseTotals }> {
    const most = Math.min(MOST_RATE_PER_SECOND, this.#run.capacity);
    await this.#run.warmUp(0.3 * most, this.#options.seconds, () => this.#progress.update(0, 'warming up'));
    const plan = { first: FIRST_RATE_PER_SECOND, most, step: STEP, missesToStop: MISSES_TO_STOP, resolution: RESOLUTION, least: LEAST_SHARE * most };
    const limitMs = performance.now() + 1e3 * (this.#options.searchSeconds ?? Infinity);
    const { low, high } = await highestRate(plan, (rate) => this.#sustains(rate), () => this.#run.interrupted || performance.now() > limitMs);
    if (low > 0) return this.#confirm(low, this.#options.searchSeconds === undefined ? MOST_CONFIRMATIONS : HURRIED_CONFIRMATIONS);
    return this.#confirm(high > 0 ? high : Math.min(FIRST_RATE_PER_SECOND, most), 1);
  }

  /**
   * A short run may have been lucky: what counts is one of full length. Each try that fails lowers the rate by a step, but
   * not at once if only stalls have failed it. If all fail, the one with the fewest bad is given.
   */
  async #confirm(found: number, mostAttempts: number): Promise<{ rate: number; totals: PhaseTotals }> {
    let rate = found;
    let lowered = 0;
    let stalled = 0;
    let best: { rate: number; totals: PhaseTotals } | null = null;
    let attempts = 0;
    for (;;) {
      const totals = await this.#offer(rate, this.#options.seconds, 0, 'confirming');
      if (best === null || badRateOf(totals) < badRateOf(best.totals)) best = { rate, totals };
      if (badRateOf(totals) <= SUSTAINED_BAD_RATE || this.#run.interrupted) return best;
      const verdict = this.#judge(totals);
      if (verdict === 'disturbed') continue;
      if (++attempts >= mostAttempts) return best;
      if (verdict === 'stalled' && ++stalled < STALLED_CONFIRMATIONS) continue;
      stalled = 0;
      rate *= ++lowered < SMALL_STEPS ? 1 - RESOLUTION : 1 - LARGE_STEP;
    }
  }

  /** A try that fails is repeated, until two agree on why. If it was for stalls, the confirmation shall decide. */
  async #sustains(rate: number): Promise<boolean> {
    const counts = { stalled: 0, exceeded: 0 };
    while (!this.#run.interrupted) {
      const verdict = this.#judge(await this.#offer(rate, this.#probeSeconds, this.#leadSeconds, 'trying'));
      if (verdict === 'sustained') return true;
      if (verdict !== 'disturbed' && ++counts[verdict] === TRIES_TO_AGREE) return verdict === 'stalled';
    }
    return false;
  }

  #judge(totals: PhaseTotals): ProbeVerdict {
    const verdict = judgeProbe(totals.stalls);
    if (verdict === 'stalled' || verdict === 'disturbed') this.runsStalled++;
    return verdict === 'disturbed' && ++this.#disturbed > MOST_DISTURBED ? 'exceeded' : verdict;
  }

  async #offer(rate: number, seconds: number, leadSeconds: number, word: 'trying' | 'confirming'): Promise<PhaseTotals> {
    const onProgress = (gone: number): void => this.#progress.update(0, `${word} ${si(rate)} requests/s, ${gone.toFixed(1)} of ${(leadSeconds + seconds).toFixed(1)} s`);
    return this.#run.offer({ ratePerSecond: rate, seconds, leadSeconds, detailed: word === 'confirming', onProgress });
  }
}

export function stallFigures(report: PhaseStalls, runsStalled: number): StallFigures {
  const { generator, scheduler } = report;
  return {
    generator: generator.count,
    generatorLongestMs: generator.longestNs / 1e6,
    scheduler: scheduler.count,
    schedulerLongestMs: scheduler.longestNs / 1e6,
    share: stalledShare(report),
    takenShare: takenShare(report),
    runsStalled,
  };
}

export function printThroughput(report: ThroughputReport, write: (text: string) => void): void {
  const { machine, stalls } = report;
  write(
    `\nScheduler throughput: ${si(report.goodRequestsPerSecond)} good requests/s (${report.title})\n` +
      (report.sustained ? '' : `  NOT SUSTAINED: more than 1 % were bad at every rate that was confirmed, ${stalls.takenShare > SUSTAINED_BAD_RATE / 2 ? 'but the machine is busy with something else: see the stalls' : 'though nothing else took the processors'}\n`) +
      `  decisions   ${si(report.decisionsPerSecond)}/s of every outcome, bad ${fixed(100 * report.badRate, 2)} %, limit 1 %\n` +
      `  batches     ${si(report.grantsPerSecond)} grants/s, mean batch ${fixed(report.meanBatch, 1)}\n` +
      `  GPUs        could run ${si(report.gpuCapacityPerSecond)} requests/s${report.ratePerSecond < GPU_LIMITED_SHARE * report.gpuCapacityPerSecond ? ': they are not the limit' : ''}\n` +
      `  latency     p50 ${fixed(report.latencyMs.p50, 2)}, p99 ${fixed(report.latencyMs.p99, 2)}, max ${fixed(report.latencyMs.max, 2)} ms\n` +
      `  generator   at most ${fixed(report.lagMaxMs, 1)} ms late, p99.9 ${fixed(report.lagP999Ms, 1)} ms\n` +
      `  stalls      ${stallText(stalls)}\n` +
      `  CPU         ${cpuText(report)}\n` +
      `  machine     ${machine.cores} cores, ${machine.cpu}, Node ${machine.node}; a reference step takes ${fixed(machine.referenceLoopNs ?? NaN, 2)} ns\n`,
  );
}

/** Two spinning threads use two processors; if they got less, something else took the rest. */
export function cpuText({ cpuSecondsPerMillion, decisionsPerSecond, machine }: RunReport): string {
  return `${fixed(cpuSecondsPerMillion, 3)} s per million requests, load generator included; ${fixed((cpuSecondsPerMillion * decisionsPerSecond) / 1e6, 1)} of ${machine.cores} cores used`;
}

export function stallText(stalls: StallFigures): string {
  const times = (count: number, longestMs: number): string => (count === 0 ? 'never' : `${count} times (longest ${fixed(longestMs, 1)} ms)`);
  const lost = stalls.runsStalled === 0 ? '' : `; ${stalls.runsStalled} ${stalls.runsStalled === 1 ? 'run' : 'runs'} failed by stalls alone`;
  return `over ${STALL_NS / 1e6} ms: generator ${times(stalls.generator, stalls.generatorLongestMs)}, scheduler ${times(stalls.scheduler, stalls.schedulerLongestMs)}, ${percent(stalls.share)} of the time${lost}`;
}
