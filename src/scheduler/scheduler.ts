/**
 * The object that users hold: client 0 of its own scheduler, and whatever changes, counts or ends it. Everything here
 * runs on the thread that made it.
 *
 * @module Scheduler
 */
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { CallbackDevice, type ExecuteBatch } from '../devices/callback.js';
import { CudaAttachment } from '../devices/cuda/attachment.js';
import { loadCudaStreams, loadNative } from '../devices/cuda/native.js';
import type { RubatoError } from '../model/errors.js';
import { ClientPort } from '../protocol/client-port.js';
import { HOST_CALLBACK } from '../protocol/config.js';
import { type CountedModel, StatsReader } from '../protocol/stats.js';
import { useFutex } from '../ringbuf/doorbell.js';
import { Client } from './client.js';
import { ModelDirectory, type ModelEntry } from './directory.js';
import { Engine, type RoleHost } from './engine.js';
import { ClosedError } from './errors.js';
import { LiveChanges } from './live-changes.js';
import { type DeviceOptions, type ModelChanges, type ModelOptions, type ResolvedModel, type ResolvedOptions, resolveOptions, type SchedulerOptions, type Topology } from './options.js';
import { RawClient } from './raw-client.js';
import { type OpenRecording, openRecording, Recorder } from './recorder.js';
import { ClientRegions } from './regions.js';
import { readStats, type SchedulerStats } from './stats.js';
import type { Ticket, TicketMessage } from './ticket.js';
import type { AnyModels, NoUnknownOptions, NoUnknownOptionsIn, SchedulerTypes, TypesFromModels, WithModel } from './types.js';

/** `close` waits this long for batches that run; then their requests end as closed. */
export const CLOSE_TIMEOUT_NS = 5e9;

export interface RemoveOptions {
  /** Serve what is queued, or finish what runs, first (default true). */
  drain?: boolean | undefined;
  /** Aborting rejects with its reason; the removal goes on all the same. */
  signal?: AbortSignal | undefined;
}

/**
 * Starts a scheduler: its threads, its shared memory. The types of its models follow from the options.
 * Throws `InvalidOptionError` for options that are wrong.
 */
export async function createScheduler<I = unknown, O = unknown, const M extends readonly ModelOptions[] = readonly ModelOptions[]>(
  options: SchedulerOptions<I, O, M> & { models: NoUnknownOptionsIn<M, ModelOptions> },
): Promise<Scheduler<TypesFromModels<M, I, O>>> {
  return Scheduler.start<TypesFromModels<M, I, O>>(resolveOptions(options));
}

export class Scheduler<T extends SchedulerTypes = AnyModels> extends Client<T> implements AsyncDisposable {
  readonly #engine: RoleHost;
  readonly #options: ResolvedOptions;
  readonly #stats: StatsReader;
  readonly #regions: ClientRegions;
  readonly #changes: LiveChanges;
  readonly #recorder: Recorder | null;
  /** By model number in use: for the statistics. */
  readonly #counted = new Map<number, CountedModel>();
  readonly #rawPorts = new Set<ClientPort>();
  readonly #tickets = new Set<MessagePort>();
  /** By GPU: its callback, null for an emulated one. */
  readonly #executes: (ExecuteBatch<unknown, unknown> | null)[];
  #device: CallbackDevice | null = null;
  readonly #cuda: CudaAttachment | null;
  #closed: Promise<void> | null = null;
  #stopped = false;
  #death: RubatoError | null = null;

  /** @internal */
  protected constructor(engine: RoleHost, options: ResolvedOptions, recording: OpenRecording | null, cuda: CudaAttachment | null = null) {
    super(engine.memory, engine.clock, 0, new ModelDirectory(options.models.map((model, number) => entryOf(model, number, engine.specs.tag(number)))));
    this.#engine = engine;
    this.#options = options;
    this.#cuda = cuda;
    this.#stats = new StatsReader(engine.memory, () => [...this.#counted.values()]);
    for (const { number, name } of this.directory.entries()) this.#counted.set(number, { number, name, before: null });
    this.#regions = new ClientRegions(engine);
    this.#changes = new LiveChanges(engine, this.#stats, options, cuda);
    this.#executes = [...options.executes];
    this.#recorder = recording === null ? null : new Recorder(recording, engine);
    if (options.config.gpus.some((gpu) => gpu.host === HOST_CALLBACK)) this.#device = this.#callbackDevice();
  }

