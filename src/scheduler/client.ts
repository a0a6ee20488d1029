/**
 * A client: promises in, promises out, on the thread that opened it, over the same `ClientPort` that the raw path uses.
 * The scheduler object is one; `openClient` makes one on another thread of the program.
 *
 * A *pump* reads completions. It sleeps on the client's doorbell without keeping the program alive; while requests are
 * in flight one referenced timer does that. Requests of one turn of the event loop are committed together at its end.
 */
import { setMaxListeners } from 'node:events';
import { clearInterval, setImmediate, setInterval } from 'node:timers';
import type { Clock } from '../clock/clock.js';
import { DeviceError } from '../devices/callback.js';
import { type Duration, parsePositiveDurationNs } from '../model/duration.js';
import { InvalidOptionError, RubatoError } from '../model/errors.js';
import { copyIn, copyOut, zerosOf } from '../model/tensor.js';
import { arenaTableWords, CellAllocator } from '../protocol/arena.js';
import { ClientPort, type Completion, REFUSED_INFEASIBLE, REFUSED_NO_MODEL } from '../protocol/client-port.js';
import { HOST_EMULATED } from '../protocol/config.js';
import { gpuOf, OUTCOME, type OutcomeCode } from '../protocol/outcome.js';
import { CONTROL_STATE, type SharedMemory, STATE_RUNNING, STATE_STOPPED } from '../protocol/shared-memory.js';
import { GPU_SPEC, MODEL_SPEC } from '../protocol/specs.js';
import { CLIENT_MODEL, COUNTER_OF_OUTCOME, SHARD_MODEL } from '../protocol/tables.js';
import type { ModelDirectory, ModelEntry } from './directory.js';
import { ClosedError, ExpiredError, InfeasibleError, LateError, OverloadedError, UnknownModelError } from './errors.js';
import { Lease, type LeaseHost } from './lease.js';
import type { AnyModels, schedulerTypes, SchedulerTypes, Typed } from './types.js';

export interface SubmitOptions {
  /** Aborting rejects at once with the signal's reason; a queued request leaves its queue, and its place goes to another. */
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
  /** Number of the request, unique within its client. */
  readonly requestId: number;
}

/** What `trySubmit` answers: a promise of the result, or why the request was not accepted. */
export type TrySubmit<O> = { readonly accepted: true; readonly result: Promise<O> } | { readonly accepted: false; readonly reason: RubatoError };

/** A request under way. It is its own abort listener. */
class Pending {
  aborted = false;

  constructor(
    readonly client: AbortHandler,
    readonly slot: number,
    readonly requestId: number,
    readonly model: ModelEntry,
    readonly sloNs: number,
    readonly detailed: boolean,
    readonly signal: AbortSignal | null,
    /** Where its tensors lie, -1 without. */
    readonly cell: number,
    /** Whose cell that is; null when the client took it for this request alone. */
    readonly lease: Lease | null,
    readonly resolve: (value: unknown) => void,
    readonly reject: (reason: unknown) => void,
  ) {}

  handleEvent(): void {
    this.client.abort(this);
  }
}

interface AbortHandler {
  abort(pending: Pending): void;
}

/** A sleeping pump looks around this often even if nobody rings. */
const PUMP_PARK_MS = 1000;
/** setInterval's longest period: a handle that only keeps the program alive. */
const LONGEST_INTERVAL_MS = 2 ** 31 - 1;
const LEAST_RETRY_MS = 1;

const NO_OPTIONS: SubmitOptions = Object.freeze({});

