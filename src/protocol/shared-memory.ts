/**
 * The one shared buffer of a scheduler and where everything lies in it. Made once by the thread that creates
 * the scheduler, cloned to all others.
 *
 *   control words, heartbeats, doorbells, margins
 *   what may change  model offers, model specs, profiles, GPU specs, acknowledgements (specs.ts)
 *   per client      state, model rows, histograms
 *   per client and shard   request lane ▶   ◀ completion lane
 *   slot table, shards' slot table, cancel words and cell words (all clients)
 *   page table of the tensors, which lie in a buffer of their own
 *   per shard       cancel and resend bitmaps, admitted words, intent row, batch table, grant lane ▶ ◀ answer lane, ◀ batch-done lane (all with the dispatcher)
 *   candidates      dirty bitmap, mailboxes
 *   model rows      of the shards, of the dispatcher; histograms
 *   GPU rows, advice
 *   per device host issue lane ▶ ◀ done lane
 *
 * Lanes are sized by what can be under way at once, so they cannot fill: a full one is a broken invariant.
 */
import { BufferPlan, LINE_BYTES } from '../ringbuf/layout.js';
import { dirtyBitmapBytes } from '../ringbuf/dirty-bitmap.js';
import { DOORBELL_BYTES } from '../ringbuf/doorbell.js';
import { HistogramTable } from '../ringbuf/log-linear.js';
import { initMailboxes, mailboxBytes } from '../ringbuf/mailbox.js';
import { ringBytes, type RingPlace } from '../ringbuf/spsc-ring.js';
import { RubatoError } from '../model/errors.js';
import { DEVICE_HOSTS, HOST_CALLBACK, type SchedulerConfig } from './config.js';
import { ANSWER, BATCH_DONE, CANDIDATE, COMPLETION, DEVICE_DONE, GRANT, ISSUE, REQUEST } from './records.js';
import { ADVICE_BYTES } from './advice.js';
import { allocateRecording, type RecordingPlace } from './recording.js';
import { arenaPages, arenaTableWords, PAGE_BYTES } from './arena.js';
import { clientScratchPlace, type ClientScratchPlace, scratchPlace, type ScratchPlace } from './scratch.js';
import { GPU_SPEC, MODEL_OFFER, MODEL_SPEC, SpecTable } from './specs.js';
import { BATCH, CLIENT_HISTOGRAMS, CLIENT_MODEL, DISPATCH_MODEL, GPU, INTENT, SCHEDULER_HISTOGRAMS, SHARD_MODEL, SHARD_SLOT, SLOT } from './tables.js';

/** Words of the control piece, one line each. Written by the thread that made the scheduler unless said. */
export const CONTROL_STATE = 0;
/** Counts the changes of specs, states and clients: one load per poll tells a role that there is nothing new. */
export const CONTROL_VERSION = LINE_BYTES / 4;
export const CONTROL_BYTES = 2 * LINE_BYTES;

/**
 * States of a client's region, in the low bits of its word; above them its uses are counted, so that an old ticket opens
 * nothing. Written by the thread that made the scheduler, except `ticket` → `open` by who opens it.
 */
export const CLIENT_FREE = 0;
export const CLIENT_TICKET = 1;
export const CLIENT_OPEN = 2;
/** Its thread is gone; what it left is being drained. */
export const CLIENT_DYING = 3;
export const CLIENT_STATE_MASK = 3;
export const CLIENT_USE = 4;

export const STATE_RUNNING = 0;
/** Queued requests end as `closed`; batches that run are waited for. */
export const STATE_CLOSING = 1;
/** Threads leave their loops. */
export const STATE_STOPPED = 2;

/**
 * Doubles of the margins piece, one line each: c and j are written by the dispatcher, r by client 0, δ is fixed; then the
 * most that a measured one may be, written by the thread that made the scheduler; then θ, the share of its target size for
 * which a model under the drop policy `adaptive` gives requests up, written by the dispatcher.
 */
export const MARGIN_CONTROL = 0;
export const MARGIN_TRANSFER = LINE_BYTES / 8;
export const MARGIN_RESPONSE = (2 * LINE_BYTES) / 8;
export const MARGIN_JITTER = (3 * LINE_BYTES) / 8;
export const MARGIN_MOST = (4 * LINE_BYTES) / 8;
export const MARGIN_DROP_SHARE = (5 * LINE_BYTES) / 8;
export const MARGIN_BYTES = 6 * LINE_BYTES;

