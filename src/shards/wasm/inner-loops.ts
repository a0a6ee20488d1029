/**
 * The inner loops of a shard (../inner-loops.ts, which says what they do) in AssemblyScript: without bounds checks and without a length and a base kept in
 * registers for each view, they take half the time. `node scripts/wasm.mjs` compiles this to ../inner-loops-module.ts. Kept word for word like
 * `ScriptLoops`, store by store: a thread may be ended between any two of them. test/shards/inner-loops.test.ts compares both.
 */
import { bucketOf } from '../../ringbuf/wasm/log-linear';

// Byte offsets; protocol/{records,scratch,specs,tables}.ts.
// @ts-ignore: decorator
@inline const ARRIVAL_BYTES: usize = 16;
// @ts-ignore: decorator
@inline const COMPLETION_BYTES: usize = 32;
// @ts-ignore: decorator
@inline const REQUEST_BYTES: usize = 24;
// @ts-ignore: decorator
@inline const MODEL_MASK: i32 = 4095;

let slots: usize = 0;
let cancels: usize = 0;
let admitted: usize = 0;
let tags: usize = 0;
let intake: usize = 0;
let arrivals: usize = 0;
let buffers: usize = 0;
let shardModels: usize = 0;
let touchedList: usize = 0;
let oddList: usize = 0;
let turnedList: usize = 0;
let intent: usize = 0;

/** Byte offsets in the memory. */
export function place(
  slotsAt: usize,
  cancelsAt: usize,
  admittedAt: usize,
  shardModelsAt: usize,
  tagsAt: usize,
  intakeAt: usize,
  arrivalsAt: usize,
  buffersAt: usize,
  touchedAt: usize,
  oddAt: usize,
  turnedAt: usize,
  intentAt: usize,
): void {
  slots = slotsAt;
  cancels = cancelsAt;
  admitted = admittedAt;
  shardModels = shardModelsAt;
  tags = tagsAt;
  intake = intakeAt;
  arrivals = arrivalsAt;
  buffers = buffersAt;
  touchedList = touchedAt;
  oddList = oddAt;
  turnedList = turnedAt;
  intent = intentAt;
}

export function takeIn(at: i32, count: i32, nowNs: f64, soonestNs: f64, freshShare: f64): i32 {
  const slotsAt = slots;
  const cancelsAt = cancels;
  const admittedAt = admitted;
  const tagsAt = tags;
  const intakeAt = intake;
  const arrivalsAt = arrivals;
  const buffersAt = buffers;
  const shardModelsAt = shardModels;
  let touched: usize = 0;
  let odd: usize = 0;
  let taken: usize = 0;
  let turned: usize = 0;
  let record: usize = <usize>at << 2;
  const end = record + <usize>count * REQUEST_BYTES;
  for (; record < end; record += REQUEST_BYTES) {
    const slot = <usize>load<i32>(record, 12);
    const generation = load<i32>(record, 16);
    const tag = load<i32>(record, 20);
    const model = tag & MODEL_MASK;
    const row = slotsAt + (slot << 5);
    if (generation - load<i32>(row, 12) <= 0 || load<i32>(tagsAt + (<usize>model << 2)) != tag || load<i32>(cancelsAt + (slot << 2)) == generation) {
      store<i32>(oddList + (odd << 2), <i32>(record >> 2));
      odd++;
      continue;
    }
    const deadlineNs = load<f64>(record);
    const budgetNs = load<f32>(record, 8);
    store<f64>(row, deadlineNs);
    store<f32>(row, budgetNs, 8);
    store<i32>(row, generation, 12);
    store<i32>(row, tag, 16);
    store<i32>(admittedAt + (slot << 2), generation);
    if (freshShare > 0 && deadlineNs - nowNs < freshShare * <f64>budgetNs) {
      turned++;
      store<i32>(turnedList + (turned << 2), <i32>slot);
      continue;
    }
    const intakeRow = intakeAt + (<usize>model << 6);
    const before = load<i32>(intakeRow);
    const left = load<i32>(intakeRow, 32);
    if (left > 0 && before == 0 && deadlineNs >= load<f64>(intakeRow, 40) && nowNs < load<f64>(intakeRow, 48) && deadlineNs >= soonestNs + load<f64>(intakeRow, 56)) {
      const buffered = load<i32>(intakeRow, 36);
      const entry = buffersAt + (<usize>model << 10) + <usize>buffered * ARRIVAL_BYTES;
      store<f64>(entry, deadlineNs);
      store<i32>(entry, <i32>slot, 8);
      store<i32>(intakeRow, left - 1, 32);
      store<i32>(intakeRow, buffered + 1, 36);
      const shardModel = shardModelsAt + (<usize>model << 7);
      store<f64>(shardModel, load<f64>(shardModel, 96) + 1, 96);
      continue;
    }
    const arrival = arrivalsAt + taken * ARRIVAL_BYTES;
    store<f64>(arrival, deadlineNs);
    store<i32>(arrival, <i32>slot, 8);
    if (before == 0) {
      store<i32>(touchedList + (touched << 2), model);
      touched++;
      store<i32>(intakeRow, <i32>taken, 4);
      store<i32>(intakeRow, 1, 12);
      store<f64>(intakeRow, deadlineNs, 16);
    } else {
      store<i32>(arrivalsAt + <usize>load<i32>(intakeRow, 8) * ARRIVAL_BYTES, <i32>taken, 12);
      if (deadlineNs < load<f64>(intakeRow, 24)) {
        store<i32>(intakeRow, 0, 12);
        if (deadlineNs < load<f64>(intakeRow, 16)) store<f64>(intakeRow, deadlineNs, 16);
      }
    }
    store<i32>(intakeRow, before + 1);
    store<i32>(intakeRow, <i32>taken, 8);
    store<f64>(intakeRow, deadlineNs, 24);
    taken++;
  }
  store<i32>(turnedList, <i32>turned);
  return <i32>touched | (<i32>odd << 16);
}

