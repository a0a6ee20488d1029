/** What is offered to how many GPUs: the workloads that ship, and files of users (docs/workloads.md). */
import { readFileSync } from 'node:fs';
import { basename, dirname, isAbsolute, join } from 'node:path';
import { parse as parseYaml, YAMLParseError } from 'yaml';
import { describeValue } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import type { LatencyProfile } from '../model/latency-profile.js';
import { type ArrivalPattern, parseArrivals } from './arrivals.js';
import { cycleSeconds, type Segment } from './segments.js';
import { parseModels, parseRates } from './workload-models.js';
import { checkFields, type SegmentInput, type TraceInput, type WorkloadInput } from './workload-schema.js';

export { fluidBound, staggeredOptimum } from './bounds.js';

/** One model of a workload. */
export interface WorkloadModel {
  readonly name: string;
  readonly profile: LatencyProfile;
  readonly sloNs: number;
  /** Share of the workload's request rate; the shares of all models sum to 1. */
  readonly rateShare: number;
  /** Its own rate where the file states one: exact, where share × sum may be off by the last bit. */
  readonly ratePerSecond: number | null;
  readonly arrivals: ArrivalPattern;
}

/** Recorded requests. */
export interface WorkloadTrace {
  readonly file: string;
  readonly timeColumn: string | null;
  readonly durationColumn: string | null;
  /** Null where models are drawn by their shares. */
  readonly modelColumn: string | null;
  readonly speed: number;
  readonly sort: boolean;
}

/** What is offered to how many GPUs. */
export interface Workload {
  readonly name: string;
  readonly gpus: number;
  /** The pattern of every model that has none of its own. */
  readonly arrivals: ArrivalPattern;
  /** At scale 1. Null where the workload leaves the rate to its user. */
  readonly ratePerSecond: number | null;
  /** How long to offer it, by default the segments once; null where the workload leaves that to its user. */
  readonly seconds: number | null;
  /** Empty where the rate is constant. */
  readonly segments: readonly Segment[];
  /** In place of rate, arrivals and segments. */
  readonly trace: WorkloadTrace | null;
  /** As the file says; `staggeredOptimum` and `fluidBound` compute them. */
  readonly staggeredOptimumPerSecond: number | null;
  readonly fluidBoundPerSecond: number | null;
  readonly models: readonly WorkloadModel[];
}

const BURSTY_SUFFIX = '-b';
const BURSTY_ARRIVALS = 'gamma:0.1';
const FILE = /\.(json|ya?ml)$/i;
/** A file that aliases make larger than this many times is refused. */
const MOST_ALIASES = 100;

// From dist/sim/ to workloads/, in the repository as in the package.
const SHIPPED_MAP = new URL('../../workloads/named.json', import.meta.url);
const SHIPPED_START = new URL('../../workloads/titanx4.json', import.meta.url);
const START_NAME = 'titanx4';

/**
 * A shipped workload by name (`r50`, `mix3`, …, or `r50-b` for its bursty variant, gamma gaps of shape 0.1),
 * or a JSON or YAML file that holds one workload.
 * @throws InvalidOptionError that names the file and the path of the wrong field, or lists the shipped names.
 */
export function loadWorkload(nameOrFile: string): Workload {
  if (FILE.test(nameOrFile) || /[/\\]/.test(nameOrFile)) return loadFile(nameOrFile);
  if (nameOrFile === START_NAME) return parseWorkload(readData(SHIPPED_START, nameOrFile), nameOrFile, nameOrFile);
  const map = shippedMap();
  const plain = map[nameOrFile];
  if (plain !== undefined) return parseWorkload(plain, nameOrFile, nameOrFile);
  const bursty = nameOrFile.endsWith(BURSTY_SUFFIX) ? map[nameOrFile.slice(0, -BURSTY_SUFFIX.length)] : undefined;
  if (bursty !== undefined) return parseWorkload({ ...bursty, arrivals: BURSTY_ARRIVALS }, nameOrFile, nameOrFile);
  throw new InvalidOptionError('workload', `got ${describeValue(nameOrFile)}, must be a .json or .yaml file or one of ` +
    `${shippedWorkloads().join(', ')} (all but ${START_NAME} also as NAME${BURSTY_SUFFIX} with ${BURSTY_ARRIVALS} arrivals)`);
}

