/**
 * A workload on emulated GPUs under the virtual clock, scheduled by the very roles that run live. One set of options,
 * one result, bit for bit, whatever the number of shards.
 */
import { describeValue, formatDurationNs } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { REFUSED_INFEASIBLE } from '../protocol/client-port.js';
import { DROP_NEVER, HOST_EMULATED, type SchedulerConfig } from '../protocol/config.js';
import { type Observer, UNWATCHED } from '../protocol/observer.js';
import { OUTCOME, OUTCOME_CODES } from '../protocol/outcome.js';
import { bucketHighNs, bucketLowNs, bucketOf, BUCKETS } from '../ringbuf/log-linear.js';
import { type ArrivalSource, ArrivalStream } from './policies/stream.js';
import type { SimulatedModel, SimulationOptions, SimulationResult } from './result.js';
import { drawModels } from './trace.js';
import { VirtualHost, virtualConfig } from './virtual-host.js';

/** A schedulable condition and a drop policy, as numbers of `ModelConfig`. */
export interface OwnPolicy {
  readonly name: string;
  readonly condition: number;
  readonly dropPolicy: number;
}

/** Requests as they came: plain arrays, never falling in time. */
export interface RecordedArrivals {
  readonly timesNs: Float64Array;
  readonly modelOf: Uint16Array;
  /** Each one's own SLO, 0 = its model's. */
  readonly slosNs: Float64Array;
}

export interface TracedOptions extends SimulationOptions {
  /** Recorded arrival times instead of a rate, in ns and never falling. */
  readonly traceNs?: Float64Array;
  /** The model of each; without it one is drawn by the models' shares. */
  readonly traceModels?: Int32Array;
  /** Recorded requests instead of a rate. */
  readonly recorded?: RecordedArrivals;
}

/** What our own scheduler can be asked. */
export interface OwnOptions extends TracedOptions {
  /** Default 1. Changes how the work is divided, and nothing in the result. */
  readonly shards?: number;
  /** By model, where models differ in policy. */
  readonly modelPolicies?: readonly Pick<OwnPolicy, 'condition' | 'dropPolicy'>[];
}

const NS_PER_SECOND = 1e9;

const LEAST_SLOT_SHIFT = 8;
const MOST_SLOT_SHIFT = 20;
/** Who never drops lets queues grow without end: past this many requests they count as queue-full. */
const NEVER_SLOT_SHIFT = 18;
/** What is in flight at first is provided for with this much room; if a burst needs more, the run starts again with twice as much. */
const ROOM = 4;

/** @throws InvalidOptionError for an option that cannot be simulated, such as an SLO that no request can meet. */
export function checkSimulation(options: SimulationOptions): void {
  const { gpus, seconds, warmupSeconds, ratePerSecond, margins } = options;
  if (!(Number.isInteger(gpus) && gpus >= 1)) throw new InvalidOptionError('gpus', `got ${describeValue(gpus)}, must be an integer >= 1`);
  if (!(seconds > 0 && seconds < Infinity)) throw new InvalidOptionError('seconds', `got ${describeValue(seconds)}, must be > 0`);
  if (!(warmupSeconds >= 0 && warmupSeconds < Infinity)) throw new InvalidOptionError('warmupSeconds', `got ${describeValue(warmupSeconds)}, must be >= 0`);
  if (!(ratePerSecond > 0 && ratePerSecond < Infinity)) throw new InvalidOptionError('ratePerSecond', `got ${describeValue(ratePerSecond)}, must be > 0`);
  const delaysNs = margins.controlNs + margins.transferNs + margins.responseNs;
  for (const { name, sloNs, profile } of options.workload.models) {
    const aloneNs = profile.latencyNs(1) + delaysNs;
    if (sloNs < aloneNs) {
      throw new InvalidOptionError(`model ${name}: slo`, `got ${formatDurationNs(sloNs)}, must be at least ` +
        `${formatDurationNs(aloneNs)}: l(1) = ${formatDurationNs(profile.latencyNs(1))} and delays of ${formatDurationNs(delaysNs)}`);
    }
  }
}

