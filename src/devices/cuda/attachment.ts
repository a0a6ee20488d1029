/** A scheduler at its CUDA devices: opened, watched and closed by the thread that made it. */
import { clearInterval, setInterval, setTimeout } from 'node:timers';
import { InvalidOptionError, RubatoError } from '../../model/errors.js';
import { HOST_CUDA } from '../../protocol/config.js';
import { DEVICE_DONE, ISSUE } from '../../protocol/records.js';
import type { SharedMemory } from '../../protocol/shared-memory.js';
import type { CudaModel } from './model-file.js';
import { cudaDevices, cudaLibrary, type CudaStreams, loadCudaStreams } from './native.js';

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

/** Faults are rare, and batches fail with them at once: this is for telling the program. */
const LOOK_FOR_FAULTS_EVERY_MS = 50;
const LOOK_EVERY_MS = 1;
/** Longer than the grace of any batch that hangs would be too long for a program that ends. */
const CLOSE_TIMEOUT_MS = 5000;

export class CudaAttachment {
  /** What the dispatch thread names it by. */
  readonly number: number;
  readonly #native: CudaStreams;
  readonly #devices: readonly CudaDeviceSpec[];
  #watch: NodeJS.Timeout | null = null;

  /**
   * The devices begin to load the models, one per model number. Throws RubatoError without the addon or a driver, and
   * InvalidOptionError for a device that is not there.
   */
  constructor(memory: SharedMemory, devices: readonly CudaDeviceSpec[], models: readonly (CudaModel | null)[], graceNs: number) {
    this.#native = loadCudaStreams();
    this.#devices = devices;
    const probe = cudaDevices();
    if (!probe.available) throw new RubatoError('ERR_RUBATO_CUDA', `CUDA cannot be used: ${probe.reason}`);
    for (const { gpu, path } of devices) {
      if (gpu >= probe.devices.length) throw new InvalidOptionError(path, `got ${gpu}, the driver sees ${probe.devices.length} GPUs, numbered from 0`);
    }
    this.number = this.#native.cudaOpen({ library: cudaLibrary(), devices, models, graceNs, ...placesOf(memory) });
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
    const lost = new Set<number>();
    this.#watch = setInterval(() => {
      for (const { row } of this.#devices) {
        const fault = this.#native.cudaFault(this.number, row);
        if (fault?.isLost !== true || lost.has(row)) continue;
        lost.add(row);
        onLost(new DeviceLostError(row, fault.what));
      }
    }, LOOK_FOR_FAULTS_EVERY_MS);
    this.#watch.unref();
  }

  /** What went wrong last at a GPU of the scheduler; null when nothing has, or it is no CUDA device. */
  fault(gpu: number): string | null {
    return this.#native.cudaFault(this.number, gpu)?.what ?? null;
  }

  /** Resolves when no device touches the scheduler's memory any more, or one hangs (then what it has stays with it). */
  async close(): Promise<void> {
    if (this.#watch !== null) clearInterval(this.#watch);
    this.#native.cudaClose(this.number);
    for (let waitedMs = 0; waitedMs < CLOSE_TIMEOUT_MS && this.#native.cudaState(this.number) !== 'closed'; waitedMs += LOOK_EVERY_MS) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
  }
}

/** Where native/cuda/attachment.h finds what in the shared memory. */
function placesOf(memory: SharedMemory): object {
  const { issues, done } = memory.hosts[HOST_CUDA]!;
  const { origin, maxClients, slotShift } = memory.config;
  const bytes = (at: Record<string, number>, doubles: readonly string[], names: readonly string[]): number[] => names.map((name) => at[name]! * (doubles.includes(name) ? 8 : 4));
  return {
    buffer: new Uint8Array(memory.buffer),
    arena: memory.arena === null ? null : new Uint8Array(memory.arena),
    issues: issues.byteOffset,
    issueCapacity: issues.capacity,
    done: done.byteOffset,
    doneCapacity: done.capacity,
    bell: memory.dispatcherBell,
    cells: memory.cells,
    slots: maxClients * 2 ** slotShift,
    shards: memory.shards.map(({ batchSlots, batchStride, batchRows }) => ({ batchSlots, stride: batchStride, rows: batchRows })),
    originNs: origin.seconds * 1e9 + origin.nanoseconds,
    issueLayout: [...bytes(ISSUE.at, ['readyNs', 'lengthNs', 'grantedNs'], ['gpu', 'shard', 'row', 'model', 'number', 'size', 'readyNs', 'lengthNs', 'grantedNs']), ISSUE.bytes],
    doneLayout: [...bytes(DEVICE_DONE.at, ['startNs', 'endNs', 'controlNs'], ['gpu', 'shard', 'row', 'number', 'model', 'status', 'startNs', 'endNs', 'controlNs']), DEVICE_DONE.bytes],
  };
}
