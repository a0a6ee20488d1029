/** `rubato/testing` as a user's test sees it. ℓ(b) = b + 5 ms and an SLO of 25 ms unless a test says otherwise. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, test } from 'node:test';
import { type Batch, ClosedError, type CallbackDeviceOptions, DeviceError, ExpiredError, InvalidOptionError, OverloadedError, Scheduler, type SchedulerOptions, UnknownModelError } from '#rubato/index.js';
import { createTestScheduler, TestScheduler } from '#rubato/testing.js';

const timing = { slo: '25ms', profile: { alpha: '1ms', beta: '5ms', maxBatch: 8 } } as const;
const model = { name: 'm', ...timing } as const;
const small = { maxInFlight: 1024, maxClients: 2 } as const;

/** One model, and a callback that doubles. */
function doubling(seen: number[][] = []) {
  return { ...small, models: [model], devices: [{ kind: 'callback', execute: (batch: Batch<number>) => (seen.push([...batch.inputs]), batch.inputs.map((x) => 2 * x)) }] } as const;
}

const emulated = { ...small, models: [model], devices: [{ kind: 'emulated' }] } as const;

/** A profile of one request per batch, started at once. */
const alone = (ms: number, slo: string | number = '1s') => ({ name: 'm', slo, profile: [ms], condition: 'immediate' }) as const;

/** Notes at which virtual time each promise settles. */
class Log {
  readonly lines: string[] = [];
  constructor(readonly scheduler: { readonly nowMs: number }) {}

  note(name: string, promise: Promise<unknown>): void {
    promise.then(
      (value) => this.lines.push(`${this.scheduler.nowMs} ${name} ${String(value)}`),
      (error: Error) => this.lines.push(`${this.scheduler.nowMs} ${name} ${error.constructor.name}`),
    );
  }
}

describe('time', () => {
  test('stands still until advance', async () => {
    const scheduler = await createTestScheduler(doubling());
    const log = new Log(scheduler);
    log.note('request', scheduler.submit('m', 21));
    await sleep(40);
    assert.equal(scheduler.nowMs, 0);
    assert.deepEqual(log.lines, []);
    await scheduler.advance('23.999999ms');
    assert.deepEqual(log.lines, []);
    await scheduler.advance('1ns');
    assert.deepEqual(log.lines, ['24 request 42']); // the handlers have run before advance resolves
    await scheduler.close();
  });

  test('passes to a point, in ms or as a duration, and never back', async () => {
    const scheduler = await createTestScheduler(emulated);
    await scheduler.advanceTo(7);
    await scheduler.advanceTo('9ms');
    await scheduler.advance(0.5);
    assert.equal(scheduler.nowMs, 9.5);
    await assert.rejects(scheduler.advanceTo('9ms'), (error: Error) => error instanceof InvalidOptionError && /got 9ms, it is 9.5 ms already/.test(error.message));
    await assert.rejects(scheduler.advance(-1), InvalidOptionError);
    await assert.rejects(scheduler.advance('soon'), InvalidOptionError);
    assert.equal(scheduler.nowMs, 9.5);
    await scheduler.close();
  });

  test('passes one advance after the other when they are not awaited', async () => {
    const scheduler = await createTestScheduler(emulated);
    const reached: number[] = [];
    await Promise.all([3, 4, 5].map((ms) => scheduler.advance(ms).then(() => reached.push(scheduler.nowMs))));
    assert.equal(scheduler.nowMs, 12);
    assert.deepEqual(reached, [3, 7, 12]);
    await scheduler.close();
  });

  test('lets who answers a result with a new request do so at its moment', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [alone(10)], devices: [{ kind: 'emulated' }] });
    const ends: number[] = [];
    void (async () => {
      for (let i = 0; i < 5; i++) {
        await scheduler.submit('m', null);
        ends.push(scheduler.nowMs);
      }
    })();
    await scheduler.advance('45ms');
    assert.deepEqual(ends, [10, 20, 30, 40]);
    await scheduler.close();
  });

  test('lets a program that is about to submit do so first', async () => {
    const scheduler = await createTestScheduler(doubling());
    const log = new Log(scheduler);
    log.note('late to it', (async () => {
      for (let i = 0; i < 20; i++) await Promise.resolve();
      return scheduler.submit('m', 1);
    })());
    await scheduler.advance('24ms');
    assert.deepEqual(log.lines, ['24 late to it 2']);
    await scheduler.close();
  });

  test('runs until idle, and says when a program never is', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [alone(10)], devices: [{ kind: 'emulated' }] });
    const log = new Log(scheduler);
    for (const name of ['a', 'b', 'c']) log.note(name, scheduler.submit('m', null));
    await scheduler.runUntilIdle();
    assert.deepEqual(log.lines, ['10 a undefined', '20 b undefined', '30 c undefined']);
    assert.equal(scheduler.nowMs, 30);
    void (async () => {
      for (;;) await scheduler.submit('m', null);
    })().catch(() => {});
    await assert.rejects(scheduler.runUntilIdle('200ms'), /after 200ms there is still something under way: 1 requests/);
    assert.equal(scheduler.nowMs, 230);
    await scheduler.close();
  });

  test('says so when a program answers every answer at once and for ever', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [{ ...model, maxQueue: 1 }], devices: [{ kind: 'emulated' }] });
    const first = scheduler.submit('m', null);
    let isEager = true;
    void (async () => {
      while (isEager) await scheduler.submit('m', null).catch(() => {});
    })();
    await assert.rejects(scheduler.advance('25ms'), /time stands still at 0 ms/);
    isEager = false;
    await scheduler.close();
    await assert.rejects(first, ClosedError);
  });

  test('passes by the million ms for nothing when nothing is under way', async () => {
    const scheduler = await createTestScheduler(doubling());
    void scheduler.submit('m', 1);
    await scheduler.advance('25ms');
    const before = process.cpuUsage();
    for (let i = 0; i < 10; i++) await scheduler.advance(1e5);
    const { user, system } = process.cpuUsage(before);
    assert.equal(scheduler.nowMs, 1_000_025);
    assert.ok(user + system < 500e3, `${user + system} µs of processor time`);
    await scheduler.close();
  });
});

