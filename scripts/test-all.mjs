// npm run test:all: what `npm test` leaves out. Each step is a titled part of the output; the first failure ends it.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build, filesBelow, installIfNeeded, must, node, root, run, typescript } from './steps.mjs';

/** What a test needs beyond Node.js, npm and a C++ compiler: { package, command }, installed where `command` is missing. */
const DEBIAN_PACKAGES = [];
const NODE_MAJORS = [20, 22, 24];
const EXAMPLE_LIMIT_MS = 60_000;

const steps = [
  ['Debian packages', installDebianPackages],
  ['build', () => { installIfNeeded(); build('test', ...(hasSources('bench') ? ['bench'] : [])); }],
  ['type check', checkTypes],
  ['lint', () => must('npm', ['run', '--silent', 'lint', '--', '--no-error-on-unmatched-pattern'])],
  ['long tests', () => node([join(root, 'scripts/test.mjs'), '--long'])],
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

function hasSources(folder) {
  return filesBelow(folder).some((file) => file.endsWith('.ts'));
}

function checkTypes() {
  for (const folder of ['.', 'test', 'bench']) {
    if (folder === '.' || hasSources(folder)) typescript(join(folder, 'tsconfig.json'), '--noEmit');
  }
}

function checkPackage() {
  const folder = mkdtempSync(join(tmpdir(), 'rubato-package-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const app = installTarball(folder);
  const example = readmeExample();
  writeFileSync(join(app, 'example.mts'), example);
  writeFileSync(join(app, 'example.mjs'), withoutTypes(example));
  checkExampleTypes(app);
  for (const binary of nodeBinaries(folder)) runExample(app, binary);
}

/** Packs, installs the tarball into an empty project, and answers that project's folder. */
function installTarball(folder) {
  must('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder]);
  const tarball = readdirSync(folder).find((file) => file.endsWith('.tgz'));
  const app = join(folder, 'app');
  mkdirSync(app);
  writeFileSync(join(app, 'package.json'), '{ "name": "app", "private": true }\n');
  must('npm', ['install', '--omit=dev', '--no-audit', '--no-fund', '--loglevel=error', join(folder, tarball)], { cwd: app });
  return app;
}

/** The README's first TypeScript example. It must be complete: it is run as it stands. */
function readmeExample() {
  const source = /^```ts\n(.*?)^```/ms.exec(readFileSync(join(root, 'README.md'), 'utf8'))?.[1];
  if (!source?.includes("from 'rubato'")) fail("README.md's first ```ts example must import from 'rubato'.");
  return source;
}

function withoutTypes(source) {
  const ts = createRequire(import.meta.url)('typescript'); // not an import: at the start it may not be installed yet
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ES2022 };
  return ts.transpileModule(source, { compilerOptions }).outputText;
}

/** As a user's strict project would see the packed declarations. */
function checkExampleTypes(app) {
  const compilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    target: 'es2022',
    lib: ['es2024', 'esnext.disposable'],
    module: 'nodenext',
    types: ['node'],
    typeRoots: [join(root, 'node_modules/@types')],
  };
  const project = join(app, 'tsconfig.json');
  writeFileSync(project, JSON.stringify({ compilerOptions, files: ['example.mts'] }));
  typescript(project);
}

/** Each Node.js to try; where the registry has no build for the platform, only the one that runs this. */
function nodeBinaries(folder) {
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) {
    console.log(`   Node ${NODE_MAJORS.join(', ')}: skipped, the node-linux-* packages do not run on ${process.platform} ${process.arch}`);
    return [process.execPath];
  }
  const home = join(folder, 'nodes');
  mkdirSync(home);
  writeFileSync(join(home, 'package.json'), '{ "name": "nodes", "private": true }\n');
  const aliases = NODE_MAJORS.map((major) => `node-${major}@npm:node-linux-${process.arch}@${major}`);
  must('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', ...aliases], { cwd: home });
  return NODE_MAJORS.map((major) => join(home, `node_modules/node-${major}/bin/node`));
}

function runExample(app, binary) {
  const options = { cwd: app, timeout: EXAMPLE_LIMIT_MS };
  const version = spawnSync(binary, ['--version'], { encoding: 'utf8' }).stdout?.trim();
  console.log(`   Node ${version}: README example, bin/rubato --version`);
  if (run(binary, ['example.mjs'], options) !== 0) fail(`The README's first example fails on Node ${version}.`);
  if (run(binary, ['node_modules/rubato/bin/rubato', '--version'], options) !== 0) fail(`bin/rubato fails on Node ${version}.`);
}

function fail(message) {
  console.error(message);
  process.exit(1);
}
