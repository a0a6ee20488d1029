import { describeValue, formatDurationNs, parseDurationNs, parsePositiveDurationNs } from './duration.js';
import { InvalidOptionError } from './errors.js';

/** The packed outcome word holds a batch size in 13 bits. */
export const LARGEST_BATCH = 8191;

/** A table may fall by this share and is then taken for measurement noise; more is a wrong table. */
const LARGEST_DIP = 0.05;
/** Large batches of the published Nexus profiles fall by up to 6.7 % (vgg_s, batch 206 to 207). */
const LARGEST_NEXUS_DIP = 0.1;

const NEXUS_SECTION = 'Forward latency';
const NEXUS_HEADER = 'batch,latency(us),std(us),memory(B)';
const PROFILE_FORMS = 'a table of durations for b = 1, 2, … or { alpha, beta, maxBatch }';

/**
 * The latency profile l(b): the time to execute a batch of b requests, non-decreasing in b.
 * Immutable: nobody writes `ns` after the constructor.
 */
export class LatencyProfile {
  readonly maxBatch: number;
  /** Index = b, length maxBatch + 2, integer nanoseconds: ns[0] = 0, ns[maxBatch + 1] = Infinity. */
  readonly ns: Float64Array;
  /** l(b) = alphaNs * b + betaNs: exact when `linear`, else the least-squares fit to `ns` with both terms >= 0. */
  readonly alphaNs: number;
  readonly betaNs: number;
  readonly linear: boolean;

  private constructor(ns: Float64Array, alphaNs: number, betaNs: number, linear: boolean) {
    this.maxBatch = ns.length - 2;
    this.ns = ns;
    this.alphaNs = alphaNs;
    this.betaNs = betaNs;
    this.linear = linear;
  }

  /**
   * l(b) = alphaNs * b + betaNs for b = 1 … maxBatch, rounded to whole nanoseconds.
   * @throws InvalidOptionError for a negative term, l(1) = 0, or maxBatch outside 1 … 8191.
   */
  static linear(terms: { alphaNs: number; betaNs: number; maxBatch: number }, path: string): LatencyProfile {
    const { alphaNs, betaNs, maxBatch } = terms;
    checkTerm(alphaNs, `${path}.alphaNs`);
    checkTerm(betaNs, `${path}.betaNs`);
    checkMaxBatch(maxBatch, `${path}.maxBatch`);
    if (Math.round(alphaNs + betaNs) < 1) {
      throw new InvalidOptionError(path, `got alpha + beta = ${alphaNs + betaNs} ns for a batch of 1, must be >= 1 ns`);
    }
    const ns = new Float64Array(maxBatch + 2);
    for (let b = 1; b <= maxBatch; b++) ns[b] = Math.round(alphaNs * b + betaNs);
    ns[maxBatch + 1] = Infinity;
    return new LatencyProfile(ns, alphaNs, betaNs, true);
  }

  /**
   * A measured profile: `latenciesNs[i]` is l(i + 1).
   * Dips of at most the share `largestDip` below the running maximum are measurement noise and are levelled to it.
   * @throws InvalidOptionError for an entry that is missing or not > 0 (names its index), a larger fall
   *   (names both batch sizes and latencies), or a length outside 1 … 8191.
   */
  static table(latenciesNs: readonly number[], path: string, largestDip = LARGEST_DIP): LatencyProfile {
    const ns = monotoneTable(latenciesNs, path, largestDip);
    const { alphaNs, betaNs } = fitLine(ns);
    return new LatencyProfile(ns, alphaNs, betaNs, false);
  }

  /**
   * A profile as users write it: `{ alpha: Duration, beta: Duration, maxBatch }`, or Durations for b = 1, 2, …
   * @throws InvalidOptionError that names the wrong field or entry.
   */
  static parse(input: unknown, path: string): LatencyProfile {
    if (input instanceof LatencyProfile) return input;
    if (Array.isArray(input)) {
      const latenciesNs: number[] = [];
      for (let i = 0; i < input.length; i++) latenciesNs.push(parsePositiveDurationNs(input[i], `${path}[${i}]`));
      return LatencyProfile.table(latenciesNs, path);
    }
    if (typeof input !== 'object' || input === null) {
      throw new InvalidOptionError(path, `got ${describeValue(input)}, must be ${PROFILE_FORMS}`);
    }
    for (const key of Object.keys(input)) {
      if (key !== 'alpha' && key !== 'beta' && key !== 'maxBatch') {
        throw new InvalidOptionError(`${path}.${key}`, 'unknown field, allowed are alpha, beta, maxBatch');
      }
    }
    const { alpha, beta, maxBatch } = input as { alpha?: unknown; beta?: unknown; maxBatch?: unknown };
    const alphaNs = parseDurationNs(alpha, `${path}.alpha`);
    const betaNs = parseDurationNs(beta, `${path}.beta`);
    return LatencyProfile.linear({ alphaNs, betaNs, maxBatch: maxBatch as number }, path);
  }

  /** l(b) in ns for an integer b >= 0; Infinity above maxBatch. */
  latencyNs(b: number): number {
    return b <= this.maxBatch ? this.ns[b]! : Infinity;
  }

