import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { z } from 'zod';
import { describeValue, formatDurationNs, parsePositiveDurationNs } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { LARGEST_BATCH, LatencyProfile } from '../model/latency-profile.js';
import { zooModel } from '../model/zoo.js';
import { type ArrivalPattern, parseArrivals } from './arrivals.js';

/** One model of a workload. */
export interface WorkloadModel {
  readonly name: string;
  readonly profile: LatencyProfile;
  readonly sloNs: number;
  /** Share of the workload's request rate; the shares of all models sum to 1. */
  readonly rateShare: number;
  readonly arrivals: ArrivalPattern;
}

/** What is offered to how many GPUs. */
export interface Workload {
  readonly name: string;
  readonly gpus: number;
  /** The pattern of every model that has none of its own. */
  readonly arrivals: ArrivalPattern;
  /** Null where the workload leaves the rate to its user. */
  readonly ratePerSecond: number | null;
  /** How long to offer it; null where the workload leaves that to its user. */
  readonly seconds: number | null;
  /** As the file says; `staggeredOptimum` and `fluidBound` compute them. */
  readonly staggeredOptimumPerSecond: number | null;
  readonly fluidBoundPerSecond: number | null;
  readonly models: readonly WorkloadModel[];
}

const LARGEST_GPUS = 4096;
const LARGEST_MODELS = 4096;
const DEFAULT_MAX_BATCH = 1024;
const BURSTY_SUFFIX = '-b';
const BURSTY_ARRIVALS = 'gamma:0.1';
/** Enough to narrow a bracket that is no wider than its upper end down to the last bit of a double. */
const BISECTIONS = 60;

// From dist/sim/ to workloads/, in the repository as in the package.
const SHIPPED_MAP = new URL('../../workloads/named.json', import.meta.url);
const SHIPPED_START = new URL('../../workloads/titanx4.json', import.meta.url);
const START_NAME = 'titanx4';

const number = (rule: string): z.ZodNumber => z.number({ error: rule });
const positive = (rule: string): z.ZodNumber => number(rule).positive(rule);
const integer = (rule: string, largest: number): z.ZodNumber => number(rule).int(rule).min(1, rule).max(largest, rule);
const text = z.string({ error: 'must be a name' }).min(1, 'must be a name');

// Durations, profiles and arrivals have parsers of their own, whose errors say more than a schema's.
const modelSchema = z.strictObject({
  name: text.optional(),
  profile: z.unknown().optional(),
  alphaUs: number('must be microseconds >= 0').min(0, 'must be microseconds >= 0').optional(),
  betaUs: number('must be microseconds >= 0').min(0, 'must be microseconds >= 0').optional(),
  maxBatch: integer(`must be an integer from 1 to ${LARGEST_BATCH}`, LARGEST_BATCH).optional(),
  slo: z.unknown().optional(),
  sloMs: positive('must be milliseconds > 0').optional(),
  rateShare: positive('must be a share > 0').optional(),
  rate: positive('must be requests per second > 0').optional(),
  arrivals: z.unknown().optional(),
}, { error: 'must be an object' });

const workloadSchema = z.strictObject({
  name: text.optional(),
  gpus: integer(`must be an integer from 1 to ${LARGEST_GPUS}`, LARGEST_GPUS),
  models: z.array(modelSchema, { error: 'must be an array of models' })
    .min(1, 'must hold at least one model').max(LARGEST_MODELS, `must hold at most ${LARGEST_MODELS} models`),
  arrivals: z.unknown().optional(),
  rate: positive('must be requests per second > 0').optional(),
  seconds: positive('must be seconds > 0').optional(),
  staggeredOptimumPerSecond: positive('must be requests per second > 0').optional(),
  fluidBoundPerSecond: positive('must be requests per second > 0').optional(),
}, { error: 'must be an object with gpus and models' });

type ModelInput = z.output<typeof modelSchema>;
type WorkloadInput = z.output<typeof workloadSchema>;

/**
 * A shipped workload by name (`r50`, `mix3`, …, or `r50-b` for its bursty variant, gamma gaps of shape 0.1),
 * or a JSON file that holds one workload.
 * @throws InvalidOptionError that names the file and the path of the wrong field, or lists the shipped names.
 */
