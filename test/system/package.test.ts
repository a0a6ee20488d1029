import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { glibcVersion, loadNative, type NativeHost } from '#rubato/devices/cuda/native.js';

const DIST = dirname(fileURLToPath(import.meta.resolve('#rubato/index.js')));
const ROOT = dirname(DIST);
const LIMIT_MS = 60_000;

interface Manifest {
  readonly scripts: Readonly<Record<string, string>>;
}

function readJson<T>(file: string): T {
  return JSON.parse(readFileSync(join(ROOT, file), 'utf8')) as T;
}

function run(args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: ROOT, timeout: LIMIT_MS, killSignal: 'SIGKILL', encoding: 'utf8' });
  return { status, stdout, stderr };
}

describe('the package', () => {
  test('has no script that npm runs uncalled, but for packing', () => {
    const names = Object.keys(readJson<Manifest>('package.json').scripts);
    const onInstall = ['preinstall', 'install', 'postinstall', 'preprepare', 'prepare', 'postprepare', 'dependencies'];
    const hooks = names.filter((name) => onInstall.includes(name) || names.some((other) => name === `pre${other}` || name === `post${other}`));
    assert.deepEqual(hooks, []);
    assert.ok(names.includes('prepack'));
  });

  test('is locked without the addresses of a registry', () => {
    assert.doesNotMatch(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'), /"resolved"/);
  });

  test('can be required as well as imported, as one module and without a warning', () => {
    const program = `
      const required = require('rubato');
      import('rubato').then((imported) => console.log(imported.createScheduler === required.createScheduler));`;
    assert.deepEqual(run(['--input-type=commonjs', '-e', program]), { status: 0, stdout: 'true\n', stderr: '' });
  });

  test('fails at once, and says why, where a bundler has left its worker file behind', () => {
    const copy = join(ROOT, 'build/without-worker'); // inside: its dependencies must be found
    try {
      rmSync(copy, { recursive: true, force: true });
      cpSync(DIST, copy, { recursive: true, filter: (file) => !file.endsWith('.worker.js') });
      writeFileSync(join(copy, 'package.json'), '{ "type": "module" }');
      const program = `
        import { createScheduler } from ${JSON.stringify(pathToFileURL(join(copy, 'index.js')).href)};
        const options = { models: [{ name: 'm', slo: '5s', profile: ['1ms'] }], devices: [{ kind: 'emulated' }] };
        await createScheduler(options).catch((error) => console.log(error.code, error.message));`;
      const { status, stdout } = run(['--input-type=module', '-e', program]);
      assert.match(stdout, /^ERR_RUBATO_WORKER_FILE .*scheduler\.worker\.js/);
      assert.equal(status, 0); // it ended by itself: nothing waits for a thread that cannot come
    } finally {
      rmSync(copy, { recursive: true, force: true });
    }
  });
});

describe('the loader of the native addon', () => {
  const folder = mkdtempSync(join(tmpdir(), 'rubato-addon-'));
  after(() => rmSync(folder, { recursive: true }));

  /** A package with these files, each of which is no addon. */
  function host(name: string, files: readonly string[], glibc: string | null): NativeHost {
    for (const file of files) {
      mkdirSync(dirname(join(folder, name, file)), { recursive: true });
      writeFileSync(join(folder, name, file), 'not a library');
    }
    return { root: `${pathToFileURL(join(folder, name)).href}/`, platform: 'linux', arch: 'x64', glibcVersion: () => glibc };
  }
  const LOCAL = 'native/cuda/build/Release/rubato_cuda.node';
  const SHIPPED = 'prebuilds/linux-x64/rubato_cuda.node';

  test('says for which system nothing is shipped', () => {
    const { native, reason } = loadNative({ ...host('empty', [], '2.36'), arch: 'riscv64' });
    assert.equal(native, null);
    assert.match(reason, /not built, and none is shipped for linux-riscv64/);
  });

  test('tries what was built here first, then what was shipped, and says why neither loads', () => {
    const { native, reason } = loadNative(host('both', [LOCAL, SHIPPED], '2.36'));
    assert.equal(native, null);
    assert.match(reason, /native\/cuda\/build\/Release\/rubato_cuda\.node does not load: .+; .*prebuilds\/linux-x64\/rubato_cuda\.node does not load: ./);
  });

  test('does not try what was shipped for glibc where there is another C library', () => {
    const { native, reason } = loadNative(host('musl', [SHIPPED], null));
    assert.equal(native, null);
    assert.match(reason, /is for glibc, this Node\.js uses another C library \(musl\?\); build it here, docs\/packaging\.md/);
    assert.doesNotMatch(reason, /does not load/);
  });

  test('does not ask which C library there is when nothing was shipped', () => {
    loadNative({ ...host('local', [LOCAL], null), glibcVersion: () => assert.fail('it was asked') });
  });

  test('knows the glibc of this process', { skip: process.platform !== 'linux' && 'Linux only' }, () => {
    const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
    const { reason } = loadNative({ ...host('this', [SHIPPED], null), glibcVersion });
    assert.match(reason, header.glibcVersionRuntime === undefined ? /is for glibc/ : /does not load/);
  });
});

describe('the script that makes the shipped addon', () => {
  test('refuses an architecture that it does not know', () => {
    const { status, stderr } = run(['scripts/prebuild.mjs', '--arch', 'mips']);
    assert.equal(status, 1);
    assert.match(stderr, /^--arch: got mips, must be one of x64, arm64\n/);
  });
});
