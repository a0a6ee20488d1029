import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { InvalidOptionError } from '#rubato/model/errors.js';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import {
  assignShards,
  chooseTopology,
  expectedLoad,
  leastLoadedShard,
  poolCapacityPerSecond,
  type ProfiledModel,
  TOPOLOGIES,
  type TopologyWish,
  usableCores,
} from '#rubato/scheduler/topology.js';
import { WAITING_STRATEGIES } from '#rubato/scheduler/waiter.js';

function refuses(run: () => unknown, path: string, problem: RegExp): void {
  assert.throws(run, (error) => {
    assert(error instanceof InvalidOptionError);
    assert.equal(error.path, path);
    assert.match(error.message, problem);
    return true;
  });
}

function choose(wish: TopologyWish, cores: number, models: number, capacityPerSecond: number): ReturnType<typeof chooseTopology> {
  return chooseTopology(wish, { usableCores: cores }, { models, capacityPerSecond });
}

const cores = fc.integer({ min: 1, max: 200 });
const models = fc.integer({ min: 1, max: 100 });
const capacity = fc.oneof(fc.double({ min: 0, max: 3e9, noNaN: true }), fc.integer({ min: 0, max: 100 }).map((n) => n * 8e6));
const waiting = fc.constantFrom(undefined, ...WAITING_STRATEGIES);
const topology = fc.constantFrom(undefined, ...TOPOLOGIES);

