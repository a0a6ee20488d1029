// Rebuilds the compiled kernels that are checked in beside their sources: native/cuda/kernels/NAME.cu → NAME.ptx. Takes a
// clang of the distribution (CLANG names another one); no CUDA toolkit. Where ptxas is there it checks what came out.
//
// PTX 6.0 for compute capability 6.0 is what every driver since CUDA 9.0 takes, for every chip since Pascal: a driver
// compiles PTX for its own chip, and refuses PTX that is newer than itself.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { filesBelow, must, root } from './steps.mjs';

const folder = 'native/cuda/kernels';
const clang = process.env.CLANG ?? ['clang', 'clang-14', 'clang-16', 'clang-19'].find(isCommand);
if (!clang) {
  console.error('No clang found; install one (Debian: clang), or name it in CLANG.');
  process.exit(1);
}
for (const file of filesBelow(folder).filter((each) => each.endsWith('.cu'))) {
  const source = join(folder, file);
  const output = source.replace(/\.cu$/, '.ptx');
  must(clang, ['-x', 'cuda', '--cuda-device-only', '--cuda-gpu-arch=sm_60', '-Xclang', '-target-feature', '-Xclang', '+ptx60', '-nocudainc', '-nocudalib', '-Wno-unknown-cuda-version', '-O3', '-S', '-o', output, source]);
  // The compiler's own name and version would change the file with every release.
  writeFileSync(join(root, output), readFileSync(join(root, output), 'utf8').replace(/^\/\/.*\n/gm, '').trimStart());
  if (isCommand('ptxas')) must('ptxas', ['-arch=sm_80', '-o', '/dev/null', output]);
  console.log(output);
}

function isCommand(name) {
  return spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0;
}
