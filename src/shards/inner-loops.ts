/**
 * The loops of a shard that run once per request and do nothing else: taking requests in from a lane, turning some of them away, and ending those of a
 * batch (a look at who is late, then the ending). Everything they read and write lies in the shared buffer, at places that are word indices.
 */
import { bucketOf } from '../ringbuf/log-linear.js';
import { COMPLETION, REQUEST } from '../protocol/records.js';
import { ARRIVAL, INTAKE, MOST_BUFFERED } from '../protocol/scratch.js';
import type { SharedMemory } from '../protocol/shared-memory.js';
import { MODEL_MASK } from '../protocol/specs.js';
import { INTENT, INTENT_NONE, INTENT_ONE, SHARD_MODEL, SHARD_SLOT } from '../protocol/tables.js';
import { INNER_LOOPS } from './inner-loops-module.js';

export interface InnerLoops {
  /**
   * Takes in `count` requests whose records lie one after another from word `at` of a lane: notes them, marks them admitted and links them by model
   * (protocol/scratch.ts). Those that may have come another way, are cancelled, or are for a model that is not this shard's are only listed. Those that change nothing are
   * only put into their model's buffer; `soonestNs` is when a batch that is granted now would start. Those that have less than `freshShare` of their time left are
   * only listed, to be turned away. Returns how many models were touched and, times 2^16, how many records were listed.
   */
  takeIn(at: number, count: number, nowNs: number, soonestNs: number, freshShare: number): number;
  /**
   * How many of the `count` requests whose slot numbers lie from word `slotsAt` have a deadline before `endNs`; -1 if they are not all of one
   * client, with 2^`slotShift` slots each. A loop of its own, and first: it is short enough for the processor to have many of its cache misses under way at
   * once, and the loop after it finds the lines at hand.
   */
  late(slotsAt: number, count: number, slotShift: number, endNs: number): number;
  /**
   * Ends the `count` requests whose slot numbers lie from word `slotsAt`, all alike, and writes their completions to the records from word
   * `laneAt`, which lie one after another. `waits` is the first word of the histogram of the time that they waited.
   */
  end(slotsAt: number, count: number, model: number, packed: number, laneAt: number, waits: number, endNs: number, durationNs: number): void;
  /**
   * Ends `count` requests that never ran, whose slot numbers lie from word `slotsAt`, each with an intent of its own (ledger.ts), and writes their completions to
   * the records from word `laneAt`. `counter` is that of their outcome in the model's row.
   */
  turnAway(slotsAt: number, count: number, packed: number, counter: number, laneAt: number, endNs: number): void;
}

// Offsets as constants of this module: V8 folds these, but not the fields of an imported object.
const { deadlineNs: ARRIVAL_DEADLINE_NS, next: ARRIVAL_NEXT, slot: ARRIVAL_SLOT } = ARRIVAL.at;
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
  aloneNs: INTAKE_ALONE_NS,
  buffered: INTAKE_BUFFERED,
  count: INTAKE_COUNT,
  earliestNs: INTAKE_EARLIEST_NS,
  first: INTAKE_FIRST,
  floorNs: INTAKE_FLOOR_NS,
  inOrder: INTAKE_IN_ORDER,
  last: INTAKE_LAST,
  latestNs: INTAKE_LATEST_NS,
  left: INTAKE_LEFT,
  untilNs: INTAKE_UNTIL_NS,
} = INTAKE.at;
const { before: INTENT_BEFORE, counter: INTENT_COUNTER, generation: INTENT_GENERATION, kind: INTENT_KIND, model: INTENT_MODEL, slot: INTENT_SLOT } = INTENT.at;
const { budgetNs: REQUEST_BUDGET_NS, deadlineNs: REQUEST_DEADLINE_NS, generation: REQUEST_GENERATION, model: REQUEST_MODEL, slot: REQUEST_SLOT } = REQUEST.at;
const {
  budgetNs: SLOT_BUDGET_NS,
  deadlineNs: SLOT_DEADLINE_NS,
  endedNs: SLOT_ENDED_NS,
  generation: SLOT_GENERATION,
  model: SLOT_MODEL,
  outcome: SLOT_OUTCOME,
  outcomeGeneration: SLOT_OUTCOME_GENERATION,
} = SHARD_SLOT.at;
const ARRIVAL_WORDS = ARRIVAL.words;
const BUFFER_WORDS = MOST_BUFFERED * ARRIVAL.words;
const COMPLETION_WORDS = COMPLETION.words;
const INTAKE_WORDS = INTAKE.words;
const REQUEST_WORDS = REQUEST.words;
const SLOT_WORDS = SHARD_SLOT.words;
const SHARD_MODEL_DOUBLES = SHARD_MODEL.words / 2;
const SHARD_MODEL_QUEUED = SHARD_MODEL.at.queued;

