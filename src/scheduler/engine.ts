/**
 * Starts and stops the threads of a scheduler over its shared memory. The public `Scheduler` and the benchmarks
 * stand on it. A thread that dies is replaced (host-thread.ts).
 */
import { existsSync } from 'node:fs';
import { setTimeout } from 'node:timers';
import { fileURLToPath } from 'node:url';
import type { Worker } from 'node:worker_threads';
import { type Clock, SystemClock } from '../clock/clock.js';
import { RubatoError } from '../model/errors.js';
import type { SchedulerConfig } from '../protocol/config.js';
import { allocateSharedMemory, CONTROL_STATE, schedulerThreads, type SharedMemory, STATE_CLOSING, STATE_STOPPED } from '../protocol/shared-memory.js';
import { SpecTable } from '../protocol/specs.js';
import { LINE_BYTES } from '../ringbuf/layout.js';
import { HostThread, type ThreadStats } from './host-thread.js';
import type { SchedulerTask } from './scheduler.worker.js';
import type { WaitingStrategy } from './waiter.js';

export interface EngineOptions {
  readonly waiting: WaitingStrategy;
  /** Size of the region of tensors. */
  readonly arenaBytes?: number;
  /** A thread has died and another has taken over. */
  readonly onReplaced?: (thread: ThreadStats) => void;
  /** Begins to open its CUDA devices; returns what the dispatch thread names them by, null without any. */
  readonly openCuda?: (memory: SharedMemory) => number | null;
  /** A thread has died and cannot be replaced: nothing will end any more. Called once. */
  readonly onDeath: (reason: RubatoError) => void;
}

/** Whatever runs the roles of a scheduler: threads in real time, or a test in virtual time. */
export interface RoleHost {
  readonly memory: SharedMemory;
  readonly clock: Clock;
  /** To change models and GPUs while it runs. */
  readonly specs: SpecTable;
  /** How its threads fare; none in virtual time. */
  readonly threads: readonly ThreadStats[];
  /** Resolves when it is worth looking again at what the roles have done. */
  soon(): Promise<void>;
  /** From now on queued and new requests end as `closed`; batches that run go on. */
  startClosing(): void;
  /** Ends the roles. Whatever was in flight gets no completion any more. */
  stop(): Promise<void>;
}

const LOOK_EVERY_MS = 1;

export class Engine implements RoleHost {
  readonly memory: SharedMemory;
  readonly clock: SystemClock;
  readonly specs: SpecTable;
  readonly #i32: Int32Array;
  readonly #hosts: HostThread[];
  #isDead = false;

  private constructor(config: SchedulerConfig, options: EngineOptions) {
    const { waiting, onDeath } = options;
    const base: string | undefined = import.meta.url; // a bundle in CommonJS has none
    if (base === undefined) throw new RubatoError('ERR_RUBATO_WORKER_FILE', "a bundle in CommonJS does not know where it lies; leave 'rubato' external (docs/packaging.md)");
    const worker = new URL('./scheduler.worker.js', base);
    if (!existsSync(fileURLToPath(worker))) {
      throw new RubatoError('ERR_RUBATO_WORKER_FILE', `the scheduler's worker file ${fileURLToPath(worker)} does not exist; a bundler must leave 'rubato' external or keep its worker files (docs/packaging.md)`);
    }
    const threads = schedulerThreads(config);
    this.memory = allocateSharedMemory({ ...config, compiledLoops: true }, options.arenaBytes);
    const cuda = options.openCuda?.(this.memory) ?? null;
    this.clock = new SystemClock(config.origin);
    this.specs = new SpecTable(this.memory, true);
    this.#i32 = new Int32Array(this.memory.buffer);
    this.#hosts = Array.from({ length: threads }, (_, thread) => {
      const task: SchedulerTask = { memory: this.memory, thread, waiting, cuda };
      return new HostThread({
        name: threads === 1 ? 'the scheduler thread' : thread === 0 ? 'the dispatch thread' : `the thread of shard ${thread - 1}`,
        filename: worker.href,
        task,
        beat: () => this.heartbeat(thread),
        onReplaced: (stats) => options.onReplaced?.(stats),
        onGivenUp: (reason) => {
          if (this.#isDead) return;
          this.#isDead = true;
          onDeath(reason);
        },
      });
    });
  }

  /** Resolves when every thread has begun to poll. */
  static async start(config: SchedulerConfig, options: EngineOptions): Promise<Engine> {
    let death: RubatoError | null = null;
    const engine = new Engine(config, {
      ...options,
      onDeath: (reason) => {
        death = reason;
        options.onDeath(reason);
      },
    });
    while (!engine.#hosts.every((host) => host.isUp)) {
      if (death !== null) {
        await engine.stop(); // the other threads
        throw death as RubatoError;
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
    for (const host of engine.#hosts) host.unref();
    return engine;
  }

  /** Counts the turns of a scheduler thread's loop (wraps). */
  heartbeat(thread: number): number {
    return this.#i32[(this.memory.heartbeats + thread * LINE_BYTES) >> 2]!;
  }

  get threads(): ThreadStats[] {
    return this.#hosts.map((host) => host.stats);
  }

  /** The Worker that hosts a thread now. For tests, which kill it. */
  worker(thread: number): Worker | null {
    return this.#hosts[thread]!.worker;
  }

  soon(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
  }

  startClosing(): void {
    this.#setState(STATE_CLOSING);
  }

  #setState(state: number): void {
    Atomics.store(this.#i32, (this.memory.control >> 2) + CONTROL_STATE, state);
    this.specs.publish();
  }

  async stop(): Promise<void> {
    const stopped = this.#hosts.map((host) => host.stop());
    this.#setState(STATE_STOPPED);
    await Promise.all(stopped);
  }
}
