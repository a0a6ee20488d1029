/** What the paper promises, and what was measured of the authors' own program (bad %, mean batch, busy GPUs). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { Random } from '#rubato/model/random.js';
import type { Observer } from '#rubato/protocol/observer.js';
import { type Condition, CONDITIONS, type DropPolicy, DROP_POLICIES } from '#rubato/protocol/config.js';
import { VirtualHost, virtualConfig } from '#rubato/sim/virtual-host.js';
import { describeViolations, Run, type ScenarioEvent } from './harness.js';
import { NO_MARGINS } from './scenarios.js';

const MS = 1e6;

describe('the example of the paper: ℓ(b) = b + 5, SLO 12, three GPUs, an arrival every 0.75', () => {
  function play(condition: Condition): Run {
    const events = Array.from({ length: 2_000 }, (_, k): ScenarioEvent => ({ at: k * 0.75 * MS, kind: 'submit', model: 0, sloNs: 0 }));
    const model = { alphaNs: MS, betaNs: 5 * MS, maxBatch: 64, sloNs: 12 * MS, drop: 'window', condition, maxQueue: 1_000 } as const;
    const run = new Run({ models: [model], gpus: 3, shards: 1, margins: NO_MARGINS, slotShift: 10, slowdown: 1, jitter: 0, failureRate: 0, events }).play();
    assert.equal(run.violations.length, 0, describeViolations(run));
    return run;
  }

  it('is sustained by deferred dispatch with batches of 4 and not one drop', () => {
    const run = play('frontrun');
    const { completed, accepted } = run.host.stats.model(0);
    assert.deepEqual({ completed, accepted }, { completed: 2_000, accepted: 2_000 });
    const sizes = new Set(run.decisions.map(({ text }) => text.split(' ')[2]));
    assert.deepEqual([...sizes], ['4']);
  });

  it('is not sustained by eager dispatch, which drops a quarter', () => {
    const { completed, expired, batched, batches } = play('immediate').host.stats.model(0);
    assert.ok(expired > 0.2 * 2_000, `${expired} of 2000 expired`);
    assert.equal(completed + expired, 2_000);
    assert.ok(batched / batches < 3, `mean batch ${batched / batches}`);
  });
});

interface Figures {
  readonly bad: number;
  readonly batch: number;
  readonly busy: number;
  readonly batchesByGpu: readonly number[];
  readonly log: string;
}

/** r50: one model of 1.08 b + 5.1 ms, SLO 100 ms, on 8 GPUs, Poisson; `load` as a share of the staggered optimum, 6979/s. */
function r50(load: number, condition: Condition, drop: DropPolicy, seconds: number, seed = 1): Figures {
  const profile = LatencyProfile.linear({ alphaNs: 1.08 * MS, betaNs: 5.1 * MS, maxBatch: 499 }, 'r50');
  const gpu = { host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 };
  const lines: string[] = [];
  const nothing = (): void => {};
  const observer: Observer = {
    granted: nothing, refused: nothing, expired: nothing, published: nothing,
    planned: (now, _model, on, size, exec) => void lines.push(`${now} ${on} ${size} ${exec}`),
  };
  const config = virtualConfig({
    profiles: [profile.ns],
    models: [{ name: 'r50', sloNs: 100 * MS, profile: 0, maxBatch: 499, dropPolicy: DROP_POLICIES.indexOf(drop), condition: CONDITIONS.indexOf(condition), maxQueue: 1e6 }],
    gpus: Array.from({ length: 8 }, () => gpu),
  });
  const margins = { ...config.margins, controlNs: 100e3, transferNs: 50e3, responseNs: 2e6, jitterNs: 100e3 };
  const host = new VirtualHost({ ...config, margins }, observer);
  const random = new Random(seed);
  const rate = 6979 * load;
  let at = 0;
  for (let count = Math.floor(rate * seconds); count > 0; count--) {
    at += Math.round((random.exponential() / rate) * 1e9);
    host.advanceTo(at);
    host.client.submit(0, at, 0);
    host.client.commit();
    host.settle();
  }
  host.runOut();
  const { accepted, completed, batched, batches } = host.stats.model(0);
  const gpus = host.stats.gpus();
  return {
    bad: 100 * (1 - completed / accepted),
    batch: batched / batches,
    busy: gpus.reduce((sum, { busyNs }) => sum + busyNs, 0) / at,
    batchesByGpu: gpus.map(({ batches: count }) => count),
    log: lines.join('\n'),
  };
}

function near(figures: Figures, bad: readonly [number, number], batch: readonly [number, number], busy: readonly [number, number]): void {
  const said = `bad ${figures.bad.toFixed(2)} %, batch ${figures.batch.toFixed(1)}, busy ${figures.busy.toFixed(2)}`;
  assert.ok(Math.abs(figures.bad - bad[0]) <= bad[1], `bad is not ${bad[0]} ± ${bad[1]} %: ${said}`);
  assert.ok(Math.abs(figures.batch - batch[0]) <= batch[1], `mean batch is not ${batch[0]} ± ${batch[1]}: ${said}`);
  assert.ok(Math.abs(figures.busy - busy[0]) <= busy[1], `busy GPUs are not ${busy[0]} ± ${busy[1]}: ${said}`);
}

describe('r50 on 8 GPUs behaves as the authors’ own program', () => {
  // Measured of theirs:      bad %         mean batch   busy GPUs
  it('frontrun at 20 %', () => near(r50(0.2, 'frontrun', 'window', 15), [0, 0.01], [50, 1], [1.7, 0.1]));
  it('frontrun at 80 %', () => near(r50(0.8, 'frontrun', 'window', 15), [0, 0.01], [70, 1], [6.4, 0.1]));
  it('frontrun at 95 %', () => near(r50(0.95, 'frontrun', 'window', 15), [0.33, 0.3], [72, 1], [7.6, 0.1]));
  it('immediate at 20 %', () => near(r50(0.2, 'immediate', 'window', 15), [0, 0.01], [1.3, 0.1], [6.9, 0.1]));
  it('immediate at 80 %', () => near(r50(0.8, 'immediate', 'window', 15), [0, 0.05], [14, 1], [8, 0.05]));
  it('immediate at 95 %', () => near(r50(0.95, 'immediate', 'window', 15), [2.1, 0.7], [34, 2], [8, 0.05]));
});

describe('deferral consolidates', () => {
  it('at 20 % load of 8 GPUs, GPUs 3 to 7 never run a batch', () => {
    for (const seed of [1, 2, 3]) {
      const { batchesByGpu } = r50(0.2, 'frontrun', 'window', 10, seed);
      assert.deepEqual(batchesByGpu.slice(3), [0, 0, 0, 0, 0], `batches by GPU: ${batchesByGpu.join(' ')}`);
      assert.ok(batchesByGpu[0]! > batchesByGpu[1]! && batchesByGpu[1]! > batchesByGpu[2]!, `batches by GPU: ${batchesByGpu.join(' ')}`);
    }
  });

  it('eager dispatch at the same load uses all 8', () => {
    assert.ok(r50(0.2, 'immediate', 'window', 3).batchesByGpu.every((count) => count > 0));
  });
});

describe('a run is its seed', () => {
  it('the same seed twice gives the same log, another seed another', () => {
    const log = (seed: number): string => r50(0.9, 'frontrun', 'window', 3, seed).log;
    assert.equal(log(5), log(5));
    assert.notEqual(log(5), log(6));
  });
});
