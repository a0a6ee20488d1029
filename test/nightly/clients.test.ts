/** Deaths of clients at random moments, many more than in test/scheduler/tickets.test.ts and with a seed by chance. */
import { describe, test } from 'node:test';
import { dieAtRandom } from '../scheduler/clients.js';

const DEATHS = 2000;
const seed = Date.now() & 0x7fffffff;

describe(`clients on other threads, seed ${seed}`, () => {
  for (const topology of ['single', 'split'] as const) {
    test(`${DEATHS / 2} deaths at random moments leave nothing behind, ${topology}`, () => dieAtRandom({ topology, deaths: DEATHS / 2, seed }));
  }
});
