/**
 * What stood still during a phase, seen from a thread that generates load: itself, by the time between its turns, and the
 * scheduler, by a heartbeat that does not move though it was given work. A machine that lends a processor to somebody else for some
 * milliseconds stalls either, and a search for the highest rate should not take that for a limit.
 */
import { OUTCOME, outcomeOf } from '../protocol/outcome.js';
import type { SharedMemory } from '../protocol/shared-memory.js';

/** Stalls of one kind, after the lead-in. */
export interface Stalls {
  readonly count: number;
  readonly longestNs: number;
  readonly totalNs: number;
}

/** Requests that ended after the lead-in; refused ones have ended too. */
export interface Ends {
  readonly ended: number;
  readonly bad: number;
  /** From the end of the lead-in to that of the phase. */
  readonly spanNs: number;
}

export interface StallReport {
  readonly generator: Stalls;
  readonly scheduler: Stalls;
  readonly counted: Ends;
}

/** Those of a phase, with what bounds how much of it the machine can be blamed for. */
export interface PhaseStalls extends StallReport {
  /** Processor time that the load threads and the scheduler did not use, asleep or kept waiting. */
  readonly unusedNs: number;
}

/** A turn of either loop is bounded, and with few models takes a third of this at most when the processor is there. */
export const STALL_NS = 0.5e6;

export class StallWatch {
  readonly #beats: Int32Array;
  readonly #beatAt: number;
  readonly #countFromNs: number;
  readonly #generator = new StallMeter();
  readonly #scheduler = new StallMeter();
  #beat: number;
  #lastTurnNs = -Infinity;
  /** When the scheduler was given work that it has not looked at; -1 if it owes nothing. */
  #owesSinceNs = -1;
  #ended = 0;
  #bad = 0;

  /** Ends are counted from `countFromNs` on. */
  constructor(memory: Pick<SharedMemory, 'buffer' | 'heartbeats'>, countFromNs: number) {
    this.#beats = new Int32Array(memory.buffer);
    this.#beatAt = memory.heartbeats >> 2; // of thread 0, which hosts every role in a benchmark
    this.#beat = this.#beats[this.#beatAt]!;
    this.#countFromNs = countFromNs;
  }

  /** Once per turn of the generator's loop: it is about to send `sent` requests, the first of them `lagNs` late. */
  turn(nowNs: number, sent: number, lagNs: number): void {
    const counts = nowNs >= this.#countFromNs;
    // One that is behind all the time, but not away, is too slow; one that slept past the time of a request was away since that time.
    if (sent > 0) this.#generator.see(Math.min(lagNs, nowNs - this.#lastTurnNs), counts);
    this.#lastTurnNs = nowNs;
    const beat = this.#beats[this.#beatAt]!;
    if (beat !== this.#beat) {
      this.#beat = beat;
      this.#owesSinceNs = -1;
    }
    this.#scheduler.see(this.#owesSinceNs < 0 ? 0 : nowNs - this.#owesSinceNs, counts);
    if (sent > 0 && this.#owesSinceNs < 0) this.#owesSinceNs = nowNs;
  }

  /** `count` packed outcomes were read. */
  ended(outcomes: Int32Array, count: number, nowNs: number): void {
    let bad = 0;
    for (let k = 0; k < count; k++) if (outcomeOf(outcomes[k]!) !== OUTCOME.completed) bad++;
    this.#count(count, bad, nowNs);
  }

  /** `count` requests were refused, or had no outcome when nobody waited for them any more. */
  lost(count: number, nowNs: number): void {
    this.#count(count, count, nowNs);
  }

  report(endNs: number): StallReport {
    const counted = { ended: this.#ended, bad: this.#bad, spanNs: Math.max(0, endNs - this.#countFromNs) };
    return { generator: this.#generator.totals, scheduler: this.#scheduler.totals, counted };
  }

  #count(ended: number, bad: number, nowNs: number): void {
    if (nowNs < this.#countFromNs) return;
    this.#ended += ended;
    this.#bad += bad;
  }
}

class StallMeter {
  #count = 0;
  #longestNs = 0;
  #totalNs = 0;
  /** Longest delay of the stall that goes on, 0 if none does. */
  #presentNs = 0;

  /** Delays above the limit in a row are one stall, as long as the longest of them. */
  see(delayNs: number, counts: boolean): void {
    if (delayNs <= STALL_NS || !counts) {
      this.#presentNs = 0;
      return;
    }
    if (this.#presentNs === 0) this.#count++;
    if (delayNs <= this.#presentNs) return;
    this.#totalNs += delayNs - this.#presentNs;
    this.#presentNs = delayNs;
    if (delayNs > this.#longestNs) this.#longestNs = delayNs;
  }

  get totals(): Stalls {
    return { count: this.#count, longestNs: this.#longestNs, totalNs: this.#totalNs };
  }
}

/** One report of those of several load threads: each sends its part of the load, and all see the same scheduler. */
export function joinStalls(reports: readonly StallReport[]): StallReport {
  const sum = (pick: (report: StallReport) => number): number => reports.reduce((total, report) => total + pick(report), 0);
  const most = (pick: (report: StallReport) => number): number => Math.max(0, ...reports.map(pick));
  return {
    generator: { count: sum(({ generator }) => generator.count), longestNs: most(({ generator }) => generator.longestNs), totalNs: sum(({ generator }) => generator.totalNs) / Math.max(1, reports.length) },
    scheduler: { count: most(({ scheduler }) => scheduler.count), longestNs: most(({ scheduler }) => scheduler.longestNs), totalNs: most(({ scheduler }) => scheduler.totalNs) },
    counted: { ended: sum(({ counted }) => counted.ended), bad: sum(({ counted }) => counted.bad), spanNs: most(({ counted }) => counted.spanNs) },
  };
}

/** Share of the time that somebody else can have taken, given that the threads got the rest of the processors. */
export function takenShare(stalls: PhaseStalls): number {
  const { unusedNs, counted } = stalls;
  return counted.spanNs === 0 ? 0 : Math.min(stalledShare(stalls), unusedNs / counted.spanNs);
}

/** Share of the time for which the load or the scheduler stood still. */
export function stalledShare({ generator, scheduler, counted }: StallReport): number {
  return counted.spanNs === 0 ? 0 : Math.min(1, (generator.totalNs + scheduler.totalNs) / counted.spanNs);
}
