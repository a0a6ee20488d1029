import assert from 'node:assert/strict';
import { getEventListeners, once } from 'node:events';
import { describe, test as testOf } from 'node:test';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { type Worker } from 'node:worker_threads';
import {
  type Batch,
  batchSizeOf,
  ClosedError,
  createScheduler,
  DeviceError,
  ExpiredError,
  gpuOf,
  InvalidOptionError,
  LateError,
  type ModelOptions,
  OUTCOME,
  outcomeOf,
  OverloadedError,
  type RawClient,
  REFUSED_INFEASIBLE,
  REFUSED_NO_SLOT,
  RubatoError,
  type Scheduler,
  type SchedulerOptions,
  type SchedulerStats,
} from '#rubato/index.js';
import { Random } from '#rubato/model/random.js';
import { REQUEST } from '#rubato/protocol/records.js';
import { Doorbell } from '#rubato/ringbuf/doorbell.js';
import { RingWriter } from '#rubato/ringbuf/spsc-ring.js';

/** A batch has begun by then, on a machine that stands still for a while as well. */
const WHILE_IT_RUNS_MS = 500;

/** A scheduler that loses a request would hold its test for ever. */
const TEST_LIMIT_MS = 30_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

/** Generous: the machine may stall for tens of milliseconds and nothing must be late. `immediate` does not wait for more. */
const MODEL: ModelOptions = { name: 'm', slo: '5s', profile: { alpha: 0.1, beta: 1, maxBatch: 8 }, condition: 'immediate' };
/** One request at a time, each said to take so long that a second one stays in its queue while the first runs. */
const ONE_BY_ONE: ModelOptions = { ...MODEL, slo: '20s', profile: ['2s'] };
/** A lone request waits for others until its deadline is near; the steep profile leaves a window wider than a stall. */
const WAITS_FOR_MORE: Partial<ModelOptions> = { profile: { alpha: 300, beta: 1, maxBatch: 8 }, condition: 'frontrun' };

type Execute = (batch: Batch<number>) => Promise<readonly unknown[]> | readonly unknown[];

function start(execute: Execute, model: Partial<ModelOptions> = {}, more: Partial<SchedulerOptions<number, unknown>> = {}): Promise<Scheduler<number, unknown>> {
  return createScheduler<number, unknown>({ models: [{ ...MODEL, ...model }], devices: [{ kind: 'callback', execute }], ...more });
}

/** A device whose batches last until the test lets them go. */
class Gate {
  readonly batches: Batch<number>[] = [];
  readonly #release: (() => void)[] = [];
  #started: (() => void) | null = null;

  readonly execute: Execute = (batch) => {
    this.batches.push(batch);
    this.#started?.();
    return new Promise((resolve) => this.#release.push(() => resolve(batch.inputs.map((input) => 10 * input))));
  };

  /** Resolves when so many batches have started. */
  async started(count: number): Promise<void> {
    while (this.batches.length < count) await new Promise<void>((resolve) => (this.#started = resolve));
  }

  /** Ends the batches that run now. */
  open(): void {
    for (const release of this.#release.splice(0)) release();
  }

  get inputs(): (readonly number[])[] {
    return this.batches.map((batch) => batch.inputs);
  }
}

function checkBalance(stats: SchedulerStats): void {
  const { accepted, completed, late, dropped, cancelled, failed, closed, inFlight } = stats;
  assert.equal(completed + late + dropped + cancelled + failed + closed + inFlight, accepted);
  for (const model of stats.models) {
    const ended = model.completed + model.late + model.expired + model.queueFull + model.infeasible + model.cancelled + model.failed + model.closed;
    assert.equal(ended + model.inFlight, model.accepted);
  }
}

function isError<E extends RubatoError>(kind: new (...args: never[]) => E, code: string, look: (error: E) => void = () => {}): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof kind, `${String(error)} is no ${kind.name}`);
    assert.equal(error.name, kind.name);
    assert.equal(error.code, code);
    look(error);
    return true;
  };
}

describe('a callback device', { concurrency: 3 }, () => {
  test('gives each request its own output, in the order of the inputs', async () => {
    await using scheduler = await start((batch) => batch.inputs.map((input) => 2 * input));
    assert.equal(await scheduler.submit('m', 21), 42);
    const inputs = Array.from({ length: 100 }, (_, i) => i);
    assert.deepEqual(await Promise.all(inputs.map((input) => scheduler.submit('m', input))), inputs.map((input) => 2 * input));
    const settled = await scheduler.submitMany('m', inputs);
    assert.deepEqual(settled, inputs.map((input) => ({ status: 'fulfilled', value: 2 * input })));
    const tried = scheduler.trySubmit('m', 4);
    assert.ok(tried.accepted);
    assert.equal(await tried.result, 8);
    checkBalance(scheduler.stats());
    assert.equal(scheduler.stats().completed, 202);
  });

  test('takes what values there are, undefined and rejections as values included', async () => {
    const values = [undefined, null, 0, '', NaN, new Error('a value'), [1], { a: 1 }];
    await using scheduler = await createScheduler<unknown, unknown>({ models: [MODEL], devices: [{ kind: 'callback', execute: (batch) => batch.inputs }] });
    for (const value of values) assert.equal(await scheduler.submit('m', value), value);
  });

  test('is told model, size, inputs and GPU of each batch', async () => {
    const gate = new Gate();
    const other: ModelOptions = { ...ONE_BY_ONE, name: 'other', profile: ['2s', '2s', '2s'] };
    await using scheduler = await start(gate.execute, {}, { models: [MODEL, other], devices: [{ kind: 'callback', execute: gate.execute, count: 2 }] });
    const first = scheduler.submitMany('other', [1, 2, 3]);
    await gate.started(1);
    const second = scheduler.submitMany('other', [4, 5]);
    await gate.started(2);
    gate.open();
    await Promise.all([first, second]);
    const seen = gate.batches.map(({ model, size, inputs, gpu }) => ({ model, size, inputs, gpu }));
    assert.deepEqual(seen, [{ model: 'other', size: 3, inputs: [1, 2, 3], gpu: 0 }, { model: 'other', size: 2, inputs: [4, 5], gpu: 1 }]);
  });

  test('runs full batches of what came together', async () => {
    const sizes: number[] = [];
    await using scheduler = await start((batch) => {
      sizes.push(batch.size);
      return batch.inputs;
    }, { condition: 'frontrun' });
    const details = await Promise.all([1, 2, 3, 4, 5, 6, 7, 8].map((input) => scheduler.submitDetailed('m', input)));
    assert.deepEqual(sizes, [8]);
    assert.deepEqual(details.map(({ batchSize }) => batchSize), Array(8).fill(8));
    const stats = scheduler.stats();
    assert.equal(stats.models[0]!.meanBatch, 8);
    assert.equal(stats.gpus[0]!.batches, 1);
  });

  test('never has more than maxBatch inputs, and runs `count` batches at once', async () => {
    let running = 0;
    let most = 0;
    const execute: Execute = async (batch) => {
      assert.ok(batch.size <= 4);
      most = Math.max(most, ++running);
      await sleep(5);
      running--;
      return batch.inputs;
    };
    await using scheduler = await start(execute, { maxBatch: 4 }, { devices: [{ kind: 'callback', execute, count: 3 }] });
    const settled = await scheduler.submitMany('m', Array.from({ length: 60 }, (_, i) => i));
    assert.ok(settled.every(({ status }) => status === 'fulfilled'));
    assert.equal(most, 3);
  });

  test('serves the request with the earliest deadline first, so an SLO of its own counts', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, ONE_BY_ONE);
    const done = [scheduler.submit('m', 1)];
    await gate.started(1);
    done.push(scheduler.submit('m', 2), scheduler.submit('m', 3, { slo: '10s' }));
    for (let count = 1; count <= 3; count++) {
      await gate.started(count);
      gate.open();
    }
    await Promise.all(done);
    assert.deepEqual(gate.inputs, [[1], [3], [2]]);
  });

