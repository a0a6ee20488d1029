/** What the tests of clients on other threads share: the scheduler, the threads, and the scenarios that are run short and long. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { type Batch, createScheduler, type ModelOptions, type Scheduler, openClient, type SchedulerOptions, type Ticket } from '#rubato/index.js';
import { usedPages } from '#rubato/protocol/arena.js';
import { CLIENT_FREE, CLIENT_STATE_MASK } from '#rubato/protocol/shared-memory.js';
import { pageTable } from '#rubato/scheduler/client.js';
import { type ClientJob, type Job, LENGTHS, type Models } from './client.worker.js';

export type TopologyName = 'single' | 'split';

/** Generous: the machine may stall and nothing must be late. `immediate` does not wait for more. */
export const model = (name: keyof Models, more: Partial<ModelOptions> = {}): ModelOptions => ({
  name,
  slo: '30s',
  profile: { alpha: 0.1, beta: 1, maxBatch: 8 },
  condition: 'immediate',
  maxQueue: 1024, // of all clients together
  inputs: { x: { dtype: 'float32', shape: [LENGTHS[name]] } },
  outputs: { y: { dtype: 'float32', shape: [LENGTHS[name]] } },
  ...more,
});

export type TensorBatch = Batch<{ x: Float32Array }>;

const twice = (x: Float32Array): { y: Float32Array } => ({ y: x.map((value) => 2 * value) });

/** Raw clients bring no tensors. */
export const double = (batch: TensorBatch): { y: Float32Array }[] => batch.inputs.map((input: { x: Float32Array } | undefined) => twice(input?.x ?? new Float32Array(LENGTHS.double)));

export type Started = Scheduler<Models>;

export async function start(topology: TopologyName, more: Partial<SchedulerOptions<never, unknown>> = {}): Promise<Started> {
  const scheduler = await createScheduler<never, unknown>({
    models: [model('double'), model('blob')],
    devices: [{ kind: 'callback', execute: double as (batch: Batch<never>) => { y: Float32Array }[] }],
    maxInFlight: 64,
    memoryLimit: '32MiB',
    topology,
    ...(topology === 'split' ? { shards: 2 } : {}),
    waiting: 'park',
    ...more,
  });
  return scheduler as unknown as Started;
}

/** A device whose batches last until the test lets them go. */
export class Gate {
  readonly batches: TensorBatch[] = [];
  readonly #release: (() => void)[] = [];
  isOpen: boolean;

  constructor(isOpen = false) {
    this.isOpen = isOpen;
  }

