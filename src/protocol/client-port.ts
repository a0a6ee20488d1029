/**
 * A client's side of the protocol: numbers in, numbers out. Takes slots, stamps requests, commits them in bulk to
 * the lanes of their shards, and reads completions. Nothing blocks.
 */
import { DirtyBitmap } from '../ringbuf/dirty-bitmap.js';
import { Doorbell } from '../ringbuf/doorbell.js';
import { HistogramTable } from '../ringbuf/log-linear.js';
import { RingReader, RingWriter } from '../ringbuf/spsc-ring.js';
import { shardOf } from './config.js';
import { DelayMeter } from './delay-meter.js';
import { batchSizeOf, gpuOf, OUTCOME, outcomeOf } from './outcome.js';
import { COMPLETION, REQUEST } from './records.js';
import { MARGIN_RESPONSE, mostMarginNs, type SharedMemory } from './shared-memory.js';
import { CLIENT_HISTOGRAMS, CLIENT_MODEL, HISTOGRAM, SLOT, SLOT_DOUBLES, SLOT_WORDS } from './tables.js';

// Offsets as constants of this module: V8 folds these, but not the fields of an imported object.
const { accepted: CLIENT_MODEL_ACCEPTED, delivered: CLIENT_MODEL_DELIVERED, refused: CLIENT_MODEL_REFUSED } = CLIENT_MODEL.at;
const {
  durationNs: COMPLETION_DURATION_NS,
  endNs: COMPLETION_END_NS,
  endedNs: COMPLETION_ENDED_NS,
  generation: COMPLETION_GENERATION,
  model: COMPLETION_MODEL,
  outcome: COMPLETION_OUTCOME,
  slot: COMPLETION_SLOT,
} = COMPLETION.at;
const { generation: REQUEST_GENERATION, slot: REQUEST_SLOT } = REQUEST.at;
const { budgetNs: SLOT_BUDGET_NS, deadlineNs: SLOT_DEADLINE_NS, generation: SLOT_GENERATION, model: SLOT_MODEL } = SLOT.at;

/** Answers of `submit` that are not a slot. */
export const REFUSED_NO_SLOT = -1;
export const REFUSED_INFEASIBLE = -2;

const LEAST_RESPONSE_NS = 5e3;
const MODEL_DOUBLES = CLIENT_MODEL.words / 2;

/** What is known about a request that has ended, in ns of the shared clock. */
export interface Completion {
  readonly outcome: number;
  readonly model: number;
  readonly arrivalNs: number;
  readonly deadlineNs: number;
  readonly startNs: number;
  readonly endNs: number;
  readonly batchSize: number;
  readonly gpu: number;
}

export class ClientPort {
  readonly slots: number;
  /** What the last `drain` has read: slots (they may be used again by the next `submit`), packed outcomes, times. */
  readonly drainedSlots: Int32Array;
  readonly drainedOutcomes: Int32Array;
  readonly drainedEndNs: Float64Array;
  readonly drainedDurationNs: Float32Array;
  readonly bell: Doorbell;

  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  readonly #f32: Float32Array;
  readonly #slotWord: number;
  readonly #slotDouble: number;
  readonly #cancelWord: number;
  /** By slot: the generation of its present use, or of the next one while it is free. */
  readonly #generations: Int32Array;
  readonly #firstSlot: number;
  readonly #responseAt: number;
  readonly #countersAt: number;
  readonly #models: number;
  readonly #shards: number;
  /** Measures r; null when it is given. The first client measures for all. */
  readonly #responseMeter: DelayMeter | null;
  readonly #histograms: HistogramTable;
  readonly #requests: RingWriter[];
  readonly #completions: RingReader[];
  readonly #shardBells: Doorbell[];
  readonly #cancels: DirtyBitmap[];
  readonly #pending: Int32Array;
  readonly #sloNs: Float64Array;
  readonly #soonestNs: Float64Array;
  /** One bit per slot, set while it is free. */
  readonly #free: Int32Array;
  #freeCount: number;
  #cursor = 0;

