/**
 * `rubato bench load`: a workload in real time on emulated GPUs, open loop. Latency is measured from the time at which
 * a request was due, so a late load generator cannot flatter it.
 */
import { clockOrigin } from '../clock/clock.js';
import { InvalidOptionError } from '../model/errors.js';
import { CONDITIONS, DROP_POLICIES, HOST_EMULATED, type SchedulerConfig } from '../protocol/config.js';
import { Progress } from '../report/progress.js';
import type { ArrivalPattern } from '../sim/arrivals.js';
import { readTrace } from '../sim/trace.js';
import { staggeredOptimum, type Workload } from '../sim/workload.js';
import { si } from '../report/units.js';
import { SHED_SHARE } from '../scheduler/options.js';
import type { WaitingStrategy } from '../scheduler/waiter.js';
import { LiveRun, type PhaseTotals } from './live-run.js';
import type { SourceSpec } from './sources.js';

export interface LoadOptions {
  readonly workload: Workload;
  readonly gpus: number;
  readonly ratePerSecond: number | null;
  readonly seconds: number | null;
  readonly arrivals: ArrivalPattern | null;
  readonly trace: { readonly path: string; readonly speed: number; readonly timeColumn: string | undefined } | null;
  readonly dropPolicy: string;
  readonly condition: string;
  readonly waiting: WaitingStrategy;
  readonly seed: number;
}

/** Without a rate of its own a workload is run at this part of its staggered optimum. */
const DEFAULT_LOAD = 0.6;
const DEFAULT_SECONDS = 10;
/** The same load, not counted, so that the code is compiled and the margins are measured. */
const WARM_UP_SECONDS = 1;
const SECONDS_MOST = 3600;

export async function benchLoad(options: LoadOptions, onInterrupt: (stop: () => void) => void): Promise<PhaseTotals> {
  const { workload, gpus } = options;
  const plan = planLoad(options);
  const shares = workload.models.map((model) => model.rateShare);
  const run = await LiveRun.start({ config: loadConfig(options, plan.ratePerSecond), waiting: options.waiting, clients: 1, shares });
  onInterrupt(() => run.interrupt());
  const progress = new Progress(workload.name, plan.seconds);
  try {
    await run.phase({ title: 'warm-up', sources: [plan.warmUp], seconds: WARM_UP_SECONDS, detailed: false, onProgress: () => progress.update(0, 'warming up') });
    const title = `${workload.name}: ${workload.models.length} ${workload.models.length === 1 ? 'model' : 'models'}, ${gpus} emulated GPUs, ${si(plan.ratePerSecond)} requests/s${plan.what}`;
    return await run.phase({ title, sources: [plan.source], seconds: plan.seconds, detailed: true, onProgress: (gone, offered) => progress.update(gone, `${si(offered)} requests`) });
  } finally {
    progress.end();
    await run.stop();
  }
}

interface LoadPlan {
  readonly source: SourceSpec;
  readonly warmUp: SourceSpec;
  readonly ratePerSecond: number;
  readonly seconds: number;
  /** How requests arrive, for the title. */
  readonly what: string;
}

function planLoad(options: LoadOptions): LoadPlan {
  const { workload, seed } = options;
  const shares = workload.models.map((model) => model.rateShare);
  const mix = (ratePerSecond: number, of: number): SourceSpec => ({
    kind: 'mix',
    models: workload.models.map((model) => ({ pattern: options.arrivals ?? model.arrivals, share: model.rateShare })),
    ratePerSecond,
    seed: of,
  });
  if (options.trace !== null) return planTrace(options.trace, options.seconds, shares, seed, mix);
  const scaled = { ...workload, gpus: options.gpus };
  const ratePerSecond = options.ratePerSecond ?? workload.ratePerSecond ?? DEFAULT_LOAD * staggeredOptimum(scaled);
  const seconds = options.seconds ?? workload.seconds ?? DEFAULT_SECONDS;
  return { source: mix(ratePerSecond, seed), warmUp: mix(ratePerSecond, seed + 1), ratePerSecond, seconds, what: '' };
}

function planTrace(trace: NonNullable<LoadOptions['trace']>, seconds: number | null, shares: readonly number[], seed: number, mix: (rate: number, seed: number) => SourceSpec): LoadPlan {
  const all = readTrace(trace.path, { speed: trace.speed, ...(trace.timeColumn === undefined ? {} : { timeColumn: trace.timeColumn }) });
  const wholeSeconds = all.at(-1)! / 1e9;
  const length = seconds ?? Math.max(1, Math.ceil(wholeSeconds + 1e-9));
  if (length > SECONDS_MOST) throw new InvalidOptionError('--speed', `the trace would take ${Math.round(wholeSeconds)} s at speed ${trace.speed}; give it a higher --speed or fewer --seconds`);
  const timesNs = all.filter((time) => time < length * 1e9);
  const ratePerSecond = timesNs.length / length;
  return { source: { kind: 'trace', timesNs, shares, seed }, warmUp: mix(ratePerSecond, seed + 1), ratePerSecond, seconds: length, what: `, ${timesNs.length} recorded arrivals at speed ${trace.speed}` };
}

function loadConfig({ workload, gpus, dropPolicy, condition }: LoadOptions, ratePerSecond: number): SchedulerConfig {
  const slowest = Math.max(...workload.models.map((model) => model.sloNs));
  // A burst can be far above the mean: room for twenty times what the mean keeps in flight.
  const slotShift = Math.min(22, Math.max(14, Math.ceil(Math.log2(20 * ratePerSecond * (slowest / 1e9)))));
  return {
    models: workload.models.map((model, profile) => ({
      name: model.name,
      sloNs: model.sloNs,
      profile,
      maxBatch: model.profile.maxBatch,
      dropPolicy: DROP_POLICIES.findIndex((name) => name === dropPolicy),
      condition: CONDITIONS.findIndex((name) => name === condition),
      maxQueue: 2 ** slotShift,
    })),
    profiles: workload.models.map((model) => model.profile.ns),
    gpus: Array.from({ length: gpus }, () => ({ host: HOST_EMULATED, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 })),
    shards: 1,
    maxClients: 1,
    slotShift,
    shedShare: SHED_SHARE,
    margins: { controlNs: 1e6, transferNs: 0, responseNs: 1e6, jitterNs: 5e5, measureControl: true, measureResponse: true, measureJitter: true },
    origin: clockOrigin(),
  };
}