export class Client<T extends SchedulerTypes = AnyModels> implements Typed<T> {
  declare readonly [schedulerTypes]?: T;
  /** @internal */
  protected readonly memory: SharedMemory;
  /** @internal */
  protected readonly clock: Clock;
  /** @internal */
  protected readonly directory: ModelDirectory;
  /** @internal */
  protected readonly port: ClientPort;
  /** By slot. What a callback device on this thread takes and gives. @internal */
  protected readonly inputs: unknown[];
  /** @internal */
  protected readonly outputs: unknown[];
  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  readonly #stateAt: number;
  readonly #pending: (Pending | null)[];
  readonly #cells: CellAllocator | null;
  readonly #aborts: AbortHandler = { abort: (pending) => this.#abort(pending) };
  readonly #leases: LeaseHost;
  readonly #keepAlive: NodeJS.Timeout;
  #keepsAlive = false;
  #nextRequestId = 1;
  #commitIsDue = false;
  #ended = false;
  #refusesMore = false;
  #waiters: (() => void)[] = [];

  /** @internal */
  constructor(memory: SharedMemory, clock: Clock, client: number, directory: ModelDirectory) {
    this.memory = memory;
    this.clock = clock;
    this.directory = directory;
    this.port = new ClientPort(memory, client);
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#stateAt = (memory.control >> 2) + CONTROL_STATE;
    this.#pending = new Array<Pending | null>(this.port.slots).fill(null);
    this.inputs = new Array<unknown>(this.port.slots).fill(undefined);
    this.outputs = new Array<unknown>(this.port.slots).fill(undefined);
    this.#cells = memory.arena === null ? null : new CellAllocator(pageTable(memory), client);
    this.#leases = {
      buffer: memory.arena,
      submit: (lease, options) => this.#submitLease(lease, options),
      // Once the whole scheduler has stopped, the memory is nobody else's.
      isOver: () => this.#ended && this.#i32[this.#stateAt] !== STATE_STOPPED,
      // After its end the memory may be another client's.
      give: (lease) => {
        if (!this.#ended) this.#cells!.give(lease.model.number, lease.cell);
      },
    };
    this.#keepAlive = setInterval(() => {}, LONGEST_INTERVAL_MS);
    this.#keepAlive.unref();
  }

  // ---------------------------------------------------------------- submitting

  /**
   * Submits one request and resolves with its output: the output tensors as private copies, or what the callback device
   * gave for a model without tensors (`undefined` on an emulated one).
   * Rejects with UnknownModelError, InvalidInputError, InfeasibleError, OverloadedError (see `retryAfterMs`),
   * ExpiredError, LateError (if the model wants it), DeviceError, ClosedError, or the signal's reason.
   */
  submit<N extends keyof T & string>(model: N, input: T[N]['input'], options: SubmitOptions = NO_OPTIONS): Promise<T[N]['output']> {
    return this.#enqueue(model, input, options, false) as Promise<T[N]['output']>;
  }

  /** As `submit`, and tells how the result came about. Delivers late results whatever the model's `onLate`. */
  submitDetailed<N extends keyof T & string>(model: N, input: T[N]['input'], options: SubmitOptions = NO_OPTIONS): Promise<DetailedResult<T[N]['output']>> {
    return this.#enqueue(model, input, options, true) as Promise<DetailedResult<T[N]['output']>>;
  }

  /**
   * As `submit`, but a request that is not accepted is an answer and not a rejection. Throws for what is no request at
   * all: an unknown model, a wrong input or option, a signal that is aborted already.
   */
  trySubmit<N extends keyof T & string>(model: N, input: T[N]['input'], options: SubmitOptions = NO_OPTIONS): TrySubmit<T[N]['output']> {
    const entry = this.directory.find(model);
    const sloNs = checkedSloNs(options);
    options.signal?.throwIfAborted();
    const result = this.#tryOne(entry, input, sloNs, options.signal ?? null, false);
    return result instanceof RubatoError ? { accepted: false, reason: result } : { accepted: true, result: result as Promise<T[N]['output']> };
  }

  /** Submits many requests of one model with one call; resolves when all have ended, in the order of `inputs`. */
  async submitMany<N extends keyof T & string>(model: N, inputs: readonly T[N]['input'][], options: SubmitOptions = NO_OPTIONS): Promise<PromiseSettledResult<T[N]['output']>[]> {
    const entry = this.directory.find(model);
    const sloNs = checkedSloNs(options);
    options.signal?.throwIfAborted();
    // A wrong input is the answer for that one: those before it are under way already.
    const results = inputs.map(async (input) => {
      const result = this.#tryOne(entry, input, sloNs, options.signal ?? null, false);
      if (result instanceof RubatoError) throw result;
      return result;
    });
    this.port.commit();
    return Promise.allSettled(results as Promise<T[N]['output']>[]);
  }

