/**
 * The callback device: batches executed by the user's own function, on the thread that made the scheduler. One
 * object hosts all callback GPUs; `poll` starts what is ready, the function's promise ends it.
 */
import { setTimeout } from 'node:timers';
import { types } from 'node:util';
import type { Clock } from '../clock/clock.js';
import { describeValue } from '../model/duration.js';
import { RubatoError } from '../model/errors.js';
import { type CellLayout, DTYPES, InvalidInputError, InvalidOutputError, type TensorArray, viewTensor, writeOutputs } from '../model/tensor.js';
import { Doorbell } from '../ringbuf/doorbell.js';
import { RingReader, RingWriter } from '../ringbuf/spsc-ring.js';
import { CELL_ALIGN_BYTES } from '../protocol/arena.js';
import { HOST_CALLBACK } from '../protocol/config.js';
import { DEVICE_DONE, ISSUE, STATUS_FAILED, STATUS_OK } from '../protocol/records.js';
import type { SharedMemory } from '../protocol/shared-memory.js';

/** One batch, as the user's function sees it. */
export interface Batch<I = unknown> {
  readonly model: string;
  readonly size: number;
  /** One per request, oldest deadline first. For a model with tensors: a record of views, valid until this batch ends. */
  readonly inputs: readonly I[];
  /** Number of the GPU that the scheduler has chosen. */
  readonly gpu: number;
  /**
   * For a model with tensors: all requests' values of one input in one private array, `size` × its elements, in the order
   * of `inputs`. What most frameworks want. Throws for a name that is no input.
   */
  stack(name: string): TensorArray;
}

/**
 * Must give one output per input, in their order; for a model with tensors, instead of that, also one record of stacked
 * arrays (`size` × the elements of each output). Throwing or rejecting fails this batch alone.
 */
export type ExecuteBatch<I, O> = (batch: Batch<I>) => Promise<readonly O[] | StackedOutputs> | readonly O[] | StackedOutputs;

/** Output tensors of a whole batch, by name. */
export type StackedOutputs = Readonly<Record<string, TensorArray>>;

/** What the device must know of a model. */
export interface CallbackModel {
  readonly name: string;
  /** Null for a model that takes any value. */
  readonly layout: CellLayout | null;
}

/** A request's batch failed on its device. `cause` is what the device said. */
export class DeviceError extends RubatoError {
  readonly model: string;
  readonly gpu: number;

  constructor(model: string, gpu: number, problem: string, cause?: unknown) {
    super('ERR_RUBATO_DEVICE', `model '${model}' on GPU ${gpu}: ${problem}`, { cause });
    this.model = model;
    this.gpu = gpu;
  }
}

/** Timers of Node are exact to 1 ms: a batch that is ready within that starts at once, which can only help it. */
const TIMER_NS = 1e6;

interface Issued {
  readonly gpu: number;
  readonly shard: number;
  readonly row: number;
  readonly model: number;
  readonly number: number;
  readonly size: number;
  readonly readyNs: number;
  readonly controlNs: number;
}

export class CallbackDevice {
  readonly #memory: SharedMemory;
  readonly #clock: Clock;
  readonly #executes: readonly (ExecuteBatch<unknown, unknown> | null)[];
  readonly #issues: RingReader;
  readonly #done: RingWriter;
  readonly #schedulerBell: Doorbell;
  readonly #i32: Int32Array;
  readonly #modelOf: (model: number) => CallbackModel;
  readonly #cellsAt: number;
  /** By slot of the client on this thread: values that go in, and what came out. Requests of others have neither. */
  readonly #inputs: unknown[];
  readonly #outputs: unknown[];
  /** By GPU: the batches it holds, the first of which runs. */
  readonly #queues: Issued[][];
  /** By GPU: the last two batches that it was given. */
  readonly #given: (readonly Pick<Issued, 'model' | 'number'>[])[];
  #running = 0;