describe('requests', () => {
  test('are batched by the rules: a lone one starts at frontrun, d − ℓ(2)', async () => {
    const scheduler = await createTestScheduler(doubling());
    await scheduler.advance(100);
    const result = scheduler.submitDetailed('m', 5);
    await scheduler.advance('25ms');
    assert.deepEqual(await result, { output: 10, late: false, queueMs: 18, execMs: 6, latencyMs: 24, batchSize: 1, gpu: 0, requestId: 1 });
    await scheduler.close();
  });

  test('are batched by the rules: two start together at d − ℓ(3), and a full batch at once', async () => {
    const seen: number[][] = [];
    const scheduler = await createTestScheduler(doubling(seen));
    const log = new Log(scheduler);
    log.note('a', scheduler.submit('m', 1));
    await scheduler.advance('16ms');
    log.note('b', scheduler.submit('m', 2));
    await scheduler.advance('20ms');
    assert.deepEqual(log.lines, ['24 a 2', '24 b 4']);
    await scheduler.advanceTo('50ms');
    for (let i = 0; i < 8; i++) log.note(`${i}`, scheduler.submit('m', i));
    await scheduler.advanceTo('63ms');
    assert.deepEqual(log.lines.slice(2), Array.from({ length: 8 }, (_, i) => `63 ${i} ${2 * i}`));
    assert.deepEqual(seen, [[1, 2], [0, 1, 2, 3, 4, 5, 6, 7]]);
    await scheduler.close();
  });

  test('keep the margins that are given: the same start, earlier by c, r and j', async () => {
    const scheduler = await createTestScheduler({ ...doubling(), margins: { response: '2ms', jitter: '1ms' } });
    const result = scheduler.submitDetailed('m', 5);
    await scheduler.advance('25ms');
    assert.equal((await result).queueMs, 15);
    await scheduler.close();
  });

  test('expire at the moment after which they cannot be met', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [alone(10, '15ms')], devices: [{ kind: 'emulated' }] });
    const log = new Log(scheduler);
    log.note('runs', scheduler.submit('m', null));
    const expired = scheduler.submit('m', null);
    log.note('waits', expired);
    await scheduler.advance('5ms');
    assert.deepEqual(log.lines, []);
    await scheduler.advance('1ns');
    assert.deepEqual(log.lines, ['5.000001 waits ExpiredError']);
    await assert.rejects(expired, (error: Error) => error instanceof ExpiredError && error.waitedMs === 5.000001);
    await scheduler.close();
  });

  test('may be looked at after they were rejected, as those of a lease and of trySubmit', async () => {
    const tensors = { inputs: { x: { dtype: 'float32', shape: [1] } }, outputs: { y: { dtype: 'float32', shape: [1] } } } as const;
    const scheduler = await createTestScheduler({ ...small, models: [{ ...alone(10), ...tensors }], devices: [{ kind: 'emulated' }] });
    for (let i = 0; i < 4; i++) scheduler.failNext();
    const lease = scheduler.reserve('m');
    const tried = scheduler.trySubmit('m', { x: new Float32Array(1) });
    assert.ok(tried.accepted);
    const promises = [tried.result, scheduler.submit('m', { x: new Float32Array(1) }), scheduler.submitDetailed('m', { x: new Float32Array(1) }), lease.submit()];
    await scheduler.advance('50ms');
    await sleep(1);
    for (const promise of promises) await assert.rejects(promise, DeviceError);
    lease.release();
    await scheduler.close();
  });

  test('wait for a device when the last one is gone, and end with the scheduler', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [{ ...alone(10, '20ms'), dropPolicy: 'never' }], devices: [{ kind: 'emulated' }] });
    const log = new Log(scheduler);
    await scheduler.removeDevice(0);
    log.note('late', scheduler.submit('m', null));
    await scheduler.runUntilIdle();
    assert.equal(scheduler.inFlight, 1);
    await scheduler.advanceTo('1s');
    await scheduler.addDevice({ kind: 'emulated' });
    await scheduler.runUntilIdle();
    assert.deepEqual(log.lines, ['1010 late undefined']);
    await scheduler.removeDevice(0);
    log.note('never', scheduler.submit('m', null));
    await scheduler.advance('1s');
    await scheduler.close();
    assert.equal(log.lines[1], '2010 never ClosedError');
  });

  test('are let go by their signal, and leave their place to others', async () => {
    const seen: number[][] = [];
    const scheduler = await createTestScheduler(doubling(seen));
    const controller = new AbortController();
    const aborted = scheduler.submit('m', 1, { signal: controller.signal });
    const other = scheduler.submit('m', 2);
    await scheduler.advance('10ms');
    controller.abort(new Error('not wanted'));
    await assert.rejects(aborted, /not wanted/);
    await scheduler.advance('8ms');
    await scheduler.advance('6ms');
    assert.equal(await other, 4);
    assert.equal(scheduler.nowMs, 24); // as for a lone one
    assert.deepEqual(seen, [[2]]);
    assert.equal(scheduler.stats().cancelled, 1);
    await scheduler.close();
  });

  test('have an SLO of their own, a credit, a drain, and end together by submitMany', async () => {
    const scheduler = await createTestScheduler({ ...doubling(), models: [{ ...model, maxQueue: 3 }] });
    const log = new Log(scheduler);
    log.note('hasty', scheduler.submit('m', 1, { slo: '10ms' }));
    await scheduler.advance('1ms');
    assert.equal(scheduler.credit('m'), 2);
    const many = scheduler.submitMany('m', [5, 6, 7]);
    log.note('drained', scheduler.drain());
    await scheduler.advance('40ms');
    const results = await many;
    assert.deepEqual(results.slice(0, 2), [{ status: 'fulfilled', value: 10 }, { status: 'fulfilled', value: 12 }]);
    assert.ok(results[2]?.status === 'rejected' && results[2].reason instanceof OverloadedError);
    assert.match(log.lines.join(), /^\d+ hasty 2,\d+ drained undefined$/);
    await scheduler.close();
  });

  test('of raw clients count as well', async () => {
    const scheduler = await createTestScheduler(emulated);
    const raw = scheduler.client();
    const slot = raw.submit(raw.model('m'), raw.nowNs());
    raw.commit();
    await scheduler.advance('23ms');
    assert.equal(raw.drain(), 0);
    await scheduler.advance('1ms');
    assert.equal(raw.drain(), 1);
    assert.equal(raw.slots[0], slot);
    raw.close();
    await scheduler.close();
  });

  test('of other threads are refused: their clocks are real', async () => {
    const scheduler = await createTestScheduler(emulated);
    assert.throws(() => scheduler.ticket(), /a test scheduler has no tickets/);
    await scheduler.close();
  });
});

