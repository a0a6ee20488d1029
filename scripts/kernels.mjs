// Rebuilds the compiled kernels that are checked in beside their sources: native/cuda/kernels/NAME.cu → NAME.ptx, and
// NAME.sm_XX.cubin for common chips. Takes a clang of the distribution (CLANG names another one) and, for the cubins, the
// assembler of CUDA 11.8 (Debian's nvidia-cuda-toolkit in bookworm/non-free has it; PTXAS names it), no other CUDA toolkit.
//
// PTX 6.0 for compute capability 6.0 is what every driver since CUDA 9.0 takes, for every chip since Pascal: a driver
// compiles PTX for its own chip, and refuses PTX that is newer than itself. With cubins it is the same: those of 11.8 are
// taken by every driver since CUDA 11, and by later ones; a newer assembler's only by drivers as new as itself.
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
/** 11.8 is the first that knows sm_89 and sm_90, and the last whose cubins any driver since CUDA 11 takes. */
const CHIPS = [70, 75, 80, 86, 89, 90];
const ASSEMBLER = /release 11\.8/;
const ptxas = [process.env.PTXAS, 'ptxas', '/usr/lib/nvidia-cuda-toolkit/bin/ptxas'].filter(Boolean).find((name) => ASSEMBLER.test(spawnSync(name, ['--version'], { encoding: 'utf8' }).stdout ?? ''));
if (!ptxas) {
  console.error('No ptxas of CUDA 11.8 found; name one in PTXAS. Without it the cubins would stay what they were, and run instead of the new PTX.');
  process.exit(1);
}

for (const file of filesBelow(folder).filter((each) => each.endsWith('.cu'))) {
  const source = join(folder, file);
  const output = source.replace(/\.cu$/, '.ptx');
  must(clang, ['-x', 'cuda', '--cuda-device-only', '--cuda-gpu-arch=sm_60', '-Xclang', '-target-feature', '-Xclang', '+ptx60', '-nocudainc', '-nocudalib', '-Wno-unknown-cuda-version', '-O3', '-S', '-o', output, source]);
  // The compiler's own name and version would change the file with every release.
  writeFileSync(join(root, output), readFileSync(join(root, output), 'utf8').replace(/^\/\/.*\n/gm, '').trimStart());
  console.log(output);
  for (const chip of CHIPS) must(ptxas, [`-arch=sm_${chip}`, '-o', output.replace(/ptx$/, `sm_${chip}.cubin`), output]);
}

function isCommand(name) {
  return spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0;
}