export interface ShardPlace {
  readonly bell: number;
  readonly cancel: number;
  /** One bit per slot: requests that the shard may not have seen, to be admitted unless it has. Marked by whoever takes over for a dead client or hands a model over. */
  readonly resend: number;
  /** One i32 per slot, and the intent row: tables.ts. */
  readonly admitted: number;
  readonly intent: number;
  readonly batchRows: number;
  /** Slot numbers per row of the batch table. */
  readonly batchStride: number;
  readonly batchHeaders: number;
  readonly batchSlots: number;
  readonly grants: RingPlace;
  readonly answers: RingPlace;
  readonly batchDone: RingPlace;
  readonly scratch: ScratchPlace;
}

export interface ClientPlace {
  readonly bell: number;
  readonly models: number;
  readonly histograms: number;
  /** One per shard. */
  readonly requests: readonly RingPlace[];
  readonly completions: readonly RingPlace[];
  readonly scratch: ClientScratchPlace;
}

export interface HostPlace {
  readonly bell: number;
  readonly issues: RingPlace;
  readonly done: RingPlace;
}

/** Byte offsets into `buffer`, and the lanes. */
export interface SharedMemory {
  readonly buffer: SharedArrayBuffer;
  /** Whose buffer that is, if the inner loops are to run as WebAssembly (`SchedulerConfig.compiledLoops`). */
  readonly wasm: WebAssembly.Memory | null;
  readonly config: SchedulerConfig;
  /** How many of each there can be at once. */
  readonly limits: Limits;
  readonly control: number;
  /** Byte offset of CONTROL_VERSION. */
  readonly version: number;
  /** One line per thread. */
  readonly heartbeats: number;
  readonly margins: number;
  readonly dispatcherBell: number;
  /** The bells of all threads that host roles. */
  readonly roleBells: readonly number[];
  readonly offers: number;
  readonly specs: number;
  readonly profiles: number;
  readonly profileRows: number;
  readonly gpuSpecs: number;
  readonly acks: number;
  /** One i32 per client. */
  readonly clientStates: number;
  readonly slots: number;
  readonly shardSlots: number;
  readonly cancels: number;
  /** One i32 per slot: where its tensors are, in units of 64 bytes, + 1; 0 = none. Written by the client, published by the request. */
  readonly cells: number;
  /** The page table of `arena`. */
  readonly pages: number;
  readonly pageCount: number;
  /** Where tensors lie; null when no model has any. */
  readonly arena: SharedArrayBuffer | null;
  /** To record arrivals with; null when nobody does. */
  readonly recording: RecordingPlace | null;
  readonly clients: readonly ClientPlace[];
  readonly shards: readonly ShardPlace[];
  readonly candidateDirty: number;
  readonly candidates: number;
  readonly shardModels: number;
  readonly dispatchModels: number;
  readonly histograms: number;
  readonly gpus: number;
  /** Written by the dispatcher (advice.ts). */
  readonly advice: number;
  readonly hosts: readonly HostPlace[];
}

export interface Limits {
  readonly models: number;
  readonly gpus: number;
  readonly batch: number;
}

/** A measured margin is at most this: beyond a tenth of the shortest SLO the machine has stalled, and waiting for it would only lose requests. */
export const mostMarginNs = (slosNs: readonly number[]): number => Math.min(...slosNs) / 10;

/** Smallest power of two that is at least `n`. */
export function powerOfTwo(n: number): number {
  let power = 1;
  while (power < n) power *= 2;
  return power;
}

/**
 * Behind the arena nothing lies for one page of the system: a CUDA device pins whole pages, and no page may be pinned for
 * two schedulers. A copy from memory that is pinned in part is refused by the driver.
 */
const PINNED_PAGE_BYTES = 4096;

class LanePlan extends BufferPlan {
  readonly lanes: { byteOffset: number; capacity: number; recordBytes: number }[] = [];

  lane(minimum: number, recordBytes: number): number {
    const capacity = powerOfTwo(minimum);
    return this.lanes.push({ byteOffset: this.take(ringBytes(capacity, recordBytes)), capacity, recordBytes }) - 1;
  }
}

const WASM_PAGE_BYTES = 65536;

