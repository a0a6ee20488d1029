/**
 * Between two threads, one core each:
 *
 *   transfer     writer ══ ring of 4096 records ══▶ reader                     both sides sleep on a doorbell after a while
 *                writer ══ ringbuf.js, as many ══▶ reader                      with the same doorbells: it has no way to wait
 *                writer ── postMessage, as many in flight ──▶ reader           one bulk per message
 *   round trip   one stores and rings, the other wakes, stores and rings       both asleep in between (park), or looking all
 *                                                                              the time (awake)
 *                one posts, the other's event loop posts it back
 *
 * Timed by the threads themselves, for the reason that harness.ts gives.
 */
import { MessageChannel, Worker, type MessagePort } from 'node:worker_threads';
import { RingBuffer } from 'ringbuf.js';
import { DOORBELL_BYTES } from '#rubato/ringbuf/doorbell.js';
import { ringBytes } from '#rubato/ringbuf/spsc-ring.js';
import type { Group, Sample, TimedCase } from './harness.js';
import { RECORD_DOUBLES } from './records.js';
import type { Job, SideResult, Task } from './sides.js';

const RECORD_BYTES = RECORD_DOUBLES * 8;
/** Records under way at most, whoever carries them. */
const IN_FLIGHT = 4096;
/** By bulk: about a tenth of a second's worth. */
const RING_RECORDS = new Map([[1, 1_000_000], [8, 2_000_000], [64, 4_000_000], [512, 4_000_000]]);
/** By records per message. */
const PORT_MESSAGES = new Map([[1, 40_000], [8, 40_000], [64, 20_000], [512, 4000]]);
/** Of a sample: of two threads. Near 1 they had to share a core, and the figure says nothing. */
export const CORES_USED = 'coresUsed';

export const transfer: Group = {
  name: 'transfer',
  title: 'From one thread to another, 32-byte records',
  unit: 'record',
  note: `At most ${IN_FLIGHT} records under way; MessagePort carries a bulk per message.`,
  open: () => opened((threads) => [
    ...[...RING_RECORDS].map(([bulk, records]) => byRing(threads, bulk, records)),
    ...[...RING_RECORDS].map(([bulk, records]) => byRingbuf(threads, bulk, records)),
    ...[...PORT_MESSAGES].map(([bulk, messages]) => byPort(threads, bulk, messages)),
  ]),
};

export const roundtrip: Group = {
  name: 'roundtrip',
  title: 'Round trip between two threads',
  unit: 'round trip',
  open: () => opened((threads) => [
    byBell(threads, 'doorbell, park', 0, 4000),
    byBell(threads, 'doorbell, awake', 2_000_000, 200_000),
    echoed(threads),
  ]),
};

function opened(casesOf: (threads: TwoThreads) => TimedCase[]): { cases: TimedCase[]; close: () => Promise<void> } {
  const threads = new TwoThreads();
  return { cases: casesOf(threads), close: () => threads.close() };
}

/** Two threads that live as long as the group: what the compiler has learnt stays. */
class TwoThreads {
  readonly #workers = [0, 1].map(() => new Worker(new URL('./threads.worker.js', import.meta.url)));
  /** Counts who is ready; afresh for each job. */
  readonly #gate = new Int32Array(new SharedArrayBuffer(128));

  /** Both sides do the task, once over a tenth of `units` for the compiler and then over all. */
  async perform(task: Task, units: number, ports: readonly [MessagePort, MessagePort] | null = null): Promise<Sample> {
    this.#gate.fill(0);
    const cpuBefore = process.cpuUsage();
    const beganMs = performance.now();
    const results = this.#workers.map(async (worker, n) => {
      const port = ports?.[n] ?? null;
      const job: Job = { task, first: n === 0, units, gate: this.#gate, port };
      const result = resultOf(worker);
      worker.postMessage(job, port === null ? [] : [port]);
      return await result;
    });
    const [first, second] = await Promise.all(results);
    if (first!.sum !== second!.sum) throw new Error(`${task.kind}: one thread wrote ${first!.sum}, the other read ${second!.sum}`);
    const { user, system } = process.cpuUsage(cpuBefore);
    const coresUsed = (user + system) / 1000 / (performance.now() - beganMs);
    return { ns: (Math.max(first!.seconds, second!.seconds) * 1e9) / units, also: { [CORES_USED]: coresUsed } };
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

function resultOf(worker: Worker): Promise<SideResult> {
  return new Promise((resolve, reject) => {
    const failed = (error: Error): void => reject(error);
    worker.once('error', failed);
    worker.once('message', (result: SideResult) => {
      worker.off('error', failed);
      resolve(result);
    });
  });
}

const bells = (): SharedArrayBuffer => new SharedArrayBuffer(2 * DOORBELL_BYTES);
const fewer = (units: number, quick: boolean): number => (quick ? units / 20 : units);

function byRing(threads: TwoThreads, bulk: number, records: number): TimedCase {
  const buffer = new SharedArrayBuffer(ringBytes(IN_FLIGHT, RECORD_BYTES));
  const place = { buffer, byteOffset: 0, capacity: IN_FLIGHT, recordBytes: RECORD_BYTES };
  const measure = (quick: boolean): Promise<Sample> => threads.perform({ kind: 'ring', place, bells: bells(), bulk }, fewer(records, quick));
  return { name: `ring, bulk ${bulk}`, measure, versus: [`MessagePort, bulk ${bulk}`, `ringbuf.js, bulk ${bulk}`] };
}

function byRingbuf(threads: TwoThreads, bulk: number, records: number): TimedCase {
  const storage = RingBuffer.getStorageForCapacity(IN_FLIGHT * RECORD_DOUBLES, Float64Array);
  const measure = (quick: boolean): Promise<Sample> => threads.perform({ kind: 'ringbuf', storage, bells: bells(), bulk }, fewer(records, quick));
  return { name: `ringbuf.js, bulk ${bulk}`, measure };
}

function byPort(threads: TwoThreads, bulk: number, messages: number): TimedCase {
  const measure = (quick: boolean): Promise<Sample> => {
    const { port1, port2 } = new MessageChannel();
    const taken = new Int32Array(new SharedArrayBuffer(4));
    const units = fewer(messages, quick) * bulk;
    return threads.perform({ kind: 'port', taken, bulk, inFlight: IN_FLIGHT }, units, [port1, port2]);
  };
  return { name: `MessagePort, bulk ${bulk}`, measure };
}

function byBell(threads: TwoThreads, name: string, looks: number, trips: number): TimedCase {
  const measure = (quick: boolean): Promise<Sample> => {
    const words = new SharedArrayBuffer(256);
    return threads.perform({ kind: 'bell', words, bells: bells(), looks }, fewer(trips, quick));
  };
  return { name, measure, versus: [ECHO_ROW] };
}

const ECHO_ROW = 'MessagePort';

function echoed(threads: TwoThreads): TimedCase {
  const measure = (quick: boolean): Promise<Sample> => {
    const { port1, port2 } = new MessageChannel();
    return threads.perform({ kind: 'echo' }, fewer(8000, quick), [port1, port2]);
  };
  return { name: ECHO_ROW, measure };
}
