/**
 * The tensors of a model: what its inputs and outputs look like, where they lie in the memory of a request (its
 * *cell*), and how they get in and out.
 *
 *   cell (at a multiple of 64 bytes of a shared buffer)
 *   ├─ input 0 ─┼ pad ┼─ input 1 ─┼ pad ┼ … ┼─ output 0 ─┼ pad ┼ … ┤
 *   0           each tensor starts at a multiple of 64 bytes       bytes (a multiple of 64)
 *
 * A cell has one owner at a time, so plain stores do; whoever hands it on publishes them.
 */
import { describeValue } from './duration.js';
import { InvalidOptionError, RubatoError } from './errors.js';

/** Element types: bytes per element, and the array that holds them. float16 is held as raw bits, bool as bytes. */
export const DTYPES = {
  float32: { bytes: 4, array: Float32Array },
  float64: { bytes: 8, array: Float64Array },
  float16: { bytes: 2, array: Uint16Array },
  int8: { bytes: 1, array: Int8Array },
  uint8: { bytes: 1, array: Uint8Array },
  int16: { bytes: 2, array: Int16Array },
  uint16: { bytes: 2, array: Uint16Array },
  int32: { bytes: 4, array: Int32Array },
  uint32: { bytes: 4, array: Uint32Array },
  int64: { bytes: 8, array: BigInt64Array },
  uint64: { bytes: 8, array: BigUint64Array },
  bool: { bytes: 1, array: Uint8Array },
} as const;

export type Dtype = keyof typeof DTYPES;

interface ArrayOfDtype {
  float32: Float32Array;
  float64: Float64Array;
  float16: Uint16Array;
  int8: Int8Array;
  uint8: Uint8Array;
  int16: Int16Array;
  uint16: Uint16Array;
  int32: Int32Array;
  uint32: Uint32Array;
  int64: BigInt64Array;
  uint64: BigUint64Array;
  bool: Uint8Array;
}

/** The array that holds elements of one dtype. */
export type TensorArrayOf<D extends Dtype> = ArrayOfDtype[D];
export type TensorArray = TensorArrayOf<Dtype>;

/** One input or output, as users describe it. */
export interface TensorOption {
  readonly dtype: Dtype;
  /** Without the batch axis; `[]` is one scalar. Up to 8 dimensions, each an integer >= 1. */
  readonly shape: readonly number[];
}

/** One tensor and its place in the cell. */
export interface TensorPlace {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Elements: the product of `shape`. */
  readonly length: number;
  /** From the start of the cell, a multiple of 64. */
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** All tensors of one request. Plain data: can be cloned to other threads. */
export interface CellLayout {
  /** Size of a cell, a multiple of 64. */
  readonly bytes: number;
  readonly inputs: readonly TensorPlace[];
  readonly outputs: readonly TensorPlace[];
}

/** A request's input is not what its model takes. Nothing of it was used. */
export class InvalidInputError extends RubatoError {
  readonly model: string;
  /** The tensor in question; null when the input as a whole is no record of tensors. */
  readonly tensor: string | null;

  constructor(model: string, tensor: string | null, problem: string) {
    super('ERR_RUBATO_INPUT', `model '${model}': ${problem}`);
    this.model = model;
    this.tensor = tensor;
  }
}

/** What an execute function returned for a request is not what its model gives. Nothing of it was used. */
export class InvalidOutputError extends RubatoError {
  readonly model: string;
  /** The tensor in question; null when the output as a whole is no record of tensors. */
  readonly tensor: string | null;

  constructor(model: string, tensor: string | null, problem: string) {
    super('ERR_RUBATO_OUTPUT', `model '${model}': ${problem}`);
    this.model = model;
    this.tensor = tensor;
  }
}

/** A cache line, and as much as vector instructions and devices want their operands aligned to. */
const ALIGN_BYTES = 64;
const MOST_DIMENSIONS = 8;
/** Offsets inside a cell are 32-bit integers. */
const CELL_BYTES_BELOW = 2 ** 31;
const DTYPE_NAMES = Object.keys(DTYPES).join(', ');

interface TensorArrayConstructor {
  readonly name: string;
  new (length: number): TensorArray;
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): TensorArray;
}
/** `DTYPES` as the code below wants it: one constructor type for all. */
const KINDS: Readonly<Record<Dtype, { readonly bytes: number; readonly array: TensorArrayConstructor }>> = DTYPES;

// ── Layout: once per model ─────────────────────────────────────────────────────────────────────────────────────────

/**
 * Checks the tensors that a user declared for a model and lays them out. `path` names the model, as in `models[0]`.
 * @returns null when neither inputs nor outputs are declared.
 * @throws InvalidOptionError that names the option, as in `models[0].inputs.image.shape`.
 */