  test('starts a request early enough for an SLO of its own, where its model would wait for more', async () => {
    await using scheduler = await start((batch) => batch.inputs, { ...WAITS_FOR_MORE, slo: '60s' });
    const { queueMs, late } = await scheduler.submitDetailed('m', 1, { slo: '1s' });
    assert.ok(queueMs < 1000, `started after ${queueMs} ms`);
    assert.equal(late, false);
  });
});

describe('the details of a result', () => {
  test('add up', async () => {
    await using scheduler = await start(async (batch) => {
      await sleep(20);
      return batch.inputs;
    });
    const seen = new Set<number>();
    for (let i = 0; i < 5; i++) {
      const result = await scheduler.submitDetailed('m', i);
      assert.deepEqual(Object.keys(result), ['output', 'late', 'queueMs', 'execMs', 'latencyMs', 'batchSize', 'gpu', 'requestId']);
      const { output, late, queueMs, execMs, latencyMs, batchSize, gpu, requestId } = result;
      assert.equal(output, i);
      assert.equal(late, false);
      assert.equal(batchSize, 1);
      assert.equal(gpu, 0);
      assert.ok(queueMs >= 0 && execMs >= 18, `queue ${queueMs}, exec ${execMs}`);
      assert.ok(queueMs + execMs <= latencyMs + 0.001, `${queueMs} + ${execMs} > ${latencyMs}`);
      seen.add(requestId);
    }
    assert.equal(seen.size, 5);
  });

  test('count what a busy program has not delivered yet', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, {}, { devices: [{ kind: 'emulated' }] });
    const result = scheduler.submitDetailed('m', 1);
    const busyUntilMs = performance.now() + 60;
    while (performance.now() < busyUntilMs);
    const { latencyMs, queueMs, execMs } = await result;
    assert.ok(latencyMs >= 59, `${latencyMs}`);
    assert.ok(queueMs + execMs <= latencyMs + 0.001);
  });
});

describe('an emulated device', () => {
  test('resolves with undefined and takes the time of its profile', async () => {
    await using scheduler = await createScheduler({ models: [{ ...MODEL, profile: ['30ms'] }], devices: [{ kind: 'emulated', count: 2 }] });
    assert.equal(await scheduler.submit('m', 'anything'), undefined);
    const { output, execMs } = await scheduler.submitDetailed('m', 'anything');
    assert.equal(output, undefined);
    assert.ok(execMs >= 29.9 && execMs < 1000, `${execMs}`);
    assert.ok(scheduler.stats().gpus.every(({ kind }) => kind === 'emulated'));
  });

  test('with a failure rate of 1 fails every batch with a DeviceError', async () => {
    await using scheduler = await createScheduler({ models: [MODEL], devices: [{ kind: 'emulated', failureRate: 1 }] });
    await assert.rejects(scheduler.submit('m', 1), isError(DeviceError, 'ERR_RUBATO_DEVICE', (error) => {
      assert.equal(error.model, 'm');
      assert.equal(error.gpu, 0);
      assert.equal(error.message, `model 'm' on GPU 0: the device failed a batch of 1`);
    }));
    assert.equal(scheduler.stats().failed, 1);
    checkBalance(scheduler.stats());
  });

  test('with a failure rate of one half fails some batches and runs others', async () => {
    await using scheduler = await createScheduler({ models: [{ ...MODEL, maxBatch: 1 }], devices: [{ kind: 'emulated', failureRate: 0.5, seed: 7 }] });
    const settled = await scheduler.submitMany('m', Array.from({ length: 40 }, (_, i) => i));
    const failed = settled.filter(({ status }) => status === 'rejected').length;
    assert.ok(failed > 5 && failed < 35, `${failed} of 40 failed`);
    assert.equal(scheduler.stats().failed, failed);
  });
});

