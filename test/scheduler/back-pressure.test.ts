import assert from 'node:assert/strict';
import { describe, test as testOf } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type Batch,
  createScheduler,
  InvalidOptionError,
  type ModelOptions,
  OverloadedError,
  type Scheduler,
  type SchedulerOptions,
  UnknownModelError,
} from '#rubato/index.js';

/** A scheduler that loses a request would hold its test for ever. */
const TEST_LIMIT_MS = 30_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

/** One request at a time, said to take so long that no other starts while it runs. */
const MODEL: ModelOptions = { name: 'm', slo: '20s', profile: ['2s'], condition: 'immediate' };

type Execute = (batch: Batch<number>) => Promise<readonly number[]> | readonly number[];

function start(execute: Execute, model: Partial<ModelOptions> = {}, more: Partial<SchedulerOptions<number, number>> = {}): Promise<Scheduler<number, number>> {
  return createScheduler<number, number>({ models: [{ ...MODEL, ...model }], devices: [{ kind: 'callback', execute }], ...more });
}

/** A device whose batches last until the test lets them go. */
class Gate {
  started = 0;
  #open: (() => void)[] = [];
  #look: (() => void) | null = null;
  #isOpen = false;

  readonly execute: Execute = async (batch) => {
    this.started++;
    this.#look?.();
    if (!this.#isOpen) await new Promise<void>((resolve) => this.#open.push(resolve));
    return batch.inputs.map((input) => 10 * input);
  };

  async reached(count: number): Promise<void> {
    while (this.started < count) await new Promise<void>((resolve) => (this.#look = resolve));
  }

  /** For the batches that run, and all that come. */
  open(): void {
    this.#isOpen = true;
    for (const open of this.#open.splice(0)) open();
  }
}

function checkOverloaded(error: unknown): asserts error is OverloadedError {
  assert.ok(error instanceof OverloadedError, String(error));
  assert.equal(error.code, 'ERR_RUBATO_OVERLOADED');
  assert.equal(error.model, 'm');
  assert.ok(Number.isInteger(error.retryAfterMs) && error.retryAfterMs > 0, `${error.retryAfterMs}`);
  assert.match(error.message, new RegExp(`; try again in ${error.retryAfterMs} ms$`));
}

describe('trySubmit', { concurrency: 3 }, () => {
  test('answers an overload and never throws it', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, {}, { maxInFlight: 32 });
    const results: Promise<number>[] = [];
    for (let i = 0; i < 100; i++) {
      const tried = scheduler.trySubmit('m', i);
      assert.equal(tried.accepted, i < 32);
      if (tried.accepted) results.push(tried.result);
      else checkOverloaded(tried.reason);
    }
    gate.open();
    assert.deepEqual(await Promise.all(results), Array.from({ length: 32 }, (_, i) => 10 * i));
    assert.deepEqual([scheduler.stats().accepted, scheduler.stats().refused], [32, 68]);
  });

  test('answers what cannot be met in time', async () => {
    await using scheduler = await start((batch) => batch.inputs);
    const tried = scheduler.trySubmit('m', 1, { slo: '1s' });
    assert.equal(!tried.accepted && tried.reason.code, 'ERR_RUBATO_INFEASIBLE');
  });

  test('throws what is no request at all', async () => {
    await using scheduler = await start((batch) => batch.inputs);
    assert.throws(() => scheduler.trySubmit('n', 1), UnknownModelError);
    assert.throws(() => scheduler.trySubmit('m', 1, { slo: 'soon' as never }), InvalidOptionError);
    assert.throws(() => scheduler.trySubmit('m', 1, { signal: 5 as never }), InvalidOptionError);
    assert.equal(scheduler.stats().accepted, 0);
  });

  test('accepts again when there is room again', async () => {
    await using scheduler = await start((batch) => batch.inputs, { profile: { alpha: 0.01, beta: 0.1, maxBatch: 8 } }, { maxInFlight: 32 });
    let accepted = 0;
    let refused = 0;
    while (accepted < 1000) {
      const tried = scheduler.trySubmit('m', accepted);
      if (tried.accepted) {
        const wanted = accepted++;
        void tried.result.then((value) => assert.equal(value, wanted));
      } else {
        refused++;
        await sleep(1);
      }
    }
    await scheduler.drain();
    assert.ok(refused > 0);
    assert.deepEqual([scheduler.stats().completed, scheduler.stats().refused], [1000, refused]);
  });
});

describe('submitMany', { concurrency: 3 }, () => {
  test('with more inputs than slots accepts the first ones, and answers in order', async () => {
    await using scheduler = await start((batch) => batch.inputs.map((input) => 10 * input), { profile: [1] }, { maxInFlight: 32 });
    for (let round = 0; round < 5; round++) {
      const settled = await scheduler.submitMany('m', Array.from({ length: 100 }, (_, i) => i));
      assert.equal(settled.length, 100);
      settled.forEach((result, i) => {
        if (i < 32) assert.deepEqual(result, { status: 'fulfilled', value: 10 * i });
        else if (result.status === 'rejected') checkOverloaded(result.reason);
        else assert.fail(`${i} was accepted`);
      });
    }
    assert.deepEqual([scheduler.stats().accepted, scheduler.stats().refused], [160, 340]);
  });

  test('with more inputs than the queue takes ends the rest as overloaded', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { maxQueue: 5 });
    const first = scheduler.submit('m', 0);
    await gate.reached(1);
    const many = scheduler.submitMany('m', Array.from({ length: 20 }, (_, i) => i));
    while (scheduler.stats().dropped < 15) await sleep(1);
    gate.open();
    const settled = await many;
    settled.forEach((result, i) => {
      if (i < 5) assert.deepEqual(result, { status: 'fulfilled', value: 10 * i });
      else if (result.status === 'rejected') checkOverloaded(result.reason);
      else assert.fail(`${i} was accepted`);
    });
    await first;
  });

  test('of nothing is nothing', async () => {
    await using scheduler = await start((batch) => batch.inputs);
    assert.deepEqual(await scheduler.submitMany('m', []), []);
  });
});