describe('the topology', () => {
  it('is one thread where it can serve what the GPUs can do, and split above that', () => {
    assert.deepEqual(choose({}, 64, 64, 8e6), {
      kind: 'single', shards: 1, threads: 1, waiting: 'balanced',
      reason: 'One thread is enough: the GPUs can run up to 8.00 M requests/s and one thread serves about 8.00 M/s.',
    });
    assert.deepEqual(choose({}, 64, 64, 54.6e6), {
      kind: 'split', shards: 7, threads: 8, waiting: 'balanced',
      reason: 'Split pays: the GPUs can run up to 54.6 M requests/s and one thread serves about 8.00 M/s, which takes 7 shards.',
    });
    assert.equal(choose({}, 64, 64, 8e6 + 1).shards, 2);
  });

  it('is split from four usable cores on, and says what it is held by', () => {
    assert.equal(choose({}, 3, 64, 54.6e6).kind, 'single');
    assert.match(choose({}, 3, 64, 54.6e6).reason, /^One thread for want of cores: .*54\.6 M .*splitting takes 4 usable cores and this process has 3\.$/);
    assert.equal(choose({}, 4, 64, 54.6e6).kind, 'split');
    assert.match(choose({}, 4, 64, 54.6e6).reason, /, which takes 7 shards; held to 2 by 4 usable cores\.$/);
    assert.match(choose({}, 64, 1, 54.6e6).reason, /, which takes 7 shards; held to 1 by 1 model\.$/);
  });

  it('follows its formula, and leaves the program a core where it is split by itself', () => {
    fc.assert(fc.property(cores, models, capacity, waiting, (c, m, perSecond, wait) => {
      const chosen = choose({ waiting: wait }, c, m, perSecond);
      const split = c >= 4 && perSecond > 8e6;
      assert.equal(chosen.kind, split ? 'split' : 'single');
      assert.equal(chosen.shards, split ? Math.min(Math.ceil(perSecond / 8e6), c - 2, m) : 1);
      assert.ok(chosen.threads + 1 <= Math.max(2, c));
      assert.deepEqual(choose({ topology: 'auto', waiting: wait }, c, m, perSecond), chosen);
    }));
  });

  it('gains no shard from fewer cores, fewer models or a smaller capacity', () => {
    fc.assert(fc.property(cores, cores, models, models, capacity, capacity, (c1, c2, m1, m2, p1, p2) => {
      const less = choose({}, Math.min(c1, c2), Math.min(m1, m2), Math.min(p1, p2));
      const more = choose({}, Math.max(c1, c2), Math.max(m1, m2), Math.max(p1, p2));
      assert.ok(less.shards <= more.shards && less.threads <= more.threads);
    }));
  });

  it('does what is wished explicitly, on any machine', () => {
    fc.assert(fc.property(cores, models, fc.nat(99), capacity, (c, m, n, perSecond) => {
      const shards = 1 + (n % m);
      const alone = choose({ shards }, c, m, perSecond);
      assert.deepEqual([alone.kind, alone.shards, alone.threads], ['single', shards, 1]);
      const single = choose({ topology: 'single', shards }, c, m, perSecond);
      assert.deepEqual([single.kind, single.shards, single.threads], ['single', shards, 1]);
      const split = choose({ topology: 'split', shards }, c, m, perSecond);
      assert.deepEqual([split.kind, split.shards, split.threads], ['split', shards, shards + 1]);
      const itself = choose({ topology: 'split' }, c, m, perSecond);
      const most = Math.max(1, Math.min(Math.ceil(perSecond / 8e6), c - 2, m));
      assert.deepEqual([itself.kind, itself.shards, itself.threads], ['split', most, most + 1]);
      assert.deepEqual([choose({ topology: 'single' }, c, m, perSecond).kind, choose({ topology: 'single' }, c, m, perSecond).shards], ['single', 1]);
    }));
    assert.equal(choose({ topology: 'single', shards: 4 }, 8, 4, 1e9).reason, 'Single was asked for: one thread hosts 4 shards and the dispatcher.');
    assert.equal(choose({ shards: 2 }, 8, 4, 1e9).reason, 'Shards were asked for, but not split: one thread hosts 2 shards and the dispatcher.');
    assert.equal(choose({ topology: 'split', shards: 1 }, 8, 4, 1e9).reason, 'Split was asked for, with 1 shard.');
    assert.match(choose({ topology: 'split' }, 2, 4, 1e9).reason, /^Split was asked for: .* which takes 125 shards; held to 1 by 2 usable cores\. It parks/);
  });

  it('parks instead of balancing where its threads and yours are more than the cores; a wish to spin is kept', () => {
    fc.assert(fc.property(topology, cores, models, fc.option(fc.nat(99), { nil: undefined }), capacity, waiting, (kind, c, m, n, perSecond, wait) => {
      const chosen = choose({ topology: kind, shards: n === undefined ? n : 1 + (n % m), waiting: wait }, c, m, perSecond);
      const crowded = chosen.threads + 1 > c;
      assert.equal(chosen.waiting, wait === 'spin' || wait === 'park' ? wait : crowded ? 'park' : 'balanced');
      assert.equal(/ It parks and never spins: /.test(chosen.reason), crowded && chosen.waiting === 'park' && wait !== 'park');
      assert.equal(/ It spins as asked, which slows everything down: /.test(chosen.reason), crowded && wait === 'spin');
    }));
    assert.match(choose({}, 1, 4, 1e3).reason, / It parks and never spins: 2 threads, yours among them, share 1 usable core\.$/);
    assert.match(choose({ topology: 'split', shards: 3, waiting: 'spin' }, 4, 4, 1e3).reason, /: 5 threads, yours among them, share 4 usable cores; park suits better\.$/);
  });

  it('explains itself in one or two sentences', () => {
    fc.assert(fc.property(topology, cores, models, capacity, waiting, (kind, c, m, perSecond, wait) => {
      const { reason } = choose({ topology: kind, waiting: wait }, c, m, perSecond);
      assert.match(reason, /^[A-Z].*\.$/);
      assert.ok(reason.split(/\. (?=[A-Z])/).length <= 2, reason);
    }));
  });

  it('refuses shards that no model is left for, and numbers out of range', () => {
    for (const shards of [5, 0, -1, 1.5, NaN, '2' as unknown as number]) {
      for (const kind of TOPOLOGIES) {
        refuses(() => choose({ topology: kind, shards }, 8, 4, 1e6), 'shards', /got ("2"|[-\d.]+|NaN), must be an integer from 1 to 4, the number of models: /);
      }
    }
    assert.equal(choose({ shards: 4 }, 8, 4, 1e6).shards, 4);
    refuses(() => choose({}, 0, 4, 1e6), 'usableCores', /got 0, must be an integer >= 1/);
    refuses(() => choose({}, 1.5, 4, 1e6), 'usableCores', /got 1\.5/);
    refuses(() => choose({}, 2, 0, 1e6), 'models', /got 0, must be an integer >= 1/);
    for (const perSecond of [NaN, -1, Infinity]) refuses(() => choose({}, 2, 4, perSecond), 'capacityPerSecond', /must be a finite rate >= 0/);
  });
});

