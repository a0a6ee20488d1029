import assert from 'node:assert/strict';
import { describe, test as testOf } from 'node:test';
import { SystemClock } from '#rubato/clock/clock.js';
import { control, leftovers, NOTHING_LEFT, skip, VECADD, withFile } from './fake.js';
import { Direct } from './direct.js';
import { leave } from './leave.js';

const TEST_LIMIT_MS = 120_000;
const test = (name: string, run: () => Promise<void>): void => void testOf(name, { timeout: TEST_LIMIT_MS }, run);

describe('the CUDA stream manager', { skip }, () => {
  test('takes and ends 20,000 batches at less than 5 µs each of the dispatch thread, and allocates nothing for them', async () => {
    const direct = new Direct(0);
    await direct.attachment.ready();
    const run = (batches: number): number => {
      const costsNs: number[] = [];
      for (let issued = 0, ended = 0; ended < batches;) {
        while (issued < batches && issued - ended < 16) direct.issue(issued++ & 15, 4);
        const before = performance.now();
        const taken = direct.poll();
        if (taken > 0) costsNs.push(((performance.now() - before) * 1e6) / taken);
        ended += direct.drain();
      }
      // Of the polls that took batches the median: others take the core away in the middle of some.
      return costsNs.sort((a, b) => a - b)[costsNs.length >> 1]!;
    };
    run(2000);
    const perBatchNs = Math.min(...Array.from({ length: 5 }, () => run(4000)));
    // Without the clock, whose readings are boxed at every poll.
    const before = process.memoryUsage().heapUsed;
    for (let issued = 0, ended = 0; ended < 20_000; ended += direct.drain()) {
      while (issued < 20_000 && issued - ended < 16) direct.issue(issued++ & 15, 4);
      direct.poll();
    }
    const grownBytes = process.memoryUsage().heapUsed - before;
    await direct.attachment.close();
    assert.ok(perBatchNs < 5000, `${perBatchNs} ns`);
    assert.ok(grownBytes < 20_000 * 200, `${grownBytes} bytes of heap for 20,000 batches`);
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });

  test('lets go of everything when the thread that opened it ends, 10 times', async () => {
    for (let round = 0; round < 10; round++) await leave(1, round);
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });

  test('launches what came before a batch whose copy in failed, and ends both', async () => {
    const direct = new Direct(3, withFile(VECADD, { copies: 'copy' }));
    await direct.attachment.ready();
    // The first is not ready yet when the copy of the second fails; each has two copies in.
    control('fail cuMemcpy2DAsync_v2 3 2');
    direct.issue(0, 1, new SystemClock(direct.memory.config.origin).nowNs() + 100e6);
    direct.issue(1, 1);
    direct.poll();
    const statuses: number[] = [];
    while (statuses.length < 2) statuses.push(...direct.statuses());
    assert.deepEqual(statuses, [0, 1]);
    assert.match(direct.attachment.fault(0)!, /cuMemcpy2DAsync failed with CUDA_ERROR_OUT_OF_MEMORY/);
    await direct.attachment.close();
  });

  test('holds plans back while its queue is full, and loses none', async () => {
    const direct = new Direct(2);
    await direct.attachment.ready();
    control('kernel vecadd 1 hang');
    let taken = 0;
    for (let k = 0; k < 64; k++) direct.issue(k & 15, 1);
    taken += direct.poll();
    let ended = 0;
    while (ended < 64) {
      control('release'); // it hangs when it has begun, which may be later
      taken += direct.poll();
      ended += direct.drain();
    }
    assert.equal(taken, 64);
    assert.equal(direct.role.isRunning, false);
    await direct.attachment.close();
  });
});
