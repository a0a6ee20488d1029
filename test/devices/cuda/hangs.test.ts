import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { afterEach, describe, test as testOf } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeviceError, type DeviceLostError, type Scheduler } from '#rubato/index.js';
import { control, count, isReal, MLP, skip, SPIN, start as startOf, type Tensors, VECADD, withFile } from './fake.js';

const TEST_LIMIT_MS = 60_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

/** As long as the machine may stand still without harm; the default of both is longer. */
const LIMIT_MS = 400;
/** `close` promises 5 s; where the watchdog has found the call by then it is much less. */
const CLOSE_MS = 5000;

// A device whose driver hangs stays lost for the process: each test takes others.
if (skip === false && !isReal) control('set devices 64');
let next = 0;
const fresh = (): number => next++;
const start: typeof startOf = (models, gpus, more) => startOf(models, gpus, { maxBatch: 128, cudaGrace: LIMIT_MS, cudaLoadLimit: LIMIT_MS, ...more });
const spin = (scheduler: Scheduler<Tensors, Tensors>, value: number): Promise<Tensors> => scheduler.submit('spin', { x: Float32Array.of(value) });
const works = async (scheduler: Scheduler<Tensors, Tensors>, value: number): Promise<void> => assert.equal((await spin(scheduler, value))['y']![0], value);

/** Closes a scheduler whose memory must stay, and says so within the bound. */
async function closesStuck(scheduler: { close(): Promise<void> }, call: RegExp): Promise<void> {
  const warned = new Promise<Error & { code?: string }>((resolve) => {
    const listen = (warning: Error & { code?: string }): void => {
      if (warning.code !== 'RUBATO_CUDA_STUCK') return;
      process.off('warning', listen);
      resolve(warning);
    };
    process.on('warning', listen);
  });
  const before = performance.now();
  await scheduler.close();
  const tookMs = performance.now() - before;
  assert.ok(tookMs < CLOSE_MS, `close took ${tookMs} ms`);
  const { message } = await Promise.race([warned, sleep(1000, new Error('no warning came'))]);
  assert.match(message, /MiB of a closed scheduler stay allocated/);
  assert.match(message, call);
}