describe('what GPUs can do', () => {
  const linear = LatencyProfile.linear({ alphaNs: 500, betaNs: 86_000, maxBatch: 128 }, 'p');

  it('is the rate of the largest batch within half the SLO, and of a batch of one where none is', () => {
    assert.equal(expectedLoad(linear.ns, 128, 20e6), 128e9 / 150_000);
    assert.equal(expectedLoad(linear.ns, 64, 20e6), 64e9 / 118_000);
    assert.equal(expectedLoad(linear.ns, 128, 2 * 91_000), 10e9 / 91_000, 'l(10) is just half the SLO');
    assert.equal(expectedLoad(linear.ns, 128, 2 * 91_000 - 1), 9e9 / 90_500);
    assert.equal(expectedLoad(linear.ns, 128, 90_000), 1e9 / 86_500);
  });

  it('agrees with a search through all batches', () => {
    const table = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 40 });
    fc.assert(fc.property(table, fc.nat(39), fc.integer({ min: 1, max: 3000 }), (steps, less, sloNs) => {
      const ns = Float64Array.from([0, ...steps.map((_, i) => steps.slice(0, i + 1).reduce((sum, step) => sum + (step % 7), 1)), Infinity]);
      const maxBatch = 1 + (less % steps.length);
      let b = 1;
      for (let size = 2; size <= maxBatch; size++) if (ns[size]! <= sloNs / 2) b = size;
      assert.equal(expectedLoad(ns, maxBatch, sloNs), (b * 1e9) / ns[b]!);
    }));
  });

  it('is the mean over the models for each GPU, less by its slowdown', () => {
    const fast: ProfiledModel = { profile: Float64Array.of(0, 1e6, Infinity), maxBatch: 1, sloNs: 50e6 };
    const slow: ProfiledModel = { ...fast, profile: Float64Array.of(0, 2e6, Infinity) };
    assert.equal(poolCapacityPerSecond([fast], [{ slowdown: 1 }]), 1000);
    assert.equal(poolCapacityPerSecond([fast, slow], [{ slowdown: 1 }]), 750);
    assert.equal(poolCapacityPerSecond([fast, slow], [{ slowdown: 1 }, { slowdown: 2 }, { slowdown: 4 }]), 1.75 * 750);
    assert.equal(poolCapacityPerSecond([fast], []), 0);
    assert.equal(poolCapacityPerSecond([], [{ slowdown: 1 }]), 0);
  });
});

const LOADS = fc.array(fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 0, max: 20 }) }, { weight: 1, arbitrary: fc.constant(0) }), { maxLength: 40 });
const SHARDS = fc.integer({ min: 1, max: 12 });

function sums(loads: readonly number[], assigned: readonly number[], shards: number): number[] {
  const totals = new Array<number>(shards).fill(0);
  assigned.forEach((shard, model) => (totals[shard]! += loads[model]!));
  return totals;
}

/** The least load of the fullest shard over all ways to assign. */
function bestPossible(loads: readonly number[], shards: number): number {
  let best = Infinity;
  const assigned = loads.map(() => 0);
  for (let code = 0; code < shards ** loads.length; code++) {
    for (let model = 0, rest = code; model < loads.length; model++, rest = Math.floor(rest / shards)) assigned[model] = rest % shards;
    best = Math.min(best, Math.max(...sums(loads, assigned, shards)));
  }
  return best;
}

