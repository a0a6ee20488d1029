// node scripts/native-stress.mjs [speed | address | thread | plain] [SECONDS]: builds native/cuda/stress with the fake driver and
// runs it, `address` and `thread` under that sanitizer. Ends with its exit code.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildFakeCuda } from './fake-cuda.mjs';
import { filesBelow, modifiedMs, must, root } from './steps.mjs';

const FLAGS = { speed: ['-O2'], plain: ['-O1'], address: ['-fsanitize=address,undefined', '-fno-sanitize-recover=undefined'], thread: ['-fsanitize=thread'] };

const [mode = 'plain', seconds = '5'] = process.argv.slice(2);
if (!(mode in FLAGS)) {
  console.error(`got ${mode}, must be one of ${Object.keys(FLAGS).join(', ')}`);
  process.exit(1);
}
const folder = join(root, 'build/stress', mode);
mkdirSync(folder, { recursive: true });
buildFakeCuda({ flags: FLAGS[mode], into: folder });
const all = filesBelow('native/cuda').filter((file) => /^[\w-]+\.(cc|h)$|^stress\//.test(file)).map((file) => join(root, 'native/cuda', file));
const needsNode = /\/(addon|cuda_face|read_options|driver_probe|glibc_floor)\.cc$/;
const program = join(folder, 'stress');
if (modifiedMs(program) < Math.max(...all.map(modifiedMs))) {
  must(process.env.CXX ?? 'c++', ['-std=c++17', '-O1', '-g', '-Wall', '-Wextra', '-pthread', ...FLAGS[mode], '-o', program, ...all.filter((file) => file.endsWith('.cc') && !needsNode.test(file)), '-ldl']);
}
const library = join(folder, 'libfakecuda.so');
// What a lost device holds is not given back, by design: that is memory of the fake driver. Of our own nothing may leak.
const leaks = write('leaks.txt', 'leak:fakecuda');
// The C library frees the thread-local variables of a thread that has ended when it gives its stack to the next one, which TSan does not see to come after.
const races = write('races.txt', 'race:dl_deallocate_tls');
const env = { ...process.env, LSAN_OPTIONS: `suppressions=${leaks}:print_suppressions=0`, TSAN_OPTIONS: `suppressions=${races}` };
must(program, mode === 'speed' ? [library, 'speed'] : [library, 'faults', '1', seconds], { env });

function write(name, line) {
  const file = join(folder, name);
  writeFileSync(file, `${line}\n`);
  return file;
}
