import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { describe, test as testOf } from 'node:test';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import {
  type Batch,
  createScheduler,
  DeviceError,
  type ModelOptions,
  OverloadedError,
  RubatoError,
  type Scheduler,
  type SchedulerOptions,
  type SchedulerStats,
} from '#rubato/index.js';
import { Random } from '#rubato/model/random.js';

/** A scheduler that loses a request would hold its test for ever. */
const TEST_LIMIT_MS = 60_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

/** Batches said to take so long that nothing else starts while one runs; no stall of the machine makes them late. */
const MODEL: ModelOptions = { name: 'm', slo: '30s', profile: ['2s', '2s', '2s', '2s'], condition: 'immediate' };

type Execute = (batch: Batch<number>) => Promise<readonly number[]> | readonly number[];

function start(execute: Execute, model: Partial<ModelOptions> = {}, more: Partial<SchedulerOptions<number, number>> = {}): Promise<Scheduler<number, number>> {
  return createScheduler<number, number>({ models: [{ ...MODEL, ...model }], devices: [{ kind: 'callback', execute }], ...more });
}

/** A device whose batches last until the test lets them go. */
class Gate {
  readonly batches: Batch<number>[] = [];
  #open: (() => void)[] = [];
  #look: (() => void) | null = null;

  readonly execute: Execute = async (batch) => {
    this.batches.push(batch);
    this.#look?.();
    await new Promise<void>((resolve) => this.#open.push(resolve));
    return batch.inputs.map((input) => 10 * input);
  };

  async reached(count: number): Promise<void> {
    while (this.batches.length < count) await new Promise<void>((resolve) => (this.#look = resolve));
  }

  open(): void {
    for (const open of this.#open.splice(0)) open();
  }

  get inputs(): (readonly number[])[] {
    return this.batches.map((batch) => batch.inputs);
  }
}

function checkBalance(stats: SchedulerStats): void {
  const { accepted, completed, late, dropped, cancelled, failed, closed, inFlight } = stats;
  assert.equal(completed + late + dropped + cancelled + failed + closed + inFlight, accepted);
}

const listeners = (signal: AbortSignal): number => getEventListeners(signal, 'abort').length;
const REASON = { any: 'value' };
const isReason = (error: unknown): boolean => error === REASON;

describe('a request that is cancelled in the queue', { concurrency: 3 }, () => {
  test('leaves at once, and its place in the batch goes to another', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute);
    const first = scheduler.submit('m', 0);
    await gate.reached(1);
    const controller = new AbortController();
    const cancelled = scheduler.submit('m', 1, { signal: controller.signal });
    const others = [2, 3, 4, 5].map((input) => scheduler.submit('m', input));
    while (scheduler.stats().models[0]!.queued < 5) await sleep(1);
    controller.abort(REASON);
    await assert.rejects(cancelled, isReason);
    while (scheduler.inFlight > 5) await sleep(1);
    assert.equal(scheduler.stats().models[0]!.queued, 4);
    assert.equal(gate.batches.length, 1, 'the first batch still runs');
    gate.open();
    await gate.reached(2);
    gate.open();
    assert.deepEqual(await Promise.all([first, ...others]), [0, 20, 30, 40, 50]);
    assert.deepEqual(gate.inputs, [[0], [2, 3, 4, 5]]);
    assert.equal(scheduler.stats().cancelled, 1);
    checkBalance(scheduler.stats());
  });

  test('in the same turn as its submission never runs', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute);
    const controller = new AbortController();
    const results = [1, 2, 3, 4].map((input) => scheduler.submit('m', input, input % 2 === 0 ? { signal: controller.signal } : {}));
    const settled = Promise.allSettled(results);
    controller.abort(REASON);
    await gate.reached(1);
    gate.open();
    assert.deepEqual((await settled).map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled', 'rejected']);
    await scheduler.drain();
    checkBalance(scheduler.stats());
    assert.equal(scheduler.stats().completed + scheduler.stats().cancelled, 4);
  });

  test('gives its slot back at once', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, {}, { maxInFlight: 32 });
    const first = scheduler.submit('m', 0);
    await gate.reached(1);
    for (let round = 0; round < 20; round++) {
      const controller = new AbortController();
      const settled = Promise.allSettled(Array.from({ length: 31 }, () => scheduler.submit('m', 1, { signal: controller.signal })));
      await assert.rejects(scheduler.submit('m', 2), OverloadedError);
      controller.abort(REASON);
      assert.ok((await settled).every((result) => result.status === 'rejected' && result.reason === REASON));
      while (scheduler.inFlight > 1) await sleep(1);
    }
    gate.open();
    assert.equal(await first, 0);
    assert.deepEqual([gate.batches.length, scheduler.stats().cancelled], [1, 620]);
  });

