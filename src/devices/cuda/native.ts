/**
 * Finds and loads the native addon of `native/cuda/`. Everything but CUDA works without it, so a missing or broken
 * addon is a value with a reason, never an exception.
 */
import { existsSync } from 'node:fs';
import nodeModule from 'node:module'; // whole: a bundle's banner may declare createRequire
import { fileURLToPath } from 'node:url';
import { types } from 'node:util';
import { type Duration, parsePositiveDurationNs } from '../../model/duration.js';
import { RubatoError } from '../../model/errors.js';

export interface CudaDevice {
  readonly index: number;
  readonly name: string;
  readonly memoryBytes: number;
  /** Its compute capability, as `'8.6'`. */
  readonly capability: string;
}

export interface CudaProbe {
  /** True when the driver started and every GPU answered. */
  readonly available: boolean;
  /** Why CUDA cannot be used; empty when it can. */
  readonly reason: string;
  /** The newest CUDA version that the installed driver serves, as `'13.0'`; null when no driver was found. */
  readonly driverVersion: string | null;
  /** Empty when CUDA is not available. */
  readonly devices: readonly CudaDevice[];
}

export interface NativeAddon {
  /** Opens the CUDA driver at run time and asks what is there, for `limitMs` (60,000) at most. `libraryPath` is `libcuda.so.1` unless given. */
  probeCuda(libraryPath?: string, limitMs?: number): CudaProbe;
  /**
   * Lets the kernel delay timed sleeps of the *calling thread* by at most `ns` nanoseconds; 0 restores its default
   * (50 µs as a rule). False where the system does not offer it (other than Linux).
   */
  setTimerSlackNs(ns: number): boolean;
  /** The stream manager; absent where there is no CUDA (other than Linux). */
  readonly cudaOpen?: CudaStreams['cudaOpen'];
}

/** A model on a CUDA device. */
export interface CudaModelStats {
  readonly model: string;
  /** The file whose kernels run: the cubin for the device's chip or, compiled by the driver, PTX. */
  readonly module: string;
  /**
   * By bucket: from how many pieces on a batch's tensors are copied by a kernel, `in` to the device and `out` of it, and
   * not by the copy engines; null: never. A piece is of requests whose tensors lie at equal distances.
   */
  readonly kernelFrom: readonly { readonly bucket: number; readonly in: number | null; readonly out: number | null }[];
  /** What has decided so: `measured`, `model.json`, or why a kernel cannot copy here. */
  readonly decidedBy: string;
}

/** What the stream manager offers, and the futex that wakes threads that wait for it. */
export interface CudaStreams {
  /** Attaches a scheduler to devices; they load its models meanwhile. Throws TypeError for a field that is not as the addon knows it. */
  cudaOpen(options: object): number;
  /**
   * How far it is, or a failure: of the opening, or after the end the call to the driver that has not returned and may still
   * use the memory that it was given. Once it has said `closed` the number means nothing any more.
   */
  cudaState(attachment: number): 'opening' | 'ready' | 'closing' | 'closed' | { readonly failure: string };
  /** Takes what the dispatcher has issued; returns how many batches. Dispatch thread only. */
  cudaTake(attachment: number): number;
  /** Batches that were taken and whose end is not in the lane yet. */
  cudaRunning(attachment: number): number;
  cudaClose(attachment: number): void;
  /** Nobody waits for its end any more, neither at the end of the thread. */
  cudaGiveUp(attachment: number): void;
  /** Changes, one after the other; `cudaChange` says how the last one went, null while it is under way. */
  cudaChange(attachment: number): { readonly failure: string; readonly model: string; readonly field: string } | null;
  /** Loads a model beside the others; `cudaSettleStaged` puts it in place of number `model`, or throws it away. */
  cudaStage(attachment: number, spec: object): void;
  cudaSettleStaged(attachment: number, model: number, keep: boolean): void;
  /** Frees a model when its last batch has ended. */
  cudaRemoveModel(attachment: number, model: number): void;
  /** Loads all models to one more device. If that fails it has to be removed. */
  cudaAddDevice(attachment: number, gpu: number, row: number): void;
  cudaRemoveDevice(attachment: number, row: number): void;
  /** What went wrong last at a GPU; null when nothing has. */
  cudaFault(attachment: number, gpu: number): { readonly what: string; readonly isLost: boolean } | null;
  /** What a GPU has loaded; empty for one that is no CUDA device. */
  cudaModels(attachment: number, gpu: number): CudaModelStats[];
  /** How long a GPU has had a batch in all, from starts to ends by its events; what lies beside another one is counted once. */
  cudaBusyNs(attachment: number, gpu: number): number;
  /** Sleeps while `word[0]` is `seen`, at most `ms`. */
  futexWait(word: Int32Array, seen: number, ms: number): void;
  futexWake(word: Int32Array): void;
}

