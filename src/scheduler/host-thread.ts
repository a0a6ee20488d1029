/**
 * One thread of a scheduler: an endless `run()` in a Piscina of its own, and a new one whenever it has died.
 *
 * A rejected `run()` is a suspicion only: Piscina may tell it milliseconds before the Worker has ended, and meanwhile the
 * Worker may still write shared memory. So nothing is done before its `exit`; then a new thread takes over from the durable
 * tables. A thread that does not beat is killed first. Three deaths in a row for the same reason, each soon after the start, are
 * no accident: then, and when a killed thread does not end, it is given up.
 */
import { clearInterval, clearTimeout, setInterval, setTimeout } from 'node:timers';
import { types } from 'node:util';
import { MessagePort, type Worker } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { RubatoError } from '../model/errors.js';

/** A scheduler thread leaves its loop within one poll; longer means that it is stuck. */
export const STOP_TIMEOUT_MS = 2000;
/** Parks last 100 ms at most, so a healthy thread beats ten times a second: this is not the noise of a busy machine. */
const SILENT_MS = 3000;
/** Looks without a beat, each after a turn of the event loop: a program that was stopped as a whole has not lost its threads. */
const SILENT_LOOKS = 4;
/** The same for a thread that has not begun to poll: on a busy machine a start takes longer than any poll. */
const SILENT_START_MS = 15_000;
const SILENT_START_LOOKS = (SILENT_START_MS / SILENT_MS) * SILENT_LOOKS;
/** A terminated thread ends as soon as it is in JavaScript; longer means that it is stuck in a native call. */
const EXIT_TIMEOUT_MS = 5000;
/** A death so soon after the start, and for the same reason as the one before, is one in a row of them. */
const SOON_MS = 100;
const MOST_IN_A_ROW = 3;
const LOOK_EVERY_MS = 1;

/** What the statistics say of a scheduler thread. */
export interface ThreadStats {
  readonly name: string;
  /** How often it has died and was replaced. */
  readonly replaced: number;
  /** Why it died last; null: it never has. */
  readonly lastDeath: string | null;
  /** From its last death until its successor polled. */
  readonly lastRecoveryMs: number | null;
}

export interface HostThreadOptions {
  readonly name: string;
  readonly filename: string;
  readonly task: unknown;
  /** A word that changes whenever the thread has polled. */
  readonly beat: () => number;
  readonly onReplaced: (stats: ThreadStats) => void;
  readonly onGivenUp: (reason: RubatoError) => void;
}

export class HostThread {
  readonly #options: HostThreadOptions;
  readonly #pool: Piscina;
  readonly #monitor: NodeJS.Timeout;
  #worker: Worker | null = null;
  /** Piscina's end of the channel to the thread: it holds the program as long as the `run()` lasts, which here is for ever. */
  #ports: MessagePort[] = [];
  #abort = new AbortController();
  #ended: Promise<void> = Promise.resolve();
  #killedFor: string | null = null;
  #stopping = false;
  #beatAtStart = 0;
  #beatSeen = 0;
  #silentLooks = 0;
  /** Looks of this life that have seen it beat. */
  #livelyLooks = 0;
  #upSinceMs = -1;
  #inARow = 0;
  #replaced = 0;
  #lastDeath: string | null = null;
  #lastRecoveryMs: number | null = null;

