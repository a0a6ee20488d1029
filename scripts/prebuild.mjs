// npm run prebuilds [-- --arch ARCH]: the addon as it is shipped, prebuilds/linux-ARCH/rubato_cuda.node. Runs on Linux with
// glibc. ARCH (x64, arm64) is this machine's unless given; another one needs a cross compiler: CC and CXX, or the
// usual GNU names. `npm pack` runs it for this machine's ARCH and packs whatever lies in prebuilds/.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { ADDON_FILE, addonSourcesMs, buildAddon } from './addon.mjs';
import { filesBelow, installIfNeeded, modifiedMs, node, root } from './steps.mjs';

/** e_machine of an ELF file. */
const ELF_MACHINE = { x64: 62, arm64: 183 };
const GNU_NAME = { x64: 'x86_64-linux-gnu', arm64: 'aarch64-linux-gnu' };
/**
 * What a distribution of glibc 2.28 has, with the libstdc++ of GCC 8: Node.js 20 to 26 as published asks for that glibc and
 * for a libstdc++ anyway. libstdc++ stays dynamic, as in Node.js: the static one of a new compiler asks for a new glibc.
 */
const NEWEST_ALLOWED = { GLIBC: [2, 28], GLIBCXX: [3, 4, 25], CXXABI: [1, 3, 11], GCC: [8, 0] };

const { arch } = parseArgs({ options: { arch: { type: 'string', default: process.arch } } }).values;
if (!(arch in ELF_MACHINE)) fail(`--arch: got ${arch}, must be one of ${Object.keys(ELF_MACHINE).join(', ')}`);
if (process.platform !== 'linux' || !process.report.getReport().header.glibcVersionRuntime) {
  fail(`prebuilds are made on Linux with glibc; this is ${process.platform === 'linux' ? 'another C library' : process.platform}`);
}
installIfNeeded();

removeOutdated();
const built = build(arch);
check(built, arch);
const shipped = join(root, `prebuilds/linux-${arch}`, ADDON_FILE);
mkdirSync(dirname(shipped), { recursive: true });
cpSync(built, shipped);
console.log(`prebuilds/linux-${arch}/${ADDON_FILE}: ${(statSync(shipped).size / 1024).toFixed(0)} KiB, needs ${needs(shipped).join(', ')}`);

/** What was built from older sources, for another architecture, must not be packed. */
function removeOutdated() {
  for (const file of filesBelow('prebuilds')) {
    if (modifiedMs(join(root, 'prebuilds', file)) > addonSourcesMs()) continue;
    console.log(`prebuilds/${file} is older than its sources: removed`);
    rmSync(join(root, 'prebuilds', file));
  }
}

/** In a folder of its own: the build of a developer may have been made with other flags, and is not to be replaced. */
function build(arch) {
  const folder = join(root, `build/prebuild-linux-${arch}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const file of readdirSync(join(root, 'native/cuda'))) {
    if (file !== 'build') cpSync(join(root, 'native/cuda', file), join(folder, file), { recursive: true });
  }
  const crosses = arch !== process.arch;
  const compiler = crosses ? { CC: `${GNU_NAME[arch]}-gcc`, CXX: `${GNU_NAME[arch]}-g++` } : {};
  const env = { LDFLAGS: `${process.env.LDFLAGS ?? ''} -s` }; // stripped
  for (const [name, command] of Object.entries(compiler)) if (!process.env[name]) env[name] = command;
  const missing = buildAddon(folder, { ...(crosses && { compilers: [compiler.CXX] }), args: [`--arch=${arch}`], env });
  if (missing) fail(`prebuilds/linux-${arch} was not built: ${missing}`);
  return join(folder, 'build/Release', ADDON_FILE);
}

function check(file, arch) {
  const machine = readFileSync(file).readUInt16LE(18);
  if (machine !== ELF_MACHINE[arch]) fail(`${file} is for ELF machine ${machine}, ${arch} is ${ELF_MACHINE[arch]}: set CC and CXX to a compiler for ${arch}`);
  const tooNew = needs(file).filter((version) => !isAllowed(version));
  if (tooNew.length > 0) fail(`${file} needs ${tooNew.join(', ')}; the newest allowed are ${Object.entries(NEWEST_ALLOWED).map(([name, parts]) => `${name}_${parts.join('.')}`).join(', ')}`);
  if (arch === process.arch) node(['-e', `require(${JSON.stringify(file)}).probeCuda()`], { stdio: 'inherit' });
}

/** The versions of symbols that a binary asks its libraries for, as `GLIBC_2.14`. */
function needs(file) {
  const { status, stdout, error } = spawnSync('readelf', ['--wide', '--version-info', file], { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });
  if (status !== 0) fail(`readelf does not run (${error?.message ?? `exit code ${status}`}): the needs of ${file} cannot be checked`);
  const asked = stdout.slice(stdout.indexOf('Version needs section'));
  return [...new Set(Array.from(asked.matchAll(/Name: (\w+_[\d.]+)/g), (match) => match[1]))].sort();
}

function isAllowed(version) {
  const [name, number] = version.split('_');
  const most = NEWEST_ALLOWED[name];
  if (!most) return false;
  const parts = number.split('.').map(Number);
  for (let i = 0; i < Math.max(parts.length, most.length); i++) {
    const difference = (parts[i] ?? 0) - (most[i] ?? 0);
    if (difference !== 0) return difference < 0;
  }
  return true;
}

function fail(message) {
  console.error(message);
  process.exit(1);
}
