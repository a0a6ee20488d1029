/** The whole tables of PEER.md, by the policy that follows the authors' program: about five minutes. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { farFrom, FIGURES, figures, GOODPUT, meanBad, runReference, STAGGERED_OPTIMUM, WORKLOADS } from '../sim/policies/peer.js';

const SEEDS = [1, 2, 3];
const SECONDS = 30;
const MOST_BAD = 0.01;
/** Of the staggered optimum: the search ends with steps this small. */
const STEP = 0.002;

describe('highest goodput with at most 1 % bad', () => {
  for (const { rule, theirs, tolerance } of GOODPUT) {
    for (const workload of WORKLOADS) {
      test(`${rule.condition} + ${rule.drop} on ${workload}`, (t) => {
        let fits = 0.6 * STAGGERED_OPTIMUM[workload];
        let tooMuch = 1.05 * STAGGERED_OPTIMUM[workload];
        let bad = meanBad(workload, rule, fits, SEEDS, SECONDS);
        assert.ok(bad <= MOST_BAD, 'the search begins with a rate that is met');
        while (tooMuch - fits > STEP * STAGGERED_OPTIMUM[workload]) {
          const rate = (fits + tooMuch) / 2;
          const badThere = meanBad(workload, rule, rate, SEEDS, SECONDS);
          if (badThere > MOST_BAD) {
            tooMuch = rate;
          } else {
            fits = rate;
            bad = badThere;
          }
        }
        const goodput = fits * (1 - bad);
        const off = goodput / theirs[workload] - 1;
        t.diagnostic(`${Math.round(goodput)}/s, theirs ${theirs[workload]}/s: ${(100 * off).toFixed(1)} %`);
        assert.ok(Math.abs(off) <= tolerance, `${goodput} is not within ${100 * tolerance} % of ${theirs[workload]}`);
      });
    }
  }
});

describe('bad requests, mean batch and busy GPUs', () => {
  for (const [workload, condition, load, bad, batch, busy] of FIGURES) {
    test(`${condition} + window on ${workload} at ${100 * load} %`, (t) => {
      const sum = { bad: 0, batch: 0, busy: 0 };
      for (const seed of SEEDS) {
        const got = figures(runReference(workload, { condition }, load * STAGGERED_OPTIMUM[workload], seed, SECONDS, true));
        sum.bad += got.bad / SEEDS.length;
        sum.batch += got.batch / SEEDS.length;
        sum.busy += got.busy / SEEDS.length;
      }
      t.diagnostic(`${sum.bad.toFixed(2)} / ${sum.batch.toFixed(1)} / ${sum.busy.toFixed(2)}, theirs ${bad} / ${batch} / ${busy}`);
      assert.equal(farFrom(sum, bad, batch, busy), '');
    });
  }
});