  readonly device = {
    kind: 'callback',
    execute: async (batch: Batch<never>): Promise<{ y: Float32Array }[]> => {
      this.batches.push(batch);
      if (!this.isOpen) await new Promise<void>((resolve) => this.#release.push(resolve));
      return double(batch);
    },
  } as const;

  async started(count: number): Promise<void> {
    await until(() => this.batches.length >= count);
  }

  /** Ends the batches that run now. */
  open(): void {
    for (const release of this.#release.splice(0)) release();
  }
}

export interface Exit {
  readonly code: number;
  readonly error: Error | null;
}

/** A worker thread with a job; what it posts is read one by one. */
export class Thread {
  readonly worker: Worker;
  readonly exited: Promise<Exit>;
  readonly #messages: unknown[] = [];
  #error: Error | null = null;
  #hasExited = false;
  #arrived: () => void = () => {};

  constructor(job: Job, ticket: Ticket<Models> | null = null, heapMb?: number) {
    const data: ClientJob = { job, ticket };
    this.worker = new Worker(new URL('./client.worker.js', import.meta.url), {
      workerData: data,
      transferList: ticket === null ? [] : [ticket.port],
      ...(heapMb === undefined ? {} : { resourceLimits: { maxOldGenerationSizeMb: heapMb, maxYoungGenerationSizeMb: 4 } }),
    });
    this.worker.on('message', (message) => {
      this.#messages.push(message);
      this.#arrived();
    });
    this.worker.on('error', (error) => (this.#error = error));
    this.exited = new Promise((resolve) => {
      this.worker.on('exit', (code) => {
        this.#hasExited = true;
        this.#arrived();
        resolve({ code, error: this.#error });
      });
    });
  }

  /** The next message. Throws when the thread ends without one. */
  async next<M>(): Promise<M> {
    while (this.#messages.length === 0) {
      if (this.#hasExited) throw new Error('the thread has ended without a message', { cause: this.#error });
      await new Promise<void>((resolve) => (this.#arrived = resolve));
    }
    return this.#messages.shift() as M;
  }

  /** For the job `serve`: one command, its answer. */
  async ask<A>(command: string, { ticket, ms }: { ticket?: Ticket<Models>; ms?: number } = {}): Promise<A> {
    this.worker.postMessage({ command, ticket, ms }, ticket === undefined ? [] : [ticket.port]);
    return (await this.next<{ answer: A }>()).answer;
  }
}

/** Looks until it is so; the test's own limit ends it otherwise. */
export async function until(isSo: () => boolean, whatElse: () => string = () => 'it never became so', limitMs = 20_000): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!isSo()) {
    if (performance.now() > endMs) assert.fail(whatElse());
    await sleep(1);
  }
}

/** What only the shared memory shows. */
export interface Look {
  /** Pages of tensors in use. */
  pages(): number;
  /** Places of clients in use, beside the scheduler's own. */
  places(): number;
  /** Resolves when no place is in use. */
  free(what?: string): Promise<void>;
  readonly memory: Ticket['memory'];
}

export async function look(scheduler: Started): Promise<Look> {
  const { memory, port } = scheduler.ticket();
  const states = new Int32Array(memory.buffer, memory.clientStates, memory.config.maxClients);
  const table = pageTable(memory);
  const places = (): number => states.slice(1).filter((state) => (state & CLIENT_STATE_MASK) !== CLIENT_FREE).length;
  const free = (what = ''): Promise<void> => until(() => places() === 0, () => `${places()} places are not given back ${what}: ${JSON.stringify(scheduler.stats().models)}`);
  port.close();
  await free();
  return { memory, places, free, pages: () => usedPages(table) };
}

/** accepted = all endings: in every model, and nothing is in flight. */
export function checkNothingOpen(scheduler: Started, what = ''): void {
  const { accepted, completed, late, dropped, cancelled, failed, closed, inFlight, models } = scheduler.stats();
  assert.equal(inFlight, 0, `in flight ${what}`);
  assert.equal(completed + late + dropped + cancelled + failed + closed, accepted, `balance ${what}`);
  for (const each of models) assert.equal(each.inFlight, 0, `${each.name} ${what}`);
}

// ---------------------------------------------------------------- scenarios

export interface Deaths {
  readonly topology: TopologyName;
  readonly deaths: number;
  readonly seed: number;
}

/** Threads at once that submit, of which none lives long. */
const AT_ONCE = 2;

/** Ends threads at random moments while they submit at full speed, beside a client that must not notice. */
export async function dieAtRandom({ topology, deaths, seed }: Deaths): Promise<void> {
  const execute = async (batch: Batch<never>): Promise<{ y: Float32Array }[]> => {
    if (below(3) === 0) await sleep(below(3));
    return batch.inputs.map((input: { x: Float32Array } | undefined) => twice(input?.x ?? new Float32Array(LENGTHS[batch.model as keyof Models])));
  };
  let chance = seed | 1;
  const below = (n: number): number => (chance = (Math.imul(chance, 1664525) + 1013904223) | 0) && (chance >>> 8) % n;
  await using scheduler = await start(topology, { devices: [{ kind: 'callback', execute, count: 2 }], maxClients: AT_ONCE });
  const at = await look(scheduler);
  const own = async (k: number): Promise<void> => {
    const x = Float32Array.of(k, k + 1, k + 2, k + 3);
    const { y } = await scheduler.submit('double', { x });
    assert.deepEqual(y, x.map((value) => 2 * value));
  };
  await own(0);
  const pagesBefore = at.pages();
  for (let done = 0; done < deaths; done += AT_ONCE) {
    const threads = Array.from({ length: AT_ONCE }, (_, i) => {
      const words = new Int32Array(new SharedArrayBuffer(4));
      return new Thread({ name: 'flood', isRaw: below(2) === 0, seed: seed + done + i, words }, scheduler.ticket());
    });
    await Promise.all(threads.map((thread) => thread.next()));
    let isOver = false;
    const owns = (async (): Promise<void> => {
      for (let k = 0; !isOver; k++) await own(k & 1023);
    })();
    await Promise.all(threads.map(async ({ worker, exited }) => {
      await sleep(below(12));
      await worker.terminate();
      await exited;
    }));
    isOver = true;
    await owns;
    const round = `after ${done + AT_ONCE} deaths of seed ${seed} in ${topology}`;
    await at.free(round);
    checkNothingOpen(scheduler, round);
    assert.equal(at.pages(), pagesBefore, `pages in use ${round}`);
  }
}

export interface Turns {
  readonly topology: TopologyName;
  readonly count: number;
  /** Where clients are opened and closed. */
  readonly where: 'thread' | 'main';
}

/** After so many turns everything is as large as it gets. */
const WARM_UP_SHARE = 0.3;

/** Opens and closes clients in turn, each for one request; returns by how many bytes the process has grown after the warm-up. */
export async function openAndClose({ topology, count, where }: Turns): Promise<number> {
  await using scheduler = await start(topology, { maxClients: 1 });
  const at = await look(scheduler);
  const thread = where === 'thread' ? new Thread({ name: 'serve' }) : null;
  const turn = async (): Promise<void> => {
    const ticket = scheduler.ticket();
    if (thread !== null) {
      assert.deepEqual(await thread.ask('turn', { ticket }), Float32Array.of(2, 4, 6, 8));
    } else {
      const client = openClient(ticket);
      assert.deepEqual((await client.submit('double', { x: Float32Array.of(1, 2, 3, 4) })).y, Float32Array.of(2, 4, 6, 8));
      await client.close();
    }
    await at.free();
  };
  const resources = async (): Promise<string[]> => [...process.getActiveResourcesInfo(), ...((await thread?.ask<string[]>('resources')) ?? [])].sort();
  const warmUp = Math.ceil(count * WARM_UP_SHARE);
  for (let k = 0; k < warmUp; k++) await turn();
  const before = { resources: await resources(), pages: at.pages(), rss: process.memoryUsage.rss() };
  for (let k = warmUp; k < count; k++) await turn();
  assert.deepEqual(await resources(), before.resources);
  assert.equal(at.pages(), before.pages);
  checkNothingOpen(scheduler);
  await thread?.worker.terminate();
  return process.memoryUsage.rss() - before.rss;
}
