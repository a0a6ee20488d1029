/** Replays a recording in virtual time, as it was or with something changed, and says what the change does. */
import { describeValue } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { CONDITIONS, DROP_POLICIES } from '../protocol/config.js';
import { parseArrivals } from './arrivals.js';
import { POLICIES } from './own-policies.js';
import { profileOf, type RecordedModel, type RecordedTotals, type Recording } from './recording.js';
import type { SimulationMargins, SimulationResult } from './result.js';
import { type RecordedArrivals, simulate } from './simulate.js';
import type { Workload } from './workload.js';

/** What is to be different. */
export interface Change {
  /** Null = as many as were recorded. */
  readonly gpus: number | null;
  /** 2 plays it twice as fast. */
  readonly speed: number;
  /** Every SLO times this, those of single requests as well. */
  readonly sloScale: number;
  /** By model name, instead of its SLO; requests with an SLO of their own keep it. */
  readonly slosNs: ReadonlyMap<string, number>;
}

export const NO_CHANGE: Change = { gpus: null, speed: 1, sloScale: 1, slosNs: new Map() };

/** Plain data, its arrays in shared memory: for a thread that runs it. */
export interface Replay {
  readonly name: string;
  readonly models: readonly RecordedModel[];
  readonly gpus: number;
  readonly margins: SimulationMargins;
  readonly seconds: number;
  readonly recorded: RecordedArrivals;
}

/** Until when batches count after the last arrival, in SLOs: all but those of policies that never drop have ended. */
const TAIL_SLOS = 2;

/** @throws InvalidOptionError for an SLO of a model that is not in the recording, or a speed that makes no sense. */
export function replayOf(recording: Recording, change: Change, margins: SimulationMargins = recording.margins): Replay {
  const { models, timesNs, modelOf, slosNs } = recording;
  const { speed, sloScale } = change;
  for (const name of change.slosNs.keys()) {
    if (!models.some((model) => model.name === name)) throw new InvalidOptionError('slo', `got model ${describeValue(name)}, must be one of ${models.map((model) => model.name).join(', ')}`);
  }
  const changed = models.map((model) => ({ ...model, sloNs: Math.max(1, Math.round((change.slosNs.get(model.name) ?? model.sloNs) * sloScale)) }));
  const longestSloNs = Math.max(...changed.map((model) => model.sloNs));
  const lastNs = timesNs.at(-1)! / speed;
  if (!(lastNs <= Number.MAX_SAFE_INTEGER)) throw new InvalidOptionError('speed', `got ${speed}, must keep the recording shorter than 2^53 ns (104 days)`);
  return {
    name: recording.file,
    models: changed,
    gpus: change.gpus ?? recording.gpus,
    margins,
    seconds: Math.ceil((lastNs + TAIL_SLOS * longestSloNs) / 1e6) / 1e3,
    recorded: {
      timesNs: shared(new Float64Array(new SharedArrayBuffer(timesNs.byteLength)), timesNs, (ns) => Math.round(ns / speed)),
      modelOf: shared(new Uint16Array(new SharedArrayBuffer(modelOf.byteLength)), modelOf, (model) => model),
      slosNs: shared(new Float64Array(new SharedArrayBuffer(slosNs.byteLength)), slosNs, (ns) => Math.round(ns * sloScale)),
    },
  };
}

function shared<A extends Float64Array | Uint16Array>(to: A, from: A, of: (value: number) => number): A {
  for (let k = 0; k < from.length; k++) to[k] = of(from[k]!);
  return to;
}

/** Its models, each with its share of the requests. */
export function workloadOf({ name, models, gpus, recorded }: Replay): Workload {
  const arrivals = parseArrivals('poisson', 'arrivals'); // asked of nobody: the times are recorded
  const counts = new Float64Array(models.length);
  for (const model of recorded.modelOf) counts[model]!++;
  return {
    name,
    gpus,
    arrivals,
    ratePerSecond: null,
    seconds: null,
    segments: [],
    trace: null,
    staggeredOptimumPerSecond: null,
    fluidBoundPerSecond: null,
    models: models.map((model, index) => ({ name: model.name, profile: profileOf(model), sloNs: model.sloNs, ratePerSecond: null, rateShare: counts[index]! / recorded.modelOf.length, arrivals })),
  };
}

