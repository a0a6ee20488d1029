import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, describe, test } from 'node:test';
import type { OutcomeCounts, RunReport } from '#rubato/report/run-report.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const BIN = join(ROOT, 'bin/rubato');
const AZURE_TRACE = join(ROOT, '../shared/traces/AzureLLMInferenceTrace_code.csv');
const LIMIT_MS = 90_000;

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** From the interrupt to the end. */
  readonly afterInterruptMs: number;
}

/** Runs bin/rubato as a user would with its output in pipes; `interruptAfterMs` presses Ctrl-C. */
function rubato(args: readonly string[], options: { env?: Record<string, string>; interruptAfterMs?: number } = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [BIN, ...args], { cwd: folder, env: { ...process.env, ...options.env }, timeout: LIMIT_MS, killSignal: 'SIGKILL', stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    let interruptedMs = NaN;
    const interrupt = options.interruptAfterMs === undefined ? undefined : setTimeout(() => {
      interruptedMs = performance.now();
      child.kill('SIGINT');
    }, options.interruptAfterMs);
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(interrupt);
      resolve({ code, stdout, stderr, afterInterruptMs: performance.now() - interruptedMs });
    });
  });
}

const folder = mkdtempSync(join(tmpdir(), 'rubato-cli-'));
after(() => rmSync(folder, { recursive: true, force: true }));

function write(name: string, content: string | object): string {
  const path = join(folder, name);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

async function ran(args: readonly string[], options?: Parameters<typeof rubato>[1]): Promise<string> {
  const { code, stdout, stderr } = await rubato(args, options);
  assert.equal(code, 0, stderr);
  assert.equal(stderr, '', 'nothing but errors goes to standard error where no terminal is');
  assert.doesNotMatch(stdout, /\x1b/, 'no escape codes where no terminal is');
  return stdout;
}

/** The documented keys of --json. */
const DOCUMENTED = [
  'goodRequestsPerSecond', 'decisionsPerSecond', 'grantsPerSecond', 'gpuCapacityPerSecond', 'meanBatch', 'goodput', 'badRate', 'offered', 'refused',
  'accepted', 'completed', 'late', 'dropped', 'droppedByReason', 'cancelled', 'failed', 'latencyMs', 'latenessUs', 'gpusUsed', 'cpuSecondsPerMillion',
] as const satisfies readonly (keyof RunReport)[];
const PERCENTILES = ['p50', 'p90', 'p99', 'p999', 'max'] as const;

/** What must hold between the numbers of any report, on any machine. */
function checkReport(report: RunReport): void {
  for (const key of DOCUMENTED) assert.ok(key in report, `${key} is missing`);
  checkCounts(report);
  report.models.forEach(checkCounts);
  for (const key of ['offered', 'completed', 'dropped', 'late'] as const) assert.equal(report.models.reduce((sum, model) => sum + model[key], 0), report[key], key);
  assert.equal(report.inFlight, 0);
  assert.equal(report.goodput, report.completed / report.seconds);
  assert.equal(report.goodRequestsPerSecond, report.goodput);
  const decisions = report.completed + report.late + report.dropped + report.cancelled + report.failed + report.closed;
  assert.ok(Math.abs(report.decisionsPerSecond - decisions / report.seconds) < 1e-6 * report.decisionsPerSecond);
  assert.ok(report.meanBatch >= 1 && report.gpuCapacityPerSecond > 0 && report.cpuSecondsPerMillion > 0);
  assert.ok(report.gpusUsed >= 1 && report.gpusUsed <= report.gpusTotal && report.gpusBusyMean <= report.gpusTotal);
  for (const percentiles of [report.latencyMs, report.latenessUs, ...report.models.map((model) => model.latencyMs)]) {
    const values = PERCENTILES.map((key) => percentiles[key]);
    assert.deepEqual(values, values.toSorted((a, b) => a - b), 'percentiles rise');
  }
  assert.ok(report.latencyMs.max > 0);
}

function checkCounts(counts: OutcomeCounts): void {
  const { offered, refused, accepted, completed, late, dropped, droppedByReason, cancelled, failed, closed, inFlight, badRate } = counts;
  assert.equal(offered, refused + accepted);
  assert.equal(accepted, completed + late + dropped + cancelled + failed + closed + inFlight);
  assert.deepEqual(Object.keys(droppedByReason), ['expired', 'queue-full', 'infeasible']);
  assert.equal(dropped, droppedByReason.expired + droppedByReason['queue-full'] + droppedByReason.infeasible);
  assert.ok(Math.abs(badRate - (offered === 0 ? 0 : (refused + dropped + failed + late) / offered)) < 1e-12);
}

describe('rubato', () => {
  test('tells its version, which is that of the package', async () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    assert.equal(await ran(['--version']), `${version}\n`);
  });

  test('helps with every command, and with examples', async () => {
    const [help, bench, throughput, load] = await Promise.all([ran(['--help']), ran(['bench', '--help']), ran(['bench', 'throughput', '--help']), ran(['bench', 'load', '--help'])]);
    for (const command of ['start', 'bench', 'doctor']) assert.match(help, new RegExp(`^  ${command}\\b`, 'm'));
    for (const command of ['throughput', 'load']) assert.match(bench, new RegExp(`^  ${command}\\b`, 'm'));
    for (const text of [help, throughput, load]) assert.match(text, /\nExamples:\n {2}rubato \w/);
    for (const text of [throughput, load]) assert.match(text, /--json <file>/);
    assert.match(load, /--hgrm <file>/);
  });

  test('looks at the machine', async () => {
    const text = await ran(['doctor']);
    assert.match(text, /^ok {2}Node\.js .*supported/m);
    assert.match(text, /^(ok|--) {2}threads .*titanx4/m);
    const report = JSON.parse(await ran(['doctor', '--json', '-'])) as Record<string, unknown>;
    assert.deepEqual(Object.keys(report), ['node', 'platform', 'cpu', 'addon', 'cuda', 'timer', 'topology']);
  });
});

