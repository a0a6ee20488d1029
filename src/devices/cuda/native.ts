/**
 * Finds and loads the native addon of `native/cuda/`. Everything but CUDA works without it, so a missing or broken
 * addon is a value with a reason, never an exception.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

export interface CudaDevice {
  readonly index: number;
  readonly name: string;
  readonly memoryBytes: number;
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
  /** Opens the CUDA driver at run time and asks what is there. `libraryPath` is `libcuda.so.1` unless given. */
  probeCuda(libraryPath?: string): CudaProbe;
  /**
   * Lets the kernel delay timed sleeps of the *calling thread* by at most `ns` nanoseconds; 0 restores its default
   * (50 µs as a rule). False where the system does not offer it (other than Linux).
   */
  setTimerSlackNs(ns: number): boolean;
}

export interface NativeLoad {
  readonly native: NativeAddon | null;
  /** Where it was loaded from, or why it was not. */
  readonly reason: string;
}

const ADDON_FILE = 'rubato_cuda.node';
/** From `dist/devices/cuda/` up to the package. A build of this machine comes before one that was shipped. */
const PLACES = [
  `../../../native/cuda/build/Release/${ADDON_FILE}`,
  `../../../prebuilds/${process.platform}-${process.arch}/${ADDON_FILE}`,
];

export function loadNative(): NativeLoad {
  const failures: string[] = [];
  for (const place of PLACES) {
    const path = fileURLToPath(new URL(place, import.meta.url));
    if (!existsSync(path)) continue;
    try {
      return { native: loadFrom(path), reason: `loaded from ${path}` };
    } catch (error) {
      failures.push(`${path} does not load: ${firstLine(error)}`);
    }
  }
  if (failures.length > 0) return { native: null, reason: failures.join('; ') };
  return { native: null, reason: 'the native addon is not built (npm run build needs a C++ compiler, make and Python)' };
}

function loadFrom(path: string): NativeAddon {
  const addon = createRequire(import.meta.url)(path) as Partial<NativeAddon>;
  if (typeof addon.probeCuda !== 'function' || typeof addon.setTimerSlackNs !== 'function') {
    throw new Error('it is from another version of rubato; run npm run build');
  }
  return addon as NativeAddon;
}

function firstLine(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split('\n', 1)[0] ?? text;
}