describe('tensors', () => {
  const tensors = { inputs: { x: { dtype: 'float32', shape: [2] } }, outputs: { y: { dtype: 'float64', shape: [] } } } as const;

  test('go through callbacks one by one and stacked, and through leases in place', async () => {
    let stacked = false;
    const scheduler = await createTestScheduler({
      ...small,
      models: [{ ...model, ...tensors }],
      devices: [{
        kind: 'callback',
        execute: (batch) => {
          const x = batch.stack('x');
          const y = Float64Array.from({ length: batch.size }, (_, i) => Number(x[2 * i]) + Number(x[2 * i + 1]));
          return stacked ? { y } : Array.from(y, (value) => ({ y: Float64Array.of(value) }));
        },
      }],
    });
    for (stacked of [false, true]) {
      const lease = scheduler.reserve('m');
      lease.inputs.x.set([3, 4]);
      const results = [scheduler.submit('m', { x: Float32Array.of(1, 2) }), lease.submit()] as const;
      await scheduler.advance('25ms');
      assert.deepEqual((await Promise.all(results)).map(({ y }) => y[0]), [3, 7]);
      assert.equal(lease.outputs.y[0], 7);
      lease.release();
    }
    await scheduler.close();
  });

  test('are zeros on an emulated device', async () => {
    const scheduler = await createTestScheduler({ ...emulated, models: [{ ...model, ...tensors }] });
    const result = scheduler.submit('m', { x: Float32Array.of(1, 2) });
    await scheduler.advance('25ms');
    assert.deepEqual(await result, { y: Float64Array.of(0) });
    await scheduler.close();
  });
});

