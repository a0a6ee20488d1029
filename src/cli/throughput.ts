/**
 * `rubato bench throughput`: the highest open-loop rate that the scheduler sustains with at most 1 % bad.
 * The rate is raised by half until it is not sustained any more, then bisected, then confirmed by a run of full length.
 */
import { clockOrigin } from '../clock/clock.js';
import { RubatoError } from '../model/errors.js';
import type { LatencyProfile } from '../model/latency-profile.js';
import { CONDITIONS, DROP_POLICIES, HOST_EMULATED, type SchedulerConfig } from '../protocol/config.js';
import { Progress } from '../report/progress.js';
import { buildRunReport, type RunReport } from '../report/run-report.js';
import { si } from '../report/units.js';
import { SHED_SHARE } from '../scheduler/options.js';
import type { WaitingStrategy } from '../scheduler/waiter.js';
import { gpuCapacityPerSecond, LiveRun, type PhaseTotals } from './live-run.js';

export interface ThroughputOptions {
  readonly models: number;
  readonly gpus: number;
  readonly profile: LatencyProfile;
  readonly sloNs: number;
  readonly seconds: number;
  readonly clients: number;
  readonly shards: number;
  readonly waiting: WaitingStrategy;
}

export interface ThroughputReport extends RunReport {
  /** The rate that was offered in the confirming run. */
  readonly ratePerSecond: number;
  /** Whether at most 1 % were bad in it. */
  readonly sustained: boolean;
  /** How late the load generator was, ms. */
  readonly lagP999Ms: number;
  readonly lagMaxMs: number;
}

const SUSTAINED_BAD_RATE = 0.01;
/** Nobody has seen more on two cores: slots are provided for it. */
const MOST_RATE_PER_SECOND = 25e6;
const FIRST_RATE_PER_SECOND = 0.5e6;
const RESOLUTION = 0.03;
const STEP = 1.5;
const MISSES_TO_STOP = 5;
/** Part of the GPUs' capacity above which they are the limit, not the scheduler. */
const GPU_LIMITED_SHARE = 0.85;
/** Below this part of what the GPUs can run the search gives up. */
const LEAST_SHARE = 0.01;
const PROBE_SECONDS = 0.7;
const WARM_UP_SECONDS = 0.3;
const MOST_CONFIRMATIONS = 8;
/** A confirmation that fails lowers the rate by the resolution at first, then by more: the machine is busier than the search saw. */
const SMALL_STEPS = 3;
const LARGE_STEP = 0.1;

export async function benchThroughput(options: ThroughputOptions, onInterrupt: (stop: () => void) => void): Promise<ThroughputReport> {
  const config = throughputConfig(options);
  const shares = config.models.map(() => 1 / config.models.length);
  const capacity = gpuCapacityPerSecond(config, shares);
  const run = await LiveRun.start({ config, waiting: options.waiting, clients: options.clients, shares });
  onInterrupt(() => run.interrupt());
  const progress = new Progress('finding the highest rate', 0);
  try {
    const search = new RateSearch(run, options, capacity, progress);
    const { rate, totals } = await search.find();
    if (rate >= GPU_LIMITED_SHARE * capacity) {
      throw new RubatoError(
        'ERR_RUBATO_GPU_LIMITED',
        `the GPUs are the limit here, not the scheduler: ${options.gpus} GPUs can run ${si(capacity)} requests/s, ${si(rate)} were sustained; give it more --gpus or a faster --profile`,
      );
    }
    return { ...buildRunReport(totals), ratePerSecond: rate, sustained: badRate(totals) <= SUSTAINED_BAD_RATE, lagP999Ms: totals.lagP999Ms, lagMaxMs: totals.lagMaxMs };
  } finally {
    progress.end();
    await run.stop();
  }
}

class RateSearch {
  readonly #run: LiveRun;
  readonly #options: ThroughputOptions;
  readonly #capacity: number;
  readonly #progress: Progress;

  constructor(run: LiveRun, options: ThroughputOptions, capacity: number, progress: Progress) {
    this.#run = run;
    this.#options = options;
    this.#capacity = capacity;
    this.#progress = progress;
  }

