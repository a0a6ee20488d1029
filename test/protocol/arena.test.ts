import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { arenaPages, arenaTableWords, CellAllocator, freePagesOf, PAGE_BYTES, usedPages } from '#rubato/protocol/arena.js';
import { withAtomicsWatched } from '../ringbuf/interleave.js';
import { type ArenaCounts, type ArenaJob, WORD_STOP, WORD_TAKEN } from './arena.worker.js';

function makeTable(pages: number): Int32Array {
  return new Int32Array(new SharedArrayBuffer(arenaTableWords(pages) * 4));
}

/** Takes cells until there is no room. */
function takeAll(cells: CellAllocator, kind: number, cellBytes: number): number[] {
  const offsets: number[] = [];
  for (let offset = cells.take(kind, cellBytes); offset !== -1; offset = cells.take(kind, cellBytes)) offsets.push(offset);
  return offsets;
}

function giveAll(cells: CellAllocator, kind: number, offsets: readonly number[]): void {
  for (const offset of offsets) cells.give(kind, offset);
}

describe('the pages of an arena', () => {
  it('are as many whole ones as the limit allows', () => {
    assert.equal(arenaPages(0), 0);
    assert.equal(arenaPages(PAGE_BYTES), 1);
    assert.equal(arenaPages(3 * PAGE_BYTES - 1), 2);
    assert.equal(arenaPages(2 ** 28), 4096);
    assert.equal(arenaPages(2 ** 31), 32768);
    for (const bytes of [1, PAGE_BYTES - 1, 2 ** 31 + 1, -1, NaN, Infinity]) {
      assert.throws(() => arenaPages(bytes), new RegExp(`RangeError: arena: a limit of ${bytes} bytes .* 0, or between 65536 and 2147483648`));
    }
  });

  it('are marked with the number of their client, plus one', () => {
    const table = makeTable(4);
    new CellAllocator(table, 0).take(0, 64);
    new CellAllocator(table, 6).take(0, 64);
    assert.equal(usedPages(table), 2);
    assert.deepEqual([...table].filter((word) => word !== 0), [1, 7]);
  });

  it('of a dead client go back, those of others stay', () => {
    const table = makeTable(8);
    const dead = new CellAllocator(table, 3);
    const other = new CellAllocator(table, 4);
    dead.take(0, 64);
    dead.take(1, 3 * PAGE_BYTES);
    other.take(0, 64);
    assert.equal(freePagesOf(table, 3), 4);
    assert.equal(usedPages(table), 1);
    assert.equal(freePagesOf(table, 3), 0);
    assert.equal(freePagesOf(table, 4), 1);
    assert.equal(usedPages(table), 0);
  });

  it('of a dead client can be claimed by one that had found no room', () => {
    const table = makeTable(2);
    new CellAllocator(table, 0).take(0, 2 * PAGE_BYTES);
    const waiting = new CellAllocator(table, 1);
    assert.equal(waiting.take(0, 64), -1);
    // The thread died after it had given its pages back and before it had counted that.
    table.fill(0, 1);
    freePagesOf(table, 0);
    assert.notEqual(waiting.take(0, 64), -1);
  });

  it('of a client are refused for numbers that are none', () => {
    const table = makeTable(1);
    for (const client of [-1, 0.5, 65536, NaN]) {
      assert.throws(() => new CellAllocator(table, client), new RegExp(`RangeError: arena: client ${client} must be an integer from 0 to 65535`));
      assert.throws(() => freePagesOf(table, client), /RangeError: arena: client/);
    }
  });

  it('need a table in shared memory, of a possible size', () => {
    assert.throws(() => new CellAllocator(new Int32Array(4), 0), /TypeError: arena: the page table must lie in a SharedArrayBuffer/);
    assert.throws(() => new CellAllocator(new Int32Array(new SharedArrayBuffer(4)), 0), /RangeError: arena: a page table of 1 words/);
    assert.throws(() => new CellAllocator(makeTable(32769), 0), /RangeError: arena: a page table of 32770 words; it must have 2 to 32769/);
  });
});

