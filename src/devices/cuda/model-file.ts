/**
 * A model for CUDA devices: a folder with `model.json`, its compiled kernels and its weights.
 *
 *   module     PTX, cubin or fatbin
 *   cubins     chips (86: compute capability 8.6) for which the same kernels lie beside NAME.ptx as NAME.sm_86.cubin
 *   inputs     tensors of one request, as the model's options declare them; a batch's lie one after the other on the device
 *   outputs    likewise
 *   scratch    buffers between kernels: bytes per request
 *   weights    loaded once: float32 from a seed (normal, times scale), or the bytes of a file
 *   buckets    batch sizes for which a graph is made; a batch runs in the smallest that holds it
 *   copies     how tensors reach the device and come back: 'copy' by its engines, 'kernel' by a kernel, 'auto' what is faster
 *   launches   kernels in their order: grid (linear in the bucket), block, arguments (buffers by name, numbers)
 *
 * Everything is checked here, so that what is wrong is told with the file and the field before a device is touched.
 */
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { types } from 'node:util';
import { z } from 'zod';
import { RubatoError } from '../../model/errors.js';
import { Random } from '../../model/random.js';
import { type CellLayout, type Dtype, DTYPES, type TensorPlace } from '../../model/tensor.js';

/** What a folder says of its model is not what it may be. */
export class CudaModelError extends RubatoError {
  readonly file: string;
  /** As in `launches[0].grid[1]`; empty when it is the file as a whole. */
  readonly field: string;

  constructor(file: string, field: string, problem: string) {
    super('ERR_RUBATO_CUDA_MODEL', `${file}: ${field === '' ? '' : `${field}: `}${problem}`);
    this.file = file;
    this.field = field;
  }
}

/** As native/cuda/model.h numbers them. */
const ARG_KINDS = { input: 0, output: 1, scratch: 2, weight: 3, int: 4, float: 5 } as const;
/** As native/cuda/copier.h numbers them. */
const COPIES = { auto: 0, kernel: 1, copy: 2 } as const;

/** What the package ships cubins for. Others take the PTX. */
const SHIPPED_CHIPS = [70, 75, 80, 86, 89, 90];

const MOST_THREADS = 1024;

export interface CudaArg {
  readonly kind: number;
  readonly value: number;
}

export interface CudaLaunch {
  readonly kernel: string;
  readonly grid: readonly number[];
  readonly block: readonly number[];
  readonly sharedBytes: number;
  readonly args: readonly CudaArg[];
}

/** The same kernels may be there for several chips; 0: for any that the driver takes it for. */
export interface CudaModule {
  readonly file: string;
  readonly chip: number;
  readonly image: Uint8Array;
}

/** Ready to be loaded: what native/cuda/model.h calls a ModelSpec. */
export interface CudaModel {
  readonly name: string;
  /** The file that describes the model, for messages. */
  readonly description: string;
  readonly modules: readonly CudaModule[];
  readonly copyModules: readonly CudaModule[];
  readonly copies: number;
  readonly cellBytes: number;
  readonly inputs: readonly { cellOffset: number; bytes: number }[];
  readonly outputs: readonly { cellOffset: number; bytes: number }[];
  readonly scratch: readonly number[];
  readonly weights: readonly Uint8Array[];
  readonly buckets: readonly { size: number; launches: readonly CudaLaunch[] }[];
}

const whole = (least: number, most = 2 ** 31 - 1): z.ZodInt => z.int().min(least).max(most);
/** ceil((batch · perRequest + plus) / per), or a fixed number. */
const linear = z.union([whole(0), z.strictObject({ perRequest: whole(1), plus: whole(0).optional(), per: whole(1).optional() })]);
type Linear = z.output<typeof linear>;

const tensors = z.record(z.string(), z.strictObject({ dtype: z.enum(Object.keys(DTYPES) as [Dtype, ...Dtype[]]), shape: z.array(whole(1)).max(8) }));
const schema = z.strictObject({
  module: z.string().min(1),
  cubins: z.array(whole(10, 999)).max(64).optional(),
  copies: z.enum(Object.keys(COPIES) as [keyof typeof COPIES, ...(keyof typeof COPIES)[]]).optional(),
  inputs: tensors,
  outputs: tensors,
  scratch: z.record(z.string(), whole(1)).optional(),
  weights: z.record(z.string(), z.union([z.strictObject({ file: z.string().min(1), bytes: whole(1) }), z.strictObject({ seed: whole(0), length: whole(1), scale: z.number() })])).optional(),
  buckets: z.array(whole(1, 8191)).min(1).max(64),
  launches: z.array(z.strictObject({
    kernel: z.string().min(1),
    grid: z.array(linear).min(1).max(3),
    block: z.array(whole(1, 1024)).min(1).max(3),
    sharedBytes: whole(0).optional(),
    args: z.array(z.union([z.string(), z.strictObject({ int: z.union([z.int(), linear]) }), z.strictObject({ float: z.number() })])).max(32),
  })).min(1).max(256),
});
type Described = z.output<typeof schema>;

