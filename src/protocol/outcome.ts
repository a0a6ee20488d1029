/**
 * How a request ended, as the number that crosses threads. One i32 holds the outcome, the size of the batch and
 * the GPU that ran it:
 *
 *   bits 0–4 outcome   5–17 batch size (≤ 8191)   18–31 GPU (≤ 16383)
 */
export const OUTCOME = {
  /** Finished within its deadline. */
  completed: 1,
  /** Finished after its deadline. */
  late: 2,
  /** Dropped: its deadline could no longer be met. */
  expired: 3,
  /** Dropped: its model's queue was full. */
  queueFull: 4,
  /** Dropped: even alone and at once it could not have met its deadline. */
  infeasible: 5,
  /** The client no longer wanted it. */
  cancelled: 6,
  /** The device failed its batch. */
  failed: 7,
  /** The scheduler was closed before it ran. */
  closed: 8,
} as const;

export type OutcomeCode = (typeof OUTCOME)[keyof typeof OUTCOME];

/** Number of outcome codes, 0 (still open) included. */
export const OUTCOME_CODES = 9;

export const MAX_BATCH = 8191;
export const MAX_GPUS = 16384;

export function packOutcome(outcome: number, batchSize: number, gpu: number): number {
  return outcome | (batchSize << 5) | (gpu << 18);
}

export function outcomeOf(packed: number): OutcomeCode {
  return (packed & 31) as OutcomeCode;
}

export function batchSizeOf(packed: number): number {
  return (packed >>> 5) & 8191;
}

export function gpuOf(packed: number): number {
  return packed >>> 18;
}
