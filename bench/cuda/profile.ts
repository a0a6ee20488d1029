/** ℓ(b): the time from the start to the end of batches, one at a time, as the stream manager reports it from the GPU's events. */
import { type Effort, type GpuModel, inputOf, MLP, SPIN, spreadOf, type Spread, startScheduler } from './models.js';

export interface ProfileReport {
  readonly model: string;
  readonly sizes: readonly (Spread & { readonly batch: number })[];
  /** The line through the medians (least squares), and how far the worst of them is off it. */
  readonly alphaUs: number;
  readonly betaUs: number;
  readonly worstResidualUs: number;
  readonly worstResidualShare: number;
}

const REPEATS = { quick: 15, whole: 400 };
const MOST_MS_PER_SIZE = 1500;
const WARM_UP = 5;

export async function* profile(effort: Effort): AsyncGenerator<ProfileReport> {
  for (const model of [SPIN, MLP]) yield await profileOf(model, effort);
}

export async function profileOf(model: GpuModel, { quick }: Effort): Promise<ProfileReport> {
  const scheduler = await startScheduler(model);
  const sizes = [];
  for (let batch = 1; batch <= model.maxBatch; batch *= 2) {
    const execUs: number[] = [];
    const untilMs = performance.now() + MOST_MS_PER_SIZE;
    const repeats = WARM_UP + (quick ? REPEATS.quick : REPEATS.whole);
    for (let k = 0; k < repeats && (performance.now() < untilMs || execUs.length < 2 * WARM_UP); k++) {
      // Those of one turn of the event loop are committed together, and are one batch.
      const results = await Promise.all(Array.from({ length: batch }, () => scheduler.submitDetailed(model.name, inputOf(model))));
      if (results.every(({ batchSize }) => batchSize === batch)) execUs.push(results[0]!.execMs * 1e3);
    }
    if (execUs.length <= WARM_UP) throw new Error(`model ${model.name}: no batches of ${batch} came together`);
    sizes.push({ batch, ...spreadOf(execUs.slice(WARM_UP)) });
  }
  await scheduler.close();
  return { model: model.name, sizes, ...fit(sizes.map(({ batch, p50Us }) => ({ batch, us: p50Us }))) };
}

function fit(points: readonly { batch: number; us: number }[]): Pick<ProfileReport, 'alphaUs' | 'betaUs' | 'worstResidualUs' | 'worstResidualShare'> {
  const mean = (of: (point: (typeof points)[number]) => number): number => points.reduce((sum, point) => sum + of(point), 0) / points.length;
  const [meanBatch, meanUs] = [mean(({ batch }) => batch), mean(({ us }) => us)];
  const alphaUs = mean(({ batch, us }) => (batch - meanBatch) * (us - meanUs)) / mean(({ batch }) => (batch - meanBatch) ** 2);
  const betaUs = meanUs - alphaUs * meanBatch;
  const residuals = points.map(({ batch, us }) => Math.abs(us - alphaUs * batch - betaUs));
  return { alphaUs, betaUs, worstResidualUs: Math.max(...residuals), worstResidualShare: Math.max(...residuals.map((off, i) => off / points[i]!.us)) };
}
