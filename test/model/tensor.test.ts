import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { runInNewContext } from 'node:vm';
import { InvalidOptionError } from '#rubato/model/errors.js';
import {
  type CellLayout, copyIn, copyOut, type Dtype, DTYPES, InvalidInputError, InvalidOutputError, resolveLayout, type TensorArray, type TensorArrayOf,
  viewTensor, writeOutputs, zeroOutputs, zerosOf,
} from '#rubato/model/tensor.js';

const ALL = Object.keys(DTYPES) as Dtype[];

function layoutOf(inputs: unknown, outputs: unknown = { y: { dtype: 'float32', shape: [2] } }): CellLayout {
  return resolveLayout(inputs, outputs, 'models[0]')!;
}

/** A buffer of three cells, each byte 0xee: the middle one is for the test, its neighbours must stay as they are. */
function threeCells(layout: CellLayout): { buffer: SharedArrayBuffer; middle: number; assertNeighboursUntouched: () => void } {
  const buffer = new SharedArrayBuffer(3 * layout.bytes);
  const bytes = new Uint8Array(buffer).fill(0xee);
  const assertNeighboursUntouched = (): void => {
    assert.ok(bytes.subarray(0, layout.bytes).every((byte) => byte === 0xee), 'the cell before');
    assert.ok(bytes.subarray(2 * layout.bytes).every((byte) => byte === 0xee), 'the cell behind');
  };
  return { buffer, middle: layout.bytes, assertNeighboursUntouched };
}

/** An array of the dtype with the values 1, 2, 3, … */
function counting(dtype: Dtype, length: number): TensorArray {
  const array = new DTYPES[dtype].array(length);
  for (let i = 0; i < length; i++) array[i] = array instanceof BigInt64Array || array instanceof BigUint64Array ? BigInt(i + 1) : i + 1;
  return array;
}

/** What is thrown, for a look at its fields. */
function thrownBy(f: () => unknown): unknown {
  try {
    f();
  } catch (error) {
    return error;
  }
  assert.fail('nothing was thrown');
}

describe('the dtypes', () => {
  it('say how large the elements of their arrays are', () => {
    for (const dtype of ALL) assert.equal(DTYPES[dtype].array.BYTES_PER_ELEMENT, DTYPES[dtype].bytes, dtype);
  });

  it('have an array type each', () => {
    const float: TensorArrayOf<'float32'> = new DTYPES.float32.array(1);
    const big: TensorArrayOf<'int64'> = new DTYPES.int64.array(1);
    const half: TensorArrayOf<'float16'> = new DTYPES.float16.array(1);
    assert.ok(float instanceof Float32Array && big instanceof BigInt64Array && half instanceof Uint16Array);
  });
});

