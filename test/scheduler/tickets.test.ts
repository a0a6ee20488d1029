/** Clients on other threads: what they can do, what is left when they die, and what happens to tickets that are misused. */
import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import cluster from 'node:cluster';
import { once } from 'node:events';
import { describe, test as testOf } from 'node:test';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { MessageChannel } from 'node:worker_threads';
import { ClosedError, createScheduler, InvalidOptionError, openClient, openRawClient, type RawClient, type RubatoError, type Ticket, TicketError } from '#rubato/index.js';
import { type Ending, type Models, type Told } from './client.worker.js';
import { checkNothingOpen, dieAtRandom, Gate, look, model, openAndClose, start, Thread, type TopologyName, until } from './clients.js';

/** A scheduler that loses a request would hold its test for ever. */
const TEST_LIMIT_MS = 60_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

const TOPOLOGIES: readonly TopologyName[] = ['single', 'split'];
const X = Float32Array.of(1, 2, 3, 4);
const Y = Float32Array.of(2, 4, 6, 8);
const ZEROS = new Float32Array(4);

function isError<E extends RubatoError>(kind: new (...args: never[]) => E, text: RegExp): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof kind, `${String(error)} is no ${kind.name}`);
    assert.match(error.message, text);
    return true;
  };
}

/** As an error comes from a worker. */
function isTold(told: Told, name: string, text: RegExp): void {
  const { error, message } = told as { error: string; message: string };
  assert.equal(error, name, JSON.stringify(told));
  assert.match(message, text);
}

