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
import { CONDITIONS, DROP_POLICIES, HOST_EMULATED } from '#rubato/protocol/config.js';
import { VirtualHost, virtualConfig } from '#rubato/sim/virtual-host.js';

const { values } = parseArgs({
  options: {
    policy: { type: 'string', default: 'adaptive' },
    models: { type: 'string', default: '64' },
    gpus: { type: 'string', default: '64' },
    shards: { type: 'string', default: '1' },
    profile: { type: 'string', default: '500,86000' },
    'max-batch': { type: 'string', default: '128' },
    'slo-ms': { type: 'string', default: '20' },
    rate: { type: 'string', default: '10000000' },
    bulk: { type: 'string', default: '64' },
    requests: { type: 'string', default: '20000000' },
    runs: { type: 'string', default: '1' },
    loops: { type: 'string', default: 'compiled' },
  },
});

if (values.policy !== 'adaptive' && values.policy !== 'window') fail(`--policy: got ${values.policy}, allowed are adaptive and window`);
if (values.loops !== 'compiled' && values.loops !== 'script') fail(`--loops: got ${values.loops}, allowed are compiled and script`);
for (const [name, text] of Object.entries(values)) {
  const isWell = name === 'policy' || name === 'loops' || text.split(',').every((part) => Number(part) > 0) && text.split(',').length === (name === 'profile' ? 2 : 1);
  if (!isWell) fail(`--${name}: got ${text}, ${name === 'profile' ? 'two numbers above 0 with a comma between' : 'a number above 0'} is needed`);
}

function fail(message: string): never {
  console.error(`scale: ${message}`);
  process.exit(1);
}

const [alphaNs, betaNs] = values.profile.split(',').map(Number) as [number, number];
const maxBatch = Number(values['max-batch']);
const models = Number(values.models);
const bulk = Number(values.bulk);
const ratePerSecond = Number(values.rate);
const sloNs = Number(values['slo-ms']) * 1e6;

interface Cost {
  readonly perRequestNs: number;
  readonly perGrantNs: number;
  readonly goodShare: number;
  readonly meanBatch: number;
}

function measure(): Cost {
  const latencyNs = Float64Array.from({ length: maxBatch + 2 }, (_, b) => (b === 0 ? 0 : b > maxBatch ? Infinity : Math.round(alphaNs * b + betaNs)));
  const adaptive = values.policy === 'adaptive';
  const dropPolicy = DROP_POLICIES.indexOf(adaptive ? 'adaptive' : 'window');
  const condition = CONDITIONS.indexOf(adaptive ? 'adaptive' : 'frontrun');
  const host = new VirtualHost(
    virtualConfig({
      models: Array.from({ length: models }, (_, model) => ({ name: `m${model}`, sloNs, profile: 0, maxBatch, dropPolicy, condition, maxQueue: 100_000 })),
      profiles: [latencyNs],
      gpus: Array.from({ length: Number(values.gpus) }, (_, seed) => ({ host: HOST_EMULATED, slowdown: 1, jitter: 0, failureRate: 0, seed })),
      slotShift: Math.max(10, Math.ceil(Math.log2((1.5 * ratePerSecond * sloNs) / 1e9))),
      shards: Number(values.shards),
      compiledLoops: values.loops === 'compiled',
    }),
  );
  const stepNs = (bulk / ratePerSecond) * 1e9;
  const model = new Int32Array(bulk);
  const arrivalNs = new Float64Array(bulk);
  let nowNs = 0;
  let seed = 12345;
  const run = (requests: number): void => {
    for (let left = requests; left > 0; left -= bulk) {
      for (let i = 0; i < bulk; i++) {
        seed = (Math.imul(seed, 1103515245) + 12345) | 0;
        model[i] = Math.floor(((seed >>> 8) / 2 ** 24) * models);
        arrivalNs[i] = nowNs;
      }
      host.client.submitBulk(model, arrivalNs, 0, bulk);
      nowNs += stepNs;
      host.advanceTo(nowNs);
    }
  };
  const totals = (): { good: number; batches: number; batched: number } =>
    host.stats.models().reduce((sum, each) => ({ good: sum.good + each.completed, batches: sum.batches + each.batches, batched: sum.batched + each.batched }), { good: 0, batches: 0, batched: 0 });
  const requests = Number(values.requests);
  run(Math.max(requests / 4, (4 * ratePerSecond * sloNs) / 1e9));
  const before = totals();
  const usedBefore = process.cpuUsage();
  run(requests);
  const { user, system } = process.cpuUsage(usedBefore);
  const after = totals();
  const cpuNs = (user + system) * 1e3;
  const batches = after.batches - before.batches;
  return { perRequestNs: cpuNs / requests, perGrantNs: cpuNs / batches, goodShare: (after.good - before.good) / requests, meanBatch: (after.batched - before.batched) / batches };
}

const costs = Array.from({ length: Number(values.runs) }, measure);
const inOrder = (of: (cost: Cost) => number): number[] => costs.map(of).sort((a, b) => a - b);
const line = (name: string, sorted: number[]): string => `${name} ${sorted[sorted.length >> 1]!.toFixed(0)} ns (${sorted[0]!.toFixed(0)}-${sorted.at(-1)!.toFixed(0)})`;
console.log(
  `${values.policy}, ${models} models, ${values.gpus} GPUs, ${values.shards} shards: ${line('per request', inOrder((cost) => cost.perRequestNs))}, ` +
    `${line('per grant', inOrder((cost) => cost.perGrantNs))}, good ${(100 * costs[0]!.goodShare).toFixed(1)} %, mean batch ${costs[0]!.meanBatch.toFixed(1)}`,
);
