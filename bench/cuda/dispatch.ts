/** From the poll in which the dispatcher grants a batch its idle GPU, and wants it to start, to the GPU's start event on our clock. */
import { type BucketCounts, histogramOf, percentileNs } from '#rubato/report/histogram.js';
import { type Effort, type GpuModel, MLP, SPIN, type Spread } from './models.js';
import { GpuRun } from './run.js';

export interface DispatchReport {
  readonly model: string;
  readonly dispatchToStart: Spread;
  /** The way to the dispatcher included. */
  readonly requestToStart: Spread;
}

const RATE_PER_SECOND = 200;
/** Without margins the planned start is the time of the grant. */
const NO_MARGINS = { control: 0, transfer: 0, response: 0, jitter: 0 };

export async function* dispatch(effort: Effort): AsyncGenerator<DispatchReport> {
  for (const model of [SPIN, MLP]) yield await dispatchOf(model, effort);
}

async function dispatchOf(model: GpuModel, { quick }: Effort): Promise<DispatchReport> {
  const run = await GpuRun.start(model, { maxBatch: 1, slo: '1s' }, { maxInFlight: 1024, margins: NO_MARGINS });
  try {
    const source = { kind: 'uniform', models: 1, ratePerSecond: RATE_PER_SECOND, seed: 1 } as const;
    await run.phase({ source, seconds: quick ? 0.1 : 0.5 });
    const { lateness, models } = await run.phase({ source, seconds: quick ? 0.4 : 6 });
    const spread = (counts: BucketCounts): Spread => {
      const histogram = histogramOf(counts);
      return { p50Us: percentileNs(histogram, 50) / 1e3, p99Us: percentileNs(histogram, 99) / 1e3, count: histogram.totalCount };
    };
    return { model: model.name, dispatchToStart: spread(lateness!), requestToStart: spread(models[0]!.queue!) };
  } finally {
    await run.stop();
  }
}
