/**
 * α of a profile around the batches that a model runs: the slope of the chord of ℓ from 1 to `target`. A target of 1 has
 * none, and takes that to 2; where 2 is too large, every request costs ℓ(1).
 */
export function slopeOf(latencyNs: Float64Array, target: number, maxBatch: number): number {
  const to = target > 1 ? target : 2;
  return to > maxBatch ? latencyNs[1]! : (latencyNs[to]! - latencyNs[1]!) / (to - 1);
}