describe('callbacks', () => {
  test('are called when their batch ends, and time stands still while they run', async () => {
    let began = -1;
    const scheduler: TestScheduler = await createTestScheduler({
      ...small,
      models: [alone(10), { ...alone(10), name: 'other' }],
      devices: [{ kind: 'callback', execute: async (batch) => {
        began = scheduler.nowMs;
        await sleep(20);
        return batch.inputs.map(() => scheduler.nowMs);
      } }],
    });
    const result = scheduler.submit('m', null);
    await scheduler.advance('30ms');
    assert.equal(began, 10);
    assert.equal(await result, 10);
    assert.equal(scheduler.nowMs, 30);
    await scheduler.close();
  });

  test('that end in another order than their batches give the same run', async () => {
    const run = async (delaysMs: number[]): Promise<string[]> => {
      const scheduler = await createTestScheduler({ ...small, models: [alone(10)], devices: [{ kind: 'callback', count: 2, execute: async (batch) => {
        await sleep(delaysMs[batch.gpu]);
        return batch.inputs;
      } }] });
      const log = new Log(scheduler);
      for (let i = 0; i < 6; i++) log.note(`${i}`, scheduler.submit('m', i));
      await scheduler.runUntilIdle();
      await scheduler.close();
      return log.lines;
    };
    const lines = await run([0, 8]);
    assert.deepEqual(lines, ['10 0 0', '10 1 1', '20 2 2', '20 3 3', '30 4 4', '30 5 5']);
    assert.deepEqual(await run([8, 0]), lines);
  });

  test('fail their batch alone by what they throw, reject with or give', async () => {
    const outcomes: (() => unknown)[] = [
      () => { throw new Error('thrown'); },
      () => Promise.reject(new Error('rejected')),
      () => [],
      () => [5],
    ];
    const scheduler = await createTestScheduler({ ...small, models: [alone(10)], devices: [{ kind: 'callback', execute: () => outcomes.shift()!() as number[] }] });
    const log = new Log(scheduler);
    for (let i = 0; i < 4; i++) log.note(`${i}`, scheduler.submit('m', i));
    await scheduler.runUntilIdle();
    assert.deepEqual(log.lines, ['10 0 DeviceError', '20 1 DeviceError', '30 2 DeviceError', '40 3 5']);
    await scheduler.close();
  });

  test('may submit, and cannot move time', async () => {
    const log: string[] = [];
    const scheduler: TestScheduler = await createTestScheduler({ ...small, models: [alone(10), { ...alone(5), name: 'next' }], devices: [{ kind: 'callback', execute: async (batch) => {
      if (batch.model === 'm') void scheduler.submit('next', null).then(() => log.push(`next ${scheduler.nowMs}`));
      await scheduler.advance('1ms').catch((error: Error) => log.push(error.message));
      return batch.inputs;
    } }] });
    void scheduler.submit('m', null);
    await scheduler.advance('20ms');
    assert.match(log.join(), /^time stands still while execute runs.*,time stands still.*,next 15$/);
    await scheduler.close();
  });

  test('get the values of the requests that are left when one was aborted while its batch ran', async () => {
    const seen: number[][] = [];
    const scheduler = await createTestScheduler(doubling(seen));
    const controller = new AbortController();
    const [aborted, other] = [scheduler.submit('m', 1, { signal: controller.signal }), scheduler.submit('m', 2)];
    await scheduler.advance('20ms');
    controller.abort();
    await scheduler.advance('5ms');
    await assert.rejects(aborted, { name: 'AbortError' });
    assert.equal(await other, 4);
    assert.deepEqual(seen, [[1, 2]]);
    await scheduler.close();
  });
});

