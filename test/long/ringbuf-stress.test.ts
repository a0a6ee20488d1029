/** The scenarios of test/ringbuf/stress.test.ts with sizes by chance, about 25 seconds for each primitive. */
import { describe, it } from 'node:test';
import { stressBitmap, stressDoorbell, stressMailboxes, stressRing, stressRows } from '../ringbuf/stress.js';

const SECONDS_EACH = 25;
const seed = Date.now() & 0x7fffffff;

/** Repeats a scenario until its time is over; a failure names the options, seed included, that bring it back. */
async function repeat<O>(scenario: (options: O) => Promise<void>, options: (seed: number, pick: (values: readonly number[]) => number) => O): Promise<void> {
  const endMs = performance.now() + SECONDS_EACH * 1000;
  for (let round = 0; performance.now() < endMs; round++) {
    let chance = (seed + round * 7919) >>> 0;
    const pick = (values: readonly number[]): number => {
      chance = (Math.imul(chance, 1664525) + 1013904223) >>> 0;
      return values[Math.floor((chance / 2 ** 32) * values.length)]!;
    };
    const chosen = options((seed + round) & 0x7fffffff, pick);
    try {
      await scenario(chosen);
    } catch (error) {
      throw new Error(`with ${JSON.stringify(chosen)}: ${(error as Error).message}`, { cause: error });
    }
  }
}

describe(`shared memory under stress, seed ${seed}`, () => {
  it('hands over every record of a ring', () => repeat(stressRing, (seed, pick) => ({
    capacity: pick([16, 64, 64, 256, 256, 1024, 8192]),
    records: pick([200_000, 500_000, 2_000_000]),
    start: pick([0, 0x7fffff00, 0xffffff00, 0x7ff80000, 0xfff80000]),
    seed,
  })));

  it('shows whole values of mailboxes, and the last one at last', () => repeat(stressMailboxes, (seed, pick) => ({
    boxes: pick([1, 2, 3, 16, 60]),
    recordBytes: pick([8, 40, 64, 128, 512]),
    values: pick([10_000, 50_000, 100_000]),
    seed,
  })));

  it('loses no mark of a dirty bitmap', () => repeat(stressBitmap, (seed, pick) => ({
    size: pick([32, 33, 64, 1024, 1025, 40_000]),
    markers: pick([1, 2, 2, 3]),
    marks: pick([100_000, 200_000, 400_000]),
    room: pick([32, 33, 64, 1000, 50_000]),
    seed,
  })));

  it('loses no wake-up of a doorbell', () => repeat(stressDoorbell, (seed, pick) => ({ handOffs: pick([20_000, 50_000, 200_000]), seed })));

  it('loses no record of histogram rows', () => repeat(stressRows, (_, pick) => ({ writers: pick([1, 2, 3]), records: pick([1_000_000, 3_000_000]) })));
});
