/** What a batch costs through the whole stack, beside the same graph launched by a C++ program that does nothing else. */
import { bareGraph, type BareGraph } from './bare.js';
import { type Effort, type GpuModel, inputOf, MLP, SPIN, type Spread, spreadOf, startScheduler } from './models.js';
import { GpuRun } from './run.js';

export interface OverheadReport {
  readonly model: string;
  readonly batch: number;
  /** Null where native/cuda/bare was not built, or has failed. */
  readonly bare: BareGraph | null;
  /** From `submit` to the results of a whole batch, nothing else under way. */
  readonly oneByOne: Spread;
  /** Under a load that is too high: full batches wait at all times, and what finds no room is refused. */
  readonly backToBackPerSecond: number;
  readonly meanBatch: number;
}

const CASES: readonly (readonly [GpuModel, number])[] = [[MLP, 1], [MLP, 64], [SPIN, 1]];
const WARM_UP = 20;
/** Times what the GPU can do, as the one-by-one times have it. */
const OVERLOAD = 2;
/** That may wait. */
const BATCHES = 16;
const LEAST_IN_FLIGHT = 64;
const MOST_RATE_PER_SECOND = 8e6;

export async function* overhead(effort: Effort): AsyncGenerator<OverheadReport> {
  for (const [model, batch] of CASES) {
    const bare = bareGraph(model, batch, effort);
    const oneByOne = await oneByOneOf(model, batch, effort);
    const perSecond = bare?.backToBackPerSecond ?? 1e6 / oneByOne.p50Us;
    yield { model: model.name, batch, bare, oneByOne, ...await backToBackOf(model, batch, OVERLOAD * perSecond, effort) };
  }
}

async function oneByOneOf(model: GpuModel, batch: number, { quick }: Effort): Promise<Spread> {
  const scheduler = await startScheduler(model, { maxBatch: batch });
  const us: number[] = [];
  const untilMs = performance.now() + (quick ? 50 : 1500);
  while (performance.now() < untilMs || us.length < 2 * WARM_UP) {
    const inputs = Array.from({ length: batch }, () => inputOf(model));
    const before = performance.now();
    await Promise.all(inputs.map((input) => scheduler.submit(model.name, input)));
    us.push((performance.now() - before) * 1e3);
  }
  await scheduler.close();
  return spreadOf(us.slice(WARM_UP));
}

async function backToBackOf(model: GpuModel, batch: number, batchesPerSecond: number, { quick }: Effort): Promise<Pick<OverheadReport, 'backToBackPerSecond' | 'meanBatch'>> {
  const ratePerSecond = Math.min(MOST_RATE_PER_SECOND, batchesPerSecond * batch);
  const run = await GpuRun.start(model, { maxBatch: batch, dropPolicy: 'never' }, { maxInFlight: Math.max(LEAST_IN_FLIGHT, BATCHES * batch) });
  try {
    const source = { kind: 'uniform', models: 1, ratePerSecond, seed: 1 } as const;
    await run.phase({ source, seconds: quick ? 0.1 : 0.3 });
    const { models, seconds } = await run.phase({ source, seconds: quick ? 0.3 : 2 });
    const { batches, batchedRequests } = models[0]!;
    return { backToBackPerSecond: batches / seconds, meanBatch: batchedRequests / batches };
  } finally {
    await run.stop();
  }
}