for (const topology of TOPOLOGIES) {
  describe(`a client on another thread, ${topology}`, () => {
    for (const [kind, y] of [['callback', Y], ['emulated', ZEROS]] as const) {
      test(`submits in every way, on a device that is ${kind}`, async () => {
        await using scheduler = await start(topology, kind === 'emulated' ? { devices: [{ kind: 'emulated' }] } : {});
        const at = await look(scheduler);
        const thread = new Thread({ name: 'methods' }, scheduler.ticket());
        const { aborted, infeasible, wrongTensor, unknown, credit, ...results } = await thread.next<Record<string, unknown>>();
        const y2 = kind === 'emulated' ? ZEROS : Float32Array.of(10, 12, 14, 16);
        assert.deepEqual(results, {
          submit: { y },
          submitDetailed: { output: { y }, late: false, hasRun: true },
          trySubmit: { y },
          submitMany: [{ status: 'fulfilled', value: { y } }, { status: 'fulfilled', value: { y: y2 } }],
          lease: { y },
        });
        assert.ok((credit as number) > 0 && (credit as number) <= 64, `credit ${String(credit)}`);
        isTold(aborted, 'Error', /^not wanted$/);
        isTold(infeasible, 'InfeasibleError', /double/);
        isTold(wrongTensor, 'InvalidInputError', /'x'.*4/);
        isTold(unknown, 'UnknownModelError', /'nobody'.*double/s);

        const { samePromise, submitAfter, tryAfter, reserveAfter, ...after } = await thread.next<Record<string, unknown>>();
        assert.equal(samePromise, true);
        for (const told of [submitAfter, tryAfter, reserveAfter]) isTold(told, 'ClosedError', /closed/);
        assert.deepEqual(after, { creditAfter: 0, closed: undefined, inFlight: 0 });
        assert.deepEqual(await thread.exited, { code: 0, error: null });
        await at.free();
        checkNothingOpen(scheduler);
      });
    }

    test('gets its own results while others submit as well', async () => {
      await using scheduler = await start(topology, { devices: [new Gate(true).device, new Gate(true).device] });
      const at = await look(scheduler);
      const threads = [1, 2, 3].map((seed) => new Thread({ name: 'crowd', seed, count: 60, model: seed === 3 ? 'blob' : 'double' }, scheduler.ticket()));
      const own = Promise.all(Array.from({ length: 60 }, async (_, k) => {
        const { y } = await scheduler.submit('double', { x: Float32Array.of(k, -k, k, -k) });
        assert.deepEqual(y, Float32Array.of(2 * k, -2 * k, 2 * k, -2 * k));
      }));
      assert.deepEqual(await Promise.all(threads.map((thread) => thread.next())), Array(3).fill({ right: 60 }));
      await own;
      await at.free();
      checkNothingOpen(scheduler);
      const { models } = scheduler.stats();
      assert.deepEqual(models.map(({ completed }) => completed), [180, 60]);
    });

    test('learns of models that are added and removed', async () => {
      await using scheduler = await start(topology);
      const thread = new Thread({ name: 'serve' });
      await thread.ask('open', { ticket: scheduler.ticket() });
      isTold(await thread.ask('added'), 'UnknownModelError', /'added'/);
      const wider = await scheduler.addModel({ ...model('double'), name: 'added' });
      // It is told by its port, which knows nothing of the order of other messages.
      let told: Told = null;
      while (!isDeepStrictEqual(told, { y: Y })) told = await thread.ask('added');
      await wider.removeModel('double');
      isTold(await thread.ask('submit'), 'UnknownModelError', /'double'.*added/s);
      await wider.addModel(model('double', { slo: '20s' }));
      for (told = null; !isDeepStrictEqual(told, { y: Y }); ) told = await thread.ask('submit');
      await thread.worker.terminate();
      checkNothingOpen(scheduler);
    });

    test('gets what has ended, and ClosedError for what has not, when the scheduler is closed', async () => {
      const gate = new Gate();
      const scheduler = await start(topology, { devices: [gate.device], models: [LONG, model('blob')] });
      const thread = new Thread({ name: 'submit', count: 20, blockMs: 0 }, scheduler.ticket());
      await thread.next();
      await gate.started(1);
      await until(() => scheduler.stats().models[0]!.accepted === 20);
      const closed = scheduler.close();
      await until(() => scheduler.stats().models[0]!.inFlight <= gate.batches[0]!.size);
      gate.open();
      await closed;
      const told = await thread.next<Told[]>();
      const { size } = gate.batches[0]!;
      assert.deepEqual(told.slice(0, size), Array(size).fill({ y: Y }));
      for (const each of told.slice(size)) isTold(each, 'ClosedError', /the scheduler was closed/);
      isTold(await thread.next(), 'ClosedError', /closed/);
      assert.equal((await thread.exited).code, 0);
      checkNothingOpen(scheduler);
    });

    test('gets results that were there before the end of the scheduler, however late it looks', async () => {
      const scheduler = await start(topology);
      const thread = new Thread({ name: 'submit', count: 8, blockMs: 500 }, scheduler.ticket());
      await thread.next();
      await until(() => scheduler.stats().completed === 8);
      await scheduler.close();
      assert.deepEqual(await thread.next(), Array(8).fill({ y: Y }));
      assert.equal((await thread.exited).code, 0);
    });

    test('does not keep its thread alive when idle, but does while a request is in flight', async () => {
      const gate = new Gate();
      await using scheduler = await start(topology, { devices: [gate.device] });
      const thread = new Thread({ name: 'hold' }, scheduler.ticket());
      let hasExited = false;
      void thread.exited.then(() => (hasExited = true));
      await gate.started(1);
      await sleep(150);
      assert.equal(hasExited, false);
      gate.open();
      assert.deepEqual(await thread.next(), { y: Y });
      assert.deepEqual(await thread.exited, { code: 0, error: null });
    });

    test('sees the end of the scheduler without a turn of its event loop, as a raw client', async () => {
      const scheduler = await start(topology, { devices: [{ kind: 'emulated' }] });
      const thread = new Thread({ name: 'rawLoop' }, scheduler.ticket());
      await thread.next();
      await until(() => scheduler.stats().completed > 0);
      await scheduler.close();
      const told = await Promise.race([thread.next<Told>(), sleep(5000, 'it does not notice')]);
      await thread.worker.terminate();
      isTold(told, 'ClosedError', /closed/);
    });
  });
}

/** Batches are said to take so long that what comes later stays in the queue while one runs. */
const LONG = model('double', { slo: '10m', profile: Array<string>(8).fill('20s') });
const COUNT = 3;
const EXIT_CODES: Readonly<Record<Ending, number>> = { terminate: 1, exit: 3, throw: 1, memory: 1 };

