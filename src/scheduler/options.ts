/**
 * The options of `createScheduler`: their types, defaults and checks. A wrong one is an `InvalidOptionError` that
 * names it, shows the value and says what is allowed.
 */
import { z } from 'zod';
import { clockOrigin } from '../clock/clock.js';
import { type Batch, type ExecuteBatch } from '../devices/callback.js';
import { describeValue, type Duration, formatDurationNs, parseDurationNs, parsePositiveDurationNs } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { LatencyProfile } from '../model/latency-profile.js';
import {
  type Condition,
  CONDITIONS,
  DROP_POLICIES,
  type DropPolicy,
  type GpuConfig,
  HOST_CALLBACK,
  HOST_EMULATED,
  type Margins,
  type ModelConfig,
  type SchedulerConfig,
} from '../protocol/config.js';
import { MAX_GPUS } from '../protocol/outcome.js';
import { WAITING_STRATEGIES, type WaitingStrategy } from './waiter.js';

export type { Batch, Condition, DropPolicy, Duration, ExecuteBatch, WaitingStrategy };

/** ℓ(b) = alpha · b + beta up to maxBatch, or the time of a batch of 1, 2, 3, … */
export type ProfileOption = { alpha: Duration; beta: Duration; maxBatch: number } | readonly Duration[] | LatencyProfile;

export interface ModelOptions {
  /** What `submit` calls it. */
  name: string;
  /** Latency objective: deadline = arrival + slo. At least the time of a batch of one. */
  slo: Duration;
  /** Time to execute a batch, by its size. */
  profile: ProfileOption;
  /** Largest batch, if smaller than the profile's. */
  maxBatch?: number;
  /** What happens to requests that cannot be met in the batch of the target size; default `window` (ALGORITHM 1.2). */
  dropPolicy?: DropPolicy;
  /** When a batch that could run is worth starting; default `frontrun` (ALGORITHM 1.4). */
  condition?: Condition;
  /** A result that comes after its deadline: `deliver` it (default) or `reject` with `LateError`. */
  onLate?: 'deliver' | 'reject';
  /** Requests that may wait; one more ends as `queue-full`. Default: all that may be in flight. */
  maxQueue?: number;
}

export interface EmulatedDeviceOptions {
  kind: 'emulated';
  /** Number of GPUs, default 1. */
  count?: number;
  /** Execution takes ℓ(b) times this, default 1. */
  slowdown?: number;
  /** Standard deviation of the execution time as a share of it, default 0. */
  jitter?: number;
  /** Share of batches that fail, default 0. */
  failureRate?: number;
  /** Seed of jitter and failures, default 1. */
  seed?: number;
}

export interface CallbackDeviceOptions<I, O> {
  kind: 'callback';
  /** Executes one batch: resolves with one output per input, in their order. A rejection fails that batch alone. */
  execute: ExecuteBatch<I, O>;
  /** Batches that may run at once, default 1. */
  count?: number;
}

export type DeviceOptions<I, O> = EmulatedDeviceOptions | CallbackDeviceOptions<I, O>;

/** The delays that windows keep clear (ALGORITHM 1.1). Each left out is measured while running. */
export interface MarginOptions {
  /** c: grant → batch issued at the device. */
  control?: Duration;
  /** δ: input transfer per request, default 0. */
  transfer?: Duration;
  /** r: device end → result delivered. */
  response?: Duration;
  /** j: error of timers. */
  jitter?: Duration;
}

export interface SchedulerOptions<I = unknown, O = unknown> {
  models: readonly ModelOptions[];
  devices: readonly DeviceOptions<I, O>[];
  /** Requests in flight at once per client; one more is refused. Rounded up to a power of two. Default 65,536. */
  maxInFlight?: number;
  /** Raw clients (`scheduler.client()`) that may be open at once, default 3. */
  maxClients?: number;
  /** How the scheduler thread waits: `balanced` (default), `spin`, `park`. */
  waiting?: WaitingStrategy;
  margins?: MarginOptions;
}

const duration = z.union([z.string(), z.number()]);
const count = (most: number): z.ZodInt => z.int().min(1).max(most);

const modelSchema = z.strictObject({
  name: z.string().min(1),
  slo: duration,
  profile: z.unknown(),
  maxBatch: count(8191).optional(),
  dropPolicy: z.enum(DROP_POLICIES).optional(),
  condition: z.enum(CONDITIONS).optional(),
  onLate: z.enum(['deliver', 'reject']).optional(),
  maxQueue: count(2 ** 24).optional(),
});

