/** The head of each model of this folder names the functions it stands for: they must exist, or the model speaks of code that is gone. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const folder = join(root, 'test/models');
const models = readdirSync(folder).filter((file) => file.endsWith('.pml'));

describe('the models', () => {
  test('are there', () => {
    assert.ok(models.length > 0, `no model in ${folder}`);
  });

  for (const model of models) {
    test(`${model} names functions that exist`, () => {
      assert.deepEqual(staleReferences(readFileSync(join(folder, model), 'utf8')), []);
    });
  }
});

/** Lines ` *   src/FILE.ts: FUNCTION   what it does` whose file or function is gone. */
function staleReferences(text: string): string[] {
  const lines = [...text.matchAll(/^ \* {3}(src\/\S+\.ts): (#?\w+)/gm)];
  assert.ok(lines.length > 2, 'no line of the head names a function');
  return lines.filter(([, file, name]) => !declares(file!, name!)).map(([, file, name]) => `${file}: ${name}`);
}

function declares(file: string, name: string): boolean {
  let source: string;
  try {
    source = readFileSync(join(root, file), 'utf8');
  } catch {
    return false;
  }
  return new RegExp(`^(?:export default |export )?(?: {2}(?:protected |async )*|function )${name}\\(.*\\{$`, 'm').test(source);
}

describe('the check of the heads', () => {
  const head = (line: string): string => ` *   src/ringbuf/doorbell.ts: ring\n *   src/ringbuf/doorbell.ts: park\n *   ${line}\n`;

  test('finds a function that is gone', () => {
    assert.deepEqual(staleReferences(head('src/ringbuf/doorbell.ts: toll  what it does')), ['src/ringbuf/doorbell.ts: toll']);
  });

  test('finds a file that is gone', () => {
    assert.deepEqual(staleReferences(head('src/ringbuf/gong.ts: ring  what it does')), ['src/ringbuf/gong.ts: ring']);
  });

  test('takes a call of a function for no function', () => {
    assert.deepEqual(staleReferences(head('src/ringbuf/doorbell.ts: checkPiece')), ['src/ringbuf/doorbell.ts: checkPiece']);
  });
});
