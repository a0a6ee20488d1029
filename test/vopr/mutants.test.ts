/**
 * Proof that the checks can fail: each mutant breaks a rule within 200 seeds. Which seed it was is noted, so that a mutant
 * that is found late says so.
 */
import assert from 'node:assert/strict';
import { after, describe, it, type TestContext } from 'node:test';
import { instrument } from '../kill/instrument.js';
import { Copies, edited } from '../sim/copies.js';
import { DEATH_MUTANTS } from './death-mutants.js';
import { MUTANTS } from './mutants.js';
import { type Parts, partsOf } from './parts.js';
import { scenarioOf } from './scenario.js';
import { World } from './world.js';

const SEEDS = 200;

const copies = new Copies();
after(() => copies.remove());

function isFound(parts: Parts, test: TestContext): void {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { violation } = new World(scenarioOf(seed), parts).play();
    if (violation === null) continue;
    test.diagnostic(`seed ${seed}: ${violation.message.split('\n')[0]}`);
    return;
  }
  assert.fail(`${SEEDS} seeds broke no rule`);
}

describe(`within ${SEEDS} seeds a rule is broken by a scheduler`, () => {
  for (const mutant of MUTANTS) {
    it(`that ${mutant.name}`, async (test) => isFound(await partsOf(copies.mutate(mutant, mutant.name)), test));
  }
});

describe(`within ${SEEDS} seeds with deaths a rule is broken by a scheduler`, () => {
  for (const mutant of DEATH_MUTANTS) {
    it(`that after a death ${mutant.name}`, async (test) => {
      const { copy, points } = instrument(copies, edited(mutant, mutant.name));
      const deadly = points.flatMap(({ file }, point) => (file === mutant.deathsIn ? [point] : []));
      assert.equal(deadly.length > 0, mutant.deathsIn !== undefined, `no statement of ${mutant.deathsIn}`);
      isFound(await partsOf(copy, true, deadly.length > 0 ? deadly : null), test);
    });
  }
});

it('no rule is broken by an untouched copy', async () => {
  const parts = await partsOf(copies.make((_, text) => text));
  for (let seed = 1; seed <= 20; seed++) assert.equal(new World(scenarioOf(seed), parts).play().violation, null);
});
