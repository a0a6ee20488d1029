/** Traffic is recorded by one command and replayed by another. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { ReplayReport } from '#rubato/cli/replay.js';
import type { RunReport } from '#rubato/report/run-report.js';
import { readRecording } from '#rubato/sim/recording.js';

const BIN = fileURLToPath(new URL('../../../bin/rubato', import.meta.url));
const LIMIT_MS = 60_000;
const folder = mkdtempSync(join(tmpdir(), 'rubato-replay-'));
after(() => rmSync(folder, { recursive: true, force: true }));

function rubato(args: readonly string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [BIN, ...args], { cwd: folder, env: { ...process.env, COLUMNS: '100' }, timeout: LIMIT_MS, killSignal: 'SIGKILL', stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

async function ran(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await rubato(args);
  assert.equal(code, 0, stderr);
  assert.equal(stderr, '');
  return stdout;
}

const replay = async (...args: string[]): Promise<ReplayReport> => JSON.parse(await ran('simulate', '--trace', ...args, '--json', '-')) as ReplayReport;

/** By hand: every 4 ms one request that takes a GPU 5 ms, alone or in a batch of two 10 ms; two GPUs. */
const MODEL = { number: 0, name: 'm', sloNs: 20e6, profile: [5e6, 10e6], condition: 'immediate', dropPolicy: 'timeout' };
const HEAD = `#rubato-recording,1,${JSON.stringify({ gpus: 2, margins: { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 }, models: [MODEL] })}\ndelta_us,model,slo_us\n`;
writeFileSync(join(folder, 'hand.csv'), `${HEAD}${'4000\n'.repeat(500)}`);

