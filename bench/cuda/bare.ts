/** native/cuda/bare: what the driver can do without us. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type CudaModel, readCudaModel } from '#rubato/devices/cuda/model-file.js';
import { cudaLibrary } from '#rubato/devices/cuda/native.js';
import { resolveLayout } from '#rubato/model/tensor.js';
import { type Effort, type GpuModel, optionsOf, root } from './models.js';

const PROGRAM = join(root, 'build/bare/bare');
const LIMIT_MS = 60_000;

export interface BareGraph {
  readonly oneByOneUs: { readonly p50: number; readonly p99: number; readonly count: number };
  readonly backToBackPerSecond: number;
}

export interface BareCopy {
  readonly bytes: number;
  readonly direction: 'in' | 'out';
  readonly registeredGBps: number;
  readonly allocatedGBps: number;
}

/** Null where it was not built (scripts/bare.mjs), which takes a C++ compiler, or has failed: then it is told, and the exit code is 1. */
export function bareGraph(model: GpuModel, batch: number, { quick }: Effort): BareGraph | null {
  return tryRun(['graph', quick ? '100' : '1000'], describe(model, batch)) as BareGraph | null;
}

/** Likewise. */
export function bareCopies(sizes: readonly number[]): BareCopy[] | null {
  return tryRun(['copies', ...sizes.map(String)], '') as BareCopy[] | null;
}

function tryRun(args: readonly string[], input: string): unknown {
  if (!existsSync(PROGRAM)) return null;
  try {
    return run(args, input);
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 1;
    return null;
  }
}

function run(args: readonly string[], input: string): unknown {
  const { status, stdout, stderr, error } = spawnSync(PROGRAM, [cudaLibrary(), ...args], { input, encoding: 'utf8', timeout: LIMIT_MS, killSignal: 'SIGKILL' });
  if (status !== 0) throw new Error(`native/cuda/bare ${args[0]!}: ${error?.message ?? (stderr.trim() || `exit code ${status}`)}`);
  return JSON.parse(stdout);
}

/** The graph of the bucket that holds the batch, for bare.cc. */
function describe(model: GpuModel, batch: number): string {
  const { inputs, outputs } = optionsOf(model);
  const { modules, scratch, weights, buckets, ...rest }: CudaModel = readCudaModel(model.name, model.folder, resolveLayout(inputs, outputs, 'model'), model.maxBatch);
  const bucket = buckets.find(({ size }) => size >= batch)!;
  const words = [
    ...modules.map(({ chip, file }) => `module ${chip} ${file}`),
    ...rest.inputs.map(({ bytes }) => `input ${bytes * batch}`),
    ...rest.outputs.map(({ bytes }) => `output ${bytes * batch}`),
    ...scratch.map((bytes) => `scratch ${bytes * bucket.size}`),
    ...weights.map(({ byteLength }) => `weight ${byteLength}`),
    ...bucket.launches.map(({ kernel, grid, block, sharedBytes, args }) => ['launch', kernel, ...grid, ...block, sharedBytes, args.length, ...args.flatMap(({ kind, value }) => [kind, value])].join(' ')),
    'end',
  ];
  return `${words.join('\n')}\n`;
}
