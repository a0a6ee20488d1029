/**
 * The dispatcher's books, by the number of GPUs, half of which are busy:
 *
 *   pool     the batch that ends first ends; the lowest-numbered free GPU is found, granted, and planned a batch
 *   timers   the earliest of all times is taken and set to a later one, or any is set; so are waiting candidates ranked
 *
 * The rival is a binary heap over typed arrays (flatqueue): one of free GPUs by number, one of running ones by end. It answers
 * the same questions in the same order, which is checked before anything is timed.
 */
import FlatQueue from 'flatqueue';
import { TimeTree } from '#rubato/clock/time-tree.js';
import { GpuPool, POOL_END, POOL_EXEC, POOL_LENGTH, POOL_NOW, POOL_READY, POOL_START } from '#rubato/dispatch/gpu-pool.js';
import { allocateSharedMemory } from '#rubato/protocol/shared-memory.js';
import { virtualConfig } from '#rubato/sim/virtual-host.js';
import { scrambled, type Case, type Group } from './harness.js';

const SIZES = [64, 1024, 10_000];
const STEPS = 64;
/** Steps that both sides are compared over. */
const COMPARED = 20_000;
/** Added to the length of step n: no two times are equal, for which a heap knows no order. */
const lengthsNs = scrambled(4096, 1_000_000).map((length, n) => length + 1000 + n / 8192);

export const pool: Group = {
  name: 'pool',
  title: 'GPU pool: end, find the lowest free, grant, plan',
  unit: 'grant',
  note: 'The pool writes durable rows as well, which the heaps have not.',
  open: () => ({ cases: SIZES.flatMap((size) => pair(size, 'GPUs', new OwnGpus(size), new OwnGpus(size), new HeapGpus(size), new HeapGpus(size))) }),
};

export const timers: Group = {
  name: 'timers',
  title: 'Time tree: take the earliest, set it later; or set any',
  unit: 'timer',
  note: 'A heap cannot change a time that is not the earliest, which is what the tree is for.',
  open: () => ({
    cases: [
      ...SIZES.flatMap((size) => pair(size, 'times', new OwnTimers(size), new OwnTimers(size), new HeapTimers(size), new HeapTimers(size))),
      ...SIZES.map(setAny),
    ],
  }),
};

interface Steps {
  /** One step, which takes `lengthNs`; returns which GPU or timer it was about. */
  step(lengthNs: number): number;
  /** Whether everything is still there. */
  whole(): boolean;
}

/** The classes are known to each case by a loop of its own: one shared loop over an interface would be what is measured. */
function pair(size: number, what: string, own: OwnGpus | OwnTimers, own2: Steps, heap: HeapGpus | HeapTimers, heap2: Steps): Case[] {
  for (let k = 0; k < COMPARED; k++) {
    const lengthNs = lengthsNs[k & 4095]!;
    const ours = own2.step(lengthNs);
    const theirs = heap2.step(lengthNs);
    if (ours !== theirs) throw new Error(`${size} ${what}: step ${k} was about ${ours} here and ${theirs} with a heap`);
  }
  return [
    { name: `${size} ${what}`, times: STEPS, run: own.loop(), check: (sum) => sum >= 0 && own.whole(), versus: [`flatqueue, ${size} ${what}`] },
    { name: `flatqueue, ${size} ${what}`, times: STEPS, run: heap.loop(), check: (sum) => sum >= 0 && heap.whole() },
  ];
}

class OwnGpus implements Steps {
  readonly #pool: GpuPool;
  /** When each batch ends: what a device would report. */
  readonly #ends: TimeTree;
  readonly #size: number;
  #number = 0;

  constructor(size: number) {
    const gpu = { host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 };
    const model = { name: 'm', sloNs: 1e9, profile: 0, maxBatch: 1, dropPolicy: 0, condition: 0, maxQueue: 16 };
    const profiles = [Float64Array.of(0, 1000, Infinity)];
    this.#pool = new GpuPool(allocateSharedMemory(virtualConfig({ models: [model], profiles, gpus: Array.from({ length: size }, () => gpu), slotShift: 5 })));
    this.#ends = new TimeTree(size);
    this.#size = size;
    for (let k = 0; k < size / 2; k++) this.#start(0, firstNs(k));
  }

  step(lengthNs: number): number {
    const ends = this.#ends;
    const cells = this.#pool.cells;
    const gpu = ends.first();
    const nowNs = ends.nodes[1]!;
    cells[POOL_START] = nowNs - 1000;
    cells[POOL_END] = nowNs;
    this.#pool.ended(gpu);
    ends.set(gpu, Infinity);
    return this.#start(nowNs, lengthNs);
  }