/** The names that `loadWorkload` knows, without the bursty variants. */
export function shippedWorkloads(): string[] {
  return [...Object.keys(shippedMap()), START_NAME];
}

/**
 * Checks a workload that was read from JSON or YAML.
 * @param source names it in errors: `my.json: models[1].slo: got -5, …`.
 * @param fallbackName its name if it has none itself.
 * @param folder where the path of a trace starts.
 * @throws InvalidOptionError for an unknown, missing or wrong field.
 */
export function parseWorkload(input: unknown, source: string, fallbackName: string, folder = ''): Workload {
  const fields = checkFields(input, source);
  if (fields.trace !== undefined) checkBesideTrace(fields, source);
  const arrivals = parseArrivals(fields.arrivals ?? 'poisson', `${source}: arrivals`);
  const busiest = busiestRate(fields, source);
  const rates = parseRates(fields, source);
  const segments = parseSegments(fields.segments ?? [], busiest, source);
  return {
    name: fields.name ?? fallbackName,
    gpus: fields.gpus,
    arrivals,
    ratePerSecond: busiest ?? rates.ratePerSecond,
    seconds: fields.seconds ?? (segments.length > 0 ? cycleSeconds(segments) : null),
    segments,
    trace: fields.trace === undefined ? null : traceOf(fields.trace, folder),
    staggeredOptimumPerSecond: fields.staggeredOptimumPerSecond ?? null,
    fluidBoundPerSecond: fields.fluidBoundPerSecond ?? null,
    models: parseModels(fields, rates, arrivals, source),
  };
}

/** Each model's requests per second when all together have this rate. */
export function modelRates({ models, ratePerSecond: own }: Workload, ratePerSecond: number): number[] {
  return models.map((model) => (model.ratePerSecond === null || own === null ? ratePerSecond * model.rateShare : model.ratePerSecond * (ratePerSecond / own)));
}

/** The workload with every model arriving in this pattern, all the time. */
export function withArrivals(workload: Workload, arrivals: ArrivalPattern | null): Workload {
  if (arrivals === null) return workload;
  const models = workload.models.map((model) => ({ ...model, arrivals }));
  return { ...workload, arrivals, models, segments: workload.segments.map((segment) => ({ ...segment, arrivals: null })) };
}

// ── rates over time ────────────────────────────────────────────────────────────────────────────────────────────────

/** The highest rate of segments that state rates: that is scale 1 then. Null where they state scales. */
function busiestRate(fields: WorkloadInput, source: string): number | null {
  const { segments = [] } = fields;
  const field = segments[0]?.rate === undefined ? 'scale' : 'rate';
  for (const [i, segment] of segments.entries()) {
    const other = field === 'rate' ? 'scale' : 'rate';
    if (segment[other] !== undefined) throw new InvalidOptionError(`${source}: segments[${i}].${other}`, `stands beside a ${field}, all segments must have the one or the other`);
    if (segment[field] === undefined) throw new InvalidOptionError(`${source}: segments[${i}].${field}`, 'is missing, must be there: every segment has a scale, or every one a rate');
  }
  if (segments.length > 0 && segments.every((segment) => segment[field] === 0)) {
    throw new InvalidOptionError(`${source}: segments`, `have a ${field} of 0 throughout, one must be > 0`);
  }
  if (segments.length === 0 || field === 'scale') return null;
  const stated = fields.rate !== undefined ? 'rate' : fields.models.some((model) => model.rate !== undefined) ? 'models[].rate' : null;
  if (stated !== null) throw new InvalidOptionError(`${source}: ${stated}`, 'stands beside rates of segments, must be absent (or give the segments scales)');
  return Math.max(...segments.map((segment) => segment.rate!));
}

