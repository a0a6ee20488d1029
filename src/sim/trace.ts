import { readFileSync } from 'node:fs';
import { CsvError, type InfoRecord, type Options, parse } from 'csv-parse/sync';
import { describeValue } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { Random } from '../model/random.js';

export interface TraceOptions {
  /** Header of the column of arrival times; found by its usual names when absent. */
  timeColumn?: string;
  /** Header of a column of seconds to take off the time column, for traces that record when a request ended. */
  durationColumn?: string;
  /** 2 plays the trace twice as fast: every gap is divided by it. Default 1. */
  speed?: number;
  /** Header of a column with each request's model. Default: the trace does not say. */
  modelColumn?: string;
  /** With `modelColumn`: the models there are. */
  models?: readonly string[];
  /** Accept rows in any order and sort them, where otherwise a time that goes back is an error. Default false. */
  sort?: boolean;
}

/** Recorded requests in order of time. */
export interface Trace {
  /** Arrival times in ns after the first arrival, divided by `speed` and rounded; never falling. */
  readonly timesNs: Float64Array;
  /** The model of each as its place in the option `models`; null where no column says. */
  readonly models: Int32Array | null;
}

/** Headers of arrival times, in order of preference, in lower case without `_`, `-` and blanks. */
const TIME_HEADERS = [
  'arrivaltime', 'arrivaltimestamp', 'arrival', 'arrivedat', 'timestamp', 'time', 'datetime', 'starttime',
  'starttimestamp', 'start', 'startedat',
];

const SECONDS = /^([+-]?)(\d+)(?:\.(\d*))?$|^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?$/;
const DATE_TIME =
  /^(\d{4})-(\d{2})-(\d{2})[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d+))?)?(?: ?(?:Z|UTC|([+-])(\d{2}):?(\d{2})))?$/i;

/**
 * A moment as whole seconds and the nanoseconds after them. Two numbers, because a double of nanoseconds
 * since 1970 is good to 256 ns only, and traces carry 100 ns digits.
 */
interface Moment {
  seconds: number;
  nanos: number;
}

/**
 * Reads the requests of a CSV file with a header row.
 * A time is a number of seconds, or a date and time (`2023-11-16 18:17:03.9799600` or ISO 8601; UTC unless it
 * states an offset), exact to the nanosecond.
 * @throws InvalidOptionError that names the file, and the line where one cell is wrong or a time goes back.
 */
export function readTrace(path: string, options: TraceOptions = {}): Trace {
  const { speed = 1, sort = false } = options;
  if (!(speed > 0 && speed < Infinity)) {
    throw new InvalidOptionError('speed', `got ${describeValue(speed)}, must be a finite number > 0`);
  }
  const rows = parseRows(readContent(path), path);
  if (rows.length === 0) throw new InvalidOptionError(path, 'is empty, must be a CSV file with a header row');
  const read = readRows(rows, options, path);
  if (rows.length === 1) throw new InvalidOptionError(path, 'has a header row only, must hold at least one arrival');
  const { timesNs, models } = sort ? sorted(read) : read;
  const startNs = timesNs[0]!;
  if ((timesNs.at(-1)! - startNs) / speed > Number.MAX_SAFE_INTEGER) {
    throw new InvalidOptionError('speed', `got ${speed}, must keep the trace shorter than 2^53 ns (104 days)`);
  }
  for (let i = 0; i < timesNs.length; i++) timesNs[i] = Math.round((timesNs[i]! - startNs) / speed);
  return { timesNs, models };
}

/** Models for requests of which nobody says it, drawn by the models' shares. */
export function drawModels(count: number, shares: readonly number[], seed: number): Int32Array {
  const random = new Random(seed);
  const upTo = new Float64Array(shares.length);
  let sum = 0;
  for (let i = 0; i < shares.length; i++) upTo[i] = sum += shares[i]!;
  const drawn = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    const at = random.uniform() * sum;
    let low = 0;
    let high = shares.length - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (at < upTo[middle]!) high = middle;
      else low = middle + 1;
    }
    drawn[i] = low;
  }
  return drawn;
}

/** Times after that of the first row. */
function readRows(rows: readonly Row[], options: TraceOptions, path: string): Trace {
  const header = rows[0]!.record;
  const timeAt = findTimeColumn(header, options.timeColumn, path);
  const durationAt = options.durationColumn === undefined ? -1 : findColumn(header, options.durationColumn, 'durationColumn', path);
  const modelAt = options.modelColumn === undefined ? -1 : findColumn(header, options.modelColumn, 'modelColumn', path);
  const names = options.models ?? [];
  const numberOf = new Map(names.map((name, model) => [name, model]));
  const timesNs = new Float64Array(rows.length - 1);
  const models = modelAt < 0 ? null : new Int32Array(rows.length - 1);
  const first: Moment = { seconds: 0, nanos: 0 };
  const now: Moment = { seconds: 0, nanos: 0 };
  for (let i = 1; i < rows.length; i++) {
    const { record, line } = rows[i]!;
    readTime(record[timeAt]!, now, path, line, header[timeAt]!);
    if (durationAt >= 0) subtractSeconds(now, record[durationAt]!, path, line, header[durationAt]!);
    if (i === 1) Object.assign(first, now);
    const timeNs = (now.seconds - first.seconds) * 1e9 + (now.nanos - first.nanos);
    if (options.sort !== true && i > 1 && timeNs < timesNs[i - 2]!) {
      const before = rows[i - 1]!;
      throw new InvalidOptionError(path, `line ${line}: time ${record[timeAt]} lies before ${before.record[timeAt]} of ` +
        `line ${before.line}, times must not go back (the option sort puts them in order)`);
    }
    timesNs[i - 1] = timeNs;
    if (models === null) continue;
    const model = numberOf.get(record[modelAt]!);
    if (model === undefined) {
      throw new InvalidOptionError(path, `line ${line}, column ${header[modelAt]}: got ${describeValue(record[modelAt])}, must be one of the models ${nameList(names, 'models')}`);
    }
    models[i - 1] = model;
  }
  return { timesNs, models };
}

