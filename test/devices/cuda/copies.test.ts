import assert from 'node:assert/strict';
import { afterEach, describe, test as testOf } from 'node:test';
import { Random } from '#rubato/model/random.js';
import type { CudaModelStats, ModelOptions } from '#rubato/index.js';
import { Direct } from './direct.js';
import { control, count, isReal, leftovers, NOTHING_LEFT, skip, start, type Tensors, VECADD, withFile } from './fake.js';

const TEST_LIMIT_MS = 60_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

/** Hands its inputs back, byte for byte: tensors of these many bytes, which the kernel sees as floats. */
function echo(bytes: readonly number[], buckets: readonly number[], copies: string): ModelOptions {
  const tensors = (letter: string): Record<string, { dtype: 'uint8'; shape: number[] }> => Object.fromEntries(bytes.map((each, i) => [`${letter}${i}`, { dtype: 'uint8', shape: [each] }]));
  const maxBatch = buckets[buckets.length - 1]!;
  return withFile({ name: 'echo', slo: '20s', profile: { alpha: 0.001, beta: 0.1, maxBatch }, inputs: tensors('x'), outputs: tensors('y') }, {
    module: 'spin.ptx', buckets, copies, inputs: tensors('x'), outputs: tensors('y'),
    launches: bytes.map((each, i) => ({ kernel: 'spin', grid: [1], block: [64], args: [`x${i}`, `y${i}`, { int: { perRequest: each, per: 4 } }, { int: 0 }, { int: 0 }] })),
  });
}

interface Ran {
  launches: number;
  engineCopies: number;
}

/**
 * Batches of these sizes, one after the other; every request's outputs must be its inputs, but for slot 2, which brings
 * none, and no other byte of all the tensors may change.
 */
async function run(model: ModelOptions, sizes: readonly number[], placeOf: (slot: number) => number, slots = 256): Promise<Ran> {
  const direct = new Direct(0, model, slots, placeOf);
  await direct.attachment.ready();
  direct.bringsNone(2);
  const arena = new Uint8Array(direct.memory.arena!);
  const random = new Random(7);
  const [launches, engineCopies] = [count('cuLaunchKernel'), count('cuMemcpy2DAsync_v2')];
  const wrong: number[] = [];
  for (const size of sizes) {
    for (let i = 0; i < arena.length; i++) arena[i] = random.nextUint32();
    const right = echoed(arena, direct.offsets.slice(0, size).filter((_, slot) => slot !== 2), Object.values(model.inputs!).map(({ shape }) => shape[0]!));
    direct.issue(0, size);
    direct.poll();
    while (direct.drain() === 0) await new Promise(setImmediate);
    if (Buffer.compare(arena, right) !== 0) wrong.push(size);
  }
  const ran = { launches: count('cuLaunchKernel') - launches, engineCopies: count('cuMemcpy2DAsync_v2') - engineCopies };
  await direct.attachment.close();
  assert.deepEqual(wrong, [], 'sizes of batches that left other bytes than they should');
  assert.deepEqual(leftovers(), NOTHING_LEFT);
  return ran;
}

function echoed(arena: Uint8Array, cells: readonly number[], lengths: readonly number[]): Uint8Array {
  const right = arena.slice();
  const align = (at: number): number => Math.ceil(at / 64) * 64;
  const inputs = lengths.reduce((sum, each) => sum + align(each), 0);
  for (const cell of cells) {
    let at = cell;
    for (const each of lengths) {
      right.copyWithin(at + inputs, at, at + each);
      at += align(each);
    }
  }
  return right;
}

const inOrder = (slot: number): number => slot;
const scattered = (slot: number): number => slot ^ 0xb5;

describe('the tensors of a batch', { skip }, () => {
  for (const [place, placeOf] of [['in one piece', inOrder], ['scattered', scattered]] as const) {
    test(`are the same bytes whether engines or a kernel copy them, ${place}, of odd lengths, in buckets larger than the batch`, async () => {
      const sizes = [1, 2, 3, 5, 8];
      const lengths = [5, 601, 64];
      const byEngine = await run(echo(lengths, [1, 3, 8], 'copy'), sizes, placeOf);
      const byKernel = await run(echo(lengths, [1, 3, 8], 'kernel'), sizes, placeOf);
      if (isReal) return; // it does not count
      assert.deepEqual(byKernel, { launches: 2 * sizes.length, engineCopies: 0 }, 'one launch to the device and one back, for each batch');
      assert.equal(byEngine.launches, 0);
      const pieces = placeOf === inOrder ? [1, 1, 1, 2, 2] : [1, 2, 2, 4, 6]; // slot 2 brings no tensors and parts what it lies between
      assert.equal(byEngine.engineCopies, 2 * lengths.length * pieces.reduce((sum, each) => sum + each));
    });
  }

  test('are more than one launch takes, in requests and in tensors, and all of them are copied', async () => {
    const byKernel = await run(echo(new Array<number>(17).fill(4), [600], 'kernel'), [520], scattered, 1024);
    if (!isReal) assert.deepEqual(byKernel, { launches: 2 * 2 * 2, engineCopies: 0 }, 'two for the requests by two for the tensors, to the device and back');
  });
});

async function loaded(model: ModelOptions): Promise<CudaModelStats> {
  const scheduler = await start([model], [0]);
  const { y } = await scheduler.submit('vecadd', { a: new Float32Array(256).fill(1), b: new Float32Array(256).fill(2) }) as Tensors;
  assert.equal(y![255], 3);
  const [gpu] = scheduler.stats().gpus;
  await scheduler.close();
  assert.equal(gpu!.kind, 'cuda');
  assert.deepEqual(leftovers(), NOTHING_LEFT);
  return gpu!.cuda![0]!;
}

