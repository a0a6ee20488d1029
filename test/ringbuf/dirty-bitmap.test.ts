import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { DirtyBitmap, dirtyBitmapBytes } from '#rubato/ringbuf/dirty-bitmap.js';
import { atomicsOf, explore, withAtomicsWatched, type Thread, type Trial } from './interleave.js';

const SIZES = [1, 31, 32, 33, 1024, 1025, 100_000];

function makeBitmap(size: number): DirtyBitmap {
  return new DirtyBitmap(new SharedArrayBuffer(dirtyBitmapBytes(size)), 0, size);
}

function collect(bitmap: DirtyBitmap, room = bitmap.size + 32): number[] {
  const out = new Int32Array(room);
  return [...out.subarray(0, bitmap.collect(out))];
}

describe('a dirty bitmap at construction', () => {
  it('refuses a size that is no integer between 1 and 2^30, and names it', () => {
    for (const size of [0, -1, 1.5, NaN, 2 ** 30 + 1]) assert.throws(() => dirtyBitmapBytes(size), new RegExp(`RangeError: bitmap size ${size}`));
  });

  it('refuses a buffer that is not shared, too small or crooked, with both numbers', () => {
    const bytes = dirtyBitmapBytes(1025);
    assert.throws(() => new DirtyBitmap(new ArrayBuffer(bytes) as unknown as SharedArrayBuffer, 0, 1025), /TypeError: dirty bitmap: .*SharedArrayBuffer/);
    assert.throws(() => new DirtyBitmap(new SharedArrayBuffer(bytes - 8), 0, 1025), new RegExp(`needs bytes 0 to ${bytes}, the buffer has ${bytes - 8}`));
    assert.throws(() => new DirtyBitmap(new SharedArrayBuffer(bytes + 8), 4, 1025), /starts at byte 4, .*multiple of 8/);
  });

  it('takes a word of 32 per 32 members, and levels above until one word is left', () => {
    assert.equal(dirtyBitmapBytes(32), 8);
    assert.equal(dirtyBitmapBytes(33), 16);
    assert.equal(dirtyBitmapBytes(1024), 136);
    assert.equal(dirtyBitmapBytes(1025), 144);
  });

  it('touches nothing outside its bytes', () => {
    for (const size of SIZES) {
      const bytes = dirtyBitmapBytes(size);
      const buffer = new SharedArrayBuffer(bytes + 16);
      const around = new Int32Array(buffer);
      around.fill(-1, 0, 2).fill(-1, (bytes + 8) / 4);
      const bitmap = new DirtyBitmap(buffer, 8, size);
      for (let index = 0; index < size; index++) bitmap.mark(index);
      assert.equal(collect(bitmap).length, size);
      assert.deepEqual([around[0], around[1], around.at(-2), around.at(-1)], [-1, -1, -1, -1]);
      assert.ok(around.subarray(2, -2).every((word) => word === 0));
    }
  });
});

for (const size of SIZES) {
  describe(`a dirty bitmap of ${size}`, () => {
    it('is clean at first, dirty after a mark, clean after collecting', () => {
      const bitmap = makeBitmap(size);
      assert.equal(bitmap.dirty, false);
      assert.deepEqual(collect(bitmap), []);
      bitmap.mark(size - 1);
      assert.equal(bitmap.dirty, true);
      assert.deepEqual(collect(bitmap), [size - 1]);
      assert.equal(bitmap.dirty, false);
      assert.deepEqual(collect(bitmap), []);
    });

    it('gives what was marked, once and in ascending order', () => {
      const bitmap = makeBitmap(size);
      fc.assert(fc.property(fc.array(fc.nat(size - 1), { maxLength: 200 }), (marks) => {
        for (const index of marks) bitmap.mark(index);
        assert.deepEqual(collect(bitmap), [...new Set(marks)].sort((a, b) => a - b));
      }), { numRuns: size > 5000 ? 20 : 100 });
    });

    it('keeps the rest for the next call when there is little room, and puts nothing where there is none', () => {
      const bitmap = makeBitmap(size);
      fc.assert(fc.property(fc.array(fc.nat(size - 1), { maxLength: 300 }), fc.integer({ min: Math.min(32, size), max: 100 }), (marks, room) => {
        for (const index of marks) bitmap.mark(index);
        const seen: number[] = [];
        for (let calls = 0; bitmap.dirty; calls++) {
          assert.ok(calls <= marks.length, 'it does not get on');
          const part = collect(bitmap, room);
          assert.ok(part.length > 0 && part.length <= room);
          seen.push(...part);
        }
        assert.deepEqual(seen, [...new Set(marks)].sort((a, b) => a - b));
      }), { numRuns: 50 });
    });

    it('refuses an index outside, with both numbers', () => {
      const bitmap = makeBitmap(size);
      for (const index of [-1, size, size + 31, 2 ** 31]) {
        assert.throws(() => bitmap.mark(index), new RegExp(`RangeError: dirty bitmap: index ${index} is outside 0 … ${size - 1}`));
      }
      assert.equal(bitmap.dirty, false);
    });

    it('refuses to collect where not even one word fits, and keeps all', () => {
      const bitmap = makeBitmap(size);
      const least = Math.min(32, size);
      bitmap.mark(size - 1);
      assert.throws(() => collect(bitmap, least - 1), new RegExp(`RangeError: .* room for ${least - 1} numbers, .* at least ${least}`));
      assert.deepEqual(collect(bitmap, least), [size - 1]);
    });
  });
}