/**
 * Reads the folder of a model whose options declare these tensors.
 * @throws CudaModelError
 */
export function readCudaModel(name: string, folder: string, layout: CellLayout | null, maxBatch: number): CudaModel {
  const file = join(folder, 'model.json');
  const described = parse(file);
  if (layout === null) throw new CudaModelError(file, 'inputs', `model '${name}' declares no tensors in its options; it must declare these`);
  matchTensors(file, 'inputs', described.inputs, layout.inputs, name);
  matchTensors(file, 'outputs', described.outputs, layout.outputs, name);
  checkBuckets(file, described.buckets, name, maxBatch);
  const image = readBeside(file, 'module', described.module);
  checkKernels(file, described, image);
  const copies = described.copies ?? 'auto';
  const weights = Object.entries(described.weights ?? {}).map(([weight, from]) => {
    if (!('file' in from)) return seededWeights(from);
    const bytes = readBeside(file, `weights.${weight}.file`, from.file);
    if (bytes.length !== from.bytes) throw new CudaModelError(file, `weights.${weight}.bytes`, `says ${from.bytes}, ${from.file} has ${bytes.length} bytes`);
    return bytes;
  });
  const buffers = buffersOf(file, described, layout);
  return {
    name,
    description: file,
    modules: [{ file: join(folder, described.module), chip: 0, image }, ...readCubins(file, described)],
    copyModules: copies === 'copy' ? [] : copyModules(),
    copies: COPIES[copies],
    cellBytes: layout.bytes,
    inputs: layout.inputs.map(({ byteOffset, byteLength }) => ({ cellOffset: byteOffset, bytes: byteLength })),
    outputs: layout.outputs.map(({ byteOffset, byteLength }) => ({ cellOffset: byteOffset, bytes: byteLength })),
    scratch: Object.values(described.scratch ?? {}),
    weights,
    buckets: described.buckets.map((size) => ({ size, launches: described.launches.map((launch, i) => launchFor(file, `launches[${i}]`, launch, buffers, size)) })),
  };
}

function parse(file: string): Described {
  let given: unknown;
  try {
    given = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new CudaModelError(file, '', types.isNativeError(error) ? error.message : String(error));
  }
  const result = schema.safeParse(given);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const path = issue.path.reduce<string>((text, key) => (typeof key === 'number' ? `${text}[${key}]` : text === '' ? String(key) : `${text}.${String(key)}`), '');
  throw new CudaModelError(file, path, issue.message);
}

/** Cubins beside the PTX. @throws CudaModelError */
function readCubins(file: string, { module, cubins }: Pick<Described, 'module' | 'cubins'>): CudaModule[] {
  if (cubins !== undefined && !module.endsWith('.ptx')) throw new CudaModelError(file, 'cubins', `lie beside PTX, the module is ${basename(module)}`);
  return (cubins ?? []).map((chip, i) => {
    const name = module.replace(/ptx$/, `sm_${chip}.cubin`);
    const image = readBeside(file, `cubins[${i}]`, name);
    const found = chipOf(image);
    if (found !== chip) throw new CudaModelError(file, `cubins[${i}]`, `${basename(name)} is ${found === null ? 'no cubin' : `for sm_${found}`}`);
    return { file: join(file, '..', name), chip, image };
  });
}

const ELF_MAGIC = 0x7f454c46;
const ELF_MACHINE_CUDA = 190;

/** The chip that a cubin was compiled for; null when it is none. It is an ELF file, with the chip in its flags. */
export function chipOf(image: Uint8Array): number | null {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (image.length < 64 || view.getUint32(0) !== ELF_MAGIC || view.getUint16(18, true) !== ELF_MACHINE_CUDA) return null;
  const flags = view.getUint32(48, true);
  return image[8]! < 8 ? flags & 0xff : (flags >> 8) & 0xff; // the ABI's version: CUDA 13 has the chip elsewhere
}

/** Whose cubin of the shipped ones runs on a chip: the newest that is no newer, of the same generation; null: none. */
export function chipFor(chip: number): number | null {
  return SHIPPED_CHIPS.findLast((each) => each <= chip && Math.floor(each / 10) === Math.floor(chip / 10)) ?? null;
}

let gathering: CudaModule[] | null = null;

/** native/cuda/kernels/gather.cu, for every device. */
function copyModules(): CudaModule[] {
  const folder = fileURLToPath(new URL('../../../native/cuda/kernels/', import.meta.url)); // from dist/devices/cuda/
  const file = join(folder, 'gather.ptx');
  gathering ??= [{ file, chip: 0, image: readBeside(file, '', 'gather.ptx') }, ...readCubins(file, { module: 'gather.ptx', cubins: SHIPPED_CHIPS })];
  return gathering;
}

function readBeside(file: string, field: string, name: string): Uint8Array {
  try {
    return new Uint8Array(readFileSync(join(file, '..', name)));
  } catch (error) {
    throw new CudaModelError(file, field, types.isNativeError(error) ? error.message : String(error));
  }
}

