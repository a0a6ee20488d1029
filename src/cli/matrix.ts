/**
 * `rubato bench throughput --matrix`: the search for the highest rate at a base point and along each axis from there, one
 * axis at a time: models, GPUs, shards, order of deadlines.
 */
import { RubatoError } from '../model/errors.js';
import { LatencyProfile } from '../model/latency-profile.js';
import { machineFacts, type MachineFacts } from '../report/run-report.js';
import { fixed } from '../report/units.js';
import { type DeadlineOrder, DEADLINE_ORDERS } from './deadline-order.js';
import { parseSynthetic, SYNTHETIC_DEFAULTS, type SyntheticFlags, type SyntheticOptions } from './synthetic.js';
import { benchThroughput, type StallFigures, type ThroughputReport } from './throughput.js';

export interface MatrixAxes {
  readonly models: readonly number[];
  readonly gpus: readonly number[];
  readonly shards: readonly number[];
  readonly order: readonly DeadlineOrder[];
}

export const MATRIX_AXES: MatrixAxes = { models: [1, 64, 1024, 4096], gpus: [8, 64, 1024, 10_000], shards: [1, 2, 4], order: DEADLINE_ORDERS };
export const MATRIX_SECONDS = 2;

export type MatrixPoint = { readonly [Axis in keyof MatrixAxes]: MatrixAxes[Axis][number] };

/** What was found at a point. */
export interface MatrixRow extends MatrixPoint {
  readonly profile: { readonly alphaNs: number; readonly betaNs: number; readonly maxBatch: number };
  readonly sloMs: number;
  /** Why there are no figures; null where there are. */
  readonly problem: string | null;
  readonly figures: MatrixFigures | null;
}

export interface MatrixFigures {
  readonly goodRequestsPerSecond: number;
  readonly ratePerSecond: number;
  readonly sustained: boolean;
  readonly badRate: number;
  readonly meanBatch: number;
  readonly cpuSecondsPerMillion: number;
  readonly latenessP99Us: number;
  readonly lagP999Ms: number;
  readonly lagMaxMs: number;
  readonly gpuCapacityPerSecond: number;
  readonly stalls: StallFigures;
}

export interface MatrixReport {
  /** Length of each confirming run. */
  readonly seconds: number;
  /** Points of which nothing is known, because the run was interrupted. */
  readonly missing: number;
  readonly points: readonly MatrixRow[];
  readonly machine: MachineFacts;
}

/** Profile and SLO for a point that names none. */
export type MatrixFlags = Omit<SyntheticFlags, keyof MatrixAxes | 'profile'> & { readonly profile: string | null; readonly seconds: number };

/** The base point (on each axis the default of the command if the axis has it, else its first value), then each axis in turn. */
export function matrixPoints(axes: MatrixAxes): MatrixPoint[] {
  const baseOf = <T>(values: readonly T[], usual: T): T => (values.includes(usual) ? usual : values[0]!);
  const base: MatrixPoint = {
    models: baseOf(axes.models, SYNTHETIC_DEFAULTS.models),
    gpus: baseOf(axes.gpus, SYNTHETIC_DEFAULTS.gpus),
    shards: baseOf(axes.shards, SYNTHETIC_DEFAULTS.shards),
    order: baseOf(axes.order, SYNTHETIC_DEFAULTS.order),
  };
  const along = <Axis extends keyof MatrixAxes>(axis: Axis): MatrixPoint[] => axes[axis].filter((value) => value !== base[axis]).map((value) => ({ ...base, [axis]: value }));
  return [base, ...along('models'), ...along('gpus'), ...along('shards'), ...along('order')];
}

const PROFILE_GPUS = 64;
const PROFILE_ALPHA_NS = 500;
const PROFILE_BETA_NS = 86_000;
/** The longest batch, as a share of the SLO: with longer ones the SLO would be the limit. */
const LONGEST_SHARE = 0.25;

/**
 * A profile with which GPUs are not the limit: that of the default (64 GPUs, 0.5 µs·b + 86 µs, which can run 55 M requests/s),
 * slower in proportion with more GPUs and faster with fewer, as long as a batch takes at most a quarter of the SLO.
 */
export function profileFor(gpus: number, maxBatch: number, sloNs: number): LatencyProfile {
  const scale = Math.min(gpus / PROFILE_GPUS, (LONGEST_SHARE * sloNs) / (PROFILE_ALPHA_NS * maxBatch + PROFILE_BETA_NS));
  const ns = (value: number): string => `${Math.max(1, Math.round(scale * value))}ns`;
  return LatencyProfile.parse({ alpha: ns(PROFILE_ALPHA_NS), beta: ns(PROFILE_BETA_NS), maxBatch }, '--profile');
}

