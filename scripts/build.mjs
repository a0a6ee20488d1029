// npm run build: src/ → dist/ and the native addon. Folders named as arguments (test, bench) go to build/ as well.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { filesBelow, installIfNeeded, modifiedMs, root, typescript } from './steps.mjs';

installIfNeeded();
typescript('tsconfig.json');
removeOrphans('dist', 'src');
for (const folder of process.argv.slice(2)) {
  typescript(`${folder}/tsconfig.json`);
  removeOrphans(`build/${folder}`, folder);
}
const missing = buildAddon();
if (missing) console.error(`The native addon was not built: ${missing}. Everything but CUDA works.`);

/** What was compiled from a source that is gone would still be packed, imported and tested. */
function removeOrphans(output, source) {
  for (const file of filesBelow(output)) {
    const name = file.replace(/(\.d\.ts|\.js\.map|\.js)$/, '');
    if (name !== file && !existsSync(join(root, source, `${name}.ts`))) rmSync(join(root, output, file), { force: true });
  }
}

/** Answers what is missing when there is no addon in the end. */
function buildAddon() {
  const folder = join(root, 'native/cuda');
  const binary = join(folder, 'build/Release/rubato_cuda.node');
  const sources = filesBelow('native/cuda').filter((file) => !file.startsWith('build/'));
  if (modifiedMs(binary) > Math.max(...sources.map((file) => modifiedMs(join(folder, file))))) return null;

  if (process.platform === 'win32') return 'Windows is not supported by it';
  const compilers = process.env.CXX ? [process.env.CXX.split(' ')[0]] : ['c++', 'g++', 'clang++'];
  const tools = { 'C++ compiler': compilers, make: ['make'], Python: ['python3', 'python'] };
  for (const [tool, names] of Object.entries(tools)) {
    if (!names.some(isCommand)) return `no ${tool} (looked for ${names.join(', ')})`;
  }

  const log = join(folder, 'build/build.log');
  const result = spawnSync(process.execPath, [join(root, 'node_modules/node-gyp/bin/node-gyp.js'), 'rebuild', ...headers()], {
    cwd: folder,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  const output = `${result.stdout ?? ''}${result.stderr ?? ''}`;
  if (result.status === 0 && existsSync(binary)) return null;
  mkdirSync(dirname(log), { recursive: true });
  writeFileSync(log, output);
  const error = /\berror: .*|gyp ERR! stack .*/.exec(output)?.[0] ?? result.error?.message ?? 'no error was named';
  return `node-gyp failed (${error.slice(0, 160)}; all of it in native/cuda/build/build.log)`;
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
