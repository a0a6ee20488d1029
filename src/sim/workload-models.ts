/** The models of a workload file: profiles, objectives, and who has how much of the rate. */
import { describeValue, formatDurationNs, parsePositiveDurationNs } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { LatencyProfile } from '../model/latency-profile.js';
import { type ZooModel, zooModel } from '../model/zoo.js';
import { type ArrivalPattern, parseArrivals } from './arrivals.js';
import type { WorkloadModel } from './workload.js';
import { LARGEST_MODELS, type ModelInput, type WorkloadInput } from './workload-schema.js';

/** By model, those of `count` one by one. */
export interface Rates {
  /** They sum to 1. */
  readonly shares: readonly number[];
  /** Stated for each model; else null. */
  readonly own: readonly number[] | null;
  readonly ratePerSecond: number | null;
}

const DEFAULT_MAX_BATCH = 1024;
const POPULARITY = /^(?:(equal)|zipf(?::(\d+(?:\.\d*)?|\.\d+))?)$/;
const LARGEST_EXPONENT = 10;

export function parseModels(fields: WorkloadInput, rates: Rates, arrivals: ArrivalPattern, source: string): WorkloadModel[] {
  const models: WorkloadModel[] = [];
  const entryOfName = new Map<string, number>();
  for (const [entry, input] of fields.models.entries()) {
    const path = `${source}: models[${entry}]`;
    const kind = parseKind(input, arrivals, path);
    for (let k = 1; k <= countOf(input); k++) {
      const number = models.length;
      const name = input.count !== undefined && kind.name !== null ? `${kind.name}-${k}` : (kind.name ?? `m${number}`);
      const first = entryOfName.get(name);
      if (first !== undefined) throw new InvalidOptionError(`${path}.name`, `got ${describeValue(name)}, must differ from that of models[${first}]`);
      entryOfName.set(name, entry);
      models.push({ ...kind, name, rateShare: rates.shares[number]!, ratePerSecond: rates.own?.[number] ?? null });
    }
  }
  return models;
}

/** What all models of one entry have in common. */
function parseKind(input: ModelInput, arrivals: ArrivalPattern, path: string): Pick<WorkloadModel, 'profile' | 'sloNs' | 'arrivals'> & { name: string | null } {
  const known = input.zoo === undefined ? null : zooModel(input.zoo, `${path}.zoo`);
  const profile = parseProfile(input, known, path);
  const sloNs = parseSloNs(input, known?.sloNs ?? null, path);
  if (sloNs < profile.latencyNs(1)) {
    throw new InvalidOptionError(`${path}.${input.slo === undefined ? 'sloMs' : 'slo'}`, `got ${formatDurationNs(sloNs)}, ` +
      `must be at least l(1) = ${formatDurationNs(profile.latencyNs(1))}, or no request can be met`);
  }
  return {
    name: input.name ?? known?.name ?? null,
    profile,
    sloNs,
    arrivals: input.arrivals === undefined ? arrivals : parseArrivals(input.arrivals, `${path}.arrivals`),
  };
}