  /** @internal */
  static async start<T extends SchedulerTypes>(options: ResolvedOptions): Promise<Scheduler<T>> {
    let scheduler: Scheduler<T> | null = null;
    const recording = options.record === null ? null : openRecording(options.record);
    const cuda: { attachment: CudaAttachment | null } = { attachment: null };
    const start = Engine.start(options.config, {
      waiting: options.topology.waiting,
      arenaBytes: options.arenaBytes,
      openCuda: (memory) => {
        // With models for CUDA, devices may come later; without the addon they cannot.
        if (options.cuda.length === 0 && (options.models.every((model) => model.cuda === null) || loadNative().native?.cudaOpen === undefined)) return null;
        cuda.attachment = new CudaAttachment(memory, options.cuda, options.models.map((model) => model.cuda), options.cudaLimits);
        return cuda.attachment.number;
      },
      onReplaced: ({ name, lastDeath, lastRecoveryMs }) =>
        process.emitWarning(`${name} has ended unexpectedly: ${lastDeath}; another took over after ${lastRecoveryMs!.toFixed(0)} ms`, { code: 'RUBATO_THREAD_REPLACED' }),
      onDeath: (reason) => {
        if (scheduler !== null) scheduler.#die(reason);
      },
    });
    let engine: Engine | null = null;
    try {
      engine = await start;
      await cuda.attachment?.ready();
    } catch (error) {
      await engine?.stop();
      await cuda.attachment?.close();
      throw error;
    }
    scheduler = new Scheduler<T>(engine, options, recording, cuda.attachment);
    if (cuda.attachment !== null) scheduler.#useCuda(cuda.attachment);
    void scheduler.pump();
    return scheduler;
  }

  #useCuda(attachment: CudaAttachment): void {
    useFutex(loadCudaStreams()); // this thread rings the dispatch thread, which may sleep in it
    attachment.watch((error) => {
      // The dispatcher has let go of it already; this is for the statistics and for `removeDevice`.
      this.#changes.removeDevice(error.gpu, false).catch(() => {});
      if (this.#options.onDeviceLost !== null) this.#options.onDeviceLost(error);
      else process.emitWarning(error);
    });
  }

  /** @internal */
  protected override failureAt(gpu: number): string | null {
    return this.#cuda?.fault(gpu) ?? null;
  }

  #callbackDevice(): CallbackDevice {
    return new CallbackDevice(this.memory, this.clock, this.#executes, (model) => this.directory.at(model), this.inputs, this.outputs);
  }

  /** Runs callback devices as well. @internal */
  protected override turn(): number {
    const work = this.#device === null ? 0 : this.#device.poll(this.clock.nowNs());
    // Not before: the user's function may have run for long, and other batches have ended meanwhile.
    return work + super.turn();
  }

  // ---------------------------------------------------------------- clients

