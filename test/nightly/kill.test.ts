/** Many more deaths of scheduler threads than in test/kill/threads.test.ts, with a seed by chance. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Killer } from '../kill/killer.js';
import { type LiveCopy, liveCopy } from '../kill/live.js';
import { Copies } from '../sim/copies.js';

const DEATHS = 2000;
const HANGS = 10;
const MOST_GROWTH_BYTES = 64 * 2 ** 20;
const seed = Date.now() & 0x7fffffff;

const copies = new Copies();
let copy: LiveCopy;
before(async () => {
  process.removeAllListeners('warning'); // each death gives one, which would be printed
  copy = await liveCopy(copies);
});
after(() => copies.remove());

describe(`scheduler threads that die under load, seed ${seed}`, () => {
  for (const topology of ['single', 'split'] as const) {
    test(`${DEATHS / 2} deaths lose no request, end none twice and leave no memory behind, ${topology}`, async (t) => {
      const { deaths, points, recoveryMs, requests, rssGrowthBytes } = await new Killer(copy, { topology, count: DEATHS / 2, seed, hangs: HANGS }).run();
      const quantile = (q: number): string => recoveryMs[Math.floor(q * recoveryMs.length)]!.toFixed(1);
      t.diagnostic(`${JSON.stringify(deaths)} at ${points} kill points, ${requests} requests, recovery ${quantile(0.5)} ms p50, ${quantile(0.99)} ms p99, ${rssGrowthBytes} bytes more`);
      assert.ok(rssGrowthBytes < MOST_GROWTH_BYTES, `${rssGrowthBytes} bytes`);
    });
  }
});