export interface MatrixHooks {
  readonly onInterrupt: (stop: () => void) => void;
  readonly onRow: (row: MatrixRow, index: number) => void;
}

export async function benchMatrix(axes: MatrixAxes, flags: MatrixFlags, { onInterrupt, onRow }: MatrixHooks): Promise<MatrixReport> {
  const points = matrixPoints(axes);
  const loads = points.map((point) => loadAt(point, flags)); // all options are looked at before anything runs
  const rows: MatrixRow[] = [];
  let interrupted = false;
  for (const [index, point] of points.entries()) {
    const load = loads[index]!;
    let stopPoint = (): void => undefined;
    onInterrupt(() => {
      interrupted = true;
      stopPoint();
    });
    const label = `point ${index + 1} of ${points.length}`;
    const found = await figuresAt({ ...load, seconds: flags.seconds, label }, (stop) => {
      stopPoint = stop;
      if (interrupted) stop();
    });
    if (interrupted) break; // what a search has found halfway is no result
    const { profile, sloNs } = load;
    const row = { ...point, profile: shapeOf(profile), sloMs: sloNs / 1e6, ...found };
    rows.push(row);
    onRow(row, index);
  }
  return { seconds: flags.seconds, missing: points.length - rows.length, points: rows, machine: machineFacts() };
}

function loadAt(point: MatrixPoint, { seconds: _, profile, ...flags }: MatrixFlags): SyntheticOptions {
  const load = parseSynthetic({ ...flags, ...point, profile: profile ?? SYNTHETIC_DEFAULTS.profile });
  return profile === null ? { ...load, profile: profileFor(point.gpus, flags.maxBatch, load.sloNs) } : load;
}

async function figuresAt(options: Parameters<typeof benchThroughput>[0], onInterrupt: (stop: () => void) => void): Promise<Pick<MatrixRow, 'problem' | 'figures'>> {
  try {
    return { problem: null, figures: figuresOf(await benchThroughput(options, onInterrupt)) };
  } catch (error) {
    if (!(error instanceof RubatoError) || error.code !== 'ERR_RUBATO_GPU_LIMITED') throw error;
    return { problem: 'the GPUs are the limit', figures: null };
  }
}

function figuresOf(report: ThroughputReport): MatrixFigures {
  const { goodRequestsPerSecond, ratePerSecond, sustained, badRate, meanBatch, cpuSecondsPerMillion, lagP999Ms, lagMaxMs, gpuCapacityPerSecond, stalls } = report;
  return { goodRequestsPerSecond, ratePerSecond, sustained, badRate, meanBatch, cpuSecondsPerMillion, latenessP99Us: report.latenessUs.p99, lagP999Ms, lagMaxMs, gpuCapacityPerSecond, stalls };
}

function shapeOf(profile: LatencyProfile): MatrixRow['profile'] {
  const alphaNs = profile.maxBatch > 1 ? profile.latencyNs(2) - profile.latencyNs(1) : 0;
  return { alphaNs, betaNs: profile.latencyNs(1) - alphaNs, maxBatch: profile.maxBatch };
}

// ---------------------------------------------------------------- the table: lines of their own, printed as they come

const COLUMNS = [['models', 6], ['GPUs', 6], ['shards', 6], ['order', 8], ['M good/s', 9], ['bad %', 6], ['batch', 6], ['CPU s/M', 7], ['late p99 µs', 11]] as const;

export function matrixHead(count: number, seconds: number): string {
  return `Highest rate with at most 1 % bad at ${count} points, each confirmed for ${seconds} s.\nCPU seconds per million requests include the load generator; late: actual − planned start of a batch.\n\n${line(COLUMNS.map(([name]) => name))}`;
}

export function matrixLine({ models, gpus, shards, order, problem, figures }: MatrixRow): string {
  const point = [models, gpus, shards, order].map(String);
  if (figures === null) return line(point, `  ${problem}`);
  const found = [fixed(figures.goodRequestsPerSecond / 1e6, 2), fixed(100 * figures.badRate, 2), fixed(figures.meanBatch, 1), fixed(figures.cpuSecondsPerMillion, 3), fixed(figures.latenessP99Us, 0)];
  return line([...point, ...found], figures.sustained ? '' : '  not sustained');
}

function line(cells: readonly string[], after = ''): string {
  return `${cells.map((cell, k) => cell.padStart(COLUMNS[k]![1])).join('  ')}${after}\n`;
}
