/** What the two threads of bench/threads.ts do: both sides of each task. */
import type { MessagePort } from 'node:worker_threads';
import { RingBuffer } from 'ringbuf.js';
import { DOORBELL_BYTES, Doorbell } from '#rubato/ringbuf/doorbell.js';
import { RingReader, RingWriter, type RingPlace } from '#rubato/ringbuf/spsc-ring.js';
import { readRing, readRingbuf, writeRing, writeRingbuf } from './sides-ring.js';
import { echo, ping, pong, post, postAndAwait, receive } from './sides-signal.js';

export type Task =
  | { readonly kind: 'ring'; readonly place: RingPlace; readonly bells: SharedArrayBuffer; readonly bulk: number }
  | { readonly kind: 'ringbuf'; readonly storage: SharedArrayBuffer; readonly bells: SharedArrayBuffer; readonly bulk: number }
  /** `taken`: records that the reader has counted, for the writer to wait on. */
  | { readonly kind: 'port'; readonly taken: Int32Array; readonly bulk: number; readonly inFlight: number }
  /** `words`: each side's count, in a line of its own. `looks`: fruitless looks before a side sleeps. */
  | { readonly kind: 'bell'; readonly words: SharedArrayBuffer; readonly bells: SharedArrayBuffer; readonly looks: number }
  | { readonly kind: 'echo' };

export interface Job {
  readonly task: Task;
  /** The first one writes, the second reads; or begins a round trip, and answers. */
  readonly first: boolean;
  readonly units: number;
  readonly gate: Int32Array;
  readonly port: MessagePort | null;
}

export interface SideResult {
  readonly seconds: number;
  /** Over what was written, or read. */
  readonly sum: number;
}

/** What one side does with `units`; returns its sum. */
type Side = (units: number) => number | Promise<number>;

/** Once over a tenth of the units for the compiler, then over all for the clock. */
export async function perform(job: Job): Promise<SideResult> {
  const side = sideOf(job);
  let result: SideResult = { seconds: 0, sum: 0 };
  for (const [round, units] of [job.units / 10, job.units].entries()) {
    Atomics.add(job.gate, 0, 1);
    while (Atomics.load(job.gate, 0) < 2 * (round + 1));
    const startMs = performance.now();
    const sum = await side(units);
    result = { seconds: (performance.now() - startMs) / 1000, sum };
  }
  job.port?.close();
  return result;
}

function sideOf({ task, first, port }: Job): Side {
  switch (task.kind) {
    case 'ring': {
      const [mine, other] = bellsOf(task.bells, first);
      if (first) {
        const writer = new RingWriter(task.place);
        return (units) => writeRing(writer, mine, other, task.bulk, units);
      }
      const reader = new RingReader(task.place);
      return (units) => readRing(reader, mine, other, task.bulk, units);
    }
    case 'ringbuf': {
      const [mine, other] = bellsOf(task.bells, first);
      const ring = new RingBuffer(task.storage, Float64Array);
      return (units) => (first ? writeRingbuf : readRingbuf)(ring, mine, other, task.bulk, units);
    }
    case 'port':
      return first ? (units) => post(port!, task.taken, task.bulk, task.inFlight, units) : (units) => receive(port!, task.taken, task.inFlight, units);
    case 'bell': {
      const [mine, other] = bellsOf(task.bells, first);
      const i32 = new Int32Array(task.words);
      return first ? (units) => ping(i32, mine, other, task.looks, units) : (units) => pong(i32, mine, other, task.looks, units);
    }
    case 'echo':
      return first ? (units) => postAndAwait(port!, units) : (units) => echo(port!, units);
  }
}

function bellsOf(bells: SharedArrayBuffer, first: boolean): [mine: Doorbell, other: Doorbell] {
  return [new Doorbell(bells, first ? 0 : DOORBELL_BYTES), new Doorbell(bells, first ? DOORBELL_BYTES : 0)];
}