export function loadWorkload(nameOrFile: string): Workload {
  if (/\.json$|[/\\]/.test(nameOrFile)) return loadFile(nameOrFile);
  if (nameOrFile === START_NAME) return parseWorkload(readJson(SHIPPED_START, nameOrFile), nameOrFile, nameOrFile);
  const map = shippedMap();
  const plain = map[nameOrFile];
  if (plain !== undefined) return parseWorkload(plain, nameOrFile, nameOrFile);
  const bursty = nameOrFile.endsWith(BURSTY_SUFFIX) ? map[nameOrFile.slice(0, -BURSTY_SUFFIX.length)] : undefined;
  if (bursty !== undefined) return parseWorkload({ ...bursty, arrivals: BURSTY_ARRIVALS }, nameOrFile, nameOrFile);
  throw new InvalidOptionError('workload', `got ${describeValue(nameOrFile)}, must be a .json file or one of ` +
    `${shippedWorkloads().join(', ')} (all but ${START_NAME} also as NAME${BURSTY_SUFFIX} with ${BURSTY_ARRIVALS} arrivals)`);
}

/** The names that `loadWorkload` knows, without the bursty variants. */
export function shippedWorkloads(): string[] {
  return [...Object.keys(shippedMap()), START_NAME];
}

/**
 * Checks a workload that was read from JSON.
 * @param source names it in errors: `my.json: models[1].slo: got -5, …`.
 * @param fallbackName its name if it has none itself.
 * @throws InvalidOptionError for an unknown, missing or wrong field.
 */
export function parseWorkload(input: unknown, source: string, fallbackName: string): Workload {
  const checked = workloadSchema.safeParse(input);
  if (!checked.success) throw issueError(checked.error.issues[0]!, input, source);
  const fields = checked.data;
  const arrivals = parseArrivals(fields.arrivals ?? 'poisson', `${source}: arrivals`);
  const rates = rateShares(fields, source);
  const models: WorkloadModel[] = [];
  const placeOfName = new Map<string, number>();
  for (let i = 0; i < fields.models.length; i++) {
    const model = parseModel(fields.models[i]!, i, rates.shares[i]!, arrivals, `${source}: models[${i}]`);
    const first = placeOfName.get(model.name);
    if (first !== undefined) {
      throw new InvalidOptionError(`${source}: models[${i}].name`, `got ${describeValue(model.name)}, must differ from that of models[${first}]`);
    }
    placeOfName.set(model.name, i);
    models.push(model);
  }
  return {
    name: fields.name ?? fallbackName,
    gpus: fields.gpus,
    arrivals,
    ratePerSecond: rates.ratePerSecond,
    seconds: fields.seconds ?? null,
    staggeredOptimumPerSecond: fields.staggeredOptimumPerSecond ?? null,
    fluidBoundPerSecond: fields.fluidBoundPerSecond ?? null,
    models,
  };
}

/**
 * The staggered optimum in requests per second: every model runs its largest batch with l(b)(1 + 1/G) <= SLO
 * (at least 1), G being *all* GPUs, and the GPUs' time is divided so that the models' shares are kept.
 * Several models cannot all be staggered over all GPUs, so this asks more than is possible; see `fluidBound`.
 */
export function staggeredOptimum(workload: Workload): number {
  const stretch = 1 + 1 / workload.gpus;
  let gpuNsPerRequest = 0;
  for (const { profile, sloNs, rateShare } of workload.models) {
    const b = Math.max(1, profile.largestBatchWithin(sloNs / stretch));
    gpuNsPerRequest += (rateShare * profile.latencyNs(b)) / b;
  }
  return (workload.gpus * 1e9) / gpuNsPerRequest;
}

/**
 * The fluid bound in requests per second: the rate at which the GPUs are just full when every model gathers its
 * batch over b/lambda and still finishes, b/lambda + l(b) <= SLO, with b >= 1 not bound to whole numbers.
 * Derived for even arrivals and nobody dropped; for random arrivals a yardstick, not a proof.
 */
