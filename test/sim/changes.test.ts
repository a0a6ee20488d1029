/**
 * Changes while requests arrive, in virtual time. A `World` plays a seed: it submits, cancels, polls single roles in any
 * order (as threads would run) and lets changes go on step by step between all that, in the order of LiveChanges:
 * write, publish, wait until every role has acknowledged. What must hold is checked at every decision and at the end.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { Random } from '#rubato/model/random.js';
import type { GpuConfig } from '#rubato/protocol/config.js';
import type { Observer } from '#rubato/protocol/observer.js';
import { OUTCOME, outcomeOf } from '#rubato/protocol/outcome.js';
import { CELL_NOW, type Role } from '#rubato/protocol/role.js';
import { GPU_ACTIVE, GPU_NONE, MODEL_FROZEN, MODEL_MASK, SpecTable } from '#rubato/protocol/specs.js';
import { SHARD_SLOT, SLOT } from '#rubato/protocol/tables.js';
import { RingReader } from '#rubato/ringbuf/spsc-ring.js';
import { VirtualHost, virtualConfig } from '#rubato/sim/virtual-host.js';
import { ChangeSteps, type Spec, type Step } from './change-steps.js';

const MODELS = 8;
const GPUS = 5;
const MAX_BATCH = 12;
/** After this everything that was asked has ended or expired. */
const LONGEST_NS = 1e9;

const GPU_SPEC: GpuConfig = { host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 };

interface Request {
  readonly index: number;
  readonly tag: number;
  isPlanned: boolean;
}

function randomSpec(random: Random): Spec {
  const maxBatch = 1 + Math.floor(random.uniform() * MAX_BATCH);
  const alphaNs = Math.round(20e3 + 400e3 * random.uniform());
  const betaNs = Math.round(100e3 + 2e6 * random.uniform());
  const pick = Math.floor(random.uniform() * 5);
  return {
    config: {
      name: 'm', sloNs: Math.round((alphaNs + betaNs) * (1.5 + 10 * random.uniform())), profile: 0, maxBatch,
      dropPolicy: Math.floor(random.uniform() * 2), condition: pick, maxQueue: random.uniform() < 0.2 ? 5 : 1000,
    },
    profile: LatencyProfile.linear({ alphaNs, betaNs, maxBatch }, 'profile').ns,
  };
}

class World implements Observer {
  readonly host: VirtualHost;
  readonly specs: SpecTable;
  readonly random: Random;
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  readonly #roles: Role[];
  readonly steps: ChangeSteps;
  /** By slot. */
  readonly open = new Map<number, Request>();
  /** Index, outcome and time of every end. */
  readonly endings: [number, number, number][] = [];
  readonly #accepted = new Float64Array(MODELS);
  readonly #refused = new Float64Array(MODELS);
  readonly #ended = Array.from({ length: MODELS }, () => new Float64Array(16));
  #submitted = 0;
  /** The shard that is being polled. */
  #polling = -1;

  constructor(seed: number, shards: number) {
    this.random = new Random(seed);
    const specs = Array.from({ length: 4 }, () => randomSpec(this.random));
    const config = virtualConfig({
      models: specs.map(({ config }, profile) => ({ ...config, profile })), profiles: specs.map(({ profile }) => profile),
      gpus: [GPU_SPEC, GPU_SPEC], shards, slotShift: 7, maxModels: MODELS, maxGpus: GPUS, maxBatch: MAX_BATCH,
    });
    // With a lead, batches are issued ahead of their start: changes find them on their way.
    const margins = seed % 2 === 0 ? config.margins : { ...config.margins, controlNs: 800e3, transferNs: 20e3, responseNs: 50e3, jitterNs: 30e3 };
    this.host = new VirtualHost({ ...config, margins }, this);
    this.i32 = new Int32Array(this.host.memory.buffer);
    this.f64 = new Float64Array(this.host.memory.buffer, 0, this.host.memory.buffer.byteLength >> 3);
    this.specs = new SpecTable(this.host.memory, true);
    this.steps = new ChangeSteps(this.host.memory, this.specs, this.host.stats, specs);
    this.#roles = [this.host.device, ...this.host.shards, this.host.dispatcher];
    this.host.shards.forEach((shard, index) => {
      const poll = shard.poll.bind(shard);
      shard.poll = () => {
        this.#polling = index;
        poll();
      };
    });
    this.host.onCompleted = (slots, outcomes, count) => {
      for (let k = 0; k < count; k++) this.#completed(slots[k]!, outcomes[k]!);
    };
    this.host.onSettled = () => this.checkBalance();
  }

