/** Clients opened and closed in turn, many more than in test/scheduler/tickets.test.ts. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { openAndClose } from '../scheduler/clients.js';

const CLIENTS = 10_000;
/** Far less than a leak of one client's own memory (5 KB with 64 slots) would come to. */
const MOST_GROWTH_BYTES = 32 * 2 ** 20;

describe('clients on other threads', () => {
  for (const where of ['thread', 'main'] as const) {
    test(`${CLIENTS} of them opened and closed in turn leave nothing behind, ${where === 'main' ? 'on the thread of the scheduler' : 'on another thread'}`, async () => {
      const grown = await openAndClose({ topology: 'single', where, count: CLIENTS });
      assert.ok(grown < MOST_GROWTH_BYTES, `grown by ${grown} bytes`);
    });
  }
});
