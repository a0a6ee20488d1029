/** The load of `bench throughput` and `bench stress`: models that are all alike, evenly spaced requests, open loop. */
import { clockOrigin } from '../clock/clock.js';
import { parsePositiveDurationNs } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { LatencyProfile } from '../model/latency-profile.js';
import { type Condition, CONDITIONS, DROP_POLICIES, type DropPolicy, HOST_EMULATED, type SchedulerConfig } from '../protocol/config.js';
import { MARGIN_CONTROL, MARGIN_RESPONSE } from '../protocol/shared-memory.js';
import { SHED_SHARE } from '../scheduler/options.js';
import type { WaitingStrategy } from '../scheduler/waiter.js';
import { type DeadlineOrder, LEAST_SLO_SHARE } from './deadline-order.js';
import { gpuCapacityPerSecond, LiveRun, type PhaseTotals } from './live-run.js';

export interface SyntheticOptions {
  readonly models: number;
  readonly gpus: number;
  readonly profile: LatencyProfile;
  readonly sloNs: number;
  readonly clients: number;
  readonly shards: number;
  readonly order: DeadlineOrder;
  readonly dropPolicy: DropPolicy;
  readonly condition: Condition;
  readonly waiting: WaitingStrategy;
}

/** The same as the command line gives it. */
export interface SyntheticFlags extends Omit<SyntheticOptions, 'profile' | 'sloNs'> {
  readonly profile: string;
  readonly maxBatch: number;
  readonly slo: string;
}

export const SYNTHETIC_DEFAULTS: SyntheticFlags = {
  models: 64,
  gpus: 64,
  profile: '0.5us,86us',
  maxBatch: 128,
  slo: '20ms',
  clients: 1,
  shards: 1,
  order: 'in-order',
  dropPolicy: 'adaptive',
  condition: 'adaptive',
  waiting: 'balanced',
};

/** Nobody has seen more on two cores: slots are provided for it. */
export const MOST_RATE_PER_SECOND = 25e6;
/** Part of the GPUs' capacity above which they are the limit, not the scheduler. */
export const GPU_LIMITED_SHARE = 0.85;
const WARM_UP_SECONDS = 0.3;
const WARM_UP_RATE_PER_SECOND = 0.15e6;
const MOST_WARM_UPS = 16;
/** The margins c and r fall by at most 10 % in 100 ms from what a cold start makes of them: 27 % in a warm-up. */
const SETTLED_CHANGE = 0.2;

export function parseSynthetic({ profile: text, maxBatch, slo, ...rest }: SyntheticFlags): SyntheticOptions {
  const parts = text.split(',');
  if (parts.length !== 2) throw new InvalidOptionError('--profile', `got "${text}", must be two durations such as "0.5us,86us"`);
  const profile = LatencyProfile.parse({ alpha: parts[0], beta: parts[1], maxBatch }, '--profile');
  const sloNs = parsePositiveDurationNs(slo, '--slo');
  const share = LEAST_SLO_SHARE[rest.order];
  if (share * sloNs < profile.latencyNs(1)) throw new InvalidOptionError('--slo', `got ${slo}, a single request takes longer${share < 1 ? ` than ${share} of it, which the order ${rest.order} gives to some` : ''}`);
  return { ...rest, profile, sloNs };
}

export interface Offer {
  readonly ratePerSecond: number;
  readonly seconds: number;
  readonly leadSeconds?: number;
  readonly detailed?: boolean;
  readonly onProgress: (gone: number) => void;
}

/** A scheduler under synthetic load. */
export class SyntheticRun {
  /** What the GPUs can run, requests per second. */
  readonly capacity: number;
  readonly #run: LiveRun;
  readonly #options: SyntheticOptions;

  private constructor(run: LiveRun, options: SyntheticOptions, capacity: number) {
    this.#run = run;
    this.#options = options;
    this.capacity = capacity;
  }

  static async start(options: SyntheticOptions): Promise<SyntheticRun> {
    const config = syntheticConfig(options);
    const shares = config.models.map(() => 1 / config.models.length);
    const run = await LiveRun.start({ config, waiting: options.waiting, clients: options.clients, shares });
    return new SyntheticRun(run, options, gpuCapacityPerSecond(config, shares));
  }

  interrupt(): void {
    this.#run.interrupt();
  }

  get interrupted(): boolean {
    return this.#run.interrupted;
  }

  /** Until the code is compiled and the margins have settled. `secondsMost` bounds each phase of it. */
  async warmUp(ratePerSecond: number, secondsMost: number, onProgress: (gone: number) => void): Promise<void> {
    const rate = Math.min(WARM_UP_RATE_PER_SECOND, ratePerSecond);
    const seconds = Math.min(WARM_UP_SECONDS, secondsMost);
    for (let phase = 0; phase < MOST_WARM_UPS && !this.interrupted; phase++) {
      const before = this.#margins();
      await this.offer({ ratePerSecond: phase === 0 ? rate / 15 : rate, seconds, onProgress });
      const settled = this.#margins().every((margin, k) => Math.abs(margin - before[k]!) <= SETTLED_CHANGE * before[k]!);
      if (settled && phase > 1) break;
    }
  }

  #margins(): number[] {
    const { buffer, margins } = this.#run.engine.memory;
    const cells = new Float64Array(buffer, margins);
    return [cells[MARGIN_CONTROL]!, cells[MARGIN_RESPONSE]!];
  }

  async offer({ ratePerSecond, seconds, leadSeconds = 0, detailed = false, onProgress }: Offer): Promise<PhaseTotals> {
    const { models, gpus, clients, order } = this.#options;
    const sources = Array.from({ length: clients }, (_, client) => ({ kind: 'uniform', models, ratePerSecond: ratePerSecond / clients, seed: 1 + client }) as const);
    const title = `${models} ${models === 1 ? 'model' : 'models'}, ${gpus} GPUs${order === 'in-order' ? '' : `, deadlines ${order}`}`;
    return this.#run.phase({ title, sources, seconds: leadSeconds + seconds, leadSeconds, deadlines: order, detailed, onProgress });
  }

  async stop(): Promise<void> {
    await this.#run.stop();
  }
}

/** Share of what was offered that did not end well. */
export function badRateOf(totals: PhaseTotals): number {
  let offered = 0;
  let good = 0;
  for (const model of totals.models) {
    offered += model.offered;
    good += model.completed;
  }
  return offered === 0 ? 1 : 1 - good / offered;
}

function syntheticConfig({ models, gpus, profile, sloNs, clients, shards, dropPolicy, condition }: SyntheticOptions): SchedulerConfig {
  const capacity = gpus * (profile.maxBatch / profile.latencyNs(profile.maxBatch)) * 1e9;
  // Where GPUs are not the limit batches fill long before their time, and tables that are larger than need be do not stay in the cache.
  const inFlight = (Math.min(MOST_RATE_PER_SECOND / 2, 1.2 * capacity) * sloNs) / 1e9 / clients;
  const slotShift = Math.min(22, Math.max(10, Math.ceil(Math.log2(inFlight))));
  return {
    models: Array.from({ length: models }, (_, index) => ({
      name: `model${index}`,
      sloNs,
      profile: 0,
      maxBatch: profile.maxBatch,
      dropPolicy: DROP_POLICIES.indexOf(dropPolicy),
      condition: CONDITIONS.indexOf(condition),
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
