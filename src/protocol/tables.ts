/**
 * The durable tables: who writes which word, and which store publishes it. Everything else in the scheduler
 * (queues, windows, trees, timers) is a cache that can be rebuilt from these.
 *
 * Slot table, 32 bytes per slot (number = client << slotShift | index), two to a cache line, none across two, written by the client. It is read only
 * by who takes over for a dead thread and in rare cases: what a shard needs comes with the lane's record, so that the lines stay with their owners.
 *
 *   f64 0 deadlineNs         arrival + SLO − r
 *   f32 2 budgetNs           deadline − arrival: the arrival to within 2^-24 of the SLO
 *   i32 3 generation         counts the uses of the slot; the request is published by the lane's commit
 *   i32 4 model              the model's tag: number and use of the number (specs.ts)
 *
 * Shards' slot table, 32 bytes per slot, written by the shard that has the request, before the admitted word says so:
 *
 *   f64 0 deadlineNs, f32 2 budgetNs, i32 3 generation, i32 4 model     as in the slot table
 *   i32 5 outcomeGeneration  = generation once the outcome stands; published by the completion's commit
 *   i32 6 outcome            packed, see outcome.ts
 *   f32 7 endedNs            device end (or drop) − arrival
 *
 * Cancel words, one i32 per slot, apart from the rest because they are rarely touched:
 *   client      the generation that is no longer wanted (Atomics.store, then the shard's cancel bitmap)
 *
 * Cell words, one i32 per slot: where the request's tensors lie (arena.ts), written by the client, published by the lane's commit.
 *
 * Admitted words of a shard, one i32 per slot, written by that shard:
 *   the generation that it has admitted, or, once it has passed the request on to the model's next owner, `passedOn` of it.
 *   Only what was once committed is ever admitted: it tells a request that a dead shard had queued from one that its client is still writing.
 *
 * Batch table of a shard, all words written by that shard:
 *   per row a header of 64 bytes  i32 state, model, number, size, gpu, spare   f64 exec, ready, length   and `stride` slot numbers.
 *   A row is taken when a grant is answered with a plan and freed when its batch-done has been read. `state` is stored last.
 *
 * Intent row of a shard, written by that shard: what it is counting (ledger.ts). Whoever takes over puts the counters right with it.
 *
 * Model rows, 128 bytes each, one region per writer (shard, dispatcher), and a region per client (32 bytes per model).
 * GPU rows, 128 bytes, written by the dispatcher.
 *
 * Counters and times are float64: aligned 8-byte stores are single instructions on the supported x64 and arm64.
 */
import { defineRecord, LINE_BYTES } from '../ringbuf/layout.js';

export const SLOT = defineRecord('slot', { deadlineNs: 'f64', budgetNs: 'f32', generation: 'i32', model: 'i32' }, 32);
export const SHARD_SLOT = defineRecord('shard slot', {
  deadlineNs: 'f64',
  budgetNs: 'f32',
  generation: 'i32',
  model: 'i32',
  outcomeGeneration: 'i32',
  outcome: 'i32',
  endedNs: 'f32',
});
export const SLOT_WORDS = SLOT.words;
export const SLOT_DOUBLES = SLOT.words / 2;

/** In an admitted word: the shard has passed the request on. (The same number is another use of the slot 2^31 uses away.) */
export function passedOn(generation: number): number {
  return generation ^ (1 << 31);
}

/** Times as in the answer, so that it can be given again. */
export const BATCH = defineRecord(
  'batch',
  { state: 'i32', model: 'i32', number: 'i32', size: 'i32', gpu: 'i32', spare: 'i32', execNs: 'f64', readyNs: 'f64', lengthNs: 'f64' },
  64,
);
export const BATCH_FREE = 0;
export const BATCH_OPEN = 1;

/** `kind` is stored last when an intent is written, and first when it is over. */
export const INTENT = defineRecord(
  'intent',
  {
    kind: 'i32',
    model: 'i32',
    /** INTENT_BATCH: the row of the batch table. INTENT_ONE: the slot, its generation and the counter of its outcome. */
    row: 'i32',
    slot: 'i32',
    generation: 'i32',
    counter: 'i32',
    /** The counters as they were before. */
    before: 'f64',
    completed: 'f64',
    late: 'f64',
    failed: 'f64',
    cancelled: 'f64',
    batches: 'f64',
    batched: 'f64',
  },
  LINE_BYTES,
);
export const INTENT_NONE = 0;
export const INTENT_ONE = 1;
export const INTENT_BATCH = 2;

