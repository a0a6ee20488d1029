/** Reads the counters and histograms of a scheduler from its shared memory: the figures behind `stats()` and every report. */
import { HistogramTable } from '../ringbuf/log-linear.js';
import { type GpuAdvice, readAdvice } from './advice.js';
import { HOST_EMULATED } from './config.js';
import type { SharedMemory } from './shared-memory.js';
import { GPU_NONE, GPU_SPEC, MODEL_OFFER, TAG_MASK } from './specs.js';
import { CLIENT_HISTOGRAMS, CLIENT_MODEL, DISPATCH_MODEL, GPU, HISTOGRAM, SCHEDULER_HISTOGRAMS, SHARD_MODEL } from './tables.js';

/** Requests of one model since the start. `accepted` = all endings + `inFlight`. */
export interface ModelCounters {
  readonly name: string;
  readonly accepted: number;
  readonly refused: number;
  readonly completed: number;
  readonly late: number;
  readonly expired: number;
  readonly queueFull: number;
  readonly infeasible: number;
  readonly cancelled: number;
  readonly failed: number;
  readonly closed: number;
  /** Accepted and not ended yet. */
  readonly inFlight: number;
  /** Of these, waiting in the model's queue. */
  readonly queued: number;
  readonly batches: number;
  /** Requests in those batches. */
  readonly batched: number;
  readonly grants: number;
  readonly refusedGrants: number;
  readonly ratePerSecond: number;
  readonly targetBatch: number;
}

export interface GpuCounters {
  readonly gpu: number;
  readonly emulated: boolean;
  readonly busyNs: number;
  readonly batches: number;
}

/** A model number in use: its model's name, and what the number had counted before it was given to it. */
export interface CountedModel {
  readonly number: number;
  readonly name: string;
  readonly before: Baseline | null;
}

/** Counters and histograms of a number at the time at which it was given to another model. */
export interface Baseline {
  readonly counters: ModelCounters;
  readonly histograms: Readonly<Record<keyof typeof HISTOGRAM, Float64Array>>;
}

const GAUGES: ReadonlySet<string> = new Set(['name', 'inFlight', 'queued', 'ratePerSecond', 'targetBatch']);

export class StatsReader {
  readonly #memory: SharedMemory;
  readonly #models: () => readonly CountedModel[];
  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  readonly #scheduler: HistogramTable;
  readonly #clients: HistogramTable[];

