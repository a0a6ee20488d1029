/**
 * How a scheduler thread passes the time when its roles have nothing to do: spin a little, then park on its doorbell
 * until shortly before the next own event, then spin the rest.
 */
import type { Clock } from '../clock/clock.js';
import { DelayMeter } from '../protocol/delay-meter.js';
import type { Doorbell } from '../ringbuf/doorbell.js';

export const WAITING_STRATEGIES = ['balanced', 'spin', 'park'] as const;
/** `spin` never sleeps, `park` sleeps at once, `balanced` spins for 50 µs first. */
export type WaitingStrategy = (typeof WAITING_STRATEGIES)[number];

/** After the last work, in the hope of more: about the cost of going to sleep and being woken. */
const SPIN_NS = 50e3;
/** A park ends at the latest then, so that the heartbeat beats and a stop is seen: 0.1 % of a core. */
const LONGEST_PARK_NS = 100e6;
/** As long as the doorbell sleeps in the futex at a time. */
const LONGEST_NATIVE_PARK_NS = 1e6;
/** How much earlier than its next event a thread wakes, to spin the rest: bounded, because spinning costs. */
const LEAST_EARLY_NS = 5e3;
const MOST_EARLY_NS = 100e3;

export class Waiter {
  readonly #strategy: WaitingStrategy;
  readonly #clock: Clock;
  readonly #bell: Doorbell;
  /** p99 of how late a sleep ends. */
  readonly #error = new DelayMeter(new Float64Array([MOST_EARLY_NS, MOST_EARLY_NS]), 0, LEAST_EARLY_NS, 1);
  #idleSinceNs = -1;

  constructor(strategy: WaitingStrategy, clock: Clock, bell: Doorbell) {
    this.#strategy = strategy;
    this.#clock = clock;
    this.#bell = bell;
  }

  /** There was work: start the next wait afresh. */
  worked(): void {
    this.#idleSinceNs = -1;
  }

  /** Whether the thread should sleep now rather than look again, given the time and its next own event. */
  shouldPark(nowNs: number, nextNs: number): boolean {
    if (this.#strategy === 'spin') return false;
    if (nextNs - nowNs <= this.#error.estimateNs) return false;
    if (this.#strategy === 'park') return true;
    if (this.#idleSinceNs < 0) this.#idleSinceNs = nowNs;
    return nowNs - this.#idleSinceNs >= SPIN_NS;
  }

  /**
   * Sleeps until somebody rings or the next own event is near. `Doorbell.prepare` has been called and every source looked at since.
   * `native`: it was `prepareNative`, and the sleep a short one.
   */
  park(nextNs: number, native = false): void {
    const before = this.#clock.nowNs();
    const sleepNs = Math.min(nextNs - before - this.#error.estimateNs, native ? LONGEST_NATIVE_PARK_NS : LONGEST_PARK_NS);
    if (sleepNs <= 0) {
      this.#bell.cancel();
      return;
    }
    if (native) this.#bell.parkNative(sleepNs / 1e6);
    else this.#bell.park(sleepNs / 1e6);
    const after = this.#clock.nowNs();
    // A wake-up by the bell comes early and says nothing about the timer.
    if (after - before >= sleepNs) this.#error.add(after - before - sleepNs, after);
  }
}
