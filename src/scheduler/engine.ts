/**
 * Starts and stops the threads of a scheduler over its shared memory. The public `Scheduler` and the benchmarks
 * stand on it.
 *
 * Threads are hosted by Piscina, one endless `run()` each. A `run()` that ends before it was told to is a dead
 * scheduler: `onDeath` is called once with the reason.
 */
import { MessagePort } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { SystemClock } from '../clock/clock.js';
import { RubatoError } from '../model/errors.js';
import type { SchedulerConfig } from '../protocol/config.js';
import { allocateSharedMemory, CONTROL_HEARTBEAT, CONTROL_STATE, type SharedMemory, STATE_CLOSING, STATE_STOPPED } from '../protocol/shared-memory.js';
import { Doorbell } from '../ringbuf/doorbell.js';
import type { SchedulerTask } from './scheduler.worker.js';
import type { WaitingStrategy } from './waiter.js';

/** A scheduler thread leaves its loop within one poll; longer means that it is stuck. */
const STOP_TIMEOUT_MS = 2000;

export class Engine {
  readonly memory: SharedMemory;
  readonly clock: SystemClock;
  readonly #control: Int32Array;
  readonly #bell: Doorbell;
  readonly #pool: Piscina;
  /** Piscina's end of the channel to its thread: it holds the program as long as a `run()` lasts, which here is for ever. */
  readonly #ports: MessagePort[];
  readonly #running: Promise<void>;
  #stopping = false;

  private constructor(config: SchedulerConfig, waiting: WaitingStrategy, onDeath: (reason: RubatoError) => void) {
    this.memory = allocateSharedMemory(config);
    this.clock = new SystemClock(config.origin);
    this.#control = new Int32Array(this.memory.buffer, this.memory.control);
    this.#bell = new Doorbell(this.memory.buffer, this.memory.dispatcherBell);
    const before = messagePorts();
    this.#pool = new Piscina({
      filename: new URL('./scheduler.worker.js', import.meta.url).href,
      minThreads: 1,
      maxThreads: 1,
      idleTimeout: Infinity,
      concurrentTasksPerWorker: 1,
      atomics: 'disabled',
      recordTiming: false,
      closeTimeout: STOP_TIMEOUT_MS,
    });
    this.#ports = messagePorts().filter((port) => !before.includes(port));
    const task: SchedulerTask = { memory: this.memory, waiting };
    this.#running = this.#pool.run(task).then(
      () => this.#ended(onDeath, undefined),
      (error: unknown) => this.#ended(onDeath, error),
    );
    // An error event without a listener would end the process; the rejected run above tells the same.
    this.#pool.on('error', () => {});
  }

  /** Resolves when the scheduler thread has begun to poll. */
  static async start(config: SchedulerConfig, waiting: WaitingStrategy, onDeath: (reason: RubatoError) => void): Promise<Engine> {
    let death: RubatoError | null = null;
    const engine = new Engine(config, waiting, (reason) => {
      death = reason;
      onDeath(reason);
    });
    while (engine.heartbeat === 0) {
      if (death !== null) throw death as RubatoError;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    // The thread works for the program, it must not keep the program alive: that is what requests in flight do.
    for (const thread of engine.#pool.threads) thread.unref();
    for (const port of engine.#ports) port.unref();
    return engine;
  }

  /** Counts the turns of the scheduler thread's loop (wraps). */
  get heartbeat(): number {
    return this.#control[CONTROL_HEARTBEAT]!;
  }

  #ended(onDeath: (reason: RubatoError) => void, cause: unknown): void {
    if (this.#stopping) return;
    this.#stopping = true;
    const detail = cause instanceof Error ? cause.message : 'it left its loop';
    onDeath(new RubatoError('ERR_RUBATO_THREAD_DIED', `the scheduler thread has ended unexpectedly: ${detail}`, { cause }));
  }

  /** From now on queued and new requests end as `closed`; batches that run go on. */
  startClosing(): void {
    Atomics.store(this.#control, CONTROL_STATE, STATE_CLOSING);
    this.#bell.ring();
  }

  /** Ends the threads. Whatever was in flight gets no completion any more. */
  async stop(): Promise<void> {
    this.#stopping = true;
    Atomics.store(this.#control, CONTROL_STATE, STATE_STOPPED);
    this.#bell.ring();
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
 * The message ports that hold the program now. Piscina keeps its own private; it makes one while its constructor runs, so
 * what is new right after it is that one. Without this call of Node the program would have to close its scheduler to end.
 */
function messagePorts(): MessagePort[] {
  const { _getActiveHandles: activeHandles } = process as unknown as { _getActiveHandles?: () => unknown[] };
  return (activeHandles?.call(process) ?? []).filter((handle): handle is MessagePort => handle instanceof MessagePort);
}