  /** @param bulk completions that one `drain` can return at most. */
  constructor(memory: SharedMemory, client: number, bulk = 4096) {
    const { config } = memory;
    const place = memory.clients[client]!;
    this.slots = 2 ** config.slotShift;
    this.drainedSlots = new Int32Array(bulk);
    this.drainedOutcomes = new Int32Array(bulk);
    this.drainedEndNs = new Float64Array(bulk);
    this.drainedDurationNs = new Float32Array(bulk);
    this.bell = new Doorbell(memory.buffer, place.bell);
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#f32 = new Float32Array(memory.buffer);
    this.#slotWord = memory.slots >> 2;
    this.#slotDouble = memory.slots >> 3;
    this.#cancelWord = memory.cancels >> 2;
    this.#generations = new Int32Array(this.slots).fill(1);
    this.#firstSlot = client * this.slots;
    this.#responseAt = (memory.margins >> 3) + MARGIN_RESPONSE;
    this.#countersAt = place.models >> 3;
    this.#models = config.models.length;
    this.#shards = config.shards;
    const measures = config.margins.measureResponse && client === 0;
    this.#responseMeter = measures ? new DelayMeter(this.#f64, this.#responseAt, LEAST_RESPONSE_NS, mostMarginNs(config)) : null;
    this.#histograms = new HistogramTable(memory.buffer, place.histograms, CLIENT_HISTOGRAMS * this.#models);
    this.#requests = place.requests.map((lane) => new RingWriter(lane));
    this.#completions = place.completions.map((lane) => new RingReader(lane));
    this.#shardBells = memory.shards.map((shard) => new Doorbell(memory.buffer, shard.bell));
    this.#cancels = memory.shards.map((shard) => new DirtyBitmap(memory.buffer, shard.cancel, config.maxClients * this.slots));
    this.#pending = new Int32Array(config.shards);
    this.#sloNs = Float64Array.from(config.models, (model) => model.sloNs);
    this.#soonestNs = Float64Array.from(config.models, (model) => config.profiles[model.profile]![1]!);
    this.#free = new Int32Array(this.slots / 32).fill(-1);
    this.#freeCount = this.slots;
  }

  /** Requests that were accepted and whose completion has not been read. */
  get inFlight(): number {
    return this.slots - this.#freeCount;
  }

