import assert from 'node:assert/strict';
import { describe, test as testOf } from 'node:test';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import {
  type Batch, ClosedError, createScheduler, ExpiredError, InfeasibleError, InvalidOptionError, LateError, type ModelChanges, type ModelOptions, OUTCOME, outcomeOf, OverloadedError,
  type RawClient, REFUSED_NO_MODEL, type Scheduler, type SchedulerOptions, type SchedulerStats, UnknownModelError,
} from '#rubato/index.js';
import { Random } from '#rubato/model/random.js';

/** A change that never ends would hold its test for ever. */
const TEST_LIMIT_MS = 40_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

const MODEL: ModelOptions = { name: 'm', slo: '10s', profile: { alpha: 0.1, beta: 1, maxBatch: 8 }, condition: 'immediate' };
/** Each batch is said to take so long that what comes later waits in the queue. */
const ONE_BY_ONE: ModelOptions = { ...MODEL, slo: '30s', profile: ['2s', '2s', '2s', '2s'], maxBatch: 1 };

type Any = Scheduler<unknown, unknown>;
type Execute = (batch: Batch<unknown>) => Promise<readonly unknown[]> | readonly unknown[];

const TOPOLOGIES: [name: string, options: Partial<SchedulerOptions>][] = [
  ['single', { topology: 'single' }],
  ['single, 3 shards', { topology: 'single', shards: 3 }],
  ['split, 2 shards', { topology: 'split', shards: 2 }],
  ['split, 3 shards', { topology: 'split', shards: 3 }],
];

function start(execute: Execute, more: Partial<SchedulerOptions> = {}): Promise<Any> {
  return createScheduler<unknown, unknown>({ models: [MODEL], devices: [{ kind: 'callback', execute }], ...more });
}

const echo: Execute = (batch) => batch.inputs;

/** A device whose batches last until the test lets them go. */
class Gate {
  readonly batches: Batch<unknown>[] = [];
  readonly #release: (() => void)[] = [];

  readonly execute: Execute = (batch) => {
    this.batches.push(batch);
    return new Promise((resolve) => this.#release.push(() => resolve(batch.inputs)));
  };

  async started(count: number): Promise<void> {
    while (this.batches.length < count) await sleep(1);
  }

  open(): void {
    for (const release of this.#release.splice(0)) release();
  }

  /** Lets everything go from now on, until the returned function is called. */
  stayOpen(): () => void {
    const timer = setInterval(() => this.open(), 1).unref();
    return () => clearInterval(timer);
  }
}

const ENDINGS = ['completed', 'late', 'dropped', 'cancelled', 'failed', 'closed'] as const;

function checkBalance(stats: SchedulerStats): void {
  const ended = ENDINGS.reduce((sum, ending) => sum + stats[ending], 0);
  assert.equal(ended + stats.inFlight, stats.accepted);
  assert.ok(stats.inFlight >= 0, `${stats.inFlight} in flight`);
  for (const model of stats.models) {
    const { accepted, completed, late, expired, queueFull, infeasible, cancelled, failed, closed, inFlight } = model;
    assert.equal(completed + late + expired + queueFull + infeasible + cancelled + failed + closed + inFlight, accepted, model.name);
    for (const [key, value] of Object.entries(model)) if (typeof value === 'number') assert.ok(value >= 0, `${key} of ${model.name} is ${value}`);
  }
}

function wrongOption(path: string, ...says: (string | number)[]): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof InvalidOptionError, String(error));
    assert.equal(error.path, path);
    for (const part of says) assert.ok(error.message.includes(String(part)), `"${error.message}" does not say ${part}`);
    return true;
  };
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (const endMs = performance.now() + 15_000; !condition(); await sleep(1)) assert.ok(performance.now() < endMs, `in 15 s ${what} did not happen`);
}

/** Submits to all models all the time, by promises and by a raw client, and notes how each request ends. */
class Load {
  readonly names: string[];
  readonly counts = { value: 0, closed: 0, expired: 0, unknown: 0, infeasible: 0, full: 0, late: 0 };
  readonly wrong: string[] = [];
  readonly #scheduler: Any;
  readonly #raw: RawClient;
  readonly #rawOpen = new Set<number>();
  #open = 0;
  submitted = 0;
  rawAccepted = 0;
  readonly rawEnded = new Float64Array(16);
  #before: SchedulerStats;
  #running = true;
  readonly #done: Promise<void>;