function parseSegments(inputs: readonly SegmentInput[], busiest: number | null, source: string): Segment[] {
  const scaleOf = ({ scale, rate }: SegmentInput): number => (busiest === null ? scale! : rate! / busiest);
  return inputs.map((input, i) => ({
    seconds: input.seconds,
    fromScale: scaleOf(input.ramp === true ? inputs.at(i - 1)! : input),
    toScale: scaleOf(input),
    arrivals: input.arrivals === undefined ? null : parseArrivals(input.arrivals, `${source}: segments[${i}].arrivals`),
  }));
}

// ── traces ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A field that a trace would silently overrule is a mistake. */
function checkBesideTrace(fields: WorkloadInput, source: string): void {
  const refuse = (path: string): never => {
    throw new InvalidOptionError(`${source}: ${path}`, 'stands beside a trace, which says it; must be absent');
  };
  const byColumn = fields.trace!.modelColumn !== undefined;
  for (const field of ['rate', 'arrivals', 'segments'] as const) if (fields[field] !== undefined) refuse(field);
  if (byColumn && fields.popularity !== undefined) refuse('popularity');
  for (const [i, model] of fields.models.entries()) {
    for (const field of ['rate', 'arrivals'] as const) if (model[field] !== undefined) refuse(`models[${i}].${field}`);
    if (byColumn && model.rateShare !== undefined) refuse(`models[${i}].rateShare`);
  }
}

function traceOf({ file, timeColumn, durationColumn, modelColumn, speed, sort }: TraceInput, folder: string): WorkloadTrace {
  return {
    file: isAbsolute(file) ? file : join(folder, file),
    timeColumn: timeColumn ?? null,
    durationColumn: durationColumn ?? null,
    modelColumn: modelColumn ?? null,
    speed: speed ?? 1,
    sort: sort ?? false,
  };
}

// ── files ──────────────────────────────────────────────────────────────────────────────────────────────────────────

function loadFile(file: string): Workload {
  const input = readData(file, file);
  if (isPlainObject(input) && !('models' in input)) {
    const names = Object.keys(input).filter((key) => isPlainObject(input[key]) && 'models' in input[key]);
    if (names.length > 0) {
      throw new InvalidOptionError(file, `holds a map of ${names.length} workloads (${names.join(', ')}), ` +
        'must hold one: put the one you mean into a file of its own');
    }
  }
  return parseWorkload(input, file, basename(file).replace(FILE, ''), dirname(file));
}

function shippedMap(): Record<string, Record<string, unknown>> {
  return Object.assign(Object.create(null), readData(SHIPPED_MAP, 'named.json'));
}

function readData(file: string | URL, source: string): unknown {
  let content: string;
  try {
    content = readFileSync(file, 'utf8').replace(/^\uFEFF/, '');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    throw new InvalidOptionError(source, code === 'ENOENT' ? 'there is no such file' : `cannot be read (${code})`);
  }
  return /\.ya?ml$/i.test(String(file)) ? readYaml(content, source) : readJson(content, source);
}

function readJson(content: string, source: string): unknown {
  try {
    return JSON.parse(content);
  } catch (error) {
    throw new InvalidOptionError(source, `is not valid JSON: ${(error as Error).message}`);
  }
}

function readYaml(content: string, source: string): unknown {
  try {
    return parseYaml(content, { logLevel: 'error', maxAliasCount: MOST_ALIASES });
  } catch (error) {
    // The message goes on with an excerpt of the file; aliases without end are a ReferenceError.
    if (!(error instanceof YAMLParseError || error instanceof ReferenceError)) throw error;
    throw new InvalidOptionError(source, `is not valid YAML: ${error.message.split('\n')[0]!.replace(/:$/, '')}`);
  }
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
