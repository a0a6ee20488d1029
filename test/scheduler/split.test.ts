/** What holds in one thread holds in several: the core behaviours, in every topology. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, test as testOf } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Worker } from 'node:worker_threads';
import {
  type Batch, ClosedError, createScheduler, DeviceError, ExpiredError, InfeasibleError, type ModelOptions, OUTCOME, outcomeOf, OverloadedError, type Scheduler, type SchedulerOptions,
} from '#rubato/index.js';

const TEST_LIMIT_MS = 40_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

const MODEL: ModelOptions = { name: 'a', slo: '10s', profile: { alpha: 0.1, beta: 1, maxBatch: 8 }, condition: 'immediate' };
const MODELS = ['a', 'b', 'c'].map((name): ModelOptions => ({ ...MODEL, name }));
/** Each batch is said to take so long that what comes later waits in the queue. */
const ONE_BY_ONE = MODELS.map((model): ModelOptions => ({ ...model, slo: '30s', profile: ['2s'] }));

type Any = Scheduler<number, unknown>;
type Execute = (batch: Batch<number>) => Promise<readonly unknown[]> | readonly unknown[];

class Gate {
  readonly batches: Batch<number>[] = [];
  readonly #release: (() => void)[] = [];

  readonly execute: Execute = (batch) => {
    this.batches.push(batch);
    return new Promise((resolve) => this.#release.push(() => resolve(batch.inputs.map((input) => 10 * input))));
  };

  async started(count: number): Promise<void> {
    while (this.batches.length < count) await sleep(1);
  }

  open(): void {
    for (const release of this.#release.splice(0)) release();
  }

  /** Lets so many batches go, one after the other. */
  async pass(count: number): Promise<void> {
    for (let batch = 1; batch <= count; batch++) {
      await this.started(batch);
      this.open();
    }
  }
}

const workersOf = new WeakMap<Any, readonly Worker[]>();
let last: Promise<unknown> = Promise.resolve();

/** Starts a scheduler and notes its threads: one after the other, since tests run beside each other. */
function startAlone(create: () => Promise<Any>): Promise<Any> {
  return alone(async () => {
    const workers: Worker[] = [];
    const note = (worker: Worker): number => workers.push(worker);
    process.on('worker', note);
    const scheduler = await create();
    process.off('worker', note);
    workersOf.set(scheduler, workers);
    return scheduler;
  });
}

/** Ends a thread, acts while it is gone, and waits for its successor, while no other scheduler starts: it would take the successor for one of its own threads. */
function endThread(scheduler: Any, thread: number, whileGone: () => void): Promise<void> {
  return alone(async () => {
    await workersOf.get(scheduler)![thread]!.terminate();
    whileGone();
    while (scheduler.stats().threads.every(({ replaced }) => replaced === 0)) await sleep(1);
  });
}

function alone<T>(act: () => Promise<T>): Promise<T> {
  const result = last.then(act);
  last = result.catch(() => {});
  return result;
}

const double: Execute = (batch) => batch.inputs.map((input) => 2 * input);

const TOPOLOGIES: [name: string, options: Partial<SchedulerOptions>, threads: number][] = [
  ['single', { topology: 'single' }, 1],
  ['single, 3 shards', { topology: 'single', shards: 3 }, 1],
  ['split, 1 shard', { topology: 'split', shards: 1 }, 2],
  ['split, 2 shards', { topology: 'split', shards: 2 }, 3],
  ['split, 3 shards', { topology: 'split', shards: 3 }, 4],
];

for (const [name, options, threads] of TOPOLOGIES) {
  const start = (execute: Execute, more: Partial<SchedulerOptions<number, unknown>> = {}): Promise<Any> =>
    startAlone(() => createScheduler<number, unknown>({ models: MODELS, devices: [{ kind: 'callback', execute }], ...(options as Partial<SchedulerOptions<number, unknown>>), ...more }));

  describe(`in ${name}`, { concurrency: 2 }, () => {
    test('the topology is as asked for, with its reason', async () => {
      const began: Worker[] = [];
      const note = (worker: Worker): number => began.push(worker);
      process.on('worker', note);
      await using scheduler = await createScheduler({ models: MODELS, devices: [{ kind: 'emulated' }], ...options });
      process.off('worker', note);
      const { kind, shards, threads: said, reason, waiting } = scheduler.topology;
      assert.deepEqual([kind, shards, said], [options.topology, options.shards ?? 1, threads]);
      assert.match(reason, /asked for/);
      assert.ok(['spin', 'park', 'balanced'].includes(waiting));
      assert.ok(began.length >= threads, `${began.length} threads were started`);
    });

    test('each request of each model gets its own output', async () => {
      await using scheduler = await start(double, { devices: [{ kind: 'callback', execute: double, count: 3 }] });
      const inputs = Array.from({ length: 900 }, (_, i) => i);
      const outputs = await Promise.all(inputs.map((input) => scheduler.submit(MODELS[input % 3]!.name, input)));
      assert.deepEqual(outputs, inputs.map((input) => 2 * input));
      assert.deepEqual(scheduler.stats().models.map(({ completed }) => completed), [300, 300, 300]);
    });

    test('emulated GPUs serve all models', async () => {
      await using scheduler = await createScheduler({ models: MODELS, devices: [{ kind: 'emulated', count: 3 }], ...options });
      const settled = await Promise.all(MODELS.map((model) => scheduler.submitMany(model.name, Array.from({ length: 50 }, (_, i) => i))));
      assert.ok(settled.flat().every(({ status }) => status === 'fulfilled'));
    });

    test('the earliest deadline goes first, whichever model it is of', async () => {
      const gate = new Gate();
      await using scheduler = await start(gate.execute, { models: ONE_BY_ONE });
      const results = [scheduler.submit('a', 1)];
      await gate.started(1);
      results.push(scheduler.submit('a', 2, { slo: '29s' }), scheduler.submit('b', 3, { slo: '22s' }), scheduler.submit('c', 4, { slo: '25s' }), scheduler.submit('a', 5, { slo: '19s' }));
      while (scheduler.stats().models.reduce((sum, { queued }) => sum + queued, 0) < 4) await sleep(1);
      await sleep(50); // all shards have told what they have
      await gate.pass(5);
      await Promise.all(results);
      assert.deepEqual(gate.batches.map(({ inputs }) => inputs[0]), [1, 5, 3, 4, 2]);
    });

    test('no batch is larger than maxBatch, and what came together runs together', async () => {
      const sizes: number[] = [];
      const execute: Execute = (batch) => {
        sizes.push(batch.size);
        return batch.inputs;
      };
      await using scheduler = await start(execute, { models: MODELS.map((model) => ({ ...model, condition: 'frontrun' })) });
      await scheduler.submitMany('b', Array.from({ length: 16 }, (_, i) => i));
      assert.deepEqual(sizes, [8, 8]);
    });

    test('an abort ends a queued request at once and a running one with its batch', async () => {
      const gate = new Gate();
      await using scheduler = await start(gate.execute, { models: ONE_BY_ONE });
      const controller = new AbortController();
      const aborted = [scheduler.submit('a', 1, { signal: controller.signal })];
      await gate.started(1);
      aborted.push(...MODELS.map((model) => scheduler.submit(model.name, 2, { signal: controller.signal })));
      const kept = scheduler.submit('c', 3);
      controller.abort();
      for (const result of aborted) await assert.rejects(result, { name: 'AbortError' });
      gate.open();
      await gate.started(2);
      gate.open();
      assert.equal(await kept, 30);
      await scheduler.drain();
      assert.deepEqual([scheduler.stats().cancelled, scheduler.stats().completed], [4, 1]);
      assert.equal(gate.batches.length, 2);
    });

    test('what cannot be met expires, what never could is refused, and a full queue says so', async () => {
      const gate = new Gate();
      await using scheduler = await start(gate.execute, { models: ONE_BY_ONE.map((model) => ({ ...model, maxQueue: 1 })) });
      const first = scheduler.submit('a', 1);
      await gate.started(1);
      await assert.rejects(scheduler.submit('b', 2, { slo: '2.3s' }), ExpiredError);
      await assert.rejects(scheduler.submit('b', 2, { slo: '1s' }), InfeasibleError);
      const queued = scheduler.submit('c', 3);
      await assert.rejects(scheduler.submit('c', 4), OverloadedError);
      await gate.pass(2);
      assert.deepEqual(await Promise.all([first, queued]), [10, 30]);
    });

    test('a batch that fails takes only its own requests with it', async () => {
      await using scheduler = await start((batch) => {
        if (batch.model === 'b') throw new Error('no');
        return double(batch);
      });
      const settled = await Promise.allSettled(MODELS.map((model) => scheduler.submit(model.name, 1)));
      assert.deepEqual(settled.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled']);
      assert.ok(settled[1]?.status === 'rejected' && settled[1].reason instanceof DeviceError);
    });

    test('details name batch size and GPU', async () => {
      await using scheduler = await start(double);
      for (const model of MODELS) {
        const { output, batchSize, gpu, late, queueMs, execMs, latencyMs } = await scheduler.submitDetailed(model.name, 4);
        assert.deepEqual([output, batchSize, gpu, late], [8, 1, 0, false]);
        assert.ok(queueMs >= 0 && execMs >= 0 && queueMs + execMs <= latencyMs + 0.001);
      }
    });

    test('a raw client gets each of its requests back once', async () => {
      await using scheduler = await createScheduler({ models: MODELS, devices: [{ kind: 'emulated', count: 2 }], ...options });
      const raw = scheduler.client();
      const models = Int32Array.from({ length: 3000 }, (_, i) => i % 3);
      assert.equal(raw.submitBulk(models, new Float64Array(3000).fill(raw.nowNs())), 3000);
      const seen = new Map<number, number>();
      while (raw.inFlight > 0) {
        for (let k = raw.drain() - 1; k >= 0; k--) {
          assert.ok(!seen.has(raw.slots[k]!));
          seen.set(raw.slots[k]!, outcomeOf(raw.outcomes[k]!));
        }
        await sleep(1);
      }
      assert.equal(seen.size, 3000);
      assert.ok([...seen.values()].every((outcome) => outcome === OUTCOME.completed || outcome === OUTCOME.expired));
    });

    test('close ends what is queued in every shard as closed and delivers what runs', async () => {
      const gate = new Gate();
      const scheduler = await start(gate.execute, { models: ONE_BY_ONE });
      const running = scheduler.submit('a', 1);
      await gate.started(1);
      const queued = MODELS.map((model) => scheduler.submit(model.name, 2));
      const closing = scheduler.close();
      const ended = await Promise.allSettled(queued);
      assert.ok(ended.every((result) => result.status === 'rejected' && result.reason instanceof ClosedError));
      gate.open();
      assert.equal(await running, 10);
      await closing;
      const { accepted, completed, closed, inFlight } = scheduler.stats();
      assert.deepEqual([accepted, completed, closed, inFlight], [4, 1, 3, 0]);
    });

    for (let victim = 0; victim < threads; victim++) {
      test(`the death of thread ${victim} loses nothing`, async () => {
        const gate = new Gate();
        const scheduler = await start(gate.execute, { models: ONE_BY_ONE });
        const results = [scheduler.submit('a', 1)];
        await gate.started(1);
        results.push(...MODELS.map((model) => scheduler.submit(model.name, 2)));
        const change = scheduler.addDevice({ kind: 'callback', execute: gate.execute });
        await endThread(scheduler, victim, () => results.push(scheduler.submit('b', 3)));
        await change;
        const all = Promise.all(results);
        while (scheduler.inFlight > 0) {
          gate.open();
          await sleep(1);
        }
        assert.deepEqual(await all, [10, ...MODELS.map(() => 20), 30]);
        const { accepted, completed, late, inFlight, threads: hosts } = scheduler.stats();
        assert.deepEqual([accepted, completed + late, inFlight], [MODELS.length + 2, MODELS.length + 2, 0]);
        assert.deepEqual(hosts.map(({ replaced }) => replaced), hosts.map((_, thread) => (thread === victim ? 1 : 0)));
        await scheduler.close();
      });
    }
  });

  describe(`a program with a scheduler in ${name}`, () => {
    test('ends by itself, and idles below 3 % of a core per thread', async () => {
      const program = `import { createScheduler } from ${JSON.stringify(import.meta.resolve('#rubato/index.js'))};
        const models = ['a', 'b', 'c'].map((name) => ({ name, slo: '5s', profile: { alpha: 0.1, beta: 1, maxBatch: 8 }, condition: 'immediate' }));
        const scheduler = await createScheduler({ models, devices: [{ kind: 'emulated', count: 4 }], ...${JSON.stringify(options)} });
        await Promise.all(models.map(({ name }) => scheduler.submit(name, 1)));
        const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
        await sleep(700);
        const before = process.cpuUsage();
        await sleep(3000);
        const { user, system } = process.cpuUsage(before);
        console.log((user + system) / 1000);`;
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], { timeout: 30_000, killSignal: 'SIGKILL', stdio: ['ignore', 'pipe', 'inherit'] });
      let stdout = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
      const [code] = (await once(child, 'close')) as [number | null];
      assert.equal(code, 0, 'it was still there after 30 s');
      assert.ok(Number(stdout) < 0.03 * 3000 * threads, `${stdout.trim()} ms of CPU time in 3 s`);
    });
  });
}