describe('credit', { concurrency: 3 }, () => {
  test('is what is accepted next, where the slots are the limit', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, {}, { maxInFlight: 64 });
    assert.equal(scheduler.credit('m'), 64);
    const results = [scheduler.submit('m', 0), scheduler.submit('m', 1)];
    assert.equal(scheduler.credit('m'), 62);
    await gate.reached(1);
    const credit = scheduler.credit('m');
    assert.equal(credit, 62);
    for (let i = 0; i < credit; i++) {
      const tried = scheduler.trySubmit('m', i);
      assert.ok(tried.accepted, `${i} of ${credit}`);
      results.push(tried.result);
    }
    assert.equal(scheduler.credit('m'), 0);
    assert.equal(scheduler.trySubmit('m', 1).accepted, false);
    gate.open();
    await Promise.all(results);
    assert.equal(scheduler.credit('m'), 64);
  });

  test('is what is accepted next, where the queue is the limit', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { maxQueue: 7 });
    const results = [scheduler.submit('m', 0)];
    await gate.reached(1);
    const queued = async (count: number): Promise<void> => {
      while (scheduler.stats().models[0]!.queued !== count) await sleep(1);
    };
    await queued(0);
    results.push(scheduler.submit('m', 1), scheduler.submit('m', 2));
    await queued(2);
    const credit = scheduler.credit('m');
    assert.equal(credit, 5);
    for (let i = 0; i < credit; i++) results.push(scheduler.submit('m', i));
    await queued(7);
    assert.equal(scheduler.stats().dropped, 0);
    assert.equal(scheduler.credit('m'), 0);
    await assert.rejects(scheduler.submit('m', 1), (error) => (checkOverloaded(error), true));
    gate.open();
    await Promise.all(results);
    await queued(0);
    assert.equal(scheduler.credit('m'), 7);
  });

  test('counts what the scheduler has not seen yet', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { maxQueue: 7 });
    const results = [scheduler.submit('m', 0)];
    await gate.reached(1);
    // All in one turn: nobody else has looked in between.
    let refused = 0;
    for (let i = 0; i < 20; i++) {
      if (scheduler.credit('m') === 0) refused++;
      else results.push(scheduler.submit('m', i));
    }
    gate.open();
    await Promise.all(results);
    assert.ok(refused >= 13, `${refused}`);
    assert.equal(scheduler.stats().dropped, 0);
  });

  test('grows again by what is cancelled, and is 0 once it closes', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, {}, { maxInFlight: 32 });
    const first = scheduler.submit('m', 0);
    await gate.reached(1);
    const controller = new AbortController();
    const settled = Promise.allSettled(Array.from({ length: 31 }, () => scheduler.submit('m', 0, { signal: controller.signal })));
    assert.equal(scheduler.credit('m'), 0);
    controller.abort();
    await settled;
    while (scheduler.inFlight > 1) await sleep(1);
    assert.equal(scheduler.credit('m'), 31);
    const closing = scheduler.close();
    assert.equal(scheduler.credit('m'), 0);
    gate.open();
    await Promise.all([first, closing]);
    assert.equal(scheduler.credit('m'), 0);
  });

  test('is the room of one model, and unknown for a model that is not there', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, {}, { models: [{ ...MODEL, maxQueue: 3 }, { ...MODEL, name: 'n' }], maxInFlight: 32 });
    assert.deepEqual([scheduler.credit('m'), scheduler.credit('n')], [3, 32]);
    const first = scheduler.submit('n', 1);
    await gate.reached(1);
    assert.deepEqual([scheduler.credit('m'), scheduler.credit('n')], [3, 31]);
    assert.throws(() => scheduler.credit('o'), UnknownModelError);
    gate.open();
    await first;
  });
});