/** The options' tensors must be the file's: same names, types and shapes. */
function matchTensors(file: string, field: string, described: Described['inputs'], declared: readonly TensorPlace[], model: string): void {
  const text = (of: { dtype: string; shape: readonly number[] }): string => `${of.dtype} [${of.shape.join(', ')}]`;
  for (const [name, tensor] of Object.entries(described)) {
    const place = declared.find((each) => each.name === name);
    if (place === undefined) throw new CudaModelError(file, `${field}.${name}`, `model '${model}' does not declare it in its options`);
    if (text(place) !== text(tensor)) throw new CudaModelError(file, `${field}.${name}`, `is ${text(tensor)}, the options of model '${model}' say ${text(place)}`);
  }
  const extra = declared.find(({ name }) => !(name in described));
  if (extra !== undefined) throw new CudaModelError(file, `${field}.${extra.name}`, `is missing, the options of model '${model}' declare it`);
}

/** The graphs that a model was loaded with must hold its batches. @throws CudaModelError */
export function checkLargest({ name, description, buckets }: CudaModel, maxBatch: number): void {
  checkBuckets(description, buckets.map(({ size }) => size), name, maxBatch);
}

function checkBuckets(file: string, buckets: readonly number[], model: string, maxBatch: number): void {
  buckets.forEach((size, i) => {
    if (i > 0 && size <= buckets[i - 1]!) throw new CudaModelError(file, `buckets[${i}]`, `got ${size} after ${buckets[i - 1]!}; they must rise`);
  });
  const largest = buckets[buckets.length - 1]!;
  if (largest < maxBatch) throw new CudaModelError(file, 'buckets', `the largest is ${largest}, model '${model}' makes batches of up to ${maxBatch}`);
}

/** PTX is text and names its kernels: a wrong name is found before a device is asked. Binary modules are checked when they are loaded. */
function checkKernels(file: string, { module, launches }: Described, image: Uint8Array): void {
  if (!module.endsWith('.ptx')) return;
  const kernels = Array.from(new TextDecoder().decode(image).matchAll(/\.entry\s+([\w$]+)/g), (match) => match[1]!);
  launches.forEach(({ kernel }, i) => {
    if (!kernels.includes(kernel)) throw new CudaModelError(file, `launches[${i}].kernel`, `${module} has no kernel '${kernel}', it has ${kernels.join(', ') || 'none'}`);
  });
}

export function seededWeights({ seed, length, scale }: { seed: number; length: number; scale: number }): Uint8Array {
  const random = new Random(seed);
  const weights = Float32Array.from({ length }, () => scale * random.normal());
  return new Uint8Array(weights.buffer);
}

/** Every buffer by its name, as an argument: its kind and its place in the list of that kind. */
function buffersOf(file: string, described: Described, layout: CellLayout): Map<string, CudaArg> {
  const buffers = new Map<string, CudaArg>();
  const add = (kind: keyof typeof ARG_KINDS, field: string, names: readonly string[]): void => names.forEach((name, value) => {
    if (buffers.has(name)) throw new CudaModelError(file, `${field}.${name}`, 'another buffer has this name');
    buffers.set(name, { kind: ARG_KINDS[kind], value });
  });
  add('input', 'inputs', layout.inputs.map(({ name }) => name));
  add('output', 'outputs', layout.outputs.map(({ name }) => name));
  add('scratch', 'scratch', Object.keys(described.scratch ?? {}));
  add('weight', 'weights', Object.keys(described.weights ?? {}));
  return buffers;
}

/** The launch for batches of `size`. */
function launchFor(file: string, field: string, launch: Described['launches'][number], buffers: Map<string, CudaArg>, size: number): CudaLaunch {
  const grid = launch.grid.map((axis, i) => {
    const blocks = at(axis, size);
    if (blocks < 1) throw new CudaModelError(file, `${field}.grid[${i}]`, `is ${blocks} for a batch of ${size}; it must be at least 1`);
    return blocks;
  });
  const threads = launch.block.reduce((product, each) => product * each, 1);
  if (threads > MOST_THREADS) throw new CudaModelError(file, `${field}.block`, `has ${threads} threads, a block has at most ${MOST_THREADS}`);
  const args = launch.args.map((arg, i): CudaArg => {
    if (typeof arg === 'object') return 'int' in arg ? { kind: ARG_KINDS.int, value: at(arg.int, size) } : { kind: ARG_KINDS.float, value: arg.float };
    const buffer = buffers.get(arg);
    if (buffer === undefined) throw new CudaModelError(file, `${field}.args[${i}]`, `no buffer is called '${arg}'; there are ${[...buffers.keys()].join(', ')}`);
    return buffer;
  });
  const three = (axes: readonly number[]): number[] => [0, 1, 2].map((axis) => axes[axis] ?? 1);
  return { kernel: launch.kernel, grid: three(grid), block: three(launch.block), sharedBytes: launch.sharedBytes ?? 0, args };
}

function at(value: Linear, size: number): number {
  return typeof value === 'number' ? value : Math.ceil((size * value.perRequest + (value.plus ?? 0)) / (value.per ?? 1));
}
