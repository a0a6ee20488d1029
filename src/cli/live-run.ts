/**
 * A scheduler under load in real time: starts its thread and the threads that generate load, runs phases, and takes
 * the totals of each. The benchmarks and `rubato start` stand on it.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { RubatoError } from '../model/errors.js';
import type { SchedulerConfig } from '../protocol/config.js';
import { CLIENT_OPEN } from '../protocol/shared-memory.js';
import { type ModelCounters, StatsReader } from '../protocol/stats.js';
import type { HISTOGRAM } from '../protocol/tables.js';
import { machineFacts, type ModelTotals, type RunTotals } from '../report/run-report.js';
import { histogramOf, percentileNs, sumCounts } from '../report/histogram.js';
import { Engine, type EngineOptions } from '../scheduler/engine.js';
import type { WaitingStrategy } from '../scheduler/waiter.js';
import type { DeadlineOrder } from './deadline-order.js';
import { COUNT_WORD, type LoadThreadData, type PhaseOrder, type PhaseResult, STOP_WORD } from './load-protocol.js';
import type { SourceSpec } from './sources.js';
import { joinStalls, type PhaseStalls } from './stalls.js';

export interface LiveRunOptions {
  readonly config: SchedulerConfig;
  readonly waiting: WaitingStrategy;
  /** Threads that generate load, each a client. */
  readonly clients: number;
  /** Each model's share of the requests; they sum to 1. */
  readonly shares: readonly number[];
  /** For CUDA devices. Whoever opens them closes them, after `stop`. */
  readonly devices?: Pick<EngineOptions, 'arenaBytes' | 'openCuda'>;
}

export interface Phase {
  readonly title: string;
  /** One per client. */
  readonly sources: readonly SourceSpec[];
  readonly seconds: number;
  /** Default: every request has its model's SLO. */
  readonly deadlines?: DeadlineOrder;
  /** Seconds at the start that `stalls` does not count, for queues and GPUs to fill; default 0. The other totals count them. */
  readonly leadSeconds?: number;
  /** Whether the totals carry histograms; without them a phase with thousands of models is cheaper to read. */
  readonly detailed: boolean;
  /** Called about ten times a second with the seconds gone and the requests offered so far. */
  readonly onProgress?: (seconds: number, offered: number) => void;
}

export interface PhaseTotals extends RunTotals {
  /** How late the load was sent: p99.9 and worst, in ms. The load itself fell behind if these are large. */
  readonly lagP999Ms: number;
  readonly lagMaxMs: number;
  readonly stalls: PhaseStalls;
  readonly interrupted: boolean;
}

/** A beginning in the future, so that all threads begin at once. */
const HEAD_START_NS = 2e6;
const PROGRESS_MS = 100;
const KINDS = ['latency', 'wait', 'exec', 'delivery', 'lateness'] as const satisfies readonly (keyof typeof HISTOGRAM)[];

interface Snapshot {
  readonly models: readonly ModelCounters[];
  readonly busyNs: readonly number[];
  readonly gpuBatches: readonly number[];
  readonly rows: Readonly<Record<(typeof KINDS)[number], readonly Float64Array[]>> | null;
  readonly cpu: NodeJS.CpuUsage;
  /** When it was taken. */
  readonly readNs: number;
}

export class LiveRun {
  readonly engine: Engine;
  readonly #stats: StatsReader;
  readonly #threads: Worker[];
  readonly #controls: Int32Array[];
  readonly #capacityPerSecond: number;
  #interrupted = false;
  #death: RubatoError | null = null;

