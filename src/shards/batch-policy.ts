/**
 * The batch that a model would run (ALGORITHM.md 1.2), over one model's deadline queue.
 *
 *   start(b) = max(now + c + δb, gpuFree)      finish(b) = start(b) + ℓ(b)      d ≥ finish is met
 *
 * Inputs and results lie in the fields of one `BatchPolicy` and its `Float64Array` cells, so that nothing is boxed.
 */
import { DROP_NEVER, DROP_TIMEOUT } from '../protocol/config.js';
import { type DeadlineQueue, PREFIX, SUFFIX } from './deadline-queue.js';

/** Cells: inputs. */
export const NOW_PLUS_CONTROL = 0;
export const TRANSFER = 1;
export const GPU_FREE = 2;
/** Cell: result, the earliest deadline d of the batch. */
export const DEADLINE = 3;

export class BatchPolicy {
  readonly cells = new Float64Array(8);
  /** Result: size of the batch, 0 when there is none. */
  size = 0;
  /** Result, under drop policy `never`: the oldest cannot make it and is served late. */
  overdue = false;
  /** Slots that the last `choose` has given up, oldest first: `expired[0 … expiredCount-1]`. */
  expired = new Int32Array(1024);
  expiredCount = 0;
  /** The batch size for which they were given up. */
  expiredFor = 0;

  /** Decides over `queue`; requests that can no longer be met leave it and are listed in `expired`. */
  choose(queue: DeadlineQueue, latencyNs: Float64Array, maxBatch: number, target: number, dropPolicy: number, hint: number): void {
    this.expiredCount = 0;
    this.overdue = false;
    this.size = 0;
    this.#passOver(queue, latencyNs, maxBatch);
    if (dropPolicy === DROP_NEVER) {
      this.#chooseNever(queue, latencyNs, maxBatch, target, hint);
      return;
    }
    const wanted = dropPolicy === DROP_TIMEOUT ? 1 : target;
    let size = wanted < queue.suffixCount ? wanted : queue.suffixCount;
    if (queue.prefixCount > 0) this.#expire(queue, latencyNs, size === 0 ? 1 : size);
    if (size === 0) {
      if (queue.prefixCount === 0) return;
      size = 1;
    }
    this.#grow(queue, latencyNs, maxBatch, size, hint);
  }

  /** Part of step 1: the window never holds more than a batch. */
  passTooMany(queue: DeadlineQueue, maxBatch: number): void {
    if (queue.suffixCount > maxBatch) queue.passMany(queue.suffixCount - maxBatch);
  }

  /** Step 1: heads that could not finish if everything from them on ran as one batch now go to the prefix. */
  #passOver(queue: DeadlineQueue, latencyNs: Float64Array, maxBatch: number): void {
    const cells = this.cells;
    const oldest = queue.oldest;
    this.passTooMany(queue, maxBatch);
    while (queue.suffixCount > 0 && oldest[SUFFIX]! < finishNs(cells, latencyNs, queue.suffixCount)) queue.pass();
  }

  /** Step 2: heads of the prefix that cannot make a batch of this size are dropped. */
  #expire(queue: DeadlineQueue, latencyNs: Float64Array, size: number): void {
    this.expiredFor = size;
    const finish = finishNs(this.cells, latencyNs, size);
    const oldest = queue.oldest;
    while (queue.prefixCount > 0 && oldest[PREFIX]! < finish) {
      if (this.expiredCount === this.expired.length) this.#growExpired();
      this.expired[this.expiredCount++] = queue.shift(PREFIX);
    }
  }

  /** Steps 3 and 4: the largest batch, at least `size`, that the oldest survivor still makes. finish(b) never falls. */
  #grow(queue: DeadlineQueue, latencyNs: Float64Array, maxBatch: number, atLeast: number, hint: number): void {
    const cells = this.cells;
    const deadline = queue.prefixCount > 0 ? queue.oldest[PREFIX]! : queue.oldest[SUFFIX]!;
    cells[DEADLINE] = deadline;
    const survivors = queue.prefixCount + queue.suffixCount;
    let high = survivors < maxBatch ? survivors : maxBatch;
    let low = atLeast;
    if (low < high) {
      if (deadline >= finishNs(cells, latencyNs, high)) {
        low = high;
      } else {
        high--;
        // The last answer is a good guess: look beside it before bisecting.
        if (hint > low && hint < high) {
          if (deadline >= finishNs(cells, latencyNs, hint)) low = hint;
          else high = hint - 1;
        }
        while (low < high) {
          const middle = (low + high + 1) >> 1;
          if (deadline >= finishNs(cells, latencyNs, middle)) low = middle;
          else high = middle - 1;
        }
      }
    }
    this.size = low;
  }

  /** `never`: nobody is dropped. If the oldest cannot make the batch of the target size it is served late, in a full one. */
  #chooseNever(queue: DeadlineQueue, latencyNs: Float64Array, maxBatch: number, target: number, hint: number): void {
    const count = queue.prefixCount + queue.suffixCount;
    if (count === 0) return;
    const size = Math.min(target, count, maxBatch);
    const deadline = queue.prefixCount > 0 ? queue.oldest[PREFIX]! : queue.oldest[SUFFIX]!;
    if (deadline >= finishNs(this.cells, latencyNs, size)) {
      this.#grow(queue, latencyNs, maxBatch, size, hint);
      return;
    }
    this.cells[DEADLINE] = deadline;
    this.overdue = true;
    this.size = size;
  }

  #growExpired(): void {
    const expired = new Int32Array(2 * this.expired.length);
    expired.set(this.expired);
    this.expired = expired;
  }
}

function finishNs(cells: Float64Array, latencyNs: Float64Array, size: number): number {
  const start = cells[NOW_PLUS_CONTROL]! + cells[TRANSFER]! * size;
  const gpuFree = cells[GPU_FREE]!;
  return (start > gpuFree ? start : gpuFree) + latencyNs[size]!;
}
