/** What rate a workload's GPUs could carry at best. */
import type { LatencyProfile } from '../model/latency-profile.js';
import type { Workload } from './workload.js';

/** Enough to narrow a bracket that is no wider than its upper end down to the last bit of a double. */
const BISECTIONS = 60;

/**
 * The staggered optimum in requests per second: every model runs its largest batch with l(b)(1 + 1/G) <= SLO
 * (at least 1), G being *all* GPUs, and the GPUs' time is divided so that the models' shares are kept.
 * Several models cannot all be staggered over all GPUs, so this asks more than is possible; see `fluidBound`.
 */
export function staggeredOptimum(workload: Workload): number {
  const stretch = 1 + 1 / workload.gpus;
  let gpuNsPerRequest = 0;
  for (const { profile, sloNs, rateShare } of workload.models) {
    const b = Math.max(1, profile.largestBatchWithin(sloNs / stretch));
    gpuNsPerRequest += (rateShare * profile.latencyNs(b)) / b;
  }
  return (workload.gpus * 1e9) / gpuNsPerRequest;
}

/**
 * The fluid bound in requests per second: the rate at which the GPUs are just full when every model gathers its
 * batch over b/lambda and still finishes, b/lambda + l(b) <= SLO, with b >= 1 not bound to whole numbers.
 * Derived for even arrivals and nobody dropped; for random arrivals a yardstick, not a proof.
 */
export function fluidBound(workload: Workload): number {
  let low = 0;
  let high = 1;
  while (fluidGpus(workload, high) <= workload.gpus) {
    low = high;
    high *= 2;
  }
  for (let i = 0; i < BISECTIONS; i++) {
    const middle = (low + high) / 2;
    if (fluidGpus(workload, middle) <= workload.gpus) low = middle;
    else high = middle;
  }
  return low;
}

/** GPUs that are kept busy at this rate; grows with it. */
function fluidGpus(workload: Workload, ratePerSecond: number): number {
  let gpus = 0;
  for (const model of workload.models) {
    const perNs = ratePerSecond * model.rateShare * 1e-9;
    gpus += perNs * cheapestGpuNs(model.profile, perNs, model.sloNs);
  }
  return gpus;
}

/** The least l(b)/b over all b that can be gathered in time; between whole batches l is taken as a straight line. */
function cheapestGpuNs(profile: LatencyProfile, perNs: number, sloNs: number): number {
  const ns = profile.ns;
  let cheapestNs = ns[1]!;
  let b = 1;
  while (b < profile.maxBatch && (b + 1) / perNs + ns[b + 1]! <= sloNs) {
    b++;
    cheapestNs = Math.min(cheapestNs, ns[b]! / b);
  }
  const slackNs = sloNs - b / perNs - ns[b]!;
  if (b === profile.maxBatch || slackNs <= 0) return cheapestNs;
  const slopeNs = ns[b + 1]! - ns[b]!;
  const more = slackNs / (1 / perNs + slopeNs);
  return Math.min(cheapestNs, (ns[b]! + more * slopeNs) / (b + more));
}
