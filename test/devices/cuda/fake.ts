/**
 * The fake CUDA driver of native/cuda/fake in this process: built, made the driver that rubato loads, and given commands.
 * Under `npm run test:gpu` the real driver takes its place, for the tests that order no faults.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadNative } from '#rubato/devices/cuda/native.js';
import { createScheduler, type ModelOptions, type Scheduler, type SchedulerOptions, type TensorArray } from '#rubato/index.js';

const root = new URL('../../../../', import.meta.url); // from build/test/devices/cuda/
const driver = fileURLToPath(new URL('build/fake/libfakecuda.so', root));

export const skip: string | false = process.platform !== 'linux' ? 'Linux only' : loadNative().native === null ? loadNative().reason : false;

let commands: { control(library: string, command: string): string } | null = null;

/** The driver of this machine, and its first GPU. */
export const isReal = process.env['RUBATO_TEST_GPU'] === '1';

if (skip === false && !isReal) {
  const built = spawnSync(process.execPath, [fileURLToPath(new URL('scripts/fake-cuda.mjs', root))], { encoding: 'utf8' });
  if (built.status !== 0) throw new Error(`the fake driver was not built: ${built.stderr}`);
  process.env['RUBATO_CUDA_LIBRARY'] = driver;
  commands = createRequire(import.meta.url)(fileURLToPath(new URL('build/fake/fakecuda_control.node', root))) as typeof commands;
  control('set devices 16');
}

/** A command of native/cuda/fake/control.cc. */
export function control(command: string): string {
  return commands!.control(driver, command);
}

export const count = (name: string): number => (isReal ? 0 : Number(control(`count ${name}`)));

/** The devices of a test, of which a real machine may have one. */
export const gpus = (...fake: number[]): number[] => (isReal ? [0] : fake);

/** What a process leaves at the driver when everything is closed. */
export const leftovers = (): Record<string, number> => Object.fromEntries(['contexts', 'streams', 'events', 'memory', 'modules', 'graphs', 'registered'].map((name) => [name, count(name)]));
export const NOTHING_LEFT = { contexts: 0, streams: 0, events: 0, memory: 0, modules: 0, graphs: 0, registered: 0 };

export const folderOf = (model: string): string => fileURLToPath(new URL(`native/cuda/models/${model}`, root));

const f32 = (...shape: number[]): { dtype: 'float32'; shape: number[] } => ({ dtype: 'float32', shape });
/** Generous: nothing is late by a stall of the machine. */
const COMMON = { slo: '20s', condition: 'immediate' } as const;
export const VECADD: ModelOptions = { ...COMMON, name: 'vecadd', profile: { alpha: 0.001, beta: 0.1, maxBatch: 128 }, cuda: folderOf('vecadd'), inputs: { a: f32(256), b: f32(256) }, outputs: { y: f32(256) } };
export const SPIN: ModelOptions = { ...COMMON, name: 'spin', profile: { alpha: 0.05, beta: 0.5, maxBatch: 64 }, cuda: folderOf('spin'), inputs: { x: f32(1) }, outputs: { y: f32(1) } };
export const MLP: ModelOptions = { ...COMMON, name: 'mlp', profile: { alpha: 0.01, beta: 0.2, maxBatch: 64 }, cuda: folderOf('mlp'), inputs: { x: f32(64) }, outputs: { y: f32(10) } };

const kernels = join(folderOf('spin'), '../../kernels');
const made: string[] = [];
process.on('exit', () => made.forEach((folder) => rmSync(folder, { recursive: true, force: true })));

/** The model from a folder of its own: with these fields in its model.json, or with that file as a whole for a model that has none. */
export function withFile<M extends ModelOptions>(model: M, fields: Record<string, unknown>): M {
  const folder = mkdtempSync(join(tmpdir(), 'rubato-cuda-file-'));
  made.push(folder);
  const described = model.cuda === undefined ? {} : JSON.parse(readFileSync(join(model.cuda, 'model.json'), 'utf8')) as { module: string };
  const all = { ...described, ...fields } as { module: string };
  writeFileSync(join(folder, 'model.json'), JSON.stringify({ ...all, module: relative(folder, join(kernels, basename(all.module))) }));
  return { ...model, cuda: folder };
}

export type Tensors = Record<string, TensorArray>;

export function start(models: readonly ModelOptions[], gpus: readonly number[], more: Partial<SchedulerOptions> = {}): Promise<Scheduler<Tensors, Tensors>> {
  const devices = gpus.map((gpu) => ({ kind: 'cuda', gpu }) as const);
  return createScheduler<Tensors, Tensors>({ models, devices, memoryLimit: '4MiB', ...more } as SchedulerOptions<Tensors, Tensors>);
}