// Each of these mostly sleeps.
describe('a result that comes late', { concurrency: true }, () => {
  /** Says 1 ms and takes twice the SLO. */
  const startSlow = (onLate?: 'deliver' | 'reject'): Promise<Scheduler<number, unknown>> => {
    const execute: Execute = async (batch) => {
      await sleep(1600);
      return batch.inputs;
    };
    return start(execute, { slo: '800ms', ...(onLate === undefined ? {} : { onLate }) });
  };

  test('is delivered by default', async () => {
    await using scheduler = await startSlow();
    assert.equal(await scheduler.submit('m', 5), 5);
    assert.equal(scheduler.stats().late, 1);
    assert.equal(scheduler.stats().completed, 0);
  });

  test('is rejected where the model wants it, and still delivered with its details', async () => {
    await using scheduler = await startSlow('reject');
    await assert.rejects(scheduler.submit('m', 5), isError(LateError, 'ERR_RUBATO_LATE', (error) => {
      assert.equal(error.model, 'm');
      assert.ok(error.lateMs > 250 && error.lateMs < 10_000, `${error.lateMs}`);
      assert.match(error.message, /^model 'm': the result came \d.* after its deadline/);
    }));
    const { output, late } = await scheduler.submitDetailed('m', 6);
    assert.deepEqual([output, late], [6, true]);
    assert.equal(scheduler.stats().late, 2);
    checkBalance(scheduler.stats());
  });

  test('is not waited for when it could not be started in time: it expires', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, ONE_BY_ONE);
    const first = scheduler.submit('m', 1);
    await gate.started(1);
    await assert.rejects(scheduler.submit('m', 2, { slo: '2.3s' }), isError(ExpiredError, 'ERR_RUBATO_EXPIRED', (error) => {
      assert.equal(error.model, 'm');
      assert.ok(error.waitedMs >= 0 && error.waitedMs < 2300, `${error.waitedMs}`);
      assert.match(error.message, /its SLO of 2.3 s could no longer be met; send less, add GPUs or give it a longer SLO$/);
    }));
    gate.open();
    assert.equal(await first, 10);
    assert.deepEqual(gate.inputs, [[1]]);
    assert.equal(scheduler.stats().dropped, 1);
    assert.equal(scheduler.stats().models[0]!.expired, 1);
  });

  test('or never is given up by close after five seconds', async () => {
    const gate = new Gate();
    const scheduler = await start(gate.execute);
    const hung = scheduler.submit('m', 1);
    hung.catch(() => {});
    await gate.started(1);
    const beganMs = performance.now();
    await scheduler.close();
    assert.ok(performance.now() - beganMs < 9000);
    await assert.rejects(hung, isError(ClosedError, 'ERR_RUBATO_CLOSED', (error) => assert.match(error.message, /closed while the request ran/)));
    checkBalance(scheduler.stats());
    gate.open(); // comes too late and must not hurt
    await nextTurn();
  });
});

describe('a batch that fails', { concurrency: 3 }, () => {
  test('by a rejection takes only its own requests with it', async () => {
    const reason = new Error('out of paper');
    const gate = new Gate();
    const execute: Execute = async (batch) => {
      const outputs = await gate.execute(batch);
      if (batch.inputs.includes(13)) throw reason;
      return outputs;
    };
    await using scheduler = await start(execute, { ...ONE_BY_ONE, profile: ['2s', '2s'] });
    const results = Promise.allSettled([1].map((input) => scheduler.submit('m', input)));
    await gate.started(1);
    const more = scheduler.submitMany('m', [12, 13, 14, 15]);
    for (let count = 1; count <= 3; count++) {
      await gate.started(count);
      gate.open();
    }
    assert.deepEqual(gate.inputs, [[1], [12, 13], [14, 15]]);
    assert.deepEqual((await results).map(({ status }) => status), ['fulfilled']);
    const settled = await more;
    assert.deepEqual(settled.map(({ status }) => status), ['rejected', 'rejected', 'fulfilled', 'fulfilled']);
    for (const result of settled.slice(0, 2)) {
      assert.ok(result.status === 'rejected');
      isError(DeviceError, 'ERR_RUBATO_DEVICE', (error) => {
        assert.equal(error.message, `model 'm' on GPU 0: execute failed for a batch of 2: out of paper`);
        assert.equal(error.cause, reason);
        assert.equal(error.model, 'm');
        assert.equal(error.gpu, 0);
      })(result.reason);
    }
    assert.equal(scheduler.stats().failed, 2);
    checkBalance(scheduler.stats());
    const after = scheduler.submit('m', 99);
    await gate.started(4);
    gate.open();
    assert.equal(await after, 990, 'the device goes on');
  });

  test('by throwing at once is the same', async () => {
    await using scheduler = await start(() => {
      throw new TypeError('no such layer');
    });
    await assert.rejects(scheduler.submit('m', 1), isError(DeviceError, 'ERR_RUBATO_DEVICE', (error) => {
      assert.match(error.message, /execute failed for a batch of 1: no such layer$/);
      assert.ok(error.cause instanceof TypeError);
    }));
  });

  test('by rejecting with what is no error is the same, whatever it is', async () => {
    const reasons = [undefined, null, 'a word', 7, Symbol('s'), Object.create(null) as object, { toString: () => assert.fail('was asked for text') }];
    const next = reasons.values();
    await using scheduler = await start(() => Promise.reject(next.next().value));
    for (const reason of reasons) {
      await assert.rejects(scheduler.submit('m', 1), isError(DeviceError, 'ERR_RUBATO_DEVICE', (error) => assert.equal(error.cause, reason)));
    }
  });

  const wrong: [what: string, outputs: unknown, said: string][] = [
    ['too few outputs', [1, 2], 'execute must give one output per input, it gave 2 for a batch of 3'],
    ['too many outputs', [1, 2, 3, 4], 'execute must give one output per input, it gave 4 for a batch of 3'],
    ['no outputs', [], 'execute must give one output per input, it gave 0 for a batch of 3'],
    ['nothing', undefined, 'execute must give an array of 3 outputs, it gave undefined'],
    ['a single value', 5, 'execute must give an array of 3 outputs, it gave number'],
    ['an object', { 0: 1, 1: 2, 2: 3, length: 3 }, 'execute must give an array of 3 outputs, it gave object'],
  ];
  for (const [what, outputs, said] of wrong) {
    test(`by giving ${what} names model and sizes`, async () => {
      await using scheduler = await start(() => outputs as readonly unknown[], { profile: [1, 1, 1], condition: 'frontrun' });
      const settled = await scheduler.submitMany('m', [1, 2, 3]);
      for (const result of settled) {
        assert.ok(result.status === 'rejected');
        isError(DeviceError, 'ERR_RUBATO_DEVICE', (error) => assert.equal(error.message, `model 'm' on GPU 0: ${said}`))(result.reason);
      }
      assert.equal(scheduler.stats().failed, 3);
    });
  }
});

