// What the scripts share. Only node: modules are imported: these lines run before anything is installed.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url));

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`rubato needs Node.js 20.19 or newer; this is ${process.versions.node}.`);
  process.exit(1);
}

/** Runs a command in the repository's root and answers its exit code. `options.quiet`: its output shows only if it fails. */
export function run(command, args, options = {}) {
  const { quiet = false, ...rest } = options;
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: quiet ? ['ignore', 'pipe', 'pipe'] : 'inherit',
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    shell: process.platform === 'win32' && command === 'npm', // npm is a .cmd file there
    ...rest,
  });
  if (result.error) console.error(`${command}: ${result.error.message}`);
  const code = result.status ?? 1;
  if (quiet && code !== 0) process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`);
  return code;
}

/** As `run`, and ends this script with the command's exit code when it fails. */
export function must(command, args, options) {
  const code = run(command, args, options);
  if (code !== 0) process.exit(code);
}

export const node = (args, options) => must(process.execPath, args, options);

export const typescript = (project, ...more) =>
  node([join(root, 'node_modules/typescript/bin/tsc'), '-p', project, ...more]);

/** Installs the locked dependencies when node_modules is missing or has others. */
export function installIfNeeded() {
  // By what they say: the times of files that were copied or checked out say nothing.
  const [locked, installed] = ['package-lock.json', 'node_modules/.package-lock.json'].map(packagesOf);
  const isThere = ([path, { version, optional }]) => (optional && !(path in installed)) || installed[path]?.version === version;
  if (Object.entries(locked).every(isThere) && existsSync(join(root, 'node_modules/typescript'))) return;
  console.error('Installing dependencies (npm ci)');
  must('npm', ['ci', '--include=dev'], { quiet: true });
}

/** Of a lock file, by their path, without the repository itself; none when there is no such file. */
function packagesOf(file) {
  const path = join(root, file);
  const packages = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')).packages : {};
  delete packages[''];
  return packages;
}

export function build(...more) {
  node([join(root, 'scripts/build.mjs'), ...more]);
}

/** Modification time in ms, 0 for what is not there. */
export function modifiedMs(path) {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

/** Paths of the files below a folder of the repository, relative to it, with `/` between the parts. */
export function filesBelow(folder) {
  const from = join(root, folder);
  if (!existsSync(from)) return [];
  return readdirSync(from, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(from.length + 1).replaceAll(sep, '/'))
    .sort();
}