describe('retryAfterMs', { concurrency: 3 }, () => {
  test('is long enough for a retry to be accepted, with slots', async () => {
    await using scheduler = await start(async (batch) => {
      await sleep(1);
      return batch.inputs;
    }, { slo: '5s', profile: Array.from({ length: 32 }, () => 5) }, { maxInFlight: 32 });
    const many = scheduler.submitMany('m', Array.from({ length: 32 }, (_, i) => i));
    const tried = scheduler.trySubmit('m', 1);
    assert.ok(!tried.accepted);
    checkOverloaded(tried.reason);
    assert.equal(tried.reason.retryAfterMs, 2500);
    await sleep(tried.reason.retryAfterMs);
    const again = scheduler.trySubmit('m', 1);
    assert.ok(again.accepted);
    await Promise.allSettled([again.result, many]);
  });

  test('is long enough for a retry to be accepted, with a full queue', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { slo: '2.4s', maxQueue: 2 });
    const results = [scheduler.submit('m', 0, { slo: '20s' })];
    await gate.reached(1);
    results.push(scheduler.submit('m', 1), scheduler.submit('m', 2));
    const settled = Promise.allSettled(results);
    let retryAfterMs = 0;
    await assert.rejects(scheduler.submit('m', 3), (error) => {
      checkOverloaded(error);
      retryAfterMs = error.retryAfterMs;
      return true;
    });
    assert.equal(retryAfterMs, 1200);
    await sleep(retryAfterMs);
    const again = scheduler.submit('m', 4);
    await sleep(5);
    gate.open();
    assert.ok([40, undefined].includes(await again.catch((error: unknown) => assert.ok(!(error instanceof OverloadedError))) as number | undefined));
    await settled;
  });

  test('is at least 1 ms, however short the SLO', async () => {
    await using scheduler = await start((batch) => batch.inputs, { slo: '0.5ms', profile: [0.1] }, { maxInFlight: 32 });
    const settled = await scheduler.submitMany('m', Array.from({ length: 40 }, (_, i) => i));
    for (const result of settled.slice(32)) {
      assert.ok(result.status === 'rejected');
      checkOverloaded(result.reason);
      assert.equal(result.reason.retryAfterMs, 1);
    }
  });
});
