/**
 * The options of `createScheduler`: their types, defaults and checks. A wrong one is an `InvalidOptionError` that
 * names it, shows the value and says what is allowed.
 */
import { z } from 'zod';
import { clockOrigin } from '../clock/clock.js';
import { type Batch, type ExecuteBatch } from '../devices/callback.js';
import type { CudaDeviceSpec, CudaLimits, DeviceLostError } from '../devices/cuda/attachment.js';
import { type CudaModel, readCudaModel } from '../devices/cuda/model-file.js';
import { CUDA_LOAD_LIMIT } from '../devices/cuda/native.js';
import { describeValue, type Duration, formatDurationNs, parseDurationNs, parsePositiveDurationNs } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { LatencyProfile } from '../model/latency-profile.js';
import {
  type AdviceConfig,
  type Condition,
  CONDITIONS,
  DEFAULT_ADVICE,
  DROP_POLICIES,
  type DropPolicy,
  type GpuConfig,
  HOST_CALLBACK,
  HOST_CUDA,
  HOST_EMULATED,
  type Margins,
  type ModelConfig,
  type SchedulerConfig,
} from '../protocol/config.js';
import { MAX_GPUS } from '../protocol/outcome.js';
import { bytesForCells, PAGE_BYTES } from '../protocol/arena.js';
import { type CellLayout, resolveLayout } from '../model/tensor.js';
import { MAX_MODELS } from '../protocol/specs.js';
import type { RecordOptions } from './recorder.js';
import { assignShards, chooseTopology, expectedLoad, poolCapacityPerSecond, type Topology, TOPOLOGIES, usableCores } from './topology.js';
import { isValueTypes, type TypedModelOptions } from './types.js';
import { WAITING_STRATEGIES, type WaitingStrategy } from './waiter.js';

export type { Batch, Condition, DropPolicy, Duration, ExecuteBatch, RecordOptions, Topology, WaitingStrategy };

/** ℓ(b) = alpha · b + beta up to maxBatch, or the time of a batch of 1, 2, 3, … */
export type ProfileOption = { alpha: Duration; beta: Duration; maxBatch: number } | readonly Duration[] | LatencyProfile;

export interface ModelOptions extends TypedModelOptions {
  /** Latency objective: deadline = arrival + slo. At least the time of a batch of one. */
  slo: Duration;
  /** Time to execute a batch, by its size. */
  profile: ProfileOption;
  /** Largest batch, if smaller than the profile's. */
  maxBatch?: number;
  /** What happens to requests that cannot be met in the batch of the target size; default `adaptive` (ALGORITHM 1.2, 1.7). */
  dropPolicy?: DropPolicy;
  /** When a batch that could run is worth starting; default `adaptive` (ALGORITHM 1.4, 1.7). */
  condition?: Condition;
  /** A result that comes after its deadline: `deliver` it (default) or `reject` with `LateError`. */
  onLate?: 'deliver' | 'reject';
  /** Requests that may wait; one more ends as `queue-full`. Default: all that may be in flight. */
  maxQueue?: number;
  /** For CUDA devices: the folder of its `model.json`, kernels and weights. Its tensors must be the ones declared here. */
  cuda?: string;
  /** Requests per second that are expected, to spread models over shards. Default: what one GPU could do. */
  expectedRate?: number;
}

/** What `updateModel` can change; what is left out stays. */
export type ModelChanges = Pick<Partial<ModelOptions>, 'slo' | 'profile' | 'maxBatch' | 'dropPolicy' | 'condition' | 'onLate' | 'maxQueue' | 'cuda'>;

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

/** A GPU of this machine. Every model of a scheduler that has one needs its folder, `cuda`. */
export interface CudaDeviceOptions {
  kind: 'cuda';
  /** The CUDA driver's number of it, default 0. */
  gpu?: number;
}

export type DeviceOptions<I, O> = EmulatedDeviceOptions | CallbackDeviceOptions<I, O> | CudaDeviceOptions;

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

/** How `stats().gpusWanted` comes about. */
export interface AdviceOptions {
  /** How often it is computed, from what was measured since. Default 1 s, from 100 ms to 1 h. */
  epoch?: Duration;
  /** Epochs for which a GPU has to be idle before fewer are wanted. Default 3, at most 1000. */
  hysteresis?: number;
}