  constructor(scheduler: Any, names: string[], readonly most: number) {
    this.names = names;
    this.#scheduler = scheduler;
    this.#raw = scheduler.client();
    this.#before = scheduler.stats();
    this.#done = this.#run();
  }

  /** Whether a request has come to the model that it was for. */
  readonly execute: Execute = (batch) => batch.inputs;

  async #run(): Promise<void> {
    const models = this.#before.models.length;
    for (let turn = 0; this.#running; turn++) {
      for (const name of this.names) for (let k = 0; k < 4; k++) this.#submit(name);
      for (let number = 0; number < models + 3; number++) this.#submitRaw(number);
      this.#raw.commit();
      this.#drainRaw();
      const stats = this.#scheduler.stats();
      checkBalance(stats);
      for (const key of ['accepted', 'refused', ...ENDINGS] as const) {
        if (stats[key] < this.#before[key]) this.wrong.push(`${key} has fallen from ${this.#before[key]} to ${stats[key]}`);
      }
      this.#before = stats;
      await (turn % 4 === 0 ? sleep(1) : nextTurn());
    }
  }

  #submit(name: string): void {
    if (this.#open > this.most) return;
    this.#open++;
    this.submitted++;
    let settled = 0;
    const end = (kind: keyof Load['counts']): void => {
      if (++settled > 1) this.wrong.push(`a request for ${name} has ended twice`);
      this.counts[kind]++;
      this.#open--;
    };
    this.#scheduler.submit(name, name).then(
      (output) => {
        if (output !== undefined && output !== `${name} by ${name}`) this.wrong.push(`a request for ${name} has got "${String(output)}"`);
        end('value');
      },
      (error: unknown) => {
        if (error instanceof UnknownModelError) end('unknown');
        else if (error instanceof ClosedError) end('closed');
        else if (error instanceof ExpiredError) end('expired');
        else if (error instanceof InfeasibleError) end('infeasible');
        else if (error instanceof LateError) end('late');
        else if (error instanceof OverloadedError && error.message.includes('maxQueue')) end('full');
        else this.wrong.push(String(error));
      },
    );
  }

  #submitRaw(number: number): void {
    if (this.#rawOpen.size > this.most) return;
    let slot: number;
    try {
      slot = this.#raw.submit(number, this.#raw.nowNs());
    } catch (error) {
      assert.ok(error instanceof InvalidOptionError); // a number that was never in use
      return;
    }
    if (slot < 0) return;
    if (this.#rawOpen.has(slot)) this.wrong.push(`slot ${slot} was given twice`);
    this.#rawOpen.add(slot);
    this.rawAccepted++;
  }

  #drainRaw(): void {
    const count = this.#raw.drain();
    for (let k = 0; k < count; k++) {
      if (!this.#rawOpen.delete(this.#raw.slots[k]!)) this.wrong.push(`slot ${this.#raw.slots[k]} has ended twice`);
      this.rawEnded[outcomeOf(this.#raw.outcomes[k]!)]!++;
    }
  }

  /** Stops, waits for all that is open, and holds the counters against what was seen. */
  async stop(): Promise<void> {
    this.#running = false;
    await this.#done;
    await until(() => {
      this.#drainRaw();
      return this.#open === 0 && this.#rawOpen.size === 0;
    }, `the end of ${this.#open} requests and ${this.#rawOpen.size} raw ones`);
    assert.deepEqual(this.wrong, []);
    const stats = this.#scheduler.stats();
    checkBalance(stats);
    const { value, closed, expired, unknown, full, infeasible, late } = this.counts;
    assert.equal(value + closed + expired + unknown + full + infeasible + late, this.submitted);
    assert.equal(stats.inFlight, 0);
    const raw = (...names: (keyof typeof OUTCOME)[]): number => names.reduce((sum, name) => sum + this.rawEnded[OUTCOME[name]]!, 0);
    assert.equal(stats.completed + stats.late, value + late + raw('completed', 'late'));
    assert.equal(stats.closed, closed + raw('closed'));
    assert.equal(stats.failed + stats.cancelled, 0);
    assert.equal(raw('completed', 'late', 'closed', 'expired', 'queueFull', 'infeasible'), this.rawAccepted);
  }
}

/** Names the model that ran each request; notes what has come to the wrong one. */
const tell: Execute = async (batch) => {
  await nextTurn();
  return batch.inputs.map((input) => (input === undefined ? undefined : `${String(input)} by ${batch.model}`));
};

describe('under load', () => {
  const SMALL: ModelOptions = { ...MODEL, slo: '300ms', profile: { alpha: 0.05, beta: 0.4, maxBatch: 8 } };
  const UPDATES: ModelChanges[] = [
    { slo: '150ms' }, { slo: '2s' }, { profile: { alpha: 0.2, beta: 2, maxBatch: 8 } }, { profile: { alpha: 0.02, beta: 0.2, maxBatch: 8 } }, { maxBatch: 2 }, { maxBatch: 8 },
    { dropPolicy: 'timeout' }, { dropPolicy: 'window' }, { condition: 'frontrun' }, { condition: 'immediate' }, { maxQueue: 20 }, { maxQueue: 1000 }, { onLate: 'reject' }, { onLate: 'deliver' },
  ];

  TOPOLOGIES.forEach(([name, options], index) => {
    test(`no change loses, doubles or misleads a request (${name})`, async () => {
      const random = new Random(index + 1);
      const pick = <T>(list: readonly T[]): T => list[Math.floor(random.uniform() * list.length)]!;
      const models = ['a', 'b', 'c'].map((model) => ({ ...SMALL, name: model }));
      await using scheduler = await createScheduler<unknown, unknown>({
        models, devices: [{ kind: 'callback', execute: tell, count: 2 }, { kind: 'emulated', count: 2 }], maxModels: 6, maxDevices: 6, ...options,
      });
      const load = new Load(scheduler as Any, ['a', 'b', 'c'], 300);
      const gpus = [0, 1, 2, 3];
      const kinds = { add: 0, remove: 0, update: 0, addDevice: 0, removeDevice: 0, rebalance: 0 };
      let next = 0;
      const change = async (): Promise<void> => {
        const kind = random.uniform();
        if (kind < 0.25 && load.names.length < 6) {
          kinds.add++;
          const added = `n${next++}`;
          load.names.push(added); // also before it is there, and after it is gone
          await scheduler.addModel({ ...SMALL, name: added }).catch(wrongOption('maxModels', 6));
        } else if (kind < 0.5 && load.names.length > 2) {
          kinds.remove++;
          const removed = pick(load.names);
          await (scheduler as Any).removeModel(removed, { drain: random.uniform() < 0.5 }).catch((error: unknown) => assert.ok(error instanceof UnknownModelError, String(error)));
          const at = load.names.indexOf(removed);
          if (at >= 0) load.names.splice(at, 1);
        } else if (kind < 0.75) {
          kinds.update++;
          await (scheduler as Any).updateModel(pick(load.names), pick(UPDATES)).catch((error: unknown) => assert.ok(error instanceof UnknownModelError || error instanceof InvalidOptionError, String(error)));
        } else if (kind < 0.83 && gpus.length < 6) {
          kinds.addDevice++;
          gpus.push(...(await scheduler.addDevice(random.uniform() < 0.5 ? { kind: 'emulated' } : { kind: 'callback', execute: tell }).catch((error: unknown) => (wrongOption('maxDevices', 6)(error), []))));
        } else if (kind < 0.92 && gpus.length > 0) {
          kinds.removeDevice++;
          const gpu = pick(gpus);
          gpus.splice(gpus.indexOf(gpu), 1);
          await scheduler.removeDevice(gpu, { drain: random.uniform() < 0.7 });
        } else {
          kinds.rebalance++;
          assert.ok((await scheduler.rebalance()) >= 0);
        }
      };
      for (const endMs = performance.now() + 2500; performance.now() < endMs || Object.values(kinds).includes(0); ) await Promise.all(random.uniform() < 0.5 ? [change()] : [change(), change(), change()]);
      if (gpus.length === 0) await scheduler.addDevice({ kind: 'emulated' });
      await load.stop();
      assert.ok(load.counts.value > 100 && load.rawEnded[OUTCOME.completed]! > 20, JSON.stringify(load.counts));
      assert.ok(Object.values(kinds).every((count) => count > 0), JSON.stringify(kinds));
    });

    test(`a model's requests never come to its successor with the same number (${name})`, async () => {
      const models = ['a', 'b', 'c'].map((model) => ({ ...SMALL, name: model }));
      await using scheduler = await createScheduler<unknown, unknown>({ models, devices: [{ kind: 'callback', execute: tell, count: 2 }], maxModels: 4, ...options });
      const load = new Load(scheduler as Any, ['a', 'b', 'c'], 200);
      for (let use = 0; use < 25; use++) {
        const name = `use ${use}`;
        await scheduler.addModel({ ...SMALL, name });
        assert.equal(load.names.push(name), 4);
        await sleep(use % 4);
        const removed = (scheduler as Any).removeModel(name, { drain: use % 2 === 0 });
        await nextTurn();
        load.names.pop();
        await removed;
        await assert.rejects((scheduler as Any).submit(name, name), UnknownModelError);
      }
      await load.stop();
      assert.ok(load.counts.unknown > 0, JSON.stringify(load.counts));
    });
  });
});

// Each of these mostly waits.
describe('addModel', { concurrency: 3 }, () => {
  test('makes a model that serves at once, also where it asks for less time than those that were there', async () => {
    await using scheduler = await start(echo, { devices: [{ kind: 'emulated' }] });
    const more = await scheduler.addModel({ name: 'quick', slo: '5ms', profile: { alpha: 0.1, beta: 1.9, maxBatch: 4 }, condition: 'immediate' });
    let served = 0;
    let infeasible = 0;
    for (let i = 0; i < 20; i++) {
      await more.submit('quick', i).then(() => served++, (error: unknown) => (error instanceof InfeasibleError ? infeasible++ : assert.ok(error instanceof ExpiredError, String(error))));
    }
    assert.ok(served > 0, `${infeasible} of 20 were found infeasible, none was served`);
    assert.equal(infeasible, 0);
  });

  test('refuses wrong options, names that are taken and batches that are too large, and says the numbers', async () => {
    await using scheduler = await start(echo, { maxModels: 2 });
    await assert.rejects(scheduler.addModel({ ...MODEL }), wrongOption('model.name', 'm'));
    await assert.rejects(scheduler.addModel({ ...MODEL, name: 'n', slo: '1ms' }), wrongOption('model.slo'));
    await assert.rejects(scheduler.addModel({ ...MODEL, name: 'n', profile: { alpha: 0.1, beta: 1, maxBatch: 9 } }), wrongOption('model.maxBatch', 9, 8));
    await assert.rejects(scheduler.addModel({ ...MODEL, name: 'n', inputs: { x: { dtype: 'float32', shape: [4] } }, outputs: { y: { dtype: 'float32', shape: [1] } } }), wrongOption('model.inputs', 'memoryLimit'));
    const both = await Promise.allSettled(['n', 'n'].map((name) => scheduler.addModel({ ...MODEL, name })));
    assert.deepEqual(both.map(({ status }) => status), ['fulfilled', 'rejected'], 'the same name twice at once');
    await assert.rejects(scheduler.addModel({ ...MODEL, name: 'o' }), wrongOption('maxModels', 2));
    await (scheduler as Any).removeModel('n');
    await scheduler.addModel({ ...MODEL, name: 'o' });
    assert.equal(await (scheduler as Any).submit('o', 5), 5);
  });

  test('gives a name that was used before fresh statistics', async () => {
    await using scheduler = await start(echo, { maxModels: 2 });
    const any = scheduler as Any;
    for (let use = 1; use <= 5; use++) {
      await any.addModel({ ...MODEL, name: 'n' });
      const fresh = any.stats().models.find(({ name }) => name === 'n')!;
      const { name, latencyMs, queueMs, latenessUs, ...counters } = fresh;
      assert.deepEqual(Object.entries(counters).filter(([, value]) => value !== 0), [], name);
      assert.deepEqual([latencyMs.count, queueMs.count, latenessUs.count], [0, 0, 0]);
      const settled = await any.submitMany('n', Array.from({ length: 60 }, (_, i) => i));
      assert.ok(settled.every(({ status }) => status === 'fulfilled'));
      const used = any.stats().models.find((model) => model.name === 'n')!;
      assert.deepEqual([used.completed, used.latencyMs.count], [60, 60]);
      // What is under way when it is removed is counted as its own, not as its successor's.
      const last = any.submitMany('n', [1, 2, 3]);
      await any.removeModel('n');
      await last;
      assert.deepEqual(any.stats().models.map((model) => model.name), ['m']);
      assert.equal(any.stats().completed, use * 63);
    }
  });

  test('makes a model whose rate is not that of the one before', async () => {
    await using scheduler = await start(echo, { maxModels: 2 });
    const any = scheduler as Any;
    await any.addModel({ ...MODEL, name: 'n' });
    const rate = (): number => any.stats().models.find((model) => model.name === 'n')!.ratePerSecond;
    await until(() => {
      any.submit('n', 1).catch(() => {});
      return rate() > 0;
    }, 'a measured rate');
    await any.removeModel('n');
    await any.addModel({ ...MODEL, name: 'n' });
    assert.equal(rate(), 0);
  });
});

describe('removeModel', { concurrency: 3 }, () => {
  test('serves what is queued first, and refuses what is new at once', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { models: [ONE_BY_ONE, { ...MODEL, name: 'other' }] });
    const results = scheduler.submitMany('m', [1, 2, 3]);
    await gate.started(1);
    let removed = false;
    const removal = scheduler.removeModel('m').then(() => (removed = true));
    await assert.rejects(scheduler.submit('m', 4), UnknownModelError);
    assert.throws(() => scheduler.trySubmit('m', 4), UnknownModelError);
    await assert.rejects(scheduler.removeModel('m'), UnknownModelError, 'twice');
    await assert.rejects(scheduler.updateModel('m', { slo: '40s' }), UnknownModelError);
    await sleep(20);
    assert.equal(removed, false);
    const close = gate.stayOpen();
    assert.ok((await results).every(({ status }) => status === 'fulfilled'));
    await removal;
    assert.equal(await scheduler.submit('other', 7), 7);
    close();
    assert.equal(scheduler.stats().completed, 4);
  });

  test('with drain: false ends what is queued as closed and waits for what runs', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { models: [ONE_BY_ONE, { ...MODEL, name: 'other' }] });
    const [running, ...queued] = [1, 2, 3].map((input) => scheduler.submit('m', input));
    await gate.started(1);
    let removed = false;
    const removal = scheduler.removeModel('m', { drain: false }).then(() => (removed = true));
    const ended = await Promise.allSettled(queued);
    assert.ok(ended.every((result) => result.status === 'rejected' && result.reason instanceof ClosedError && result.reason.message.includes(`'m' was removed`)));
    assert.equal(removed, false);
    gate.open();
    assert.equal(await running, 1);
    await removal;
    checkBalance(scheduler.stats());
    assert.deepEqual([scheduler.stats().completed, scheduler.stats().closed], [1, 2]);
  });

  test('goes on when its signal is aborted', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { models: [ONE_BY_ONE, { ...MODEL, name: 'other' }], maxModels: 2 });
    const result = scheduler.submit('m', 1);
    await gate.started(1);
    await assert.rejects(scheduler.removeModel('m', { signal: AbortSignal.timeout(5) }), { name: 'TimeoutError' });
    await assert.rejects(scheduler.addModel({ ...MODEL, name: 'new' }), wrongOption('maxModels', 2), 'its number is still in use');
    gate.open();
    assert.equal(await result, 1);
    await until(() => scheduler.stats().models.length === 1, 'the removal');
    await scheduler.addModel({ ...MODEL, name: 'new' });
  });

  test('of the last model leaves a scheduler to which others can be added', async () => {
    await using scheduler = await start(echo);
    await scheduler.removeModel('m');
    assert.deepEqual(scheduler.stats().models, []);
    const raw = scheduler.client();
    assert.equal(raw.submit(0, raw.nowNs()), REFUSED_NO_MODEL);
    await scheduler.addModel({ ...MODEL, name: 'n' });
    assert.equal(await (scheduler as Any).submit('n', 1), 1);
  });
});

