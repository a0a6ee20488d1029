import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ARRIVAL } from '#rubato/protocol/scratch.js';
import { DeadlineQueue, PREFIX, SUFFIX } from '#rubato/shards/deadline-queue.js';
import { SlotHeap } from '#rubato/shards/slot-heap.js';
import { ReferenceQueue } from '../sim/reference-policy.js';

const SLOTS = 512;

type Command =
  | { readonly do: 'push' | 'push row' | 'push linked'; readonly deadline: number; readonly count: number; readonly ordered: boolean }
  | { readonly do: 'pass' | 'pass all' | 'shift prefix' | 'shift suffix' }
  | { readonly do: 'take' | 'remove' | 'pass many'; readonly pick: number };

/** The real queue and the sorted arrays, side by side. */
class Pair {
  readonly queue: DeadlineQueue;
  readonly naive = new ReferenceQueue();
  #order = 0;
  #nextSlot = 0;
  readonly #busy = new Set<number>();
  /** Deadlines are near the newest one: in order, tied, or out of order by a little. */
  #base = 0;

  constructor(start: number) {
    this.queue = new DeadlineQueue(new Int32Array(SLOTS), start);
  }

  run(command: Command): void {
    const { queue, naive } = this;
    switch (command.do) {
      case 'push':
        for (let k = 0; k < command.count && this.#busy.size < SLOTS; k++) this.#push(command.deadline);
        break;
      case 'push row':
      case 'push linked':
        this.#pushMany(command);
        break;
      case 'pass many': {
        const count = command.pick % (queue.suffixCount + 1);
        queue.passMany(count);
        for (let k = 0; k < count; k++) naive.pass();
        break;
      }
      case 'pass':
        if (queue.suffixCount === 0) break;
        queue.pass();
        naive.pass();
        break;
      case 'pass all':
        while (queue.suffixCount > 0) {
          queue.pass();
          naive.pass();
        }
        break;
      case 'shift prefix':
        if (queue.prefixCount > 0) this.#gone(queue.shift(PREFIX), naive.prefix.shift()!.slot);
        break;
      case 'shift suffix':
        if (queue.suffixCount > 0) this.#gone(queue.shift(SUFFIX), naive.suffix.shift()!.slot);
        break;
      case 'take': {
        const count = queue.count === 0 ? 0 : command.pick % (queue.count + 1);
        const out = new Int32Array(count + 4).fill(-9);
        queue.takeOldest(count, out, 2);
        const expected = naive.takeOldest(count).map((entry) => entry.slot);
        assert.deepEqual([...out], [-9, -9, ...expected, -9, -9]);
        for (const slot of expected) this.#busy.delete(slot);
        break;
      }
      case 'remove': {
        // Any slot: one that waits, one that has left, one that never was here.
        const slot = command.pick % SLOTS;
        const was = naive.remove(slot);
        assert.equal(queue.remove(slot), was, `remove(${slot})`);
        if (was) this.#busy.delete(slot);
        break;
      }
    }
    this.check();
  }

  #push(offset: number): void {
    const { slot, deadline } = this.#next(offset);
    this.queue.push(slot, deadline);
  }

  /** The next request, which is in the sorted arrays by now. */
  #next(offset: number): { slot: number; deadline: number } {
    while (this.#busy.has(this.#nextSlot)) this.#nextSlot = (this.#nextSlot + 1) % SLOTS;
    const slot = this.#nextSlot;
    this.#nextSlot = (this.#nextSlot + 1) % SLOTS;
    this.#busy.add(slot);
    if (offset > 0) this.#base += offset;
    const deadline = this.#base + Math.min(offset, 0);
    this.naive.push({ slot, deadline, order: this.#order++ });
    return { slot, deadline };
  }

  /** As arrivals that lie one after another from the third on, or that are linked backwards. */
  #pushMany({ do: how, deadline: offset, count, ordered }: Extract<Command, { readonly count: number }>): void {
    const fits = Math.min(count, SLOTS - this.#busy.size);
    if (fits === 0) return;
    const i32 = new Int32Array((fits + 3) * ARRIVAL.words);
    const f64 = new Float64Array(i32.buffer);
    let inOrder = true;
    let last = -Infinity;
    for (let k = 0; k < fits; k++) {
      const { slot, deadline } = this.#next(k === 0 ? offset : ordered || k % 3 > 0 ? k & 1 : offset);
      const at = (how === 'push row' ? 2 + k : fits + 1 - k) * ARRIVAL.words;
      f64[(at >> 1) + ARRIVAL.at.deadlineNs] = deadline;
      i32[at + ARRIVAL.at.slot] = slot;
      i32[at + ARRIVAL.at.next] = fits - 1 - k;
      if (deadline < last) inOrder = false;
      last = deadline;
    }
    if (how === 'push row') this.queue.pushRow(i32, f64, 2 * ARRIVAL.words, fits);
    else this.queue.pushLinked(i32, f64, ARRIVAL.words, fits, fits, inOrder);
  }

  #gone(slot: number, expected: number): void {
    assert.equal(slot, expected);
    this.#busy.delete(slot);
  }

  check(): void {
    const { queue, naive } = this;
    assert.equal(queue.prefixCount, naive.prefix.length);
    assert.equal(queue.suffixCount, naive.suffix.length);
    assert.equal(queue.count, naive.count);
    assert.equal(queue.oldest[PREFIX], naive.prefix[0]?.deadline ?? Infinity);
    assert.equal(queue.oldest[SUFFIX], naive.suffix[0]?.deadline ?? Infinity);
  }

  drain(): void {
    this.run({ do: 'take', pick: this.queue.count });
  }
}

function commandArb(weights: { push?: number; pass?: number; shift?: number; take?: number; remove?: number }): fc.Arbitrary<Command> {
  const offset = fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 5 }), fc.integer({ min: -12, max: -1 }));
  return fc.oneof(
    { weight: weights.push ?? 6, arbitrary: fc.record({ do: fc.constantFrom('push' as const, 'push' as const, 'push row' as const, 'push linked' as const), deadline: offset, count: fc.oneof({ weight: 5, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: fc.integer({ min: 2, max: 60 }) }), ordered: fc.boolean() }) },
    { weight: weights.pass ?? 4, arbitrary: fc.record({ do: fc.constantFrom('pass' as const, 'pass' as const, 'pass' as const, 'pass all' as const) }) },
    { weight: weights.shift ?? 2, arbitrary: fc.record({ do: fc.constantFrom('shift prefix' as const, 'shift suffix' as const) }) },
    { weight: weights.take ?? 1, arbitrary: fc.record({ do: fc.constantFrom('take' as const, 'pass many' as const), pick: fc.nat(1_000) }) },
    { weight: weights.remove ?? 4, arbitrary: fc.record({ do: fc.constant('remove' as const), pick: fc.nat(SLOTS - 1) }) },
  );
}