async function dieWith(topology: TopologyName, ending: Ending, state: 'queued' | 'running' | 'uncommitted', isRaw: boolean): Promise<void> {
  const what = `(${state}${isRaw ? ', raw' : ''})`;
  const gate = new Gate();
  await using scheduler = await start(topology, { devices: [gate.device], models: [LONG, model('blob')], maxClients: 1 });
  const at = await look(scheduler);
  const stats = (): { accepted: number; cancelled: number; completed: number; inFlight: number; queued: number } => scheduler.stats().models[0]!;
  const submit = (k: number): Promise<void> => scheduler.submit('double', { x: Float32Array.of(k, 0, 0, 0) }).then(({ y }) => assert.deepEqual(y, Float32Array.of(2 * k, 0, 0, 0)));
  const others = [submit(1)];
  await gate.started(1);
  const pages = at.pages();

  const go = new Int32Array(new SharedArrayBuffer(4));
  const thread = new Thread({ name: 'die', ending, isRaw, isCommitted: state !== 'uncommitted', count: COUNT, go }, scheduler.ticket(), ending === 'memory' ? 24 : undefined);
  await thread.next();
  others.push(submit(2), submit(3));
  await nextTurn();
  if (state !== 'uncommitted') await until(() => stats().queued === 2 + COUNT, () => `queued: ${JSON.stringify(stats())}`);
  if (state === 'running') {
    gate.open();
    await gate.started(2);
    assert.equal(gate.batches[1]!.size, 2 + COUNT);
  }
  assert.equal(stats().accepted, 3 + COUNT);
  if (!isRaw) assert.ok(at.pages() > pages, 'its requests have tensors');

  Atomics.store(go, 0, 1);
  Atomics.notify(go, 0);
  if (ending === 'terminate') {
    await sleep(5);
    await thread.worker.terminate();
  }
  const exit = await thread.exited;
  assert.equal(exit.code, EXIT_CODES[ending], what);
  assert.match(exit.error?.message ?? '', { terminate: /^$/, exit: /^$/, throw: /^meant to$/, memory: /memory limit/ }[ending], what);

  if (state === 'running') {
    await sleep(20);
    assert.equal(stats().inFlight, 2 + COUNT, 'what runs is waited for');
    assert.throws(() => scheduler.ticket(), isError(InvalidOptionError, /all 1 clients are in use \(of 1 the last batches are awaited\)/));
  } else {
    await at.free(what);
    assert.equal(stats().cancelled, COUNT, what);
    assert.equal(stats().inFlight, 3, what);
    assert.equal(at.pages(), pages, what);
  }
  gate.isOpen = true;
  gate.open();
  await Promise.all(others);
  await at.free(what);
  assert.equal(at.pages(), pages, what);
  checkNothingOpen(scheduler, what);
  const { accepted, cancelled, completed } = stats();
  assert.deepEqual({ accepted, cancelled, completed }, { accepted: 3 + COUNT, cancelled: COUNT, completed: 3 }, what);

  // The place is as good as new: all its slots, all its memory.
  const next = new Thread({ name: 'crowd', seed: 5, count: 64, model: 'double' }, scheduler.ticket());
  assert.deepEqual(await next.next(), { right: 64 }, what);
  await at.free(what);
  assert.equal(at.pages(), pages, what);
}

for (const topology of TOPOLOGIES) {
  describe(`a client whose thread dies, ${topology}`, () => {
    for (const ending of ['terminate', 'exit', 'throw', 'memory'] as const) {
      for (const state of ['queued', 'running', 'uncommitted'] as const) {
        test(`by ${ending}, with requests ${state}, leaves nothing behind and disturbs nobody`, async () => {
          await Promise.all([false, true].map((isRaw) => dieWith(topology, ending, state, isRaw)));
        });
      }
    }

    test('at a random moment, again and again, leaves nothing behind', () => dieAtRandom({ topology, deaths: 70, seed: 7 }));
  });
}

describe('clients that come and go', () => {
  const LEAST_LEAK_BYTES = 24 * 2 ** 20;
  for (const topology of TOPOLOGIES) {
    for (const where of ['thread', 'main'] as const) {
      test(`${where === 'main' ? 'on the thread of the scheduler' : 'on a thread'} leave nothing behind, ${topology}`, async () => {
        const grown = await openAndClose({ topology, where, count: 300 });
        assert.ok(grown < LEAST_LEAK_BYTES, `grown by ${grown} bytes`);
      });
    }
  }
});