  /** A raw client on this thread: numbers in and out, in bulk. At most `maxClients` can be open. */
  client(): RawClient {
    if (this.#closed !== null) throw this.closedReason();
    const { client } = this.#regions.take(false);
    const port = new ClientPort(this.memory, client);
    this.#rawPorts.add(port);
    let isOpen = true;
    return new RawClient(port, this.clock, this.directory, {
      memory: this.memory,
      closed: () => (this.#closed !== null ? this.closedReason() : isOpen ? null : new ClosedError('the client is closed')),
      stopped: () => (this.#stopped ? (this.#death ?? new ClosedError('the scheduler was closed while the request ran')) : null),
      close: () => {
        if (!isOpen) return;
        isOpen = false;
        this.#rawPorts.delete(port);
        if (!this.#stopped) this.#regions.release(client);
      },
    });
  }

  /**
   * The right to open a client on another thread of this program: pass it on, with `[ticket.port]` as the transfer list,
   * and open it there with `openClient`. Its place is free again when that client is closed or its thread ends.
   * Throws InvalidOptionError when `maxClients` are open.
   */
  ticket(): Ticket<T> {
    if (this.#closed !== null) throw this.closedReason();
    const { client, word } = this.#regions.take(true);
    const { port1, port2 } = new MessageChannel();
    this.#tickets.add(port1);
    // However the other thread ends, and only when it does nothing any more.
    port1.on('close', () => {
      this.#tickets.delete(port1);
      if (!this.#stopped) this.#regions.release(client);
    });
    port1.unref();
    return { port: port2, client, word, memory: this.memory, models: this.directory.entries() };
  }

  #tell(message: TicketMessage): void {
    for (const port of this.#tickets) port.postMessage(message);
  }

  // ---------------------------------------------------------------- changes while it runs

  /**
   * Adds a model; resolves when requests for it are taken, with this same scheduler, which now knows its types.
   * Throws InvalidOptionError for options that are wrong, a name that is taken, or when `maxModels` are there, and
   * CudaModelError with file and field for what CUDA devices cannot load; everything is then as before.
   */
  async addModel<const M extends ModelOptions>(options: M & NoUnknownOptions<M, ModelOptions>): Promise<Scheduler<WithModel<T, M>>> {
    this.#throwIfClosed();
    const { model, number, tag, before } = await this.#changes.addModel(options, (name) => this.directory.has(name));
    this.#recorder?.noteModel(number, model);
    const entry = entryOf(model, number, tag);
    this.#counted.set(number, { number, name: entry.name, before });
    this.directory.set(entry);
    this.#tell({ set: entry });
    return this as unknown as Scheduler<WithModel<T, M>>;
  }

  /**
   * Removes a model: new requests for it reject with UnknownModelError at once. Resolves when its last request has
   * ended; with `drain: false` those that are queued end as closed. Its name may then be used again.
   */
  async removeModel(model: keyof T & string, { drain = true, signal }: RemoveOptions = {}): Promise<void> {
    this.#throwIfClosed();
    signal?.throwIfAborted();
    const entry = this.directory.find(model);
    this.forget(entry);
    this.#tell({ remove: entry });
    for (const port of this.#rawPorts) port.commit(); // what nobody committed could not end
    const removed = this.#changes.removeModel(entry, drain).then(() => this.#counted.delete(entry.number));
    await abortable(removed, signal);
  }

  /**
   * Changes a model's SLO, profile, maxBatch, policies, onLate or `cuda` folder, which is then read again; what is left out
   * stays. Resolves when it is in force. Requests that were accepted keep their deadlines. Tensors cannot be changed.
   * CUDA devices load a new folder beside the old one: batches run in the old one until the new one is there.
   */
  async updateModel(model: keyof T & string, changes: ModelChanges): Promise<void> {
    this.#throwIfClosed();
    const entry = this.directory.find(model);
    const resolved = await this.#changes.updateModel(entry, changes);
    this.#recorder?.noteModel(entry.number, resolved);
    const changed = entryOf(resolved, entry.number, entry.tag);
    if (!this.directory.has(model) || this.directory.find(model).tag !== entry.tag) return; // it was removed meanwhile
    this.directory.set(changed);
    this.#tell({ set: changed });
  }

  /**
   * Adds a device (or `count` of them); resolves with the numbers of its GPUs when they take batches.
   * Throws InvalidOptionError when more than `maxDevices` would be there. A CUDA device first loads all models.
   */
  async addDevice(options: DeviceOptions<never, unknown>): Promise<number[]> {
    this.#throwIfClosed();
    return this.#changes.addDevice(options, (gpu, execute) => {
      this.#executes[gpu] = execute;
      if (execute !== null) this.#device ??= this.#callbackDevice();
    });
  }

  /**
   * Takes a GPU out of the pool: it gets no new batch from the moment this resolves, or with `drain` (the default) is also
   * done with those it had. Throws InvalidOptionError when there is no such GPU.
   */
  async removeDevice(gpu: number, { drain = true, signal }: RemoveOptions = {}): Promise<void> {
    this.#throwIfClosed();
    signal?.throwIfAborted();
    await abortable(this.#changes.removeDevice(gpu, drain), signal);
  }

  /**
   * Spreads the models over the shards by their measured rates; resolves with how many were moved. A model waits for its
   * running batches while it moves. Nothing to do in a scheduler of one shard.
   */
  async rebalance(): Promise<number> {
    this.#throwIfClosed();
    return this.#changes.rebalance(this.directory.entries().map(({ number }) => number));
  }

  #throwIfClosed(): void {
    if (this.#closed !== null) throw this.closedReason();
  }

  // ---------------------------------------------------------------- around it

  /** Threads and shards, and why these were chosen. */
  get topology(): Topology {
    return this.#options.topology;
  }

  /** Counters, latencies and GPU use since the start. */
  stats(): SchedulerStats {
    return readStats(this.#stats, this.#engine.threads, this.clock.nowNs(), (gpu) => (this.#cuda?.has(gpu) === true ? { models: this.#cuda.models(gpu), busyNs: this.#cuda.busyNs(gpu) } : null));
  }

  /**
   * Ends the scheduler: no new requests, queued ones reject with `ClosedError`, batches that run are waited for
   * (at most 5 s). Every promise is settled when it resolves. Calling it again gives the same promise.
   */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** @internal */
  protected override closedReason(): RubatoError {
    return this.#death ?? super.closedReason();
  }

  async #close(): Promise<void> {
    this.holdAlive(true);
    this.port.commit();
    for (const port of this.#rawPorts) port.commit(); // what nobody committed could not end
    this.#engine.startClosing();
    const untilNs = this.clock.nowNs() + CLOSE_TIMEOUT_NS;
    while (this.#hasOpenRequests() && this.#death === null && this.clock.nowNs() < untilNs) await this.#engine.soon();
    await this.#stop(this.#death ?? new ClosedError('the scheduler was closed while the request ran'));
  }

  /** Of this thread, until they have been delivered; of other clients, until they have ended. */
  #hasOpenRequests(): boolean {
    return this.inFlight > 0 || this.#stats.totals().some((model) => model.inFlight > 0);
  }

  async #stop(reason: RubatoError): Promise<void> {
    await this.#engine.stop();
    await this.#cuda?.close();
    this.#stopped = true;
    this.#changes.stop(reason);
    this.#regions.stop();
    this.#tell({ stopped: reason.message });
    for (const port of this.#tickets) port.close();
    this.end(reason);
    await this.#recorder?.close();
  }

  /** A scheduler thread is gone: nothing will end any more, so everything ends here. */
  #die(reason: RubatoError): void {
    this.#death = reason;
    this.#closed ??= this.#stop(reason);
  }
}

function entryOf({ config, layout, rejectLate }: ResolvedModel, number: number, tag: number): ModelEntry {
  return { name: config.name, number, tag, rejectLate, layout };
}

/** Rejects with the signal's reason when it is aborted first. */
function abortable<R>(work: Promise<R>, signal: AbortSignal | undefined): Promise<R> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    signal.addEventListener('abort', onAbort, { once: true });
    void work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

