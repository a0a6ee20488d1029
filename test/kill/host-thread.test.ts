/** A thread that does not beat is killed and replaced; one that then does not end is given up. Mostly waiting: all at once. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RubatoError } from '#rubato/index.js';
import { HostThread, type ThreadStats } from '#rubato/scheduler/host-thread.js';
import { BEAT, LATE, STOP, STUCK } from './beat.worker.js';

const WORKER = new URL('./beat.worker.js', import.meta.url).href;

interface Hosted {
  readonly host: HostThread;
  readonly words: Int32Array;
  readonly replaced: ThreadStats[];
  readonly givenUp: RubatoError[];
}

async function start(): Promise<Hosted> {
  const words = new Int32Array(new SharedArrayBuffer(16));
  const replaced: ThreadStats[] = [];
  const givenUp: RubatoError[] = [];
  const host = new HostThread({
    name: 'the thread',
    filename: WORKER,
    task: { words },
    beat: () => words[BEAT]!,
    onReplaced: (stats) => replaced.push(stats),
    onGivenUp: (reason) => givenUp.push(reason),
  });
  while (!host.isUp) await sleep(1);
  host.unref();
  return { host, words, replaced, givenUp };
}

async function stop({ host, words }: Hosted): Promise<void> {
  words[STUCK] = 0;
  words[STOP] = 1;
  await host.stop();
}

describe('a thread', { concurrency: true }, () => {
  it('that is stuck is replaced after 3 s, and says why', { timeout: 30_000 }, async () => {
    const hosted = await start();
    const beganMs = performance.now();
    hosted.words[STUCK] = 1;
    while (hosted.replaced.length === 0) await sleep(10);
    assert.ok(performance.now() - beganMs >= 2200, `${performance.now() - beganMs} ms`); // the first look may come at once
    assert.equal(hosted.host.stats.lastDeath, 'it has not polled for 3000 ms');
    assert.equal(hosted.host.stats.replaced, 1);
    await stop(hosted);
    assert.deepEqual(hosted.givenUp, []);
  });

  it('that is stuck and cannot be ended is given up after 5 s more, and no other is started beside it', { timeout: 60_000 }, async () => {
    const hosted = await start();
    const worker = hosted.host.worker!;
    const terminate = worker.terminate.bind(worker);
    worker.terminate = () => Promise.resolve(0); // as in a native call that does not return
    const beganMs = performance.now();
    hosted.words[STUCK] = 1;
    while (hosted.givenUp.length === 0) await sleep(10);
    const tookMs = performance.now() - beganMs;
    assert.ok(tookMs >= 7000 && tookMs < 20_000, `${tookMs} ms`);
    const [reason] = hosted.givenUp;
    assert.equal(reason!.code, 'ERR_RUBATO_THREAD_DIED');
    assert.match(reason!.message, /it has not polled for 3000 ms, and was killed, and has not ended 5000 ms after that/);
    await sleep(300);
    assert.deepEqual([hosted.replaced.length, hosted.givenUp.length], [0, 1]);
    assert.equal(hosted.host.worker, worker);
    const stopBeganMs = performance.now();
    await stop(hosted); // the scheduler is closed: that must not wait for ever
    assert.ok(performance.now() - stopBeganMs < 10_000);
    await terminate();
  });

  it('that gets stuck as soon as it starts is given up the third time, as any that dies soon', { timeout: 60_000 }, async () => {
    const hosted = await start();
    hosted.words[STUCK] = 3;
    while (hosted.givenUp.length === 0) await sleep(10);
    assert.match(hosted.givenUp[0]!.message, /^the thread has ended unexpectedly \(3 times in a row\): it has not polled for 3000 ms$/);
    assert.equal(hosted.host.stats.replaced, 2);
    await stop(hosted);
  });

  it('that fails before it begins says why', { timeout: 60_000 }, async () => {
    const hosted = await start();
    const first = hosted.host.worker;
    await first!.terminate();
    while (hosted.host.worker === first) await sleep(1);
    hosted.host.worker!.emit('error', new Error('no memory for a thread')); // as Node.js does
    await hosted.host.worker!.terminate();
    while (hosted.replaced.length === 0) await sleep(10);
    assert.equal(hosted.host.stats.lastDeath, 'no memory for a thread');
    await stop(hosted);
  });

  it('that succeeds a dead one and does not begin is killed and replaced as well', { timeout: 60_000 }, async () => {
    const hosted = await start();
    hosted.words[STUCK] = 1;
    hosted.words[LATE] = 1;
    while (hosted.replaced.length === 0) await sleep(10);
    assert.equal(hosted.host.stats.replaced, 2);
    assert.equal(hosted.host.stats.lastDeath, 'it has not begun to poll within 15000 ms');
    await stop(hosted);
  });
});
