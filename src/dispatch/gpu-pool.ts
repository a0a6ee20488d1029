/**
 * The GPUs and what each is doing (DESIGN.md, "GPU state"): a running batch, at most one next batch issued ahead,
 * and at most one grant that its shard has not answered. The rows are durable, written only here.
 *
 * Which can take a grant: those in `idle` now, those in `running` when the batch that they run is predicted to end. In neither
 * is a GPU while granted, while a next batch is issued, and while a prediction has passed without the end.
 */
import { TimeTree } from '../clock/time-tree.js';
import type { SharedMemory } from '../protocol/shared-memory.js';
import { GPU_ACTIVE, GPU_SPEC } from '../protocol/specs.js';
import { GPU } from '../protocol/tables.js';
import { IndexSet } from './index-set.js';

// Offsets as constants of this module: V8 folds these, but not the fields of an imported object.
const {
  batches: GPU_BATCHES,
  busyNs: GPU_BUSY_NS,
  endedBatches: GPU_ENDED_BATCHES,
  endedBusyNs: GPU_ENDED_BUSY_NS,
  freeNs: GPU_FREE_NS,
  grantFlags: GPU_GRANT_FLAGS,
  grantModel: GPU_GRANT_MODEL,
  grantNumber: GPU_GRANT_NUMBER,
  grantedNs: GPU_GRANTED_NS,
  nextExecNs: GPU_NEXT_EXEC_NS,
  nextLengthNs: GPU_NEXT_LENGTH_NS,
  nextModel: GPU_NEXT_MODEL,
  nextNumber: GPU_NEXT_NUMBER,
  nextReadyNs: GPU_NEXT_READY_NS,
  nextRow: GPU_NEXT_ROW,
  nextShard: GPU_NEXT_SHARD,
  runEndNs: GPU_RUN_END_NS,
  runExecNs: GPU_RUN_EXEC_NS,
  runModel: GPU_RUN_MODEL,
  runNumber: GPU_RUN_NUMBER,
  runRow: GPU_RUN_ROW,
  runShard: GPU_RUN_SHARD,
} = GPU.at;

const NONE = -1;

/** Cells of `GpuPool.cells`: inputs of the calls. */
export const POOL_EXEC = 0;
export const POOL_READY = 1;
export const POOL_LENGTH = 2;
export const POOL_START = 3;
export const POOL_END = 4;
/** Result of `ended`: the planned start of the batch that has ended. */
export const POOL_PLANNED = 5;
export const POOL_NOW = 6;
/** Result of `findFreeAt`, and of `findBusyUntil`: a double that is returned may be boxed. */
export const POOL_FREE_AT = 7;
export const POOL_BUSY_UNTIL = 8;

export class GpuPool {
  readonly idle: IndexSet;
  readonly running: TimeTree;
  readonly cells = new Float64Array(16);
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  readonly #base: number;
  /** Whether a GPU takes new batches, and how many do. */
  readonly #active: Uint8Array;
  activeCount = 0;

  constructor(memory: SharedMemory) {
    this.i32 = new Int32Array(memory.buffer);
    this.f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#base = memory.gpus >> 2;
    this.idle = new IndexSet(memory.limits.gpus);
    this.running = new TimeTree(memory.limits.gpus);
    this.#active = new Uint8Array(memory.limits.gpus);
    for (let gpu = 0; gpu < memory.limits.gpus; gpu++) {
      const active = this.i32[(memory.gpuSpecs >> 2) + gpu * GPU_SPEC.words + GPU_SPEC.at.state] === GPU_ACTIVE;
      this.#active[gpu] = active ? 1 : 0;
      if (active) this.activeCount++;
      this.#mend(this.row(gpu));
      this.#reposition(gpu);
    }
  }

