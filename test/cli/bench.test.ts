import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, describe, test } from 'node:test';
import type { MatrixReport } from '#rubato/cli/matrix.js';
import type { StressReport } from '#rubato/cli/stress.js';

const BIN = join(fileURLToPath(new URL('../../..', import.meta.url)), 'bin/rubato');
const folder = mkdtempSync(join(tmpdir(), 'rubato-bench-'));
after(() => rmSync(folder, { recursive: true, force: true }));

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `rubato bench …`; presses Ctrl-C after `interruptAfterMs`. */
function bench(args: readonly string[], interruptAfterMs?: number): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [BIN, 'bench', ...args], { timeout: 90_000, killSignal: 'SIGKILL', stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    const interrupt = interruptAfterMs === undefined ? undefined : setTimeout(() => child.kill('SIGINT'), interruptAfterMs);
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(interrupt);
      resolve({ code, stdout, stderr });
    });
  });
}

/** Presses Ctrl-C at last after half a minute, where the command had not begun before. */
async function interrupted(args: readonly string[], afterMs: number): Promise<Ended> {
  for (const interruptAfterMs of [afterMs, 30_000]) {
    const ended = await bench(args, interruptAfterMs);
    if (ended.code !== null && ended.stdout !== '') return ended;
  }
  assert.fail('the command did not begin within half a minute');
}

// On a machine that is busy with other tests a rate may fail anywhere; what must hold between the figures holds there too.
describe('bench throughput --matrix', () => {
  test('prints a line per point and writes them as JSON', async () => {
    const file = join(folder, 'matrix.json');
    const { code, stdout, stderr } = await bench(['throughput', '--matrix', '--models', '1', '--gpus', '64', '--shards', '1', '--order', 'in-order,random', '--seconds', '0.1', '--json', file]);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    assert.match(stdout, /^Highest rate .* at 2 points, each confirmed for 0\.1 s\.$/m);
    assert.match(stdout, /^models +GPUs +shards +order +M good\/s +bad % +batch +CPU s\/M +late p99 µs$/m);
    const report = JSON.parse(readFileSync(file, 'utf8')) as MatrixReport;
    assert.deepEqual(Object.keys(report), ['seconds', 'missing', 'points', 'machine']);
    assert.equal(report.missing, 0);
    assert.deepEqual(report.points.map(({ models, gpus, shards, order }) => [models, gpus, shards, order]), [[1, 64, 1, 'in-order'], [1, 64, 1, 'random']]);
    for (const { profile, sloMs, problem, figures, order } of report.points) {
      assert.deepEqual(profile, { alphaNs: 500, betaNs: 86_000, maxBatch: 128 });
      assert.equal(sloMs, 20);
      assert.equal(problem, null);
      assert.deepEqual(Object.keys(figures!), ['goodRequestsPerSecond', 'ratePerSecond', 'sustained', 'badRate', 'meanBatch', 'cpuSecondsPerMillion', 'latenessP99Us', 'lagP999Ms', 'lagMaxMs', 'gpuCapacityPerSecond', 'stalls']);
      const { goodRequestsPerSecond, ratePerSecond, sustained, badRate, meanBatch } = figures!;
      assert.equal(sustained, badRate <= 0.01);
      assert.ok(goodRequestsPerSecond > 0 && goodRequestsPerSecond < 1.1 * ratePerSecond, `${goodRequestsPerSecond} of ${ratePerSecond}`);
      assert.ok(meanBatch >= 1 && meanBatch <= 128);
      assert.match(stdout, new RegExp(`^ +1 +64 +1 +${order} +${(goodRequestsPerSecond / 1e6).toFixed(2)} +`, 'm'));
    }
  });

  test('keeps what there is at Ctrl-C', async () => {
    const { code, stdout, stderr } = await interrupted(['throughput', '--matrix', '--seconds', '60', '--json', join(folder, 'interrupted.json')], 3000);
    assert.equal(code, 130, stderr);
    assert.match(stdout, /^Interrupted: 11 points are missing\.$/m);
    const report = JSON.parse(readFileSync(join(folder, 'interrupted.json'), 'utf8')) as MatrixReport;
    assert.deepEqual([report.missing, report.points], [11, []]);
  });
});

