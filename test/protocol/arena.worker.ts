/**
 * One client of a shared arena in a thread of its own: takes and gives back cells of all sizes at random, fills each
 * with its own mark and looks, before it gives it back, whether another has written to it.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { CellAllocator } from '#rubato/protocol/arena.js';

export interface ArenaJob {
  readonly region: SharedArrayBuffer;
  readonly table: Int32Array;
  readonly client: number;
  /** By kind. */
  readonly cellBytes: readonly number[];
  readonly seed: number;
  readonly words: Int32Array;
}

export interface ArenaCounts {
  readonly taken: number;
  /** Takes that found no room. */
  readonly refused: number;
}

/** 1 once the threads are to stop. */
export const WORD_STOP = 0;
/** Cells taken so far by client c: word WORD_TAKEN + c. */
export const WORD_TAKEN = 1;

/** Cells that a thread holds at most: enough that three threads fill the region. */
const MOST_HELD = 40;

/** xorshift: the same on every run of a seed. */
function random(seed: number): (below: number) => number {
  let x = seed | 1;
  return (below) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % below;
  };
}

function run({ region, table, client, cellBytes, seed, words }: ArenaJob): ArenaCounts {
  const cells = new CellAllocator(table, client);
  const below = random(seed);
  const memory = new Int32Array(region);
  const held: { kind: number; offset: number; mark: number }[] = [];
  let taken = 0;
  let refused = 0;

  const take = (kind: number): void => {
    const offset = cells.take(kind, cellBytes[kind]!);
    if (offset === -1) {
      refused++;
      return;
    }
    taken++;
    Atomics.store(words, WORD_TAKEN + client, taken);
    const mark = ((client + 1) << 24) | (taken & 0xffffff);
    memory.fill(mark, offset / 4, (offset + cellBytes[kind]!) / 4);
    held.push({ kind, offset, mark });
  };
  const give = (index: number): void => {
    const { kind, offset, mark } = held[index]!;
    held[index] = held.at(-1)!;
    held.pop();
    for (let word = offset / 4; word < (offset + cellBytes[kind]!) / 4; word++) {
      if (memory[word] !== mark) throw new Error(`client ${client}: word ${word} of its cell at byte ${offset} holds ${memory[word]!.toString(16)}, not ${mark.toString(16)}`);
    }
    cells.give(kind, offset);
  };

  while (Atomics.load(words, WORD_STOP) === 0) {
    // Back and forth between nearly nothing and more than there is room for.
    const wanted = below(MOST_HELD);
    while (held.length < wanted && Atomics.load(words, WORD_STOP) === 0) {
      const before = refused;
      take(below(cellBytes.length));
      if (refused !== before) break;
    }
    // One is kept: whoever ends this thread finds it holding something.
    while (held.length > Math.max(1, below(wanted + 1))) give(below(held.length));
  }
  while (held.length > 0) give(held.length - 1);
  cells.release();
  return { taken, refused };
}

if (parentPort !== null) parentPort.postMessage(run(workerData as ArenaJob));