  constructor(options: HostThreadOptions) {
    this.#options = options;
    this.#pool = new Piscina({
      filename: options.filename,
      minThreads: 0, // a dead one is replaced here, when it is certain that it has ended
      maxThreads: 1,
      idleTimeout: Infinity,
      concurrentTasksPerWorker: 1,
      atomics: 'disabled',
      recordTiming: false,
      closeTimeout: STOP_TIMEOUT_MS,
    });
    // An error event without a listener would end the process; the rejected run tells the same.
    this.#pool.on('error', () => {});
    this.#run();
    this.#monitor = setInterval(() => this.#listen(), SILENT_MS / SILENT_LOOKS).unref();
  }

  /** Whether the thread polls. */
  get isUp(): boolean {
    return this.#upSinceMs >= 0 || this.#options.beat() !== this.#beatAtStart;
  }

  get stats(): ThreadStats {
    return { name: this.#options.name, replaced: this.#replaced, lastDeath: this.#lastDeath, lastRecoveryMs: this.#lastRecoveryMs };
  }

  /** The Worker of now. For tests, which kill it. */
  get worker(): Worker | null {
    return this.#worker;
  }

  /** The threads work for the program, they must not keep the program alive: that is what requests in flight do. */
  unref(): void {
    this.#upSinceMs = performance.now();
    this.#worker?.unref();
    for (const port of this.#ports) port.unref();
  }

  /** Resolves when the thread has left its loop, or after 2 s, and is gone; at the latest 5 s later, also if it is not. Tell it to stop first. */
  async stop(): Promise<void> {
    this.#stopping = true;
    clearInterval(this.#monitor);
    await orAfter(this.#ended, STOP_TIMEOUT_MS);
    await orAfter(this.#pool.destroy(), EXIT_TIMEOUT_MS);
  }

  #run(): void {
    this.#upSinceMs = -1;
    this.#beatAtStart = this.#beatSeen = this.#options.beat();
    this.#silentLooks = this.#livelyLooks = 0;
    this.#killedFor = null;
    this.#abort = new AbortController();
    const before = messagePorts();
    const run = this.#pool.run(this.#options.task, { signal: this.#abort.signal }) as Promise<unknown>;
    const worker = this.#pool.threads[0]!;
    this.#worker = worker;
    this.#ports = messagePorts().filter((port) => !before.includes(port));
    // `stop` waits for the end of the loop only: the Worker itself goes with the pool.
    this.#ended = run.then(
      () => this.#leave('it left its loop'),
      (error: unknown) => this.#leave(messageOf(error)), // one that has thrown is still there
    );
    // Of one that fails before it has begun its task the run says only that it was aborted.
    let failure: unknown = null;
    worker.once('error', (error) => (failure = error));
    worker.once('exit', () => void this.#exited(run, failure));
  }

  #leave(reason: string): void {
    if (this.#stopping) return;
    this.#killedFor ??= reason;
    this.#abort.abort(); // of a run that has ended it does nothing
    void this.#worker?.terminate();
  }

  async #exited(run: Promise<unknown>, failure: unknown): Promise<void> {
    const diedMs = performance.now();
    const killedFor = this.#killedFor; // the abort would give another reason
    this.#abort.abort(); // a run that no thread had begun would wait for ever
    const cause: unknown = await run.then(
      () => undefined,
      (error: unknown) => failure ?? error,
    );
    if (this.#stopping) return;
    const wasUp = this.isUp;
    const livedMs = this.#upSinceMs < 0 ? 0 : diedMs - this.#upSinceMs;
    const reason = killedFor ?? messageOf(cause);
    // One that was killed for its silence has lived no longer than it was heard, and not as long as it was waited for.
    const wasSoon = livedMs < SOON_MS || (this.#silentLooks >= SILENT_LOOKS && this.#livelyLooks <= 1);
    this.#inARow = wasSoon && reason === this.#lastDeath ? this.#inARow + 1 : 1;
    this.#lastDeath = reason;
    // One that never ran has nothing to go on from: its file is bad, or there is no memory for it.
    if ((!wasUp && this.#replaced === 0) || this.#inARow === MOST_IN_A_ROW) {
      this.#giveUp(reason, cause);
      return;
    }
    const life = ++this.#replaced;
    this.#run();
    while (!this.#stopping && this.#replaced === life && !this.isUp) await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    if (this.#stopping || this.#replaced !== life) return; // the next death says the rest
    this.unref();
    this.#lastRecoveryMs = performance.now() - diedMs;
    this.#options.onReplaced(this.stats);
  }

  #giveUp(reason: string, cause: unknown): void {
    this.#stopping = true;
    clearInterval(this.#monitor);
    const times = this.#inARow > 1 ? ` (${this.#inARow} times in a row)` : '';
    this.#options.onGivenUp(new RubatoError('ERR_RUBATO_THREAD_DIED', `${this.#options.name} has ended unexpectedly${times}: ${reason}`, { cause }));
  }

  /** Kills a thread that does not beat. */
  #listen(): void {
    const beat = this.#options.beat();
    if (beat === this.#beatSeen) {
      this.#silentLooks++;
    } else {
      this.#silentLooks = 0;
      this.#livelyLooks++;
    }
    this.#beatSeen = beat;
    if (this.#silentLooks < (this.isUp ? SILENT_LOOKS : SILENT_START_LOOKS) || this.#killedFor !== null || this.#stopping) return;
    const worker = this.#worker!;
    const reason = this.isUp ? `it has not polled for ${SILENT_MS} ms` : `it has not begun to poll within ${SILENT_START_MS} ms`;
    this.#leave(reason);
    void orAfter(new Promise<void>((resolve) => worker.once('exit', () => resolve())), EXIT_TIMEOUT_MS).then((ended) => {
      if (!ended && !this.#stopping) this.#giveUp(`${reason}, and was killed, and has not ended ${EXIT_TIMEOUT_MS} ms after that`, undefined);
    });
  }
}

/** Not by `instanceof` alone: errors of a Worker have another realm. */
function messageOf(error: unknown): string {
  return error instanceof Error || types.isNativeError(error) ? error.message : String(error);
}

/** Whether `promise` was fulfilled within that time. */
async function orAfter(promise: Promise<void>, timeoutMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), timeoutMs);
  });
  const inTime = await Promise.race([promise.then(() => true), late]);
  clearTimeout(timer);
  return inTime;
}

/**
 * The message ports that hold the program now. Piscina keeps its own private; it makes them while `run` starts a thread, so
 * what is new right after it is theirs. Without this call of Node the program would have to close its scheduler to end.
 */
function messagePorts(): MessagePort[] {
  const { _getActiveHandles: activeHandles } = process as unknown as { _getActiveHandles?: () => unknown[] };
  return (activeHandles?.call(process) ?? []).filter((handle): handle is MessagePort => handle instanceof MessagePort);
}
