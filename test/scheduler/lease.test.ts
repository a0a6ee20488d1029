import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { describe, test as testOf } from 'node:test';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import {
  ClosedError,
  createScheduler,
  DeviceError,
  type DeviceOptions,
  type ExecuteBatch,
  ExpiredError,
  InfeasibleError,
  InvalidOptionError,
  type Lease,
  LeaseError,
  type ModelOptions,
  OverloadedError,
  type Scheduler,
  type SchedulerOptions,
  UnknownModelError,
} from '#rubato/index.js';
import { PAGE_BYTES } from '#rubato/protocol/arena.js';

/** A batch has begun by then, on a machine that stands still for a while as well. */
const WHILE_IT_RUNS_MS = 500;

/** A scheduler that loses a request would hold its test for ever. */
const TEST_LIMIT_MS = 30_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

interface Types {
  m: { input: { x: Float32Array }; output: { y: Float32Array } };
  [name: string]: { input: { x: Float32Array }; output: { y: Float32Array } };
}
type Execute = ExecuteBatch<{ x: Float32Array }, { y: Float32Array }>;
type OneLease = Lease<Types['m']>;

/** Four requests fill the one page of memory; no batch is late by a stall of the machine. */
const ELEMENTS = PAGE_BYTES / 4 / 2 / 4;
const MODEL: ModelOptions = {
  name: 'm',
  slo: '20s',
  profile: ['2s', '2s'],
  condition: 'immediate',
  inputs: { x: { dtype: 'float32', shape: [ELEMENTS] } },
  outputs: { y: { dtype: 'float32', shape: [ELEMENTS] } },
};

const double: Execute = (batch) => batch.inputs.map(({ x }) => ({ y: x.map((value) => 2 * value) }));

function start(execute: Execute | null, model: Partial<ModelOptions> = {}, more: Partial<SchedulerOptions> = {}): Promise<Scheduler<Types>> {
  const device: DeviceOptions<never, unknown> = execute === null ? { kind: 'emulated' } : { kind: 'callback', execute };
  return createScheduler({ models: [{ ...MODEL, ...model }], devices: [device], memoryLimit: '64KiB', ...more } as SchedulerOptions) as unknown as Promise<Scheduler<Types>>;
}

/** A device whose batches last until the test lets them go. */
class Gate {
  started = 0;
  #open: (() => void)[] = [];
  #look: (() => void) | null = null;

