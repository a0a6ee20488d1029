import assert from 'node:assert/strict';
import { describe, test as testOf } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type Batch,
  ClosedError,
  createScheduler,
  DeviceError,
  type DeviceOptions,
  type Dtype,
  type ExecuteBatch,
  ExpiredError,
  InfeasibleError,
  InvalidInputError,
  InvalidOptionError,
  InvalidOutputError,
  LateError,
  type ModelOptions,
  openClient,
  OverloadedError,
  type Scheduler,
  type SchedulerOptions,
  type TensorArray,
} from '#rubato/index.js';
import { DTYPES } from '#rubato/model/tensor.js';
import { PAGE_BYTES, usedPages } from '#rubato/protocol/arena.js';
import type { SharedMemory } from '#rubato/protocol/shared-memory.js';
import { pageTable } from '#rubato/scheduler/client.js';

/** A scheduler that loses a request would hold its test for ever. */
const TEST_LIMIT_MS = 30_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

type Tensors = Record<string, TensorArray>;
type Execute = ExecuteBatch<Tensors, Tensors>;

/** Generous: nothing is late by a stall of the machine. A batch of 1 to 3 starts when it is full or after 0.1 s. */
const MODEL: ModelOptions = { name: 'm', slo: '20s', profile: [0.1, 0.1, 0.1], condition: 'immediate' };
const X = { x: { dtype: 'float32', shape: [2, 2] } } as const;
const Y = { y: { dtype: 'float32', shape: [3] } } as const;
/** Four requests fill the one page of memory, two are a batch. */
const QUARTER_PAGE: Partial<ModelOptions> = { profile: [1, 1], inputs: { x: { dtype: 'uint8', shape: [PAGE_BYTES / 8] } }, outputs: { y: { dtype: 'uint8', shape: [PAGE_BYTES / 8] } } };
const ONE_PAGE = { memoryLimit: '64KiB' };

function start(model: Partial<ModelOptions>, devices: readonly DeviceOptions<Tensors, Tensors>[], more: Partial<SchedulerOptions> = {}): Promise<Scheduler<Tensors, Tensors>> {
  const options = { models: [{ ...MODEL, ...model }] as readonly ModelOptions[], devices, ...more } as SchedulerOptions<Tensors, Tensors>;
  return createScheduler<Tensors, Tensors>(options);
}

const callback = (execute: Execute, count = 1): DeviceOptions<Tensors, Tensors>[] => [{ kind: 'callback', execute, count }];

/** A device whose batches last until the test lets them go. */
class Gate {
  started = 0;
  readonly #execute: Execute;
  #open: (() => void)[] = [];
  #look: (() => void) | null = null;

  constructor(execute: Execute) {
    this.#execute = execute;
  }

