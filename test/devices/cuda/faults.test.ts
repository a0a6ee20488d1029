import assert from 'node:assert/strict';
import { afterEach, describe, test as testOf } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CudaModelStats, DeviceError, type DeviceLostError, type Scheduler } from '#rubato/index.js';
import { control, count, leftovers, NOTHING_LEFT, skip, SPIN, start, type Tensors, VECADD, withFile } from './fake.js';

const TEST_LIMIT_MS = 60_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

const BY_COPY = withFile(SPIN, { copies: 'copy' });
const BY_KERNEL = withFile(SPIN, { copies: 'kernel' });

// A device that was lost stays lost for the process: each test that loses one takes another.
const spin = (scheduler: Scheduler<Tensors, Tensors>, value: number): Promise<Tensors> => scheduler.submit('spin', { x: Float32Array.of(value) });
const works = async (scheduler: Scheduler<Tensors, Tensors>, value: number): Promise<void> => assert.equal((await spin(scheduler, value))['y']![0], value);

async function lostOf(run: (onDeviceLost: (error: DeviceLostError) => void) => Promise<void>): Promise<DeviceLostError[]> {
  const lost: DeviceLostError[] = [];
  await run((error) => lost.push(error));
  return lost;
}

describe('a CUDA device that fails at its start', { skip }, () => {
  afterEach(() => void control('reset'));

  for (const [call, nth, code, said] of [
    ['cuDevicePrimaryCtxRetain', 1, 2, /cuDevicePrimaryCtxRetain failed with CUDA_ERROR_OUT_OF_MEMORY/],
    ['cuDeviceGetAttribute', 33, 1, /GPU 0: cuDeviceGetAttribute failed with CUDA_ERROR_INVALID_VALUE/], // after the two of each of the 16 that are looked for
    ['cuStreamCreateWithPriority', 1, 2, /cuStreamCreateWithPriority failed with CUDA_ERROR_OUT_OF_MEMORY/],
    ['cuEventCreate', 1, 2, /cuEventCreate failed/],
    ['cuMemAlloc_v2', 1, 2, /model 'spin': allocating \d+ bytes for the inputs failed with CUDA_ERROR_OUT_OF_MEMORY/],
    ['cuModuleLoadData', 1, 200, /loading the module .*spin\.ptx failed with CUDA_ERROR_INVALID_IMAGE/],
    ['cuModuleGetFunction', 1, 500, /finding the kernel 'spin' in .*spin\.sm_80\.cubin failed with CUDA_ERROR_NOT_FOUND/],
    ['cuStreamEndCapture', 1, 1, /capturing a graph failed/],
    ['cuGraphInstantiateWithFlags', 1, 2, /making a graph for batches of 1 failed with CUDA_ERROR_OUT_OF_MEMORY/],
    ['cuMemHostRegister_v2', 1, 2, /pinning \d+ bytes of tensors: cuMemHostRegister failed with CUDA_ERROR_OUT_OF_MEMORY/],
  ] as const) {
    test(`says that ${call} gave ${code}, leaves nothing behind, and starts the next time`, async () => {
      control(`fail ${call} ${nth} ${code} 2`);
      await assert.rejects(start([BY_COPY], [0]), { code: 'ERR_RUBATO_CUDA', message: said });
      control('reset');
      const left = leftovers();
      const scheduler = await start([SPIN], [0]);
      await works(scheduler, 3);
      await scheduler.close();
      assert.deepEqual(left, NOTHING_LEFT);
      assert.deepEqual(leftovers(), NOTHING_LEFT);
    });
  }

  test('goes on with memory that another has pinned, at the cost of slower copies', async () => {
    control('fail cuMemHostRegister_v2 1 712');
    const before = count('pageable');
    const scheduler = await start([BY_KERNEL], [0]);
    await works(scheduler, 4);
    const [{ decidedBy, kernelFrom }] = scheduler.stats().gpus[0]!.cuda as [CudaModelStats];
    await scheduler.close();
    assert.ok(count('pageable') > before);
    assert.match(decidedBy, /shares a page with another region/);
    assert.ok(kernelFrom.every((bucket) => bucket.in === null && bucket.out === null));
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });

  test('refuses PTX that is newer than the driver', async () => {
    control('set version 8000');
    await assert.rejects(start([SPIN], [0]), /loading the module .*spin\.ptx failed with CUDA_ERROR_UNSUPPORTED_PTX_VERSION/);
    control('set version 12040');
  });
});