/** Written by the shard that owns the model. Counters count requests, except `batches`. */
export const SHARD_MODEL = defineRecord(
  'shard model row',
  {
    answered: 'i32',
    target: 'i32',
    ratePerSecond: 'f64',
    completed: 'f64',
    late: 'f64',
    expired: 'f64',
    queueFull: 'f64',
    infeasible: 'f64',
    cancelled: 'f64',
    failed: 'f64',
    closed: 'f64',
    batches: 'f64',
    batched: 'f64',
    queued: 'f64',
    /** Requests of batches that are closed and have not ended. */
    running: 'f64',
    /** Until when `ratePerSecond` was measured. It stays what it was while nobody looks at the model. */
    ratedUntilNs: 'f64',
    /** Of the arrivals within the rate's samples: variance over mean. */
    dispersion: 'f64',
  },
  LINE_BYTES,
);

/** Doubles between `completed` and the counter of each outcome code, in the order of OUTCOME. */
export const COUNTER_OF_OUTCOME = SHARD_MODEL.at.completed - 1;

/** Written by the dispatcher. */
export const DISPATCH_MODEL = defineRecord('dispatch model row', { issued: 'i32', spare: 'i32', grants: 'f64', refusals: 'f64' }, LINE_BYTES);

/** Written by a client, one row per model. */
export const CLIENT_MODEL = defineRecord('client model row', { accepted: 'f64', refused: 'f64', delivered: 'f64', spare: 'f64' });

/**
 * Written by the dispatcher. -1 in `grantModel`, `runRow`, `nextRow` means none; each of them is the last word of its group to
 * be set and the first to be cleared, so a dispatcher that dies half-way leaves nothing that looks whole and is not.
 */
export const GPU = defineRecord(
  'gpu row',
  {
    grantModel: 'i32',
    grantNumber: 'i32',
    runShard: 'i32',
    runRow: 'i32',
    runModel: 'i32',
    /** GRANT.flags of the grant under way. */
    grantFlags: 'i32',
    nextShard: 'i32',
    nextRow: 'i32',
    nextModel: 'i32',
    /** Low bits of `batches` as it will be when the end that is being entered has been. */
    endedBatches: 'i32',
    runNumber: 'i32',
    nextNumber: 'i32',
    /** End of the last batch. */
    freeNs: 'f64',
    runExecNs: 'f64',
    /** Predicted end of the running batch. */
    runEndNs: 'f64',
    nextExecNs: 'f64',
    nextReadyNs: 'f64',
    nextLengthNs: 'f64',
    busyNs: 'f64',
    batches: 'f64',
    /** When the grant under way was made. */
    grantedNs: 'f64',
    /** `busyNs` as it will be when the end that is being entered has been. */
    endedBusyNs: 'f64',
  },
  LINE_BYTES,
);

/** A batch that a GPU has, by its place in the batch table of its shard. */
export interface HeldBatch {
  readonly shard: number;
  readonly row: number;
  readonly model: number;
  readonly number: number;
}

/** Tells batches apart: the number of a grant is its model's count. */
export const batchKey = (model: number, number: number): string => `${model}:${number}`;

/** The running batch of a GPU, then its next one, as far as it has them. */
export function heldBatches(memory: { readonly buffer: SharedArrayBuffer; readonly gpus: number }, gpu: number): HeldBatch[] {
  const i32 = new Int32Array(memory.buffer, memory.gpus + gpu * GPU.bytes, GPU.words);
  const { runShard, runRow, runModel, runNumber, nextShard, nextRow, nextModel, nextNumber } = GPU.at;
  const running = { shard: i32[runShard]!, row: i32[runRow]!, model: i32[runModel]!, number: i32[runNumber]! };
  const next = { shard: i32[nextShard]!, row: i32[nextRow]!, model: i32[nextModel]!, number: i32[nextNumber]! };
  return [running, next].filter(({ row }) => row !== -1);
}

/** Histogram kinds; the row of kind k of model m is k · models + m. Who writes it: */
export const HISTOGRAM = {
  /** shard: arrival → device start. */
  wait: 0,
  /** shard: device start → device end, once per request. */
  exec: 1,
  /** shard: requests per batch (a count, not a time), once per batch. */
  batchSize: 2,
  /** dispatcher: actual start − planned exec, once per batch. */
  lateness: 3,
  /** client: arrival → result read. One region per client. */
  latency: 0,
  /** client: device end → result read. */
  delivery: 1,
} as const;
export const SCHEDULER_HISTOGRAMS = 4;
export const CLIENT_HISTOGRAMS = 2;