function parseProfile(input: ModelInput, known: ZooModel | null, path: string): LatencyProfile {
  const { profile, alphaUs, betaUs, maxBatch } = input;
  const isLine = alphaUs !== undefined || betaUs !== undefined;
  if (known !== null && (profile !== undefined || isLine)) {
    throw new InvalidOptionError(`${path}.zoo`, `stands beside ${isLine ? 'alphaUs or betaUs' : 'profile'}, must be the one or the other`);
  }
  if (known !== null) return shortened(known.profile, maxBatch, `${path}.maxBatch`);
  if (profile === undefined) {
    if (alphaUs === undefined || betaUs === undefined) {
      const half = alphaUs !== undefined ? 'betaUs' : betaUs !== undefined ? 'alphaUs' : 'profile';
      throw new InvalidOptionError(`${path}.${half}`, 'is missing, must be a profile, or both alphaUs and betaUs, or a model of the zoo');
    }
    return LatencyProfile.linear({ alphaNs: alphaUs * 1e3, betaNs: betaUs * 1e3, maxBatch: maxBatch ?? DEFAULT_MAX_BATCH }, path);
  }
  if (isLine) throw new InvalidOptionError(`${path}.profile`, 'stands beside alphaUs or betaUs, must be the one or the others');
  if (typeof profile === 'string') {
    throw new InvalidOptionError(`${path}.profile`, `got ${describeValue(profile)}, must be a table of durations or { alpha, beta, maxBatch }; a model of the zoo is named by the field zoo`);
  }
  const lacksMaxBatch = typeof profile === 'object' && profile !== null && !Array.isArray(profile) && (profile as { maxBatch?: unknown }).maxBatch === undefined;
  if (lacksMaxBatch && maxBatch !== undefined) return LatencyProfile.parse({ ...profile, maxBatch }, `${path}.profile`);
  return shortened(LatencyProfile.parse(profile, `${path}.profile`), maxBatch, `${path}.maxBatch`);
}

/** The same profile with a smaller maxBatch. */
function shortened(profile: LatencyProfile, maxBatch: number | undefined, path: string): LatencyProfile {
  if (maxBatch === undefined || maxBatch === profile.maxBatch) return profile;
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

/** From the models' `rateShare` or `rate`; where no model has either, by `popularity`. */
export function parseRates(fields: WorkloadInput, source: string): Rates {
  const field = fields.models.some((model) => model.rate !== undefined) ? 'rate' : 'rateShare';
  const stated = statedWeights(fields, field, source);
  if (stated !== null && fields.popularity !== undefined) {
    throw new InvalidOptionError(`${source}: popularity`, `stands beside the models' ${field}, must be the one or the other`);
  }
  const count = fields.models.reduce((sum, input) => sum + countOf(input), 0);
  if (count > LARGEST_MODELS) throw new InvalidOptionError(`${source}: models`, `are ${count} by their count, must be at most ${LARGEST_MODELS}`);
  const weights = stated ?? popularityWeights(fields.popularity ?? 'equal', count, `${source}: popularity`);
  const sum = weights.reduce((total, weight) => total + weight, 0);
  if (field === 'rate' && fields.rate !== undefined) {
    throw new InvalidOptionError(`${source}: rate`, `got ${fields.rate}, must be absent where the models have rates (they sum to ${sum})`);
  }
  const shares = weights.map((weight) => weight / sum);
  return field === 'rate' ? { shares, own: weights, ratePerSecond: sum } : { shares, own: null, ratePerSecond: fields.rate ?? null };
}

/** Null where no model states one. */
function statedWeights({ models }: WorkloadInput, field: 'rate' | 'rateShare', source: string): number[] | null {
  if (models.every((model) => model[field] === undefined)) return null;
  return models.flatMap((model, i) => {
    const path = `${source}: models[${i}]`;
    if (field === 'rate' && model.rateShare !== undefined) throw new InvalidOptionError(`${path}.rateShare`, 'stands beside a rate, all models must have the one or the other');
    const weight = model[field];
    if (weight === undefined) throw new InvalidOptionError(`${path}.${field}`, `is missing, must be there when another model has a ${field}`);
    return new Array<number>(countOf(model)).fill(weight);
  });
}

function popularityWeights(value: unknown, count: number, path: string): number[] {
  const match = typeof value === 'string' ? POPULARITY.exec(value) : null;
  const exponent = match?.[1] === undefined ? Number(match?.[2] ?? (match === null ? NaN : 1)) : 0;
  if (!(exponent >= 0 && exponent <= LARGEST_EXPONENT)) {
    throw new InvalidOptionError(path, `got ${describeValue(value)}, must be "equal", "zipf" (exponent 1) or "zipf:EXPONENT" with one from 0 to ${LARGEST_EXPONENT}, such as "zipf:0.9"`);
  }
  return Array.from({ length: count }, (_, k) => (k + 1) ** -exponent);
}

function countOf({ count }: ModelInput): number {
  return count ?? 1;
}
