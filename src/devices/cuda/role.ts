/**
 * CUDA devices on the dispatch thread: hands what was issued to the stream manager, whose threads do all the rest and
 * write ends straight into the done lane (native/cuda/gpu.h).
 */
import { LINE_BYTES } from '../../ringbuf/layout.js';
import { HOST_CUDA } from '../../protocol/config.js';
import { CELL_NEXT, CELL_NOW, CELL_WORK, type Role, roleCells } from '../../protocol/role.js';
import type { SharedMemory } from '../../protocol/shared-memory.js';
import type { CudaStreams } from './native.js';

/** A device that takes no more plans at the moment is asked again after this. */
const AGAIN_NS = 20e3;

export class CudaDeviceRole implements Role {
  readonly cells = roleCells();
  readonly #native: CudaStreams;
  readonly #attachment: number;
  readonly #i32: Int32Array;
  readonly #issuesHead: number;
  readonly #issuesTail: number;

  constructor(memory: SharedMemory, native: CudaStreams, attachment: number) {
    const { issues } = memory.hosts[HOST_CUDA]!;
    this.#native = native;
    this.#attachment = attachment;
    this.#i32 = new Int32Array(memory.buffer);
    this.#issuesHead = issues.byteOffset >> 2;
    this.#issuesTail = (issues.byteOffset + LINE_BYTES) >> 2;
  }

  poll(): void {
    let taken = 0;
    if (this.#hasIssues()) taken = this.#native.cudaTake(this.#attachment);
    this.cells[CELL_WORK] = taken;
    this.cells[CELL_NEXT] = this.#hasIssues() ? this.cells[CELL_NOW]! + AGAIN_NS : Infinity;
  }

  #hasIssues(): boolean {
    return Atomics.load(this.#i32, this.#issuesHead) !== Atomics.load(this.#i32, this.#issuesTail);
  }

  /** Whether batches run: then only native code knows when to wake up. */
  get isRunning(): boolean {
    return this.#native.cudaRunning(this.#attachment) > 0;
  }
}