const SMALL = { ...withFile(VECADD, { buckets: [1, 4, 16] }), maxBatch: 16 };
const never = [1, 4, 16].map((bucket) => ({ bucket, in: null, out: null }));

const ordersFaults = skip === false && isReal ? 'a real driver takes no orders' : skip;

describe('how a model copies', { skip: ordersFaults }, () => {
  afterEach(() => {
    control('reset');
    for (const setting of ['copyns 0', 'launchns 0', 'capability 80', 'version 12040']) control(`set ${setting}`);
  });

  test('is what was faster when it was loaded, by the number of pieces', async () => {
    // Of two inputs and one output: a copy of either takes 200 µs, a launch 440 µs, 484 with the margin.
    control('set copyns 200000');
    control('set launchns 440000');
    const { kernelFrom, decidedBy } = await loaded(SMALL);
    assert.equal(decidedBy, 'measured');
    assert.deepEqual(kernelFrom, [{ bucket: 1, in: null, out: null }, { bucket: 4, in: 2, out: 3 }, { bucket: 16, in: 2, out: 3 }]);
  });

  test('is by the kernel always or never where one of them is so much faster', async () => {
    control('set copyns 1000000');
    assert.deepEqual((await loaded(SMALL)).kernelFrom, [1, 4, 16].map((bucket) => ({ bucket, in: 1, out: 1 })));
    control('set copyns 0');
    control('set launchns 20000000');
    assert.deepEqual((await loaded(SMALL)).kernelFrom, never);
  });

  test('is what its model.json says', async () => {
    const [byKernel, byCopy] = [await loaded({ ...SMALL, ...withFile(SMALL, { copies: 'kernel' }) }), await loaded({ ...SMALL, ...withFile(SMALL, { copies: 'copy' }) })];
    assert.deepEqual([byKernel.decidedBy, byCopy.decidedBy], ['model.json', 'model.json']);
    assert.deepEqual(byKernel.kernelFrom, [1, 4, 16].map((bucket) => ({ bucket, in: 1, out: 1 })));
    assert.deepEqual(byCopy.kernelFrom, never);
  });

  for (const [call, command, said] of [
    ['its kernels are refused', 'fail cuModuleLoadData 2 200 2', /loading .*gather\.ptx failed with CUDA_ERROR_INVALID_IMAGE/],
    ['its kernels are not found', 'fail cuModuleGetFunction 7 500', /finding 'gather' and 'scatter' in .*gather\.sm_80\.cubin failed with CUDA_ERROR_NOT_FOUND/],
    ['no memory can be pinned to measure', 'fail cuMemHostRegister_v2 1 2', /measuring how to copy: cuMemHostRegister failed with CUDA_ERROR_OUT_OF_MEMORY/],
    ['no memory is mapped', 'fail cuMemHostGetDevicePointer_v2 1 1', /measuring how to copy: cuMemHostGetDevicePointer failed with CUDA_ERROR_INVALID_VALUE/],
    ['a launch fails', 'fail cuLaunchKernel 7 2', /measuring how to copy: cuLaunchKernel failed with CUDA_ERROR_OUT_OF_MEMORY/],
    ['the tensors are not mapped', 'fail cuMemHostGetDevicePointer_v2 2 1', /^cuMemHostGetDevicePointer failed with CUDA_ERROR_INVALID_VALUE/],
  ] as const) {
    test(`is by the engines when ${call}, and the statistics say so`, async () => {
      control('set copyns 1000000'); // the kernel would be taken
      control(command);
      const { kernelFrom, decidedBy } = await loaded(SMALL);
      assert.match(decidedBy, said);
      assert.deepEqual(kernelFrom, never);
    });
  }

  test('is not decided, and the start fails, when the kernels that model.json asks for are refused', async () => {
    control('fail cuModuleLoadData 2 200 2');
    await assert.rejects(loaded({ ...SMALL, ...withFile(SMALL, { copies: 'kernel' }) }), /model 'vecadd': loading .*gather\.ptx failed with CUDA_ERROR_INVALID_IMAGE/);
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });
});

describe('the kernels of a model', { skip: ordersFaults }, () => {
  afterEach(() => {
    control('reset');
    control('set capability 80');
  });

  for (const [capability, file] of [[70, 'sm_70.cubin'], [72, 'sm_70.cubin'], [75, 'sm_75.cubin'], [80, 'sm_80.cubin'], [87, 'sm_86.cubin'], [89, 'sm_89.cubin'], [90, 'sm_90.cubin'], [61, 'ptx'], [120, 'ptx']] as const) {
    test(`are those of vecadd.${file} on a chip of compute capability ${capability / 10}`, async () => {
      control(`set capability ${capability}`);
      const { module } = await loaded(SMALL);
      assert.ok(module.endsWith(`/vecadd.${file}`), module);
    });
  }

  test('are the PTX where the driver refuses the cubin, and where there is none', async () => {
    control('fail cuModuleLoadData 1 200');
    const refused = await loaded(SMALL);
    const none = await loaded({ ...SMALL, ...withFile(SMALL, { cubins: undefined }) });
    for (const { module } of [refused, none]) assert.ok(module.endsWith('/vecadd.ptx'), module);
  });
});
