import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { clockOrigin, SystemClock, VirtualClock } from '#rubato/clock/clock.js';

describe('SystemClock', () => {
  it('counts whole nanoseconds from its origin and never goes back', () => {
    const origin = clockOrigin();
    const clock = new SystemClock(origin);
    let last = clock.nowNs();
    assert.ok(last >= -1e6 && last < 5e9, `${last} ns after the origin`);
    for (let k = 0; k < 200_000; k++) {
      const now = clock.nowNs();
      if (now < last || !Number.isInteger(now)) assert.fail(`${last} was followed by ${now}`);
      last = now;
    }
  });

  it('agrees with process.hrtime', () => {
    const origin = clockOrigin();
    const clock = new SystemClock(origin);
    let best = Infinity;
    for (let k = 0; k < 50; k++) {
      const before = clock.nowNs();
      const [seconds, nanoseconds] = process.hrtime();
      const after = clock.nowNs();
      const host = seconds * 1e9 + nanoseconds - (origin.high * 2 ** 32 + origin.low);
      best = Math.min(best, Math.max(before - host, host - after, 0));
    }
    assert.ok(best <= 1e6, `apart by ${best} ns`);
  });

  it('reads the same in two threads, to a millisecond, and never goes back in either', async () => {
    // The threads hand a token to and fro and each notes the time: the readings of both must form one ascending line.
    const shared = new SharedArrayBuffer(8);
    const turn = new Int32Array(shared);
    const rounds = 2_000;
    const origin = clockOrigin();
    const clock = new SystemClock(origin);
    const module = fileURLToPath(import.meta.resolve('#rubato/clock/clock.js'));
    const code = `
      const { workerData, parentPort } = require('node:worker_threads');
      import(workerData.module).then(({ SystemClock }) => {
        const clock = new SystemClock(workerData.origin);
        const turn = new Int32Array(workerData.shared);
        const times = new Float64Array(workerData.rounds);
        parentPort.postMessage('ready');
        for (let k = 0; k < times.length; k++) {
          for (let now = Atomics.load(turn, 0); now !== 2 * k + 1; now = Atomics.load(turn, 0)) Atomics.wait(turn, 0, now, 1000);
          times[k] = clock.nowNs();
          Atomics.store(turn, 0, 2 * k + 2);
          Atomics.notify(turn, 0);
        }
        parentPort.postMessage(times);
      });`;
    const worker = new Worker(code, { eval: true, workerData: { module, origin, shared, rounds } });
    await once(worker, 'message');
    const own = new Float64Array(rounds);
    for (let k = 0; k < rounds; k++) {
      own[k] = clock.nowNs();
      Atomics.store(turn, 0, 2 * k + 1);
      Atomics.notify(turn, 0);
      for (let now = Atomics.load(turn, 0); now !== 2 * k + 2; now = Atomics.load(turn, 0)) Atomics.wait(turn, 0, now, 1000);
    }
    const [theirs] = (await once(worker, 'message')) as [Float64Array];
    let worst = 0;
    for (let k = 0; k < rounds; k++) {
      worst = Math.max(worst, own[k]! - theirs[k]!, k + 1 < rounds ? theirs[k]! - own[k + 1]! : 0);
      if (k > 0) assert.ok(own[k]! >= own[k - 1]! && theirs[k]! >= theirs[k - 1]!, `a clock went back in round ${k}`);
    }
    assert.ok(worst <= 1e6, `the clocks are apart by ${worst} ns`);
    await worker.terminate();
  });
});

describe('VirtualClock', () => {
  it('moves only when it is told to, and stands still as often as it likes', () => {
    const clock = new VirtualClock();
    assert.equal(clock.nowNs(), 0);
    clock.advanceTo(5);
    clock.advanceTo(5);
    clock.advanceTo(1e15);
    assert.equal(clock.nowNs(), 1e15);
  });

  it('refuses to go back, and says from where to where', () => {
    const clock = new VirtualClock();
    clock.advanceTo(10);
    assert.throws(() => clock.advanceTo(9), /virtual time cannot go from 10 ns to 9 ns/);
    assert.throws(() => clock.advanceTo(NaN), RangeError);
    assert.equal(clock.nowNs(), 10);
  });
});
