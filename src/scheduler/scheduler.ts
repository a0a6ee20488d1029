/**
 * The object that users hold. Everything here runs on the thread that made it: promises in, promises out, over the
 * same `ClientPort` that the raw path uses.
 *
 * A *pump* reads completions and runs callback devices. It sleeps on the client's doorbell without keeping the
 * program alive; while requests are in flight one referenced timer does that.
 */
import { setMaxListeners } from 'node:events';
import { CallbackDevice, DeviceError } from '../devices/callback.js';
import { type Duration, parsePositiveDurationNs } from '../model/duration.js';
import { InvalidOptionError, type RubatoError } from '../model/errors.js';
import { ClientPort, type Completion, REFUSED_INFEASIBLE } from '../protocol/client-port.js';
import { HOST_CALLBACK } from '../protocol/config.js';
import { OUTCOME, type OutcomeCode } from '../protocol/outcome.js';
import { StatsReader } from '../protocol/stats.js';
import { Engine } from './engine.js';
import { ClosedError, ExpiredError, InfeasibleError, LateError, OverloadedError, UnknownModelError } from './errors.js';
import { type ResolvedOptions, resolveOptions, type SchedulerOptions } from './options.js';
import { RawClient } from './raw-client.js';
import { readStats, type SchedulerStats } from './stats.js';

export interface SubmitOptions {
  /** Aborting rejects at once with the signal's reason; a queued request leaves its queue. */
  signal?: AbortSignal | undefined;
  /** Latency objective of this request instead of its model's. */
  slo?: Duration;
}

/** A result with how it came about. Times in milliseconds. */
export interface DetailedResult<O> {
  readonly output: O;
  /** Whether it came after its deadline. */
  readonly late: boolean;
  /** Arrival → start on the device. */
  readonly queueMs: number;
  /** Start → end on the device. */
  readonly execMs: number;
  /** Arrival → delivery. */
  readonly latencyMs: number;
  readonly batchSize: number;
  /** Number of the GPU that ran it. */
  readonly gpu: number;
  /** Number of the request, unique within this scheduler. */
  readonly requestId: number;
}

/** What `trySubmit` answers: a promise of the result, or why the request was not accepted. */
export type TrySubmit<O> = { readonly accepted: true; readonly result: Promise<O> } | { readonly accepted: false; readonly reason: RubatoError };

interface Pending {
  readonly requestId: number;
  readonly model: number;
  readonly sloNs: number;
  readonly detailed: boolean;
  readonly resolve: (value: unknown) => void;
  readonly reject: (reason: unknown) => void;
  readonly signal: AbortSignal | null;
  readonly onAbort: (() => void) | null;
  aborted: boolean;
}

/** `close` waits this long for batches that run; then their requests end as closed. */
const CLOSE_TIMEOUT_MS = 5000;
/** A sleeping pump looks around this often even if nobody rings. */
const PUMP_PARK_MS = 1000;
/** setInterval's longest period: a handle that only keeps the program alive. */
const LONGEST_INTERVAL_MS = 2 ** 31 - 1;
const LEAST_RETRY_MS = 1;

/** Starts a scheduler: its thread, its shared memory. Throws `InvalidOptionError` for options that are wrong. */
export async function createScheduler<I = unknown, O = unknown>(options: SchedulerOptions<I, O>): Promise<Scheduler<I, O>> {
  return Scheduler.start<I, O>(resolveOptions(options));
}

export class Scheduler<I = unknown, O = unknown> {
  readonly #engine: Engine;
  readonly #options: ResolvedOptions;
  readonly #port: ClientPort;
  readonly #stats: StatsReader;
  readonly #rawPorts: ClientPort[] = [];
  readonly #models = new Map<string, number>();
  /** By slot. */
  readonly #pending: (Pending | null)[];
  readonly #inputs: unknown[];
  readonly #outputs: unknown[];
  readonly #device: CallbackDevice | null;
  readonly #keepAlive: NodeJS.Timeout;
  #keepsAlive = false;
  #nextRequestId = 1;
  #closed: Promise<void> | null = null;
  #stopped = false;
  #death: RubatoError | null = null;
  #drainWaiters: (() => void)[] = [];