export function fluidBound(workload: Workload): number {
  let low = 0;
  let high = 1;
  while (fluidGpus(workload, high) <= workload.gpus) {
    low = high;
    high *= 2;
  }
  for (let i = 0; i < BISECTIONS; i++) {
    const middle = (low + high) / 2;
    if (fluidGpus(workload, middle) <= workload.gpus) low = middle;
    else high = middle;
  }
  return low;
}

/** GPUs that are kept busy at this rate; grows with it. */
function fluidGpus(workload: Workload, ratePerSecond: number): number {
  let gpus = 0;
  for (const model of workload.models) {
    const perNs = ratePerSecond * model.rateShare * 1e-9;
    gpus += perNs * cheapestGpuNs(model.profile, perNs, model.sloNs);
  }
  return gpus;
}

/** The least l(b)/b over all b that can be gathered in time; between whole batches l is taken as a straight line. */
function cheapestGpuNs(profile: LatencyProfile, perNs: number, sloNs: number): number {
  const ns = profile.ns;
  let cheapestNs = ns[1]!;
  let b = 1;
  while (b < profile.maxBatch && (b + 1) / perNs + ns[b + 1]! <= sloNs) {
    b++;
    cheapestNs = Math.min(cheapestNs, ns[b]! / b);
  }
  const slackNs = sloNs - b / perNs - ns[b]!;
  if (b === profile.maxBatch || slackNs <= 0) return cheapestNs;
  const slopeNs = ns[b + 1]! - ns[b]!;
  const more = slackNs / (1 / perNs + slopeNs);
  return Math.min(cheapestNs, (ns[b]! + more * slopeNs) / (b + more));
}

function parseModel(input: ModelInput, index: number, rateShare: number, arrivals: ArrivalPattern, path: string): WorkloadModel {
  const known = typeof input.profile === 'string' ? zooModel(input.profile, `${path}.profile`) : null;
  const profile = parseProfile(input, known?.profile ?? null, path);
  const sloNs = parseSloNs(input, known?.sloNs ?? null, path);
  if (sloNs < profile.latencyNs(1)) {
    throw new InvalidOptionError(`${path}.${input.slo === undefined ? 'sloMs' : 'slo'}`, `got ${formatDurationNs(sloNs)}, ` +
      `must be at least l(1) = ${formatDurationNs(profile.latencyNs(1))}, or no request can be met`);
  }
  return {
    name: input.name ?? known?.name ?? `m${index}`,
    profile,
    sloNs,
    rateShare,
    arrivals: input.arrivals === undefined ? arrivals : parseArrivals(input.arrivals, `${path}.arrivals`),
  };
}

function parseProfile(input: ModelInput, known: LatencyProfile | null, path: string): LatencyProfile {
  const { profile, alphaUs, betaUs, maxBatch } = input;
  if (profile === undefined) {
    if (alphaUs === undefined || betaUs === undefined) {
      const half = alphaUs !== undefined ? 'betaUs' : betaUs !== undefined ? 'alphaUs' : 'profile';
      throw new InvalidOptionError(`${path}.${half}`, 'is missing, must be a profile or both alphaUs and betaUs');
    }
    const terms = { alphaNs: alphaUs * 1e3, betaNs: betaUs * 1e3, maxBatch: maxBatch ?? DEFAULT_MAX_BATCH };
    return LatencyProfile.linear(terms, path);
  }
  if (alphaUs !== undefined || betaUs !== undefined) {
    throw new InvalidOptionError(`${path}.profile`, 'stands beside alphaUs or betaUs, must be the one or the others');
  }
  const lacksMaxBatch = isPlainObject(profile) && profile['maxBatch'] === undefined && maxBatch !== undefined;
  const whole = known ?? LatencyProfile.parse(lacksMaxBatch ? { ...profile, maxBatch } : profile, `${path}.profile`);
  if (maxBatch === undefined || maxBatch === whole.maxBatch) return whole;
  return shortened(whole, maxBatch, `${path}.maxBatch`);
}

/** The same profile with a smaller maxBatch. */
function shortened(profile: LatencyProfile, maxBatch: number, path: string): LatencyProfile {
  if (maxBatch > profile.maxBatch) {
    throw new InvalidOptionError(path, `got ${maxBatch}, must be at most the profile's own ${profile.maxBatch}`);
  }
  if (!profile.linear) return LatencyProfile.table(Array.from(profile.ns.subarray(1, maxBatch + 1)), path);
  return LatencyProfile.linear({ alphaNs: profile.alphaNs, betaNs: profile.betaNs, maxBatch }, path);
}

