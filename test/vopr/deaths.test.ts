/** Threads of the scheduler die at any statement, with requests in flight, and others go on in their place. */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { instrument } from '../kill/instrument.js';
import { Copies } from '../sim/copies.js';
import { type Parts, PARTS, partsOf } from './parts.js';
import { type ModelData, type Scenario, scenarioOf, type VoprEvent } from './scenario.js';
import { type Result, World } from './world.js';

const SEEDS = 200;
/** Fewer would mean that threads are not killed any more where it matters. */
const LEAST_DEATHS = 1000;
const LEAST_STATEMENTS = 600;

const copies = new Copies();
const { copy } = instrument(copies);
const parts: Parts = await partsOf(copy, true);
after(() => copies.remove());

const model: ModelData = { alphaNs: 100, betaNs: 300, maxBatch: 4, sloNs: 4200, drop: 'window', condition: 'adaptive', maxQueue: 1000 };
const quiet: Scenario = {
  ...scenarioOf(1), clients: 1, shards: 1, gpus: 1, maxGpus: 2, models: [model], scramble: 0, interrupt: 0, deviceApart: true,
  margins: { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 },
};
const submit = (at: number): VoprEvent => ({ at, kind: 'submit', client: 0, model: 0, count: 1, sloNs: 0, lateNs: 0 });
const play = (scenario: Scenario): Result => new World(scenario, parts).play();

describe('whole scenarios with deaths', () => {
  it(`break no rule, for ${SEEDS} seeds`, (test) => {
    let deaths = 0;
    for (let seed = 1; seed <= SEEDS; seed++) {
      const result = play(scenarioOf(seed));
      assert.equal(result.violation, null, `seed ${seed}: ${result.violation?.message} (npm run vopr -- --from ${seed} --seeds 1 finds a shorter one)`);
      deaths += result.deaths;
    }
    const statements = parts.kill!.died.filter((times) => times > 0).length;
    test.diagnostic(`${deaths} deaths at ${statements} statements`);
    assert.ok(deaths >= LEAST_DEATHS, `${deaths} deaths`);
    assert.ok(statements >= LEAST_STATEMENTS, `${statements} statements`);
  });

  it('go the same way each time', () => {
    for (let seed = 1; seed <= 20; seed++) assert.equal(play(scenarioOf(seed)).hash, play(scenarioOf(seed)).hash, `seed ${seed}`);
  });
});

describe('what deaths have shown', () => {
  it('a GPU that comes on counts from there, though the dispatcher has died before it heard of it', () => {
    for (const single of [false, true]) {
      const events: VoprEvent[] = [
        submit(0),
        { at: 10_000, kind: 'remove-gpu', gpu: 0 },
        { at: 20_000, kind: 'kill', role: 'dispatcher', index: 0, deaths: [], downNs: 5000 },
        { at: 21_000, kind: 'add-gpu', gpu: 0 },
        submit(30_000),
      ];
      const { violation, deaths } = new World({ ...quiet, single, events }, PARTS).play();
      assert.equal(violation, null, violation?.message);
      assert.equal(deaths, 1);
    }
  });

  it('what a role says while it takes over is work, so that the others look at it', () => {
    for (let left = 0; left < 1500; left += 7) {
      const events: VoprEvent[] = [{ at: 0, kind: 'kill', role: 'dispatcher', index: 0, deaths: [{ left, share: null }], downNs: 0 }, submit(0), submit(50_000)];
      const { violation } = play({ ...quiet, single: false, models: [{ ...model, condition: 'immediate' }], events });
      assert.equal(violation, null, `after ${left} statements: ${violation?.message}`);
    }
  });
});