  test('after a while by AbortSignal.timeout rejects with a TimeoutError', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute);
    const first = scheduler.submit('m', 0);
    await gate.reached(1);
    const signal = AbortSignal.timeout(30);
    await assert.rejects(scheduler.submit('m', 1, { signal }), { name: 'TimeoutError' });
    while (scheduler.inFlight > 1) await sleep(1);
    assert.equal(listeners(signal), 0);
    gate.open();
    assert.equal(await first, 0);
    assert.equal(gate.batches.length, 1);
  });
});

describe('a request that is cancelled on the device', { concurrency: 3 }, () => {
  test('rejects at once; the batch goes on for the others, and the slot comes back with it', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, {}, { maxInFlight: 32 });
    const first = scheduler.submit('m', 0);
    await gate.reached(1);
    const controller = new AbortController();
    const settled = Promise.allSettled([1, 2, 3, 4].map((input) => scheduler.submit('m', input, input < 3 ? { signal: controller.signal } : {})));
    gate.open();
    await first;
    await gate.reached(2);
    controller.abort(REASON);
    await sleep(5);
    assert.deepEqual([scheduler.inFlight, scheduler.stats().inFlight, scheduler.stats().cancelled], [4, 4, 0]);
    gate.open();
    const results = await settled;
    assert.ok(results.slice(0, 2).every((result) => result.status === 'rejected' && result.reason === REASON));
    assert.deepEqual(results.slice(2), [{ status: 'fulfilled', value: 30 }, { status: 'fulfilled', value: 40 }]);
    await scheduler.drain();
    const stats = scheduler.stats();
    assert.deepEqual([stats.completed, stats.cancelled, stats.inFlight], [3, 2, 0]);
    checkBalance(stats);
  });

  test('by AbortSignal.timeout is cut off hard, late results or not', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute);
    const beganMs = performance.now();
    const rejected = assert.rejects(scheduler.submit('m', 1, { signal: AbortSignal.timeout(500) }), { name: 'TimeoutError' });
    await gate.reached(1);
    await rejected;
    assert.ok(performance.now() - beganMs > 450);
    gate.open();
    await scheduler.drain();
    assert.deepEqual([scheduler.stats().cancelled, scheduler.stats().completed], [1, 0]);
  });

  test('of a batch that fails counts as cancelled, and the failure is nobody\'s unhandled rejection', async () => {
    let fail: (reason: Error) => void = () => {};
    let calls = 0;
    await using scheduler = await start(() => {
      calls++;
      return new Promise((_, reject) => (fail = reject));
    });
    const controller = new AbortController();
    const settled = Promise.allSettled([scheduler.submit('m', 1, { signal: controller.signal })]);
    while (calls === 0) await sleep(1);
    controller.abort(REASON);
    await sleep(5);
    fail(new Error('out of paper'));
    assert.deepEqual(await settled, [{ status: 'rejected', reason: REASON }]);
    await scheduler.drain();
    assert.deepEqual([scheduler.stats().cancelled, scheduler.stats().failed], [1, 0]);
  });
});