describe('updateModel', { concurrency: 3 }, () => {
  test('puts a shorter SLO in force: a lone request waits no longer for others', async () => {
    await using scheduler = await start(echo, { models: [{ ...MODEL, slo: '20s', profile: { alpha: 300, beta: 1, maxBatch: 8 }, condition: 'frontrun' }] });
    await scheduler.updateModel('m', { slo: '1500ms' });
    const { queueMs } = await scheduler.submitDetailed('m', 1);
    assert.ok(queueMs < 5000, `it waited ${queueMs} ms`);
    await scheduler.updateModel('m', { slo: '3s' });
    const longer = await scheduler.submitDetailed('m', 1);
    assert.ok(longer.queueMs > 1500, `it waited ${longer.queueMs} ms`);
  });

  test('with an SLO much shorter than before does not turn the requests away', async () => {
    await using scheduler = await start(echo, { devices: [{ kind: 'emulated' }] });
    await scheduler.updateModel('m', { slo: '5ms', profile: { alpha: 0.1, beta: 1.9, maxBatch: 4 } });
    let served = 0;
    for (let i = 0; i < 20; i++) await scheduler.submit('m', i).then(() => served++, (error: unknown) => assert.ok(error instanceof ExpiredError, String(error)));
    assert.ok(served > 0);
  });

  for (const [name, options] of TOPOLOGIES) {
    test(`puts a smaller maxBatch in force for all later batches, and loses none that are under way (${name})`, async () => {
      const models = ['m', 'n', 'o'].map((model): ModelOptions => ({ ...MODEL, name: model, profile: { alpha: 0.05, beta: 3, maxBatch: 8 } }));
      await using scheduler = await start(echo, { models, devices: [{ kind: 'emulated' }], margins: { control: 2 }, ...options });
      for (let round = 0; round < 10; round++) {
        const before = Promise.all(models.map(({ name: model }) => scheduler.submitMany(model, Array<number>(24).fill(round))));
        await sleep(2 + (round % 5));
        await scheduler.updateModel('m', { maxBatch: 2 });
        const after = await Promise.all(Array.from({ length: 10 }, () => scheduler.submitDetailed('m', 0)));
        assert.ok(after.every(({ batchSize }) => batchSize <= 2));
        assert.ok((await before).flat().every(({ status }) => status === 'fulfilled'));
        await scheduler.updateModel('m', { maxBatch: 8 });
      }
      checkBalance(scheduler.stats());
    });
  }

  test('puts profile, maxQueue, onLate and condition in force', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { models: [ONE_BY_ONE] });
    const first = scheduler.submit('m', 1);
    await gate.started(1);
    await scheduler.updateModel('m', { maxQueue: 2 });
    const queued = [scheduler.submit('m', 2), scheduler.submit('m', 3)];
    await assert.rejects(scheduler.submit('m', 4), OverloadedError);
    const close = gate.stayOpen();
    await Promise.all([first, ...queued]);
    await scheduler.updateModel('m', { profile: ['50s'], slo: '60s' });
    await assert.rejects(scheduler.submit('m', 5, { slo: '40s' }), (error) => error instanceof InfeasibleError && error.message.includes('50 s'));
    close();
    await scheduler.updateModel('m', { profile: ['10ms'], slo: '1s', onLate: 'reject' });
    const late = scheduler.submit('m', 6);
    late.catch(() => {});
    await gate.started(4);
    await sleep(1200);
    gate.open();
    await assert.rejects(late, LateError);
    await scheduler.updateModel('m', { onLate: 'deliver' });
    const delivered = scheduler.submit('m', 7);
    await gate.started(5);
    await sleep(1200);
    gate.open();
    assert.equal(await delivered, 7);
  });

  test('refuses what is wrong and changes nothing then', async () => {
    await using scheduler = await start(echo);
    const any = scheduler as Any;
    await assert.rejects(any.updateModel('m', { maxBatch: 9 }), wrongOption('changes.maxBatch', 9, 8));
    await assert.rejects(any.updateModel('m', { profile: { alpha: 0.1, beta: 1, maxBatch: 16 } }), wrongOption('changes.maxBatch', 16, 8));
    await assert.rejects(any.updateModel('m', { slo: '1ms' }), wrongOption('changes.slo'));
    await assert.rejects(any.updateModel('m', { name: 'n' } as ModelChanges), wrongOption('changes.name'));
    await assert.rejects(any.updateModel('m', { inputs: {} } as ModelChanges), wrongOption('changes.inputs'));
    await assert.rejects(any.updateModel('m', { slow: 1 } as ModelChanges), wrongOption('changes.slow'));
    await assert.rejects(any.updateModel('nobody', {}), UnknownModelError);
    await any.updateModel('m', {});
    assert.equal(await any.submit('m', 3), 3);
  });
});

