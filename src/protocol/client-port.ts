/**
 * A client's side of the protocol: numbers in, numbers out. Takes slots, stamps requests, commits them in bulk to
 * the lanes of their shards, and reads completions. Nothing blocks.
 */
import { DirtyBitmap } from '../ringbuf/dirty-bitmap.js';
import { Doorbell } from '../ringbuf/doorbell.js';
import { RingReader, RingWriter } from '../ringbuf/spsc-ring.js';
import { after, type ClientLoops, clientLoops } from './client-loops.js';
import { DelayMeter } from './delay-meter.js';
import { batchSizeOf, gpuOf, outcomeOf } from './outcome.js';
import { REQUEST } from './records.js';
import { OwnSlos } from './recording.js';
import { CLIENT_STATE, MOST_DRAINED, MOST_SUBMITTED } from './scratch.js';
import { MARGIN_MOST, MARGIN_RESPONSE, type SharedMemory } from './shared-memory.js';
import { MODEL_MASK, MODEL_OFFER } from './specs.js';
import { CLIENT_MODEL, SHARD_SLOT, SLOT, SLOT_DOUBLES, SLOT_WORDS } from './tables.js';

// Offsets as constants of this module: V8 folds these, but not the fields of an imported object.
const { accepted: CLIENT_MODEL_ACCEPTED, refused: CLIENT_MODEL_REFUSED } = CLIENT_MODEL.at;
const { cursor: STATE_CURSOR, lastEndNs: STATE_LAST_END_NS } = CLIENT_STATE.at;
const { budgetNs: REQUEST_BUDGET_NS, deadlineNs: REQUEST_DEADLINE_NS, generation: REQUEST_GENERATION, model: REQUEST_MODEL, slot: REQUEST_SLOT } = REQUEST.at;
const { budgetNs: SLOT_BUDGET_NS, deadlineNs: SLOT_DEADLINE_NS, generation: SLOT_GENERATION, model: SLOT_MODEL } = SLOT.at;
const { outcomeGeneration: SHARD_SLOT_OUTCOME_GENERATION } = SHARD_SLOT.at;
const { aloneNs: OFFER_ALONE_NS, shard: OFFER_SHARD, sloNs: OFFER_SLO_NS, tag: OFFER_TAG } = MODEL_OFFER.at;

/** Answers of `submit` that are not a slot. */
export const REFUSED_NO_SLOT = -1;
export const REFUSED_INFEASIBLE = -2;
/** There is no such model, or it is being removed. */
export const REFUSED_NO_MODEL = -3;

const LEAST_RESPONSE_NS = 5e3;
const MODEL_DOUBLES = CLIENT_MODEL.words / 2;
const OFFER_WORDS = MODEL_OFFER.words;
const OFFER_DOUBLES = MODEL_OFFER.words / 2;