  /** `executes` is by GPU and may grow; `inputs` and `outputs` are by slot, an output may be a `DeviceError`. */
  constructor(
    memory: SharedMemory, clock: Clock, executes: readonly (ExecuteBatch<unknown, unknown> | null)[], modelOf: (model: number) => CallbackModel, inputs: unknown[], outputs: unknown[],
  ) {
    const place = memory.hosts[HOST_CALLBACK]!;
    this.#memory = memory;
    this.#clock = clock;
    this.#executes = executes;
    this.#issues = new RingReader(place.issues);
    this.#done = new RingWriter(place.done);
    this.#schedulerBell = new Doorbell(memory.buffer, memory.dispatcherBell);
    this.#i32 = new Int32Array(memory.buffer);
    this.#modelOf = modelOf;
    this.#cellsAt = memory.cells >> 2;
    this.#inputs = inputs;
    this.#outputs = outputs;
    this.#queues = Array.from({ length: memory.limits.gpus }, () => []);
    this.#given = Array.from({ length: memory.limits.gpus }, () => []);
  }

  /** Batches whose function has been called and has not ended. */
  get running(): number {
    return this.#running;
  }

  /** Takes what was issued and starts what can start; returns how much was taken. */
  poll(nowNs: number): number {
    const lane = this.#issues;
    const count = lane.available(lane.capacity);
    for (let k = 0; k < count; k++) {
      const at = lane.word(k);
      const issued: Issued = {
        gpu: lane.i32[at + ISSUE.at.gpu]!,
        shard: lane.i32[at + ISSUE.at.shard]!,
        row: lane.i32[at + ISSUE.at.row]!,
        model: lane.i32[at + ISSUE.at.model]!,
        number: lane.i32[at + ISSUE.at.number]!,
        size: lane.i32[at + ISSUE.at.size]!,
        readyNs: lane.f64[(at >> 1) + ISSUE.at.readyNs]!,
        controlNs: nowNs - lane.f64[(at >> 1) + ISSUE.at.grantedNs]!,
      };
      const given = this.#given[issued.gpu]!;
      // Issued again: a dispatcher has died that may not have said so.
      if (given.some(({ model, number }) => model === issued.model && number === issued.number)) continue;
      this.#given[issued.gpu] = [{ model: issued.model, number: issued.number }, ...given.slice(0, 1)];
      const queue = this.#queues[issued.gpu]!;
      queue.push(issued);
      if (queue.length === 1) this.#startWhenReady(issued, nowNs);
    }
    if (count > 0) lane.release(count);
    return count;
  }

  #startWhenReady(issued: Issued, nowNs: number): void {
    const waitNs = issued.readyNs - nowNs;
    if (waitNs <= TIMER_NS) void this.#run(issued);
    else setTimeout(() => void this.#run(issued), waitNs / 1e6);
  }

