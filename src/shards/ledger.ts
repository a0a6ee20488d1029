/**
 * Ends requests: the only place where a shard writes outcomes, counters, histograms and completions.
 * Order of the stores for each request: result and times, outcome, outcome generation, then the completion
 * record; the lane's commit (once per poll) publishes all of them to the client.
 */
import { Doorbell } from '../ringbuf/doorbell.js';
import { HistogramTable } from '../ringbuf/log-linear.js';
import { RingWriter } from '../ringbuf/spsc-ring.js';
import { OUTCOME, packOutcome } from '../protocol/outcome.js';
import { COMPLETION } from '../protocol/records.js';
import type { SharedMemory } from '../protocol/shared-memory.js';
import { BATCH, COUNTER_OF_OUTCOME, HISTOGRAM, SCHEDULER_HISTOGRAMS, SHARD_MODEL, SLOT, SLOT_DOUBLES, SLOT_WORDS } from '../protocol/tables.js';
import { STATUS_OK } from '../protocol/records.js';

/** Cells of `Ledger.cells`: inputs of the calls. */
export const LEDGER_NOW = 0;
export const LEDGER_START = 1;
export const LEDGER_END = 2;

const { arrivalNs: ARRIVAL, deadlineNs: DEADLINE, endNs: END } = SLOT.at;
const { generation: GENERATION, cancel: CANCEL, outcomeGeneration: OUTCOME_GENERATION, outcome: OUTCOME_WORD, durationNs: DURATION } = SLOT.at;
const COUNTER_DOUBLES = SHARD_MODEL.words / 2;

export class Ledger {
  readonly cells = new Float64Array(4);
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  readonly #f32: Float32Array;
  readonly #slotWord: number;
  readonly #slotDouble: number;
  readonly #counters: number;
  readonly #models: number;
  readonly #histograms: HistogramTable;
  readonly #slotShift: number;
  readonly #lanes: RingWriter[];
  readonly #bells: Doorbell[];
  /** Completions claimed and not yet committed, by client. */
  readonly #pending: Int32Array;

  constructor(memory: SharedMemory, shard: number) {
    this.i32 = new Int32Array(memory.buffer);
    this.f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#f32 = new Float32Array(memory.buffer);
    this.#slotWord = memory.slots >> 2;
    this.#slotDouble = memory.slots >> 3;
    this.#counters = memory.shardModels >> 3;
    this.#models = memory.config.models.length;
    this.#histograms = new HistogramTable(memory.buffer, memory.histograms, SCHEDULER_HISTOGRAMS * this.#models);
    this.#slotShift = memory.config.slotShift;
    this.#lanes = memory.clients.map((client) => new RingWriter(client.completions[shard]!));
    this.#bells = memory.clients.map((client) => new Doorbell(memory.buffer, client.bell));
    this.#pending = new Int32Array(memory.clients.length);
  }

  /** Ends a request that never ran, at `cells[LEDGER_NOW]`. */
  endUnrun(slot: number, model: number, outcome: number): void {
    const word = this.#slotWord + slot * SLOT_WORDS;
    this.f64[this.#slotDouble + slot * SLOT_DOUBLES + END] = this.cells[LEDGER_NOW]!;
    this.#f32[word + DURATION] = 0;
    this.#end(slot, word, packOutcome(outcome, 0, 0));
    this.f64[this.#counters + model * COUNTER_DOUBLES + COUNTER_OF_OUTCOME + outcome]! += 1;
  }

  /** Ends the requests of a batch that ran from `cells[LEDGER_START]` to `cells[LEDGER_END]`. `slotsAt` is the word of its first slot number. */
  endBatch(headerAt: number, slotsAt: number, status: number): void {
    const i32 = this.i32;
    const f64 = this.f64;
    const f32 = this.#f32;
    const model = i32[headerAt + BATCH.at.model]!;
    const size = i32[headerAt + BATCH.at.size]!;
    const start = this.cells[LEDGER_START]!;
    const end = this.cells[LEDGER_END]!;
    const histograms = this.#histograms;
    const waitRow = HISTOGRAM.wait * this.#models + model;
    const place = packOutcome(0, size, i32[headerAt + BATCH.at.gpu]!);
    const onTime = place | (status === STATUS_OK ? OUTCOME.completed : OUTCOME.failed);
    const afterTime = place | (status === STATUS_OK ? OUTCOME.late : OUTCOME.failed);
    let late = 0;
    let cancelled = 0;
    for (let i = 0; i < size; i++) {
      const slot = i32[slotsAt + i]!;
      const word = this.#slotWord + slot * SLOT_WORDS;
      const double = this.#slotDouble + slot * SLOT_DOUBLES;
      let outcome = onTime;
      if (end > f64[double + DEADLINE]!) {
        outcome = afterTime;
        late++;
      }
      if (i32[word + CANCEL] === i32[word + GENERATION]) {
        if (outcome === afterTime && end > f64[double + DEADLINE]!) late--;
        outcome = place | OUTCOME.cancelled;
        cancelled++;
      }
      f64[double + END] = end;
      f32[word + DURATION] = end - start;
      this.#end(slot, word, outcome);
      histograms.record(waitRow, start - f64[double + ARRIVAL]!);
    }
    this.#count(model, size, status, late, cancelled);
    histograms.recordMany(HISTOGRAM.exec * this.#models + model, end - start, size);
    histograms.record(HISTOGRAM.batchSize * this.#models + model, size);
  }

  #count(model: number, size: number, status: number, late: number, cancelled: number): void {
    const f64 = this.f64;
    const row = this.#counters + model * COUNTER_DOUBLES;
    const ran = size - cancelled;
    if (status === STATUS_OK) {
      f64[row + SHARD_MODEL.at.completed]! += ran - late;
      f64[row + SHARD_MODEL.at.late]! += late;
    } else {
      f64[row + SHARD_MODEL.at.failed]! += ran;
    }
    f64[row + SHARD_MODEL.at.cancelled]! += cancelled;
    f64[row + SHARD_MODEL.at.batches]! += 1;
    f64[row + SHARD_MODEL.at.batched]! += size;
  }

  #end(slot: number, word: number, packed: number): void {
    const i32 = this.i32;
    const generation = i32[word + GENERATION]!;
    i32[word + OUTCOME_WORD] = packed;
    i32[word + OUTCOME_GENERATION] = generation;
    const client = slot >> this.#slotShift;
    const lane = this.#lanes[client]!;
    const at = lane.claim();
    if (at < 0) throw new Error(`completion lane of client ${client} is full: more completions than slots`);
    lane.i32[at + COMPLETION.at.slot] = slot;
    lane.i32[at + COMPLETION.at.generation] = generation;
    this.#pending[client]!++;
  }

  /** Publishes the completions of this poll and wakes their clients. */
  commit(): void {
    const pending = this.#pending;
    for (let client = 0; client < pending.length; client++) {
      if (pending[client] === 0) continue;
      this.#lanes[client]!.commit();
      this.#bells[client]!.ring();
      pending[client] = 0;
    }
  }
}
