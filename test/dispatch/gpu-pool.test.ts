import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { GpuPool, POOL_END, POOL_EXEC, POOL_LENGTH, POOL_NOW, POOL_PLANNED, POOL_READY, POOL_START } from '#rubato/dispatch/gpu-pool.js';
import { allocateSharedMemory } from '#rubato/protocol/shared-memory.js';
import { GPU } from '#rubato/protocol/tables.js';
import { virtualConfig } from '#rubato/sim/virtual-host.js';

function poolOf(gpus: number): GpuPool {
  const gpu = { host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 };
  const model = { name: 'm', sloNs: 100, profile: 0, maxBatch: 1, dropPolicy: 0, condition: 0, maxQueue: 10 };
  return new GpuPool(allocateSharedMemory(virtualConfig({ models: [model], profiles: [Float64Array.of(0, 10, Infinity)], gpus: Array.from({ length: gpus }, () => gpu), slotShift: 5 })));
}

function lowestFreeBy(pool: GpuPool, timeNs: number, nowNs: number): number {
  pool.cells[POOL_EXEC] = timeNs;
  pool.cells[POOL_NOW] = nowNs;
  return pool.lowestFreeByExec();
}

function firstRunning(pool: GpuPool, nowNs: number): number {
  pool.cells[POOL_NOW] = nowNs;
  return pool.firstRunning();
}

/** A grant that is answered with a plan. */
function plan(pool: GpuPool, gpu: number, number: number, row: number, ready: number, length: number): void {
  const freeAt = pool.freeAtNs(gpu);
  pool.grant(gpu, 0, number, 0);
  pool.cells[POOL_EXEC] = Math.max(ready, freeAt);
  pool.cells[POOL_READY] = ready;
  pool.cells[POOL_LENGTH] = length;
  pool.plan(gpu, 0, row, 0, number);
}

function end(pool: GpuPool, gpu: number, start: number, at: number): void {
  pool.cells[POOL_START] = start;
  pool.cells[POOL_END] = at;
  pool.ended(gpu);
}

describe('GpuPool', () => {
  it('finds the lowest-numbered GPU that is free in time, and the one that is free first', () => {
    const pool = poolOf(3);
    assert.equal(lowestFreeBy(pool, 0, 0), 0);
    plan(pool, 0, 1, 0, 0, 50);
    plan(pool, 1, 2, 1, 0, 20);
    assert.deepEqual([0, 1, 2].map((gpu) => pool.freeAtNs(gpu)), [50, 20, 0]);
    assert.equal(lowestFreeBy(pool, 0, 0), 2);
    assert.equal(lowestFreeBy(pool, 20, 0), 1);
    assert.equal(lowestFreeBy(pool, 50, 0), 0);
    plan(pool, 2, 3, 2, 0, 30);
    assert.equal(lowestFreeBy(pool, 19, 0), -1);
    assert.equal(firstRunning(pool, 0), 1);
  });

  it('gives a GPU to nobody else while a grant of it is not answered, or a next batch waits', () => {
    const pool = poolOf(1);
    pool.grant(0, 0, 1, 0);
    assert.equal(pool.freeAtNs(0), Infinity);
    assert.ok(pool.granted(0, 0, 1));
    assert.ok(!pool.granted(0, 0, 2));
    pool.refuse(0);
    assert.equal(pool.freeAtNs(0), 0);
    plan(pool, 0, 2, 0, 0, 10);
    assert.equal(pool.freeAtNs(0), 10);
    plan(pool, 0, 3, 1, 5, 7);
    assert.equal(pool.freeAtNs(0), Infinity);
    assert.equal(lowestFreeBy(pool, 1e18, 0), -1);
    assert.equal(firstRunning(pool, 0), -1);
  });

  it('gives a GPU back as it was when a grant is refused', () => {
    const pool = poolOf(1);
    plan(pool, 0, 1, 0, 0, 10);
    pool.grant(0, 0, 2, 0);
    pool.refuse(0);
    assert.equal(pool.freeAtNs(0), 10);
    assert.ok(pool.runs(0, 0, 0, 0, 1));
  });

  it('gives it back as it has become when its batch has ended meanwhile', () => {
    const pool = poolOf(1);
    plan(pool, 0, 1, 0, 0, 10);
    pool.grant(0, 0, 2, 0);
    end(pool, 0, 0, 8);
    assert.equal(pool.freeAtNs(0), Infinity);
    pool.refuse(0);
    assert.equal(pool.freeAtNs(0), 8);
  });

  it('predicts the next batch from the actual end of the running one, early or late, but not before it is ready', () => {
    for (const [actualEnd, ready, freeAt] of [[8, 5, 15], [14, 5, 21], [8, 12, 19]] as const) {
      const pool = poolOf(1);
      plan(pool, 0, 1, 0, 0, 10);
      plan(pool, 0, 2, 1, ready, 7);
      end(pool, 0, 0, actualEnd);
      assert.equal(pool.freeAtNs(0), freeAt);
      assert.ok(pool.runs(0, 0, 1, 0, 2) && !pool.runs(0, 0, 0, 0, 1));
      assert.ok(!pool.runs(0, 0, 1, 0, 1), 'an end of an earlier batch in the same row');
      assert.equal(pool.cells[POOL_PLANNED], 0);
    }
  });

  it('enters a plan that comes after the running batch has ended as if it had come before', () => {
    const pool = poolOf(1);
    plan(pool, 0, 1, 0, 0, 10);
    pool.grant(0, 0, 2, 0);
    end(pool, 0, 0, 14);
    pool.cells[POOL_EXEC] = 10;
    pool.cells[POOL_READY] = 6;
    pool.cells[POOL_LENGTH] = 7;
    pool.plan(0, 0, 1, 0, 2);
    assert.equal(pool.freeAtNs(0), 21);
  });

  it('takes a GPU whose prediction has passed out of the order until its end is known', () => {
    const pool = poolOf(2);
    plan(pool, 0, 1, 0, 0, 10);
    plan(pool, 1, 2, 1, 0, 20);
    assert.equal(lowestFreeBy(pool, 100, 10), 0, 'at the predicted end it may still be on time');
    assert.equal(lowestFreeBy(pool, 100, 11), 1);
    assert.equal(firstRunning(pool, 11), 1);
    end(pool, 0, 0, 13);
    assert.equal(lowestFreeBy(pool, 100, 13), 0);
    assert.equal(pool.freeAtNs(0), 13);
  });

  it('counts the time and the batches of each GPU', () => {
    const pool = poolOf(2);
    plan(pool, 1, 1, 0, 0, 10);
    end(pool, 1, 2, 9);
    plan(pool, 1, 2, 1, 20, 10);
    end(pool, 1, 20, 30);
    const row = pool.row(1) >> 1;
    assert.equal(pool.f64[row + GPU.at.busyNs], 17);
    assert.equal(pool.f64[row + GPU.at.batches], 2);
    assert.equal(pool.f64[(pool.row(0) >> 1) + GPU.at.batches], 0);
  });
});