  /**
   * Submits one request; `sloNs` 0 means the model's own. Returns its slot, or a REFUSED_ code.
   * The shard sees it at the next `commit`.
   */
  submit(model: number, arrivalNs: number, sloNs: number): number {
    const slo = sloNs === 0 ? this.#sloNs[model]! : sloNs;
    if (slo < this.#soonestNs[model]!) return this.#refuse(model, REFUSED_INFEASIBLE);
    if (this.#freeCount === 0) return this.#refuse(model, REFUSED_NO_SLOT);
    return this.#take(model, arrivalNs, arrivalNs + slo - this.#f64[this.#responseAt]!);
  }

  /**
   * Submits requests `from` to `to` - 1 of two parallel arrays, each with its model's SLO, and commits them.
   * Returns how many were accepted; the refused ones are counted and nothing else is known of them.
   */
  submitBulk(models: Int32Array, arrivalsNs: Float64Array, from: number, to: number): number {
    const fits = Math.min(to, from + this.#freeCount);
    for (let k = fits; k < to; k++) this.#refuse(models[k]!, REFUSED_NO_SLOT);
    if (this.#shards === 1) this.#takeBulk(models, arrivalsNs, from, fits, this.#requests[0]!);
    else for (let k = from; k < fits; k++) this.#take(models[k]!, arrivalsNs[k]!, arrivalsNs[k]! + this.#sloNs[models[k]!]! - this.#f64[this.#responseAt]!);
    this.commit();
    return fits - from;
  }

  /** As `#take` for each, with everything that is the same for all of them in locals: 3 times as fast. */
  #takeBulk(models: Int32Array, arrivalsNs: Float64Array, from: number, to: number, lane: RingWriter): void {
    const i32 = this.#i32;
    const f32 = this.#f32;
    const f64 = this.#f64;
    const free = this.#free;
    const generations = this.#generations;
    const slos = this.#sloNs;
    const slotWord = this.#slotWord;
    const slotDouble = this.#slotDouble;
    const firstSlot = this.#firstSlot;
    const countersAt = this.#countersAt + CLIENT_MODEL_ACCEPTED;
    const responseNs = f64[this.#responseAt]!;
    if (lane.room(to - from) < to - from) throw new Error('request lane is full: more requests under way than slots');
    let cursor = this.#cursor;
    for (let k = from; k < to; k++) {
      const model = models[k]!;
      const arrivalNs = arrivalsNs[k]!;
      let bits = free[cursor]!;
      while (bits === 0) {
        cursor = cursor + 1 === free.length ? 0 : cursor + 1;
        bits = free[cursor]!;
      }
      free[cursor] = bits & (bits - 1);
      const index = (cursor << 5) + 31 - Math.clz32(bits & -bits);
      const slot = firstSlot + index;
      const word = slotWord + slot * SLOT_WORDS;
      const generation = generations[index]!;
      const budgetNs = slos[model]! - responseNs;
      f64[slotDouble + slot * SLOT_DOUBLES + SLOT_DEADLINE_NS] = arrivalNs + budgetNs;
      f32[word + SLOT_BUDGET_NS] = budgetNs;
      i32[word + SLOT_MODEL] = model;
      i32[word + SLOT_GENERATION] = generation;
      const at = lane.claim();
      i32[at + REQUEST_SLOT] = slot;
      i32[at + REQUEST_GENERATION] = generation;
      f64[countersAt + model * MODEL_DOUBLES]! += 1;
    }
    this.#cursor = cursor;
    this.#freeCount -= to - from;
    this.#pending[0]! += to - from;
  }

  #take(model: number, arrivalNs: number, deadlineNs: number): number {
    const slot = this.#firstSlot + this.#takeFreeSlot();
    const word = this.#slotWord + slot * SLOT_WORDS;
    const double = this.#slotDouble + slot * SLOT_DOUBLES;
    const i32 = this.#i32;
    const generation = this.#generations[slot - this.#firstSlot]!;
    this.#f64[double + SLOT_DEADLINE_NS] = deadlineNs;
    this.#f32[word + SLOT_BUDGET_NS] = deadlineNs - arrivalNs;
    i32[word + SLOT_MODEL] = model;
    i32[word + SLOT_GENERATION] = generation;
    const shard = this.#shards === 1 ? 0 : shardOf(model, this.#shards);
    const lane = this.#requests[shard]!;
    const at = lane.claim();
    if (at < 0) throw new Error('request lane is full: more requests under way than slots');
    lane.i32[at + REQUEST_SLOT] = slot;
    lane.i32[at + REQUEST_GENERATION] = generation;
    this.#pending[shard]!++;
    this.#f64[this.#countersAt + model * MODEL_DOUBLES + CLIENT_MODEL_ACCEPTED]! += 1;
    return slot;
  }

  #refuse(model: number, code: number): number {
    this.#f64[this.#countersAt + model * MODEL_DOUBLES + CLIENT_MODEL_REFUSED]! += 1;
    return code;
  }

  /** Next free slot in circular order, so that neighbours in time are neighbours in memory. One must be free. */
  #takeFreeSlot(): number {
    const free = this.#free;
    let word = this.#cursor;
    let bits = free[word]!;
    while (bits === 0) {
      word = word + 1 === free.length ? 0 : word + 1;
      bits = free[word]!;
    }
    const bit = bits & -bits;
    free[word] = bits ^ bit;
    this.#cursor = word;
    this.#freeCount--;
    return (word << 5) + 31 - Math.clz32(bit);
  }

  /** Shows the shards what was submitted, with one store per lane, and wakes those that sleep. */
  commit(): void {
    const pending = this.#pending;
    for (let shard = 0; shard < pending.length; shard++) {
      if (pending[shard] === 0) continue;
      pending[shard] = 0;
      this.#requests[shard]!.commit();
      this.#shardBells[shard]!.ring();
    }
  }

  /** Says that the request in `slot` is no longer wanted. Its completion still comes, as `cancelled` or as it had ended before. */
  cancel(slot: number): void {
    const word = this.#slotWord + slot * SLOT_WORDS;
    Atomics.store(this.#i32, this.#cancelWord + slot, this.#i32[word + SLOT_GENERATION]!);
    const shard = shardOf(this.#i32[word + SLOT_MODEL]!, this.#shards);
    this.#cancels[shard]!.mark(slot);
    this.#shardBells[shard]!.ring();
  }

  /**
   * Reads completions into `drainedSlots` and `drainedOutcomes`, records latencies as of `nowNs` and frees the slots.
   * Returns how many; at most the bulk size, call again while it returns that.
   */
  drain(nowNs: number): number {
    let total = 0;
    for (let shard = 0; shard < this.#completions.length; shard++) total += this.#drainLane(this.#completions[shard]!, nowNs, total);
    return total;
  }

  #drainLane(lane: RingReader, nowNs: number, from: number): number {
    const count = lane.available(this.drainedSlots.length - from);
    if (count === 0) return 0;
    const laneWords = lane.i32;
    const laneFloats = lane.f32;
    const laneDoubles = lane.f64;
    const generations = this.#generations;
    const free = this.#free;
    const f64 = this.#f64;
    const histograms = this.#histograms;
    const latencyRow = HISTOGRAM.latency * this.#models;
    const deliveryRow = HISTOGRAM.delivery * this.#models;
    const deliveredAt = this.#countersAt + CLIENT_MODEL_DELIVERED;
    const firstSlot = this.#firstSlot;
    const late = OUTCOME.late;
    const { drainedSlots, drainedOutcomes, drainedEndNs, drainedDurationNs } = this;
    let to = from;
    let lastEndNs = 0;
    for (let k = 0; k < count; k++) {
      const at = lane.word(k);
      const slot = laneWords[at + COMPLETION_SLOT]!;
      const index = slot - firstSlot;
      const generation = generations[index]!;
      // A completion that comes twice speaks of a generation that is over.
      if (laneWords[at + COMPLETION_GENERATION] !== generation) continue;
      generations[index] = generation === -1 ? 1 : generation + 1; // never 0: that is a cancel word that was never written
      const packed = laneWords[at + COMPLETION_OUTCOME]!;
      const model = laneWords[at + COMPLETION_MODEL]!;
      if ((packed & 31) <= late) {
        lastEndNs = laneDoubles[(at >> 1) + COMPLETION_END_NS]!;
        histograms.record(latencyRow + model, nowNs - lastEndNs + laneFloats[at + COMPLETION_ENDED_NS]!);
        histograms.record(deliveryRow + model, nowNs - lastEndNs);
      }
      f64[deliveredAt + model * MODEL_DOUBLES]! += 1;
      free[index >> 5]! |= 1 << (index & 31);
      drainedSlots[to] = slot;
      drainedOutcomes[to] = packed;
      drainedEndNs[to] = laneDoubles[(at >> 1) + COMPLETION_END_NS]!;
      drainedDurationNs[to] = laneFloats[at + COMPLETION_DURATION_NS]!;
      to++;
    }
    this.#freeCount += to - from;
    if (this.#responseMeter !== null && lastEndNs > 0) this.#responseMeter.add(nowNs - lastEndNs, nowNs);
    lane.release(count);
    return to - from;
  }

  /** Everything about the `k`-th completion of the last `drain`. Before its slot is used again. */
  completion(k: number): Completion {
    const slot = this.drainedSlots[k]!;
    const packed = this.drainedOutcomes[k]!;
    const word = this.#slotWord + slot * SLOT_WORDS;
    const deadlineNs = this.#f64[this.#slotDouble + slot * SLOT_DOUBLES + SLOT_DEADLINE_NS]!;
    const endNs = this.drainedEndNs[k]!;
    return {
      outcome: outcomeOf(packed),
      model: this.#i32[word + SLOT_MODEL]!,
      arrivalNs: deadlineNs - this.#f32[word + SLOT_BUDGET_NS]!,
      deadlineNs,
      startNs: endNs - this.drainedDurationNs[k]!,
      endNs,
      batchSize: batchSizeOf(packed),
      gpu: gpuOf(packed),
    };
  }
}
