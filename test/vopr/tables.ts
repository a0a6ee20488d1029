/** The shared tables as the checker reads them: lanes beside their readers, and what must hold between the rows by themselves. */
import type { RingPlace } from '#rubato/ringbuf/spsc-ring.js';
import { LINE_BYTES } from '#rubato/ringbuf/layout.js';
import { CANDIDATE } from '#rubato/protocol/records.js';
import type { SharedMemory } from '#rubato/protocol/shared-memory.js';
import { MODEL_FROZEN, MODEL_SPEC } from '#rubato/protocol/specs.js';
import { BATCH, BATCH_FREE, BATCH_OPEN, DISPATCH_MODEL, GPU, SHARD_MODEL } from '#rubato/protocol/tables.js';

/** What a rule is called in reports. */
export type Rule =
  /** Each accepted slot and generation gets exactly one completion. */
  | 'one outcome'
  /** The outcome is one that the request may have: late after its deadline, cancelled if it was, closed if its model ended, … */
  | 'legal outcome'
  /** What was dropped could not be met when it was dropped. */
  | 'dropped in vain'
  /** A cancel ends what waits at once, and what runs as cancelled. */
  | 'cancel'
  /** A slot is used again only after its client has read its completion. */
  | 'slot reused'
  /** accepted = endings + in flight, in the shared rows, after every step. */
  | 'accounting'
  /** No request in two batches; a batch is of one model's requests, of its shard, of at most maxBatch. */
  | 'batch'
  /** A GPU runs one batch at a time, holds at most one grant or next batch; all in its row exist. */
  | 'gpu'
  /** A grant is made on a candidate of after the last answer, for the lowest-numbered GPU that is free in time. */
  | 'grant'
  /** No batch starts after its invalidAfter, and none ends late, unless a fault says why. */
  | 'invalidAfter'
  /** Lanes hold at most what they have room for. */
  | 'lane'
  /** Nothing waits past its deadline; what is in flight has a timer. */
  | 'timer'
  /** After the load everything ends, within a bound; rows, lanes and changes as well. */
  | 'quiescence'
  /** A role has thrown. */
  | 'sound';

/** One rule was broken. */
export class Violation extends Error {
  constructor(readonly rule: Rule, readonly atNs: number, text: string) {
    super(`[${rule}] at ${atNs} ns: ${text}`);
  }
}

/** Sees every record of a lane once, beside its reader. */
export class Tap {
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  readonly capacity: number;
  readonly #headAt: number;
  readonly #base: number;
  readonly #words: number;
  /** Of the next record: 32 bits that wrap, as the ring's own. */
  #position: number;

  constructor(place: RingPlace) {
    this.i32 = new Int32Array(place.buffer);
    this.f64 = new Float64Array(place.buffer, 0, place.buffer.byteLength >> 3);
    this.capacity = place.capacity;
    this.#headAt = place.byteOffset >> 2;
    this.#base = (place.byteOffset + 2 * LINE_BYTES) >> 2;
    this.#words = place.recordBytes >> 2;
    this.#position = this.i32[this.#headAt]!;
  }

  get position(): number {
    return this.#position;
  }

