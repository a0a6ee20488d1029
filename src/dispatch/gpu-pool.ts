/**
 * The GPUs and what each is doing (DESIGN.md, "GPU state"): a running batch, at most one next batch issued ahead,
 * and at most one grant that its shard has not answered. The rows are durable, written only here.
 *
 * `freeAt` orders the GPUs by when they can take a grant: the past for an idle one, the predicted end for a running
 * one, +Infinity while granted, while a next batch is issued, and while a prediction has passed without the end.
 */
import { TimeTree } from '../clock/time-tree.js';
import type { SharedMemory } from '../protocol/shared-memory.js';
import { GPU } from '../protocol/tables.js';

const NONE = -1;

/** Cells of `GpuPool.cells`: inputs of the calls. */
export const POOL_EXEC = 0;
export const POOL_READY = 1;
export const POOL_LENGTH = 2;
export const POOL_START = 3;
export const POOL_END = 4;
/** Result of `ended`: the planned start of the batch that has ended. */
export const POOL_PLANNED = 5;

export class GpuPool {
  readonly freeAt: TimeTree;
  readonly cells = new Float64Array(8);
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  readonly #base: number;

  constructor(memory: SharedMemory) {
    this.i32 = new Int32Array(memory.buffer);
    this.f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#base = memory.gpus >> 2;
    const gpus = memory.config.gpus.length;
    this.freeAt = new TimeTree(gpus);
    for (let gpu = 0; gpu < gpus; gpu++) this.#reposition(gpu);
  }

  /** Word index of a GPU's row. */
  row(gpu: number): number {
    return this.#base + gpu * GPU.words;
  }

  /**
   * Lowest-numbered GPU that is free by `timeNs`, or -1. A running GPU whose prediction has passed is not free
   * until its end is reported: it is taken out of the order when it is found here.
   */
  lowestFreeBy(timeNs: number, nowNs: number): number {
    for (;;) {
      const gpu = this.freeAt.lowestUpTo(timeNs);
      if (gpu < 0 || !this.#overdue(gpu, nowNs)) return gpu;
      this.freeAt.set(gpu, Infinity);
    }
  }

  /** The GPU that is free first, the lowest-numbered of several, or -1. */
  firstFree(nowNs: number): number {
    for (;;) {
      const gpu = this.freeAt.first();
      if (gpu < 0 || !this.#overdue(gpu, nowNs)) return gpu;
      this.freeAt.set(gpu, Infinity);
    }
  }

  #overdue(gpu: number, nowNs: number): boolean {
    const row = this.row(gpu);
    return this.i32[row + GPU.at.runRow] !== NONE && this.f64[(row >> 1) + GPU.at.runEndNs]! < nowNs;
  }

  /** Notes that `model` was granted this GPU, as its grant `number`. */
  grant(gpu: number, model: number, number: number): void {
    const row = this.row(gpu);
    this.i32[row + GPU.at.grantModel] = model;
    this.i32[row + GPU.at.grantNumber] = number;
    this.freeAt.set(gpu, Infinity);
  }

  /** Whether this GPU still waits for the answer to that grant; an answer that comes twice finds it gone. */
  granted(gpu: number, model: number, number: number): boolean {
    const row = this.row(gpu);
    return this.i32[row + GPU.at.grantModel] === model && this.i32[row + GPU.at.grantNumber] === number;
  }

  /** The grant was refused: the GPU is as it was, or as it has become meanwhile. */
  refuse(gpu: number): void {
    this.i32[this.row(gpu) + GPU.at.grantModel] = NONE;
    this.#reposition(gpu);
  }

  /** The grant was answered with a plan (`cells`: exec, ready, length): it runs next, or now if the GPU is idle. */
  plan(gpu: number, shard: number, batchRow: number, model: number, size: number): void {
    const row = this.row(gpu);
    const i32 = this.i32;
    const f64 = this.f64;
    i32[row + GPU.at.nextShard] = shard;
    i32[row + GPU.at.nextRow] = batchRow;
    i32[row + GPU.at.nextModel] = model;
    i32[row + GPU.at.nextSize] = size;
    f64[(row >> 1) + GPU.at.nextExecNs] = this.cells[POOL_EXEC]!;
    f64[(row >> 1) + GPU.at.nextReadyNs] = this.cells[POOL_READY]!;
    f64[(row >> 1) + GPU.at.nextLengthNs] = this.cells[POOL_LENGTH]!;
    i32[row + GPU.at.grantModel] = NONE;
    if (i32[row + GPU.at.runRow] === NONE) this.#startNext(row);
    this.#reposition(gpu);
  }

  /** Whether `batchRow` of `shard` is what this GPU is running: an end that comes twice, or from a batch given up, is not. */
  runs(gpu: number, shard: number, batchRow: number): boolean {
    const row = this.row(gpu);
    return this.i32[row + GPU.at.runRow] === batchRow && this.i32[row + GPU.at.runShard] === shard;
  }

  /** The running batch has ended (`cells`: start, end); the next one, if any, runs from then on. */
  ended(gpu: number): void {
    const row = this.row(gpu);
    const f64 = this.f64;
    const double = row >> 1;
    const end = this.cells[POOL_END]!;
    this.cells[POOL_PLANNED] = f64[double + GPU.at.runExecNs]!;
    f64[double + GPU.at.busyNs]! += end - this.cells[POOL_START]!;
    f64[double + GPU.at.batches]! += 1;
    f64[double + GPU.at.freeNs] = end;
    this.i32[row + GPU.at.runRow] = NONE;
    if (this.i32[row + GPU.at.nextRow] !== NONE) this.#startNext(row);
    this.#reposition(gpu);
  }

  /** The next batch becomes the running one: it starts when it is ready and the GPU is free. */
  #startNext(row: number): void {
    const i32 = this.i32;
    const f64 = this.f64;
    const double = row >> 1;
    const start = Math.max(f64[double + GPU.at.nextReadyNs]!, f64[double + GPU.at.freeNs]!);
    i32[row + GPU.at.runShard] = i32[row + GPU.at.nextShard]!;
    i32[row + GPU.at.runRow] = i32[row + GPU.at.nextRow]!;
    i32[row + GPU.at.runModel] = i32[row + GPU.at.nextModel]!;
    i32[row + GPU.at.runSize] = i32[row + GPU.at.nextSize]!;
    f64[double + GPU.at.runExecNs] = f64[double + GPU.at.nextExecNs]!;
    f64[double + GPU.at.runEndNs] = start + f64[double + GPU.at.nextLengthNs]!;
    i32[row + GPU.at.nextRow] = NONE;
  }

  #reposition(gpu: number): void {
    const row = this.row(gpu);
    const i32 = this.i32;
    let freeAt: number;
    if (i32[row + GPU.at.grantModel] !== NONE || i32[row + GPU.at.nextRow] !== NONE) freeAt = Infinity;
    else if (i32[row + GPU.at.runRow] !== NONE) freeAt = this.f64[(row >> 1) + GPU.at.runEndNs]!;
    else freeAt = this.f64[(row >> 1) + GPU.at.freeNs]!;
    this.freeAt.set(gpu, freeAt);
  }
}
