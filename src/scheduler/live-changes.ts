/**
 * Changes of a running scheduler, one after the other: each is written, published and acknowledged by every role before
 * the next is begun (protocol/specs.ts). Waiting is by looking again, since changes are rare.
 */
import type { ExecuteBatch } from '../devices/callback.js';
import type { CudaAttachment } from '../devices/cuda/attachment.js';
import { checkLargest, type CudaModel } from '../devices/cuda/model-file.js';
import { InvalidOptionError, type RubatoError } from '../model/errors.js';
import { bytesForCells, PAGE_BYTES } from '../protocol/arena.js';
import { MARGIN_CONTROL, MARGIN_JITTER, MARGIN_MOST, MARGIN_RESPONSE, mostMarginNs, type SharedMemory } from '../protocol/shared-memory.js';
import { GPU_ACTIVE, GPU_LEAVING, GPU_NONE, MODEL_ENDING, MODEL_FROZEN, MODEL_NONE, MODEL_SPEC } from '../protocol/specs.js';
import type { Baseline, StatsReader } from '../protocol/stats.js';
import { BATCH, DISPATCH_MODEL, GPU, SHARD_MODEL } from '../protocol/tables.js';
import { openRows } from '../shards/survey.js';
import type { ModelEntry } from './directory.js';
import type { RoleHost } from './engine.js';
import { resolveDevice, type ModelChanges, type ResolvedModel, type ResolvedOptions, resolveModel } from './options.js';
import { assignShards, leastLoadedShard } from './topology.js';

export interface AddedModel {
  readonly model: ResolvedModel;
  readonly number: number;
  readonly tag: number;
  readonly before: Baseline | null;
}

/**
 * Whether a model has no batch and no grant under way. By the rows of the batch table, not by the count of requests in them: the
 * count falls first, and a shard that dies in between has not ended the batch.
 */
export function isQuiet(memory: SharedMemory, model: number): boolean {
  const i32 = new Int32Array(memory.buffer);
  const shard = i32[(memory.specs >> 2) + model * MODEL_SPEC.words + MODEL_SPEC.at.shard]!;
  const answered = i32[(memory.shardModels >> 2) + model * SHARD_MODEL.words + SHARD_MODEL.at.answered]!;
  const issued = i32[(memory.dispatchModels >> 2) + model * DISPATCH_MODEL.words + DISPATCH_MODEL.at.issued]!;
  return answered === issued && !openRows(memory, shard).some(({ header }) => i32[header + BATCH.at.model] === model);
}

export class LiveChanges {
  readonly #engine: RoleHost;
  readonly #stats: StatsReader;
  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  /** By number in use. */
  readonly #models = new Map<number, ResolvedModel>();
  /** Numbers that were in use, the one that is free longest first. Others have never been. */
  readonly #freed: number[] = [];
  #firstUnused: number;
  readonly #cuda: CudaAttachment | null;
  /** Whether a name is being added. */
  readonly #coming = new Set<string>();
  #last: Promise<unknown> = Promise.resolve();
  #stopped: RubatoError | null = null;

  constructor(engine: RoleHost, stats: StatsReader, options: ResolvedOptions, cuda: CudaAttachment | null) {
    this.#engine = engine;
    this.#stats = stats;
    this.#i32 = new Int32Array(engine.memory.buffer);
    this.#f64 = new Float64Array(engine.memory.buffer, 0, engine.memory.buffer.byteLength >> 3);
    options.models.forEach((model, number) => this.#models.set(number, model));
    this.#firstUnused = options.models.length;
    this.#cuda = cuda;
  }

  /** The scheduler is gone: whatever is waited for will not come. */
  stop(reason: RubatoError): void {
    this.#stopped = reason;
  }

  /** Runs `work` when all earlier changes are done. */
  #inTurn<R>(work: () => Promise<R>): Promise<R> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => {});
    return result;
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      if (this.#stopped !== null) throw this.#stopped;
      await this.#engine.soon();
    }
  }

