import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { chipOf, CudaModelError, readCudaModel } from '#rubato/devices/cuda/model-file.js';
import { resolveLayout } from '#rubato/model/tensor.js';
import { createScheduler, InvalidOptionError } from '#rubato/index.js';
import { createTestScheduler } from '#rubato/testing.js';
import { folderOf, skip, start, VECADD } from './fake.js';

const folder = mkdtempSync(join(tmpdir(), 'rubato-cuda-model-'));
after(() => rmSync(folder, { recursive: true }));

const LAYOUT = resolveLayout(VECADD.inputs, VECADD.outputs, 'm');
type Json = Record<string, unknown>;
const original = JSON.parse(readFileSync(join(folderOf('vecadd'), 'model.json'), 'utf8')) as Json & { launches: [Json] };
const kernels = join(folderOf('vecadd'), '../../kernels');
const CHIPS = [70, 75, 80, 86, 89, 90];
cpSync(join(kernels, 'vecadd.sm_86.cubin'), join(folder, 'vecadd.sm_87.cubin'));
cpSync(join(kernels, 'vecadd.ptx'), join(folder, 'vecadd.sm_12.cubin'));
for (const file of ['vecadd.ptx', ...CHIPS.map((chip) => `vecadd.sm_${chip}.cubin`)]) cpSync(join(kernels, file), join(folder, file));

function read(changes: Json, layout = LAYOUT, maxBatch = 128): ReturnType<typeof readCudaModel> {
  writeFileSync(join(folder, 'model.json'), JSON.stringify({ ...original, module: 'vecadd.ptx', ...changes }));
  return readCudaModel('m', folder, layout, maxBatch);
}

const launch = (changes: Json): Json => ({ launches: [{ ...original.launches[0], ...changes }] });