export function late(slotsAt: i32, count: i32, slotShift: i32, endNs: f64): i32 {
  const table = slots;
  let at = <usize>slotsAt << 2;
  const stop = at + (<usize>count << 2);
  const first = load<i32>(at);
  let late = 0;
  let differing = 0;
  for (; at < stop; at += 4) {
    const slot = load<i32>(at);
    differing |= slot ^ first;
    late += i32(endNs > load<f64>(table + (<usize>slot << 5)));
  }
  return differing >> slotShift == 0 ? late : -1;
}

export function end(slotsAt: i32, count: i32, model: i32, packed: i32, laneAt: i32, waits: i32, endNs: f64, durationNs: f64): void {
  const table = slots;
  const duration = <f32>durationNs;
  const buckets = <usize>waits << 2;
  let at = <usize>slotsAt << 2;
  let record = <usize>laneAt << 2;
  const stop = at + (<usize>count << 2);
  for (; at < stop; at += 4) {
    const slot = load<i32>(at);
    const row = table + (<usize>slot << 5);
    const endedNs = endNs - load<f64>(row) + <f64>load<f32>(row, 8);
    const generation = load<i32>(row, 12);
    store<f32>(row, <f32>endedNs, 28);
    store<i32>(row, packed, 24);
    store<i32>(row, generation, 20);
    store<i32>(record, slot);
    store<i32>(record, generation, 4);
    store<i32>(record, packed, 8);
    store<i32>(record, model, 12);
    store<f64>(record, endNs, 16);
    store<f32>(record, <f32>endedNs, 24);
    store<f32>(record, duration, 28);
    record += COMPLETION_BYTES;
    const bucket = buckets + (<usize>bucketOf(endedNs - durationNs) << 2);
    store<i32>(bucket, load<i32>(bucket) + 1);
  }
}

export function turnAway(slotsAt: i32, count: i32, packed: i32, counter: i32, laneAt: i32, endNs: f64): void {
  const table = slots;
  const intentAt = intent;
  const counters = shardModels + (<usize>counter << 3);
  let at = <usize>slotsAt << 2;
  let record = <usize>laneAt << 2;
  const stop = at + (<usize>count << 2);
  for (; at < stop; at += 4) {
    const slot = load<i32>(at);
    const row = table + (<usize>slot << 5);
    const generation = load<i32>(row, 12);
    const model = load<i32>(row, 16) & MODEL_MASK;
    const count = counters + (<usize>model << 7);
    const after = load<f64>(count) + 1;
    store<i32>(intentAt, 0);
    store<i32>(intentAt, model, 4);
    store<i32>(intentAt, slot, 12);
    store<i32>(intentAt, generation, 16);
    store<i32>(intentAt, counter, 20);
    store<f64>(intentAt, after - 1, 24);
    store<i32>(intentAt, 1);
    const endedNs = endNs - load<f64>(row) + <f64>load<f32>(row, 8);
    store<f32>(row, <f32>endedNs, 28);
    store<i32>(row, packed, 24);
    store<i32>(row, generation, 20);
    store<i32>(record, slot);
    store<i32>(record, generation, 4);
    store<i32>(record, packed, 8);
    store<i32>(record, model, 12);
    store<f64>(record, endNs, 16);
    store<f32>(record, <f32>endedNs, 24);
    store<f32>(record, 0, 28);
    record += COMPLETION_BYTES;
    store<f64>(count, after);
  }
}