  readonly execute: Execute = async (batch) => {
    this.started++;
    this.#look?.();
    await new Promise<void>((resolve) => this.#open.push(resolve));
    return this.#execute(batch);
  };

  async reached(count: number): Promise<void> {
    while (this.started < count) await new Promise<void>((resolve) => (this.#look = resolve));
  }

  open(): void {
    for (const open of this.#open.splice(0)) open();
  }

  /** Opens for everything that comes, until the returned function is called. */
  stayOpen(): () => void {
    const timer = setInterval(() => this.open(), 1);
    return () => clearInterval(timer);
  }
}

const memoryOf = (scheduler: object): SharedMemory => Reflect.get(scheduler, 'memory') as SharedMemory;

/** How many requests' tensors there is room for now. */
function room(scheduler: Scheduler<Tensors, Tensors>, model = 'm'): number {
  const leases = [];
  for (;;) {
    try {
      leases.push(scheduler.reserve(model));
    } catch (error) {
      assert.ok(error instanceof OverloadedError, String(error));
      break;
    }
  }
  for (const lease of leases) lease.release();
  return leases.length;
}

const ones = (elements: number): Uint8Array => new Uint8Array(elements).fill(1);
const quarter = (): Tensors => ({ x: ones(PAGE_BYTES / 8) });
const quarterOut = (batch: Batch<Tensors>): Tensors[] => batch.inputs.map(({ x }) => ({ y: (x as Uint8Array).map((value) => 2 * value) }));

/** Values that a careless conversion would change, by dtype. */
const VALUES: { readonly [D in Dtype]: readonly (number | bigint)[] } = {
  float32: [0, -0, NaN, Infinity, -Infinity, 2 ** -149, 16777217],
  float64: [0, -0, NaN, -Infinity, 5e-324, 0.1, 2 ** 53 - 1],
  float16: [0, 0x8000, 0x7c00, 0x7e01, 1, 0xffff, 0x3c00],
  int8: [0, -1, -128, 127, 1, 2, 3],
  uint8: [0, 255, 128, 127, 1, 2, 3],
  int16: [0, -1, -32768, 32767, 256, 255, 1],
  uint16: [0, 65535, 32768, 256, 255, 1, 2],
  int32: [0, -1, -(2 ** 31), 2 ** 31 - 1, 65536, 1, 2],
  uint32: [0, 2 ** 32 - 1, 2 ** 31, 65536, 1, 2, 3],
  int64: [0n, -1n, -(2n ** 63n), 2n ** 63n - 1n, 2n ** 53n + 1n, 1n, 2n],
  uint64: [0n, 2n ** 64n - 1n, 2n ** 63n, 2n ** 53n + 1n, 1n, 2n, 3n],
  bool: [0, 1, 1, 0, 0, 1, 0],
};
const NAMES = Object.keys(DTYPES) as Dtype[];

/** The values of a dtype, begun at another one for each request. */
function valuesOf(dtype: Dtype, request: number): TensorArray {
  const values = VALUES[dtype].map((_, i) => VALUES[dtype][(i + request) % VALUES[dtype].length]!);
  return new (DTYPES[dtype].array as unknown as new (values: readonly (number | bigint)[]) => TensorArray)(values);
}

describe('tensors of every dtype', () => {
  const shape = [7];
  const inputs = Object.fromEntries(NAMES.map((dtype) => [`in_${dtype}`, { dtype, shape }]));
  const outputs = Object.fromEntries(NAMES.toReversed().map((dtype) => [`out_${dtype}`, { dtype, shape }]));

  const takeViews = (batch: Batch<Tensors>, dtype: Dtype): TensorArray[] => batch.inputs.map((input) => input[`in_${dtype}`]!);
  const takeStacked = (batch: Batch<Tensors>, dtype: Dtype): TensorArray[] => {
    const stacked = batch.stack(`in_${dtype}`);
    assert.ok(stacked.buffer instanceof ArrayBuffer, 'a stack is private');
    assert.equal(stacked.length, 7 * batch.size);
    return batch.inputs.map((_, i) => (stacked as Uint8Array).subarray(7 * i, 7 * i + 7) as TensorArray);
  };
  const giveEach = (each: readonly Tensors[]): Tensors[] => [...each];
  const giveStacked = (each: readonly Tensors[]): Tensors =>
    Object.fromEntries(NAMES.map((dtype) => {
      const all = new (DTYPES[dtype].array as new (length: number) => TensorArray)(7 * each.length);
      each.forEach((output, i) => (all as Uint8Array).set(output[`out_${dtype}`] as Uint8Array, 7 * i));
      return [`out_${dtype}`, all];
    }));

  for (const [taken, take] of [['views', takeViews], ['stacks', takeStacked]] as const) {
    for (const [given, give] of [['records', giveEach], ['one stacked record', giveStacked]] as const) {
      test(`come in by ${taken} and go out by ${given}`, async () => {
        const sizes: number[] = [];
        const execute: Execute = (batch) => {
          sizes.push(batch.size);
          const byDtype = NAMES.map((dtype) => [dtype, take(batch, dtype)] as const);
          for (const [dtype, each] of byDtype) for (const values of each) assert.ok(values instanceof DTYPES[dtype].array);
          return give(batch.inputs.map((_, i) => Object.fromEntries(byDtype.map(([dtype, each]) => [`out_${dtype}`, each[i]!]))));
        };
        await using scheduler = await start({ inputs, outputs, profile: { alpha: 100, beta: 1, maxBatch: 3 }, condition: 'frontrun' }, callback(execute));
        const sent = [0, 1, 2].map((request) => Object.fromEntries(NAMES.map((dtype) => [`in_${dtype}`, valuesOf(dtype, request)])));
        const results = await Promise.all(sent.map((input) => scheduler.submit('m', input)));
        assert.deepEqual(sizes, [3]);
        results.forEach((result, request) => {
          assert.deepEqual(Object.keys(result).sort(), Object.keys(outputs).sort());
          for (const dtype of NAMES) assert.deepEqual(result[`out_${dtype}`], valuesOf(dtype, request), `${dtype} of request ${request}`);
        });
      });
    }
  }

  test('of a scalar are arrays of one', async () => {
    const scalar = { dtype: 'int64', shape: [] } as const;
    await using scheduler = await start({ inputs: { x: scalar }, outputs: { y: scalar } }, callback((batch) => ({ y: batch.stack('x') })));
    assert.deepEqual(await scheduler.submit('m', { x: new BigInt64Array([-5n]) }), { y: new BigInt64Array([-5n]) });
  });
});

describe('results', { concurrency: 3 }, () => {
  const echo: Execute = (batch) => batch.inputs.map(({ x }) => ({ y: (x as Float32Array).slice(0, 3) }));
  const input = (value: number): Tensors => ({ x: new Float32Array(4).fill(value) });

  test('are private copies that no later request changes', async () => {
    await using scheduler = await start({ inputs: X, outputs: Y }, callback(echo), ONE_PAGE);
    const kept = await scheduler.submit('m', input(1));
    const { y } = kept;
    assert.ok(y!.buffer instanceof ArrayBuffer);
    assert.equal(y!.buffer.byteLength, y!.byteLength, 'no other data comes with it');
    const { output } = await scheduler.submitDetailed('m', input(2));
    const [many] = await scheduler.submitMany('m', [input(3)]);
    const tried = scheduler.trySubmit('m', input(4));
    assert.ok(tried.accepted && many?.status === 'fulfilled');
    const last = await tried.result;
    assert.deepEqual([kept, output, many.value, last].map((result) => [...(result['y'] as Float32Array)]), [1, 2, 3, 4].map((value) => [value, value, value]));
  });

  test('are of the input as it was at the call', async () => {
    const gate = new Gate(echo);
    await using scheduler = await start({ inputs: X, outputs: Y }, callback(gate.execute));
    const sent = input(1);
    const result = scheduler.submit('m', sent);
    (sent['x'] as Float32Array).fill(9);
    await gate.reached(1);
    gate.open();
    assert.deepEqual(await result, { y: new Float32Array([1, 1, 1]) });
  });

  test('may be the very views of the inputs', async () => {
    await using scheduler = await start({ inputs: Y, outputs: { z: Y.y } }, callback((batch) => batch.inputs.map(({ y }) => ({ z: y! }))));
    assert.deepEqual(await scheduler.submit('m', { y: new Float32Array([1, 2, 3]) }), { z: new Float32Array([1, 2, 3]) });
  });

  test('of many requests at once over little memory are never mixed up', async () => {
    const execute: Execute = async (batch) => {
      const outputs = quarterOut(batch);
      await sleep(1);
      return outputs;
    };
    await using scheduler = await start(QUARTER_PAGE, callback(execute, 3), ONE_PAGE);
    let refused = 0;
    const one = async (value: number): Promise<void> => {
      for (;;) {
        const tried = scheduler.trySubmit('m', { x: ones(PAGE_BYTES / 8).fill(value) });
        if (tried.accepted) {
          const { y } = await tried.result;
          assert.ok((y as Uint8Array).every((element) => element === 2 * value), `another one's outputs came for ${value}`);
          return;
        }
        assert.ok(tried.reason instanceof OverloadedError);
        refused++;
        await sleep(1);
      }
    };
    await Promise.all(Array.from({ length: 120 }, (_, value) => one(value)));
    assert.ok(refused > 0, 'memory was never short');
    assert.equal(scheduler.stats().refused, refused, 'requests without memory count as refused');
    assert.equal(room(scheduler), 4);
  });
});

describe('an emulated device', () => {
  // One page for both models, so that each gets what the other has left in it.
  const models: ModelOptions[] = [
    { ...MODEL, name: 'dirt', inputs: { x: { dtype: 'uint8', shape: [PAGE_BYTES / 4 - 64] } }, outputs: { y: { dtype: 'uint8', shape: [1] } }, profile: [1, 1] },
    { ...MODEL, name: 'clean', inputs: { x: { dtype: 'uint8', shape: [1] } }, outputs: { a: { dtype: 'float64', shape: [100] }, b: { dtype: 'uint8', shape: [PAGE_BYTES / 8] } }, profile: [1, 1] },
  ];

  test('gives zeros, and never what another request has left', async () => {
    await using scheduler = await createScheduler<Tensors, Tensors>({ models, devices: [{ kind: 'emulated' }], ...ONE_PAGE } as SchedulerOptions<Tensors, Tensors>);
    const zeros = { a: new Float64Array(100), b: new Uint8Array(PAGE_BYTES / 8) };
    const input = { x: ones(1) };
    const soil = (): void => {
      const leases = [1, 2, 3, 4].map(() => scheduler.reserve('dirt'));
      for (const lease of leases) (lease.inputs['x'] as Uint8Array).fill(255);
      for (const lease of leases) lease.release();
    };
    soil();
    assert.deepEqual(await scheduler.submit('clean', input), zeros);
    soil();
    assert.deepEqual((await scheduler.submitDetailed('clean', input)).output, zeros);
    soil();
    assert.deepEqual(await scheduler.submitMany('clean', [input, input]), [{ status: 'fulfilled', value: zeros }, { status: 'fulfilled', value: zeros }]);
    soil();
    const lease = scheduler.reserve('clean');
    lease.inputs['x']![0] = 3;
    assert.deepEqual({ ...(await lease.submit()) }, zeros);
    (lease.outputs['b'] as Uint8Array).fill(7);
    assert.deepEqual({ ...(await lease.submit()) }, zeros, 'nor what it has left itself');
    lease.release();
  });
});

describe('a wrong input', () => {
  const good = { x: new Float32Array(4) };
  const wrong: [what: string, input: unknown, said: RegExp][] = [
    ['nothing', undefined, /the input is undefined, must be an object with 'x'/],
    ['null', null, /the input is null/],
    ['a number', 5, /the input is 5/],
    ['the array itself', good.x, /the input is a Float32Array of 4/],
    ['a list', [good.x], /the input is/],
    ['an empty record', {}, /input 'x' is missing, must be a Float32Array of 4 \(float32, shape \[2, 2\]\)/],
    ['a misspelled name', { X: good.x }, /no input "X"; there is: x/],
    ['one too many', { ...good, z: good.x }, /no input "z"/],
    ['a wrong length', { x: new Float32Array(3) }, /input 'x' is a Float32Array of 3/],
    ['a wrong dtype', { x: new Float64Array(4) }, /input 'x' is a Float64Array of 4/],
    ['a plain array', { x: [1, 2, 3, 4] }, /input 'x' is/],
    ['a DataView', { x: new DataView(new ArrayBuffer(16)) }, /input 'x' is a DataView/],
  ];

  test('is refused at once, whatever it is, and leaks nothing', async () => {
    await using scheduler = await start({ inputs: X, outputs: Y }, callback(() => ({ y: new Float32Array(3) })), { ...ONE_PAGE, maxInFlight: 64 });
    const before = [room(scheduler), scheduler.credit('m')];
    assert.deepEqual(before, [512, 64]);
    for (const [what, input, said] of wrong) {
      const refused = (error: unknown): true => {
        assert.ok(error instanceof InvalidInputError, `${what}: ${String(error)}`);
        assert.equal(error.code, 'ERR_RUBATO_INPUT');
        assert.equal(error.model, 'm');
        assert.match(error.message, said, what);
        return true;
      };
      await assert.rejects(scheduler.submit('m', input as Tensors), refused);
      await assert.rejects(scheduler.submitDetailed('m', input as Tensors), refused);
      assert.throws(() => scheduler.trySubmit('m', input as Tensors), refused);
    }
    const reason = new Error('a getter that throws');
    await assert.rejects(scheduler.submit('m', { get x(): Float32Array { throw reason; } }), (error) => error === reason);
    assert.deepEqual([room(scheduler), scheduler.credit('m')], before);
    assert.equal(scheduler.stats().accepted, 0);
  });

  test('in submitMany is the answer for that one alone', async () => {
    await using scheduler = await start({ inputs: X, outputs: Y }, callback(({ size }) => ({ y: new Float32Array(3 * size).fill(1) })), ONE_PAGE);
    const settled = await scheduler.submitMany('m', [good, { x: new Float32Array(1) }, good]);
    assert.deepEqual(settled.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled']);
    assert.ok(settled[1]?.status === 'rejected' && settled[1].reason instanceof InvalidInputError);
    assert.equal(scheduler.stats().accepted, 2);
    assert.equal(room(scheduler), 512);
  });
});

describe('wrong outputs of execute', { concurrency: 3 }, () => {
  const y = (): Float32Array => new Float32Array(3);
  const each = (output: unknown): unknown => [output, output, output];
  const wrong: [what: string, outputs: unknown, said: RegExp][] = [
    ['nothing', undefined, /execute must give an array of 3 outputs or a record of stacked ones, it gave undefined/],
    ['a number', 7, /record of stacked ones, it gave 7/],
    ['a record without the name', each({}), /output 'y' is missing, must be a Float32Array of 3/],
    ['a record with a wrong name', each({ z: y() }), /no output "z"; there is: y/],
    ['a record with one too many', each({ y: y(), z: y() }), /no output "z"/],
    ['a wrong length', each({ y: new Float32Array(2) }), /output 'y' is a Float32Array of 2, must be a Float32Array of 3/],
    ['a wrong dtype', each({ y: new Float64Array(3) }), /output 'y' is a Float64Array of 3/],
    ['a plain array', each({ y: [1, 2, 3] }), /output 'y' is/],
    ['arrays in place of records', each(y()), /the output is a Float32Array of 3/],
    ['one record too few', [{ y: y() }, { y: y() }], /one output per input, it gave 2 for a batch of 3/],
    ['one record too many', Array(4).fill({ y: y() }), /one output per input, it gave 4 for a batch of 3/],
    ['only the last one wrong', [{ y: y() }, { y: y() }, { y: new Float32Array(4) }], /output 'y' is a Float32Array of 4/],
    ['a stacked record without the name', {}, /output 'y' is missing/],
    ['a stacked record with a wrong name', { z: new Float32Array(9) }, /no output "z"/],
    ['a stacked record with one too many', { y: new Float32Array(9), z: new Float32Array(9) }, /no output "z"/],
    ['a stacked record with one too many that is null', { y: new Float32Array(9), z: null }, /no output "z"/],
    ['a stacked record with one too many that is undefined', { y: new Float32Array(9), z: undefined }, /no output "z"/],
    ['a stacked record of a wrong length', { y: new Float32Array(8) }, /output 'y' must be an array of 3 × 3 stacked elements, it is one of 8/],
    ['a stacked record of one request', { y: y() }, /3 × 3 stacked elements, it is one of 3/],
    ['a stacked record of a wrong dtype', { y: new Int32Array(9) }, /output 'y' is an Int32Array of 3/],
    ['a stacked record of plain arrays', { y: Array(9).fill(0) }, /3 × 3 stacked elements/],
    ['a stacked record of a DataView', { y: new DataView(new ArrayBuffer(36)) }, /3 × 3 stacked elements/],
    ['a stacked record of undefined', { y: undefined }, /3 × 3 stacked elements, it is undefined/],
    // As a record it would be one of a name per element.
    ['the stacked array without its name', new Float32Array(2 ** 21), /record of stacked ones, it gave/],
  ];
  for (const [what, outputs, said] of wrong) {
    test(`such as ${what} fail that batch alone`, async () => {
      let isWrong = true;
      const execute: Execute = (batch) => (isWrong ? (outputs as Tensors[]) : batch.inputs.map(() => ({ y: y().fill(5) })));
      await using scheduler = await start({ inputs: X, outputs: Y, profile: { alpha: 100, beta: 1, maxBatch: 3 }, condition: 'frontrun' }, callback(execute), ONE_PAGE);
      const inputs = [1, 2, 3].map(() => ({ x: new Float32Array(4) }));
      const settled = await scheduler.submitMany('m', inputs);
      for (const result of settled) {
        assert.ok(result.status === 'rejected');
        const { reason } = result as { reason: unknown };
        assert.ok(reason instanceof DeviceError, String(reason));
        assert.match(reason.message, said);
        assert.match(reason.message, /^model 'm' on GPU 0: execute failed for a batch of 3: /);
        assert.ok(reason.cause instanceof InvalidOutputError, String(reason.cause));
      }
      isWrong = false;
      assert.deepEqual(await Promise.all(inputs.map((input) => scheduler.submit('m', input))), Array(3).fill({ y: y().fill(5) }));
      assert.deepEqual([scheduler.stats().failed, scheduler.stats().completed], [3, 3]);
      assert.equal(room(scheduler), 512);
    });
  }

  test('of stack for a name that is no input fail the batch, and name the inputs', async () => {
    await using scheduler = await start({ inputs: X, outputs: Y }, callback((batch) => ({ y: batch.stack('y') })));
    await assert.rejects(scheduler.submit('m', { x: new Float32Array(4) }), (error) => {
      assert.ok(error instanceof DeviceError && error.cause instanceof InvalidInputError);
      assert.match(error.message, /no input 'y' to stack; there are: x$/);
      return true;
    });
  });

  test('do not show in a later result', async () => {
    let call = 0;
    const execute: Execute = (batch) =>
      call++ === 0
        ? [{ y: new Float32Array([7, 7, 7]), z: new Float32Array(3) }] // y is right, z is too short
        : batch.inputs.map(() => ({ y: new Float32Array(3), z: new Float32Array(9) }));
    await using scheduler = await start({ inputs: X, outputs: { ...Y, z: { dtype: 'float32', shape: [9] } } }, callback(execute));
    await assert.rejects(scheduler.submit('m', { x: new Float32Array(4) }), DeviceError);
    assert.deepEqual(await scheduler.submit('m', { x: new Float32Array(4) }), { y: new Float32Array(3), z: new Float32Array(9) });
  });
});

describe('the memory of a request', { concurrency: 3 }, () => {
  /** Two run, the third and the fourth wait in the queue, and there is no memory for a fifth. */
  const fill = async (scheduler: Scheduler<Tensors, Tensors>, gate: Gate, signal?: AbortSignal): Promise<{ settled: Promise<PromiseSettledResult<Tensors>[]> }> => {
    const before = gate.started;
    const results = [1, 2].map(() => scheduler.submit('m', quarter(), { signal }));
    await gate.reached(before + 1);
    results.push(...[3, 4].map(() => scheduler.submit('m', quarter(), { signal })));
    assert.equal(room(scheduler), 0);
    return { settled: Promise.allSettled(results) };
  };

  test('comes back when it is completed, again and again', async () => {
    await using scheduler = await start(QUARTER_PAGE, callback(quarterOut), ONE_PAGE);
    for (let round = 0; round < 20; round++) {
      const settled = await scheduler.submitMany('m', Array.from({ length: 6 }, quarter));
      assert.deepEqual(settled.map(({ status }) => status), ['fulfilled', 'fulfilled', 'fulfilled', 'fulfilled', 'rejected', 'rejected']);
      assert.equal(room(scheduler), 4);
    }
    assert.equal(usedPages(pageTable(memoryOf(scheduler))), 1, 'the one that is kept for the next');
  });

  for (const onLate of ['deliver', 'reject'] as const) {
    test(`comes back when it is late and to ${onLate}`, async () => {
      const execute: Execute = async (batch) => {
        await sleep(1200);
        return quarterOut(batch);
      };
      await using scheduler = await start({ ...QUARTER_PAGE, slo: '800ms', onLate }, callback(execute, 2), ONE_PAGE);
      for (let round = 0; round < 2; round++) {
        const settled = await scheduler.submitMany('m', [quarter(), quarter()]);
        for (const result of settled) {
          if (onLate === 'deliver') assert.deepEqual(result, { status: 'fulfilled', value: { y: ones(PAGE_BYTES / 8).fill(2) } });
          else assert.ok(result.status === 'rejected' && result.reason instanceof LateError);
        }
        assert.equal(room(scheduler), 4);
      }
      assert.equal(scheduler.stats().late, 4);
    });
  }

  test('comes back when it expires', async () => {
    const gate = new Gate(quarterOut);
    await using scheduler = await start({ ...QUARTER_PAGE, profile: ['2s', '2s'], slo: '2.3s' }, callback(gate.execute), ONE_PAGE);
    for (let round = 1; round <= 3; round++) {
      const running = scheduler.submit('m', quarter(), { slo: '20s' });
      await gate.reached(round);
      const settled = await scheduler.submitMany('m', [quarter(), quarter(), quarter(), quarter()]);
      assert.ok(settled.slice(0, 3).every((result) => result.status === 'rejected' && result.reason instanceof ExpiredError), JSON.stringify(settled));
      assert.equal(room(scheduler), 3);
      gate.open();
      await running;
      assert.equal(room(scheduler), 4);
    }
  });

  test('comes back when its queue is full', async () => {
    const gate = new Gate(quarterOut);
    await using scheduler = await start({ ...QUARTER_PAGE, profile: ['2s'], maxQueue: 1 }, callback(gate.execute), { memoryLimit: '64KiB' });
    for (let round = 1; round <= 3; round++) {
      const running = scheduler.submit('m', quarter());
      await gate.reached(2 * round - 1);
      const queued = scheduler.submit('m', quarter());
      await assert.rejects(scheduler.submit('m', quarter()), OverloadedError);
      assert.equal(room(scheduler), 2);
      gate.open();
      await running;
      await gate.reached(2 * round);
      gate.open();
      await queued;
      assert.equal(room(scheduler), 4);
    }
    assert.equal(scheduler.stats().models[0]!.queueFull, 3);
  });

  test('comes back when it is infeasible, for the client or for the scheduler', async () => {
    await using scheduler = await start({ ...QUARTER_PAGE, profile: ['100ms', '100ms'] }, callback(quarterOut), { ...ONE_PAGE, margins: { control: '500ms' } });
    for (const slo of ['10ms', '300ms', '99ms', '450ms']) {
      await assert.rejects(scheduler.submit('m', quarter(), { slo }), InfeasibleError);
      assert.equal(room(scheduler), 4);
    }
    assert.deepEqual([scheduler.stats().refused, scheduler.stats().models[0]!.infeasible], [2, 2]);
  });

  test('comes back when it is cancelled: at once in the queue, with its batch on the device', async () => {
    const gate = new Gate(quarterOut);
    await using scheduler = await start({ ...QUARTER_PAGE, profile: ['2s', '2s'] }, callback(gate.execute), ONE_PAGE);
    for (let round = 1; round <= 5; round++) {
      const controller = new AbortController();
      const { settled } = await fill(scheduler, gate, controller.signal);
      controller.abort();
      assert.ok((await settled).every(({ status }) => status === 'rejected'));
      while (scheduler.inFlight > 2) await sleep(1);
      assert.equal(room(scheduler), 2, 'that of the running batch is the device\'s');
      gate.open();
      await scheduler.drain();
      assert.equal(room(scheduler), 4);
    }
  });

  test('comes back when its batch fails', async () => {
    await using scheduler = await start(QUARTER_PAGE, callback(() => Promise.reject(new Error('out of paper'))), ONE_PAGE);
    for (let round = 0; round < 5; round++) {
      const settled = await scheduler.submitMany('m', [quarter(), quarter(), quarter(), quarter()]);
      assert.ok(settled.every((result) => result.status === 'rejected' && result.reason instanceof DeviceError));
      assert.equal(room(scheduler), 4);
    }
  });

  test('comes back when it is refused for want of a slot', async () => {
    const gate = new Gate(({ size }) => ({ y: new Float32Array(3 * size) }));
    await using scheduler = await start({ inputs: X, outputs: Y }, callback(gate.execute), { ...ONE_PAGE, maxInFlight: 32 });
    const input = { x: new Float32Array(4) };
    const accepted = Array.from({ length: 32 }, () => scheduler.submit('m', input));
    for (let i = 0; i < 1000; i++) assert.equal(scheduler.trySubmit('m', input).accepted, false);
    assert.equal(room(scheduler), 512 - 32);
    const shut = gate.stayOpen();
    await Promise.all(accepted);
    shut();
    assert.equal(room(scheduler), 512);
  });

  test('comes back when the scheduler is closed: all of it', async () => {
    const gate = new Gate(quarterOut);
    const scheduler = await start({ ...QUARTER_PAGE, profile: ['2s', '2s'] }, callback(gate.execute), ONE_PAGE);
    const { settled } = await fill(scheduler, gate);
    const closing = scheduler.close();
    gate.open();
    await closing;
    assert.deepEqual((await settled).map(({ status }) => status), ['fulfilled', 'fulfilled', 'rejected', 'rejected']);
    assert.throws(() => scheduler.reserve('m'), ClosedError);
    await assert.rejects(scheduler.submit('m', quarter()), ClosedError);
    // Each cell has come back; of the page it is kept for the next request.
    assert.equal(usedPages(pageTable(memoryOf(scheduler))), 1);
  });

  test('comes back when its model is removed, and another model can have it', async () => {
    const gate = new Gate(quarterOut);
    await using scheduler = await start({ ...QUARTER_PAGE, profile: ['2s', '2s'] }, callback(gate.execute), ONE_PAGE);
    const table = pageTable(memoryOf(scheduler));
    for (const [round, drain] of [true, false, true, false].entries()) {
      const { settled } = await fill(scheduler, gate);
      const removed = scheduler.removeModel('m', { drain });
      const shut = gate.stayOpen();
      await removed;
      const statuses = (await settled).map(({ status }) => status);
      shut();
      assert.deepEqual(statuses, ['fulfilled', 'fulfilled', ...Array<string>(2).fill(drain ? 'fulfilled' : 'rejected')]);
      assert.equal(usedPages(table), 0, `round ${round}`);
      await scheduler.addModel({ ...MODEL, ...QUARTER_PAGE, profile: ['2s', '2s'] });
      assert.equal(room(scheduler), 4);
    }
  });
});

describe('exhausted memory', { concurrency: 3 }, () => {
  test('is an OverloadedError that says so, and after retryAfterMs it works again', async () => {
    const gate = new Gate(quarterOut);
    await using scheduler = await start({ ...QUARTER_PAGE, slo: '300ms' }, callback(gate.execute), ONE_PAGE);
    const accepted = [1, 2, 3, 4].map(() => scheduler.submit('m', quarter()).catch(() => {}));
    const tried = scheduler.trySubmit('m', quarter());
    assert.ok(!tried.accepted);
    const { reason } = tried;
    assert.ok(reason instanceof OverloadedError);
    assert.equal(reason.retryAfterMs, 150);
    assert.equal(reason.message, `model 'm': the tensor memory is exhausted: a request takes 16384 bytes and no page of the 1 × 64 KiB (memoryLimit) is free; try again in 150 ms`);
    assert.throws(() => scheduler.reserve('m'), OverloadedError);
    await assert.rejects(scheduler.submit('m', quarter()), OverloadedError);
    const shut = gate.stayOpen();
    await sleep(reason.retryAfterMs);
    await Promise.all(accepted);
    assert.deepEqual(await scheduler.submit('m', quarter(), { slo: '20s' }), { y: ones(PAGE_BYTES / 8).fill(2) });
    shut();
  });

  test('of two models with cells of different size goes from one to the other and back', async () => {
    const big: ModelOptions = { ...MODEL, name: 'big', profile: [1], inputs: { x: { dtype: 'uint8', shape: [PAGE_BYTES + 1] } }, outputs: Y };
    const models = [{ ...MODEL, ...QUARTER_PAGE }, big];
    await using scheduler = await createScheduler<Tensors, Tensors>({ models, devices: [{ kind: 'emulated', count: 2 }], memoryLimit: 8 * PAGE_BYTES } as SchedulerOptions<Tensors, Tensors>);
    for (let round = 0; round < 5; round++) {
      assert.deepEqual([room(scheduler, 'm'), room(scheduler, 'big')], [32, 4]);
      const small = await scheduler.submitMany('m', Array.from({ length: 40 }, quarter));
      const large = await scheduler.submitMany('big', Array.from({ length: 6 }, () => ({ x: new Uint8Array(PAGE_BYTES + 1) })));
      assert.deepEqual([small, large].map((settled) => settled.filter(({ status }) => status === 'fulfilled').length), [32, 4]);
    }
  });
});

describe('a memory limit', { concurrency: 3 }, () => {
  const refused = (said: RegExp) => (error: unknown): true => {
    assert.ok(error instanceof InvalidOptionError, String(error));
    assert.equal(error.path, 'memoryLimit');
    assert.match(error.message, said);
    return true;
  };

  test('below two batches is refused with the arithmetic', async () => {
    await assert.rejects(start({ ...QUARTER_PAGE, profile: [1, 1, 1] }, [{ kind: 'emulated' }], ONE_PAGE), refused(/got 0\.1 MiB, model 'm' alone needs 0\.1 MiB: 2 batches × 3 requests × 16384 B of tensors per request, in whole pages of 64 KiB/));
    await assert.rejects(start({ inputs: { x: { dtype: 'float64', shape: [2 ** 20] } }, outputs: Y, profile: Array<number>(32).fill(1) }, [{ kind: 'emulated' }]), refused(/got 256\.0 MiB \(the default\), model 'm' alone needs \d+\.\d MiB: 2 batches × 32 requests × 8388672 B/));
  });

  test('that is no size is refused', async () => {
    for (const memoryLimit of [0, -1, NaN, 65535, 2 ** 31, '1 TB', '64', 'much', null, {}]) {
      await assert.rejects(start(QUARTER_PAGE, [{ kind: 'emulated' }], { memoryLimit } as Partial<SchedulerOptions>), refused(/got .*, must be a number of bytes or such as '256MiB'/));
    }
  });

  test('that is accepted has room for two full batches, however the cells fit into pages', async () => {
    // One byte more than half a page: a page holds one of them.
    for (const bytes of [PAGE_BYTES / 2 - 63, PAGE_BYTES - 63, PAGE_BYTES + 1, 100]) {
      const model: Partial<ModelOptions> = { inputs: { x: { dtype: 'uint8', shape: [bytes] } }, outputs: { y: { dtype: 'uint8', shape: [1] } }, profile: [1, 1, 1] };
      for (let pages = 1; ; pages++) {
        let scheduler: Scheduler<Tensors, Tensors>;
        try {
          scheduler = await start(model, [{ kind: 'emulated' }], { memoryLimit: pages * PAGE_BYTES });
        } catch (error) {
          refused(/model 'm' alone needs/)(error);
          continue;
        }
        assert.ok(room(scheduler) >= 6, `${pages} pages for cells of ${bytes} bytes were accepted and hold ${room(scheduler)} requests`);
        await scheduler.close();
        break;
      }
    }
  });
});

describe('a raw client', () => {
  test('in the place of a client with tensors brings none of that client\'s to the device', async () => {
    const seen: unknown[] = [];
    const execute: Execute = (batch) => {
      seen.push(...batch.inputs.map((input) => input?.['x']?.slice()));
      return batch.inputs.map(() => ({ y: new Float32Array([1, 2, 3]) }));
    };
    await using scheduler = await start({ inputs: X, outputs: Y }, callback(execute), { ...ONE_PAGE, maxClients: 1, maxInFlight: 32 });
    const client = openClient<{ m: { input: Tensors; output: Tensors } }>(scheduler.ticket() as never);
    await client.submitMany('m', Array.from({ length: 32 }, () => ({ x: new Float32Array(4).fill(6) })));
    await client.close();
    seen.length = 0;
    let raw;
    while (raw === undefined) {
      try {
        raw = scheduler.client();
      } catch (error) {
        assert.ok(error instanceof InvalidOptionError);
        await sleep(1);
      }
    }
    // What this thread has in its memory must not be written to.
    const lease = scheduler.reserve('m');
    lease.inputs['x']!.fill(0 as never);
    raw.submit(raw.model('m'), raw.nowNs());
    raw.commit();
    while (raw.inFlight > 0) {
      raw.drain();
      await sleep(1);
    }
    assert.deepEqual(seen, [undefined]);
    lease.release();
    raw.close();
  });
});