export function resolveLayout(inputs: unknown, outputs: unknown, path: string): CellLayout | null {
  if (inputs === undefined && outputs === undefined) return null;
  if (outputs === undefined) throw new InvalidOptionError(`${path}.outputs`, 'missing, a model that declares inputs must declare its outputs');
  if (inputs === undefined) throw new InvalidOptionError(`${path}.inputs`, 'missing, a model that declares outputs must declare its inputs');
  const inputPlaces = placeTensors(inputs, 0, `${path}.inputs`);
  const outputPlaces = placeTensors(outputs, endOf(inputPlaces), `${path}.outputs`);
  return { bytes: endOf(outputPlaces), inputs: inputPlaces, outputs: outputPlaces };
}

function endOf(places: readonly TensorPlace[]): number {
  const last = places.at(-1)!;
  return Math.ceil((last.byteOffset + last.byteLength) / ALIGN_BYTES) * ALIGN_BYTES;
}

function placeTensors(options: unknown, start: number, path: string): TensorPlace[] {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new InvalidOptionError(path, `got ${describeValue(options)}, must be an object of tensors such as { image: { dtype: 'float32', shape: [3, 224, 224] } }`);
  }
  const places: TensorPlace[] = [];
  let byteOffset = start;
  for (const [name, option] of Object.entries(options)) {
    if (name === '' || name === '__proto__') throw new InvalidOptionError(path, `a tensor cannot be called ${describeValue(name)}`);
    const place = placeTensor(name, option, byteOffset, `${path}.${name}`);
    places.push(place);
    byteOffset = endOf(places);
    if (byteOffset >= CELL_BYTES_BELOW) {
      throw new InvalidOptionError(`${path}.${name}.shape`, `got ${place.byteLength} bytes ${describeTensor(place)} from byte ${place.byteOffset} on, ` +
        `the inputs and outputs of one request must take less than ${CELL_BYTES_BELOW} bytes`);
    }
  }
  if (places.length === 0) throw new InvalidOptionError(path, 'got an empty object, must name at least one tensor');
  return places;
}

function placeTensor(name: string, option: unknown, byteOffset: number, path: string): TensorPlace {
  if (typeof option !== 'object' || option === null || Array.isArray(option)) {
    throw new InvalidOptionError(path, `got ${describeValue(option)}, must be an object such as { dtype: 'float32', shape: [3, 224, 224] }`);
  }
  for (const key of Object.keys(option)) {
    if (key !== 'dtype' && key !== 'shape') throw new InvalidOptionError(`${path}.${key}`, 'unknown field, allowed are dtype, shape');
  }
  const { dtype, shape } = option as { dtype?: unknown; shape?: unknown };
  if (!isDtype(dtype)) throw new InvalidOptionError(`${path}.dtype`, `got ${describeValue(dtype)}, must be one of ${DTYPE_NAMES}`);
  const dimensions = checkedShape(shape, `${path}.shape`);
  const length = dimensions.reduce((product, dimension) => product * dimension, 1);
  return { name, dtype, shape: dimensions, length, byteOffset, byteLength: length * DTYPES[dtype].bytes };
}

function isDtype(value: unknown): value is Dtype {
  return typeof value === 'string' && Object.hasOwn(DTYPES, value);
}

function checkedShape(shape: unknown, path: string): number[] {
  if (!Array.isArray(shape)) {
    throw new InvalidOptionError(path, `got ${describeValue(shape)}, must be an array of dimensions without the batch axis such as [3, 224, 224], or [] for a scalar`);
  }
  if (shape.length > MOST_DIMENSIONS) throw new InvalidOptionError(path, `got ${shape.length} dimensions, at most ${MOST_DIMENSIONS} are possible`);
  return Array.from(shape as readonly unknown[], (dimension, i) => {
    if (!Number.isSafeInteger(dimension) || (dimension as number) < 1) {
      throw new InvalidOptionError(`${path}[${i}]`, `got ${describeValue(dimension)}, must be an integer >= 1`);
    }
    return dimension as number;
  });
}

// ── In and out: once per request ───────────────────────────────────────────────────────────────────────────────────

/**
 * Copies a request's input, a record of one typed array per input tensor, into its cell. float16 takes a Uint16Array
 * or a Float16Array by its bits; bytes of bool are taken as they are. Arrays on shared memory are welcome.
 * Everything is checked before anything is written.
 * @throws InvalidInputError that names `model` and the tensor.
 * @throws RangeError when there is no such cell in `buffer`.
 */
