import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { allocateSharedMemory } from '#rubato/protocol/shared-memory.js';
import { BATCH, BATCH_FREE, BATCH_OPEN, DISPATCH_MODEL, SHARD_MODEL } from '#rubato/protocol/tables.js';
import { isQuiet } from '#rubato/scheduler/live-changes.js';
import { virtualConfig } from '#rubato/sim/virtual-host.js';

describe('a model is quiet', () => {
  const memory = allocateSharedMemory(virtualConfig({
    models: [0, 1].map((k) => ({ name: `m${k}`, sloNs: 1e6, profile: 0, maxBatch: 2, dropPolicy: 0, condition: 0, maxQueue: 10 })),
    profiles: [Float64Array.of(0, 10, 20, Infinity)],
    gpus: [{ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 }],
    shards: 2,
  }));
  const i32 = new Int32Array(memory.buffer);

  test('when it has no batch and no grant', () => {
    assert.deepEqual([0, 1].map((model) => isQuiet(memory, model)), [true, true]);
  });

  test('not while a row of its shard holds a batch of it, though none of its requests is counted as running', () => {
    // As a shard leaves it that dies when it has lowered the count and not freed the row.
    const header = (memory.shards[1]!.batchHeaders >> 2) + 3 * BATCH.words;
    i32[header + BATCH.at.model] = 1;
    i32[header + BATCH.at.state] = BATCH_OPEN;
    assert.deepEqual([0, 1].map((model) => isQuiet(memory, model)), [true, false]);
    i32[header + BATCH.at.state] = BATCH_FREE;
    assert.ok(isQuiet(memory, 1));
  });

  test('not while a grant is unanswered', () => {
    i32[(memory.dispatchModels >> 2) + DISPATCH_MODEL.at.issued] = 1;
    assert.deepEqual([0, 1].map((model) => isQuiet(memory, model)), [false, true]);
    i32[(memory.shardModels >> 2) + SHARD_MODEL.at.answered] = 1;
    assert.ok(isQuiet(memory, 0));
  });
});
