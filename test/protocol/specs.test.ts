import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { ClientPort, REFUSED_INFEASIBLE, REFUSED_NO_MODEL } from '#rubato/protocol/client-port.js';
import type { ModelConfig, SchedulerConfig } from '#rubato/protocol/config.js';
import { allocateSharedMemory, CLIENT_FREE, CLIENT_OPEN, CLIENT_TICKET, type SharedMemory } from '#rubato/protocol/shared-memory.js';
import {
  ACK_DISPATCHER, ACK_EMULATED, ackOfShard, GPU_ACTIVE, GPU_LEAVING, GPU_NONE, MAX_MODELS, MODEL_ACTIVE, MODEL_BITS, MODEL_ENDING, MODEL_MASK, MODEL_NONE, MODEL_OFFER,
  MODEL_SPEC, profileView, SpecTable, TAG_MASK,
} from '#rubato/protocol/specs.js';
import { StatsReader } from '#rubato/protocol/stats.js';
import { virtualConfig } from '#rubato/sim/virtual-host.js';

const GPU = { host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 };
const MODEL: ModelConfig = { name: 'm', sloNs: 10e6, profile: 0, maxBatch: 4, dropPolicy: 0, condition: 0, maxQueue: 100 };

/** ℓ of a batch of one is `alphaNs`; past `maxBatch` nothing can run. */
const linear = (alphaNs: number, maxBatch = 4): Float64Array => LatencyProfile.linear({ alphaNs, betaNs: 0, maxBatch }, 'profile').ns;

function tables(more: Partial<SchedulerConfig> = {}): { memory: SharedMemory; specs: SpecTable; client: ClientPort } {
  const config = virtualConfig({ models: [MODEL], profiles: [linear(1e6)], gpus: [GPU], maxModels: 4, maxGpus: 3, maxBatch: 8, slotShift: 5, ...more });
  const memory = allocateSharedMemory(config);
  return { memory, specs: new SpecTable(memory, true), client: new ClientPort(memory, 0) };
}

const words = (memory: SharedMemory): Int32Array => new Int32Array(memory.buffer);
const specWord = (memory: SharedMemory, model: number, field: keyof typeof MODEL_SPEC.at): number => words(memory)[(memory.specs >> 2) + model * MODEL_SPEC.words + MODEL_SPEC.at[field]]!;
const setTag = (memory: SharedMemory, model: number, tag: number): void => void (words(memory)[(memory.offers >> 2) + model * MODEL_OFFER.words + MODEL_OFFER.at.tag] = tag);
const rowOf = (memory: SharedMemory, model: number): number[] => [...profileView(memory, specWord(memory, model, 'profile'))];

/** Gives the number to one more model, and takes it away again. */
function useOnce(specs: SpecTable, model: number): number {
  specs.writeModel(model, MODEL, linear(1e6), 0);
  const tag = specs.open(model);
  specs.close(model);
  specs.setState(model, MODEL_NONE);
  return tag;
}

describe('the tag of a model', () => {
  test('carries its number, and another one each time the number is used', () => {
    const { specs } = tables();
    const seen = new Set<number>();
    for (let use = 0; use < 1000; use++) {
      const tag = useOnce(specs, 3);
      assert.equal(tag & MODEL_MASK, 3);
      assert.ok(tag > 0);
      seen.add(tag);
    }
    assert.equal(seen.size, 1000);
  });

  test('stays when the model is changed', () => {
    const { specs } = tables();
    const before = specs.tag(0);
    specs.writeModel(0, { ...MODEL, sloNs: 20e6 }, linear(2e6), 0);
    assert.equal(specs.tag(0), before);
  });

  test('stays closed when a model that is being removed is changed', () => {
    const { specs, client } = tables();
    specs.close(0);
    specs.writeModel(0, { ...MODEL, sloNs: 20e6 }, linear(2e6), 0);
    assert.ok(specs.tag(0) < 0);
    assert.equal(client.submit(0, 0, 0), REFUSED_NO_MODEL);
  });

  for (const number of [0, 1, 3]) {
    test(`of number ${number} goes on after its last use, and is never that of a number that was never in use`, () => {
      const { memory, specs, client } = tables();
      if (number === 0) specs.setState(0, MODEL_NONE);
      const lastUse = TAG_MASK & ~MODEL_MASK;
      setTag(memory, number, (lastUse | number) | (1 << 31));
      for (let use = 0; use < 3; use++) {
        specs.writeModel(number, MODEL, linear(1e6), 0);
        const tag = specs.open(number);
        assert.equal(tag & MODEL_MASK, number);
        assert.ok(tag > MODEL_MASK, `tag ${tag} looks like one of use 0`);
        assert.notEqual(tag, lastUse | number);
        assert.ok(client.submit(number, 0, 0) >= 0);
        assert.equal(new StatsReader(memory).totals().some(({ accepted }) => accepted === use + 1), true, 'its requests are counted');
        specs.close(number);
        specs.setState(number, MODEL_NONE);
      }
    });
  }

  test('leaves room for as many numbers as there can be models', () => {
    assert.equal(MAX_MODELS, 2 ** MODEL_BITS);
    const { memory, specs, client } = tables({ maxModels: MAX_MODELS });
    specs.writeModel(MAX_MODELS - 1, MODEL, linear(1e6), 0);
    const tag = specs.open(MAX_MODELS - 1);
    assert.equal(tag & MODEL_MASK, MAX_MODELS - 1);
    assert.ok(client.submit(MAX_MODELS - 1, 0, 0) >= 0);
    assert.equal(memory.limits.models, MAX_MODELS);
  });
});

