import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { Random } from '#rubato/model/random.js';
import { BUCKETS } from '#rubato/ringbuf/log-linear.js';
import { COMPLETION, REQUEST } from '#rubato/protocol/records.js';
import { INTAKE } from '#rubato/protocol/scratch.js';
import { allocateSharedMemory, type SharedMemory } from '#rubato/protocol/shared-memory.js';
import { SHARD_SLOT } from '#rubato/protocol/tables.js';
import { CompiledLoops, type InnerLoops, ScriptLoops } from '#rubato/shards/inner-loops.js';
import { virtualConfig } from '#rubato/sim/virtual-host.js';

const MODELS = 5;
const SLOTS = 256;
/** Where this test has its records and slot numbers: pieces that the loops do not use themselves. */
const words = (memory: SharedMemory) => ({
  records: (memory.clients[0]!.requests[0]!.byteOffset >> 2) + 64,
  completions: (memory.clients[0]!.completions[0]!.byteOffset >> 2) + 64,
  slotNumbers: memory.shards[0]!.batchSlots >> 2,
  waits: memory.histograms >> 2,
});

function memoryOf(compiledLoops: boolean): SharedMemory {
  const profile = LatencyProfile.linear({ alphaNs: 1000, betaNs: 1e6, maxBatch: SLOTS }, 'profile');
  return allocateSharedMemory(virtualConfig({
    models: Array.from({ length: MODELS }, (_, m) => ({ name: `m${m}`, sloNs: 2e7, profile: 0, maxBatch: SLOTS, dropPolicy: 0, condition: 0, maxQueue: 1000 })),
    profiles: [profile.ns],
    gpus: [{ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 }],
    slotShift: Math.log2(SLOTS),
    compiledLoops,
  }));
}

/** Slots, marks and records as they may be, and as they must never be; the same for the same seed. */
function fill(memory: SharedMemory, seed: number): void {
  const random = new Random(seed);
  const below = (n: number): number => Math.floor(random.uniform() * n);
  const i32 = new Int32Array(memory.buffer);
  const f32 = new Float32Array(memory.buffer);
  const f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
  const { admitted, scratch } = memory.shards[0]!;
  const { records, slotNumbers } = words(memory);
  for (let model = 0; model < MODELS; model++) {
    i32[(scratch.tags >> 2) + model] = model === 4 ? -1 : model + 4096 * model;
    const row = (scratch.intake >> 2) + model * INTAKE.words;
    i32[row + INTAKE.at.left] = [0, 3, 60, 0, 5][(model + seed) % 5]!;
    f64[(row >> 1) + INTAKE.at.floorNs] = 1e9 + 3e5 * random.uniform();
    f64[(row >> 1) + INTAKE.at.untilNs] = random.uniform() < 0.9 ? 1e9 + 1 : 1e9;
    f64[(row >> 1) + INTAKE.at.aloneNs] = below(3) * 1e5;
  }
  const inOrder = random.uniform() < 0.5;
  for (let slot = 0; slot < SLOTS; slot++) {
    const deadlineNs = inOrder ? 1e9 + slot : 1e9 + below(50) * 1e5;
    const budgetNs = [2e7, 1e3, 1e11, 2e11, -1e6, NaN, 200 * random.uniform(), 1e6 + 2e7 * random.uniform()][below(8)]!;
    const model = below(MODELS);
    const tag = model + 4096 * (random.uniform() < 0.9 ? model : 1);
    const word = (memory.shardSlots >> 2) + slot * SHARD_SLOT.words;
    f64[(word >> 1) + SHARD_SLOT.at.deadlineNs] = deadlineNs;
    f32[word + SHARD_SLOT.at.budgetNs] = budgetNs;
    i32[word + SHARD_SLOT.at.generation] = below(3) - 1;
    i32[word + SHARD_SLOT.at.model] = tag;
    const generation = [0, 1, 2, -1, 2 ** 31 - 1, -(2 ** 31)][below(6)]!;
    i32[(admitted >> 2) + slot] = random.uniform() < 0.2 ? generation : generation - 1 - below(3);
    i32[(memory.cancels >> 2) + slot] = random.uniform() < 0.2 ? generation : generation - 1;
    i32[slotNumbers + slot] = below(SLOTS);
    const record = records + ((slot * 7) % SLOTS) * REQUEST.words;
    f64[(record >> 1) + REQUEST.at.deadlineNs] = deadlineNs;
    f32[record + REQUEST.at.budgetNs] = budgetNs;
    i32[record + REQUEST.at.slot] = slot;
    i32[record + REQUEST.at.generation] = random.uniform() < 0.9 ? generation : generation - below(10);
    i32[record + REQUEST.at.model] = tag;
  }
}

/** How many are in the buffers of all models. */
function bufferedIn(memory: SharedMemory): number {
  const i32 = new Int32Array(memory.buffer, memory.shards[0]!.scratch.intake, MODELS * INTAKE.words);
  return Array.from({ length: MODELS }, (_, model) => i32[model * INTAKE.words + INTAKE.at.buffered]!).reduce((sum, each) => sum + each);
}

function turnedIn(memory: SharedMemory): number {
  return new Int32Array(memory.buffer, memory.shards[0]!.scratch.turned, 1)[0]!;
}