describe('a place that was given back', () => {
  test('is not touched by a raw client that was closed', async () => {
    await using scheduler = await start('single', { devices: [{ kind: 'emulated' }], maxClients: 1 });
    const at = await look(scheduler);
    const run = async (client: RawClient): Promise<number[]> => {
      const slots = Array.from({ length: 40 }, () => client.submit(client.model('double'), client.nowNs()));
      client.commit();
      await until(() => client.drain() === 0 && client.inFlight === 0);
      return slots;
    };
    for (const open of [() => scheduler.client(), () => openRawClient(scheduler.ticket())]) {
      const old = open();
      const [slot] = await run(old);
      old.close();
      await at.free();
      const thread = new Thread({ name: 'serve' });
      await thread.ask('open', { ticket: scheduler.ticket() });
      for (let k = 0; k < 100; k++) assert.deepEqual(await thread.ask('submit'), { y: ZEROS });
      assert.equal(old.drain(), 0);
      old.commit();
      old.cancel(slot!);
      assert.equal(old.inFlight, 0);
      for (let k = 0; k < 100; k++) assert.deepEqual(await thread.ask('submit'), { y: ZEROS });
      await thread.worker.terminate();
      await at.free();
    }
    checkNothingOpen(scheduler);
  });

  test('keeps its memory when a lease of the client before is released late', async () => {
    await using scheduler = await start('single', { maxClients: 1 });
    const at = await look(scheduler);
    const pages = at.pages();
    const old = openClient(scheduler.ticket());
    const leases = [old.reserve('blob'), old.reserve('blob')];
    await old.close();
    await at.free();
    assert.equal(at.pages(), pages);
    const next = openClient(scheduler.ticket());
    const held = [next.reserve('blob'), next.reserve('blob')];
    const taken = at.pages();
    for (const lease of leases) lease.release();
    assert.equal(at.pages(), taken);
    for (const each of held) each.release();
    await next.close();
    await at.free();
    assert.equal(at.pages(), pages);
  });
});

