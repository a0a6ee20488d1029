/**
 * Stands between the devices of a test and the dispatcher. Every batch, emulated or callback, takes its time by the same
 * role; when it has ended in virtual time it comes through here:
 *
 *   dispatcher ─issue─▶ timing role ──end──▶ gate ─────────────────────────────▶ dispatcher
 *                                              └─▶ CallbackDevice ─▶ execute ─▶ gate
 *
 * So a callback is called when its batch has ended, and while it runs time stands still. Batches of one instant are handed
 * on in the order in which they ended, however long their callbacks take: else a run would not repeat.
 */
import { EmulatedDeviceRole } from '../devices/emulated.js';
import { DEVICE_HOSTS, HOST_CALLBACK, HOST_EMULATED } from '../protocol/config.js';
import { DEVICE_DONE, ISSUE, STATUS_FAILED } from '../protocol/records.js';
import { CELL_NEXT, CELL_WORK, type Role, roleCells } from '../protocol/role.js';
import type { HostPlace, SharedMemory } from '../protocol/shared-memory.js';
import { BATCH } from '../protocol/tables.js';
import { ringBytes, type RingPlace, RingReader, RingWriter } from '../ringbuf/spsc-ring.js';

/** A batch that has ended in virtual time. */
export interface EndedBatch {
  readonly gpu: number;
  readonly shard: number;
  readonly row: number;
  readonly model: number;
  readonly number: number;
  readonly size: number;
  readonly startNs: number;
  readonly endNs: number;
  status: number;
  isOpen: boolean;
}

export class BatchGate implements Role {
  readonly cells = roleCells();
  /** Give every batch its time, by host. */
  readonly timing: readonly Role[];
  /** The memory as the `CallbackDevice` is to see it: its batches come from here and end here. */
  readonly memory: SharedMemory;
  /** Asked once per batch at its end: whether it is to fail. */
  readonly #isToFail: (batch: EndedBatch, slots: Int32Array) => boolean;
  readonly #i32: Int32Array;
  readonly #real: SharedMemory;
  /** By host: ends by the timing roles, and ends for the dispatcher. */
  readonly #ended: readonly RingReader[];
  readonly #done: readonly RingWriter[];
  /** To the callback device and back. */
  readonly #calls: RingWriter;
  readonly #returns: RingReader;
  /** Callback batches of this instant, in the order in which they ended. */
  #called: EndedBatch[] = [];

  constructor(memory: SharedMemory, isToFail: (batch: EndedBatch, slots: Int32Array) => boolean) {
    this.#real = memory;
    this.#isToFail = isToFail;
    this.#i32 = new Int32Array(memory.buffer);
    const between = memory.hosts.map(({ done }) => ownLane(done));
    this.#ended = between.map((lane) => new RingReader(lane));
    this.#done = memory.hosts.map(({ done }) => new RingWriter(done));
    this.timing = memory.hosts.map((host, index) => new EmulatedDeviceRole(withHost(memory, HOST_EMULATED, { ...host, done: between[index]! })));
    const callback = memory.hosts[HOST_CALLBACK]!;
    const inner = { ...callback, issues: ownLane(callback.issues), done: ownLane(callback.done) };
    this.memory = withHost(memory, HOST_CALLBACK, inner);
    this.#calls = new RingWriter(inner.issues);
    this.#returns = new RingReader(inner.done);
    this.cells[CELL_NEXT] = Infinity;
  }

  poll(): void {
    let work = this.#takeReturns();
    for (let host = 0; host < DEVICE_HOSTS; host++) work += this.#takeEnded(host);
    this.cells[CELL_WORK] = work;
  }

  #takeEnded(host: number): number {
    const lane = this.#ended[host]!;
    const count = lane.available(lane.capacity);
    for (let k = 0; k < count; k++) {
      const batch = this.#read(lane, lane.word(k));
      if (batch.status !== STATUS_FAILED && this.#isToFail(batch, this.#slotsOf(batch))) batch.status = STATUS_FAILED;
      if (host === HOST_EMULATED) this.#report(host, batch);
      else this.#take(batch);
    }
    if (count > 0) lane.release(count);
    return count;
  }

