/** The stream manager without a scheduler's threads: the test is the dispatcher, and issues and takes batches itself. */
import { CudaAttachment } from '#rubato/devices/cuda/attachment.js';
import { loadCudaStreams } from '#rubato/devices/cuda/native.js';
import { CudaDeviceRole } from '#rubato/devices/cuda/role.js';
import { CellAllocator } from '#rubato/protocol/arena.js';
import { HOST_CUDA } from '#rubato/protocol/config.js';
import { DEVICE_DONE, ISSUE } from '#rubato/protocol/records.js';
import { CELL_WORK } from '#rubato/protocol/role.js';
import { allocateSharedMemory, type SharedMemory } from '#rubato/protocol/shared-memory.js';
import { RingReader, RingWriter } from '#rubato/ringbuf/spsc-ring.js';
import { resolveOptions } from '#rubato/scheduler/options.js';
import type { ModelOptions } from '#rubato/index.js';
import { VECADD } from './fake.js';

export class Direct {
  readonly memory: SharedMemory;
  readonly role: CudaDeviceRole;
  readonly attachment: CudaAttachment;
  readonly issues: RingWriter;
  readonly done: RingReader;
  readonly #i32: Int32Array;
  /** Of a cell, by slot. */
  readonly offsets: number[] = [];
  #number = 0;

  /** Every slot has a cell of its own; `placeOf` says whose turn it is to get the next one. */
  constructor(gpu: number, model: ModelOptions = VECADD, slots = 256, placeOf = (slot: number): number => slot) {
    const options = resolveOptions({ models: [model], devices: [{ kind: 'cuda', gpu }], maxInFlight: slots, maxDevices: 16, memoryLimit: '4MiB' });
    this.memory = allocateSharedMemory(options.config, options.arenaBytes);
    this.attachment = new CudaAttachment(this.memory, options.cuda, options.models.map(({ cuda }) => cuda), options.cudaLimits);
    this.role = new CudaDeviceRole(this.memory, loadCudaStreams(), this.attachment.number);
    const { issues, done } = this.memory.hosts[HOST_CUDA]!;
    this.issues = new RingWriter(issues);
    this.done = new RingReader(done);
    this.#i32 = new Int32Array(this.memory.buffer);
    const { pages, pageCount, cells } = this.memory;
    const allocator = new CellAllocator(new Int32Array(this.memory.buffer, pages, pageCount + 1), 0);
    for (let k = 0; k < slots; k++) {
      const offset = this.offsets[placeOf(k)] = allocator.take(0, options.models[0]!.layout!.bytes);
      this.#i32[(cells >> 2) + placeOf(k)] = offset / 64 + 1;
    }
  }

  /** Issues a batch of `size` in a row of the batch table; the role takes it at its next poll. */
  issue(row: number, size: number, readyNs = 0): void {
    const { batchSlots, batchStride } = this.memory.shards[0]!;
    for (let i = 0; i < size; i++) this.#i32[(batchSlots >> 2) + row * batchStride + i] = row * 8 + i;
    const lane = this.issues;
    const at = lane.claim();
    lane.i32[at + ISSUE.at.gpu] = 0;
    lane.i32[at + ISSUE.at.shard] = 0;
    lane.i32[at + ISSUE.at.row] = row;
    lane.i32[at + ISSUE.at.model] = 0;
    lane.i32[at + ISSUE.at.number] = ++this.#number;
    lane.i32[at + ISSUE.at.size] = size;
    lane.f64[(at >> 1) + ISSUE.at.readyNs] = readyNs;
    lane.f64[(at >> 1) + ISSUE.at.lengthNs] = 1e4;
    lane.f64[(at >> 1) + ISSUE.at.grantedNs] = 0;
    lane.commit();
  }

  /** The request of a slot has brought no tensors. */
  bringsNone(slot: number): void {
    this.#i32[(this.memory.cells >> 2) + slot] = 0;
  }

  poll(): number {
    this.role.poll();
    return this.role.cells[CELL_WORK]!;
  }

  /** Of the batches that have ended since. */
  statuses(): number[] {
    const count = this.done.available(this.done.capacity);
    const statuses = Array.from({ length: count }, (_, k) => this.done.i32[this.done.word(k) + DEVICE_DONE.at.status]!);
    this.done.release(count);
    return statuses;
  }

  /** Batches that have ended since; all of them must have been right. */
  drain(): number {
    const count = this.done.available(this.done.capacity);
    for (let k = 0; k < count; k++) {
      const status = this.done.i32[this.done.word(k) + DEVICE_DONE.at.status]!;
      if (status !== 0) throw new Error(`a batch ended with status ${status}: ${this.attachment.fault(0)}`);
    }
    this.done.release(count);
    return count;
  }
}
