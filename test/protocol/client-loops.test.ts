import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { Random } from '#rubato/model/random.js';
import { type ClientLoops, CompiledClientLoops, ScriptClientLoops } from '#rubato/protocol/client-loops.js';
import { ClientPort } from '#rubato/protocol/client-port.js';
import { OUTCOME } from '#rubato/protocol/outcome.js';
import { COMPLETION, REQUEST } from '#rubato/protocol/records.js';
import { CLIENT_STATE, MOST_SUBMITTED } from '#rubato/protocol/scratch.js';
import { allocateSharedMemory, type SharedMemory } from '#rubato/protocol/shared-memory.js';
import { MODEL_OFFER } from '#rubato/protocol/specs.js';
import { CLIENT_MODEL, SLOT, SLOT_WORDS } from '#rubato/protocol/tables.js';
import { virtualConfig } from '#rubato/sim/virtual-host.js';

const MODELS = 5;
const SLOTS = 256;
/** Not the first one, so that the numbers of its slots are not those of their bits. */
const CLIENT = 1;

function memoryOf(compiledLoops: boolean): SharedMemory {
  const profile = LatencyProfile.linear({ alphaNs: 1000, betaNs: 1e6, maxBatch: SLOTS }, 'profile');
  return allocateSharedMemory(virtualConfig({
    models: Array.from({ length: MODELS }, (_, m) => ({ name: `m${m}`, sloNs: 2e7 + m * 1e5, profile: 0, maxBatch: SLOTS, dropPolicy: 0, condition: 0, maxQueue: 1000 })),
    profiles: [profile.ns],
    gpus: [{ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 }],
    slotShift: Math.log2(SLOTS),
    maxClients: 2,
    compiledLoops,
  }));
}

const lanes = (memory: SharedMemory) => ({
  requests: (memory.clients[CLIENT]!.requests[0]!.byteOffset >> 2) + 64,
  completions: (memory.clients[CLIENT]!.completions[0]!.byteOffset >> 2) + 64,
});

/** Requests, free slots and completions as they may be, and times as they must never be; the same for the same seed. */
function fill(memory: SharedMemory, seed: number): void {
  const random = new Random(seed);
  const below = (n: number): number => Math.floor(random.uniform() * n);
  const i32 = new Int32Array(memory.buffer);
  const f32 = new Float32Array(memory.buffer);
  const f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
  const { scratch } = memory.clients[CLIENT]!;
  if (seed % 2 === 0) i32[(memory.offers >> 2) + 3 * MODEL_OFFER.words + MODEL_OFFER.at.tag]! |= 1 << 31;
  for (let word = 0; word < SLOTS / 32; word++) i32[(scratch.free >> 2) + word] = word % 3 === 0 ? 0 : below(2 ** 32) | 0x10100101;
  i32[(scratch.state >> 2) + CLIENT_STATE.at.cursor] = below(SLOTS / 32);
  for (let slot = 0; slot < SLOTS; slot++) i32[(scratch.generations >> 2) + slot] = below(4) - 2;
  for (let k = 0; k < MOST_SUBMITTED; k++) {
    i32[(scratch.models >> 2) + k] = below(MODELS);
    f64[(scratch.arrivals >> 3) + k] = 1e9 + k * 100 + random.uniform();
  }
  for (let k = 0; k < SLOTS; k++) {
    const record = lanes(memory).completions + k * COMPLETION.words;
    i32[record + COMPLETION.at.slot] = CLIENT * SLOTS + below(SLOTS);
    i32[record + COMPLETION.at.generation] = below(4) - 2;
    i32[record + COMPLETION.at.outcome] = (below(2 ** 26) << 5) | below(Object.keys(OUTCOME).length + 1);
    i32[record + COMPLETION.at.model] = below(MODELS);
    f64[(record >> 1) + COMPLETION.at.endNs] = [1e9, 1e9 - 1e7 * random.uniform(), 2e9, NaN, -1e12][below(5)]!;
    f32[record + COMPLETION.at.endedNs] = [2e7, 1e3, 2e11, -1e6, NaN, 100 * random.uniform()][below(6)]!;
    f32[record + COMPLETION.at.durationNs] = 1e6 * random.uniform();
  }
}

/** What both did to a memory of their own, which began alike. Returns what they answered. */
function both(seed: number, run: (loops: ClientLoops, memory: SharedMemory) => number): number {
  const script = memoryOf(false);
  const compiled = memoryOf(true);
  assert.ok(compiled.wasm !== null);
  for (const memory of [script, compiled]) fill(memory, seed);
  const answers = [run(new ScriptClientLoops(script, CLIENT), script), run(new CompiledClientLoops(compiled, compiled.wasm, CLIENT), compiled)];
  assert.equal(answers[1], answers[0]);
  const apart = Buffer.from(compiled.buffer, 0, script.buffer.byteLength).compare(Buffer.from(script.buffer));
  assert.equal(apart, 0, `seed ${seed}: they have left different bytes`);
  return answers[0]!;
}

