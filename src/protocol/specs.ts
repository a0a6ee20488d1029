/**
 * What may change while a scheduler runs: which models and GPUs there are, and what they are like.
 *
 *   model offer   32 bytes per model   read by clients at every submit
 *   model spec    32 bytes per model   read by the shards; its owner by the dispatcher at every grant
 *   profile       limits.batch + 2 doubles per row: ℓ in ns by batch size, [0] = 0, past maxBatch +Infinity
 *   GPU spec      64 bytes per GPU     read by the dispatcher and the hosts of devices
 *   version       one word             counts the changes; a role that sees another one than it knows reads the rows again
 *   acks          one line per role    the version that it has taken in
 *
 * Written by one thread only, the one that made the scheduler (`SpecTable`). A change is: rows by plain stores, then the
 * version by an atomic one, then the bells; each row has a version of its own, which is stored last. The next change waits
 * until every role has acknowledged this one. A client that comes or goes publishes as well, so a role may look at a row
 * that is being written: it then sees the row's old version, and looks again with the change's own publication; only the words of an offer are read at any time, one by one.
 */
import { Doorbell } from '../ringbuf/doorbell.js';
import { defineRecord, LINE_BYTES } from '../ringbuf/layout.js';
import { firstShardOf, type GpuConfig, type ModelConfig } from './config.js';
import { CLIENT_STATE_MASK, CLIENT_USE, type SharedMemory } from './shared-memory.js';

/**
 * A model's *tag* is its number and, above that, how often the number has been given to a model: a request for a model
 * that was removed is never taken for one of its successor. Negative while requests for it are refused.
 */
export const MODEL_BITS = 12;
export const MAX_MODELS = 2 ** MODEL_BITS;
export const MODEL_MASK = MAX_MODELS - 1;
const FIRST_USE = MAX_MODELS;
const CLOSED_TAG = -(2 ** 31);
export const TAG_MASK = 2 ** 31 - 1;

export const MODEL_OFFER = defineRecord('model offer', { sloNs: 'f64', aloneNs: 'f64', tag: 'i32', shard: 'i32' }, 32);

export const MODEL_SPEC = defineRecord('model spec', {
  version: 'i32',
  state: 'i32',
  profile: 'i32',
  maxBatch: 'i32',
  dropPolicy: 'i32',
  condition: 'i32',
  maxQueue: 'i32',
  /** The owner, as the roles see it. Clients are told by the offer, once the new owner knows. */
  shard: 'i32',
});
/** The number is not in use. */
export const MODEL_NONE = 0;
export const MODEL_ACTIVE = 1;
/** Being moved to another shard: queued requests wait, nothing is granted. */
export const MODEL_FROZEN = 2;
/** Being removed at once: queued requests end as `closed`, batches that run are waited for. */
export const MODEL_ENDING = 3;

export const GPU_SPEC = defineRecord('gpu spec', { version: 'i32', state: 'i32', host: 'i32', spare: 'i32', slowdown: 'f64', jitter: 'f64', failureRate: 'f64', seed: 'f64' }, 64);
export const GPU_NONE = 0;
export const GPU_ACTIVE = 1;
/** Takes no new batch. */
export const GPU_LEAVING = 2;

/** Words of the acknowledgements: the dispatcher, the host of emulated GPUs, then the shards. */
export const ACK_DISPATCHER = 0;
export const ACK_EMULATED = LINE_BYTES / 4;
export const ackOfShard = (shard: number): number => ((2 + shard) * LINE_BYTES) / 4;

/** A view of ℓ of one profile row. */
export function profileView(memory: SharedMemory, row: number): Float64Array {
  const stride = memory.limits.batch + 2;
  return new Float64Array(memory.buffer, memory.profiles + row * stride * 8, stride);
}

/** The thread that made the scheduler changes models and GPUs through this. */
export class SpecTable {
  readonly #memory: SharedMemory;
  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  readonly #bells: Doorbell[];
  /** By profile row: models that use it. Row numbers of equal content are found by `#rowOfContent`. */
  readonly #users: Int32Array;
  readonly #contents: (string | null)[];