describe('an aborted signal', { concurrency: 3 }, () => {
  test('is refused by every call that waits, and changes nothing', async () => {
    const tensors = { inputs: { x: { dtype: 'uint8', shape: [1] } }, outputs: { y: { dtype: 'uint8', shape: [1] } } } as const;
    const models: ModelOptions[] = [MODEL, { ...MODEL, ...tensors, name: 't' }];
    await using scheduler = await createScheduler<unknown, unknown>({ models, devices: [{ kind: 'emulated', count: 2 }] });
    const signal = AbortSignal.abort(REASON);
    const lease = scheduler.reserve('t');
    await assert.rejects(scheduler.submit('m', 1, { signal }), isReason);
    await assert.rejects(scheduler.submitDetailed('m', 1, { signal }), isReason);
    assert.throws(() => scheduler.trySubmit('m', 1, { signal }), isReason);
    await assert.rejects(scheduler.submitMany('m', [1, 2], { signal }), isReason);
    await assert.rejects(scheduler.submitMany('m', [], { signal }), isReason);
    await assert.rejects(scheduler.submit('t', { x: new Uint8Array(1) }, { signal }), isReason);
    await assert.rejects(lease.submit({ signal }), isReason);
    await assert.rejects(scheduler.drain({ signal }), isReason);
    await assert.rejects(scheduler.removeModel('m', { signal }), isReason);
    await assert.rejects(scheduler.removeDevice(0, { signal }), isReason);
    lease.release();
    assert.equal(listeners(signal), 0);
    assert.deepEqual([scheduler.stats().accepted, scheduler.inFlight], [0, 0]);
    assert.equal(scheduler.stats().gpus.length, 2);
    assert.ok(scheduler.credit('m') > 0, 'the model is there');
    assert.deepEqual({ ...(await scheduler.submit('t', { x: new Uint8Array(1) }) as object) }, { y: new Uint8Array(1) });
  });

  test('while they wait ends drain, removeModel and removeDevice; what they began goes on', async () => {
    const gate = new Gate();
    const other = { ...MODEL, name: 'n' };
    await using scheduler = await start(gate.execute, {}, { models: [MODEL, other], devices: [{ kind: 'callback', execute: gate.execute, count: 2 }] });
    const result = scheduler.submit('m', 1);
    await gate.reached(1);
    const controller = new AbortController();
    const { signal } = controller;
    const waiting = [scheduler.drain({ signal }), scheduler.removeModel('m', { signal }), scheduler.removeDevice(0, { signal })];
    const untouched = scheduler.drain();
    const settled = Promise.allSettled(waiting);
    await sleep(5);
    assert.equal(listeners(signal), 3);
    controller.abort(REASON);
    assert.deepEqual(await settled, Array(3).fill({ status: 'rejected', reason: REASON }));
    assert.equal(listeners(signal), 0);
    gate.open();
    assert.equal(await result, 10);
    await untouched;
    while (scheduler.stats().models.length > 1 || scheduler.stats().gpus.length > 1) await sleep(1);
    assert.deepEqual(scheduler.stats().models.map(({ name }) => name), ['n']);
    assert.deepEqual(scheduler.stats().gpus.map(({ gpu }) => gpu), [1]);
  });

  test('after they have ended does nothing, and nothing listens any more', async () => {
    await using scheduler = await start((batch) => batch.inputs, { profile: [1] }, { models: [{ ...MODEL, profile: [1] }, { ...MODEL, name: 'n' }], devices: [{ kind: 'callback', execute: (batch) => batch.inputs, count: 2 }] });
    const controller = new AbortController();
    const { signal } = controller;
    const tried = scheduler.trySubmit('m', 3, { signal });
    assert.ok(tried.accepted);
    assert.equal(await tried.result, 3);
    assert.equal(await scheduler.submit('m', 1, { signal }), 1);
    assert.equal((await scheduler.submitDetailed('m', 2, { signal })).output, 2);
    await scheduler.submitMany('m', [1, 2, 3], { signal });
    const running = scheduler.submit('m', 5);
    await scheduler.drain({ signal });
    await running;
    await scheduler.removeModel('n', { signal });
    await scheduler.removeDevice(1, { signal });
    await nextTurn();
    assert.equal(listeners(signal), 0);
    controller.abort();
    assert.equal(await scheduler.submit('m', 7), 7, 'a later request in the same slot is not hit');
    assert.equal(scheduler.stats().cancelled, 0);
  });

  test('leaves no listener behind on any other way to end', async () => {
    const { signal } = new AbortController();
    const rejected = async (result: Promise<unknown>): Promise<void> => {
      await assert.rejects(result, RubatoError);
      await nextTurn();
      assert.equal(listeners(signal), 0);
    };
    const gate = new Gate();
    const scheduler = await start(gate.execute, { maxQueue: 1, profile: ['2s'] });
    await rejected(scheduler.submit('m', 1, { signal, slo: '1s' })); // infeasible
    const first = scheduler.submit('m', 1);
    await gate.reached(1);
    await rejected(scheduler.submit('m', 1, { signal, slo: '2.2s' })); // expired
    const queued = scheduler.submit('m', 1);
    await rejected(scheduler.submit('m', 1, { signal })); // its queue is full
    const hung = scheduler.submitDetailed('m', 1, { signal });
    hung.catch(() => {});
    const settled = Promise.allSettled([first, queued]);
    const closing = scheduler.close();
    gate.open();
    await closing;
    await rejected(hung); // closed
    await settled;
    await using failing = await start(() => Promise.reject(new Error('out of paper')));
    await assert.rejects(failing.submit('m', 1, { signal }), DeviceError);
    assert.equal(listeners(signal), 0);
  });
});

