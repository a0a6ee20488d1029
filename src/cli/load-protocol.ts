/** What the thread that runs a benchmark and the threads that generate its load say to each other. */
import type { SharedMemory } from '../protocol/shared-memory.js';
import type { DeadlineOrder } from './deadline-order.js';
import type { SourceSpec } from './sources.js';
import type { StallReport } from './stalls.js';

export interface LoadThreadData {
  readonly memory: SharedMemory;
  readonly client: number;
  /** Word 0: 1 = end the phase now. Word 1: requests due so far in this phase. */
  readonly control: SharedArrayBuffer;
}

export interface PhaseOrder {
  readonly source: SourceSpec;
  readonly deadlines: DeadlineOrder;
  readonly startNs: number;
  /** From then on ends are counted in `stalls`. */
  readonly countFromNs: number;
  readonly endNs: number;
  /** How long to wait after the end for what is still in flight. */
  readonly settleNs: number;
}

export interface PhaseResult {
  /** Requests that were due within the phase and were offered to the scheduler. */
  readonly offered: number;
  /** When the phase really ended (earlier if it was interrupted). */
  readonly endNs: number;
  /** How late requests were sent: a histogram row. */
  readonly lag: Int32Array;
  readonly inFlight: number;
  readonly stalls: StallReport;
}

export const STOP_WORD = 0;
export const COUNT_WORD = 1;