  readonly execute: Execute = async (batch) => {
    this.started++;
    this.#look?.();
    await new Promise<void>((resolve) => this.#open.push(resolve));
    return double(batch);
  };

  async reached(count: number): Promise<void> {
    while (this.started < count) await new Promise<void>((resolve) => (this.#look = resolve));
  }

  open(): void {
    for (const open of this.#open.splice(0)) open();
  }
}

/** How many leases there is room for now. */
function room(scheduler: Scheduler<Types>): number {
  const leases: OneLease[] = [];
  for (;;) {
    try {
      leases.push(scheduler.reserve('m'));
    } catch (error) {
      assert.ok(error instanceof OverloadedError, String(error));
      break;
    }
  }
  for (const lease of leases) lease.release();
  return leases.length;
}

function isLeaseError(said: RegExp): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof LeaseError, String(error));
    assert.equal(error.code, 'ERR_RUBATO_LEASE');
    assert.equal(error.model, 'm');
    assert.match(error.message, said);
    return true;
  };
}

const REASON = new Error('no longer wanted');
const isReason = (error: unknown): boolean => error === REASON;

describe('a lease', { concurrency: 3 }, () => {
  test('is filled, submitted, read in place, submitted again and released', async () => {
    await using scheduler = await start(double);
    const lease = scheduler.reserve('m');
    assert.equal(lease.inputs.x.length, ELEMENTS);
    assert.equal(lease.inputs.x, lease.inputs.x, 'the same view each time');
    lease.inputs.x.fill(3);
    const outputs = await lease.submit();
    assert.equal(outputs, lease.outputs);
    assert.ok(outputs.y.every((value) => value === 6));
    assert.ok(outputs.y.buffer instanceof SharedArrayBuffer, 'no copy');
    lease.inputs.x[0] = 5;
    const again = await lease.submit();
    assert.equal(again.y, outputs.y, 'the same memory');
    assert.deepEqual([again.y[0], again.y[1]], [10, 6]);
    assert.equal(room(scheduler), 3);
    lease.release();
    assert.equal(room(scheduler), 4);
    assert.equal(scheduler.stats().completed, 2);
  });

  test('and others never share memory', async () => {
    await using scheduler = await start(double);
    const leases = [1, 2, 3, 4].map(() => scheduler.reserve('m'));
    leases.forEach((lease, i) => lease.inputs.x.fill(i));
    const outputs = await Promise.all(leases.map((lease) => lease.submit()));
    outputs.forEach(({ y }, i) => assert.ok(y.every((value) => value === 2 * i)));
    for (const lease of leases) lease.release();
  });

  test('has no outputs before a result, and none of the one before while it is in flight or has failed', async () => {
    let fails = false;
    await using scheduler = await start((batch) => (fails ? Promise.reject(new Error('out of paper')) : double(batch)));
    const lease = scheduler.reserve('m');
    assert.throws(() => lease.outputs, isLeaseError(/it has no result; await submit\(\) first/));
    await lease.submit();
    fails = true;
    const failing = lease.submit();
    assert.throws(() => lease.outputs, isLeaseError(/it has no result/));
    await assert.rejects(failing, DeviceError);
    assert.throws(() => lease.outputs, isLeaseError(/it has no result/));
    fails = false;
    lease.inputs.x.fill(1);
    assert.equal((await lease.submit()).y[0], 2, 'it can be used on');
    lease.release();
  });

  test('after its release refuses everything', async () => {
    await using scheduler = await start(double);
    const fresh = scheduler.reserve('m');
    fresh.release();
    const used = scheduler.reserve('m');
    await used.submit();
    used.release();
    for (const lease of [fresh, used]) {
      assert.throws(() => lease.release(), isLeaseError(/it was released again after its release/));
      assert.throws(() => lease.inputs, isLeaseError(/its inputs were used after its release/));
      assert.throws(() => lease.outputs, isLeaseError(/its outputs were used after its release/));
      await assert.rejects(lease.submit(), isLeaseError(/it was submitted after its release/));
    }
    assert.equal(room(scheduler), 4, 'and its memory was given back once');
    assert.equal(scheduler.stats().accepted, 1);
  });

  test('in flight refuses everything, and its request goes on', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute);
    const lease = scheduler.reserve('m');
    lease.inputs.x.fill(4);
    const result = lease.submit();
    const refuses = async (): Promise<void> => {
      assert.throws(() => lease.inputs, isLeaseError(/its inputs are the device's while the request is in flight/));
      assert.throws(() => lease.outputs, isLeaseError(/it has no result/));
      assert.throws(() => lease.release(), isLeaseError(/it was released while its request is in flight/));
      assert.throws(() => lease[Symbol.dispose](), isLeaseError(/it was released while its request is in flight/));
      await assert.rejects(lease.submit(), isLeaseError(/it was submitted while its request is in flight/));
    };
    await refuses();
    await gate.reached(1);
    await refuses();
    assert.equal(room(scheduler), 3);
    gate.open();
    assert.equal((await result).y[0], 8);
    lease.release();
    assert.equal(scheduler.stats().accepted, 1);
  });

  test('that is submitted again by who sees its result first stays in flight', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute);
    const [one, other] = [scheduler.reserve('m'), scheduler.reserve('m')];
    // Both end in one batch, and the first one's listener runs before any of the other's.
    const again = one.submit().then(() => other.submit());
    const result = other.submit();
    await gate.reached(1);
    gate.open();
    await result;
    await gate.reached(2);
    assert.throws(() => other.release(), isLeaseError(/in flight/));
    assert.throws(() => other.inputs, isLeaseError(/inputs are the device's/));
    gate.open();
    await again;
    one.release();
    other.release();
    assert.equal(room(scheduler), 4);
  });

  test('is only for a model with tensors that is there', async () => {
    await using scheduler = await createScheduler({ models: [{ name: 'v', slo: '1s', profile: [1] }], devices: [{ kind: 'emulated' }] }) as unknown as Scheduler<Types>;
    assert.throws(() => scheduler.reserve('v'), (error) => error instanceof InvalidOptionError && /'v' has no tensors to reserve memory for/.test(error.message));
    assert.throws(() => scheduler.reserve('w'), UnknownModelError);
  });

  test('of a model that was removed can still be released, and not submitted', async () => {
    await using scheduler = await start(double);
    const lease = scheduler.reserve('m');
    await scheduler.removeModel('m');
    await assert.rejects(lease.submit(), UnknownModelError);
    await scheduler.addModel({ ...MODEL, inputs: { x: { dtype: 'float32', shape: [1] } }, outputs: { y: { dtype: 'float32', shape: [1] } } } as ModelOptions);
    await assert.rejects(lease.submit(), UnknownModelError, 'nor to its successor of the same name');
    assert.throws(() => scheduler.reserve('m'), OverloadedError, 'the page is still the lease\'s');
    lease.release();
    assert.equal(room(scheduler), PAGE_BYTES / 128);
  });

  test('may be submitted with a signal and an SLO of its own, and leaves no listener', async () => {
    await using scheduler = await start(double);
    const lease = scheduler.reserve('m');
    const controller = new AbortController();
    await lease.submit({ signal: controller.signal, slo: '10s' });
    assert.equal(getEventListeners(controller.signal, 'abort').length, 0);
    controller.abort();
    assert.equal(lease.outputs.y.length, ELEMENTS);
    lease.release();
  });
});

describe('a lease that was refused', { concurrency: 3 }, () => {
  test('by an SLO that cannot be met, a wrong option or an aborted signal is as it was', async () => {
    await using scheduler = await start(double);
    const lease = scheduler.reserve('m');
    lease.inputs.x.fill(1);
    const refuse = async (): Promise<void> => {
      await assert.rejects(lease.submit({ slo: '1s' }), InfeasibleError);
      await assert.rejects(lease.submit({ slo: -1 }), InvalidOptionError);
      await assert.rejects(lease.submit({ signal: {} as AbortSignal }), InvalidOptionError);
      await assert.rejects(lease.submit({ signal: AbortSignal.abort(REASON) }), isReason);
    };
    await refuse();
    lease.inputs.x[0] = 2;
    assert.throws(() => lease.outputs, isLeaseError(/no result/));
    const { y } = await lease.submit();
    await refuse();
    assert.equal(lease.outputs.y, y, 'the result before it is still there');
    assert.deepEqual([y[0], y[1]], [4, 2]);
    lease.release();
    assert.equal(room(scheduler), 4);
  });

  test('for want of a slot can be submitted when there is one', async () => {
    const gate = new Gate();
    const small: Partial<ModelOptions> = { inputs: { x: { dtype: 'float32', shape: [1] } }, outputs: { y: { dtype: 'float32', shape: [1] } } };
    await using scheduler = await start(gate.execute, small, { maxInFlight: 32 });
    const lease = scheduler.reserve('m');
    lease.inputs.x[0] = 21;
    const controller = new AbortController();
    const others = Array.from({ length: 32 }, () => scheduler.submit('m', { x: new Float32Array(1) }, { signal: controller.signal }));
    const aborted = Promise.allSettled(others);
    await assert.rejects(lease.submit(), OverloadedError);
    lease.inputs.x[0] = 22;
    await gate.reached(1);
    controller.abort();
    await aborted;
    gate.open();
    await scheduler.drain();
    const result = lease.submit();
    await gate.reached(2);
    gate.open();
    assert.equal((await result).y[0], 44);
    lease.release();
    assert.equal(room(scheduler), PAGE_BYTES / 128);
  });

  test('by a full queue, or that has expired, can be submitted again', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { profile: ['2s'], maxQueue: 1 });
    const [running, queued, lease] = [scheduler.reserve('m'), scheduler.reserve('m'), scheduler.reserve('m')];
    const first = running.submit();
    await gate.reached(1);
    await assert.rejects(queued.submit({ slo: '2.3s' }), ExpiredError);
    const second = queued.submit();
    await assert.rejects(lease.submit(), OverloadedError);
    lease.inputs.x.fill(1);
    gate.open();
    await first;
    await gate.reached(2);
    const third = lease.submit();
    gate.open();
    await second;
    await gate.reached(3);
    gate.open();
    assert.equal((await third).y[0], 2);
    for (const each of [running, queued, lease]) each.release();
    assert.equal(room(scheduler), 4);
  });
});

