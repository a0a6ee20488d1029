/**
 * How a scheduler thread passes the time when its roles have nothing to do: spin a little, then park on its doorbell
 * until shortly before the next own event, then spin the rest.
 */
import { followQuantile } from '../clock/quantile.js';
import type { Clock } from '../clock/clock.js';
import type { Doorbell } from '../ringbuf/doorbell.js';

export const WAITING_STRATEGIES = ['balanced', 'spin', 'park'] as const;
/** `spin` never sleeps, `park` sleeps at once, `balanced` spins for 50 µs first. */
export type WaitingStrategy = (typeof WAITING_STRATEGIES)[number];

/** After the last work, in the hope of more: about the cost of going to sleep and being woken. */
const SPIN_NS = 50e3;
/** A park ends at the latest then, so that the heartbeat beats and a stop is seen: 0.1 % of a core. */
const LONGEST_PARK_NS = 100e6;
/** Bounds of the measured wake-up error. Its upper bound is also that of the margin j. */
const LEAST_ERROR_NS = 5e3;
const MOST_ERROR_NS = 100e3;

export class Waiter {
  readonly #strategy: WaitingStrategy;
  readonly #clock: Clock;
  readonly #bell: Doorbell;
  /** The measured wake-up error, p99, in a word that others may read (the margin j). */
  readonly #error: Float64Array;
  readonly #errorAt: number;
  #idleSinceNs = -1;

  constructor(strategy: WaitingStrategy, clock: Clock, bell: Doorbell, error: Float64Array, errorAt: number) {
    this.#strategy = strategy;
    this.#clock = clock;
    this.#bell = bell;
    this.#error = error;
    this.#errorAt = errorAt;
  }

  /** There was work: start the next wait afresh. */
  worked(): void {
    this.#idleSinceNs = -1;
  }

  /** Whether the thread should sleep now rather than look again, given the time and its next own event. */
  shouldPark(nowNs: number, nextNs: number): boolean {
    if (this.#strategy === 'spin') return false;
    if (nextNs - nowNs <= this.#error[this.#errorAt]!) return false;
    if (this.#strategy === 'park') return true;
    if (this.#idleSinceNs < 0) this.#idleSinceNs = nowNs;
    return nowNs - this.#idleSinceNs >= SPIN_NS;
  }

  /** Sleeps until somebody rings or the next own event is near. `Doorbell.prepare` has been called and every source looked at since. */
  park(nextNs: number): void {
    const before = this.#clock.nowNs();
    const sleepNs = Math.min(nextNs - before - this.#error[this.#errorAt]!, LONGEST_PARK_NS);
    if (sleepNs <= 0) {
      this.#bell.cancel();
      return;
    }
    this.#bell.park(sleepNs / 1e6);
    const overNs = this.#clock.nowNs() - before - sleepNs;
    // A wake-up by the bell comes early and says nothing about the timer.
    if (overNs >= 0) followQuantile(this.#error, this.#errorAt, overNs, 0.99, LEAST_ERROR_NS, MOST_ERROR_NS);
  }
}