/** @throws InvalidOptionError as `checkSimulation` does. */
export function simulate(policy: OwnPolicy, options: OwnOptions): SimulationResult {
  checkSimulation(options);
  const longestSloSeconds = Math.max(...options.workload.models.map((model) => model.sloNs)) / NS_PER_SECOND;
  const roomy = Math.ceil(Math.log2(ROOM * options.ratePerSecond * longestSloSeconds));
  const most = policy.dropPolicy === DROP_NEVER ? NEVER_SLOT_SHIFT : MOST_SLOT_SHIFT;
  const first = policy.dropPolicy === DROP_NEVER ? NEVER_SLOT_SHIFT : Math.min(MOST_SLOT_SHIFT, Math.max(LEAST_SLOT_SHIFT, roomy));
  for (let slotShift = first; ; slotShift++) {
    const run = new Run(policy, options, slotShift);
    if (run.play() || slotShift >= most) return run.result();
  }
}

class Run {
  readonly #policy: OwnPolicy;
  readonly #options: OwnOptions;
  readonly #host: VirtualHost;
  readonly #fromNs: number;
  readonly #toNs: number;
  /** By slot: the model of a request that counts, −1 for others; and when it came. */
  readonly #modelOf: Int32Array;
  readonly #arrivalNs: Float64Array;
  /** By model. */
  readonly #offered: Float64Array;
  readonly #noSlot: Float64Array;
  readonly #outcomes: Float64Array;
  readonly #latencies: Int32Array;
  readonly #batches: Float64Array;
  readonly #batched: Float64Array;
  readonly #busyNs: Float64Array;

  constructor(policy: OwnPolicy, options: OwnOptions, slotShift: number) {
    const models = options.workload.models.length;
    this.#policy = policy;
    this.#options = options;
    this.#fromNs = Math.round(options.warmupSeconds * NS_PER_SECOND);
    this.#toNs = Math.round((options.warmupSeconds + options.seconds) * NS_PER_SECOND);
    this.#modelOf = new Int32Array(2 ** slotShift).fill(-1);
    this.#arrivalNs = new Float64Array(2 ** slotShift);
    this.#offered = new Float64Array(models);
    this.#noSlot = new Float64Array(models);
    this.#outcomes = new Float64Array(models * OUTCOME_CODES);
    this.#latencies = new Int32Array(models * BUCKETS);
    this.#batches = new Float64Array(models);
    this.#batched = new Float64Array(models);
    this.#busyNs = new Float64Array(options.gpus);
    this.#host = new VirtualHost(configOf(policy, options, slotShift), this.#observer());
    this.#host.onCompleted = (slots, outcomes, count) => this.#count(slots, outcomes, count);
  }

  /** False when there were too few slots for what was in flight: then the result is not the policy's. */
  play(): boolean {
    const stream = arrivalsOf(this.#options);
    const host = this.#host;
    const client = host.client;
    let sufficed = true;
    let now = stream.nextNs;
    while (now < this.#toNs) {
      // What is due at this very instant comes before the arrival, as a live role would have seen it.
      if (host.nextEventNs() <= now) host.advanceTo(now);
      else host.clock.advanceTo(now);
      let next = now;
      while (next === now) {
        const model = stream.model;
        const slot = client.submit(model, now, stream.sloNs ?? 0);
        if (now >= this.#fromNs) this.#offered[model]! += 1;
        if (slot >= 0) {
          this.#modelOf[slot] = now >= this.#fromNs ? model : -1;
          this.#arrivalNs[slot] = now;
        } else {
          sufficed = this.#refused(model, now, slot) && sufficed;
        }
        stream.advance();
        next = stream.nextNs;
      }
      client.commit();
      host.settle();
      now = next;
    }
    host.runOut();
    return sufficed;
  }

  #refused(model: number, now: number, code: number): boolean {
    const counts = now >= this.#fromNs;
    if (code === REFUSED_INFEASIBLE) {
      if (counts) this.#outcomes[model * OUTCOME_CODES + OUTCOME.infeasible]! += 1;
      return true;
    }
    if (counts) this.#noSlot[model]! += 1;
    return false;
  }

  #count(slots: Int32Array, outcomes: Int32Array, count: number): void {
    const ends = this.#host.client.drainedEndNs;
    for (let k = 0; k < count; k++) {
      const slot = slots[k]!;
      const model = this.#modelOf[slot]!;
      if (model < 0) continue;
      const outcome = outcomes[k]! & 31;
      this.#outcomes[model * OUTCOME_CODES + outcome]! += 1;
      if (outcome <= OUTCOME.late) this.#latencies[model * BUCKETS + bucketOf(ends[k]! - this.#arrivalNs[slot]!)]! += 1;
    }
  }