describe('an abort', { concurrency: 3 }, () => {
  test('before the call rejects with its reason and submits nothing', async () => {
    await using scheduler = await start((batch) => batch.inputs);
    const reason = new Error('no longer wanted');
    const signal = AbortSignal.abort(reason);
    const same = (error: unknown): boolean => error === reason;
    await assert.rejects(scheduler.submit('m', 1, { signal }), same);
    await assert.rejects(scheduler.submitDetailed('m', 1, { signal }), same);
    await assert.rejects(scheduler.submitMany('m', [1], { signal }), same);
    assert.throws(() => scheduler.trySubmit('m', 1, { signal }), same);
    assert.equal(scheduler.stats().accepted, 0);
    assert.equal(getEventListeners(signal, 'abort').length, 0);
  });

  test('in the queue rejects at once, and its place goes to another', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { ...ONE_BY_ONE, profile: ['2s', '2s'] });
    const first = scheduler.submit('m', 1);
    await gate.started(1);
    const controller = new AbortController();
    const reason = { any: 'value' };
    const aborted = scheduler.submit('m', 2, { signal: controller.signal });
    const others = [3, 4, 5].map((input) => scheduler.submit('m', input));
    controller.abort(reason);
    await assert.rejects(aborted, (error) => error === reason);
    assert.equal(gate.batches.length, 1, 'the first batch still runs');
    for (let count = 1; count <= 3; count++) {
      await gate.started(count);
      gate.open();
    }
    assert.deepEqual(await Promise.all([first, ...others]), [10, 30, 40, 50]);
    assert.deepEqual(gate.inputs, [[1], [3, 4], [5]]);
    assert.equal(scheduler.stats().cancelled, 1);
    checkBalance(scheduler.stats());
  });

  test('while the batch runs rejects at once; the result is thrown away and counted as cancelled', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { ...ONE_BY_ONE, profile: ['2s', '2s'] }, {});
    const warmUp = scheduler.submit('m', 0);
    await gate.started(1);
    const controller = new AbortController();
    const aborted = scheduler.submit('m', 1, { signal: controller.signal });
    const neighbour = scheduler.submit('m', 2);
    gate.open();
    await warmUp;
    await gate.started(2);
    assert.deepEqual(gate.inputs[1], [1, 2]);
    controller.abort();
    await assert.rejects(aborted, { name: 'AbortError' });
    const during = scheduler.stats();
    assert.equal(during.inFlight, 2, 'the slot stays taken until the device is done');
    assert.equal(during.cancelled, 0);
    gate.open();
    assert.equal(await neighbour, 20);
    await scheduler.drain();
    const stats = scheduler.stats();
    assert.deepEqual([stats.completed, stats.cancelled, stats.inFlight], [2, 1, 0]);
    checkBalance(stats);
  });

  test('after the end has no effect, and nothing listens any more', async () => {
    await using scheduler = await start((batch) => batch.inputs);
    const controller = new AbortController();
    assert.equal(await scheduler.submit('m', 1, { signal: controller.signal }), 1);
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0);
    controller.abort();
    assert.equal(await scheduler.submit('m', 2), 2, 'the slot of the first one is not cancelled');
    await scheduler.drain();
    assert.equal(scheduler.stats().cancelled, 0);
  });

  test('by a time-out rejects with a TimeoutError', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute);
    const rejected = assert.rejects(scheduler.submit('m', 1, { signal: AbortSignal.timeout(WHILE_IT_RUNS_MS) }), { name: 'TimeoutError' });
    await gate.started(1);
    await rejected;
    gate.open();
    await scheduler.drain();
    assert.equal(scheduler.stats().cancelled, 1);
  });

  test('of many with one signal ends them all, without a warning of too many listeners', async () => {
    const warnings: Error[] = [];
    const collect = (warning: Error): number => warnings.push(warning);
    process.on('warning', collect);
    const gate = new Gate();
    await using scheduler = await start(gate.execute, ONE_BY_ONE);
    const controller = new AbortController();
    const many = scheduler.submitMany('m', Array.from({ length: 200 }, (_, i) => i), { signal: controller.signal });
    await gate.started(1);
    controller.abort('all');
    const settled = await many;
    assert.ok(settled.every((result) => result.status === 'rejected' && result.reason === 'all'));
    gate.open();
    await scheduler.drain();
    assert.equal(scheduler.stats().cancelled, 200);
    assert.equal(gate.batches.length, 1);
    await nextTurn();
    process.off('warning', collect);
    assert.deepEqual(warnings, []);
  });

  test('at a random moment, ten thousand times over few slots, settles every promise once and as it should', async () => {
    const random = new Random(20);
    const execute: Execute = async (batch) => {
      const kind = random.uniform();
      if (kind < 0.3) await nextTurn();
      else if (kind < 0.6) await sleep(2 * random.uniform());
      return batch.inputs.map((input) => 3 * input + 1);
    };
    await using scheduler = await start(execute, {}, { devices: [{ kind: 'callback', execute, count: 4 }], maxInFlight: 128 });
    const counts = { value: 0, aborted: 0, overloaded: 0 };
    const settlements = new Uint8Array(10_000);

    const one = async (input: number): Promise<void> => {
      const controller = new AbortController();
      const reason = { input };
      const result = scheduler.submit('m', input, { signal: controller.signal });
      const ended = result.then(
        (value) => {
          settlements[input]!++;
          counts.value++;
          assert.equal(value, 3 * input + 1);
        },
        (error: unknown) => {
          settlements[input]!++;
          if (error instanceof OverloadedError) counts.overloaded++;
          else {
            counts.aborted++;
            assert.equal(error, reason);
          }
        },
      );
      const moment = random.uniform();
      if (moment < 0.1) controller.abort(reason);
      else if (moment < 0.2) queueMicrotask(() => controller.abort(reason));
      else if (moment < 0.5) setImmediate(() => controller.abort(reason));
      else if (moment < 0.8) setTimeout(() => controller.abort(reason), 4 * random.uniform());
      await ended;
    };

    const open: Promise<void>[] = [];
    for (let input = 0; input < 10_000; input++) {
      open.push(one(input));
      if (input % 50 === 0) await nextTurn();
      if (input % 400 === 0) await sleep(1);
    }
    await Promise.all(open);
    await scheduler.drain();
    assert.ok(settlements.every((count) => count === 1));
    const stats = scheduler.stats();
    checkBalance(stats);
    assert.equal(stats.inFlight, 0);
    assert.equal(stats.accepted + stats.refused, 10_000);
    assert.equal(stats.refused, counts.overloaded);
    assert.equal(counts.value + counts.aborted + counts.overloaded, 10_000);
    // Who aborts after the device is done, before the delivery, has a request that counts as completed.
    assert.ok(stats.cancelled <= counts.aborted && stats.completed >= counts.value);
    assert.equal(stats.cancelled + stats.completed, counts.aborted + counts.value);
    assert.ok(counts.value > 500 && stats.cancelled > 500, JSON.stringify(counts));
    assert.equal(await scheduler.submit('m', 5), 16, 'all slots are usable again');
  });
});

