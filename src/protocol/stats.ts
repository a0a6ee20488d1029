/** Reads the counters and histograms of a scheduler from its shared memory: the figures behind `stats()` and every report. */
import { HistogramTable } from '../ringbuf/log-linear.js';
import { HOST_EMULATED } from './config.js';
import type { SharedMemory } from './shared-memory.js';
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
  readonly emulated: boolean;
  readonly busyNs: number;
  readonly batches: number;
}

export class StatsReader {
  readonly #memory: SharedMemory;
  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  readonly #scheduler: HistogramTable;
  readonly #clients: HistogramTable[];

  constructor(memory: SharedMemory) {
    const { models } = memory.limits;
    this.#memory = memory;
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#scheduler = new HistogramTable(memory.buffer, memory.histograms, SCHEDULER_HISTOGRAMS * models);
    this.#clients = memory.clients.map((client) => new HistogramTable(memory.buffer, client.histograms, CLIENT_HISTOGRAMS * models));
  }

  model(model: number): ModelCounters {
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
      name: memory.config.models[model]!.name,
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

  models(): ModelCounters[] {
    return this.#memory.config.models.map((_, model) => this.model(model));
  }

  gpu(gpu: number): GpuCounters {
    const row = ((this.#memory.gpus >> 2) + gpu * GPU.words) >> 1;
    return {
      emulated: this.#memory.config.gpus[gpu]!.host === HOST_EMULATED,
      busyNs: this.#f64[row + GPU.at.busyNs]!,
      batches: this.#f64[row + GPU.at.batches]!,
    };
  }

  gpus(): GpuCounters[] {
    return this.#memory.config.gpus.map((_, gpu) => this.gpu(gpu));
  }

  /** Bucket counts of one histogram, added over clients where there are several. */
  histogram(kind: keyof typeof HISTOGRAM, model: number): Float64Array {
    const { models } = this.#memory.limits;
    const row = HISTOGRAM[kind] * models + model;
    const byClient = kind === 'latency' || kind === 'delivery';
    const sources = byClient ? this.#clients.map((table) => table.counts(row)) : [this.#scheduler.counts(row)];
    const sum = new Float64Array(sources[0]!.length);
    for (const counts of sources) for (let i = 0; i < sum.length; i++) sum[i]! += counts[i]! >>> 0;
    return sum;
  }
}
