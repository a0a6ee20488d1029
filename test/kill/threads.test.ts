/** Deaths of scheduler threads under load, real ones: by every cause, at kill points and at random moments. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Copies } from '../sim/copies.js';
import { Killer } from './killer.js';
import { type LiveCopy, liveCopy } from './live.js';

/** Of each topology. */
const DEATHS = 52;
const SEED = 20_260;

const copies = new Copies();
let copy: LiveCopy;
before(async () => {
  process.removeAllListeners('warning'); // each death gives one, which would be printed
  copy = await liveCopy(copies);
});
after(() => copies.remove());

describe('scheduler threads that die under load', () => {
  for (const topology of ['single', 'split'] as const) {
    it(`lose no request and end none twice, ${topology}`, { timeout: 400_000 }, async (test) => {
      const { deaths, replaced: count, points, recoveryMs, requests } = await new Killer(copy, { topology, count: DEATHS, seed: SEED, hangs: 1 }).run();
      test.diagnostic(`${count} deaths ${JSON.stringify(deaths)} at ${points} kill points, ${requests} requests; recovery ${recoveryMs[recoveryMs.length >> 1]!.toFixed(1)} ms p50`);
      assert.ok(count >= DEATHS);
      assert.ok(points >= 10, `${points} different kill points`);
      assert.equal(deaths.hang, 1);
    });
  }
});
