/** What a simulated run is asked, and what it answers: the same for every policy, ours or a rival's. Times in ns. */
import type { Workload } from './workload.js';

export interface SimulationOptions {
  readonly workload: Workload;
  readonly gpus: number;
  /** Of all models together; each gets its share. */
  readonly ratePerSecond: number;
  readonly seed: number;
  /** Requests that arrive within these seconds count; what comes in the warm-up before them does not. */
  readonly seconds: number;
  readonly warmupSeconds: number;
  readonly margins: SimulationMargins;
}

/** c, δ, r, j of the scheduling rules. A request is good when its result is at its client within its SLO: device end + r ≤ arrival + SLO. */
export interface SimulationMargins {
  readonly controlNs: number;
  readonly transferNs: number;
  readonly responseNs: number;
  readonly jitterNs: number;
}

export interface SimulatedModel {
  readonly name: string;
  readonly offered: number;
  readonly good: number;
  readonly late: number;
  readonly dropped: number;
  readonly batches: number;
  readonly batched: number;
  /** Arrival → device end of those that ran. */
  readonly latencyP50Ns: number;
  readonly latencyP99Ns: number;
}

export interface SimulationResult {
  readonly policy: string;
  readonly offered: number;
  readonly good: number;
  readonly late: number;
  /** By reason: expired, queue-full, infeasible, or what a rival calls its own. */
  readonly droppedByReason: Readonly<Record<string, number>>;
  /** Batches that were started in the counted time, and the requests in them; pre-empted ones count as batches of none. */
  readonly batches: number;
  readonly batched: number;
  /** By GPU: time busy within the counted seconds, wasted work of pre-empted batches included. */
  readonly busyNs: readonly number[];
  readonly seconds: number;
  readonly models: readonly SimulatedModel[];
}

/** 1 − good / offered. 0 when nothing was offered. */
export function badRate({ offered, good }: Pick<SimulationResult, 'offered' | 'good'>): number {
  return offered === 0 ? 0 : 1 - good / offered;
}
