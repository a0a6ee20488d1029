/** What most policies need: a model's waiting requests, and how many of them one batch may hold. */

/** Requests of one model in order of arrival, which is also the order of their deadlines. */
export class RequestQueue {
  #ids = new Int32Array(16);
  #head = 0;
  #tail = 0;

  get length(): number {
    return this.#tail - this.#head;
  }

  /** The request at a place, from 0 at the oldest. */
  at(place: number): number {
    return this.#ids[this.#head + place]!;
  }

  /** The youngest request comes last. */
  push(request: number): void {
    if (this.#tail === this.#ids.length) this.#makeRoom(1);
    this.#ids[this.#tail++] = request;
  }

  shift(): number {
    return this.#ids[this.#head++]!;
  }

  pop(): number {
    return this.#ids[--this.#tail]!;
  }

  /** Removes and returns the oldest ones. */
  take(count: number): Int32Array {
    const taken = this.#ids.slice(this.#head, this.#head + count);
    this.#head += count;
    return taken;
  }

  /** Puts requests that were taken, in order, back where they belong. */
  putBack(requests: Int32Array): void {
    if (this.#tail + requests.length > this.#ids.length) this.#makeRoom(requests.length);
    // A merge from the back: the places after the tail are free.
    let from = this.#tail - 1;
    let given = requests.length - 1;
    this.#tail += requests.length;
    for (let to = this.#tail - 1; given >= 0; to--) {
      const isYounger = from < this.#head || requests[given]! > this.#ids[from]!;
      this.#ids[to] = isYounger ? requests[given--]! : this.#ids[from--]!;
    }
  }

  #makeRoom(count: number): void {
    const waiting = this.#ids.subarray(this.#head, this.#tail);
    const ids = 2 * (waiting.length + count) > this.#ids.length ? new Int32Array(2 * (this.#ids.length + count)) : this.#ids;
    ids.set(waiting);
    this.#ids = ids;
    this.#tail = waiting.length;
    this.#head = 0;
  }
}

/**
 * The largest batch of at most `limit` that, issued now to a GPU that is free at `freeNs`, ends by `deadlineNs`:
 * max(now + c + δb, free) + ℓ(b) ≤ deadline. 0 if not even one request makes it. (Larger batches never end earlier.)
 */
export function largestBatchInTime(
  latencyNs: Float64Array, issueNs: number, transferNs: number, freeNs: number, deadlineNs: number, limit: number,
): number {
  let fits = 0;
  let tooLarge = Math.min(limit, latencyNs.length - 2) + 1;
  while (tooLarge - fits > 1) {
    const middle = (fits + tooLarge) >>> 1;
    const inputsNs = issueNs + transferNs * middle;
    const startNs = inputsNs > freeNs ? inputsNs : freeNs;
    if (startNs + latencyNs[middle]! <= deadlineNs) fits = middle;
    else tooLarge = middle;
  }
  return fits;
}