describe('failNext', () => {
  test('fails the next batch of a model, on any device, with its cause, and only that', async () => {
    for (const devices of [[{ kind: 'emulated' }], [{ kind: 'callback', execute: (batch: Batch) => batch.inputs }]] as SchedulerOptions['devices'][]) {
      const scheduler = await createTestScheduler({ ...small, models: [alone(10), { ...alone(10), name: 'other' }], devices });
      const log = new Log(scheduler);
      const cause = new Error('out of memory');
      scheduler.failNext('m', cause);
      log.note('other', scheduler.submit('other', 0));
      const failed = scheduler.submit('m', 1);
      log.note('first', failed);
      log.note('second', scheduler.submit('m', 2));
      await scheduler.runUntilIdle();
      assert.deepEqual(log.lines.map((line) => line.replace(/ (undefined|\d)$/, ' ok')), ['10 first DeviceError', '20 second ok', '30 other ok']);
      await assert.rejects(failed, (error: Error) => error instanceof DeviceError && error.cause === cause && /out of memory/.test(error.message));
      assert.equal(scheduler.stats().failed, 1);
      await scheduler.close();
    }
  });

  test('does not call execute, and fails any model when none is named', async () => {
    const seen: number[][] = [];
    const scheduler = await createTestScheduler(doubling(seen));
    scheduler.failNext();
    const failed = scheduler.submit('m', 1);
    await scheduler.advance('25ms');
    await assert.rejects(failed, /failNext.*device failure/);
    assert.deepEqual(seen, []);
    assert.throws(() => scheduler.failNext('n' as 'm'), UnknownModelError);
    await scheduler.close();
  });

  test('among callbacks of the same moment fails one and keeps their order', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [alone(10), { ...alone(10), name: 'other' }], devices: [{ kind: 'callback', count: 3, execute: async (batch) => {
      await sleep(5);
      return batch.inputs;
    } }] });
    const log = new Log(scheduler);
    scheduler.failNext('other');
    for (const [name, i] of [['m', 0], ['other', 1], ['m', 2]] as const) log.note(`${i}`, scheduler.submit(name, i));
    await scheduler.runUntilIdle();
    assert.deepEqual(log.lines.sort(), ['10 0 0', '10 1 DeviceError', '10 2 2']);
    await scheduler.close();
  });
});

