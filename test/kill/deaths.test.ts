/** Deaths of scheduler threads, one by one: beside other shards, changes and close, in a row, and in a program that wants to end. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, before, describe, it as itOf } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClosedError, type ModelOptions, type RubatoError, type Scheduler, UnknownModelError } from '#rubato/index.js';
import { MODEL_SPEC } from '#rubato/protocol/specs.js';
import { Copies } from '../sim/copies.js';
import { type LiveCopy, liveCopy, type Orders } from './live.js';

const it = (name: string, run: () => Promise<void>): void => void itOf(name, { timeout: 120_000 }, run);

/** Longer than this a thread must have lived for its death not to be one in a row. */
const LIFE_MS = 120;

const MODEL = { slo: '60s', profile: { alpha: 0.02, beta: 0.4, maxBatch: 8 }, condition: 'immediate' } satisfies Partial<ModelOptions>;
const MODELS = ['a', 'b'].map((name): ModelOptions => ({ ...MODEL, name }));
const SPLIT = { topology: 'split', shards: 2, waiting: 'park', maxInFlight: 1024 } as const;
const SINGLE = { topology: 'single', waiting: 'park', maxInFlight: 1024 } as const;

const copies = new Copies();
let copy: LiveCopy;
before(async () => {
  process.removeAllListeners('warning'); // each death gives one, which would be printed
  copy = await liveCopy(copies);
});
after(() => copies.remove());

async function until(isSo: () => boolean, what: string, limitMs = 20_000): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!isSo()) {
    if (performance.now() > endMs) assert.fail(`it never came: ${what}`);
    await sleep(1);
  }
}

interface Started {
  readonly scheduler: Scheduler;
  readonly orders: Orders;
}

async function start(models: readonly ModelOptions[], topology: typeof SPLIT | typeof SINGLE, count = 4): Promise<Started> {
  const scheduler = (await copy.createScheduler({ models, devices: [{ kind: 'emulated', count }], ...topology })) as unknown as Scheduler;
  return { scheduler, orders: copy.orders(scheduler as never) };
}

/** When the successor of thread's so-manieth life works. */
const replaced = (scheduler: Scheduler, thread: number, times: number): Promise<void> => {
  const { lastRecoveryMs } = scheduler.stats().threads[thread]!;
  return until(() => {
    const now = scheduler.stats().threads[thread]!;
    return now.replaced >= times && now.lastRecoveryMs !== lastRecoveryMs;
  }, `thread ${thread} is replaced for the ${times}. time`);
};

function shardOf(scheduler: Scheduler, model: number): number {
  const { memory, port } = scheduler.ticket();
  port.close();
  return new Int32Array(memory.buffer)[(memory.specs >> 2) + model * MODEL_SPEC.words + MODEL_SPEC.at.shard]!;
}

describe('the thread of one shard', () => {
  it('does not keep the other shard from serving its models while it is stuck, nor from going on when it is replaced', async () => {
    const { scheduler, orders } = await start(MODELS, SPLIT);
    const stuck = shardOf(scheduler, 0);
    assert.notEqual(shardOf(scheduler, 1), stuck);
    await Promise.all([scheduler.submit('a', 1), scheduler.submit('b', 1)]);
    orders.give(1 + stuck, 'halt', 0);
    await until(() => orders.diedAt(1 + stuck) >= 0, 'the shard is stuck');
    let ended = 0;
    const waiting = Array.from({ length: 20 }, () => scheduler.submit('a', 1).then(() => ended++));
    const results = await Promise.all(Array.from({ length: 500 }, () => scheduler.submitDetailed('b', 1)));
    assert.deepEqual([results.length, ended], [500, 0]);
    const { threads } = scheduler.stats();
    await orders.terminate(1 + stuck);
    await Promise.all(waiting);
    assert.deepEqual(scheduler.stats().threads.map(({ replaced: times }, thread) => times - threads[thread]!.replaced), [0, 1, 2].map((thread) => (thread === 1 + stuck ? 1 : 0)));
    await scheduler.close();
  });
});

describe('changes while threads die', () => {
  for (const victim of [0, 1, 2]) {
    it(`are made by the successor of thread ${victim} that had not acknowledged them`, async () => {
      const models = ['a', 'b', 'c', 'd'].map((name, i) => ({ ...MODEL, name, expectedRate: i === 0 ? 1000 : 1 }));
      const { scheduler, orders } = await start(models, SPLIT);
      let isOver = false;
      let served = 0;
      const load = Promise.all(['b', 'c'].map(async (model) => {
        while (!isOver) {
          await scheduler.submitMany(model, [1, 2, 3]);
          served += 3;
        }
      }));
      let deaths = 0;
      let moved = 0;
      let gpus: number[] = [];
      const changes: [name: string, change: () => Promise<unknown>][] = [
        ['addModel', () => scheduler.addModel({ ...MODEL, name: 'new' })],
        ['updateModel', () => scheduler.updateModel('b', { slo: '50s' })],
        ['addDevice', async () => (gpus = await scheduler.addDevice({ kind: 'emulated', count: 2 }))],
        ['rebalance', async () => (moved += await scheduler.rebalance())],
        ['removeDevice', () => Promise.all(gpus.map((gpu) => scheduler.removeDevice(gpu)))],
        ['removeModel', () => scheduler.removeModel('new')],
      ];
      for (let round = 0; round < 2; round++) {
        for (const [name, change] of changes) {
          await sleep(LIFE_MS);
          const before = scheduler.stats().threads[victim]!.replaced;
          orders.give(victim, 'exit', 40 * deaths); // ever further into the poll that takes the change in
          deaths++;
          const done = change();
          await Promise.all([done, replaced(scheduler, victim, before + 1)]).catch((error: unknown) => assert.fail(`${name}: ${String(error)}`));
          if (name === 'addModel') await scheduler.submit('new' as 'a', 1);
          if (name === 'removeModel') await assert.rejects(scheduler.submit('new' as 'a', 1), { name: UnknownModelError.name }); // the copy has a class of its own
        }
      }
      assert.ok(moved > 0);
      isOver = true;
      await load;
      await scheduler.drain();
      const { accepted, completed, late, inFlight, threads } = scheduler.stats();
      assert.deepEqual([completed + late, inFlight], [accepted, 0]);
      assert.equal(accepted, served + 2);
      assert.equal(threads[victim]!.replaced, deaths);
      await scheduler.close();
    });
  }
});

