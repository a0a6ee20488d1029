/**
 * The raw path: numbers in and out, in bulk, for embedders and benchmarks that do not want a promise per request.
 * Everything happens when it is called: nothing waits and nothing runs in the background.
 */
import type { Clock } from '../clock/clock.js';
import { InvalidOptionError, type RubatoError } from '../model/errors.js';
import { batchSizeOf, gpuOf, outcomeOf, OUTCOME } from '../protocol/outcome.js';
import { type ClientPort, REFUSED_INFEASIBLE, REFUSED_NO_MODEL, REFUSED_NO_SLOT } from '../protocol/client-port.js';
import type { SharedMemory } from '../protocol/shared-memory.js';
import { TAG_MASK } from '../protocol/specs.js';
import type { ModelDirectory } from './directory.js';

/** How requests end, as `RawClient.outcomes` says it. */
export { OUTCOME, REFUSED_INFEASIBLE, REFUSED_NO_MODEL, REFUSED_NO_SLOT, batchSizeOf, gpuOf, outcomeOf };

/** What a raw client asks its scheduler. */
export interface RawClientHost {
  readonly memory: SharedMemory;
  /** Why no request is taken any more; null while they are. */
  closed(): RubatoError | null;
  /** Why no request will end any more; null while they do. */
  stopped(): RubatoError | null;
  close(): void;
}

export class RawClient {
  readonly #port: ClientPort;
  readonly #clock: Clock;
  readonly #models: ModelDirectory;
  readonly #host: RawClientHost;
  #isClosed = false;

  /** @internal */
  constructor(port: ClientPort, clock: Clock, models: ModelDirectory, host: RawClientHost) {
    this.#port = port;
    this.#clock = clock;
    this.#models = models;
    this.#host = host;
  }

  /** Nanoseconds of the scheduler's clock. */
  nowNs(): number {
    return this.#clock.nowNs();
  }

  /** Number of a model, as the other calls want it. When the model is removed its number may become another one's. */
  model(name: string): number {
    if (!this.#models.has(name)) throw new InvalidOptionError('model', `got '${name}', must be one of ${this.#models.names().join(', ')}`);
    return this.#models.find(name).number;
  }

  /** Requests submitted and not yet drained. */
  get inFlight(): number {
    return this.#port.inFlight;
  }

  /**
   * Submits one request that was due at `arrivalNs` (as of `nowNs()`), with its model's SLO or `sloNs`.
   * @returns its slot (≥ 0), which names it until it has been drained; or REFUSED_NO_SLOT, REFUSED_INFEASIBLE, REFUSED_NO_MODEL.
   * The scheduler sees it at the next `commit`. Throws ClosedError once the scheduler is closed.
   */
  submit(model: number, arrivalNs: number, sloNs = 0): number {
    this.#throwIf(this.#host.closed());
    if (!(Number.isInteger(model) && model >= 0 && model < this.#host.memory.limits.models && (this.#port.tag(model) & TAG_MASK) !== 0)) throw new InvalidOptionError('model', `got ${model}, must be a number that model() has returned`);
    if (!Number.isFinite(arrivalNs)) throw new InvalidOptionError('arrivalNs', `got ${arrivalNs}, must be a finite number of ns`);
    if (!(sloNs >= 0 && sloNs < Infinity)) throw new InvalidOptionError('sloNs', `got ${sloNs}, must be a positive number of ns, or 0 for the model's own`);
    return this.#port.submit(model, arrivalNs, sloNs);
  }

  commit(): void {
    this.#port.commit();
  }

  /**
   * Submits and commits requests `from` to `to` - 1 of two parallel arrays. Model numbers and times are not checked:
   * numbers from `model()`, times from `nowNs()`. Returns how many were accepted: the first ones, but none of a model that was removed.
   */
  submitBulk(models: Int32Array, arrivalsNs: Float64Array, from = 0, to = models.length): number {
    this.#throwIf(this.#host.closed());
    const most = Math.min(models.length, arrivalsNs.length);
    if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to && to <= most)) {
      throw new InvalidOptionError('from, to', `got ${from} and ${to}, must be integers with 0 <= from <= to <= ${most}`);
    }
    return this.#port.submitBulk(models, arrivalsNs, from, to);
  }

  /** The request in `slot` is no longer wanted; it still ends once, as `OUTCOME.cancelled` or as it had before. */
  cancel(slot: number): void {
    const { firstSlot } = this.#port;
    const lastSlot = firstSlot + this.#port.slots - 1;
    if (!(Number.isInteger(slot) && slot >= firstSlot && slot <= lastSlot)) throw new InvalidOptionError('slot', `got ${slot}, must be one that submit has returned (${firstSlot} to ${lastSlot})`);
    if (!this.#isClosed) this.#port.cancel(slot);
  }

  /**
   * Reads ended requests into `slots` and `outcomes`; returns how many. Call again while it returns `slots.length`.
   * Throws when requests are in flight that nothing will end: the scheduler has been closed or its thread has died.
   */
  drain(): number {
    if (this.#isClosed) return 0; // another reads its completions now
    const count = this.#port.drain(this.#clock.nowNs());
    if (count === 0 && this.#port.inFlight > 0) this.#throwIf(this.#host.stopped());
    return count;
  }

  /**
   * Gives this client's place back. What it has in flight is cancelled; nobody will be told how it ended.
   * From now on submitting throws ClosedError.
   */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#port.commit();
    this.#host.close();
  }

  #throwIf(reason: RubatoError | null): void {
    if (reason !== null) throw reason;
  }

  /** Slots read by the last `drain`; they may be used again by the next `submit`. */
  get slots(): Int32Array {
    return this.#port.drainedSlots;
  }

  /** How each ended: `outcomeOf`, `batchSizeOf` and `gpuOf` take it apart. */
  get outcomes(): Int32Array {
    return this.#port.drainedOutcomes;
  }
}
