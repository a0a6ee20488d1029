/**
 * What one run plays: pure data, drawn from a seed, that can be written down, cut shorter and played again.
 *
 * Each event means something wherever it stands: one that is not possible when its time comes (a cancel of nothing, a
 * model that is not there) does nothing. So any part of a scenario is a scenario, which the search for a shorter one needs.
 */
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { Random } from '#rubato/model/random.js';
import { type Condition, CONDITIONS, type DropPolicy, DROP_POLICIES, HOST_EMULATED, type GpuConfig, type SchedulerConfig } from '#rubato/protocol/config.js';
import { virtualConfig, type RoleKind } from '#rubato/sim/virtual-host.js';
import type { Spec } from '../sim/change-steps.js';
import type { PolicyMargins } from '../sim/reference-policy.js';

export interface ModelData {
  readonly alphaNs: number;
  readonly betaNs: number;
  readonly maxBatch: number;
  readonly sloNs: number;
  readonly drop: DropPolicy;
  readonly condition: Condition;
  readonly maxQueue: number;
}

/** After `left` more statements; or, whichever thread it is, at the statement that lies at `share` of all, after `left` passes of it. */
export interface DeathData {
  readonly left: number;
  readonly share: number | null;
}

export type VoprEvent = { readonly at: number } & (
  /** `sloNs` 0 = the model's own; `count` requests at once, that were due `lateNs` ago. */
  | { readonly kind: 'submit'; readonly client: number; readonly model: number; readonly count: number; readonly sloNs: number; readonly lateNs: number }
  /** Of a client's requests, `count` from the `back`-th newest on. */
  | { readonly kind: 'cancel'; readonly client: number; readonly back: number; readonly count: number }
  /** What a GPU does from now on with the batches that it starts: all of them `slowdown` times their length; +Infinity, written null, ends none. */
  | { readonly kind: 'device'; readonly gpu: number; readonly slowdown: number | null; readonly jitter: number; readonly failureRate: number }
  /** A role is not polled (a client does not read) for a while, as if its thread did not run, or its messages were late. */
  | { readonly kind: 'pause'; readonly role: RoleKind | 'client' | 'all'; readonly index: number; readonly forNs: number }
  /** A client comes; one goes, without a word, with what it has not committed yet. */
  | { readonly kind: 'open'; readonly client: number }
  | { readonly kind: 'die'; readonly client: number }
  | { readonly kind: 'add'; readonly number: number; readonly model: ModelData; readonly shard: number }
  | { readonly kind: 'remove'; readonly model: number; readonly drain: boolean }
  | { readonly kind: 'update'; readonly model: number; readonly to: ModelData }
  | { readonly kind: 'move'; readonly model: number; readonly shard: number }
  | { readonly kind: 'add-gpu'; readonly gpu: number }
  | { readonly kind: 'remove-gpu'; readonly gpu: number }
  /**
   * The thread of a role dies, and each one that takes its place as often as there are more `deaths`, which may be before it
   * polls. (Without kill points it dies once, between two polls.) After the first death nobody is there for `downNs`.
   */
  | { readonly kind: 'kill'; readonly role: RoleKind; readonly index: number; readonly deaths: readonly DeathData[]; readonly downNs: number }
);

export interface Scenario {
  /** Of everything that is left to chance while it is played: the order of polls, and where one role interrupts another. */
  readonly seed: number;
  readonly shards: number;
  /** Client 0 is there from the start to the end; the others come and go. */
  readonly clients: number;
  readonly slotShift: number;
  readonly margins: PolicyMargins;
  readonly models: readonly ModelData[];
  readonly maxModels: number;
  readonly gpus: number;
  /** The last number is kept for the GPU that comes at the end if all others are gone. */
  readonly maxGpus: number;
  /** Polls of single roles in any order, at most so many before all are polled in turn. */
  readonly scramble: number;
  /** One thread for all roles; otherwise each shard has its own, and the dispatcher. */
  readonly single: boolean;
  /** As callback devices: on a thread that does not die, and not the dispatcher's. */
  readonly deviceApart: boolean;
  /** Share of polls in which other roles are polled at some of its atomic operations, as if they ran on other cores. */
  readonly interrupt: number;
  readonly events: readonly VoprEvent[];
}

export const MAX_BATCH = 12;
export const GPU_SPEC: GpuConfig = { host: HOST_EMULATED, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 };

export function specOf({ alphaNs, betaNs, maxBatch, sloNs, drop, condition, maxQueue }: ModelData): Spec {
  return {
    config: { name: 'm', sloNs, profile: 0, maxBatch, dropPolicy: DROP_POLICIES.indexOf(drop), condition: CONDITIONS.indexOf(condition), maxQueue },
    profile: LatencyProfile.linear({ alphaNs, betaNs, maxBatch }, 'profile').ns,
  };
}

