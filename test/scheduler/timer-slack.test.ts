import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { loadNative } from '#rubato/devices/cuda/native.js';
import { createScheduler, type SchedulerOptions } from '#rubato/index.js';

const { native, reason } = loadNative();
const skip = process.platform !== 'linux' ? 'only Linux has a timer slack' : native === null ? reason : false;

const threads = (): string[] => readdirSync('/proc/self/task');

/** Of the threads that a scheduler starts, those whose sleeps end within a nanosecond. */
async function exactThreadsOf(options: Partial<SchedulerOptions>): Promise<number> {
  // By their numbers: a thread that has been joined is listed for some microseconds more.
  const before = new Set(threads());
  await using scheduler = await createScheduler({
    models: [{ name: 'a', slo: '5s', condition: 'immediate', profile: { alpha: 0.1, beta: 1, maxBatch: 8 } }],
    devices: [{ kind: 'emulated', count: 1 }],
    ...options,
  });
  await scheduler.submit('a', 1);
  const started = threads().filter((thread) => !before.has(thread));
  return started.filter((thread) => readFileSync(`/proc/${thread}/timerslack_ns`, 'utf8').trim() === '1').length;
}

describe('the timer slack of Linux, with the native addon', { skip }, () => {
  test('is one nanosecond for each thread of a scheduler that parks, and as it was for one that spins', async () => {
    assert.equal(await exactThreadsOf({ waiting: 'park', topology: 'single' }), 1);
    assert.equal(await exactThreadsOf({ waiting: 'balanced', topology: 'split', shards: 1 }), 2);
    assert.equal(await exactThreadsOf({ waiting: 'spin', topology: 'single' }), 0);
  });
});
