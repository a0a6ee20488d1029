/** What was measured of the paper authors' own program (PEER.md), and how the reference is measured beside it. */
import type { SymphonyOptions } from '#rubato/sim/policies/symphony-reference.js';
import { symphonyReference } from '#rubato/sim/policies/symphony-reference.js';
import { runRival } from '#rubato/sim/policies/run-rival.js';
import { badRate, type SimulationResult } from '#rubato/sim/result.js';
import { loadWorkload } from '#rubato/sim/workload.js';

export const PEER_MARGINS = { controlNs: 100e3, transferNs: 50e3, responseNs: 2e6, jitterNs: 100e3 };
export const WORKLOADS = ['r50', 'mix3', 'r50x16'] as const;
export const STAGGERED_OPTIMUM = { r50: 6979, mix3: 8314, r50x16: 6979 };

/** Highest goodput with at most 1 % bad, requests/s, and by how much the reference may miss it. */
export const GOODPUT: readonly { readonly rule: Required<SymphonyOptions>; readonly theirs: Readonly<Record<(typeof WORKLOADS)[number], number>>; readonly tolerance: number }[] = [
  { rule: { condition: 'frontrun', drop: 'window' }, theirs: { r50: 6754, mix3: 6986, r50x16: 5073 }, tolerance: 0.03 },
  { rule: { condition: 'immediate', drop: 'window' }, theirs: { r50: 6339, mix3: 7658, r50x16: 6091 }, tolerance: 0.03 },
  { rule: { condition: 'frontrun', drop: 'timeout' }, theirs: { r50: 6690, mix3: 7645, r50x16: 5569 }, tolerance: 0.03 },
  { rule: { condition: 'immediate', drop: 'timeout' }, theirs: { r50: 6753, mix3: 7645, r50x16: 6068 }, tolerance: 0.03 },
  { rule: { condition: 'target-size', drop: 'window' }, theirs: { r50: 6755, mix3: 6929, r50x16: 5632 }, tolerance: 0.03 },
  { rule: { condition: 'beta-lambda', drop: 'window' }, theirs: { r50: 6146, mix3: 7658, r50x16: 6126 }, tolerance: 0.05 },
  { rule: { condition: 'beta-lambda', drop: 'timeout' }, theirs: { r50: 6753, mix3: 7425, r50x16: 6065 }, tolerance: 0.05 },
];

/** By workload and condition (window drop), and load as a share of the staggered optimum: bad %, mean batch, mean busy GPUs. */
export const FIGURES: readonly (readonly [workload: 'r50' | 'mix3', condition: 'frontrun' | 'immediate', load: number, bad: number, batch: number, busy: number])[] = [
  ['r50', 'frontrun', 0.2, 0, 50, 1.7],
  ['r50', 'frontrun', 0.6, 0, 67, 4.8],
  ['r50', 'frontrun', 0.8, 0, 70, 6.4],
  ['r50', 'frontrun', 0.9, 0.01, 72, 7.2],
  ['r50', 'frontrun', 0.95, 0.33, 72, 7.6],
  ['r50', 'frontrun', 1.05, 5.7, 73, 7.9],
  ['r50', 'immediate', 0.2, 0, 1.3, 6.9],
  ['r50', 'immediate', 0.6, 0, 6, 8],
  ['r50', 'immediate', 0.8, 0, 14, 8],
  ['r50', 'immediate', 0.9, 0.28, 26, 8],
  ['r50', 'immediate', 0.95, 2.1, 34, 8],
  ['r50', 'immediate', 1.05, 8.8, 44, 8],
  ['mix3', 'frontrun', 0.6, 0, 50, 4.9],
  ['mix3', 'frontrun', 0.8, 0.19, 55, 6.5],
  ['mix3', 'frontrun', 0.9, 3.2, 57, 7.2],
  ['mix3', 'frontrun', 0.95, 6.2, 58, 7.4],
  ['mix3', 'frontrun', 1.05, 12.6, 59, 7.7],
  ['mix3', 'immediate', 0.6, 0, 5, 8],
  ['mix3', 'immediate', 0.8, 0, 12, 8],
  ['mix3', 'immediate', 0.9, 0.21, 23, 8],
  ['mix3', 'immediate', 0.95, 1.9, 33, 8],
  ['mix3', 'immediate', 1.05, 10.5, 46, 8],
];

export function runReference(workload: string, rule: SymphonyOptions, ratePerSecond: number, seed: number, seconds: number, peerCounting = false): SimulationResult {
  const options = { workload: loadWorkload(workload), gpus: 8, ratePerSecond, seed, seconds, warmupSeconds: 2, margins: PEER_MARGINS };
  return runRival(symphonyReference(rule), options, { peerCounting });
}

export function meanBad(workload: string, rule: SymphonyOptions, ratePerSecond: number, seeds: readonly number[], seconds: number): number {
  let sum = 0;
  for (const seed of seeds) sum += badRate(runReference(workload, rule, ratePerSecond, seed, seconds, true));
  return sum / seeds.length;
}

export interface Figures {
  readonly bad: number;
  readonly batch: number;
  readonly busy: number;
}

export function figures(result: SimulationResult): Figures {
  return {
    bad: 100 * badRate(result),
    batch: result.batched / result.batches,
    busy: result.busyNs.reduce((sum, ns) => sum + ns, 0) / (result.seconds * 1e9),
  };
}

/** What lies outside of what the printed digits and a few seconds of chance allow; '' when nothing does. */
export function farFrom(got: Figures, bad: number, batch: number, busy: number): string {
  const said = `bad ${got.bad.toFixed(2)} %, batch ${got.batch.toFixed(1)}, busy ${got.busy.toFixed(2)}`;
  const far: string[] = [];
  if (Math.abs(got.bad - bad) > 0.1 + 0.3 * Math.sqrt(bad)) far.push(`bad is not near ${bad} %`);
  if (Math.abs(got.batch - batch) > 0.5 + 0.04 * batch) far.push(`mean batch is not near ${batch}`);
  if (Math.abs(got.busy - busy) > 0.12) far.push(`busy GPUs are not near ${busy}`);
  return far.length === 0 ? '' : `${far.join(', ')}: ${said}`;
}
