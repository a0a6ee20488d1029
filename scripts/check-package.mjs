// The part of `npm run test:all` that looks at the package as its users get it: packed, installed, loaded, bundled, and
// used under their test runners. Needs the network for npm.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, relative, sep } from 'node:path';
import { must, root, typescript } from './steps.mjs';

const NODE_MAJORS = [20, 22, 24, 26];
/**
 * Fetched when they are needed: as devDependencies they would put 300 packages and 120 MB into every `npm ci`.
 * The last vitest that takes Node 20.
 */
const TOOLS = ['publint@0.3.25', '@arethetypeswrong/cli@0.18.5', 'esbuild@0.28.2', 'jest@30.5.2', 'vitest@4.1.12'];
const FIXTURES = join(root, 'test/package');
/** A program that hangs is stopped and has failed. */
const LIMIT_MS = 300_000;
/** What may be packed; all else is there by mistake. */
const PACKED = /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|bin\/rubato|(dist|src)\/.*\.(d\.ts|ts|js|js\.map)|docs\/(?:[\w-]+\/)*[\w-]+\.md|workloads\/\w+\.json|native\/cuda\/(binding\.gyp|\w+\.(cc|h)|kernels\/\w+(\.sm_\d+)?\.(cu|h|ptx|cubin)|models\/\w+\/model\.json)|prebuilds\/linux-\w+\/rubato_cuda\.node)$/;
const MOST_UNPACKED_BYTES = 4e6;

const prebuilt = process.platform === 'linux' && Boolean(process.report.getReport().header.glibcVersionRuntime);

export function checkPackage() {
  const folder = mkdtempSync(join(tmpdir(), 'rubato-package-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const tarball = pack(folder);
  const app = project(folder, 'app', ['--omit=dev', tarball]);
  checkContent(app);
  const example = readmeExample();
  writeFileSync(join(app, 'example.mts'), example);
  writeFileSync(join(app, 'example.mjs'), withoutTypes(example));
  for (const file of ['required.cjs', 'required.cts']) cpSync(join(FIXTURES, file), join(app, file));
  checkTypes(app);
  const nodes = nodeBinaries(folder);
  for (const binary of nodes) runPrograms(app, binary);

  const tools = project(folder, 'tools', [...TOOLS, tarball]);
  checkMetadata(tools, tarball);
  checkBundles(tools, folder);
  checkTestRunners(tools, nodes.at(-1));
}

/** Answers the tarball's path. Where no addon can be made for it, it is packed without. */
function pack(folder) {
  if (!prebuilt) console.log('   no addon in the package: prebuilds are made on Linux with glibc');
  must('npm', ['pack', '--silent', ...(prebuilt ? [] : ['--ignore-scripts']), '--pack-destination', folder], { quiet: true });
  return join(folder, readdirSync(folder).find((file) => file.endsWith('.tgz')));
}

/** An empty project with these packages installed; answers its folder. */
function project(folder, name, packages) {
  const home = join(folder, name);
  mkdirSync(home);
  writeFileSync(join(home, 'package.json'), JSON.stringify({ name, private: true, type: 'module' }));
  must('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', ...packages], { cwd: home, quiet: true });
  return home;
}

function checkContent(app) {
  const installed = join(app, 'node_modules/rubato');
  const files = readdirSync(installed, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(installed, join(entry.parentPath ?? entry.path, entry.name)).replaceAll(sep, '/'));
  const strange = files.filter((file) => !PACKED.test(file) || /\.test\./.test(file));
  if (strange.length > 0) fail(`The package has files that do not belong in it, or were built on installing: ${strange.join(', ')}`);
  for (const file of ['dist/index.js', 'README.md', 'docs/packaging.md', 'workloads/schema.json', ...(prebuilt ? [`prebuilds/linux-${process.arch}/rubato_cuda.node`] : [])]) {
    if (!files.includes(file)) fail(`The package lacks ${file}.`);
  }
  const bytes = files.reduce((sum, file) => sum + statSync(join(installed, file)).size, 0);
  console.log(`   ${files.length} files, ${(bytes / 1e6).toFixed(2)} MB unpacked`);
  if (bytes > MOST_UNPACKED_BYTES) fail(`The package is larger than ${MOST_UNPACKED_BYTES / 1e6} MB unpacked.`);
  const { packages } = JSON.parse(readFileSync(join(app, 'package-lock.json'), 'utf8'));
  if (packages['node_modules/rubato'].hasInstallScript) fail('npm sees an install script in the package.');
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
function checkTypes(app) {
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
  const config = join(app, 'tsconfig.json');
  writeFileSync(config, JSON.stringify({ compilerOptions, files: ['example.mts', 'required.cts'] }));
  typescript(config);
}

/** Each Node.js to try; where the registry has no build for the platform, only the one that runs this. */
function nodeBinaries(folder) {
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) {
    console.log(`   Node ${NODE_MAJORS.join(', ')}: skipped, the node-linux-* packages do not run on ${process.platform} ${process.arch}`);
    return [process.execPath];
  }
  const home = project(folder, 'nodes', NODE_MAJORS.map((major) => `node-${major}@npm:node-linux-${process.arch}@${major}`));
  return NODE_MAJORS.map((major) => join(home, `node_modules/node-${major}/bin/node`));
}

function runPrograms(app, binary) {
  console.log(`   Node ${versionOf(binary)}: README example, require, bin/rubato`);
  const options = { cwd: app, timeout: LIMIT_MS };
  const rubato = 'node_modules/rubato/bin/rubato';
  for (const args of [['example.mjs'], ['required.cjs'], [rubato, '--version']]) {
    if (!ends(binary, args, options)) fail(`${args.join(' ')} fails on Node ${versionOf(binary)}.`);
  }
  if (!prebuilt) return;
  const { addon } = JSON.parse(spawnSync(binary, [rubato, 'doctor', '--json', '-'], { ...options, encoding: 'utf8' }).stdout);
  if (!addon.loaded || !addon.reason.includes('prebuilds')) fail(`The shipped addon is not used on Node ${versionOf(binary)}: ${addon.reason}`);
}

/** A machine that stands still for some milliseconds costs a request its SLO, and the program says so: then it is run again. */
function ends(binary, args, options, again = 5) {
  const { status, stdout, stderr } = spawnSync(binary, args, { ...options, encoding: 'utf8' });
  if (again > 0 && status === 1 && stderr.includes('could no longer be met')) return ends(binary, args, options, again - 1);
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  return status === 0;
}

function versionOf(binary) {
  return spawnSync(binary, ['--version'], { encoding: 'utf8' }).stdout?.trim().slice(1);
}

function checkMetadata(tools, tarball) {
  console.log('   publint, attw');
  const options = { cwd: tools, timeout: LIMIT_MS, quiet: true };
  must(process.execPath, ['node_modules/publint/src/cli.js', '--strict', tarball], options);
  // The rule is about a Node.js that cannot require an ES module; package.json's `engines` leave those out.
  must(process.execPath, ['node_modules/@arethetypeswrong/cli/dist/index.js', '--ignore-rules', 'cjs-resolves-to-esm', '--format', 'ascii', tarball], options);
}

function checkBundles(tools, folder) {
  console.log('   esbuild: rubato outside, inside, and inside without its worker files');
  cpSync(join(FIXTURES, 'app.mjs'), join(tools, 'app.mjs'));
  const bundle = (...args) => must(join(tools, 'node_modules/.bin/esbuild'), ['app.mjs', '--bundle', '--platform=node', '--format=esm', '--log-level=warning', ...args], { cwd: tools });
  const answers = (...args) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: tools, timeout: LIMIT_MS, encoding: 'utf8' });
    if (status !== 0 || stdout !== '42\n') fail(`node ${args.join(' ')} gave exit code ${status} and "${stdout}"\n${stderr}`);
  };
  for (const [name, option] of [['outside.mjs', '--external:rubato'], ['outside2.mjs', '--packages=external']]) {
    bundle(option, `--outfile=${name}`);
    answers(name);
  }

  const recipe = /^```js\n\/\/ bundle\.mjs\n(.*?)^```/ms.exec(readFileSync(join(root, 'docs/packaging.md'), 'utf8'))?.[1];
  if (!recipe) fail('docs/packaging.md lacks its ```js example "// bundle.mjs".');
  writeFileSync(join(tools, 'bundle.mjs'), recipe);
  must(process.execPath, ['bundle.mjs'], { cwd: tools });
  const alone = join(folder, 'alone'); // out of reach of any node_modules
  cpSync(join(tools, 'out'), alone, { recursive: true });
  answers(join(alone, 'app.js'));

  bundle('--external:piscina', '--outfile=inside.mjs');
  const { status, stderr } = spawnSync(process.execPath, ['inside.mjs'], { cwd: tools, timeout: LIMIT_MS, encoding: 'utf8' });
  if (status !== 1 || !/code: 'ERR_RUBATO_WORKER_FILE'/.test(stderr)) fail(`A bundle without the worker files must fail with ERR_RUBATO_WORKER_FILE; exit code ${status}\n${stderr}`);
}