describe('a cell allocator', () => {
  for (const [cellBytes, perPage] of [[64, 1024], [128, 512], [1984, 33], [2048, 32], [20480, 3], [32768, 2], [40960, 1], [65536, 1]] as const) {
    it(`cuts a page into ${perPage} cells of ${cellBytes} bytes, none over another or over the end`, () => {
      const table = makeTable(2);
      const offsets = takeAll(new CellAllocator(table, 0), 5, cellBytes);
      const expected = [0, 1].flatMap((page) => Array.from({ length: perPage }, (_, cell) => page * PAGE_BYTES + cell * cellBytes));
      assert.deepEqual(offsets.toSorted((a, b) => a - b), expected);
    });
  }

  it('takes a run of pages for a cell that is larger than one', () => {
    const table = makeTable(7);
    const offsets = takeAll(new CellAllocator(table, 0), 0, 2 * PAGE_BYTES + 64);
    assert.equal(offsets.length, 2);
    assert.ok(Math.abs(offsets[0]! - offsets[1]!) >= 3 * PAGE_BYTES);
    assert.equal(usedPages(table), 6);
  });

  it('uses a cell again once it was given back, and claims no page for it', () => {
    const table = makeTable(4);
    const cells = new CellAllocator(table, 0);
    const offsets = Array.from({ length: 100 }, () => cells.take(0, 1024));
    cells.give(0, offsets[50]!);
    assert.equal(cells.take(0, 1024), offsets[50]);
    assert.equal(usedPages(table), 2);
  });

  it('keeps one wholly free chunk of a kind, and gives a second one back', () => {
    const table = makeTable(8);
    const cells = new CellAllocator(table, 0);
    const offsets = Array.from({ length: 3 }, () => cells.take(0, PAGE_BYTES));
    const left = offsets.map((offset) => {
      cells.give(0, offset);
      return usedPages(table);
    });
    assert.deepEqual(left, [3, 2, 1]);
    cells.take(0, PAGE_BYTES);
    assert.equal(usedPages(table), 1, 'the spare is used before a page is claimed');
  });

  it('fills chunks that are partly used before it touches the spare', () => {
    const table = makeTable(8);
    const cells = new CellAllocator(table, 0);
    const [first, second, third, fourth] = Array.from({ length: 4 }, () => cells.take(0, 32768));
    cells.give(0, third!);
    cells.give(0, fourth!);
    cells.give(0, first!);
    assert.equal(usedPages(table), 2);
    assert.equal(cells.take(0, 32768), first);
    cells.give(0, second!);
    cells.give(0, first!);
    assert.equal(usedPages(table), 1);
  });

  it('gives back the spares of other kinds when the region is exhausted', () => {
    const table = makeTable(3);
    const cells = new CellAllocator(table, 0);
    for (const kind of [0, 1, 2]) cells.give(kind, cells.take(kind, 64));
    assert.equal(usedPages(table), 3);
    assert.equal(cells.take(3, 3 * PAGE_BYTES), 0);
    assert.equal(cells.take(0, 64), -1);
  });

  it('cannot get at the spares of other clients', () => {
    const table = makeTable(1);
    const one = new CellAllocator(table, 0);
    const other = new CellAllocator(table, 1);
    one.give(0, one.take(0, 64));
    assert.equal(other.take(0, 64), -1);
    one.dropKind(0);
    assert.equal(other.take(0, 64), 0);
  });

  it('finds the pages that another client gave back after it had found no room', () => {
    const table = makeTable(4);
    const one = new CellAllocator(table, 0);
    const other = new CellAllocator(table, 1);
    one.take(0, 4 * PAGE_BYTES);
    for (let i = 0; i < 3; i++) assert.equal(other.take(0, 64) + other.take(1, 2 * PAGE_BYTES), -2);
    one.release();
    assert.notEqual(other.take(1, 2 * PAGE_BYTES), -1);
    assert.notEqual(other.take(0, 64), -1);
  });

  it('says that there is no room without looking at the table again, until something was given back', () => {
    const pages = 4096;
    const table = makeTable(pages);
    const one = new CellAllocator(table, 0);
    const other = new CellAllocator(table, 1);
    takeAll(one, 0, PAGE_BYTES);
    assert.equal(other.take(0, 64), -1);
    // Not a legal change of the table: nobody has counted it. So whoever sees it has looked.
    table[1 + 7] = 0;
    assert.equal(other.take(0, 64), -1);
    assert.equal(other.take(1, 3 * PAGE_BYTES), -1);
    freePagesOf(table, 2);
    assert.equal(other.take(0, 64), 7 * PAGE_BYTES);
  });

  it('keeps single pages and runs apart, so that runs still find room between many small cells', () => {
    const table = makeTable(32);
    const cells = new CellAllocator(table, 0);
    const runs = takeAll(cells, 1, 4 * PAGE_BYTES);
    assert.equal(runs.length, 8);
    // Half of the runs make room, in which every second page is used and then given back.
    giveAll(cells, 1, runs.slice(4));
    const small = takeAll(cells, 0, PAGE_BYTES);
    assert.equal(small.length, 16);
    giveAll(cells, 0, small.filter((_, i) => i % 2 === 0));
    assert.equal(cells.take(1, 4 * PAGE_BYTES), -1, 'eight pages are free, no four of them in a row');
    assert.equal(cells.take(2, PAGE_BYTES) % PAGE_BYTES, 0);
    giveAll(cells, 0, small.filter((_, i) => i % 2 === 1));
    assert.equal(takeAll(cells, 1, 4 * PAGE_BYTES).length, 3, 'four runs of room, less the page that is used');

    const fresh = makeTable(32);
    const mixed = new CellAllocator(fresh, 0);
    for (let i = 0; i < 4; i++) assert.ok(mixed.take(0, PAGE_BYTES) < mixed.take(1, 4 * PAGE_BYTES));
    assert.equal(takeAll(mixed, 2, 12 * PAGE_BYTES).length, 1, 'the room between them is in one piece');
  });

  it('refuses a cell that was given back already, or was never taken, and changes nothing', () => {
    const table = makeTable(8);
    const cells = new CellAllocator(table, 0);
    const small = cells.take(0, 20480);
    const large = cells.take(1, 3 * PAGE_BYTES);
    const wrong: [kind: number, offset: number][] = [
      [0, small + 20480], [0, small + 3 * 20480], [0, small + 64], [0, small + 0.5], [1, small], [0, large], [1, large + PAGE_BYTES], [1, large + 64],
      [0, 3 * PAGE_BYTES], [0, 8 * PAGE_BYTES], [0, 2 ** 32 + small], [0, -1], [0, NaN], [7, small],
    ];
    for (const [kind, offset] of wrong) {
      assert.throws(() => cells.give(kind, offset), new RegExp(`RangeError: arena: the cell at byte ${offset} given back for kind ${kind} is none of its live cells`));
    }
    cells.give(0, small);
    cells.give(1, large);
    assert.throws(() => cells.give(0, small), /RangeError: .*given back before/);
    assert.throws(() => cells.give(1, large), /RangeError: .*given back before/);
    assert.equal(usedPages(table), 4, 'both chunks are spares');
    assert.equal(cells.take(0, 20480), small);
    assert.equal(cells.take(1, 3 * PAGE_BYTES), large);
  });

  it('refuses kinds and sizes that are none, and a second size for a kind', () => {
    const table = makeTable(2);
    const cells = new CellAllocator(table, 0);
    for (const kind of [-1, 0.5, 65536, NaN]) assert.throws(() => cells.take(kind, 64), new RegExp(`RangeError: arena: kind ${kind} must be`));
    for (const bytes of [0, -64, 32, 100, 64.5, NaN, 2 ** 31]) {
      assert.throws(() => cells.take(0, bytes), new RegExp(`RangeError: arena: a cell of ${bytes} bytes .* multiple of 64 below 2147483648`));
    }
    cells.take(0, 64);
    assert.throws(() => cells.take(0, 128), /RangeError: arena: a cell of 128 bytes .* those of kind 0 have 64; drop the kind/);
    assert.equal(usedPages(table), 1);
  });

  it('gives the chunks of a dropped kind back: free ones at once, others with their last cell', () => {
    const table = makeTable(8);
    const cells = new CellAllocator(table, 0);
    const [a, b, c, d] = Array.from({ length: 4 }, () => cells.take(0, 32768));
    const spare = [cells.take(0, 32768), cells.take(0, 32768)];
    const kept = cells.take(1, 64);
    giveAll(cells, 0, spare);
    cells.give(0, d!);
    assert.equal(usedPages(table), 4);
    cells.dropKind(0);
    assert.equal(usedPages(table), 3, 'the spare has gone back');
    const resized = cells.take(0, 128);
    assert.ok(resized >= 0 && resized !== d, 'the kind goes on with another size, apart from its old chunks');
    assert.equal(usedPages(table), 4);
    cells.give(0, c!);
    assert.equal(usedPages(table), 3, 'partly free when dropped');
    cells.give(0, a!);
    assert.equal(usedPages(table), 3);
    cells.give(0, b!);
    assert.equal(usedPages(table), 2, 'full when dropped');
    assert.throws(() => cells.give(0, b!), /RangeError/);
    cells.give(0, resized);
    cells.give(1, kept);
    assert.equal(usedPages(table), 2, 'the new chunk of the kind is a spare again');
  });

  it('does not mind that a kind is dropped that it has not seen', () => {
    const cells = new CellAllocator(makeTable(1), 0);
    cells.dropKind(9);
    cells.take(2, 64);
    cells.dropKind(1);
    cells.dropKind(2);
    cells.dropKind(2);
  });

  it('gives everything back at its release and is as new', () => {
    const table = makeTable(8);
    const cells = new CellAllocator(table, 0);
    const offset = cells.take(0, 64);
    cells.take(1, 3 * PAGE_BYTES);
    cells.give(2, cells.take(2, 64));
    cells.take(3, 64);
    cells.dropKind(3);
    cells.release();
    assert.equal(usedPages(table), 0);
    assert.throws(() => cells.give(0, offset), /RangeError/);
    assert.notEqual(cells.take(0, 128), -1);
  });

  it('reaches the end of the largest region', () => {
    const table = makeTable(arenaPages(2 ** 31));
    const cells = new CellAllocator(table, 0);
    const offset = cells.take(0, 2 * PAGE_BYTES);
    assert.equal(offset, 2 ** 31 - 2 * PAGE_BYTES);
    cells.give(0, offset);
    assert.equal(cells.take(1, 2 ** 31 - PAGE_BYTES), PAGE_BYTES);
  });
});