function parseSloNs(input: ModelInput, knownNs: number | null, path: string): number {
  if (input.slo !== undefined && input.sloMs !== undefined) {
    throw new InvalidOptionError(`${path}.slo`, 'stands beside sloMs, must be the one or the other');
  }
  if (input.slo === undefined && input.sloMs === undefined && knownNs !== null) return knownNs;
  if (input.sloMs !== undefined) return parsePositiveDurationNs(input.sloMs, `${path}.sloMs`);
  return parsePositiveDurationNs(input.slo, `${path}.slo`);
}

/** Shares that sum to 1, from the models' `rateShare` or `rate`; equal ones where no model has either. */
function rateShares(fields: WorkloadInput, source: string): { shares: number[]; ratePerSecond: number | null } {
  const { models } = fields;
  const field = models.some((model) => model.rate !== undefined) ? 'rate' : 'rateShare';
  const isStated = models.some((model) => model[field] !== undefined);
  const weights: number[] = [];
  let sum = 0;
  for (let i = 0; i < models.length; i++) {
    const path = `${source}: models[${i}]`;
    if (field === 'rate' && models[i]!.rateShare !== undefined) {
      throw new InvalidOptionError(`${path}.rateShare`, 'stands beside a rate, all models must have the one or the other');
    }
    const weight = isStated ? models[i]![field] : 1;
    if (weight === undefined) throw new InvalidOptionError(`${path}.${field}`, `is missing, must be there when another model has a ${field}`);
    weights.push(weight);
    sum += weight;
  }
  if (field === 'rate' && fields.rate !== undefined) {
    throw new InvalidOptionError(`${source}: rate`, `got ${fields.rate}, must be absent where the models have rates (they sum to ${sum})`);
  }
  return { shares: weights.map((weight) => weight / sum), ratePerSecond: field === 'rate' ? sum : (fields.rate ?? null) };
}

function loadFile(file: string): Workload {
  const input = readJson(file, file);
  if (isPlainObject(input) && !('models' in input)) {
    const names = Object.keys(input).filter((key) => isPlainObject(input[key]) && 'models' in input[key]);
    if (names.length > 0) {
      throw new InvalidOptionError(file, `holds a map of ${names.length} workloads (${names.join(', ')}), ` +
        'must hold one: put the one you mean into a file of its own');
    }
  }
  return parseWorkload(input, file, basename(file).replace(/\.json$/, ''));
}

function shippedMap(): Record<string, Record<string, unknown>> {
  return Object.assign(Object.create(null), readJson(SHIPPED_MAP, 'named.json'));
}

function readJson(file: string | URL, source: string): unknown {
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    throw new InvalidOptionError(source, code === 'ENOENT' ? 'there is no such file' : `cannot be read (${code})`);
  }
  try {
    return JSON.parse(content.replace(/^\uFEFF/, ''));
  } catch (error) {
    throw new InvalidOptionError(source, `is not valid JSON: ${(error as Error).message}`);
  }
}

function issueError(issue: z.core.$ZodIssue, input: unknown, source: string): InvalidOptionError {
  if (issue.code === 'unrecognized_keys') {
    const schema = issue.path.length === 0 ? workloadSchema : modelSchema;
    const path = fieldPath(source, [...issue.path, issue.keys[0]!]);
    return new InvalidOptionError(path, `unknown field, allowed are ${Object.keys(schema.shape).join(', ')}`);
  }
  let value: unknown = input;
  for (const key of issue.path) value = (value as Record<PropertyKey, unknown>)[key];
  const got = value === undefined ? 'is missing' : `got ${describeValue(value)}`;
  return new InvalidOptionError(fieldPath(source, issue.path), `${got}, ${issue.message}`);
}

/** `my.json: models[1].slo` */
function fieldPath(source: string, keys: readonly PropertyKey[]): string {
  let path = '';
  for (const key of keys) {
    if (typeof key === 'number') path += `[${key}]`;
    else path += path === '' ? String(key) : `.${String(key)}`;
  }
  return path === '' ? source : `${source}: ${path}`;
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