describe('devices', { concurrency: 3 }, () => {
  test('that are added take batches; more than maxDevices are refused with the numbers', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { models: [ONE_BY_ONE], maxDevices: 3 });
    const results = scheduler.submitMany('m', [1, 2, 3]);
    await gate.started(1);
    await assert.rejects(scheduler.addDevice({ kind: 'emulated', count: 3 }), wrongOption('maxDevices', 3, 1));
    await assert.rejects(scheduler.addDevice({ kind: 'emulated', slow: 1 } as never), wrongOption('device.slow'));
    assert.deepEqual(await scheduler.addDevice({ kind: 'callback', execute: gate.execute, count: 2 }), [1, 2]);
    await gate.started(3);
    assert.deepEqual(gate.batches.map(({ gpu }) => gpu).sort(), [0, 1, 2]);
    gate.open();
    assert.ok((await results).every(({ status }) => status === 'fulfilled'));
    assert.equal(scheduler.stats().gpus.length, 3);
  });

  test('that are removed finish what they have and start nothing after that; their numbers are used again', async () => {
    const gate = new Gate();
    await using scheduler = await start(gate.execute, { models: [ONE_BY_ONE], devices: [{ kind: 'callback', execute: gate.execute, count: 2 }], maxDevices: 2 });
    const results = scheduler.submitMany('m', [1, 2, 3, 4, 5]);
    await gate.started(2);
    let isRemoved = false;
    const removal = scheduler.removeDevice(0).then(() => (isRemoved = true));
    await assert.rejects(scheduler.removeDevice(0), wrongOption('gpu', 0), 'twice');
    await sleep(20);
    assert.equal(isRemoved, false, 'its batch still runs');
    const close = gate.stayOpen();
    await removal;
    const before = gate.batches.length;
    assert.ok((await results).every(({ status }) => status === 'fulfilled'));
    assert.ok(gate.batches.slice(before).every(({ gpu }) => gpu === 1));
    assert.deepEqual(scheduler.stats().gpus.map(({ gpu }) => gpu), [1]);
    assert.deepEqual(await scheduler.addDevice({ kind: 'callback', execute: gate.execute }), [0]);
    const again = gate.batches.length;
    await scheduler.submitMany('m', [1, 2, 3, 4]);
    close();
    assert.ok(gate.batches.slice(again).some(({ gpu }) => gpu === 0));
  });

  test('that are removed under load start nothing once the removal has resolved', async () => {
    const removed = new Set<number>();
    const wrong: number[] = [];
    const execute: Execute = async (batch) => {
      if (removed.has(batch.gpu)) wrong.push(batch.gpu);
      await nextTurn();
      return batch.inputs;
    };
    await using scheduler = await start(execute, { devices: [{ kind: 'callback', execute, count: 3 }], maxDevices: 3, topology: 'split' });
    let running = true;
    const load = (async () => {
      while (running) {
        scheduler.submitMany('m', [1, 2, 3, 4]).catch(() => {});
        await nextTurn();
      }
    })();
    for (let round = 0; round < 40; round++) {
      const gpu = round % 3;
      await scheduler.removeDevice(gpu);
      removed.add(gpu);
      await sleep(2);
      removed.delete(gpu);
      assert.deepEqual(await scheduler.addDevice({ kind: 'callback', execute }), [gpu]);
    }
    running = false;
    await load;
    await scheduler.drain();
    assert.deepEqual(wrong, []);
    assert.equal(scheduler.stats().completed + scheduler.stats().late + scheduler.stats().dropped, scheduler.stats().accepted);
  });

  test('may all be gone: requests expire, and are served again when there is one', async () => {
    await using scheduler = await start(echo, { models: [{ ...MODEL, slo: '300ms' }] });
    await scheduler.removeDevice(0);
    assert.deepEqual(scheduler.stats().gpus, []);
    await assert.rejects(scheduler.submit('m', 1), ExpiredError);
    const waiting = scheduler.submit('m', 2, { slo: '20s' });
    assert.deepEqual(await scheduler.addDevice({ kind: 'callback', execute: echo }), [0]);
    assert.equal(await waiting, 2);
  });

  test('that are not there cannot be removed', async () => {
    await using scheduler = await start(echo, { maxDevices: 2 });
    for (const gpu of [1, 2, -1, 0.5, NaN]) await assert.rejects(scheduler.removeDevice(gpu), wrongOption('gpu', gpu));
  });
});

