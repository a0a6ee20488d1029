/**
 * Which reserve of GPUs the policy `adaptive` keeps (ALGORITHM.md 1.7): the one it has learnt from waits, half of the GPUs, or none.
 *
 * A wait does not say whether a larger reserve would have helped. Where bursts of one model meet long batches of another, batches
 * that start early are what others wait for: waits raise the reserve, a larger reserve starts more batches early, and they raise it
 * further. So the three are compared by what counts, the share of requests that end late or expired. Evidence grows old, and
 * little of it weighs little, so that whatever has not been tried for long, or was unlucky once, gets another turn.
 */

/** The learnt reserve: a share that is none. */
export const LEARNT = -1;
const SHARES = [LEARNT, 0.5, 0] as const;
/**
 * Up to this share of bad requests the learnt reserve is not questioned: with little to lose it goes to 0 by itself, which leaves GPUs idle, and
 * each trial of another loses some.
 */
const WELL_ENOUGH = 0.009;
/** Another must lose so much less, since each change costs, and with a reserve too small a load near the limit does worst. */
const HANDICAP = 1.1;
/** The choice is looked at after so many requests, or so many bad ones. */
const ENDED = 1000;
const BAD = 10;
/** What is known counts so much less each time. */
const REMEMBERED = 1 - 1 / 64;
/** So many good requests are taken to have been seen of each before the first. */
const BENEFIT_OF_DOUBT = 1000;
/** And of the learnt reserve at first so many more: one burst at the start is no reason to keep half of the GPUs busy with what could wait. */
const CREDIT = 10_000;
/** After so many looks without a bad request there is nothing to lose any more: the learnt reserve gets another turn, and little patience. */
const LOSSLESS = 8;
const PATIENCE = 0.9;

export class ReserveChoice {
  /** The share of the GPUs that is kept in reserve, or LEARNT. */
  share: number = LEARNT;
  #chosen = 0;
  /** By place in `SHARES`: bad requests, and all. */
  readonly #bad = new Float64Array(SHARES.length);
  readonly #ended = Float64Array.of(CREDIT, 0, 0);
  /** Looks in a row without a bad request. */
  #lossless = 0;
  /** Since the choice was looked at. */
  #newBad = 0;
  #newEnded = 0;
  /** As of the last call. */
  #badBefore = NaN;
  #endedBefore = NaN;
  /** Calls until what ends was begun under this choice. */
  #unsettled = 0;

  /** Every tick: how many requests have been bad, and have ended, since the start; and for how many ticks one of them may last. */
  look(bad: number, ended: number, ticksOfRequest: number): void {
    // A dispatcher that takes over knows nothing of what was before it.
    const newBad = bad - this.#badBefore || 0;
    const newEnded = ended - this.#endedBefore || 0;
    this.#badBefore = bad;
    this.#endedBefore = ended;
    if (this.#unsettled > 0) {
      this.#unsettled--;
      return;
    }
    this.#newBad += newBad;
    this.#newEnded += newEnded;
    if (this.#newBad < BAD && this.#newEnded < ENDED) return;
    this.#remember();
    const best = this.#best();
    if (best === this.#chosen) return;
    this.#chosen = best;
    this.share = SHARES[best]!;
    this.#unsettled = ticksOfRequest;
  }

  #remember(): void {
    for (let k = 0; k < SHARES.length; k++) {
      this.#bad[k]! *= REMEMBERED;
      this.#ended[k]! *= REMEMBERED;
    }
    this.#lossless = this.#newBad === 0 ? this.#lossless + 1 : 0;
    this.#bad[this.#chosen]! += this.#newBad;
    this.#ended[this.#chosen]! += this.#newEnded;
    this.#newBad = this.#newEnded = 0;
  }

  /** Of equal ones the first. */
  #best(): number {
    if (this.#chosen !== 0 && this.#lossless >= LOSSLESS) {
      this.#lossless = 0;
      this.#bad[0] = Math.min(this.#bad[0]!, PATIENCE * WELL_ENOUGH * (this.#ended[0]! + BENEFIT_OF_DOUBT));
    }
    let best = 0;
    let least = this.#badShare(0);
    if (least < WELL_ENOUGH) return 0;
    for (let k = 1; k < SHARES.length; k++) {
      const share = HANDICAP * this.#badShare(k);
      if (share >= least) continue;
      best = k;
      least = share;
    }
    return best;
  }

  #badShare(k: number): number {
    return this.#bad[k]! / (this.#ended[k]! + BENEFIT_OF_DOUBT);
  }
}