describe("a client's inner loops, in TypeScript and as WebAssembly", () => {
  it('take slots and write requests byte for byte alike, and stop at a model that is not to be had', () => {
    let stopped = 0;
    for (let seed = 1; seed <= 60; seed++) {
      const count = 1 + (seed * 7) % 20;
      const taken = both(seed, (loops, memory) => loops.take(seed, count, 12_345.5, lanes(memory).requests));
      if (taken < count) stopped++;
    }
    assert.ok(stopped > 10 && stopped < 50, `${stopped} stopped`);
  });

  it('read completions byte for byte alike, also where times are impossible, and leave out what comes twice', () => {
    let listed = 0;
    let offered = 0;
    for (let seed = 1; seed <= 60; seed++) {
      const count = 1 + (seed * 11) % SLOTS;
      listed += both(seed, (loops, memory) => loops.drain(lanes(memory).completions, count, seed, 1e9 + 12_345.5)) - seed;
      offered += count;
    }
    assert.ok(listed > offered / 10 && listed < offered / 2, `${listed} of ${offered}`);
  });

  it('write what the shard and the client look for', () => {
    const memory = memoryOf(false);
    const loops = new ScriptClientLoops(memory, CLIENT);
    fill(memory, 1);
    const i32 = new Int32Array(memory.buffer);
    const f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    const { scratch, models } = memory.clients[CLIENT]!;
    const { requests } = lanes(memory);
    assert.equal(loops.take(0, 10, 5e3, requests), 10);
    const slots = Array.from({ length: 10 }, (_, k) => i32[requests + k * REQUEST.words + REQUEST.at.slot]!);
    assert.equal(new Set(slots).size, 10);
    slots.forEach((slot, k) => {
      const model = i32[(scratch.models >> 2) + k]!;
      const word = (memory.slots >> 2) + slot * SLOT_WORDS;
      assert.equal(i32[(scratch.free >> 2) + ((slot - SLOTS) >> 5)]! & (1 << (slot & 31)), 0, 'it is taken');
      assert.equal(i32[word + SLOT.at.model]! % 4096, model);
      assert.equal(f64[(word >> 1) + SLOT.at.deadlineNs], f64[(scratch.arrivals >> 3) + k]! + (2e7 + model * 1e5 - 5e3));
      const record = requests + k * REQUEST.words;
      assert.equal(i32[word + SLOT.at.generation], i32[record + REQUEST.at.generation]);
      assert.equal(i32[word + SLOT.at.model], i32[record + REQUEST.at.model]);
      assert.equal(f64[(word >> 1) + SLOT.at.deadlineNs], f64[(record >> 1) + REQUEST.at.deadlineNs]);
      const f32 = new Float32Array(memory.buffer);
      assert.equal(f32[word + SLOT.at.budgetNs], f32[record + REQUEST.at.budgetNs]);
      assert.equal(f32[record + REQUEST.at.budgetNs], Math.fround(2e7 + model * 1e5 - 5e3));
    });
    const accepted = Array.from({ length: MODELS }, (_, model) => f64[(models >> 3) + model * (CLIENT_MODEL.words / 2) + CLIENT_MODEL.at.accepted]!);
    assert.equal(accepted.reduce((sum, each) => sum + each), 10);
  });

  it('go round the end of the lane, whoever owns the arrays of the requests', () => {
    for (const compiledLoops of [false, true]) {
      const memory = memoryOf(compiledLoops);
      const port = new ClientPort(memory, CLIENT);
      const i32 = new Int32Array(memory.buffer);
      const { requests, completions } = memory.clients[CLIENT]!;
      const [lane, back] = [requests[0]!, completions[0]!];
      const models = new Int32Array(200).map((_, k) => k % MODELS);
      const times = new Float64Array(200).map((_, k) => 1e9 + k);
      let position = 0;
      for (let turn = 0; turn < 10; turn++) {
        if (turn % 2 === 1) {
          port.bulkModels.set(models);
          port.bulkArrivalsNs.set(times);
        }
        const accepted = turn % 2 === 0 ? port.submitBulk(models, times, 0, 200) : port.submitBulk(port.bulkModels, port.bulkArrivalsNs, 0, 200);
        assert.equal(accepted, 200);
        for (let k = 0; k < 200; k++) {
          const at = (position + k) & (lane.capacity - 1);
          const record = (lane.byteOffset >> 2) + 64 + at * REQUEST.words;
          const done = (back.byteOffset >> 2) + 64 + at * COMPLETION.words;
          const slot = i32[record + REQUEST.at.slot]!;
          assert.equal(i32[(memory.slots >> 2) + slot * SLOT_WORDS + SLOT.at.model]! % 4096, models[k]);
          i32[done + COMPLETION.at.slot] = slot;
          i32[done + COMPLETION.at.generation] = i32[record + REQUEST.at.generation]!;
          i32[done + COMPLETION.at.model] = models[k]!;
        }
        position += 200;
        for (const [place, words] of [[lane, 32], [back, 0]] as const) Atomics.store(i32, (place.byteOffset >> 2) + words, position);
        assert.equal(port.drain(2e9), 200);
        assert.equal(port.inFlight, 0);
      }
    }
  });
});