describe('too many requests', { concurrency: 3 }, () => {
  test('in flight: the next one is refused at once and told when to try again', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, ONE_BY_ONE, { maxInFlight: 32 });
    const accepted = Array.from({ length: 32 }, (_, i) => scheduler.submit('m', i));
    const overloaded = isError(OverloadedError, 'ERR_RUBATO_OVERLOADED', (error) => {
      assert.equal(error.model, 'm');
      assert.equal(error.retryAfterMs, 10_000);
      assert.equal(error.message, `model 'm': all 32 slots are in flight (maxInFlight); try again in 10000 ms`);
    });
    await assert.rejects(scheduler.submit('m', 32), overloaded);
    const tried = scheduler.trySubmit('m', 33);
    assert.ok(!tried.accepted && overloaded(tried.reason));
    const many = await scheduler.submitMany('m', [34, 35]);
    assert.ok(many.every((result) => result.status === 'rejected' && overloaded(result.reason)));
    assert.deepEqual([scheduler.stats().refused, scheduler.stats().accepted], [4, 32]);
    const opener = setInterval(() => gate.open(), 1);
    assert.deepEqual(await Promise.all(accepted), Array.from({ length: 32 }, (_, i) => 10 * i));
    assert.equal(await scheduler.submit('m', 36), 360);
    clearInterval(opener);
  });

  test('for submitMany are accepted in part', async () => {
    await using scheduler = await start((batch) => batch.inputs, {}, { maxInFlight: 32 });
    const settled = await scheduler.submitMany('m', Array.from({ length: 40 }, (_, i) => i));
    assert.deepEqual(settled.map(({ status }) => status), [...Array<string>(32).fill('fulfilled'), ...Array<string>(8).fill('rejected')]);
  });

  test('in the queue: the next one ends as queue-full', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { ...ONE_BY_ONE, maxQueue: 2 });
    const first = scheduler.submit('m', 1);
    await gate.started(1);
    const queued = [scheduler.submit('m', 2), scheduler.submit('m', 3)];
    await assert.rejects(scheduler.submit('m', 4), isError(OverloadedError, 'ERR_RUBATO_OVERLOADED', (error) => {
      assert.match(error.message, /^model 'm': its queue is full \(maxQueue\), or the scheduler thread is behind; try again in \d+ ms$/);
    }));
    const stats = scheduler.stats();
    assert.deepEqual([stats.accepted, stats.refused, stats.dropped, stats.models[0]!.queueFull, stats.models[0]!.queued], [4, 0, 1, 1, 2]);
    checkBalance(stats);
    const opener = setInterval(() => gate.open(), 1);
    assert.deepEqual(await Promise.all([first, ...queued]), [10, 20, 30]);
    clearInterval(opener);
  });
});

