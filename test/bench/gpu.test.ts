/** `npm run test:gpu` on the fake driver, in short runs: whether everything is measured, and what the fake is known to do comes out. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadNative } from '#rubato/devices/cuda/native.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'rubato-gpu-'));
const file = join(folder, 'gpu.json');
const driver = join(root, 'build/fake/libfakecuda.so');
const skip = process.platform !== 'linux' ? 'Linux only' : loadNative().native === null ? loadNative().reason : false;

/** Of every copy of the fake, per byte: 10 GB/s. */
const COPY_NS_PER_BYTE = 0.1;
const GBPS = 1 / COPY_NS_PER_BYTE;
/** A batch of `spin`, as its kernel says. */
const spinUs = (batch: number): number => 50 * batch + 500;

interface Spread { readonly p50Us: number; readonly p99Us: number; readonly count: number }
interface Result {
  readonly machine: { readonly gpu: string; readonly cuda: string };
  readonly profile: readonly { readonly model: string; readonly sizes: readonly (Spread & { readonly batch: number })[]; readonly alphaUs: number; readonly betaUs: number }[];
  readonly dispatch: readonly { readonly model: string; readonly dispatchToStart: Spread; readonly requestToStart: Spread }[];
  readonly overhead: readonly { readonly model: string; readonly batch: number; readonly bare: { readonly oneByOneUs: { readonly p50: number }; readonly backToBackPerSecond: number } | null; readonly oneByOne: Spread; readonly backToBackPerSecond: number; readonly meanBatch: number }[];
  readonly copies: readonly { readonly bytes: number; readonly direction: string; readonly bare: { readonly registeredGBps: number; readonly allocatedGBps: number } | null; readonly scheduler: number | null }[];
  readonly goodput: readonly { readonly model: string; readonly policy: string; readonly capacityPerSecond: number; readonly goodPerSecond: number; readonly badShare: number; readonly sustained: boolean; readonly meanBatch: number; readonly busyShare: number }[];
  readonly budgets: readonly { readonly what: string; readonly limit: number; readonly bound: string; readonly measured: number; readonly met: boolean }[];
  readonly problems: readonly string[];
}

function testGpu(args: readonly string[], faults = ''): { status: number | null; stdout: string; stderr: string } {
  const env = { ...process.env, RUBATO_CUDA_LIBRARY: driver, FAKECUDA: `set copynsperbyte ${COPY_NS_PER_BYTE};${faults}` };
  return spawnSync(process.execPath, [join(root, 'scripts/test-gpu.mjs'), '--as-built', '--quick', ...args], { cwd: root, encoding: 'utf8', timeout: 120_000, env });
}