describe('rebalance', { concurrency: 3 }, () => {
  test('in one shard moves nothing', async () => {
    await using scheduler = await start(echo, { topology: 'single', shards: 1 });
    assert.equal(await scheduler.rebalance(), 0);
  });

  for (const [name, options] of TOPOLOGIES.slice(1)) {
    test(`takes the queue along, and cancels find what has moved (${name})`, async () => {
      const shards = options.shards!;
      const gate = new Gate();
      // Reckoned as heavy, the first one has a shard of its own; as it turns out, all are equal.
      const models = Array.from({ length: 2 * shards }, (_, i): ModelOptions => ({ ...ONE_BY_ONE, name: `m${i}`, expectedRate: i === 0 ? 1e6 : 1e3 }));
      await using scheduler = await start(gate.execute, { models, ...options });
      const open = gate.stayOpen();
      await until(() => {
        for (const { name: model } of models) scheduler.submit(model, 0).catch(() => {});
        return scheduler.stats().models.every(({ ratePerSecond }) => ratePerSecond > 0);
      }, 'measured rates');
      await scheduler.drain();
      const controller = new AbortController();
      const kept = models.map(({ name: model }) => scheduler.submit(model, model));
      const aborted = models.map(({ name: model }) => scheduler.submit(model, model, { signal: controller.signal }));
      const moves = scheduler.rebalance();
      controller.abort(new Error('enough'));
      const ended = await Promise.allSettled(aborted);
      assert.ok(ended.every((result) => result.status === 'rejected' && (result.reason as Error).message === 'enough'));
      assert.deepEqual(await Promise.all(kept), models.map(({ name: model }) => model));
      assert.ok((await moves) > 0, 'nothing was moved');
      assert.deepEqual(await Promise.all(models.map(({ name: model }) => scheduler.submit(model, `${model} again`))), models.map(({ name: model }) => `${model} again`));
      await scheduler.drain();
      open();
      checkBalance(scheduler.stats());
      assert.equal(scheduler.stats().inFlight, 0);
    });
  }
});

