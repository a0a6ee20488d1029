/** The records that cross threads: one definition each, used by both sides. Times are nanoseconds of the shared clock. */
import { defineRecord } from '../ringbuf/layout.js';

/** client → shard: a slot was filled. All that the shard needs, as it stands in the slot's row, so that it need not fetch that line from the other core. */
export const REQUEST = defineRecord('request', {
  deadlineNs: 'f64',
  budgetNs: 'f32',
  slot: 'i32',
  generation: 'i32',
  /** The model's tag. */
  model: 'i32',
});

/** shard → client: a slot's outcome was written; all that the client needs, so that it need not fetch the slot's line from the other core. */
export const COMPLETION = defineRecord('completion', {
  slot: 'i32',
  generation: 'i32',
  outcome: 'i32',
  model: 'i32',
  /** Device end, or the time of the drop. */
  endNs: 'f64',
  /** End − arrival. */
  endedNs: 'f32',
  /** Device end − device start. */
  durationNs: 'f32',
});

/**
 * shard ⇒ dispatcher, by mailbox: the batch that a model would run next. `size` 0 means that nothing is queued.
 * `stamp` counts the grants that the shard has answered for the model: the dispatcher believes only a candidate
 * whose stamp equals the grants it has issued.
 */
export const CANDIDATE = defineRecord('candidate', {
  stamp: 'i32',
  size: 'i32',
  /** When the batch is to start. */
  execNs: 'f64',
  /** Rank among candidates that wait for a GPU: the smallest goes first. `latest`, or the deadline under drop policy `never`. */
  rankNs: 'f64',
  /** No batch may start after it. */
  invalidAfterNs: 'f64',
  /** c + δb: how long before the start the grant must be made. */
  leadNs: 'f64',
  /** When the batch will start if requests come as before: later than now, and seldom moved by those that do. */
  expectedNs: 'f64',
  deadlineNs: 'f64',
  flags: 'i32',
  spare: 'i32',
});

/** CANDIDATE.flags: worth a GPU before its frontrun, if it must be. */
export const CANDIDATE_MAY_START = 1;

/** dispatcher → shard: the model gets the GPU. */
export const GRANT = defineRecord('grant', {
  model: 'i32',
  number: 'i32',
  gpu: 'i32',
  flags: 'i32',
  gpuFreeNs: 'f64',
  /** When it was made: c counts from here, so the shard decides as of this moment, however long the grant has travelled. */
  grantedNs: 'f64',
});

/** GRANT.flags: start now rather than at frontrun (ALGORITHM 1.5, 1.7). */
export const GRANT_EARLY = 1;

/** shard → dispatcher: the plan for a grant, or a refusal (`row` = -1). */
export const ANSWER = defineRecord('answer', {
  model: 'i32',
  number: 'i32',
  gpu: 'i32',
  row: 'i32',
  size: 'i32',
  spare: 'i32',
  /** Start as planned: not before the GPU is predicted to be free. */
  execNs: 'f64',
  /** The same without the GPU: when the device may start as soon as the GPU is free. */
  readyNs: 'f64',
  /** ℓ(size). */
  lengthNs: 'f64',
});

/** dispatcher → device: run this batch. Its requests are in row `row` of the shard's batch table. It may come twice (a dispatcher has died): a device ignores a model's number that is one of the last two that it was given. */
export const ISSUE = defineRecord('issue', {
  gpu: 'i32',
  shard: 'i32',
  row: 'i32',
  model: 'i32',
  number: 'i32',
  size: 'i32',
  readyNs: 'f64',
  /** ℓ(size), as the batch was planned: the model may have another profile by the time it runs. */
  lengthNs: 'f64',
  /** When the grant was made; the device measures the control delay c with it. */
  grantedNs: 'f64',
});

/** device → dispatcher: a batch has ended. */
export const DEVICE_DONE = defineRecord('device done', {
  gpu: 'i32',
  shard: 'i32',
  row: 'i32',
  /** These two as in the issue: they tell this batch from a later one in the same row. */
  number: 'i32',
  model: 'i32',
  status: 'i32',
  startNs: 'f64',
  endNs: 'f64',
  /** Grant → taken by the device. */
  controlNs: 'f64',
});

/** dispatcher → shard: the same, for the owner of the requests. */
export const BATCH_DONE = defineRecord('batch done', { row: 'i32', model: 'i32', number: 'i32', status: 'i32', startNs: 'f64', endNs: 'f64' });

export const STATUS_OK = 0;
export const STATUS_FAILED = 1;
/** Failed, and its GPU is gone for good. */
export const STATUS_LOST = 2;