describe('close', () => {
  for (const topology of [SINGLE, SPLIT]) {
    it(`resolves whenever it comes during a recovery, and every request has ended, ${topology.topology}`, async () => {
      for (let round = 0; round < 10; round++) {
        const { scheduler, orders } = await start(MODELS, topology);
        const results = Array.from({ length: 50 }, () => scheduler.submit('a', 1));
        const settled = Promise.allSettled(results);
        const dying = orders.terminate(round % orders.threads);
        await sleep(12 * round);
        const beganMs = performance.now();
        await scheduler.close();
        assert.ok(performance.now() - beganMs < 4900, `round ${round}: ${performance.now() - beganMs} ms`);
        await dying;
        for (const result of await settled) assert.ok(result.status === 'fulfilled' || result.reason instanceof Error && result.reason.name === ClosedError.name, String((result as PromiseRejectedResult).reason));
        const { accepted, completed, late, closed } = scheduler.stats();
        assert.ok(completed + late + closed <= accepted);
      }
    });
  }
});

describe('deaths in a row', () => {
  const died = (error: unknown): boolean => (error as RubatoError).code === 'ERR_RUBATO_THREAD_DIED';

  it('three of the same kind, each soon after the start, close the scheduler with the reason', async () => {
    const { scheduler, orders } = await start(MODELS, SPLIT);
    await scheduler.submit('a', 1);
    orders.give(1 + shardOf(scheduler, 0), 'throw', 0, true);
    await assert.rejects(scheduler.submit('a', 1), (error) => died(error) && /the thread of shard \d has ended unexpectedly \(3 times in a row\): meant to die/.test((error as Error).message));
    await assert.rejects(scheduler.submit('a', 1), died);
    assert.equal(scheduler.stats().threads.reduce((sum, thread) => sum + thread.replaced, 0), 2);
    await scheduler.close();
  });

  it('of different kinds do not, however many', async () => {
    const { scheduler, orders } = await start(MODELS, SINGLE);
    for (let times = 1; times <= 8; times++) {
      orders.give(0, times % 2 === 0 ? 'throw' : 'exit', 0);
      const result = scheduler.submit('a', 1);
      await until(() => scheduler.stats().threads[0]!.replaced === times, `death ${times}`);
      if (times === 8) await result;
      else result.catch(() => {});
    }
    await scheduler.close();
    const { accepted, completed, late } = scheduler.stats();
    assert.deepEqual([accepted, completed + late], [8, 8]);
  });

  it('nor do those that come after a life of their own', async () => {
    const { scheduler, orders } = await start(MODELS, SINGLE);
    for (let times = 1; times <= 5; times++) {
      await sleep(LIFE_MS);
      orders.give(0, 'throw', 0);
      await replaced(scheduler, 0, times);
    }
    await scheduler.submit('a', 1);
    await scheduler.close();
  });
});

describe('a program whose scheduler thread dies', () => {
  const run = async (options: typeof SINGLE | typeof SPLIT, body: string): Promise<string> => {
    const program = `import { createScheduler } from ${JSON.stringify(import.meta.resolve('#rubato/index.js'))};
      const workers = [];
      process.on('worker', (worker) => workers.push(worker));
      const scheduler = await createScheduler({ models: ['a', 'b'].map((name) => ({ name, slo: '10s', profile: ['300ms'], condition: 'immediate' })), devices: [{ kind: 'emulated' }], ...${JSON.stringify(options)} });
      const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
      ${body}`;
    const child = spawn(process.execPath, ['--no-warnings', '--input-type=module', '-e', program], { timeout: 30_000, killSignal: 'SIGKILL', stdio: ['ignore', 'pipe', 'inherit'] });
    let stdout = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    const [code] = (await once(child, 'close')) as [number | null];
    assert.equal(code, 0, `it ended by ${code}; it has said: ${stdout}`);
    return stdout.trim();
  };

  for (const options of [SINGLE, SPLIT]) {
    for (let victim = 0; victim < (options === SPLIT ? 3 : 1); victim++) {
      it(`ends by itself while it is idle, ${options.topology}, thread ${victim}`, async () => {
        const said = await run(options, `await scheduler.submit('a', 1);
          await workers[${victim}].terminate();
          while (scheduler.stats().threads[${victim}].lastRecoveryMs === null) await sleep(5);
          await scheduler.submit('a', 2);
          console.log(scheduler.stats().completed, scheduler.stats().threads[${victim}].replaced);`);
        assert.equal(said, '2 1');
      });
    }

    it(`waits for what is in flight, and then ends, ${options.topology}`, async () => {
      const said = await run(options, `const result = scheduler.submit('a', 1);
        await sleep(50);
        for (const worker of [...workers]) worker.terminate();
        await result;
        console.log('done');`);
      assert.equal(said, 'done');
    });
  }

  it('ends though it does not wait for the recovery', async () => {
    assert.equal(await run(SINGLE, "workers[0].terminate(); console.log('over');"), 'over');
  });
});
