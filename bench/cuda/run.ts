/** The load generator of `rubato bench` on a CUDA device: every slot has a cell of its own, so each request brings its tensors and gets them back. */
import { CudaAttachment } from '#rubato/devices/cuda/attachment.js';
import { CELL_ALIGN_BYTES, PAGE_BYTES } from '#rubato/protocol/arena.js';
import { LiveRun, type PhaseTotals } from '#rubato/cli/live-run.js';
import type { SourceSpec } from '#rubato/cli/sources.js';
import { resolveLayout } from '#rubato/model/tensor.js';
import { type MarginOptions, type ModelOptions, resolveOptions } from '#rubato/scheduler/options.js';
import { type GpuModel, optionsOf } from './models.js';

export interface GpuPhase {
  readonly source: SourceSpec;
  readonly seconds: number;
  readonly leadSeconds?: number;
}

export interface GpuTotals extends PhaseTotals {
  /** Share of the time for which the GPU had a batch, by its events, without the beginning and the end of the phase. NaN for one of less than half a second. */
  readonly busyShare: number;
}

/** By then it runs as it will. */
const SETTLED_SECONDS = 0.2;

export class GpuRun {
  readonly #run: LiveRun;
  readonly #attachment: CudaAttachment;

  private constructor(run: LiveRun, attachment: CudaAttachment) {
    this.#run = run;
    this.#attachment = attachment;
  }

  static async start(model: GpuModel, more: Partial<ModelOptions>, { maxInFlight, margins = {} }: { maxInFlight: number; margins?: MarginOptions }): Promise<GpuRun> {
    const most = 2 ** Math.ceil(Math.log2(maxInFlight));
    const options = optionsOf(model, more);
    const cellBytes = Math.ceil(resolveLayout(options.inputs, options.outputs, model.name)!.bytes / CELL_ALIGN_BYTES) * CELL_ALIGN_BYTES;
    const { config, arenaBytes, topology, models, cuda, cudaLimits } = resolveOptions({
      models: [options], devices: [{ kind: 'cuda', gpu: 0 }], topology: 'single', maxClients: 0, maxInFlight: most, memoryLimit: Math.ceil((most * cellBytes) / PAGE_BYTES) * PAGE_BYTES, margins,
    });
    const opened: { attachment?: CudaAttachment } = {};
    const run = await LiveRun.start({
      config, waiting: topology.waiting, clients: 1, shares: [1],
      devices: {
        arenaBytes,
        openCuda: (memory) => {
          opened.attachment = new CudaAttachment(memory, cuda, models.map((each) => each.cuda), cudaLimits);
          const cells = new Int32Array(memory.buffer, memory.cells, most);
          for (let slot = 0; slot < most; slot++) cells[slot] = (slot * cellBytes) / CELL_ALIGN_BYTES + 1;
          return opened.attachment.number;
        },
      },
    });
    const gpuRun = new GpuRun(run, opened.attachment!);
    try {
      await gpuRun.#attachment.ready();
    } catch (error) {
      await gpuRun.stop();
      throw error;
    }
    return gpuRun;
  }

  /** @throws Error when the GPU had a fault. */
  async phase({ source, seconds, leadSeconds = 0 }: GpuPhase): Promise<GpuTotals> {
    const looks: { atNs: number; busyNs: number }[] = [];
    const totals = await this.#run.phase({
      title: 'GPU', sources: [source], seconds: leadSeconds + seconds, leadSeconds, detailed: true,
      onProgress: (gone) => {
        if (gone < leadSeconds + SETTLED_SECONDS || gone >= leadSeconds + seconds) return;
        looks.push({ atNs: this.#run.engine.clock.nowNs(), busyNs: this.#attachment.busyNs(0) });
      },
    });
    const fault = this.#attachment.fault(0);
    if (fault !== null) throw new Error(`the GPU had a fault: ${fault}`);
    const [first, last] = [looks[0], looks.at(-1)];
    const busyShare = first === undefined || last === undefined || first === last ? NaN : (last.busyNs - first.busyNs) / (last.atNs - first.atNs);
    return { ...totals, busyShare };
  }

  async stop(): Promise<void> {
    await this.#run.stop();
    await this.#attachment.close();
  }
}
