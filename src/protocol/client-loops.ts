/**
 * The loops of a client that run once per request and do nothing else: submitting requests, and reading how they have ended. Everything they read
 * and write lies in the shared buffer. As in shards/inner-loops.ts, there are two of them: word indices here, byte offsets in what is compiled.
 */
import { BUCKETS, bucketOf } from '../ringbuf/log-linear.js';
import { CLIENT_LOOPS } from './client-loops-module.js';
import { OUTCOME } from './outcome.js';
import { COMPLETION, REQUEST } from './records.js';
import { CLIENT_STATE } from './scratch.js';
import type { SharedMemory } from './shared-memory.js';
import { MODEL_OFFER } from './specs.js';
import { CLIENT_MODEL, HISTOGRAM, SLOT, SLOT_WORDS } from './tables.js';

export interface ClientLoops {
  /**
   * Gives a slot to each of `count` requests, from number `from` of the scratch arrays `models` and `arrivals` on, and writes their records from word
   * `laneAt` of a lane, where they lie one after another. Stops at one whose model is not to be had; returns how many there were before that. Slots must be free.
   */
  take(from: number, count: number, responseNs: number, laneAt: number): number;
  /**
   * Reads `count` completions from word `laneAt` of a lane, as of `nowNs`: counts them, frees their slots and lists them in the scratch arrays
   * `drained…` from number `to` on. Returns the number after the last. One that comes twice is left out.
   */
  drain(laneAt: number, count: number, to: number, nowNs: number): number;
}

// Offsets as constants of this module: V8 folds these, but not the fields of an imported object.
const { accepted: CLIENT_MODEL_ACCEPTED, delivered: CLIENT_MODEL_DELIVERED } = CLIENT_MODEL.at;
const { cursor: STATE_CURSOR, lastEndNs: STATE_LAST_END_NS } = CLIENT_STATE.at;
const {
  durationNs: COMPLETION_DURATION_NS,
  endNs: COMPLETION_END_NS,
  endedNs: COMPLETION_ENDED_NS,
  generation: COMPLETION_GENERATION,
  model: COMPLETION_MODEL,
  outcome: COMPLETION_OUTCOME,
  slot: COMPLETION_SLOT,
} = COMPLETION.at;
const { sloNs: OFFER_SLO_NS, tag: OFFER_TAG } = MODEL_OFFER.at;
const { budgetNs: REQUEST_BUDGET_NS, deadlineNs: REQUEST_DEADLINE_NS, generation: REQUEST_GENERATION, model: REQUEST_MODEL, slot: REQUEST_SLOT } = REQUEST.at;
const { budgetNs: SLOT_BUDGET_NS, deadlineNs: SLOT_DEADLINE_NS, generation: SLOT_GENERATION, model: SLOT_MODEL } = SLOT.at;
const COMPLETION_WORDS = COMPLETION.words;
const MODEL_DOUBLES = CLIENT_MODEL.words / 2;
const OFFER_WORDS = MODEL_OFFER.words;
const REQUEST_WORDS = REQUEST.words;

/** The generation after `generation`: never 0, which is a word that was never written. */
export function after(generation: number): number {
  return generation === -1 ? 1 : generation + 1;
}

/** The loops for a memory: compiled where it has a WebAssembly memory. */
export function clientLoops(memory: SharedMemory, client: number): ClientLoops {
  return memory.wasm === null ? new ScriptClientLoops(memory, client) : new CompiledClientLoops(memory, memory.wasm, client);
}

/** In TypeScript: for virtual time, and where there is no WebAssembly. */
export class ScriptClientLoops implements ClientLoops {
  readonly #i32: Int32Array;
  readonly #f32: Float32Array;
  readonly #f64: Float64Array;
  readonly #firstSlot: number;
  readonly #freeWords: number;
  /** Of the client's first slot. */
  readonly #slots: number;
  readonly #offers: number;
  /** Double indices. */
  readonly #counters: number;
  readonly #latencies: number;
  readonly #deliveries: number;
  readonly #state: number;
  readonly #generations: number;
  readonly #free: number;
  readonly #models: number;
  readonly #arrivals: number;
  readonly #drainedSlots: number;
  readonly #drainedOutcomes: number;
  readonly #drainedEnds: number;
  readonly #drainedDurations: number;