describe('ten thousand cancels at random moments over 32 slots', () => {
  const TENSORS = { inputs: { x: { dtype: 'int32', shape: [4] } }, outputs: { y: { dtype: 'int32', shape: [4] } } } as const;
  const REQUESTS = 10_000;

  /** Half of the requests bring a value, half bring tensors; each must get its own back. */
  const storm = async (seed: number, more: Partial<SchedulerOptions>): Promise<void> => {
    const random = new Random(seed);
    const execute = async (batch: Batch): Promise<unknown[]> => {
      const kind = random.uniform();
      if (kind < 0.3) await nextTurn();
      else if (kind < 0.5) await sleep(2 * random.uniform());
      return batch.inputs.map((input) => (batch.model === 'm' ? 3 * (input as number) + 1 : { y: (input as { x: Int32Array }).x.map((value) => 3 * value + 1) }));
    };
    const profile = { alpha: 0.05, beta: 0.1, maxBatch: 4 };
    const models: ModelOptions[] = [{ ...MODEL, profile }, { ...MODEL, ...TENSORS, name: 't', profile }];
    await using scheduler = (await createScheduler({ models, devices: [{ kind: 'callback', execute, count: 4 }], maxInFlight: 32, ...more } as SchedulerOptions)) as unknown as Scheduler;
    const counts = { value: 0, aborted: 0, overloaded: 0 };
    const settlements = new Uint8Array(REQUESTS);

    const one = async (input: number): Promise<void> => {
      const controller = new AbortController();
      const reason = { input };
      const isTensor = input % 2 === 1;
      const result = isTensor
        ? scheduler.submit('t', { x: new Int32Array(4).fill(input) }, { signal: controller.signal })
        : scheduler.submit('m', input, { signal: controller.signal });
      const ended = result.then(
        (value) => {
          settlements[input]!++;
          counts.value++;
          if (isTensor) assert.deepEqual((value as { y: Int32Array }).y, new Int32Array(4).fill(3 * input + 1));
          else assert.equal(value, 3 * input + 1);
        },
        (error: unknown) => {
          settlements[input]!++;
          if (error instanceof OverloadedError) {
            counts.overloaded++;
            return;
          }
          counts.aborted++;
          assert.equal(error, reason, 'each is cut off by its own signal alone');
        },
      );
      const moment = random.uniform();
      if (moment < 0.1) controller.abort(reason);
      else if (moment < 0.2) queueMicrotask(() => controller.abort(reason));
      else if (moment < 0.45) setImmediate(() => controller.abort(reason));
      else if (moment < 0.6) setTimeout(() => controller.abort(reason), 3 * random.uniform());
      await ended;
      // Late: another request has the slot by now, which must not feel it.
      if (moment >= 0.6) controller.abort(reason);
      assert.equal(listeners(controller.signal), 0);
    };

    const open: Promise<void>[] = [];
    for (let input = 0; input < REQUESTS; input++) {
      open.push(one(input));
      if (input % 24 === 0) await nextTurn();
      if (input % 100 === 0) await sleep(1);
      // Not so full that most are refused.
      while (scheduler.inFlight >= 31 && random.uniform() < 0.9) await nextTurn();
    }
    await Promise.all(open);
    await scheduler.drain();
    assert.ok(settlements.every((count) => count === 1), 'every request ends once');
    const stats = scheduler.stats();
    checkBalance(stats);
    assert.equal(stats.inFlight, 0);
    assert.equal(stats.accepted + stats.refused, REQUESTS);
    assert.equal(stats.refused, counts.overloaded);
    // Who aborts after the device is done, before the delivery, has a request that counts as completed.
    assert.ok(stats.cancelled <= counts.aborted && stats.completed >= counts.value, JSON.stringify({ counts, stats: [stats.cancelled, stats.completed] }));
    assert.equal(stats.cancelled + stats.completed, counts.aborted + counts.value);
    assert.ok(counts.value > 500 && stats.cancelled > 500, JSON.stringify(counts));
    assert.deepEqual([scheduler.credit('m'), scheduler.inFlight], [32, 0]);
    const last = await scheduler.submitMany('m', Array.from({ length: 32 }, (_, i) => i));
    assert.deepEqual(last, Array.from({ length: 32 }, (_, i) => ({ status: 'fulfilled', value: 3 * i + 1 })), 'all slots are usable');
  };

  test('never hit another request', () => storm(1, { topology: 'single' }));
  test('never hit another request, with two shards', () => storm(2, { topology: 'split', shards: 2 }));
  test('never hit another request, with two shards on one thread', () => storm(3, { topology: 'single', shards: 2 }));
});