function agrees(weights: Parameters<typeof commandArb>[0], numRuns: number): void {
  fc.assert(
    fc.property(fc.array(commandArb(weights), { maxLength: 300, size: 'max' }), fc.constantFrom(0, 2 ** 30 - 50, 2 ** 31 - 50, -50), (commands, start) => {
      const pair = new Pair(start);
      for (const command of commands) pair.run(command);
      pair.drain();
    }),
    { numRuns },
  );
}

describe('DeadlineQueue agrees with two sorted arrays', () => {
  it('whatever is done to it', () => agrees({}, 300));
  it('when it grows', () => agrees({ push: 20, take: 0, remove: 1 }, 60));
  it('when most of it is cancelled', () => agrees({ remove: 40, push: 10, take: 0 }, 100));
  it('when nothing is cancelled', () => agrees({ remove: 0 }, 100));
});

describe('DeadlineQueue', () => {
  it('keeps the order of arrival among equal deadlines, in order or not', () => {
    const queue = new DeadlineQueue(new Int32Array(16));
    const push: [slot: number, deadline: number][] = [[0, 10], [1, 30], [2, 20], [3, 10], [4, 20], [5, 30], [6, 10]];
    for (const [slot, deadline] of push) queue.push(slot, deadline);
    const out = new Int32Array(7);
    queue.takeOldest(7, out, 0);
    assert.deepEqual([...out], [0, 3, 6, 2, 4, 1, 5]);
    assert.deepEqual([...queue.oldest.subarray(0, 2)], [Infinity, Infinity]);
  });

  it('does not take a request that was passed over back into the window, nor one that sorts before it', () => {
    const queue = new DeadlineQueue(new Int32Array(16));
    queue.push(0, 10);
    queue.push(1, 20);
    queue.push(2, 30);
    queue.pass();
    queue.pass();
    queue.push(3, 15);
    queue.push(4, 20);
    queue.push(5, 25);
    assert.equal(queue.prefixCount, 3);
    assert.equal(queue.suffixCount, 3);
    const out = new Int32Array(6);
    queue.takeOldest(6, out, 0);
    assert.deepEqual([...out], [0, 3, 1, 4, 5, 2]);
  });

  it('closes the gaps of cancelled requests instead of growing without end', () => {
    const positions = new Int32Array(4);
    const queue = new DeadlineQueue(positions);
    queue.push(3, 0);
    for (let round = 1; round <= 100_000; round++) {
      const slot = round % 3;
      queue.push(slot, round);
      assert.equal(queue.remove(slot), true);
    }
    assert.equal(queue.count, 1);
    assert.ok(positions.every((position) => position < 128), `positions grew to ${Math.max(...positions)}`);
    assert.equal(queue.shift(SUFFIX), 3);
  });

  it('knows a position of the past for what it is', () => {
    const positions = new Int32Array(8);
    const [one, other] = [new DeadlineQueue(positions), new DeadlineQueue(positions)];
    one.push(1, 10);
    one.push(2, 5);
    assert.equal(one.shift(SUFFIX), 2);
    assert.equal(one.remove(2), false, 'has left the heap');
    assert.equal(one.shift(SUFFIX), 1);
    assert.equal(one.remove(1), false, 'has left the ring');
    other.push(1, 20);
    assert.equal(one.remove(1), false, 'waits in another queue');
    assert.equal(other.remove(1), true);
    assert.equal(other.remove(1), false, 'was removed already');
  });
});

describe('SlotHeap', () => {
  it('gives its slots by deadline, then by order of arrival, across the wrap of the order', () => {
    const heap = new SlotHeap(new Int32Array(64), 0);
    let order = 0x7fffffff - 20;
    for (let slot = 0; slot < 40; slot++) {
      heap.push(slot, (slot * 7) % 5, order);
      order = (order + 1) | 0;
    }
    const expected = Array.from({ length: 40 }, (_, slot) => slot).sort((a, b) => (a * 7) % 5 - (b * 7) % 5 || a - b);
    assert.deepEqual(Array.from({ length: 40 }, () => heap.shift()), expected);
    assert.equal(heap.firstDeadline(), Infinity);
  });
});