/** Null where there is no WebAssembly (`--jitless`), or no room in the address space: it reserves more than it takes. */
function wasmMemory(bytes: number): WebAssembly.Memory | null {
  const pages = Math.ceil(bytes / WASM_PAGE_BYTES);
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  } catch {
    return null;
  }
}

/** Threads that host the roles of a scheduler: the dispatch thread is number 0 and also hosts the emulated GPUs. */
export function schedulerThreads(config: SchedulerConfig): number {
  return config.split === true ? config.shards + 1 : 1;
}

/** Lays out and allocates the shared memory of a scheduler. Throws with the arithmetic if it would exceed 2 GiB. */
export function allocateSharedMemory(config: SchedulerConfig, arenaBytes = 0): SharedMemory {
  const plan = new LanePlan();
  const models = Math.max(config.maxModels ?? 0, config.models.length);
  const gpus = Math.max(config.maxGpus ?? 0, config.gpus.length);
  const slotsPerClient = 2 ** config.slotShift;
  const maxBatch = Math.max(config.maxBatch ?? 0, ...config.models.map((model) => model.maxBatch));
  const batchRows = powerOfTwo(Math.max(16, 2 * gpus));
  const threads = schedulerThreads(config);

  const control = plan.take(CONTROL_BYTES);
  const heartbeats = plan.take(threads * LINE_BYTES);
  const margins = plan.take(MARGIN_BYTES);
  // One bell per thread: in `single`, one thread hosts all roles.
  const roleBells = Array.from({ length: threads }, () => plan.take(DOORBELL_BYTES));
  const dispatcherBell = roleBells[0]!;
  const offers = plan.take(models * MODEL_OFFER.bytes);
  const specs = plan.take(models * MODEL_SPEC.bytes);
  const profileRows = models + 1;
  const profiles = plan.take(profileRows * (maxBatch + 2) * 8);
  const gpuSpecs = plan.take(gpus * GPU_SPEC.bytes);
  const acks = plan.take((2 + config.shards) * LINE_BYTES);
  const clientStates = plan.take(config.maxClients * 4);

  const clients = Array.from({ length: config.maxClients }, () => ({
    bell: plan.take(DOORBELL_BYTES),
    models: plan.take(models * CLIENT_MODEL.bytes),
    histograms: plan.take(HistogramTable.bytes(CLIENT_HISTOGRAMS * models)),
    requests: Array.from({ length: config.shards }, () => plan.lane(2 * slotsPerClient, REQUEST.bytes)),
    completions: Array.from({ length: config.shards }, () => plan.lane(2 * slotsPerClient, COMPLETION.bytes)),
    scratch: clientScratchPlace((bytes) => plan.take(bytes), slotsPerClient),
  }));
  const slots = plan.take(config.maxClients * slotsPerClient * SLOT.bytes);
  const shardSlots = plan.take(config.maxClients * slotsPerClient * SHARD_SLOT.bytes);
  const cancels = plan.take(config.maxClients * slotsPerClient * 4);
  const cells = plan.take(config.maxClients * slotsPerClient * 4);
  const pageCount = arenaPages(arenaBytes);
  const pages = plan.take(pageCount === 0 ? 0 : arenaTableWords(pageCount) * 4);

  const shards = Array.from({ length: config.shards }, (_, shard) => ({
    bell: config.split === true ? roleBells[1 + shard]! : dispatcherBell,
    resend: plan.take(dirtyBitmapBytes(config.maxClients * slotsPerClient)),
    cancel: plan.take(dirtyBitmapBytes(config.maxClients * slotsPerClient)),
    admitted: plan.take(config.maxClients * slotsPerClient * 4),
    intent: plan.take(INTENT.bytes),
    batchRows,
    batchStride: maxBatch,
    batchHeaders: plan.take(batchRows * BATCH.bytes),
    batchSlots: plan.take(batchRows * maxBatch * 4),
    grants: plan.lane(2 * models, GRANT.bytes),
    answers: plan.lane(2 * models, ANSWER.bytes),
    batchDone: plan.lane(batchRows, BATCH_DONE.bytes),
    scratch: scratchPlace((bytes) => plan.take(bytes), models),
  }));
  const candidateDirty = plan.take(dirtyBitmapBytes(models));
  const candidates = plan.take(mailboxBytes(models, CANDIDATE.bytes));
  const shardModels = plan.take(models * SHARD_MODEL.bytes);
  const dispatchModels = plan.take(models * DISPATCH_MODEL.bytes);
  const histograms = plan.take(HistogramTable.bytes(SCHEDULER_HISTOGRAMS * models));
  const gpuRows = plan.take(gpus * GPU.bytes);
  const advice = plan.take(ADVICE_BYTES);
  const hosts = Array.from({ length: DEVICE_HOSTS }, (_, host) => ({
    // Callbacks run on the thread that made the scheduler, which is client 0.
    bell: host === HOST_CALLBACK ? clients[0]!.bell : dispatcherBell,
    issues: plan.lane(4 * gpus, ISSUE.bytes),
    done: plan.lane(4 * gpus, DEVICE_DONE.bytes),
  }));

  if (plan.bytes >= 2 ** 31) {
    const mib = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;
    throw new RubatoError(
      'ERR_RUBATO_MEMORY',
      `the scheduler would need ${mib(plan.bytes)} of shared memory, at most 2048 MiB are possible: ` +
        `${config.maxClients} clients × ${slotsPerClient} slots × ${SLOT.bytes + SHARD_SLOT.bytes} B = ${mib(config.maxClients * slotsPerClient * (SLOT.bytes + SHARD_SLOT.bytes))}, ` +
        `batch tables ${config.shards} × ${batchRows} rows × ${maxBatch} × 4 B = ${mib(config.shards * batchRows * maxBatch * 4)}, ` +
        `histograms of ${models} models ${mib(HistogramTable.bytes((SCHEDULER_HISTOGRAMS + config.maxClients * CLIENT_HISTOGRAMS) * models))}`,
    );
  }

  const wasm = config.compiledLoops === true ? wasmMemory(plan.bytes) : null;
  const buffer = wasm === null ? new SharedArrayBuffer(plan.bytes) : wasm.buffer;
  initMailboxes(buffer, candidates, models, CANDIDATE.bytes);
  const marginWords = new Float64Array(buffer, margins, MARGIN_BYTES / 8);
  marginWords[MARGIN_CONTROL] = config.margins.controlNs;
  marginWords[MARGIN_TRANSFER] = config.margins.transferNs;
  marginWords[MARGIN_RESPONSE] = config.margins.responseNs;
  marginWords[MARGIN_JITTER] = config.margins.jitterNs;
  marginWords[MARGIN_MOST] = mostMarginNs(config.models.map((model) => model.sloNs));
  const gpuWords = new Int32Array(buffer, gpuRows, (gpus * GPU.bytes) / 4);
  for (let gpu = 0; gpu < gpus; gpu++) {
    const at = gpu * GPU.words;
    gpuWords[at + GPU.at.grantModel] = -1;
    gpuWords[at + GPU.at.runRow] = -1;
    gpuWords[at + GPU.at.nextRow] = -1;
  }

  const place = (lane: number): RingPlace => ({ buffer, ...plan.lanes[lane]! });
  const memory: SharedMemory = {
    buffer,
    wasm,
    config,
    limits: { models, gpus, batch: maxBatch },
    control,
    version: control + CONTROL_VERSION * 4,
    heartbeats,
    margins,
    dispatcherBell,
    roleBells,
    offers,
    specs,
    profiles,
    profileRows,
    gpuSpecs,
    acks,
    clientStates,
    slots,
    shardSlots,
    cancels,
    cells,
    pages,
    pageCount,
    arena: pageCount === 0 ? null : new SharedArrayBuffer(pageCount * PAGE_BYTES + PINNED_PAGE_BYTES),
    recording: allocateRecording(config),
    clients: clients.map((client) => ({ ...client, requests: client.requests.map(place), completions: client.completions.map(place) })),
    shards: shards.map((shard) => ({ ...shard, grants: place(shard.grants), answers: place(shard.answers), batchDone: place(shard.batchDone) })),
    candidateDirty,
    candidates,
    shardModels,
    dispatchModels,
    histograms,
    gpus: gpuRows,
    advice,
    hosts: hosts.map((host) => ({ ...host, issues: place(host.issues), done: place(host.done) })),
  };
  new SpecTable(memory).writeAll();
  Atomics.store(new Int32Array(buffer), clientStates >> 2, CLIENT_OPEN); // client 0 is the thread that made it
  return memory;
}
