/**
 * The inner loops of a client (../client-loops.ts, which says what they do) in AssemblyScript, for the same reasons as those of a shard
 * (shards/wasm/inner-loops.ts). `node scripts/wasm.mjs` compiles this to ../client-loops-module.ts. Kept word for word like `ScriptClientLoops`, store by
 * store, but for a look ahead in `drain`: a thread may be ended between two turns of a loop. test/protocol/client-loops.test.ts compares both.
 */
import { bucketOf } from '../../ringbuf/wasm/log-linear';

// Byte offsets; protocol/{records,scratch,specs,tables}.ts.
// @ts-ignore: decorator
@inline const REQUEST_BYTES: usize = 24;
// @ts-ignore: decorator
@inline const LATE: i32 = 2;
// @ts-ignore: decorator
@inline const OUTCOME_MASK: i32 = 31;

let firstSlot: i32 = 0;
let freeWords: i32 = 0;
let slots: usize = 0;
let offers: usize = 0;
let counters: usize = 0;
let latencies: usize = 0;
let deliveries: usize = 0;
let state: usize = 0;
let generations: usize = 0;
let free: usize = 0;
let models: usize = 0;
let arrivals: usize = 0;
let drainedSlots: usize = 0;
let drainedOutcomes: usize = 0;
let drainedEnds: usize = 0;
let drainedDurations: usize = 0;

/** The first slot of the client and the words of its free bits; the rest are byte offsets in the memory, `slots` that of the client's first. */
export function place(
  firstSlotOf: i32,
  freeWordsOf: i32,
  slotsAt: usize,
  offersAt: usize,
  countersAt: usize,
  latenciesAt: usize,
  deliveriesAt: usize,
  stateAt: usize,
  generationsAt: usize,
  freeAt: usize,
  modelsAt: usize,
  arrivalsAt: usize,
  drainedSlotsAt: usize,
  drainedOutcomesAt: usize,
  drainedEndsAt: usize,
  drainedDurationsAt: usize,
): void {
  firstSlot = firstSlotOf;
  freeWords = freeWordsOf;
  slots = slotsAt;
  offers = offersAt;
  counters = countersAt;
  latencies = latenciesAt;
  deliveries = deliveriesAt;
  state = stateAt;
  generations = generationsAt;
  free = freeAt;
  models = modelsAt;
  arrivals = arrivalsAt;
  drainedSlots = drainedSlotsAt;
  drainedOutcomes = drainedOutcomesAt;
  drainedEnds = drainedEndsAt;
  drainedDurations = drainedDurationsAt;
}

export function take(from: i32, count: i32, responseNs: f64, laneAt: i32): i32 {
  const first = firstSlot;
  const slotsAt = slots;
  const offersAt = offers;
  const countersAt = counters;
  const generationsAt = generations;
  const freeAt = free;
  const freeEnd = freeAt + (<usize>freeWords << 2);
  let record = <usize>laneAt << 2;
  let modelAt = models + (<usize>from << 2);
  let arrivalAt = arrivals + (<usize>from << 3);
  const stop = modelAt + (<usize>count << 2);
  let cursor = freeAt + (<usize>load<i32>(state) << 2);
  for (; modelAt < stop; modelAt += 4) {
    const model = <usize>load<i32>(modelAt);
    const offer = offersAt + (model << 5);
    const tag = load<i32>(offer, 16);
    if (tag < 0) break;
    const arrivalNs = load<f64>(arrivalAt);
    arrivalAt += 8;
    let bits = load<i32>(cursor);
    while (bits == 0) {
      cursor += 4;
      if (cursor == freeEnd) cursor = freeAt;
      bits = load<i32>(cursor);
    }
    store<i32>(cursor, bits & (bits - 1));
    const index = (<i32>((cursor - freeAt) >> 2) << 5) + ctz(bits);
    const row = slotsAt + (<usize>index << 5);
    const generation = load<i32>(generationsAt + (<usize>index << 2));
    const budgetNs = load<f64>(offer) - responseNs;
    store<f64>(row, arrivalNs + budgetNs);
    store<f32>(row, <f32>budgetNs, 8);
    store<i32>(row, tag, 16);
    store<i32>(row, generation, 12);
    store<f64>(record, arrivalNs + budgetNs);
    store<f32>(record, <f32>budgetNs, 8);
    store<i32>(record, first + index, 12);
    store<i32>(record, generation, 16);
    store<i32>(record, tag, 20);
    record += REQUEST_BYTES;
    const counter = countersAt + (model << 5);
    store<f64>(counter, load<f64>(counter) + 1);
  }
  store<i32>(state, <i32>((cursor - freeAt) >> 2));
  return count - <i32>((stop - modelAt) >> 2);
}

export function drain(laneAt: i32, count: i32, to: i32, nowNs: f64): i32 {
  const first = firstSlot;
  const generationsAt = generations;
  const freeAt = free;
  const countersAt = counters;
  const latenciesAt = latencies;
  const deliveriesAt = deliveries;
  let out = <usize>to;
  let lastEndNs = load<f64>(state, 8);
  let record = <usize>laneAt << 2;
  const stop = record + (<usize>count << 5);
  let touch = record;
  for (; record < stop; record += 32) {
    if (touch == record) {
      // The generations of the next 64, for nothing but to have their lines at hand: this loop is short enough for many misses under way at once.
      const ahead = touch + 64 * 32 < stop ? touch + 64 * 32 : stop;
      let sum = 0;
      for (; touch < ahead; touch += 32) sum ^= load<i32>(generationsAt + (<usize>(load<i32>(touch) - first) << 2));
      store<i32>(state, sum, 8); // so that it is not left out; written over below
    }
    const slot = load<i32>(record);
    const index = slot - first;
    const generationAt = generationsAt + (<usize>index << 2);
    const generation = load<i32>(generationAt);
    if (load<i32>(record, 4) != generation) continue;
    store<i32>(generationAt, generation == -1 ? 1 : generation + 1);
    const packed = load<i32>(record, 8);
    const model = <usize>load<i32>(record, 12);
    const endNs = load<f64>(record, 16);
    if ((packed & OUTCOME_MASK) <= LATE) {
      lastEndNs = endNs;
      const sinceEndNs = nowNs - endNs;
      count1(latenciesAt + (model << 13) + (<usize>bucketOf(sinceEndNs + <f64>load<f32>(record, 24)) << 2));
      count1(deliveriesAt + (model << 13) + (<usize>bucketOf(sinceEndNs) << 2));
    }
    const counter = countersAt + (model << 5);
    store<f64>(counter, load<f64>(counter, 16) + 1, 16);
    const word = freeAt + (<usize>(index >> 5) << 2);
    store<i32>(word, load<i32>(word) | (1 << (index & 31)));
    store<i32>(drainedSlots + (out << 2), slot);
    store<i32>(drainedOutcomes + (out << 2), packed);
    store<f64>(drainedEnds + (out << 3), endNs);
    store<f32>(drainedDurations + (out << 2), load<f32>(record, 28));
    out++;
  }
  store<f64>(state, lastEndNs, 8);
  return <i32>out;
}

// @ts-ignore: decorator
@inline
function count1(bucket: usize): void {
  store<i32>(bucket, load<i32>(bucket) + 1);
}