const emulatedSchema = z.strictObject({
  kind: z.literal('emulated'),
  count: count(MAX_GPUS).optional(),
  slowdown: z.number().positive().max(1e6).optional(),
  jitter: z.number().min(0).max(10).optional(),
  failureRate: z.number().min(0).max(1).optional(),
  seed: z.int().min(0).optional(),
});

const callbackSchema = z.strictObject({
  kind: z.literal('callback'),
  execute: z.custom<ExecuteBatch<unknown, unknown>>((value) => typeof value === 'function'),
  count: count(1024).optional(),
});

const schema = z.strictObject({
  models: z.array(modelSchema).min(1).max(4096),
  devices: z.array(z.discriminatedUnion('kind', [emulatedSchema, callbackSchema])).min(1),
  maxInFlight: z.int().min(32).max(2 ** 22).optional(),
  maxClients: z.int().min(0).max(64).optional(),
  waiting: z.enum(WAITING_STRATEGIES).optional(),
  margins: z.strictObject({ control: duration.optional(), transfer: duration.optional(), response: duration.optional(), jitter: duration.optional() }).optional(),
});

/** What the threads need, and what stays with the thread that made the scheduler. */
export interface ResolvedOptions {
  readonly config: SchedulerConfig;
  readonly waiting: WaitingStrategy;
  /** By model. */
  readonly rejectLate: readonly boolean[];
  /** By GPU: its callback, null for an emulated one. */
  readonly executes: readonly (ExecuteBatch<unknown, unknown> | null)[];
}

/** Checks the options and fills in defaults. Throws `InvalidOptionError` for the first thing that is wrong. */
export function resolveOptions(options: unknown): ResolvedOptions {
  const given = parse(options);
  const slotShift = Math.max(5, Math.ceil(Math.log2(given.maxInFlight ?? 65_536)));
  const { models, profiles } = resolveModels(given.models, 2 ** slotShift);
  const gpus: GpuConfig[] = [];
  const executes: (ExecuteBatch<unknown, unknown> | null)[] = [];
  for (const device of given.devices) {
    const emulated = device.kind === 'emulated' ? device : null;
    for (let i = 0; i < (device.count ?? 1); i++) {
      gpus.push({
        host: emulated === null ? HOST_CALLBACK : HOST_EMULATED,
        slowdown: emulated?.slowdown ?? 1,
        jitter: emulated?.jitter ?? 0,
        failureRate: emulated?.failureRate ?? 0,
        seed: emulated?.seed ?? 1,
      });
      executes.push(device.kind === 'callback' ? device.execute : null);
    }
  }
  if (gpus.length > MAX_GPUS) throw new InvalidOptionError('devices', `got ${gpus.length} GPUs in all, at most ${MAX_GPUS} are possible`);
  return {
    config: {
      models,
      profiles,
      gpus,
      shards: 1,
      maxClients: 1 + (given.maxClients ?? 3),
      slotShift,
      shedShare: SHED_SHARE,
      margins: resolveMargins(given.margins ?? {}, Math.min(...models.map((model) => model.sloNs)) / 10),
      origin: clockOrigin(),
    },
    waiting: given.waiting ?? 'balanced',
    rejectLate: given.models.map((model) => model.onLate === 'reject'),
    executes,
  };
}

function parse(options: unknown): z.output<typeof schema> {
  const result = schema.safeParse(options, { error: (issue) => describeIssue(issue) });
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const path = issue.code === 'unrecognized_keys' ? [...issue.path, issue.keys[0]!] : issue.path;
  throw new InvalidOptionError(pathOf(path), issue.message);
}

function pathOf(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => (typeof key === 'number' ? `${text}[${key}]` : text === '' ? String(key) : `${text}.${String(key)}`), '') || 'options';
}

