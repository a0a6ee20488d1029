/** What the policy `adaptive` promises, on the workloads it was made for. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { Random } from '#rubato/model/random.js';
import { type Condition, CONDITIONS, type DropPolicy, DROP_POLICIES } from '#rubato/protocol/config.js';
import { type Observer, UNWATCHED } from '#rubato/protocol/observer.js';
import { Arrivals } from '#rubato/sim/arrivals.js';
import { badAt } from '#rubato/sim/compare.js';
import { drawnWorkload } from '#rubato/sim/drawn-workload.js';
import { VirtualHost, virtualConfig } from '#rubato/sim/virtual-host.js';
import { loadWorkload, staggeredOptimum } from '#rubato/sim/workload.js';

interface Played {
  readonly bad: number;
  /** Mean busy GPUs, and the batches of each. */
  readonly busy: number;
  readonly batchesByGpu: readonly number[];
  readonly offered: number;
  readonly reserve: number;
  readonly mostReserve: number;
  /** Candidates that the dispatcher was told. */
  readonly told: number;
  /** Drops, and those among them whose model had no batch that had waited. */
  readonly drops: number;
  readonly unexplained: number;
  readonly log: string;
}

interface Options {
  readonly condition?: Condition;
  readonly drop?: DropPolicy;
  readonly shards?: number;
  readonly gpus?: number;
  readonly seed?: number;
}

/** `phases`: seconds, and the load in them as a share of the staggered optimum. */
function play(name: string, phases: readonly (readonly [seconds: number, load: number])[], options: Options = {}): Played {
  const { condition = 'adaptive', drop = 'adaptive', shards = 1, gpus = 8, seed = 101 } = options;
  const workload = loadWorkload(name);
  const lines: string[] = [];
  const wantedNs = new Float64Array(workload.models.length).fill(Infinity);
  const waitedUntilNs = new Float64Array(workload.models.length).fill(-Infinity);
  let drops = 0;
  let unexplained = 0;
  const observer: Observer = {
    granted: () => {},
    refused: () => {},
    published: (_now, model, size, exec) => {
      // A batch that waits wants the present; it is the first such moment that counts.
      if (size === 0 || exec > _now) wantedNs[model] = size === 0 ? Infinity : exec;
      else wantedNs[model] = Math.min(wantedNs[model]!, exec);
    },
    planned: (now, model, gpu, size, exec) => {
      if (wantedNs[model]! < exec) waitedUntilNs[model] = now;
      wantedNs[model] = Infinity;
      lines.push(`${now} ${model} ${gpu} ${size} ${exec}`);
    },
    expired: (now, model, _slot, _size, gpuFreeNs) => {
      drops++;
      // Its own batch has waited, or the one before it, which has just got its GPU.
      if (!(wantedNs[model]! < Math.max(now, gpuFreeNs) || waitedUntilNs[model] === now)) unexplained++;
    },
  };
  const host = new VirtualHost(virtualConfig({
    profiles: workload.models.map((model) => model.profile.ns),
    models: workload.models.map((model, index) => ({
      name: model.name, sloNs: model.sloNs, profile: index, maxBatch: model.profile.maxBatch, maxQueue: 1e6,
      dropPolicy: DROP_POLICIES.indexOf(drop), condition: CONDITIONS.indexOf(condition),
    })),
    gpus: Array.from({ length: gpus }, () => ({ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 })),
    shards,
  }), observer);
  const { lookAhead } = host.dispatcher;
  let told = 0;
  const { note } = lookAhead;
  lookAhead.note = (index) => {
    if (index < lookAhead.gpuAt && lookAhead.saidToNs[index]! > -Infinity) told++;
    note.call(lookAhead, index);
  };
  const optimum = staggeredOptimum({ ...workload, gpus });
  let start = 0;
  let mostReserve = 0;
  phases.forEach(([seconds, load], phase) => {
    const streams = workload.models.map((model, index) => new Arrivals(model.arrivals, optimum * load * model.rateShare, new Random(seed + 1000 * phase, index)));
    const next = streams.map((stream) => start + stream.nextGapNs());
    const end = start + seconds * 1e9;
    for (let at = Math.min(...next); at < end; at = Math.min(...next)) {
      host.advanceTo(at);
      for (let model = 0; model < next.length; model++) {
        for (; next[model] === at; next[model]! += streams[model]!.nextGapNs()) host.client.submit(model, at, 0);
      }
      host.client.commit();
      host.settle();
      mostReserve = Math.max(mostReserve, lookAhead.reserve);
    }
    start = end;
  });
  host.runOut();
  const models = workload.models.map((_, index) => host.stats.model(index));
  const offered = models.reduce((sum, model) => sum + model.accepted, 0);
  const good = models.reduce((sum, model) => sum + model.completed, 0);
  const all = host.stats.gpus();
  return {
    bad: 1 - good / offered,
    busy: all.reduce((sum, { busyNs }) => sum + busyNs, 0) / start,
    batchesByGpu: all.map(({ batches }) => batches),
    offered, reserve: lookAhead.reserve, mostReserve, told, drops, unexplained,
    log: lines.sort().join('\n'),
  };
}

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;

