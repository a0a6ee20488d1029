/** What every thread of a scheduler is told at its start: plain data, cloned by postMessage. */
import type { ClockOrigin } from '../clock/clock.js';

/** Index = the number in `ModelConfig.dropPolicy` (ALGORITHM.md 1.2). */
export const DROP_POLICIES = ['window', 'timeout', 'never', 'adaptive'] as const;
export type DropPolicy = (typeof DROP_POLICIES)[number];
export const DROP_WINDOW = 0;
export const DROP_TIMEOUT = 1;
export const DROP_NEVER = 2;
/** As `window`, for a share of the target size that follows the load (ALGORITHM.md 1.7, part 1). */
export const DROP_ADAPTIVE = 3;

/** Index = the number in `ModelConfig.condition`: when a batch that could run is worth starting (ALGORITHM.md 1.4). */
export const CONDITIONS = ['frontrun', 'latest', 'immediate', 'target-size', 'target-delay', 'adaptive'] as const;
export type Condition = (typeof CONDITIONS)[number];
export const WANT_FRONTRUN = 0;
export const WANT_LATEST = 1;
export const WANT_IMMEDIATE = 2;
export const WANT_TARGET_SIZE = 3;
export const WANT_TARGET_DELAY = 4;
/** As `frontrun`, unless the dispatcher grants a GPU early (ALGORITHM.md 1.7, parts 2 and 3). */
export const WANT_ADAPTIVE = 5;

export interface ModelConfig {
  readonly name: string;
  readonly sloNs: number;
  /** Index into `SchedulerConfig.profiles`. */
  readonly profile: number;
  readonly maxBatch: number;
  readonly dropPolicy: number;
  readonly condition: number;
  /** Requests that may wait in this model's queue. */
  readonly maxQueue: number;
}

/** Which thread runs a GPU's batches. */
export const HOST_EMULATED = 0;
export const HOST_CALLBACK = 1;
export const HOST_CUDA = 2;
export const DEVICE_HOSTS = 3;

export interface GpuConfig {
  readonly host: number;
  /** Emulated: execution time is ℓ(b) · slowdown · (1 + jitter · normal), at least 0. */
  readonly slowdown: number;
  readonly jitter: number;
  /** Emulated: share of batches that fail. */
  readonly failureRate: number;
  readonly seed: number;
}

/** The delays of ALGORITHM.md 1.1, in ns. */
export interface Margins {
  /** c: grant → batch issued at the device. */
  readonly controlNs: number;
  /** δ: input transfer per request. */
  readonly transferNs: number;
  /** r: device end → the client has the result. */
  readonly responseNs: number;
  /** j: kept off the schedulable window for the error of timers. */
  readonly jitterNs: number;
  /** Whether c, r and j follow what is measured while running; otherwise they stay as given. */
  readonly measureControl: boolean;
  readonly measureResponse: boolean;
  readonly measureJitter: boolean;
}

/** How often it is advised how many GPUs are wanted, and how steady that must be before fewer are. */
export interface AdviceConfig {
  readonly epochNs: number;
  /** Epochs for which a GPU has to be idle, and the load to do without it. */
  readonly hysteresis: number;
}
export const DEFAULT_ADVICE: AdviceConfig = { epochNs: 1e9, hysteresis: 3 };

export interface SchedulerConfig {
  readonly models: readonly ModelConfig[];
  /** ℓ in ns, index = batch size 0 … maxBatch + 1: [0] is 0 and [maxBatch + 1] is +Infinity. Shared by models with equal profiles. */
  readonly profiles: readonly Float64Array[];
  readonly gpus: readonly GpuConfig[];
  readonly shards: number;
  /** Shard of each model; left out, they take turns. */
  readonly assignment?: readonly number[];
  /** Whether every shard and the dispatcher has a thread of its own. */
  readonly split?: boolean;
  /** Room for models and GPUs that are added later, and for their batches: at least what there is at the start. */
  readonly maxModels?: number;
  readonly maxGpus?: number;
  readonly maxBatch?: number;
  readonly maxClients: number;
  /** log2 of the request slots per client: requests in flight at once. */
  readonly slotShift: number;
  readonly margins: Margins;
  /**
   * When a shard is so far behind its lanes that requests come out of them with less than this share of their time left,
   * they end as `queue-full` until it is level again.
   * 0 = never (virtual time, where nobody is ever behind).
   */
  readonly shedShare: number;
  /** Whether shards note what arrives, for a recording (recording.ts). */
  readonly recording?: boolean;
  /** Whether the inner loops of the shards run as WebAssembly (shards/inner-loops.ts). They do the same in either way. */
  readonly compiledLoops?: boolean;
  /** Default: DEFAULT_ADVICE. */
  readonly advice?: AdviceConfig;
  readonly origin: ClockOrigin;
}

/** The shard that owns a model at the start. */
export function firstShardOf(config: SchedulerConfig, model: number): number {
  return config.assignment?.[model] ?? model % config.shards;
}