describe('a cell layout', () => {
  it('puts inputs first, each tensor at a multiple of 64 bytes, and ends at one', () => {
    const layout = layoutOf(
      { image: { dtype: 'uint8', shape: [5, 13] }, scale: { dtype: 'float64', shape: [] } },
      { scores: { dtype: 'float32', shape: [16] }, label: { dtype: 'int64', shape: [1] } },
    );
    assert.deepEqual(layout, {
      bytes: 320,
      inputs: [
        { name: 'image', dtype: 'uint8', shape: [5, 13], length: 65, byteOffset: 0, byteLength: 65 },
        { name: 'scale', dtype: 'float64', shape: [], length: 1, byteOffset: 128, byteLength: 8 },
      ],
      outputs: [
        { name: 'scores', dtype: 'float32', shape: [16], length: 16, byteOffset: 192, byteLength: 64 },
        { name: 'label', dtype: 'int64', shape: [1], length: 1, byteOffset: 256, byteLength: 8 },
      ],
    });
  });

  it('never lets two tensors overlap, whatever their dtypes', () => {
    const options = Object.fromEntries(ALL.map((dtype, i) => [dtype, { dtype, shape: [i * 7 + 1] }]));
    const layout = layoutOf(options, options);
    let end = 0;
    for (const place of [...layout.inputs, ...layout.outputs]) {
      assert.ok(place.byteOffset >= end && place.byteOffset % 64 === 0, place.name);
      assert.equal(place.byteLength, place.length * DTYPES[place.dtype].bytes);
      end = place.byteOffset + place.byteLength;
    }
    assert.ok(layout.bytes >= end && layout.bytes % 64 === 0);
  });

  it('is plain data that survives a clone, and does not change with what the user wrote', () => {
    const shape = [2, 3];
    const layout = layoutOf({ x: { dtype: 'int8', shape } });
    assert.deepEqual(structuredClone(layout), layout);
    shape[0] = 100;
    assert.deepEqual(layout.inputs[0]!.shape, [2, 3]);
  });

  it('is null when a model declares no tensors', () => {
    assert.equal(resolveLayout(undefined, undefined, 'models[0]'), null);
  });

  it('has room for eight dimensions, and for a cell just below 2^31 bytes', () => {
    assert.equal(layoutOf({ x: { dtype: 'bool', shape: [1, 2, 1, 2, 1, 2, 1, 2] } }).inputs[0]!.length, 16);
    assert.equal(layoutOf({ x: { dtype: 'uint8', shape: [2 ** 31 - 128] } }).bytes, 2 ** 31 - 64);
  });

  const good = { y: { dtype: 'float32', shape: [2] } };
  const x = (option: unknown): unknown => ({ x: option });
  const refused: [what: string, inputs: unknown, outputs: unknown, path: string, problem: RegExp][] = [
    ['inputs without outputs', good, undefined, 'models[0].outputs', /missing/],
    ['outputs without inputs', undefined, good, 'models[0].inputs', /missing/],
    ['inputs that are null', null, good, 'models[0].inputs', /got null, must be an object of tensors/],
    ['inputs in an array', [good.y], good, 'models[0].inputs', /got an array of 1/],
    ['inputs without a tensor', {}, good, 'models[0].inputs', /at least one tensor/],
    ['outputs without a tensor', good, {}, 'models[0].outputs', /at least one tensor/],
    ['a tensor without a name', { '': good.y }, good, 'models[0].inputs', /called ""/],
    ['a tensor that would be the prototype', { ['__proto__']: good.y }, good, 'models[0].inputs', /called "__proto__"/],
    ['a tensor that is no object', x('float32'), good, 'models[0].inputs.x', /got "float32", must be an object such as/],
    ['a misspelled field', x({ dtype: 'int8', shape: [1], shpae: [2] }), good, 'models[0].inputs.x.shpae', /unknown field, allowed are dtype, shape/],
    ['an unknown dtype', x({ dtype: 'float', shape: [1] }), good, 'models[0].inputs.x.dtype', /got "float", must be one of float32, float64, float16, int8, .*bool/],
    ['a dtype that every object has', x({ dtype: 'toString', shape: [1] }), good, 'models[0].inputs.x.dtype', /got "toString"/],
    ['a missing shape', x({ dtype: 'int8' }), good, 'models[0].inputs.x.shape', /got undefined, must be an array/],
    ['a shape that is a number', good, x({ dtype: 'int8', shape: 3 }), 'models[0].outputs.x.shape', /got 3, must be an array/],
    ['nine dimensions', x({ dtype: 'int8', shape: Array(9).fill(1) }), good, 'models[0].inputs.x.shape', /got 9 dimensions, at most 8/],
    ['a dimension of 0', x({ dtype: 'int8', shape: [3, 0] }), good, 'models[0].inputs.x.shape[1]', /got 0, must be an integer >= 1/],
    ['a batch axis of -1', x({ dtype: 'int8', shape: [-1, 3] }), good, 'models[0].inputs.x.shape[0]', /got -1/],
    ['half a dimension', x({ dtype: 'int8', shape: [1.5] }), good, 'models[0].inputs.x.shape[0]', /got 1.5/],
    ['a dimension in a string', x({ dtype: 'int8', shape: ['3'] }), good, 'models[0].inputs.x.shape[0]', /got "3"/],
    ['a hole in the shape', x({ dtype: 'int8', shape: Array(2) }), good, 'models[0].inputs.x.shape[0]', /got undefined/],
    ['a tensor of 2^31 bytes', x({ dtype: 'float32', shape: [2 ** 29] }), good, 'models[0].inputs.x.shape', /got 2147483648 bytes \(float32, shape \[536870912\]\)/],
    ['a tensor larger than numbers are exact', x({ dtype: 'int8', shape: Array(8).fill(2 ** 40) }), good, 'models[0].inputs.x.shape', /must take less than 2147483648 bytes/],
    ['tensors that are too large only together', x({ dtype: 'int8', shape: [2 ** 30] }), x({ dtype: 'int8', shape: [2 ** 30] }), 'models[0].outputs.x.shape', /got 1073741824 bytes .* from byte 1073741824/],
  ];
  for (const [what, inputs, outputs, path, problem] of refused) {
    it(`refuses ${what}`, () => {
      const error = thrownBy(() => resolveLayout(inputs, outputs, 'models[0]'));
      assert.ok(error instanceof InvalidOptionError, String(error));
      assert.equal(error.path, path);
      assert.match(error.message, problem);
    });
  }
});

