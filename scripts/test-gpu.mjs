// npm run test:gpu [-- OPTIONS]: on the GPU of this machine, the tests of CUDA devices, then what is measured on one, as tables for
// docs/performance.md. Without a GPU it says why, and that is no failure.
//
//   --only STEP,…   tests, profile, dispatch, overhead, copies, goodput
//   --json FILE     everything that was measured
//   --limit S       seconds that each step may take
//   --quick         short runs: whether everything works, not how fast it is
//   --as-built      installs and compiles nothing but native/cuda/bare: for a machine without network, to which node_modules, dist,
//                   build and prebuilds were carried. So it is, too, where there is no TypeScript compiler.
//
// Each step is a process with a limit of time; one that fails says why, the others go on, and the exit code is 1 in the end.
import { spawnSync } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildBare } from './bare.mjs';
import { build, installIfNeeded, root } from './steps.mjs';

/** Seconds that a step may take, and all together. */
const LIMIT_S = { tests: 60, profile: 45, dispatch: 30, overhead: 60, copies: 40, goodput: 170 };
const ALL_S = 300;

const options = readOptions();
const asBuilt = options['as-built'] || !existsSync(join(root, 'node_modules/typescript'));
if (asBuilt) {
  const missing = ['dist/index.js', 'build/bench/cuda/main.js', 'build/test/devices/cuda/cuda.test.js'].find((file) => !existsSync(join(root, file)));
  if (missing) fail(`${missing} is not there, and nothing is compiled ${options['as-built'] ? 'with --as-built' : 'without node_modules/typescript'}: run "npm run build -- test bench" first`);
} else {
  installIfNeeded();
  build('test', 'bench');
}
const { cudaDevices } = await import('../dist/index.js');
const { loadNative } = await import('../dist/devices/cuda/native.js');
if (options['as-built'] && loadNative().native === null) fail(loadNative().reason);
const { available, reason, devices, driverVersion } = cudaDevices();
if (!available) {
  console.log(`test:gpu: skipped, ${reason}`);
  process.exit(0);
}
const machine = { gpu: devices[0].name, capability: devices[0].capability, memoryGiB: devices[0].memoryBytes / 2 ** 30, cuda: driverVersion, driver: kernelModule(), cpu: cpus()[0]?.model.trim() ?? 'unknown', cores: cpus().length, node: process.versions.node };
console.log(`On ${machine.gpu} (compute capability ${machine.capability}, ${machine.memoryGiB.toFixed(0)} GiB), driver ${machine.driver ?? 'of an unknown version'} for CUDA ${machine.cuda}; ${machine.cores} cores, ${machine.cpu}, Node ${machine.node}:`);
const problems = [];
const noBare = options.steps.some((step) => step === 'overhead' || step === 'copies') ? buildBare() : null;
if (noBare) problem('native/cuda/bare', `not possible, ${noBare}`);

const untilMs = performance.now() + ALL_S * 1e3;
const results = {};
for (const step of options.steps) {
  const startMs = performance.now();
  if (step === 'tests') runTests();
  else results[step] = measure(step);
  console.error(`${step}: ${((performance.now() - startMs) / 1e3).toFixed(1)} s`);
}
const { budgetsOf, markdownOf } = await import('../build/bench/cuda/report.js');
const tables = markdownOf(results);
if (tables !== '') console.log(`\n${tables}`);
if (options.json) writeFileSync(options.json, `${JSON.stringify({ machine, quick: options.quick, ...results, budgets: budgetsOf(results), problems }, null, 2)}\n`);
if (problems.length > 0) {
  console.log(`test:gpu: ${problems.length} did not go well:\n${problems.map((each) => `  ${each}`).join('\n')}`);
  process.exitCode = 1;
}

function runTests() {
  const files = ['cuda', 'copies'].map((name) => join(root, `build/test/devices/cuda/${name}.test.js`));
  const { status, error } = limited('tests', ['--test', '--test-reporter=spec', '--test-concurrency=1', ...files], { stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, RUBATO_TEST_GPU: '1' } });
  if (status !== 0) problem('tests', error ?? 'some have failed');
}

/** What the step has printed by its end, also where that came too soon. */
function measure(step) {
  const { status, error, stdout } = limited(step, [join(root, 'build/bench/cuda/main.js'), step, ...(options.quick ? ['--quick'] : [])], { stdio: ['ignore', 'pipe', 'pipe'] });
  const lines = stdout.split('\n').slice(0, -1); // the last one is not whole, or empty
  if (status !== 0) problem(step, error ?? 'has failed');
  return lines.map((line) => JSON.parse(line));
}

/** `error`: why it has failed, where that is known. */
function limited(step, args, spawnOptions) {
  const limitMs = Math.min((options.limit ?? LIMIT_S[step]) * 1e3, untilMs - performance.now());
  if (limitMs < 100) return { status: 1, error: `left out, ${ALL_S} s are over`, stdout: '' };
  const { status, error, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', timeout: limitMs, killSignal: 'SIGKILL', maxBuffer: 2 ** 26, ...spawnOptions });
  const said = (stderr ?? '').trim();
  if (said !== '') console.error(said);
  const late = error?.code === 'ETIMEDOUT' ? `has not ended within ${(limitMs / 1e3).toFixed(0)} s` : error?.message;
  return { status: status ?? 1, error: late ?? (said.split('\n').at(-1) || undefined), stdout: stdout ?? '' };
}

function problem(what, why) {
  problems.push(`${what}: ${why}`);
  console.error(problems.at(-1));
}

/** Of the driver itself, as 535.104.05; null where it is not told. */
function kernelModule() {
  const file = '/proc/driver/nvidia/version';
  return existsSync(file) ? (/\b\d{3}\.\d+(\.\d+)?\b/.exec(readFileSync(file, 'utf8'))?.[0] ?? null) : null;
}

function readOptions() {
  const steps = Object.keys(LIMIT_S);
  try {
    const { values } = parseArgs({ options: { only: { type: 'string' }, json: { type: 'string' }, limit: { type: 'string' }, quick: { type: 'boolean', default: false }, 'as-built': { type: 'boolean', default: false } } });
    const only = values.only?.split(',') ?? steps;
    const unknown = only.find((step) => !steps.includes(step));
    if (unknown !== undefined) fail(`--only: got ${unknown || 'nothing'}, must be some of ${steps.join(', ')}`);
    const limit = values.limit === undefined ? undefined : Number(values.limit);
    if (limit !== undefined && !(limit > 0)) fail(`--limit: got ${values.limit}, must be a number of seconds above 0`);
    if (values.json) checkWritable(values.json);
    return { ...values, limit, steps: steps.filter((step) => only.includes(step)) };
  } catch (error) {
    return fail(error.message);
  }
}

/** Now, and not when all has been measured. */
function checkWritable(json) {
  try {
    closeSync(openSync(json, 'a'));
  } catch (error) {
    fail(`--json: ${error.message}`);
  }
}

function fail(why) {
  console.error(`test:gpu: ${why}`);
  process.exit(1);
}
