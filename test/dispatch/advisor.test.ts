import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Advisor } from '#rubato/dispatch/advisor.js';
import { Cluster } from '#rubato/dispatch/cluster.js';
import { GpuPool } from '#rubato/dispatch/gpu-pool.js';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { type GpuAdvice, readAdvice } from '#rubato/protocol/advice.js';
import { allocateSharedMemory } from '#rubato/protocol/shared-memory.js';
import { CLIENT_MODEL, GPU, SHARD_MODEL } from '#rubato/protocol/tables.js';
import { virtualConfig } from '#rubato/sim/virtual-host.js';

const SECOND = 1e9;

/** One model with ℓ(b) = 1 ms · b + 4 ms and an SLO of 100 ms; what the shard and the devices would write is written by hand. */
class Desk {
  nowNs = 0;
  readonly memory;
  readonly #f64: Float64Array;
  readonly #i32: Int32Array;
  readonly #cluster: Cluster;
  readonly #pool: GpuPool;
  readonly #advisor: Advisor;

  constructor(gpus: number, mostGpus = 16) {
    this.memory = allocateSharedMemory(virtualConfig({
      profiles: [LatencyProfile.linear({ alphaNs: 1e6, betaNs: 4e6, maxBatch: 32 }, 'linear').ns],
      models: [{ name: 'm', sloNs: 100e6, profile: 0, maxBatch: 32, dropPolicy: 3, condition: 0, maxQueue: 10 }],
      gpus: Array.from({ length: gpus }, () => ({ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 })),
      maxGpus: mostGpus,
      slotShift: 5,
    }));
    this.#f64 = new Float64Array(this.memory.buffer, 0, this.memory.buffer.byteLength >> 3);
    this.#i32 = new Int32Array(this.memory.buffer);
    this.#cluster = new Cluster(this.memory);
    this.#pool = new GpuPool(this.memory);
    this.#advisor = new Advisor(this.memory, this.#cluster, this.#pool);
    this.epoch();
  }

  /** Of batches of 16, which take 20 ms: 800/s is one GPU. */
  load(ratePerSecond: number, dispersion = 0): void {
    const row = (this.memory.shardModels >> 2) + 0;
    this.#i32[row + SHARD_MODEL.at.target] = 16;
    this.#f64[(row >> 1) + SHARD_MODEL.at.ratePerSecond] = ratePerSecond;
    this.#f64[(row >> 1) + SHARD_MODEL.at.dispersion] = dispersion;
    this.#f64[(row >> 1) + SHARD_MODEL.at.ratedUntilNs] = 1e18;
  }

  count(field: 'completed' | 'late' | 'expired' | 'failed' | 'cancelled', by: number): void {
    this.#f64[(this.memory.shardModels >> 3) + SHARD_MODEL.at[field]]! += by;
  }

  refuse(by: number): void {
    this.#f64[(this.memory.clients[0]!.models >> 3) + CLIENT_MODEL.at.refused]! += by;
  }

  /** These GPUs are busy for this share of the next epoch. */
  busy(gpus: readonly number[], share = 0.5): void {
    for (const gpu of gpus) this.#f64[((this.memory.gpus >> 2) + gpu * GPU.words >> 1) + GPU.at.busyNs]! += share * SECOND;
  }

  /** A second goes by. */
  epoch(): GpuAdvice {
    this.nowNs += SECOND;
    this.#cluster.tick(this.nowNs, this.#pool.activeCount);
    this.#advisor.endEpoch(this.nowNs);
    return readAdvice(this.memory);
  }

  setActive(gpu: number, active: boolean): void {
    this.#pool.setActive(gpu, active);
  }
}

const all = (gpus: number): number[] => Array.from({ length: gpus }, (_, gpu) => gpu);
const said = ({ wanted, reason }: GpuAdvice): [number, string] => [wanted, reason];

