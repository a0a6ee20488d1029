import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LEARNT, ReserveChoice } from '#rubato/dispatch/reserve-choice.js';

const PER_TICK = 100;

/** Ticks in which each share was kept, while so many of a tick's requests are bad under it. */
function play(choice: ReserveChoice, ticks: number, badOf: (share: number) => number, before = { bad: 0, ended: 0 }): Map<number, number> {
  const kept = new Map<number, number>();
  for (let tick = 0; tick < ticks; tick++) {
    choice.look(before.bad, before.ended, 2);
    kept.set(choice.share, (kept.get(choice.share) ?? 0) + 1);
    before.bad += badOf(choice.share);
    before.ended += PER_TICK;
  }
  return kept;
}

describe('the choice of a reserve', () => {
  it('finds the one with the fewest bad requests, whichever it is, and seldom tries the others', () => {
    for (const [learnt, half, none] of [[3, 6, 1], [3, 1, 6], [1, 3, 6], [2, 6, 4]] as const) {
      const badOf = (share: number): number => (share === LEARNT ? learnt : share === 0 ? none : half);
      const best = [LEARNT, 0.5, 0].find((share) => badOf(share) === Math.min(learnt, half, none))!;
      const kept = play(new ReserveChoice(), 20_000, badOf);
      assert.ok(kept.get(best)! > 18_000, `bad of ${PER_TICK}: ${learnt} learnt, ${half} half, ${none} none; ticks of each ${JSON.stringify([...kept])}`);
    }
  });

  it('stays with the learnt one while few requests are bad, even if none would be under another', () => {
    assert.deepEqual([...play(new ReserveChoice(), 5000, (share) => (share === LEARNT ? 0.4 : 0))], [[LEARNT, 5000]]);
  });

  it('does not change it for one burst at the start, and comes back to the learnt one when nothing is bad any more', () => {
    const choice = new ReserveChoice();
    const counts = { bad: 0, ended: 0 };
    play(choice, 1, () => 15, counts);
    assert.deepEqual([...play(choice, 100, () => 0, counts).keys()], [LEARNT]);
    play(choice, 500, (share) => (share === 0 ? 1 : 8), counts);
    assert.equal(choice.share, 0);
    play(choice, 9 * 10 + 2, () => 0, counts);
    assert.equal(choice.share, LEARNT);
    // What it was like is not forgotten: a few bad ones, and it is over.
    play(choice, 20, (share) => (share === LEARNT ? 8 : 0), counts);
    assert.notEqual(choice.share, LEARNT);
  });

  it('takes nothing that ended within the time of a request after a change for a fruit of it', () => {
    const choice = new ReserveChoice();
    const counts = { bad: 0, ended: 0 };
    while (choice.share === LEARNT) play(choice, 1, () => 200, counts);
    const first = choice.share;
    choice.look((counts.bad += 1000), (counts.ended += 1000), 2);
    choice.look((counts.bad += 1000), (counts.ended += 1000), 2);
    play(choice, 50, () => 0, counts);
    assert.equal(choice.share, first);
  });

  it('lays nothing of what was before a takeover to its own charge', () => {
    const choice = new ReserveChoice();
    choice.look(1e6, 2e6, 2);
    choice.look(1e6, 2e6 + 1e5, 2);
    assert.equal(choice.share, LEARNT);
  });
});