/** Runs it under a policy by its full name; null = as every model was scheduled when it was recorded. */
export function runReplay(replay: Replay, policy: string | null): SimulationResult {
  const { models, gpus, margins, seconds, recorded } = replay;
  const options = { workload: workloadOf(replay), gpus, margins, seconds, warmupSeconds: 0, seed: 1, ratePerSecond: recorded.timesNs.length / seconds, recorded };
  if (policy !== null) return POLICIES.get(policy)!(options);
  const modelPolicies = models.map(({ condition, dropPolicy }) => ({ condition: CONDITIONS.indexOf(condition), dropPolicy: DROP_POLICIES.indexOf(dropPolicy) }));
  return simulate({ name: recordedPolicy(models), ...modelPolicies[0]! }, { ...options, modelPolicies });
}

/** The policies that the models were recorded with; nearly always one. */
export function recordedPolicy(models: readonly RecordedModel[]): string {
  return [...new Set(models.map(({ condition, dropPolicy }) => `${condition}+${dropPolicy}`))].join(', ');
}

// ── what became of it ──────────────────────────────────────────────────────────────────────────────────────────────

/** The figures in which a recorded and a simulated run can be compared. */
export interface Figures {
  readonly requests: number;
  readonly good: number;
  readonly late: number;
  readonly dropped: number;
  readonly droppedByReason: Readonly<Record<string, number>>;
  /** 1 − good / requests. */
  readonly badRate: number;
  readonly meanBatch: number;
  /** Time that GPUs were busy, of all together. */
  readonly gpuSeconds: number;
  readonly gpusUsed: number;
}

export function figuresOf(result: SimulationResult): Figures {
  const { offered, good, late, droppedByReason, batches, batched, busyNs } = result;
  return figures(offered, good, late, droppedByReason, batches, batched, busyNs.reduce((sum, ns) => sum + ns, 0) / 1e9, busyNs.filter((ns) => ns > 0).length);
}

/** Of the live run itself. Requests that were refused at once are in no figure, since they are not in the recording. */
export function recordedFigures(totals: RecordedTotals): Figures {
  const { accepted, completed, late, expired, queueFull, infeasible, batches, batched, gpuSeconds, gpusUsed } = totals;
  return figures(accepted, completed, late, { expired, 'queue-full': queueFull, infeasible }, batches, batched, gpuSeconds, gpusUsed);
}

function figures(requests: number, good: number, late: number, droppedByReason: Readonly<Record<string, number>>, batches: number, batched: number, gpuSeconds: number, gpusUsed: number): Figures {
  const dropped = Object.values(droppedByReason).reduce((sum, count) => sum + count, 0);
  return { requests, good, late, dropped, droppedByReason, badRate: requests === 0 ? 0 : 1 - good / requests, meanBatch: batches === 0 ? 0 : batched / batches, gpuSeconds, gpusUsed };
}

/** What the change does: more than 0 where there is more of it than before. */
export function differenceOf(changed: Figures, before: Figures): Figures {
  const reasons = new Set([...Object.keys(before.droppedByReason), ...Object.keys(changed.droppedByReason)]);
  return {
    requests: changed.requests - before.requests,
    good: changed.good - before.good,
    late: changed.late - before.late,
    dropped: changed.dropped - before.dropped,
    droppedByReason: Object.fromEntries([...reasons].map((reason) => [reason, (changed.droppedByReason[reason] ?? 0) - (before.droppedByReason[reason] ?? 0)])),
    badRate: changed.badRate - before.badRate,
    meanBatch: changed.meanBatch - before.meanBatch,
    gpuSeconds: changed.gpuSeconds - before.gpuSeconds,
    gpusUsed: changed.gpusUsed - before.gpusUsed,
  };
}