describe('two clients of an arena, one between two steps of the other', () => {
  it('do not get the same page', () => {
    const table = makeTable(4);
    const one = new CellAllocator(table, 0);
    const other = new CellAllocator(table, 1);
    let stolen = -1;
    const offset = withAtomicsWatched((name) => {
      if (name === 'compareExchange' && stolen === -1) stolen = other.take(0, 64);
    }, () => one.take(0, 64));
    assert.equal(stolen, 0);
    assert.equal(offset, PAGE_BYTES);
    assert.deepEqual([...table.subarray(1)], [2, 1, 0, 0]);
  });

  for (const claimed of [0, 1, 2]) {
    it(`leave nothing behind of a run that is broken after ${claimed} pages, and find room below it`, () => {
      const table = makeTable(8);
      const one = new CellAllocator(table, 0);
      let exchanges = 0;
      const offset = withAtomicsWatched((name, index) => {
        // Client 1 is faster at just this page.
        if (name === 'compareExchange' && exchanges++ === claimed) Atomics.store(table, index, 2);
      }, () => one.take(0, 3 * PAGE_BYTES));
      const expected = Array<number>(8).fill(0);
      expected[5 + claimed] = 2;
      expected.fill(1, 2 + claimed, 5 + claimed);
      assert.deepEqual([...table.subarray(1)], expected);
      assert.equal(offset, (2 + claimed) * PAGE_BYTES);
    });
  }

  it('look again when something was given back above where they looked', () => {
    const table = makeTable(5);
    const one = new CellAllocator(table, 0);
    table.set([3, 0, 0, 3, 3], 1);
    let exchanges = 0;
    const offset = withAtomicsWatched((name, index) => {
      if (name !== 'compareExchange' || exchanges++ > 0) return;
      // Client 1 breaks the run of pages 1 and 2, while client 2, which is dead, gives back 0, 3 and 4.
      Atomics.store(table, index, 2);
      freePagesOf(table, 2);
    }, () => one.take(0, 2 * PAGE_BYTES));
    assert.equal(offset, 3 * PAGE_BYTES);
    assert.deepEqual([...table.subarray(1)], [0, 2, 0, 1, 1]);
  });

  it('find the pages that the other was about to give back when they looked', () => {
    const steps = (table: Int32Array, owner: CellAllocator, before: (step: number) => void): number => {
      let step = 0;
      withAtomicsWatched(() => before(step++), () => owner.release());
      assert.equal(usedPages(table), 0);
      return step;
    };
    for (let at = 0, most = 1; at < most; at++) {
      const table = makeTable(6);
      const owner = new CellAllocator(table, 0);
      const waiting = new CellAllocator(table, 1);
      owner.take(0, 6 * PAGE_BYTES);
      most = steps(table, owner, (step) => {
        if (step === at) assert.equal(waiting.take(0, 6 * PAGE_BYTES), -1);
      });
      assert.ok(most >= 6);
      assert.equal(waiting.take(0, 6 * PAGE_BYTES), 0, `looked before step ${at}`);
    }
  });

  it('stay apart and lose no page, wherever the one is interrupted by the other', () => {
    for (let at = 0, most = 1; at < most; at++) {
      const table = makeTable(8);
      const one = new CellAllocator(table, 0);
      const other = new CellAllocator(table, 1);
      const taken: number[] = [];
      const busy = (cells: CellAllocator): void => {
        const run = cells.take(0, 3 * PAGE_BYTES);
        const single = cells.take(1, 40960);
        const small = cells.take(2, 64);
        if (run !== -1) cells.give(0, run);
        cells.dropKind(0);
        const again = cells.take(0, 2 * PAGE_BYTES);
        for (const offset of [single, small, again]) if (offset !== -1) taken.push(offset);
        if (again !== -1) taken.push(again + PAGE_BYTES);
      };
      let step = 0;
      withAtomicsWatched(() => { if (step++ === at) busy(other); }, () => busy(one));
      most = step;
      assert.ok(most > 10);
      assert.equal(new Set(taken).size, taken.length, `interrupted before step ${at}`);
      assert.equal(usedPages(table), taken.length, `interrupted before step ${at}`);
      one.release();
      other.release();
      assert.equal(usedPages(table), 0);
      assert.equal(one.take(0, 8 * PAGE_BYTES), 0);
    }
  });
});