describe('the memory operations of a dirty bitmap', () => {
  it('are one load when there is nothing to collect', () => {
    const bitmap = makeBitmap(100_000);
    assert.equal(atomicsOf(() => collect(bitmap)).length, 1);
  });

  it('write from the leaf to the root when marking, and not at all when all bits are set', () => {
    const bitmap = makeBitmap(1025);
    const writes = (body: () => void): string[] => atomicsOf(body).filter((operation) => !operation.startsWith('load'));
    assert.deepEqual(writes(() => bitmap.mark(1024)), ['or 32', 'or 34', 'or 35']);
    assert.deepEqual(writes(() => bitmap.mark(1024)), []);
    assert.deepEqual(writes(() => bitmap.mark(0)), ['or 0', 'or 33', 'or 35']);
  });

  it('clear from the root to the leaf when collecting', () => {
    const bitmap = makeBitmap(1025);
    bitmap.mark(1024);
    assert.deepEqual(atomicsOf(() => collect(bitmap)), ['load 35', 'exchange 35', 'exchange 34', 'exchange 32']);
  });
});

/** What each mark stands for: a version that is written before it, and read when the mark is collected. */
class Versions {
  readonly written: Int32Array;
  readonly seen: Int32Array;

  constructor(readonly bitmap: DirtyBitmap, readonly room: number) {
    this.written = new Int32Array(bitmap.size);
    this.seen = new Int32Array(bitmap.size);
  }

  mark(index: number): void {
    this.written[index]!++;
    this.bitmap.mark(index);
  }

  collect(): void {
    for (const index of collect(this.bitmap, this.room)) this.seen[index] = this.written[index]!;
  }

  checkAllSeen(what: string): void {
    for (let calls = 0; this.bitmap.dirty; calls++) {
      assert.ok(calls < 100, `${what}: it does not get clean`);
      this.collect();
    }
    assert.deepEqual(this.seen, this.written, what);
  }
}

/** Runs `outer`, and ahead of its n-th atomic operation `inner` if bit n of `mask` is set. Returns how many there were. */
function interrupted(mask: number, outer: () => void, inner: (n: number) => void): number {
  let operations = 0;
  withAtomicsWatched(() => {
    const n = operations++;
    if ((mask & (1 << n)) !== 0) inner(n);
  }, outer);
  return operations;
}

describe('a dirty bitmap, when one side interrupts the other at every place,', () => {
  for (const size of [32, 33, 1025]) {
    const indices = [...new Set([0, 31, 32, 1024].filter((index) => index < size))];

    it(`loses no mark that comes while it is collected (size ${size})`, () => {
      for (const first of indices) {
        for (let mask = 0, masks = 1; mask < masks; mask++) {
          const versions = new Versions(makeBitmap(size), size > 32 ? 32 : size);
          for (const index of indices) versions.mark(index);
          const operations = interrupted(mask, () => versions.collect(), (n) => versions.mark(indices[(n + first) % indices.length]!));
          masks = Math.max(masks, 2 ** Math.min(operations, 10));
          versions.checkAllSeen(`size ${size}, mask ${mask}`);
        }
      }
    });

    it(`loses no mark that is interrupted by collecting (size ${size})`, () => {
      for (const index of indices) {
        for (let mask = 0, masks = 1; mask < masks; mask++) {
          const versions = new Versions(makeBitmap(size), size > 32 ? 32 : size);
          if (mask % 3 === 0) versions.mark(indices[0]!);
          const operations = interrupted(mask, () => {
            versions.mark(index);
            versions.mark(index);
          }, () => versions.collect());
          masks = Math.max(masks, 2 ** Math.min(operations, 12));
          versions.checkAllSeen(`size ${size}, mask ${mask}`);
        }
      }
    });
  }
});