  // ---------------------------------------------------------------- what goes in

  submit(model: number, count: number, sloNs = 0): void {
    for (let k = 0; k < count; k++) {
      const tag = this.specs.tag(model);
      const slot = this.host.client.submit(model, this.host.nowNs, sloNs);
      if (slot < 0) {
        this.#refused[model]!++;
        continue;
      }
      assert.ok(tag >= 0, 'a closed model has taken a request');
      assert.ok(!this.open.has(slot), `slot ${slot} has been given to a second request`);
      this.#accepted[model]!++;
      this.open.set(slot, { index: this.#submitted++, tag, isPlanned: false });
    }
  }

  pollOne(role: number): void {
    const polled = this.#roles[role]!;
    polled.cells[CELL_NOW] = this.host.nowNs;
    polled.poll();
  }

  pollAny(): void {
    this.pollOne(Math.floor(this.random.uniform() * this.#roles.length));
  }

  // ---------------------------------------------------------------- what comes out

  #completed(slot: number, packed: number): void {
    const request = this.open.get(slot);
    assert.ok(request !== undefined, `slot ${slot} has ended though nobody waits for it`);
    this.open.delete(slot);
    const outcome = outcomeOf(packed);
    this.#ended[request.tag & MODEL_MASK]![outcome]!++;
    if (outcome === OUTCOME.completed || outcome === OUTCOME.late) assert.ok(request.isPlanned, `request ${request.index} has run in no batch`);
    this.endings.push([request.index, outcome, this.host.nowNs]);
  }

  planned(_now: number, model: number, gpu: number, size: number, _exec: number, _invalidAfter: number, slots: Int32Array, from: number): void {
    const known = this.steps.known.get(model);
    assert.ok(known !== undefined, `a batch of model ${model}, which is not there`);
    assert.ok(!known.isFrozen, `a batch of model ${model} while it was frozen`);
    assert.equal(this.#polling, known.shard, `shard ${this.#polling} has closed a batch of model ${model}`);
    const most = Math.max(...known.specs.map(({ config }) => config.maxBatch));
    assert.ok(size <= most, `a batch of ${size}, at most ${most} may be in one`);
    assert.ok(!this.steps.closedGpus.has(gpu), `a batch for GPU ${gpu}, which has left`);
    for (let k = from; k < from + size; k++) {
      const request = this.open.get(slots[k]!);
      assert.ok(request !== undefined && !request.isPlanned, `slot ${slots[k]} is in two batches`);
      assert.equal(request.tag, known.tag, 'a request has come to another model than it was for');
      request.isPlanned = true;
    }
  }

  granted(_now: number, _model: number, gpu: number): void {
    assert.ok(!this.steps.closedGpus.has(gpu), `GPU ${gpu} was granted, though it has left`);
  }

  refused(): void {}

  expired(_now: number, model: number, slot: number): void {
    assert.equal(this.#polling, this.steps.known.get(model)?.shard, `shard ${this.#polling} has given up a request of model ${model}`);
    assert.equal(this.open.get(slot)?.isPlanned, false);
  }

  published(): void {}

  checkBalance(): void {
    for (const stats of this.host.stats.totals().map((_, number) => ({ number, ...this.host.stats.raw(number) }))) {
      const { number, accepted, refused, completed, late, expired, queueFull, infeasible, cancelled, failed, closed, inFlight } = stats;
      assert.equal(accepted, this.#accepted[number], `accepted of ${number}`);
      assert.equal(refused, this.#refused[number], `refused of ${number}`);
      assert.ok(inFlight >= 0, `${inFlight} requests of model ${number} are in flight`);
      const ended = this.#ended[number]!;
      for (const [name, count] of Object.entries({ completed, late, expired, queueFull, infeasible, cancelled, failed, closed })) {
        assert.equal(count, ended[OUTCOME[name as keyof typeof OUTCOME]], `${name} of model ${number}`);
      }
    }
  }

  /** Lets everything end and checks that it has, once. */
  finish(): void {
    this.host.client.commit();
    this.host.settle();
    this.host.runOut(this.host.nowNs + LONGEST_NS);
    this.host.settle();
    assert.equal(this.open.size, 0, `${this.open.size} requests never ended`);
    assert.equal(this.host.client.inFlight, 0);
    assert.equal(this.endings.length, this.#submitted);
    let written = 0;
    for (const lane of this.host.memory.clients[0]!.completions) written += this.i32[lane.byteOffset >> 2]!;
    assert.equal(written, this.#submitted, 'the lanes hold one completion per request');
    for (let number = 0; number < MODELS; number++) assert.equal(this.host.stats.raw(number).inFlight, 0);
    const slots = 2 ** this.host.memory.config.slotShift;
    for (let slot = 0; slot < slots; slot++) {
      const at = (this.host.memory.slots >> 2) + slot * SLOT.words;
      const shardAt = (this.host.memory.shardSlots >> 2) + slot * SHARD_SLOT.words;
      assert.equal(this.i32[shardAt + SHARD_SLOT.at.outcomeGeneration], this.i32[at + SLOT.at.generation], `slot ${slot} is open`);
    }
  }

  // ---------------------------------------------------------------- changes

  /** A change that is possible now. */
  anyChange(): Step {
    const numbers = [...this.steps.known.keys()];
    const pick = <T>(list: readonly T[]): T => list[Math.floor(this.random.uniform() * list.length)]!;
    const unused = Array.from({ length: MODELS }, (_, number) => number).filter((number) => !this.steps.known.has(number));
    const gpus = Array.from({ length: GPUS }, (_, gpu) => gpu);
    const active = gpus.filter((gpu) => this.specs.gpuState(gpu) === GPU_ACTIVE);
    const absent = gpus.filter((gpu) => this.specs.gpuState(gpu) === GPU_NONE);
    const anyShard = (): number => Math.floor(this.random.uniform() * this.host.shards.length);
    const { steps } = this;
    const kind = this.random.uniform();
    if (kind < 0.15 && absent.length > 0) return steps.addGpu(pick(absent), GPU_SPEC);
    if (kind < 0.3 && active.length > 0) return steps.removeGpu(pick(active));
    if (unused.length > 0 && (kind < 0.5 || numbers.length < 2)) return steps.add(pick(unused), randomSpec(this.random), anyShard());
    if (kind < 0.65) return steps.remove(pick(numbers), this.random.uniform() < 0.5);
    if (kind < 0.8) return steps.update(pick(numbers), randomSpec(this.random));
    return steps.move(pick(numbers), anyShard());
  }
}

/** Plays `steps` random actions; `changes`: with a change always under way. */
function play(seed: number, shards: number, steps: number, changes: boolean): World {
  const world = new World(seed, shards);
  const { random, host } = world;
  let change: Step | null = null;
  let ready: (() => boolean) | null = null;
  const goOn = (): void => {
    if (ready !== null && !ready()) return;
    change ??= world.anyChange();
    const { done, value } = change.next();
    ready = done === true ? null : value;
    if (done === true) change = null;
  };
  for (let step = 0; step < steps; step++) {
    const kind = random.uniform();
    if (kind < 0.35) world.submit(Math.floor(random.uniform() * (changes ? MODELS : 4)), 1 + Math.floor(random.uniform() * 6), random.uniform() < 0.1 ? 40e6 * random.uniform() : 0);
    else if (kind < 0.45) host.client.commit();
    else if (kind < 0.5 && world.open.size > 0) {
      host.client.commit();
      host.client.cancel([...world.open.keys()][Math.floor(random.uniform() * world.open.size)]!);
    } else if (kind < 0.85) {
      if (changes) world.pollAny();
    } else if (kind < 0.9) host.settle();
    else host.advanceTo(host.nowNs + Math.round(1.5e6 * random.uniform()));
    if (changes && random.uniform() < 0.5) goOn();
    if (!changes) host.settle();
  }
  for (let turn = 0; change !== null; turn++) {
    assert.ok(turn < 10_000, 'a change has not come to its end');
    host.client.commit();
    host.advanceTo(host.nowNs + 1e6);
    if (ready !== null && !ready()) continue;
    const { done, value } = (change as Step).next();
    ready = done === true ? null : value;
    if (done === true) change = null;
  }
  world.finish();
  return world;
}

describe('while models and GPUs come, change, move and go', () => {
  for (const shards of [1, 2, 4]) {
    test(`every request ends once, where it belongs, in ${shards} shard${shards === 1 ? '' : 's'}`, () => {
      const outcomes = new Float64Array(16);
      for (let seed = 1; seed <= 30; seed++) {
        try {
          for (const [, outcome] of play(seed, shards, 1200, true).endings) outcomes[outcome]!++;
        } catch (error) {
          throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
        }
      }
      // The seeds reach what they are for.
      for (const name of ['completed', 'expired', 'cancelled', 'closed', 'queueFull'] as const) assert.ok(outcomes[OUTCOME[name]]! > 20, `${name}: ${outcomes[OUTCOME[name]]}`);
    });
  }

  test('the same seed gives the same run', () => {
    assert.deepEqual(play(7, 4, 1500, true).endings, play(7, 4, 1500, true).endings);
  });
});

test('without changes the number of shards changes nothing', () => {
  const inOrder = (world: World): [number, number, number][] => world.endings.sort((a, b) => a[0] - b[0]);
  for (let seed = 100; seed < 115; seed++) {
    const one = inOrder(play(seed, 1, 800, false));
    assert.ok(one.length > 100);
    for (const shards of [2, 4]) assert.deepEqual(inOrder(play(seed, shards, 800, false)), one, `seed ${seed}, ${shards} shards`);
  }
});

describe('between the steps of a thread', () => {
  test('a queue that is handed over to a shard which has not seen the change yet is not lost', () => {
    const world = new World(2, 2);
    const { host, specs } = world;
    const model = [...world.steps.known.keys()].find((number) => specs.shardOf(number) === 0)!;
    const profile = LatencyProfile.linear({ alphaNs: 1e6, betaNs: 1e6, maxBatch: 8 }, 'profile').ns;
    const spec: Spec = { config: { name: 'm', sloNs: 100e6, profile: 0, maxBatch: 8, dropPolicy: 0, condition: 0, maxQueue: 100 }, profile };
    specs.writeModel(model, spec.config, profile, 0);
    world.steps.known.get(model)!.specs = [spec];
    specs.publish();
    host.settle();
    world.submit(model, 3);
    host.client.commit();
    host.settle();
    specs.setState(model, MODEL_FROZEN);
    specs.publish();
    host.settle();
    assert.ok(world.steps.isQuiet(model) && host.shards[0]!.queued(model) === 3);
    interrupt(() => {
      specs.moveTo(model, 1);
      world.steps.known.get(model)!.shard = 1;
      specs.publish();
      world.pollOne(1);
    });
    world.pollOne(2);
    host.settle();
    specs.route(model);
    assert.equal(host.shards[1]!.queued(model), 3);
    world.finish();
    assert.deepEqual(world.endings.map(([, outcome]) => outcome), Array(3).fill(OUTCOME.completed));
  });
});

/** Lets something happen once, when a role looks into a lane next: in the middle of its poll, as if it ran on another thread. */
function interrupt(meanwhile: () => void): void {
  const available = Reflect.get(RingReader.prototype, 'available') as (this: RingReader, limit: number) => number;
  RingReader.prototype.available = function (limit) {
    RingReader.prototype.available = available;
    meanwhile();
    return available.call(this, limit);
  };
}