describe('any sequence of takes, gives, drops, releases and deaths of three clients', () => {
  const PAGES = 12;
  const CLIENTS = 3;
  /** Two sizes per kind: dropping it changes to the other. */
  const SIZES = [[64, 4096], [20480, 32768], [40960, 64], [PAGE_BYTES + 64, 3 * PAGE_BYTES]] as const;

  interface Cell { readonly kind: number; readonly bytes: number; readonly offset: number }

  const pagesFor = (bytes: number): number => Math.ceil(bytes / PAGE_BYTES);
  const seen = { refused: 0, recovered: 0, deadPages: 0 };

  /** One client, and what a simple mind keeps about it. */
  class Client {
    live: Cell[] = [];
    readonly #table: Int32Array;
    readonly #number: number;
    #cells: CellAllocator;
    #wasRefused = false;
    readonly #drops = SIZES.map(() => 0);

    constructor(table: Int32Array, number: number) {
      this.#table = table;
      this.#number = number;
      this.#cells = new CellAllocator(table, number);
    }

    take(kind: number, count: number): void {
      for (let i = 0; i < count; i++) {
        const bytes = this.#bytesOf(kind);
        const offset = this.#cells.take(kind, bytes);
        if (offset === -1) {
          seen.refused++;
          this.#wasRefused = true;
          this.#assertNoRoom(bytes);
          return;
        }
        if (this.#wasRefused) seen.recovered++;
        this.#wasRefused = false;
        this.live.push({ kind, bytes, offset });
      }
    }

    give(pick: number, count: number): void {
      for (let i = 0; i < count && this.live.length > 0; i++) {
        const [cell] = this.live.splice(pick % this.live.length, 1);
        this.#cells.give(cell!.kind, cell!.offset);
        assert.throws(() => this.#cells.give(cell!.kind, cell!.offset), RangeError);
      }
    }

    drop(kind: number): void {
      this.#cells.dropKind(kind);
      this.#drops[kind]!++;
    }

    release(): void {
      this.#cells.release();
      this.live = [];
      assert.equal(this.#owned().size, 0);
    }

    die(): void {
      const owned = this.#owned().size;
      assert.equal(freePagesOf(this.#table, this.#number), owned);
      seen.deadPages += owned;
      this.live = [];
      this.#cells = new CellAllocator(this.#table, this.#number);
    }

    /** Pages of live cells are this client's; it has others only as spares, one chunk per kind. */
    check(): void {
      const owned = this.#owned();
      const inUse = this.#pagesInUse();
      for (const page of inUse) assert.ok(owned.has(page), `page ${page} has cells of client ${this.#number} and is not its own`);
      const spares = SIZES.reduce((sum, _, kind) => sum + pagesFor(this.#bytesOf(kind)), 0);
      assert.ok(owned.size - inUse.size <= spares, `${owned.size - inUse.size} pages without cells`);
    }

    #bytesOf(kind: number): number {
      return SIZES[kind]![this.#drops[kind]! % 2]!;
    }

    #owned(): Set<number> {
      return new Set([...this.#table.subarray(1).entries()].filter(([, word]) => word === this.#number + 1).map(([page]) => page));
    }

    #pagesInUse(): Set<number> {
      return new Set(this.live.flatMap(({ offset, bytes }) => Array.from({ length: pagesFor(bytes) }, (_, i) => Math.floor(offset / PAGE_BYTES) + i)));
    }

    #assertNoRoom(bytes: number): void {
      let run = 0;
      for (let page = 0; page < PAGES; page++) {
        run = this.#table[1 + page] === 0 ? run + 1 : 0;
        assert.ok(run < pagesFor(bytes), `no room for ${bytes} bytes, but ${run} pages up to ${page} are free`);
      }
      assert.equal(this.#owned().size, this.#pagesInUse().size, 'no room, but a spare was kept');
    }
  }

  function assertApart(clients: readonly Client[]): void {
    const cells = clients.flatMap(({ live }) => live).toSorted((a, b) => a.offset - b.offset);
    for (let i = 0; i < cells.length; i++) {
      const end = cells[i]!.offset + cells[i]!.bytes;
      assert.ok(cells[i]!.offset >= 0 && end <= (cells[i + 1]?.offset ?? PAGES * PAGE_BYTES), `the cell at byte ${cells[i]!.offset} ends at ${end}`);
    }
  }

  const client = fc.nat(CLIENTS - 1);
  const kind = fc.nat(SIZES.length - 1);
  const count = fc.integer({ min: 1, max: 12 });
  const step = fc.oneof(
    { weight: 8, arbitrary: fc.record({ verb: fc.constant('take' as const), client, kind, count }) },
    { weight: 6, arbitrary: fc.record({ verb: fc.constant('give' as const), client, pick: fc.nat(), count }) },
    { weight: 1, arbitrary: fc.record({ verb: fc.constant('drop' as const), client, kind }) },
    { weight: 1, arbitrary: fc.record({ verb: fc.constantFrom('release' as const, 'die' as const), client }) },
  );

  it('never lets two live cells overlap, wastes no room, and ends with an empty table', () => {
    fc.assert(fc.property(fc.array(step, { minLength: 1, maxLength: 120, size: 'max' }), (steps) => {
      const table = makeTable(PAGES);
      const clients = Array.from({ length: CLIENTS }, (_, number) => new Client(table, number));
      for (const next of steps) {
        const actor = clients[next.client]!;
        if (next.verb === 'take') actor.take(next.kind, next.count);
        else if (next.verb === 'give') actor.give(next.pick, next.count);
        else if (next.verb === 'drop') actor.drop(next.kind);
        else actor[next.verb]();
        for (const each of clients) each.check();
        assertApart(clients);
      }
      for (const each of clients) each.release();
      assert.equal(usedPages(table), 0);
    }), { seed: 20, numRuns: 150 });
    assert.ok(seen.refused > 100 && seen.recovered > 100 && seen.deadPages > 100, `too little was tried: ${JSON.stringify(seen)}`);
  });
});

describe('an arena under threads', () => {
  const CELL_BYTES = [64, 1024, 20480, 40960, 2 * PAGE_BYTES + 64];
  const PAGES = 40;
  const STRESS_MS = 1000;
  const WATCHDOG_MS = 30_000;

  function start(job: ArenaJob): { worker: Worker; counts: Promise<ArenaCounts> } {
    const worker = new Worker(new URL('./arena.worker.js', import.meta.url), { workerData: job });
    const counts = new Promise<ArenaCounts>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
      worker.once('exit', (code) => reject(new Error(`a thread exited with code ${code} before it had counted`)));
    });
    return { worker, counts };
  }

  it('gives no cell to two clients while three take and give, and a fourth dies again and again', async () => {
    const table = makeTable(PAGES);
    const region = new SharedArrayBuffer(PAGES * PAGE_BYTES);
    const words = new Int32Array(new SharedArrayBuffer(64));
    const job = (client: number, seed: number): ArenaJob => ({ region, table, client, cellBytes: CELL_BYTES, seed, words });
    const threads = [0, 1, 2].map((client) => start(job(client, client + 1)));
    const watchdog = setTimeout(() => Atomics.store(words, WORD_STOP, 1), WATCHDOG_MS);
    let deadPages = 0;
    let deaths = 0;
    try {
      const allCounts = Promise.all(threads.map(({ counts }) => counts));
      // Looked at below; without this a failure during the deaths would count as unhandled.
      allCounts.catch(() => undefined);
      const endMs = performance.now() + STRESS_MS;
      const isShort = (): boolean => Atomics.load(words, WORD_STOP) === 0 && [0, 1, 2].some((client) => Atomics.load(words, WORD_TAKEN + client) <= 100);
      while (performance.now() < endMs || deaths === 0 || isShort()) {
        Atomics.store(words, WORD_TAKEN + 3, 0);
        const victim = start(job(3, 100 + deaths));
        victim.counts.catch(() => undefined);
        while (Atomics.load(words, WORD_TAKEN + 3) === 0 && Atomics.load(words, WORD_STOP) === 0) await sleep(1);
        await sleep(deaths * 7 % 30);
        const gone = once(victim.worker, 'exit');
        await victim.worker.terminate();
        await gone;
        deadPages += freePagesOf(table, 3);
        deaths++;
      }
      Atomics.store(words, WORD_STOP, 1);
      const counts = await allCounts;
      for (const { taken } of counts) assert.ok(taken > 100, `only ${taken} cells were taken`);
      assert.ok(counts.some(({ refused }) => refused > 0), 'the region was never full');
      assert.ok(deadPages >= deaths, `${deaths} deaths left only ${deadPages} pages`);
      assert.equal(usedPages(table), 0);
    } finally {
      clearTimeout(watchdog);
      await Promise.all(threads.map(({ worker }) => worker.terminate()));
    }
  });
});