describe('a run', () => {
  async function run(seed: number, shards = 1): Promise<string[]> {
    const scheduler = await createTestScheduler({
      ...small,
      shards,
      models: [model, { ...model, name: 'n', slo: '40ms' }, { ...model, name: 'o', dropPolicy: 'never' }],
      devices: [{ kind: 'emulated', count: 2, jitter: 0.3, slowdown: 1.2, failureRate: 0.1, seed }, { kind: 'callback', execute: (batch) => batch.inputs }],
    });
    const log = new Log(scheduler);
    let state = 7;
    for (let i = 0; i < 1000; i++) {
      state = (state * 16807) % 2147483647; // arrivals of their own seed
      log.note(`${i}`, scheduler.submit((['m', 'n', 'o'] as const)[state % 3]!, i));
      await scheduler.advance((state % 1000) / 1000);
    }
    await scheduler.runUntilIdle();
    const { models, gpus, uptimeMs } = scheduler.stats();
    log.lines.push(JSON.stringify({ models, gpus, uptimeMs }));
    await scheduler.close();
    return log.lines;
  }

  test('repeats exactly with one seed, and not with another', async () => {
    const first = await run(3);
    assert.equal(first.length, 1001);
    for (const outcome of [/ undefined$/, / DeviceError$/, / ExpiredError$/, / \d+ \d+$/]) assert.ok(first.some((line) => outcome.test(line)), `no ${outcome.source}`);
    assert.deepEqual(await run(3), first);
    assert.notDeepEqual(await run(4), first);
  });

  test('does not depend on the number of shards', async () => {
    const order = (lines: string[]): string[] => lines.slice(0, -1).sort();
    assert.deepEqual(order(await run(3, 3)), order(await run(3)));
  });
});

describe('changes', () => {
  test('of models take no time, and what they wait for comes with it', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [alone(10)], devices: [{ kind: 'emulated' }] });
    const wider = await scheduler.addModel({ ...alone(20), name: 'n' });
    assert.equal(wider, scheduler as unknown);
    await scheduler.updateModel('m', { profile: [30] });
    assert.equal(scheduler.nowMs, 0);
    const log = new Log(scheduler);
    log.note('m', scheduler.submit('m', null));
    log.note('n', wider.submit('n', null));
    log.note('removed', scheduler.removeModel('m'));
    await assert.rejects(scheduler.submit('m', null), UnknownModelError);
    await scheduler.advance('29ms');
    assert.deepEqual(log.lines, []);
    await scheduler.advance('21ms');
    assert.deepEqual(log.lines, ['30 m undefined', '30 removed undefined', '50 n undefined']);
    await scheduler.addModel(alone(10));
    log.note('again', scheduler.submit('m', null));
    await scheduler.advance('10ms');
    assert.equal(log.lines[3], '60 again undefined');
    await scheduler.close();
  });

  test('of models by whoever gets a result happen at its moment', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [alone(10)], devices: [{ kind: 'emulated' }] });
    const log = new Log(scheduler);
    log.note('added', scheduler.submit('m', null).then(async () => {
      const wider = await scheduler.addModel({ ...alone(5), name: 'n' });
      log.note('n', wider.submit('n', null));
    }));
    await scheduler.advance('100ms');
    assert.deepEqual(log.lines, ['10 added undefined', '15 n undefined']);
    await scheduler.close();
  });

  test('of devices: one that comes takes batches at once, one that goes ends its batch first', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [alone(10)], devices: [{ kind: 'emulated' }] });
    const log = new Log(scheduler);
    const calls: number[] = [];
    for (let i = 0; i < 3; i++) log.note(`${i}`, scheduler.submit('m', i));
    await scheduler.advance('1ms');
    const numbers = await scheduler.addDevice({ kind: 'callback', execute: async (batch: Batch<never>) => (await sleep(3), calls.push(scheduler.nowMs), batch.inputs) });
    assert.deepEqual(numbers, [1]);
    log.note('gone', scheduler.removeDevice(0));
    await scheduler.advance('100ms');
    assert.deepEqual(log.lines.slice(0, 1), ['10 0 undefined']);
    assert.deepEqual(log.lines.slice(1).sort(), ['10 gone undefined', '11 1 1', '21 2 2'].sort());
    assert.deepEqual(calls, [11, 21]);
    assert.equal(await scheduler.rebalance(), 0);
    await scheduler.close();
  });

  test('that are wrong are refused as ever', async () => {
    const scheduler = await createTestScheduler(emulated);
    await assert.rejects(scheduler.addModel(model), InvalidOptionError);
    await assert.rejects(scheduler.addDevice(null as unknown as CallbackDeviceOptions<never, unknown>), InvalidOptionError);
    await assert.rejects(scheduler.addDevice({ kind: 'callback' } as CallbackDeviceOptions<never, unknown>), /execute/);
    await assert.rejects(createTestScheduler({ ...emulated, topology: 'none' as 'split' }), InvalidOptionError);
    await scheduler.close();
  });
});

