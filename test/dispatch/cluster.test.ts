import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Cluster, TICK_NS } from '#rubato/dispatch/cluster.js';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { allocateSharedMemory, MARGIN_DROP_SHARE, type SharedMemory } from '#rubato/protocol/shared-memory.js';
import { MODEL_ENDING, MODEL_NONE, SpecTable } from '#rubato/protocol/specs.js';
import { SHARD_MODEL } from '#rubato/protocol/tables.js';
import { virtualConfig } from '#rubato/sim/virtual-host.js';

/** Models with ℓ(b) = 1 ms · b + 4 ms, except the last, which runs one request at a time. */
function memoryOf(models: number, slosMs: readonly number[] = []): SharedMemory {
  const linear = LatencyProfile.linear({ alphaNs: 1e6, betaNs: 4e6, maxBatch: 32 }, 'linear').ns;
  const single = LatencyProfile.linear({ alphaNs: 1e6, betaNs: 4e6, maxBatch: 1 }, 'single').ns;
  return allocateSharedMemory(virtualConfig({
    profiles: [linear, single],
    models: Array.from({ length: models }, (_, k) => {
      const last = k === models - 1 ? 1 : 0;
      return { name: `m${k}`, sloNs: (slosMs[k] ?? 100) * 1e6, profile: last, maxBatch: last === 1 ? 1 : 32, dropPolicy: 3, condition: 0, maxQueue: 10 };
    }),
    gpus: [{ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 }],
    slotShift: 5,
  }));
}

function write(memory: SharedMemory, model: number, ratePerSecond: number, target: number, untilNs = 0): void {
  const row = (memory.shardModels >> 2) + model * SHARD_MODEL.words;
  new Int32Array(memory.buffer)[row + SHARD_MODEL.at.target] = target;
  const f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
  f64[(row >> 1) + SHARD_MODEL.at.ratePerSecond] = ratePerSecond;
  f64[(row >> 1) + SHARD_MODEL.at.ratedUntilNs] = untilNs;
}

function tick(memory: SharedMemory, gpus: number, nowNs = 0, cluster = new Cluster(memory)): { scale: number; share: number } {
  cluster.tick(nowNs, gpus);
  return { scale: Number(cluster.scale.toFixed(9)), share: Number(new Float64Array(memory.buffer, memory.margins)[MARGIN_DROP_SHARE]!.toFixed(9)) };
}

