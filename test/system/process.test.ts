import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { describe, test } from 'node:test';
import ts from 'typescript';

const LIBRARY = import.meta.resolve('#rubato/index.js');
const LIMIT_MS = 60_000;
/** From the last line that a program prints to its end. */
const PROMPT_MS = 4900;

/** Two kinds of device, a generous SLO, no waiting for more. */
const CREATE = `createScheduler({
  models: [{ name: 'm', slo: '5s', profile: { alpha: 0.1, beta: 1, maxBatch: 8 }, condition: 'immediate' }],
  devices: [{ kind: 'callback', execute: (batch) => batch.inputs.map((input) => 2 * input) }],
})`;
const EMULATED = `createScheduler({ models: [{ name: 'm', slo: '5s', profile: ['300ms'], condition: 'immediate' }], devices: [{ kind: 'emulated', count: 8 }] })`;

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly afterLastOutputMs: number;
}

/** Runs a program that has imported rubato. Written for a Node.js that knows `await using`; lowered for those that do not. */
function run(program: string, nodeOptions: readonly string[] = []): Promise<Ended> {
  const source = `import * as rubato from ${JSON.stringify(LIBRARY)};\nconst { createScheduler } = rubato;\n${program}`;
  const { outputText } = ts.transpileModule(source, { compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ES2022 } });
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...nodeOptions, '--input-type=module', '-e', outputText], { timeout: LIMIT_MS, killSignal: 'SIGKILL', stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    let lastOutputMs = NaN;
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
      lastOutputMs = performance.now();
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr, afterLastOutputMs: performance.now() - lastOutputMs }));
  });
}

async function ends(program: string, prints: string): Promise<void> {
  const { code, stdout, stderr, afterLastOutputMs } = await run(program);
  assert.equal(stderr, '');
  assert.equal(stdout, prints);
  assert.equal(code, 0);
  assert.ok(afterLastOutputMs < PROMPT_MS, `it ended ${afterLastOutputMs} ms after its last output`);
}

describe('a program', { concurrency: 3 }, () => {
  test('that awaits a result at its top level and closes nothing ends by itself, with code 0', async () => {
    await ends(`const scheduler = await ${CREATE}; console.log(await scheduler.submit('m', 21));`, '42\n');
  });

  test('on an emulated device as well', async () => {
    await ends(`const scheduler = await ${EMULATED}; console.log(await scheduler.submit('m', 21));`, 'undefined\n');
  });

  test('that creates a scheduler and does nothing with it ends', async () => {
    await ends(`await ${CREATE}; console.log('made');`, 'made\n');
  });

  test('that has let its scheduler idle ends', async () => {
    await ends(`const scheduler = await ${CREATE};
      await scheduler.submit('m', 1);
      await new Promise((resolve) => setTimeout(resolve, 1200));
      console.log(await scheduler.submit('m', 2));`, '4\n');
  });

  test('is kept alive by requests in flight that nobody awaits', async () => {
    await ends(`const scheduler = await ${EMULATED};
      for (let i = 0; i < 3; i++) scheduler.submit('m', i).then(() => console.log('ended'));`, 'ended\nended\nended\n');
  });

  test('is kept alive by an aborted request no longer than its batch runs', async () => {
    await ends(`const scheduler = await ${EMULATED};
      await scheduler.submit('m', 1, { signal: AbortSignal.timeout(30) }).catch((error) => console.log(error.name));`, 'TimeoutError\n');
  });

  test('that uses `await using` ends, closed', async () => {
    await ends(`{
        await using scheduler = await ${CREATE};
        console.log(await scheduler.submit('m', 4));
        globalThis.kept = scheduler;
      }
      await kept.submit('m', 1).catch((error) => console.log(error.code));`, '8\nERR_RUBATO_CLOSED\n');
  });

  test('that awaits the close of an idle scheduler goes on after it', async () => {
    await ends(`const scheduler = await ${CREATE};
      await scheduler.submit('m', 1);
      await scheduler.close();
      await scheduler.close();
      console.log('closed');`, 'closed\n');
  });

  test('that closes while requests are queued ends', async () => {
    await ends(`const scheduler = await ${EMULATED};
      const many = scheduler.submitMany('m', Array.from({ length: 50 }, (_, i) => i));
      await scheduler.close();
      const settled = await many;
      console.log(settled.length, settled.every((one) => one.status === 'fulfilled' || one.reason instanceof rubato.ClosedError));`, '50 true\n');
  });

  test('with a rejection that nobody handles ends with code 1', async () => {
    const { code, stdout, stderr } = await run(`const scheduler = await ${CREATE};
      scheduler.submit('nobody', 1);
      await new Promise((resolve) => setTimeout(resolve, 20_000));
      console.log('not reached');`);
    assert.equal(code, 1);
    assert.equal(stdout, '');
    assert.match(stderr, /UnknownModelError: no model 'nobody'; there are: m/);
  });

  test('with an error at its top level ends with code 1, although its scheduler is open', async () => {
    const { code, stderr } = await run(`const scheduler = await ${EMULATED}; await scheduler.submit('m', 1, { slo: '1ms' });`);
    assert.equal(code, 1);
    assert.match(stderr, /InfeasibleError: model 'm': an SLO of 1 ms cannot be met/);
  });
});

