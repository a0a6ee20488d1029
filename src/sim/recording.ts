/**
 * Recorded arrivals: the file that a live scheduler writes (scheduler/recorder.ts), and how it is read again.
 *
 *   #rubato-recording,1,{"gpus":8,"margins":{…},"models":[{"number":0,"name":"r50",…}]}
 *   delta_us,model,slo_us
 *   1204            1204 µs after the one before, model 0, with its SLO
 *   31,2            of model 2
 *   -3,2,15000      3 µs earlier than the one before, which another client has sent; an SLO of its own
 *   #model,{…}      a model that was added, or has changed
 *   #gpus,9         GPUs that there are from now on
 *   #end,{…}        what became of all
 *
 * Gaps are between times rounded to whole µs, so that errors do not add up. A file that was cut off ends where it was
 * cut; names ending in .gz are compressed.
 */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { constants, gunzipSync } from 'node:zlib';
import { z } from 'zod';
import { describeValue } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { LatencyProfile } from '../model/latency-profile.js';
import { CONDITIONS, DROP_POLICIES } from '../protocol/config.js';

export const RECORDING_MARK = '#rubato-recording';
export const RECORDING_VERSION = 1;
export const RECORDING_COLUMNS = 'delta_us,model,slo_us';

const count = z.number().min(0);
const profileSchema = z.union([z.object({ alphaNs: count, betaNs: count, maxBatch: z.int().min(1) }), z.array(z.number().positive()).min(1)]);
const modelSchema = z.object({
  number: z.int().min(0).max(65_535),
  name: z.string().min(1),
  sloNs: z.number().positive(),
  profile: profileSchema,
  condition: z.enum(CONDITIONS),
  dropPolicy: z.enum(DROP_POLICIES),
});
const marginsSchema = z.object({ controlNs: count, transferNs: count, responseNs: count, jitterNs: count });
const headerSchema = z.object({ gpus: z.int().min(1), margins: marginsSchema, models: z.array(modelSchema).min(1) });
const totalsSchema = z.object({
  /** Requests in the file, and those that are missing in it because the event loop was too busy to write them. */
  requests: count,
  lost: count,
  /** Since the recording began. `accepted` = all endings + `inFlight`. */
  accepted: count,
  refused: count,
  completed: count,
  late: count,
  expired: count,
  queueFull: count,
  infeasible: count,
  cancelled: count,
  failed: count,
  closed: count,
  inFlight: count,
  batches: count,
  batched: count,
  gpuSeconds: count,
  gpusUsed: count,
  seconds: count,
  /** As measured at the end. */
  margins: marginsSchema,
  /** Why recording ended before the scheduler did. */
  stopped: z.string().optional(),
});

export type RecordedModel = z.output<typeof modelSchema>;
export type RecordingHeader = z.output<typeof headerSchema>;
export type RecordedTotals = z.output<typeof totalsSchema>;

export interface Recording {
  readonly file: string;
  /** Each model once, by first appearance; profile and policy as stated last, the SLO as stated first. */
  readonly models: readonly RecordedModel[];
  /** The most that there were at once. */
  readonly gpus: number;
  readonly margins: RecordingHeader['margins'];
  /** After the first arrival; never falling. */
  readonly timesNs: Float64Array;
  /** By request: index in `models`. */
  readonly modelOf: Uint16Array;
  /** By request: its SLO where it is not that of its model, else 0. */
  readonly slosNs: Float64Array;
  /** Null when the file was cut off. */
  readonly totals: RecordedTotals | null;
  /** Whether models or GPUs changed while it was recorded. */
  readonly hasChanges: boolean;
}

/** ℓ by batch size (index 0 … maxBatch + 1) in as few words as say it exactly. */
export function recordedProfile(ns: Float64Array, maxBatch: number): RecordedModel['profile'] {
  const alphaNs = maxBatch === 1 ? 0 : (ns[maxBatch]! - ns[1]!) / (maxBatch - 1);
  const betaNs = ns[1]! - alphaNs;
  for (let b = 1; b <= maxBatch; b++) {
    if (betaNs < 0 || Math.round(alphaNs * b + betaNs) !== ns[b]) return Array.from(ns.subarray(1, maxBatch + 1));
  }
  return { alphaNs, betaNs, maxBatch };
}

/** The profile that `recordedProfile` has described. */
export function profileOf({ profile, name }: RecordedModel): LatencyProfile {
  return Array.isArray(profile) ? LatencyProfile.table(profile, `model ${name}`) : LatencyProfile.linear(profile, `model ${name}`);
}

// ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────

const HEAD_BYTES = 4096;
const GZIP_MAGIC = 0x1f8b;
const NEWLINE = 10;
const HASH = 35;
const COMMA = 44;
const MINUS = 45;

/** Whether a file is a recording, by its first bytes. False where it cannot be read: whoever reads it will say so. */
export function isRecording(file: string): boolean {
  const head = Buffer.alloc(HEAD_BYTES);
  try {
    const fd = openSync(file, 'r');
    try {
      return unzipped(head.subarray(0, readSync(fd, head, 0, HEAD_BYTES, 0)), file).toString('latin1').startsWith(RECORDING_MARK);
    } finally {
      closeSync(fd);
    }
  } catch {
    return false;
  }
}

/**
 * Reads a recording; one that was cut off up to its last whole line.
 * @throws InvalidOptionError that names the file and the line.
 */
export function readRecording(file: string): Recording {
  return new Reader(file, unzipped(contentOf(file), file)).read();
}

function contentOf(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new InvalidOptionError(file, code === 'ENOENT' ? 'there is no such file' : `cannot be read (${code})`);
  }
}

/** As much as there is of a compressed file that was cut off. */
function unzipped(content: Buffer, file: string): Buffer {
  if (content.length < 2 || content.readUInt16BE(0) !== GZIP_MAGIC) return content;
  try {
    return gunzipSync(content, { finishFlush: constants.Z_SYNC_FLUSH });
  } catch (error) {
    throw new InvalidOptionError(file, `cannot be decompressed: ${(error as Error).message}`);
  }
}

class Reader {
  readonly #file: string;
  readonly #content: Buffer;
  /** After the last whole line. */
  readonly #end: number;
  #at = 0;
  #line = 1;
  readonly #models: RecordedModel[] = [];
  /** By number: index in `#models` of the model that has it now, and what its SLO is now. */
  readonly #indexOf = new Map<number, number>();
  readonly #sloNow: number[] = [];
  #gpus = 0;
  #hasChanges = false;
  #totals: RecordedTotals | null = null;

  constructor(file: string, content: Buffer) {
    this.#file = file;
    this.#content = content;
    this.#end = content.lastIndexOf(NEWLINE) + 1;
  }

  read(): Recording {
    const header = this.#header();
    const most = this.#linesLeft();
    const timesUs = new Float64Array(most);
    const modelOf = new Uint16Array(most);
    const slosNs = new Float64Array(most);
    let timeUs = 0;
    let requests = 0;
    for (; this.#at < this.#end; this.#line++) {
      if (this.#totals !== null) throw this.#error('stands after the #end line, which must be the last');
      if (this.#content[this.#at] === HASH) {
        this.#special(this.#rest());
        continue;
      }
      timeUs += this.#integer('delta_us');
      const model = this.#comma() ? this.#integer('model') : 0;
      const sloUs = this.#comma() ? this.#integer('slo_us') : 0;
      if (this.#content[this.#at++] !== NEWLINE) throw this.#error(`must be integers: ${RECORDING_COLUMNS}`);
      const index = this.#indexOf.get(model);
      if (index === undefined) throw this.#error(`got model ${model}, must be one of those named before (${[...this.#indexOf.keys()].join(', ')})`);
      if (sloUs < 0) throw this.#error(`got slo_us ${sloUs}, must be > 0`);
      const now = this.#sloNow[index]!;
      timesUs[requests] = timeUs;
      modelOf[requests] = index;
      slosNs[requests++] = sloUs > 0 ? sloUs * 1e3 : now === this.#models[index]!.sloNs ? 0 : now;
    }
    if (requests === 0) throw new InvalidOptionError(this.#file, `line ${this.#line}: holds no request, must hold at least one`);
    return {
      file: this.#file,
      models: this.#models,
      gpus: this.#gpus,
      margins: this.#totals?.margins ?? header.margins,
      ...inOrder(timesUs.subarray(0, requests), modelOf, slosNs),
      totals: this.#totals,
      hasChanges: this.#hasChanges,
    };
  }

  #header(): RecordingHeader {
    if (this.#end === 0) throw this.#error(this.#content.length === 0 ? 'the file is empty, must be a recording' : 'is cut off, must be the whole header of a recording');
    const text = this.#rest();
    const [mark, version] = text.split(',', 2);
    if (mark !== RECORDING_MARK) throw this.#error(`must begin with ${RECORDING_MARK}`);
    if (version !== String(RECORDING_VERSION)) throw this.#error(`got version ${describeValue(version)}, must be ${RECORDING_VERSION}`);
    const header = this.#json(headerSchema, text.slice(mark.length + version.length + 2));
    for (const model of header.models) this.#noteModel(model);
    this.#gpus = header.gpus;
    this.#line = 2;
    if (this.#at >= this.#end) throw this.#error(`is missing, must be ${RECORDING_COLUMNS}`);
    const columns = this.#rest();
    if (columns !== RECORDING_COLUMNS) throw this.#error(`got ${describeValue(columns)}, must be ${RECORDING_COLUMNS}`);
    this.#line = 3;
    return header;
  }

  #special(text: string): void {
    const word = text.split(',', 1)[0]!;
    const value = text.slice(word.length + 1);
    if (word === '#end') {
      this.#totals = this.#json(totalsSchema, value);
      return;
    }
    this.#hasChanges = true;
    if (word === '#model') this.#noteModel(this.#json(modelSchema, value));
    else if (word === '#gpus') this.#gpus = Math.max(this.#gpus, this.#json(z.int().min(0), value));
    else throw this.#error(`got ${describeValue(word)}, must be #model, #gpus or #end`);
  }

  #noteModel(model: RecordedModel): void {
    try {
      profileOf(model);
    } catch (error) {
      throw this.#error((error as Error).message);
    }
    const known = this.#models.findIndex(({ name }) => name === model.name);
    const index = known >= 0 ? known : this.#models.length;
    this.#models[index] = known < 0 ? model : { ...model, sloNs: this.#models[known]!.sloNs };
    this.#indexOf.set(model.number, index);
    this.#sloNow[index] = model.sloNs;
  }

  #json<S extends z.ZodType>(schema: S, text: string): z.output<S> {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw this.#error(`is not valid JSON: ${(error as Error).message}`);
    }
    const checked = schema.safeParse(value);
    if (checked.success) return checked.data;
    const { path, message } = checked.error.issues[0]!;
    throw this.#error(`${path.join('.') || 'value'}: ${message}`);
  }

