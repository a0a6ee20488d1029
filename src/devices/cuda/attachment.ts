/** A scheduler at its CUDA devices: opened, watched and closed by the thread that made it. */
import { clearInterval, setInterval, setTimeout } from 'node:timers';
import { InvalidOptionError, RubatoError } from '../../model/errors.js';
import { PAGE_BYTES } from '../../protocol/arena.js';
import { HOST_CUDA } from '../../protocol/config.js';
import { DEVICE_DONE, ISSUE } from '../../protocol/records.js';
import type { SharedMemory } from '../../protocol/shared-memory.js';
import { type CudaModel, CudaModelError } from './model-file.js';
import { cudaDevices, cudaLibrary, type CudaModelStats, type CudaStreams, loadCudaStreams } from './native.js';

export interface CudaDeviceSpec {
  /** The driver's number of the device. */
  readonly gpu: number;
  /** The scheduler's. */
  readonly row: number;
  /** The option that named it. */
  readonly path: string;
}

/** A CUDA device is lost for the life of the process. */
export class DeviceLostError extends RubatoError {
  readonly gpu: number;

  constructor(gpu: number, what: string) {
    super('ERR_RUBATO_DEVICE_LOST', `GPU ${gpu} of the scheduler has left the pool: ${what}`);
    this.gpu = gpu;
  }
}

export interface CudaLimits {
  /** How long after its expected end a batch may go on. */
  readonly graceNs: number;
  /** How long one call to the driver may take that opens a device or loads a model. */
  readonly callLimitNs: number;
}

/** Faults are rare, and batches fail with them at once: this is for telling the program. */
const LOOK_FOR_FAULTS_EVERY_MS = 50;
const LOOK_EVERY_MS = 1;
/** However long a batch or a call that hangs is waited for, a program that ends does not. */
const CLOSE_TIMEOUT_MS = 5000;

export class CudaAttachment {
  /** What the dispatch thread names it by. */
  readonly number: number;
  readonly #native: CudaStreams;
  readonly #memory: SharedMemory;
  /** For a call to the driver. */
  readonly #limitMs: number;
  /** By row. */
  readonly #devices = new Map<number, CudaDeviceSpec>();
  /** Rows whose loss has been told. */
  readonly #told = new Set<number>();
  #onLost: (error: DeviceLostError) => void = () => {};
  #watch: NodeJS.Timeout | null = null;