describe('a client', () => {
  test('is refused models that are not there, not open yet, or closed', () => {
    const { specs, client } = tables();
    assert.equal(client.submit(2, 0, 0), REFUSED_NO_MODEL);
    specs.writeModel(2, MODEL, linear(1e6), 0);
    assert.equal(client.submit(2, 0, 0), REFUSED_NO_MODEL);
    specs.open(2);
    assert.ok(client.submit(2, 0, 0) >= 0);
    specs.close(2);
    assert.equal(client.submit(2, 0, 0), REFUSED_NO_MODEL);
    assert.equal(client.submitBulk(Int32Array.of(0, 2, 0), Float64Array.of(0, 0, 0), 0, 3), 2, 'the others of a bulk are taken');
  });

  test('sees a new SLO and a new profile at once', () => {
    const { specs, client } = tables();
    assert.deepEqual([client.sloNs(0), client.aloneNs(0)], [10e6, 1e6]);
    specs.writeModel(0, { ...MODEL, sloNs: 7e6 }, linear(3e6), 0);
    assert.deepEqual([client.sloNs(0), client.aloneNs(0)], [7e6, 3e6]);
    assert.equal(client.submit(0, 0, 2e6), REFUSED_INFEASIBLE);
  });
});

describe('the rows of profiles', () => {
  test('are shared by models with equal profiles, and given back by the last of them', () => {
    const { memory, specs } = tables();
    for (const model of [1, 2]) specs.writeModel(model, MODEL, linear(1e6), 0);
    assert.deepEqual([1, 2].map((model) => specWord(memory, model, 'profile')), [0, 0]);
    specs.writeModel(1, MODEL, linear(2e6), 0);
    assert.deepEqual(rowOf(memory, 1).slice(0, 5), [0, 2e6, 4e6, 6e6, 8e6]);
    assert.deepEqual(rowOf(memory, 2).slice(0, 5), [0, 1e6, 2e6, 3e6, 4e6], 'the others keep theirs');
    for (const model of [0, 2]) specs.setState(model, MODEL_NONE);
    specs.writeModel(3, MODEL, linear(3e6), 0);
    assert.equal(specWord(memory, 3, 'profile'), 0, 'the row is free again');
  });

  test('suffice when every model has one of its own and all are changed again and again', () => {
    const { memory, specs } = tables();
    for (let round = 1; round <= 200; round++) {
      for (let model = 0; model < 4; model++) {
        specs.writeModel(model, MODEL, linear(1000 * round + model), 0);
        for (let other = 0; other <= model; other++) assert.equal(rowOf(memory, other)[1], 1000 * round + other);
        if (round % 7 === 0) specs.setState(model, MODEL_NONE);
        if (round % 7 === 0) specs.writeModel(model, MODEL, linear(1000 * round + model), 0);
      }
    }
  });

  test('are +Infinity past the largest batch, also where a longer profile lay before', () => {
    const { memory, specs } = tables();
    specs.writeModel(1, { ...MODEL, maxBatch: 8 }, linear(5e6, 8), 0);
    specs.setState(1, MODEL_NONE);
    specs.writeModel(2, { ...MODEL, maxBatch: 2 }, linear(7e6, 2), 0);
    assert.deepEqual(rowOf(memory, 2), [0, 7e6, 14e6, ...Array<number>(7).fill(Infinity)]);
  });

  test('of equal beginnings but different largest batches are not shared', () => {
    const { memory, specs } = tables();
    specs.writeModel(1, { ...MODEL, maxBatch: 2 }, linear(1e6, 4), 0);
    assert.equal(rowOf(memory, 0)[3], 3e6);
    assert.equal(rowOf(memory, 1)[3], Infinity);
  });

  test('are known to a table that takes over what was written before', () => {
    const { memory, specs } = tables({ models: [MODEL, { ...MODEL, name: 'n', profile: 1 }], profiles: [linear(1e6), linear(2e6)] });
    specs.writeModel(2, MODEL, linear(2e6), 0);
    assert.equal(specWord(memory, 2, 'profile'), specWord(memory, 1, 'profile'));
    specs.setState(1, MODEL_NONE);
    assert.equal(rowOf(memory, 2)[1], 2e6);
    specs.writeModel(1, MODEL, linear(9e6), 0);
    assert.deepEqual([0, 1, 2].map((model) => rowOf(memory, model)[1]), [1e6, 9e6, 2e6]);
  });
});