export function configOf(scenario: Scenario): SchedulerConfig {
  const specs = scenario.models.map(specOf);
  const config = virtualConfig({
    models: specs.map(({ config: model }, profile) => ({ ...model, profile })),
    profiles: specs.map(({ profile }) => profile),
    gpus: Array.from({ length: scenario.gpus }, (_, gpu) => ({ ...GPU_SPEC, seed: scenario.seed + gpu })),
    shards: scenario.shards,
    maxClients: scenario.clients,
    slotShift: scenario.slotShift,
    maxModels: scenario.maxModels,
    maxGpus: scenario.maxGpus,
    maxBatch: MAX_BATCH,
  });
  return { ...config, margins: { ...config.margins, ...scenario.margins } };
}

// ---------------------------------------------------------------- drawing

/** Times are whole multiples of one of these, so that ends, deadlines and arrivals meet. */
const UNITS = [7, 100_000, 1_000_000];

export function scenarioOf(seed: number): Scenario {
  return new Draw(seed).scenario();
}

class Draw {
  readonly #random: Random;
  readonly #seed: number;
  /** Of deaths. */
  readonly #chances: Random;
  readonly #unit: number;
  readonly #shards: number;
  readonly #clients: number;
  readonly #gpus: number;
  readonly #maxGpus: number;
  readonly #maxModels: number;
  /** A lost device holds up the move of a model for ever (architecture.md, known limits): a scenario has one or the other. */
  readonly #moves: boolean;
  /** Which kinds of faults this scenario has: many have few, so that the strict rules for a sound machine apply. */
  readonly #faults: ReadonlySet<string>;

  constructor(seed: number) {
    this.#random = new Random(seed, 1);
    this.#seed = seed;
    this.#chances = new Random(seed, 3);
    this.#unit = this.#pick(UNITS);
    this.#shards = this.#pick([1, 1, 2, 3, 4]);
    this.#clients = this.#pick([1, 2, 3]);
    this.#gpus = 1 + this.#int(4);
    this.#maxGpus = this.#gpus + 2;
    this.#maxModels = 6;
    this.#moves = this.#chance(0.5);
    this.#faults = new Set(['device', 'pause', 'die', 'change', 'gpus', 'kill'].filter(() => this.#chance(0.4)));
  }

