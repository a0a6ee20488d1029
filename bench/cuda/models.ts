/** The shipped models that are measured on a GPU, and one that does nothing but have its tensors copied. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createScheduler, type ModelOptions, type Scheduler, type TensorArray } from '#rubato/index.js';

export const root = fileURLToPath(new URL('../../../', import.meta.url)); // from build/bench/cuda/

export type Tensors = Record<string, TensorArray>;
export interface GpuModel {
  readonly name: string;
  /** Largest bucket. */
  readonly maxBatch: number;
  /** What its kernels were written to take, µs; a first guess where that depends on the GPU. */
  readonly alphaUs: number;
  readonly betaUs: number;
  readonly inputLength: number;
  readonly outputLength: number;
  readonly folder: string;
}

const shipped = (name: string): string => join(root, 'native/cuda/models', name);

export const SPIN: GpuModel = { name: 'spin', maxBatch: 64, alphaUs: 50, betaUs: 500, inputLength: 1, outputLength: 1, folder: shipped('spin') };
export const MLP: GpuModel = { name: 'mlp', maxBatch: 64, alphaUs: 1, betaUs: 100, inputLength: 64, outputLength: 10, folder: shipped('mlp') };

/** One request at a time with `bytes` of input and as many of output, which no kernel touches but for one number. The folder goes with the process. */
export function carrier(bytes: number): GpuModel {
  const folder = mkdtempSync(join(tmpdir(), 'rubato-carrier-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const length = bytes / Float32Array.BYTES_PER_ELEMENT;
  const tensor = { dtype: 'float32', shape: [length] };
  writeFileSync(join(folder, 'model.json'), JSON.stringify({
    module: relative(folder, join(root, 'native/cuda/kernels/spin.ptx')), cubins: [70, 75, 80, 86, 89, 90], copies: 'copy',
    inputs: { x: tensor }, outputs: { y: tensor }, buckets: [1],
    launches: [{ kernel: 'spin', grid: [1], block: [64], args: ['x', 'y', { int: 1 }, { int: 0 }, { int: 0 }] }],
  }));
  return { name: 'carrier', maxBatch: 1, alphaUs: 1, betaUs: 1000, inputLength: length, outputLength: length, folder };
}

/** Generous, so that nothing is late by a stall of the machine. */
const PATIENT = '20s';

export function optionsOf(model: GpuModel, more: Partial<ModelOptions> = {}): ModelOptions {
  const { name, maxBatch, alphaUs, betaUs, inputLength, outputLength, folder } = model;
  return {
    name, cuda: folder, slo: PATIENT, condition: 'immediate', profile: { alpha: `${alphaUs}us`, beta: `${betaUs}us`, maxBatch },
    inputs: { x: { dtype: 'float32', shape: [inputLength] } }, outputs: { y: { dtype: 'float32', shape: [outputLength] } }, ...more,
  };
}

export const inputOf = ({ inputLength }: GpuModel): Tensors => ({ x: new Float32Array(inputLength).fill(0.5) });

/** A scheduler on the first GPU. */
export function startScheduler(model: GpuModel, more: Partial<ModelOptions> = {}): Promise<Scheduler<Tensors, Tensors>> {
  return createScheduler<Tensors, Tensors>({ models: [optionsOf(model, more)], devices: [{ kind: 'cuda', gpu: 0 }], memoryLimit: '256MiB' });
}

/** How long things are measured. */
export interface Effort {
  readonly quick: boolean;
}

/** The `share` (0 … 1) quantile of what was measured, by the nearest rank. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN;
}

export interface Spread {
  readonly p50Us: number;
  readonly p99Us: number;
  readonly count: number;
}

export const spreadOf = (us: readonly number[]): Spread => ({ p50Us: quantile(us, 0.5), p99Us: quantile(us, 0.99), count: us.length });
