/**
 * The emulated device: every batch takes ℓ(b) on the clock. The role that hosts all emulated GPUs of a scheduler.
 *
 * A batch starts when its GPU is free and it is ready, not before this role has seen it: like a real stream, a batch
 * that was issued ahead starts at the very moment the one before it ends; otherwise the start carries the delay of
 * the poll that noticed it. One that takes over for a role that has died runs again what the GPU table says was running. Execution time is ℓ(b) · slowdown · (1 + jitter · normal), from the GPU's own seed.
 */
import { TimeTree } from '../clock/time-tree.js';
import { Random } from '../model/random.js';
import { Doorbell } from '../ringbuf/doorbell.js';
import { RingReader, RingWriter, unreadRecords } from '../ringbuf/spsc-ring.js';
import { HOST_EMULATED } from '../protocol/config.js';
import { DEVICE_DONE, ISSUE, STATUS_FAILED, STATUS_OK } from '../protocol/records.js';
import { CELL_NEXT, CELL_NOW, CELL_WORK, type Role, roleCells } from '../protocol/role.js';
import type { SharedMemory } from '../protocol/shared-memory.js';
import { ACK_EMULATED, GPU_SPEC } from '../protocol/specs.js';
import { BATCH, batchKey, heldBatches } from '../protocol/tables.js';

// Offsets as constants of this module: V8 folds these, but not the fields of an imported object.
const {
  controlNs: DEVICE_DONE_CONTROL_NS,
  endNs: DEVICE_DONE_END_NS,
  gpu: DEVICE_DONE_GPU,
  model: DEVICE_DONE_MODEL,
  number: DEVICE_DONE_NUMBER,
  row: DEVICE_DONE_ROW,
  shard: DEVICE_DONE_SHARD,
  startNs: DEVICE_DONE_START_NS,
  status: DEVICE_DONE_STATUS,
} = DEVICE_DONE.at;
const {
  gpu: ISSUE_GPU,
  grantedNs: ISSUE_GRANTED_NS,
  lengthNs: ISSUE_LENGTH_NS,
  model: ISSUE_MODEL,
  number: ISSUE_NUMBER,
  readyNs: ISSUE_READY_NS,
  row: ISSUE_ROW,
  shard: ISSUE_SHARD,
} = ISSUE.at;

/** Words of a batch in `#batches`: two per GPU, the one that runs or is to run first, and the one after it. */
const SHARD = 0;
const ROW = 1;
const MODEL = 2;
const NUMBER = 3;
const BATCH_WORDS = 4;

export class EmulatedDeviceRole implements Role {
  readonly cells = roleCells();
  readonly #issues: RingReader;
  readonly #done: RingWriter;
  readonly #dispatcherBell: Doorbell;
  readonly #memory: SharedMemory;
  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  /** Of the specs that were taken in last, and of each GPU's. */
  #version = 0;
  readonly #versions: Int32Array;
  /** Its first poll acknowledges what the one before may not have. */
  #hasPolled = false;
  readonly #slowdown: Float64Array;
  readonly #jitter: Float64Array;
  readonly #failureRate: Float64Array;
  readonly #randoms: Random[];

  /** When something is due at each GPU: the end of what runs, or the start of what waits for its time. */
  readonly #events: TimeTree;
  readonly #batches: Int32Array;
  /** By GPU: the last two batches that it was given, as model and number. */
  readonly #given: Int32Array;
  /** Batches held by each GPU: 0, 1 or 2. */
  readonly #held: Uint8Array;
  readonly #running: Uint8Array;
  readonly #readyNs: Float64Array;
  readonly #lengthNs: Float64Array;
  readonly #controlNs: Float64Array;
  readonly #startNs: Float64Array;
  readonly #endNs: Float64Array;

  constructor(memory: SharedMemory) {
    const place = memory.hosts[HOST_EMULATED]!;
    const { gpus } = memory.limits;
    this.#memory = memory;
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#issues = new RingReader(place.issues);
    this.#done = new RingWriter(place.done);
    this.#dispatcherBell = new Doorbell(memory.buffer, memory.dispatcherBell);
    this.#versions = new Int32Array(gpus);
    this.#slowdown = new Float64Array(gpus);
    this.#jitter = new Float64Array(gpus);
    this.#failureRate = new Float64Array(gpus);
    this.#randoms = new Array<Random>(gpus).fill(new Random(0, 0));
    this.#events = new TimeTree(gpus);
    this.#batches = new Int32Array(2 * gpus * BATCH_WORDS);
    this.#given = new Int32Array(4 * gpus).fill(-1);
    this.#held = new Uint8Array(gpus);
    this.#running = new Uint8Array(gpus);
    this.#readyNs = new Float64Array(2 * gpus);
    this.#lengthNs = new Float64Array(2 * gpus);
    this.#controlNs = new Float64Array(2 * gpus);
    this.#startNs = new Float64Array(gpus);
    this.#endNs = new Float64Array(gpus);
    this.#takeChanges();
    this.#takeOver();
  }

