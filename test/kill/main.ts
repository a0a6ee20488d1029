/**
 * npm run kill -- [--count N] [--topology single|split] [--seed S] [--hangs H]
 *
 * Kills N (default 100) threads of a live scheduler under load, half of them in each topology, and prints what they died of, how
 * long recovery took and how many requests went through. On a loss it prints the seed and the kill point, and exits with 1.
 */
import { parseArgs } from 'node:util';
import { Copies } from '../sim/copies.js';
import { Killer } from './killer.js';
import { liveCopy } from './live.js';

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '100' },
    seed: { type: 'string', default: String(Date.now() & 0x7fffffff) },
    hangs: { type: 'string', default: '1' },
    topology: { type: 'string' },
  },
});

function wholeNumber(name: 'count' | 'seed' | 'hangs'): number {
  const value = Number(values[name]);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  console.error(`--${name}: got '${values[name]}', must be a whole number from 0 on`);
  process.exit(2);
}

function topologies(): ('single' | 'split')[] {
  const { topology } = values;
  if (topology === undefined) return ['single', 'split'];
  if (topology === 'single' || topology === 'split') return [topology];
  console.error(`--topology: got '${topology}', must be single or split`);
  process.exit(2);
}

const [count, seed, hangs] = [wholeNumber('count'), wholeNumber('seed'), wholeNumber('hangs')];
const chosen = topologies();
process.removeAllListeners('warning'); // one for each death
const copies = new Copies();
try {
  const copy = await liveCopy(copies);
  for (const topology of chosen) {
    const { deaths, replaced, points, recoveryMs, requests } = await new Killer(copy, { topology, count: Math.ceil(count / chosen.length), seed, hangs }).run();
    const quantile = (q: number): string => recoveryMs[Math.min(recoveryMs.length - 1, Math.floor(q * recoveryMs.length))]!.toFixed(1);
    const kinds = Object.entries(deaths).map(([kind, number]) => `${number} ${kind}`).join(', ');
    console.log(`${topology}, seed ${seed}: ${replaced} deaths (${kinds}) at ${points} of ${copy.points.length} kill points, ${requests} requests, lost 0, duplicated 0; recovery p50 ${quantile(0.5)} ms, p99 ${quantile(0.99)} ms`);
  }
} finally {
  copies.remove();
}