/** One line that shows the value and what is allowed. */
function describeIssue(issue: z.core.$ZodRawIssue): string | undefined {
  const got = `got ${describeValue(issue.input)}`;
  switch (issue.code) {
    case 'unrecognized_keys':
      return `unknown option${issue.inst instanceof z.ZodObject ? `, allowed are ${Object.keys(issue.inst.shape).join(', ')}` : ''}`;
    case 'invalid_type':
      return issue.input === undefined ? `is missing, must be ${article(issue.expected)}` : `${got}, must be ${article(issue.expected)}`;
    case 'invalid_value':
      return `${got}, must be one of ${issue.values.map((value) => `'${String(value)}'`).join(', ')}`;
    case 'too_small':
      if (issue.origin === 'string') return `${got}, must not be empty`;
      return issue.origin === 'array' ? `is empty, must have at least ${issue.minimum}` : `${got}, must be ${issue.inclusive === false ? 'greater than' : 'at least'} ${issue.minimum}`;
    case 'too_big':
      return issue.origin === 'array' ? `has too many entries, at most ${issue.maximum} are possible` : `${got}, must be at most ${issue.maximum}`;
    case 'invalid_union':
      return issue.discriminator === undefined ? `${got}, must be a duration such as '25ms' or a number of milliseconds` : `got ${describeValue((issue.input as { kind?: unknown }).kind)}, must be 'emulated' or 'callback'`;
    case 'custom':
      return `${got}, must be a function`;
    default:
      return undefined;
  }
}

function article(expected: string): string {
  const name = expected === 'int' ? 'integer' : expected === 'number' ? 'finite number' : expected;
  return /^[aeiou]/.test(name) ? `an ${name}` : `a ${name}`;
}

function resolveModels(given: readonly z.output<typeof modelSchema>[], maxInFlight: number): { models: ModelConfig[]; profiles: Float64Array[] } {
  const profiles: Float64Array[] = [];
  const byContent = new Map<string, number>();
  const names = new Map<string, number>();
  const models = given.map((model, index): ModelConfig => {
    const path = `models[${index}]`;
    const twin = names.get(model.name);
    if (twin !== undefined) throw new InvalidOptionError(`${path}.name`, `got '${model.name}', which is the name of models[${twin}] already`);
    names.set(model.name, index);
    const profile = LatencyProfile.parse(model.profile, `${path}.profile`);
    const sloNs = parsePositiveDurationNs(model.slo, `${path}.slo`);
    if (sloNs < profile.latencyNs(1)) {
      throw new InvalidOptionError(`${path}.slo`, `got ${formatDurationNs(sloNs)}, model '${model.name}' takes ${formatDurationNs(profile.latencyNs(1))} for a single request; it must be at least that`);
    }
    if (model.maxBatch !== undefined && model.maxBatch > profile.maxBatch) {
      throw new InvalidOptionError(`${path}.maxBatch`, `got ${model.maxBatch}, the profile ends at ${profile.maxBatch}`);
    }
    const maxBatch = model.maxBatch ?? profile.maxBatch;
    const ns = profile.ns.slice(0, maxBatch + 2);
    ns[maxBatch + 1] = Infinity;
    const content = ns.join();
    const known = byContent.get(content);
    if (known === undefined) byContent.set(content, profiles.push(ns) - 1);
    return {
      name: model.name,
      sloNs,
      profile: known ?? profiles.length - 1,
      maxBatch,
      dropPolicy: DROP_POLICIES.indexOf(model.dropPolicy ?? 'window'),
      condition: CONDITIONS.indexOf(model.condition ?? 'frontrun'),
      maxQueue: model.maxQueue ?? maxInFlight,
    };
  });
  return { models, profiles };
}

/** See `SchedulerConfig.shedShare`. */
export const SHED_SHARE = 0.5;

/** What a margin starts from until it has been measured, and at most a tenth of the shortest SLO. Generous: the first batches run cold. */
const FIRST_CONTROL_NS = 2e6;
const FIRST_RESPONSE_NS = 2e6;
const FIRST_JITTER_NS = 2e6;

function resolveMargins(given: { [K in keyof MarginOptions]?: Duration | undefined }, mostNs: number): Margins {
  const fixed = (value: Duration | undefined, path: string, otherwise: number): number => (value === undefined ? Math.min(otherwise, mostNs) : parseDurationNs(value, path));
  return {
    controlNs: fixed(given.control, 'margins.control', FIRST_CONTROL_NS),
    transferNs: fixed(given.transfer, 'margins.transfer', 0),
    responseNs: fixed(given.response, 'margins.response', FIRST_RESPONSE_NS),
    jitterNs: fixed(given.jitter, 'margins.jitter', FIRST_JITTER_NS),
    measureControl: given.control === undefined,
    measureResponse: given.response === undefined,
    measureJitter: given.jitter === undefined,
  };
}