  /** Holds what the GPU table says its GPUs hold, unless its end is in the lane already. The dispatcher must have mended the table. */
  #takeOver(): void {
    const i32 = this.#i32;
    const f64 = this.#f64;
    const done = this.#done.i32;
    const ended = new Set(unreadRecords(this.#memory.hosts[HOST_EMULATED]!.done).map((at) => batchKey(done[at + DEVICE_DONE_MODEL]!, done[at + DEVICE_DONE_NUMBER]!)));
    for (let gpu = 0; gpu < this.#versions.length; gpu++) {
      if (i32[(this.#memory.gpuSpecs >> 2) + gpu * GPU_SPEC.words + GPU_SPEC.at.host] !== HOST_EMULATED) continue;
      for (const { shard, row, model, number } of heldBatches(this.#memory, gpu)) {
        this.#noteGiven(gpu, model, number);
        if (ended.has(batchKey(model, number))) continue;
        const header = (this.#memory.shards[shard]!.batchHeaders >> 2) + row * BATCH.words;
        const batch = this.#hold(gpu, shard, row, model, number);
        this.#readyNs[batch] = f64[(header >> 1) + BATCH.at.readyNs]!;
        this.#lengthNs[batch] = f64[(header >> 1) + BATCH.at.lengthNs]!;
        this.#controlNs[batch] = 0;
        this.#eventAt(gpu, this.#readyNs, 2 * gpu);
      }
    }
  }

  poll(): void {
    const changed = this.#i32[this.#memory.version >> 2] !== this.#version || !this.#hasPolled;
    this.#hasPolled = true;
    if (changed) this.#takeChanges();
    const ended = this.#runDue();
    const taken = this.#takeIssues();
    // What was just taken may be ready at once.
    const endedNow = taken > 0 ? this.#runDue() : 0;
    if (ended + endedNow > 0) {
      this.#done.commit();
      this.#dispatcherBell.ring();
    }
    if (changed) Atomics.store(this.#i32, (this.#memory.acks >> 2) + ACK_EMULATED, this.#version);
    this.cells[CELL_WORK] = ended + taken + endedNow;
    this.cells[CELL_NEXT] = this.#events.nodes[1]!;
  }

  /** GPUs that have come or have changed (specs.ts). */
  #takeChanges(): void {
    const memory = this.#memory;
    const i32 = this.#i32;
    this.#version = Atomics.load(i32, memory.version >> 2);
    for (let gpu = 0; gpu < this.#versions.length; gpu++) {
      const row = (memory.gpuSpecs >> 2) + gpu * GPU_SPEC.words;
      const version = Atomics.load(i32, row + GPU_SPEC.at.version);
      if (version === this.#versions[gpu]) continue;
      const isNew = this.#versions[gpu] === 0 || this.#held[gpu] === 0;
      this.#versions[gpu] = version;
      this.#slowdown[gpu] = this.#f64[(row >> 1) + GPU_SPEC.at.slowdown]!;
      this.#jitter[gpu] = this.#f64[(row >> 1) + GPU_SPEC.at.jitter]!;
      this.#failureRate[gpu] = this.#f64[(row >> 1) + GPU_SPEC.at.failureRate]!;
      if (isNew) this.#randoms[gpu] = new Random(this.#f64[(row >> 1) + GPU_SPEC.at.seed]!, gpu);
    }
  }

  #takeIssues(): number {
    const now = this.cells[CELL_NOW]!;
    const lane = this.#issues;
    const count = lane.available(lane.capacity);
    for (let k = 0; k < count; k++) {
      const at = lane.word(k);
      const gpu = lane.i32[at + ISSUE_GPU]!;
      const model = lane.i32[at + ISSUE_MODEL]!;
      const number = lane.i32[at + ISSUE_NUMBER]!;
      if (this.#wasGiven(gpu, model, number)) continue;
      this.#noteGiven(gpu, model, number);
      const half = at >> 1;
      const wasIdle = this.#held[gpu] === 0;
      const batch = this.#hold(gpu, lane.i32[at + ISSUE_SHARD]!, lane.i32[at + ISSUE_ROW]!, model, number);
      this.#readyNs[batch] = lane.f64[half + ISSUE_READY_NS]!;
      this.#lengthNs[batch] = lane.f64[half + ISSUE_LENGTH_NS]!;
      this.#controlNs[batch] = now - lane.f64[half + ISSUE_GRANTED_NS]!;
      if (wasIdle && lane.f64[half + ISSUE_READY_NS]! <= now) {
        this.#startNs[gpu] = now;
        this.#start(gpu);
      } else if (wasIdle) {
        this.#eventAt(gpu, this.#readyNs, batch);
      }
    }
    if (count > 0) lane.release(count);
    return count;
  }

  #wasGiven(gpu: number, model: number, number: number): boolean {
    const given = this.#given;
    const at = 4 * gpu;
    return (given[at] === model && given[at + 1] === number) || (given[at + 2] === model && given[at + 3] === number);
  }

  #noteGiven(gpu: number, model: number, number: number): void {
    const given = this.#given;
    const at = 4 * gpu;
    given[at + 2] = given[at]!;
    given[at + 3] = given[at + 1]!;
    given[at] = model;
    given[at + 1] = number;
  }

  /** Returns the number of the batch, for the caller to note its times: as arguments they would be boxed. */
  #hold(gpu: number, shard: number, row: number, model: number, number: number): number {
    const held = this.#held[gpu]!;
    if (held === 2) throw new Error(`GPU ${gpu} was issued a third batch`);
    const batch = (2 * gpu + held) * BATCH_WORDS;
    this.#batches[batch + SHARD] = shard;
    this.#batches[batch + ROW] = row;
    this.#batches[batch + MODEL] = model;
    this.#batches[batch + NUMBER] = number;
    this.#held[gpu] = held + 1;
    return 2 * gpu + held;
  }

  /** Something is due at the GPU at `timesNs[index]`. */
  #eventAt(gpu: number, timesNs: Float64Array, index: number): void {
    this.#events.nodes[this.#events.leaves + gpu] = timesNs[index]!;
    this.#events.settle(gpu);
  }

  /** Ends and starts everything whose time has come; returns how many have ended. */
  #runDue(): number {
    const now = this.cells[CELL_NOW]!;
    const events = this.#events;
    let ended = 0;
    while (events.nodes[1]! <= now) {
      const gpu = events.first();
      if (this.#running[gpu] === 0) {
        this.#startNs[gpu] = now;
        this.#start(gpu);
        continue;
      }
      this.#report(gpu);
      ended++;
      this.#running[gpu] = 0;
      this.#held[gpu]!--;
      if (this.#held[gpu] === 0) {
        events.clear(gpu);
        continue;
      }
      // The next one was here before this end: it starts at the end, or when it is ready.
      this.#batches.copyWithin(2 * gpu * BATCH_WORDS, (2 * gpu + 1) * BATCH_WORDS, (2 * gpu + 2) * BATCH_WORDS);
      const ready = this.#readyNs[2 * gpu + 1]!;
      this.#readyNs[2 * gpu] = ready;
      this.#lengthNs[2 * gpu] = this.#lengthNs[2 * gpu + 1]!;
      this.#controlNs[2 * gpu] = this.#controlNs[2 * gpu + 1]!;
      if (ready <= now) {
        this.#startNs[gpu] = Math.max(ready, this.#endNs[gpu]!);
        this.#start(gpu);
      } else {
        this.#eventAt(gpu, this.#readyNs, 2 * gpu);
      }
    }
    return ended;
  }

  /** At `#startNs[gpu]`. */
  #start(gpu: number): void {
    const jitter = this.#jitter[gpu]!;
    let length = this.#lengthNs[2 * gpu]! * this.#slowdown[gpu]!;
    if (jitter > 0) length *= Math.max(0, 1 + jitter * this.#randoms[gpu]!.normal());
    this.#running[gpu] = 1;
    this.#endNs[gpu] = this.#startNs[gpu]! + Math.round(length);
    this.#eventAt(gpu, this.#endNs, gpu);
  }

  #report(gpu: number): void {
    const lane = this.#done;
    const at = lane.claim();
    if (at < 0) throw new Error('device-done lane is full: more batches than the GPUs can hold');
    const batch = 2 * gpu * BATCH_WORDS;
    const failureRate = this.#failureRate[gpu]!;
    const failed = failureRate > 0 && this.#randoms[gpu]!.uniform() < failureRate;
    lane.i32[at + DEVICE_DONE_GPU] = gpu;
    lane.i32[at + DEVICE_DONE_SHARD] = this.#batches[batch + SHARD]!;
    lane.i32[at + DEVICE_DONE_ROW] = this.#batches[batch + ROW]!;
    lane.i32[at + DEVICE_DONE_MODEL] = this.#batches[batch + MODEL]!;
    lane.i32[at + DEVICE_DONE_NUMBER] = this.#batches[batch + NUMBER]!;
    lane.i32[at + DEVICE_DONE_STATUS] = failed ? STATUS_FAILED : STATUS_OK;
    lane.f64[(at >> 1) + DEVICE_DONE_START_NS] = this.#startNs[gpu]!;
    lane.f64[(at >> 1) + DEVICE_DONE_END_NS] = this.#endNs[gpu]!;
    lane.f64[(at >> 1) + DEVICE_DONE_CONTROL_NS] = this.#controlNs[2 * gpu]!;
  }
}
