/**
 * Wakes one thread that has nothing to do. One i32 word, 0 while its owner is awake.
 *
 * The owner: `prepare()`, then look at every source once more, then `park()` or, if something was found, `cancel()`.
 * Who adds work: publish it by an atomic store or exchange, then `ring()`. Sequentially consistent atomics leave two
 * cases: the ringer sees SLEEPING and wakes, or the owner's second look sees the work. No wake-up is lost. (A plain
 * store would not do: it may wait in the store buffer while `ring` still finds the owner awake.)
 * Ringing an owner that is awake costs one atomic load (a bare `Atomics.notify` takes a process-wide lock).
 */
import { checkPiece, LINE_BYTES } from './layout.js';

const AWAKE = 0;
const SLEEPING = 1;

export const DOORBELL_BYTES = LINE_BYTES;

export class Doorbell {
  readonly #i32: Int32Array;
  readonly #at: number;

  constructor(buffer: SharedArrayBuffer, byteOffset: number) {
    checkPiece('doorbell', buffer, byteOffset, DOORBELL_BYTES);
    this.#i32 = new Int32Array(buffer);
    this.#at = byteOffset >> 2;
  }

  /** Any thread: wakes the owner if it sleeps or is about to. */
  ring(): void {
    if (Atomics.load(this.#i32, this.#at) === AWAKE) return;
    if (Atomics.compareExchange(this.#i32, this.#at, SLEEPING, AWAKE) === SLEEPING) Atomics.notify(this.#i32, this.#at, 1);
  }

  /** The owner: from here on, ring() will wake. */
  prepare(): void {
    Atomics.store(this.#i32, this.#at, SLEEPING);
  }

  /** The owner found work after all. */
  cancel(): void {
    Atomics.store(this.#i32, this.#at, AWAKE);
  }

  /** Blocks the owner's thread until somebody rings, at most `timeoutMs`. */
  park(timeoutMs: number): void {
    if (Number.isNaN(timeoutMs)) refuseTimeout();
    Atomics.wait(this.#i32, this.#at, SLEEPING, timeoutMs);
    Atomics.store(this.#i32, this.#at, AWAKE);
  }

  /** As `park` without blocking: resolves when somebody rings. A pending one does not keep the process alive. */
  async parkAsync(timeoutMs: number): Promise<void> {
    if (Number.isNaN(timeoutMs)) refuseTimeout();
    const waiting = Atomics.waitAsync(this.#i32, this.#at, SLEEPING, timeoutMs);
    if (waiting.async) await waiting.value;
    Atomics.store(this.#i32, this.#at, AWAKE);
  }
}

/** Atomics.wait takes NaN for "without end". */
function refuseTimeout(): never {
  throw new RangeError('doorbell: a time-out of NaN ms was asked for; it must be a number');
}