describe('a ticket', () => {
  test('is for one client', async () => {
    await using scheduler = await start('single');
    const ticket = scheduler.ticket();
    const client = openClient(ticket);
    assert.throws(() => openClient(ticket), isError(TicketError, /opened already/));
    assert.throws(() => openRawClient(ticket), isError(TicketError, /opened already/));
    assert.deepEqual(await client.submit('double', { x: X }), { y: Y });
    await client.close();
    await client.close();
    assert.throws(() => openClient(ticket), isError(TicketError, /opened already/));
    await assert.rejects(client.submit('double', { x: X }), isError(ClosedError, /the client is closed/));
  });

  test('is refused when maxClients are in use, and to be had again afterwards', async () => {
    await using scheduler = await start('single', { maxClients: 2 });
    const at = await look(scheduler);
    const first = openClient(scheduler.ticket());
    const raw = scheduler.client();
    assert.throws(() => scheduler.ticket(), isError(InvalidOptionError, /maxClients.*all 2 clients are in use/s));
    assert.throws(() => scheduler.client(), isError(InvalidOptionError, /maxClients/));
    raw.close();
    await until(() => at.places() === 1);
    await openClient(scheduler.ticket()).close();
    await first.close();
    await at.free();
  });

  test('cannot be had from a scheduler that allows none, or that is closed', async () => {
    const scheduler = await start('single', { maxClients: 0 });
    assert.throws(() => scheduler.ticket(), isError(InvalidOptionError, /maxClients/));
    const closed = scheduler.close();
    assert.throws(() => scheduler.ticket(), isError(ClosedError, /closed/));
    await closed;
    assert.throws(() => scheduler.ticket(), isError(ClosedError, /closed/));
  });

  test('of a scheduler that was closed opens a client that is closed, or is refused', async () => {
    const scheduler = await start('single');
    const ticket = scheduler.ticket();
    await scheduler.close();
    try {
      const client = openClient(ticket);
      await assert.rejects(client.submit('double', { x: X }), isError(ClosedError, /closed/));
      await client.close();
    } catch (error) {
      isError(TicketError, /closed/)(error);
    }
  });

  test('is no other object', async () => {
    await using scheduler = await start('single');
    const ticket = scheduler.ticket();
    const { port, memory, client, models } = ticket;
    const garbage: unknown[] = [
      undefined, null, 0, 'ticket', {}, [], () => {}, JSON.parse(JSON.stringify({ client, models })),
      { ...ticket, port: undefined }, { ...ticket, port: {} }, { ...ticket, memory: undefined }, { ...ticket, memory: {} },
      { ...ticket, memory: { ...memory, buffer: new ArrayBuffer(64) } },
      { ...ticket, memory: { buffer: new SharedArrayBuffer(64) } },
      { ...ticket, client: -1 }, { ...ticket, client: 0 }, { ...ticket, client: 1e6 }, { ...ticket, client: 1.5 }, { ...ticket, client: NaN },
      { port, memory: { buffer: new SharedArrayBuffer(8) }, client: 5, models },
    ];
    for (const each of garbage) {
      assert.throws(() => openClient(each as Ticket<Models>), isError(TicketError, /ticket/));
      assert.throws(() => openRawClient(each as Ticket), isError(TicketError, /ticket/));
    }
    await openClient(ticket).close();
  });

  test('goes nowhere without its port in the transfer list', async () => {
    await using scheduler = await start('single');
    const at = await look(scheduler);
    const ticket = scheduler.ticket();
    const { port1 } = new MessageChannel();
    assert.throws(() => port1.postMessage(ticket), { message: /transferList/ });
    port1.close();
    await openClient(ticket).close(); // nothing has happened to it
    await at.free();
  });

  test('that is never opened gives its place back when its port is closed, or the thread that got it ends', async () => {
    await using scheduler = await start('single', { maxClients: 1 });
    const at = await look(scheduler);
    scheduler.ticket().port.close();
    await at.free();
    const thread = new Thread({ name: 'leave' }, scheduler.ticket());
    assert.equal((await thread.exited).code, 0);
    await at.free();
    const holder = new Thread({ name: 'serve' });
    await holder.ask('keep', { ticket: scheduler.ticket() });
    assert.equal(at.places(), 1);
    await holder.worker.terminate();
    await at.free();
    // Nobody is there to receive it.
    const gone = new Thread({ name: 'leave' });
    await gone.exited;
    const { port1, port2 } = new MessageChannel();
    const lost = scheduler.ticket();
    port1.postMessage(lost, [lost.port]);
    port2.close();
    await at.free();
  });

  test('takes no values on another thread than the scheduler\'s', async () => {
    await using scheduler = await createScheduler<unknown, unknown>({
      models: [{ name: 'value', slo: '30s', profile: ['1ms', '2ms'], condition: 'immediate' }],
      devices: [{ kind: 'callback', execute: (batch) => batch.inputs.map((input) => (input === undefined ? 'none' : input)) }],
    });
    const thread = new Thread({ name: 'serve' });
    await thread.ask('open', { ticket: scheduler.ticket() as Ticket<never> });
    isTold(await thread.ask('value'), 'InvalidInputError', /'value'.*only the thread that made the scheduler/s);
    assert.equal(await thread.ask('noValue'), undefined);
    assert.equal(await scheduler.submit('value', 7), 7);
    assert.equal(scheduler.stats().accepted, 2);
    await thread.worker.terminate();
  });
});

describe('a ticket in another process', () => {
  const CHILD = fileURLToPath(new URL('./client.worker.js', import.meta.url));

  async function answerOf(child: ChildProcess, ticket: Ticket<Models>): Promise<Told> {
    try {
      await once(child, 'message'); // it listens
      const answer = once(child, 'message');
      child.send(ticket as never);
      return (await answer)[0] as Told;
    } finally {
      child.kill();
    }
  }

  test('is refused in a forked process', async () => {
    await using scheduler = await start('single');
    const ticket = scheduler.ticket();
    isTold(await answerOf(fork(CHILD, ['child']), ticket), 'TicketError', /forked process.*shares no memory/);
  });

  test('does not arrive in a forked process with serialization: advanced', async () => {
    await using scheduler = await start('single');
    const child = fork(CHILD, ['child'], { serialization: 'advanced' });
    assert.throws(() => child.send(scheduler.ticket() as never), { message: /SharedArrayBuffer.* could not be cloned/ });
    child.kill();
  });

  for (const serialization of ['json', 'advanced'] as const) {
    test(`is refused in a cluster worker (${serialization})`, async () => {
      await using scheduler = await start('single');
      cluster.setupPrimary({ exec: CHILD, args: ['child'], serialization });
      const { process: child } = cluster.fork();
      if (serialization === 'json') {
        isTold(await answerOf(child, scheduler.ticket()), 'TicketError', /cluster worker.*make a scheduler there/);
      } else {
        assert.throws(() => child.send(scheduler.ticket() as never), { message: /SharedArrayBuffer.* could not be cloned/ });
        child.kill();
      }
    });
  }
});