  /** The rest of the line, and on to the next. */
  #rest(): string {
    const from = this.#at;
    const to = this.#content.indexOf(NEWLINE, from);
    this.#at = to + 1;
    return this.#content.toString('utf8', from, to).replace(/\r$/, '');
  }

  #comma(): boolean {
    if (this.#content[this.#at] !== COMMA) return false;
    this.#at++;
    return true;
  }

  #integer(column: string): number {
    const content = this.#content;
    const sign = content[this.#at] === MINUS ? -1 : 1;
    let at = sign < 0 ? this.#at + 1 : this.#at;
    const from = at;
    let value = 0;
    for (let digit = content[at]! - 48; digit >= 0 && digit <= 9; digit = content[++at]! - 48) value = 10 * value + digit;
    this.#at = at;
    if (at === from || value > Number.MAX_SAFE_INTEGER) throw this.#error(`${column} must be an integer`);
    return sign * value;
  }

  #linesLeft(): number {
    let lines = 0;
    for (let at = this.#at; at < this.#end; at++) if (this.#content[at] === NEWLINE) lines++;
    return lines;
  }

  #error(problem: string): InvalidOptionError {
    return new InvalidOptionError(this.#file, `line ${this.#line}: ${problem}`);
  }
}

/** Several clients and shards record side by side: nearly in order of time, not quite. */
function inOrder(timesUs: Float64Array, modelOf: Uint16Array, slosNs: Float64Array): Pick<Recording, 'timesNs' | 'modelOf' | 'slosNs'> {
  const requests = timesUs.length;
  const order = Uint32Array.from({ length: requests }, (_, k) => k);
  if (timesUs.some((timeUs, k) => k > 0 && timeUs < timesUs[k - 1]!)) order.sort((a, b) => timesUs[a]! - timesUs[b]! || a - b);
  const firstUs = timesUs[order[0]!]!;
  const sorted = { timesNs: new Float64Array(requests), modelOf: new Uint16Array(requests), slosNs: new Float64Array(requests) };
  for (let k = 0; k < requests; k++) {
    const from = order[k]!;
    sorted.timesNs[k] = 1e3 * (timesUs[from]! - firstUs);
    sorted.modelOf[k] = modelOf[from]!;
    sorted.slosNs[k] = slosNs[from]!;
  }
  return sorted;
}