export interface SchedulerOptions<I = unknown, O = unknown, M extends readonly ModelOptions[] = readonly ModelOptions[]> {
  models: M;
  devices: readonly DeviceOptions<I, O>[];
  /** Requests in flight at once per client; one more is refused. Rounded up to a power of two. Default 65,536. */
  maxInFlight?: number;
  /** Clients that may be open at once beside the scheduler itself: tickets and raw clients. Default 16, at most 64. */
  maxClients?: number;
  /** Models that there can be at once, with those added later. Default 64, or as many as there are; at most 4096. */
  maxModels?: number;
  /** GPUs that there can be at once, with those added later. Default 64, or as many as there are. */
  maxDevices?: number;
  /** Largest batch of models that are added or updated later. Default: the largest of those that there are. */
  maxBatch?: number;
  /** Memory for the tensors of all requests in flight, in bytes or as '256MiB' (the default). Taken when it is used. */
  memoryLimit?: number | string;
  /** `single`: one thread; `split`: one per shard and one to dispatch; `auto` (default): by the load that the GPUs allow and the cores there are. */
  topology?: (typeof TOPOLOGIES)[number];
  /** Shards, at most one per model. Default: chosen with the topology. */
  shards?: number;
  /** How the scheduler threads wait: `balanced` (default), `spin`, `park`. With fewer cores than threads `balanced` is `park`. */
  waiting?: WaitingStrategy;
  margins?: MarginOptions;
  /** Writes every accepted request's arrival into this file, to be replayed by `rubato simulate --trace` (guide, “Record and replay”). */
  record?: string | RecordOptions;
  advice?: AdviceOptions;
  /** How long after its expected end a batch on a CUDA device may go on before the device is given up; default 2s. */
  cudaGrace?: Duration;
  /** How long one call to the CUDA driver may take that opens a GPU or loads a model before the GPU is given up; default 60s. */
  cudaLoadLimit?: Duration;
  /** A CUDA device was lost for the life of the process, and has left the pool. Default: a warning of the process. */
  onDeviceLost?: (error: DeviceLostError) => void;
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
  inputs: z.unknown().optional(),
  outputs: z.unknown().optional(),
  value: z.custom(isValueTypes).optional(),
  cuda: z.string().min(1).optional(),
  expectedRate: z.number().positive().optional(),
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

const cudaSchema = z.strictObject({ kind: z.literal('cuda'), gpu: z.int().min(0).max(1023).optional() });

const deviceSchema = z.discriminatedUnion('kind', [emulatedSchema, callbackSchema, cudaSchema]);

const recordSchema = z.strictObject({ file: z.string().min(1), maxBytes: z.int().min(1).optional() });

const schema = z.strictObject({
  models: z.array(modelSchema).min(1).max(MAX_MODELS),
  devices: z.array(deviceSchema).min(1),
  maxInFlight: z.int().min(32).max(2 ** 22).optional(),
  maxClients: z.int().min(0).max(64).optional(),
  maxModels: count(MAX_MODELS).optional(),
  maxDevices: count(MAX_GPUS).optional(),
  maxBatch: count(8191).optional(),
  memoryLimit: z.unknown().optional(),
  topology: z.enum(TOPOLOGIES).optional(),
  shards: count(64).optional(),
  waiting: z.enum(WAITING_STRATEGIES).optional(),
  margins: z.strictObject({ control: duration.optional(), transfer: duration.optional(), response: duration.optional(), jitter: duration.optional() }).optional(),
  record: z.unknown().optional(),
  advice: z.strictObject({ epoch: duration.optional(), hysteresis: count(1000).optional() }).optional(),
  cudaGrace: duration.optional(),
  cudaLoadLimit: duration.optional(),
  onDeviceLost: z.custom<(error: DeviceLostError) => void>((value) => typeof value === 'function').optional(),
});

/** One model as its options say it, checked and in numbers. */
export interface ResolvedModel {
  /** Its `profile` is 0: the number is given by whoever puts models together. */
  readonly config: ModelConfig;
  /** ℓ in ns, index = batch size 0 … maxBatch + 1, the last +Infinity. */
  readonly profile: Float64Array;
  readonly layout: CellLayout | null;
  readonly rejectLate: boolean;
  /** For CUDA devices; null when it has no folder for them. */
  readonly cuda: CudaModel | null;
  /** Requests per second it is reckoned at. */
  readonly load: number;
  /** As it was given: what an update starts from. */
  readonly given: Readonly<Record<string, unknown>>;
}

export interface ResolvedDevice {
  readonly gpu: GpuConfig;
  /** Its callback, null for an emulated one. */
  readonly execute: ExecuteBatch<unknown, unknown> | null;
  /** The driver's number of a CUDA device, null for any other. */
  readonly cuda: number | null;
}

/** What the threads need, and what stays with the thread that made the scheduler. */
export interface ResolvedOptions {
  readonly config: SchedulerConfig;
  readonly topology: Topology;
  readonly arenaBytes: number;
  /** Null when nothing is recorded. */
  readonly record: RecordOptions | null;
  /** By model. */
  readonly models: readonly ResolvedModel[];
  /** By GPU: its callback, null for an emulated one. */
  readonly executes: readonly (ExecuteBatch<unknown, unknown> | null)[];
  readonly cuda: readonly CudaDeviceSpec[];
  readonly cudaLimits: CudaLimits;
  readonly onDeviceLost: ((error: DeviceLostError) => void) | null;
}

/** Checks the options and fills in defaults. Throws `InvalidOptionError` for the first thing that is wrong. */
export function resolveOptions(options: unknown, cores = usableCores()): ResolvedOptions {
  const given = parse(schema, options, '');
  const slotShift = Math.max(5, Math.ceil(Math.log2(given.maxInFlight ?? 65_536)));
  const resolved = resolveModels(given.models, 2 ** slotShift);
  const { models, profiles } = shareProfiles(resolved);
  const devices = given.devices.flatMap((device) => resolveDevice(device));
  const gpus = devices.map((device) => device.gpu);
  if (gpus.length > MAX_GPUS) throw new InvalidOptionError('devices', `got ${gpus.length} GPUs in all, at most ${MAX_GPUS} are possible`);
  const cuda = cudaDevicesOf(devices, resolved, given.devices.flatMap(({ kind }, i) => (kind === 'cuda' ? [`devices[${i}].gpu`] : [])));
  const limits = {
    maxModels: atLeast(given.maxModels, models.length, 64, 'maxModels', 'models'),
    maxGpus: atLeast(given.maxDevices, gpus.length, 64, 'maxDevices', 'GPUs'),
    maxBatch: atLeast(given.maxBatch, Math.max(...models.map((model) => model.maxBatch)), 1, 'maxBatch', 'requests in the largest batch'),
  };
  const capacityPerSecond = poolCapacityPerSecond(resolved.map(({ config, profile }) => ({ ...config, profile })), gpus);
  const topology = chooseTopology(given, { usableCores: cores }, { models: models.length, capacityPerSecond });
  return {
    config: {
      models,
      profiles,
      gpus,
      ...limits,
      shards: topology.shards,
      assignment: assignShards(resolved.map((model) => model.load), topology.shards),
      split: topology.kind === 'split',
      maxClients: 1 + (given.maxClients ?? 16),
      slotShift,
      shedShare: SHED_SHARE,
      margins: resolveMargins(given.margins ?? {}, Math.min(...models.map((model) => model.sloNs)) / 10),
      advice: resolveAdvice(given.advice ?? {}),
      origin: clockOrigin(),
      recording: given.record !== undefined,
    },
    topology,
    arenaBytes: resolveMemoryLimit(given.memoryLimit, resolved),
    record: given.record === undefined ? null : resolveRecord(given.record),
    models: resolved,
    executes: devices.map((device) => device.execute),
    cuda,
    cudaLimits: {
      graceNs: parsePositiveDurationNs(given.cudaGrace ?? '2s', 'cudaGrace'),
      callLimitNs: parsePositiveDurationNs(given.cudaLoadLimit ?? CUDA_LOAD_LIMIT, 'cudaLoadLimit'),
    },
    onDeviceLost: given.onDeviceLost ?? null,
  };
}

const LEAST_EPOCH_NS = 100e6;
const MOST_EPOCH_NS = 3600e9;

function resolveAdvice({ epoch, hysteresis = DEFAULT_ADVICE.hysteresis }: { epoch?: Duration | undefined; hysteresis?: number | undefined }): AdviceConfig {
  const epochNs = epoch === undefined ? DEFAULT_ADVICE.epochNs : parseDurationNs(epoch, 'advice.epoch');
  if (epochNs < LEAST_EPOCH_NS || epochNs > MOST_EPOCH_NS) throw new InvalidOptionError('advice.epoch', `got ${describeValue(epoch)}, must be from 100 ms to 1 h`);
  return { epochNs, hysteresis };
}

function atLeast(given: number | undefined, there: number, otherwise: number, path: string, what: string): number {
  if (given !== undefined && given < there) throw new InvalidOptionError(path, `got ${given}, there are ${there} ${what} already`);
  return given ?? Math.max(there, otherwise);
}

/** Checks one device of `addDevice`, or of the list. */
export function resolveDevice(given: unknown, path = ''): ResolvedDevice[] {
  const device = path === '' ? (given as z.output<typeof deviceSchema>) : parse(deviceSchema, given, path);
  const emulated = device.kind === 'emulated' ? device : null;
  const gpu: GpuConfig = {
    host: device.kind === 'emulated' ? HOST_EMULATED : device.kind === 'cuda' ? HOST_CUDA : HOST_CALLBACK,
    slowdown: emulated?.slowdown ?? 1,
    jitter: emulated?.jitter ?? 0,
    failureRate: emulated?.failureRate ?? 0,
    seed: emulated?.seed ?? 1,
  };
  const execute = device.kind === 'callback' ? device.execute : null;
  if (device.kind === 'cuda') return [{ gpu, execute, cuda: device.gpu ?? 0 }];
  return Array.from({ length: device.count ?? 1 }, () => ({ gpu, execute, cuda: null }));
}

/** Every device runs every model: with a CUDA device among them, all need what it runs. */
function cudaDevicesOf(devices: readonly ResolvedDevice[], models: readonly ResolvedModel[], paths: readonly string[]): CudaDeviceSpec[] {
  const rows = devices.flatMap(({ cuda: gpu }, row) => (gpu === null ? [] : [{ gpu, row }]));
  const cuda = rows.map((device, i) => ({ ...device, path: paths[i]! }));
  if (cuda.length === 0) return cuda;
  cuda.forEach(({ gpu, path }, i) => {
    const twin = cuda.findIndex((other) => other.gpu === gpu);
    if (twin !== i) throw new InvalidOptionError(path, `got ${gpu}, which is ${cuda[twin]!.path} already`);
  });
  models.forEach((model, i) => {
    if (model.cuda === null) throw new InvalidOptionError(`models[${i}].cuda`, `is missing; with a device of kind 'cuda' every model needs the folder of its model.json`);
  });
  return cuda;
}

const MEMORY_UNITS: Readonly<Record<string, number>> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };
const DEFAULT_MEMORY_LIMIT = 256 * 2 ** 20;
const MOST_MEMORY = 2 ** 31 - PAGE_BYTES;