describe('close', { concurrency: 3 }, () => {
  test('settles every change that is under way, and none is possible after it', async () => {
    const gate = new Gate();
    const scheduler = (await start(gate.execute, { models: [ONE_BY_ONE, { ...MODEL, name: 'n' }], devices: [{ kind: 'callback', execute: gate.execute, count: 2 }], topology: 'split', shards: 2 })) as Any;
    const result = scheduler.submit('m', 1);
    await gate.started(1);
    const changes = [
      scheduler.addModel({ ...MODEL, name: 'new' }), scheduler.removeModel('m'), scheduler.updateModel('n', { slo: '20s' }), scheduler.addDevice({ kind: 'emulated' }),
      scheduler.removeDevice(0), scheduler.removeDevice(1, { drain: false }), scheduler.rebalance(), scheduler.removeModel('n', { drain: false }),
    ];
    const settled = Promise.allSettled(changes);
    const closing = scheduler.close();
    for (const change of [
      () => scheduler.addModel({ ...MODEL, name: 'o' }), () => scheduler.removeModel('m'), () => scheduler.updateModel('n', {}), () => scheduler.addDevice({ kind: 'emulated' }),
      () => scheduler.removeDevice(0), () => scheduler.rebalance(),
    ]) await assert.rejects(change(), ClosedError);
    gate.open();
    assert.equal(await result, 1);
    await closing;
    for (const outcome of await settled) if (outcome.status === 'rejected') assert.ok(outcome.reason instanceof ClosedError, String(outcome.reason));
    await assert.rejects(scheduler.rebalance(), ClosedError);
    checkBalance(scheduler.stats());
  });

  test('settles changes that wait for a batch which never ends', async () => {
    const gate = new Gate();
    const scheduler = (await start(gate.execute, { models: [ONE_BY_ONE, { ...MODEL, name: 'n' }] })) as Any;
    const result = scheduler.submit('m', 1);
    result.catch(() => {});
    await gate.started(1);
    const settled = Promise.allSettled([scheduler.removeModel('m'), scheduler.removeDevice(0)]);
    await scheduler.close();
    for (const outcome of await settled) assert.ok(outcome.status === 'rejected' && outcome.reason instanceof ClosedError);
    await assert.rejects(result, ClosedError);
  });
});