  /** `models` lists the numbers in use; left out, they are those of the configuration. */
  constructor(memory: SharedMemory, models?: () => readonly CountedModel[]) {
    const first = memory.config.models.map(({ name }, number) => ({ number, name, before: null }));
    this.#models = models ?? (() => first);
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#memory = memory;
    const rows = memory.limits.models;
    this.#scheduler = new HistogramTable(memory.buffer, memory.histograms, SCHEDULER_HISTOGRAMS * rows);
    this.#clients = memory.clients.map((client) => new HistogramTable(memory.buffer, client.histograms, CLIENT_HISTOGRAMS * rows));
  }
  /** Everything that a number has counted so far. */
  baseline(model: number): Baseline {
    const kinds = Object.keys(HISTOGRAM) as (keyof typeof HISTOGRAM)[];
    return { counters: this.raw(model), histograms: Object.fromEntries(kinds.map((kind) => [kind, this.#rawHistogram(kind, model)])) as Baseline['histograms'] };
  }

  /** One model's counters. Throws when its number is not in use. */
  model(model: number): ModelCounters {
    return this.#since(this.#counted(model));
  }

  models(): ModelCounters[] {
    return this.#models().map((counted) => this.#since(counted));
  }

  /** Every number that was ever in use. */
  totals(): ModelCounters[] {
    const numbers = Array.from({ length: this.#memory.limits.models }, (_, model) => model);
    const tags = numbers.map((model) => this.#i32[(this.#memory.offers >> 2) + model * MODEL_OFFER.words + MODEL_OFFER.at.tag]!);
    return numbers.filter((model) => (tags[model]! & TAG_MASK) !== 0).map((model) => this.raw(model));
  }

  /** Numbers in use, in the order of `models()`. */
  numbers(): number[] {
    return this.#models().map(({ number }) => number);
  }

  #counted(model: number): CountedModel {
    const counted = this.#models().find(({ number }) => number === model);
    if (counted === undefined) throw new RangeError(`no model has number ${model}`);
    return counted;
  }

  #since({ number, name, before }: CountedModel): ModelCounters {
    const now: Record<string, unknown> = { ...this.raw(number), name };
    if (before !== null) {
      for (const [field, value] of Object.entries(before.counters)) if (!GAUGES.has(field)) now[field] = (now[field] as number) - (value as number);
    }
    return now as unknown as ModelCounters;
  }

  /** Requests of this number since the start, whichever models had it. Unnamed. */
  raw(model: number): ModelCounters {
    const memory = this.#memory;
    const f64 = this.#f64;
    const row = (memory.shardModels >> 2) + model * SHARD_MODEL.words;
    const read = (field: keyof typeof SHARD_MODEL.at): number => f64[(row >> 1) + SHARD_MODEL.at[field]]!;
    const dispatch = ((memory.dispatchModels >> 2) + model * DISPATCH_MODEL.words) >> 1;
    // Endings before acceptances: a request that ends in between must not make the number in flight negative.
    const endings = {
      completed: read('completed'),
      late: read('late'),
      expired: read('expired'),
      queueFull: read('queueFull'),
      infeasible: read('infeasible'),
      cancelled: read('cancelled'),
      failed: read('failed'),
      closed: read('closed'),
    };
    let accepted = 0;
    let refused = 0;
    for (const client of memory.clients) {
      const at = (client.models >> 3) + model * (CLIENT_MODEL.words / 2);
      accepted += f64[at + CLIENT_MODEL.at.accepted]!;
      refused += f64[at + CLIENT_MODEL.at.refused]!;
    }
    const ended = Object.values(endings).reduce((sum, count) => sum + count, 0);
    return {
      name: '',
      accepted,
      refused,
      ...endings,
      inFlight: accepted - ended,
      queued: read('queued'),
      batches: read('batches'),
      batched: read('batched'),
      grants: f64[dispatch + DISPATCH_MODEL.at.grants]!,
      refusedGrants: f64[dispatch + DISPATCH_MODEL.at.refusals]!,
      ratePerSecond: read('ratePerSecond'),
      targetBatch: this.#i32[row + SHARD_MODEL.at.target]!,
    };
  }

  gpu(gpu: number): GpuCounters {
    const row = ((this.#memory.gpus >> 2) + gpu * GPU.words) >> 1;
    return {
      gpu,
      emulated: this.#gpuSpec(gpu, 'host') === HOST_EMULATED,
      busyNs: this.#f64[row + GPU.at.busyNs]!,
      batches: this.#f64[row + GPU.at.batches]!,
    };
  }

  gpus(): GpuCounters[] {
    const numbers = Array.from({ length: this.#memory.limits.gpus }, (_, gpu) => gpu);
    return numbers.filter((gpu) => this.#gpuSpec(gpu, 'state') !== GPU_NONE).map((gpu) => this.gpu(gpu));
  }

  gpusWanted(): GpuAdvice {
    return readAdvice(this.#memory);
  }

  #gpuSpec(gpu: number, field: 'host' | 'state'): number {
    return this.#i32[(this.#memory.gpuSpecs >> 2) + gpu * GPU_SPEC.words + GPU_SPEC.at[field]]!;
  }

  /** Bucket counts of one histogram, added over clients where there are several. */
  histogram(kind: keyof typeof HISTOGRAM, model: number): Float64Array {
    const counts = this.#rawHistogram(kind, model);
    const before = this.#counted(model).before?.histograms[kind];
    if (before !== undefined) for (let i = 0; i < counts.length; i++) counts[i]! -= before[i]!;
    return counts;
  }

  #rawHistogram(kind: keyof typeof HISTOGRAM, model: number): Float64Array {
    const { models } = this.#memory.limits;
    const row = HISTOGRAM[kind] * models + model;
    const byClient = kind === 'latency' || kind === 'delivery';
    const sources = byClient ? this.#clients.map((table) => table.counts(row)) : [this.#scheduler.counts(row)];
    const sum = new Float64Array(sources[0]!.length);
    for (const counts of sources) for (let i = 0; i < sum.length; i++) sum[i]! += counts[i]! >>> 0;
    return sum;
  }
}
