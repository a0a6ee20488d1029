// npm run test:gpu: the tests of CUDA devices on the GPU of this machine. Without one it says why, and that is no failure.
import { join } from 'node:path';
import { build, installIfNeeded, root, run } from './steps.mjs';

installIfNeeded();
build('test');
const { cudaDevices } = await import('../dist/index.js');
const { available, reason, devices, driverVersion } = cudaDevices();
if (available) {
  console.log(`On ${devices[0].name}, driver for CUDA ${driverVersion}:`);
  process.exitCode = run(process.execPath, ['--test', '--test-reporter=spec', join(root, 'build/test/devices/cuda/cuda.test.js')], { env: { ...process.env, RUBATO_TEST_GPU: '1' } });
} else {
  console.log(`test:gpu: skipped, ${reason}`);
}