/** The loops for a memory: compiled where it has a WebAssembly memory. */
export function innerLoops(memory: SharedMemory, shard: number): InnerLoops {
  return memory.wasm === null ? new ScriptLoops(memory, shard) : new CompiledLoops(memory, memory.wasm, shard);
}

/** In TypeScript: for virtual time, where deaths between any two statements are tried, and where there is no WebAssembly. */
export class ScriptLoops implements InnerLoops {
  readonly #i32: Int32Array;
  readonly #f32: Float32Array;
  readonly #f64: Float64Array;
  readonly #slots: number;
  readonly #cancels: number;
  readonly #admitted: number;
  readonly #tags: number;
  readonly #intake: number;
  readonly #arrivals: number;
  readonly #buffers: number;
  /** Double index. */
  readonly #shardModels: number;
  readonly #touched: number;
  readonly #odd: number;
  readonly #turned: number;
  readonly #intent: number;

  constructor(memory: SharedMemory, shard: number) {
    const { admitted, intent, scratch } = memory.shards[shard]!;
    this.#i32 = new Int32Array(memory.buffer);
    this.#f32 = new Float32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#slots = memory.shardSlots >> 2;
    this.#cancels = memory.cancels >> 2;
    this.#admitted = admitted >> 2;
    this.#tags = scratch.tags >> 2;
    this.#intake = scratch.intake >> 2;
    this.#arrivals = scratch.arrivals >> 2;
    this.#buffers = scratch.buffers >> 2;
    this.#shardModels = memory.shardModels >> 3;
    this.#touched = scratch.touched >> 2;
    this.#odd = scratch.odd >> 2;
    this.#turned = scratch.turned >> 2;
    this.#intent = intent >> 2;
  }

