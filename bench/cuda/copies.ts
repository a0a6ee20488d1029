/** Bandwidth between the tensors' memory and the GPU: registered memory beside the driver's own in C++, and the way through the scheduler. */
import { type BareCopy, bareCopies } from './bare.js';
import { carrier, type Effort, inputOf, quantile, startScheduler } from './models.js';

/** To the GPU (`in`), or from it. */
export interface CopiesReport {
  readonly bytes: number;
  readonly direction: 'in' | 'out';
  /** Null where native/cuda/bare was not built, or has failed. */
  readonly bare: BareCopy | null;
  /** GB/s. Null for a size whose copy drowns in the rest of the way. */
  readonly scheduler: number | null;
}

const SIZES = [64 * 2 ** 10, 2 ** 20, 16 * 2 ** 20];
/** What is taken off as the time of everything but the copy. */
const NOTHING_BYTES = 64;
const LEAST_BYTES = 16 * 2 ** 20;

export async function* copies(effort: Effort): AsyncGenerator<CopiesReport> {
  const bare = bareCopies(SIZES);
  const nothing = await timesOf(NOTHING_BYTES, effort);
  for (const bytes of SIZES) {
    const times = bytes < LEAST_BYTES ? null : await timesOf(bytes, effort);
    for (const direction of ['in', 'out'] as const) {
      yield {
        bytes, direction,
        bare: bare?.find((copy) => copy.bytes === bytes && copy.direction === direction) ?? null,
        scheduler: times === null ? null : bytes / 1e3 / (times[direction] - nothing[direction]),
      };
    }
  }
}

/** Medians of what the copies are in, µs: from the arrival, when the tensors lie in their cell, to the start; from the start to the end. */
async function timesOf(bytes: number, { quick }: Effort): Promise<Record<'in' | 'out', number>> {
  const model = carrier(bytes);
  const scheduler = await startScheduler(model);
  const input = inputOf(model);
  const results = [];
  for (let k = 0; k < (quick ? 10 : 60); k++) results.push(await scheduler.submitDetailed(model.name, input));
  await scheduler.close();
  return { in: quantile(results.map(({ queueMs }) => queueMs * 1e3), 0.5), out: quantile(results.map(({ execMs }) => execMs * 1e3), 0.5) };
}