  /**
   * The devices begin to load the models, one per model number; there may be none yet. Throws RubatoError without the addon
   * or a driver, and InvalidOptionError for a device that is not there.
   */
  constructor(memory: SharedMemory, devices: readonly CudaDeviceSpec[], models: readonly (CudaModel | null)[], limits: CudaLimits) {
    this.#native = loadCudaStreams();
    this.#memory = memory;
    this.#limitMs = limits.callLimitNs / 1e6;
    if (devices.length > 0) checkDevices(devices, this.#limitMs);
    for (const device of devices) this.#devices.set(device.row, device);
    this.number = this.#native.cudaOpen({ library: cudaLibrary(), devices, models, ...limits, ...placesOf(memory) });
  }

  /** Resolves when the devices have loaded everything. Rejects with RubatoError when one could not; close it all the same. */
  async ready(): Promise<void> {
    for (;;) {
      const state = this.#native.cudaState(this.number);
      if (state === 'ready') return;
      if (typeof state === 'object') throw new RubatoError('ERR_RUBATO_CUDA', `CUDA: ${state.failure}`);
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
  }

  /** Calls `onLost` once for each device that is lost. */
  watch(onLost: (error: DeviceLostError) => void): void {
    this.#onLost = onLost;
    this.#watch = setInterval(() => this.#tellLost(), LOOK_FOR_FAULTS_EVERY_MS);
    this.#watch.unref();
  }

  #tellLost(): void {
    for (const row of this.lost) {
      if (this.#told.has(row)) continue;
      this.#told.add(row);
      this.#onLost(new DeviceLostError(row, this.fault(row)!));
    }
  }

  /** What went wrong last at a GPU of the scheduler; null when nothing has, or it is no CUDA device. */
  fault(gpu: number): string | null {
    return this.#native.cudaFault(this.number, gpu)?.what ?? null;
  }

  /** What a GPU of the scheduler has loaded. */
  models(gpu: number): readonly CudaModelStats[] {
    return this.#native.cudaModels(this.number, gpu);
  }

  /** How long a GPU of the scheduler has had a batch in all, from starts to ends by its events. */
  busyNs(gpu: number): number {
    return this.#native.cudaBusyNs(this.number, gpu);
  }

  /** Whether there are any; one that is lost counts until it is removed. */
  get hasDevices(): boolean {
    return this.#devices.size > 0;
  }

  has(row: number): boolean {
    return this.#devices.has(row);
  }

  /** GPUs of the scheduler that are lost and have not been removed. */
  get lost(): number[] {
    return [...this.#devices.keys()].filter((row) => this.#native.cudaFault(this.number, row)?.isLost === true);
  }

  // ---------------------------------------------------------------- changes, one after the other

  /** Whether the change that was begun last is under way. */
  get isChanging(): boolean {
    return this.#native.cudaChange(this.number) === null;
  }

  /** Throws what went wrong with the change that was begun last: CudaModelError where one of its models is to blame, else RubatoError. */
  throwIfFailed(models: readonly (CudaModel | null)[]): void {
    const { failure, model: name, field } = this.#native.cudaChange(this.number)!;
    if (failure === '') return;
    const model = field === '' ? undefined : models.find((each) => each?.name === name);
    throw model === undefined || model === null ? new RubatoError('ERR_RUBATO_CUDA', `CUDA: ${failure}`) : new CudaModelError(model.description, field, failure);
  }

  /** All devices load a model, which is not used yet. */
  stage(model: CudaModel): void {
    this.#native.cudaStage(this.number, model);
  }

  /** Puts the staged model in place of number's, if it is to be kept. Over when what is not used any more is free. */
  settle(number: number, isKept: boolean): void {
    this.#native.cudaSettleStaged(this.number, number, isKept);
  }

  /** Frees a model after its last batch. */
  removeModel(number: number): void {
    this.#native.cudaRemoveModel(this.number, number);
  }

  /** A device that comes later loads all models. One that could not has to be removed. Throws InvalidOptionError for one that is not there or is in use already. */
  addDevice(device: CudaDeviceSpec): void {
    const twin = [...this.#devices.values()].find(({ gpu }) => gpu === device.gpu);
    if (twin !== undefined) throw new InvalidOptionError(device.path, `got ${device.gpu}, which is GPU ${twin.row} of the scheduler already`);
    checkDevices([device], this.#limitMs);
    this.#devices.set(device.row, device);
    this.#told.delete(device.row);
    this.#native.cudaAddDevice(this.number, device.gpu, device.row);
  }

  /** A device that has no batch any more gives everything back. */
  removeDevice(row: number): void {
    this.#tellLost();
    this.#devices.delete(row);
    this.#native.cudaRemoveDevice(this.number, row);
  }

  /**
   * Resolves when no device touches the scheduler's memory any more, after 5 s at the latest. Where a call to the driver has
   * not returned by then the memory stays for it, with a warning of the process.
   */
  async close(): Promise<void> {
    if (this.#watch !== null) clearInterval(this.#watch);
    this.#native.cudaClose(this.number);
    const untilMs = performance.now() + CLOSE_TIMEOUT_MS;
    let state = this.#native.cudaState(this.number);
    while (typeof state === 'string' && state !== 'closed' && performance.now() < untilMs) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
      state = this.#native.cudaState(this.number);
    }
    if (state === 'closed') return;
    this.#native.cudaGiveUp(this.number);
    const bytes = this.#memory.buffer.byteLength + (this.#memory.arena?.byteLength ?? 0);
    const why = typeof state === 'object' ? state.failure : `the devices have not let go of it for ${CLOSE_TIMEOUT_MS} ms`;
    process.emitWarning(`${Math.ceil(bytes / 2 ** 20)} MiB of a closed scheduler stay allocated, since the CUDA driver may still use them: ${why}`, { code: 'RUBATO_CUDA_STUCK' });
  }
}

function checkDevices(devices: readonly CudaDeviceSpec[], limitMs: number): void {
  const probe = cudaDevices(limitMs);
  if (!probe.available) throw new RubatoError('ERR_RUBATO_CUDA', `CUDA cannot be used: ${probe.reason}`);
  for (const { gpu, path } of devices) {
    if (gpu >= probe.devices.length) throw new InvalidOptionError(path, `got ${gpu}, the driver sees ${probe.devices.length} GPUs, numbered from 0`);
  }
}

/** Where native/cuda/attachment.h finds what in the shared memory. */
function placesOf(memory: SharedMemory): object {
  const { issues, done } = memory.hosts[HOST_CUDA]!;
  const { origin, maxClients, slotShift } = memory.config;
  const bytes = (at: Record<string, number>, doubles: readonly string[], names: readonly string[]): number[] => names.map((name) => at[name]! * (doubles.includes(name) ? 8 : 4));
  return {
    buffer: new Uint8Array(memory.buffer),
    arena: memory.arena === null ? null : new Uint8Array(memory.arena, 0, memory.pageCount * PAGE_BYTES),
    issues: issues.byteOffset,
    issueCapacity: issues.capacity,
    done: done.byteOffset,
    doneCapacity: done.capacity,
    bell: memory.dispatcherBell,
    cells: memory.cells,
    slots: maxClients * 2 ** slotShift,
    gpus: memory.limits.gpus,
    shards: memory.shards.map(({ batchSlots, batchStride, batchRows }) => ({ batchSlots, stride: batchStride, rows: batchRows })),
    originNs: origin.high * 2 ** 32 + origin.low,
    issueLayout: [...bytes(ISSUE.at, ['readyNs', 'lengthNs', 'grantedNs'], ['gpu', 'shard', 'row', 'model', 'number', 'size', 'readyNs', 'lengthNs', 'grantedNs']), ISSUE.bytes],
    doneLayout: [...bytes(DEVICE_DONE.at, ['startNs', 'endNs', 'controlNs'], ['gpu', 'shard', 'row', 'number', 'model', 'status', 'startNs', 'endNs', 'controlNs']), DEVICE_DONE.bytes],
  };
}