describe('models are assigned to shards', () => {
  it('the heaviest first, each to the shard with the least, ties by the lowest number', () => {
    assert.deepEqual(assignShards([5, 7, 3, 3, 2], 2), [1, 0, 1, 0, 1]);
    assert.deepEqual(assignShards([1, 1, 1, 1, 1], 2), [0, 1, 0, 1, 0]);
    assert.deepEqual(assignShards([4, 4, 4], 8), [0, 1, 2]);
    assert.deepEqual(assignShards([], 3), []);
  });

  it('evenly where nothing is known of the loads', () => {
    assert.deepEqual(assignShards([0, 0, 0, 0, 0], 2), [0, 1, 0, 1, 0]);
  });

  it('so that every shard has a model where there are enough', () => {
    fc.assert(fc.property(LOADS, SHARDS, (loads, shards) => {
      const assigned = assignShards(loads, shards);
      assert.equal(assigned.length, loads.length);
      for (const shard of assigned) assert.ok(Number.isInteger(shard) && shard >= 0 && shard < shards);
      assert.equal(new Set(assigned).size, Math.min(shards, loads.length));
      assert.deepEqual(assignShards([...loads], shards), assigned);
    }));
  });

  it('with no shard fuller than 4/3 - 1/(3 S) of the best that is possible (Graham 1969)', () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 12 }), { minLength: 1, maxLength: 7 }), fc.integer({ min: 1, max: 3 }), (loads, shards) => {
      const fullest = Math.max(...sums(loads, assignShards(loads, shards), shards));
      assert.ok(fullest <= (4 / 3 - 1 / (3 * shards)) * bestPossible(loads, shards) + 1e-9);
    }), { numRuns: 100 });
  });

  it('to the same shard when a model comes later as when the lightest comes last', () => {
    fc.assert(fc.property(LOADS, fc.integer({ min: 0, max: 20 }), SHARDS, (loads, load, shards) => {
      const falling = loads.map((each) => each + load).sort((a, b) => b - a);
      const together = assignShards([...falling, load], shards);
      const assigned = falling.map((each, model) => ({ shard: together[model]!, load: each }));
      assert.equal(leastLoadedShard(assigned, shards), together.at(-1));
    }));
    assert.equal(leastLoadedShard([], 3), 0);
    assert.equal(leastLoadedShard([{ shard: 0, load: 2 }, { shard: 1, load: 1 }, { shard: 2, load: 1 }], 3), 1);
    assert.equal(leastLoadedShard([{ shard: 0, load: 0 }, { shard: 1, load: 0 }], 3), 2);
  });

  it('and what is no load or no shard is refused', () => {
    for (const load of [-1, NaN, Infinity]) {
      refuses(() => assignShards([1, load], 2), 'loads[1]', new RegExp(`got ${load}, must be a finite load >= 0`));
      refuses(() => leastLoadedShard([{ shard: 0, load }], 2), 'assigned[0].load', /must be a finite load >= 0/);
    }
    for (const shards of [0, 1.5, NaN]) {
      refuses(() => assignShards([1], shards), 'shards', /must be an integer >= 1/);
      refuses(() => leastLoadedShard([], shards), 'shards', /must be an integer >= 1/);
    }
    for (const shard of [2, -1, 0.5]) refuses(() => leastLoadedShard([{ shard, load: 1 }], 2), 'assigned[0].shard', /must be an integer from 0 to 1/);
  });
});

describe('the usable cores', () => {
  it('are those of the machine or of the container, rounded up, and at least one', () => {
    const of = (quotaCores: number): number => usableCores(8, { cores: quotaCores, source: 'cgroup v2' });
    assert.deepEqual([0.1, 1, 1.5, 7.2, 8, 9].map(of), [1, 1, 2, 8, 8, 8]);
    assert.equal(usableCores(8, null), 8);
  });

  it('of this machine are at least one and no more than it has', () => {
    assert.ok(Number.isInteger(usableCores()) && usableCores() >= 1 && usableCores() <= availableParallelism());
  });
});
