/**
 * Ends requests: the only place where a shard writes outcomes, counters, histograms and completions.
 * Order of the stores for each request: result and times, outcome, outcome generation, then the completion
 * record; the lane's commit (once per poll) publishes all of them to the client.
 *
 * So that a shard may die between any two of them and its successor still counts each request once, every ending is
 * announced by an *intent* that holds the counters as they were before: the successor puts them back, and ends again what
 * the intent speaks of. What has its outcome by then is not ended but only counted again. Until the lanes are committed
 * no client can have read an outcome and used its slot again, and by then the intent is over.
 */
import { Doorbell } from '../ringbuf/doorbell.js';
import { BUCKETS, HistogramTable } from '../ringbuf/log-linear.js';
import { RingWriter } from '../ringbuf/spsc-ring.js';
import { OUTCOME, outcomeOf, packOutcome } from '../protocol/outcome.js';
import { COMPLETION } from '../protocol/records.js';
import type { SharedMemory } from '../protocol/shared-memory.js';
import {
  BATCH,
  BATCH_FREE,
  BATCH_OPEN,
  COUNTER_OF_OUTCOME,
  HISTOGRAM,
  INTENT,
  INTENT_BATCH,
  INTENT_NONE,
  INTENT_ONE,
  SCHEDULER_HISTOGRAMS,
  SHARD_MODEL,
  SHARD_SLOT,
} from '../protocol/tables.js';
import { MODEL_MASK } from '../protocol/specs.js';
import type { InnerLoops } from './inner-loops.js';
import { STATUS_OK } from '../protocol/records.js';

// Offsets as constants of this module: V8 folds these, but not the fields of an imported object.
const { gpu: BATCH_GPU, model: BATCH_MODEL, size: BATCH_SIZE, state: BATCH_STATE } = BATCH.at;
const {
  durationNs: COMPLETION_DURATION_NS,
  endNs: COMPLETION_END_NS,
  endedNs: COMPLETION_ENDED_NS,
  generation: COMPLETION_GENERATION,
  model: COMPLETION_MODEL,
  outcome: COMPLETION_OUTCOME,
  slot: COMPLETION_SLOT,
} = COMPLETION.at;
const {
  batched: SHARD_MODEL_BATCHED,
  batches: SHARD_MODEL_BATCHES,
  cancelled: SHARD_MODEL_CANCELLED,
  completed: SHARD_MODEL_COMPLETED,
  failed: SHARD_MODEL_FAILED,
  late: SHARD_MODEL_LATE,
} = SHARD_MODEL.at;

const {
  batched: INTENT_BATCHED,
  batches: INTENT_BATCHES,
  before: INTENT_BEFORE,
  cancelled: INTENT_CANCELLED,
  completed: INTENT_COMPLETED,
  counter: INTENT_COUNTER,
  failed: INTENT_FAILED,
  generation: INTENT_GENERATION,
  kind: INTENT_KIND,
  late: INTENT_LATE,
  model: INTENT_MODEL,
  row: INTENT_ROW,
  slot: INTENT_SLOT,
} = INTENT.at;

/** Cells of `Ledger.cells`: inputs of the calls. */
export const LEDGER_NOW = 0;
export const LEDGER_START = 1;
export const LEDGER_END = 2;

const { deadlineNs: DEADLINE, budgetNs: BUDGET, generation: GENERATION, model: SLOT_MODEL } = SHARD_SLOT.at;
const { outcomeGeneration: OUTCOME_GENERATION, outcome: OUTCOME_WORD, endedNs: ENDED } = SHARD_SLOT.at;
const SLOT_WORDS = SHARD_SLOT.words;
const SLOT_DOUBLES = SHARD_SLOT.words / 2;
const COUNTER_DOUBLES = SHARD_MODEL.words / 2;

export class Ledger {
  readonly cells = new Float64Array(4);
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  readonly #f32: Float32Array;
  readonly #slotWord: number;
  readonly #slotDouble: number;
  /** Slots of cancelled requests in closed batches: while there are none, the ends of batches need not look for them. */
  readonly #cancelledRunning = new Set<number>();
  readonly #counters: number;
  readonly #models: number;
  readonly #histograms: HistogramTable;
  readonly #histogramsAt: number;
  readonly #loops: InnerLoops;
  readonly #slotShift: number;
  readonly #lanes: RingWriter[];
  readonly #bells: Doorbell[];
  /** Completions claimed and not yet committed, by client. */
  readonly #pending: Int32Array;
  readonly #intent: number;
  readonly #headers: number;