describe('a lease whose request was aborted', { concurrency: 3 }, () => {
  test('on the device gives its memory back only when the device is done', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute);
    const lease = scheduler.reserve('m');
    const controller = new AbortController();
    const result = lease.submit({ signal: controller.signal });
    await gate.reached(1);
    controller.abort(REASON);
    await assert.rejects(result, isReason);
    assert.throws(() => lease.inputs, isLeaseError(/inputs are the device's/));
    assert.throws(() => lease.outputs, isLeaseError(/no result/));
    await assert.rejects(lease.submit(), isLeaseError(/in flight/));
    lease.release();
    await sleep(20);
    assert.equal(room(scheduler), 3, 'the device still writes to it');
    assert.throws(() => lease.release(), isLeaseError(/released again/));
    assert.throws(() => lease.inputs, LeaseError);
    await assert.rejects(lease.submit(), LeaseError);
    lease[Symbol.dispose](); // as the end of a `using` block does, and has nothing to say
    assert.equal(room(scheduler), 3);
    gate.open();
    await scheduler.drain();
    assert.equal(room(scheduler), 4);
    assert.throws(() => lease.release(), isLeaseError(/released again/));
    lease[Symbol.dispose]();
    assert.equal(room(scheduler), 4);
    assert.equal(scheduler.stats().cancelled, 1);
  });

  test('on the device can be used again when the device is done', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute);
    const lease = scheduler.reserve('m');
    const controller = new AbortController();
    const result = lease.submit({ signal: controller.signal });
    await gate.reached(1);
    controller.abort(REASON);
    await assert.rejects(result, isReason);
    gate.open();
    await scheduler.drain();
    assert.throws(() => lease.outputs, isLeaseError(/no result/), 'nobody wanted it');
    lease.inputs.x.fill(7);
    const again = lease.submit();
    await gate.reached(2);
    gate.open();
    assert.equal((await again).y[0], 14);
    lease.release();
    assert.equal(room(scheduler), 4);
  });

  test('in the queue is free at once', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { profile: ['2s'] });
    const running = scheduler.reserve('m');
    const first = running.submit();
    await gate.reached(1);
    const lease = scheduler.reserve('m');
    const controller = new AbortController();
    const result = lease.submit({ signal: controller.signal });
    controller.abort(REASON);
    await assert.rejects(result, isReason);
    while (scheduler.inFlight > 1) await sleep(1);
    assert.equal(gate.started, 1, 'the first still runs');
    lease.inputs.x.fill(1);
    lease.release();
    gate.open();
    await first;
    running.release();
    assert.equal(room(scheduler), 4);
  });

  test('many times over, at any moment, gives back every cell', async () => {
    await using scheduler = await start(async (batch) => {
      if (batch.inputs[0]!.x[0]! % 2 === 0) await nextTurn();
      return double(batch);
    }, { profile: [0.1, 0.1] });
    let served = 0;
    const use = async (worker: number): Promise<void> => {
      for (let round = 0; round < 300; round++) {
        const value = 4 * round + worker;
        let lease: OneLease;
        try {
          lease = scheduler.reserve('m');
        } catch (error) {
          assert.ok(error instanceof OverloadedError);
          await sleep(1);
          continue;
        }
        lease.inputs.x.fill(value);
        const controller = new AbortController();
        const result = lease.submit({ signal: controller.signal });
        if (value % 5 === 0) controller.abort(REASON);
        else if (value % 5 === 1) queueMicrotask(() => controller.abort(REASON));
        else if (value % 5 === 2) setImmediate(() => controller.abort(REASON));
        try {
          const { y } = await result;
          assert.ok(y[0] === 2 * value && y[ELEMENTS - 1] === 2 * value, `${y[0]} for ${value}`);
          served++;
        } catch (error) {
          assert.equal(error, REASON);
        }
        lease.release();
      }
    };
    await Promise.all([0, 1, 2, 3, 4, 5].map(use));
    await scheduler.drain();
    assert.ok(served > 100, `${served}`);
    assert.equal(room(scheduler), 4);
    const { accepted, completed, cancelled } = scheduler.stats();
    assert.equal(completed + cancelled, accepted);
  });
});

