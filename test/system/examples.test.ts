import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, test } from 'node:test';

const FOLDER = fileURLToPath(new URL('../../../examples', import.meta.url));

/** Each example, what it is started with, and what it prints. */
const EXAMPLES: Record<string, { args: string[]; prints: RegExp }> = {
  'first.mjs': { args: [], prints: /^label of cat\.jpg\n64 images in \d+ batches, the last result: label of image 63\n$/ },
  'http-server.mjs': { args: ['--once'], prints: /^listening on port \d+\n100 of 100 answers are right; the largest batch had \d+ requests\n$/ },
  'raw-client.mjs': { args: [], prints: /^\d+\.\d\d million requests\/s within their deadline, \d+\.\d % of all; \d+ in all\n$/ },
};

describe('the example', () => {
  for (const [name, { args, prints }] of Object.entries(EXAMPLES)) {
    test(`${name} runs, prints its results and ends by itself`, () => {
      const { status, stdout, stderr } = spawnSync(process.execPath, [join(FOLDER, name), ...args], { encoding: 'utf8', timeout: 30_000 });
      assert.equal(stderr, '');
      assert.equal(status, 0);
      assert.match(stdout, prints);
    });
  }

  test('that nobody runs is not there', () => {
    assert.deepEqual(readdirSync(FOLDER).sort(), Object.keys(EXAMPLES).sort());
  });
});