  constructor(memory: SharedMemory, shard: number, loops: InnerLoops) {
    this.#loops = loops;
    this.i32 = new Int32Array(memory.buffer);
    this.f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#f32 = new Float32Array(memory.buffer);
    this.#slotWord = memory.shardSlots >> 2;
    this.#slotDouble = memory.shardSlots >> 3;
    this.#counters = memory.shardModels >> 3;
    this.#models = memory.limits.models;
    this.#histograms = new HistogramTable(memory.buffer, memory.histograms, SCHEDULER_HISTOGRAMS * this.#models);
    this.#histogramsAt = memory.histograms >> 2;
    this.#slotShift = memory.config.slotShift;
    this.#lanes = memory.clients.map((client) => new RingWriter(client.completions[shard]!));
    this.#bells = memory.clients.map((client) => new Doorbell(memory.buffer, client.bell));
    this.#pending = new Int32Array(memory.clients.length);
    this.#intent = memory.shards[shard]!.intent >> 2;
    this.#headers = memory.shards[shard]!.batchHeaders >> 2;
    this.#takeOver();
  }

  /** Puts the counters right that the shard before was about to change when it died. */
  #takeOver(): void {
    const { i32, f64 } = this;
    const intent = this.#intent;
    const kind = i32[intent + INTENT_KIND]!;
    const row = this.#counters + i32[intent + INTENT_MODEL]! * COUNTER_DOUBLES;
    if (kind === INTENT_ONE) {
      const ended = i32[this.#slotWord + i32[intent + INTENT_SLOT]! * SLOT_WORDS + OUTCOME_GENERATION] === i32[intent + INTENT_GENERATION];
      f64[row + i32[intent + INTENT_COUNTER]!] = f64[(intent >> 1) + INTENT_BEFORE]! + (ended ? 1 : 0);
    } else if (kind === INTENT_BATCH && i32[this.#headers + i32[intent + INTENT_ROW]! * BATCH.words + BATCH_STATE] === BATCH_OPEN) {
      // Its end is still in the lane: it will be ended again.
      f64[row + SHARD_MODEL_COMPLETED] = f64[(intent >> 1) + INTENT_COMPLETED]!;
      f64[row + SHARD_MODEL_LATE] = f64[(intent >> 1) + INTENT_LATE]!;
      f64[row + SHARD_MODEL_FAILED] = f64[(intent >> 1) + INTENT_FAILED]!;
      f64[row + SHARD_MODEL_CANCELLED] = f64[(intent >> 1) + INTENT_CANCELLED]!;
      f64[row + SHARD_MODEL_BATCHES] = f64[(intent >> 1) + INTENT_BATCHES]!;
      f64[row + SHARD_MODEL_BATCHED] = f64[(intent >> 1) + INTENT_BATCHED]!;
    }
    i32[intent + INTENT_KIND] = INTENT_NONE;
  }

  /** Ends a request that never ran, at `cells[LEDGER_NOW]`. */
  endUnrun(slot: number, model: number, outcome: number): void {
    const { i32, f64 } = this;
    const intent = this.#intent;
    const counter = COUNTER_OF_OUTCOME + outcome;
    const at = this.#counters + model * COUNTER_DOUBLES + counter;
    const after = f64[at]! + 1;
    i32[intent + INTENT_KIND] = INTENT_NONE;
    i32[intent + INTENT_MODEL] = model;
    i32[intent + INTENT_SLOT] = slot;
    i32[intent + INTENT_GENERATION] = i32[this.#slotWord + slot * SLOT_WORDS + GENERATION]!;
    i32[intent + INTENT_COUNTER] = counter;
    f64[(intent >> 1) + INTENT_BEFORE] = after - 1;
    i32[intent + INTENT_KIND] = INTENT_ONE;
    this.#end(slot, model, packOutcome(outcome, 0, 0), this.cells[LEDGER_NOW]!, 0);
    f64[at] = after;
  }

  /** As `endUnrun` for `count` requests of one client, whose slot numbers lie from word `slotsAt`. */
  endManyUnrun(slotsAt: number, count: number, outcome: number): void {
    const client = this.i32[slotsAt]! >> this.#slotShift;
    const lane = this.#lanes[client]!;
    if (lane.claimMany(count) < count) throw new Error('completion lane is full: more completions than slots');
    for (let k = 0; k < count;) {
      const stretch = lane.claimedInARow(k, count - k);
      this.#loops.turnAway(slotsAt + k, stretch, packOutcome(outcome, 0, 0), COUNTER_OF_OUTCOME + outcome, lane.claimed(k), this.cells[LEDGER_NOW]!);
      k += stretch;
    }
    this.#pending[client]! += count;
  }

  #intendBatch(model: number, row: number): void {
    const { i32, f64 } = this;
    const intent = this.#intent;
    const counters = this.#counters + model * COUNTER_DOUBLES;
    i32[intent + INTENT_KIND] = INTENT_NONE;
    i32[intent + INTENT_MODEL] = model;
    i32[intent + INTENT_ROW] = row;
    f64[(intent >> 1) + INTENT_COMPLETED] = f64[counters + SHARD_MODEL_COMPLETED]!;
    f64[(intent >> 1) + INTENT_LATE] = f64[counters + SHARD_MODEL_LATE]!;
    f64[(intent >> 1) + INTENT_FAILED] = f64[counters + SHARD_MODEL_FAILED]!;
    f64[(intent >> 1) + INTENT_CANCELLED] = f64[counters + SHARD_MODEL_CANCELLED]!;
    f64[(intent >> 1) + INTENT_BATCHES] = f64[counters + SHARD_MODEL_BATCHES]!;
    f64[(intent >> 1) + INTENT_BATCHED] = f64[counters + SHARD_MODEL_BATCHED]!;
    i32[intent + INTENT_KIND] = INTENT_BATCH;
  }

  /** The client has given up a request whose batch is closed: it will end as `cancelled` with it. */
  cancelRunning(slot: number): void {
    this.#cancelledRunning.add(slot);
  }

  /**
   * Ends the requests of a batch that ran from `cells[LEDGER_START]` to `cells[LEDGER_END]`, and frees its row.
   * `slotsAt` is the word of its first slot number. `again`: a shard has died that may have ended some of them.
   */
  endBatch(row: number, slotsAt: number, status: number, again: boolean): void {
    const i32 = this.i32;
    const headerAt = this.#headers + row * BATCH.words;
    const model = i32[headerAt + BATCH_MODEL]!;
    const size = i32[headerAt + BATCH_SIZE]!;
    this.#intendBatch(model, row);
    if (again) this.#endEachAgain(headerAt, slotsAt, status);
    else this.#endEach(headerAt, slotsAt, status);
    const counters = this.#counters + model * COUNTER_DOUBLES;
    this.f64[counters + SHARD_MODEL_BATCHES]! += 1;
    this.f64[counters + SHARD_MODEL_BATCHED]! += size;
    this.#histograms.recordMany(HISTOGRAM.exec * this.#models + model, this.cells[LEDGER_END]! - this.cells[LEDGER_START]!, size);
    this.#histograms.record(HISTOGRAM.batchSize * this.#models + model, size);
    i32[headerAt + BATCH_STATE] = BATCH_FREE;
    i32[this.#intent + INTENT_KIND] = INTENT_NONE; // before the row is another batch's
  }

  #endEach(headerAt: number, slotsAt: number, status: number): void {
    const i32 = this.i32;
    const model = i32[headerAt + BATCH_MODEL]!;
    const size = i32[headerAt + BATCH_SIZE]!;
    const start = this.cells[LEDGER_START]!;
    const end = this.cells[LEDGER_END]!;
    const place = packOutcome(0, size, i32[headerAt + BATCH_GPU]!);
    let late = 0;
    let cancelled = 0;
    if (status === STATUS_OK && this.#cancelledRunning.size === 0 && this.#loops.late(slotsAt, size, this.#slotShift, end) === 0) {
      this.#endAll(slotsAt, size, model, place | OUTCOME.completed, i32[slotsAt]! >> this.#slotShift);
    } else {
      for (let i = 0; i < size; i++) {
        const slot = i32[slotsAt + i]!;
        const isLate = end > this.f64[this.#slotDouble + slot * SLOT_DOUBLES + DEADLINE]!;
        let outcome: number = status !== STATUS_OK ? OUTCOME.failed : isLate ? OUTCOME.late : OUTCOME.completed;
        if (this.#cancelledRunning.size > 0 && this.#cancelledRunning.delete(slot)) outcome = OUTCOME.cancelled;
        if (outcome === OUTCOME.late) late++;
        if (outcome === OUTCOME.cancelled) cancelled++;
        const ended = this.#end(slot, model, place | outcome, end, end - start);
        this.#histograms.record(HISTOGRAM.wait * this.#models + model, ended - (end - start));
      }
    }
    this.#count(model, size - cancelled, status, late, cancelled);
  }

  /** As `#endEach`, one by one: what has its outcome has it for good, and is counted by it. */
  #endEachAgain(headerAt: number, slotsAt: number, status: number): void {
    const { i32, f64 } = this;
    const model = i32[headerAt + BATCH_MODEL]!;
    const size = i32[headerAt + BATCH_SIZE]!;
    const place = packOutcome(0, size, i32[headerAt + BATCH_GPU]!);
    const end = this.cells[LEDGER_END]!;
    const counters = this.#counters + model * COUNTER_DOUBLES + COUNTER_OF_OUTCOME;
    for (let i = 0; i < size; i++) {
      const slot = i32[slotsAt + i]!;
      const word = this.#slotWord + slot * SLOT_WORDS;
      const isLate = end > f64[this.#slotDouble + slot * SLOT_DOUBLES + DEADLINE]!;
      let outcome: number = status !== STATUS_OK ? OUTCOME.failed : isLate ? OUTCOME.late : OUTCOME.completed;
      if (this.#cancelledRunning.delete(slot)) outcome = OUTCOME.cancelled;
      if (i32[word + OUTCOME_GENERATION] === i32[word + GENERATION]) outcome = outcomeOf(i32[word + OUTCOME_WORD]!);
      else this.#end(slot, model, place | outcome, end, end - this.cells[LEDGER_START]!);
      f64[counters + outcome]! += 1;
    }
  }

  /** `#end` for a whole batch with one outcome and one client. */
  #endAll(slotsAt: number, size: number, model: number, packed: number, client: number): void {
    const lane = this.#lanes[client]!;
    const endNs = this.cells[LEDGER_END]!;
    const durationNs = endNs - this.cells[LEDGER_START]!;
    const waits = this.#histogramsAt + (HISTOGRAM.wait * this.#models + model) * BUCKETS;
    if (lane.claimMany(size) < size) throw new Error('completion lane is full: more completions than slots');
    for (let k = 0; k < size;) {
      const stretch = lane.claimedInARow(k, size - k);
      this.#loops.end(slotsAt + k, stretch, model, packed, lane.claimed(k), waits, endNs, durationNs);
      k += stretch;
    }
    this.#pending[client]! += size;
  }

  #count(model: number, ran: number, status: number, late: number, cancelled: number): void {
    const f64 = this.f64;
    const row = this.#counters + model * COUNTER_DOUBLES;
    if (status === STATUS_OK) {
      f64[row + SHARD_MODEL_COMPLETED]! += ran - late;
      f64[row + SHARD_MODEL_LATE]! += late;
    } else {
      f64[row + SHARD_MODEL_FAILED]! += ran;
    }
    f64[row + SHARD_MODEL_CANCELLED]! += cancelled;
  }

  /** Returns end − arrival. */
  #end(slot: number, model: number, packed: number, endNs: number, durationNs: number): number {
    const i32 = this.i32;
    const word = this.#slotWord + slot * SLOT_WORDS;
    const ended = endNs - this.f64[this.#slotDouble + slot * SLOT_DOUBLES + DEADLINE]! + this.#f32[word + BUDGET]!;
    const generation = i32[word + GENERATION]!;
    this.#f32[word + ENDED] = ended;
    i32[word + OUTCOME_WORD] = packed;
    i32[word + OUTCOME_GENERATION] = generation;
    this.#complete(slot, generation, packed, model, endNs, ended, durationNs);
    return ended;
  }

  /** Says again how a request has ended whose completion may not have been committed. How long it ran is not known any more. */
  sayAgain(slot: number): void {
    const i32 = this.i32;
    const word = this.#slotWord + slot * SLOT_WORDS;
    const ended = this.#f32[word + ENDED]!;
    const endNs = this.f64[this.#slotDouble + slot * SLOT_DOUBLES + DEADLINE]! - this.#f32[word + BUDGET]! + ended;
    this.#complete(slot, i32[word + OUTCOME_GENERATION]!, i32[word + OUTCOME_WORD]!, i32[word + SLOT_MODEL]! & MODEL_MASK, endNs, ended, 0);
  }

  #complete(slot: number, generation: number, packed: number, model: number, endNs: number, ended: number, durationNs: number): void {
    const client = slot >> this.#slotShift;
    const lane = this.#lanes[client]!;
    const at = lane.claim();
    if (at < 0) throw new Error(`completion lane of client ${client} is full: more completions than slots`);
    lane.i32[at + COMPLETION_SLOT] = slot;
    lane.i32[at + COMPLETION_GENERATION] = generation;
    lane.i32[at + COMPLETION_OUTCOME] = packed;
    lane.i32[at + COMPLETION_MODEL] = model;
    lane.f64[(at >> 1) + COMPLETION_END_NS] = endNs;
    lane.f32[at + COMPLETION_ENDED_NS] = ended;
    lane.f32[at + COMPLETION_DURATION_NS] = durationNs;
    this.#pending[client]!++;
  }

  /** Publishes the completions of this poll and wakes their clients. */
  commit(): void {
    const pending = this.#pending;
    this.i32[this.#intent + INTENT_KIND] = INTENT_NONE;
    for (let client = 0; client < pending.length; client++) {
      if (pending[client] === 0) continue;
      this.#lanes[client]!.commit();
      this.#bells[client]!.ring();
      pending[client] = 0;
    }
  }
}