describe('rubato simulate --trace RECORDING', () => {
  test('replays what bench load --record has recorded, beside what happened', { timeout: 2 * LIMIT_MS }, async () => {
    const live = JSON.parse(await ran('bench', 'load', '--workload', 'mix3', '--seconds', '1', '--record', 'live.csv.gz', '--json', '-')) as RunReport;
    const recording = readRecording(join(folder, 'live.csv.gz'));
    assert.equal(recording.timesNs.length, live.accepted);
    assert.ok(recording.timesNs.at(-1)! <= 1.001e9, 'the warm-up is not in it');
    const { recorded, baseline, whatIfs } = await replay('live.csv.gz', '--gpus', '2');
    assert.deepEqual([recorded!.requests, recorded!.good, recorded!.late, recorded!.dropped], [live.accepted, live.completed, live.late, live.dropped]);
    assert.ok(Math.abs(recorded!.gpuSeconds - live.gpusBusyMean * live.seconds) < 1e-3 * recorded!.gpuSeconds);
    assert.deepEqual([baseline.requests, baseline.gpus, baseline.policy], [live.accepted, 8, 'adaptive+adaptive']);
    assert.ok(whatIfs[0]!.difference.dropped > 0 && whatIfs[0]!.difference.gpusUsed < 0);
  });

  test('says what changes do, with the right signs', { timeout: LIMIT_MS }, async () => {
    const { recording, recorded, baseline, whatIfs } = await replay('hand.csv', '--gpus', '1', '--policy', 'immediate+timeout,eager');
    assert.deepEqual([recording.requests, recording.isWhole, recorded], [500, false, null]);
    assert.deepEqual([baseline.good, baseline.dropped, baseline.gpuSeconds, baseline.gpusUsed, baseline.meanBatch], [500, 0, 2.5, 2, 1]);
    assert.deepEqual(whatIfs.map((run) => [run.policy, run.gpus]), [['immediate+timeout', 1], ['eager', 1]]);
    for (const { difference, ...run } of whatIfs) {
      assert.ok(run.dropped > 50);
      assert.deepEqual([difference.dropped, difference.good, difference.droppedByReason['expired'], difference.gpusUsed], [run.dropped, -run.dropped, run.dropped, -1]);
      assert.equal(difference.gpuSeconds, run.gpuSeconds - 2.5);
      assert.ok(difference.gpuSeconds < 0 && difference.badRate > 0);
    }
    assert.deepEqual(await replay('hand.csv', '--gpus', '1', '--policy', 'immediate+timeout,eager').then((again) => again.whatIfs.map((run) => run.difference)), whatIfs.map((run) => run.difference));
  });

  test('takes other SLOs and speeds', { timeout: LIMIT_MS }, async () => {
    const change = async (...args: string[]): Promise<number> => (await replay('hand.csv', ...args)).whatIfs[0]!.difference.dropped;
    assert.equal(await change('--slo', 'm=5'), 0);
    assert.equal(await change('--slo', 'm=5ms', '--slo-scale', '2'), 0);
    assert.ok((await change('--slo', 'm=8ms', '--gpus', '1')) > (await change('--slo', 'm=100ms', '--gpus', '1')));
    assert.ok((await change('--speed', '2')) > 0);
  });

  test('prints a table that fits, and a page', { timeout: LIMIT_MS }, async () => {
    const text = await ran('simulate', '--trace', 'hand.csv', '--gpus', '1', '--slo', 'm=25', '--plot', 'page.html');
    assert.match(text, /^hand\.csv: 500 requests in 2\.00 s, 1 model, 2 GPUs; what if: 1 GPU, SLO of m 25 ms\n/);
    assert.match(text, / +baseline +what if\n/);
    assert.match(text, /\ndropped +0 +\d+ \(\+\d+\)\n/);
    assert.match(text, /\nGPU-seconds +2\.50 +[\d.]+ \(-[\d.]+\)\n/);
    assert.match(text, /\nGPUs used +2 +1 \(-1\)\n/);
    assert.match(text, /cut off: what happened is not known/);
    for (const line of text.split('\n')) assert.ok(line.length <= 100, line);
    assert.match(readFileSync(join(folder, 'page.html'), 'utf8'), /baseline: immediate\+timeout/);
    const plain = await ran('simulate', '--trace', 'hand.csv');
    assert.match(plain, /Change\s+something\s+with\s+--gpus/);
  });

  const simulate = (...args: string[]): string[] => ['simulate', '--trace', 'hand.csv', ...args];
  const cases: [what: string, args: string[], problem: RegExp][] = [
    ['a workload beside it', simulate('--workload', 'r50'), /^rubato: --workload: hand\.csv is a recording, which has its own models and times; leave it out$/],
    ['a column beside it', simulate('--time-column', 'x'), /^rubato: --time-column: hand\.csv is a recording/],
    ['a model that it lacks', simulate('--slo', 'n=5'), /^rubato: slo: got model "n", must be one of m$/],
    ['an SLO of no model', simulate('--slo', '5ms'), /^rubato: --slo: got "5ms", must be MODEL=DURATION such as r50=20ms$/],
    ['an SLO that is none', simulate('--slo', 'm='), /^rubato: --slo: got "", must be a duration > 0/],
    ['an SLO that nobody can meet', simulate('--slo', 'm=1ms'), /^rubato: model m: slo: got 1 ms, must be at least 5 ms/],
    ['a delay that leaves no time, in the baseline as well', simulate('--response', '16ms', '--slo', 'm=30ms'), /^rubato: model m: slo: got 20 ms, must be at least 21 ms/],
    ['an unknown policy', simulate('--policy', 'best'), /^rubato: --policy: got "best", must be one of /],
    ['an SLO without a recording', ['simulate', '--workload', 'r50', '--slo', 'm=5'], /^rubato: --slo: is for recorded traffic: give --trace a recording$/],
    ['a recording that is broken', ['simulate', '--trace', 'broken.csv'], /^rubato: broken\.csv: line 3: got model 9, must be one of those named before \(0\)$/],
    ['a recording that cannot be written', ['bench', 'load', '--workload', 'r50', '--record', join('no-folder', 'a.csv')], /^rubato: --record: cannot write no-folder.a\.csv: .*no such file/],
  ];
  for (const [what, args, problem] of cases) {
    test(`refuses ${what} in one line`, { timeout: LIMIT_MS }, async () => {
      writeFileSync(join(folder, 'broken.csv'), `${HEAD}1,9\n`);
      const { code, stderr } = await rubato(args);
      assert.equal(code, 1);
      assert.match(stderr.trimEnd(), problem);
    });
  }
});
