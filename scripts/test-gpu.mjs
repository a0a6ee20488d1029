// npm run test:gpu: the tests of CUDA devices on the GPU of this machine. Without one it says why, and that is no failure.
import { join } from 'node:path';
import { build, installIfNeeded, root, run } from './steps.mjs';

installIfNeeded();
build('test');
const { cudaDevices } = await import('../dist/index.js');
const { available, reason, devices, driverVersion } = cudaDevices();
if (available) {
  console.log(`On ${devices[0].name}, driver for CUDA ${driverVersion}:`);
  const files = ['cuda', 'copies'].map((name) => join(root, `build/test/devices/cuda/${name}.test.js`));
  process.exitCode = run(process.execPath, ['--test', '--test-reporter=spec', '--test-concurrency=1', ...files], { env: { ...process.env, RUBATO_TEST_GPU: '1' } });
} else {
  console.log(`test:gpu: skipped, ${reason}`);
}
