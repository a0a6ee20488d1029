import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { AutoscaleMinute, AutoscaleReport } from '#rubato/cli/autoscale.js';
import type { GoodputReport } from '#rubato/cli/goodput.js';
import type { PlanReport } from '#rubato/cli/plan.js';
import type { SimulateReport } from '#rubato/cli/simulate.js';
import type { PolicyReport } from '#rubato/cli/simulation-report.js';

const BIN = fileURLToPath(new URL('../../../bin/rubato', import.meta.url));
const LIMIT_MS = 120_000;
const folder = mkdtempSync(join(tmpdir(), 'rubato-simulate-'));
after(() => rmSync(folder, { recursive: true, force: true }));

interface Ended {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

function rubato(args: readonly string[], options: { env?: Record<string, string>; interruptAfterMs?: number } = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [BIN, ...args], { cwd: folder, env: { ...process.env, ...options.env }, timeout: LIMIT_MS, killSignal: 'SIGKILL', stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    const interrupt = options.interruptAfterMs === undefined ? undefined : setTimeout(() => child.kill('SIGINT'), options.interruptAfterMs);
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(interrupt);
      resolve({ code, signal, stdout, stderr });
    });
  });
}

async function ran(args: readonly string[], env?: Record<string, string>): Promise<string> {
  const { code, stdout, stderr } = await rubato(args, env === undefined ? {} : { env });
  assert.equal(code, 0, stderr);
  assert.equal(stderr, '', 'nothing but errors goes to standard error where no terminal is');
  assert.doesNotMatch(stdout, /\x1b/, 'no escape codes where no terminal is');
  return stdout;
}

function write(name: string, content: string | object): string {
  writeFileSync(join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));
  return name;
}

/** What must hold between the numbers of any policy's report. */
function check(policy: PolicyReport, gpus: number): void {
  const dropped = Object.values(policy.droppedByReason).reduce((sum, count) => sum + count, 0);
  assert.equal(policy.good + policy.late + dropped, policy.offered);
  assert.ok(Math.abs(policy.badRate - (1 - policy.good / policy.offered)) < 1e-12);
  assert.ok(policy.goodput > 0 && policy.meanBatch >= 1 && policy.simulatedSecondsPerSecond > 0);
  assert.equal(policy.busyShare.length, gpus);
  assert.ok(Math.abs(policy.meanBusyGpus - policy.busyShare.reduce((sum, share) => sum + share, 0)) < 1e-9);
  assert.ok(policy.gpusUsed >= 1 && policy.gpusUsed <= gpus);
  for (const key of ['offered', 'good', 'late'] as const) assert.equal(policy.models.reduce((sum, model) => sum + model[key], 0), policy[key]);
}