// Their figures mean nothing side by side; what must hold between them holds on a busy machine as well.
describe('a run of the command line', { concurrency: 4 }, () => {
  test('start prints the reports of both its parts and writes them to a file', async () => {
    const file = join(folder, 'start.json');
    const text = await ran(['start', '--seconds', '1', '--json', file]);
    assert.match(text, /^Goodput /m);
    assert.match(text, /^Scheduler throughput: \d\S*( [kMG])? good requests\/s \(64 models, 64 GPUs\)$/m);
    assert.match(text, /^ {2}GPUs .*could run .* they are not the limit$/m);
    assert.match(text, /^What to try next:$/m);
    const both = JSON.parse(readFileSync(file, 'utf8')) as { load: RunReport; throughput: RunReport & { ratePerSecond: number; lagMaxMs: number } };
    assert.deepEqual(Object.keys(both), ['load', 'throughput']);
    checkReport(both.load);
    checkReport(both.throughput);
    assert.deepEqual(both.load.models.map(({ name }) => name), ['vgg16', 'vgg-face', 'vgg-s', 'yolo9000']);
    assert.ok(both.throughput.ratePerSecond > 0 && both.throughput.lagMaxMs >= 0 && both.throughput.machine.referenceLoopNs! > 0);
  });

  test('bench load gives JSON alone on standard output, with the documented keys', async () => {
    const report = JSON.parse(await ran(['bench', 'load', '--workload', 'titanx4', '--seconds', '1', '--json', '-'])) as RunReport;
    checkReport(report);
    assert.ok(report.seconds >= 0.99 && report.seconds < 1.5, `${report.seconds} s`);
    assert.ok(report.offered > 500 && report.offered < 8000, `${report.offered} offered at 2150/s for a second`);
    assert.equal(report.models.length, 4);
    assert.equal(report.gpusTotal, 8);
  });

  test('bench load gives an HdrHistogram percentile file', async () => {
    const text = await ran(['bench', 'load', '--workload', 'mix3', '--rate', '500', '--seconds', '0.5', '--hgrm', '-']);
    const [head, , ...rows] = text.trimEnd().split('\n');
    assert.match(head!, /^\s*Value\s+Percentile\s+TotalCount\s+1\/\(1-Percentile\)$/);
    const table = rows.filter((row) => !row.startsWith('#')).map((row) => row.trim().split(/\s+/).map(Number));
    assert.ok(table.length > 3);
    for (let i = 1; i < table.length; i++) assert.ok(table[i]![0]! >= table[i - 1]![0]! && table[i]![1]! >= table[i - 1]![1]!);
    assert.match(text, /^#\[Mean\s+=.*StdDeviation/m);
  });

  test('bench load prints a readable report, as wide as COLUMNS says', async () => {
    const text = await ran(['bench', 'load', '--workload', 'titanx4', '--seconds', '0.5', '--rate', '300', '--arrivals', 'const'], { env: { COLUMNS: '60' } });
    assert.match(text, /^Goodput /m);
    assert.match(text, /yolo9000/);
    for (const line of text.split('\n')) assert.ok(line.length <= 60, `${line.length} columns: ${line}`);
  });

  test('bench load plays a trace of date-times, faster', async () => {
    const count = 300;
    const stamp = (i: number): string => `2024-02-29 23:59:${String(50 + Math.floor(i / 30)).padStart(2, '0')}.${String((i % 30) * 333_333 + 7).padStart(7, '0')}`;
    const trace = write('trace.csv', `id,TIMESTAMP\n${Array.from({ length: count }, (_, i) => `${i},${stamp(i)}`).join('\n')}\n`);
    const report = JSON.parse(await ran(['bench', 'load', '--workload', 'titanx4', '--trace', trace, '--speed', '10', '--json', '-'])) as RunReport;
    checkReport(report);
    assert.equal(report.offered, count);
    assert.ok(report.seconds >= 0.99 && report.seconds < 1.5, `${report.seconds} s`);
    assert.match(report.title!, /300 recorded arrivals at speed 10/);
  });

  test('bench load offers segments of a YAML workload once', async () => {
    const file = write('segments.yaml', 'gpus: 4\narrivals: const\nmodels: [{ zoo: vgg-s, count: 2 }]\nsegments:\n  - { seconds: 0.5, rate: 100 }\n  - { seconds: 1, rate: 500, ramp: true }\n');
    const report = JSON.parse(await ran(['bench', 'load', '--workload', file, '--json', '-'])) as RunReport;
    checkReport(report);
    assert.ok(Math.abs(report.offered - 350) <= 2, `${report.offered}`);
    assert.ok(report.seconds >= 1.49 && report.seconds < 2, `${report.seconds} s`);
    assert.match(report.title!, /233 requests\/s on average, at most 500/);
  });

  test('bench load plays the models of a trace by their column', async () => {
    const trace = write('animals.csv', `time,animal\n${Array.from({ length: 60 }, (_, k) => `${k / 60},${k % 3 === 0 ? 'vgg-s' : 'vgg16'}`).join('\n')}\n`);
    const report = JSON.parse(await ran(['bench', 'load', '--workload', 'titanx4', '--trace', trace, '--model-column', 'animal', '--json', '-'])) as RunReport;
    checkReport(report);
    assert.deepEqual(report.models.map(({ offered }) => offered), [40, 0, 20, 0]);
  });

  const hasTrace = existsSync(AZURE_TRACE);
  test('bench load plays a recorded trace of a real service', { skip: hasTrace ? false : 'the trace is not on this machine' }, async () => {
    const arrivals = readFileSync(AZURE_TRACE, 'utf8').trimEnd().split('\n').length - 1;
    const report = JSON.parse(await ran(['bench', 'load', '--workload', 'titanx4', '--gpus', '32', '--trace', AZURE_TRACE, '--speed', '1720', '--json', '-'])) as RunReport;
    checkReport(report);
    assert.equal(report.offered, arrivals);
    assert.equal(report.gpusTotal, 32);
  });

  test('bench load ends at Ctrl-C, with a report', async () => {
    const args = ['bench', 'load', '--workload', 'titanx4', '--seconds', '60'];
    let ended = await rubato(args, { interruptAfterMs: 7000 });
    if (ended.code === null || ended.stdout === '') ended = await rubato(args, { interruptAfterMs: 30_000 }); // it had not begun
    const { code, stdout, stderr, afterInterruptMs } = ended;
    assert.equal(code, 130);
    assert.equal(stderr, '');
    assert.match(stdout, /^(Goodput .* offered in \d|No request was offered)/m); // none, where the warm-up was still going on
    assert.ok(afterInterruptMs < 20_000, `${afterInterruptMs} ms`);
  });
});

// `start` has run it with its defaults: a search for the highest rate takes fourteen seconds.
describe('bench throughput', () => {
  test('refuses a case in which the GPUs are the limit, and prints their capacity', async () => {
    const { code, stdout, stderr } = await rubato(['bench', 'throughput', '--gpus', '1', '--profile', '1ms,5ms', '--max-batch', '8', '--slo', '500ms', '--models', '1', '--seconds', '0.5']);
    assert.equal(code, 1);
    assert.equal(stdout, '');
    assert.match(stderr, /^rubato: the GPUs are the limit here, not the scheduler: 1 GPUs can run 615 requests\/s, .*\n$/);
  });
});

describe('bad input ends with code 1 and one line that says what is wrong:', { concurrency: 2 }, () => {
  const load = (...more: string[]): string[] => ['bench', 'load', '--workload', 'titanx4', '--seconds', '0.2', ...more];
  const model = { name: 'a', profile: { alpha: '1ms', beta: '5ms', maxBatch: 8 }, slo: '50ms' };
  const wrongSlo = write('wrong-slo.json', { gpus: 2, models: [model, { ...model, name: 'b', slo: -5 }] });
  const notJson = write('not.json', '{\n  "gpus": 2,\n  models\n}\n');
  const backwards = write('backwards.csv', 'time\n0.5\n1.5\n1.25\n');

  const cases: [what: string, args: string[], said: RegExp][] = [
    ['an unknown command', ['benchmark'], /unknown command 'benchmark'.*see --help/],
    ['an unknown option', load('--sped', '2'), /unknown option '--sped'.*Did you mean .*--speed\?.*see --help/],
    ['no workload', ['bench', 'load'], /--workload: is missing, must be one of .*titanx4/],
    ['an unknown workload', ['bench', 'load', '--workload', 'titanx5'], /got "titanx5", must be a \.json or \.yaml file or one of .*titanx4/],
    ['a workload file that is missing', ['bench', 'load', '--workload', 'nowhere.json'], /nowhere\.json: there is no such file/],
    ['a workload file that is no JSON', ['bench', 'load', '--workload', notJson], /not\.json: is not valid JSON: /],
    ['a workload file with a wrong value', ['bench', 'load', '--workload', wrongSlo], /wrong-slo\.json: models\[1\]\.slo: got -5, must be a duration > 0/],
    ['a trace that is missing', load('--trace', 'nowhere.csv'), /nowhere\.csv: there is no such file/],
    ['a trace with times going back', load('--trace', backwards), /backwards\.csv: line 4: time 1\.25 lies before 1\.5 of line 3, times must not go back/],
    ['a speed of 0', load('--trace', backwards, '--speed', '0'), /'--speed <x>' argument '0' is invalid\. It must be a number from/],
    ['a rate that is no number', load('--rate', 'abc'), /'--rate <r>' argument 'abc' is invalid/],
    ['no GPUs', load('--gpus', '0'), /'--gpus <n>' argument '0' is invalid\. It must be an integer from 1/],
    ['an unknown arrival pattern', load('--arrivals', 'bursty'), /--arrivals: got "bursty", must be "const", "poisson" or "gamma:SHAPE"/],
    ['a report that cannot be written', load('--json', join('no-folder', 'report.json')), /--json: cannot write no-folder.report\.json: .*no such file/],
    ['a report that would be a folder', load('--json', '.'), /--json: cannot write \.: it is a folder/],
    ['two outputs for one screen', load('--json', '-', '--hgrm', '-'), /--hgrm: got -, but --json has standard output already/],
    ['half a profile', ['bench', 'throughput', '--profile', '5ms'], /--profile: got "5ms", must be two durations such as/],
  ];
  for (const [what, args, said] of cases) {
    test(what, async () => {
      const { code, stdout, stderr } = await rubato(args);
      assert.equal(code, 1, stderr);
      assert.equal(stdout, '', 'nothing was run');
      assert.match(stderr, /^rubato: [^\n]+\n$/, 'exactly one line');
      assert.match(stderr, said);
      assert.doesNotMatch(stderr, / {4}at /);
    });
  }
});