/** Requests of the same time keep their order. */
function sorted({ timesNs, models }: Trace): Trace {
  const order = Array.from(timesNs, (_, i) => i).sort((a, b) => timesNs[a]! - timesNs[b]!);
  return { timesNs: Float64Array.from(order, (i) => timesNs[i]!), models: models && Int32Array.from(order, (i) => models[i]!) };
}

interface Row {
  record: string[];
  /** Line of the file on which the record ends, from 1. */
  line: number;
}

function readContent(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    throw new InvalidOptionError(path, code === 'ENOENT' ? 'there is no such file' : `cannot be read (${code})`);
  }
}

function parseRows(content: Buffer, path: string): Row[] {
  try {
    const options: Options<unknown, string[]> = { bom: true, skip_empty_lines: true, trim: true, on_record: withLine };
    // The declared result is right only where no on_record replaces the records.
    return parse(content, options as Options) as unknown as Row[];
  } catch (error) {
    if (error instanceof CsvError) throw new InvalidOptionError(path, `is not a well-formed CSV file: ${error.message}`);
    throw error;
  }
}

function withLine(record: string[], info: InfoRecord): Row {
  return { record, line: info.lines };
}

function findTimeColumn(header: readonly string[], name: string | undefined, path: string): number {
  if (name !== undefined) return findColumn(header, name, 'timeColumn', path);
  const plain = header.map((column) => column.toLowerCase().replace(/[_\- ]/g, ''));
  for (const usual of TIME_HEADERS) {
    const at = plain.indexOf(usual);
    if (at >= 0) return at;
  }
  throw new InvalidOptionError(path, `no column of arrival times among ${nameList(header, 'columns')}, name it with the option timeColumn`);
}

function findColumn(header: readonly string[], name: string, option: string, path: string): number {
  const exact = header.indexOf(name);
  if (exact >= 0) return exact;
  const at = header.findIndex((column) => column.toLowerCase() === name.toLowerCase());
  if (at < 0) throw new InvalidOptionError(option, `got ${describeValue(name)}, must be a column of ${path}: ${nameList(header, 'columns')}`);
  return at;
}

function nameList(names: readonly string[], what: string): string {
  const shown = names.slice(0, 12).map(describeValue).join(', ');
  return names.length > 12 ? `${shown}, … (${names.length} ${what})` : shown;
}

function readTime(cell: string, into: Moment, path: string, line: number, column: string): void {
  if (readSeconds(cell, into) || readDateTime(cell, into)) return;
  throw new InvalidOptionError(path, `line ${line}, column ${column}: got ${describeValue(cell)}, ` +
    'must be seconds as a number or a date and time such as "2023-11-16 18:17:03.9799600"');
}

function subtractSeconds(from: Moment, cell: string, path: string, line: number, column: string): void {
  const duration: Moment = { seconds: 0, nanos: 0 };
  if (!readSeconds(cell, duration) || duration.seconds + duration.nanos < 0) {
    throw new InvalidOptionError(path, `line ${line}, column ${column}: got ${describeValue(cell)}, must be seconds >= 0`);
  }
  from.seconds -= duration.seconds;
  from.nanos -= duration.nanos;
}

/** False when the cell is no number. */
function readSeconds(cell: string, into: Moment): boolean {
  const match = SECONDS.exec(cell);
  if (match === null) return false;
  if (match[2] !== undefined) {
    const sign = match[1] === '-' ? -1 : 1;
    into.seconds = sign * Number(match[2]);
    into.nanos = sign * fractionNanos(match[3]);
  } else {
    const value = Number(cell);
    into.seconds = Math.floor(value);
    into.nanos = Math.round((value - into.seconds) * 1e9);
  }
  return Math.abs(into.seconds) <= Number.MAX_SAFE_INTEGER;
}

/** False when the cell is no date and time, or one that the calendar does not have. */
function readDateTime(cell: string, into: Moment): boolean {
  const match = DATE_TIME.exec(cell);
  if (match === null) return false;
  const [, year, month, day, hour, minute, second = '00', fraction, sign, offsetHour = '0', offsetMinute = '0'] = match;
  const local = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  // February 30 would silently become March 2, and 24:00 the next day.
  if (Number.isNaN(local.getTime()) || local.getUTCDate() !== Number(day) || local.getUTCHours() !== Number(hour)) return false;
  const offsetSeconds = Number(offsetHour) * 3600 + Number(offsetMinute) * 60;
  into.seconds = local.getTime() / 1000 - (sign === '-' ? -offsetSeconds : offsetSeconds);
  into.nanos = fractionNanos(fraction);
  return true;
}

/** The digits after the point in nanoseconds; digits after the ninth are rounded. */
function fractionNanos(digits: string | undefined): number {
  return digits === undefined || digits === '' ? 0 : Math.round(Number(`0.${digits}`) * 1e9);
}