export interface NativeLoad {
  readonly native: NativeAddon | null;
  /** Where it was loaded from, or why it was not. */
  readonly reason: string;
}

/** What decides which addon fits. */
export interface NativeHost {
  /** The package's folder, a file URL that ends with `/`. */
  readonly root: string;
  readonly platform: string;
  readonly arch: string;
  /** Version of the GNU C library in this process; null with any other, such as musl. Linux only. */
  glibcVersion(): string | null;
}

const ADDON_FILE = 'rubato_cuda.node';

/** Loads what was built on this machine or, if there is nothing, what was shipped for its like. */
export function loadNative(host: NativeHost = thisHost()): NativeLoad {
  const failures: string[] = [];
  const shipped = `prebuilds/${host.platform}-${host.arch}/${ADDON_FILE}`;
  for (const place of [`native/cuda/build/Release/${ADDON_FILE}`, shipped]) {
    const path = fileURLToPath(new URL(place, host.root));
    if (!existsSync(path)) continue;
    if (place === shipped && host.platform === 'linux' && host.glibcVersion() === null) {
      // Not even tried: with a compatibility layer it might load, and crash later.
      failures.push(`${path} is for glibc, this Node.js uses another C library (musl?); build it here, docs/packaging.md says how`);
      continue;
    }
    try {
      return { native: loadFrom(path), reason: `loaded from ${path}` };
    } catch (error) {
      failures.push(`${path} does not load: ${firstLine(error)}`);
    }
  }
  if (failures.length > 0) return { native: null, reason: failures.join('; ') };
  return { native: null, reason: `the native addon is not built, and none is shipped for ${host.platform}-${host.arch} (docs/packaging.md says how to build it)` };
}

/** The stream manager of the addon. Throws where there is none. */
export function loadCudaStreams(): CudaStreams {
  const { native, reason } = loadNative();
  if (native?.cudaOpen === undefined) throw new RubatoError('ERR_RUBATO_CUDA', native === null ? `CUDA devices take the native addon: ${reason}` : 'CUDA devices are supported on Linux only');
  return native as unknown as CudaStreams;
}

/** The driver library: `RUBATO_CUDA_LIBRARY` (another driver, or a test's), or the usual one. */
export function cudaLibrary(): string {
  return process.env['RUBATO_CUDA_LIBRARY'] ?? 'libcuda.so.1';
}

/** How long the driver may take to open GPUs or load a model, unless the options say otherwise. */
export const CUDA_LOAD_LIMIT = '60s';

/**
 * What the CUDA driver of this machine says: its version, its GPUs, or why there are none. It waits for the driver, `limit`
 * at most; one that does not answer by then is a reason as well.
 */
export function cudaDevices(limit: Duration = CUDA_LOAD_LIMIT): CudaProbe {
  const { native, reason } = loadNative();
  return native?.probeCuda(cudaLibrary(), parsePositiveDurationNs(limit, 'limit') / 1e6) ?? { available: false, reason: `not looked for: ${reason}`, driverVersion: null, devices: [] };
}

function thisHost(): NativeHost {
  const root = new URL('../../../', import.meta.url).href; // from dist/devices/cuda/
  return { root, platform: process.platform, arch: process.arch, glibcVersion };
}

/** As in `NativeHost`. Takes about 5 ms, and longer where the report asks the network for names: it is told not to. */
export function glibcVersion(): string | null {
  const report = process.report as typeof process.report & { excludeNetwork: boolean }; // Node's types of version 20 lack it
  const before = report.excludeNetwork;
  report.excludeNetwork = true;
  const { header } = report.getReport() as { header: { glibcVersionRuntime?: string } };
  report.excludeNetwork = before;
  return header.glibcVersionRuntime ?? null;
}

function loadFrom(path: string): NativeAddon {
  const addon = nodeModule.createRequire(import.meta.url)(path) as Partial<NativeAddon>;
  if (typeof addon.probeCuda !== 'function' || typeof addon.setTimerSlackNs !== 'function') {
    throw new Error('it is from another version of rubato; run npm run build');
  }
  return addon as NativeAddon;
}

function firstLine(error: unknown): string {
  const text = types.isNativeError(error) ? error.message : String(error); // under Jest, Node's errors are no `instanceof Error`
  return text.split('\n', 1)[0] ?? text;
}