/** Cells of tensors lie at multiples of this. */
const CELL_UNIT = 64;

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
  /** Requests that are written to both are spared a copy by `submitBulk`, which copies others to here. */
  readonly bulkModels: Int32Array;
  readonly bulkArrivalsNs: Float64Array;
  readonly bell: Doorbell;

  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  readonly #f32: Float32Array;
  readonly #slotWord: number;
  readonly #slotDouble: number;
  readonly #shardSlotWord: number;
  readonly #cancelWord: number;
  readonly #loops: ClientLoops;
  /** Word index of what the loops keep from call to call (scratch.ts); so do the next ones lie there. */
  readonly #stateAt: number;
  /** By slot: the generation of its present use, or of the next one while it is free. */
  readonly #generations: Int32Array;
  readonly #firstSlot: number;
  readonly #responseAt: number;
  readonly #countersAt: number;
  readonly #shards: number;
  /** Measures r; null when it is given. The first client measures for all. */
  readonly #responseMeter: DelayMeter | null;
  readonly #requests: RingWriter[];
  readonly #completions: RingReader[];
  readonly #shardBells: Doorbell[];
  readonly #cancels: DirtyBitmap[];
  readonly #resends: DirtyBitmap[];
  readonly #pending: Int32Array;
  readonly #cellWord: number;
  /** Word index of the model offers: what may change while requests are submitted. */
  readonly #offersAt: number;
  /** Null while nobody records. */
  readonly #ownSlos: OwnSlos | null;
  /** One bit per slot, set while it is free. */
  readonly #free: Int32Array;
  #freeCount: number;

  constructor(memory: SharedMemory, client: number) {
    const { buffer, config } = memory;
    const place = memory.clients[client]!;
    const { scratch } = place;
    this.slots = 2 ** config.slotShift;
    this.drainedSlots = new Int32Array(buffer, scratch.drainedSlots, MOST_DRAINED);
    this.drainedOutcomes = new Int32Array(buffer, scratch.drainedOutcomes, MOST_DRAINED);
    this.drainedEndNs = new Float64Array(buffer, scratch.drainedEnds, MOST_DRAINED);
    this.drainedDurationNs = new Float32Array(buffer, scratch.drainedDurations, MOST_DRAINED);
    this.bulkModels = new Int32Array(buffer, scratch.models, MOST_SUBMITTED);
    this.bulkArrivalsNs = new Float64Array(buffer, scratch.arrivals, MOST_SUBMITTED);
    this.#loops = clientLoops(memory, client);
    this.#stateAt = scratch.state >> 2;
    this.bell = new Doorbell(memory.buffer, place.bell);
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#f32 = new Float32Array(memory.buffer);
    this.#slotWord = memory.slots >> 2;
    this.#slotDouble = memory.slots >> 3;
    this.#shardSlotWord = memory.shardSlots >> 2;
    this.#cancelWord = memory.cancels >> 2;
    this.#generations = new Int32Array(buffer, scratch.generations, this.slots);
    this.#firstSlot = client * this.slots;
    this.#responseAt = (memory.margins >> 3) + MARGIN_RESPONSE;
    this.#countersAt = place.models >> 3;
    this.#shards = config.shards;
    const measures = config.margins.measureResponse && client === 0;
    this.#responseMeter = measures ? new DelayMeter(this.#f64, this.#responseAt, LEAST_RESPONSE_NS, (memory.margins >> 3) + MARGIN_MOST) : null;
    this.#requests = place.requests.map((lane) => new RingWriter(lane));
    this.#completions = place.completions.map((lane) => new RingReader(lane));
    this.#shardBells = memory.shards.map((shard) => new Doorbell(memory.buffer, shard.bell));
    this.#cancels = memory.shards.map((shard) => new DirtyBitmap(memory.buffer, shard.cancel, config.maxClients * this.slots));
    this.#resends = memory.shards.map((shard) => new DirtyBitmap(memory.buffer, shard.resend, config.maxClients * this.slots));
    this.#pending = new Int32Array(config.shards);
    this.#cellWord = memory.cells >> 2;
    this.#offersAt = memory.offers >> 2;
    this.#ownSlos = memory.recording === null ? null : new OwnSlos(memory.recording);
    this.#free = new Int32Array(buffer, scratch.free, this.slots / 32).fill(-1);
    this.#i32[this.#stateAt + STATE_CURSOR] = 0;
    this.#f64[(this.#stateAt >> 1) + STATE_LAST_END_NS] = 0;
    this.#freeCount = this.slots;
    // The region may have been used before: generations go on from there.
    for (let index = 0; index < this.slots; index++) {
      this.#generations[index] = after(this.#i32[this.#slotWord + (this.#firstSlot + index) * SLOT_WORDS + SLOT_GENERATION]!);
    }
  }

  /**
   * Takes over a region whose thread is gone: whatever has not ended is cancelled, and sent again in case it never
   * reached its shard. Drain until `inFlight` is 0; then the region is as good as new. Returns how many were open.
   */
  takeOver(): number {
    const i32 = this.#i32;
    for (let index = 0; index < this.slots; index++) {
      const word = this.#slotWord + (this.#firstSlot + index) * SLOT_WORDS;
      const generation = i32[word + SLOT_GENERATION]!;
      if (i32[this.#shardSlotWord + (this.#firstSlot + index) * SHARD_SLOT.words + SHARD_SLOT_OUTCOME_GENERATION] === generation) continue;
      this.#generations[index] = generation;
      this.#free[index >> 5]! &= ~(1 << (index & 31));
      this.#freeCount--;
      this.cancel(this.#firstSlot + index);
      this.#resends[this.#shardOf(i32[word + SLOT_MODEL]! & MODEL_MASK)]!.mark(this.#firstSlot + index);
    }
    for (const bell of this.#shardBells) bell.ring();
    return this.inFlight;
  }

  /** Number of the first of this client's slots. */
  get firstSlot(): number {
    return this.#firstSlot;
  }

  /** Slots that are free now. */
  get freeSlots(): number {
    return this.#freeCount;
  }

  /** Negative while requests for the model are refused; see specs.ts. */
  tag(model: number): number {
    return this.#i32[this.#offersAt + model * OFFER_WORDS + OFFER_TAG]!;
  }

  sloNs(model: number): number {
    return this.#f64[(this.#offersAt >> 1) + model * OFFER_DOUBLES + OFFER_SLO_NS]!;
  }

  /** ℓ(1). */
  aloneNs(model: number): number {
    return this.#f64[(this.#offersAt >> 1) + model * OFFER_DOUBLES + OFFER_ALONE_NS]!;
  }

  #shardOf(model: number): number {
    return this.#i32[this.#offersAt + model * OFFER_WORDS + OFFER_SHARD]!;
  }

  /** Notes where the tensors of the request in `slot` lie: byte offset of its cell in the arena, -1 for none. Before `commit`. */
  setCell(slot: number, offset: number): void {
    this.#i32[this.#cellWord + slot] = offset < 0 ? 0 : offset / CELL_UNIT + 1;
  }

  /** Whether a CUDA device that is lost may still write to the cell of the request that has ended in `slot`: nobody may use it again. */
  isCellKept(slot: number): boolean {
    return this.#i32[this.#cellWord + slot]! < 0;
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
    const offer = this.#offersAt + model * OFFER_WORDS;
    const slo = sloNs === 0 ? this.#f64[(offer >> 1) + OFFER_SLO_NS]! : sloNs;
    const tag = this.#i32[offer + OFFER_TAG]!;
    if (tag < 0) return this.#refuse(model, REFUSED_NO_MODEL);
    if (slo < this.#f64[(offer >> 1) + OFFER_ALONE_NS]!) return this.#refuse(model, REFUSED_INFEASIBLE);
    if (this.#freeCount === 0) return this.#refuse(model, REFUSED_NO_SLOT);
    const slot = this.#take(tag, arrivalNs, arrivalNs + slo - this.#f64[this.#responseAt]!);
    if (sloNs !== 0 && this.#ownSlos !== null) this.#ownSlos.note(slot, this.#generations[slot - this.#firstSlot]!, sloNs);
    return slot;
  }

  /**
   * Submits requests `from` to `to` - 1 of two parallel arrays, each with its model's SLO, and commits them.
   * Returns how many were accepted; the refused ones are counted and nothing else is known of them.
   */
  submitBulk(models: Int32Array, arrivalsNs: Float64Array, from: number, to: number): number {
    const before = this.#freeCount;
    let at = from;
    while (at < to) {
      const fits = Math.min(to, at + this.#freeCount);
      const stopped = this.#shards === 1 ? this.#takeBulk(models, arrivalsNs, at, fits, this.#requests[0]!) : this.#takeEach(models, arrivalsNs, at, fits);
      at = stopped;
      if (at === to) break;
      this.#refuse(models[at]!, at === fits ? REFUSED_NO_SLOT : REFUSED_NO_MODEL);
      at++;
    }
    this.commit();
    return before - this.#freeCount;
  }

  /** Takes them until one has no model; returns the index of that one, or `to`. */
  #takeEach(models: Int32Array, arrivalsNs: Float64Array, from: number, to: number): number {
    for (let k = from; k < to; k++) {
      const offer = this.#offersAt + models[k]! * OFFER_WORDS;
      const tag = this.#i32[offer + OFFER_TAG]!;
      if (tag < 0) return k;
      this.#take(tag, arrivalsNs[k]!, arrivalsNs[k]! + this.#f64[(offer >> 1) + OFFER_SLO_NS]! - this.#f64[this.#responseAt]!);
    }
    return to;
  }

  /** As `#takeEach`, by the loop that does nothing else. */
  #takeBulk(models: Int32Array, arrivalsNs: Float64Array, from: number, to: number, lane: RingWriter): number {
    if (lane.room(to - from) < to - from) throw new Error('request lane is full: more requests under way than slots');
    const isHere = models === this.bulkModels && arrivalsNs === this.bulkArrivalsNs;
    let k = from;
    while (k < to) {
      const count = lane.nextInARow(Math.min(to - k, MOST_SUBMITTED));
      if (!isHere) this.#copy(models, arrivalsNs, k, count);
      const taken = this.#loops.take(isHere ? k : 0, count, this.#f64[this.#responseAt]!, lane.next());
      lane.claimMany(taken);
      this.#freeCount -= taken;
      this.#pending[0]! += taken;
      k += taken;
      if (taken < count) break;
    }
    return k;
  }

  #copy(models: Int32Array, arrivalsNs: Float64Array, from: number, count: number): void {
    const { bulkModels, bulkArrivalsNs } = this;
    for (let k = 0; k < count; k++) {
      bulkModels[k] = models[from + k]!;
      bulkArrivalsNs[k] = arrivalsNs[from + k]!;
    }
  }

  /** No call and no loop between the first store and the last, as in `ClientLoops.take`. */
  #take(tag: number, arrivalNs: number, deadlineNs: number): number {
    const model = tag & MODEL_MASK;
    const index = this.#takeFreeSlot();
    const slot = this.#firstSlot + index;
    const word = this.#slotWord + slot * SLOT_WORDS;
    const double = this.#slotDouble + slot * SLOT_DOUBLES;
    const i32 = this.#i32;
    const generation = this.#generations[index]!;
    const shard = this.#shards === 1 ? 0 : i32[this.#offersAt + model * OFFER_WORDS + OFFER_SHARD]!;
    const lane = this.#requests[shard]!;
    const laneWords = lane.i32;
    const at = lane.claim();
    if (at < 0) throw new Error('request lane is full: more requests under way than slots');
    this.#f64[double + SLOT_DEADLINE_NS] = deadlineNs;
    this.#f32[word + SLOT_BUDGET_NS] = deadlineNs - arrivalNs;
    i32[word + SLOT_MODEL] = tag;
    i32[word + SLOT_GENERATION] = generation;
    lane.f64[(at >> 1) + REQUEST_DEADLINE_NS] = deadlineNs;
    lane.f32[at + REQUEST_BUDGET_NS] = deadlineNs - arrivalNs;
    laneWords[at + REQUEST_SLOT] = slot;
    laneWords[at + REQUEST_GENERATION] = generation;
    laneWords[at + REQUEST_MODEL] = tag;
    this.#pending[shard]!++;
    this.#f64[this.#countersAt + model * MODEL_DOUBLES + CLIENT_MODEL_ACCEPTED]! += 1;
    return slot;
  }

  #refuse(model: number, code: number): number {
    this.countRefused(model);
    return code;
  }

  /** Counts a request that was refused before it came here. */
  countRefused(model: number): void {
    this.#f64[this.#countersAt + model * MODEL_DOUBLES + CLIENT_MODEL_REFUSED]! += 1;
  }

  /** Next free slot in circular order, so that neighbours in time are neighbours in memory. One must be free. */
  #takeFreeSlot(): number {
    const free = this.#free;
    let word = this.#i32[this.#stateAt + STATE_CURSOR]!;
    let bits = free[word]!;
    while (bits === 0) {
      word = word + 1 === free.length ? 0 : word + 1;
      bits = free[word]!;
    }
    const bit = bits & -bits;
    free[word] = bits ^ bit;
    this.#i32[this.#stateAt + STATE_CURSOR] = word;
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
    const shard = this.#shardOf(this.#i32[word + SLOT_MODEL]! & MODEL_MASK);
    this.#cancels[shard]!.mark(slot);
    this.#shardBells[shard]!.ring();
  }

  /**
   * Reads completions into `drainedSlots` and `drainedOutcomes`, records latencies as of `nowNs` and frees the slots.
   * Returns how many; at most `drainedSlots.length`, call again while it returns that.
   */
  drain(nowNs: number): number {
    let total = 0;
    for (let shard = 0; shard < this.#completions.length; shard++) total += this.#drainLane(this.#completions[shard]!, nowNs, total);
    return total;
  }

  #drainLane(lane: RingReader, nowNs: number, from: number): number {
    const count = lane.available(this.drainedSlots.length - from);
    if (count === 0) return 0;
    let to = from;
    for (let k = 0; k < count;) {
      const stretch = lane.inARow(k, count - k);
      to = this.#loops.drain(lane.word(k), stretch, to, nowNs);
      k += stretch;
    }
    this.#freeCount += to - from;
    if (this.#responseMeter !== null && to > from) this.#measureResponse(nowNs);
    lane.release(count);
    return to - from;
  }

  /** By the last of the requests just drained that has run. */
  #measureResponse(nowNs: number): void {
    const at = (this.#stateAt >> 1) + STATE_LAST_END_NS;
    const endNs = this.#f64[at]!;
    if (endNs === 0) return;
    this.#responseMeter!.add(nowNs - endNs, nowNs);
    this.#f64[at] = 0;
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
      model: this.#i32[word + SLOT_MODEL]! & MODEL_MASK,
      arrivalNs: deadlineNs - this.#f32[word + SLOT_BUDGET_NS]!,
      deadlineNs,
      startNs: endNs - this.drainedDurationNs[k]!,
      endNs,
      batchSize: batchSizeOf(packed),
      gpu: gpuOf(packed),
    };
  }
}