// ── the protocol as a model, step by step: a root bit over a leaf bit per member ───────────────────────────────────

interface Memory {
  root: number;
  readonly leaves: number[];
  /** What each marker wrote, and what the reader saw of it. */
  readonly written: number[];
  readonly seen: number[];
}

interface Fault { readonly rootFirst?: boolean; readonly readsFirst?: boolean }

function* modelMarker(memory: Memory, marker: number, leaf: number, { rootFirst }: Fault): Thread {
  yield;
  memory.written[marker]!++;
  for (const level of rootFirst === true ? ['root', 'leaf'] : ['leaf', 'root']) {
    yield;
    if ((level === 'root' ? memory.root & (1 << leaf) : memory.leaves[leaf]!) !== 0) continue;
    yield;
    if (level === 'root') memory.root |= 1 << leaf;
    else memory.leaves[leaf] = 1;
  }
}

function* modelCollector(memory: Memory, rounds: number, { readsFirst }: Fault): Thread {
  for (let round = 0; round < rounds; round++) {
    yield;
    if (memory.root === 0) continue;
    yield;
    const roots = memory.root;
    memory.root = 0;
    for (let leaf = 0; leaf < memory.leaves.length; leaf++) {
      if ((roots & (1 << leaf)) === 0) continue;
      yield;
      const early = memory.written.slice();
      if (readsFirst === true) yield;
      const marked = memory.leaves[leaf] !== 0;
      memory.leaves[leaf] = 0;
      if (!marked) continue;
      if (readsFirst !== true) yield;
      const values = readsFirst === true ? early : memory.written;
      for (let marker = 0; marker < values.length; marker++) {
        if (marker % memory.leaves.length === leaf) memory.seen[marker] = values[marker]!;
      }
    }
  }
}

function modelTrial(leaves: number, rounds: number, fault: Fault): Trial {
  const memory: Memory = { root: 0, leaves: new Array<number>(leaves).fill(0), written: [0, 0], seen: [0, 0] };
  return {
    threads: [modelMarker(memory, 0, 0, fault), modelMarker(memory, 1, 1 % leaves, fault), modelCollector(memory, rounds, fault)],
    check() {
      for (const rest of modelCollector(memory, 2, fault)) assert.equal(rest, undefined);
      assert.deepEqual(memory.seen, memory.written, 'a mark is lost');
    },
  };
}

/** One mark whose value waits in the store buffer: it gets out at any moment, at the latest before an atomic write. */
function storeBufferTrial(atomicStore: boolean): Trial {
  const memory: Memory = { root: 1, leaves: [1], written: [0], seen: [0] };
  let drained = false;
  const storeBuffer = function* (): Thread {
    yield;
    memory.written[0] = 1;
    drained = true;
  };
  const marker = function* (): Thread {
    if (atomicStore) yield () => drained;
    for (const level of ['leaf', 'root']) {
      yield;
      if ((level === 'root' ? memory.root : memory.leaves[0]) !== 0) continue;
      yield () => drained;
      if (level === 'root') memory.root = 1;
      else memory.leaves[0] = 1;
    }
  };
  return {
    threads: [storeBuffer(), marker(), modelCollector(memory, 1, {})],
    check() {
      for (const rest of modelCollector(memory, 2, {})) assert.equal(rest, undefined);
      assert.deepEqual(memory.seen, memory.written, 'a mark is lost');
    },
  };
}

describe('the protocol of the dirty bitmap, in all interleavings of its steps,', () => {
  it('loses no mark of two threads on the same bit', () => {
    assert.ok(explore(() => modelTrial(1, 1, {})) > 1000);
  });

  it('loses no mark of two threads on different words', () => {
    assert.ok(explore(() => modelTrial(2, 1, {})) > 1000);
  });

  it('would fail if marking began at the root', () => {
    assert.throws(() => explore(() => modelTrial(1, 1, { rootFirst: true })), /a mark is lost/);
  });

  it('would fail if the value was read before the bit was cleared', () => {
    assert.throws(() => explore(() => modelTrial(1, 1, { readsFirst: true })), /a mark is lost/);
  });

  it('needs an atomic store of the value before the mark: a plain one can be overtaken', () => {
    assert.ok(explore(() => storeBufferTrial(true)) > 1);
    assert.throws(() => explore(() => storeBufferTrial(false)), /a mark is lost/);
  });
});
