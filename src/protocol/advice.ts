/**
 * How many GPUs are wanted, and why: written by the dispatcher at the end of each epoch, read by statistics.
 *
 *   i32   which of the two rows is valid: Atomics.store by the dispatcher, when that row is complete
 *   row 0, row 1   a line and more each; the dispatcher writes the other one
 *
 * A reader takes what the word names. It would have to be interrupted for a whole epoch to see a row change.
 */
import { defineRecord, LINE_BYTES } from '../ringbuf/layout.js';
import type { SharedMemory } from './shared-memory.js';

/**
 * Why so many are wanted: `starting`, the first epoch has not ended yet; `steady`, as many as there are; `load`, more,
 * because the measured load does not fit; `missed`, more, because more than 1 % were dropped or late and no GPU was
 * idle; `idle`, fewer, because the highest-numbered were idle and the load fits without them.
 */
export type AdviceReason = 'starting' | 'steady' | 'load' | 'missed' | 'idle';
/** Index = the number in an advice row. */
const ADVICE_REASONS: readonly AdviceReason[] = ['starting', 'steady', 'load', 'missed', 'idle'];
export const ADVICE_STARTING = 0;
export const ADVICE_STEADY = 1;
export const ADVICE_LOAD = 2;
export const ADVICE_MISSED = 3;
export const ADVICE_IDLE = 4;

export const ADVICE = defineRecord(
  'advice row',
  {
    wanted: 'i32',
    reason: 'i32',
    gpus: 'i32',
    usedGpus: 'i32',
    idleGpus: 'i32',
    spare: 'i32',
    endedNs: 'f64',
    epochNs: 'f64',
    busyGpus: 'f64',
    offeredPerSecond: 'f64',
    badRate: 'f64',
    missedRate: 'f64',
    loadGpus: 'f64',
    spreadGpus: 'f64',
    scale: 'f64',
  },
  LINE_BYTES,
);
export const ADVICE_ROWS = LINE_BYTES;
export const ADVICE_BYTES = LINE_BYTES + 2 * ADVICE.bytes;

/** What was measured in the epoch that ended last. */
export interface AdviceEvidence {
  /** How long the epoch was, and when it ended, in ms since the start of the scheduler. */
  readonly epochSeconds: number;
  readonly endedMs: number;
  /** GPUs in the pool that take batches. */
  readonly gpus: number;
  /** Of these, those that ran anything in the epoch. */
  readonly usedGpus: number;
  /** Of these, the highest-numbered ones that have been idle for the whole hysteresis. */
  readonly idleGpus: number;
  /** Mean number of GPUs busy at once. */
  readonly busyGpus: number;
  /** Requests that came, refused ones included. */
  readonly offeredPerSecond: number;
  /** Share of the requests that ended in the epoch, or were refused, that was not good; cancelled and closed ones do not count. */
  readonly badRate: number;
  /** The part of it that more GPUs might have saved: expired, late, or the queue was full. */
  readonly missedRate: number;
  /** 1 − badRate. */
  readonly goodShare: number;
  /** GPUs that the load of the last 5 s keeps busy in batches of the target sizes. */
  readonly loadGpus: number;
  /** One standard deviation of that within an SLO, by how unevenly requests come. */
  readonly spreadGpus: number;
  /** κ: the batch size, in target sizes, that just carries the load on the GPUs that there are; null when no size does. */
  readonly scale: number | null;
}

/** How many GPUs are wanted. */
export interface GpuAdvice {
  /** At least 1: a request that comes needs one at once. */
  readonly wanted: number;
  readonly reason: AdviceReason;
  readonly evidence: AdviceEvidence;
}

/** The advice of the epoch that ended last. */
export function readAdvice(memory: SharedMemory): GpuAdvice {
  const i32 = new Int32Array(memory.buffer, memory.advice, ADVICE_BYTES / 4);
  const f64 = new Float64Array(memory.buffer, memory.advice, ADVICE_BYTES / 8);
  const row = adviceRow(Atomics.load(i32, 0));
  const whole = (field: 'wanted' | 'gpus' | 'usedGpus' | 'idleGpus' | 'reason'): number => i32[row + ADVICE.at[field]]!;
  const number = (field: Exclude<keyof typeof ADVICE.at, 'wanted' | 'gpus' | 'usedGpus' | 'idleGpus' | 'reason' | 'spare'>): number => f64[(row >> 1) + ADVICE.at[field]]!;
  const scale = number('scale');
  return {
    wanted: whole('wanted'),
    reason: ADVICE_REASONS[whole('reason')]!,
    evidence: {
      epochSeconds: number('epochNs') / 1e9,
      endedMs: number('endedNs') / 1e6,
      gpus: whole('gpus'),
      usedGpus: whole('usedGpus'),
      idleGpus: whole('idleGpus'),
      busyGpus: number('busyGpus'),
      offeredPerSecond: number('offeredPerSecond'),
      badRate: number('badRate'),
      missedRate: number('missedRate'),
      goodShare: 1 - number('badRate'),
      loadGpus: number('loadGpus'),
      spreadGpus: number('spreadGpus'),
      scale: scale < Infinity ? scale : null,
    },
  };
}

/** Word index of a row, from `memory.advice`. */
export function adviceRow(which: number): number {
  return (ADVICE_ROWS + which * ADVICE.bytes) >> 2;
}
