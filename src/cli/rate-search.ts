/** The search for the highest rate at which something holds, and what may be said of a run at one rate. */
import { type PhaseStalls, stalledShare, takenShare } from './stalls.js';

/** A load is sustained while at most this share is bad. */
export const SUSTAINED_BAD_RATE = 0.01;

export interface RateSearchOptions {
  readonly first: number;
  readonly most: number;
  /** The climb multiplies the rate by this. */
  readonly step: number;
  /** Misses in a row that end the climb. One does not, because a slow rate is not an easy one: deferral leaves its requests no slack for a stall. */
  readonly missesToStop: number;
  /** The bisection ends when the bounds are that near, as a share of the upper one, or when it falls below `least`. */
  readonly resolution: number;
  readonly least: number;
}

/** The highest rate that was passed, 0 if none was, and the lowest above it that was not (the same one if the highest of all was passed). */
export interface RateBounds {
  readonly low: number;
  readonly high: number;
}

/** Climbs until the rate is not passed any more, then bisects. */
export async function highestRate(options: RateSearchOptions, passes: (rate: number) => Promise<boolean>, stopped: () => boolean): Promise<RateBounds> {
  let { low, high } = await climb(options, passes, stopped);
  while (high - low > options.resolution * high && high > options.least && !stopped()) {
    const middle = (low + high) / 2;
    if (await passes(middle)) low = middle;
    else high = middle;
  }
  return { low, high };
}

async function climb({ first, most, step, missesToStop }: RateSearchOptions, passes: (rate: number) => Promise<boolean>, stopped: () => boolean): Promise<RateBounds> {
  let low = 0;
  let high = 0;
  let misses = 0;
  for (let rate = Math.min(first, most); misses < missesToStop && !stopped(); rate = Math.min(step * rate, most)) {
    if (await passes(rate)) {
      low = rate;
      high = rate;
      misses = 0;
    } else if (misses++ === 0) {
      high = rate;
    }
    if (rate === most) break;
  }
  return { low, high };
}

/**
 * `stalled`: too many were bad, but no more than stalls of the machine explain, so it says nothing against the rate.
 * `disturbed`: the machine was taken by somebody else for so much of the time that it says nothing at all.
 */
export type ProbeVerdict = 'sustained' | 'stalled' | 'disturbed' | 'exceeded';

/**
 * Bad requests for each that was due while something stood still: those themselves under the drop policy `window`, which
 * cannot fit them into full batches any more, and 0.2 to 0.6 more an SLO later, when the batches that began together end
 * together (measured at 0.3 to 5 M requests/s).
 */
const BAD_PER_STALLED = 2;
/** Above this share of the time the explanation would explain anything. */
const MOST_STALLED_SHARE = 0.05;

export function judgeProbe(stalls: PhaseStalls): ProbeVerdict {
  const { ended, bad } = stalls.counted;
  if (ended === 0) return 'exceeded';
  if (bad <= SUSTAINED_BAD_RATE * ended) return 'sustained';
  const stalled = stalledShare(stalls);
  if (takenShare(stalls) > MOST_STALLED_SHARE) return 'disturbed';
  if (stalled > MOST_STALLED_SHARE) return 'exceeded'; // its own turns take that long, as with thousands of models
  return bad <= (SUSTAINED_BAD_RATE + BAD_PER_STALLED * stalled) * ended ? 'stalled' : 'exceeded';
}