describe('close', () => {
  test('settles everything: what waits is refused, what runs ends in its time', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [alone(10)], devices: [{ kind: 'callback', execute: async (batch) => (await sleep(5), batch.inputs) }] });
    const log = new Log(scheduler);
    for (let i = 0; i < 2; i++) log.note(`${i}`, scheduler.submit('m', i));
    await scheduler.advance('4ms');
    const closing = scheduler.close();
    assert.equal(scheduler.close(), closing);
    await scheduler.advance('3ms'); // as a program that is being shut down may be tested
    await closing;
    assert.deepEqual(log.lines, ['4 1 ClosedError', '10 0 0']);
    assert.equal(scheduler.nowMs, 13);
    await assert.rejects(scheduler.submit('m', 0), ClosedError);
    await assert.rejects(scheduler.updateModel('m', {}), ClosedError);
    await scheduler.advance('1s');
  });

  test('before time has begun refuses what was submitted', async () => {
    const scheduler = await createTestScheduler(emulated);
    const request = scheduler.submit('m', null);
    await scheduler.close();
    await assert.rejects(request, ClosedError);
    assert.equal(scheduler.nowMs, 0);
    assert.deepEqual(scheduler.stats().gpus, [{ gpu: 0, kind: 'emulated', batches: 0, busyShare: 0 }]);
  });

  test('may come from whoever gets a result, in the middle of an advance', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [alone(10)], devices: [{ kind: 'emulated' }] });
    const log = new Log(scheduler);
    log.note('first', scheduler.submit('m', null));
    log.note('second', scheduler.submit('m', null));
    log.note('third', scheduler.submit('m', null));
    log.note('closed', scheduler.submit('m', null, { slo: '500ms' }).then(() => scheduler.close()));
    await scheduler.advance('1m');
    assert.equal(log.lines.length, 4);
    assert.ok(log.lines.every((line) => Number(line.split(' ')[0]) <= 20), log.lines.join());
    assert.ok(log.lines.some((line) => line.endsWith('closed undefined')));
  });

  test('gives up a batch that takes for ever after 5 s of virtual time', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [alone(10)], devices: [{ kind: 'emulated', slowdown: 1e6 }] });
    const request = scheduler.submit('m', null);
    await scheduler.advance('1ms');
    await scheduler.close();
    await assert.rejects(request, ClosedError);
    assert.equal(scheduler.nowMs, 5001);
  });

  test('gives up a callback that never ends, and the advance that waits for it', async () => {
    const scheduler = await createTestScheduler({ ...small, models: [alone(10)], devices: [{ kind: 'callback', execute: () => new Promise<never>(() => {}) }] });
    const request = scheduler.submit('m', null);
    const advanced = scheduler.advance('1s');
    await sleep(10);
    await scheduler.close(); // after 5 s of real time
    await advanced;
    await assert.rejects(request, ClosedError);
  });
});

describe('the process', () => {
  /** Runs a program, which must end by itself. */
  function run(body: string): string {
    const url = new URL('../../../dist/testing.js', import.meta.url).href;
    const program = `import { createTestScheduler } from ${JSON.stringify(url)};\nconst options = ${JSON.stringify(emulated)};\n${body}`;
    const { stdout, stderr, signal } = spawnSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8', timeout: 30_000, cwd: fileURLToPath(new URL('.', import.meta.url)) });
    assert.equal(signal, null);
    return stdout + stderr;
  }

  test('has no thread, no timer and no handle more after close', () => {
    const output = run(`
      await new Promise((resolve) => setImmediate(resolve));
      const before = process.getActiveResourcesInfo();
      const scheduler = await createTestScheduler(options);
      const p = scheduler.submit('m', 1);
      await scheduler.advance(25);
      await p;
      await scheduler.close();
      await new Promise((resolve) => setImmediate(resolve));
      console.log(JSON.stringify([before, process.getActiveResourcesInfo()]));`);
    const [before, after] = JSON.parse(output) as [string[], string[]];
    assert.deepEqual(after, before);
  });

  test('ends though a scheduler is open, and though a request waits for a time that nobody advances', () => {
    const output = run(`
      const scheduler = await createTestScheduler(options);
      scheduler.submit('m', 1).finally(() => console.log('settled'));
      console.log('the end');`);
    assert.equal(output, 'the end\n');
  });
});