  takeIn(at: number, count: number, nowNs: number, soonestNs: number, freshShare: number): number {
    const i32 = this.#i32;
    const f32 = this.#f32;
    const f64 = this.#f64;
    const slots = this.#slots;
    const cancels = this.#cancels;
    const admitted = this.#admitted;
    const tags = this.#tags;
    const intake = this.#intake;
    const arrivals = this.#arrivals;
    let touched = 0;
    let odd = 0;
    let taken = 0;
    let turned = 0;
    for (let k = 0; k < count; k++) {
      const record = at + k * REQUEST_WORDS;
      const slot = i32[record + REQUEST_SLOT]!;
      const generation = i32[record + REQUEST_GENERATION]!;
      const tag = i32[record + REQUEST_MODEL]!;
      const model = tag & MODEL_MASK;
      const word = slots + slot * SLOT_WORDS;
      // Its row says what any shard has admitted last.
      if (((generation - i32[word + SLOT_GENERATION]!) | 0) <= 0 || i32[tags + model] !== tag || i32[cancels + slot] === generation) {
        i32[this.#odd + odd++] = record;
        continue;
      }
      const deadlineNs = f64[(record >> 1) + REQUEST_DEADLINE_NS]!;
      const budgetNs = f32[record + REQUEST_BUDGET_NS]!;
      f64[(word >> 1) + SLOT_DEADLINE_NS] = deadlineNs;
      f32[word + SLOT_BUDGET_NS] = budgetNs;
      i32[word + SLOT_GENERATION] = generation;
      i32[word + SLOT_MODEL] = tag;
      i32[admitted + slot] = generation;
      if (freshShare > 0 && deadlineNs - nowNs < freshShare * budgetNs) {
        turned++;
        i32[this.#turned + turned] = slot;
        continue;
      }
      const row = intake + model * INTAKE_WORDS;
      const before = i32[row + INTAKE_COUNT]!;
      const left = i32[row + INTAKE_LEFT]!;
      if (
        left > 0 &&
        before === 0 &&
        deadlineNs >= f64[(row >> 1) + INTAKE_FLOOR_NS]! &&
        nowNs < f64[(row >> 1) + INTAKE_UNTIL_NS]! &&
        deadlineNs >= soonestNs + f64[(row >> 1) + INTAKE_ALONE_NS]!
      ) {
        const buffered = i32[row + INTAKE_BUFFERED]!;
        const entry = this.#buffers + model * BUFFER_WORDS + buffered * ARRIVAL_WORDS;
        f64[(entry >> 1) + ARRIVAL_DEADLINE_NS] = deadlineNs;
        i32[entry + ARRIVAL_SLOT] = slot;
        i32[row + INTAKE_LEFT] = left - 1;
        i32[row + INTAKE_BUFFERED] = buffered + 1;
        f64[this.#shardModels + model * SHARD_MODEL_DOUBLES + SHARD_MODEL_QUEUED]! += 1;
        continue;
      }
      const arrival = arrivals + taken * ARRIVAL_WORDS;
      f64[(arrival >> 1) + ARRIVAL_DEADLINE_NS] = deadlineNs;
      i32[arrival + ARRIVAL_SLOT] = slot;
      if (before === 0) {
        i32[this.#touched + touched++] = model;
        i32[row + INTAKE_FIRST] = taken;
        i32[row + INTAKE_IN_ORDER] = 1;
        f64[(row >> 1) + INTAKE_EARLIEST_NS] = deadlineNs;
      } else {
        i32[arrivals + i32[row + INTAKE_LAST]! * ARRIVAL_WORDS + ARRIVAL_NEXT] = taken;
        if (deadlineNs < f64[(row >> 1) + INTAKE_LATEST_NS]!) {
          i32[row + INTAKE_IN_ORDER] = 0;
          if (deadlineNs < f64[(row >> 1) + INTAKE_EARLIEST_NS]!) f64[(row >> 1) + INTAKE_EARLIEST_NS] = deadlineNs;
        }
      }
      i32[row + INTAKE_COUNT] = before + 1;
      i32[row + INTAKE_LAST] = taken;
      f64[(row >> 1) + INTAKE_LATEST_NS] = deadlineNs;
      taken++;
    }
    i32[this.#turned] = turned;
    return touched | (odd << 16);
  }

  late(slotsAt: number, count: number, slotShift: number, endNs: number): number {
    const i32 = this.#i32;
    const f64 = this.#f64;
    const slots = this.#slots;
    const first = i32[slotsAt]!;
    let late = 0;
    let differing = 0;
    for (let k = 0; k < count; k++) {
      const slot = i32[slotsAt + k]!;
      differing |= slot ^ first;
      if (endNs > f64[((slots + slot * SLOT_WORDS) >> 1) + SLOT_DEADLINE_NS]!) late++;
    }
    return differing >> slotShift === 0 ? late : -1;
  }

  end(slotsAt: number, count: number, model: number, packed: number, laneAt: number, waits: number, endNs: number, durationNs: number): void {
    const i32 = this.#i32;
    const f32 = this.#f32;
    const f64 = this.#f64;
    const slots = this.#slots;
    for (let k = 0; k < count; k++) {
      const slot = i32[slotsAt + k]!;
      const word = slots + slot * SLOT_WORDS;
      const endedNs = endNs - f64[(word >> 1) + SLOT_DEADLINE_NS]! + f32[word + SLOT_BUDGET_NS]!;
      const generation = i32[word + SLOT_GENERATION]!;
      f32[word + SLOT_ENDED_NS] = endedNs;
      i32[word + SLOT_OUTCOME] = packed;
      i32[word + SLOT_OUTCOME_GENERATION] = generation;
      const record = laneAt + k * COMPLETION_WORDS;
      i32[record + COMPLETION_SLOT] = slot;
      i32[record + COMPLETION_GENERATION] = generation;
      i32[record + COMPLETION_OUTCOME] = packed;
      i32[record + COMPLETION_MODEL] = model;
      f64[(record >> 1) + COMPLETION_END_NS] = endNs;
      f32[record + COMPLETION_ENDED_NS] = endedNs;
      f32[record + COMPLETION_DURATION_NS] = durationNs;
      const bucket = waits + bucketOf(endedNs - durationNs);
      i32[bucket] = (i32[bucket]! + 1) | 0;
    }
  }

  turnAway(slotsAt: number, count: number, packed: number, counter: number, laneAt: number, endNs: number): void {
    const i32 = this.#i32;
    const f32 = this.#f32;
    const f64 = this.#f64;
    const intent = this.#intent;
    for (let k = 0; k < count; k++) {
      const slot = i32[slotsAt + k]!;
      const word = this.#slots + slot * SLOT_WORDS;
      const generation = i32[word + SLOT_GENERATION]!;
      const model = i32[word + SLOT_MODEL]! & MODEL_MASK;
      const at = this.#shardModels + model * SHARD_MODEL_DOUBLES + counter;
      const after = f64[at]! + 1;
      i32[intent + INTENT_KIND] = INTENT_NONE;
      i32[intent + INTENT_MODEL] = model;
      i32[intent + INTENT_SLOT] = slot;
      i32[intent + INTENT_GENERATION] = generation;
      i32[intent + INTENT_COUNTER] = counter;
      f64[(intent >> 1) + INTENT_BEFORE] = after - 1;
      i32[intent + INTENT_KIND] = INTENT_ONE;
      const endedNs = endNs - f64[(word >> 1) + SLOT_DEADLINE_NS]! + f32[word + SLOT_BUDGET_NS]!;
      f32[word + SLOT_ENDED_NS] = endedNs;
      i32[word + SLOT_OUTCOME] = packed;
      i32[word + SLOT_OUTCOME_GENERATION] = generation;
      const record = laneAt + k * COMPLETION_WORDS;
      i32[record + COMPLETION_SLOT] = slot;
      i32[record + COMPLETION_GENERATION] = generation;
      i32[record + COMPLETION_OUTCOME] = packed;
      i32[record + COMPLETION_MODEL] = model;
      f64[(record >> 1) + COMPLETION_END_NS] = endNs;
      f32[record + COMPLETION_ENDED_NS] = endedNs;
      f32[record + COMPLETION_DURATION_NS] = 0;
      f64[at] = after;
    }
  }
}

interface Exports extends InnerLoops {
  place(...byteOffsets: number[]): void;
}

let compiled: WebAssembly.Module | undefined;

/** In WebAssembly: half the time. The source is wasm/inner-loops.ts. */
export class CompiledLoops implements InnerLoops {
  readonly #takeIn: Exports['takeIn'];
  readonly #late: Exports['late'];
  readonly #end: Exports['end'];
  readonly #turnAway: Exports['turnAway'];

  constructor(memory: SharedMemory, wasm: WebAssembly.Memory, shard: number) {
    compiled ??= new WebAssembly.Module(Buffer.from(INNER_LOOPS, 'base64'));
    const exports = new WebAssembly.Instance(compiled, { env: { memory: wasm } }).exports as unknown as Exports;
    const { admitted, intent, scratch } = memory.shards[shard]!;
    const { tags, intake, arrivals, buffers, touched, odd, turned } = scratch;
    exports.place(memory.shardSlots, memory.cancels, admitted, memory.shardModels, tags, intake, arrivals, buffers, touched, odd, turned, intent);
    this.#takeIn = exports.takeIn;
    this.#late = exports.late;
    this.#end = exports.end;
    this.#turnAway = exports.turnAway;
  }

  takeIn(at: number, count: number, nowNs: number, soonestNs: number, freshShare: number): number {
    return this.#takeIn(at, count, nowNs, soonestNs, freshShare);
  }

  late(slotsAt: number, count: number, slotShift: number, endNs: number): number {
    return this.#late(slotsAt, count, slotShift, endNs);
  }

  end(slotsAt: number, count: number, model: number, packed: number, laneAt: number, waits: number, endNs: number, durationNs: number): void {
    this.#end(slotsAt, count, model, packed, laneAt, waits, endNs, durationNs);
  }

  turnAway(slotsAt: number, count: number, packed: number, counter: number, laneAt: number, endNs: number): void {
    this.#turnAway(slotsAt, count, packed, counter, laneAt, endNs);
  }
}
