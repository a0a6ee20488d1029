/**
 * Runs the models of test/models/ through SPIN. A model must be free of errors over all its interleavings; each of its
 * broken variants (-DBROKEN_…) must have one, or the model would prove nothing.
 */
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const folder = join(root, 'test/models');

interface Model {
  readonly name: string;
  /** Bounds of each run that must find nothing. */
  readonly sound: readonly (readonly string[])[];
  /** Bounds under which broken variants must fail; `deeper` names those that take other ones. */
  readonly broken: readonly string[];
  readonly deeper?: Readonly<Record<string, readonly string[]>>;
}

const ONE_DEATH = ['-DDEATHS=1', '-DREQUESTS=2', '-DREFUSALS=0'];
const TWO_DEATHS = ['-DDEATHS=2', '-DREQUESTS=2', '-DREFUSALS=0'];

const MODELS: readonly Model[] = [
  { name: 'ring', sound: [[]], broken: [] },
  { name: 'mailbox', sound: [[]], broken: [] },
  { name: 'doorbell', sound: [[]], broken: [] },
  {
    name: 'protocol',
    sound: [TWO_DEATHS, ['-DDEATHS=2', '-DREQUESTS=1', '-DREFUSALS=1'], ['-DDEATHS=0', '-DREQUESTS=3', '-DREFUSALS=1']],
    broken: ONE_DEATH,
    deeper: { BROKEN_ADMIT_TWICE: TWO_DEATHS, BROKEN_ANSWER_AGAIN: TWO_DEATHS, BROKEN_END_AGAIN: TWO_DEATHS, BROKEN_RESEND_ALL: TWO_DEATHS },
  },
];

const TOOLS: readonly (readonly [command: string, debianPackage: string])[] = [['spin', 'spin'], ['cc', 'gcc']];
const missing = TOOLS.filter(([command]) => spawnSync('which', [command]).status !== 0).map(([, name]) => name);
const skip = missing.length > 0 && `needs the Debian package ${missing.join(' and ')}`;

/** A run that takes longer is an error: the state space has grown out of hand. */
const LIMIT_MS = 900_000;

interface Result {
  readonly errors: number;
  readonly states: number;
  readonly output: string;
}

/** Rejects when the command fails or takes too long. */
async function command(cwd: string, name: string, args: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(name, args, { cwd, timeout: LIMIT_MS, maxBuffer: 2 ** 26 });
  return stdout;
}

/**
 * Searches all interleavings. -E: roles that wait for more are no error, each model's monitor says what must hold then.
 * The search for one error is shorter than optimising its program. A search that was cut short, by depth or memory, counts as failed.
 */
async function check(model: string, flags: readonly string[], optimise: '-O0' | '-O2'): Promise<Result> {
  const work = mkdtempSync(join(tmpdir(), 'rubato-spin-'));
  try {
    await command(work, 'spin', ['-a', ...flags, join(folder, `${model}.pml`)]);
    await command(work, 'cc', [optimise, '-w', '-DSAFETY', '-DCOLLAPSE', '-DMEMLIM=2048', '-o', 'pan', 'pan.c']);
    const output = await command(work, './pan', ['-E', '-m20000']);
    const errors = /errors: (\d+)/.exec(output);
    const states = /(\d+) states, stored/.exec(output);
    assert.ok(errors !== null && states !== null, output);
    assert.doesNotMatch(output, /max search depth too small|out of memory|memory limit/, output);
    return { errors: Number(errors[1]), states: Number(states[1]), output };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function variantsOf(model: string): string[] {
  const text = readFileSync(join(folder, `${model}.pml`), 'utf8');
  return [...new Set(text.match(/\bBROKEN_[A-Z_]+/g))].sort();
}

for (const { name, sound, broken, deeper = {} } of MODELS) {
  describe(`the model ${name}`, () => {
    for (const flags of sound) {
      test(`has no error in any interleaving${flags.length > 0 ? ` (${flags.join(' ')})` : ''}`, { skip }, async (t) => {
        const { errors, states, output } = await check(name, flags, '-O2');
        assert.equal(errors, 0, output);
        t.diagnostic(`${states.toLocaleString('en')} states`);
      });
    }

    for (const variant of variantsOf(name)) {
      test(`fails as ${variant}`, { skip }, async () => {
        const { errors, output } = await check(name, [...(deeper[variant] ?? broken), `-D${variant}`], '-O0');
        assert.ok(errors > 0, `${variant} was not found out:\n${output}`);
        assert.match(output, /assertion violated/, output);
      });
    }
  });
}