describe('npm run test:gpu', { skip }, () => {
  let stdout = '';
  let result: Result;

  before(() => {
    const built = spawnSync(process.execPath, [join(root, 'scripts/fake-cuda.mjs')], { encoding: 'utf8' });
    assert.equal(built.status, 0, built.stderr);
    const run = testGpu(['--only', 'profile,dispatch,overhead,copies,goodput', '--json', file]);
    assert.equal(run.status, 0, run.stderr);
    stdout = run.stdout;
    result = JSON.parse(readFileSync(file, 'utf8')) as Result;
  });

  after(() => rmSync(folder, { recursive: true }));

  it('names the GPU and the driver, and prints every table with all of its rows', () => {
    assert.match(stdout, /^On Fake GPU 0 \(compute capability 8\.0, 1 GiB\), driver of an unknown version for CUDA 12\.4; /);
    const rows = Object.fromEntries(stdout.split('\n**').slice(1).map((part) => [part.split('.**', 1)[0], part.split('\n').filter((line) => line.startsWith('| ')).length - 2]));
    assert.deepEqual(rows, { 'ℓ(b)': 2, 'To the start': 2, Overhead: 3, Copies: 6, Goodput: 4, Budgets: result.budgets.length });
    assert.ok(result.budgets.length >= 8);
    assert.deepEqual(result.problems, []);
  });

  it('finds the line of spin, and no batch that is shorter than its kernel', () => {
    const spin = result.profile[0]!;
    assert.equal(spin.model, 'spin');
    assert.deepEqual(spin.sizes.map(({ batch }) => batch), [1, 2, 4, 8, 16, 32, 64]);
    // The fake driver sees an end when it is asked, so that other programs on these cores make batches longer, never shorter.
    for (const { batch, p50Us, p99Us } of spin.sizes) assert.ok(p50Us >= spinUs(batch) - 0.1 && p99Us >= p50Us, `${batch}: ${p50Us}, ${p99Us}`);
    assert.ok(spin.sizes.some(({ batch, p50Us }) => p50Us < 2 * spinUs(batch)), JSON.stringify(spin.sizes));
    // What is left of least squares is at right angles to a constant and to the size.
    const left = spin.sizes.map(({ batch, p50Us }) => p50Us - spin.alphaUs * batch - spin.betaUs);
    assert.ok(Math.abs(left.reduce((sum, us) => sum + us)) < 1e-3, `${left}`);
    assert.ok(Math.abs(left.reduce((sum, us, k) => sum + us * spin.sizes[k]!.batch, 0)) < 1e-3, `${left}`);
  });

  it('measures from the dispatcher to the start, which is a part of the way from the request', () => {
    for (const { model, dispatchToStart, requestToStart } of result.dispatch) {
      assert.ok(dispatchToStart.count > 50 && dispatchToStart.p50Us > 0 && dispatchToStart.p50Us < 20_000, model);
      assert.ok(requestToStart.p50Us > dispatchToStart.p50Us, model);
    }
  });

  it('launches the same graph alone as through the scheduler, neither faster than its kernel', () => {
    for (const { model, batch, bare, oneByOne, backToBackPerSecond, meanBatch } of result.overhead) {
      assert.ok(oneByOne.p50Us > bare!.oneByOneUs.p50, model);
      assert.ok(meanBatch > 0 && meanBatch <= batch, `${model}: ${meanBatch}`);
      if (model !== 'spin') continue;
      const copiesUs = 2 * 4 * COPY_NS_PER_BYTE / 1e3;
      assert.ok(bare!.oneByOneUs.p50 >= spinUs(1) + copiesUs - 0.1 && bare!.oneByOneUs.p50 < 10 * spinUs(1), `${bare!.oneByOneUs.p50}`);
      for (const perSecond of [bare!.backToBackPerSecond, backToBackPerSecond]) assert.ok(perSecond > 0.02e6 / spinUs(1) && perSecond < 1.02e6 / spinUs(1), `${perSecond}`);
    }
  });

  it('finds the bandwidth that the fake has, with both kinds of memory and in both directions', () => {
    for (const { bytes, direction, bare, scheduler } of result.copies) {
      for (const measured of [bare!.registeredGBps, bare!.allocatedGBps]) assert.ok(Math.abs(measured / GBPS - 1) < 0.02, `${bytes} ${direction}: ${measured}`);
      // There the host's own copying counts as well.
      assert.equal(scheduler === null, bytes < 2 ** 24);
      if (scheduler !== null) assert.ok(scheduler > 0 && scheduler < 1.3 * GBPS, `${bytes} ${direction}: ${scheduler}`);
    }
  });

  it('serves no more than the GPU can run, and a GPU is busy for no more than the time', () => {
    assert.deepEqual(result.goodput.map(({ model, policy }) => `${model} ${policy}`), ['spin adaptive', 'spin immediate + timeout', 'mlp adaptive', 'mlp immediate + timeout']);
    for (const { model, policy, capacityPerSecond, goodPerSecond, badShare, sustained, meanBatch, busyShare } of result.goodput) {
      const all = `${model} ${policy}: ${JSON.stringify({ capacityPerSecond, goodPerSecond, badShare, meanBatch, busyShare })}`;
      assert.ok(goodPerSecond < 1.1 * capacityPerSecond, all);
      assert.ok(busyShare > 0 && busyShare <= 1.01, all);
      assert.ok(meanBatch >= 1 && meanBatch <= 64, all);
      assert.equal(sustained, badShare <= 0.01, all);
    }
  });

  it('says which budgets are met', () => {
    for (const { what, limit, bound, measured, met } of result.budgets) {
      assert.equal(met, bound === 'least' ? measured >= limit : measured <= limit, what);
      assert.ok(stdout.includes(`| ${what} | `), what);
    }
  });

  it('goes on where a comparison is not possible, says why, and fails in the end', () => {
    const { status, stdout: said } = testGpu(['--only', 'copies'], 'fail cuMemAllocHost_v2 1 2');
    assert.equal(status, 1);
    assert.match(said, /\| 16384 KiB \| in \| – \| – \| – \| \d+\.\d+ \|/);
    assert.match(said, /copies: native\/cuda\/bare copies: bare: cuMemAllocHost failed with CUDA_ERROR_OUT_OF_MEMORY/);
  });

  it('keeps what a step had found when its GPU is lost, and runs the others', () => {
    const { status, stdout: said } = testGpu(['--only', 'profile,dispatch'], 'kernel mlp_layer 40 719');
    assert.equal(status, 1);
    assert.match(said, /\*\*ℓ\(b\)\.\*\*.*\n\n.*\n.*\n\| spin \|.*\n\n/);
    assert.match(said, /\*\*To the start\.\*\*/);
    assert.match(said, /profile: .*failed with CUDA_ERROR_LAUNCH_FAILED/);
  });

  it('ends a step that takes too long', () => {
    const { status, stdout: said } = testGpu(['--only', 'goodput', '--limit', '1']);
    assert.equal(status, 1);
    assert.match(said, /goodput: has not ended within 1 s/);
  });

  it('is skipped with the reason where there is no driver', () => {
    const env = { ...process.env, RUBATO_CUDA_LIBRARY: '/no/such/driver.so' };
    const { status, stdout: said } = spawnSync(process.execPath, [join(root, 'scripts/test-gpu.mjs'), '--as-built'], { encoding: 'utf8', env });
    assert.equal(status, 0);
    assert.match(said, /^test:gpu: skipped, no CUDA driver: \/no\/such\/driver\.so/);
  });

  for (const [args, message] of [
    [['--only', 'speed'], /--only: got speed, must be some of tests, profile, /],
    [['--limit', '0'], /--limit: got 0, must be a number of seconds above 0/],
    [['--json', join(folder, 'nowhere/gpu.json')], /--json: .*no such file or directory/],
    [['--fast'], /Unknown option '--fast'/],
  ] as const) {
    it(`refuses ${args.join(' ').replace(folder, '…')} in one line`, () => {
      const run = testGpu(args);
      assert.equal(run.status, 1);
      assert.match(run.stderr, message);
      assert.equal(run.stderr.trimEnd().split('\n').length, 1, run.stderr);
      assert.equal(run.stdout, '');
    });
  }
});
