/**
 * Starts and stops the threads of a scheduler over its shared memory. The public `Scheduler` and the benchmarks
 * stand on it.
 *
 * Threads are hosted by Piscina, one endless `run()` each. A `run()` that ends before it was told to is a dead
 * scheduler: `onDeath` is called once with the reason.
 */
import { existsSync } from 'node:fs';
import { clearTimeout, setTimeout } from 'node:timers';
import { fileURLToPath } from 'node:url';
import { types } from 'node:util';
import { MessagePort } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { type Clock, SystemClock } from '../clock/clock.js';
import { RubatoError } from '../model/errors.js';
import type { SchedulerConfig } from '../protocol/config.js';
import { allocateSharedMemory, CONTROL_STATE, schedulerThreads, type SharedMemory, STATE_CLOSING, STATE_STOPPED } from '../protocol/shared-memory.js';
import { SpecTable } from '../protocol/specs.js';
import { LINE_BYTES } from '../ringbuf/layout.js';
import type { SchedulerTask } from './scheduler.worker.js';
import type { WaitingStrategy } from './waiter.js';

/** A scheduler thread leaves its loop within one poll; longer means that it is stuck. */
const STOP_TIMEOUT_MS = 2000;

export interface EngineOptions {
  readonly waiting: WaitingStrategy;
  /** Size of the region of tensors. */
  readonly arenaBytes?: number;
  readonly onDeath: (reason: RubatoError) => void;
}

/** Whatever runs the roles of a scheduler: threads in real time, or a test in virtual time. */
export interface RoleHost {
  readonly memory: SharedMemory;
  readonly clock: Clock;
  /** To change models and GPUs while it runs. */
  readonly specs: SpecTable;
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
  readonly #pool: Piscina;
  /** Piscina's ends of the channels to its threads: they hold the program as long as a `run()` lasts, which here is for ever. */
  readonly #ports: MessagePort[];
  readonly #running: Promise<unknown>;
  #stopping = false;

  private constructor(config: SchedulerConfig, options: EngineOptions) {
    const { waiting, onDeath } = options;
    const base: string | undefined = import.meta.url; // a bundle in CommonJS has none
    if (base === undefined) throw new RubatoError('ERR_RUBATO_WORKER_FILE', "a bundle in CommonJS does not know where it lies; leave 'rubato' external (docs/packaging.md)");
    const worker = new URL('./scheduler.worker.js', base);
    if (!existsSync(fileURLToPath(worker))) {
      throw new RubatoError('ERR_RUBATO_WORKER_FILE', `the scheduler's worker file ${fileURLToPath(worker)} does not exist; a bundler must leave 'rubato' external or keep its worker files (docs/packaging.md)`);
    }
    const threads = schedulerThreads(config);
    this.memory = allocateSharedMemory(config, options.arenaBytes);
    this.clock = new SystemClock(config.origin);
    this.specs = new SpecTable(this.memory, true);
    this.#i32 = new Int32Array(this.memory.buffer);
    const before = messagePorts();
    this.#pool = new Piscina({
      filename: worker.href,
      minThreads: threads,
      maxThreads: threads,
      idleTimeout: Infinity,
      concurrentTasksPerWorker: 1,
      atomics: 'disabled',
      recordTiming: false,
      closeTimeout: STOP_TIMEOUT_MS,
    });
    this.#ports = messagePorts().filter((port) => !before.includes(port));
    this.#running = Promise.all(
      Array.from({ length: threads }, (_, thread) => {
        const task: SchedulerTask = { memory: this.memory, thread, waiting };
        return this.#pool.run(task).then(
          () => this.#ended(thread, onDeath, undefined),
          (error: unknown) => this.#ended(thread, onDeath, error),
        );
      }),
    );
    // An error event without a listener would end the process; the rejected run above tells the same.
    this.#pool.on('error', () => {});
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
    const threads = schedulerThreads(config);
    while (!Array.from({ length: threads }, (_, thread) => engine.heartbeat(thread)).every((beat) => beat !== 0)) {
      if (death !== null) {
        await engine.stop(); // the other threads
        throw death as RubatoError;
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    // The threads work for the program, they must not keep the program alive: that is what requests in flight do.
    for (const thread of engine.#pool.threads) thread.unref();
    for (const port of engine.#ports) port.unref();
    return engine;
  }

  /** Counts the turns of a scheduler thread's loop (wraps). */
  heartbeat(thread: number): number {
    return this.#i32[(this.memory.heartbeats + thread * LINE_BYTES) >> 2]!;
  }

  #ended(thread: number, onDeath: (reason: RubatoError) => void, cause: unknown): void {
    if (this.#stopping) return;
    this.#stopping = true;
    const detail = cause instanceof Error || types.isNativeError(cause) ? cause.message : 'it left its loop';
    const name = schedulerThreads(this.memory.config) === 1 ? 'the scheduler thread' : thread === 0 ? 'the dispatch thread' : `the thread of shard ${thread - 1}`;
    onDeath(new RubatoError('ERR_RUBATO_THREAD_DIED', `${name} has ended unexpectedly: ${detail}`, { cause }));
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
    this.#stopping = true;
    this.#setState(STATE_STOPPED);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, STOP_TIMEOUT_MS);
    });
    await Promise.race([this.#running, late]);
    clearTimeout(timer);
    await this.#pool.destroy();
  }
}

/**
 * The message ports that hold the program now. Piscina keeps its own private; it makes them while its constructor runs, so
 * what is new right after it is theirs. Without this call of Node the program would have to close its scheduler to end.
 */
function messagePorts(): MessagePort[] {
  const { _getActiveHandles: activeHandles } = process as unknown as { _getActiveHandles?: () => unknown[] };
  return (activeHandles?.call(process) ?? []).filter((handle): handle is MessagePort => handle instanceof MessagePort);
}
