/**
 * Monotonic time in nanoseconds since the scheduler's start, one origin for all threads, as integer doubles
 * (exact for 104 days).
 *
 * It is `process.hrtime.bigint()`, stored into an array at once and read as two words: optimised code then makes no
 * BigInt and allocates nothing, where `performance.now()` boxes its answer on Node 20 and 22, and takes a third longer.
 */
export interface Clock {
  /** Nanoseconds since the origin, an integer that never falls. */
  nowNs(): number;
}

/** The origin to hand to every thread's `SystemClock`: the two halves of the host's time in ns. */
export interface ClockOrigin {
  readonly high: number;
  readonly low: number;
}

/** Taken now, before a test's fake timers can take its place. */
const hostNs = process.hrtime.bigint;

export function clockOrigin(): ClockOrigin {
  const ns = hostNs();
  return { high: Number(ns >> 32n), low: Number(ns & 0xffffffffn) };
}

export class SystemClock implements Clock {
  readonly #ns = new BigUint64Array(1);
  readonly #words = new Uint32Array(this.#ns.buffer);
  readonly #high: number;
  readonly #low: number;

  constructor(origin: ClockOrigin) {
    this.#high = origin.high;
    this.#low = origin.low;
  }

  /** The time that was read last. */
  readonly cells = new Float64Array(1);

  /** Reads the time into `cells[0]`: an answer would be boxed where V8 does not inline this. */
  read(): void {
    this.#ns[0] = hostNs();
    this.cells[0] = (this.#words[1]! - this.#high) * 2 ** 32 + (this.#words[0]! - this.#low);
  }

  nowNs(): number {
    this.read();
    return this.cells[0]!;
  }
}

/** Time that moves only when told to: the simulator's clock. */
export class VirtualClock implements Clock {
  #nowNs = 0;

  nowNs(): number {
    return this.#nowNs;
  }

  /** Throws when asked to go back. */
  advanceTo(timeNs: number): void {
    if (!(timeNs >= this.#nowNs)) throw new RangeError(`virtual time cannot go from ${this.#nowNs} ns to ${timeNs} ns`);
    this.#nowNs = timeNs;
  }
}
