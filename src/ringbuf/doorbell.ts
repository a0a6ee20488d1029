/**
 * Wakes one thread that has nothing to do. One i32 word, 0 while its owner is awake, and a second one for the futex.
 *
 * The owner: `prepare()`, then look at every source once more (`#announce` lets plain loads do), then `park()` or, if something was found, `cancel()`.
 * Who adds work: publish it by an atomic store or exchange, then `ring()`. Sequentially consistent atomics leave two
 * cases: the ringer sees SLEEPING and wakes, or the owner's second look sees the work. No wake-up is lost. (A plain
 * store would not do: it may wait in the store buffer while `ring` still finds the owner awake.)
 * Ringing an owner that is awake costs one atomic load (a bare `Atomics.notify` takes a process-wide lock).
 *
 * Native code cannot wake `Atomics.wait`. An owner that waits for native news sleeps in a futex on the second word, which
 * counts its wake-ups: `prepareNative()` and `parkNative()`, for at most a millisecond at a time, so that a thread which
 * rings and has not been told of the futex (`useFutex`) delays it by no more than that.
 */
import { checkPiece, LINE_BYTES } from './layout.js';

const AWAKE = 0;
const SLEEPING = 1;
const SLEEPING_NATIVE = 2;
/** A terminated thread leaves a native call only when that ends. */
const LONGEST_NATIVE_PARK_MS = 1;

/** Sleeps while `word[0]` is `seen`, and wakes who does; from the native addon. */
export interface Futex {
  futexWait(word: Int32Array, seen: number, ms: number): void;
  futexWake(word: Int32Array): void;
}

let futex: Futex | null = null;

/** Tells the calling thread of the futex: it can then sleep in it, and wake others who do. */
export function useFutex(native: Futex): void {
  futex = native;
}

export const DOORBELL_BYTES = LINE_BYTES;

export class Doorbell {
  readonly #i32: Int32Array;
  readonly #at: number;
  /** The second word. */
  readonly #wakeUps: Int32Array;
  #seen = 0;

  constructor(buffer: SharedArrayBuffer, byteOffset: number) {
    checkPiece('doorbell', buffer, byteOffset, DOORBELL_BYTES);
    this.#i32 = new Int32Array(buffer);
    this.#at = byteOffset >> 2;
    this.#wakeUps = this.#i32.subarray(this.#at + 1, this.#at + 2);
  }

  /** Any thread: wakes the owner if it sleeps or is about to. */
  ring(): void {
    const state = Atomics.load(this.#i32, this.#at);
    if (state === AWAKE) return;
    // Another state by now: the owner has been awake since, and has looked again.
    if (Atomics.compareExchange(this.#i32, this.#at, state, AWAKE) !== state) return;
    if (state === SLEEPING) {
      Atomics.notify(this.#i32, this.#at, 1);
      return;
    }
    Atomics.add(this.#wakeUps, 0, 1);
    if (futex !== null) futex.futexWake(this.#wakeUps);
  }

  /** The owner: from here on, ring() will wake. */
  prepare(): void {
    this.#announce(SLEEPING);
  }

  /** As `prepare`, for `parkNative`. Only on a thread that knows the futex. */
  prepareNative(): void {
    this.#seen = Atomics.load(this.#wakeUps, 0);
    this.#announce(SLEEPING_NATIVE);
  }

  /** Sources may be looked at by plain loads afterwards: as V8 compiles atomics, x64 keeps those behind the store, and arm64 behind an atomic load that follows it. */
  #announce(state: number): void {
    Atomics.store(this.#i32, this.#at, state);
    Atomics.load(this.#i32, this.#at);
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

  /** As `park`, at most a millisecond; native code can ring as well. */
  parkNative(timeoutMs: number): void {
    if (Number.isNaN(timeoutMs)) refuseTimeout();
    futex!.futexWait(this.#wakeUps, this.#seen, Math.min(timeoutMs, LONGEST_NATIVE_PARK_MS));
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
