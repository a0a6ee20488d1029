import { InvalidOptionError } from './errors.js';

/** A span of time as users write it: `'25ms'`, `'500us'`, `'1.053ms'`, `'2s'`, or a plain number of milliseconds. */
export type Duration = string | number;

const UNIT_NS: Readonly<Record<string, number>> = {
  ns: 1, us: 1e3, 'µs': 1e3, 'μs': 1e3, ms: 1e6, s: 1e9, m: 60e9,
};
export const DURATION = /^\s*(\d+(?:\.\d*)?|\.\d+)\s*(ns|us|µs|μs|ms|s|m)\s*$/;
const FORMS = 'such as "25ms", "1.053ms", "500us", "300ns", "2s", "1m", or a plain number of milliseconds';
const LONGEST_SHOWN = 48;

/**
 * Reads a duration.
 * @param path names the option in the error, as in `models[2].slo`.
 * @returns integer nanoseconds, at least 0 and at most 2^53 - 1 (104 days).
 * @throws InvalidOptionError for anything that is not a duration.
 */
export function parseDurationNs(value: unknown, path: string): number {
  const ns = durationNs(value);
  if (!(ns >= 0)) throw new InvalidOptionError(path, `got ${describeValue(value)}, must be a duration >= 0 ${FORMS}`);
  return ns;
}

/** As `parseDurationNs`, for durations that cannot be 0, such as an SLO. */
export function parsePositiveDurationNs(value: unknown, path: string): number {
  const ns = durationNs(value);
  if (!(ns > 0)) throw new InvalidOptionError(path, `got ${describeValue(value)}, must be a duration > 0 ${FORMS}`);
  return ns;
}

/** NaN when `value` is no duration. */
function durationNs(value: unknown): number {
  const ns = Math.round(unroundedNs(value));
  return Number.isSafeInteger(ns) && ns >= 0 ? ns : NaN;
}

function unroundedNs(value: unknown): number {
  if (typeof value === 'number') return value >= 0 ? value * 1e6 : NaN;
  if (typeof value !== 'string') return NaN;
  const match = DURATION.exec(value);
  return match === null ? NaN : Number(match[1]) * UNIT_NS[match[2]!]!;
}

/** A span of time for messages, exact to the nanosecond, in the largest unit that is not above it: `'25 ms'`, `'86 us'`. */
export function formatDurationNs(ns: number): string {
  const whole = Math.round(ns);
  const size = Math.abs(whole);
  if (!(size < Infinity) || size < 1e3) return `${whole} ns`;
  if (size < 1e6) return `${whole / 1e3} us`;
  if (size < 1e9) return `${whole / 1e6} ms`;
  return `${whole / 1e9} s`;
}

/** A refused value as an error message shows it: short, on one line, strings in quotes. */
export function describeValue(value: unknown): string {
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value !== 'string') return String(value);
  const quoted = JSON.stringify(value);
  return quoted.length <= LONGEST_SHOWN ? quoted : `${quoted.slice(0, LONGEST_SHOWN)}…"`;
}
