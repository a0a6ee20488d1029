/**
 * A running estimate of a high quantile of a delay, without memory of the samples: every sample above it raises it by
 * `quantile` steps, every other lowers it by 1 − `quantile` steps; a step is 5 % of the estimate.
 * State lies in one double of the caller's choice, so that it can be a shared word.
 */
export function followQuantile(cell: Float64Array, at: number, sampleNs: number, quantile: number, leastNs: number, mostNs: number): void {
  const estimate = cell[at]!;
  const step = 0.05 * estimate + 100;
  const next = estimate + (sampleNs > estimate ? quantile : quantile - 1) * step;
  cell[at] = next < leastNs ? leastNs : next > mostNs ? mostNs : next;
}