  /** The largest b with l(b) <= budgetNs; 0 if not even a batch of 1 fits. */
  largestBatchWithin(budgetNs: number): number {
    const ns = this.ns;
    let fits = 0;
    let tooLarge = this.maxBatch + 1;
    while (tooLarge - fits > 1) {
      const middle = (fits + tooLarge) >>> 1;
      if (ns[middle]! <= budgetNs) fits = middle;
      else tooLarge = middle;
    }
    return fits;
  }
}

/**
 * Reads a profile file of the Nexus project (uwsampl/nexus, tests/data/model_db/profiles): the mean forward latency
 * per batch size. Its standard deviations, memory figures, pre- and postprocessing are passed over.
 * Dips of at most 10 % are levelled, because the published files have them.
 * @throws InvalidOptionError that names the line.
 */
export function parseNexusProfile(text: string, path: string): LatencyProfile {
  const lines = text.split(/\r?\n/);
  const section = lines.indexOf(NEXUS_SECTION);
  if (section < 0) throw new InvalidOptionError(path, `no line "${NEXUS_SECTION}", must be a Nexus profile file`);
  if (lines[section + 1] !== NEXUS_HEADER) {
    throw new InvalidOptionError(path, `line ${section + 2}: got ${describeValue(lines[section + 1])}, must be "${NEXUS_HEADER}"`);
  }
  const latenciesNs: number[] = [];
  for (let i = section + 2; i < lines.length && /^\d/.test(lines[i]!); i++) {
    const [batch, latencyUs] = lines[i]!.split(',');
    const expected = latenciesNs.length + 1;
    if (Number(batch) !== expected) {
      throw new InvalidOptionError(path, `line ${i + 1}: got batch ${describeValue(batch)}, must be ${expected}`);
    }
    const latencyNs = Math.round(Number(latencyUs) * 1e3);
    if (!(latencyNs > 0)) {
      throw new InvalidOptionError(path, `line ${i + 1}: got latency ${describeValue(latencyUs)}, must be microseconds > 0`);
    }
    latenciesNs.push(latencyNs);
  }
  return LatencyProfile.table(latenciesNs, path, LARGEST_NEXUS_DIP);
}

/** The checked table as `LatencyProfile.ns` holds it. */
function monotoneTable(latenciesNs: readonly number[], path: string, largestDip: number): Float64Array {
  const maxBatch = latenciesNs.length;
  if (maxBatch < 1 || maxBatch > LARGEST_BATCH) {
    throw new InvalidOptionError(path, `got a table of ${maxBatch} latencies, must be 1 to ${LARGEST_BATCH} of them`);
  }
  const ns = new Float64Array(maxBatch + 2);
  let peak = 0;
  for (let b = 1; b <= maxBatch; b++) {
    const given = latenciesNs[b - 1];
    const latencyNs = typeof given === 'number' ? Math.round(given) : NaN;
    if (!(latencyNs > 0 && latencyNs <= Number.MAX_SAFE_INTEGER)) {
      throw new InvalidOptionError(`${path}[${b - 1}]`, `got ${describeValue(given)} ns for a batch of ${b}, must be a latency >= 1 ns`);
    }
    if (latencyNs < ns[peak]! * (1 - largestDip)) {
      throw new InvalidOptionError(path, `falls from l(${peak}) = ${formatDurationNs(ns[peak]!)} to l(${b}) = ` +
        `${formatDurationNs(latencyNs)}, must not fall by more than ${largestDip * 100} % as the batch grows`);
    }
    ns[b] = Math.max(latencyNs, ns[peak]!);
    if (latencyNs >= ns[peak]!) peak = b;
  }
  ns[maxBatch + 1] = Infinity;
  return ns;
}

/** Least squares over b = 1 … maxBatch with beta >= 0 (alpha is, since l never falls): a negative beta means nothing. */
function fitLine(ns: Float64Array): { alphaNs: number; betaNs: number } {
  const count = ns.length - 2;
  const meanB = (count + 1) / 2;
  let meanNs = 0;
  for (let b = 1; b <= count; b++) meanNs += ns[b]! / count;
  let covariance = 0;
  let variance = 0;
  let product = 0;
  let square = 0;
  for (let b = 1; b <= count; b++) {
    covariance += (b - meanB) * (ns[b]! - meanNs);
    variance += (b - meanB) * (b - meanB);
    product += b * ns[b]!;
    square += b * b;
  }
  const slopeNs = count > 1 ? covariance / variance : Infinity;
  const betaNs = meanNs - slopeNs * meanB;
  return betaNs >= 0 ? { alphaNs: slopeNs, betaNs } : { alphaNs: product / square, betaNs: 0 };
}

function checkTerm(valueNs: number, path: string): void {
  if (!(valueNs >= 0 && valueNs <= Number.MAX_SAFE_INTEGER / LARGEST_BATCH)) {
    throw new InvalidOptionError(path, `got ${describeValue(valueNs)}, must be nanoseconds >= 0 (at most 18 minutes)`);
  }
}

function checkMaxBatch(maxBatch: number, path: string): void {
  if (!Number.isInteger(maxBatch) || maxBatch < 1 || maxBatch > LARGEST_BATCH) {
    throw new InvalidOptionError(path, `got ${describeValue(maxBatch)}, must be an integer from 1 to ${LARGEST_BATCH}`);
  }
}