describe('adaptive', () => {
  it('drops nobody without a wait for a GPU', () => {
    // A burst that comes at the last moment may cost the heads of the batch that was about to start; nothing else may.
    for (const [name, most] of [['mix3', 0], ['tight', 0], ['r50x16-b', 0.002]] as const) {
      const { drops, unexplained } = play(name, [[4, 1.05]]);
      assert.ok(drops > 100, `${name}: ${drops} drops, too few to mean anything`);
      assert.ok(unexplained <= most * drops, `${name}: ${unexplained} of ${drops} drops in batches that had not waited`);
    }
  });

  it('serves what the paper’s default cannot: many models, and mixed ones', () => {
    for (const [name, load] of [['mix3', 0.92], ['r50x16', 0.84]] as const) {
      const [ours, paper] = [play(name, [[6, load]]), play(name, [[6, load]], { condition: 'frontrun', drop: 'window' })];
      assert.ok(ours.bad < 0.01 && paper.bad > 0.02, `${name}: ${percent(ours.bad)} bad, under frontrun and window ${percent(paper.bad)}`);
    }
  });

  it('does not defer where one GPU is all there is for several models, however little the load', () => {
    for (const load of [0.3, 0.6]) {
      const [ours, eager] = [play('mix3', [[20, load]], { gpus: 1 }), play('mix3', [[20, load]], { gpus: 1, condition: 'immediate' })];
      assert.ok(ours.bad <= eager.bad + 0.004, `${percent(ours.bad)} bad at ${load}, ${percent(eager.bad)} without any deferral`);
    }
  });

  it('does not fill the GPUs with what could wait, where that is what bursts of others would wait for', () => {
    const workload = drawnWorkload(3, 2);
    const [ours, deferred, eager] = ['adaptive+adaptive', 'frontrun+window', 'immediate+adaptive'].map((policy) => badAt(policy, workload, 0.5, { requests: 120_000, seed: 11 }));
    assert.ok(ours! < deferred! + 0.005 && eager! > 0.01, `${percent(ours!)} bad, ${percent(deferred!)} with deferral, ${percent(eager!)} without`);
  });

  it('starts nothing early for which those who cannot wait would be lost', () => {
    // 16 models on 3 GPUs in bursts, some with an SLO of 10 ms beside batches of 40: 0.44 of the bound was sustained without that rule, and at
    // 1.1 more than 1 % is bad if it begins at batches three times as long as others can wait.
    const bad = badAt('adaptive+adaptive', drawnWorkload(13, 46), 1.1, { requests: 20_000, seed: 11 });
    assert.ok(bad <= 0.01, `${bad}`);
  });

  it('learns from a batch that was lost while it waited, of which no grant tells', () => {
    const profiles = [{ alphaNs: 10e6, betaNs: 100e6 }, { alphaNs: 1e6, betaNs: 1e6 }].map((line, k) => LatencyProfile.linear({ ...line, maxBatch: 8 }, `profile ${k}`).ns);
    const host = new VirtualHost(virtualConfig({
      profiles,
      models: [500e6, 10e6].map((sloNs, k) => ({
        name: `m${k}`, sloNs, profile: k, maxBatch: 8, maxQueue: 10, dropPolicy: DROP_POLICIES.indexOf('adaptive'), condition: CONDITIONS.indexOf('adaptive'),
      })),
      gpus: [{ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 }],
    }));
    const submit = (model: number, nowNs: number): void => {
      host.advanceTo(nowNs);
      host.client.submit(model, nowNs, 0);
      host.client.commit();
      host.settle();
    };
    submit(0, 0); // it runs from 380 ms to 490 ms
    submit(1, 400e6);
    assert.equal(host.dispatcher.lookAhead.reserve, 0);
    host.advanceTo(450e6);
    assert.equal(host.stats.model(1).expired, 1);
    assert.equal(host.dispatcher.lookAhead.reserve, 0.25);
  });

  it('learns nothing from a thread that is late while a GPU is idle', () => {
    const { ns } = LatencyProfile.linear({ alphaNs: 10e6, betaNs: 100e6, maxBatch: 8 }, 'profile');
    const host = new VirtualHost(virtualConfig({
      profiles: [ns],
      models: [{ name: 'm', sloNs: 500e6, profile: 0, maxBatch: 8, maxQueue: 10, dropPolicy: DROP_POLICIES.indexOf('adaptive'), condition: CONDITIONS.indexOf('adaptive') }],
      gpus: [{ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 }],
    }));
    host.client.submit(0, 0, 0);
    host.client.commit();
    host.settle();
    host.clock.advanceTo(385e6); // it was due at 380 ms, and nobody looked
    host.settle();
    host.runOut();
    assert.equal(host.stats.model(0).completed, 1);
    assert.equal(host.dispatcher.lookAhead.reserve, 0);
  });

  it('stays with large batches on many GPUs, where a wait is short', () => {
    const { bad, offered } = play('r50x16', [[2.5, 0.98]], { gpus: 64 });
    assert.ok(bad < 0.005, `${percent(bad)} bad of ${offered}`);
  });

  it('needs no more GPUs than deferral does while there is little to do', () => {
    for (const name of ['r50', 'mix3', 'r50x16']) {
      const [ours, deferred] = [play(name, [[4, 0.2]]), play(name, [[4, 0.2]], { condition: 'frontrun' })];
      assert.ok(Math.abs(ours.busy - deferred.busy) < 0.05, `${name}: ${ours.busy.toFixed(2)} GPUs busy, ${deferred.busy.toFixed(2)} with deferral alone`);
      assert.equal(ours.bad, 0);
    }
    assert.deepEqual(play('r50', [[4, 0.2]]).batchesByGpu.slice(3), [0, 0, 0, 0, 0]);
  });

  it('gives the reserve up again within half a minute after a burst', () => {
    const { reserve, mostReserve } = play('r50x16', [[2, 0.3], [2, 1.2], [26, 0.5]]);
    assert.ok(mostReserve > 1, `the reserve grew to ${mostReserve.toFixed(2)} only`);
    assert.equal(reserve, 0);
  });

  it('has more bad requests under more load, never fewer', () => {
    for (const name of ['r50x16', 'tight']) {
      let before = 0;
      for (const load of [0.5, 0.7, 0.85, 0.95, 1.1]) {
        const { bad } = play(name, [[4, load]]);
        assert.ok(bad >= before - 0.002, `${name}: ${percent(bad)} bad at ${load}, ${percent(before)} at less`);
        before = bad;
      }
      assert.ok(before > 0.05, `${name}: ${percent(before)} bad at 1.1`);
    }
  });

  it('decides the same for 1, 2 and 4 shards', () => {
    const log = (shards: number): string => play('mix3-b', [[2, 0.5], [2, 1]], { shards }).log;
    const one = log(1);
    assert.equal(log(2), one);
    assert.equal(log(4), one);
  });

  it('tells the dispatcher of few requests, in bursts too', () => {
    for (const name of ['r50', 'r50-b']) {
      const { told, offered } = play(name, [[3, 0.85]]);
      assert.ok(told > 0 && told < offered / 3, `${name}: ${told} candidates for ${offered} requests`);
    }
  });
});

