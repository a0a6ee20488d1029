/** `npm run bench` in short runs: whether everything is measured, not how fast it is. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'rubato-bench-'));
const file = join(folder, 'bench.json');

/** Rows of each group: 3 sizes × 4 bulks × 3 carriers, 4 by claim, 2 by port and a private copy; and so on. */
const ROWS = {
  reference: 1, ring: 43, transfer: 12, mailbox: 2, bitmap: 2, doorbell: 2, roundtrip: 3, window: 3, policy: 6, pool: 6, timers: 9,
  histogram: 3, clock: 4, promise: 2,
};

interface Row {
  readonly name: string;
  readonly nsMedian: number;
  readonly nsMin: number;
  readonly nsMax: number;
  readonly perSecond: number;
  readonly nsRuns: readonly number[];
  readonly versus: readonly { readonly rival: string; readonly ratio: number }[];
}

interface Result {
  readonly machine: { readonly processor: string; readonly cores: number; readonly node: string };
  readonly referenceNs: number;
  readonly runs: number;
  readonly quick: boolean;
  readonly groups: readonly { readonly name: string; readonly title: string; readonly unit: string; readonly rows: readonly Row[] }[];
  readonly floors: readonly { readonly what: string; readonly limit: number; readonly bound: string; readonly measured: number; readonly met: boolean }[];
}

function node(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', timeout: 120_000, env: { ...process.env, NO_COLOR: '' } });
}

const bench = (...args: string[]): ReturnType<typeof node> => node(join(root, 'build/bench/index.js'), ...args);

describe('npm run bench', () => {
  let stdout = '';
  let result: Result;

  before(() => {
    const run = bench('--quick', '--json', file);
    assert.equal(run.status, 0, run.stderr);
    assert.equal(run.stderr, '');
    stdout = run.stdout;
    result = JSON.parse(readFileSync(file, 'utf8')) as Result;
  });

  after(() => rmSync(folder, { recursive: true }));

  it('measures every row of every group', () => {
    assert.deepEqual(Object.fromEntries(result.groups.map(({ name, rows }) => [name, rows.length])), ROWS);
    for (const { name: group, rows } of result.groups) {
      assert.equal(new Set(rows.map(({ name }) => name)).size, rows.length, `${group}: names differ`);
      for (const row of rows) {
        const figures = [row.nsMedian, row.nsMin, row.nsMax, row.perSecond, ...row.nsRuns, ...row.versus.map(({ ratio }) => ratio)];
        assert.ok(figures.every((figure) => Number.isFinite(figure) && figure > 0), `${group}, ${row.name}: ${figures.join(', ')}`);
        assert.ok(row.nsMin <= row.nsMedian && row.nsMedian <= row.nsMax, row.name);
        for (const { rival } of row.versus) assert.ok(rows.some(({ name }) => name === rival), `${row.name} is compared with ${rival}`);
      }
    }
  });

  it('sets each part beside what would otherwise be picked', () => {
    const rivals = new Set(result.groups.flatMap(({ rows }) => rows.flatMap(({ versus }) => versus.map(({ rival }) => rival.split(/[ ,:]/, 1)[0]))));
    const wanted = ['ringbuf.js', 'set', 'MessagePort', 'Atomics.notify', 'flatqueue', 'hdr-histogram-js', 'process.hrtime.bigint', 'performance.now', 'process.hrtime', 'piscina.run'];
    assert.deepEqual([...rivals].sort(), wanted.sort());
  });

  it('prints each row with its figures on one line of at most 80 columns, without colours', () => {
    const lines = stdout.split('\n');
    for (const line of lines) assert.ok(line.length <= 80, line);
    assert.ok(!stdout.includes('\x1b'));
    for (const { name, rows } of result.groups) {
      const from = lines.findIndex((line) => line.startsWith(`${name}: `));
      const block = lines.slice(from, lines.indexOf('', from));
      for (const row of rows) {
        const line = block.find((each) => each.startsWith(row.name) && /^ +[0-9.]+ +[0-9.]+–[0-9.]+ +[0-9.]+/.test(each.slice(row.name.length)));
        assert.ok(line !== undefined, `${name}: no line for ${row.name} in\n${block.join('\n')}`);
        const [first] = row.versus;
        assert.equal(/ [0-9.]+× \S+$/.test(line), first !== undefined, line);
      }
    }
  });

  it('says what the machine is, and which floors are met', () => {
    assert.equal(result.machine.node, process.versions.node);
    assert.ok(result.machine.cores >= 1 && result.machine.processor !== '');
    assert.ok(result.referenceNs > 0);
    assert.deepEqual([result.runs, result.quick], [1, true]);
    assert.equal(result.floors.length, 5);
    for (const { what, limit, bound, measured, met } of result.floors) {
      assert.equal(met, bound === 'least' ? measured >= limit : measured <= limit, what);
      assert.ok(stdout.includes(`${met ? 'met   ' : 'MISSED'} ${what}: `), what);
    }
  });

  it('measures only the groups that are named, and writes JSON alone to stdout when no file is', () => {
    const run = bench('--quick', '--only', 'clock,doorbell', '--json');
    assert.equal(run.status, 0, run.stderr);
    const { groups, floors } = JSON.parse(run.stdout) as Result;
    assert.deepEqual(groups.map(({ name }) => name), ['reference', 'clock', 'doorbell']);
    assert.deepEqual(floors, []);
  });

  for (const [args, message] of [
    [['--only', 'rings'], /"rings"; there are reference, ring, transfer/],
    [['--only', ''], /No group is called ""/],
    [['--runs', '0'], /--runs.*from 1 to 100/],
    [['--runs', 'many'], /--runs.*from 1 to 100/],
    [['--fast'], /unknown option '--fast'/],
    [['ring'], /too many arguments/],
    [['--json', join(folder, 'nowhere/bench.json')], /--json .*no such file or directory/],
  ] as const) {
    it(`refuses ${args.join(' ').replace(folder, '…')} in one line, before it measures anything`, () => {
      const run = bench('--quick', ...args);
      assert.equal(run.status, 1);
      assert.match(run.stderr, message);
      assert.equal(run.stderr.trimEnd().split('\n').length, 1, run.stderr);
      assert.equal(run.stdout, '');
    });
  }
});