  #start(nowNs: number, lengthNs: number): number {
    const pool = this.#pool;
    const cells = pool.cells;
    cells[POOL_NOW] = nowNs;
    cells[POOL_EXEC] = nowNs;
    const gpu = pool.lowestFreeByExec();
    const number = (this.#number = (this.#number + 1) | 0);
    pool.grant(gpu, 0, number, 0);
    cells[POOL_READY] = nowNs;
    cells[POOL_LENGTH] = lengthNs;
    pool.plan(gpu, 0, 0, 0, number);
    this.#ends.set(gpu, nowNs + lengthNs);
    return gpu;
  }

  whole(): boolean {
    let busy = 0;
    for (let gpu = 0; gpu < this.#size; gpu++) if (this.#pool.holdsWork(gpu)) busy++;
    return busy === this.#size / 2;
  }

  loop(): () => number {
    let n = 0;
    return () => {
      let sum = 0;
      for (let k = 0; k < STEPS; k++) sum += this.step(lengthsNs[n++ & 4095]!);
      return sum;
    };
  }
}

class HeapGpus implements Steps {
  readonly #free: FlatQueue<number>;
  readonly #running: FlatQueue<number>;
  readonly #size: number;

  constructor(size: number) {
    this.#free = new FlatQueue<number>(size);
    this.#running = new FlatQueue<number>(size);
    this.#size = size;
    for (let gpu = 0; gpu < size; gpu++) this.#free.push(gpu, gpu);
    for (let k = 0; k < size / 2; k++) this.#running.push(this.#free.pop()!, firstNs(k));
  }

  step(lengthNs: number): number {
    const nowNs = this.#running.peekValue()!;
    const ended = this.#running.pop()!;
    this.#free.push(ended, ended);
    const gpu = this.#free.pop()!;
    this.#running.push(gpu, nowNs + lengthNs);
    return gpu;
  }

  whole(): boolean {
    return this.#free.length === this.#size / 2 && this.#running.length === this.#size / 2;
  }

  loop(): () => number {
    let n = 0;
    return () => {
      let sum = 0;
      for (let k = 0; k < STEPS; k++) sum += this.step(lengthsNs[n++ & 4095]!);
      return sum;
    };
  }
}

class OwnTimers implements Steps {
  readonly #tree: TimeTree;

  constructor(size: number) {
    this.#tree = new TimeTree(size);
    for (let index = 0; index < size; index++) this.#tree.set(index, firstNs(index));
  }

  step(lengthNs: number): number {
    const tree = this.#tree;
    const index = tree.first();
    tree.set(index, tree.nodes[1]! + lengthNs);
    return index;
  }

  whole(): boolean {
    const { nodes, leaves, size } = this.#tree;
    return nodes.subarray(leaves, leaves + size).every((time) => time < Infinity);
  }

  loop(): () => number {
    let n = 0;
    return () => {
      let sum = 0;
      for (let k = 0; k < STEPS; k++) sum += this.step(lengthsNs[n++ & 4095]!);
      return sum;
    };
  }
}

class HeapTimers implements Steps {
  readonly #heap: FlatQueue<number>;
  readonly #size: number;

  constructor(size: number) {
    this.#heap = new FlatQueue<number>(size);
    this.#size = size;
    for (let index = 0; index < size; index++) this.#heap.push(index, firstNs(index));
  }

  step(lengthNs: number): number {
    const timeNs = this.#heap.peekValue()!;
    const index = this.#heap.pop()!;
    this.#heap.push(index, timeNs + lengthNs);
    return index;
  }

  whole(): boolean {
    return this.#heap.length === this.#size;
  }

  loop(): () => number {
    let n = 0;
    return () => {
      let sum = 0;
      for (let k = 0; k < STEPS; k++) sum += this.step(lengthsNs[n++ & 4095]!);
      return sum;
    };
  }
}

/** As most timers and free times are set: any index, to somewhat after the present. */
function setAny(size: number): Case {
  const tree = new TimeTree(size);
  const indices = Int32Array.from(lengthsNs, (_, k) => (k * 7919) % size);
  for (let index = 0; index < size; index++) tree.set(index, firstNs(index));
  let nowNs = 0;
  let n = 0;
  const run = (): number => {
    nowNs += 64_000;
    let set = 0;
    for (let k = 0; k < STEPS; k++, n = (n + 1) & 4095) {
      tree.set(indices[n]!, nowNs + lengthsNs[n]!);
      if (tree.nodes[1]! < Infinity) set++;
    }
    return set;
  };
  const check: Case['check'] = (sum, calls) => sum === calls * STEPS && tree.get(tree.first()) === tree.min();
  return { name: `set any of ${size}`, times: STEPS, run, check };
}

/** Above 0, in no order, and no two the same. */
function firstNs(index: number): number {
  return 1 + ((index * 7919) % 10_007) * 100 + index / 16_384;
}