  #chance(share: number): boolean {
    return this.#random.uniform() < share;
  }

  /** 0 … below − 1. */
  #int(below: number): number {
    return Math.floor(this.#random.uniform() * below);
  }

  #pick<T>(list: readonly T[]): T {
    return list[this.#int(list.length)]!;
  }

  #units(from: number, to: number): number {
    return (from + this.#int(to - from + 1)) * this.#unit;
  }

  scenario(): Scenario {
    const models = Array.from({ length: 1 + this.#int(4) }, () => this.#model());
    const margins = this.#chance(0.5)
      ? { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 }
      : { controlNs: this.#units(0, 4), transferNs: this.#units(0, 1), responseNs: this.#units(0, 3), jitterNs: this.#units(0, 2) };
    return {
      seed: this.#seed,
      shards: this.#shards,
      clients: this.#clients,
      slotShift: this.#pick([5, 6, 7]),
      margins,
      models,
      maxModels: this.#maxModels,
      gpus: this.#gpus,
      maxGpus: this.#maxGpus,
      scramble: this.#pick([0, 3, 8]),
      single: this.#faults.has('kill') && this.#chances.uniform() < 0.4,
      deviceApart: !this.#faults.has('kill') || this.#chances.uniform() < 0.4,
      interrupt: this.#pick([0, 0.1, 1]),
      events: this.#events(),
    };
  }

  #model(): ModelData {
    const alpha = this.#int(5);
    const beta = 1 + this.#int(12);
    const slack = this.#chance(0.5) ? this.#int(11) : 11 + this.#int(60);
    return {
      alphaNs: alpha * this.#unit,
      betaNs: beta * this.#unit,
      maxBatch: 1 + this.#int(MAX_BATCH),
      sloNs: (alpha + beta + slack) * this.#unit,
      drop: this.#pick(DROP_POLICIES),
      condition: this.#pick(CONDITIONS),
      maxQueue: this.#chance(0.2) ? 1 + this.#int(5) : 1000,
    };
  }

  #events(): VoprEvent[] {
    const events: VoprEvent[] = Array.from({ length: this.#clients - 1 }, (_, k) => ({ at: 0, kind: 'open', client: k + 1 }));
    const count = 30 + this.#int(120);
    let at = 0;
    for (let k = 0; k < count; k++) {
      at += this.#gap();
      events.push(this.#event(at));
      if (this.#faults.has('kill') && this.#chances.uniform() < (events.at(-1)!.kind === 'move' ? 0.8 : 0.15)) events.push(this.#kill(at));
      // A storm: the same again and again, at the same moment or nearly.
      if (this.#chance(0.03)) for (let more = this.#int(15); more > 0; more--) events.push(this.#event((at += this.#units(0, 1))));
    }
    return events;
  }

  #gap(): number {
    const kind = this.#random.uniform();
    return kind < 0.35 ? 0 : kind < 0.9 ? this.#units(1, 4) : this.#units(5, 60);
  }

  #event(at: number): VoprEvent {
    const kind = this.#random.uniform();
    const faults = this.#faults;
    if (kind < 0.1) return { at, kind: 'cancel', client: this.#int(this.#clients), back: this.#int(8), count: this.#chance(0.2) ? 20 : 1 };
    if (kind < 0.14 && faults.has('device')) return this.#device(at);
    if (kind < 0.2 && faults.has('pause')) return { at, kind: 'pause', ...this.#pick([{ role: 'all' as const, index: 0 }, { role: 'client' as const, index: this.#int(this.#clients) }, this.#role(), this.#role()]), forNs: this.#units(1, 40) };
    if (kind < 0.24 && faults.has('die') && this.#clients > 1) return { at, kind: this.#chance(0.5) ? 'die' : 'open', client: 1 + this.#int(this.#clients - 1) };
    if (kind < 0.35 && faults.has('change')) return this.#change(at);
    if (kind < 0.4 && faults.has('gpus')) return { at, kind: this.#chance(0.5) ? 'add-gpu' : 'remove-gpu', gpu: this.#int(this.#maxGpus - 1) };
    if (kind < 0.43 && faults.has('kill')) return this.#kill(at);
    return this.#submit(at);
  }

  #submit(at: number): VoprEvent {
    const size = this.#random.uniform();
    return {
      at,
      kind: 'submit',
      client: this.#int(this.#clients),
      model: this.#anyModel(),
      count: size < 0.6 ? 1 : size < 0.95 ? 2 + this.#int(10) : 20 + this.#int(60),
      sloNs: this.#chance(0.6) ? 0 : this.#units(1, 60),
      lateNs: this.#chance(0.9) ? 0 : this.#units(1, 30),
    };
  }

  /** Most often one that is there from the start. */
  #anyModel(): number {
    return this.#int(this.#faults.has('change') && this.#chance(0.3) ? this.#maxModels : 3);
  }

  #device(at: number): VoprEvent {
    const gpu = this.#int(this.#maxGpus - 1);
    const healthy = { at, kind: 'device', gpu, slowdown: 1, jitter: 0, failureRate: 0 } as const;
    const kind = this.#int(6);
    if (kind === 0) return { ...healthy, slowdown: 1.3 };
    if (kind === 1) return { ...healthy, slowdown: this.#pick([0.5, 4, 30]) };
    if (kind === 2) return { ...healthy, jitter: 0.3 };
    if (kind === 3) return { ...healthy, failureRate: this.#pick([0.3, 1]) };
    if (kind === 4 && !this.#moves) return { ...healthy, slowdown: null };
    return healthy;
  }

  #change(at: number): VoprEvent {
    const model = this.#anyModel();
    const kind = this.#int(4);
    if (kind === 0) return { at, kind: 'add', number: model, model: this.#model(), shard: this.#int(this.#shards) };
    if (kind === 1) return { at, kind: 'remove', model, drain: this.#chance(0.5) };
    if ((kind === 2 && this.#chance(0.5)) || !this.#moves) return { at, kind: 'update', model, to: this.#model() };
    return { at, kind: 'move', model, shard: this.#int(this.#shards) };
  }

  #kill(at: number): VoprEvent {
    const chances = this.#chances;
    const deaths = Math.max(0, 3 - Math.floor(chances.uniform() * 10)); // three in four die once
    const down = chances.uniform();
    return {
      at,
      kind: 'kill',
      ...this.#roleOf(chances),
      deaths: Array.from({ length: 1 + deaths }, () => this.#death()),
      downNs: down < 0.85 ? 0 : Math.floor(1 + chances.uniform() * 40) * this.#unit,
    };
  }

  /** Most polls are short, one that takes over is long; and what is rare is as worth a death as what is not. */
  #death(): DeathData {
    const chances = this.#chances;
    const share = chances.uniform() < 0.7 ? chances.uniform() : null;
    return { left: Math.floor((share === null ? 5000 : 8) ** chances.uniform()) - 1, share };
  }

  #role(): { role: RoleKind; index: number } {
    return this.#roleOf(this.#random);
  }

  #roleOf(random: Random): { role: RoleKind; index: number } {
    const index = Math.floor(random.uniform() * (this.#shards + 2));
    return index < 2 ? { role: index === 0 ? 'device' : 'dispatcher', index: 0 } : { role: 'shard', index: index - 2 };
  }
}
