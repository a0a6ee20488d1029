/**
 * Writes what arrives into a file (sim/recording.ts says how it looks). Lives on the thread that made the scheduler: a
 * timer takes what the shards have noted (protocol/recording.ts) and hands text to a stream. A file that falls behind, or an
 * event loop that does, loses records, which are counted; a disk that is full ends the recording and nothing else.
 */
import { createWriteStream, openSync } from 'node:fs';
import { clearInterval, setInterval } from 'node:timers';
import { constants, createGzip, type Gzip } from 'node:zlib';
import type { Writable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import type { Clock } from '../clock/clock.js';
import { InvalidOptionError } from '../model/errors.js';
import { CONDITIONS, DROP_POLICIES, type ModelConfig } from '../protocol/config.js';
import { ARRIVAL, type RecordingPlace } from '../protocol/recording.js';
import { MARGIN_CONTROL, MARGIN_JITTER, MARGIN_RESPONSE, MARGIN_TRANSFER, type SharedMemory } from '../protocol/shared-memory.js';
import { GPU_ACTIVE, GPU_SPEC } from '../protocol/specs.js';
import { type ModelCounters, StatsReader } from '../protocol/stats.js';
import { RingReader } from '../ringbuf/spsc-ring.js';
import { type RecordedModel, type RecordedTotals, recordedProfile, RECORDING_COLUMNS, RECORDING_MARK, RECORDING_VERSION, type RecordingHeader } from '../sim/recording.js';

export interface RecordOptions {
  /** Where arrivals are written to; what is there is replaced. A name that ends in .gz is compressed. */
  file: string;
  /** Recording ends when the file (before compression) would be larger. Default 2^30, about 120 million requests. */
  maxBytes?: number;
}

const DRAIN_EVERY_MS = 20;
/** A compressed file that is cut off lacks at most what came since the last flush; flushing more often costs size. */
const FLUSH_EVERY_DRAINS = 50;
const DEFAULT_MAX_BYTES = 2 ** 30;
/** Text that the file has not taken yet: past this the rings wait, and then lose. */
const MOST_UNWRITTEN_BYTES = 16 * 2 ** 20;
/** Records read from a ring at once, and the longest line: a delta, a model and an SLO of so many digits. */
const BULK = 4096;
const LONGEST_LINE = 20 + 6 + 12;

const COUNTED = ['accepted', 'refused', 'completed', 'late', 'expired', 'queueFull', 'infeasible', 'cancelled', 'failed', 'closed', 'batches', 'batched'] as const satisfies readonly (keyof ModelCounters)[];

/** Opens the file, before anything is started. Throws InvalidOptionError when it cannot be written. */
export function openRecording(options: RecordOptions, path = 'record'): OpenRecording {
  try {
    return { ...options, fd: openSync(options.file, 'w') };
  } catch (error) {
    throw new InvalidOptionError(path, `cannot write ${options.file}: ${(error as Error).message}`);
  }
}

export interface OpenRecording extends RecordOptions {
  readonly fd: number;
}

function warning(text: string): void {
  process.emitWarning(text, { type: 'RubatoWarning', code: 'RUBATO_RECORDING' });
}

export class Recorder {
  readonly #file: string;
  readonly #maxBytes: number;
  readonly #memory: SharedMemory;
  readonly #place: RecordingPlace;
  readonly #clock: Clock;
  readonly #warn: (text: string) => void;
  readonly #stats: StatsReader;
  readonly #rings: RingReader[];
  readonly #lostWords: Float64Array;
  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  readonly #stream: Writable;
  readonly #gzip: Gzip | null;
  /** Resolves when all is written, or will never be. */
  readonly #written: Promise<void>;
  readonly #timer: NodeJS.Timeout;
  /** What had been counted when it began. */
  readonly #before: Totals;
  readonly #startNs: number;
  #lastUs: number;
  #version: number;
  #gpus: number;
  #requests = 0;
  #bytes = 0;
  #drains = 0;
  #isOver = false;

  /** Begins to record: what has arrived before is left out. */
  constructor(open: OpenRecording, host: { readonly memory: SharedMemory; readonly clock: Clock }, warn = warning) {
    const { memory, clock } = host;
    this.#file = open.file;
    this.#maxBytes = open.maxBytes ?? DEFAULT_MAX_BYTES;
    this.#memory = memory;
    this.#place = memory.recording!;
    this.#clock = clock;
    this.#warn = warn;
    this.#stats = new StatsReader(memory);
    this.#rings = this.#place.rings.map((ring) => new RingReader(ring));
    this.#lostWords = new Float64Array(this.#place.buffer, 0, this.#place.buffer.byteLength >> 3);
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    const file = createWriteStream('', { fd: open.fd });
    this.#gzip = open.file.endsWith('.gz') ? createGzip() : null;
    this.#stream = this.#gzip ?? file;
    this.#written = (this.#gzip === null ? finished(file) : pipeline(this.#gzip, file)).catch((error: unknown) => this.#fail(error as Error));
    for (const ring of this.#rings) ring.release(ring.available(ring.capacity));
    this.#before = this.#read();
    this.#startNs = clock.nowNs();
    this.#lastUs = Math.round(this.#startNs / 1e3);
    this.#version = this.#versionNow();
    this.#gpus = this.#gpusNow();
    const { models, profiles } = memory.config;
    const header: RecordingHeader = { gpus: this.#gpus, margins: this.#margins(), models: models.map((model, number) => recordedModel(number, model, profiles[model.profile]!)) };
    this.#write(`${RECORDING_MARK},${RECORDING_VERSION},${JSON.stringify(header)}\n${RECORDING_COLUMNS}\n`);
    this.#timer = setInterval(() => this.#turn(), DRAIN_EVERY_MS).unref();
  }

  /** A model was added, or is another one from now on. */
  noteModel(number: number, { config, profile }: { readonly config: ModelConfig; readonly profile: Float64Array }): void {
    if (this.#isOver) return;
    this.#drain();
    this.#write(`#model,${JSON.stringify(recordedModel(number, config, profile))}\n`);
  }

  /** Writes the rest and what became of all. When the roles have stopped. Never rejects. */
  async close(): Promise<void> {
    if (!this.#isOver) {
      this.#drain();
      this.#end();
    }
    await this.#written;
  }

  #turn(): void {
    if (this.#stream.writableLength > MOST_UNWRITTEN_BYTES) return;
    this.#drain();
    if (++this.#drains % FLUSH_EVERY_DRAINS === 0 && !this.#isOver) this.#gzip?.flush(constants.Z_SYNC_FLUSH);
  }

  #drain(): void {
    if (this.#versionNow() !== this.#version) this.#noteGpus();
    for (const ring of this.#rings) {
      // What comes while it is read is left for the next time: bounded.
      let left = ring.available(ring.capacity);
      while (left > 0 && !this.#isOver) {
        const count = Math.min(left, BULK);
        this.#write(this.#lines(ring, count));
        ring.release(count);
        this.#requests += count;
        left -= count;
        if (this.#bytes > this.#maxBytes) this.#endAt(`the file has reached its limit of ${this.#maxBytes} bytes`);
      }
    }
  }

  #lines(ring: RingReader, count: number): Buffer {
    const text = Buffer.allocUnsafe(count * LONGEST_LINE);
    let at = 0;
    for (let k = 0; k < count; k++) {
      const word = ring.word(k);
      const timeUs = Math.round(ring.f64[(word >> 1) + ARRIVAL.at.timeNs]! / 1e3);
      const model = ring.i32[word + ARRIVAL.at.model]!;
      const sloUs = ring.i32[word + ARRIVAL.at.sloUs]!;
      at = putInteger(text, at, timeUs - this.#lastUs);
      this.#lastUs = timeUs;
      if (model !== 0 || sloUs !== 0) {
        text[at++] = COMMA;
        at = putInteger(text, at, model);
      }
      if (sloUs !== 0) {
        text[at++] = COMMA;
        at = putInteger(text, at, sloUs);
      }
      text[at++] = NEWLINE;
    }
    return text.subarray(0, at);
  }

  #write(text: string | Buffer): void {
    if (this.#isOver) return;
    this.#bytes += text.length;
    this.#stream.write(text);
  }

  // ---------------------------------------------------------------- its end

  #end(stopped?: string): void {
    this.#isOver = true;
    clearInterval(this.#timer);
    const lost = this.#lost();
    const totals: RecordedTotals = { requests: this.#requests, lost, ...this.#since(), seconds: (this.#clock.nowNs() - this.#startNs) / 1e9, margins: this.#margins(), ...(stopped === undefined ? {} : { stopped }) };
    this.#stream.end(`#end,${JSON.stringify(totals)}\n`);
    if (lost > 0) this.#warn(`${this.#file} lacks ${lost} of ${lost + this.#requests} requests: they came faster than this thread could write them`);
  }

  #endAt(reason: string): void {
    this.#end(reason);
    this.#warn(`recording has ended: ${reason} (${this.#file})`);
  }

  /** The file takes no more. The scheduler goes on, and its shards lose what they note. */
  #fail(error: Error): void {
    this.#isOver = true;
    clearInterval(this.#timer);
    this.#warn(`recording has ended: cannot write ${this.#file}: ${error.message}`);
  }

  // ---------------------------------------------------------------- what it says besides

  #versionNow(): number {
    return Atomics.load(this.#i32, this.#memory.version >> 2);
  }

  #noteGpus(): void {
    this.#version = this.#versionNow();
    const gpus = this.#gpusNow();
    if (gpus !== this.#gpus) this.#write(`#gpus,${gpus}\n`);
    this.#gpus = gpus;
  }

  #gpusNow(): number {
    const { gpuSpecs, limits } = this.#memory;
    let active = 0;
    for (let gpu = 0; gpu < limits.gpus; gpu++) if (this.#i32[(gpuSpecs >> 2) + gpu * GPU_SPEC.words + GPU_SPEC.at.state] === GPU_ACTIVE) active++;
    return active;
  }

  #margins(): RecordingHeader['margins'] {
    const at = (margin: number): number => this.#f64[(this.#memory.margins >> 3) + margin]!;
    return { controlNs: Math.round(at(MARGIN_CONTROL)), transferNs: Math.round(at(MARGIN_TRANSFER)), responseNs: Math.round(at(MARGIN_RESPONSE)), jitterNs: Math.round(at(MARGIN_JITTER)) };
  }

  #lost(): number {
    return this.#place.lost.reduce((sum, at) => sum + this.#lostWords[at >> 3]!, 0) - this.#before.lost;
  }

  #read(): Totals {
    const models = this.#stats.totals();
    const counts = Object.fromEntries(COUNTED.map((field) => [field, models.reduce((sum, model) => sum + model[field], 0)])) as Totals['counts'];
    const busyNs = Array.from({ length: this.#memory.limits.gpus }, (_, gpu) => this.#stats.gpu(gpu).busyNs);
    return { counts, busyNs, lost: this.#place.lost.reduce((sum, at) => sum + this.#lostWords[at >> 3]!, 0) };
  }

  #since(): Omit<RecordedTotals, 'requests' | 'lost' | 'seconds' | 'margins' | 'stopped'> {
    const now = this.#read();
    const counts = Object.fromEntries(COUNTED.map((field) => [field, now.counts[field] - this.#before.counts[field]])) as Totals['counts'];
    const busyNs = now.busyNs.map((ns, gpu) => ns - this.#before.busyNs[gpu]!);
    const { accepted, completed, late, expired, queueFull, infeasible, cancelled, failed, closed } = counts;
    return {
      ...counts,
      inFlight: accepted - completed - late - expired - queueFull - infeasible - cancelled - failed - closed,
      gpuSeconds: busyNs.reduce((sum, ns) => sum + ns, 0) / 1e9,
      gpusUsed: busyNs.filter((ns) => ns > 0).length,
    };
  }
}

interface Totals {
  readonly counts: Record<(typeof COUNTED)[number], number>;
  readonly busyNs: readonly number[];
  readonly lost: number;
}

function recordedModel(number: number, { name, sloNs, maxBatch, condition, dropPolicy }: ModelConfig, profile: Float64Array): RecordedModel {
  return { number, name, sloNs, profile: recordedProfile(profile, maxBatch), condition: CONDITIONS[condition]!, dropPolicy: DROP_POLICIES[dropPolicy]! };
}

const NEWLINE = 10;
const COMMA = 44;
const MINUS = 45;
const ZERO = 48;

/** Writes a whole number in digits; returns where it ends. */
function putInteger(text: Uint8Array, at: number, value: number): number {
  let rest = value;
  if (rest < 0) {
    text[at++] = MINUS;
    rest = -rest;
  }
  let length = 1;
  for (let power = 10; power <= rest; power *= 10) length++;
  for (let digit = length - 1; digit >= 0; digit--) {
    const tens = Math.floor(rest / 10);
    text[at + digit] = ZERO + rest - 10 * tens;
    rest = tens;
  }
  return at + length;
}