/** Bytes of the region of tensors; 0 when no model has any. It must hold one full batch of each model, and the next one. */
function resolveMemoryLimit(given: unknown, models: readonly ResolvedModel[]): number {
  const bytes = given === undefined ? DEFAULT_MEMORY_LIMIT : memoryBytes(given);
  const withTensors = models.filter((model) => model.layout !== null);
  if (withTensors.length === 0 && given === undefined) return 0;
  const needed = withTensors.map(({ config, layout }) => ({ config, layout: layout!, bytes: bytesForCells(2 * config.maxBatch, layout!.bytes) }));
  const most = needed.reduce((a, b) => (b.bytes > a.bytes ? b : a), needed[0]!);
  if (most !== undefined && most.bytes > bytes) {
    const mib = (value: number): string => `${(value / 2 ** 20).toFixed(1)} MiB`;
    throw new InvalidOptionError(
      'memoryLimit',
      `got ${mib(bytes)}${given === undefined ? ' (the default)' : ''}, model '${most.config.name}' alone needs ${mib(most.bytes)}: ` +
        `2 batches × ${most.config.maxBatch} requests × ${most.layout.bytes} B of tensors per request, in whole pages of 64 KiB`,
    );
  }
  return bytes;
}

function memoryBytes(given: unknown): number {
  const [, amount, unit] = (typeof given === 'string' ? /^(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB)$/.exec(given) : null) ?? [];
  const bytes = typeof given === 'number' ? given : amount === undefined ? NaN : Number(amount) * MEMORY_UNITS[unit!]!;
  if (!(Number.isFinite(bytes) && bytes >= PAGE_BYTES && bytes <= MOST_MEMORY)) {
    throw new InvalidOptionError('memoryLimit', `got ${describeValue(given)}, must be a number of bytes or such as '256MiB', from 64 KiB to just below 2 GiB`);
  }
  return Math.floor(bytes);
}