describe('drain', () => {
  test('resolves at once when nothing is in flight', async () => {
    await using scheduler = await start((batch) => batch.inputs);
    await scheduler.drain();
  });

  test('waits for all that was submitted, aborted ones included', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, ONE_BY_ONE);
    const controller = new AbortController();
    const aborted = scheduler.submit('m', 1, { signal: controller.signal });
    await gate.started(1);
    const other = scheduler.submit('m', 2);
    controller.abort();
    await assert.rejects(aborted);
    let drained = 0;
    const drains = [scheduler.drain(), scheduler.drain()].map((drain) => drain.then(() => drained++));
    await sleep(20);
    assert.equal(drained, 0);
    gate.open();
    await gate.started(2);
    assert.equal(drained, 0);
    gate.open();
    await Promise.all(drains);
    assert.equal(await other, 20);
    assert.equal(scheduler.stats().inFlight, 0);
  });
});

describe('close', () => {
  test('ends what is queued as closed and delivers what runs', async () => {
    const gate = new Gate();
    const scheduler = await start(gate.execute, ONE_BY_ONE);
    const running = scheduler.submit('m', 1);
    await gate.started(1);
    const queued = [scheduler.submit('m', 2), scheduler.submit('m', 3)];
    const closing = scheduler.close();
    assert.equal(scheduler.close(), closing, 'closing twice is closing once');
    const closed = isError(ClosedError, 'ERR_RUBATO_CLOSED');
    for (const result of queued) await assert.rejects(result, closed);
    await assert.rejects(scheduler.submit('m', 4), closed, 'also while it is closing');
    gate.open();
    assert.equal(await running, 10);
    await closing;
    await scheduler.close();
    await assert.rejects(scheduler.submit('m', 5), closed);
    await assert.rejects(scheduler.submitDetailed('m', 5), closed);
    const [many] = await scheduler.submitMany('m', [5]);
    assert.ok(many?.status === 'rejected' && closed(many.reason));
    const tried = scheduler.trySubmit('m', 5);
    assert.ok(!tried.accepted && closed(tried.reason));
    assert.throws(() => scheduler.client(), closed);
    await scheduler.drain();
    const stats = scheduler.stats();
    assert.deepEqual([stats.accepted, stats.completed, stats.closed, stats.inFlight], [3, 1, 2, 0]);
    checkBalance(stats);
    assert.deepEqual(gate.inputs, [[1]]);
  });

  test('of an idle scheduler stops its thread', async () => {
    const thread = nextThread();
    const scheduler = await start((batch) => batch.inputs);
    const exit = once(await thread, 'exit');
    await scheduler.close();
    await exit;
  });

  test('happens at the end of `await using`, with or without an error', async () => {
    let outside: Scheduler<number, unknown> | undefined;
    const use = async (fail: boolean): Promise<void> => {
      await using scheduler = await start((batch) => batch.inputs);
      outside = scheduler;
      assert.equal(await scheduler.submit('m', 3), 3);
      if (fail) throw new Error('from inside');
    };
    await use(false);
    await assert.rejects(outside!.submit('m', 1), ClosedError);
    await assert.rejects(use(true), /from inside/);
    await assert.rejects(outside!.submit('m', 1), ClosedError);
  });
});