  #read(lane: RingReader, at: number): EndedBatch {
    const shard = lane.i32[at + DEVICE_DONE.at.shard]!;
    const row = lane.i32[at + DEVICE_DONE.at.row]!;
    const header = (this.#real.shards[shard]!.batchHeaders >> 2) + row * BATCH.words;
    return {
      gpu: lane.i32[at + DEVICE_DONE.at.gpu]!,
      shard,
      row,
      model: this.#i32[header + BATCH.at.model]!,
      number: lane.i32[at + DEVICE_DONE.at.number]!,
      size: this.#i32[header + BATCH.at.size]!,
      startNs: lane.f64[(at >> 1) + DEVICE_DONE.at.startNs]!,
      endNs: lane.f64[(at >> 1) + DEVICE_DONE.at.endNs]!,
      status: lane.i32[at + DEVICE_DONE.at.status]!,
      isOpen: false,
    };
  }

  #slotsOf({ shard, row, size }: EndedBatch): Int32Array {
    const place = this.#real.shards[shard]!;
    const at = (place.batchSlots >> 2) + row * place.batchStride;
    return this.#i32.subarray(at, at + size);
  }

  /** One that fails keeps its place among those whose callbacks run. */
  #take(batch: EndedBatch): void {
    this.#called.push(batch);
    if (batch.status === STATUS_FAILED) return;
    batch.isOpen = true;
    const lane = this.#calls;
    const at = claim(lane);
    lane.i32[at + ISSUE.at.gpu] = batch.gpu;
    lane.i32[at + ISSUE.at.shard] = batch.shard;
    lane.i32[at + ISSUE.at.row] = batch.row;
    lane.i32[at + ISSUE.at.model] = batch.model;
    lane.i32[at + ISSUE.at.number] = batch.number;
    lane.i32[at + ISSUE.at.size] = batch.size;
    lane.f64[(at >> 1) + ISSUE.at.readyNs] = batch.endNs;
    lane.f64[(at >> 1) + ISSUE.at.grantedNs] = batch.endNs;
    lane.commit();
  }

  #takeReturns(): number {
    const lane = this.#returns;
    const count = lane.available(lane.capacity);
    for (let k = 0; k < count; k++) {
      const at = lane.word(k);
      const batch = this.#called.find(({ shard, row }) => shard === lane.i32[at + DEVICE_DONE.at.shard] && row === lane.i32[at + DEVICE_DONE.at.row])!;
      batch.status = lane.i32[at + DEVICE_DONE.at.status]!;
      batch.isOpen = false;
    }
    if (count > 0) lane.release(count);
    if (this.#called.length === 0 || this.#called.some(({ isOpen }) => isOpen)) return count;
    for (const batch of this.#called) this.#report(HOST_CALLBACK, batch);
    const reported = this.#called.length;
    this.#called = [];
    return count + reported;
  }

  #report(host: number, batch: EndedBatch): void {
    const lane = this.#done[host]!;
    const at = claim(lane);
    lane.i32[at + DEVICE_DONE.at.gpu] = batch.gpu;
    lane.i32[at + DEVICE_DONE.at.shard] = batch.shard;
    lane.i32[at + DEVICE_DONE.at.row] = batch.row;
    lane.i32[at + DEVICE_DONE.at.number] = batch.number;
    lane.i32[at + DEVICE_DONE.at.model] = batch.model;
    lane.i32[at + DEVICE_DONE.at.status] = batch.status;
    lane.f64[(at >> 1) + DEVICE_DONE.at.startNs] = batch.startNs;
    lane.f64[(at >> 1) + DEVICE_DONE.at.endNs] = batch.endNs;
    lane.f64[(at >> 1) + DEVICE_DONE.at.controlNs] = 0;
    lane.commit();
  }
}

/** A lane like this one, in a buffer of its own. */
function ownLane({ capacity, recordBytes }: RingPlace): RingPlace {
  return { buffer: new SharedArrayBuffer(ringBytes(capacity, recordBytes)), byteOffset: 0, capacity, recordBytes };
}

/** The same memory with other lanes for one host of devices. */
function withHost(memory: SharedMemory, host: number, place: HostPlace): SharedMemory {
  return { ...memory, hosts: memory.hosts.map((other, index) => (index === host ? place : other)) };
}

function claim(lane: RingWriter): number {
  const at = lane.claim();
  if (at < 0) throw new Error('lane of a device is full: more batches than the GPUs can hold');
  return at;
}