describe('fake timers', () => {
  test('do not stop it, and it does not move them', async (context) => {
    context.mock.timers.enable();
    let fired = false;
    setTimeout(() => (fired = true), 5);
    const scheduler = await createTestScheduler(doubling());
    const request = scheduler.submit('m', 1);
    await scheduler.advance('30ms');
    assert.equal(await request, 2);
    const added = await scheduler.addModel({ ...alone(5), name: 'n' });
    const open = [added.submit('n', 1), scheduler.submit('m', 1)];
    await scheduler.advance('1ms');
    await scheduler.close();
    assert.deepEqual((await Promise.allSettled(open)).map(({ status }) => status), ['fulfilled', 'rejected']);
    assert.equal(fired, false);
    context.mock.timers.tick(5);
    assert.equal(fired, true);
  });
});

test('it is a Scheduler to the program that is tested, with the types of its options', async () => {
  const scheduler = await createTestScheduler(doubling());
  const asScheduler: Scheduler<{ m: { input: number; output: number } }> = scheduler;
  assert.ok(asScheduler instanceof Scheduler && scheduler instanceof TestScheduler);
  // @ts-expect-error: no such model
  await assert.rejects(scheduler.submit('n', 1), UnknownModelError);
  // @ts-expect-error: no such input
  const wrong: Promise<number> = scheduler.submit('m', 'one');
  // @ts-expect-error: no such option
  await assert.rejects(createTestScheduler({ ...emulated, models: [{ ...model, maxbatch: 5 }] }), InvalidOptionError);
  await scheduler.close();
  await assert.rejects(wrong, ClosedError);
  assert.equal(scheduler.topology.threads, 1);
});

describe('the GPUs that are wanted', () => {
  const pool = { ...small, models: [model], devices: [{ kind: 'emulated', count: 4 }], advice: { epoch: '500ms', hysteresis: 2 } } as const;

  test('are told with the evidence: fewer when nothing comes, more when too much does', async () => {
    const scheduler = await createTestScheduler(pool);
    assert.deepEqual([scheduler.stats().gpusWanted.wanted, scheduler.stats().gpusWanted.reason], [4, 'starting']);
    for (let epoch = 0; epoch < 4; epoch++) await scheduler.advance('500ms');
    const idle = scheduler.stats().gpusWanted;
    assert.deepEqual([idle.wanted, idle.reason, idle.evidence.idleGpus, idle.evidence.usedGpus], [1, 'idle', 4, 0]);
    for (const gpu of [3, 2, 1]) await scheduler.removeDevice(gpu);
    // 2 requests per ms; in batches of 8, which take 13 ms, that keeps 3.25 GPUs busy.
    const ended: Promise<unknown>[] = [];
    for (let ms = 0; ms < 1000; ms++) {
      ended.push(scheduler.submit('m', ms).catch(() => {}), scheduler.submit('m', ms).catch(() => {}));
      await scheduler.advance('1ms');
    }
    const busy = scheduler.stats().gpusWanted;
    assert.ok(busy.wanted >= 4 && (busy.reason === 'load' || busy.reason === 'missed'), JSON.stringify(busy));
    assert.deepEqual([busy.evidence.gpus, busy.evidence.usedGpus, busy.evidence.epochSeconds], [1, 1, 0.5]);
    assert.ok(busy.evidence.missedRate > 0.5 && busy.evidence.busyGpus > 0.9 && Math.abs(busy.evidence.offeredPerSecond - 2000) < 50, JSON.stringify(busy));
    await scheduler.runUntilIdle();
    await Promise.all(ended);
    await scheduler.close();
  });
});
