import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';

import { cpuQuota, doctor, nodeIsSupported, printDoctor } from '#rubato/cli/doctor.js';
import { loadNative, type CudaProbe } from '#rubato/devices/cuda/native.js';

const { native, reason } = loadNative();
const skip = native === null ? reason : false;

/** Loads the addon in a worker, waits there until all have loaded it, and answers what its probe says. */
const PROBE_IN_WORKER = `
  const { parentPort, workerData } = require('node:worker_threads');
  import(workerData.url).then(({ loadNative }) => {
    const { native } = loadNative();
    const loaded = new Int32Array(workerData.loaded);
    Atomics.add(loaded, 0, 1);
    Atomics.notify(loaded, 0);
    for (let seen; (seen = Atomics.load(loaded, 0)) < workerData.workers;) Atomics.wait(loaded, 0, seen, 100);
    parentPort.postMessage({ probe: native.probeCuda(), bogus: native.probeCuda('/no/such/driver.so'), tuned: native.setTimerSlackNs(1) });
  });
`;

interface Answer {
  probe: CudaProbe;
  bogus: CudaProbe;
  tuned: boolean;
}

describe('the native addon', { skip }, () => {
  test('tells whether CUDA can be used, and why not', () => {
    const probe = native!.probeCuda();
    assert.equal(probe.available, probe.reason === '');
    assert.equal(probe.available, probe.devices.length > 0);
    for (const { name, memoryBytes } of probe.devices) assert.ok(name.length > 0 && memoryBytes > 0);
  });

  test('answers a reason for a driver library that is not there', () => {
    const probe = native!.probeCuda('/no/such/driver.so');
    assert.equal(probe.available, false);
    assert.equal(probe.driverVersion, null);
    assert.match(probe.reason, process.platform === 'linux' ? /no CUDA driver: \/no\/such\/driver\.so/ : /not supported/);
  });

  test('answers a reason for a library that is not a driver', { skip: process.platform !== 'linux' && 'Linux only' }, () => {
    assert.match(native!.probeCuda('libc.so.6').reason, /lacks cuInit/);
    assert.match(native!.probeCuda(import.meta.filename).reason, /no CUDA driver/);
  });

  test('refuses arguments of the wrong kind', () => {
    assert.throws(() => native!.probeCuda(7 as unknown as string), /must be a string/);
    assert.throws(() => native!.probeCuda('x', '1' as unknown as number), /must be a number/);
    for (const ns of [-1, 0.5, NaN, Infinity, 2e9]) assert.throws(() => native!.setTimerSlackNs(ns), /whole number/);
    assert.throws(() => native!.setTimerSlackNs('1' as unknown as number), /must be a number/);
  });

  test('sets and restores the timer slack where the system has it', () => {
    assert.equal(native!.setTimerSlackNs(1), process.platform === 'linux');
    assert.equal(native!.setTimerSlackNs(0), process.platform === 'linux');
  });

  test('loads in three workers at once, and again after they have ended', async () => {
    for (let round = 0; round < 2; round += 1) {
      const answers = await probeInWorkers(3);
      for (const { probe, bogus, tuned } of answers) {
        assert.deepEqual(probe, native!.probeCuda());
        assert.equal(bogus.available, false);
        assert.equal(tuned, process.platform === 'linux');
      }
    }
  });

  test('survives the termination of a worker that has loaded it', async () => {
    const loaded = new SharedArrayBuffer(4);
    const worker = startWorker(loaded, 2); // waits for a second one that never comes
    const word = new Int32Array(loaded);
    while (Atomics.load(word, 0) === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    await worker.terminate();
    assert.equal(native!.probeCuda('/no/such/driver.so').available, false);
  });
});

describe('the doctor', () => {
  test('reports under stable keys that survive JSON', () => {
    const report = doctor();
    assert.deepEqual(JSON.parse(JSON.stringify(report)), report);
    assert.deepEqual(Object.keys(report), ['node', 'platform', 'cpu', 'addon', 'cuda', 'timer', 'topology']);
    assert.equal(report.node.version, process.versions.node);
    assert.equal(report.node.supported, true);
    assert.equal(report.addon.loaded, native !== null);
    assert.ok(report.cpu.usableCores > 0 && report.cpu.usableCores <= report.cpu.cores);
    assert.ok(report.timer.wakeUpErrorUs.p50 <= report.timer.wakeUpErrorUs.max);
  });

  test('prints one line per finding, with the reason for what is missing', () => {
    const report = doctor();
    const text = printed({
      ...report,
      cpu: { ...report.cpu, cores: 8, quotaCores: 1.5, quotaSource: 'cgroup v2' },
      addon: { loaded: false, reason: 'no addon today' },
      cuda: { available: false, reason: 'no driver today', driverVersion: null, devices: [] },
    });
    assert.match(text, /^ok {2}Node\.js .*supported/m);
    assert.match(text, /^-- {2}CPU quota +1\.5 of 8 .*cgroup v2/m);
    assert.match(text, /^-- {2}native addon .*no addon today; everything but CUDA works/m);
    assert.match(text, /^-- {2}CUDA .*no driver today/m);
  });

  test('prints each GPU when there are some', () => {
    const devices = [{ index: 0, name: 'A Card', memoryBytes: 24 * 2 ** 30, capability: '8.7' }, { index: 1, name: 'B Card', memoryBytes: 2 ** 33, capability: '12.0' }];
    const text = printed({ ...doctor(), cuda: { available: true, reason: '', driverVersion: '13.0', devices } });
    assert.match(text, /^ok {2}CUDA +driver for 13\.0 +2 GPU/m);
    assert.match(text, /^ok {2}GPU 0 +A Card +24\.0 GiB of memory, compute capability 8\.7; runs kernels compiled for sm_86/m);
    assert.match(text, /^ok {2}GPU 1 +B Card +8\.0 GiB of memory, compute capability 12\.0; its driver compiles/m);
  });

  test('knows which Node.js is new enough', () => {
    assert.deepEqual(['18.20.0', '20.18.3', '20.19.0', '22.0.0', '26.1.0'].map(nodeIsSupported), [false, false, true, true, true]);
  });
});

describe('the CPU quota', () => {
  const cases: [what: string, tree: Record<string, string>, expected: ReturnType<typeof cpuQuota>][] = [
    ['is absent without control groups', {}, null],
    ['is absent where cgroup v2 says max', {
      'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': 'max 100000\n',
    }, null],
    ['is read from cgroup v2', {
      'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '150000 100000\n',
    }, { cores: 1.5, source: 'cgroup v2' }],
    ['is the tightest of nested groups', {
      'proc/self/cgroup': '0::/slice/job\n',
      'sys/fs/cgroup/slice/cpu.max': '50000 100000\n',
      'sys/fs/cgroup/slice/job/cpu.max': '200000 100000\n',
    }, { cores: 0.5, source: 'cgroup v2' }],
    ['is read from cgroup v1, whose path in a container is the host\'s', {
      'proc/self/cgroup': '4:memory:/docker/a\n2:cpu,cpuacct:/docker/a\n0::/\n',
      'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '300000\n',
      'sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
    }, { cores: 3, source: 'cgroup v1' }],
    ['is absent where cgroup v1 says -1', {
      'proc/self/cgroup': '2:cpu:/\n',
      'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n',
      'sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
    }, null],
    ['is absent where the files say nonsense', {
      'proc/self/cgroup': 'nonsense\n0::/../..\n', 'sys/fs/cgroup/cpu.max': '\n',
    }, null],
  ];
  for (const [what, tree, expected] of cases) {
    test(what, () => {
      const root = mkdtempSync(join(tmpdir(), 'rubato-cgroup-'));
      try {
        for (const [file, text] of Object.entries(tree)) {
          mkdirSync(dirname(join(root, file)), { recursive: true });
          writeFileSync(join(root, file), text);
        }
        assert.deepEqual(cpuQuota(root), expected);
      } finally {
        rmSync(root, { recursive: true });
      }
    });
  }
});

function printed(report: Parameters<typeof printDoctor>[0]): string {
  let text = '';
  printDoctor(report, (part) => { text += part; });
  return text;
}

function startWorker(loaded: SharedArrayBuffer, workers: number): Worker {
  const url = import.meta.resolve('#rubato/devices/cuda/native.js');
  return new Worker(PROBE_IN_WORKER, { eval: true, workerData: { url, loaded, workers } });
}

async function probeInWorkers(workers: number): Promise<Answer[]> {
  const loaded = new SharedArrayBuffer(4);
  return Promise.all(Array.from({ length: workers }, () => new Promise<Answer>((resolve, reject) => {
    const worker = startWorker(loaded, workers);
    let answer: Answer | undefined;
    worker.on('message', (message: Answer) => { answer = message; });
    worker.on('error', reject);
    worker.on('exit', (code) => answer === undefined ? reject(new Error(`a worker ended with ${code} and no answer`)) : resolve(answer));
  })));
}
