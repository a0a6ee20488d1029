/**
 * What the roles cost per request and per grant, against models, GPUs and shards: all of them and one client in one thread,
 * under the virtual clock, so that nothing but their own work counts.
 *
 *   node build/bench/scale.js [--policy adaptive|window] [--models N] [--gpus N] [--shards N] [--profile ALPHA_NS,BETA_NS]
 *     [--max-batch N] [--slo-ms MS] [--rate R] [--bulk N] [--requests N] [--runs N] [--loops compiled|script]
 *
 * Prints CPU nanoseconds per request and per grant (median, least and most of the runs), and the share of good requests.
 */
import { parseArgs } from 'node:util';
import { aboveZero, LOAD_FLAGS, type LoadOptions, loadOptions, usedNs, VirtualLoad } from './virtual-load.js';

interface Cost {
  readonly perRequestNs: number;
  readonly perGrantNs: number;
  readonly goodShare: number;
  readonly meanBatch: number;
}

function measure(options: LoadOptions, requests: number): Cost {
  const load = new VirtualLoad(options);
  load.run(Math.max(requests / 4, load.untilSteady));
  const before = load.totals();
  const usedBefore = usedNs();
  load.run(requests);
  const cpuNs = usedNs() - usedBefore;
  const after = load.totals();
  const batches = after.batches - before.batches;
  return { perRequestNs: cpuNs / requests, perGrantNs: cpuNs / batches, goodShare: (after.good - before.good) / requests, meanBatch: (after.batched - before.batched) / batches };
}

function main(): void {
  const { values } = parseArgs({ options: { ...LOAD_FLAGS, requests: { type: 'string', default: '20000000' }, runs: { type: 'string', default: '1' } } });
  const options = loadOptions(values);
  const requests = aboveZero('--requests', values.requests);
  const costs = Array.from({ length: aboveZero('--runs', values.runs) }, () => measure(options, requests));
  const inOrder = (of: (cost: Cost) => number): number[] => costs.map(of).sort((a, b) => a - b);
  const line = (name: string, sorted: number[]): string => `${name} ${sorted[sorted.length >> 1]!.toFixed(0)} ns (${sorted[0]!.toFixed(0)}-${sorted.at(-1)!.toFixed(0)})`;
  console.log(
    `${options.policy}, ${options.models} models, ${options.gpus} GPUs, ${options.shards} shards: ${line('per request', inOrder((cost) => cost.perRequestNs))}, ` +
      `${line('per grant', inOrder((cost) => cost.perGrantNs))}, good ${(100 * costs[0]!.goodShare).toFixed(1)} %, mean batch ${costs[0]!.meanBatch.toFixed(1)}`,
  );
}

try {
  main();
} catch (error) {
  console.error(`scale: ${(error as Error).message}`);
  process.exitCode = 1;
}