describe('the folder of a CUDA model', () => {
  test('gives launches whose grid is linear in the batch, for every bucket', () => {
    const model = read({ buckets: [1, 3, 128], ...launch({ grid: [{ perRequest: 5, plus: 2, per: 4 }, 7] }) });
    assert.deepEqual(model.buckets.map(({ size, launches }) => [size, launches[0]!.grid]), [[1, [2, 7, 1]], [3, [5, 7, 1]], [128, [161, 7, 1]]]);
    assert.deepEqual(model.buckets[1]!.launches[0]!.args, [{ kind: 0, value: 0 }, { kind: 0, value: 1 }, { kind: 1, value: 0 }, { kind: 4, value: 768 }]);
    assert.deepEqual(model.inputs, [{ cellOffset: 0, bytes: 1024 }, { cellOffset: 1024, bytes: 1024 }]);
  });

  test('gives the same weights for the same seed', () => {
    const weights = { w: { seed: 4, length: 8, scale: 0.5 }, v: { seed: 5, length: 8, scale: 0.5 } };
    const [one, two] = [read({ weights }), read({ weights })];
    assert.deepEqual(one.weights, two.weights);
    assert.notDeepEqual(one.weights[0], one.weights[1]);
    assert.equal(one.weights[0]!.length, 32);
  });

  const x = { dtype: 'float32', shape: [256] };
  const cases: [what: string, changes: Json, field: string, problem: RegExp][] = [
    ['a module that is not there', { module: 'none.ptx' }, 'module', /none\.ptx/],
    ['weights that are not there', { weights: { w: { file: 'w.bin', bytes: 4 } } }, 'weights.w.file', /w\.bin/],
    ['weights of another size', { weights: { w: { file: 'vecadd.ptx', bytes: 4 } } }, 'weights.w.bytes', /says 4, vecadd\.ptx has \d+ bytes/],
    ['an input of another shape', { inputs: { a: x, b: { ...x, shape: [255] } } }, 'inputs.b', /is float32 \[255\], the options of model 'm' say float32 \[256\]/],
    ['an output of another type', { outputs: { y: { ...x, dtype: 'int32' } } }, 'outputs.y', /is int32 \[256\], .* say float32 \[256\]/],
    ['an input that the options lack', { inputs: { a: x, b: x, c: x } }, 'inputs.c', /does not declare it/],
    ['an input that the file lacks', { inputs: { a: x } }, 'inputs.b', /is missing/],
    ['a kernel that is not in the module', launch({ kernel: 'vecsub' }), 'launches[0].kernel', /vecadd\.ptx has no kernel 'vecsub', it has vecadd/],
    ['a grid of 0', launch({ grid: [1, 0] }), 'launches[0].grid[1]', /is 0 for a batch of 1/],
    ['a block that is too large', launch({ block: [1024, 2] }), 'launches[0].block', /2048 threads/],
    ['an argument that is no buffer', launch({ args: ['a', 'q'] }), 'launches[0].args[1]', /no buffer is called 'q'; there are a, b, y/],
    ['two buffers of one name', { scratch: { a: 4 } }, 'scratch.a', /another buffer/],
    ['buckets that do not rise', { buckets: [1, 128, 128] }, 'buckets[2]', /got 128 after 128/],
    ['buckets that end before the largest batch', { buckets: [1, 64] }, 'buckets', /the largest is 64, model 'm' makes batches of up to 128/],
    ['a way to copy that there is not', { copies: 'dma' }, 'copies', /auto.*kernel.*copy/],
    ['a cubin that is not there', { cubins: [80, 61] }, 'cubins[1]', /vecadd\.sm_61\.cubin/],
    ['a cubin for another chip', { cubins: [80, 87] }, 'cubins[1]', /vecadd\.sm_87\.cubin is for sm_86/],
    ['a cubin that is none', { cubins: [12] }, 'cubins[0]', /vecadd\.sm_12\.cubin is no cubin/],
    ['cubins beside no PTX', { module: 'vecadd.sm_80.cubin', cubins: [80] }, 'cubins', /lie beside PTX, the module is vecadd\.sm_80\.cubin/],
    ['a misspelled field', { bukets: [1] }, '', /bukets/],
    ['a field of the wrong kind', { module: 7 }, 'module', /string/],
  ];
  for (const [what, changes, field, problem] of cases) {
    test(`is refused with ${what}, by file and field`, () => {
      assert.throws(() => read(changes), (error) => {
        assert.ok(error instanceof CudaModelError);
        assert.equal(error.file, join(folder, 'model.json'));
        assert.equal(error.field, field);
        assert.match(error.message, problem);
        return true;
      });
    });
  }

  test('is refused without model.json, and with one that is no JSON', () => {
    assert.throws(() => readCudaModel('m', '/no/such/folder', LAYOUT, 1), /CudaModelError: \/no\/such\/folder\/model\.json: .*ENOENT/);
    writeFileSync(join(folder, 'model.json'), '{');
    assert.throws(() => readCudaModel('m', folder, LAYOUT, 1), /model\.json: .*JSON/);
  });

  test('is refused for a model without tensors', () => {
    assert.throws(() => read({}, null), /inputs: model 'm' declares no tensors/);
  });
});

describe('the compiled kernels', () => {
  const names = readdirSync(kernels).filter((file) => file.endsWith('.cu')).map((file) => file.slice(0, -'.cu'.length));
  for (const name of names) {
    const ptx = readFileSync(join(kernels, `${name}.ptx`), 'utf8');

    test(`of ${name} are PTX that drivers since CUDA 9.0 take, for chips since Pascal`, () => {
      assert.match(ptx, /^\.version 6\.0\n\.target sm_60\n\.address_size 64\n/);
    });

    test(`of ${name} are cubins as well, for common chips and drivers since CUDA 11, with the kernels of the PTX`, () => {
      const entries = Array.from(ptx.matchAll(/\.entry (\w+)/g), (match) => match[1]!);
      assert.ok(entries.length > 0);
      for (const chip of CHIPS) {
        const elf = readFileSync(join(kernels, `${name}.sm_${chip}.cubin`));
        assert.equal(chipOf(elf), chip);
        assert.equal(elf[8], 7, 'the version of the ABI that CUDA 11 and 12 share');
        const sections = sectionsOf(elf);
        assert.deepEqual(sections.flatMap(({ name }) => (name.startsWith('.text.') ? [name.slice('.text.'.length)] : [])).toSorted(), entries.toSorted());
        for (const entry of entries) {
          // Driver-known constants come first, then the parameters: as many bytes as the PTX declares.
          const reserved = chip < 90 ? 0x160 : 0x210;
          assert.equal(sections.find(({ name }) => name === `.nv.constant0.${entry}`)!.bytes, reserved + parameterBytes(ptx, entry), `${entry} for sm_${chip}`);
        }
      }
    });
  }

  test('are no more than 200 KB', () => {
    const bytes = readdirSync(kernels).reduce((sum, file) => sum + statSync(join(kernels, file)).size, 0);
    assert.ok(bytes < 200e3, `${bytes} bytes`);
  });
});