describe('changes at the same time', () => {
  test('are made one after the other, whatever they are', async () => {
    await using scheduler = await start(echo, { maxModels: 30, maxDevices: 20 });
    const any = scheduler as Any;
    const names = Array.from({ length: 20 }, (_, i) => `n${i}`);
    await Promise.all([...names.map((name) => any.addModel({ ...MODEL, name })), ...names.slice(0, 9).map(() => any.addDevice({ kind: 'callback', execute: echo }))]);
    assert.deepEqual(any.stats().models.map(({ name }) => name), ['m', ...names]);
    assert.equal(new Set(any.stats().gpus.map(({ gpu }) => gpu)).size, 10);
    const updates = Array.from({ length: 8 }, (_, i) => any.updateModel('m', { slo: 10_000 + i }));
    updates.push(any.updateModel('m', { onLate: 'reject' }), any.updateModel('m', { maxBatch: 3 }));
    await Promise.all([...updates, ...names.map((name, i) => any.removeModel(name, { drain: i % 2 === 0 })), any.rebalance(), any.removeDevice(3), any.removeDevice(4)]);
    assert.deepEqual(any.stats().models.map(({ name }) => name), ['m']);
    const details = await Promise.all(Array.from({ length: 20 }, (_, i) => any.submitDetailed('m', i)));
    assert.ok(details.every(({ batchSize }) => batchSize <= 3), 'the earlier changes stay in force');
  });
});