describe('copying a request in and its outputs out', () => {
  for (const dtype of ALL) {
    it(`keeps every element of ${dtype}, and touches no other cell`, () => {
      const tensors = { a: { dtype, shape: [] }, b: { dtype, shape: [3, 5] } };
      const layout = layoutOf(tensors, tensors);
      const { buffer, middle, assertNeighboursUntouched } = threeCells(layout);
      const given = { a: counting(dtype, 1), b: counting(dtype, 15) };
      copyIn(buffer, middle, layout, given, 'm');
      assert.deepEqual(viewTensor(buffer, middle, layout.inputs[0]!), given.a);
      assert.deepEqual(viewTensor(buffer, middle, layout.inputs[1]!), given.b);
      assert.equal(new Uint8Array(buffer, middle + layout.outputs[0]!.byteOffset)[0], 0xee, 'outputs are not touched by copyIn');

      zeroOutputs(buffer, middle, layout);
      assert.deepEqual(copyOut(buffer, middle, layout), zerosOf(layout));
      assert.deepEqual(viewTensor(buffer, middle, layout.inputs[1]!), given.b, 'inputs are not touched by zeroOutputs');
      writeOutputs(buffer, middle, layout, given, 'm');
      assert.deepEqual(copyOut(buffer, middle, layout), given);
      assertNeighboursUntouched();
    });
  }

  it('gives outputs on ordinary buffers of exactly their size, that do not change with the cell', () => {
    const layout = layoutOf({ x: { dtype: 'int8', shape: [] } });
    const buffer = new SharedArrayBuffer(layout.bytes);
    writeOutputs(buffer, 0, layout, { y: Float32Array.of(1, 2) }, 'm');
    const { y } = copyOut(buffer, 0, layout);
    zeroOutputs(buffer, 0, layout);
    assert.deepEqual(y, Float32Array.of(1, 2));
    for (const array of [y!, zerosOf(layout)['y']!]) {
      assert.ok(array.buffer instanceof ArrayBuffer);
      assert.equal(array.buffer.byteLength, 8);
    }
  });

  it('keeps the bits of a NaN', () => {
    const layout = layoutOf({ x: { dtype: 'float32', shape: [] } });
    const buffer = new SharedArrayBuffer(layout.bytes);
    copyIn(buffer, 0, layout, { x: new Float32Array(Uint32Array.of(0x7fa12345).buffer) }, 'm');
    assert.equal(new Uint32Array(buffer)[0], 0x7fa12345);
  });

  it('takes views on shared memory, parts of larger arrays, subclasses and arrays of another realm', () => {
    const layout = layoutOf({ x: { dtype: 'uint8', shape: [3] } });
    const buffer = new SharedArrayBuffer(layout.bytes);
    const sources = [
      new Uint8Array(new SharedArrayBuffer(8)).fill(7).subarray(2, 5),
      Uint8Array.of(1, 7, 7, 7, 2).subarray(1, 4),
      Buffer.from([7, 7, 7]),
      runInNewContext('Uint8Array.of(7, 7, 7)') as Uint8Array,
    ];
    for (const source of sources) {
      new Uint8Array(buffer).fill(0);
      copyIn(buffer, 0, layout, { x: source }, 'm');
      assert.deepEqual([...new Uint8Array(buffer, 0, 4)], [7, 7, 7, 0]);
    }
  });

  it('takes float16 as raw bits', () => {
    const layout = layoutOf({ x: { dtype: 'float16', shape: [2] } });
    const buffer = new SharedArrayBuffer(layout.bytes);
    copyIn(buffer, 0, layout, { x: Uint16Array.of(0x3c00, 0xc000) }, 'm');
    assert.deepEqual([...new Uint16Array(buffer, 0, 2)], [0x3c00, 0xc000]);
  });

  it('takes a Float16Array by its bits', { skip: 'Float16Array' in globalThis ? false : 'this runtime has no Float16Array' }, () => {
    const { Float16Array } = globalThis as unknown as { Float16Array: new (values: readonly number[]) => Uint16Array };
    const layout = layoutOf({ x: { dtype: 'float16', shape: [2] } });
    const buffer = new SharedArrayBuffer(layout.bytes);
    copyIn(buffer, 0, layout, { x: new Float16Array([9, 1, -2]).subarray(1) }, 'm');
    assert.deepEqual([...new Uint16Array(buffer, 0, 2)], [0x3c00, 0xc000]);
    const plain = layoutOf({ x: { dtype: 'uint16', shape: [2] } });
    assert.throws(() => copyIn(buffer, 0, plain, { x: new Float16Array([1, -2]) }, 'm'), /is a Float16Array of 2, must be a Uint16Array of 2 \(uint16/);
  });

  it('serves buffers of any size, and several of them at once', () => {
    const layout = layoutOf({ x: { dtype: 'float64', shape: [] } });
    const buffers = [new SharedArrayBuffer(layout.bytes + 3), new SharedArrayBuffer(layout.bytes)];
    buffers.forEach((buffer, i) => copyIn(buffer, 0, layout, { x: Float64Array.of(i + 1) }, 'm'));
    assert.deepEqual(buffers.map((buffer) => new Float64Array(buffer, 0, 1)[0]), [1, 2]);
  });

  it('refuses a cell that is crooked or not in the buffer, before it touches anything', () => {
    const layout = layoutOf({ x: { dtype: 'float32', shape: [2] } });
    const buffer = new SharedArrayBuffer(2 * layout.bytes);
    for (const offset of [-1, -64, 4, 32, 64.5, NaN, layout.bytes + 64, 2 * layout.bytes]) {
      const message = new RegExp(`RangeError: cell at byte ${offset} of ${layout.bytes} bytes`);
      assert.throws(() => copyIn(buffer, offset, layout, { x: Float32Array.of(1, 1) }, 'm'), message);
      assert.throws(() => writeOutputs(buffer, offset, layout, { y: Float32Array.of(1, 1) }, 'm'), message);
      assert.throws(() => copyOut(buffer, offset, layout), message);
      assert.throws(() => zeroOutputs(buffer, offset, layout), message);
    }
    assert.ok(new Uint8Array(buffer).every((byte) => byte === 0));
  });
});

describe('a record of tensors', () => {
  const options = { image: { dtype: 'float32', shape: [2, 3] }, flag: { dtype: 'bool', shape: [] }, half: { dtype: 'float16', shape: [1] } } as const;
  const layout = layoutOf(options, options);
  const image = new Float32Array(6).fill(1);
  const flag = Uint8Array.of(1);
  const half = Uint16Array.of(1);

  const refused: [what: string, record: unknown, tensor: string | null, problem: RegExp][] = [
    ['nothing', undefined, null, /the (in|out)put is undefined, must be an object with 'image': a Float32Array of 6 \(float32, shape \[2, 3\]\); 'flag': a Uint8Array of 1 \(bool, shape \[\]\); 'half': a Uint16Array or Float16Array of 1/],
    ['null', null, null, /is null, must be an object/],
    ['a bare typed array', image, null, /is a Float32Array of 6, must be an object/],
    ['an array', [image, flag, half], null, /is an array of 3, must be an object/],
    ['a record with a tensor missing', { image, half }, 'flag', /(in|out)put 'flag' is missing, must be a Uint8Array of 1 \(bool, shape \[\]\)/],
    ['a record with one too many', { image, flag, half, mask: flag }, 'mask', /no (in|out)put "mask"; there are: image, flag, half/],
    ['a record with a misspelled name', { imag: image, flag, half }, 'imag', /no (in|out)put "imag"/],
    ['a tensor that is only inherited', Object.assign(Object.create({ image }) as object, { flag, half }), 'image', /'image' is missing/],
    ['a plain array for a tensor', { image: [1, 1, 1, 1, 1, 1], flag, half }, 'image', /'image' is an array of 6, must be a Float32Array of 6 \(float32, shape \[2, 3\]\)/],
    ['undefined for a tensor', { image: undefined, flag, half }, 'image', /'image' is undefined/],
    ['a DataView for a tensor', { image: new DataView(new ArrayBuffer(24)), flag, half }, 'image', /'image' is a DataView/],
    ['something dressed as an array', { image: { [Symbol.toStringTag]: 'Float32Array', length: 6 }, flag, half }, 'image', /'image' is an object/],
    ['another dtype', { image: new Int32Array(6), flag, half }, 'image', /'image' is an Int32Array of 6, must be a Float32Array of 6/],
    ['an array one element short', { image: image.subarray(1), flag, half }, 'image', /'image' is a Float32Array of 5, must be a Float32Array of 6/],
    ['an array one element long', { image, flag: Uint8Array.of(1, 1), half }, 'flag', /'flag' is a Uint8Array of 2, must be a Uint8Array of 1/],
    ['clamped bytes for a bool', { image, flag: Uint8ClampedArray.of(1), half }, 'flag', /'flag' is a Uint8ClampedArray of 1/],
    ['floats for a float16', { image, flag, half: Float32Array.of(1) }, 'half', /'half' is a Float32Array of 1, must be a Uint16Array or Float16Array of 1 \(float16/],
  ];
  for (const [what, record, tensor, problem] of refused) {
    it(`refuses ${what} and writes nothing`, () => {
      const buffer = new SharedArrayBuffer(layout.bytes);
      const input = thrownBy(() => copyIn(buffer, 0, layout, record, 'resnet'));
      assert.ok(input instanceof InvalidInputError, String(input));
      assert.deepEqual([input.code, input.model, input.tensor], ['ERR_RUBATO_INPUT', 'resnet', tensor]);
      assert.match(input.message, /^model 'resnet': (the |no )?input/);
      assert.match(input.message, problem);

      const output = thrownBy(() => writeOutputs(buffer, 0, layout, record, 'resnet'));
      assert.ok(output instanceof InvalidOutputError, String(output));
      assert.deepEqual([output.code, output.model, output.tensor], ['ERR_RUBATO_OUTPUT', 'resnet', tensor]);
      assert.match(output.message, /^model 'resnet': (the |no )?output/);
      assert.match(output.message, problem);
      assert.ok(new Uint8Array(buffer).every((byte) => byte === 0));
    });
  }

  it('may have its tensors in any order, and no prototype', () => {
    const buffer = new SharedArrayBuffer(layout.bytes);
    copyIn(buffer, 0, layout, Object.assign(Object.create(null) as object, { half, flag, image }), 'm');
    assert.deepEqual(layout.inputs.map((place) => [...viewTensor(buffer, 0, place)]), [[1, 1, 1, 1, 1, 1], [1], [1]]);
  });

  it('is read once, so that a getter cannot slip in what was not checked', () => {
    const buffer = new SharedArrayBuffer(layout.bytes);
    let reads = 0;
    const record = { image, half, get flag() { return reads++ === 0 ? flag : Uint8Array.of(9, 9); } };
    copyIn(buffer, 0, layout, record, 'm');
    assert.equal(reads, 1);
    assert.deepEqual([...viewTensor(buffer, 0, layout.inputs[1]!)], [1]);
  });
});