describe('a CUDA device that fails while it runs', { skip }, () => {
  afterEach(() => void control('reset'));

  for (const call of ['cuMemcpy2DAsync_v2', 'cuLaunchKernel', 'cuGraphLaunch', 'cuEventRecord', 'cuStreamWaitEvent', 'cuEventElapsedTime']) {
    test(`fails the batch of a ${call} that is out of memory, and lives`, async () => {
      const scheduler = await start([call === 'cuLaunchKernel' ? BY_KERNEL : BY_COPY], [1]);
      await works(scheduler, 1);
      control(`fail ${call} 1 2`);
      await assert.rejects(spin(scheduler, 2), (error) => error instanceof DeviceError && new RegExp(`${call.replace('_v2', '')} failed with CUDA_ERROR_OUT_OF_MEMORY`).test(error.message));
      for (let k = 0; k < 20; k++) await works(scheduler, k);
      await scheduler.close();
      assert.deepEqual(leftovers(), NOTHING_LEFT);
    });
  }

  test('leaves the pool for good when a kernel traps, and another goes on', async () => {
    const lost = await lostOf(async (onDeviceLost) => {
      const scheduler = await start([{ ...SPIN, maxBatch: 4 }], [2, 3], { onDeviceLost });
      await works(scheduler, 1);
      control('kernel spin 1 719');
      const results = await Promise.allSettled(Array.from({ length: 100 }, (_, k) => spin(scheduler, k)));
      const failed = results.filter(({ status }) => status === 'rejected') as PromiseRejectedResult[];
      assert.ok(failed.length > 0 && failed.length < 100);
      for (const { reason } of failed) assert.match((reason as Error).message, /CUDA_ERROR_LAUNCH_FAILED .*it takes a new process/);
      while (scheduler.stats().gpus.length > 1) await sleep(1);
      for (let k = 0; k < 50; k++) await works(scheduler, k);
      await scheduler.close();
    });
    assert.equal(lost.length, 1);
    assert.match(lost[0]!.message, /^GPU [01] of the scheduler has left the pool: .*CUDA_ERROR_LAUNCH_FAILED/);
    await assert.rejects(start([SPIN], lost[0]!.gpu === 0 ? [2] : [3]), /was lost: .*CUDA_ERROR_LAUNCH_FAILED/);
  });

  for (const [gpu, kernel] of [[9, 'gather'], [10, 'scatter']] as const) {
    test(`leaves the pool for good when its kernel to ${kernel} tensors traps`, async () => {
      const scheduler = await start([BY_KERNEL], [gpu], { onDeviceLost: () => {} });
      await works(scheduler, 1);
      control(`kernel ${kernel} 1 700`);
      await assert.rejects(spin(scheduler, 2), /CUDA_ERROR_ILLEGAL_ADDRESS .*it takes a new process/);
      await scheduler.close();
    });
  }

  test('is given up when a launch never ends, and what it does later touches nothing', async () => {
    const lost = await lostOf(async (onDeviceLost) => {
      const scheduler = await start([BY_COPY], [4], { onDeviceLost, cudaGrace: '100ms' });
      await works(scheduler, 1);
      control('kernel spin 1 hang');
      await assert.rejects(spin(scheduler, 2), /a batch of 1 of model 'spin' has not ended 100 ms after its time/);
      const before = count('cuMemcpy2DAsync_v2');
      control('release');
      await sleep(50);
      assert.equal(count('cuMemcpy2DAsync_v2'), before);
      await scheduler.close();
    });
    assert.equal(lost.length, 1);
  });

  test('is lost when the driver says so at a query', async () => {
    const scheduler = await start([SPIN], [5], { onDeviceLost: () => {} });
    await works(scheduler, 1);
    control('fail cuEventQuery 1 214');
    await assert.rejects(spin(scheduler, 2), /CUDA_ERROR_ECC_UNCORRECTABLE/);
    await scheduler.close();
  });

  test('warns the process when nobody listens', async () => {
    const warned = new Promise<Error>((resolve) => process.once('warning', resolve));
    const scheduler = await start([SPIN], [6]);
    control('kernel spin 1 700');
    await assert.rejects(spin(scheduler, 2), /CUDA_ERROR_ILLEGAL_ADDRESS/);
    assert.match((await Promise.race([warned, sleep(5000, new Error('no warning came'))])).message, /has left the pool/);
    await scheduler.close();
  });
});

describe('closing a scheduler with CUDA devices', { skip }, () => {
  afterEach(() => void control('reset'));

  test('waits for batches that run', async () => {
    const scheduler = await start([SPIN], [7]);
    const results = Promise.allSettled(Array.from({ length: 500 }, (_, k) => spin(scheduler, k)));
    await sleep(2);
    await scheduler.close();
    for (const [k, result] of (await results).entries()) {
      if (result.status === 'fulfilled') assert.equal(result.value['y']![0], k);
      else assert.match(String(result.reason), /closed/);
    }
    assert.deepEqual(leftovers(), expected());
  });

  test('can be done ten times', async () => {
    for (let round = 0; round < 10; round++) {
      const scheduler = await start([VECADD], [8]);
      const { y } = await scheduler.submit('vecadd', { a: new Float32Array(256).fill(round), b: new Float32Array(256).fill(1) });
      assert.equal(y![255], round + 1);
      await scheduler.close();
    }
    assert.deepEqual(leftovers(), expected());
  });
});

/** What the lost devices of the tests above have kept: it takes a new process to get it back. */
let kept: Record<string, number> | null = null;
function expected(): Record<string, number> {
  kept ??= leftovers();
  return kept;
}
