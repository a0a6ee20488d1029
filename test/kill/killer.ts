/** Kills the threads of one live scheduler under load, again and again, and looks after each death whether anything was lost. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import type { RawClient, Scheduler } from '#rubato/index.js';
import { usedPages } from '#rubato/protocol/arena.js';
import { pageTable } from '#rubato/scheduler/client.js';
import type { FarJob } from './far.worker.js';
import { type Death, type LiveCopy, type Orders } from './live.js';
import { type Books, type Chance, chanceOf, checkBooks, countersOf, FAR, LOAD_OPTIONS, OWN, PromiseLoad, RAW, RawLoad } from './load.js';

export interface Kills {
  readonly topology: 'single' | 'split';
  readonly count: number;
  readonly seed: number;
  /** Threads that hang are found by their silence: 3 s each. */
  readonly hangs: number;
}

export interface KillReport {
  /** How many threads have died, by what they died of. */
  readonly deaths: Readonly<Record<string, number>>;
  readonly replaced: number;
  /** Different kill points at which one has died. */
  readonly points: number;
  /** Sorted. */
  readonly recoveryMs: readonly number[];
  readonly requests: number;
  readonly rssGrowthBytes: number;
}

/** Three deaths in a row, each within 100 ms of life, would close the scheduler by design. */
const LEAST_LIFE_MS = 110;
/** A death is ordered to come within so many kill points: some polls, or some hundreds. */
const MOST_POINTS = 20_000;
const LIMIT_MS = 20_000;
/** Points are drawn so many times, and each is waited for so many looks, 2 ms apart. */
const MOST_TRIES = 20;
const LOOKS_FOR_POINT = 10;
/** In a thousand deaths. */
const DEATH_SHARES: readonly (readonly [Death | 'terminate', number])[] = [['terminate', 300], ['halt', 250], ['exit', 200], ['throw', 210], ['memory', 40]];
/** One in so many: another thread at the same time; the successor as well, while it takes over. */
const TWO_AT_ONCE = 6;
const AGAIN = 8;

export class Killer {
  readonly #copy: LiveCopy;
  readonly #plan: Kills;
  readonly #chance: Chance;
  readonly #deaths: Record<string, number> = {};
  readonly #points = new Set<number>();
  readonly #recoveryMs: number[] = [];
  #scheduler!: Scheduler<never>;
  #orders!: Orders;
  #loads: { readonly sent: number; readonly oldest: number }[] = [];

  constructor(copy: LiveCopy, plan: Kills) {
    this.#copy = copy;
    this.#plan = plan;
    this.#chance = chanceOf(plan.seed);
  }