  async find(): Promise<{ rate: number; totals: PhaseTotals }> {
    for (const rate of [0.02, 0.1, 0.3]) await this.#offer(rate * FIRST_RATE_PER_SECOND, WARM_UP_SECONDS, 'warming up');
    const most = Math.min(MOST_RATE_PER_SECOND, this.#capacity);
    let { low, high } = await this.#climb(most);
    while (high - low > RESOLUTION * high && high > LEAST_SHARE * most && !this.#run.interrupted) {
      const middle = (low + high) / 2;
      if (await this.#sustains(middle)) low = middle;
      else high = middle;
    }
    return low > 0 ? this.#confirm(low, MOST_CONFIRMATIONS) : this.#confirm(high, 1);
  }

  /**
   * Raises the rate step by step: the highest that was sustained, and the lowest above it that was not. A miss does not
   * end the climb at once, because a slow rate is not an easy one: deferral leaves its requests no slack for a stall.
   */
  async #climb(most: number): Promise<{ low: number; high: number }> {
    let low = 0;
    let high = 0;
    let misses = 0;
    for (let rate = Math.min(FIRST_RATE_PER_SECOND, most); misses < MISSES_TO_STOP && !this.#run.interrupted; rate = Math.min(STEP * rate, most)) {
      if (await this.#sustains(rate)) {
        low = rate;
        high = rate;
        misses = 0;
      } else if (misses++ === 0) {
        high = rate;
      }
      if (rate === most) break;
    }
    return { low, high };
  }

  /** A short run may have been lucky: what counts is one of full length. Each try that fails lowers the rate by a step. */
  async #confirm(found: number, mostAttempts: number): Promise<{ rate: number; totals: PhaseTotals }> {
    let rate = found;
    for (let attempt = 1; ; attempt++) {
      const totals = await this.#offer(rate, this.#options.seconds, 'confirming');
      if (badRate(totals) <= SUSTAINED_BAD_RATE || attempt === mostAttempts || this.#run.interrupted) return { rate, totals };
      rate *= attempt < SMALL_STEPS ? 1 - RESOLUTION : 1 - LARGE_STEP;
    }
  }

  /** Three tries, because the machine may have stalled in one. */
  async #sustains(rate: number): Promise<boolean> {
    for (let attempt = 0; attempt < 3 && !this.#run.interrupted; attempt++) {
      if (badRate(await this.#offer(rate, PROBE_SECONDS, 'trying')) <= SUSTAINED_BAD_RATE) return true;
    }
    return false;
  }

  async #offer(rate: number, seconds: number, word: string): Promise<PhaseTotals> {
    const { models, clients } = this.#options;
    const sources = Array.from({ length: clients }, (_, client) => ({ kind: 'uniform', models, ratePerSecond: rate / clients, seed: 1 + client }) as const);
    const title = `${models} models, ${this.#options.gpus} GPUs`;
    return this.#run.phase({ title, sources, seconds, detailed: word === 'confirming', onProgress: (gone) => this.#progress.update(0, `${word} ${si(rate)} requests/s, ${gone.toFixed(1)} of ${seconds} s`) });
  }
}

function badRate(totals: PhaseTotals): number {
  let offered = 0;
  let good = 0;
  for (const model of totals.models) {
    offered += model.offered;
    good += model.completed;
  }
  return offered === 0 ? 1 : 1 - good / offered;
}

function throughputConfig({ models, gpus, profile, sloNs, clients, shards }: ThroughputOptions): SchedulerConfig {
  const capacity = gpus * (profile.maxBatch / profile.latencyNs(profile.maxBatch)) * 1e9;
  const inFlight = (Math.min(MOST_RATE_PER_SECOND, 1.2 * capacity) * sloNs) / 1e9 / clients;
  const slotShift = Math.min(22, Math.max(10, Math.ceil(Math.log2(inFlight))));
  return {
    models: Array.from({ length: models }, (_, index) => ({
      name: `model${index}`,
      sloNs,
      profile: 0,
      maxBatch: profile.maxBatch,
      dropPolicy: DROP_POLICIES.indexOf('window'),
      condition: CONDITIONS.indexOf('frontrun'),
      maxQueue: 2 ** slotShift * clients,
    })),
    profiles: [profile.ns],
    gpus: Array.from({ length: gpus }, () => ({ host: HOST_EMULATED, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 })),
    shards,
    maxClients: clients,
    slotShift,
    shedShare: SHED_SHARE,
    margins: { controlNs: 1e5, transferNs: 0, responseNs: 2e5, jitterNs: 5e4, measureControl: true, measureResponse: true, measureJitter: true },
    origin: clockOrigin(),
  };
}
