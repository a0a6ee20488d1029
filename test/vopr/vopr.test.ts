import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { OUTCOME } from '#rubato/protocol/outcome.js';
import { PARTS } from './parts.js';
import { type Scenario, scenarioOf } from './scenario.js';
import { shrink } from './shrink.js';
import { type Result, World } from './world.js';

const SEEDS = 200;

const play = (scenario: Scenario): Result => new World(scenario, PARTS).play();

describe('whole scenarios with faults', () => {
  const endings = new Float64Array(16);

  it(`break no rule, for ${SEEDS} seeds`, () => {
    for (let seed = 1; seed <= SEEDS; seed++) {
      const result = play(scenarioOf(seed));
      assert.equal(result.violation, null, `seed ${seed}: ${result.violation?.message} (npm run vopr -- --from ${seed} --seeds 1 finds a shorter one)`);
      result.endings.forEach((count, outcome) => (endings[outcome]! += count));
    }
  });

  it('reach every outcome', () => {
    for (const [name, outcome] of Object.entries(OUTCOME)) assert.ok(endings[outcome]! > 50, `${name}: ${endings[outcome]}`);
  });

  it('go the same way each time', () => {
    for (let seed = 1; seed <= 20; seed++) assert.equal(play(scenarioOf(seed)).hash, play(scenarioOf(seed)).hash, `seed ${seed}`);
  });

  it('go another way for another seed', () => {
    assert.equal(new Set(Array.from({ length: 20 }, (_, seed) => play(scenarioOf(seed)).hash)).size, 20);
  });

  it('are plain data: written down and read again they go the same way', () => {
    for (let seed = 1; seed <= 20; seed++) assert.equal(play(JSON.parse(JSON.stringify(scenarioOf(seed))) as Scenario).hash, play(scenarioOf(seed)).hash, `seed ${seed}`);
  });
});

describe('the search for a shorter scenario', () => {
  /** Breaks when a request of model 0 comes after a cancel. */
  const broken = ({ events }: Scenario): 'cancel' | null => {
    const first = events.findIndex(({ kind }) => kind === 'cancel');
    return first >= 0 && events.slice(first).some((event) => event.kind === 'submit' && event.model === 0) ? 'cancel' : null;
  };

  it('leaves what is needed to break the rule', () => {
    const { scenario } = shrink(scenarioOf(11), 'cancel', broken);
    assert.deepEqual(scenario.events.map(({ kind }) => kind), ['cancel', 'submit']);
    assert.deepEqual([scenario.shards, scenario.clients, scenario.gpus, scenario.models.length], [1, 1, 1, 1]);
    assert.equal(scenario.events[1]!.kind === 'submit' && scenario.events[1].count, 1);
  });

  it('keeps to its number of runs', () => {
    let runs = 0;
    shrink(scenarioOf(11), 'cancel', (scenario) => {
      runs++;
      return broken(scenario);
    }, 10);
    assert.equal(runs, 10);
  });
});
