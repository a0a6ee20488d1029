import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { loadNative } from '#rubato/devices/cuda/native.js';
import { createScheduler, type SchedulerOptions } from '#rubato/index.js';

const { native, reason } = loadNative();
const skip = process.platform !== 'linux' ? 'only Linux has a timer slack' : native === null ? reason : false;

/** Threads of this process whose sleeps end within a nanosecond. */
function exactThreads(): number {
  return readdirSync('/proc/self/task').filter((thread) => readFileSync(`/proc/${thread}/timerslack_ns`, 'utf8').trim() === '1').length;
}

async function exactThreadsOf(options: Partial<SchedulerOptions>): Promise<number> {
  const before = exactThreads();
  await using scheduler = await createScheduler({
    models: [{ name: 'a', slo: '5s', condition: 'immediate', profile: { alpha: 0.1, beta: 1, maxBatch: 8 } }],
    devices: [{ kind: 'emulated', count: 1 }],
    ...options,
  });
  await scheduler.submit('a', 1);
  return exactThreads() - before;
}

describe('the timer slack of Linux, with the native addon', { skip }, () => {
  test('is one nanosecond for each thread of a scheduler that parks, and as it was for one that spins', async () => {
    assert.equal(await exactThreadsOf({ waiting: 'park', topology: 'single' }), 1);
    assert.equal(await exactThreadsOf({ waiting: 'balanced', topology: 'split', shards: 1 }), 2);
    assert.equal(await exactThreadsOf({ waiting: 'spin', topology: 'single' }), 0);
  });
});
