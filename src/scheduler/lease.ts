/**
 * A lease: the memory of one request's tensors in the caller's hands, for the way without copies.
 *
 *   reserved ──submit──▶ in flight ──result──▶ done ──release──▶ released
 *                            │                   └──submit──▶ in flight …
 *                            └──abort──▶ abandoned: the memory stays taken until the device is done with it
 *
 * A view of shared memory cannot be taken back, so a view that is kept after the release may show another request's
 * tensors. What can be caught is caught: the getters throw after the release, as do a second release and a second
 * submit, and a lease that is forgotten (no view of it, nor the lease itself, is held any more) gives its memory back
 * with a warning.
 */
import { type CellLayout, type TensorArray, viewTensor, zeroOutputs } from '../model/tensor.js';
import type { ModelEntry } from './directory.js';
import { LeaseError } from './errors.js';
import type { SubmitOptions } from './client.js';
import type { ModelTypes } from './types.js';

/** What a lease asks of its client. */
export interface LeaseHost {
  readonly buffer: SharedArrayBuffer | null;
  submit(lease: Lease, options: SubmitOptions): Promise<unknown>;
  /** Whether the client has ended and the memory may be another's by now. */
  isOver(): boolean;
  /** Gives the memory back. */
  give(lease: LeaseMemory): void;
}

/** What is known of a lease when the lease itself is gone. */
export interface LeaseMemory {
  readonly model: ModelEntry;
  readonly cell: number;
}

type State = 'reserved' | 'in flight' | 'done' | 'abandoned' | 'released';

const forgotten = new FinalizationRegistry(({ host, memory }: { host: LeaseHost; memory: LeaseMemory }) => {
  host.give(memory);
  process.emitWarning(`a lease for model '${memory.model.name}' was never released; call release() when its results are used`, 'RubatoLeaseWarning');
});

/** A view holds its lease, so that memory that is still looked at is not given away. */
const HOLDER = Symbol('lease');

export class Lease<M extends ModelTypes = ModelTypes> {
  /** @internal */
  readonly model: ModelEntry;
  /** @internal */
  readonly cell: number;
  readonly #host: LeaseHost;
  readonly #inputs: M['input'];
  readonly #outputs: M['output'];
  #state: State = 'reserved';
  #hasResult = false;
  #releaseIsDue = false;
  /** A device that is lost may still write to the memory: it is neither used again nor given back. */
  #isKept = false;

  /** @internal */
  constructor(host: LeaseHost, model: ModelEntry, cell: number) {
    this.#host = host;
    this.model = model;
    this.cell = cell;
    this.#inputs = this.#views('inputs');
    this.#outputs = this.#views('outputs');
    forgotten.register(this, { host, memory: { model, cell } }, this);
  }

  #views(side: keyof Omit<CellLayout, 'bytes'>): Record<string, TensorArray> {
    const views: Record<string, TensorArray> = {};
    for (const place of this.model.layout![side]) {
      const view = viewTensor(this.#host.buffer!, this.cell, place);
      Object.defineProperty(view, HOLDER, { value: this });
      views[place.name] = view;
    }
    return views;
  }

  /** The input tensors, to be filled in place. What an earlier request has left may still be in them. Throws LeaseError while in flight and after the release. */
  get inputs(): M['input'] {
    this.#throwIfOver();
    if (this.#state === 'in flight' || this.#state === 'abandoned') throw new LeaseError(this.model.name, 'its inputs are the device\'s while the request is in flight');
    this.#throwIfReleased('its inputs were used');
    return this.#inputs;
  }

  /** The output tensors of the last result, in place. Throws LeaseError when there is none, and after the release. */
  get outputs(): M['output'] {
    this.#throwIfOver();
    this.#throwIfReleased('its outputs were used');
    if (!this.#hasResult) throw new LeaseError(this.model.name, 'it has no result; await submit() first');
    return this.#outputs;
  }

  /**
   * Submits the request and resolves with its outputs as views, valid until `release()`. After a result or a rejection it
   * may be submitted again. Rejects as `client.submit` does, and with LeaseError while in flight and after the release.
   */
  async submit(options: SubmitOptions = {}): Promise<M['output']> {
    this.#throwIfReleased('it was submitted');
    if (this.#state === 'in flight' || this.#state === 'abandoned') throw new LeaseError(this.model.name, 'it was submitted while its request is in flight');
    if (this.#isKept) throw new LeaseError(this.model.name, 'a GPU was lost that may still write to its memory; release it and reserve another');
    const result = this.#host.submit(this, options); // throws when it is not accepted: nothing has changed then
    this.#state = 'in flight';
    this.#hasResult = false;
    return result as Promise<M['output']>;
  }

  /** Gives the memory back. After an abort that is once the device is done with it. Throws LeaseError when called twice or in flight. */
  release(): void {
    this.#throwIfReleased('it was released again');
    if (this.#state === 'in flight') throw new LeaseError(this.model.name, 'it was released while its request is in flight; await it, or abort it by its signal first');
    if (this.#state === 'abandoned') {
      this.#releaseIsDue = true;
      return;
    }
    this.#give();
  }

  [Symbol.dispose](): void {
    if (this.#state !== 'released' && !this.#releaseIsDue) this.release();
  }

  #give(): void {
    this.#state = 'released';
    forgotten.unregister(this);
    if (!this.#isKept) this.#host.give(this);
  }

  #throwIfOver(): void {
    if (this.#host.isOver()) throw new LeaseError(this.model.name, 'its client is closed, and its memory given back');
  }

  #throwIfReleased(what: string): void {
    if (this.#state === 'released' || this.#releaseIsDue) throw new LeaseError(this.model.name, `${what} after its release`);
  }

  /** Its request was aborted: the promise is settled, the memory is not free yet. @internal */
  abandoned(): void {
    this.#state = 'abandoned';
  }

  /** Its request has ended; returns the outputs. @internal */
  ended(hasResult: boolean, isEmulated: boolean, isKept: boolean): M['output'] | undefined {
    this.#isKept ||= isKept;
    const wasAbandoned = this.#state === 'abandoned';
    this.#state = 'done';
    this.#hasResult = hasResult && !wasAbandoned;
    if (hasResult && isEmulated) zeroOutputs(this.#host.buffer!, this.cell, this.model.layout!);
    if (this.#releaseIsDue) this.#give();
    return this.#hasResult ? this.#outputs : undefined;
  }
}