/** A page that needs nothing but itself. */
function checkPage(file: string, ...words: string[]): void {
  const page = readFileSync(join(folder, file), 'utf8');
  assert.match(page, /^<!doctype html>\n/);
  assert.doesNotMatch(page, /<script|<link|@import|url\(|https?:|src=|href=/);
  assert.doesNotMatch(page, /NaN|Infinity|undefined|null/);
  for (const word of words) assert.ok(page.includes(word), `${word} is not on the page`);
  for (const tag of ['svg', 'section', 'text', 'p', 'div', 'span']) {
    assert.equal(page.match(new RegExp(`<${tag}[ >]`, 'g'))?.length, page.match(new RegExp(`</${tag}>`, 'g'))?.length, `<${tag}> is not closed`);
  }
}

describe('a run in virtual time', { concurrency: 2 }, () => {
  test('simulate compares policies, as JSON and as a page', async () => {
    const args = ['simulate', '--workload', 'mix3', '--load', '0.5', '--seconds', '2', '--warmup', '1', '--policy', 'frontrun, immediate,frontrun+window', '--json', '-', '--plot', 'simulate.html'];
    const report = JSON.parse(await ran(args)) as SimulateReport;
    assert.deepEqual(report.policies.map(({ policy }) => policy), ['frontrun+window', 'immediate+window']);
    assert.deepEqual([report.workload, report.gpus, report.seconds, report.warmupSeconds, report.seed], ['mix3', 8, 2, 1, 1]);
    assert.ok(Math.abs(report.staggeredOptimum - 8314.2) < 1 && Math.abs(report.fluidBound - 8208) < 1);
    for (const policy of report.policies) {
      check(policy, 8);
      assert.ok(Math.abs(policy.rate / report.staggeredOptimum - 0.5) < 0.05);
      assert.equal(policy.models.length, 3);
    }
    assert.ok(report.policies[0]!.meanBusyGpus < 5 && report.policies[1]!.meanBusyGpus > 7);
    checkPage('simulate.html', 'frontrun+window', 'Busy share of each GPU: immediate+window', 'dropped');
    const again = JSON.parse(await ran([...args, '--shards', '3'])) as SimulateReport;
    const untimed = ({ policies }: SimulateReport): object[] => policies.map((policy) => ({ ...policy, simulatedSecondsPerSecond: 0 }));
    assert.deepEqual(untimed(again), untimed(report), 'the same seed, another number of shards');
  });

  test('simulate prints one table that is as narrow as COLUMNS says', async () => {
    for (const columns of [80, 44]) {
      const text = await ran(['simulate', '--workload', 'r50', '--seconds', '0.5', '--warmup', '0', '--policy', 'frontrun,immediate,latest+timeout,target-size'], { COLUMNS: String(columns) });
      for (const line of text.split('\n')) assert.ok(line.length <= columns, `${line.length} columns: ${line}`);
      assert.match(text, /^goodput \/s +\d/m);
      assert.match(text, /^ +frontrun +immediate/m);
      assert.match(text, /^For comparison|For comparison: staggered/m);
    }
  });

  test('simulate plays a trace, all of it and without a warm-up', async () => {
    const trace = write('trace.csv', `id,when\n${Array.from({ length: 300 }, (_, k) => `${k},${(k * 0.1).toFixed(1)}`).join('\n')}\n`);
    const report = JSON.parse(await ran(['simulate', '--workload', 'titanx4', '--trace', trace, '--time-column', 'when', '--speed', '10', '--policy', 'frontrun,symphony-reference', '--json', '-'])) as SimulateReport;
    assert.deepEqual([report.seconds, report.warmupSeconds], [3, 0]);
    for (const policy of report.policies) {
      assert.equal(policy.offered, 300);
      check(policy, 8);
    }
  });

  const hill = write('hill.yaml', 'gpus: 8\nmodels: [{ alphaUs: 1080, betaUs: 5100, slo: 100ms }]\nsegments:\n  - { seconds: 1, rate: 400 }\n  - { seconds: 2, rate: 4000, ramp: true }\n  - { seconds: 1, rate: 400 }\n');

  test('simulate offers segments once, after a warm-up at their beginning, and reports the rate over time', async () => {
    const report = JSON.parse(await ran(['simulate', '--workload', hill, '--policy', 'adaptive,eager', '--json', '-', '--plot', 'hill.html'])) as SimulateReport;
    assert.deepEqual([report.seconds, report.warmupSeconds], [4, 5]);
    assert.match(report.title, /1\.30 k requests\/s on average, at most 4\.00 k/);
    const rates = report.offeredOverTime!;
    const expected = (part: number): number => (part < 15 || part >= 45 ? 400 : 400 + (3600 * (part - 14.5)) / 30);
    // Five standard deviations of a Poisson count.
    for (const [part, rate] of rates.entries()) assert.ok(Math.abs(rate - expected(part)) < 5 * Math.sqrt(expected(part) * 15), `part ${part}: ${rate} for ${expected(part)}`);
    for (const policy of report.policies) {
      check(policy, 8);
      assert.ok(Math.abs(rates.reduce((sum, rate) => sum + rate, 0) / 15 - policy.offered) < 1e-6);
    }
    checkPage('hill.html', 'Offered requests over time', 'Each part is ');
    const steady = JSON.parse(await ran(['simulate', '--workload', 'r50', '--seconds', '0.1', '--json', '-'])) as SimulateReport;
    assert.equal(steady.offeredOverTime, null);
  });

  test('simulate --load and --arrivals change segments as a whole', async () => {
    const report = JSON.parse(await ran(['simulate', '--workload', hill, '--rate', '1000', '--arrivals', 'const', '--json', '-'])) as SimulateReport;
    assert.ok(Math.abs(report.policies[0]!.offered - 1300) <= 1, `${report.policies[0]!.offered}`);
  });

  test('simulate plays the trace that a workload names, models by column, and flags change it', async () => {
    write('animals.csv', `animal,when,other\n${Array.from({ length: 90 }, (_, k) => `${k % 3 === 0 ? 'dog' : 'cat'},${k * 0.1},${k % 2 === 0 ? 'dog' : 'cat'}`).join('\n')}\n`);
    const model = { alphaUs: 1000, betaUs: 5000, sloMs: 50 };
    const file = write('animals.json', { gpus: 2, models: [{ ...model, name: 'cat' }, { ...model, name: 'dog' }, { ...model, name: 'cow' }], trace: { file: 'animals.csv', timeColumn: 'when', modelColumn: 'animal', speed: 3 } });
    const offered = async (...more: string[]): Promise<number[]> => {
      const report = JSON.parse(await ran(['simulate', '--workload', file, '--json', '-', ...more])) as SimulateReport;
      check(report.policies[0]!, 2);
      return [report.seconds, ...report.policies[0]!.models.map((each) => each.offered)];
    };
    assert.deepEqual(await offered(), [3, 60, 30, 0]);
    assert.deepEqual(await offered('--speed', '3'), [1, 60, 30, 0]);
    assert.deepEqual(await offered('--model-column', 'other'), [3, 45, 45, 0]);
    const [seconds, ...drawn] = await offered('--trace', 'animals.csv', '--time-column', 'when');
    assert.equal(seconds, 9);
    assert.ok(drawn.every((count) => count > 10), `${drawn}`);
  });

  test('goodput finds a rate between nothing and the bounds, as JSON, page and table', async () => {
    const text = await ran(['goodput', '--workload', 'r50', '--gpus', '2', '--seconds', '1', '--warmup', '1', '--seeds', '2', '--resolution', '0.05', '--policy', 'frontrun,immediate', '--json', 'goodput.json', '--plot', 'goodput.html']);
    assert.match(text, /^rate \/s +\d/m);
    const report = JSON.parse(readFileSync(join(folder, 'goodput.json'), 'utf8')) as GoodputReport;
    assert.deepEqual(report.seeds, [1, 2]);
    for (const policy of report.policies) {
      check(policy, 2);
      assert.ok(policy.badRate <= 0.01, `${policy.badRate}`);
      assert.ok(policy.rate > 0.3 * report.staggeredOptimum && policy.rate < 1.2 * report.staggeredOptimum, `${policy.rate} of ${report.staggeredOptimum}`);
      assert.ok(Math.abs(policy.shareOfStaggeredOptimum - policy.rate / report.staggeredOptimum) < 1e-9);
      assert.equal(policy.seeds.length, 2);
    }
    checkPage('goodput.html', 'staggered optimum', 'fluid bound', 'frontrun+window');
  });

  test('plan says how many GPUs are needed and what one fewer costs, as JSON, page and table', async () => {
    const text = await ran(['plan', '--workload', 'r50', '--rate', '1500', '--seconds', '1', '--warmup', '1', '--seeds', '1', '--json', 'plan.json', '--plot', 'plan.html']);
    assert.match(text, /^one fewer: bad +\d/m);
    const report = JSON.parse(readFileSync(join(folder, 'plan.json'), 'utf8')) as PlanReport;
    const [policy] = report.policies;
    check(policy!, policy!.gpus!);
    assert.ok(policy!.gpus! >= report.gpusByFluidBound && policy!.gpus! <= 4 && policy!.badRate <= 0.01 && policy!.badRateWithOneFewer! > 0.01);
    checkPage('plan.html', 'fluid bound', 'GPUs needed');
  });

  test('autoscale follows the advice through a day, as JSON, page and table', async () => {
    const text = await ran(['autoscale', '--workload', 'r50', '--gpus', '2', '--load', '0.5', '--minute', '20ms', '--startup', '0ms', '--epoch', '200ms', '--seconds', '1', '--warmup', '1', '--most-gpus', '3', '--json', 'day.json', '--plot', 'day.html']);
    assert.match(text, /^GPU-hours +\d/m);
    const report = JSON.parse(readFileSync(join(folder, 'day.json'), 'utf8')) as AutoscaleReport;
    const [policy] = report.policies;
    const { minutes } = policy!;
    const sum = (of: (minute: AutoscaleMinute) => number): number => minutes.reduce((total, minute) => total + of(minute), 0);
    assert.deepEqual([report.minuteSeconds, report.startupSeconds, report.epochSeconds, report.hysteresis, minutes.length], [0.02, 0, 0.2, 3, 1440]);
    assert.ok(Math.abs(policy!.gpuHours - sum(({ gpus }) => gpus) / 60) < 1e-6 && Math.abs(policy!.oracleGpuHours - sum(({ oracleGpus }) => oracleGpus) / 60) < 1e-6);
    assert.ok(minutes.every(({ gpus, wanted, oracleGpus }) => gpus >= 1 && gpus <= 3 && wanted >= 1 && oracleGpus >= 1 && oracleGpus <= 2));
    assert.ok(Math.max(...minutes.map(({ rate }) => rate)) === report.peakRate && policy!.good > 0.9 * policy!.offered);
    checkPage('day.html', 'GPUs: adaptive+adaptive', 'oracle', '12 h');
  });

  test('a name from a file cannot break out of the page, and more GPUs than columns are drawn together', async () => {
    const file = write('named.json', { name: '<b>"&', gpus: 600, models: [{ name: '</svg>', alphaUs: 100, betaUs: 900, sloMs: 20 }] });
    await ran(['simulate', '--workload', file, '--rate', '1000', '--seconds', '0.2', '--plot', 'named.html']);
    checkPage('named.html', '&lt;b&gt;&quot;&amp;', 'GPUs 0 to 2: ', 'GPUs 597 to 599: ');
  });

  test('Ctrl-C ends it with 130, though the simulation never looks up', async () => {
    // Before the program listens, Ctrl-C ends it as it ends any other: then it is pressed later.
    for (const interruptAfterMs of [1500, 6000, 20_000]) {
      const { code, signal, stdout, stderr } = await rubato(['simulate', '--workload', 'r50', '--seconds', '1000000'], { interruptAfterMs });
      if (signal === 'SIGINT') continue;
      assert.deepEqual([code, stdout, stderr], [130, '', '']);
      return;
    }
    assert.fail('the program did not start within 20 seconds');
  });
});

describe('bad input ends with code 1 and one line that says what is wrong:', { concurrency: 2 }, () => {
  const simulate = (...more: string[]): string[] => ['simulate', '--workload', 'r50', '--seconds', '0.1', ...more];
  const model = { name: 'a', alphaUs: 1000, betaUs: 5000, sloMs: 50 };
  const wrongField = write('wrong-field.json', { gpus: 2, models: [model, { ...model, name: 'b', sloMS: 50 }] });
  const infeasible = write('infeasible.json', { gpus: 2, models: [{ ...model, sloMs: 5 }] });
  const emptyTrace = write('empty.csv', '');
  write('requests.csv', 'time,who\n1,cow\n');
  const traced = write('traced.json', { gpus: 2, models: [model], trace: { file: 'requests.csv' } });
  const brokenYaml = write('broken.yaml', 'gpus: 2\n models: 3\n');
  const noArrivals = write('no-arrivals.csv', 'time\n');
  const cases: [what: string, args: string[], said: RegExp][] = [
    ['no workload', ['goodput'], /--workload: is missing, must be one of .*r50/],
    ['a workload with an unknown field', ['simulate', '--workload', wrongField], /wrong-field\.json: models\[1\]\.sloMS: unknown field, allowed are name, /],
    ['an SLO shorter than one request', ['plan', '--workload', infeasible], /infeasible\.json: models\[0\]\.sloMs: got 5 ms, must be at least l\(1\) = 6 ms/],
    ['an SLO that the delays use up', simulate('--response', '95ms'), /model m0: slo: got 100 ms, must be at least 101\.18 ms/],
    ['an unknown policy', simulate('--policy', 'frontrun,lazy'), /--policy: got "lazy", must be one of frontrun\+window, .*target-delay\+never/],
    ['a rate of 0', simulate('--rate', '0'), /'--rate <r>' argument '0' is invalid/],
    ['a load beside a rate', simulate('--rate', '5', '--load', '0.5'), /--load: stands beside --rate/],
    ['no GPUs', ['plan', '--workload', 'r50', '--gpus', '0'], /'--gpus <n>' argument '0' is invalid/],
    ['a column of no trace', simulate('--model-column', 'func'), /--model-column: got "func", but there is no trace: give --trace, or a workload that has one/],
    ['a search with a trace', ['goodput', '--workload', traced], /--workload: plays a trace, which has a rate of its own; only simulate and bench load do that/],
    ['a rate for a trace of the workload', ['simulate', '--workload', traced, '--rate', '5'], /--rate: a trace has its own/],
    ['a request of an unknown model', ['simulate', '--workload', traced, '--model-column', 'who'], /requests\.csv: line 2, column who: got "cow", must be one of the models "a"/],
    ['a YAML file that is none', ['simulate', '--workload', brokenYaml], /broken\.yaml: is not valid YAML: .* at line 1, column 7/],
    ['an empty trace', simulate('--trace', emptyTrace), /empty\.csv: is empty, must be a CSV file with a header row/],
    ['a trace without arrivals', simulate('--trace', noArrivals), /no-arrivals\.csv: has a header row only/],
    ['a wrong delay', simulate('--control', 'soon'), /--control: got "soon", must be a duration >= 0/],
    ['more than any number of GPUs could carry', ['plan', '--workload', 'r50', '--rate', '1e8'], /got 100000000, 4096 GPUs can run at most \d+ requests\/s/],
    ['a day of a rival', ['autoscale', '--workload', 'r50', '--policy', 'eager'], /--policy: got "eager", must be one of our own: frontrun\+window, /],
    ['a minute of no time', ['autoscale', '--workload', 'r50', '--minute', '0ms'], /--minute: got "0ms", must be a duration > 0/],
    ['fewer GPUs than the day begins with', ['autoscale', '--workload', 'r50', '--most-gpus', '1'], /--most-gpus: got 1, the day begins with 2/],
    ['a page that cannot be written', simulate('--plot', join('no-folder', 'page.html')), /--plot: cannot write no-folder.page\.html: .*no such file/],
    ['two outputs for one screen', simulate('--json', '-', '--plot', '-'), /--plot: got -, but --json has standard output already/],
  ];
  for (const [what, args, said] of cases) {
    test(what, async () => {
      const { code, stdout, stderr } = await rubato(args);
      assert.equal(code, 1, stderr);
      assert.equal(stdout, '', 'nothing was run');
      assert.match(stderr, /^rubato: [^\n]+\n$/, 'exactly one line');
      assert.match(stderr, said);
    });
  }
});
