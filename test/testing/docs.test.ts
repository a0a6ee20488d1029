import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, test } from 'node:test';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

describe('docs/testing.md', () => {
  test('has an example that passes as it stands', () => {
    const [, example, ...others] = readFileSync(join(ROOT, 'docs/testing.md'), 'utf8').split(/^```js\n|^```\n/m);
    assert.ok(example !== undefined && others.length === 1, 'it must have one block of code');
    const folder = join(ROOT, 'build/docs'); // inside: it imports the package by its name
    mkdirSync(folder, { recursive: true });
    const file = join(folder, 'testing.test.mjs');
    writeFileSync(file, example);
    const env = { ...process.env, NODE_TEST_CONTEXT: undefined };
    const { stdout, stderr, status } = spawnSync(process.execPath, ['--test-reporter=tap', file], { encoding: 'utf8', timeout: 30_000, env });
    assert.equal(status, 0, stdout + stderr);
    assert.match(stdout, /^# pass 3$/m);
    assert.match(stdout, /^# fail 0$/m);
  });
});