  async run(): Promise<KillReport> {
    const { topology, count, seed, hangs } = this.#plan;
    const scheduler = (await this.#copy.createScheduler({ ...LOAD_OPTIONS, topology, ...(topology === 'split' ? { shards: 2 } : {}) })) as unknown as Scheduler<never>;
    this.#scheduler = scheduler;
    this.#orders = this.#copy.orders(scheduler);
    const pages = (): number => usedPages(table);
    const { memory, port } = scheduler.ticket();
    const table = pageTable(memory);
    port.close();
    const raw: RawClient = scheduler.client();
    const own = new PromiseLoad(scheduler as never, OWN, seed + 1);
    const rawLoad = new RawLoad(raw, seed + 2);
    const far = new Far(scheduler, seed + 3);
    this.#loads = [own, rawLoad, far];
    const running = [own.run(), rawLoad.run()];
    await this.#each(() => this.#loads.every((load) => load.sent > 0), 'every client has sent something');
    const pagesBefore = pages();
    const rssBefore = process.memoryUsage.rss();

    let done = 0;
    while (done < count) {
      await sleep(LEAST_LIFE_MS + this.#chance(40));
      done += await this.#kill(done < hangs);
    }
    own.stop();
    rawLoad.stop();
    const farBooks = await far.stop();
    await Promise.all(running);
    await scheduler.drain();
    this.#check(own, rawLoad, farBooks);
    raw.close();
    await this.#each(() => pages() <= pagesBefore + 2, `pages of tensors are given back: ${pages()}, before ${pagesBefore}`);
    const { accepted, threads } = scheduler.stats();
    await scheduler.close();
    const replaced = threads.reduce((sum, thread) => sum + thread.replaced, 0);
    assert.equal(replaced, done, `${done} deaths of seed ${seed}: replaced`);
    this.#recoveryMs.sort((a, b) => a - b);
    return { deaths: this.#deaths, replaced, points: this.#points.size, recoveryMs: this.#recoveryMs, requests: accepted, rssGrowthBytes: process.memoryUsage.rss() - rssBefore };
  }

  /** One death, or two; returns how many. Resolves when all that was open has ended and the victims' successors work. */
  async #kill(hang: boolean): Promise<number> {
    const { threads } = this.#orders;
    const first = this.#chance(threads);
    const victims = threads > 1 && this.#chance(TWO_AT_ONCE) === 0 ? [first, (first + 1) % threads] : [first];
    const before = this.#scheduler.stats().threads;
    const kinds = victims.map(() => (hang ? 'hang' : this.#drawDeath()));
    const again = !hang && this.#chance(AGAIN) === 0;
    const what = victims.map((thread, i) => `thread ${thread} by ${kinds[i]}`).join(', ') + (again ? ', and its successor' : '');
    await Promise.all(victims.map((thread, i) => this.#end(thread, kinds[i]!, what)));
    if (again) this.#orders.give(first, 'exit', this.#chance(400));
    const life = (thread: number): number => before[thread]!.replaced + (again && thread === first ? 2 : 1);
    await this.#each(() => {
      const now = this.#scheduler.stats().threads;
      return victims.every((thread) => now[thread]!.replaced === life(thread) && now[thread]!.lastRecoveryMs !== before[thread]!.lastRecoveryMs);
    }, `${what}: replaced`);
    if (again) this.#note(first, 'exit');
    for (const thread of victims) this.#recoveryMs.push(this.#scheduler.stats().threads[thread]!.lastRecoveryMs!);
    const sent = this.#loads.map((load) => load.sent);
    await this.#each(() => this.#loads.every((load, i) => load.oldest >= sent[i]!), `${what}: all that was open has ended`);
    for (const model of this.#scheduler.stats().models) assert.ok(model.inFlight >= 0 && model.queued >= 0, `${what}: ${JSON.stringify(model)}`);
    return victims.length + (again ? 1 : 0);
  }

  #drawDeath(): Death | 'terminate' {
    let left = this.#chance(1000);
    for (const [death, share] of DEATH_SHARES) {
      if (left < share) return death;
      left -= share;
    }
    return 'terminate';
  }

  async #end(thread: number, death: Death | 'terminate', what: string): Promise<void> {
    if (death === 'terminate') {
      await sleep(this.#chance(3));
      await this.#orders.terminate(thread);
      this.#deaths.terminate = (this.#deaths.terminate ?? 0) + 1;
      return;
    }
    if (this.#chance(2) === 0) this.#orders.give(thread, death, Math.floor(MOST_POINTS ** (this.#chance(1000) / 1000)));
    else await this.#endAtPoint(thread, death);
    await this.#each(() => this.#orders.diedAt(thread) >= 0, `${what}: at a kill point`);
    this.#note(thread, death);
    if (death === 'halt') await this.#orders.terminate(thread);
  }

  /** At a point that is drawn; if the thread does not come by it soon, at another. */
  async #endAtPoint(thread: number, death: Death): Promise<void> {
    for (let tries = 0; tries < MOST_TRIES; tries++) {
      this.#orders.give(thread, death, ~this.#chance(this.#copy.points.length));
      for (let looks = 0; looks < LOOKS_FOR_POINT; looks++) {
        if (this.#orders.diedAt(thread) >= 0) return;
        await sleep(2);
      }
      if (!this.#orders.withdraw(thread)) return;
    }
    this.#orders.give(thread, death, 0);
  }

  #note(thread: number, death: Death): void {
    this.#deaths[death] = (this.#deaths[death] ?? 0) + 1;
    this.#points.add(this.#orders.diedAt(thread));
  }

  async #each(isSo: () => boolean, what: string): Promise<void> {
    const endMs = performance.now() + LIMIT_MS;
    while (!isSo()) {
      if (performance.now() > endMs) assert.fail(`not so after ${LIMIT_MS} ms, seed ${this.#plan.seed}: ${what}; ${this.#situation()}`);
      await sleep(2);
    }
  }

  #situation(): string {
    const { threads, models } = this.#scheduler.stats();
    const points = threads.map((_, thread) => this.#copy.points[this.#orders.diedAt(thread)]).map((point) => (point === undefined ? '-' : `${point.file}:${point.line} ${point.function}: ${point.statement}`));
    return JSON.stringify({ threads, points, loads: this.#loads.map(({ sent, oldest }) => [sent, oldest]), models: models.map(({ name, inFlight, queued, accepted, grants, refusedGrants }) => ({ name, inFlight, queued, accepted, grants, refusedGrants })) });
  }

  #check(own: PromiseLoad, raw: RawLoad, far: Books): void {
    const what = `${this.#plan.topology}, seed ${this.#plan.seed}`;
    const { models, accepted, completed, late, dropped, cancelled, failed, closed, inFlight } = this.#scheduler.stats();
    const of = (names: readonly string[]): typeof models => names.map((name) => models.find((model) => model.name === name)!);
    assert.equal(inFlight, 0, what);
    assert.equal(completed + late + dropped + cancelled + failed + closed, accepted, what);
    checkBooks(own.books, of(OWN), `${what}, own`);
    checkBooks(far, of(FAR), `${what}, far`);
    assert.deepEqual(raw.faults, [], what);
    assert.deepEqual([...raw.counts.values()].map((counts) => [...counts]), of(RAW).map(countersOf), `${what}, raw`);
  }
}

/** The client in a thread of its own, as seen from here. */
class Far {
  readonly #words = new Int32Array(new SharedArrayBuffer(8));
  readonly #worker: Worker;

  constructor(scheduler: Scheduler<never>, seed: number) {
    const ticket = scheduler.ticket();
    const job: FarJob = { ticket: ticket as never, seed, words: this.#words };
    this.#worker = new Worker(new URL('./far.worker.js', import.meta.url), { workerData: job, transferList: [ticket.port] });
  }

  get sent(): number {
    return Atomics.load(this.#words, 0);
  }

  get oldest(): number {
    return Atomics.load(this.#words, 1);
  }

  async stop(): Promise<Books> {
    const answered = once(this.#worker, 'message') as Promise<[Books]>;
    const exited = once(this.#worker, 'exit');
    this.#worker.postMessage('stop');
    const [books] = await answered;
    await exited;
    return books;
  }
}
