/** The recorded requests that `simulate` and `bench load` play: those of `--trace`, else those that the workload names. */
import { InvalidOptionError } from '../model/errors.js';
import { drawModels, readTrace, type TraceOptions } from '../sim/trace.js';
import type { Workload } from '../sim/workload.js';

export interface TraceFlags {
  trace?: string;
  timeColumn?: string;
  modelColumn?: string;
  speed: number;
}

export interface Recorded {
  readonly path: string;
  readonly speed: number;
  /** Never falling, in ns after the first. */
  readonly timesNs: Float64Array;
  /** The model of each. */
  readonly models: Int32Array;
  /** With the models' shares of the recorded requests, where a column says them. */
  readonly workload: Workload;
}

/** Null where neither names a trace. `seed` draws the models where no column says them. */
export function recordedOf(flags: TraceFlags, workload: Workload, seed: number): Recorded | null {
  const { path, options } = traceOptions(flags, workload);
  if (path === null) {
    for (const [value, name] of [[flags.timeColumn, '--time-column'], [flags.modelColumn, '--model-column']] as const) {
      if (value !== undefined) throw new InvalidOptionError(name, `got "${value}", but there is no trace: give --trace, or a workload that has one`);
    }
    return null;
  }
  const { timesNs, models } = readTrace(path, options);
  const { speed } = options;
  if (models !== null) return { path, speed, timesNs, models, workload: withShares(workload, models) };
  return { path, speed, timesNs, models: drawModels(timesNs.length, workload.models.map((model) => model.rateShare), seed), workload };
}

/** Requests before a time: they are the first so many. */
export function countBefore(timesNs: Float64Array, beforeNs: number): number {
  const at = timesNs.findIndex((timeNs) => timeNs >= beforeNs);
  return at < 0 ? timesNs.length : at;
}

/** `--trace` is another file, so of the workload's trace nothing holds for it; the other flags change single fields. */
function traceOptions(flags: TraceFlags, { trace, models }: Workload): { path: string | null; options: TraceOptions & { speed: number } } {
  const own = flags.trace === undefined ? trace : null;
  const columns: [keyof TraceOptions, string | null | undefined][] = [
    ['timeColumn', flags.timeColumn ?? own?.timeColumn],
    ['modelColumn', flags.modelColumn ?? own?.modelColumn],
    ['durationColumn', own?.durationColumn],
  ];
  return {
    path: flags.trace ?? own?.file ?? null,
    options: {
      speed: flags.speed * (own?.speed ?? 1),
      sort: own?.sort ?? false,
      models: models.map(({ name }) => name),
      ...(Object.fromEntries(columns.filter(([, name]) => typeof name === 'string')) as TraceOptions),
    },
  };
}

function withShares(workload: Workload, requests: Int32Array): Workload {
  const counts = new Float64Array(workload.models.length);
  for (const model of requests) counts[model]! += 1;
  const models = workload.models.map((model, i) => ({ ...model, rateShare: counts[i]! / requests.length, ratePerSecond: null }));
  return { ...workload, models };
}
