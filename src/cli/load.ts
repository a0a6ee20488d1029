/**
 * `rubato bench load`: a workload in real time on emulated GPUs, open loop. Latency is measured from the time at which
 * a request was due, so a late load generator cannot flatter it.
 */
import { clockOrigin } from '../clock/clock.js';
import { InvalidOptionError } from '../model/errors.js';
import { CONDITIONS, DROP_POLICIES, HOST_EMULATED, type SchedulerConfig } from '../protocol/config.js';
import { Progress } from '../report/progress.js';
import type { ArrivalPattern } from '../sim/arrivals.js';
import { largestScale, meanScale } from '../sim/segments.js';
import { modelRates, staggeredOptimum, withArrivals, type Workload } from '../sim/workload.js';
import { si } from '../report/units.js';
import { SHED_SHARE } from '../scheduler/options.js';
import { openRecording, Recorder } from '../scheduler/recorder.js';
import type { WaitingStrategy } from '../scheduler/waiter.js';
import { LiveRun, type PhaseTotals } from './live-run.js';
import { countBefore, type Recorded, recordedOf, type TraceFlags } from './recorded.js';
import type { SourceSpec } from './sources.js';

export interface LoadOptions {
  readonly workload: Workload;
  readonly gpus: number;
  readonly ratePerSecond: number | null;
  readonly seconds: number | null;
  readonly arrivals: ArrivalPattern | null;
  readonly trace: TraceFlags;
  readonly dropPolicy: string;
  readonly condition: string;
  readonly waiting: WaitingStrategy;
  readonly seed: number;
  /** File for the arrivals of the counted phase; null for none. */
  readonly record: string | null;
}

/** Without a rate of its own a workload is run at this part of its staggered optimum. */
const DEFAULT_LOAD = 0.6;
const DEFAULT_SECONDS = 10;
/** The same load, not counted, so that the code is compiled and the margins are measured. */
const WARM_UP_SECONDS = 1;
const SECONDS_MOST = 3600;

export async function benchLoad(options: LoadOptions, onInterrupt: (stop: () => void) => void): Promise<PhaseTotals> {
  const { gpus, seed } = options;
  const recorded = recordedOf(options.trace, withArrivals({ ...options.workload, gpus }, options.arrivals), seed);
  if (recorded !== null && options.ratePerSecond !== null) throw new InvalidOptionError('--rate', 'a trace has its own; change it with --speed');
  const workload = recorded?.workload ?? withArrivals({ ...options.workload, gpus }, options.arrivals);
  const plan = recorded === null ? planLoad(options, workload) : planTrace(recorded, options);
  const shares = workload.models.map((model) => model.rateShare);
  const recording = options.record === null ? null : openRecording({ file: options.record }, '--record');
  let recorder: Recorder | null = null;
  const run = await LiveRun.start({ config: loadConfig(options, plan.mostPerSecond), waiting: options.waiting, clients: 1, shares });
  onInterrupt(() => run.interrupt());
  const progress = new Progress(workload.name, plan.seconds);
  try {
    await run.phase({ title: 'warm-up', sources: [plan.warmUp], seconds: WARM_UP_SECONDS, detailed: false, onProgress: () => progress.update(0, 'warming up') });
    if (recording !== null) recorder = new Recorder(recording, run.engine, (text) => process.stderr.write(`rubato: ${text}\n`));
    const title = `${workload.name}: ${workload.models.length} ${workload.models.length === 1 ? 'model' : 'models'}, ${gpus} emulated GPUs, ${si(plan.ratePerSecond)} requests/s${plan.what}`;
    return await run.phase({ title, sources: [plan.source], seconds: plan.seconds, detailed: true, onProgress: (gone, offered) => progress.update(gone, `${si(offered)} requests`) });
  } finally {
    progress.end();
    await run.stop();
    await recorder?.close();
  }
}

interface LoadPlan {
  readonly source: SourceSpec;
  readonly warmUp: SourceSpec;
  /** On average, and at most. */
  readonly ratePerSecond: number;
  readonly mostPerSecond: number;
  readonly seconds: number;
  /** How requests arrive, for the title. */
  readonly what: string;
}

function planLoad(options: LoadOptions, workload: Workload): LoadPlan {
  const { segments } = workload;
  const ratePerSecond = options.ratePerSecond ?? workload.ratePerSecond ?? DEFAULT_LOAD * staggeredOptimum(workload);
  const seconds = options.seconds ?? workload.seconds ?? DEFAULT_SECONDS;
  if (seconds > SECONDS_MOST) throw new InvalidOptionError('--seconds', `is missing, must be there: the workload would take ${seconds} s, more than the ${SECONDS_MOST} of a live run`);
  const meanPerSecond = ratePerSecond * meanScale(segments);
  const mostPerSecond = ratePerSecond * largestScale(segments);
  return {
    source: { ...steady(workload, ratePerSecond, options.seed), segments },
    warmUp: steady(workload, meanPerSecond, options.seed + 1),
    ratePerSecond: meanPerSecond,
    mostPerSecond,
    seconds,
    what: segments.length === 0 ? '' : ` on average, at most ${si(mostPerSecond)}`,
  };
}

function planTrace({ timesNs: all, models, speed, workload }: Recorded, { seconds, seed }: LoadOptions): LoadPlan {
  const wholeSeconds = all.at(-1)! / 1e9;
  const length = seconds ?? Math.max(1, Math.ceil(wholeSeconds + 1e-9));
  if (length > SECONDS_MOST) throw new InvalidOptionError('--speed', `the trace would take ${Math.round(wholeSeconds)} s at speed ${speed}; give it a higher --speed or fewer --seconds`);
  const count = countBefore(all, length * 1e9);
  const ratePerSecond = count / length;
  return {
    source: { kind: 'trace', timesNs: all.slice(0, count), models: models.slice(0, count) },
    warmUp: steady(workload, ratePerSecond, seed + 1),
    ratePerSecond,
    mostPerSecond: ratePerSecond,
    seconds: length,
    what: `, ${count} recorded arrivals at speed ${speed}`,
  };
}

function steady(workload: Workload, ratePerSecond: number, seed: number): SourceSpec & { kind: 'mix' } {
  const rates = modelRates(workload, ratePerSecond);
  return { kind: 'mix', models: workload.models.map(({ arrivals }, model) => ({ pattern: arrivals, ratePerSecond: rates[model]! })), segments: [], seed };
}

function loadConfig({ workload, gpus, dropPolicy, condition, record }: LoadOptions, ratePerSecond: number): SchedulerConfig {
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
    recording: record !== null,
    origin: clockOrigin(),
  };
}
