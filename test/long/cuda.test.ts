import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { leftovers, NOTHING_LEFT, skip } from '../devices/cuda/fake.js';
import { leave } from '../devices/cuda/leave.js';

describe('the CUDA stream manager', { skip }, () => {
  test('lets go of everything when the thread that opened it ends, 200 times', { timeout: 600_000 }, async () => {
    for (let round = 0; round < 200; round++) await leave(1, round);
    assert.deepEqual(leftovers(), NOTHING_LEFT);
  });
});