/** Grants before their time, and what the look-ahead is told, of 8 models on 4 GPUs: 4 s of 3,000 requests/s, in bursts of 12. */
function playSmall(maxBatch: number): { early: number; told: number; completed: number } {
  const profile = LatencyProfile.linear({ alphaNs: 1e5, betaNs: 1e6, maxBatch }, 'profile');
  let early = 0;
  let told = 0;
  const host = new VirtualHost(virtualConfig({
    profiles: [profile.ns],
    models: Array.from({ length: 8 }, (_, index) => ({ name: `m${index}`, sloNs: 10e6, profile: 0, maxBatch, maxQueue: 1000, dropPolicy: DROP_POLICIES.indexOf('adaptive'), condition: CONDITIONS.indexOf('adaptive') })),
    gpus: Array.from({ length: 4 }, () => ({ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 })),
  }), { ...UNWATCHED, granted: (_now, _model, _gpu, _exec, _free, isEarly) => { if (isEarly) early++; } });
  const { lookAhead } = host.dispatcher;
  const note = lookAhead.note.bind(lookAhead);
  lookAhead.note = (index) => {
    told++;
    note(index);
  };
  for (let burst = 0; burst < 1000; burst++) {
    host.advanceTo(burst * 4e6);
    for (let k = 0; k < 12; k++) host.client.submit((burst + k) % 8, host.nowNs, 0);
    host.client.commit();
    host.settle();
  }
  host.runOut();
  return { early, told, completed: host.stats.models().reduce((sum, { completed }) => sum + completed, 0) };
}

describe('adaptive, with the smallest batches', () => {
  it('starts batches of two early', () => {
    const { early, completed } = playSmall(2);
    assert.ok(early > 0 && completed > 0, `${early} early, ${completed} completed`);
  });

  it('looks not ahead where no batch can gather', () => {
    const { early, told, completed } = playSmall(1);
    assert.deepEqual([early, told], [0, 0]);
    assert.ok(completed > 0);
  });
});