describe('how many GPUs are wanted', () => {
  it('is as many as there are, before an epoch has ended', () => {
    assert.deepEqual(said(readAdvice(new Desk(3).memory)), [3, 'starting']);
  });

  it('is what the load needs at the target sizes, when that is more', () => {
    const desk = new Desk(2);
    desk.load(2560); // 3.2 GPUs
    desk.busy(all(2));
    const advice = desk.epoch();
    assert.deepEqual(said(advice), [4, 'load']);
    assert.ok(Math.abs(advice.evidence.loadGpus - 3.2) < 1e-9);
    assert.equal(advice.evidence.spreadGpus, 0);
    assert.equal(advice.evidence.scale, null, 'no batch size carries it on two GPUs');
  });

  it('leaves room for chance, the more the less even requests come', () => {
    const desk = new Desk(2);
    desk.busy(all(2));
    desk.load(2560, 1);
    // σ = 1.25 ms · √(2560/s / 0.1 s) = 0.2 GPUs
    const advice = desk.epoch();
    assert.ok(Math.abs(advice.evidence.spreadGpus - 0.2) < 1e-9);
    assert.equal(advice.wanted, 4);
    desk.load(2560, 100);
    assert.equal(desk.epoch().wanted, 5, '3.2 and three quarters of 2');
  });

  it('is g / (1 − β), rounded up, when more than 1 % were missed and all GPUs were in use', () => {
    const desk = new Desk(4);
    desk.load(800);
    desk.busy(all(4));
    desk.count('completed', 700);
    desk.count('late', 100);
    desk.count('expired', 200);
    const advice = desk.epoch();
    assert.deepEqual(said(advice), [6, 'missed']);
    assert.ok(Math.abs(advice.evidence.missedRate - 0.3) < 1e-12 && Math.abs(advice.evidence.goodShare - 0.7) < 1e-12);
    assert.equal(advice.evidence.offeredPerSecond, 1000);
    desk.busy(all(4));
    desk.count('completed', 990);
    desk.count('late', 10);
    assert.equal(desk.epoch().reason !== 'missed', true, 'just 1 % is not more than 1 %');
  });

  it('asks for no more than 16 times what there is when nothing is good', () => {
    const desk = new Desk(1, 64);
    desk.busy([0]);
    desk.count('expired', 500);
    assert.deepEqual(said(desk.epoch()), [16, 'missed']);
  });

  it('is not raised by what more GPUs would not help: misses beside an idle one, failures, refusals', () => {
    const desk = new Desk(4);
    desk.load(2000);
    desk.busy([0, 1, 2]);
    desk.count('completed', 500);
    desk.count('late', 500);
    assert.deepEqual(said(desk.epoch()), [4, 'steady']);
    desk.busy(all(4));
    desk.count('completed', 500);
    desk.count('failed', 400);
    desk.refuse(100);
    const advice = desk.epoch();
    assert.deepEqual(said(advice), [4, 'steady']);
    assert.deepEqual([advice.evidence.badRate, advice.evidence.missedRate], [0.5, 0]);
  });

  it('goes down only when the highest-numbered were idle for three epochs, and only by those', () => {
    const desk = new Desk(6);
    desk.load(800); // one GPU would do
    const heard: number[] = [];
    for (let epoch = 0; epoch < 6; epoch++) {
      desk.busy([0, 2, 3]); // GPU 1 is idle, and not among the highest
      if (epoch === 1) desk.busy([5]);
      heard.push(desk.epoch().wanted);
    }
    assert.deepEqual(heard, [6, 6, 6, 6, 4, 4]);
  });

  it('counts a GPU as idle that is busy for at most a tenth of each epoch', () => {
    for (const [share, wanted] of [[0.1, 1], [0.11, 2]] as const) {
      const desk = new Desk(2);
      for (let epoch = 0; epoch < 4; epoch++) {
        desk.busy([0]);
        desk.busy([1], share);
        if (epoch === 3) assert.equal(desk.epoch().wanted, wanted);
        else desk.epoch();
      }
    }
  });

  it('does not go below what the load needs with some room, although more are idle', () => {
    const desk = new Desk(6);
    desk.load(2560, 1);
    for (let epoch = 0; epoch < 4; epoch++) desk.epoch();
    assert.deepEqual(said(desk.epoch()), [4, 'idle']);
  });

  it('does not go down for a load that was higher within the hysteresis', () => {
    const desk = new Desk(6);
    const heard = [3600, 3600, 3600, 800, 800, 800].map((rate) => {
      desk.load(rate);
      return desk.epoch().wanted;
    });
    assert.deepEqual(heard, [6, 6, 5, 5, 5, 1]);
  });

  it('goes down to one without load, and no further', () => {
    const desk = new Desk(8);
    for (let epoch = 0; epoch < 3; epoch++) desk.epoch();
    assert.deepEqual(said(desk.epoch()), [1, 'idle']);
    for (let gpu = 1; gpu < 8; gpu++) desk.setActive(gpu, false);
    assert.deepEqual(said(desk.epoch()), [1, 'steady']);
  });

  it('is one when there is none', () => {
    const desk = new Desk(1);
    desk.setActive(0, false);
    const advice = desk.epoch();
    assert.deepEqual([advice.wanted, advice.reason, advice.evidence.gpus], [1, 'load', 0]);
  });

  it('does not try again what was too few for this load', () => {
    const desk = new Desk(2);
    desk.load(800);
    desk.busy(all(2));
    desk.count('completed', 95);
    desk.count('late', 5);
    assert.deepEqual(said(desk.epoch()), [3, 'missed']);
    desk.setActive(2, true);
    for (let epoch = 0; epoch < 5; epoch++) assert.equal(desk.epoch().wanted, 3, 'three are idle, and two were too few');
    desk.load(700);
    for (let epoch = 0; epoch < 3; epoch++) desk.epoch();
    assert.equal(desk.epoch().wanted, 1, 'for a load below nine tenths of that nothing is known');
  });

  it('forgets in time what was too few', () => {
    const desk = new Desk(2);
    desk.load(800);
    desk.busy(all(2));
    desk.count('late', 5);
    desk.epoch();
    let epochs = 0;
    while (desk.epoch().wanted > 1) epochs++;
    assert.ok(epochs > 30 && epochs < 120, `${epochs} epochs`);
  });

  it('does not release a GPU that has just come', () => {
    const desk = new Desk(1);
    desk.load(700);
    for (let epoch = 0; epoch < 5; epoch++) desk.epoch();
    desk.setActive(1, true);
    assert.deepEqual([1, 2, 3, 4].map(() => desk.epoch().wanted), [2, 2, 1, 1]);
  });
});