  private constructor(engine: Engine, options: ResolvedOptions) {
    const { memory } = engine;
    this.#engine = engine;
    this.#options = options;
    this.#port = new ClientPort(memory, 0);
    this.#stats = new StatsReader(memory);
    options.config.models.forEach((model, index) => this.#models.set(model.name, index));
    this.#pending = new Array<Pending | null>(this.#port.slots).fill(null);
    this.#inputs = new Array<unknown>(this.#port.slots).fill(undefined);
    this.#outputs = new Array<unknown>(this.#port.slots).fill(undefined);
    const callbacks = options.config.gpus.some((gpu) => gpu.host === HOST_CALLBACK);
    this.#device = callbacks ? new CallbackDevice(memory, engine.clock, options.executes, this.#inputs, this.#outputs) : null;
    this.#keepAlive = setInterval(() => {}, LONGEST_INTERVAL_MS);
    this.#keepAlive.unref();
  }

  /** @internal */
  static async start<I, O>(options: ResolvedOptions): Promise<Scheduler<I, O>> {
    let scheduler: Scheduler<I, O> | null = null;
    const engine = await Engine.start(options.config, {
      waiting: options.waiting,
      onDeath: (reason) => {
        if (scheduler !== null) scheduler.#die(reason);
      },
    });
    scheduler = new Scheduler<I, O>(engine, options);
    void scheduler.#pump();
    return scheduler;
  }

  // ---------------------------------------------------------------- submitting

  /**
   * Submits one request and resolves with its output; `undefined` on an emulated device.
   * Rejects with UnknownModelError, InfeasibleError, OverloadedError (see `retryAfterMs`), ExpiredError, LateError
   * (if the model wants it), DeviceError, ClosedError, or the signal's reason.
   */
  async submit(model: string, input: I, options: SubmitOptions = {}): Promise<O> {
    return (await this.#enqueue(model, input, options, false)) as O;
  }

  /** As `submit`, and tells how the result came about. Delivers late results whatever the model's `onLate`. */
  async submitDetailed(model: string, input: I, options: SubmitOptions = {}): Promise<DetailedResult<O>> {
    return (await this.#enqueue(model, input, options, true)) as DetailedResult<O>;
  }

  /**
   * As `submit`, but a request that is not accepted is an answer and not a rejection. Throws for what is no request at
   * all: an unknown model, a wrong option, a signal that is aborted already.
   */
  trySubmit(model: string, input: I, options: SubmitOptions = {}): TrySubmit<O> {
    const checked = this.#check(model, options);
    options.signal?.throwIfAborted();
    const slot = this.#closed === null ? this.#port.submit(checked.model, this.#engine.clock.nowNs(), checked.sloNs) : -1;
    if (slot < 0) return { accepted: false, reason: this.#refusal(checked.model, checked.sloNs, slot) };
    const result = this.#await(slot, checked.model, checked.sloNs, input, options.signal ?? null, false) as Promise<O>;
    this.#port.commit();
    return { accepted: true, result };
  }

  /** Submits many requests of one model with one call; resolves when all have ended, in the order of `inputs`. */
  async submitMany(model: string, inputs: readonly I[], options: SubmitOptions = {}): Promise<PromiseSettledResult<O>[]> {
    const checked = this.#check(model, options);
    options.signal?.throwIfAborted();
    const arrivalNs = this.#engine.clock.nowNs();
    const results = inputs.map((input) => {
      const slot = this.#closed === null ? this.#port.submit(checked.model, arrivalNs, checked.sloNs) : -1;
      if (slot < 0) return Promise.reject<unknown>(this.#refusal(checked.model, checked.sloNs, slot));
      return this.#await(slot, checked.model, checked.sloNs, input, options.signal ?? null, false);
    });
    this.#port.commit();
    return Promise.allSettled(results as Promise<O>[]);
  }

  #enqueue(name: string, input: I, options: SubmitOptions, detailed: boolean): Promise<unknown> {
    const { model, sloNs } = this.#check(name, options);
    options.signal?.throwIfAborted();
    const slot = this.#closed === null ? this.#port.submit(model, this.#engine.clock.nowNs(), sloNs) : -1;
    if (slot < 0) throw this.#refusal(model, sloNs, slot);
    const result = this.#await(slot, model, sloNs, input, options.signal ?? null, detailed);
    this.#port.commit();
    return result;
  }

  #check(name: string, options: SubmitOptions): { model: number; sloNs: number } {
    const model = this.#models.get(name);
    if (model === undefined) throw new UnknownModelError(name, [...this.#models.keys()]);
    const sloNs = options.slo === undefined ? this.#options.config.models[model]!.sloNs : parsePositiveDurationNs(options.slo, 'slo');
    if (options.signal !== undefined && !(options.signal instanceof AbortSignal)) throw new InvalidOptionError('signal', `got ${typeof options.signal}, must be an AbortSignal`);
    return { model, sloNs };
  }

  #refusal(model: number, sloNs: number, code: number): RubatoError {
    const { name, profile } = this.#options.config.models[model]!;
    if (this.#closed !== null) return this.#death ?? new ClosedError();
    if (code === REFUSED_INFEASIBLE) return new InfeasibleError(name, sloNs, this.#options.config.profiles[profile]![1]!);
    return new OverloadedError(name, `all ${this.#port.slots} slots are in flight (maxInFlight)`, this.#retryAfterMs(model));
  }

  /** Until about half of what is queued has run or expired: half an SLO. */
  #retryAfterMs(model: number): number {
    return Math.max(LEAST_RETRY_MS, Math.ceil(this.#options.config.models[model]!.sloNs / 2e6));
  }

  #await(slot: number, model: number, sloNs: number, input: I, signal: AbortSignal | null, detailed: boolean): Promise<unknown> {
    this.#inputs[slot] = input;
    this.#holdAlive(true);
    return new Promise((resolve, reject) => {
      const onAbort = signal === null ? null : () => this.#abort(slot, pending);
      const pending: Pending = { requestId: this.#nextRequestId++, model, sloNs, detailed, resolve, reject, signal, onAbort, aborted: false };
      this.#pending[slot] = pending;
      if (signal === null) return;
      setMaxListeners(0, signal); // one signal for hundreds of requests is no leak
      signal.addEventListener('abort', onAbort!, { once: true });
    });
  }

  #abort(slot: number, pending: Pending): void {
    if (this.#pending[slot] !== pending) return;
    pending.aborted = true;
    pending.reject(pending.signal!.reason);
    this.#port.cancel(slot);
  }

  // ---------------------------------------------------------------- completions

  /** Ends when the scheduler has stopped. */
  async #pump(): Promise<void> {
    const { bell } = this.#port;
    while (!this.#stopped) {
      if (this.#turn() > 0) {
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      bell.prepare();
      if (this.#turn() > 0) {
        bell.cancel();
        continue;
      }
      await bell.parkAsync(PUMP_PARK_MS);
    }
  }

  /** Delivers what has ended and runs callback devices; returns how much there was. */
  #turn(): number {
    let work = this.#device === null ? 0 : this.#device.poll(this.#engine.clock.nowNs());
    // Not before: the user's function may have run for long, and other batches have ended meanwhile.
    const nowNs = this.#engine.clock.nowNs();
    const count = this.#port.drain(nowNs);
    for (let k = 0; k < count; k++) this.#deliver(k, nowNs);
    work += count;
    if (count > 0 && this.#port.inFlight === 0) this.#becameIdle();
    return work;
  }

  #deliver(k: number, nowNs: number): void {
    const slot = this.#port.drainedSlots[k]!;
    const pending = this.#pending[slot];
    const output = this.#outputs[slot];
    this.#pending[slot] = null;
    this.#inputs[slot] = undefined;
    this.#outputs[slot] = undefined;
    if (pending === null || pending === undefined) return;
    if (pending.onAbort !== null) pending.signal!.removeEventListener('abort', pending.onAbort);
    if (pending.aborted) return;
    const outcome = (this.#port.drainedOutcomes[k]! & 31) as OutcomeCode;
    if (outcome === OUTCOME.completed && !pending.detailed) {
      pending.resolve(output);
      return;
    }
    this.#settle(pending, outcome, output, this.#port.completion(k), nowNs);
  }

  #settle(pending: Pending, outcome: OutcomeCode, output: unknown, completion: Completion, nowNs: number): void {
    const { name, profile } = this.#options.config.models[pending.model]!;
    switch (outcome) {
      case OUTCOME.completed:
      case OUTCOME.late:
        if (pending.detailed) pending.resolve(detail(output, pending.requestId, completion, nowNs));
        else if (outcome === OUTCOME.late && this.#options.rejectLate[pending.model]!) pending.reject(new LateError(name, completion.endNs - completion.deadlineNs));
        else pending.resolve(output);
        return;
      case OUTCOME.expired:
        pending.reject(new ExpiredError(name, pending.sloNs, completion.endNs - completion.arrivalNs));
        return;
      case OUTCOME.queueFull:
        pending.reject(new OverloadedError(name, 'its queue is full (maxQueue), or the scheduler thread is behind', this.#retryAfterMs(pending.model)));
        return;
      case OUTCOME.infeasible:
        pending.reject(new InfeasibleError(name, pending.sloNs, this.#options.config.profiles[profile]![1]!));
        return;
      case OUTCOME.failed:
        pending.reject(output instanceof DeviceError ? output : new DeviceError(name, completion.gpu, `the device failed a batch of ${completion.batchSize}`));
        return;
      case OUTCOME.closed:
        pending.reject(new ClosedError('the scheduler was closed before the request ran'));
        return;
      case OUTCOME.cancelled:
        pending.reject(new DOMException('The request was cancelled', 'AbortError'));
    }
  }

  #becameIdle(): void {
    if (this.#closed === null) this.#holdAlive(false);
    const waiters = this.#drainWaiters;
    this.#drainWaiters = [];
    for (const waiter of waiters) waiter();
  }

  /** While requests are in flight the program must not end by itself; a pending `Atomics.waitAsync` does not hold it. */
  #holdAlive(hold: boolean): void {
    if (hold === this.#keepsAlive) return;
    this.#keepsAlive = hold;
    if (hold) this.#keepAlive.ref();
    else this.#keepAlive.unref();
  }

  // ---------------------------------------------------------------- around it

  /** A raw client: numbers in and out, in bulk. At most `maxClients` can be opened. */
  client(): RawClient {
    if (this.#closed !== null) throw new ClosedError();
    const { config } = this.#options;
    if (this.#rawPorts.length + 1 >= config.maxClients) throw new InvalidOptionError('maxClients', `all ${config.maxClients - 1} raw clients are open; raise it in the options`);
    const number = 1 + this.#rawPorts.length;
    const port = new ClientPort(this.#engine.memory, number);
    this.#rawPorts.push(port);
    return new RawClient(port, this.#engine.clock, [...this.#models.keys()], {
      firstSlot: number * port.slots,
      closed: () => (this.#closed === null ? null : (this.#death ?? new ClosedError())),
      stopped: () => (this.#stopped ? (this.#death ?? new ClosedError('the scheduler was closed while the request ran')) : null),
    });
  }

  /** Counters, latencies and GPU use since the start. */
  stats(): SchedulerStats {
    return readStats(this.#stats, this.#engine.clock.nowNs());
  }

  /** Resolves when every request submitted here has ended. New ones may still be submitted. */
  async drain(): Promise<void> {
    if (this.#port.inFlight === 0 || this.#stopped) return;
    await new Promise<void>((resolve) => this.#drainWaiters.push(resolve));
  }

  /**
   * Ends the scheduler: no new requests, queued ones reject with `ClosedError`, batches that run are waited for
   * (at most 5 s). Every promise is settled when it resolves. Calling it again gives the same promise.
   */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    this.#holdAlive(true);
    for (const port of this.#rawPorts) port.commit(); // what nobody committed could not end
    this.#engine.startClosing();
    const untilMs = performance.now() + CLOSE_TIMEOUT_MS;
    while (this.#hasOpenRequests() && this.#death === null && performance.now() < untilMs) await new Promise((resolve) => setTimeout(resolve, 1));
    await this.#stop(this.#death ?? new ClosedError('the scheduler was closed while the request ran'));
  }

  /** Of this thread, until they have been delivered; of raw clients, until they have ended. */
  #hasOpenRequests(): boolean {
    return this.#port.inFlight > 0 || this.#stats.models().some((model) => model.inFlight > 0);
  }

  async #stop(reason: RubatoError): Promise<void> {
    await this.#engine.stop();
    this.#stopped = true;
    this.#port.bell.ring();
    this.#rejectAll(reason);
    clearInterval(this.#keepAlive);
  }

  /** The scheduler thread is gone: nothing will end any more, so everything ends here. */
  #die(reason: RubatoError): void {
    this.#death = reason;
    this.#closed ??= this.#stop(reason);
  }

  #rejectAll(reason: RubatoError): void {
    for (let slot = 0; slot < this.#pending.length; slot++) {
      const pending = this.#pending[slot];
      if (pending === null || pending === undefined) continue;
      this.#pending[slot] = null;
      if (pending.onAbort !== null) pending.signal!.removeEventListener('abort', pending.onAbort);
      pending.reject(reason);
    }
    for (const waiter of this.#drainWaiters.splice(0)) waiter();
  }
}

function detail(output: unknown, requestId: number, completion: Completion, nowNs: number): DetailedResult<unknown> {
  return {
    output,
    late: completion.outcome === OUTCOME.late,
    queueMs: (completion.startNs - completion.arrivalNs) / 1e6,
    execMs: (completion.endNs - completion.startNs) / 1e6,
    latencyMs: (Math.max(nowNs, completion.endNs) - completion.arrivalNs) / 1e6, // it may have ended since the clock was read
    batchSize: completion.batchSize,
    gpu: completion.gpu,
    requestId,
  };
}
