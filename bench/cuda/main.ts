/**
 * node build/bench/cuda/main.js STEP [--quick]: one step of what `npm run test:gpu` measures, a line of JSON for each result as soon
 * as it is there. Each step is a process of its own, since a GPU that was lost stays lost for the process.
 */
import { parseArgs } from 'node:util';
import { copies } from './copies.js';
import { dispatch } from './dispatch.js';
import { goodput } from './goodput.js';
import type { Effort } from './models.js';
import { overhead } from './overhead.js';
import { profile } from './profile.js';

const STEPS: Readonly<Record<string, (effort: Effort) => AsyncGenerator<object>>> = { profile, dispatch, overhead, copies, goodput };

const { values, positionals } = parseArgs({ options: { quick: { type: 'boolean', default: false } }, allowPositionals: true });
const step = STEPS[positionals[0] ?? ''];
if (step === undefined || positionals.length > 1) {
  console.error(`got ${positionals.join(' ') || 'no step'}, must be one of ${Object.keys(STEPS).join(', ')}`);
  process.exit(1);
}
try {
  for await (const result of step({ quick: values.quick })) console.log(JSON.stringify(result));
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exit(1);
}
