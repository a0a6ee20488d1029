/** What a live scheduler writes down of its arrivals, read back. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test as testOf } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createScheduler, InvalidOptionError, type ModelOptions, openClient, outcomeOf, type RawClient, type Scheduler, type SchedulerOptions } from '#rubato/index.js';
import { isRecording, type Recording, readRecording } from '#rubato/sim/recording.js';
import { NO_CHANGE, replayOf, runReplay } from '#rubato/sim/replay.js';
import { createTestScheduler } from '#rubato/testing.js';
import { checkNothingOpen, model as tensorModel, start as startWithTensors, Thread, until } from './clients.js';

const test = (name: string, run: () => Promise<void> | void): void => void testOf(name, { timeout: 60_000 }, run);

const folder = mkdtempSync(join(tmpdir(), 'rubato-record-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const file = (name: string): string => join(folder, name);

const MODELS = ['a', 'b', 'c'].map((name, k): ModelOptions => ({ name, slo: `${5 + k}s`, profile: { alpha: 0.01, beta: 0.1, maxBatch: 64 }, condition: 'immediate' }));
const EMULATED = { kind: 'emulated', count: 2 } as const;

type Any = Scheduler<unknown, unknown>;
const start = (record: SchedulerOptions['record'], more: Partial<SchedulerOptions> = {}): Promise<Any> =>
  createScheduler<unknown, unknown>({ models: MODELS, devices: [EMULATED], ...(record === undefined ? {} : { record }), ...more } as SchedulerOptions<unknown, unknown>) as Promise<Any>;

/** Requests by model name. */
function countsOf({ models, modelOf }: Recording): Record<string, number> {
  const counts: Record<string, number> = Object.fromEntries(models.map(({ name }) => [name, 0]));
  for (const model of modelOf) counts[models[model]!.name]!++;
  return counts;
}

function checkOrder({ timesNs }: Recording): void {
  assert.equal(timesNs[0], 0);
  assert.ok(timesNs.every((timeNs, k) => k === 0 || timeNs >= timesNs[k - 1]!), 'times never fall');
}

/** The file says what the scheduler says. */
function checkTotals(scheduler: Any, recording: Recording): void {
  const { accepted, refused, completed, late, cancelled, failed, closed, dropped, inFlight } = scheduler.stats();
  const totals = recording.totals!;
  assert.deepEqual(
    [totals.requests, totals.lost, totals.accepted, totals.refused, totals.completed, totals.late, totals.cancelled, totals.failed, totals.closed, totals.inFlight, totals.expired + totals.queueFull + totals.infeasible],
    [accepted, 0, accepted, refused, completed, late, cancelled, failed, closed, inFlight, dropped],
  );
  assert.equal(recording.timesNs.length, accepted);
}

async function warningsOf(run: () => Promise<void>): Promise<string[]> {
  const warnings: string[] = [];
  const note = (warning: Error & { code?: string }): void => void (warning.code === 'RUBATO_RECORDING' && warnings.push(warning.message));
  process.on('warning', note);
  await run();
  await sleep(1);
  process.off('warning', note);
  return warnings;
}

/** Reads what has ended until nothing is in flight, without an end of the turn. */
function drainAll(raw: RawClient): number[] {
  const outcomes: number[] = [];
  while (raw.inFlight > 0) {
    const count = raw.drain();
    for (let k = 0; k < count; k++) outcomes.push(outcomeOf(raw.outcomes[k]!));
  }
  return outcomes;
}

