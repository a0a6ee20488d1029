/**
 * What a shard's inner loops work on (shards/inner-loops.ts). It lies in the shared buffer only because WebAssembly sees nothing
 * else: no other thread looks at it, and a successor starts it anew.
 */
import { defineRecord } from '../ringbuf/layout.js';

/** Requests that one call of `takeIn` may take. Bounds a poll to about 100 µs, since grants must not wait longer for their answers. */
export const MOST_TAKEN = 2048;

/** A request that was taken in and waits to be queued. Those of a model are linked in the order of their arrival. */
export const ARRIVAL = defineRecord('arrival', {
  deadlineNs: 'f64',
  slot: 'i32',
  /** Number of the model's next arrival. Means nothing in its last one. */
  next: 'i32',
});

/** By model: its arrivals. `count` is 0 between two calls. */
export const INTAKE = defineRecord('intake row', {
  count: 'i32',
  first: 'i32',
  last: 'i32',
  /** 1 while no deadline is earlier than the one before it. */
  inOrder: 'i32',
  /** The earliest deadline, and that of the last arrival. */
  earliestNs: 'f64',
  latestNs: 'f64',
});

/** Byte offsets. */
export interface ScratchPlace {
  /** One i32 per model: see `#tags` in shards/shard.ts. */
  readonly tags: number;
  readonly intake: number;
  readonly arrivals: number;
  /** i32: the models that have arrivals, in the order of their first. */
  readonly touched: number;
  /** i32: word indices of the records that need a closer look. */
  readonly odd: number;
}

export function scratchPlace(take: (bytes: number) => number, models: number): ScratchPlace {
  return {
    tags: take(models * 4),
    intake: take(models * INTAKE.bytes),
    arrivals: take(MOST_TAKEN * ARRIVAL.bytes),
    touched: take(MOST_TAKEN * 4),
    odd: take(MOST_TAKEN * 4),
  };
}