describe('bench stress', () => {
  test('passes or fails a rate by its rule, as the exit code and the JSON say', async () => {
    const { code, stdout, stderr } = await bench(['stress', '--rate', '20000', '--models', '2', '--order', 'mixed', '--seconds', '0.5', '--json', '-']);
    const report = JSON.parse(stdout) as StressReport;
    const { verdict, reasons, rule, runs, failedOnce, lagP999Ms, lagMaxMs, badRate } = report;
    assert.deepEqual(rule, { lagP999Ms: 2, lagMaxMs: 20, badRate: 0.01 });
    const holds = lagP999Ms <= 2 && lagMaxMs <= 20 && badRate <= 0.01;
    assert.equal(verdict, holds ? 'PASS' : 'FAIL');
    assert.equal(code, holds ? 0 : 1);
    assert.equal(reasons.length > 0, !holds);
    assert.equal(stderr, holds ? '' : `rubato: FAIL: ${reasons.join('; ')}\n`);
    assert.ok(runs.length === 1 || (runs.length === 2 && runs[0]!.reasons.length > 0), 'only a run that fails is repeated');
    assert.equal(failedOnce, runs.length === 2 && holds ? 1 : 0);
    assert.ok(Math.abs(report.offered - 10_000) <= 1, `${report.offered}`);
    for (const key of ['title', 'searched', 'stalls', 'ratePerSecond', 'goodput', 'meanBatch', 'latencyMs', 'machine'] as const) assert.ok(key in report, key);
  });

  test('fails with a reason where the GPUs cannot run the load', async () => {
    const { code, stdout } = await bench(['stress', '--rate', '5000', '--models', '1', '--gpus', '1', '--profile', '1ms,5ms', '--max-batch', '8', '--slo', '50ms', '--seconds', '0.3']);
    assert.equal(code, 1);
    assert.match(stdout, /^FAIL: 5\.00 k requests\/s \(1 model, 1 GPUs\): .*% were bad, allowed are 1 %$/m);
    assert.match(stdout, /^ {2}runs {8}2 in all, 2 failed; at 0 rates one failed and its repetition passed$/m);
  });

  test('searches where no rate is given', async () => {
    const { code, stdout } = await bench(['stress', '--models', '1', '--gpus', '1', '--profile', '1ms,5ms', '--max-batch', '8', '--slo', '50ms', '--seconds', '0.1', '--json', '-']);
    const report = JSON.parse(stdout) as StressReport;
    assert.equal(report.searched, true);
    assert.equal(code, report.verdict === 'PASS' ? 0 : 1);
    assert.ok(report.ratePerSecond <= report.gpuCapacityPerSecond * 1.0001, 'no rate above what the GPUs can run is tried');
    assert.deepEqual(report.reasons, report.runs.at(-1)!.reasons);
  });

  test('ends at Ctrl-C, with the figures so far and without a verdict', async () => {
    const { code, stdout, stderr } = await interrupted(['stress', '--rate', '1000', '--seconds', '60'], 7000);
    assert.equal(code, 130, stderr);
    assert.match(stdout, /^Interrupted: 1\.00 k requests\/s \(64 models, 64 GPUs\); no verdict$/m);
  });
});

test('bench says that there is a stress command, which helps with its options, its rule and examples', async () => {
  const [all, stress, throughput] = await Promise.all([['--help'], ['stress', '--help'], ['throughput', '--help']].map((args) => bench(args)));
  assert.match(all!.stdout, /^ {2}stress\b/m);
  assert.match(stress!.stdout, /at most 2 ms late at p99\.9 and 20 ms at worst, and at most 1 % were bad/);
  assert.match(stress!.stdout, /\nExamples:\n {2}rubato bench stress --rate/);
  assert.match(throughput!.stdout, /\n {2}rubato bench throughput --matrix/);
});

describe('bad input of the benchmarks ends with code 1 and one line that names the option:', { concurrency: 2 }, () => {
  for (const [args, expected] of [
    [['throughput', '--models', '1,64'], /--models: got 1,64; several values are for --matrix/],
    [['throughput', '--matrix', '--models', '1,5000'], /--models <n>.* integer from 1 to 4096/],
    [['throughput', '--matrix', '--gpus', '8,8'], /--gpus <n>.* same value twice/],
    [['throughput', '--order', 'backwards'], /--order <name>.* one of in-order, mixed, random/],
    [['throughput', '--matrix', '--slo', '0ms'], /--slo: /],
    [['stress', '--rate', '0'], /--rate <r>.* number from 1 to 25000000/],
    [['stress', '--seconds', 'long'], /--seconds <n>.* number from 0\.1 to 600/],
    [['stress', '--profile', '5ms'], /--profile: got "5ms", must be two durations/],
    [['stress', '--order', 'random', '--profile', '1ms,14ms', '--slo', '20ms'], /--slo: got 20ms, a single request takes longer than 0\.5 of it, which the order random gives to some/],
    [['stress', '--models', '1,2'], /--models <n>.* integer/],
    [['stress', '--matrix'], /unknown option '--matrix'/],
    [['stress', '--json', '/nowhere/at/all.json'], /--json: cannot write/],
  ] as const) {
    test(args.join(' '), async () => {
      const { code, stdout, stderr } = await bench(args);
      assert.equal(code, 1);
      assert.equal(stdout, '');
      assert.match(stderr, expected);
      assert.match(stderr, /^rubato: [^\n]+\n$/);
    });
  }
});
