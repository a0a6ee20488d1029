/** The scheduler of a test: a `Scheduler` without threads, whose time passes when the test says so. */
import { DeviceError } from '../devices/callback.js';
import { type Duration, parseDurationNs } from '../model/duration.js';
import { InvalidOptionError, RubatoError } from '../model/errors.js';
import type { DetailedResult, SubmitOptions, TrySubmit } from '../scheduler/client.js';
import type { Lease } from '../scheduler/lease.js';
import { type DeviceOptions, type ModelOptions, type ResolvedOptions, resolveOptions, type SchedulerOptions } from '../scheduler/options.js';
import { openRecording } from '../scheduler/recorder.js';
import { CLOSE_TIMEOUT_NS, Scheduler } from '../scheduler/scheduler.js';
import type { Ticket } from '../scheduler/ticket.js';
import type { AnyModels, NoUnknownOptionsIn, SchedulerTypes, TypesFromModels } from '../scheduler/types.js';
import { VirtualEngine } from './virtual-engine.js';

/** How long `runUntilIdle` goes on by default. */
const MOST_IDLE_WAIT: Duration = '10m';

/**
 * As `createScheduler`, for tests: no threads, and time stands still until `advance`. Takes the same options; `topology`
 * and `waiting` do nothing, margins are 0 unless given. Throws `InvalidOptionError` for options that are wrong.
 */
export async function createTestScheduler<I = unknown, O = unknown, const M extends readonly ModelOptions[] = readonly ModelOptions[]>(
  options: SchedulerOptions<I, O, M> & { models: NoUnknownOptionsIn<M, ModelOptions> },
): Promise<TestScheduler<TypesFromModels<M, I, O>>> {
  return TestScheduler.open<TypesFromModels<M, I, O>>(resolveOptions(options, 1));
}

/**
 * A test may submit, let time pass, and only then look at the promise: by then it may have been rejected, which Node would
 * take for a rejection that nobody handles.
 */
function awaitedLater<P extends Promise<unknown>>(promise: P): P {
  promise.catch(() => {});
  return promise;
}

interface Failure {
  /** Tag of its model, null for any. */
  readonly tag: number | null;
  readonly error: unknown;
}

export class TestScheduler<T extends SchedulerTypes = AnyModels> extends Scheduler<T> {
  readonly #engine: VirtualEngine;
  readonly #failures: Failure[] = [];
  #isClosing = false;

  private constructor(engine: VirtualEngine, options: ResolvedOptions) {
    super(engine, options, options.record === null ? null : openRecording(options.record));
    this.#engine = engine;
    engine.client = {
      turn: () => this.turn(),
      isToFail: (batch, slots) => {
        const entry = this.directory.at(batch.model);
        const at = this.#failures.findIndex(({ tag }) => tag === null || tag === entry.tag);
        if (at < 0) return false;
        const [{ error }] = this.#failures.splice(at, 1) as [Failure];
        const failure = new DeviceError(entry.name, batch.gpu, `failed as failNext was told, with a batch of ${batch.size}: ${error instanceof Error ? error.message : String(error)}`, error);
        for (const slot of slots) if (slot < this.outputs.length) this.outputs[slot] = failure;
        return true;
      },
    };
  }

  /** @internal */
  static open<T extends SchedulerTypes>(resolved: ResolvedOptions): TestScheduler<T> {
    if (resolved.cuda.length > 0) throw new InvalidOptionError('devices', "kind 'cuda' runs in real time; a test scheduler has emulated and callback devices");
    const { margins } = resolved.config;
    const engine = new VirtualEngine({
      ...resolved.config,
      split: false,
      shedShare: 0,
      origin: { high: 0, low: 0 },
      margins: {
        controlNs: margins.measureControl ? 0 : margins.controlNs,
        transferNs: margins.transferNs,
        responseNs: margins.measureResponse ? 0 : margins.responseNs,
        jitterNs: margins.measureJitter ? 0 : margins.jitterNs,
        measureControl: false,
        measureResponse: false,
        measureJitter: false,
      },
    }, resolved.arenaBytes);
    const executes = resolved.executes.map((execute) => (execute === null ? null : engine.watched(execute)));
    return new TestScheduler<T>(engine, { ...resolved, config: engine.memory.config, executes });
  }

  // ---------------------------------------------------------------- time

  /** Virtual time since the start, in ms. */
  get nowMs(): number {
    return this.#engine.nowNs / 1e6;
  }

