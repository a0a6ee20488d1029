import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, test as testOf } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CudaModelError, type CudaModelStats, type ModelOptions, type Scheduler } from '#rubato/index.js';
import { control, count, folderOf, isReal, leftovers, MLP, NOTHING_LEFT, skip, SPIN, start as startOf, type Tensors, VECADD, withFile } from './fake.js';

const TEST_LIMIT_MS = 60_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);
/** With room for what comes later. */
const start: typeof startOf = (models, gpus, more) => startOf(models, gpus, { maxBatch: 256, ...more });
const spin = async (scheduler: Scheduler<Tensors, Tensors>, value: number, model = 'spin'): Promise<void> => {
  assert.equal((await scheduler.submit(model, { x: Float32Array.of(value) }))['y']![0], value);
};
const vecadd = async (scheduler: Scheduler<Tensors, Tensors>, a: number): Promise<void> => {
  const { y } = await scheduler.submit('vecadd', { a: new Float32Array(256).fill(a), b: new Float32Array(256).fill(1) });
  assert.equal(y![255], a + 1);
};
/** Many at once, again and again until every GPU has had a batch: a first one that is fast enough takes them all. */
async function untilAllRun(scheduler: Scheduler<Tensors, Tensors>): Promise<void> {
  do await Promise.all(Array.from({ length: 600 }, (_, k) => vecadd(scheduler, k)));
  while (scheduler.stats().gpus.some(({ batches }) => batches === 0));
}
/** Requests one after the other, until they are to end; resolves with how many were right. */
function steady(scheduler: Scheduler<Tensors, Tensors>): { stop(): Promise<number> } {
  let goesOn = true;
  const work = (async () => {
    let k = 0;
    while (goesOn) await spin(scheduler, k++);
    return k;
  })();
  return { stop: () => ((goesOn = false), work) };
}

/** A model's folder of its own, with changes to the description. */
function copyOf(model: string, change: (described: Record<string, unknown>) => void): { folder: string; [Symbol.dispose](): void } {
  const root = mkdtempSync(join(tmpdir(), 'rubato-model-'));
  const folder = join(root, 'models', model);
  cpSync(folderOf(model), folder, { recursive: true });
  cpSync(join(folderOf(model), '../../kernels'), join(root, 'kernels'), { recursive: true });
  const file = join(folder, 'model.json');
  const described = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  change(described);
  writeFileSync(file, JSON.stringify(described));
  return { folder, [Symbol.dispose]: () => rmSync(root, { recursive: true }) };
}

