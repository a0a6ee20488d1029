// Builds the fake CUDA driver of the tests into build/fake/: libfakecuda.so, for RUBATO_CUDA_LIBRARY, and
// fakecuda_control.node, which hands it commands (native/cuda/fake/control.cc). Nothing is built when both are up to date.
import { mkdirSync, renameSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { filesBelow, modifiedMs, must, root } from './steps.mjs';

export const FAKE_DRIVER = join(root, 'build/fake/libfakecuda.so');
export const FAKE_CONTROL = join(root, 'build/fake/fakecuda_control.node');

/** `flags` are for the compiler (sanitizers), `into` another folder for what they make. */
export function buildFakeCuda({ flags = [], into = dirname(FAKE_DRIVER) } = {}) {
  const sources = filesBelow('native/cuda/fake').map((file) => join(root, 'native/cuda/fake', file));
  const kernels = filesBelow('native/cuda/kernels').filter((file) => /\.(cu|h)$/.test(file)).map((file) => join(root, 'native/cuda/kernels', file));
  const newestMs = Math.max(...[...sources, ...kernels].map(modifiedMs));
  mkdirSync(into, { recursive: true });
  const headers = [process.env.npm_config_nodedir, dirname(dirname(process.execPath))].filter(Boolean).flatMap((prefix) => ['-isystem', join(prefix, 'include/node')]);
  const compile = (output, files, ...more) => {
    if (modifiedMs(output) > newestMs) return;
    const unfinished = `${output}.${process.pid}`; // others may be about to load it
    must(process.env.CXX ?? 'c++', ['-std=c++17', '-O1', '-g', '-Wall', '-Wextra', '-fPIC', '-shared', '-fvisibility=hidden', '-pthread', ...flags, ...more, '-o', unfinished, ...files, '-ldl']);
    renameSync(unfinished, output);
  };
  const isControl = (file) => file.endsWith('node_control.cc');
  compile(join(into, 'libfakecuda.so'), sources.filter((file) => file.endsWith('.cc') && !isControl(file)));
  if (flags.length === 0) compile(join(into, 'fakecuda_control.node'), sources.filter(isControl), '-isystem', '/usr/include/node', ...headers);
}

if (process.argv[1] === import.meta.filename) buildFakeCuda();
