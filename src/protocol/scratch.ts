/**
 * What the inner loops of a shard (shards/inner-loops.ts) and of a client (client-loops.ts) work on. It lies in the shared buffer only because
 * WebAssembly sees nothing else: no other thread looks at it, and a successor starts it anew.
 */
import { defineRecord } from '../ringbuf/layout.js';

/** Requests that one call of `takeIn` may take: grants wait for their answers meanwhile, and with less to take at once more is served (docs/performance.md). */
export const MOST_TAKEN = 512;

/** A request that was taken in and waits to be queued. Those of a model are linked in the order of their arrival. */
export const ARRIVAL = defineRecord('arrival', {
  deadlineNs: 'f64',
  slot: 'i32',
  /** Number of the model's next arrival. Means nothing in its last one. */
  next: 'i32',
});

/** So many requests of a model that change nothing may wait to be queued. `left` + `buffered` is never more. */
export const MOST_BUFFERED = 64;

/**
 * By model: its arrivals, `count` is 0 between two calls. And its buffer: the first `left` that come are only put there, if their deadlines are not before
 * `floorNs`, nor so soon that they could not run alone (`aloneNs`), and it is not `untilNs` yet. The shard queues them when it next looks at the model.
 */
export const INTAKE = defineRecord('intake row', {
  count: 'i32',
  first: 'i32',
  last: 'i32',
  /** 1 while no deadline is earlier than the one before it. */
  inOrder: 'i32',
  /** The earliest deadline, and that of the last arrival. */
  earliestNs: 'f64',
  latestNs: 'f64',
  left: 'i32',
  buffered: 'i32',
  floorNs: 'f64',
  untilNs: 'f64',
  aloneNs: 'f64',
});

/** Byte offsets. */
export interface ScratchPlace {
  /** One i32 per model: see `#tags` in shards/shard.ts. */
  readonly tags: number;
  readonly intake: number;
  readonly arrivals: number;
  /** MOST_BUFFERED arrivals per model, one after another. */
  readonly buffers: number;
  /** i32: the models that have arrivals, in the order of their first. */
  readonly touched: number;
  /** i32: word indices of the records that need a closer look. */
  readonly odd: number;
  /** i32: how many requests are to be turned away, and their slots. */
  readonly turned: number;
}

export function scratchPlace(take: (bytes: number) => number, models: number): ScratchPlace {
  return {
    tags: take(models * 4),
    intake: take(models * INTAKE.bytes),
    arrivals: take(MOST_TAKEN * ARRIVAL.bytes),
    buffers: take(models * MOST_BUFFERED * ARRIVAL.bytes),
    touched: take(MOST_TAKEN * 4),
    odd: take(MOST_TAKEN * 4),
    turned: take((1 + MOST_TAKEN) * 4),
  };
}

/** Requests that one call of `take`, and completions that one `drain`, may have. */
export const MOST_SUBMITTED = 2048;
export const MOST_DRAINED = 4096;

/** `cursor`: the word of the free bits where the search for the next slot begins. `lastEndNs`: device end of the last request drained that has run. */
export const CLIENT_STATE = defineRecord('client state', { cursor: 'i32', spare: 'i32', lastEndNs: 'f64' });

/** Byte offsets. */
export interface ClientScratchPlace {
  readonly state: number;
  /** One i32 per slot: the generation of its present use, or of the next one while it is free. */
  readonly generations: number;
  /** One bit per slot, set while it is free. */
  readonly free: number;
  /** i32 and f64 per request that is to be submitted. */
  readonly models: number;
  readonly arrivals: number;
  /** i32, i32, f64 and f32 per request that the last `drain` has read. */
  readonly drainedSlots: number;
  readonly drainedOutcomes: number;
  readonly drainedEnds: number;
  readonly drainedDurations: number;
}

export function clientScratchPlace(take: (bytes: number) => number, slots: number): ClientScratchPlace {
  return {
    state: take(CLIENT_STATE.bytes),
    generations: take(slots * 4),
    free: take(slots / 8),
    models: take(MOST_SUBMITTED * 4),
    arrivals: take(MOST_SUBMITTED * 8),
    drainedSlots: take(MOST_DRAINED * 4),
    drainedOutcomes: take(MOST_DRAINED * 4),
    drainedEnds: take(MOST_DRAINED * 8),
    drainedDurations: take(MOST_DRAINED * 4),
  };
}