/** What both did to a memory of their own, which began alike. Returns what `takeIn` answered. */
function both(seed: number, run: (loops: InnerLoops, memory: SharedMemory) => number): number {
  const script = memoryOf(false);
  const compiled = memoryOf(true);
  assert.ok(compiled.wasm !== null);
  for (const memory of [script, compiled]) fill(memory, seed);
  const answers = [run(new ScriptLoops(script, 0), script), run(new CompiledLoops(compiled, compiled.wasm, 0), compiled)];
  assert.equal(answers[1], answers[0]);
  const bytes = script.buffer.byteLength;
  const apart = Buffer.from(compiled.buffer, 0, bytes).compare(Buffer.from(script.buffer));
  assert.equal(apart, 0, `seed ${seed}: they have left different bytes`);
  return answers[0]!;
}

describe('the inner loops, in TypeScript and as WebAssembly', () => {
  it('take in what has come to the same lists, rows and marks, byte for byte', () => {
    let touched = 0;
    let odd = 0;
    let buffered = 0;
    let turned = 0;
    for (let seed = 1; seed <= 60; seed++) {
      const freshShare = seed % 3 === 0 ? 0.5 : 0;
      const found = both(seed, (loops, memory) => {
        const answer = loops.takeIn(words(memory).records, 1 + (seed * 7) % SLOTS, 1e9, 1e9, freshShare);
        const now = turnedIn(memory);
        assert.ok(freshShare > 0 || now === 0);
        turned += now;
        buffered += bufferedIn(memory);
        return answer;
      });
      touched += found & 0xffff;
      odd += found >>> 16;
    }
    assert.ok(touched > 100 && odd > 100 && buffered > 100 && turned > 100, `${touched} models touched, ${odd} records listed, ${buffered} buffered, ${turned} turned away`);
  });

  it('link all that they do not list, in the order of arrival', () => {
    const memory = memoryOf(false);
    fill(memory, 7);
    const count = 200;
    const found = new ScriptLoops(memory, 0).takeIn(words(memory).records, count, 1e9, 1e9, 0.5);
    const i32 = new Int32Array(memory.buffer);
    let linked = 0;
    for (let k = 0; k < (found & 0xffff); k++) {
      const row = (memory.shards[0]!.scratch.intake >> 2) + i32[(memory.shards[0]!.scratch.touched >> 2) + k]! * INTAKE.words;
      linked += i32[row + INTAKE.at.count]!;
      assert.ok(i32[row + INTAKE.at.first]! <= i32[row + INTAKE.at.last]!);
    }
    assert.ok(bufferedIn(memory) > 0 && turnedIn(memory) > 0);
    assert.equal(linked + bufferedIn(memory) + turnedIn(memory) + (found >>> 16), count);
  });

  it('only list a record of a slot whose next request another shard has admitted', () => {
    const memory = memoryOf(false);
    const i32 = new Int32Array(memory.buffer);
    const { records } = words(memory);
    i32[memory.shards[0]!.scratch.tags >> 2] = 4096;
    const record = { generation: 7, model: 4096, slot: 9 } as const;
    for (const [field, value] of Object.entries(record)) i32[records + REQUEST.at[field as keyof typeof record]] = value;
    const row = (memory.shardSlots >> 2) + 9 * SHARD_SLOT.words;
    i32[row + SHARD_SLOT.at.generation] = 8;
    const loops = new ScriptLoops(memory, 0);
    assert.equal(loops.takeIn(records, 1, 1e9, 1e9, 0), 1 << 16);
    assert.equal(i32[row + SHARD_SLOT.at.generation], 8);
    i32[row + SHARD_SLOT.at.generation] = 6;
    assert.equal(loops.takeIn(records, 1, 1e9, 1e9, 0), 1);
    assert.equal(i32[row + SHARD_SLOT.at.generation], 7);
  });

  it('end requests with the same words, completions and counts, byte for byte, also where times are impossible', () => {
    for (let seed = 1; seed <= 60; seed++) {
      both(seed, (loops, memory) => {
        const { slotNumbers, completions, waits } = words(memory);
        const endNs = seed % 3 === 0 ? 1e9 - 2e7 : 1e9 + seed * 1e4;
        loops.end(slotNumbers, 1 + (seed * 11) % SLOTS, 2, 0x1230 + seed, completions, waits + BUCKETS * 2, endNs, seed % 2 === 0 ? 1e6 : 1e6 / 3);
        return new Int32Array(memory.buffer)[completions + COMPLETION.at.slot]!;
      });
    }
  });

  it('turn requests away with the same words, completions, counts and intent, byte for byte', () => {
    for (let seed = 1; seed <= 60; seed++) {
      both(seed, (loops, memory) => {
        const { slotNumbers, completions } = words(memory);
        loops.turnAway(slotNumbers, 1 + (seed * 11) % SLOTS, 0x1230 + seed, 4 + (seed % 3), completions, 1e9 + seed * 1e4);
        return new Int32Array(memory.buffer)[completions + COMPLETION.at.slot]!;
      });
    }
  });

  it('count who is late, and see whether all are of one client', () => {
    const seen = new Set<number>();
    for (let seed = 1; seed <= 30; seed++) {
      for (const shift of [4, 8]) seen.add(both(seed, (loops, memory) => loops.late(words(memory).slotNumbers, 1 + (seed * 5) % 9, shift, 1e9 + 2e6)));
    }
    assert.ok(seen.has(-1) && seen.has(0) && seen.has(1) && seen.has(3), [...seen].join(' '));
  });

  it('are the same program: the module is what its source compiles to', () => {
    execFileSync(process.execPath, [fileURLToPath(new URL('../../../scripts/wasm.mjs', import.meta.url)), '--check'], { stdio: 'pipe' });
  });
});