describe('a change', () => {
  test('is acknowledged when every role has seen it, and no sooner', () => {
    const { memory, specs } = tables({ models: [MODEL, { ...MODEL, name: 'n' }], shards: 2 });
    const version = specs.publish();
    const roles = [ACK_DISPATCHER, ACK_EMULATED, ackOfShard(0), ackOfShard(1)];
    for (const ack of roles) {
      assert.equal(specs.acknowledged(version), false);
      Atomics.store(words(memory), (memory.acks >> 2) + ack, version);
    }
    assert.equal(specs.acknowledged(version), true);
    assert.equal(specs.acknowledged(specs.publish()), false);
  });

  test('is told from the one before also where the count of changes wraps', () => {
    const { memory, specs } = tables();
    const i32 = words(memory);
    const setAcks = (version: number): void => [ACK_DISPATCHER, ACK_EMULATED, ackOfShard(0)].forEach((ack) => Atomics.store(i32, (memory.acks >> 2) + ack, version));
    Atomics.store(i32, memory.version >> 2, 0x7fffffff);
    setAcks(0x7fffffff);
    const version = specs.publish();
    assert.equal(version, -(2 ** 31));
    assert.equal(specs.acknowledged(version), false);
    setAcks(version);
    assert.equal(specs.acknowledged(version), true);
    assert.equal(specs.acknowledged(0x7fffffff), true, 'and the one before still is');
  });

  test('of a state gives the row another version', () => {
    const { memory, specs } = tables();
    const versions = [specWord(memory, 0, 'version')];
    for (const state of [MODEL_ENDING, MODEL_ACTIVE, MODEL_ACTIVE]) {
      specs.setState(0, state);
      assert.equal(specWord(memory, 0, 'state'), state);
      versions.push(specWord(memory, 0, 'version'));
    }
    assert.equal(new Set(versions).size, versions.length);
  });

  test('of the owner is told to clients separately', () => {
    const { memory, specs } = tables({ models: [MODEL, { ...MODEL, name: 'n' }], shards: 2 });
    const offered = (): number => words(memory)[(memory.offers >> 2) + MODEL_OFFER.at.shard]!;
    assert.deepEqual([specs.shardOf(0), offered()], [0, 0]);
    specs.moveTo(0, 1);
    assert.deepEqual([specs.shardOf(0), offered()], [1, 0]);
    specs.route(0);
    assert.equal(offered(), 1);
  });
});

describe('GPUs and clients', () => {
  test('have states of their own', () => {
    const { specs } = tables({ maxClients: 3 });
    assert.deepEqual([0, 1, 2].map((gpu) => specs.gpuState(gpu)), [GPU_ACTIVE, GPU_NONE, GPU_NONE]);
    specs.writeGpu(2, GPU);
    specs.setGpuState(0, GPU_LEAVING);
    assert.deepEqual([0, 1, 2].map((gpu) => specs.gpuState(gpu)), [GPU_LEAVING, GPU_NONE, GPU_ACTIVE]);
    assert.deepEqual([0, 1, 2].map((client) => specs.clientState(client)), [CLIENT_OPEN, CLIENT_FREE, CLIENT_FREE]);
    specs.setClientState(2, CLIENT_TICKET);
    assert.deepEqual([0, 1, 2].map((client) => specs.clientState(client)), [CLIENT_OPEN, CLIENT_FREE, CLIENT_TICKET]);
  });
});
