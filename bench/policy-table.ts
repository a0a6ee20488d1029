/**
 * node build/bench/policy-table.js [--workloads r50,mix3@64,drawn:7:50] [--policies A,B,…] [--requests N] [--seed N]: the highest
 * rate with at most 1 % bad, as a share of the lower of the two bounds, and what the first policy has of the best of the others.
 * `drawn:SEED:COUNT` are workloads drawn from a seed, `drawn:SEED:FROM-TO` those with these numbers, NAME@G is a shipped one on G GPUs. One thread, minutes.
 */
import { parseArgs } from 'node:util';
import { renderTable } from '#rubato/report/table.js';
import { goodputShare } from '#rubato/sim/compare.js';
import { drawnWorkload } from '#rubato/sim/drawn-workload.js';
import { policyName } from '#rubato/sim/own-policies.js';
import { loadWorkload, type Workload } from '#rubato/sim/workload.js';

const { values } = parseArgs({
  options: {
    workloads: { type: 'string', default: 'drawn:1:12' },
    policies: { type: 'string', default: 'adaptive,immediate+adaptive,frontrun+adaptive,immediate+window,frontrun+window' },
    requests: { type: 'string', default: '120000' },
    seed: { type: 'string', default: '7' },
  },
});

function positive(name: 'requests' | 'seed'): number {
  const value = Number(values[name]);
  if (!Number.isInteger(value) || value < 1) throw new RangeError(`--${name} ${values[name]}: it must be a positive integer`);
  return value;
}

function workloadsOf(word: string): Workload[] {
  const drawn = /^drawn:(\d+):(?:(\d+)-)?(\d+)$/.exec(word);
  if (drawn !== null) {
    const from = Number(drawn[2] ?? 0);
    const count = drawn[2] === undefined ? Number(drawn[3]) : Number(drawn[3]) - from + 1;
    return Array.from({ length: count }, (_, k) => drawnWorkload(Number(drawn[1]), from + k));
  }
  const [name, gpus] = word.split('@');
  const workload = loadWorkload(name!);
  return [gpus === undefined ? workload : { ...workload, gpus: Number(gpus) }];
}

const comparison = { requests: positive('requests'), seed: positive('seed') };
const policies = values.policies.split(',').map((each) => policyName(each, '--policies'));
const workloads = values.workloads.split(',').flatMap(workloadsOf);
const rows: string[][] = [];
const ratios: number[] = [];
for (const workload of workloads) {
  const shares: number[] = [];
  for (const policy of policies) shares.push(await goodputShare(policy, workload, comparison, Math.max(0.1, ...shares.slice(-1))));
  const best = Math.max(...shares.slice(1));
  const ratio = best > 0 ? shares[0]! / best : 1;
  ratios.push(ratio);
  rows.push([workload.name, String(workload.gpus), String(workload.models.length), workload.arrivals.kind, ...shares.map((share) => share.toFixed(3)), ratio.toFixed(3)]);
  process.stderr.write(`${rows.at(-1)!.join(' ')}\n`);
}
const columns = ['workload', 'GPUs', 'models', 'arrivals', ...policies, 'of best'];
console.log(renderTable(columns.map((head) => ({ head })), rows));
ratios.sort((a, b) => a - b);
console.log(`${policies[0]} has of the best other: least ${ratios[0]!.toFixed(3)}, median ${ratios[ratios.length >> 1]!.toFixed(3)}; below 0.99 on ${ratios.filter((ratio) => ratio < 0.99).length}, below 0.97 on ${ratios.filter((ratio) => ratio < 0.97).length} of ${ratios.length}`);