  /**
   * Lets time pass, stopping at everything that happens on the way: whoever waits for a result gets it at its moment, and
   * what it then submits arrives at that moment. When this resolves, the handlers of all promises that were settled have
   * run. Callbacks are awaited; meanwhile time stands still, so a callback that waits for this rejects.
   */
  async advance(by: Duration): Promise<void> {
    const byNs = parseDurationNs(by, 'by');
    await this.#pass(() => this.#engine.nowNs + byNs);
  }

  /** As `advance`, to a time since the start, in ms or as a duration. Rejects with InvalidOptionError when that is over. */
  async advanceTo(time: Duration): Promise<void> {
    const timeNs = parseDurationNs(time, 'time');
    await this.#pass(() => {
      if (timeNs < this.#engine.nowNs) throw new InvalidOptionError('time', `got ${String(time)}, it is ${this.nowMs} ms already`);
      return timeNs;
    });
  }

  /**
   * As `advance`, until nothing is under way: every request has ended and every device is idle. Rejects when that is not
   * so after `atMost` (default 10 minutes), as with a program that submits for ever.
   */
  async runUntilIdle(atMost: Duration = MOST_IDLE_WAIT): Promise<void> {
    const mostNs = parseDurationNs(atMost, 'atMost');
    await this.#pass(() => this.#engine.nowNs + mostNs, true);
    if (this.#engine.nextEventNs() < Infinity) throw new RubatoError('ERR_RUBATO_TIME', `after ${String(atMost)} there is still something under way: ${this.inFlight} requests are in flight`);
  }

  async #pass(target: () => number, untilIdle = false): Promise<void> {
    if (this.#engine.isExecuting) throw new RubatoError('ERR_RUBATO_TIME', 'time stands still while execute runs, and cannot be moved on from there; a batch takes the time of its profile by itself');
    await this.#engine.pass(target, untilIdle);
  }

  // ---------------------------------------------------------------- faults

  /**
   * The next batch to end, of this model or of any, fails with `error` as its cause; execute is not called for it. Each
   * call fails one batch. Throws UnknownModelError.
   */
  failNext(model?: keyof T & string, error: unknown = new Error('device failure')): void {
    this.#failures.push({ tag: model === undefined ? null : this.directory.find(model).tag, error });
  }

  // ---------------------------------------------------------------- where it differs

  override submit<N extends keyof T & string>(model: N, input: T[N]['input'], options?: SubmitOptions): Promise<T[N]['output']> {
    return awaitedLater(super.submit(model, input, options));
  }

  override submitDetailed<N extends keyof T & string>(model: N, input: T[N]['input'], options?: SubmitOptions): Promise<DetailedResult<T[N]['output']>> {
    return awaitedLater(super.submitDetailed(model, input, options));
  }

  override trySubmit<N extends keyof T & string>(model: N, input: T[N]['input'], options?: SubmitOptions): TrySubmit<T[N]['output']> {
    const answer = super.trySubmit(model, input, options);
    if (answer.accepted) void awaitedLater(answer.result);
    return answer;
  }

  override reserve<N extends keyof T & string>(model: N): Lease<T[N]> {
    const lease = super.reserve(model);
    const submit = lease.submit.bind(lease);
    return Object.defineProperty(lease, 'submit', { value: (options?: SubmitOptions) => awaitedLater(submit(options)) });
  }

  override async addDevice(options: DeviceOptions<never, unknown>): Promise<number[]> {
    const isCallback = typeof options === 'object' && options !== null && options.kind === 'callback' && typeof options.execute === 'function';
    return super.addDevice(isCallback ? { ...options, execute: this.#engine.watched(options.execute) } : options);
  }

  /** Throws: the clocks of other threads are real. */
  override ticket(): Ticket<T> {
    throw new RubatoError('ERR_RUBATO_TIME', 'a test scheduler has no tickets: on other threads time does not stand still; submit from this thread, or use createScheduler');
  }

  /**
   * As ever; time passes by itself until the batches that run have ended (at most 5 s, and as long in real time for
   * callbacks). `advance` afterwards only moves the clock.
   */
  override close(): Promise<void> {
    const closed = super.close();
    if (!this.#isClosing) {
      this.#isClosing = true;
      void this.#engine.finish(CLOSE_TIMEOUT_NS);
    }
    return closed;
  }

  /** A request in flight does not hold the program: a test that forgets to advance ends, and is told of it. @internal */
  protected override holdAlive(): void {}
}