describe('a raw client', { concurrency: 3 }, () => {
  const startRaw = (model: Partial<ModelOptions> = {}, more: object = {}): Promise<Scheduler> =>
    createScheduler({ models: [{ ...MODEL, ...model }, { ...MODEL, name: 'n' }], devices: [{ kind: 'emulated', count: 2 }], ...more });

  /** Drains until nothing is in flight; the outcomes by slot. */
  const drainAll = async (client: RawClient): Promise<Map<number, number>> => {
    const ended = new Map<number, number>();
    const untilMs = performance.now() + 10_000;
    while (client.inFlight > 0) {
      const count = client.drain();
      for (let k = 0; k < count; k++) {
        assert.ok(!ended.has(client.slots[k]!), 'a slot has ended twice');
        ended.set(client.slots[k]!, client.outcomes[k]!);
      }
      assert.ok(performance.now() < untilMs, `${client.inFlight} requests have not ended`);
      await nextTurn();
    }
    assert.equal(client.drain(), 0);
    return ended;
  };

  test('submits, commits and drains numbers', async () => {
    await using scheduler = await startRaw();
    const client = scheduler.client();
    assert.deepEqual([client.model('m'), client.model('n')], [0, 1]);
    const slots = Array.from({ length: 20 }, (_, i) => client.submit(i % 2, client.nowNs()));
    assert.equal(new Set(slots).size, 20);
    assert.equal(client.inFlight, 20);
    client.commit();
    const ended = await drainAll(client);
    assert.deepEqual([...ended.keys()].sort((a, b) => a - b), slots.sort((a, b) => a - b));
    for (const packed of ended.values()) {
      assert.equal(outcomeOf(packed), OUTCOME.completed);
      assert.ok(batchSizeOf(packed) >= 1 && batchSizeOf(packed) <= 8);
      assert.ok(gpuOf(packed) === 0 || gpuOf(packed) === 1);
    }
    assert.deepEqual(scheduler.stats().models.map(({ completed }) => completed), [10, 10]);
    checkBalance(scheduler.stats());
  });

  test('submits in bulk, and accepts what fits', async () => {
    await using scheduler = await startRaw({}, { maxInFlight: 64 });
    const client = scheduler.client();
    const models = new Int32Array(100);
    const arrivals = new Float64Array(100).fill(client.nowNs());
    assert.equal(client.submitBulk(models, arrivals, 90), 10);
    assert.equal((await drainAll(client)).size, 10);
    arrivals.fill(client.nowNs());
    assert.equal(client.submitBulk(models, arrivals), 64);
    assert.equal(client.submit(0, client.nowNs()), REFUSED_NO_SLOT);
    assert.equal((await drainAll(client)).size, 64);
    assert.equal(scheduler.stats().refused, 37);
    assert.equal(scheduler.stats().completed, 74);
    assert.equal(client.submitBulk(models, arrivals, 5, 5), 0);
  });

  test('is refused an SLO shorter than a batch of one', async () => {
    await using scheduler = await startRaw();
    const client = scheduler.client();
    assert.equal(client.submit(0, client.nowNs(), 1e6), REFUSED_INFEASIBLE);
    assert.equal(client.inFlight, 0);
  });

  test('cancels what is queued', async () => {
    await using scheduler = await startRaw(WAITS_FOR_MORE);
    const client = scheduler.client();
    const slots = [1, 2, 3].map(() => client.submit(0, client.nowNs(), 1.6e9));
    client.commit();
    client.cancel(slots[1]!);
    const ended = await drainAll(client);
    assert.deepEqual(slots.map((slot) => outcomeOf(ended.get(slot)!)), [OUTCOME.completed, OUTCOME.cancelled, OUTCOME.completed]);
    client.cancel(slots[1]!); // has ended: no effect
    const again = client.submit(0, client.nowNs(), 1.6e9);
    client.commit();
    assert.equal(outcomeOf((await drainAll(client)).get(again)!), OUTCOME.completed);
  });

  test('refuses numbers that are none of its own', async () => {
    await using scheduler = await startRaw();
    const client = scheduler.client();
    const refused = (path: string): ((error: unknown) => true) => isError(InvalidOptionError, 'ERR_RUBATO_INVALID_OPTION', (error) => assert.equal(error.path, path));
    assert.throws(() => client.model('nobody'), refused('model'));
    for (const model of [-1, 2, 0.5, NaN, Infinity]) assert.throws(() => client.submit(model, 0), refused('model'));
    for (const arrival of [NaN, Infinity]) assert.throws(() => client.submit(0, arrival), refused('arrivalNs'));
    for (const slo of [-1, NaN, Infinity]) assert.throws(() => client.submit(0, client.nowNs(), slo), refused('sloNs'));
    for (const slot of [REFUSED_NO_SLOT, REFUSED_INFEASIBLE, 0, 1e9, 70_000.5, NaN]) assert.throws(() => client.cancel(slot), refused('slot'));
    const models = new Int32Array(4);
    const arrivals = new Float64Array(3);
    for (const [from, to] of [[-1, 2], [2, 1], [0, 4], [0, 2.5], [NaN, 2]] as const) assert.throws(() => client.submitBulk(models, arrivals, from, to), refused('from, to'));
    assert.equal(client.inFlight, 0);
    assert.equal(scheduler.stats().accepted, 0);
  });

  test('is one of at most maxClients', async () => {
    await using scheduler = await startRaw({}, { maxClients: 2 });
    const clients = [scheduler.client(), scheduler.client()];
    assert.throws(() => scheduler.client(), isError(InvalidOptionError, 'ERR_RUBATO_INVALID_OPTION', (error) => {
      assert.equal(error.path, 'maxClients');
      assert.match(error.message, /all 2 clients are in use/);
    }));
    await using none = await startRaw({}, { maxClients: 0 });
    assert.throws(() => none.client(), InvalidOptionError);
    for (const client of clients) {
      client.submit(0, client.nowNs());
      client.commit();
      assert.equal((await drainAll(client)).size, 1);
    }
  });

  test('shares a callback device with promises, and brings it no inputs', async () => {
    const inputs: unknown[] = [];
    await using scheduler = await start((batch) => {
      inputs.push(...batch.inputs);
      return batch.inputs;
    });
    const client = scheduler.client();
    client.submit(0, client.nowNs());
    client.commit();
    assert.equal(await scheduler.submit('m', 4), 4);
    assert.equal((await drainAll(client)).size, 1);
    assert.deepEqual(inputs.sort(), [4, undefined]);
  });

  test('sees its requests end when the scheduler closes, and may submit no more', async () => {
    const scheduler = await startRaw({ condition: 'frontrun', slo: '30s' });
    const client = scheduler.client();
    for (let i = 0; i < 5; i++) client.submit(0, client.nowNs());
    client.commit();
    client.submit(0, client.nowNs()); // not committed
    await scheduler.close();
    const ended = await drainAll(client);
    assert.deepEqual([...ended.values()].map(outcomeOf), Array(6).fill(OUTCOME.closed));
    assert.throws(() => client.submit(0, client.nowNs()), ClosedError);
    assert.throws(() => client.submitBulk(new Int32Array(1), new Float64Array(1)), ClosedError);
    assert.equal(client.drain(), 0);
    checkBalance(scheduler.stats());
  });
});

describe('stats', () => {
  const PERCENTILES = ['p50', 'p90', 'p99', 'p999', 'max', 'count'];

  test('have the keys that are documented, from the beginning', async () => {
    await using scheduler = await createScheduler({ models: [MODEL], devices: [{ kind: 'emulated' }, { kind: 'callback', execute: () => [] }] });
    const stats = scheduler.stats();
    assert.deepEqual(Object.keys(stats), ['uptimeMs', 'threads', 'models', 'gpus', 'gpusWanted', 'accepted', 'refused', 'completed', 'late', 'dropped', 'cancelled', 'failed', 'closed', 'inFlight']);
    assert.deepEqual(Object.keys(stats.models[0]!), [
      'name', 'accepted', 'refused', 'completed', 'late', 'expired', 'queueFull', 'infeasible', 'cancelled', 'failed', 'closed', 'inFlight', 'queued',
      'batches', 'batched', 'grants', 'refusedGrants', 'ratePerSecond', 'targetBatch', 'meanBatch', 'latencyMs', 'queueMs', 'latenessUs',
    ]);
    for (const key of ['latencyMs', 'queueMs', 'latenessUs'] as const) assert.deepEqual(Object.keys(stats.models[0]![key]), PERCENTILES);
    assert.deepEqual(stats.gpus, [{ gpu: 0, kind: 'emulated', batches: 0, busyShare: 0 }, { gpu: 1, kind: 'callback', batches: 0, busyShare: 0 }]);
    assert.deepEqual(JSON.parse(JSON.stringify(stats)), stats, 'no NaN, no Infinity');
  });

  test('tell what happened', async () => {
    await using scheduler = await start(async (batch) => {
      await sleep(10);
      return batch.inputs;
    });
    await scheduler.submitMany('m', Array.from({ length: 32 }, (_, i) => i));
    const stats = scheduler.stats();
    const model = stats.models[0]!;
    checkBalance(stats);
    assert.deepEqual([model.completed, model.batched], [32, 32]);
    assert.equal(model.batches, stats.gpus[0]!.batches);
    assert.equal(model.meanBatch, model.batched / model.batches);
    assert.ok(model.latencyMs.max >= 9.9 && model.latencyMs.max >= model.queueMs.p50, JSON.stringify(model.latencyMs));
    assert.ok(stats.gpus[0]!.busyShare > 0 && stats.gpus[0]!.busyShare <= 1, `${stats.gpus[0]!.busyShare}`);
    assert.ok(stats.uptimeMs > 0);
  });
});