describe('at the end of its block', () => {
  test('a lease is released, unless it was before', async () => {
    await using scheduler = await start(double);
    {
      using lease = scheduler.reserve('m');
      assert.equal((await lease.submit()).y.length, ELEMENTS);
      assert.equal(room(scheduler), 3);
    }
    assert.equal(room(scheduler), 4);
    {
      using lease = scheduler.reserve('m');
      lease.release();
    }
    assert.equal(room(scheduler), 4);
    await assert.rejects(async () => {
      using lease = scheduler.reserve('m');
      await lease.submit({ slo: '1s' });
    }, InfeasibleError);
    assert.equal(room(scheduler), 4);
  });

  test('a lease whose request was aborted is released when the device is done', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute);
    const rejected = assert.rejects(async () => {
      using lease = scheduler.reserve('m');
      await lease.submit({ signal: AbortSignal.timeout(WHILE_IT_RUNS_MS) });
    }, { name: 'TimeoutError' });
    await gate.reached(1);
    await rejected;
    assert.equal(room(scheduler), 3);
    gate.open();
    await scheduler.drain();
    assert.equal(room(scheduler), 4);
  });
});

describe('a lease that was forgotten', () => {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as () => void;

  const collect = async (done: () => boolean): Promise<void> => {
    const untilMs = performance.now() + 10_000;
    while (!done() && performance.now() < untilMs) {
      gc();
      await sleep(2);
    }
  };

  test('gives its memory back with one warning, but not while a view of it is held', async () => {
    const warnings: Error[] = [];
    const listen = (warning: Error): void => void (warning.name === 'RubatoLeaseWarning' && warnings.push(warning));
    process.on('warning', listen);
    await using scheduler = await start(double);
    // In functions of their own, so that no register of this one holds them.
    const forget = (): void => void scheduler.reserve('m').inputs;
    const forgetUsed = async (): Promise<void> => void (await scheduler.reserve('m').submit());
    const keepView = async (): Promise<Float32Array> => {
      const lease = scheduler.reserve('m');
      lease.inputs.x.fill(1);
      return (await lease.submit()).y;
    };
    const keepInput = (): Float32Array => scheduler.reserve('m').inputs.x;
    const release = (): void => scheduler.reserve('m').release();

    release();
    const held: Float32Array[] = [await keepView(), keepInput()];
    forget();
    await forgetUsed();
    await collect(() => warnings.length >= 2);
    assert.deepEqual(warnings.map(({ message }) => message), Array(2).fill('a lease for model \'m\' was never released; call release() when its results are used'));
    await collect(() => room(scheduler) === 2);
    for (let i = 0; i < 10; i++) {
      gc();
      await sleep(1);
    }
    assert.equal(room(scheduler), 2, 'the views are still looked at');
    assert.equal(held[0]![0], 2);
    held.length = 0;
    await collect(() => warnings.length >= 4);
    assert.equal(room(scheduler), 4);
    await sleep(5);
    assert.equal(warnings.length, 4, 'none for the leases that were released');
    process.off('warning', listen);
  });

  test('in flight is not collected before its request has ended', async () => {
    const warnings: Error[] = [];
    const listen = (warning: Error): void => void (warning.name === 'RubatoLeaseWarning' && warnings.push(warning));
    process.on('warning', listen);
    const gate = new Gate();
    await using scheduler = await start(gate.execute);
    const controller = new AbortController();
    const submitAndForget = (signal?: AbortSignal): void => void scheduler.reserve('m').submit({ signal }).catch(() => {});
    submitAndForget();
    submitAndForget(controller.signal);
    await gate.reached(1);
    controller.abort();
    for (let i = 0; i < 10; i++) {
      gc();
      await sleep(1);
    }
    assert.equal(room(scheduler), 2);
    assert.equal(warnings.length, 0);
    gate.open();
    await scheduler.drain();
    await collect(() => warnings.length >= 2);
    assert.equal(room(scheduler), 4);
    process.off('warning', listen);
  });
});

