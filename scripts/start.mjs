// npm start [-- OPTION…]: installs and builds what is needed, then runs the built-in workload. Silent unless it fails.
import { join } from 'node:path';
import { build, installIfNeeded, root, run } from './steps.mjs';

installIfNeeded();
build();
process.exitCode = run(process.execPath, [join(root, 'bin/rubato'), 'start', ...process.argv.slice(2)]);
