// npm run test:all: what `npm test` leaves out. Each step is a titled part of the output; the first failure ends it.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkPackage } from './check-package.mjs';
import { build, filesBelow, installIfNeeded, must, node, root, typescript } from './steps.mjs';

/** What a test needs beyond Node.js, npm and a C++ compiler: { package, command }, installed where `command` is missing. */
const DEBIAN_PACKAGES = [{ package: 'spin', command: 'spin' }];

const steps = [
  ['Debian packages', installDebianPackages],
  ['build', () => { installIfNeeded(); build('test', ...(hasSources('bench') ? ['bench'] : [])); }],
  ['type check', checkTypes],
  ['lint', () => must('npm', ['run', '--silent', 'lint', '--', '--no-error-on-unmatched-pattern'])],
  ['reference', checkReference],
  ['long tests', () => node([join(root, 'scripts/test.mjs'), '--long'])],
  ['stream manager under sanitizers', () => ['address', 'thread'].forEach((mode) => node([join(root, 'scripts/native-stress.mjs'), mode, '5']))],
  ['benchmark smoke', () => node([join(root, 'bin/rubato'), 'bench', 'throughput', '--seconds', '1'])],
  ['package', checkPackage],
];

let title = '';
process.on('exit', (code) => {
  if (code !== 0) console.log(`\n✖ test:all stopped at the step "${title}".`);
});
for (const [name, step] of steps) {
  title = name;
  console.log(`\n── ${title}`);
  const startMs = performance.now();
  step();
  console.log(`   ${title}: done in ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
}
console.log(`\n✔ test:all: ${steps.length} steps done.`);

function installDebianPackages() {
  const missing = DEBIAN_PACKAGES.filter(({ command }) => spawnSync('which', [command]).status !== 0);
  if (missing.length === 0) return console.log('   none needed');
  const names = missing.map((each) => each.package);
  if (!existsSync('/usr/bin/apt-get') || process.getuid?.() !== 0) {
    return console.log(`   skipped: ${names.join(', ')} must be installed by hand (no apt-get here, or not root)`);
  }
  must('apt-get', ['update', '-qq']);
  must('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...names]);
}

/** docs/api is what the docstrings say today. */
function checkReference() {
  const folder = mkdtempSync(join(tmpdir(), 'rubato-reference-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  node([join(root, 'node_modules/typedoc/bin/typedoc'), '--out', folder, '--logLevel', 'Warn']);
  const pages = filesBelow('docs/api');
  for (const page of pages) {
    if (existsSync(join(folder, page)) && readFileSync(join(folder, page), 'utf8') === readFileSync(join(root, 'docs/api', page), 'utf8')) continue;
    console.error(`docs/api/${page} is not what the source says; run npm run docs.`);
    process.exit(1);
  }
  console.log(`   ${pages.length} pages are up to date`);
}

function hasSources(folder) {
  return filesBelow(folder).some((file) => file.endsWith('.ts'));
}

function checkTypes() {
  for (const folder of ['.', 'test', 'bench']) {
    if (folder === '.' || hasSources(folder)) typescript(join(folder, 'tsconfig.json'), '--noEmit');
  }
}