describe('a process', { concurrency: 2 }, () => {
  test('that has opened and closed twenty schedulers in turn keeps no thread and no memory of them', async () => {
    const { code, stdout, stderr } = await run(`
      import { existsSync, readdirSync } from 'node:fs';
      const threads = () => (existsSync('/proc/self/task') ? readdirSync('/proc/self/task').length : 0);
      const sample = async () => {
        const rest = () => new Promise((resolve) => setTimeout(resolve, 20));
        for (let i = 0; i < 3; i++) { gc(); await rest(); }
        // A thread that has been joined is listed until it gets the processor once more.
        for (let i = 0; i < 100 && threads() > samples[0]?.threads; i++) await rest();
        const { rss, heapUsed, arrayBuffers } = process.memoryUsage();
        return { threads: threads(), rssMiB: rss / 2 ** 20, heapMiB: heapUsed / 2 ** 20, buffersMiB: arrayBuffers / 2 ** 20 };
      };
      const samples = [];
      for (let i = 1; i <= 20; i++) {
        const scheduler = await ${CREATE};
        const results = await scheduler.submitMany('m', Array.from({ length: 1000 }, (_, i) => i));
        if (results.some((result) => result.status !== 'fulfilled')) throw new Error('a request was not answered');
        await scheduler.close();
        if (i % 5 === 0) samples.push(await sample());
      }
      console.log(JSON.stringify(samples));
    `, ['--expose-gc']);
    assert.equal(stderr, '');
    assert.equal(code, 0);
    const samples = JSON.parse(stdout) as Record<'threads' | 'rssMiB' | 'heapMiB' | 'buffersMiB', number>[];
    const [first, , , last] = samples;
    assert.ok(last!.threads <= first!.threads, stdout);
    // Each scheduler has about 30 MiB of shared memory. The fifteen between the samples must not be held by anything …
    assert.ok(last!.buffersMiB < first!.buffersMiB + 1, stdout);
    assert.ok(last!.heapMiB < first!.heapMiB + 5, stdout);
    // … although the C library keeps some freed blocks of that size for itself: up to six were seen, also after sixty schedulers.
    assert.ok(last!.rssMiB < first!.rssMiB + 300, stdout);
  });

  test('with an idle scheduler uses less than 1 % of a core', async () => {
    const { code, stdout, stderr } = await run(`
      const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
      const scheduler = await ${CREATE};
      await scheduler.submit('m', 1);
      await sleep(700);
      // Other programs only add to it, by what they throw out of the caches: the least of three counts.
      let least = Infinity;
      for (let look = 0; look < 3; look++) {
        const before = process.cpuUsage();
        await sleep(2000);
        const { user, system } = process.cpuUsage(before);
        least = Math.min(least, (user + system) / 1000);
      }
      console.log(least);
    `);
    assert.equal(stderr, '');
    assert.equal(code, 0);
    assert.ok(Number(stdout) < 20, `${stdout.trim()} ms of CPU time in 2 s`);
  });
});