  /** `isWritten`: `writeAll` has been called, and nothing was changed since. */
  constructor(memory: SharedMemory, isWritten = false) {
    this.#memory = memory;
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#bells = memory.roleBells.map((bell) => new Doorbell(memory.buffer, bell));
    this.#users = new Int32Array(memory.profileRows);
    this.#contents = new Array<string | null>(memory.profileRows).fill(null);
    if (isWritten) memory.config.models.forEach((model, index) => this.#noteRow(index, model));
  }

  #noteRow(model: number, { maxBatch }: ModelConfig): void {
    const row = this.#i32[this.#spec(model) + MODEL_SPEC.at.profile]!;
    this.#users[row]!++;
    this.#contents[row] = contentOf(profileView(this.#memory, row), maxBatch);
  }

  /** Writes a whole configuration into fresh tables, before any role has started. */
  writeAll(): void {
    const { config, limits } = this.#memory;
    for (let model = 0; model < limits.models; model++) this.close(model);
    config.models.forEach((model, index) => {
      this.writeModel(index, model, config.profiles[model.profile]!, firstShardOf(config, index));
      this.open(index);
    });
    config.gpus.forEach((gpu, index) => this.writeGpu(index, gpu));
  }

  /** Tells every role, and returns the version that they will acknowledge. */
  publish(): number {
    const version = (Atomics.add(this.#i32, this.#memory.version >> 2, 1) + 1) | 0;
    for (const bell of this.#bells) bell.ring();
    return version;
  }

  /** Whether every role has taken in `version`. */
  acknowledged(version: number): boolean {
    const { acks, config } = this.#memory;
    for (let role = 0; role < config.shards + 2; role++) {
      if (((Atomics.load(this.#i32, (acks + role * LINE_BYTES) >> 2) - version) | 0) < 0) return false;
    }
    return true;
  }

  clientState(client: number): number {
    return this.#clientWord(client) & CLIENT_STATE_MASK;
  }

  setClientState(client: number, state: number): void {
    Atomics.store(this.#i32, (this.#memory.clientStates >> 2) + client, (this.#clientWord(client) & ~CLIENT_STATE_MASK) | state);
  }

  /** A new use of a free region begins; returns its word, which no other use ever has (nearly: it wraps after 2^30). */
  takeClient(client: number, state: number): number {
    const word = ((this.#clientWord(client) + CLIENT_USE) & ~CLIENT_STATE_MASK) | state;
    Atomics.store(this.#i32, (this.#memory.clientStates >> 2) + client, word);
    return word;
  }

  #clientWord(client: number): number {
    return Atomics.load(this.#i32, (this.#memory.clientStates >> 2) + client);
  }

  // ---------------------------------------------------------------- models

  #offer(model: number): number {
    return (this.#memory.offers >> 2) + model * MODEL_OFFER.words;
  }

  #spec(model: number): number {
    return (this.#memory.specs >> 2) + model * MODEL_SPEC.words;
  }

  /** Fills a model's rows; clients are not let in before `open`. The profile is ℓ by batch size, its last entry +Infinity. */
  writeModel(model: number, config: ModelConfig, profile: Float64Array, shard: number): void {
    const offer = this.#offer(model);
    const spec = this.#spec(model);
    this.#f64[(offer >> 1) + MODEL_OFFER.at.sloNs] = config.sloNs;
    this.#f64[(offer >> 1) + MODEL_OFFER.at.aloneNs] = profile[1]!;
    this.#i32[spec + MODEL_SPEC.at.shard] = shard;
    this.route(model);
    const old = this.#i32[spec + MODEL_SPEC.at.state] === MODEL_NONE ? -1 : this.#i32[spec + MODEL_SPEC.at.profile]!;
    const row = this.#rowFor(profile, config.maxBatch);
    if (old >= 0) this.#leaveRow(old);
    this.#i32[spec + MODEL_SPEC.at.profile] = row;
    this.#i32[spec + MODEL_SPEC.at.maxBatch] = config.maxBatch;
    this.#i32[spec + MODEL_SPEC.at.dropPolicy] = config.dropPolicy;
    this.#i32[spec + MODEL_SPEC.at.condition] = config.condition;
    this.#i32[spec + MODEL_SPEC.at.maxQueue] = config.maxQueue;
    if (old < 0) {
      const next = (this.#i32[offer + MODEL_OFFER.at.tag]! + FIRST_USE) & TAG_MASK & ~MODEL_MASK;
      // Use 0 says that the number was never in use: the count goes on at 1.
      Atomics.store(this.#i32, offer + MODEL_OFFER.at.tag, (next === 0 ? FIRST_USE : next) | model | CLOSED_TAG);
    }
    this.setState(model, MODEL_ACTIVE);
  }

  /** A row with this profile: one that has it, or else a free one. There is always one: as many rows as models, and one more for the change. */
  #rowFor(profile: Float64Array, maxBatch: number): number {
    const content = contentOf(profile, maxBatch);
    const known = this.#contents.indexOf(content);
    const row = known >= 0 ? known : this.#users.indexOf(0);
    if (row < 0) throw new Error('all profile rows are in use: more of them than models');
    if (known < 0) {
      const view = profileView(this.#memory, row);
      view.fill(Infinity);
      view.set(profile.subarray(0, maxBatch + 1));
      this.#contents[row] = content;
    }
    this.#users[row]!++;
    return row;
  }

  #leaveRow(row: number): void {
    this.#users[row]!--;
    if (this.#users[row] === 0) this.#contents[row] = null;
  }

  setState(model: number, state: number): void {
    const spec = this.#spec(model);
    if (state === MODEL_NONE) this.#leaveRow(this.#i32[spec + MODEL_SPEC.at.profile]!);
    this.#i32[spec + MODEL_SPEC.at.state] = state;
    Atomics.add(this.#i32, spec + MODEL_SPEC.at.version, 1);
  }

  /** Lets requests for a model in; returns its tag. */
  open(model: number): number {
    const at = this.#offer(model) + MODEL_OFFER.at.tag;
    Atomics.store(this.#i32, at, this.#i32[at]! & TAG_MASK);
    return this.#i32[at]!;
  }

  /** From now on requests for a model are refused. Some that were on their way may still come. */
  close(model: number): void {
    Atomics.or(this.#i32, this.#offer(model) + MODEL_OFFER.at.tag, CLOSED_TAG);
  }

  tag(model: number): number {
    return this.#i32[this.#offer(model) + MODEL_OFFER.at.tag]!;
  }

  shardOf(model: number): number {
    return this.#i32[this.#spec(model) + MODEL_SPEC.at.shard]!;
  }

  /** Gives a frozen model to another shard. */
  moveTo(model: number, shard: number): void {
    this.#i32[this.#spec(model) + MODEL_SPEC.at.shard] = shard;
    this.setState(model, MODEL_ACTIVE);
  }

  /** Sends a model's requests to its owner, who must know of it by then. */
  route(model: number): void {
    Atomics.store(this.#i32, this.#offer(model) + MODEL_OFFER.at.shard, this.shardOf(model));
  }

  // ---------------------------------------------------------------- GPUs

  #gpu(gpu: number): number {
    return (this.#memory.gpuSpecs >> 2) + gpu * GPU_SPEC.words;
  }

  writeGpu(gpu: number, config: GpuConfig): void {
    const at = this.#gpu(gpu);
    this.#i32[at + GPU_SPEC.at.host] = config.host;
    this.#f64[(at >> 1) + GPU_SPEC.at.slowdown] = config.slowdown;
    this.#f64[(at >> 1) + GPU_SPEC.at.jitter] = config.jitter;
    this.#f64[(at >> 1) + GPU_SPEC.at.failureRate] = config.failureRate;
    this.#f64[(at >> 1) + GPU_SPEC.at.seed] = config.seed;
    this.setGpuState(gpu, GPU_ACTIVE);
  }

  /**
   * Whether a free number can be a GPU of this host. It never changes its host, because a client may still have a result of
   * the GPU before and asks the number whether anything was computed.
   */
  canBe(gpu: number, host: number): boolean {
    const at = this.#gpu(gpu);
    return this.#i32[at + GPU_SPEC.at.version] === 0 || this.#i32[at + GPU_SPEC.at.host] === host;
  }

  gpuState(gpu: number): number {
    return this.#i32[this.#gpu(gpu) + GPU_SPEC.at.state]!;
  }

  setGpuState(gpu: number, state: number): void {
    const at = this.#gpu(gpu);
    this.#i32[at + GPU_SPEC.at.state] = state;
    Atomics.add(this.#i32, at + GPU_SPEC.at.version, 1);
  }
}

function contentOf(profile: Float64Array, maxBatch: number): string {
  return profile.subarray(0, maxBatch + 1).join();
}
