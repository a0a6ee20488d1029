// Builds native/cuda/bare into build/bare/bare, unless it is up to date.
import { existsSync, mkdirSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { filesBelow, modifiedMs, root } from './steps.mjs';

export const BARE = join(root, 'build/bare/bare');

/** Answers why it is not there, null when it is. One that was carried here is taken where there is no compiler. */
export function buildBare() {
  const folder = join(root, 'native/cuda');
  const sources = ['bare/bare.cc', 'driver.cc', 'futex.cc', 'glibc_floor.cc', 'module.cc'].map((file) => join(folder, file));
  const headers = filesBelow('native/cuda').filter((file) => /^[\w-]+\.h$/.test(file)).map((file) => join(folder, file));
  if (modifiedMs(BARE) > Math.max(...[...sources, ...headers].map(modifiedMs))) return null;
  mkdirSync(join(root, 'build/bare'), { recursive: true });
  // As the addon, so that it runs where the addon does.
  const args = ['-std=c++17', '-O2', '-Wall', '-Wextra', '-pthread', '-include', join(folder, 'glibc_floor.h'), '-o', BARE, ...sources, '-ldl'];
  const { status, error, stderr } = spawnSync(process.env.CXX ?? 'c++', args, { encoding: 'utf8' });
  if (status === 0 || (error?.code === 'ENOENT' && existsSync(BARE))) return null;
  return error?.code === 'ENOENT' ? 'there is no C++ compiler' : `native/cuda/bare does not compile: ${(stderr ?? '').split('\n', 1)[0]}`;
}

if (process.argv[1] === import.meta.filename) {
  const missing = buildBare();
  if (missing) {
    console.error(missing);
    process.exit(1);
  }
}
