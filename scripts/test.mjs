// npm test [-- NAME…]: installs, builds, and runs the tests whose path contains one of the names, or all of them.
// With --long it runs test/long/ instead, which takes minutes; with --nightly test/nightly/, which takes longer.
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { build, filesBelow, installIfNeeded, root, run } from './steps.mjs';

const names = process.argv.slice(2).filter((argument) => !argument.startsWith('--'));
const folder = ['long', 'nightly'].find((each) => process.argv.includes(`--${each}`)) ?? '';
const folderOf = (file) => /^(?:long|nightly)(?=\/)/.exec(file)?.[0] ?? '';

installIfNeeded();
build('test', 'bench'); // some tests run the benchmarks

// The list comes from the sources, and each file by name: Node 20's runner takes no patterns.
const tests = filesBelow('test')
  .filter((file) => file.endsWith('.test.ts') && folderOf(file) === folder)
  .filter((file) => names.length === 0 || names.some((name) => file.includes(name)))
  .map((file) => join(root, 'build/test', file.replace(/\.ts$/, '.js')));
if (tests.length === 0) {
  console.error(`No ${folder === '' ? '' : `${folder} `}test file matches${names.map((name) => ` "${name}"`).join(' or') || ' at all'}.`);
  process.exit(1);
}

process.exitCode = run(process.execPath, [
  '--test',
  '--test-reporter=spec',
  // A test of rubato keeps two threads busy: one file per pair of cores.
  `--test-concurrency=${Math.max(1, availableParallelism() >> 1)}`,
  `--test-timeout=${folder === '' ? 600_000 : 1_800_000}`,
  ...tests,
]);
