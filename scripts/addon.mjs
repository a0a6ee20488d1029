// Builds the native addon with node-gyp; build.mjs and prebuild.mjs share it.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { filesBelow, modifiedMs, root } from './steps.mjs';

export const ADDON_FILE = 'rubato_cuda.node';

/** Modification time, in ms, of the addon's newest source. */
export function addonSourcesMs() {
  const sources = filesBelow('native/cuda').filter((file) => !file.includes('/')); // kernels and the fake driver are no part of it
  return Math.max(...sources.map((file) => modifiedMs(join(root, 'native/cuda', file))));
}

/**
 * Builds `folder`/binding.gyp into `folder`/build/Release. Answers what was missing or wrong, null when there was nothing.
 * `compilers`: commands of which one must be there. `args` are for node-gyp, `env` is added to the environment.
 */
export function buildAddon(folder, { compilers = ['c++', 'g++', 'clang++'], args = [], env = {} } = {}) {
  if (process.platform === 'win32') return 'Windows is not supported by it';
  const tools = { 'C++ compiler': process.env.CXX ? [process.env.CXX.split(' ')[0]] : compilers, make: ['make'], Python: ['python3', 'python'] };
  for (const [tool, names] of Object.entries(tools)) {
    if (!names.some(isCommand)) return `no ${tool} (looked for ${names.join(', ')})`;
  }
  const result = spawnSync(process.execPath, [join(root, 'node_modules/node-gyp/bin/node-gyp.js'), 'rebuild', ...headers(), ...args], {
    cwd: folder,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    env: { ...process.env, ...env },
  });
  if (result.status === 0 && existsSync(join(folder, 'build/Release', ADDON_FILE))) return null;
  const output = `${result.stdout ?? ''}${result.stderr ?? ''}`;
  const log = join(folder, 'build/build.log');
  mkdirSync(dirname(log), { recursive: true });
  writeFileSync(log, output);
  const error = /\berror: .*|gyp ERR! stack .*/.exec(output)?.[0] ?? result.error?.message ?? 'no error was named';
  return `node-gyp failed (${error.slice(0, 160)}; all of it in ${log.slice(root.length)})`;
}

/** The headers that came with this Node.js spare node-gyp a download. `npm run` passes on what npm was told. */
function headers() {
  const prefix = dirname(dirname(process.execPath));
  const shipped = existsSync(join(prefix, 'include/node/node_api.h'));
  return shipped && !process.env.npm_config_nodedir ? [`--nodedir=${prefix}`] : [];
}

function isCommand(name) {
  return spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0;
}
