/**
 * The arena: where the clients of a scheduler, each on its own thread, keep the tensor cells of their requests. A
 * region of pages of 64 KiB (a shared buffer of its own), and a table that says whose each page is.
 *
 *   table (i32)     ┌ releases ┬ page 0 ┬ page 1 ┬ page 2 ┬ page 3 ┬ …          0 = free, else client number + 1
 *                   └──────────┴────────┴────────┴────────┴────────┴
 *                                  2        2        0        1
 *
 *   region          ├──── page 0 ────┼──── page 1 ────┼─── page 2 ───┼──────── page 3 ────────┼ …
 *                   │ one chunk of client 1: one cell │     free     │ chunk of client 0:     │
 *                   │ that is larger than a page      │              │ cell│cell│cell│…│ rest │
 *
 *   page word   0 → client + 1   a client, for itself, by Atomics.compareExchange
 *               client + 1 → 0   that client, by Atomics.store; after its death any one other thread
 *   releases    counts how often pages were given back (wraps); by Atomics.add, after the pages' stores
 *   a cell      whoever its request is with; the page words publish nothing of it to others
 *
 * Nothing blocks and no lock is held: a run of pages is claimed page by page, and rolled back when another client is
 * found in it. A thread that dies at any point leaves pages in its own name, and `freePagesOf` gives them back.
 * `releases` only saves looking: a client that has found no room need not look again until it has changed. It may be
 * behind when its client dies between the stores and the add; `freePagesOf` always adds, so nobody waits in vain.
 *
 * Which cells of a page are in use is known to its client alone, in private memory: with the client that is lost.
 */

export const PAGE_BYTES = 65536;
/** Cells start at multiples of it. */
export const CELL_ALIGN_BYTES = 64;

/** Offsets in the region fit an i32. */
const MOST_REGION_BYTES = 2 ** 31;
const MOST_CLIENTS = 2 ** 16;
const MOST_KINDS = 2 ** 16;

const RELEASES = 0;
const FIRST_PAGE = 1;

/** A page has at most 1024 cells: 32 words of a bit each. */
const GROUPS = PAGE_BYTES / CELL_ALIGN_BYTES / 32;
const NONE = -1;
/** Others may give pages back while one looks for a run; this often one looks again. */
const MOST_LOOKS = 3;

/**
 * Whole pages in `limitBytes`; 0 bytes have none, for a scheduler without tensors.
 * @throws RangeError when there is a limit and it is less than one page, or more than 2 GiB.
 */
export function arenaPages(limitBytes: number): number {
  if (limitBytes === 0) return 0;
  if (!(limitBytes >= PAGE_BYTES && limitBytes <= MOST_REGION_BYTES)) {
    throw new RangeError(`arena: a limit of ${limitBytes} bytes was asked for; it must be 0, or between ${PAGE_BYTES} and ${MOST_REGION_BYTES}`);
  }
  return Math.floor(limitBytes / PAGE_BYTES);
}

/** 32-bit words of the table for `pages` pages, all 0 at the start. */
export function arenaTableWords(pages: number): number {
  return FIRST_PAGE + pages;
}

/** Pages that belong to somebody, at this moment more or less: clients go on claiming meanwhile. */
export function usedPages(table: Int32Array): number {
  let used = 0;
  for (let word = FIRST_PAGE; word < table.length; word++) if (Atomics.load(table, word) !== 0) used++;
  return used;
}

/**
 * Gives back all pages of a client whose thread has died; returns how many. Only once it is certain that neither that
 * thread nor a device will touch their cells again.
 */
export function freePagesOf(table: Int32Array, client: number): number {
  checkClient(client);
  let freed = 0;
  for (let word = FIRST_PAGE; word < table.length; word++) {
    if (Atomics.load(table, word) !== client + 1) continue;
    Atomics.store(table, word, 0);
    freed++;
  }
  Atomics.add(table, RELEASES, 1);
  return freed;
}

function checkClient(client: number): void {
  if (client >>> 0 !== client || client >= MOST_CLIENTS) throw new RangeError(`arena: client ${client} must be an integer from 0 to ${MOST_CLIENTS - 1}`);
}

/** One client's dealings with the table: claims runs of pages, gives them back, and remembers where there was no room. */
class PageClaims {
  readonly pages: number;
  readonly #table: Int32Array;
  readonly #owner: number;
  /** What `releases` was when the two below were last right. */
  #seen: number;
  /** All pages below it were taken. */
  #low = 0;
  /** There was no run of so many pages, nor of more. */
  #noRunOf = Infinity;