function resolveRecord(given: unknown): RecordOptions {
  if (typeof given === 'string' && given !== '') return { file: given };
  if (typeof given !== 'object' || given === null) throw new InvalidOptionError('record', `got ${describeValue(given)}, must be the name of a file, or { file, maxBytes }`);
  const { file, maxBytes } = parse(recordSchema, given, 'record');
  return maxBytes === undefined ? { file } : { file, maxBytes };
}

function parse<S extends z.ZodType>(of: S, options: unknown, prefix: string): z.output<S> {
  const result = of.safeParse(options, { error: (issue) => describeIssue(issue) });
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const path = issue.code === 'unrecognized_keys' ? [...issue.path, issue.keys[0]!] : issue.path;
  throw new InvalidOptionError([prefix, pathOf(path)].filter((part) => part !== '').join('.') || 'options', issue.message);
}

function pathOf(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => (typeof key === 'number' ? `${text}[${key}]` : text === '' ? String(key) : `${text}.${String(key)}`), '');
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
      return issue.discriminator === undefined ? `${got}, must be a duration such as '25ms' or a number of milliseconds` : `got ${describeValue((issue.input as { kind?: unknown }).kind)}, must be 'emulated', 'callback' or 'cuda'`;
    case 'custom':
      return issue.path?.at(-1) === 'value' ? `${got}, must be what value() gives` : `${got}, must be a function`;
    default:
      return undefined;
  }
}