describe('the scale of the batches that just carry the load', () => {
  it('is 0 without load', () => {
    assert.deepEqual(tick(memoryOf(2), 4), { scale: 0, share: 0 });
  });

  it('is such that batches of the scaled target size keep the GPUs busy', () => {
    const memory = memoryOf(2);
    write(memory, 0, 1000, 16);
    // 1000/s · (1 ms + 4 ms / 4) = 2 GPUs in batches of 4, a quarter of the target size.
    assert.deepEqual(tick(memory, 2), { scale: 0.25, share: 0.225 });
    assert.deepEqual(tick(memory, 5), { scale: 0.0625, share: 0.05625 });
  });

  it('adds the load of all models', () => {
    const memory = memoryOf(3);
    write(memory, 0, 500, 16);
    write(memory, 1, 500, 16);
    assert.deepEqual(tick(memory, 2), { scale: 0.25, share: 0.225 });
  });

  it('counts a model that runs one request at a time, or could run two, by what it needs at least', () => {
    const memory = memoryOf(2);
    write(memory, 1, 100, 1); // half a GPU, whatever the scale
    write(memory, 0, 500, 16); // half a GPU for requests, an eighth for batches
    assert.deepEqual(tick(memory, 2), { scale: 0.125, share: 0.1125 });
    write(memory, 0, 100, 1); // 1 ms by the slope from 1 to 2, and 4 ms for each batch
    assert.deepEqual(tick(memory, 1), { scale: 1, share: 0.8 });
  });

  it('is infinite when the GPUs cannot carry the load in batches of any size, and without GPUs; the share stays at most 0.8', () => {
    const memory = memoryOf(2);
    write(memory, 0, 2000, 16);
    assert.deepEqual(tick(memory, 2), { scale: Infinity, share: 0.8 });
    assert.deepEqual(tick(memory, 0), { scale: Infinity, share: 0.8 });
  });

  it('forgets a model that gets no requests within the five seconds of its window', () => {
    const memory = memoryOf(2);
    write(memory, 0, 1000, 16, 10e9);
    const at = (seconds: number): number => tick(memory, 2, (10 + seconds) * 1e9).scale;
    assert.equal(at(0.05), 0.25);
    assert.ok(at(2.5) < 0.13 && at(2.5) > 0.08, `${at(2.5)} after half the time`);
    assert.equal(at(5.05), 0);
    assert.equal(at(100), 0);
  });

  it('does not count models that are being removed or are gone, and counts one that comes', () => {
    const memory = memoryOf(2);
    const cluster = new Cluster(memory);
    const specs = new SpecTable(memory, true);
    write(memory, 0, 1000, 16);
    for (const [state, scale] of [[MODEL_ENDING, 0], [MODEL_NONE, 0]] as const) {
      specs.setState(0, state);
      cluster.takeChanges();
      assert.equal(tick(memory, 2, 0, cluster).scale, scale);
    }
    specs.writeModel(0, memory.config.models[0]!, memory.config.profiles[0]!, 0);
    cluster.takeChanges();
    assert.equal(tick(memory, 2, 0, cluster).scale, 0.25);
  });

  it('takes the largest batch when the profile has become shorter than the target size', () => {
    const memory = memoryOf(2);
    write(memory, 0, 100, 64);
    assert.deepEqual(tick(memory, 1), { scale: 0.013888889, share: 0.0125 });
  });

  it('is computed every 50 ms, by the first poll after', () => {
    const memory = memoryOf(2);
    const cluster = new Cluster(memory);
    assert.ok(cluster.nextTickNs <= 0);
    cluster.tick(7, 1);
    assert.equal(cluster.nextTickNs, 7 + TICK_NS);
  });
});

describe('how far to look ahead', () => {
  it('is the time of a mean batch on many GPUs, of the longest on few, of models that have load', () => {
    const memory = memoryOf(3);
    const cluster = new Cluster(memory);
    const ahead = (gpus: number, nowNs: number): number => {
      cluster.tick(nowNs, gpus);
      return cluster.aheadNs;
    };
    assert.equal(ahead(1, 0), 0);
    write(memory, 0, 900, 6); // 150 batches of 10 ms a second
    write(memory, 1, 800, 16, 6e9); // 50 of 20 ms
    assert.equal(ahead(10, 0), 12.5e6);
    assert.equal(ahead(9, 0), 20e6);
    assert.equal(ahead(1, 0), 20e6);
    write(memory, 1, 0, 16);
    assert.equal(ahead(1, 0), 10e6);
  });
});

describe('who cannot wait', () => {
  it('wants the GPUs that it and all who can wait less keep busy, and three quarters of the square root of that', () => {
    const memory = memoryOf(3, [50, 20, 100]); // requests can wait 45, 15 and 95 ms before they run alone
    const cluster = new Cluster(memory);
    write(memory, 0, 900, 6); // 150 batches of 10 ms a second: 1.5 GPUs
    write(memory, 1, 100, 6); // 0.17
    write(memory, 2, 50, 1); // 0.25
    const tight = (gpus: number): number[] => {
      cluster.tick(0, gpus);
      return [...cluster.tightNs].slice(1).filter((waitNs) => waitNs < Infinity);
    };
    // 0.17 + 0.31 → 1 GPU; 1.67 + 0.97 → 3; 1.92 + 1.04 → 3.
    assert.deepEqual(tight(8), [15e6, 45e6, 45e6]);
    assert.deepEqual(tight(16), [15e6, 45e6, 45e6]);
    assert.deepEqual(tight(3), [15e6, 45e6]); // one is for the batch that runs long
    assert.deepEqual(tight(1), []);
    assert.deepEqual(tight(17), []);
    write(memory, 1, 0, 6);
    assert.deepEqual(tight(8), [45e6, 45e6, 45e6]);
    write(memory, 0, 0, 6);
    assert.deepEqual(tight(8), [95e6]);
  });
});