  /** Records that were committed and not released. */
  get unread(): number {
    return (this.i32[this.#headAt]! - this.tail) | 0;
  }

  get tail(): number {
    return this.i32[this.#headAt + (LINE_BYTES >> 2)]!;
  }

  /** Word index of the next record, -1 when all were seen. */
  next(): number {
    if (this.#position === this.i32[this.#headAt]) return -1;
    const at = this.#base + (this.#position & (this.capacity - 1)) * this.#words;
    this.#position = (this.#position + 1) | 0;
    return at;
  }
}

/** A closed batch, from its plan to the end of its requests. */
export interface Batch {
  readonly model: number;
  readonly shard: number;
  readonly row: number;
  readonly number: number;
  readonly gpu: number;
  readonly slots: readonly number[];
  readonly execNs: number;
  readonly invalidAfterNs: number;
  readonly plannedNs: number;
  /** Under drop policy `never`. */
  readonly mayBeLate: boolean;
  /** ℓ of its size, by each of the profiles that were the model's then. */
  readonly lengthsNs: readonly number[];
  /** The one that was planned for the same GPU before. */
  readonly previous: Batch | null;
  /** As the device reports it; NaN until then. */
  startNs: number;
  endNs: number;
  failed: boolean;
  left: number;
  /** It was to run when the thread of its device died: it runs again. */
  wasInterrupted: boolean;
}

export class Tables {
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  readonly #memory: SharedMemory;
  readonly #lanes: readonly Tap[];
  readonly #fail: (rule: Rule, text: string) => never;

  constructor(memory: SharedMemory, fail: (rule: Rule, text: string) => never) {
    this.#memory = memory;
    this.#fail = fail;
    this.i32 = new Int32Array(memory.buffer);
    this.f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#lanes = [
      ...memory.clients.flatMap((client) => [...client.requests, ...client.completions]),
      ...memory.shards.flatMap((shard) => [shard.grants, shard.answers, shard.batchDone]),
      ...memory.hosts.flatMap((host) => [host.issues, host.done]),
    ].map((place) => new Tap(place));
  }

  gpu(gpu: number, field: keyof typeof GPU.at): number {
    const at = (this.#memory.gpus >> 2) + gpu * GPU.words;
    return field.endsWith('Ns') || field === 'batches' ? this.f64[(at >> 1) + GPU.at[field]]! : this.i32[at + GPU.at[field]]!;
  }

  /** Being moved to another shard: nothing of it is decided. */
  isFrozen(model: number): boolean {
    return this.i32[(this.#memory.specs >> 2) + model * MODEL_SPEC.words + MODEL_SPEC.at.state] === MODEL_FROZEN;
  }

  issued(model: number): number {
    return this.i32[(this.#memory.dispatchModels >> 2) + model * DISPATCH_MODEL.words + DISPATCH_MODEL.at.issued]!;
  }

  answered(model: number): number {
    return this.i32[(this.#memory.shardModels >> 2) + model * SHARD_MODEL.words + SHARD_MODEL.at.answered]!;
  }

  /** The candidate that the dispatcher has taken last, as it lies in its side of the mailbox (ringbuf/mailbox.ts). */
  candidate(model: number): { readonly stamp: number; readonly invalidAfterNs: number } {
    const slotBytes = Math.ceil(CANDIDATE.bytes / 64) * 64;
    const boxBytes = Math.ceil((LINE_BYTES + 3 * slotBytes) / LINE_BYTES) * LINE_BYTES;
    const box = this.#memory.candidates + model * boxBytes;
    const at = (box + LINE_BYTES + ((this.i32[box >> 2]! >> 4) & 3) * slotBytes) >> 2;
    return { stamp: this.i32[at + CANDIDATE.at.stamp]!, invalidAfterNs: this.f64[(at >> 1) + CANDIDATE.at.invalidAfterNs]! };
  }

  /** When a GPU can take a grant, by its row: +Infinity while it holds a grant or a next batch, and while it is overdue. */
  freeAtNs(gpu: number, nowNs: number): number {
    if (this.gpu(gpu, 'grantModel') !== -1 || this.gpu(gpu, 'nextRow') !== -1) return Infinity;
    if (this.gpu(gpu, 'runRow') === -1) return this.gpu(gpu, 'freeNs');
    const endNs = this.gpu(gpu, 'runEndNs');
    return endNs < nowNs ? Infinity : endNs;
  }

  // ---------------------------------------------------------------- after every step

  checkLanes(): void {
    for (const lane of this.#lanes) {
      const { unread } = lane;
      if (unread < 0 || unread > lane.capacity) this.#fail('lane', `a lane for ${lane.capacity} records holds ${unread}`);
    }
  }

  /** `batches` by shard and row: those that are open. */
  check(batches: ReadonlyMap<string, Batch>): void {
    this.#checkBatches(batches);
    this.#checkGpus(batches);
  }

  #checkBatches(batches: ReadonlyMap<string, Batch>): void {
    const running = new Map<number, number>();
    let open = 0;
    this.#memory.shards.forEach((place, shard) => {
      for (let row = 0; row < place.batchRows; row++) {
        const at = (place.batchHeaders >> 2) + row * BATCH.words;
        if (this.i32[at + BATCH.at.state] === BATCH_FREE) continue;
        open++;
        const batch = batches.get(`${shard} ${row}`);
        const same = this.i32[at + BATCH.at.state] === BATCH_OPEN && batch !== undefined && batch.model === this.i32[at + BATCH.at.model] &&
          batch.number === this.i32[at + BATCH.at.number] && batch.gpu === this.i32[at + BATCH.at.gpu] && batch.slots.length === this.i32[at + BATCH.at.size];
        if (!same) this.#fail('batch', `row ${row} of shard ${shard} holds a batch that was not planned so, or whose requests have ended`);
        running.set(batch!.model, (running.get(batch!.model) ?? 0) + batch!.slots.length);
      }
    });
    if (open !== batches.size) this.#fail('batch', `${batches.size} batches are under way, ${open} rows are taken`);
    for (let model = 0; model < this.#memory.limits.models; model++) {
      const counted = this.f64[(((this.#memory.shardModels >> 2) + model * SHARD_MODEL.words) >> 1) + SHARD_MODEL.at.running]!;
      if (counted !== (running.get(model) ?? 0)) this.#fail('accounting', `model ${model} counts ${counted} requests in batches, its rows hold ${running.get(model) ?? 0}`);
    }
  }

  #checkGpus(batches: ReadonlyMap<string, Batch>): void {
    const granted = new Set<number>();
    const held = new Set<Batch>();
    for (let gpu = 0; gpu < this.#memory.limits.gpus; gpu++) {
      const grant = this.gpu(gpu, 'grantModel');
      if (grant !== -1 && this.gpu(gpu, 'nextRow') !== -1) this.#fail('gpu', `GPU ${gpu} is granted to model ${grant} though it has a next batch`);
      if (this.gpu(gpu, 'nextRow') !== -1 && this.gpu(gpu, 'runRow') === -1) this.#fail('gpu', `GPU ${gpu} has a next batch and runs none`);
      if (granted.has(grant)) this.#fail('grant', `model ${grant} holds the grants of two GPUs`);
      if (grant !== -1) granted.add(grant);
      if (grant !== -1 && this.gpu(gpu, 'grantNumber') !== this.issued(grant)) this.#fail('grant', `GPU ${gpu} holds grant ${this.gpu(gpu, 'grantNumber')} of model ${grant}, ${this.issued(grant)} were issued`);
      for (const [which, row] of [['run', this.gpu(gpu, 'runRow')], ['next', this.gpu(gpu, 'nextRow')]] as const) {
        if (row === -1) continue;
        const batch = batches.get(`${this.gpu(gpu, `${which}Shard`)} ${row}`);
        if (batch === undefined || batch.gpu !== gpu || batch.number !== this.gpu(gpu, `${which}Number`)) this.#fail('gpu', `GPU ${gpu} has a ${which} batch that does not exist`);
        if (held.has(batch!)) this.#fail('gpu', `GPU ${gpu} has a batch that another has too`);
        held.add(batch!);
      }
    }
    for (let model = 0; model < this.#memory.limits.models; model++) {
      const ahead = (this.issued(model) - this.answered(model)) | 0;
      if (ahead !== 0 && ahead !== 1) this.#fail('grant', `of model ${model} ${this.issued(model)} grants were issued and ${this.answered(model)} answered`);
    }
  }

  // ---------------------------------------------------------------- when nothing is under way any more

  checkAtRest(): void {
    this.#memory.shards.forEach((shard, index) => {
      for (const [name, lane] of [['grant', shard.grants], ['answer', shard.answers], ['batch-done', shard.batchDone]] as const) {
        const { unread } = new Tap(lane);
        if (unread !== 0) this.#fail('quiescence', `the ${name} lane of shard ${index} still holds ${unread} records`);
      }
    });
    for (let model = 0; model < this.#memory.limits.models; model++) {
      if (this.issued(model) !== this.answered(model)) this.#fail('quiescence', `a grant of model ${model} is not answered`);
    }
  }
}
