/** The programs of docs/guide.md, run as they stand. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const guide = readFileSync(join(ROOT, 'docs/guide.md'), 'utf8');
/** Inside the package, so that the programs find it by its name. */
const folder = mkdtempSync(join(ROOT, 'build/guide-'));
after(() => rmSync(folder, { recursive: true, force: true }));

/** Writes the program that holds `mark` and returns its file. */
function program(mark: string, name: string): string {
  const blocks = [...guide.matchAll(/^```js\n(.*?)^```/gms)].map((match) => match[1]!);
  const found = blocks.filter((block) => block.includes(mark));
  assert.equal(found.length, 1, `docs/guide.md has ${found.length} programs with ${mark}`);
  const file = join(folder, name);
  writeFileSync(file, found[0]!);
  return file;
}

/** A machine that stands still for some milliseconds costs a request its SLO, and the program says so: then it is run again. */
async function run(file: string, again = 5): Promise<string> {
  try {
    return (await promisify(execFile)(process.execPath, [file], { timeout: 30_000 })).stdout;
  } catch (error) {
    if (again === 0 || !(error as { stderr: string }).stderr.includes('could no longer be met')) throw error;
    return run(file, again - 1);
  }
}

describe('the guide', () => {
  test('its first service answers, and ends when it is told to', { timeout: 60_000 }, async () => {
    const service = spawn(process.execPath, [program('// service.mjs', 'service.mjs')], { env: { ...process.env, PORT: '0' }, stdio: ['ignore', 'pipe', 'inherit'] });
    const exited = once(service, 'exit');
    try {
      const [line] = (await once(createInterface(service.stdout), 'line')) as [string];
      const port = /listening on (\d+)/.exec(line)?.[1];
      const ask = async (n: number): Promise<string> => (await fetch(`http://127.0.0.1:${port}/?n=${n}`)).text();
      // The same here: then it is asked again.
      const answer = async (n: number, again = 5): Promise<string> => {
        const text = await ask(n);
        return again > 0 && /could no longer be met|aborted due to timeout/.test(text) ? answer(n, again - 1) : text;
      };
      assert.deepEqual(await Promise.all([1, 2, 21].map((n) => answer(n))), ['2\n', '4\n', '42\n']);
    } finally {
      service.kill('SIGTERM');
    }
    const [code] = (await exited) as [number | null];
    assert.equal(code, 0);
  });

  test('its tensors add up', { timeout: 60_000 }, async () => {
    assert.deepEqual((await run(program("name: 'sum'", 'tensors.mjs'))).split('\n'), ['10', '26', '']);
  });

  test('its recorded arrivals are replayed', { timeout: 60_000 }, async () => {
    const file = join(folder, 'arrivals.csv.gz');
    await promisify(execFile)(process.execPath, [program('// record.mjs', 'record.mjs'), file], { timeout: 30_000 });
    const { stdout } = await promisify(execFile)(process.execPath, [join(ROOT, 'bin/rubato'), 'simulate', '--trace', file, '--gpus', '1', '--slo', 'echo=40ms'], { timeout: 30_000 });
    assert.match(stdout, /: 100 requests in .* s, 1 model, 2 GPUs; what if: 1 GPU, SLO\s+of\s+echo\s+40 ms\n/);
    assert.match(stdout, / recorded +baseline +what if\n/);
  });

  test('its pool follows the advice down to one device', { timeout: 60_000 }, async () => {
    const gone = (await run(program('// autoscale.mjs', 'autoscale.mjs'))).trim().split('\n');
    assert.deepEqual(gone.sort(), ['1 is gone', '2 is gone', '3 is gone']);
  });

  test('its worker gets its result, and both threads end', { timeout: 60_000 }, async () => {
    program('// worker.mjs', 'worker.mjs');
    assert.equal(await run(program('// main.mjs', 'main.mjs')), '42\n');
  });
});