  /**
   * Takes memory for the tensors of one request, to be filled in place: the way without copies. Fill `lease.inputs`,
   * `await lease.submit()`, read the outputs it resolves with, and `release()` it.
   * Throws OverloadedError when the tensor memory is exhausted (`memoryLimit`), InvalidOptionError for a model without tensors.
   */
  reserve<N extends keyof T & string>(model: N): Lease<T[N]> {
    const entry = this.directory.find(model);
    if (entry.layout === null) throw new InvalidOptionError('model', `'${model}' has no tensors to reserve memory for; declare its inputs and outputs, or submit values`);
    const closed = this.#closedReason();
    if (closed !== null) throw closed;
    return new Lease(this.#leases, entry, this.#takeCell(entry)) as unknown as Lease<T[N]>;
  }

  /**
   * How many requests for the model would be accepted now: the free slots of this client, and the room in the model's
   * queue, with all that is on its way there. Tensor memory is not looked at. 0 while it is closed.
   */
  credit(model: keyof T & string): number {
    const entry = this.directory.find(model);
    if (this.#closedReason() !== null) return 0;
    const maxQueue = this.#i32[(this.memory.specs >> 2) + entry.number * MODEL_SPEC.words + MODEL_SPEC.at.maxQueue]!;
    return Math.max(0, Math.min(this.port.freeSlots, maxQueue - this.#waiting(entry.number)));
  }

  /** Requests of all clients that are queued or on their way to the queue: accepted, not ended, not on a device. At most too many. */
  #waiting(model: number): number {
    const { clients, shardModels } = this.memory;
    const f64 = this.#f64;
    const row = ((shardModels >> 2) + model * SHARD_MODEL.words) >> 1;
    let waiting = 0;
    // Endings first: a request goes from running to ended, and must not be taken off twice.
    for (const outcome of Object.values(OUTCOME)) waiting -= f64[row + COUNTER_OF_OUTCOME + outcome]!;
    waiting -= f64[row + SHARD_MODEL.at.running]!;
    for (const client of clients) waiting += f64[(client.models >> 3) + model * (CLIENT_MODEL.words / 2) + CLIENT_MODEL.at.accepted]!;
    return waiting;
  }

  #enqueue(name: string, input: unknown, options: SubmitOptions, detailed: boolean): Promise<unknown> {
    try {
      const entry = this.directory.find(name);
      const sloNs = checkedSloNs(options);
      const signal = options.signal ?? null;
      if (signal !== null) signal.throwIfAborted();
      const result = this.#tryOne(entry, input, sloNs, signal, detailed);
      return result instanceof RubatoError ? Promise.reject(result) : result;
    } catch (error) {
      return Promise.reject(error as Error);
    }
  }

  /** The promise of the result, or why it was refused. `sloNs` 0 is the model's own. Throws InvalidInputError. */
  #tryOne(entry: ModelEntry, input: unknown, sloNs: number, signal: AbortSignal | null, detailed: boolean): Promise<unknown> | RubatoError {
    let cell = -1;
    if (entry.layout === null) {
      this.checkValue(entry, input);
    } else {
      const closed = this.#closedReason();
      if (closed !== null) return closed;
      try {
        cell = this.#takeCell(entry);
      } catch (error) {
        this.port.countRefused(entry.number);
        return error as RubatoError;
      }
      try {
        copyIn(this.memory.arena!, cell, entry.layout, input, entry.name);
      } catch (error) {
        this.#cells!.give(entry.number, cell);
        throw error;
      }
    }
    const slot = this.#takeSlot(entry, sloNs);
    if (slot < 0) {
      if (cell >= 0) this.#cells!.give(entry.number, cell);
      return this.#refusal(entry, sloNs, slot);
    }
    if (cell < 0) this.inputs[slot - this.port.firstSlot] = input;
    return this.#await(slot, entry, sloNs, signal, detailed, cell, null);
  }

  /** A slot with the request in it, or why there is none (< 0). */
  #takeSlot(entry: ModelEntry, sloNs: number): number {
    if (this.#ended || this.#refusesMore || this.#i32[this.#stateAt] !== STATE_RUNNING) return CLOSED;
    if (this.port.tag(entry.number) !== entry.tag) return REFUSED_NO_MODEL;
    return this.port.submit(entry.number, this.clock.nowNs(), sloNs);
  }

  #takeCell(entry: ModelEntry): number {
    const cell = this.#cells!.take(entry.number, entry.layout!.bytes);
    if (cell >= 0) return cell;
    const { bytes } = entry.layout!;
    throw new OverloadedError(
      entry.name,
      `the tensor memory is exhausted: a request takes ${bytes} bytes and no page of the ${this.memory.pageCount} × 64 KiB (memoryLimit) is free`,
      this.#retryAfterMs(entry.number),
    );
  }

