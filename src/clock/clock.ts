/**
 * Monotonic time in nanoseconds since the scheduler's start, one origin for all threads, as integer doubles
 * (exact for 104 days).
 *
 * `process.hrtime()` is the same clock in every thread but slow and allocating; `performance.now()` is fast but
 * counts from the start of its own thread. Each thread measures the constant between the two once.
 */
export interface Clock {
  /** Nanoseconds since the origin, an integer that never falls. */
  nowNs(): number;
}

/** The origin to hand to every thread's `SystemClock`: host time in seconds and nanoseconds. */
export interface ClockOrigin {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** Taken now, before a test's fake timers can take their place. */
const realNowMs = performance.now.bind(performance);
const hrtime = process.hrtime.bind(process);

export function clockOrigin(): ClockOrigin {
  const [seconds, nanoseconds] = hrtime();
  return { seconds, nanoseconds };
}

export class SystemClock implements Clock {
  readonly #offsetNs: number;

  constructor(origin: ClockOrigin) {
    this.#offsetNs = measureOffsetNs(origin);
  }

  nowNs(): number {
    return Math.floor(realNowMs() * 1e6 + this.#offsetNs);
  }
}

/** hrtime − performance.now(), by the tightest of a few bracketed readings. */
function measureOffsetNs(origin: ClockOrigin): number {
  let bestSpanMs = Infinity;
  let offsetNs = 0;
  for (let i = 0; i < 16; i++) {
    const before = realNowMs();
    const [seconds, nanoseconds] = hrtime();
    const after = realNowMs();
    if (after - before < bestSpanMs) {
      bestSpanMs = after - before;
      const hostNs = (seconds - origin.seconds) * 1e9 + (nanoseconds - origin.nanoseconds);
      offsetNs = hostNs - ((before + after) / 2) * 1e6;
    }
  }
  return offsetNs;
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