describe('two schedulers in one process', () => {
  test('do not know each other', async () => {
    await using one = await start((batch) => batch.inputs.map((input) => input + 1));
    const other = await start((batch) => batch.inputs.map((input) => input - 1), { name: 'o' });
    const inputs = Array.from({ length: 200 }, (_, i) => i);
    const [up, down] = await Promise.all([Promise.all(inputs.map((i) => one.submit('m', i))), Promise.all(inputs.map((i) => other.submit('o', i)))]);
    assert.deepEqual(up, inputs.map((i) => i + 1));
    assert.deepEqual(down, inputs.map((i) => i - 1));
    await other.close();
    assert.equal(await one.submit('m', 7), 8);
    assert.deepEqual([one.stats().completed, other.stats().completed], [201, 200]);
  });
});

/** The next thread that this process starts. */
async function nextThread(): Promise<Worker> {
  const [thread] = (await once(process, 'worker')) as [Worker];
  return thread;
}

describe('when the scheduler thread dies', () => {
  const died = isError(RubatoError, 'ERR_RUBATO_THREAD_DIED', (error) => assert.match(error.message, /^the scheduler thread has ended unexpectedly/));

  test('another takes over: what ran and what was queued has its result, once, and the statistics tell of it', async () => {
    const gate = new Gate();
    const thread = nextThread();
    const scheduler = await start(gate.execute, ONE_BY_ONE);
    const raw = scheduler.client();
    const warned = once(process, 'warning');
    const results = [scheduler.submit('m', 1)];
    await gate.started(1);
    const controller = new AbortController();
    const aborted = scheduler.submit('m', 2, { signal: controller.signal });
    results.push(scheduler.submit('m', 3));
    raw.submit(0, raw.nowNs());
    raw.commit();
    await sleep(5);
    await (await thread).terminate();
    controller.abort();
    await assert.rejects(aborted, { name: 'AbortError' });
    results.push(scheduler.submit('m', 4));
    const [warning] = (await warned) as [Error & { code: string }];
    assert.equal(warning.code, 'RUBATO_THREAD_REPLACED');
    assert.match(warning.message, /^the scheduler thread has ended unexpectedly: .+; another took over after \d+ ms$/);
    const all = Promise.all(results);
    while (scheduler.inFlight + raw.inFlight > 0) {
      gate.open();
      raw.drain();
      await sleep(1);
    }
    assert.deepEqual(await all, [10, 30, 40]);
    const stats = scheduler.stats();
    assert.deepEqual([stats.accepted, stats.completed + stats.late, stats.cancelled, stats.inFlight], [5, 4, 1, 0]);
    assert.deepEqual(stats.threads.map(({ name, replaced }) => [name, replaced]), [['the scheduler thread', 1]]);
    checkBalance(stats);
    await scheduler.close();
  });

  test('three times in a row for the same reason, everything rejects with it, and close resolves', async () => {
    const gate = new Gate();
    const scheduler = await start(gate.execute, ONE_BY_ONE);
    const raw = scheduler.client();
    const running = scheduler.submit('m', 1);
    await gate.started(1);
    // A record of a request that was never made is a broken invariant: every shard fails at it.
    const { memory, client } = scheduler.ticket();
    const lane = new RingWriter(memory.clients[client]!.requests[0]!);
    lane.i32[lane.claim() + REQUEST.at.generation] = 1000;
    lane.commit();
    new Doorbell(memory.buffer, memory.dispatcherBell).ring();
    await assert.rejects(running, (error) => died(error) && (error as Error).cause instanceof Error && /\(3 times in a row\)/.test((error as Error).message));
    await assert.rejects(scheduler.submit('m', 3), died);
    const tried = scheduler.trySubmit('m', 3);
    assert.ok(!tried.accepted && died(tried.reason));
    assert.throws(() => raw.submit(0, raw.nowNs()), died);
    await scheduler.drain();
    await scheduler.close();
    checkBalance(scheduler.stats());
    gate.open(); // the device does not know
  });

  test('while the scheduler closes, close resolves when the batches that run have ended', async () => {
    const gate = new Gate();
    const thread = nextThread();
    const scheduler = await start(gate.execute, ONE_BY_ONE);
    const result = scheduler.submit('m', 1);
    await gate.started(1);
    const queued = scheduler.submit('m', 2);
    queued.catch(() => {});
    const beganMs = performance.now();
    const closing = scheduler.close();
    await (await thread).terminate();
    await assert.rejects(queued, ClosedError);
    gate.open();
    await closing;
    assert.equal(await result, 10);
    assert.ok(performance.now() - beganMs < 4900); // it does not wait until it gives up
  });
});