function sectionsOf(elf: Buffer): { name: string; bytes: number }[] {
  const [table, size, count, namesAt] = [Number(elf.readBigUInt64LE(40)), elf.readUInt16LE(58), elf.readUInt16LE(60), elf.readUInt16LE(62)];
  const names = Number(elf.readBigUInt64LE(table + namesAt * size + 24));
  return Array.from({ length: count }, (_, i) => {
    const at = table + i * size;
    const from = names + elf.readUInt32LE(at);
    return { name: elf.toString('latin1', from, elf.indexOf(0, from)), bytes: Number(elf.readBigUInt64LE(at + 32)) };
  });
}

function parameterBytes(ptx: string, entry: string): number {
  const declared = ptx.slice(ptx.indexOf(`.entry ${entry}(`)).split(')')[0]!;
  return Array.from(declared.matchAll(/\.param (?:\.align \d+ )?\.[bu](\d+) \w+(?:\[(\d+)\])?/g)).reduce((end, [, bits, length]) => {
    const unit = Number(bits) / 8;
    return length === undefined ? Math.ceil(end / unit) * unit + unit : Math.ceil(end / 8) * 8 + Number(length);
  }, 0);
}

describe('the options of a scheduler with CUDA devices', { skip }, () => {
  const cuda = { kind: 'cuda' } as const;
  const refused = (options: object, path: string, problem: RegExp): Promise<void> =>
    assert.rejects(createScheduler(options as Parameters<typeof createScheduler>[0]), (error) => {
      assert.ok(error instanceof InvalidOptionError, String(error));
      assert.equal(error.path, path);
      assert.match(error.message, problem);
      return true;
    });

  test('refuse a device that does not exist', () => refused({ models: [VECADD], devices: [{ kind: 'emulated' }, { ...cuda, gpu: 16 }] }, 'devices[1].gpu', /got 16, the driver sees 16 GPUs/));
  test('refuse a device that is there twice', () => refused({ models: [VECADD], devices: [cuda, { ...cuda, gpu: 1 }, { ...cuda, gpu: 0 }] }, 'devices[2].gpu', /got 0, which is devices\[0\]\.gpu already/));
  test('refuse a model without its folder', () => refused({ models: [VECADD, { ...VECADD, name: 'other', cuda: undefined }], devices: [cuda] }, 'models[1].cuda', /is missing/));
  test('refuse memory that does not hold a batch', () => refused({ models: [VECADD], devices: [cuda], memoryLimit: '64KiB' }, 'memoryLimit', /model 'vecadd' alone needs/));
  test('refuse an option that is not there', () => refused({ models: [VECADD], devices: [{ ...cuda, count: 2 }] }, 'devices[0].count', /unknown option/));

  test('refuse later what they refuse at the start', async () => {
    const { cuda: _, ...plain } = VECADD;
    const scheduler = await start([VECADD], [0]);
    await assert.rejects(scheduler.addModel({ ...plain, name: 'later' }), /model\.cuda: is missing/);
    await assert.rejects(scheduler.addDevice({ kind: 'cuda', gpu: 0 }), /device\.gpu: got 0, which is GPU 0 of the scheduler already/);
    await assert.rejects(scheduler.addDevice({ kind: 'cuda', gpu: 16 }), /device\.gpu: got 16, the driver sees 16 GPUs/);
    await scheduler.close();
    const without = await createScheduler({ models: [plain], devices: [{ kind: 'emulated' }] });
    await assert.rejects(without.addDevice({ kind: 'cuda' }), /device\.kind: .*'vecadd' has none/);
    await without.close();
  });

  test('do not go with virtual time', () => assert.rejects(createTestScheduler({ models: [VECADD], devices: [cuda] }), /devices: kind 'cuda' runs in real time/));
});