  constructor(table: Int32Array, client: number) {
    if (!(table.buffer instanceof SharedArrayBuffer)) throw new TypeError('arena: the page table must lie in a SharedArrayBuffer');
    if (table.length <= FIRST_PAGE || table.length > arenaTableWords(MOST_REGION_BYTES / PAGE_BYTES)) {
      throw new RangeError(`arena: a page table of ${table.length} words; it must have ${arenaTableWords(1)} to ${arenaTableWords(MOST_REGION_BYTES / PAGE_BYTES)}`);
    }
    checkClient(client);
    this.pages = table.length - FIRST_PAGE;
    this.#table = table;
    this.#owner = client + 1;
    this.#seen = Atomics.load(table, RELEASES);
  }

  /** Claims `count` consecutive pages and returns the first of them, -1 when there is no such run. */
  claim(count: number): number {
    for (let look = 0; look < MOST_LOOKS; look++) {
      const releases = Atomics.load(this.#table, RELEASES);
      if (releases !== this.#seen) {
        this.#seen = releases;
        this.#low = 0;
        this.#noRunOf = Infinity;
      }
      if (count >= this.#noRunOf) return NONE;
      const page = count === 1 ? this.#claimPage() : this.#claimRun(count);
      if (page !== NONE) return page;
      this.#noRunOf = count;
    }
    return NONE;
  }

  giveBack(page: number, count: number): void {
    for (let word = FIRST_PAGE + page; word < FIRST_PAGE + page + count; word++) Atomics.store(this.#table, word, 0);
    Atomics.add(this.#table, RELEASES, 1);
    // Counts only our own: it stays behind when others gave something back as well, and is then noticed.
    this.#seen = (this.#seen + 1) | 0;
    if (page < this.#low) this.#low = page;
    this.#noRunOf = Infinity;
  }

  /** Single pages come from the lower end and runs from the upper, so that the single ones do not cut up the room for runs. */
  #claimPage(): number {
    for (let page = this.#low; page < this.pages; page++) {
      if (!this.#take(page)) continue;
      this.#low = page + 1;
      return page;
    }
    this.#low = this.pages;
    return NONE;
  }

  #claimRun(count: number): number {
    let free = 0;
    for (let page = this.pages - 1; page >= 0; page--) {
      // A plain look: the exchange decides.
      free = this.#table[FIRST_PAGE + page] === 0 ? free + 1 : 0;
      if (free < count) continue;
      let claimed = 0;
      while (claimed < count && this.#take(page + claimed)) claimed++;
      if (claimed === count) return page;
      // Another client was faster: a run can only end below its page.
      if (claimed > 0) this.giveBack(page, claimed);
      free = claimed;
    }
    return NONE;
  }

  #take(page: number): boolean {
    const word = FIRST_PAGE + page;
    return this.#table[word] === 0 && Atomics.compareExchange(this.#table, word, 0, this.#owner) === 0;
  }
}

/** The chunks of one kind: equally large pieces of the region, cut into equal cells. */
interface Kind {
  /** 0 until the first cell is taken, and when the kind was dropped. */
  cellBytes: number;
  /** Pages of a chunk: one, unless the cell is larger. */
  pages: number;
  /** Cells of a chunk. */
  cells: number;
  /** First of the list of chunks that have both live and free cells; -1 for none. */
  open: number;
  /** The one chunk without live cells that is kept; -1 for none. */
  spare: number;
}

/**
 * Hands out the cells of one client, on that client's thread. Cells of a kind (a model's number) are of one size.
 * A chunk is known by its first page; all that is known of it lies in arrays by page, so that nothing is allocated
 * per cell or chunk.
 */
export class CellAllocator {
  readonly #claims: PageClaims;
  readonly #kinds: Kind[] = [];
  /** Spares of all kinds. */
  #spares = 0;

  /** Cell size of the chunk that starts at the page; 0 where none of this client does. */
  readonly #cellBytes: Int32Array;
  readonly #kindOf: Int32Array;
  readonly #pagesOf: Int32Array;
  /** Cells in use. */
  readonly #live: Int32Array;
  /** 1 when its kind was dropped: it goes back with its last live cell. */
  readonly #dropped: Uint8Array;
  /** Neighbours in the list of open chunks. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  /** A bit per word of `#free` that is not 0. */
  readonly #groups: Int32Array;
  /** A bit per free cell, 32 words per page. */
  readonly #free: Int32Array;

  /**
   * `table` is a view of exactly the page table (`arenaTableWords`), the same for all clients.
   * @throws TypeError or RangeError when it is none, or `client` is no client number.
   */
  constructor(table: Int32Array, client: number) {
    this.#claims = new PageClaims(table, client);
    const { pages } = this.#claims;
    this.#cellBytes = new Int32Array(pages);
    this.#kindOf = new Int32Array(pages);
    this.#pagesOf = new Int32Array(pages);
    this.#live = new Int32Array(pages);
    this.#dropped = new Uint8Array(pages);
    this.#next = new Int32Array(pages);
    this.#previous = new Int32Array(pages);
    this.#groups = new Int32Array(pages);
    this.#free = new Int32Array(pages * GROUPS);
  }

  /**
   * Takes a cell; its bytes are whatever was there before. `cellBytes` is a multiple of 64, and the same for a kind
   * until `dropKind`.
   * @returns its byte offset in the region, -1 when there is no room.
   * @throws RangeError for a wrong kind or size.
   */
  take(kind: number, cellBytes: number): number {
    const of = this.#kinds[kind] ?? this.#addKind(kind);
    if (of.cellBytes !== cellBytes || cellBytes === 0) this.#setSize(of, kind, cellBytes);
    const page = of.open !== NONE ? of.open : this.#openChunk(of, kind);
    if (page === NONE) return -1;
    const groups = this.#groups[page]!;
    const group = 31 - Math.clz32(groups & -groups);
    const word = page * GROUPS + group;
    const bits = this.#free[word]!;
    const bit = bits & -bits;
    this.#free[word] = bits ^ bit;
    if (bits === bit) {
      this.#groups[page] = groups ^ (1 << group);
      if (this.#groups[page] === 0) this.#unlink(of, page);
    }
    this.#live[page]!++;
    return page * PAGE_BYTES + (group * 32 + 31 - Math.clz32(bit)) * cellBytes;
  }

  /**
   * Gives a cell back, when nobody will touch it any more.
   * @throws RangeError when it is no cell that was taken for this kind, or was given back already; nothing has changed then.
   */
  give(kind: number, offset: number): void {
    const page = offset >>> 16;
    const cellBytes = page < this.#cellBytes.length ? this.#cellBytes[page]! : 0;
    const cell = cellBytes === 0 ? 0 : ((offset & (PAGE_BYTES - 1)) / cellBytes) | 0;
    if (cellBytes === 0 || page * PAGE_BYTES + cell * cellBytes !== offset || this.#kindOf[page] !== kind || cell >= cellsPerChunk(cellBytes)) refuseCell(kind, offset);
    const group = cell >> 5;
    const bit = 1 << (cell & 31);
    const word = page * GROUPS + group;
    if ((this.#free[word]! & bit) !== 0) refuseCell(kind, offset);

    const of = this.#kinds[kind]!;
    const wasFull = this.#groups[page] === 0;
    this.#free[word]! |= bit;
    this.#groups[page]! |= 1 << group;
    const live = --this.#live[page]!;
    if (this.#dropped[page] === 1) {
      if (live === 0) this.#closeChunk(page);
    } else if (live > 0) {
      if (wasFull) this.#link(of, page);
    } else {
      if (!wasFull) this.#unlink(of, page);
      this.#retire(of, page);
    }
  }

  /**
   * The kind's model was removed, or is to have another cell size: free chunks go back at once, the others with their
   * last cell. The kind can be used again at once.
   */
  dropKind(kind: number): void {
    const of = this.#kinds[kind];
    if (of === undefined || of.cellBytes === 0) return;
    if (of.spare !== NONE) this.#giveSpareBack(of);
    for (let page = 0; page < this.#cellBytes.length; page++) {
      if (this.#cellBytes[page] !== 0 && this.#kindOf[page] === kind) this.#dropped[page] = 1;
    }
    of.open = NONE;
    of.cellBytes = 0;
  }

  /** Gives everything back, live cells too. The allocator is as new. */
  release(): void {
    for (let page = 0; page < this.#cellBytes.length; page++) if (this.#cellBytes[page] !== 0) this.#closeChunk(page);
    this.#kinds.length = 0;
    this.#spares = 0;
  }

  #addKind(kind: number): Kind {
    if (kind >>> 0 !== kind || kind >= MOST_KINDS) throw new RangeError(`arena: kind ${kind} must be an integer from 0 to ${MOST_KINDS - 1}`);
    while (this.#kinds.length <= kind) this.#kinds.push({ cellBytes: 0, pages: 0, cells: 0, open: NONE, spare: NONE });
    return this.#kinds[kind]!;
  }

  #setSize(of: Kind, kind: number, cellBytes: number): void {
    if (!Number.isInteger(cellBytes) || cellBytes < CELL_ALIGN_BYTES || cellBytes % CELL_ALIGN_BYTES !== 0 || cellBytes >= MOST_REGION_BYTES) {
      throw new RangeError(`arena: a cell of ${cellBytes} bytes was asked for; it must be a multiple of ${CELL_ALIGN_BYTES} below ${MOST_REGION_BYTES}`);
    }
    if (of.cellBytes !== 0) {
      throw new RangeError(`arena: a cell of ${cellBytes} bytes was asked for, those of kind ${kind} have ${of.cellBytes}; drop the kind before it gets another size`);
    }
    of.cellBytes = cellBytes;
    of.pages = Math.ceil(cellBytes / PAGE_BYTES);
    of.cells = cellsPerChunk(cellBytes);
  }

  /** The spare, or a new chunk: the first of the list then. -1 when there is no room. */
  #openChunk(of: Kind, kind: number): number {
    let page = of.spare;
    if (page !== NONE) {
      of.spare = NONE;
      this.#spares--;
    } else {
      page = this.#claims.claim(of.pages);
      if (page === NONE && this.#spares > 0) {
        for (const other of this.#kinds) if (other.spare !== NONE) this.#giveSpareBack(other);
        page = this.#claims.claim(of.pages);
      }
      if (page === NONE) return NONE;
      this.#cutChunk(of, kind, page);
    }
    this.#link(of, page);
    return page;
  }

  #cutChunk(of: Kind, kind: number, page: number): void {
    this.#cellBytes[page] = of.cellBytes;
    this.#kindOf[page] = kind;
    this.#pagesOf[page] = of.pages;
    this.#live[page] = 0;
    this.#dropped[page] = 0;
    const whole = of.cells >> 5;
    const rest = of.cells & 31;
    this.#free.fill(-1, page * GROUPS, page * GROUPS + whole);
    if (rest > 0) this.#free[page * GROUPS + whole] = 2 ** rest - 1;
    const groups = whole + (rest > 0 ? 1 : 0);
    this.#groups[page] = groups === 32 ? -1 : 2 ** groups - 1;
  }

  /** A chunk of a kind without live cells: one is kept, so that a lone request does not claim and give back a page each time. */
  #retire(of: Kind, page: number): void {
    if (of.spare === NONE) {
      of.spare = page;
      this.#spares++;
    } else {
      this.#closeChunk(page);
    }
  }

  #giveSpareBack(of: Kind): void {
    this.#closeChunk(of.spare);
    of.spare = NONE;
    this.#spares--;
  }

  #closeChunk(page: number): void {
    this.#cellBytes[page] = 0;
    this.#claims.giveBack(page, this.#pagesOf[page]!);
  }

  #link(of: Kind, page: number): void {
    this.#previous[page] = NONE;
    this.#next[page] = of.open;
    if (of.open !== NONE) this.#previous[of.open] = page;
    of.open = page;
  }

  #unlink(of: Kind, page: number): void {
    const next = this.#next[page]!;
    const previous = this.#previous[page]!;
    if (next !== NONE) this.#previous[next] = previous;
    if (previous !== NONE) this.#next[previous] = next;
    else of.open = next;
  }
}

/** Bytes of the pages that hold so many cells: what is left of a page when no more cells fit is lost. */
export function bytesForCells(cells: number, cellBytes: number): number {
  return Math.ceil(cells / cellsPerChunk(cellBytes)) * Math.ceil(cellBytes / PAGE_BYTES) * PAGE_BYTES;
}

function cellsPerChunk(cellBytes: number): number {
  return cellBytes < PAGE_BYTES ? Math.floor(PAGE_BYTES / cellBytes) : 1;
}

function refuseCell(kind: number, offset: number): never {
  throw new RangeError(`arena: the cell at byte ${offset} given back for kind ${kind} is none of its live cells: it was never taken, or was given back before`);
}
