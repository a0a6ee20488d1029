/**
 * A live scheduler whose threads die on demand: the copy with kill points, its worker file and its threads' host edited so
 * that the test can order a death. The orders lie beside the heartbeat of each thread, in a line of shared memory of
 * which the scheduler itself uses one word; so a thread in its endless loop reads them, and its successor as well.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Worker } from 'node:worker_threads';
import type { createScheduler as plainCreate, Scheduler } from '#rubato/scheduler/scheduler.js';
import { LINE_BYTES } from '#rubato/ringbuf/layout.js';
import { type Copies, load } from '../sim/copies.js';
import { instrument, type KillPoint } from './instrument.js';

/** What a thread does at a kill point. At `halt` and `hang` it goes no further: somebody must end it. */
export const DEATHS = { exit: 1, throw: 2, memory: 3, halt: 4, hang: 5 } as const;
export type Death = keyof typeof DEATHS;

/** Words behind the heartbeat. */
const ORDER = 1;
/** Kill points to pass before it, or ~ the number of the point. */
const WHEN = 2;
const DIED_AT = 3;
const REPEAT = 4;

/** So that a thread is out of memory soon; it needs a tenth of it. */
const HEAP_MB = 64;

export interface LiveCopy {
  readonly createScheduler: typeof plainCreate;
  readonly points: readonly KillPoint[];
  /** What orders the deaths of a scheduler's threads. */
  orders(scheduler: Scheduler<never>): Orders;
}

interface Switch {
  readonly workersOf: WeakMap<SharedArrayBuffer, Worker[]>;
}

export async function liveCopy(copies: Copies): Promise<LiveCopy> {
  const { copy, points } = instrument(copies);
  writeFileSync(join(copy, 'kill.js'), switchText());
  edit(copy, 'scheduler/scheduler.worker', [
    ['export default function runScheduler(', 'function runScheduler('],
    ["import { SystemClock }", "import { listen } from '../kill.js'; export default function run(task) { listen(task); runScheduler(task); } import { SystemClock }"],
  ]);
  // There are no kill points in what is compiled.
  edit(copy, 'scheduler/engine', [['compiledLoops: true', 'compiledLoops: false']]);
  edit(copy, 'scheduler/host-thread', [
    ['this.#worker = worker;', 'this.#worker = worker; noteWorker(this.#options.task, worker);'],
    ['closeTimeout: STOP_TIMEOUT_MS,', `closeTimeout: STOP_TIMEOUT_MS, resourceLimits: { maxOldGenerationSizeMb: ${HEAP_MB}, maxYoungGenerationSizeMb: 4 },`],
    ["import { Piscina }", "import { noteWorker } from '../kill.js'; import { Piscina }"],
  ]);
  const { createScheduler } = await load<{ createScheduler: typeof plainCreate }>(copy, 'scheduler/scheduler');
  const { workersOf } = await load<Switch>(copy, 'kill');
  return {
    createScheduler,
    points,
    orders: (scheduler) => {
      const { memory, port } = scheduler.ticket();
      port.close();
      return new Orders(new Int32Array(memory.buffer), (thread) => (memory.heartbeats + thread * LINE_BYTES) >> 2, workersOf.get(memory.buffer)!);
    },
  };
}

function edit(copy: string, file: string, replacements: readonly (readonly [find: string, replace: string])[]): void {
  const path = join(copy, `${file}.js`);
  let text = readFileSync(path, 'utf8');
  for (const [find, replace] of replacements) {
    const parts = text.split(find);
    assert.equal(parts.length, 2, `${file}.js holds ${parts.length - 1} times: ${find}`);
    text = parts.join(replace);
  }
  writeFileSync(path, text);
}

function switchText(): string {
  return `
export const workersOf = new WeakMap();
export function noteWorker({ memory, thread }, worker) {
  if (!workersOf.has(memory.buffer)) workersOf.set(memory.buffer, []);
  workersOf.get(memory.buffer)[thread] = worker;
}
let words = null;
let at = 0;
export function listen({ memory, thread }) {
  words = new Int32Array(memory.buffer);
  at = (memory.heartbeats + thread * ${LINE_BYTES}) >> 2;
}
export function killPoint(point) {
  if (words === null) return;
  const order = Atomics.load(words, at + ${ORDER});
  if (order === 0) return;
  const when = words[at + ${WHEN}];
  if (when < 0 && when !== ~point) return;
  if (when > 0) {
    words[at + ${WHEN}] = when - 1;
    return;
  }
  if (Atomics.load(words, at + ${REPEAT}) === 0 && Atomics.compareExchange(words, at + ${ORDER}, order, 0) !== order) return;
  Atomics.store(words, at + ${DIED_AT}, point + 1);
  if (order === ${DEATHS.exit}) process.exit(3);
  if (order === ${DEATHS.throw}) throw new Error('meant to die');
  const held = [];
  for (;;) if (order === ${DEATHS.memory}) held.push(Array.from({ length: 10_000 }, (_, i) => i));
}
`;
}

export class Orders {
  readonly #i32: Int32Array;
  readonly #line: (thread: number) => number;
  readonly #workers: readonly Worker[];

  constructor(i32: Int32Array, line: (thread: number) => number, workers: readonly Worker[]) {
    this.#i32 = i32;
    this.#line = line;
    this.#workers = workers;
  }

  get threads(): number {
    return this.#workers.length;
  }

  /**
   * The thread, or its successor if it has died, dies after so many more kill points, or, if `when` is negative, at point
   * ~when; with `repeat` all who come after it as well.
   */
  give(thread: number, death: Death, when: number, repeat = false): void {
    const at = this.#line(thread);
    this.#i32[at + DIED_AT] = 0;
    this.#i32[at + WHEN] = when;
    Atomics.store(this.#i32, at + REPEAT, repeat ? 1 : 0);
    Atomics.store(this.#i32, at + ORDER, DEATHS[death]);
  }

  /** Takes the order back. False: the thread has begun to carry it out. */
  withdraw(thread: number): boolean {
    return Atomics.exchange(this.#i32, this.#line(thread) + ORDER, 0) !== 0;
  }

  /** Number of the point at which it has died or halted since the last order; −1: at none. */
  diedAt(thread: number): number {
    return Atomics.load(this.#i32, this.#line(thread) + DIED_AT) - 1;
  }

  /** Ends the thread wherever it is. */
  async terminate(thread: number): Promise<void> {
    await this.#workers[thread]!.terminate();
  }
}
