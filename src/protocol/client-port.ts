/**
 * A client's side of the protocol: numbers in, numbers out. Takes slots, stamps requests, commits them in bulk to
 * the lanes of their shards, and reads completions. Nothing blocks.
 */
import { DirtyBitmap } from '../ringbuf/dirty-bitmap.js';
import { Doorbell } from '../ringbuf/doorbell.js';
import { HistogramTable } from '../ringbuf/log-linear.js';
import { RingReader, RingWriter } from '../ringbuf/spsc-ring.js';
import { shardOf } from './config.js';
import { batchSizeOf, gpuOf, OUTCOME, outcomeOf } from './outcome.js';
import { COMPLETION, REQUEST } from './records.js';
import { MARGIN_RESPONSE, type SharedMemory } from './shared-memory.js';
import { CLIENT_HISTOGRAMS, CLIENT_MODEL, HISTOGRAM, SLOT, SLOT_DOUBLES, SLOT_WORDS } from './tables.js';

/** Answers of `submit` that are not a slot. */
export const REFUSED_NO_SLOT = -1;
export const REFUSED_INFEASIBLE = -2;

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
  /** What the last `drain` has read: slots (they may be used again by the next `submit`) and packed outcomes. */
  readonly drainedSlots: Int32Array;
  readonly drainedOutcomes: Int32Array;
  readonly bell: Doorbell;

  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  readonly #f32: Float32Array;
  readonly #slotWord: number;
  readonly #slotDouble: number;
  readonly #firstSlot: number;
  readonly #responseAt: number;
  readonly #countersAt: number;
  readonly #models: number;
  readonly #shards: number;
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
    this.bell = new Doorbell(memory.buffer, place.bell);
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#f32 = new Float32Array(memory.buffer);
    this.#slotWord = memory.slots >> 2;
    this.#slotDouble = memory.slots >> 3;
    this.#firstSlot = client * this.slots;
    this.#responseAt = (memory.margins >> 3) + MARGIN_RESPONSE;
    this.#countersAt = place.models >> 3;
    this.#models = config.models.length;
    this.#shards = config.shards;
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
    const responseNs = this.#f64[this.#responseAt]!;
    const slos = this.#sloNs;
    let accepted = 0;
    for (let k = from; k < to; k++) {
      const model = models[k]!;
      if (this.#freeCount === 0) {
        this.#refuse(model, REFUSED_NO_SLOT);
        continue;
      }
      this.#take(model, arrivalsNs[k]!, arrivalsNs[k]! + slos[model]! - responseNs);
      accepted++;
    }
    this.commit();
    return accepted;
  }

  #take(model: number, arrivalNs: number, deadlineNs: number): number {
    const slot = this.#firstSlot + this.#takeFreeSlot();
    const word = this.#slotWord + slot * SLOT_WORDS;
    const double = this.#slotDouble + slot * SLOT_DOUBLES;
    const i32 = this.#i32;
    let generation = (i32[word + SLOT.at.generation]! + 1) | 0;
    if (generation === 0) generation = 1; // 0 is what a cancel word says that was never written
    this.#f64[double + SLOT.at.arrivalNs] = arrivalNs;
    this.#f64[double + SLOT.at.deadlineNs] = deadlineNs;
    i32[word + SLOT.at.model] = model;
    i32[word + SLOT.at.generation] = generation;
    const shard = this.#shards === 1 ? 0 : shardOf(model, this.#shards);
    const lane = this.#requests[shard]!;
    const at = lane.claim();
    if (at < 0) throw new Error('request lane is full: more requests under way than slots');
    lane.i32[at + REQUEST.at.slot] = slot;
    lane.i32[at + REQUEST.at.generation] = generation;
    this.#pending[shard]!++;
    this.#f64[this.#countersAt + model * MODEL_DOUBLES + CLIENT_MODEL.at.accepted]! += 1;
    return slot;
  }

  #refuse(model: number, code: number): number {
    this.#f64[this.#countersAt + model * MODEL_DOUBLES + CLIENT_MODEL.at.refused]! += 1;
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
    Atomics.store(this.#i32, word + SLOT.at.cancel, this.#i32[word + SLOT.at.generation]!);
    const shard = shardOf(this.#i32[word + SLOT.at.model]!, this.#shards);
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
    const i32 = this.#i32;
    const f64 = this.#f64;
    const laneWords = lane.i32;
    let to = from;
    for (let k = 0; k < count; k++) {
      const at = lane.word(k);
      const slot = laneWords[at + COMPLETION.at.slot]!;
      const word = this.#slotWord + slot * SLOT_WORDS;
      // A completion that comes twice speaks of a generation that is over, or of a slot that is free.
      const index = slot - this.#firstSlot;
      if (laneWords[at + COMPLETION.at.generation] !== i32[word + SLOT.at.generation]) continue;
      if ((this.#free[index >> 5]! & (1 << (index & 31))) !== 0) continue;
      const packed = i32[word + SLOT.at.outcome]!;
      const model = i32[word + SLOT.at.model]!;
      const outcome = packed & 31;
      if (outcome <= OUTCOME.late) {
        const double = this.#slotDouble + slot * SLOT_DOUBLES;
        this.#histograms.record(HISTOGRAM.latency * this.#models + model, nowNs - f64[double + SLOT.at.arrivalNs]!);
        this.#histograms.record(HISTOGRAM.delivery * this.#models + model, nowNs - f64[double + SLOT.at.endNs]!);
      }
      f64[this.#countersAt + model * MODEL_DOUBLES + CLIENT_MODEL.at.delivered]! += 1;
      this.#free[index >> 5]! |= 1 << (index & 31);
      this.drainedSlots[to] = slot;
      this.drainedOutcomes[to] = packed;
      to++;
    }
    this.#freeCount += to - from;
    lane.release(count);
    return to - from;
  }

  /** Everything about a request that has ended. Right after `drain`, before the slot is used again. */
  completion(slot: number): Completion {
    const word = this.#slotWord + slot * SLOT_WORDS;
    const double = this.#slotDouble + slot * SLOT_DOUBLES;
    const packed = this.#i32[word + SLOT.at.outcome]!;
    const endNs = this.#f64[double + SLOT.at.endNs]!;
    return {
      outcome: outcomeOf(packed),
      model: this.#i32[word + SLOT.at.model]!,
      arrivalNs: this.#f64[double + SLOT.at.arrivalNs]!,
      deadlineNs: this.#f64[double + SLOT.at.deadlineNs]!,
      startNs: endNs - this.#f32[word + SLOT.at.durationNs]!,
      endNs,
      batchSize: batchSizeOf(packed),
      gpu: gpuOf(packed),
    };
  }
}
