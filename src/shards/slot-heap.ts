/**
 * Binary heap of queued slots by (deadline, order of arrival): where requests go whose deadlines come out of order.
 * Keeps each slot's place in `positions` (`encode(index)`), so that a cancelled request is removed in O(log n).
 */
export class SlotHeap {
  count = 0;
  #deadlines = new Float64Array(16);
  #orders = new Int32Array(16);
  #slots = new Int32Array(16);
  readonly #positions: Int32Array;
  readonly #tag: number;

  /** Positions of this heap are -1 - (2 · index + tag): negative, and told apart from another heap's by the tag (0 or 1). */
  constructor(positions: Int32Array, tag: number) {
    this.#positions = positions;
    this.#tag = tag;
  }

  /** Deadline of the first, +Infinity when empty. */
  firstDeadline(): number {
    return this.count === 0 ? Infinity : this.#deadlines[0]!;
  }

  firstOrder(): number {
    return this.#orders[0]!;
  }

  push(slot: number, deadlineNs: number, order: number): void {
    if (this.count === this.#slots.length) this.#grow();
    this.#siftUp(this.count++, slot, deadlineNs, order);
  }

  /** Removes the first and returns its slot. */
  shift(): number {
    const slot = this.#slots[0]!;
    this.#removeAt(0);
    return slot;
  }

  /** Removes the entry at `index` if it is that of `slot`. */
  removeIfAt(index: number, slot: number): boolean {
    if (index >= this.count || this.#slots[index] !== slot) return false;
    this.#removeAt(index);
    return true;
  }

  #removeAt(index: number): void {
    const last = --this.count;
    if (index === last) return;
    const slot = this.#slots[last]!;
    const deadline = this.#deadlines[last]!;
    const order = this.#orders[last]!;
    if (index > 0 && this.#before(deadline, order, (index - 1) >> 1)) this.#siftUp(index, slot, deadline, order);
    else this.#siftDown(index, slot, deadline, order);
  }

  #before(deadline: number, order: number, index: number): boolean {
    const other = this.#deadlines[index]!;
    return deadline < other || (deadline === other && ((order - this.#orders[index]!) | 0) < 0);
  }

  #siftUp(from: number, slot: number, deadline: number, order: number): void {
    let index = from;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!this.#before(deadline, order, parent)) break;
      this.#move(parent, index);
      index = parent;
    }
    this.#put(index, slot, deadline, order);
  }

  #siftDown(from: number, slot: number, deadline: number, order: number): void {
    let index = from;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= this.count) break;
      if (child + 1 < this.count && this.#before(this.#deadlines[child + 1]!, this.#orders[child + 1]!, child)) child++;
      if (this.#before(deadline, order, child)) break;
      this.#move(child, index);
      index = child;
    }
    this.#put(index, slot, deadline, order);
  }

  #move(from: number, to: number): void {
    this.#put(to, this.#slots[from]!, this.#deadlines[from]!, this.#orders[from]!);
  }

  #put(index: number, slot: number, deadline: number, order: number): void {
    this.#slots[index] = slot;
    this.#deadlines[index] = deadline;
    this.#orders[index] = order;
    this.#positions[slot] = -1 - (2 * index + this.#tag);
  }

  #grow(): void {
    const size = 2 * this.#slots.length;
    const deadlines = new Float64Array(size);
    deadlines.set(this.#deadlines);
    const orders = new Int32Array(size);
    orders.set(this.#orders);
    const slots = new Int32Array(size);
    slots.set(this.#slots);
    this.#deadlines = deadlines;
    this.#orders = orders;
    this.#slots = slots;
  }
}