  /** Finishes what a dispatcher before this one had begun to write when it died. Changes nothing in a row that is whole. */
  #mend(row: number): void {
    const { i32, f64 } = this;
    const double = row >> 1;
    // A GPU that is granted has no next batch: one that is there was being entered, and its answer will be read again.
    if (i32[row + GPU_GRANT_MODEL] !== NONE) i32[row + GPU_NEXT_ROW] = NONE;
    if (i32[row + GPU_RUN_ROW] === NONE) {
      f64[double + GPU_BUSY_NS] = Math.max(f64[double + GPU_BUSY_NS]!, f64[double + GPU_ENDED_BUSY_NS]!);
      f64[double + GPU_BATCHES]! += (i32[row + GPU_ENDED_BATCHES]! - (f64[double + GPU_BATCHES]! | 0)) | 0;
      if (i32[row + GPU_NEXT_ROW] !== NONE) this.#startNext(row);
    } else if (i32[row + GPU_NEXT_ROW] !== NONE && i32[row + GPU_RUN_MODEL] === i32[row + GPU_NEXT_MODEL] && i32[row + GPU_RUN_NUMBER] === i32[row + GPU_NEXT_NUMBER]) {
      i32[row + GPU_NEXT_ROW] = NONE; // it runs
    }
  }

  /** A GPU that is not active keeps what it has and gets nothing more. */
  setActive(gpu: number, active: boolean): void {
    this.activeCount += (active ? 1 : 0) - this.#active[gpu]!;
    this.#active[gpu] = active ? 1 : 0;
    this.#reposition(gpu);
  }

  /** The GPU is gone, and its number may be another's next. Now and not when that comes: a dispatcher after this one could not tell whether it was done. */
  clear(gpu: number): void {
    const double = this.row(gpu) >> 1;
    this.f64[double + GPU_ENDED_BUSY_NS] = 0;
    this.f64[double + GPU_BUSY_NS] = 0;
    this.i32[this.row(gpu) + GPU_ENDED_BATCHES] = 0;
    this.f64[double + GPU_BATCHES] = 0;
  }

  /** Word index of a GPU's row. */
  row(gpu: number): number {
    return this.#base + gpu * GPU.words;
  }

  /** When a GPU can take a grant: the past for an idle one, +Infinity for one that cannot. */
  freeAtNs(gpu: number): number {
    this.findFreeAt(gpu);
    return this.cells[POOL_FREE_AT]!;
  }

  findFreeAt(gpu: number): void {
    if (this.idle.has(gpu)) this.cells[POOL_FREE_AT] = this.f64[(this.row(gpu) >> 1) + GPU_FREE_NS]!;
    else this.cells[POOL_FREE_AT] = this.running.nodes[this.running.leaves + gpu]!;
  }

  /** How many GPUs are idle, or expected to be free by then. */
  countFreeBy(timeNs: number): number {
    return this.idle.size + this.running.countUpTo(timeNs);
  }

  /**
   * Lowest-numbered GPU that is free by `cells[POOL_EXEC]`, or -1. A running GPU whose prediction has passed is not free
   * until its end is reported: it is taken out of the order when it is found here.
   */
  lowestFreeByExec(): number {
    const idle = this.idle.first();
    for (;;) {
      this.running.asked[0] = this.cells[POOL_EXEC]!;
      const gpu = this.running.lowestUpToAsked();
      if (gpu < 0 || (idle >= 0 && idle < gpu)) return idle;
      if (!this.#overdue(gpu)) return gpu;
      this.running.clear(gpu);
    }
  }

  /** The running GPU that is free first, the lowest-numbered of several, or -1. */
  firstRunning(): number {
    for (;;) {
      const gpu = this.running.first();
      if (gpu < 0 || !this.#overdue(gpu)) return gpu;
      this.running.clear(gpu);
    }
  }

  #overdue(gpu: number): boolean {
    const row = this.row(gpu);
    return this.i32[row + GPU_RUN_ROW] !== NONE && this.f64[(row >> 1) + GPU_RUN_END_NS]! < this.cells[POOL_NOW]!;
  }

  /** Notes that `model` was granted this GPU, as its grant `number`, at `cells[POOL_NOW]`. */
  grant(gpu: number, model: number, number: number, flags: number): void {
    const row = this.row(gpu);
    this.f64[(row >> 1) + GPU_GRANTED_NS] = this.cells[POOL_NOW]!;
    this.i32[row + GPU_GRANT_FLAGS] = flags;
    this.i32[row + GPU_GRANT_NUMBER] = number;
    this.i32[row + GPU_GRANT_MODEL] = model;
    this.idle.delete(gpu);
    this.running.clear(gpu);
  }

  /** Whether this GPU still waits for the answer to that grant; an answer that comes twice finds it gone. */
  granted(gpu: number, model: number, number: number): boolean {
    const row = this.row(gpu);
    return this.i32[row + GPU_GRANT_MODEL] === model && this.i32[row + GPU_GRANT_NUMBER] === number;
  }

  /** The grant was refused: the GPU is as it was, or as it has become meanwhile. */
  refuse(gpu: number): void {
    this.i32[this.row(gpu) + GPU_GRANT_MODEL] = NONE;
    this.#reposition(gpu);
  }

  /** The grant was answered with a plan (`cells`: exec, ready, length): it runs next, or now if the GPU is idle. */
  plan(gpu: number, shard: number, batchRow: number, model: number, number: number): void {
    const row = this.row(gpu);
    const i32 = this.i32;
    const f64 = this.f64;
    i32[row + GPU_NEXT_SHARD] = shard;
    i32[row + GPU_NEXT_MODEL] = model;
    i32[row + GPU_NEXT_NUMBER] = number;
    f64[(row >> 1) + GPU_NEXT_EXEC_NS] = this.cells[POOL_EXEC]!;
    f64[(row >> 1) + GPU_NEXT_READY_NS] = this.cells[POOL_READY]!;
    f64[(row >> 1) + GPU_NEXT_LENGTH_NS] = this.cells[POOL_LENGTH]!;
    i32[row + GPU_NEXT_ROW] = batchRow;
    i32[row + GPU_GRANT_MODEL] = NONE;
    if (i32[row + GPU_RUN_ROW] === NONE) this.#startNext(row);
    this.#reposition(gpu);
  }

  /** Whether `batchRow` of `shard`, closed for grant `number` of `model`, is what this GPU is running: an end that comes twice is not. */
  runs(gpu: number, shard: number, batchRow: number, model: number, number: number): boolean {
    const row = this.row(gpu);
    const i32 = this.i32;
    return i32[row + GPU_RUN_ROW] === batchRow && i32[row + GPU_RUN_SHARD] === shard && i32[row + GPU_RUN_MODEL] === model && i32[row + GPU_RUN_NUMBER] === number;
  }

  /** The running batch has ended (`cells`: start, end); the next one, if any, runs from then on. */
  ended(gpu: number): void {
    const row = this.row(gpu);
    const f64 = this.f64;
    const double = row >> 1;
    const end = this.cells[POOL_END]!;
    this.cells[POOL_PLANNED] = f64[double + GPU_RUN_EXEC_NS]!;
    const busyNs = f64[double + GPU_BUSY_NS]! + end - this.cells[POOL_START]!;
    const batches = f64[double + GPU_BATCHES]! + 1;
    f64[double + GPU_ENDED_BUSY_NS] = busyNs;
    this.i32[row + GPU_ENDED_BATCHES] = batches | 0;
    f64[double + GPU_FREE_NS] = end;
    this.i32[row + GPU_RUN_ROW] = NONE; // from here on it has ended, and is counted (`#mend`)
    f64[double + GPU_BUSY_NS] = busyNs;
    f64[double + GPU_BATCHES] = batches;
    if (this.i32[row + GPU_NEXT_ROW] !== NONE) this.#startNext(row);
    this.#reposition(gpu);
  }

  /** The next batch becomes the running one: it starts when it is ready and the GPU is free. */
  #startNext(row: number): void {
    const i32 = this.i32;
    const f64 = this.f64;
    const double = row >> 1;
    const start = Math.max(f64[double + GPU_NEXT_READY_NS]!, f64[double + GPU_FREE_NS]!);
    i32[row + GPU_RUN_SHARD] = i32[row + GPU_NEXT_SHARD]!;
    i32[row + GPU_RUN_MODEL] = i32[row + GPU_NEXT_MODEL]!;
    i32[row + GPU_RUN_NUMBER] = i32[row + GPU_NEXT_NUMBER]!;
    f64[double + GPU_RUN_EXEC_NS] = f64[double + GPU_NEXT_EXEC_NS]!;
    f64[double + GPU_RUN_END_NS] = start + f64[double + GPU_NEXT_LENGTH_NS]!;
    i32[row + GPU_RUN_ROW] = i32[row + GPU_NEXT_ROW]!;
    i32[row + GPU_NEXT_ROW] = NONE;
  }

  /** The grant that this GPU waits for the answer to. */
  grantOf(gpu: number): { model: number; number: number; flags: number; gpuFreeNs: number; grantedNs: number } | null {
    const row = this.row(gpu);
    const { i32, f64 } = this;
    if (i32[row + GPU_GRANT_MODEL] === NONE) return null;
    const gpuFreeNs = f64[(row >> 1) + (i32[row + GPU_RUN_ROW] === NONE ? GPU_FREE_NS : GPU_RUN_END_NS)]!;
    return { model: i32[row + GPU_GRANT_MODEL]!, number: i32[row + GPU_GRANT_NUMBER]!, flags: i32[row + GPU_GRANT_FLAGS]!, gpuFreeNs, grantedNs: f64[(row >> 1) + GPU_GRANTED_NS]! };
  }

  /** POOL_BUSY_UNTIL: until when a GPU has work, as far as is known; −Infinity for one that is idle, or takes no batches any more. */
  findBusyUntil(gpu: number): void {
    const row = this.row(gpu);
    const { cells, f64, i32 } = this;
    const double = row >> 1;
    if (this.#active[gpu] === 0) cells[POOL_BUSY_UNTIL] = -Infinity;
    else if (i32[row + GPU_NEXT_ROW] !== NONE) cells[POOL_BUSY_UNTIL] = f64[double + GPU_NEXT_EXEC_NS]! + f64[double + GPU_NEXT_LENGTH_NS]!;
    else if (i32[row + GPU_RUN_ROW] !== NONE) cells[POOL_BUSY_UNTIL] = f64[double + GPU_RUN_END_NS]!;
    else cells[POOL_BUSY_UNTIL] = -Infinity;
  }

  /** Whether it takes new batches. */
  isActive(gpu: number): boolean {
    return this.#active[gpu] === 1;
  }

  /** Whether it has a batch, or is about to get one. */
  holdsWork(gpu: number): boolean {
    const row = this.row(gpu);
    return this.i32[row + GPU_RUN_ROW] !== NONE || this.i32[row + GPU_NEXT_ROW] !== NONE || this.i32[row + GPU_GRANT_MODEL] !== NONE;
  }

  /** How long it has been busy in all; the running batch counts from its planned start. */
  busyNsUpTo(gpu: number, nowNs: number): number {
    const double = this.row(gpu) >> 1;
    const busyNs = this.f64[double + GPU_BUSY_NS]!;
    if (this.i32[2 * double + GPU_RUN_ROW] === NONE) return busyNs;
    return busyNs + Math.max(0, nowNs - this.f64[double + GPU_RUN_EXEC_NS]!);
  }

  #reposition(gpu: number): void {
    const row = this.row(gpu);
    const i32 = this.i32;
    const runs = i32[row + GPU_RUN_ROW] !== NONE;
    const takesGrants = this.#active[gpu] === 1 && i32[row + GPU_GRANT_MODEL] === NONE && i32[row + GPU_NEXT_ROW] === NONE;
    if (takesGrants && !runs) this.idle.add(gpu);
    else this.idle.delete(gpu);
    if (!takesGrants || !runs) {
      this.running.clear(gpu);
      return;
    }
    this.running.nodes[this.running.leaves + gpu] = this.f64[(row >> 1) + GPU_RUN_END_NS]!;
    this.running.settle(gpu);
  }
}
