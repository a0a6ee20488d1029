/** Each test is a process of its own: the driver is started once per process. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { describe, test as testOf } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isReal, skip } from './fake.js';

const TEST_LIMIT_MS = 60_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

const LIMIT_MS = 400;
/** Generous: the machine may stand still. */
const SOON_MS = 15_000;

interface Ran { readonly code: number | null; readonly stdout: string; readonly stderr: string; readonly tookMs: number }

/** A program that has the fake driver's parts at hand. */
function run(program: string): Promise<Ran> {
  const head = `
    const { control, SPIN, start } = await import(${JSON.stringify(import.meta.resolve('./fake.js'))});
    const { cudaDevices } = await import(${JSON.stringify(import.meta.resolve('#rubato/index.js'))});
    const { doctor } = await import(${JSON.stringify(import.meta.resolve('#rubato/cli/doctor.js'))});
    const limits = { cudaLoadLimit: ${LIMIT_MS} };
    const said = (error) => error.code + ' ' + error.message;`;
  return ended(['--input-type=module', '-e', `${head}${program}`], {});
}

async function ended(args: readonly string[], env: Record<string, string>): Promise<Ran> {
  const before = performance.now();
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (text: Buffer) => (stdout += text.toString()));
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
  const code = await new Promise<number | null>((resolve) => child.on('exit', resolve));
  return { code, stdout, stderr, tookMs: performance.now() - before };
}

async function says(program: string, lines: readonly RegExp[]): Promise<void> {
  const { code, stdout, stderr, tookMs } = await run(program);
  assert.equal(code, 0, stderr);
  assert.equal(stderr, '');
  const told = stdout.trimEnd().split('\n');
  assert.equal(told.length, lines.length, stdout);
  lines.forEach((line, i) => assert.match(told[i]!, line));
  assert.ok(tookMs < SOON_MS, `${tookMs} ms`);
}

describe('a CUDA driver that does not start', { skip: skip || isReal, concurrency: 1 }, () => {
  for (const call of ['cuInit', 'cuDriverGetVersion', 'cuDeviceGetCount', 'cuDeviceGetName', 'cuDeviceGetAttribute', 'cuDeviceTotalMem_v2']) {
    test(`in its ${call} is a reason of cudaDevices, and the program ends by itself`, async () => {
      await says(`
        control('stall ${call} 1');
        const { available, reason, devices } = cudaDevices(${LIMIT_MS});
        console.log(available, devices.length, reason);`, [new RegExp(`^false 0 the driver does not answer: ${call.replace('_v2', '')} did not return within ${LIMIT_MS} ms$`)]);
    });
  }

  test('holds up a program once: who asks again is answered at once, until the call has returned', async () => {
    await says(`
      control('stall cuInit 1');
      cudaDevices(${LIMIT_MS});
      const before = performance.now();
      const { reason } = cudaDevices(${LIMIT_MS});
      console.log(performance.now() - before < ${LIMIT_MS / 2}, reason);
      control('release');
      while (!cudaDevices().available);
      console.log(cudaDevices().devices.length);`, [/^true the driver does not answer: cuInit/, /^16$/]);
  });

  test('is a finding of the doctor, who ends in his time', async () => {
    await says(`
      control('stall cuInit 1');
      console.log(doctor(${LIMIT_MS}).cuda.reason);`, [new RegExp(`: cuInit did not return within ${LIMIT_MS} ms$`)]);
    const cli = fileURLToPath(new URL('../../../../bin/rubato', import.meta.url));
    const { code, stdout, tookMs } = await ended([cli, 'doctor', '--cuda-limit', `${LIMIT_MS}ms`], { FAKECUDA: 'stall cuInit 1' });
    assert.equal(code, 0);
    assert.match(stdout, new RegExp(`^-- +CUDA .*the driver does not answer: cuInit did not return within ${LIMIT_MS} ms`, 'm'));
    assert.ok(tookMs < SOON_MS, `${tookMs} ms`);
  });

  test('rejects the start of a scheduler, whether it hangs when GPUs are counted or when they are opened', async () => {
    for (const nth of [1, 2]) {
      await says(`
        control('stall cuInit ${nth}');
        await start([SPIN], [0], limits).then(() => console.log('started'), (error) => console.log(said(error)));`,
      [new RegExp(`^ERR_RUBATO_CUDA CUDA.*: cuInit did not return within ${LIMIT_MS} ms$`)]);
    }
  });

  test('is started by the next scheduler when the call has returned after all', async () => {
    await says(`
      control('stall cuInit 2');
      await start([SPIN], [0], limits).catch((error) => console.log(said(error)));
      control('release');
      const scheduler = await start([SPIN], [0]);
      console.log((await scheduler.submit('spin', { x: Float32Array.of(5) })).y[0]);
      await scheduler.close();`, [/cuInit did not return/, /^5$/]);
  });

  test('or answers an error, is asked again by the next scheduler', async () => {
    await says(`
      control('fail cuInit 2 999');
      await start([SPIN], [0]).catch((error) => console.log(said(error)));
      const scheduler = await start([SPIN], [0]);
      console.log((await scheduler.submit('spin', { x: Float32Array.of(6) })).y[0]);
      await scheduler.close();`, [/^ERR_RUBATO_CUDA CUDA: cuInit failed with CUDA_ERROR_UNKNOWN/, /^6$/]);
  });
});