describe('a call to the CUDA driver that never returns', { skip: skip || isReal, concurrency: 1 }, () => {
  afterEach(() => void control('reset'));

  for (const [call, nth] of [['cuMemcpy2DAsync_v2', 1], ['cuLaunchKernel', 1], ['cuStreamWaitEvent', 1], ['cuGraphLaunch', 1], ['cuEventQuery', 1], ['cuEventRecord', 4], ['cuEventElapsedTime', 1]] as const) {
    const name = call.replace('_v2', '');
    test(`fails the batch of a ${name} and names it, and takes that GPU alone out of the pool for good`, async () => {
      const said = new RegExp(`${name} has not returned for ${LIMIT_MS} ms; it takes a new process to use GPU \\d+ again`);
      const lost: DeviceLostError[] = [];
      const gpu = fresh();
      const copies = call === 'cuLaunchKernel' ? 'kernel' : 'copy';
      const scheduler = await start([{ ...withFile(SPIN, { copies }), maxBatch: 4 }], [gpu, fresh()], { onDeviceLost: (error) => lost.push(error) });
      await works(scheduler, 1);
      const calls = count(call);
      control(`stall ${call} ${nth}`);
      const first = assert.rejects(spin(scheduler, 2), (error) => error instanceof DeviceError && said.test(error.message));
      while (count(call) < calls + nth) await sleep(1);
      // The other one serves until the hang is found.
      let found = false;
      void first.finally(() => (found = true)).catch(() => {});
      let served = 0;
      for (; !found; served++) await works(scheduler, served);
      assert.ok(served > 1, `${served} were served`); // the last of them may have ended after that
      await first;
      while (lost.length === 0 || scheduler.stats().gpus.length > 1) await sleep(1);
      assert.match(lost[0]!.message, said);
      assert.deepEqual(scheduler.stats().gpus.map(({ gpu: row }) => row), [1]);
      for (let k = 0; k < 20; k++) await works(scheduler, k);
      await closesStuck(scheduler, said);
      assert.equal(lost.length, 1);
      control('release');
      await assert.rejects(start([SPIN], [gpu]), /was lost: /);
    });
  }

  test('ends what waits for the GPU as well, for each of its schedulers', async () => {
    const gpu = fresh();
    const [one, two] = await Promise.all([start([SPIN], [gpu], { onDeviceLost: () => {} }), start([SPIN], [gpu], { onDeviceLost: () => {} })]);
    await Promise.all([works(one, 1), works(two, 2)]);
    control('stall cuGraphLaunch 1');
    const results = await Promise.allSettled(Array.from({ length: 20 }, (_, k) => [spin(one, k), spin(two, k)]).flat());
    assert.ok(results.every(({ status }) => status === 'rejected'));
    assert.ok(results.some((result) => /cuGraphLaunch has not returned/.test(String((result as PromiseRejectedResult).reason))));
    await closesStuck(one, /cuGraphLaunch/);
    await closesStuck(two, /cuGraphLaunch/);
  });

  test('never writes to the tensors of others when it returns after all', async () => {
    const scheduler = await start([SPIN], [fresh(), fresh()], { onDeviceLost: () => {} });
    await works(scheduler, 1);
    control('stall cuEventRecord 4'); // the copy out is under way, and is done when somebody looks at the device again
    await assert.rejects(spin(scheduler, 2), /cuEventRecord has not returned/);
    const leases = Array.from({ length: 64 }, () => scheduler.reserve('spin'));
    const values = await Promise.all(leases.map(async (lease, k) => {
      lease.inputs['x']![0] = 100 + k;
      return (await lease.submit())['y']!;
    }));
    control('release');
    await sleep(100);
    assert.deepEqual(values.map((y) => y[0]), values.map((_, k) => 100 + k));
    await closesStuck(scheduler, /cuEventRecord/);
  });

  test('ends a lease to which it may still write', async () => {
    const scheduler = await start([SPIN], [fresh(), fresh()], { onDeviceLost: () => {} });
    await works(scheduler, 1);
    const lease = scheduler.reserve('spin');
    control('stall cuEventRecord 4');
    await assert.rejects(lease.submit(), /cuEventRecord has not returned/);
    await assert.rejects(lease.submit(), { code: 'ERR_RUBATO_LEASE', message: /may still write to its memory/ });
    lease.release();
    await works(scheduler, 3);
    await closesStuck(scheduler, /cuEventRecord/);
  });

  for (const call of ['cuDevicePrimaryCtxRetain', 'cuMemAlloc_v2', 'cuMemcpyHtoD_v2', 'cuMemHostRegister_v2']) {
    const name = call.replace('_v2', '');
    test(`rejects the start of a scheduler with the ${name} that it waits for`, async () => {
      control(`stall ${call} 1`);
      const before = performance.now();
      const model = call === 'cuMemcpyHtoD_v2' ? MLP : SPIN;
      await assert.rejects(start([model], [fresh()]), { code: 'ERR_RUBATO_CUDA', message: new RegExp(`GPU \\d+: ${name} has not returned for ${LIMIT_MS} ms`) });
      assert.ok(performance.now() - before < CLOSE_MS);
    });
  }

  test('at the load of a model costs the GPU, and the model is there on the others', async () => {
    const lost: DeviceLostError[] = [];
    const scheduler = await start([SPIN], [fresh(), fresh()], { onDeviceLost: (error) => lost.push(error) });
    control('stall cuModuleLoadData 1');
    await scheduler.addModel(VECADD);
    const { y } = await scheduler.submit('vecadd', { a: new Float32Array(256).fill(1), b: new Float32Array(256).fill(2) });
    assert.equal(y![0], 3);
    await works(scheduler, 4);
    while (lost.length === 0) await sleep(1);
    assert.match(lost[0]!.message, /cuModuleLoadData has not returned/);
    await closesStuck(scheduler, /cuModuleLoadData/);
    assert.equal(lost.length, 1);
  });

  test('leaves the other GPUs to models that come and go after it', async () => {
    const scheduler = await start([{ ...SPIN, maxBatch: 1 }], [fresh(), fresh()], { onDeviceLost: () => {} });
    control('stall cuGraphLaunch 2'); // that of the second GPU: the first one holds the pinned memory, and stays for that
    const both = await Promise.allSettled([spin(scheduler, 1), spin(scheduler, 2)]);
    assert.deepEqual(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
    while (scheduler.stats().gpus.length > 1) await sleep(10);
    await sleep(50);
    await scheduler.addModel(VECADD);
    const { y } = await scheduler.submit('vecadd', { a: new Float32Array(256).fill(1), b: new Float32Array(256).fill(2) });
    assert.equal(y![0], 3);
    await scheduler.removeModel('vecadd');
    await works(scheduler, 4);
    await closesStuck(scheduler, /cuGraphLaunch/);
  });

  test('at the load of a model to the only GPU rejects with its name', async () => {
    const scheduler = await start([SPIN], [fresh()], { onDeviceLost: () => {} });
    control('stall cuMemAlloc_v2 1');
    await assert.rejects(scheduler.addModel(VECADD), { code: 'ERR_RUBATO_CUDA', message: /cuMemAlloc has not returned/ });
    await closesStuck(scheduler, /cuMemAlloc/);
  });

  test('or a kernel that does not end, while it is measured how a model copies, refuses the model', async () => {
    const scheduler = await start([withFile(SPIN, { copies: 'copy' })], [fresh()], { onDeviceLost: () => {} });
    control('kernel gather 1 hang');
    await assert.rejects(scheduler.addModel(VECADD), { code: 'ERR_RUBATO_CUDA_MODEL', field: 'copies', message: /a kernel has not ended within a second/ });
    for (let k = 0; k < 20; k++) await works(scheduler, k);
    control('release');
    await scheduler.addModel(VECADD);
    await scheduler.removeModel('vecadd');
    control('stall cuLaunchKernel 30'); // after those that are captured
    await assert.rejects(scheduler.addModel(VECADD), { code: 'ERR_RUBATO_CUDA', message: /cuLaunchKernel has not returned/ });
    await closesStuck(scheduler, /cuLaunchKernel/);
  });

  test('at the load of one more GPU refuses that GPU', async () => {
    const scheduler = await start([SPIN], [fresh()]);
    control('stall cuStreamCreateWithPriority 1');
    await assert.rejects(scheduler.addDevice({ kind: 'cuda', gpu: fresh() }), { code: 'ERR_RUBATO_CUDA', message: /cuStreamCreateWithPriority has not returned/ });
    for (let k = 0; k < 20; k++) await works(scheduler, k);
    assert.equal(scheduler.stats().gpus.length, 1);
    await closesStuck(scheduler, /cuStreamCreateWithPriority/);
  });

  test('at the end of a model costs the GPU, and not the end', async () => {
    const lost: DeviceLostError[] = [];
    const scheduler = await start([SPIN, VECADD], [fresh()], { onDeviceLost: (error) => lost.push(error) });
    control('stall cuMemFree_v2 1');
    await scheduler.removeModel('vecadd');
    while (lost.length === 0) await sleep(1);
    assert.match(lost[0]!.message, /cuMemFree has not returned/);
    await closesStuck(scheduler, /cuMemFree/);
  });
});

describe('closing while the CUDA driver hangs', { skip: skip || isReal, concurrency: 1 }, () => {
  afterEach(() => void control('reset'));

  for (const call of ['cuMemFree_v2', 'cuMemHostUnregister', 'cuEventDestroy_v2', 'cuDevicePrimaryCtxRelease_v2']) {
    const name = call.replace('_v2', '');
    test(`ends in its time in a ${name}, keeps the memory for it, and the next scheduler is refused that GPU`, async () => {
      const gpu = fresh();
      const scheduler = await start([SPIN], [gpu]);
      await works(scheduler, 1);
      control(`stall ${call} 1`);
      await closesStuck(scheduler, new RegExp(`GPU ${gpu}: ${name} has not returned for ${LIMIT_MS} ms`));
      await assert.rejects(start([SPIN], [gpu]), new RegExp(`GPU ${gpu} was lost: ${name}`));
    });
  }

  test('gives up in its time before the watchdog has found the call', async () => {
    const scheduler = await start([SPIN], [fresh()], { cudaLoadLimit: '60m' });
    control('stall cuModuleLoadData 1');
    const added = assert.rejects(scheduler.addModel(VECADD), { code: 'ERR_RUBATO_CLOSED' });
    await sleep(20);
    const warned = new Promise<Error>((resolve) => process.once('warning', resolve));
    const before = performance.now();
    await scheduler.close();
    const tookMs = performance.now() - before;
    assert.ok(tookMs > 0.9 * CLOSE_MS && tookMs < CLOSE_MS + 10_000, `close took ${tookMs} ms`);
    assert.match((await warned).message, /stay allocated.*have not let go of it for 5000 ms/);
    await added;
  });

  // In a process of its own: with `close`, by the end of its work, and by process.exit in the middle of the hang.
  for (const [how, end] of [
    ['closes', "await rejected; await scheduler.close(); console.log('closed');"],
    ['leaves without a word', "setTimeout(() => process.exit(0), 50);"],
  ] as const) {
    test(`lets a process end that ${how}`, async () => {
      const program = `
        const { control, start, SPIN } = await import(${JSON.stringify(import.meta.resolve('./fake.js'))});
        const scheduler = await start([SPIN], [0], { cudaGrace: ${LIMIT_MS}, onDeviceLost: () => {} });
        await scheduler.submit('spin', { x: Float32Array.of(1) });
        control('stall cuGraphLaunch 1');
        const rejected = scheduler.submit('spin', { x: Float32Array.of(2) }).then(() => process.exit(3), () => {});
        ${end}`;
      const before = performance.now();
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'pipe'] });
      let said = '';
      child.stderr.on('data', (text: Buffer) => (said += text.toString()));
      const code = await new Promise<number | null>((resolve) => child.on('exit', resolve));
      assert.equal(code, 0, said);
      assert.ok(performance.now() - before < 15_000);
      if (how === 'closes') assert.match(said, /RUBATO_CUDA_STUCK/);
    });
  }
});