  /** Emulated batches without jitter take ℓ(b) from their planned start, so a plan says all about a GPU's busy time. */
  #observer(): Observer {
    const latencies = this.#options.workload.models.map((model) => model.profile.ns);
    return {
      ...UNWATCHED,
      planned: (_now, model, gpu, size, execNs) => {
        const busy = Math.min(execNs + latencies[model]![size]!, this.#toNs) - Math.max(execNs, this.#fromNs);
        if (busy > 0) this.#busyNs[gpu]! += busy;
        if (execNs < this.#fromNs || execNs >= this.#toNs) return;
        this.#batches[model]! += 1;
        this.#batched[model]! += size;
      },
    };
  }

  result(): SimulationResult {
    const models = this.#options.workload.models.map(({ name }, model) => this.#modelResult(name, model));
    const droppedFor = (outcome: number): number => models.reduce((sum, _, model) => sum + this.#outcomes[model * OUTCOME_CODES + outcome]!, 0);
    const total = (of: (model: SimulatedModel) => number): number => models.reduce((sum, model) => sum + of(model), 0);
    return {
      policy: this.#policy.name,
      offered: total((model) => model.offered),
      good: total((model) => model.good),
      late: total((model) => model.late),
      droppedByReason: {
        expired: droppedFor(OUTCOME.expired),
        'queue-full': droppedFor(OUTCOME.queueFull) + this.#noSlot.reduce((sum, count) => sum + count, 0),
        infeasible: droppedFor(OUTCOME.infeasible),
      },
      batches: total((model) => model.batches),
      batched: total((model) => model.batched),
      busyNs: Array.from(this.#busyNs),
      seconds: this.#options.seconds,
      models,
    };
  }

  #modelResult(name: string, model: number): SimulatedModel {
    const ended = (outcome: number): number => this.#outcomes[model * OUTCOME_CODES + outcome]!;
    const offered = this.#offered[model]!;
    const good = ended(OUTCOME.completed);
    const late = ended(OUTCOME.late);
    const dropped = ended(OUTCOME.expired) + ended(OUTCOME.queueFull) + ended(OUTCOME.infeasible) + this.#noSlot[model]!;
    if (good + late + dropped !== offered) throw new Error(`model ${name}: ${offered} requests were offered, ${good + late + dropped} have ended`);
    const latencies = this.#latencies.subarray(model * BUCKETS, (model + 1) * BUCKETS);
    return {
      name,
      offered,
      good,
      late,
      dropped,
      batches: this.#batches[model]!,
      batched: this.#batched[model]!,
      latencyP50Ns: quantileNs(latencies, good + late, 0.5),
      latencyP99Ns: quantileNs(latencies, good + late, 0.99),
    };
  }
}

/** The configuration of a run in virtual time. */
export function configOf({ condition, dropPolicy }: OwnPolicy, { workload, gpus, margins, shards = 1, modelPolicies }: Pick<OwnOptions, 'workload' | 'gpus' | 'margins' | 'shards' | 'modelPolicies'>, slotShift: number): SchedulerConfig {
  return virtualConfig({
    profiles: workload.models.map((model) => model.profile.ns),
    models: workload.models.map((model, profile) => ({
      name: model.name,
      sloNs: model.sloNs,
      profile,
      maxBatch: model.profile.maxBatch,
      dropPolicy: modelPolicies?.[profile]!.dropPolicy ?? dropPolicy,
      condition: modelPolicies?.[profile]!.condition ?? condition,
      maxQueue: 2 ** slotShift,
    })),
    gpus: Array.from({ length: gpus }, () => ({ host: HOST_EMULATED, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 })),
    shards,
    slotShift,
    margins: { ...margins, measureControl: false, measureResponse: false, measureJitter: false },
  });
}

/** The middle of the bucket in which the value of this rank lies: at most 0.8 % off. 0 where nothing was recorded. */
function quantileNs(counts: Int32Array, total: number, share: number): number {
  if (total === 0) return 0;
  let left = Math.ceil(total * share);
  let bucket = 0;
  while ((left -= counts[bucket]!) > 0) bucket++;
  return Math.floor((bucketLowNs(bucket) + bucketHighNs(bucket)) / 2);
}

// ── a trace as arrivals ────────────────────────────────────────────────────────────────────────────────────────────

class RecordedStream implements ArrivalSource {
  readonly #recorded: RecordedArrivals;
  #next = -1;
  nextNs = Infinity;
  model = -1;
  sloNs = 0;

  constructor(recorded: RecordedArrivals) {
    this.#recorded = recorded;
    this.advance();
  }

  advance(): void {
    const { timesNs, modelOf, slosNs } = this.#recorded;
    const at = ++this.#next;
    this.nextNs = timesNs[at] ?? Infinity;
    this.model = modelOf[at] ?? -1;
    this.sloNs = slosNs[at] ?? 0;
  }
}

/** Recorded arrivals. */
class TraceArrivals implements ArrivalSource {
  readonly #timesNs: Float64Array;
  readonly #models: Int32Array;
  #next = -1;
  nextNs = Infinity;
  model = -1;

  constructor(timesNs: Float64Array, models: Int32Array) {
    this.#timesNs = timesNs;
    this.#models = models;
    this.advance();
  }

  advance(): void {
    const at = ++this.#next;
    const isOver = at >= this.#timesNs.length;
    this.nextNs = isOver ? Infinity : this.#timesNs[at]!;
    this.model = isOver ? -1 : this.#models[at]!;
  }
}

/** What a policy is offered: the recording or trace if there is one, else every model's own process. */
export function arrivalsOf({ workload, ratePerSecond, seed, warmupSeconds, traceNs, traceModels, recorded }: TracedOptions): ArrivalSource {
  if (recorded !== undefined) return new RecordedStream(recorded);
  if (traceNs === undefined) return new ArrivalStream(workload, ratePerSecond, seed, Math.round(warmupSeconds * NS_PER_SECOND));
  return new TraceArrivals(traceNs, traceModels ?? drawModels(traceNs.length, workload.models.map((model) => model.rateShare), seed));
}

/** Requests per second that are offered in each of so many equal parts of the counted time. */
export function offeredOverTime(options: TracedOptions, parts: number): number[] {
  const fromNs = options.warmupSeconds * NS_PER_SECOND;
  const lengthNs = options.seconds * NS_PER_SECOND;
  const counts = new Array<number>(parts).fill(0);
  for (const source = arrivalsOf(options); source.nextNs < fromNs + lengthNs; source.advance()) {
    if (source.nextNs >= fromNs) counts[Math.min(parts - 1, Math.floor(((source.nextNs - fromNs) / lengthNs) * parts))]! += 1;
  }
  return counts.map((count) => (count * parts) / options.seconds);
}
