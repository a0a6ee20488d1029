/**
 * Proof that the checks can fail: each mutant breaks a rule within 200 seeds. Which seed it was is noted, so that a mutant
 * that is found late says so.
 */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { Copies } from '../sim/copies.js';
import { MUTANTS } from './mutants.js';
import { partsOf } from './parts.js';
import { scenarioOf } from './scenario.js';
import { World } from './world.js';

const SEEDS = 200;

const copies = new Copies();
after(() => copies.remove());

describe(`within ${SEEDS} seeds a rule is broken by a scheduler`, () => {
  for (const mutant of MUTANTS) {
    it(`that ${mutant.name}`, async (test) => {
      const parts = await partsOf(copies.mutate(mutant, mutant.name));
      for (let seed = 1; seed <= SEEDS; seed++) {
        const { violation } = new World(scenarioOf(seed), parts).play();
        if (violation === null) continue;
        test.diagnostic(`seed ${seed}: ${violation.message.split('\n')[0]}`);
        return;
      }
      assert.fail(`${SEEDS} seeds broke no rule`);
    });
  }
});

it('no rule is broken by an untouched copy', async () => {
  const parts = await partsOf(copies.make((_, text) => text));
  for (let seed = 1; seed <= 20; seed++) assert.equal(new World(scenarioOf(seed), parts).play().violation, null);
});