function checkTestRunners(tools, newestNode) {
  const source = readFileSync(join(FIXTURES, 'scheduler.test.js'), 'utf8');
  const importLine = /^import (.*) from 'rubato';$/m;
  if (!importLine.test(source)) fail("test/package/scheduler.test.js must import from 'rubato' in one line.");
  const runner = (name, type, test, more = {}) => {
    const cwd = join(tools, name);
    mkdirSync(cwd);
    writeFileSync(join(cwd, 'package.json'), JSON.stringify({ private: true, type, ...more }));
    writeFileSync(join(cwd, 'scheduler.test.js'), test);
    return (binary, args, env = {}) => {
      console.log(`   ${name}, Node ${versionOf(binary)}: ${args.slice(1).join(' ')}`);
      must(binary, args, { cwd, timeout: LIMIT_MS, quiet: true, env: { ...process.env, ...env } });
    };
  };

  const vitest = runner('vitest', 'module', source);
  for (const pool of ['threads', 'forks']) vitest(process.execPath, ['../node_modules/vitest/vitest.mjs', 'run', '--globals', `--pool=${pool}`]);

  const flag = { NODE_OPTIONS: '--experimental-vm-modules' };
  const jest = ['../node_modules/jest/bin/jest.js', '--ci'];
  const config = { jest: { testEnvironment: 'node', transform: {} } };
  runner('jest', 'module', source, config)(process.execPath, jest, flag);
  const imported = source.replace(importLine, "let rubato;\nbeforeAll(async () => {\n  rubato = await import('rubato');\n});").replace(/\b(createScheduler|InfeasibleError)\b/g, 'rubato.$1');
  runner('jest-import', 'commonjs', imported, config)(process.execPath, jest, flag);
  if (newestNode === process.execPath && Number(process.versions.node.split('.')[0]) < 25) return console.log('   jest with require: skipped, it needs a newer Node.js');
  runner('jest-require', 'commonjs', source.replace(importLine, "const $1 = require('rubato');"), config)(newestNode, jest, flag);
}

function fail(message) {
  console.error(message);
  process.exit(1);
}