for (const [name, options] of [['single', { topology: 'single' }], ['split, 2 shards', { topology: 'split', shards: 2, waiting: 'park' }]] as const) {
  describe(`in ${name} a recording`, () => {
    test('holds each accepted request of each client, with its model and SLO, at its time', async () => {
      const path = file(`clients-${name}.csv`);
      const scheduler = await start(path, { ...options, maxInFlight: 1024 });
      const raw = scheduler.client();
      const other = openClient(scheduler.ticket());
      const expected: [timeUs: number, model: number, sloNs: number][] = [];
      const fromNs = 1e3 * Math.round(raw.nowNs() / 1e3);
      for (let k = 0; k < 600; k++) {
        const timeNs = fromNs + 1e3 * ((k * 7919) % 600); // in no order
        const model = k % 3;
        const sloNs = k % 5 === 0 ? 4e9 + 1e6 * k : 0;
        assert.ok(raw.submit(model, timeNs, sloNs) >= 0);
        expected.push([timeNs / 1e3, model, sloNs]);
      }
      raw.commit();
      await until(() => raw.drain() >= 0 && raw.inFlight === 0);
      const promises = Array.from({ length: 200 }, (_, k) => (k % 2 === 0 ? scheduler : other).submit(MODELS[k % 3]!.name, undefined, k % 4 === 0 ? { slo: '20s' } : {}));
      await Promise.all(promises);
      await assert.rejects(scheduler.submit('a', 1, { slo: '1us' }), { code: 'ERR_RUBATO_INFEASIBLE' }); // refused: not in it
      await other.close();
      await scheduler.close();
      assert.ok(isRecording(path));
      const recording = readRecording(path);
      checkOrder(recording);
      checkTotals(scheduler, recording);
      checkNothingOpen(scheduler as never);
      const { timesNs, modelOf, slosNs } = recording;
      expected.sort((x, y) => x[0] - y[0]);
      const firstUs = expected[0]![0];
      const got = expected.map((_, k) => [timesNs[k]! / 1e3 + firstUs, modelOf[k]!, slosNs[k]!]);
      const inOrder = (list: number[][]): string[] => list.map(String).sort();
      assert.deepEqual(inOrder(got), inOrder(expected));
      assert.deepEqual(slosNs.subarray(600).reduce((sum, ns) => sum + (ns === 20e9 ? 1 : 0), 0), 50);
      assert.deepEqual(recording.models.map((model) => [model.name, model.sloNs, model.condition, model.dropPolicy]), [['a', 5e9, 'immediate', 'adaptive'], ['b', 6e9, 'immediate', 'adaptive'], ['c', 7e9, 'immediate', 'adaptive']]);
      assert.equal(recording.gpus, 2);
      assert.ok(recording.totals!.gpuSeconds > 0 && recording.totals!.batches > 0);
    });

    test('follows models and GPUs that come, change, move and go', async () => {
      const path = file(`changes-${name}.csv.gz`);
      const scheduler = await start(path, options);
      const submit = (model: string, count: number): Promise<unknown> => Promise.all(Array.from({ length: count }, (_, k) => scheduler.submit(model, k)));
      await submit('a', 10);
      await scheduler.updateModel('a', { slo: '4s' });
      await submit('a', 5);
      await scheduler.addDevice({ kind: 'emulated', count: 3 });
      await scheduler.addModel({ name: 'd', slo: '4s', profile: ['1ms'], condition: 'immediate', dropPolicy: 'timeout' });
      await submit('d', 7);
      const flood = Array.from({ length: 40 }, () => submit('b', 20));
      await scheduler.rebalance();
      await Promise.all(flood);
      await scheduler.removeModel('c');
      await scheduler.addModel({ name: 'e', slo: '3s', profile: ['1ms'], condition: 'immediate' });
      await submit('e', 3);
      await scheduler.close();
      const recording = readRecording(path);
      assert.deepEqual(countsOf(recording), { a: 15, b: 800, c: 0, d: 7, e: 3 });
      checkOrder(recording);
      checkTotals(scheduler, recording);
      assert.equal(recording.gpus, 5);
      assert.ok(recording.hasChanges);
      assert.deepEqual(Array.from(recording.slosNs.filter((ns) => ns > 0)), Array<number>(5).fill(4e9));
      assert.equal(recording.models.find((model) => model.name === 'd')!.dropPolicy, 'timeout');
    });

    test('holds what was cancelled, and what closing ended', async () => {
      const path = file(`closed-${name}.csv`);
      const scheduler = await start(path, { ...options, models: [{ ...MODELS[0]!, condition: 'latest' }], shards: 1 });
      const aborter = new AbortController();
      const ended = Array.from({ length: 30 }, (_, k) => scheduler.submit('a', k, k < 10 ? { signal: aborter.signal } : {}).catch((error: unknown) => error));
      await sleep(50);
      aborter.abort();
      await until(() => scheduler.stats().cancelled > 0);
      const last = Array.from({ length: 5 }, (_, k) => scheduler.submit('a', k).catch((error: unknown) => error));
      await scheduler.close();
      await Promise.all([...ended, ...last]);
      const recording = readRecording(path);
      checkTotals(scheduler, recording);
      assert.equal(recording.timesNs.length, 35);
      assert.ok(recording.totals!.cancelled > 0 && recording.totals!.closed > 0, JSON.stringify(recording.totals));
    });
  });
}