function article(expected: string): string {
  const name = expected === 'int' ? 'integer' : expected === 'number' ? 'finite number' : expected;
  return /^[aeiou]/.test(name) ? `an ${name}` : `a ${name}`;
}

function resolveModels(given: readonly z.output<typeof modelSchema>[], maxInFlight: number): ResolvedModel[] {
  const names = new Map<string, number>();
  return given.map((model, index) => {
    const twin = names.get(model.name);
    if (twin !== undefined) throw new InvalidOptionError(`models[${index}].name`, `got '${model.name}', which is the name of models[${twin}] already`);
    names.set(model.name, index);
    return resolveChecked(model, `models[${index}]`, maxInFlight);
  });
}

/** Checks the options of one model, for `addModel` and `updateModel`. Throws InvalidOptionError. */
export function resolveModel(given: unknown, path: string, maxInFlight: number): ResolvedModel {
  return resolveChecked(parse(modelSchema, given, path), path, maxInFlight);
}

function resolveChecked(model: z.output<typeof modelSchema>, path: string, maxInFlight: number): ResolvedModel {
  if (model.value !== undefined && (model.inputs !== undefined || model.outputs !== undefined)) {
    throw new InvalidOptionError(`${path}.value`, 'is for a model without tensors, this one declares inputs or outputs');
  }
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
  const layout = resolveLayout(model.inputs, model.outputs, path);
  return {
    config: {
      name: model.name,
      sloNs,
      profile: 0,
      maxBatch,
      dropPolicy: DROP_POLICIES.indexOf(model.dropPolicy ?? 'adaptive'),
      condition: CONDITIONS.indexOf(model.condition ?? 'adaptive'),
      maxQueue: model.maxQueue ?? maxInFlight,
    },
    profile: ns,
    layout,
    cuda: model.cuda === undefined ? null : readCudaModel(model.name, model.cuda, layout, maxBatch),
    rejectLate: model.onLate === 'reject',
    load: model.expectedRate ?? expectedLoad(ns, maxBatch, sloNs),
    given: model,
  };
}

/** Models with equal profiles share one. */
function shareProfiles(resolved: readonly ResolvedModel[]): { models: ModelConfig[]; profiles: Float64Array[] } {
  const profiles: Float64Array[] = [];
  const byContent = new Map<string, number>();
  const models = resolved.map(({ config, profile }) => {
    const content = profile.join();
    const known = byContent.get(content) ?? profiles.push(profile) - 1;
    byContent.set(content, known);
    return { ...config, profile: known };
  });
  return { models, profiles };
}

/** See `SchedulerConfig.shedShare`. */
export const SHED_SHARE = 0.5;

/** What a margin starts from until it has been measured, and at most a tenth of the shortest SLO. Generous: the first batches run cold. */
const FIRST_CONTROL_NS = 5e6;
const FIRST_RESPONSE_NS = 5e6;
const FIRST_JITTER_NS = 5e6;

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