describe('close with leases', () => {
  test('in all states settles what is in flight, and each can be released afterwards', async () => {
    const gate = new Gate();
    const scheduler = await start(gate.execute, { profile: ['2s'] }, { memoryLimit: '1MiB' });
    const released = scheduler.reserve('m');
    released.release();
    const done = scheduler.reserve('m');
    const first = done.submit();
    await gate.reached(1);
    gate.open();
    const result = await first;
    const running = scheduler.reserve('m');
    const second = running.submit();
    await gate.reached(2);
    const queued = scheduler.reserve('m');
    const third = queued.submit();
    const controller = new AbortController();
    const aborted = scheduler.reserve('m');
    const fourth = aborted.submit({ signal: controller.signal });
    controller.abort(REASON);
    await assert.rejects(fourth, isReason);
    while (scheduler.inFlight > 2) await sleep(1);
    const reserved = scheduler.reserve('m');
    const closing = scheduler.close();
    await assert.rejects(reserved.submit(), ClosedError);
    assert.throws(() => scheduler.reserve('m'), ClosedError);
    await assert.rejects(third, ClosedError);
    gate.open();
    assert.equal((await second).y.length, ELEMENTS);
    await closing;
    assert.equal(result.y[0], done.outputs.y[0]);
    for (const lease of [done, running, queued, aborted, reserved]) {
      await assert.rejects(lease.submit(), ClosedError);
      assert.equal(lease.inputs.x.length, ELEMENTS);
      lease.release();
      assert.throws(() => lease.release(), isLeaseError(/released again/));
    }
    const { accepted, completed, closed, cancelled } = scheduler.stats();
    assert.deepEqual([accepted, completed, closed, cancelled], [4, 2, 1, 1]);
  });

  test('of a device that hangs settles them as well', async () => {
    const gate = new Gate();
    const scheduler = await start(gate.execute);
    const controller = new AbortController();
    const [running, aborted] = [scheduler.reserve('m'), scheduler.reserve('m')];
    const results = [running.submit(), aborted.submit({ signal: controller.signal })];
    const settled = Promise.allSettled(results);
    await gate.reached(1);
    controller.abort(REASON);
    aborted.release();
    await scheduler.close();
    const reasons = (await settled).map((result) => result.status === 'rejected' && (result.reason as unknown));
    assert.ok(reasons[0] instanceof ClosedError && reasons[1] === REASON);
    running.release();
    assert.throws(() => aborted.release(), isLeaseError(/released again/));
    gate.open(); // comes too late and must not hurt
    await nextTurn();
  });
});

describe('an emulated device', () => {
  test('gives a lease zeros each time, also after an abort', async () => {
    await using scheduler = await start(null, { profile: ['5ms', '5ms'] });
    const lease = scheduler.reserve('m');
    (await lease.submit()).y.fill(9);
    const controller = new AbortController();
    const result = lease.submit({ signal: controller.signal });
    setTimeout(() => controller.abort(REASON), 2);
    await result.catch(() => {});
    await scheduler.drain();
    assert.ok((await lease.submit()).y.every((value) => value === 0));
    lease.release();
  });
});