export function copyIn(buffer: SharedArrayBuffer, cellOffset: number, layout: CellLayout, input: unknown, model: string): void {
  copyRecord(buffer, cellOffset, layout, layout.inputs, input, model);
}

/**
 * Copies what an execute function returned for one request, a record of one typed array per output tensor, into its
 * cell; as `copyIn` in all else.
 * @throws InvalidOutputError that names `model` and the tensor.
 * @throws RangeError when there is no such cell in `buffer`.
 */
export function writeOutputs(buffer: SharedArrayBuffer, cellOffset: number, layout: CellLayout, output: unknown, model: string): void {
  copyRecord(buffer, cellOffset, layout, layout.outputs, output, model);
}

/**
 * The outputs in a cell as private copies, on ordinary ArrayBuffers: the cell may be used again.
 * @throws RangeError when there is no such cell in `buffer`.
 */
export function copyOut(buffer: SharedArrayBuffer, cellOffset: number, layout: CellLayout): Record<string, TensorArray> {
  checkCell(buffer, cellOffset, layout);
  const outputs: Record<string, TensorArray> = {};
  for (let i = 0; i < layout.outputs.length; i++) {
    const place = layout.outputs[i]!;
    const start = (cellOffset + place.byteOffset) / KINDS[place.dtype].bytes;
    outputs[place.name] = wholeView(buffer, place.dtype).slice(start, start + place.length);
  }
  return outputs;
}

/**
 * Sets all outputs in a cell to zero.
 * @throws RangeError when there is no such cell in `buffer`.
 */
export function zeroOutputs(buffer: SharedArrayBuffer, cellOffset: number, layout: CellLayout): void {
  checkCell(buffer, cellOffset, layout);
  const bytes = wholeView(buffer, 'uint8') as Uint8Array;
  for (let i = 0; i < layout.outputs.length; i++) {
    const { byteOffset, byteLength } = layout.outputs[i]!;
    bytes.fill(0, cellOffset + byteOffset, cellOffset + byteOffset + byteLength);
  }
}

/** Private outputs that are all zero, shaped as those that `copyOut` gives. */
export function zerosOf(layout: CellLayout): Record<string, TensorArray> {
  const outputs: Record<string, TensorArray> = {};
  for (let i = 0; i < layout.outputs.length; i++) {
    const { name, dtype, length } = layout.outputs[i]!;
    outputs[name] = new KINDS[dtype].array(length);
  }
  return outputs;
}

/** A live view of one tensor in the cell at `cellOffset`, good for as long as the cell is. */
export function viewTensor(buffer: SharedArrayBuffer, cellOffset: number, place: TensorPlace): TensorArray {
  return new KINDS[place.dtype].array(buffer, cellOffset + place.byteOffset, place.length);
}

function copyRecord(
  buffer: SharedArrayBuffer, cellOffset: number, layout: CellLayout, places: readonly TensorPlace[], record: unknown, model: string,
): void {
  checkCell(buffer, cellOffset, layout);
  if (typeof record !== 'object' || record === null || Array.isArray(record) || ArrayBuffer.isView(record)) return refuseRecord(layout, places, record, model);
  const first = checkedTensor(layout, places, 0, record, model);
  if (Object.keys(record).length !== places.length) refuseNames(layout, places, record, model);
  if (places.length === 1) return writeTensor(buffer, cellOffset, places[0]!, first);
  // Each is read from the record only once: a getter might give another one the second time.
  const tensors = [first];
  for (let i = 1; i < places.length; i++) tensors.push(checkedTensor(layout, places, i, record, model));
  for (let i = 0; i < places.length; i++) writeTensor(buffer, cellOffset, places[i]!, tensors[i]!);
}

/** Tensor `i` of the record, once it is known to be one. */
function checkedTensor(layout: CellLayout, places: readonly TensorPlace[], i: number, record: object, model: string): TensorArray {
  const place = places[i]!;
  if (!Object.hasOwn(record, place.name)) refuseNames(layout, places, record, model);
  const value = (record as Readonly<Record<string, unknown>>)[place.name];
  if (!isArrayOf(place.dtype, value) || value.length !== place.length) refuseTensor(layout, places, i, value, model);
  return value;
}

/** By its tag and not by `instanceof`, which is slower and fails for arrays of another realm. */
function isArrayOf(dtype: Dtype, value: unknown): value is TensorArray {
  if (!ArrayBuffer.isView(value)) return false;
  const tag: string = (value as TensorArray)[Symbol.toStringTag];
  return tag === KINDS[dtype].array.name || (tag === 'Float16Array' && dtype === 'float16');
}

