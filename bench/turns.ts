/**
 * Which of several builds costs less, on a machine whose speed changes from second to second: they take turns of 10 ms of virtual
 * time in one process, and what counts is the ratio of turns that lie side by side.
 *
 *   node build/bench/turns.js [the flags of scale.js, but for --requests and --runs] [--seconds S] ROOT ROOT…
 *
 * A ROOT is a folder with a `dist`; a copy of one, with one thing changed, will do (beside it `package.json` and `node_modules`). Prints for each the median and the
 * tenth percentile of CPU nanoseconds per request, and the median ratio to the first.
 */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { aboveZero, buildIn, LOAD_FLAGS, loadOptions, usedNs, VirtualLoad } from './virtual-load.js';

const TURN_SECONDS = 0.01;
/** Until V8 has compiled what is hot. */
const WARM_UP_REQUESTS = 2e6;

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({ options: { ...LOAD_FLAGS, seconds: { type: 'string', default: '30' } }, allowPositionals: true });
  const options = loadOptions(values);
  const seconds = aboveZero('--seconds', values.seconds);
  if (positionals.length < 2) throw new RangeError(`got ${positionals.length} builds, at least two are needed`);
  const sides: { readonly root: string; readonly load: VirtualLoad; readonly costs: number[] }[] = [];
  for (const root of positionals) sides.push({ root, load: new VirtualLoad(options, await buildIn(resolve(root))), costs: [] });
  for (const { load } of sides) load.run(Math.max(WARM_UP_REQUESTS, load.untilSteady));

  const requests = Math.ceil((options.ratePerSecond * TURN_SECONDS) / options.bulk) * options.bulk;
  const endMs = performance.now() + 1e3 * seconds;
  for (let round = 0; performance.now() < endMs; round++) {
    // Each begins as often as the others: what the first of a round leaves in the caches is not always the same build's.
    for (let k = 0; k < sides.length; k++) {
      const { load, costs } = sides[(round + k) % sides.length]!;
      const before = usedNs();
      load.run(requests);
      costs.push((usedNs() - before) / requests);
    }
  }
  for (const { root, costs } of sides) {
    const ratio = quantile(costs.map((cost, round) => cost / sides[0]!.costs[round]!), 0.5);
    console.log(`${root}: ${quantile(costs, 0.5).toFixed(0)} ns per request (p10 ${quantile(costs, 0.1).toFixed(0)}), ${ratio.toFixed(3)} of the first, ${costs.length} turns`);
  }
}

function quantile(values: readonly number[], share: number): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length * share)]!;
}

main().catch((error: unknown) => {
  console.error(`turns: ${(error as Error).message}`);
  process.exitCode = 1;
});
