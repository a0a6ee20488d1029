/** `scheduler.stats()`: what an operator wants to see, from the shared counters and histograms. */
import type { CudaModelStats } from '../devices/cuda/native.js';
import type { GpuAdvice } from '../protocol/advice.js';
import type { ModelCounters, StatsReader } from '../protocol/stats.js';
import type { ThreadStats } from './host-thread.js';
import { histogramOf, type Percentiles, percentilesMs, percentilesUs } from '../report/histogram.js';

export interface ModelStats extends ModelCounters {
  readonly meanBatch: number;
  /** Arrival → delivery. */
  readonly latencyMs: Percentiles;
  /** Arrival → start on the device. */
  readonly queueMs: Percentiles;
  /** Actual start of batches − planned start. */
  readonly latenessUs: Percentiles;
}

export interface GpuStats {
  /** Its number: results tell which GPU ran them, `removeDevice` takes it. */
  readonly gpu: number;
  readonly kind: 'emulated' | 'callback' | 'cuda';
  readonly batches: number;
  /** Share of the time since the start that it was busy. */
  readonly busyShare: number;
  /** Of a CUDA device: what it runs each model with. */
  readonly cuda?: readonly CudaModelStats[];
}

export interface SchedulerStats {
  readonly uptimeMs: number;
  /** The scheduler's own threads, and whether any had to be replaced. */
  readonly threads: readonly ThreadStats[];
  readonly models: readonly ModelStats[];
  readonly gpus: readonly GpuStats[];
  /** How many GPUs should be there, by what was measured until the end of the last epoch (option `advice`). */
  readonly gpusWanted: GpuAdvice;
  /** Requests of all models. `accepted` = completed + late + dropped + cancelled + failed + closed + inFlight. */
  readonly accepted: number;
  readonly refused: number;
  readonly completed: number;
  readonly late: number;
  readonly dropped: number;
  readonly cancelled: number;
  readonly failed: number;
  readonly closed: number;
  readonly inFlight: number;
}

/** What the stream manager knows of a CUDA device. There batches overlap: one's tensors are copied out while the next computes. */
export interface CudaGpuStats {
  readonly models: readonly CudaModelStats[];
  readonly busyNs: number;
}

export function readStats(reader: StatsReader, threads: readonly ThreadStats[], nowNs: number, cudaOf: (gpu: number) => CudaGpuStats | null): SchedulerStats {
  const numbers = reader.numbers();
  const models = reader.models().map((counters, index): ModelStats => {
    const model = numbers[index]!;
    return {
      ...counters,
      meanBatch: counters.batches === 0 ? 0 : counters.batched / counters.batches,
      latencyMs: percentilesMs(histogramOf(reader.histogram('latency', model))),
      queueMs: percentilesMs(histogramOf(reader.histogram('wait', model))),
      latenessUs: percentilesUs(histogramOf(reader.histogram('lateness', model))),
    };
  });
  // With the models that were removed since the start.
  const totals = reader.totals();
  const sum = (value: (model: ModelCounters) => number): number => totals.reduce((total, model) => total + value(model), 0);
  return {
    uptimeMs: nowNs / 1e6,
    threads,
    models,
    gpus: reader.gpus().map(({ gpu, emulated, batches, busyNs }) => {
      const cuda = cudaOf(gpu);
      const kind = emulated ? 'emulated' : cuda === null ? 'callback' : 'cuda';
      return { gpu, kind, batches, busyShare: nowNs === 0 ? 0 : (cuda?.busyNs ?? busyNs) / nowNs, ...(cuda !== null && { cuda: cuda.models }) };
    }),
    gpusWanted: reader.gpusWanted(),
    accepted: sum((model) => model.accepted),
    refused: sum((model) => model.refused),
    completed: sum((model) => model.completed),
    late: sum((model) => model.late),
    dropped: sum((model) => model.expired + model.queueFull + model.infeasible),
    cancelled: sum((model) => model.cancelled),
    failed: sum((model) => model.failed),
    closed: sum((model) => model.closed),
    inFlight: sum((model) => model.inFlight),
  };
}