  async #publish(): Promise<void> {
    const version = this.#engine.specs.publish();
    await this.#until(() => this.#engine.specs.acknowledged(version));
  }

  // ---------------------------------------------------------------- models

  async addModel(given: unknown, isTaken: (name: string) => boolean): Promise<AddedModel> {
    const model = this.#resolve(given, 'model');
    const { name } = model.config;
    if (isTaken(name) || this.#coming.has(name)) throw new InvalidOptionError('model.name', `got '${name}', which is the name of another model already`);
    if (model.layout !== null && this.#engine.memory.arena === null) {
      throw new InvalidOptionError('model.inputs', `model '${name}' has tensors, and this scheduler was made without memory for any; give createScheduler a memoryLimit`);
    }
    if (model.layout !== null) {
      const needed = bytesForCells(2 * model.config.maxBatch, model.layout.bytes);
      const there = this.#engine.memory.pageCount * PAGE_BYTES;
      if (needed > there) throw new InvalidOptionError('model.inputs', `two batches of '${name}' take ${needed} bytes of tensors, this scheduler's memoryLimit is ${there}`);
    }
    this.#coming.add(name);
    try {
      return await this.#inTurn(() => this.#add(model));
    } finally {
      this.#coming.delete(name);
    }
  }

  async #add(model: ResolvedModel): Promise<AddedModel> {
    const { specs, memory } = this.#engine;
    const { models } = memory.limits;
    const isFresh = this.#firstUnused < models;
    const number = isFresh ? this.#firstUnused : this.#freed[0];
    if (number === undefined) throw new InvalidOptionError('maxModels', `all ${models} models are there; remove one first, or raise it in the options`);
    this.#checkCuda(model, 'model');
    if (model.cuda !== null) await this.#load(number, model.cuda);
    if (isFresh) this.#firstUnused++;
    else this.#freed.shift();
    const before = isFresh ? null : this.#stats.baseline(number);
    const assigned = [...this.#models.keys()].map((other) => ({ shard: specs.shardOf(other), load: this.#loadOf(other) }));
    this.#models.set(number, model);
    this.#noteSlos();
    specs.writeModel(number, model.config, model.profile, leastLoadedShard(assigned, memory.config.shards));
    await this.#publish();
    return { model, number, tag: specs.open(number), before };
  }

  /** The measured rate of a model, or what it is reckoned at while there is none. */
  #loadOf(number: number): number {
    const { ratePerSecond } = this.#stats.raw(number);
    return ratePerSecond > 0 ? ratePerSecond : this.#models.get(number)!.load;
  }

  async removeModel({ number }: ModelEntry, drain: boolean): Promise<void> {
    const { specs } = this.#engine;
    specs.close(number);
    if (!drain) {
      await this.#inTurn(async () => {
        specs.setState(number, MODEL_ENDING);
        await this.#publish();
      });
    }
    // Not in turn: it may take as long as the model's SLO.
    await this.#until(() => this.#stats.raw(number).inFlight === 0);
    await this.#inTurn(async () => {
      specs.setState(number, MODEL_NONE);
      await this.#publish();
      await this.#quiet(number); // the number's next owner must not find a grant under way
      if (this.#cuda !== null) {
        this.#cuda.removeModel(number);
        await this.#until(() => !this.#cuda!.isChanging);
      }
      this.#models.delete(number);
      this.#noteSlos();
      this.#freed.push(number);
    });
  }

  async updateModel(entry: ModelEntry, changes: ModelChanges): Promise<ResolvedModel> {
    const { number } = entry;
    for (const key of ['name', 'inputs', 'outputs'] as const) {
      if (key in changes) throw new InvalidOptionError(`changes.${key}`, 'cannot be changed; add another model and remove this one');
    }
    return this.#inTurn(async () => {
      const old = this.#models.get(number);
      if (old === undefined) throw new InvalidOptionError('model', `'${entry.name}' was removed meanwhile`);
      const given = { ...old.given, ...changes };
      // A folder that is not named again is not read again: the devices have what it was.
      const reads = 'cuda' in changes;
      const changed = this.#resolve(reads ? given : { ...given, cuda: undefined }, 'changes');
      const model = { ...changed, layout: old.layout, cuda: reads ? changed.cuda : old.cuda, given };
      this.#checkCuda(model, 'changes');
      // Batches of the old size may still come.
      if (model.cuda !== null) checkLargest(model.cuda, Math.max(model.config.maxBatch, old.config.maxBatch));
      if (reads && model.cuda !== null) await this.#load(number, model.cuda);
      this.#models.set(number, model);
      this.#noteSlos();
      this.#engine.specs.writeModel(number, model.config, model.profile, this.#engine.specs.shardOf(number));
      await this.#publish();
      return model;
    });
  }

  #checkCuda(model: ResolvedModel, path: string): void {
    if (model.cuda === null && this.#cuda?.hasDevices === true) {
      throw new InvalidOptionError(`${path}.cuda`, `is missing; with a device of kind 'cuda' every model needs the folder of its model.json`);
    }
  }

  /** The CUDA devices have a model under this number when it resolves, all of them; or none has, when it rejects. */
  async #load(number: number, model: CudaModel): Promise<void> {
    const cuda = this.#cuda;
    if (cuda === null) return;
    cuda.stage(model);
    await this.#until(() => !cuda.isChanging);
    // One that was lost by it must not be given the model.
    for (const gpu of cuda.lost) if (this.#engine.specs.gpuState(gpu) === GPU_ACTIVE) await this.#leave(gpu);
    let isLoaded = false;
    try {
      cuda.throwIfFailed([model]);
      isLoaded = true;
    } finally {
      cuda.settle(number, isLoaded);
      await this.#until(() => !cuda.isChanging);
    }
  }

  #resolve(given: unknown, path: string): ResolvedModel {
    const { config, limits } = this.#engine.memory;
    const model = resolveModel(given, path, 2 ** config.slotShift);
    if (model.config.maxBatch > limits.batch) {
      throw new InvalidOptionError(`${path}.maxBatch`, `its batches may have ${model.config.maxBatch} requests, this scheduler was made for at most ${limits.batch}; give a smaller one, or createScheduler a larger maxBatch`);
    }
    return model;
  }

  /**
   * Measured margins may be up to a tenth of the shortest SLO. Those of now are cut to that at once: they are measured
   * again only when batches run, and with too large ones no request of a quick model could.
   */
  #noteSlos(): void {
    const slos = [...this.#models.values()].map((model) => model.config.sloNs);
    if (slos.length === 0) return;
    const { config, margins } = this.#engine.memory;
    const { measureControl, measureResponse, measureJitter } = config.margins;
    const most = mostMarginNs(slos);
    const base = margins >> 3;
    this.#f64[base + MARGIN_MOST] = most;
    for (const [at, isMeasured] of [[MARGIN_CONTROL, measureControl], [MARGIN_RESPONSE, measureResponse], [MARGIN_JITTER, measureJitter]] as const) {
      if (isMeasured) this.#f64[base + at] = Math.min(this.#f64[base + at]!, most);
    }
  }

  // ---------------------------------------------------------------- shards

  /** Moves models so that the shards are loaded evenly; returns how many were moved. */
  async rebalance(numbers: readonly number[]): Promise<number> {
    const { shards } = this.#engine.memory.config;
    if (shards === 1) return 0;
    const wanted = assignShards(numbers.map((number) => this.#loadOf(number)), shards);
    let moved = 0;
    for (const [index, number] of numbers.entries()) {
      if (await this.#inTurn(() => this.#move(number, wanted[index]!))) moved++;
    }
    return moved;
  }

  /**
   * Gives a model to another shard: it is frozen until its batches have ended and no grant is under way, then its queue
   * goes over. Clients are told last, so the new owner never gets a request for a model it does not know.
   */
  async #move(number: number, shard: number): Promise<boolean> {
    const { specs } = this.#engine;
    if (!this.#models.has(number) || specs.tag(number) < 0 || specs.shardOf(number) === shard) return false;
    specs.setState(number, MODEL_FROZEN);
    await this.#publish();
    await this.#quiet(number);
    specs.moveTo(number, shard);
    await this.#publish();
    specs.route(number);
    return true;
  }

  /**
   * Waits until a model that its shard grants nothing any more has no batch and no grant under way. The dispatcher may have
   * acknowledged before its shard had published the empty candidate, and be about to grant the one before: only its
   * next acknowledgement says that it has seen the empty one. What it granted until then is answered by a refusal.
   */
  async #quiet(number: number): Promise<void> {
    await this.#publish();
    await this.#until(() => isQuiet(this.#engine.memory, number));
  }

  // ---------------------------------------------------------------- devices

  async addDevice(given: unknown, host: (gpu: number, execute: ExecuteBatch<unknown, unknown> | null) => void): Promise<number[]> {
    const devices = resolveDevice(given, 'device');
    return this.#inTurn(async () => {
      const { specs, memory } = this.#engine;
      const free = Array.from({ length: memory.limits.gpus }, (_, gpu) => gpu).filter((gpu) => specs.gpuState(gpu) === GPU_NONE && specs.canBe(gpu, devices[0]!.gpu.host));
      if (free.length < devices.length) {
        throw new InvalidOptionError('maxDevices', `${devices.length} more GPUs do not fit, ${memory.limits.gpus - free.length} of ${memory.limits.gpus} are there; raise it in the options`);
      }
      const numbers = free.slice(0, devices.length);
      if (devices[0]!.cuda !== null) await this.#attach(devices[0]!.cuda, numbers[0]!);
      numbers.forEach((gpu, i) => {
        host(gpu, devices[i]!.execute);
        specs.writeGpu(gpu, devices[i]!.gpu);
      });
      await this.#publish();
      return numbers;
    });
  }

  /** A CUDA device has loaded all models when it resolves. */
  async #attach(gpu: number, row: number): Promise<void> {
    const cuda = this.#cuda;
    const without = [...this.#models.values()].find((model) => model.cuda === null);
    if (without !== undefined) throw new InvalidOptionError('device.kind', `a device of kind 'cuda' runs models with a folder 'cuda', and '${without.config.name}' has none`);
    if (cuda === null) {
      throw new InvalidOptionError('device.kind', "a device of kind 'cuda' takes the native addon, and a scheduler that had a CUDA device or a model with a folder 'cuda' at its start");
    }
    cuda.addDevice({ gpu, row, path: 'device.gpu' });
    await this.#until(() => !cuda.isChanging);
    try {
      cuda.throwIfFailed([...this.#models.values()].map((model) => model.cuda));
    } catch (error) {
      await this.#detach(row);
      throw error;
    }
  }

  async #detach(row: number): Promise<void> {
    this.#cuda!.removeDevice(row);
    await this.#until(() => !this.#cuda!.isChanging);
  }

  async removeDevice(gpu: number, drain: boolean): Promise<void> {
    const { specs, memory } = this.#engine;
    const { gone } = await this.#inTurn(async () => {
      if (!(Number.isInteger(gpu) && gpu >= 0 && gpu < memory.limits.gpus) || specs.gpuState(gpu) !== GPU_ACTIVE) {
        throw new InvalidOptionError('gpu', `got ${gpu}, there is no GPU of that number in the pool`);
      }
      return this.#leave(gpu);
    });
    if (drain) await gone;
  }

  /** A GPU gets no new batch when it resolves; `gone` when its row is free. */
  async #leave(gpu: number): Promise<{ gone: Promise<void> }> {
    const { specs } = this.#engine;
    specs.setGpuState(gpu, GPU_LEAVING);
    await this.#publish();
    const gone = this.#until(() => this.#isIdle(gpu)).then(() =>
      this.#inTurn(async () => {
        if (this.#cuda?.has(gpu) === true) await this.#detach(gpu);
        specs.setGpuState(gpu, GPU_NONE);
        await this.#publish();
      }),
    );
    gone.catch(() => {}); // the scheduler may be closed before
    return { gone };
  }

  #isIdle(gpu: number): boolean {
    const at = (this.#engine.memory.gpus >> 2) + gpu * GPU.words;
    // In the order in which a batch goes through them: looked at the other way round, one that moves on meanwhile is missed.
    return this.#i32[at + GPU.at.grantModel] === -1 && this.#i32[at + GPU.at.nextRow] === -1 && this.#i32[at + GPU.at.runRow] === -1;
  }
}