function writeTensor(buffer: SharedArrayBuffer, cellOffset: number, place: TensorPlace, value: TensorArray): void {
  // Set from a Float16Array, a Uint16Array would take rounded values; it is to take the bits.
  const isFloat16 = place.dtype === 'float16' && (value[Symbol.toStringTag] as string) === 'Float16Array';
  const source = isFloat16 ? new Uint16Array(value.buffer, value.byteOffset, value.length) : value;
  const start = (cellOffset + place.byteOffset) / KINDS[place.dtype].bytes;
  // Both sides have the same element type; which one, the compiler cannot know.
  (wholeView(buffer, place.dtype) as Uint8Array).set(source as Uint8Array, start);
}

/** Per buffer, one view of all of it for each dtype in use: a new view per tensor would cost more than the copy. */
const wholeViews = new WeakMap<SharedArrayBuffer, Partial<Record<Dtype, TensorArray>>>();

function wholeView(buffer: SharedArrayBuffer, dtype: Dtype): TensorArray {
  return wholeViews.get(buffer)?.[dtype] ?? addWholeView(buffer, dtype);
}

function addWholeView(buffer: SharedArrayBuffer, dtype: Dtype): TensorArray {
  const { bytes, array } = KINDS[dtype];
  const view = new array(buffer, 0, Math.floor(buffer.byteLength / bytes));
  const views = wholeViews.get(buffer) ?? {};
  views[dtype] = view;
  wholeViews.set(buffer, views);
  return view;
}

/** A crooked offset would write into the neighbour's cell. */
function checkCell(buffer: SharedArrayBuffer, cellOffset: number, layout: CellLayout): void {
  if (cellOffset % ALIGN_BYTES === 0 && cellOffset >= 0 && cellOffset + layout.bytes <= buffer.byteLength) return;
  throw new RangeError(`cell at byte ${cellOffset} of ${layout.bytes} bytes: must start at a multiple of ${ALIGN_BYTES} and end within the ${buffer.byteLength} bytes of its buffer`);
}

// ── Refusals ───────────────────────────────────────────────────────────────────────────────────────────────────────

function refuse(layout: CellLayout, places: readonly TensorPlace[], model: string, tensor: string | null, problem: string): never {
  if (places === layout.inputs) throw new InvalidInputError(model, tensor, problem);
  throw new InvalidOutputError(model, tensor, problem);
}

function refuseRecord(layout: CellLayout, places: readonly TensorPlace[], record: unknown, model: string): never {
  const side = places === layout.inputs ? 'input' : 'output';
  const wanted = places.map((place) => `'${place.name}': ${describeWanted(place)}`).join('; ');
  refuse(layout, places, model, null, `the ${side} is ${describeArray(record)}, must be an object with ${wanted}`);
}

/** A tensor is missing, or there is one too many. */
function refuseNames(layout: CellLayout, places: readonly TensorPlace[], record: object, model: string): never {
  const side = places === layout.inputs ? 'input' : 'output';
  const names = places.map(({ name }) => name);
  // An unknown name first: it is likely the missing one, misspelled.
  const unknown = Object.keys(record).find((key) => !names.includes(key));
  if (unknown !== undefined) refuse(layout, places, model, unknown, `no ${side} ${describeValue(unknown)}; there ${names.length === 1 ? 'is' : 'are'}: ${names.join(', ')}`);
  const missing = places.find(({ name }) => !Object.hasOwn(record, name)) ?? places[0]!;
  refuse(layout, places, model, missing.name, `${side} '${missing.name}' is missing, must be ${describeWanted(missing)}`);
}

function refuseTensor(layout: CellLayout, places: readonly TensorPlace[], i: number, value: unknown, model: string): never {
  const side = places === layout.inputs ? 'input' : 'output';
  const place = places[i]!;
  refuse(layout, places, model, place.name, `${side} '${place.name}' is ${describeArray(value)}, must be ${describeWanted(place)}`);
}

function describeWanted(place: TensorPlace): string {
  const { name } = KINDS[place.dtype].array;
  const kinds = place.dtype === 'float16' ? `${withArticle(name)} or Float16Array` : withArticle(name);
  return `${kinds} of ${place.length} ${describeTensor(place)}`;
}

function describeTensor({ dtype, shape }: TensorPlace): string {
  return `(${dtype}, shape [${shape.join(', ')}])`;
}

function describeArray(value: unknown): string {
  if (!ArrayBuffer.isView(value)) return describeValue(value);
  const kind = Object.prototype.toString.call(value).slice('[object '.length, -1);
  return kind === 'DataView' ? 'a DataView' : `${withArticle(kind)} of ${(value as TensorArray).length}`;
}

function withArticle(name: string): string {
  return `${name.startsWith('I') ? 'an' : 'a'} ${name}`;
}