describe('a scheduler with CUDA devices that changes while it runs', { skip: skip || isReal }, () => {
  afterEach(() => void control('reset'));

  test('loads a model that comes later to every GPU before it takes requests, while the others go on, and frees it when it is removed', async () => {
    await using scheduler = await start([SPIN], [0, 1]);
    const before = leftovers();
    const others = steady(scheduler);
    await scheduler.addModel(VECADD);
    const withModel = leftovers();
    await untilAllRun(scheduler);
    const last = vecadd(scheduler, 3);
    await scheduler.removeModel('vecadd');
    await last;
    assert.deepEqual(leftovers(), before);
    assert.equal(withModel['modules'], before['modules']! + 2 * 2); // 2 GPUs, its kernels and those that copy
    assert.equal(withModel['memory'], before['memory']! + 2 * 2 * 3); // 2 GPUs, 2 sets of 3 buffers
    await scheduler.addModel({ ...MLP, name: 'again' }); // the number of another model
    await scheduler.submit('again', { x: new Float32Array(64) });
    assert.ok(await others.stop() > 0);
    await scheduler.close();
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });

  test('takes a batch under way to its end while a model loads for long', async () => {
    await using scheduler = await start([SPIN], [0]);
    control('stall cuModuleLoadData 1');
    const added = scheduler.addModel(VECADD);
    for (let k = 0; k < 50; k++) await spin(scheduler, k);
    let isAdded = false;
    void added.then(() => (isAdded = true));
    await sleep(20);
    assert.equal(isAdded, false);
    await assert.rejects(scheduler.submit('vecadd', {}), { code: 'ERR_RUBATO_UNKNOWN_MODEL' });
    control('release');
    await added;
    await vecadd(scheduler, 5);
    await scheduler.close();
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });

  for (const [call, nth, code, field, said] of [
    ['cuMemAlloc_v2', 1, 2, 'inputs', /GPU [01]: model 'vecadd': allocating \d+ bytes for the inputs failed with CUDA_ERROR_OUT_OF_MEMORY/],
    ['cuModuleLoadData', 1, '200 3', 'module', /loading the module .*vecadd\.ptx failed with CUDA_ERROR_INVALID_IMAGE/],
    ['cuGraphInstantiateWithFlags', 1, 2, 'buckets', /making a graph for batches of 1 failed/],
  ] as const) {
    test(`refuses a model for which ${call} gives ${code} with file and field, and is as before`, async () => {
      await using scheduler = await start([SPIN], [0, 1]);
      const before = leftovers();
      control(`fail ${call} ${nth} ${code}`); // at one of the two
      await assert.rejects(scheduler.addModel(VECADD), (error) => {
        assert.ok(error instanceof CudaModelError, String(error));
        assert.equal(error.file, join(folderOf('vecadd'), 'model.json'));
        assert.equal(error.field, field);
        assert.match(error.message, said);
        return true;
      });
      assert.deepEqual(leftovers(), before);
      for (let k = 0; k < 20; k++) await spin(scheduler, k);
      await scheduler.addModel(VECADD);
      await vecadd(scheduler, 1);
      await scheduler.close();
      assert.deepEqual(leftovers(), NOTHING_LEFT);
    });
  }

  test('changes to another folder without a gap, and stays with the old one when the new one does not load', async () => {
    using doubled = copyOf('spin', (described) => (described['buckets'] = [64, 128]));
    using broken = copyOf('spin', (described) => (described['buckets'] = [8]));
    await using scheduler = await start([SPIN], [0, 1]);
    const before = leftovers();
    const others = steady(scheduler);
    await assert.rejects(scheduler.updateModel('spin', { cuda: broken.folder }), (error) => error instanceof CudaModelError && error.field === 'buckets');
    control('fail cuMemAlloc_v2 1 2');
    await assert.rejects(scheduler.updateModel('spin', { cuda: doubled.folder }), (error) => error instanceof CudaModelError && error.field === 'inputs');
    assert.deepEqual(leftovers(), before);
    await scheduler.updateModel('spin', { cuda: doubled.folder });
    assert.equal(leftovers()['graphs'], 2 * 2 * 2); // GPUs, sets, buckets: of the new folder alone
    assert.equal(leftovers()['memory'], before['memory']);
    await scheduler.updateModel('spin', { slo: '15s' });
    await Promise.all(Array.from({ length: 200 }, (_, k) => spin(scheduler, k)));
    await others.stop();
    assert.equal(scheduler.stats().models[0]!.failed, 0);
    await scheduler.close();
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });

  test('measures how a model copies that comes later, and takes the engines where the GPU is too busy for that, while the others go on', async () => {
    await using scheduler = await start([withFile(SPIN, { copies: 'copy' })], [0]);
    const before = leftovers();
    const others = steady(scheduler);
    control('kernel gather 1 hang');
    const looks = count('cuStreamQuery');
    const added = scheduler.addModel(VECADD);
    const { completed } = scheduler.stats().models[0]!;
    while (count('cuStreamQuery') === looks) await sleep(1); // it gives up, and asks whether the kernel has ended
    assert.ok(scheduler.stats().models[0]!.completed > completed);
    control('release');
    await added;
    await vecadd(scheduler, 1);
    await others.stop();
    const copies = (): CudaModelStats[] => [...scheduler.stats().gpus[0]!.cuda!];
    const { decidedBy, kernelFrom } = copies()[1]!;
    assert.match(decidedBy, /^measuring how to copy: a kernel has not ended within a second$/);
    assert.ok(kernelFrom.every((bucket) => bucket.in === null && bucket.out === null));
    await scheduler.updateModel('vecadd', { cuda: withFile(VECADD, {}).cuda! });
    assert.equal(copies()[1]!.decidedBy, 'measured');
    await scheduler.removeModel('vecadd');
    assert.deepEqual(copies().map(({ model }) => model), ['spin']);
    assert.deepEqual(leftovers(), before);
    await scheduler.close();
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });

  test('says of a model and a GPU that come later that the kernel cannot copy where it cannot reach the tensors', async () => {
    const byKernel = withFile(SPIN, { copies: 'kernel' });
    control('fail cuMemHostRegister_v2 1 712');
    await using scheduler = await start([byKernel], [0]);
    await spin(scheduler, 1); // finds it out
    await scheduler.addModel({ ...byKernel, name: 'later' });
    await scheduler.addModel({ ...withFile(SPIN, { copies: 'copy' }), name: 'engines' });
    for (const { model, decidedBy, kernelFrom } of scheduler.stats().gpus[0]!.cuda!) {
      assert.match(decidedBy, model === 'engines' ? /^model\.json$/ : /shares a page with another region/);
      assert.ok(kernelFrom.every((bucket) => bucket.in === null && bucket.out === null), model);
    }
    await spin(scheduler, 2, 'later');
    await scheduler.close();
    // Nobody has it pinned any more after the last GPU has left; the next one does, and its kernel reaches it.
    const again = await start([byKernel], [], { devices: [{ kind: 'emulated' }] });
    await again.addDevice({ kind: 'cuda', gpu: 1 });
    await again.removeDevice(1);
    await again.addDevice({ kind: 'cuda', gpu: 2 });
    await again.removeDevice(0);
    await spin(again, 3);
    assert.deepEqual(again.stats().gpus.map(({ cuda }) => cuda!.map(({ decidedBy }) => decidedBy)), [['model.json']]);
    await again.close();
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });

  test('refuses larger batches than the graphs that are loaded', async () => {
    await using scheduler = await start([{ ...SPIN, maxBatch: 8 }], [0]);
    const profile = { alpha: 0.05, beta: 0.5, maxBatch: 256 };
    await assert.rejects(scheduler.updateModel('spin', { profile, maxBatch: 256 }), (error) => error instanceof CudaModelError && error.field === 'buckets');
    await scheduler.updateModel('spin', { maxBatch: 16 });
    await Promise.all(Array.from({ length: 200 }, (_, k) => spin(scheduler, k)));
    await scheduler.close();
  });

  test('takes GPUs that come later with all models, and gives back those that go', async () => {
    await using scheduler = await start([SPIN, VECADD], [0]);
    const before = leftovers();
    const others = steady(scheduler);
    assert.deepEqual(await scheduler.addDevice({ kind: 'cuda', gpu: 1 }), [1]);
    await untilAllRun(scheduler);
    await scheduler.addModel(MLP);
    await scheduler.removeDevice(1);
    await scheduler.removeModel('mlp');
    assert.deepEqual(leftovers(), before);
    // The first has pinned the tensors for both: without it the second goes on.
    await scheduler.addDevice({ kind: 'cuda', gpu: 2 });
    const pageable = count('pageable');
    await scheduler.removeDevice(0);
    await Promise.all(Array.from({ length: 100 }, (_, k) => vecadd(scheduler, k)));
    await scheduler.addDevice({ kind: 'cuda', gpu: 0 });
    await Promise.all(Array.from({ length: 600 }, (_, k) => vecadd(scheduler, k)));
    assert.ok(await others.stop() > 0);
    assert.equal(count('pageable'), pageable, 'all copies came from pinned memory');
    assert.equal(leftovers()['memory'], 2 * before['memory']!);
    await scheduler.close();
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });

  test('refuses a GPU that cannot load every model, names file and field, and can take it the next time', async () => {
    await using scheduler = await start([SPIN, VECADD], [0]);
    const before = leftovers();
    control('fail cuMemAlloc_v2 5 2'); // spin takes 4
    await assert.rejects(scheduler.addDevice({ kind: 'cuda', gpu: 1 }), (error) => error instanceof CudaModelError && error.file.includes('vecadd') && error.field === 'inputs');
    assert.deepEqual(leftovers(), before);
    await scheduler.addDevice({ kind: 'cuda', gpu: 1 });
    await Promise.all(Array.from({ length: 300 }, (_, k) => vecadd(scheduler, k)));
    await scheduler.close();
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });

  test('can begin and end without a CUDA device, when its models have a folder for one', async () => {
    await using scheduler = await start([SPIN], [], { devices: [{ kind: 'emulated' }] });
    const [gpu] = await scheduler.addDevice({ kind: 'cuda', gpu: 3 });
    await scheduler.removeDevice(0);
    for (let k = 0; k < 20; k++) await spin(scheduler, k);
    await scheduler.removeDevice(gpu!);
    assert.deepEqual(leftovers(), NOTHING_LEFT);
    await scheduler.addDevice({ kind: 'cuda', gpu: 3 });
    await spin(scheduler, 7);
    await scheduler.close();
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });

  test('is closed in the middle of any change', async () => {
    for (let round = 0; round < 12; round++) {
      await using scheduler = await start([SPIN, MLP], [0, 1]);
      const change = [
        () => scheduler.addModel(VECADD),
        () => scheduler.removeModel('mlp'),
        () => scheduler.addDevice({ kind: 'cuda', gpu: 2 }),
        () => scheduler.removeDevice(round < 6 ? 0 : 1),
      ][round % 4]!();
      const settled = change.then(() => {}, () => {});
      await sleep(round % 3);
      await scheduler.close();
      await settled;
      assert.deepEqual(leftovers(), NOTHING_LEFT, `round ${round}`);
    }
  });
});