  constructor(memory: SharedMemory, client: number) {
    const { models, histograms, scratch } = memory.clients[client]!;
    const slots = 2 ** memory.config.slotShift;
    this.#i32 = new Int32Array(memory.buffer);
    this.#f32 = new Float32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#firstSlot = client * slots;
    this.#freeWords = slots / 32;
    this.#slots = (memory.slots >> 2) + this.#firstSlot * SLOT_WORDS;
    this.#offers = memory.offers >> 2;
    this.#counters = models >> 3;
    this.#latencies = (histograms >> 2) + HISTOGRAM.latency * memory.limits.models * BUCKETS;
    this.#deliveries = (histograms >> 2) + HISTOGRAM.delivery * memory.limits.models * BUCKETS;
    this.#state = scratch.state >> 2;
    this.#generations = scratch.generations >> 2;
    this.#free = scratch.free >> 2;
    this.#models = scratch.models >> 2;
    this.#arrivals = scratch.arrivals >> 3;
    this.#drainedSlots = scratch.drainedSlots >> 2;
    this.#drainedOutcomes = scratch.drainedOutcomes >> 2;
    this.#drainedEnds = scratch.drainedEnds >> 3;
    this.#drainedDurations = scratch.drainedDurations >> 2;
  }

  /**
   * From the first store about a request to the last there is no call and no loop: so a thread that is terminated has either counted a request or
   * not touched its slot.
   */
  take(from: number, count: number, responseNs: number, laneAt: number): number {
    const i32 = this.#i32;
    const f32 = this.#f32;
    const f64 = this.#f64;
    const slots = this.#slots;
    const offers = this.#offers;
    const counters = this.#counters + CLIENT_MODEL_ACCEPTED;
    const generations = this.#generations;
    const free = this.#free;
    const freeEnd = free + this.#freeWords;
    let cursor = free + i32[this.#state + STATE_CURSOR]!;
    let taken = 0;
    for (; taken < count; taken++) {
      const model = i32[this.#models + from + taken]!;
      const offer = offers + model * OFFER_WORDS;
      const tag = i32[offer + OFFER_TAG]!;
      if (tag < 0) break;
      const arrivalNs = f64[this.#arrivals + from + taken]!;
      let bits = i32[cursor]!;
      while (bits === 0) {
        cursor = cursor + 1 === freeEnd ? free : cursor + 1;
        bits = i32[cursor]!;
      }
      i32[cursor] = bits & (bits - 1);
      const index = ((cursor - free) << 5) + 31 - Math.clz32(bits & -bits);
      const word = slots + index * SLOT_WORDS;
      const generation = i32[generations + index]!;
      const budgetNs = f64[(offer >> 1) + OFFER_SLO_NS]! - responseNs;
      const record = laneAt + taken * REQUEST_WORDS;
      f64[(word >> 1) + SLOT_DEADLINE_NS] = arrivalNs + budgetNs;
      f32[word + SLOT_BUDGET_NS] = budgetNs;
      i32[word + SLOT_MODEL] = tag;
      i32[word + SLOT_GENERATION] = generation;
      f64[(record >> 1) + REQUEST_DEADLINE_NS] = arrivalNs + budgetNs;
      f32[record + REQUEST_BUDGET_NS] = budgetNs;
      i32[record + REQUEST_SLOT] = this.#firstSlot + index;
      i32[record + REQUEST_GENERATION] = generation;
      i32[record + REQUEST_MODEL] = tag;
      f64[counters + model * MODEL_DOUBLES]! += 1;
    }
    i32[this.#state + STATE_CURSOR] = cursor - free;
    return taken;
  }

  drain(laneAt: number, count: number, to: number, nowNs: number): number {
    const i32 = this.#i32;
    const f32 = this.#f32;
    const f64 = this.#f64;
    const generations = this.#generations;
    const free = this.#free;
    const counters = this.#counters + CLIENT_MODEL_DELIVERED;
    let out = to;
    let lastEndNs = f64[(this.#state >> 1) + STATE_LAST_END_NS]!;
    for (let k = 0; k < count; k++) {
      const record = laneAt + k * COMPLETION_WORDS;
      const slot = i32[record + COMPLETION_SLOT]!;
      const index = slot - this.#firstSlot;
      const generation = i32[generations + index]!;
      // A completion that comes twice speaks of a generation that is over.
      if (i32[record + COMPLETION_GENERATION] !== generation) continue;
      i32[generations + index] = after(generation);
      const packed = i32[record + COMPLETION_OUTCOME]!;
      const model = i32[record + COMPLETION_MODEL]!;
      const endNs = f64[(record >> 1) + COMPLETION_END_NS]!;
      if ((packed & 31) <= OUTCOME.late) {
        lastEndNs = endNs;
        const sinceEndNs = nowNs - endNs;
        this.#count(this.#latencies + model * BUCKETS + bucketOf(sinceEndNs + f32[record + COMPLETION_ENDED_NS]!));
        this.#count(this.#deliveries + model * BUCKETS + bucketOf(sinceEndNs));
      }
      f64[counters + model * MODEL_DOUBLES]! += 1;
      i32[free + (index >> 5)]! |= 1 << (index & 31);
      i32[this.#drainedSlots + out] = slot;
      i32[this.#drainedOutcomes + out] = packed;
      f64[this.#drainedEnds + out] = endNs;
      f32[this.#drainedDurations + out] = f32[record + COMPLETION_DURATION_NS]!;
      out++;
    }
    f64[(this.#state >> 1) + STATE_LAST_END_NS] = lastEndNs;
    return out;
  }

  #count(bucket: number): void {
    this.#i32[bucket] = (this.#i32[bucket]! + 1) | 0;
  }
}

interface Exports extends ClientLoops {
  place(...numbers: number[]): void;
}

let compiled: WebAssembly.Module | undefined;

/** In WebAssembly. The source is wasm/client-loops.ts. */
export class CompiledClientLoops implements ClientLoops {
  readonly #take: Exports['take'];
  readonly #drain: Exports['drain'];

  constructor(memory: SharedMemory, wasm: WebAssembly.Memory, client: number) {
    compiled ??= new WebAssembly.Module(Buffer.from(CLIENT_LOOPS, 'base64'));
    const exports = new WebAssembly.Instance(compiled, { env: { memory: wasm } }).exports as unknown as Exports;
    const { models, histograms, scratch } = memory.clients[client]!;
    const slots = 2 ** memory.config.slotShift;
    const rowBytes = memory.limits.models * BUCKETS * 4;
    exports.place(
      client * slots,
      slots / 32,
      memory.slots + client * slots * SLOT.bytes,
      memory.offers,
      models,
      histograms + HISTOGRAM.latency * rowBytes,
      histograms + HISTOGRAM.delivery * rowBytes,
      scratch.state,
      scratch.generations,
      scratch.free,
      scratch.models,
      scratch.arrivals,
      scratch.drainedSlots,
      scratch.drainedOutcomes,
      scratch.drainedEnds,
      scratch.drainedDurations,
    );
    this.#take = exports.take;
    this.#drain = exports.drain;
  }

  take(from: number, count: number, responseNs: number, laneAt: number): number {
    return this.#take(from, count, responseNs, laneAt);
  }

  drain(laneAt: number, count: number, to: number, nowNs: number): number {
    return this.#drain(laneAt, count, to, nowNs);
  }
}
