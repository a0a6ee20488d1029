/** What `adaptive` has of the best of our other pairs, on named workloads and on drawn ones: bounds of what was measured (docs/policies.md). An hour or so. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { badAt, goodputShare } from '#rubato/sim/compare.js';
import { drawnWorkload } from '#rubato/sim/drawn-workload.js';
import { loadWorkload, type Workload } from '#rubato/sim/workload.js';

const ADAPTIVE = 'adaptive+adaptive';
const OTHERS = ['immediate+adaptive', 'frontrun+adaptive', 'immediate+window', 'frontrun+window', 'immediate+timeout'];
const COMPARISON = { requests: 120_000, seed: 11 };
/** Not the one the policy was tuned on, which is 1. */
const DRAWN_SEED = 3;
const DRAWN = 13;
/** As many bad requests as may be; below it is a matter of 1200 requests of one run. */
const SUSTAINED = 0.01;
const NOISE = 0.001;
/** Known to fall short: % bad at 0.99 of the best, and the share of the best that is held. */
const MOST_BAD = new Map([['tight@64', 0.015]]);
const LEAST_SHARE = new Map([['drawn 3/2', 0.92]]);
const MEASURED: readonly (readonly [gpus: number, names: readonly string[]])[] = [
  [8, ['r50', 'mix3', 'r50x16', 'tight', 'zipf32', 'held6', 'held2', 'r50-b', 'mix3-b', 'r50x16-b', 'tight-b', 'zipf32-b']],
  [64, ['mix3', 'r50x16', 'tight', 'zipf32', 'mix3-b', 'r50x16-b', 'tight-b', 'zipf32-b']],
];

async function holds(workload: Workload, share: number, mostBad = SUSTAINED): Promise<void> {
  let best = 0;
  for (const policy of OTHERS) best = Math.max(best, await goodputShare(policy, workload, COMPARISON, best === 0 ? 1 : best));
  const bad = badAt(ADAPTIVE, workload, share * best, COMPARISON);
  assert.ok(bad <= mostBad + NOISE, `${(100 * bad).toFixed(2)} % bad at ${share} of the best other pair, which holds ${best.toFixed(3)} of the bound`);
}

describe('adaptive sustains 0.99 of the best pair', () => {
  for (const [gpus, names] of MEASURED) {
    for (const name of names) {
      it(`on ${name} with ${gpus} GPUs`, () => holds({ ...loadWorkload(name), gpus }, 0.99, MOST_BAD.get(`${name}@${gpus}`)));
    }
  }
});

describe('adaptive sustains 0.96 of the best pair on the fewest GPUs', () => {
  for (const name of ['mix3', 'held6', 'held2', 'mix3-b', 'r50', 'r50-b']) {
    it(`on ${name} with 1 GPU`, () => holds({ ...loadWorkload(name), gpus: 1 }, 0.96));
  }
  for (const [seed, number] of [[2, 0], [2, 1], [4, 2], [4, 7]] as const) {
    it(`on drawn ${seed}/${number}`, () => holds(drawnWorkload(seed, number), 0.96));
  }
});

describe('adaptive sustains 0.97 of the best pair on drawn workloads', () => {
  for (let number = 0; number < DRAWN; number++) {
    const workload = drawnWorkload(DRAWN_SEED, number);
    it(`on ${workload.name}: ${workload.models.length} models on ${workload.gpus} GPUs`, () => holds(workload, LEAST_SHARE.get(workload.name) ?? 0.97));
  }
});
