/** Many more scenarios than test/vopr/vopr.test.ts plays, from a seed by chance. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { instrument } from '../kill/instrument.js';
import { Copies } from '../sim/copies.js';
import { PARTS, partsOf } from '../vopr/parts.js';
import { scenarioOf } from '../vopr/scenario.js';
import { World } from '../vopr/world.js';

const SEEDS = 20_000;
const from = Date.now() & 0x7fffffff;

test(`${SEEDS} scenarios from seed ${from} break no rule`, () => {
  for (let seed = from; seed < from + SEEDS; seed++) {
    const { violation } = new World(scenarioOf(seed), PARTS).play();
    assert.equal(violation, null, `seed ${seed}: ${violation?.message}`);
  }
});

test(`${SEEDS} scenarios with deaths at any statement, from seed ${from}, break no rule`, async () => {
  const copies = new Copies();
  after(() => copies.remove());
  const parts = await partsOf(instrument(copies).copy, true);
  for (let seed = from; seed < from + SEEDS; seed++) {
    const { violation } = new World(scenarioOf(seed), parts).play();
    assert.equal(violation, null, `seed ${seed}: ${violation?.message}`);
  }
});
