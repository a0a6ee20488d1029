/**
 * What a test's scheduler stands on in place of threads: its roles under a virtual clock, and time that passes only when
 * asked. `pass` stops at every event on the way. Where promises were settled it lets the program run for one turn before
 * time goes on, so whoever answers a result with a new request does it at the right moment.
 */
import { clearTimeout, setImmediate, setTimeout } from 'node:timers';
import type { ExecuteBatch } from '../devices/callback.js';
import { DispatcherRole } from '../dispatch/dispatcher.js';
import { RubatoError } from '../model/errors.js';
import type { SchedulerConfig } from '../protocol/config.js';
import type { Role } from '../protocol/role.js';
import { allocateSharedMemory, CONTROL_STATE, type SharedMemory, STATE_CLOSING, STATE_STOPPED } from '../protocol/shared-memory.js';
import { SpecTable } from '../protocol/specs.js';
import type { RoleHost } from '../scheduler/engine.js';
import { ShardRole } from '../shards/shard.js';
import { VirtualLoop } from '../sim/virtual-host.js';
import { BatchGate, type EndedBatch } from './batch-gate.js';

/** Turns at one instant after which it is certain that the program answers every answer at once, and time cannot go on. */
const MOST_TURNS = 10_000;

/** What it asks of the scheduler that stands on it. */
export interface VirtualClient {
  /** Delivers what has ended; returns how much there was. */
  turn(): number;
  /** Whether the batch that has just ended is to fail. */
  isToFail(batch: EndedBatch, slots: Int32Array): boolean;
}

export class VirtualEngine extends VirtualLoop implements RoleHost {
  readonly threads = [];
  /** As clients and callback devices are to see it. */
  readonly memory: SharedMemory;
  readonly specs: SpecTable;
  protected readonly roles: readonly Role[];
  /** Set by the scheduler that stands on this. */
  client: VirtualClient | null = null;
  readonly #i32: Int32Array;
  readonly #executing = new Set<Promise<unknown>>();
  /** Results since the program last had a turn. */
  #delivered = 0;
  /** The version of the specs that the roles have taken in. */
  #settledVersion = 0;
  #waiting: (() => void)[] = [];
  #last: Promise<unknown> = Promise.resolve();
  #isPassing = false;
  #stopped = false;
  #givenUp = false;
  #giveUp: () => void = () => {};
  /** Resolves when callbacks are not waited for any more. */
  readonly #abandoned = new Promise<void>((resolve) => (this.#giveUp = resolve));

  constructor(config: SchedulerConfig, arenaBytes: number) {
    super();
    const real = allocateSharedMemory(config, arenaBytes);
    const gate = new BatchGate(real, (batch, slots) => this.client!.isToFail(batch, slots));
    this.memory = gate.memory;
    this.specs = new SpecTable(real, true);
    this.#i32 = new Int32Array(real.buffer);
    const shards = Array.from({ length: config.shards }, (_, shard) => new ShardRole(real, shard));
    this.roles = [...gate.timing, gate, ...shards, new DispatcherRole(real)];
    this.#settledVersion = this.#version;
  }

  get #version(): number {
    return this.#i32[this.memory.version >> 2]!;
  }

  protected override takeCompletions(): boolean {
    const count = this.client!.turn();
    this.#delivered += count;
    return count > 0;
  }

  // ---------------------------------------------------------------- callbacks

  /** Whether a callback runs now. */
  get isExecuting(): boolean {
    return this.#executing.size > 0;
  }

  /** The callback as devices are to call it: time stands still until it has ended. */
  watched<I, O>(execute: ExecuteBatch<I, O>): ExecuteBatch<I, O> {
    return (batch) => {
      const running = Promise.resolve(batch).then(execute); // a microtask later: then it is known already that it runs
      this.#executing.add(running);
      const ended = (): unknown => this.#executing.delete(running);
      running.then(ended, ended);
      return running;
    };
  }

  // ---------------------------------------------------------------- time

  /**
   * Lets time pass to `target()`, asked when all earlier ones have passed; with `untilIdle` only until nothing is under way.
   */
  pass(target: () => number, untilIdle = false): Promise<void> {
    const passed = this.#last.then(() => this.#pass(target(), untilIdle));
    this.#last = passed.catch(() => {});
    return passed;
  }

  async #pass(untilNs: number, untilIdle: boolean): Promise<void> {
    this.#isPassing = true;
    try {
      await nextTurn(); // what the program is about to submit, it submits before
      await this.#comeToRest();
      for (let next = this.nextEventNs(); next <= untilNs && next < Infinity && !this.#stopped; next = this.nextEventNs()) {
        this.clock.advanceTo(Math.max(next, this.nowNs));
        await this.#comeToRest();
        if (this.#givenUp) break;
      }
      if (untilIdle && (this.#stopped || this.nextEventNs() === Infinity)) return;
      this.clock.advanceTo(Math.max(untilNs, this.nowNs));
      await this.#comeToRest();
    } finally {
      this.#isPassing = false;
      this.#wake();
      this.#takeChanges();
    }
  }

  /** Until neither the roles nor the program have anything to do at this instant. */
  async #comeToRest(): Promise<void> {
    for (let turns = 0; !this.#stopped && !this.#givenUp; turns++) {
      if (turns === MOST_TURNS) throw new RubatoError('ERR_RUBATO_TIME', `time stands still at ${this.nowNs / 1e6} ms: after ${MOST_TURNS} turns the program still submits requests that end at once`);
      const hasNews = this.settle() || this.#version !== this.#settledVersion;
      this.#settledVersion = this.#version;
      if (this.isExecuting) await Promise.race([Promise.allSettled(this.#executing), this.#abandoned]);
      else if (this.#delivered === 0 && !(hasNews && this.#waiting.length > 0)) return;
      this.#delivered = 0;
      this.#wake();
      await nextTurn();
    }
  }

  // ---------------------------------------------------------------- as a host of roles

  soon(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#takeChanges();
    });
  }

  /** Changes take no time: where none passes, they are taken in at once. */
  #takeChanges(): void {
    if (!this.#isPassing && this.#waiting.length > 0 && this.#version !== this.#settledVersion) void this.pass(() => this.nowNs);
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  startClosing(): void {
    this.#setState(STATE_CLOSING);
  }

  async stop(): Promise<void> {
    this.#setState(STATE_STOPPED);
    this.#stopped = true;
  }

  #setState(state: number): void {
    Atomics.store(this.#i32, (this.memory.control >> 2) + CONTROL_STATE, state);
    this.specs.publish();
  }

  /** Lets what runs end, for at most `mostNs` of virtual time; callbacks have as long in real time. */
  async finish(mostNs: number): Promise<void> {
    const untilNs = this.nowNs + mostNs;
    const timer = setTimeout(() => this.#abandon(), mostNs / 1e6);
    try {
      await this.pass(() => untilNs, true);
    } finally {
      clearTimeout(timer);
      // Whatever is still open will not end any more, and who waits for it looks at the clock.
      if (!this.#stopped) this.clock.advanceTo(Math.max(untilNs, this.nowNs));
      this.#abandon();
      this.#wake();
    }
  }

  #abandon(): void {
    this.#givenUp = true;
    this.#giveUp();
  }
}

/** When every handler that can run has run. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
