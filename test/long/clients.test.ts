/** The scenarios of test/scheduler/tickets.test.ts that repeat something, many times more often and with a seed by chance. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { dieAtRandom, openAndClose } from '../scheduler/clients.js';

const DEATHS = 2000;
const CLIENTS = 10_000;
/** Far less than a leak of one client's own memory (5 KB with 64 slots) would come to. */
const MOST_GROWTH_BYTES = 32 * 2 ** 20;
const seed = Date.now() & 0x7fffffff;

describe(`clients on other threads, seed ${seed}`, () => {
  for (const topology of ['single', 'split'] as const) {
    test(`${DEATHS / 2} deaths at random moments leave nothing behind, ${topology}`, () => dieAtRandom({ topology, deaths: DEATHS / 2, seed }));
  }

  for (const where of ['thread', 'main'] as const) {
    test(`${CLIENTS} clients opened and closed in turn leave nothing behind, ${where === 'main' ? 'on the thread of the scheduler' : 'on another thread'}`, async () => {
      const grown = await openAndClose({ topology: 'single', where, count: CLIENTS });
      assert.ok(grown < MOST_GROWTH_BYTES, `grown by ${grown} bytes`);
    });
  }
});