describe('several schedulers of a process on one GPU', { skip: skip || isReal }, () => {
  afterEach(() => void control('reset'));
  const named = (name: string): ModelOptions => ({ ...SPIN, name }) as ModelOptions;

  test('have models, memory and ends of their own, and go one by one without a trace in the others', async () => {
    const pageable = count('pageable');
    // Number 0 of each is another model.
    const all = await Promise.all([start([named('one')], [0]), start([VECADD], [0]), start([MLP, named('three')], [0])]);
    const [one, two, three] = all as [Scheduler<Tensors, Tensors>, Scheduler<Tensors, Tensors>, Scheduler<Tensors, Tensors>];
    const work = (rounds: number, live: readonly (() => Promise<unknown>)[]): Promise<unknown> => Promise.all(Array.from({ length: rounds }, () => live.map((each) => each())).flat());
    let k = 0;
    const each = [() => spin(one, k++, 'one'), () => vecadd(two, k++), () => spin(three, k++, 'three')];
    await work(200, each);
    assert.deepEqual(all.map((scheduler) => scheduler.stats().models.map(({ completed, late }) => completed + late)), [[200], [200], [0, 200]]);
    // Closing one in the middle of the others' work ends its own requests only.
    const others = work(200, each.slice(1));
    const own = Promise.allSettled(Array.from({ length: 100 }, (_, i) => spin(one, i, 'one')));
    await one.close();
    await others;
    for (const { reason } of (await own).filter(({ status }) => status === 'rejected') as PromiseRejectedResult[]) assert.match(String(reason), /closed/);
    await Promise.all([two.removeModel('vecadd'), spin(three, 1, 'three')]);
    await two.close();
    const four = await start([named('four')], [0]);
    await work(50, [() => spin(three, k++, 'three'), () => spin(four, k++, 'four')]);
    await three.close();
    await spin(four, 4, 'four');
    await four.close();
    assert.deepEqual(leftovers(), NOTHING_LEFT);
    assert.equal(count('pageable'), pageable, 'each had all of its tensors pinned');
  });

  test('lose it together, each with its own requests and once', async () => {
    const lost: string[] = [];
    const [one, two] = await Promise.all(['one', 'two'].map((name) => start([named(name)], [7, 8], { onDeviceLost: (error) => lost.push(`${name}: ${error.gpu}`) })));
    await Promise.all([spin(one!, 1, 'one'), spin(two!, 1, 'two')]);
    control('kernel spin 1 700');
    await Promise.allSettled(Array.from({ length: 100 }, (_, k) => [spin(one!, k, 'one'), spin(two!, k, 'two')]).flat());
    await sleep(200);
    assert.equal(new Set(lost).size, 2);
    assert.equal(lost.length, 2);
    assert.equal(lost[0]!.at(-1), lost[1]!.at(-1));
    for (let k = 0; k < 20; k++) await Promise.all([spin(one!, k, 'one'), spin(two!, k, 'two')]);
    await one!.close();
    await spin(two!, 9, 'two');
    await two!.close();
  });
});