  /** Never rejects: whatever the function does ends in a status. */
  async #run(issued: Issued): Promise<void> {
    const { gpu, size } = issued;
    const startNs = this.#clock.nowNs();
    const slots = this.#slotsOf(issued);
    const { name, layout } = this.#modelOf(issued.model);
    this.#running++;
    let failure: DeviceError | null = null;
    try {
      const inputs = slots.map((slot) => (layout === null ? this.#inputs[slot] : this.#views(slot, layout)));
      const batch: Batch = { model: name, size, inputs, gpu, stack: (input) => this.#stack(slots, layout, input, name) };
      const outputs: unknown = await this.#executes[gpu]!(batch);
      if (layout !== null) this.#writeTensors(slots, layout, outputs, name);
      else if (!Array.isArray(outputs)) failure = new DeviceError(name, gpu, `execute must give an array of ${size} outputs, it gave ${typeof outputs}`);
      else if (outputs.length !== size) failure = new DeviceError(name, gpu, `execute must give one output per input, it gave ${outputs.length} for a batch of ${size}`);
      else slots.forEach((slot, i) => this.#keep(slot, outputs[i]));
    } catch (error) {
      failure = new DeviceError(name, gpu, `execute failed for a batch of ${size}: ${error instanceof Error || types.isNativeError(error) ? error.message : describeValue(error)}`, error);
    }
    if (failure !== null) for (const slot of slots) this.#keep(slot, failure);
    this.#running--;
    this.#report(issued, failure === null ? STATUS_OK : STATUS_FAILED, startNs, this.#clock.nowNs());
  }

  /** Byte offset of a request's tensors, -1 when it has brought none (it came by a raw client). */
  #cellOf(slot: number): number {
    return (this.#i32[this.#cellsAt + slot]! - 1) * CELL_ALIGN_BYTES;
  }

  #views(slot: number, layout: CellLayout): Record<string, TensorArray> | undefined {
    const cell = this.#cellOf(slot);
    if (cell < 0) return undefined;
    return Object.fromEntries(layout.inputs.map((place) => [place.name, viewTensor(this.#memory.arena!, cell, place)]));
  }

  #stack(slots: readonly number[], layout: CellLayout | null, input: string, model: string): TensorArray {
    const place = layout?.inputs.find(({ name }) => name === input);
    if (place === undefined) throw new InvalidInputError(model, input, `no input '${input}' to stack; there are: ${layout?.inputs.map(({ name }) => name).join(', ') ?? 'none'}`);
    const stacked = new (DTYPES[place.dtype].array as new (length: number) => TensorArray)(slots.length * place.length);
    slots.forEach((slot, i) => {
      const cell = this.#cellOf(slot);
      if (cell >= 0) (stacked as Uint8Array).set(viewTensor(this.#memory.arena!, cell, place) as Uint8Array, i * place.length);
    });
    return stacked;
  }

  #writeTensors(slots: readonly number[], layout: CellLayout, outputs: unknown, model: string): void {
    const each = Array.isArray(outputs) ? (outputs as unknown[]) : unstack(layout, outputs, slots.length, model);
    if (each.length !== slots.length) throw new InvalidOutputError(model, null, `execute must give one output per input, it gave ${each.length} for a batch of ${slots.length}`);
    slots.forEach((slot, i) => {
      const cell = this.#cellOf(slot);
      if (cell >= 0) writeOutputs(this.#memory.arena!, cell, layout, each[i], model);
    });
  }

  #keep(slot: number, output: unknown): void {
    if (slot < this.#outputs.length) this.#outputs[slot] = output;
  }

  /** The requests of a batch, from its shard's batch table. */
  #slotsOf({ shard, row, size }: Issued): number[] {
    const place = this.#memory.shards[shard]!;
    const at = (place.batchSlots >> 2) + row * place.batchStride;
    return Array.from(this.#i32.subarray(at, at + size));
  }

  #report(issued: Issued, status: number, startNs: number, endNs: number): void {
    const lane = this.#done;
    const at = lane.claim();
    if (at < 0) throw new Error('device-done lane is full: more batches than the GPUs can hold');
    lane.i32[at + DEVICE_DONE.at.gpu] = issued.gpu;
    lane.i32[at + DEVICE_DONE.at.shard] = issued.shard;
    lane.i32[at + DEVICE_DONE.at.row] = issued.row;
    lane.i32[at + DEVICE_DONE.at.model] = issued.model;
    lane.i32[at + DEVICE_DONE.at.number] = issued.number;
    lane.i32[at + DEVICE_DONE.at.status] = status;
    lane.f64[(at >> 1) + DEVICE_DONE.at.startNs] = startNs;
    lane.f64[(at >> 1) + DEVICE_DONE.at.endNs] = endNs;
    lane.f64[(at >> 1) + DEVICE_DONE.at.controlNs] = issued.controlNs;
    lane.commit();
    this.#schedulerBell.ring();
    const queue = this.#queues[issued.gpu]!;
    queue.shift();
    if (queue.length > 0) this.#startWhenReady(queue[0]!, endNs);
  }
}

/** The outputs of each request, as views into the stacked ones. */
function unstack(layout: CellLayout, outputs: unknown, size: number, model: string): Record<string, unknown>[] {
  // An array of tensors without its name would be a record of a name per element.
  if (typeof outputs !== 'object' || outputs === null || ArrayBuffer.isView(outputs)) throw new InvalidOutputError(model, null, `execute must give an array of ${size} outputs or a record of stacked ones, it gave ${describeValue(outputs)}`);
  const lengths = new Map(layout.outputs.map(({ name, length }) => [name, length]));
  for (const [name, value] of Object.entries(outputs)) {
    const length = lengths.get(name);
    const given = ArrayBuffer.isView(value) && !(value instanceof DataView) ? (value as Uint8Array).length : NaN;
    if (length !== undefined && given !== size * length) {
      throw new InvalidOutputError(model, name, `output '${name}' must be an array of ${size} × ${length} stacked elements, it is ${Number.isNaN(given) ? describeValue(value) : `one of ${given}`}`);
    }
  }
  return Array.from({ length: size }, (_, i) =>
    Object.fromEntries(Object.entries(outputs as StackedOutputs).map(([name, value]) => {
      const length = lengths.get(name) ?? 0;
      return [name, (value as Uint8Array | null | undefined)?.subarray?.(i * length, (i + 1) * length)];
    })),
  );
}
