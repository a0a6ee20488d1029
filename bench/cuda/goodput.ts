/**
 * The highest rate at which at most 1 % is bad, on the GPU: the policy `adaptive` beside eager batching, which is what the live
 * scheduler does under the condition `immediate` with the drop policy `timeout`. Poisson arrivals, one model. At that rate also
 * how busy the GPU is.
 */
import { parseArrivals } from '#rubato/sim/arrivals.js';
import { highestRate, judgeProbe, SUSTAINED_BAD_RATE } from '#rubato/cli/rate-search.js';
import type { SourceSpec } from '#rubato/cli/sources.js';
import { badRateOf } from '#rubato/cli/synthetic.js';
import type { ModelOptions } from '#rubato/scheduler/options.js';
import { type Effort, type GpuModel, MLP, SPIN } from './models.js';
import { profileOf } from './profile.js';
import { GpuRun, type GpuTotals } from './run.js';

export interface GoodputReport {
  readonly model: string;
  readonly sloMs: number;
  readonly policy: string;
  /** What it planned with: the line through the medians. */
  readonly alphaUs: number;
  readonly betaUs: number;
  /** What the GPU could run of full batches, by that line. */
  readonly capacityPerSecond: number;
  readonly ratePerSecond: number;
  readonly goodPerSecond: number;
  readonly badShare: number;
  /** Whether at most 1 % was bad at that rate, or at none that was tried. */
  readonly sustained: boolean;
  readonly meanBatch: number;
  readonly busyShare: number;
  /** How late the load generator was: not the GPU is measured where this is large. */
  readonly lagP999Ms: number;
}

const POLICIES: readonly { readonly name: string; readonly options: Partial<ModelOptions> }[] = [
  { name: 'adaptive', options: { condition: 'adaptive', dropPolicy: 'adaptive' } },
  { name: 'immediate + timeout', options: { condition: 'immediate', dropPolicy: 'timeout' } },
];
/** Some five times the largest batch of `spin`, and as many times what a batch of `mlp` may take with all margins. */
const CASES: readonly { readonly model: GpuModel; readonly sloMs: number }[] = [{ model: SPIN, sloMs: 20 }, { model: MLP, sloMs: 5 }];
/** The load generator and the scheduler's one thread take no more. */
const MOST_RATE_PER_SECOND = 5e6;
const FIRST_SHARE = 0.4;
const WARM_UP_SHARE = 0.3;
const LOWER = 0.95;
/** The search goes no further after this, and what it has found by then is confirmed. */
const SEARCH_MS = 15_000;
/** One that fails is tried again, until two agree; one during which somebody else had the machine says nothing. */
const MISSES = 2;
const MOST_TRIES = 4;

export async function* goodput(effort: Effort): AsyncGenerator<GoodputReport> {
  for (const { model, sloMs } of CASES) {
    const { alphaUs, betaUs } = await profileOf(model, effort);
    const measured = { ...model, alphaUs: Math.max(0, alphaUs), betaUs: Math.max(0, betaUs) };
    for (const policy of POLICIES) yield await goodputOf(measured, sloMs, policy, effort);
  }
}

async function goodputOf(model: GpuModel, sloMs: number, { name, options }: (typeof POLICIES)[number], { quick }: Effort): Promise<GoodputReport> {
  const { maxBatch, alphaUs, betaUs } = model;
  const capacityPerSecond = (maxBatch / (alphaUs * maxBatch + betaUs)) * 1e6;
  const most = Math.min(1.1 * capacityPerSecond, MOST_RATE_PER_SECOND);
  const run = await GpuRun.start(model, { ...options, slo: `${sloMs}ms` }, { maxInFlight: Math.max(4096, 4 * most * (sloMs / 1e3)) });
  try {
    const source = (ratePerSecond: number): SourceSpec => ({ kind: 'mix', models: [{ pattern: parseArrivals('poisson', 'arrivals'), ratePerSecond }], segments: [], seed: 1 });
    for (let k = 0; k < 3; k++) await run.phase({ source: source(WARM_UP_SHARE * most), seconds: quick ? 0.05 : 0.4 });
    const plan = { first: FIRST_SHARE * most, most, step: quick ? 3 : 1.5, missesToStop: 1, resolution: quick ? 1 : 0.02, least: 0.02 * most };
    const passes = async (rate: number): Promise<boolean> => {
      for (let tries = 0, misses = 0; tries < MOST_TRIES; tries++) {
        const verdict = judgeProbe((await run.phase({ source: source(rate), seconds: quick ? 0.2 : 1, leadSeconds: quick ? 0.05 : 0.2 })).stalls);
        if (verdict === 'sustained' || verdict === 'stalled') return true; // the confirmation excuses no stalls
        if (verdict === 'exceeded' && ++misses === MISSES || quick) return false;
      }
      return false;
    };
    const untilMs = performance.now() + SEARCH_MS;
    const { low, high } = await highestRate(plan, passes, () => performance.now() > untilMs);
    const { rate, totals } = await confirm(run, source, low > 0 ? low : high, quick);
    const { completed, batches, batchedRequests } = totals.models[0]!;
    const badShare = badRateOf(totals);
    return {
      model: model.name, sloMs, policy: name, alphaUs, betaUs, capacityPerSecond, ratePerSecond: rate, goodPerSecond: completed / totals.seconds,
      badShare, sustained: badShare <= SUSTAINED_BAD_RATE, meanBatch: batchedRequests / batches, busyShare: totals.busyShare, lagP999Ms: totals.lagP999Ms,
    };
  } finally {
    await run.stop();
  }
}

/** A run of full length at the rate that was found, which falls until at most 1 % is bad; the best of all if none is. */
async function confirm(run: GpuRun, source: (rate: number) => SourceSpec, found: number, quick: boolean): Promise<{ rate: number; totals: GpuTotals }> {
  let best: { rate: number; totals: GpuTotals } | null = null;
  let rate = found;
  for (let tries = 0; tries < (quick ? 1 : 4); tries++, rate *= LOWER) {
    const totals = await run.phase({ source: source(rate), seconds: quick ? 0.7 : 3 });
    if (best === null || badRateOf(totals) < badRateOf(best.totals)) best = { rate, totals };
    if (badRateOf(totals) <= SUSTAINED_BAD_RATE) break;
  }
  return best!;
}