describe('a recording', () => {
  for (const topology of ['single', 'split'] as const) {
    test(`holds what a thread had submitted that died before it committed, in ${topology}`, async () => {
      const path = file(`died-${topology}.csv`);
      const scheduler = await startWithTensors(topology, { record: path, models: [tensorModel('double'), tensorModel('blob')] as never });
      for (const [isRaw, isCommitted] of [[true, false], [true, true], [false, true]] as const) {
        const go = new Int32Array(new SharedArrayBuffer(4));
        const thread = new Thread({ name: 'die', ending: 'exit', isRaw, isCommitted, count: 11, go }, scheduler.ticket());
        await thread.next();
        Atomics.store(go, 0, 1);
        Atomics.notify(go, 0);
        await thread.exited;
      }
      await until(() => scheduler.stats().accepted === 33 && scheduler.stats().inFlight === 0);
      await scheduler.close();
      const recording = readRecording(path);
      checkTotals(scheduler as never, recording);
      assert.equal(recording.timesNs.length, 33);
    });
  }

  test('of few bytes per request is compressed to fewer', async () => {
    for (const path of [file('size.csv'), file('size.csv.gz')]) {
      const scheduler = await start(path);
      const raw = scheduler.client();
      const fromNs = raw.nowNs();
      for (let k = 0; k < 20_000; k++) raw.submit(0, fromNs + k * 100e3);
      raw.commit();
      await until(() => raw.drain() >= 0 && raw.inFlight === 0);
      await scheduler.close();
      assert.equal(readRecording(path).timesNs.length, 20_000);
      assert.ok(statSync(path).size < (path.endsWith('.gz') ? 1 : 5) * 20_000, `${statSync(path).size} bytes`);
    }
  });

  test('that is cut off anywhere is read up to its last whole line', async () => {
    for (const path of [file('cut.csv'), file('cut.csv.gz')]) {
      const scheduler = await start(path);
      await Promise.all(Array.from({ length: 300 }, (_, k) => scheduler.submit(MODELS[k % 3]!.name, k)));
      await scheduler.close();
      const content = readFileSync(path);
      for (const share of [0.8, 0.7, 0.6]) {
        writeFileSync(path, content.subarray(0, Math.floor(share * content.length)));
        const { timesNs, totals } = readRecording(path);
        assert.ok(totals === null && timesNs.length > 0 && timesNs.length <= 300, `${path} to ${share}: ${timesNs.length}`);
      }
    }
  });

  test('of a scheduler in virtual time is exact, and replays to the same outcomes', async () => {
    const path = file('virtual.csv');
    const options = { models: [{ name: 'm', slo: '20ms', profile: { alpha: '1ms', beta: '5ms', maxBatch: 16 } }], devices: [EMULATED], record: path } as const;
    const scheduler = await createTestScheduler<unknown, unknown>(options);
    const results: Promise<unknown>[] = [];
    for (let k = 0; k < 500; k++) {
      results.push(scheduler.submit('m', k).catch((error: unknown) => error));
      await scheduler.advance((k * k) % 7 === 0 ? 0 : '900us');
    }
    await scheduler.runUntilIdle();
    await Promise.all(results);
    const { completed, dropped, gpus } = scheduler.stats();
    await scheduler.close();
    const recording = readRecording(path);
    assert.equal(recording.timesNs.length, 500);
    const replayed = runReplay(replayOf(recording, NO_CHANGE), null);
    assert.deepEqual(runReplay(replayOf(recording, NO_CHANGE), null), replayed, 'the same again');
    assert.deepEqual([replayed.good, replayed.offered - replayed.good], [completed, dropped]);
    assert.equal(replayed.batches, gpus.reduce((sum, gpu) => sum + gpu.batches, 0));
  });

  test('lacks what came while the thread was busy, and says so', async () => {
    const path = file('lost.csv');
    const warnings = await warningsOf(async () => {
      const scheduler = await start(path, { models: [{ name: 'a', slo: '10s', profile: { alpha: '0.1us', beta: '1us', maxBatch: 4096 }, condition: 'immediate' }] });
      const raw = scheduler.client();
      const models = new Int32Array(50_000);
      const arrivalsNs = new Float64Array(50_000);
      for (let round = 0; round < 8; round++) {
        assert.equal(raw.submitBulk(models, arrivalsNs.fill(raw.nowNs())), 50_000);
        assert.equal(drainAll(raw).length, 50_000);
      }
      await scheduler.close();
    });
    const { timesNs, totals } = readRecording(path);
    assert.ok(totals!.lost > 0);
    assert.equal(totals!.lost + timesNs.length, 400_000);
    assert.equal(totals!.requests, timesNs.length);
    assert.deepEqual(warnings, [`${path} lacks ${totals!.lost} of 400000 requests: they came faster than this thread could write them`]);
  });

  test('ends at its limit, with one warning, and requests go on', async () => {
    const path = file('limit.csv');
    const warnings = await warningsOf(async () => {
      const scheduler = await start({ file: path, maxBytes: 1000 });
      for (let round = 0; round < 10; round++) {
        await Promise.all(Array.from({ length: 100 }, (_, k) => scheduler.submit('a', k)));
        await sleep(25);
      }
      assert.equal(scheduler.stats().completed, 1000);
      await scheduler.close();
    });
    const { timesNs, totals } = readRecording(path);
    assert.match(totals!.stopped!, /limit of 1000 bytes/);
    assert.ok(timesNs.length > 0 && timesNs.length < 1000);
    assert.equal(warnings.length, 1);
    assert.match(warnings[0]!, /^recording has ended: the file has reached its limit of 1000 bytes \(.*limit\.csv\)$/);
  });

  test('on a full disk ends with one warning, and requests go on', async () => {
    if (process.platform !== 'linux') return;
    const warnings = await warningsOf(async () => {
      const scheduler = await start('/dev/full');
      for (let round = 0; round < 5; round++) {
        await Promise.all(Array.from({ length: 100 }, (_, k) => scheduler.submit('a', k)));
        await sleep(25);
      }
      assert.equal(scheduler.stats().completed, 500);
      await scheduler.close();
    });
    assert.equal(warnings.length, 1);
    assert.match(warnings[0]!, /^recording has ended: cannot write \/dev\/full: ENOSPC/);
  });

  test('into a file that cannot be written is refused before anything starts', async () => {
    for (const path of [join(folder, 'no-folder', 'a.csv'), folder]) {
      await assert.rejects(start(path), (error: Error) => error instanceof InvalidOptionError && error.path === 'record' && error.message.startsWith(`record: cannot write ${path}: `));
    }
  });

  test('costs nothing that is not asked for: without it there is no memory for it', async () => {
    await using scheduler = await start(undefined);
    const { memory, port } = scheduler.ticket();
    port.close();
    assert.equal(memory.recording, null);
  });
});