  private constructor(engine: Engine, clients: number, shares: readonly number[]) {
    this.engine = engine;
    this.#capacityPerSecond = gpuCapacityPerSecond(engine.memory.config, shares);
    this.#stats = new StatsReader(engine.memory);
    const buffers = Array.from({ length: clients }, () => new SharedArrayBuffer(64));
    this.#controls = buffers.map((buffer) => new Int32Array(buffer));
    this.#threads = buffers.map((control, client) => {
      const workerData: LoadThreadData = { memory: engine.memory, client, control };
      const thread = new Worker(new URL('./load.worker.js', import.meta.url), { workerData });
      thread.on('error', (error) => this.#die(new RubatoError('ERR_RUBATO_THREAD_DIED', `a load thread has failed: ${error.message}`, { cause: error })));
      return thread;
    });
  }

  static async start({ config, waiting, clients, shares, devices = {} }: LiveRunOptions): Promise<LiveRun> {
    const holder: { run?: LiveRun } = {};
    const onDeath = (reason: RubatoError): void => {
      if (holder.run !== undefined) holder.run.#die(reason);
    };
    const engine = await Engine.start(config, { ...devices, waiting, onDeath });
    for (let client = 0; client < clients; client++) engine.specs.setClientState(client, CLIENT_OPEN);
    engine.specs.publish();
    const run = new LiveRun(engine, clients, shares);
    holder.run = run;
    touchPages(engine.memory.buffer);
    await Promise.all(run.#threads.map((thread) => once(thread, 'online')));
    return run;
  }

  #die(reason: RubatoError): void {
    this.#death ??= reason;
    this.interrupt();
  }

  #throwIfDead(): void {
    if (this.#death !== null) throw this.#death;
  }

  /** Ends the phase under way; its totals are those of the part that ran. */
  interrupt(): void {
    this.#interrupted = true;
    for (const words of this.#controls) Atomics.store(words, STOP_WORD, 1);
  }

  get interrupted(): boolean {
    return this.#interrupted;
  }

  /** Runs one phase: offers the load, waits for what is in flight, and returns what has changed since its beginning. */
  async phase({ title, sources, seconds, deadlines = 'in-order', leadSeconds = 0, detailed, onProgress }: Phase): Promise<PhaseTotals> {
    this.#throwIfDead();
    for (const words of this.#controls) words[COUNT_WORD] = 0;
    const before = this.#snapshot(detailed);
    const startNs = this.engine.clock.nowNs() + HEAD_START_NS;
    const endNs = startNs + seconds * 1e9;
    const slowestNs = Math.max(...this.engine.memory.config.models.map((model) => model.sloNs));
    const progress = setInterval(() => {
      const offered = this.#controls.reduce((sum, words) => sum + words[COUNT_WORD]!, 0);
      onProgress?.(Math.min(seconds, Math.max(0, (this.engine.clock.nowNs() - startNs) / 1e9)), offered);
    }, PROGRESS_MS);
    try {
      const order = { deadlines, startNs, countFromNs: startNs + leadSeconds * 1e9, endNs, settleNs: 2 * slowestNs + 1e9 };
      const results = await Promise.all(this.#threads.map((thread, client) => this.#order(thread, { ...order, source: sources[client]! })));
      this.#throwIfDead();
      return this.#totals(title, before, this.#snapshot(detailed), startNs, results);
    } finally {
      clearInterval(progress);
    }
  }

  /** Resolves with the answer, or undefined when the thread is gone. */
  async #order(thread: Worker, order: PhaseOrder): Promise<PhaseResult | undefined> {
    thread.postMessage(order);
    return new Promise((resolve) => {
      const gone = (): void => resolve(undefined);
      thread.once('exit', gone);
      thread.once('message', (result: PhaseResult) => {
        thread.off('exit', gone);
        resolve(result);
      });
    });
  }

  #snapshot(detailed: boolean): Snapshot {
    const models = this.engine.memory.config.models.map((_, model) => model);
    const rows = detailed ? (Object.fromEntries(KINDS.map((kind) => [kind, models.map((model) => this.#stats.histogram(kind, model))])) as unknown as Snapshot['rows']) : null;
    const gpus = this.#stats.gpus();
    return { models: this.#stats.models(), busyNs: gpus.map((gpu) => gpu.busyNs), gpuBatches: gpus.map((gpu) => gpu.batches), rows, cpu: process.cpuUsage(), readNs: this.engine.clock.nowNs() };
  }

  #totals(title: string, before: Snapshot, after: Snapshot, startNs: number, results: readonly (PhaseResult | undefined)[]): PhaseTotals {
    const answers = results.filter((result) => result !== undefined);
    const seconds = Math.max(1e-3, (Math.max(...answers.map((result) => result.endNs)) - startNs) / 1e9);
    const cpu = after.cpu.user + after.cpu.system - before.cpu.user - before.cpu.system;
    const threads = this.#threads.length + this.engine.threads.length;
    const lag = histogramOf(...answers.map((result) => result.lag));
    const models = after.models.map((counters, model) => modelTotals(before, after, counters, model));
    this.#checkConservation(models, answers);
    return {
      title,
      seconds,
      cpuSeconds: cpu / 1e6,
      grants: after.models.reduce((sum, counters, model) => sum + counters.grants - before.models[model]!.grants, 0),
      gpuCapacityPerSecond: this.#capacityPerSecond,
      gpuBusySeconds: after.busyNs.map((ns, gpu) => (ns - before.busyNs[gpu]!) / 1e9),
      lateness: after.rows === null ? undefined : sumCounts(after.rows.lateness.map((row, model) => difference(row, before.rows!.lateness[model]!))),
      models,
      machine: machineFacts(referenceLoopNs()),
      lagP999Ms: percentileNs(lag, 99.9) / 1e6,
      lagMaxMs: percentileNs(lag, 100) / 1e6,
      stalls: { ...joinStalls(answers.map(({ stalls }) => stalls)), unusedNs: Math.max(0, threads * (after.readNs - before.readNs) - cpu * 1e3) },
      interrupted: this.#interrupted,
    };
  }

  /** Every request that the load threads offered must have been accepted or refused, and every accepted one ended. */
  #checkConservation(models: readonly ModelTotals[], answers: readonly PhaseResult[]): void {
    const offered = answers.reduce((sum, result) => sum + result.offered, 0);
    const inFlight = answers.reduce((sum, result) => sum + result.inFlight, 0);
    const counted = models.reduce((sum, model) => sum + model.offered, 0);
    const ended = models.reduce((sum, model) => sum + model.completed + model.late + model.dropped.expired + model.dropped['queue-full'] + model.dropped.infeasible + model.cancelled + model.failed + model.closed, 0);
    const refused = models.reduce((sum, model) => sum + model.refused, 0);
    if (counted !== offered || ended + refused + inFlight !== offered) {
      throw new RubatoError('ERR_RUBATO_BROKEN_INVARIANT', `${offered} requests were offered, ${counted} counted, ${ended} ended, ${refused} refused, ${inFlight} are in flight: some were lost or counted twice`);
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.terminate()));
    await this.engine.stop();
  }
}

function modelTotals(before: Snapshot, after: Snapshot, counters: ModelCounters, model: number): ModelTotals {
  const old = before.models[model]!;
  const since = (field: Exclude<keyof ModelCounters, 'name'>): number => counters[field] - old[field];
  const row = (kind: (typeof KINDS)[number]): Float64Array | undefined => (after.rows === null ? undefined : difference(after.rows[kind][model]!, before.rows![kind][model]!));
  return {
    name: counters.name,
    offered: since('accepted') + since('refused'),
    refused: since('refused'),
    completed: since('completed'),
    late: since('late'),
    dropped: { expired: since('expired'), 'queue-full': since('queueFull'), infeasible: since('infeasible') },
    cancelled: since('cancelled'),
    failed: since('failed'),
    closed: since('closed'),
    batches: since('batches'),
    batchedRequests: since('batched'),
    latency: row('latency'),
    queue: row('wait'),
    exec: row('exec'),
    delivery: row('delivery'),
  };
}

/** Counts since the earlier reading; a count is a 32-bit number and may have wrapped once. */
function difference(now: Float64Array, before: Float64Array): Float64Array {
  return now.map((count, i) => (count >= before[i]! ? count - before[i]! : count - before[i]! + 2 ** 32));
}

/** What the GPUs could run at best, N·b/ℓ(b): each model in the batch, within its SLO, that takes the least time per request. */
export function gpuCapacityPerSecond(config: SchedulerConfig, shares: readonly number[]): number {
  let secondsPerRequest = 0;
  config.models.forEach((model, index) => {
    const latencies = config.profiles[model.profile]!;
    let leastNs = latencies[1]!;
    for (let size = 2; size <= model.maxBatch && latencies[size]! <= model.sloNs; size++) leastNs = Math.min(leastNs, latencies[size]! / size);
    secondsPerRequest += (shares[index]! * leastNs) / 1e9;
  });
  return config.gpus.length / secondsPerRequest;
}

/** First use of a page costs microseconds: spend them before the clock runs. An atomic add of 0 changes nothing. */
function touchPages(buffer: SharedArrayBuffer): void {
  const words = new Int32Array(buffer);
  for (let word = 0; word < words.length; word += 1024) Atomics.add(words, word, 0);
}

/** Nanoseconds per step of a fixed dependent loop: tells a slow machine from a slow scheduler. */
export function referenceLoopNs(): number {
  const steps = 5e6;
  const times = [0, 1, 2].map(() => {
    const began = performance.now();
    let state = 1;
    for (let i = 0; i < steps; i++) state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return ((performance.now() - began + (state === 0 ? 1e-9 : 0)) * 1e6) / steps;
  });
  return Math.min(...times);
}