  #closedReason(): RubatoError | null {
    return this.#ended || this.#refusesMore || this.#i32[this.#stateAt] !== STATE_RUNNING ? this.closedReason() : null;
  }

  /** Why nothing is accepted any more. @internal */
  protected closedReason(): RubatoError {
    return new ClosedError();
  }

  /** @internal */
  protected refuseMore(): void {
    this.#refusesMore = true;
  }

  /** Whether the value may be given to a callback device. Throws InvalidInputError. @internal */
  protected checkValue(_model: ModelEntry, _input: unknown): void {}

  #refusal(entry: ModelEntry, sloNs: number, code: number): RubatoError {
    if (code === CLOSED) return this.closedReason();
    if (code === REFUSED_NO_MODEL) return new UnknownModelError(entry.name, this.directory.names().filter((name) => name !== entry.name));
    if (code === REFUSED_INFEASIBLE) return new InfeasibleError(entry.name, sloNs === 0 ? this.port.sloNs(entry.number) : sloNs, this.port.aloneNs(entry.number));
    return new OverloadedError(entry.name, `all ${this.port.slots} slots are in flight (maxInFlight)`, this.#retryAfterMs(entry.number));
  }

  /** Until about half of what is queued has run or expired: half an SLO. */
  #retryAfterMs(model: number): number {
    return Math.max(LEAST_RETRY_MS, Math.ceil(this.port.sloNs(model) / 2e6));
  }

  #await(slot: number, entry: ModelEntry, sloNs: number, signal: AbortSignal | null, detailed: boolean, cell: number, lease: Lease | null): Promise<unknown> {
    this.port.setCell(slot, cell);
    this.holdAlive(true);
    if (!this.#commitIsDue) {
      this.#commitIsDue = true;
      queueMicrotask(this.#commit);
    }
    return new Promise((resolve, reject) => {
      const pending = new Pending(this.#aborts, slot, this.#nextRequestId++, entry, sloNs, detailed, signal, cell, lease, resolve, reject);
      this.#pending[slot - this.port.firstSlot] = pending;
      if (signal !== null) listen(signal, pending);
    });
  }

  /** At the end of the turn: everything that it has submitted, with one store per shard. */
  readonly #commit = (): void => {
    this.#commitIsDue = false;
    this.port.commit();
  };

  #submitLease(lease: Lease, options: SubmitOptions): Promise<unknown> {
    const sloNs = checkedSloNs(options);
    options.signal?.throwIfAborted();
    const slot = this.#takeSlot(lease.model, sloNs);
    if (slot < 0) throw this.#refusal(lease.model, sloNs, slot);
    return this.#await(slot, lease.model, sloNs, options.signal ?? null, false, lease.cell, lease);
  }

  #abort(pending: Pending): void {
    if (this.#pending[pending.slot - this.port.firstSlot] !== pending) return;
    pending.aborted = true;
    pending.lease?.abandoned();
    pending.reject(pending.signal!.reason);
    this.port.commit(); // what is not in the lane yet cannot be taken out of the queue
    this.port.cancel(pending.slot);
  }

  // ---------------------------------------------------------------- completions

  /** Ends when the client has ended. @internal */
  protected async pump(): Promise<void> {
    const { bell } = this.port;
    while (!this.#ended) {
      if (this.turn() > 0) {
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      bell.prepare();
      if (this.turn() > 0) {
        bell.cancel();
        continue;
      }
      await bell.parkAsync(PUMP_PARK_MS);
    }
  }

  /** Delivers what has ended; returns how much there was. @internal */
  protected turn(): number {
    const nowNs = this.clock.nowNs();
    const count = this.port.drain(nowNs);
    for (let k = 0; k < count; k++) this.#deliver(k, nowNs);
    if (count > 0 && this.port.inFlight === 0) this.#becameIdle();
    return count;
  }

  #deliver(k: number, nowNs: number): void {
    const index = this.port.drainedSlots[k]! - this.port.firstSlot;
    const pending = this.#pending[index];
    const output = this.outputs[index];
    this.#pending[index] = null;
    this.inputs[index] = undefined;
    this.outputs[index] = undefined;
    if (pending === null || pending === undefined) return;
    if (pending.signal !== null) pending.signal.removeEventListener('abort', pending);
    const packed = this.port.drainedOutcomes[k]!;
    const outcome = (packed & 31) as OutcomeCode;
    const result = pending.cell < 0 ? output : this.#takeTensors(pending, packed);
    if (pending.aborted) return;
    if (outcome === OUTCOME.completed && !pending.detailed) {
      pending.resolve(result);
      return;
    }
    this.#settle(pending, outcome, outcome <= OUTCOME.late ? result : output, this.port.completion(k), nowNs);
  }

  /** The outputs of a request with tensors: private copies, or the lease's own. Its memory is free again, or the lease's. */
  #takeTensors(pending: Pending, packed: number): unknown {
    const { cell, model, lease } = pending;
    const layout = model.layout!;
    const ran = (packed & 31) <= OUTCOME.late;
    // An emulated GPU computes nothing, and what others have left in the memory is nobody's business.
    const isEmulated = ran && this.#i32[(this.memory.gpuSpecs >> 2) + gpuOf(packed) * GPU_SPEC.words + GPU_SPEC.at.host] === HOST_EMULATED;
    const isKept = !ran && this.port.isCellKept(pending.slot);
    if (lease !== null) return lease.ended(ran, isEmulated, isKept);
    const result = !ran || pending.aborted ? undefined : isEmulated ? zerosOf(layout) : copyOut(this.memory.arena!, cell, layout);
    if (!isKept) this.#cells!.give(model.number, cell);
    return result;
  }

  #settle(pending: Pending, outcome: OutcomeCode, output: unknown, completion: Completion, nowNs: number): void {
    const { name, number, rejectLate } = pending.model;
    const sloNs = pending.sloNs === 0 ? this.port.sloNs(number) : pending.sloNs;
    switch (outcome) {
      case OUTCOME.completed:
      case OUTCOME.late:
        if (pending.detailed) pending.resolve(detail(output, pending.requestId, completion, nowNs));
        else if (outcome === OUTCOME.late && rejectLate) pending.reject(new LateError(name, completion.endNs - completion.deadlineNs));
        else pending.resolve(output);
        return;
      case OUTCOME.expired:
        pending.reject(new ExpiredError(name, sloNs, completion.endNs - completion.arrivalNs));
        return;
      case OUTCOME.queueFull:
        pending.reject(new OverloadedError(name, 'its queue is full (maxQueue), or the scheduler thread is behind', this.#retryAfterMs(number)));
        return;
      case OUTCOME.infeasible:
        pending.reject(new InfeasibleError(name, sloNs, this.port.aloneNs(number)));
        return;
      case OUTCOME.failed:
        pending.reject(output instanceof DeviceError ? output : new DeviceError(name, completion.gpu, this.#describeFailure(completion)));
        return;
      case OUTCOME.closed:
        pending.reject(this.closedBeforeItRan(pending.model));
        return;
      case OUTCOME.cancelled:
        pending.reject(new DOMException('The request was cancelled', 'AbortError'));
    }
  }

  #describeFailure({ gpu, batchSize }: Completion): string {
    const said = this.failureAt(gpu);
    return `the device failed a batch of ${batchSize}${said === null ? '' : `: ${said}`}`;
  }

  /** What a device said last, where that is known on this thread. @internal */
  protected failureAt(_gpu: number): string | null {
    return null;
  }

  /** @internal */
  protected closedBeforeItRan({ name, tag }: ModelEntry): RubatoError {
    const isThere = this.directory.has(name) && this.directory.find(name).tag === tag;
    return new ClosedError(isThere ? 'the scheduler was closed before the request ran' : `model '${name}' was removed before the request ran`);
  }

  #becameIdle(): void {
    if (this.#i32[this.#stateAt] === STATE_RUNNING) this.holdAlive(false);
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter();
  }

  /** While requests are in flight the program must not end by itself; a pending `Atomics.waitAsync` does not hold it. @internal */
  protected holdAlive(hold: boolean): void {
    if (hold === this.#keepsAlive) return;
    this.#keepsAlive = hold;
    if (hold) this.#keepAlive.ref();
    else this.#keepAlive.unref();
  }

  // ---------------------------------------------------------------- around it

  /** Requests that were submitted here and whose result has not been delivered. */
  get inFlight(): number {
    return this.port.inFlight;
  }

  /** Resolves when every request submitted here has ended. New ones may still be submitted. Rejects with the signal's reason. */
  async drain({ signal }: { signal?: AbortSignal | undefined } = {}): Promise<void> {
    signal?.throwIfAborted();
    if (this.port.inFlight === 0 || this.#ended) return;
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => reject(signal!.reason as Error);
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiters.push(() => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      });
    });
  }

  /** Nothing will be delivered any more: whatever is open rejects with `reason`. @internal */
  protected end(reason: RubatoError): void {
    this.#ended = true;
    this.port.bell.ring();
    for (let index = 0; index < this.#pending.length; index++) {
      const pending = this.#pending[index];
      if (pending === null || pending === undefined) continue;
      this.#pending[index] = null;
      if (pending.signal !== null) pending.signal.removeEventListener('abort', pending);
      pending.lease?.ended(false, false, false);
      pending.reject(reason);
    }
    for (const waiter of this.#waiters.splice(0)) waiter();
    clearInterval(this.#keepAlive);
  }

  /** A model is gone: its memory is nobody's any more. @internal */
  protected forget(entry: ModelEntry): void {
    this.directory.remove(entry.name);
    this.#cells?.dropKind(entry.number);
  }
}

/** Beside the REFUSED_ codes of the port. */
const CLOSED = -100;

/** The view of the page table that cells are taken from. */
export function pageTable(memory: SharedMemory): Int32Array {
  return new Int32Array(memory.buffer, memory.pages, arenaTableWords(memory.pageCount));
}

/** 0 when it is the model's own. Throws InvalidOptionError. */
function checkedSloNs({ slo, signal }: SubmitOptions): number {
  if (signal !== undefined && !isAbortSignal(signal)) throw new InvalidOptionError('signal', `got ${typeof signal}, must be an AbortSignal`);
  return slo === undefined ? 0 : parsePositiveDurationNs(slo, 'slo');
}

/** Not by `instanceof`: test runners have realms of their own. */
function isAbortSignal(value: unknown): value is AbortSignal {
  return typeof value === 'object' && value !== null && 'aborted' in value && typeof (value as AbortSignal).addEventListener === 'function';
}

function listen(signal: AbortSignal, pending: Pending): void {
  try {
    setMaxListeners(0, signal); // one signal for hundreds of requests is no leak
  } catch {
    // not Node's own: a DOM's signal does not count its listeners
  }
  signal.addEventListener('abort', pending, { once: true });
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
