/**
 * The shard role: owns a set of models and the life of their requests.
 *
 * One poll: take in what has arrived (requests, cancels, ended batches, due timers), answer grants, then decide
 * *once per touched model* what it would run next and publish that to the dispatcher.
 * An answer is committed before the candidate that carries its stamp is published (DESIGN.md, ordered by number).
 */
import { TimeTree } from '../clock/time-tree.js';
import { DirtyBitmap } from '../ringbuf/dirty-bitmap.js';
import { Doorbell } from '../ringbuf/doorbell.js';
import { Mailboxes } from '../ringbuf/mailbox.js';
import { RingReader, RingWriter, unreadRecords } from '../ringbuf/spsc-ring.js';
import {
  DROP_ADAPTIVE,
  DROP_NEVER,
  type SchedulerConfig,
  WANT_ADAPTIVE,
  WANT_FRONTRUN,
  WANT_IMMEDIATE,
  WANT_LATEST,
  WANT_TARGET_DELAY,
  WANT_TARGET_SIZE,
} from '../protocol/config.js';
import type { Observer } from '../protocol/observer.js';
import { OUTCOME } from '../protocol/outcome.js';
import { ANSWER, BATCH_DONE, CANDIDATE, CANDIDATE_MAY_START, GRANT, GRANT_EARLY, REQUEST } from '../protocol/records.js';
import { ArrivalRecorder } from '../protocol/recording.js';
import { CELL_NEXT, CELL_NOW, CELL_WORK, type Role, roleCells } from '../protocol/role.js';
import { ARRIVAL, INTAKE, MOST_BUFFERED, MOST_TAKEN } from '../protocol/scratch.js';
import {
  CLIENT_FREE,
  CLIENT_STATE_MASK,
  CONTROL_STATE,
  MARGIN_CONTROL,
  MARGIN_DROP_SHARE,
  MARGIN_JITTER,
  MARGIN_RESPONSE,
  MARGIN_TRANSFER,
  type SharedMemory,
  type ShardPlace,
  STATE_RUNNING,
} from '../protocol/shared-memory.js';
import { ackOfShard, MODEL_ACTIVE, MODEL_ENDING, MODEL_FROZEN, MODEL_MASK, MODEL_NONE, MODEL_OFFER, MODEL_SPEC, profileView } from '../protocol/specs.js';
import { slopeOf } from '../protocol/slope.js';
import { BATCH, BATCH_OPEN, CLIENT_MODEL, passedOn, SHARD_MODEL, SHARD_SLOT, SLOT, SLOT_DOUBLES, SLOT_WORDS } from '../protocol/tables.js';
import { BatchPolicy, DEADLINE, GPU_FREE, NOW_PLUS_CONTROL, TRANSFER } from './batch-policy.js';
import { DeadlineQueue, PREFIX, SUFFIX } from './deadline-queue.js';
import { type InnerLoops, innerLoops } from './inner-loops.js';
import { Ledger, LEDGER_END, LEDGER_NOW, LEDGER_START } from './ledger.js';
import { firstTargetBatch, RateMeter, SAMPLE_NS, targetBatch } from './rate-meter.js';
import { openRows, slotsOfRow, survey } from './survey.js';

// Offsets as constants of this module: V8 folds these, but not the fields of an imported object.
const {
  execNs: ANSWER_EXEC_NS,
  gpu: ANSWER_GPU,
  lengthNs: ANSWER_LENGTH_NS,
  model: ANSWER_MODEL,
  number: ANSWER_NUMBER,
  readyNs: ANSWER_READY_NS,
  row: ANSWER_ROW,
  size: ANSWER_SIZE,
} = ANSWER.at;
const {
  execNs: BATCH_EXEC_NS,
  gpu: BATCH_GPU,
  lengthNs: BATCH_LENGTH_NS,
  model: BATCH_MODEL,
  number: BATCH_NUMBER,
  readyNs: BATCH_READY_NS,
  size: BATCH_SIZE,
  state: BATCH_STATE,
} = BATCH.at;
const {
  endNs: BATCH_DONE_END_NS,
  model: BATCH_DONE_MODEL,
  number: BATCH_DONE_NUMBER,
  row: BATCH_DONE_ROW,
  startNs: BATCH_DONE_START_NS,
  status: BATCH_DONE_STATUS,
} = BATCH_DONE.at;
const {
  deadlineNs: CANDIDATE_DEADLINE_NS,
  execNs: CANDIDATE_EXEC_NS,
  expectedNs: CANDIDATE_EXPECTED_NS,
  flags: CANDIDATE_FLAGS,
  invalidAfterNs: CANDIDATE_INVALID_AFTER_NS,
  leadNs: CANDIDATE_LEAD_NS,
  rankNs: CANDIDATE_RANK_NS,
  size: CANDIDATE_SIZE,
  stamp: CANDIDATE_STAMP,
} = CANDIDATE.at;
const { flags: GRANT_FLAGS, gpu: GRANT_GPU, gpuFreeNs: GRANT_GPU_FREE_NS, grantedNs: GRANT_GRANTED_NS, model: GRANT_MODEL, number: GRANT_NUMBER } = GRANT.at;
const { deadlineNs: ARRIVAL_DEADLINE_NS, next: ARRIVAL_NEXT, slot: ARRIVAL_SLOT } = ARRIVAL.at;
const {
  aloneNs: INTAKE_ALONE_NS,
  buffered: INTAKE_BUFFERED,
  count: INTAKE_COUNT,
  earliestNs: INTAKE_EARLIEST_NS,
  first: INTAKE_FIRST,
  floorNs: INTAKE_FLOOR_NS,
  inOrder: INTAKE_IN_ORDER,
  left: INTAKE_LEFT,
  untilNs: INTAKE_UNTIL_NS,
} = INTAKE.at;
const { budgetNs: REQUEST_BUDGET_NS, deadlineNs: REQUEST_DEADLINE_NS, generation: REQUEST_GENERATION, slot: REQUEST_SLOT } = REQUEST.at;
const {
  answered: SHARD_MODEL_ANSWERED,
  dispersion: SHARD_MODEL_DISPERSION,
  queued: SHARD_MODEL_QUEUED,
  ratedUntilNs: SHARD_MODEL_RATED_UNTIL_NS,
  ratePerSecond: SHARD_MODEL_RATE_PER_SECOND,
  running: SHARD_MODEL_RUNNING,
  target: SHARD_MODEL_TARGET,
} = SHARD_MODEL.at;
const {
  budgetNs: SLOT_BUDGET_NS,
  deadlineNs: SLOT_DEADLINE_NS,
  generation: SLOT_GENERATION,
  model: SLOT_MODEL,
} = SLOT.at;
const {
  budgetNs: SHARD_SLOT_BUDGET_NS,
  deadlineNs: SHARD_SLOT_DEADLINE_NS,
  generation: SHARD_SLOT_GENERATION,
  model: SHARD_SLOT_MODEL,
  outcomeGeneration: SHARD_SLOT_OUTCOME_GENERATION,
} = SHARD_SLOT.at;

/** A request with this share of its time left is fresh. */
const FRESH_SHARE = 0.875;

/** What `#window` computes for the batch at hand. */
const WINDOW_EARLIEST = 0;
const WINDOW_READY = 1;
const WINDOW_RANK = 2;
const WINDOW_INVALID_AFTER = 3;
const WINDOW_LEAD = 4;
const WINDOW_EXPECTED = 5;
const WINDOW_DEADLINE = 6;
/** Of the answer: exec, and when the device may start. */
const WINDOW_EXEC = 7;
const WINDOW_STARTABLE = 8;
/** What `#decide` is given: as of when, and when the GPU is free that was granted. Doubles that were arguments would be boxed. */
const WINDOW_NOW = 9;
const WINDOW_GPU_FREE = 10;
/** What `#expectStart` is given: the latest end of the batch. */
const WINDOW_END = 11;
/** When a batch that is granted now starts. */
const WINDOW_SOONEST = 12;
/** For `#letIn` and what it asks: when a model is to be looked at again if nothing comes. */
const WINDOW_LOOK_AGAIN = 13;
/** What `#openBuffer` is given. */
const WINDOW_FLOOR = 14;
const WINDOW_UNTIL = 15;
/** What `#tick` is given. */
const WINDOW_TICK = 16;
/** What `#findLookAgain` has found. */
const WINDOW_FOUND = 17;

/**
 * A batch that starts within this time, and twice the error of timers, is told to the dispatcher at every arrival; one further off may
 * wait. Covers the way to a dispatcher on another thread. The error is bounded by the same time: it grows with what there is to do, so
 * that a thread which is late would have ever more to tell, and be later still. (What is late by more is covered by the margin j.)
 */
const NEAR_NS = 200e3;

/** Where requests make the start much earlier, so many, and half of what waits, may come before a batch that gathers is looked at again. */
const QUIET_ARRIVALS = 4;
/** So many times what the rate says may come before a batch that gathers is looked at again. */
const MORE_ARRIVALS = 3;

function nearNs(jitterNs: number): number {
  return NEAR_NS + Math.min(2 * jitterNs, NEAR_NS);
}

/** An expected start is told again when it has moved by this share of the SLO. */
const EXPECTED_MOVES = 1 / 64;
/** Under the condition `adaptive` a batch is worth an early start when it has half the requests that come in the fixed part of a batch's time. */
const WORTH_STARTING = 0.5;

/** In `#publishedStamp`: the dispatcher may hold what is no longer true. (As a stamp it only costs a publication too many.) */
const UNKNOWN = -1;

/** In `#tags`. */
const NOT_MINE = -1;
const NO_MORE = -2;

const ARRIVAL_WORDS = ARRIVAL.words;
const BUFFER_WORDS = MOST_BUFFERED * ARRIVAL.words;
const INTAKE_WORDS = INTAKE.words;
const MODEL_WORDS = SHARD_MODEL.words;
const SHARD_SLOT_WORDS = SHARD_SLOT.words;
const CONTROL_AT = MARGIN_CONTROL;
const TRANSFER_AT = MARGIN_TRANSFER;
const JITTER_AT = MARGIN_JITTER;
const DROP_SHARE_AT = MARGIN_DROP_SHARE;

export class ShardRole implements Role {
  readonly cells = roleCells();
  readonly #observer: Observer | null;
  readonly #config: SchedulerConfig;
  readonly #memory: SharedMemory;
  readonly #shard: number;
  readonly #place: ShardPlace;
  readonly #i32: Int32Array;
  readonly #f32: Float32Array;
  readonly #f64: Float64Array;
  readonly #controlAt: number;
  readonly #marginsAt: number;
  readonly #slotWord: number;
  readonly #slotDouble: number;
  readonly #shardSlotWord: number;
  readonly #cancelWord: number;
  /** By slot: the generation that was admitted last (tables.ts). Tells a request in the lane from one that is closed, and one that was sent twice. */
  readonly #admitted: Int32Array;
  readonly #rowsAt: number;
  readonly #headersAt: number;
  readonly #batchSlotsAt: number;

  /** By client. */
  readonly #requests: RingReader[];
  /** The clients whose lanes are looked at. */
  #openClients: number[] = [];
  readonly #grants: RingReader;
  readonly #answers: RingWriter;
  readonly #batchDone: RingReader;
  readonly #cancels: DirtyBitmap;
  readonly #cancelsOf: DirtyBitmap[];
  readonly #resends: DirtyBitmap;
  readonly #resendsOf: DirtyBitmap[];
  readonly #shardBells: Doorbell[];
  readonly #marked = new Int32Array(256);
  readonly #mailboxes: Mailboxes;
  readonly #dirty: DirtyBitmap;
  readonly #dispatcherBell: Doorbell;
  readonly #ledger: Ledger;
  /** Null while nobody records. */
  readonly #recorder: ArrivalRecorder | null;

  readonly #policy = new BatchPolicy();
  readonly #meter: RateMeter;
  /** When each model is to be decided again, and the order of those times; there one may stand earlier than it is by now. */
  readonly #timerNs: Float64Array;
  readonly #timers: TimeTree;
  /** Whether a model is to be decided again at all, and how many are: when none is, what stands in the order means nothing. */
  readonly #isArmed: Uint8Array;
  #armedCount = 0;
  readonly #window = new Float64Array(18);
  /** By model, without what lies in its buffer (`#queueOf`). */
  readonly #queues: DeadlineQueue[] = [];
  readonly #loops: InnerLoops;
  /** Word indices of what the loops work on. */
  readonly #intakeAt: number;
  readonly #arrivalsAt: number;
  readonly #buffersAt: number;
  readonly #touchedAt: number;
  readonly #oddAt: number;
  readonly #turnedAt: number;
  readonly #latencies: Float64Array[] = [];
  /** What is known of the specs: their version, and that of each model's. */
  #version = 0;
  readonly #versions: Int32Array;
  /** The tag of each model that is this shard's and takes requests, NO_MORE if it takes none any more; NOT_MINE for all others. */
  readonly #tags: Int32Array;
  readonly #states: Uint8Array;
  readonly #sloNs: Float64Array;
  readonly #maxBatch: Int32Array;
  readonly #maxQueue: Int32Array;
  /** ℓ(1). */
  readonly #aloneNs: Float64Array;
  readonly #dropPolicy: Uint8Array;
  readonly #condition: Uint8Array;
  readonly #target: Int32Array;
  readonly #hint: Int32Array;
  readonly #lastExecNs: Float64Array;
  /** Of the condition `adaptive`: α of the chord of ℓ up to the target size, 1 / (1 + αλ), and the size that is worth an early start. */
  readonly #slopeNs: Float64Array;
  readonly #gain: Float64Array;
  readonly #worthSize: Float64Array;
  readonly #touched: Int32Array;
  readonly #isTouched: Uint8Array;
  #touchedCount = 0;
  /** The candidate published last, to leave out what would change nothing. */
  readonly #publishedStamp: Int32Array;
  readonly #publishedSize: Int32Array;
  readonly #publishedExecNs: Float64Array;
  readonly #publishedInvalidNs: Float64Array;
  readonly #publishedRankNs: Float64Array;
  readonly #publishedLeadNs: Float64Array;
  readonly #publishedExpectedNs: Float64Array;
  readonly #publishedFlags: Uint8Array;
  /** Numbers of free batch rows, a stack. */
  readonly #freeRows: Int32Array;
  #freeRowCount = 0;
  #closing = false;
  #tookOver = false;
  /** By client: whether its lane is being brought level by shedding. */
  readonly #shedding: Uint8Array;

  constructor(memory: SharedMemory, shard: number, observer: Observer | null = null) {
    this.#observer = observer;
    const config = memory.config;
    const place = memory.shards[shard]!;
    const models = memory.limits.models;
    this.#config = config;
    this.#memory = memory;
    this.#shard = shard;
    this.#place = place;
    this.#i32 = new Int32Array(memory.buffer);
    this.#f32 = new Float32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#controlAt = (memory.control >> 2) + CONTROL_STATE;
    this.#marginsAt = memory.margins >> 3;
    this.#slotWord = memory.slots >> 2;
    this.#slotDouble = memory.slots >> 3;
    this.#shardSlotWord = memory.shardSlots >> 2;
    this.#cancelWord = memory.cancels >> 2;
    this.#admitted = new Int32Array(memory.buffer, place.admitted, config.maxClients * 2 ** config.slotShift);
    this.#rowsAt = memory.shardModels >> 2;
    this.#headersAt = place.batchHeaders >> 2;
    this.#batchSlotsAt = place.batchSlots >> 2;

    this.#requests = memory.clients.map((client) => new RingReader(client.requests[shard]!));
    this.#shedding = new Uint8Array(memory.clients.length);
    this.#grants = new RingReader(place.grants);
    this.#answers = new RingWriter(place.answers);
    this.#batchDone = new RingReader(place.batchDone);
    this.#cancelsOf = memory.shards.map((other) => new DirtyBitmap(memory.buffer, other.cancel, config.maxClients * 2 ** config.slotShift));
    this.#cancels = this.#cancelsOf[shard]!;
    this.#resendsOf = memory.shards.map((other) => new DirtyBitmap(memory.buffer, other.resend, config.maxClients * 2 ** config.slotShift));
    this.#resends = this.#resendsOf[shard]!;
    this.#shardBells = memory.shards.map((other) => new Doorbell(memory.buffer, other.bell));
    this.#mailboxes = new Mailboxes(memory.buffer, memory.candidates, models, CANDIDATE.bytes);
    this.#dirty = new DirtyBitmap(memory.buffer, memory.candidateDirty, models);
    this.#dispatcherBell = new Doorbell(memory.buffer, memory.dispatcherBell);
    this.#loops = innerLoops(memory, shard);
    this.#ledger = new Ledger(memory, shard, this.#loops);
    this.#recorder = memory.recording === null ? null : new ArrivalRecorder(memory, memory.recording, shard);

    this.#meter = new RateMeter(models);
    this.#timerNs = new Float64Array(models).fill(Infinity);
    this.#timers = new TimeTree(models);
    this.#isArmed = new Uint8Array(models);
    this.#versions = new Int32Array(models);
    this.#tags = new Int32Array(memory.buffer, place.scratch.tags, models).fill(NOT_MINE);
    this.#intakeAt = place.scratch.intake >> 2;
    this.#arrivalsAt = place.scratch.arrivals >> 2;
    this.#buffersAt = place.scratch.buffers >> 2;
    this.#touchedAt = place.scratch.touched >> 2;
    this.#oddAt = place.scratch.odd >> 2;
    this.#turnedAt = place.scratch.turned >> 2;
    this.#i32.fill(0, this.#intakeAt, this.#intakeAt + models * INTAKE_WORDS);
    this.#states = new Uint8Array(models);
    this.#sloNs = new Float64Array(models);
    this.#maxBatch = new Int32Array(models);
    this.#maxQueue = new Int32Array(models);
    this.#dropPolicy = new Uint8Array(models);
    this.#condition = new Uint8Array(models);
    this.#aloneNs = new Float64Array(models);
    this.#target = new Int32Array(models);
    this.#hint = new Int32Array(models);
    this.#lastExecNs = new Float64Array(models);
    this.#slopeNs = new Float64Array(models);
    this.#gain = new Float64Array(models);
    this.#worthSize = new Float64Array(models);
    this.#touched = new Int32Array(models);
    this.#isTouched = new Uint8Array(models);
    this.#publishedStamp = new Int32Array(models).fill(UNKNOWN);
    this.#publishedSize = new Int32Array(models);
    this.#publishedExecNs = new Float64Array(models);
    this.#publishedInvalidNs = new Float64Array(models);
    this.#publishedRankNs = new Float64Array(models);
    this.#publishedLeadNs = new Float64Array(models);
    this.#publishedExpectedNs = new Float64Array(models);
    this.#publishedFlags = new Uint8Array(models);

    const positions = new Int32Array(config.maxClients * 2 ** config.slotShift);
    const noLatencies = new Float64Array(1);
    for (let model = 0; model < models; model++) {
      this.#latencies.push(noLatencies);
      this.#queues.push(new DeadlineQueue(positions));
    }
    this.#freeRows = new Int32Array(place.batchRows);
    for (let row = place.batchRows - 1; row >= 0; row--) {
      if (this.#i32[this.#headersAt + row * BATCH.words + BATCH_STATE] !== BATCH_OPEN) this.#freeRows[this.#freeRowCount++] = row;
    }
    this.#takeChanges();
  }

  /** Requests of `model` that wait here. For tests and the simulator. */
  queued(model: number): number {
    return this.#queueOf(model).count;
  }

  poll(): void {
    const cells = this.cells;
    this.#ledger.cells[LEDGER_NOW] = cells[CELL_NOW]!;
    const changed = this.#i32[this.#memory.version >> 2] !== this.#version || !this.#tookOver;
    if (changed) this.#takeChanges();
    let work = this.#tookOver ? 0 : this.#takeOver();

    work += this.#drainRequests();
    work += this.#drainResends();
    work += this.#drainCancels();
    work += this.#drainBatchDone(false);
    work += this.#fireTimers();
    work += this.#answerGrants();
    if (work > 0 || changed) {
      this.#updateTouched();
      this.#ledger.commit();
    }
    if (changed) Atomics.store(this.#i32, (this.#memory.acks >> 2) + ackOfShard(this.#shard), this.#version);
    cells[CELL_WORK] = work;
    this.#setNext();
  }

  #touch(model: number): void {
    if (this.#isTouched[model] !== 0) return;
    this.#isTouched[model] = 1;
    this.#i32[this.#intakeAt + model * INTAKE_WORDS + INTAKE_LEFT] = 0; // whoever comes before it is looked at does not change nothing
    this.#touched[this.#touchedCount++] = model;
  }

  // ---------------------------------------------------------------- taking over

  /**
   * The first poll goes on where a shard before this one has died, if there was one (survey.ts): queue, rows and counters are
   * as the durable tables say, and everything is published anew, since the dispatcher may hold what is no longer true.
   */
  #takeOver(): number {
    this.#tookOver = true;
    const found = survey(this.#memory, this.#shard, (model) => this.#tags[model] !== NOT_MINE);
    this.#takeOverRows();
    for (let model = 0; model < this.#tags.length; model++) {
      if (this.#tags[model] !== NOT_MINE && this.#wasUsed(model)) this.#touch(model);
    }
    this.#drainBatchDone(true);
    for (const slot of found.ended) this.#ledger.sayAgain(slot);
    for (const slot of found.passing) {
      const model = this.#i32[this.#slotWord + slot * SLOT_WORDS + SLOT_MODEL]! & MODEL_MASK;
      this.#pass(slot, model);
      if (this.#isCancelled(slot)) this.#passCancel(slot, model);
    }
    for (const slot of found.waiting) this.#takeOverWaiting(slot);
    return 1; // others must look at what was said
  }

  #takeOverRows(): void {
    const i32 = this.#i32;
    const running = new Float64Array(this.#tags.length);
    for (const { row, header } of openRows(this.#memory, this.#shard)) {
      const model = i32[header + BATCH_MODEL]!;
      const number = i32[header + BATCH_NUMBER]!;
      const answeredAt = this.#rowsAt + model * MODEL_WORDS + SHARD_MODEL_ANSWERED;
      running[model]! += i32[header + BATCH_SIZE]!;
      // The row is the answer, whether or not it was counted.
      if (((number - i32[answeredAt]!) | 0) > 0) i32[answeredAt] = number;
      for (const slot of slotsOfRow(this.#memory, this.#shard, row)) if (this.#isCancelled(slot)) this.#ledger.cancelRunning(slot);
    }
    for (let model = 0; model < running.length; model++) {
      if (this.#tags[model] !== NOT_MINE) this.#f64[((this.#rowsAt + model * MODEL_WORDS) >> 1) + SHARD_MODEL_RUNNING] = running[model]!;
    }
  }

  #takeOverWaiting(slot: number): void {
    const word = this.#slotWord + slot * SLOT_WORDS;
    const model = this.#i32[word + SLOT_MODEL]! & MODEL_MASK;
    this.#takeOn(slot);
    this.#touch(model);
    if (this.#closing || this.#tags[model] === NO_MORE) this.#ledger.endUnrun(slot, model, OUTCOME.closed);
    else if (this.#isCancelled(slot)) this.#ledger.endUnrun(slot, model, OUTCOME.cancelled);
    else this.#queueOf(model).push(slot, this.#f64[this.#slotDouble + slot * SLOT_DOUBLES + SLOT_DEADLINE_NS]!);
  }

  /** Whether its client has given up a request that has not ended. */
  #isCancelled(slot: number): boolean {
    const word = this.#slotWord + slot * SLOT_WORDS;
    const generation = this.#i32[word + SLOT_GENERATION]!;
    return Atomics.load(this.#i32, this.#cancelWord + slot) === generation && !this.#hasEnded(slot, generation);
  }

  /** Whether anything was ever asked of a model: then the dispatcher may know a candidate of it. */
  #wasUsed(model: number): boolean {
    const accepted = (client: { readonly models: number }): number => this.#f64[(client.models >> 3) + model * (CLIENT_MODEL.words / 2) + CLIENT_MODEL.at.accepted]!;
    return this.#i32[this.#rowsAt + model * MODEL_WORDS + SHARD_MODEL_ANSWERED] !== 0 || this.#memory.clients.some((client) => accepted(client) > 0);
  }

  // ---------------------------------------------------------------- changes of models and clients

  /** Reads the rows that have changed since it last looked (specs.ts). Acknowledged at the end of the poll. */
  #takeChanges(): void {
    const memory = this.#memory;
    const i32 = this.#i32;
    this.#version = Atomics.load(i32, memory.version >> 2);
    for (let model = 0; model < this.#versions.length; model++) {
      const version = Atomics.load(i32, (memory.specs >> 2) + model * MODEL_SPEC.words + MODEL_SPEC.at.version);
      if (version === this.#versions[model]) continue;
      this.#versions[model] = version;
      this.#takeModel(model);
    }
    this.#openClients = memory.clients.map((_, client) => client).filter((client) => (Atomics.load(i32, (memory.clientStates >> 2) + client) & CLIENT_STATE_MASK) !== CLIENT_FREE);
    if (!this.#closing && Atomics.load(i32, this.#controlAt) !== STATE_RUNNING) this.#startClosing();
  }

  #takeModel(model: number): void {
    const memory = this.#memory;
    const i32 = this.#i32;
    const spec = (memory.specs >> 2) + model * MODEL_SPEC.words;
    const offer = (memory.offers >> 2) + model * MODEL_OFFER.words;
    const wasMine = this.#tags[model] !== NOT_MINE;
    const tag = i32[offer + MODEL_OFFER.at.tag]! & ~(1 << 31);
    const state = i32[spec + MODEL_SPEC.at.state]!;
    const mine = state !== MODEL_NONE && i32[spec + MODEL_SPEC.at.shard] === this.#shard;
    const isNew = mine && state !== MODEL_ENDING && tag !== this.#tags[model];
    this.#tags[model] = !mine ? NOT_MINE : state === MODEL_ENDING ? NO_MORE : tag;
    this.#states[model] = state;
    if (wasMine && !mine) this.#handOver(model);
    if (wasMine && state === MODEL_NONE) this.#forgetRate(model);
    if (!mine) return;
    this.#sloNs[model] = this.#f64[(offer >> 1) + MODEL_OFFER.at.sloNs]!;
    this.#aloneNs[model] = this.#f64[(offer >> 1) + MODEL_OFFER.at.aloneNs]!;
    this.#latencies[model] = profileView(memory, i32[spec + MODEL_SPEC.at.profile]!);
    this.#maxBatch[model] = i32[spec + MODEL_SPEC.at.maxBatch]!;
    this.#maxQueue[model] = i32[spec + MODEL_SPEC.at.maxQueue]!;
    this.#dropPolicy[model] = i32[spec + MODEL_SPEC.at.dropPolicy]!;
    this.#condition[model] = i32[spec + MODEL_SPEC.at.condition]!;
    this.#hint[model] = 0;
    if (isNew) this.#startRate(model);
    this.#retarget(model);
    if (state === MODEL_ENDING) this.#endQueued(model);
    // The first candidate is published with the first request; a later change must be, even if it looks the same.
    if (wasMine || isNew) this.#publishedStamp[model] = UNKNOWN;
    if (wasMine || this.#queueOf(model).count > 0) this.#touch(model);
  }

  /** A rate that stands in the row before this shard has begun to poll is what the one before it had measured; otherwise it is that of the number's last model. */
  #startRate(model: number): void {
    const row = (this.#rowsAt + model * MODEL_WORDS) >> 1;
    this.#lastExecNs[model] = 0;
    this.#meter.reset(model);
    if (this.#tookOver) this.#f64[row + SHARD_MODEL_RATE_PER_SECOND] = 0;
    const rate = this.#f64[row + SHARD_MODEL_RATE_PER_SECOND]!;
    if (rate > 0) this.#meter.resume(model, rate, this.#f64[row + SHARD_MODEL_RATED_UNTIL_NS]!);
  }

  /** The model was removed: what it was like is not what its number's next one will be. */
  #forgetRate(model: number): void {
    const row = this.#rowsAt + model * MODEL_WORDS;
    this.#i32[row + SHARD_MODEL_TARGET] = 0;
    this.#f64[(row >> 1) + SHARD_MODEL_RATE_PER_SECOND] = 0;
  }

  /** The model is another shard's now: so are the requests that wait. Its batches have ended before (it was frozen until they had). */
  #handOver(model: number): void {
    this.#timerNs[model] = Infinity;
    this.#armTimer(model);
    const queue = this.#queueOf(model);
    const slots = new Int32Array(queue.count);
    queue.takeOldest(slots.length, slots, 0);
    for (const slot of slots) this.#pass(slot, model);
  }

  /** A request for a model that is not this shard's: to its new owner, or, if the model was removed, to its end. */
  #pass(slot: number, model: number): void {
    const word = this.#slotWord + slot * SLOT_WORDS;
    const owner = this.#ownerOf(model);
    const tag = this.#i32[(this.#memory.offers >> 2) + model * MODEL_OFFER.words + MODEL_OFFER.at.tag]! & ~(1 << 31);
    const isEnding = this.#tags[model] === NO_MORE || this.#states[model] === MODEL_NONE;
    if (this.#i32[word + SLOT_MODEL] !== tag || (owner === this.#shard && isEnding)) {
      this.#admitted[slot] = 0;
      this.#closeUnlessAdmitted(slot);
      return;
    }
    this.#admitted[slot] = passedOn(this.#i32[word + SLOT_GENERATION]!); // it may come back one day
    // To itself when it is the new owner and has not taken in the change that says so.
    this.#resendsOf[owner]!.mark(slot);
    this.#shardBells[owner]!.ring();
  }

  #ownerOf(model: number): number {
    return this.#i32[(this.#memory.specs >> 2) + model * MODEL_SPEC.words + MODEL_SPEC.at.shard]!;
  }

  #endQueued(model: number): void {
    const queue = this.#queueOf(model);
    const slots = new Int32Array(queue.count);
    queue.takeOldest(slots.length, slots, 0);
    for (const slot of slots) this.#ledger.endUnrun(slot, model, OUTCOME.closed);
  }

  // ---------------------------------------------------------------- arrivals

  /** Requests that may not have reached this shard: of a client that has died, or of a model that was another shard's. */
  #drainResends(): number {
    if (!this.#resends.dirty) return 0;
    const i32 = this.#i32;
    const count = this.#resends.collect(this.#marked);
    for (let k = 0; k < count; k++) {
      const slot = this.#marked[k]!;
      const word = this.#slotWord + slot * SLOT_WORDS;
      const generation = i32[word + SLOT_GENERATION]!;
      if (this.#hasEnded(slot, generation)) continue;
      if (this.#recorder !== null) this.#recorder.recordSlot(slot, generation);
      if (this.#closing) this.#closeUnlessAdmitted(slot);
      else this.#admitOne(slot, generation);
    }
    return count;
  }

  #drainRequests(): number {
    let work = 0;
    const clients = this.#openClients;
    for (let k = 0; k < clients.length; k++) {
      const client = clients[k]!;
      const lane = this.#requests[client]!;
      const count = lane.available(MOST_TAKEN);
      if (count === 0) continue;
      if (this.#recorder !== null) this.#recorder.recordLane(lane, count);
      if (this.#closing) this.#refuseAll(lane, count);
      else this.#admit(lane, count, this.#shedShare(client, lane, count));
      lane.release(count);
      work += count;
    }
    return work;
  }

  /**
   * The share of its time that a request must have left to be admitted, 0 = any. A full bulk means that the lane fills
   * faster than it is emptied. Once the oldest in it has less than `shedShare` left, all that are not fresh are shed
   * until the shard is level: to shed just those would keep it behind by as much.
   */
  #shedShare(client: number, lane: RingReader, count: number): number {
    const { shedShare } = this.#config;
    if (shedShare === 0 || count < MOST_TAKEN) {
      this.#shedding[client] = 0;
      return 0;
    }
    const oldest = lane.word(0);
    const left = lane.f64[(oldest >> 1) + REQUEST_DEADLINE_NS]! - this.cells[CELL_NOW]!;
    if (left < shedShare * lane.f32[oldest + REQUEST_BUDGET_NS]!) this.#shedding[client] = 1;
    return this.#shedding[client] === 1 ? FRESH_SHARE : 0;
  }

  /**
   * Queues the next `count` requests of a lane. `shedShare` > 0 says that the shard is behind: then requests that have less
   * than this share of their time left are turned away at once. Admitted, they could only run in tiny batches, whose
   * cost per request would keep the shard behind for ever; turned away, it is soon level and batches are large again.
   */
  #admit(lane: RingReader, count: number, shedShare: number): void {
    const i32 = this.#i32;
    const window = this.#window;
    window[WINDOW_SOONEST] = this.cells[CELL_NOW]! + this.#f64[this.#marginsAt + CONTROL_AT]! + this.#f64[this.#marginsAt + TRANSFER_AT]!;
    for (let k = 0; k < count;) {
      const stretch = lane.inARow(k, count - k);
      const found = this.#loops.takeIn(lane.word(k), stretch, this.cells[CELL_NOW]!, window[WINDOW_SOONEST]!, shedShare);
      const touched = found & 0xffff;
      const odd = found >>> 16;
      for (let i = 0; i < touched; i++) this.#admitArrivals(i32[this.#touchedAt + i]!);
      for (let i = 0; i < odd; i++) this.#admitOdd(i32[this.#oddAt + i]!);
      if (i32[this.#turnedAt]! > 0) this.#turnAway();
      k += stretch;
    }
  }

  /** Ends the requests that `takeIn` has listed as no longer fresh. */
  #turnAway(): void {
    const turned = this.#i32[this.#turnedAt]!;
    for (let k = 1; k <= turned; k++) {
      this.#countArrivals(this.#i32[this.#shardSlotWord + this.#i32[this.#turnedAt + k]! * SHARD_SLOT_WORDS + SHARD_SLOT_MODEL]! & MODEL_MASK, 1);
    }
    this.#ledger.endManyUnrun(this.#turnedAt + 1, turned, OUTCOME.queueFull);
  }

  /** Queues what has arrived for a model: all at once, unless one of them may have to be turned away. */
  #admitArrivals(model: number): void {
    const i32 = this.#i32;
    const f64 = this.#f64;
    const row = this.#intakeAt + model * INTAKE_WORDS;
    const count = i32[row + INTAKE_COUNT]!;
    i32[row + INTAKE_COUNT] = 0;
    this.#countArrivals(model, count);
    const queue = this.#queueOf(model);
    const first = i32[row + INTAKE_FIRST]!;
    const soonestEndNs = this.#window[WINDOW_SOONEST]! + this.#aloneNs[model]!;
    if (f64[(row >> 1) + INTAKE_EARLIEST_NS]! < soonestEndNs || queue.prefixCount + queue.suffixCount + count > this.#maxQueue[model]!) {
      this.#admitEach(model, first, count);
      return;
    }
    queue.pushLinked(i32, f64, this.#arrivalsAt, first, count, i32[row + INTAKE_IN_ORDER] === 1);
    this.#touch(model);
  }

  /** The model's queue with all that wait: first those that have changed nothing so far. */
  #queueOf(model: number): DeadlineQueue {
    const queue = this.#queues[model]!;
    const row = this.#intakeAt + model * INTAKE_WORDS;
    const buffered = this.#i32[row + INTAKE_BUFFERED]!;
    if (buffered > 0) {
      this.#i32[row + INTAKE_BUFFERED] = 0;
      this.#meter.arrivals[model]! += buffered;
      queue.pushRow(this.#i32, this.#f64, this.#buffersAt + model * BUFFER_WORDS, buffered);
    }
    return queue;
  }

  #admitEach(model: number, first: number, count: number): void {
    const i32 = this.#i32;
    const queue = this.#queueOf(model);
    const now = this.cells[CELL_NOW]!;
    const soonestEndNs = this.#window[WINDOW_SOONEST]! + this.#aloneNs[model]!;
    let at = this.#arrivalsAt + first * ARRIVAL_WORDS;
    for (let left = count; left > 0; left--) {
      const slot = i32[at + ARRIVAL_SLOT]!;
      const deadlineNs = this.#f64[(at >> 1) + ARRIVAL_DEADLINE_NS]!;
      const budgetNs = this.#f32[this.#shardSlotWord + slot * SHARD_SLOT_WORDS + SHARD_SLOT_BUDGET_NS]!;
      if (deadlineNs < soonestEndNs && this.#dropPolicy[model] !== DROP_NEVER) {
        // Not even alone and at once: what the policy would find out with more work, which is worst when there is least time.
        this.#endHopeless(slot, model, budgetNs < soonestEndNs - now);
      } else if (queue.count >= this.#maxQueue[model]!) {
        this.#ledger.endUnrun(slot, model, OUTCOME.queueFull);
      } else {
        queue.push(slot, deadlineNs);
        this.#touch(model);
      }
      at = this.#arrivalsAt + i32[at + ARRIVAL_NEXT]! * ARRIVAL_WORDS;
    }
  }

  /** A record that is repeated, whose request may have come by another way, is cancelled, or is for a model that is not this shard's. */
  #admitOdd(record: number): void {
    const i32 = this.#i32;
    const slot = i32[record + REQUEST_SLOT]!;
    const word = this.#slotWord + slot * SLOT_WORDS;
    const generation = i32[word + SLOT_GENERATION]!;
    const tag = i32[word + SLOT_MODEL]!;
    const model = tag & MODEL_MASK;
    if (i32[record + REQUEST_GENERATION] !== generation) {
      this.#skipRepeated(slot, i32[record + REQUEST_GENERATION]!, generation);
    } else if (this.#admitted[slot] !== generation && !this.#hasEnded(slot, generation)) {
      if (this.#tags[model] === tag) this.#countArrivals(model, 1);
      this.#admitOne(slot, generation);
    }
  }

  #countArrivals(model: number, count: number): void {
    const now = this.cells[CELL_NOW]!;
    const dueNs = this.#meter.nextTickNs[model]!;
    this.#window[WINDOW_TICK] = now;
    if (dueNs === Infinity) this.#meter.start(model, now);
    else if (now >= dueNs) this.#tick(model);
    this.#meter.arrivals[model]! += count;
  }

  /** A record whose request has ended by another way and whose slot is used again; anything else is a broken invariant. */
  #skipRepeated(slot: number, sent: number, generation: number): void {
    if (((generation - sent) | 0) < 0) throw new Error(`request for slot ${slot}: generation ${sent} was sent, the slot is at ${generation}`);
  }

  /** As `#admit` for one that came by another way than its lane, or whose record was odd. */
  #admitOne(slot: number, generation: number): void {
    const tag = this.#i32[this.#slotWord + slot * SLOT_WORDS + SLOT_MODEL]!;
    const model = tag & MODEL_MASK;
    if (this.#admitted[slot] === generation) return;
    if (this.#tags[model] !== tag) {
      this.#pass(slot, model);
      return;
    }
    this.#takeOn(slot);
    const deadline = this.#f64[this.#slotDouble + slot * SLOT_DOUBLES + SLOT_DEADLINE_NS]!;
    if (Atomics.load(this.#i32, this.#cancelWord + slot) === generation) this.#ledger.endUnrun(slot, model, OUTCOME.cancelled);
    else this.#queueOf(model).push(slot, deadline);
    this.#touch(model);
  }

  /** From now on the request in a slot is this shard's; `takeIn` does the same. The row first: whoever takes over goes by the admitted word. */
  #takeOn(slot: number): void {
    const i32 = this.#i32;
    const from = this.#slotWord + slot * SLOT_WORDS;
    const to = this.#shardSlotWord + slot * SHARD_SLOT_WORDS;
    this.#f64[(to >> 1) + SHARD_SLOT_DEADLINE_NS] = this.#f64[(from >> 1) + SLOT_DEADLINE_NS]!;
    this.#f32[to + SHARD_SLOT_BUDGET_NS] = this.#f32[from + SLOT_BUDGET_NS]!;
    i32[to + SHARD_SLOT_GENERATION] = i32[from + SLOT_GENERATION]!;
    i32[to + SHARD_SLOT_MODEL] = i32[from + SLOT_MODEL]!;
    this.#admitted[slot] = i32[from + SLOT_GENERATION]!;
  }

  #hasEnded(slot: number, generation: number): boolean {
    return this.#i32[this.#shardSlotWord + slot * SHARD_SLOT_WORDS + SHARD_SLOT_OUTCOME_GENERATION] === generation;
  }

  /** Ends a request that cannot be met: its time was too short from the start, or it came too late. */
  #endHopeless(slot: number, model: number, fromTheStart: boolean): void {
    if (!fromTheStart && this.#observer !== null) this.#observer.expired(this.cells[CELL_NOW]!, model, slot, 1, -Infinity);
    this.#ledger.endUnrun(slot, model, fromTheStart ? OUTCOME.infeasible : OUTCOME.expired);
  }

  #refuseAll(lane: RingReader, count: number): void {
    for (let k = 0; k < count; k++) this.#closeUnlessAdmitted(lane.i32[lane.word(k) + REQUEST_SLOT]!);
  }

  #closeUnlessAdmitted(slot: number): void {
    const word = this.#slotWord + slot * SLOT_WORDS;
    const generation = this.#i32[word + SLOT_GENERATION]!;
    if (this.#admitted[slot] === generation || this.#hasEnded(slot, generation)) return;
    this.#takeOn(slot);
    this.#ledger.endUnrun(slot, this.#i32[word + SLOT_MODEL]! & MODEL_MASK, OUTCOME.closed);
  }

  #startClosing(): void {
    this.#closing = true;
    for (let model = 0; model < this.#queues.length; model++) {
      if (this.#queueOf(model).count === 0) continue;
      this.#endQueued(model);
      this.#touch(model);
    }
  }

  // ---------------------------------------------------------------- cancels

  #drainCancels(): number {
    if (!this.#cancels.dirty) return 0;
    const count = this.#cancels.collect(this.#marked);
    for (let k = 0; k < count; k++) {
      const slot = this.#marked[k]!;
      const word = this.#slotWord + slot * SLOT_WORDS;
      const generation = this.#i32[word + SLOT_GENERATION]!;
      // Stale: the slot has been used again since, or the request has ended. Or its record is still in the lane: `#admit` will look.
      if (Atomics.load(this.#i32, this.#cancelWord + slot) !== generation) continue;
      if (this.#hasEnded(slot, generation)) continue;
      const model = this.#i32[word + SLOT_MODEL]! & MODEL_MASK;
      if (this.#tags[model] === NOT_MINE) {
        this.#passCancel(slot, model);
        continue;
      }
      if (this.#admitted[slot] !== generation) continue;
      if (!this.#queueOf(model).remove(slot)) {
        this.#ledger.cancelRunning(slot);
        continue;
      }
      this.#ledger.endUnrun(slot, model, OUTCOME.cancelled);
      this.#touch(model);
    }
    return count;
  }

  /** The model has moved, and its requests with it. */
  #passCancel(slot: number, model: number): void {
    const owner = this.#ownerOf(model);
    if (owner === this.#shard) return;
    this.#cancelsOf[owner]!.mark(slot);
    this.#shardBells[owner]!.ring();
  }

  // ---------------------------------------------------------------- ended batches

  /** `again`: they may have been ended in part by a shard that has died. */
  #drainBatchDone(again: boolean): number {
    const lane = this.#batchDone;
    const count = lane.available(lane.capacity);
    for (let k = 0; k < count; k++) {
      const at = lane.word(k);
      const row = lane.i32[at + BATCH_DONE_ROW]!;
      const header = this.#headersAt + row * BATCH.words;
      // Reported twice: it has ended, and its row may be another batch's.
      if (this.#i32[header + BATCH_STATE] !== BATCH_OPEN) continue;
      if (this.#i32[header + BATCH_NUMBER] !== lane.i32[at + BATCH_DONE_NUMBER] || this.#i32[header + BATCH_MODEL] !== lane.i32[at + BATCH_DONE_MODEL]) continue;
      const ledger = this.#ledger;
      ledger.cells[LEDGER_START] = lane.f64[(at >> 1) + BATCH_DONE_START_NS]!;
      ledger.cells[LEDGER_END] = lane.f64[(at >> 1) + BATCH_DONE_END_NS]!;
      // Before they count as ended: nobody is to see a request in both places (`credit`).
      this.#f64[((this.#rowsAt + this.#i32[header + BATCH_MODEL]! * MODEL_WORDS) >> 1) + SHARD_MODEL_RUNNING]! -= this.#i32[header + BATCH_SIZE]!;
      ledger.endBatch(row, this.#batchSlotsAt + row * this.#place.batchStride, lane.i32[at + BATCH_DONE_STATUS]!, again);
      this.#freeRows[this.#freeRowCount++] = row;
    }
    if (count > 0) lane.release(count);
    return count;
  }

  // ---------------------------------------------------------------- timers

  #fireTimers(): number {
    const now = this.cells[CELL_NOW]!;
    const timers = this.#timers;
    let fired = 0;
    while (timers.nodes[1]! <= now) {
      const model = timers.first();
      if (this.#timerNs[model]! > now) {
        timers.nodes[timers.leaves + model] = this.#timerNs[model]!;
        timers.settle(model);
        continue;
      }
      this.#timerNs[model] = Infinity;
      this.#armTimer(model);
      timers.clear(model);
      this.#touch(model);
      fired++;
    }
    return fired;
  }

  /** The earliest timer, not one that was put off: a poll that none of its models needs would move the dispatcher's tick. */
  #setNext(): void {
    const timers = this.#timers;
    while (this.#armedCount > 0) {
      const model = timers.first();
      const timerNs = this.#timerNs[model]!;
      this.cells[CELL_NEXT] = timerNs;
      if (timers.nodes[1]! >= timerNs) return;
      timers.nodes[timers.leaves + model] = timerNs;
      timers.settle(model);
    }
    this.cells[CELL_NEXT] = Infinity;
  }

  /** `#timerNs` of the model was set. Most are put off again and again, and so cost nothing: the order learns of it when they fire. */
  #armTimer(model: number): void {
    const timers = this.#timers;
    const armed = this.#timerNs[model]! < Infinity ? 1 : 0;
    this.#armedCount += armed - this.#isArmed[model]!;
    this.#isArmed[model] = armed;
    if (this.#timerNs[model]! >= timers.nodes[timers.leaves + model]!) return;
    timers.nodes[timers.leaves + model] = this.#timerNs[model]!;
    timers.settle(model);
  }

  // ---------------------------------------------------------------- grants

  #answerGrants(): number {
    const lane = this.#grants;
    const count = lane.available(lane.capacity);
    if (count === 0) return 0;
    for (let k = 0; k < count; k++) {
      const at = lane.word(k);
      this.#window[WINDOW_NOW] = lane.f64[(at >> 1) + GRANT_GRANTED_NS]!;
      this.#window[WINDOW_GPU_FREE] = lane.f64[(at >> 1) + GRANT_GPU_FREE_NS]!;
      this.#answer(lane.i32[at + GRANT_MODEL]!, lane.i32[at + GRANT_NUMBER]!, lane.i32[at + GRANT_GPU]!, (lane.i32[at + GRANT_FLAGS]! & GRANT_EARLY) !== 0);
    }
    this.#answers.commit();
    lane.release(count);
    this.#dispatcherBell.ring();
    return count;
  }

  /** As of when the grant was made. */
  #answer(model: number, number: number, gpu: number, early: boolean): void {
    if (((number - this.#i32[this.#rowsAt + model * MODEL_WORDS + SHARD_MODEL_ANSWERED]!) | 0) <= 0) {
      this.#answerAgain(model, number, gpu);
      return;
    }
    const window = this.#window;
    const now = window[WINDOW_NOW]!;
    const gpuFreeNs = window[WINDOW_GPU_FREE]!;
    window[WINDOW_TICK] = now;
    if (now >= this.#meter.nextTickNs[model]!) this.#tick(model);
    this.#decide(model);
    const policy = this.#policy;
    const ready = early ? window[WINDOW_EARLIEST]! : window[WINDOW_READY]!;
    const exec = Math.max(ready, gpuFreeNs);
    window[WINDOW_EXEC] = exec;
    // A measured c is a high quantile: most batches are at the device sooner, and nothing can join a closed one any more.
    window[WINDOW_STARTABLE] = this.#config.margins.measureControl && ready === window[WINDOW_EARLIEST] ? ready - this.#f64[this.#marginsAt + CONTROL_AT]! : ready;
    let row = -1;
    if (policy.size > 0 && this.#freeRowCount > 0) {
      const jitter = this.#f64[this.#marginsAt + JITTER_AT]!;
      const soonest = Math.max(window[WINDOW_EARLIEST]!, gpuFreeNs);
      // Meanwhile worth deferring: the GPU is given back as it was.
      if (early || window[WINDOW_READY]! <= soonest + jitter) row = this.#close(model, number, gpu);
    }
    if (row >= 0) this.#lastExecNs[model] = exec;
    if (this.#observer !== null) this.#observe(model, gpu, row);
    this.#i32[this.#rowsAt + model * MODEL_WORDS + SHARD_MODEL_ANSWERED] = number;
    this.#say(model, number, gpu, row);
    this.#touch(model);
  }

  /** A grant that was answered before this shard, or the dispatcher, has died: what the batch table says, else a refusal. */
  #answerAgain(model: number, number: number, gpu: number): void {
    const i32 = this.#i32;
    this.#touch(model);
    // Nor a second time while the first is unread: lanes have room for each but once.
    if (unreadRecords(this.#place.answers).some((at) => i32[at + ANSWER_MODEL] === model && i32[at + ANSWER_NUMBER] === number)) return;
    const found = openRows(this.#memory, this.#shard).find(({ header }) => i32[header + BATCH_MODEL] === model && i32[header + BATCH_NUMBER] === number);
    this.#say(model, number, gpu, found?.row ?? -1);
  }

  /** Claims the answer to a grant: the batch in `row`, or a refusal. */
  #say(model: number, number: number, gpu: number, row: number): void {
    const answers = this.#answers;
    const at = answers.claim();
    if (at < 0) throw new Error('answer lane is full: more grants under way than models');
    const { i32, f64 } = answers;
    i32[at + ANSWER_MODEL] = model;
    i32[at + ANSWER_NUMBER] = number;
    i32[at + ANSWER_GPU] = gpu;
    i32[at + ANSWER_ROW] = row;
    if (row < 0) return;
    const header = this.#headersAt + row * BATCH.words;
    i32[at + ANSWER_SIZE] = this.#i32[header + BATCH_SIZE]!;
    f64[(at >> 1) + ANSWER_EXEC_NS] = f64[(header >> 1) + BATCH_EXEC_NS]!;
    f64[(at >> 1) + ANSWER_READY_NS] = f64[(header >> 1) + BATCH_READY_NS]!;
    f64[(at >> 1) + ANSWER_LENGTH_NS] = f64[(header >> 1) + BATCH_LENGTH_NS]!;
  }

  #observe(model: number, gpu: number, row: number): void {
    const now = this.#window[WINDOW_NOW]!;
    const exec = this.#window[WINDOW_EXEC]!;
    if (row < 0) this.#observer!.refused(now, model, gpu);
    else this.#observer!.planned(now, model, gpu, this.#policy.size, exec, this.#window[WINDOW_INVALID_AFTER]!, this.#i32, this.#batchSlotsAt + row * this.#place.batchStride);
  }

  /** Closes the batch: its requests leave the queue for a row of the batch table. */
  #close(model: number, number: number, gpu: number): number {
    const row = this.#freeRows[--this.#freeRowCount]!;
    const size = this.#policy.size;
    const header = this.#headersAt + row * BATCH.words;
    this.#queueOf(model).takeOldest(size, this.#i32, this.#batchSlotsAt + row * this.#place.batchStride);
    this.#i32[header + BATCH_MODEL] = model;
    this.#i32[header + BATCH_NUMBER] = number;
    this.#i32[header + BATCH_SIZE] = size;
    this.#i32[header + BATCH_GPU] = gpu;
    this.#f64[(header >> 1) + BATCH_EXEC_NS] = this.#window[WINDOW_EXEC]!;
    this.#f64[(header >> 1) + BATCH_READY_NS] = this.#window[WINDOW_STARTABLE]!;
    this.#f64[(header >> 1) + BATCH_LENGTH_NS] = this.#latencies[model]![size]!;
    this.#i32[header + BATCH_STATE] = BATCH_OPEN; // from here on the batch is closed, whatever happens to this shard
    this.#f64[((this.#rowsAt + model * MODEL_WORDS) >> 1) + SHARD_MODEL_RUNNING]! += size;
    return row;
  }

  // ---------------------------------------------------------------- decisions

  #updateTouched(): void {
    const now = this.cells[CELL_NOW]!;
    const count = this.#touchedCount;
    if (count === 0) return;
    const window = this.#window;
    window[WINDOW_NOW] = window[WINDOW_TICK] = now;
    let published = 0;
    for (let k = 0; k < count; k++) {
      const model = this.#touched[k]!;
      this.#isTouched[model] = 0;
      if (now >= this.#meter.nextTickNs[model]!) this.#tick(model);
      if (this.#queueOf(model).count === 0) {
        this.#policy.size = this.#hint[model] = 0; // as `#decide` would find out
        published += this.#publish(model);
        continue;
      }
      if (this.#canWait(model)) continue;
      window[WINDOW_GPU_FREE] = -Infinity;
      this.#decide(model);
      published += this.#publish(model);
    }
    this.#touchedCount = 0;
    if (published > 0) this.#dispatcherBell.ring();
  }

  /**
   * Whether the model's batch is still gathering and its start so far away that nothing needs to be decided or told now (or is full, and has been told:
   * `#staysFull`). Nearly all arrivals of a busy model come in this state. It must hold that everything queued makes one batch that
   * more may join (no prefix, not full, in time), that the dispatcher holds nothing that comes due before this batch
   * does, and that a timer looks again in good time.
   */
  #canWait(model: number): boolean {
    const window = this.#window;
    const now = window[WINDOW_NOW]!;
    const queue = this.#queueOf(model);
    const size = queue.suffixCount;
    if (this.#states[model] !== MODEL_ACTIVE) return false;
    const condition = this.#condition[model];
    if (condition !== WANT_FRONTRUN && condition !== WANT_ADAPTIVE) return false;
    const row = this.#rowsAt + model * MODEL_WORDS;
    if (this.#publishedStamp[model] !== this.#i32[row + SHARD_MODEL_ANSWERED]) return false;
    if (size === 0 || size >= this.#maxBatch[model]! || queue.prefixCount > 0) return this.#staysFull(model, queue);
    const f64 = this.#f64;
    const transfer = f64[this.#marginsAt + TRANSFER_AT]!;
    const control = f64[this.#marginsAt + CONTROL_AT]!;
    const lead = control + transfer * size;
    const jitter = f64[this.#marginsAt + JITTER_AT]!;
    const exec = queue.oldest[SUFFIX]! - jitter - this.#latencies[model]![size + 1]! - transfer;
    const lookAgain = exec - lead - nearNs(jitter);
    const publishedDue = this.#publishedExecNs[model]! - control - transfer * this.#publishedSize[model]!;
    if (!(lookAgain > now) || exec - lead > publishedDue) return false;
    window[WINDOW_END] = queue.oldest[SUFFIX]! - jitter - transfer;
    if (condition === WANT_ADAPTIVE) {
      this.#expectStart(model, size);
      if (this.#moved(model, size)) return false;
    }
    f64[(row >> 1) + SHARD_MODEL_QUEUED] = size;
    window[WINDOW_LOOK_AGAIN] = lookAgain;
    this.#letIn(model, size);
    if (this.#observer !== null) this.#observer.published(now, model, size, exec, this.#timerNs[model]!);
    return true;
  }

  /**
   * Up to which size, and until when, `#canWait` is sure to say the same, with a timer for then. So many more requests go only to the model's buffer, as
   * long as none is due before the oldest. The conditions of `#canWait` change in one direction with size and with time, so that the extremes of both decide.
   */
  #letIn(model: number, size: number): void {
    const window = this.#window;
    const now = window[WINDOW_NOW]!;
    const halfway = Math.floor(now + (window[WINDOW_LOOK_AGAIN]! - now) / 2) + 1;
    let most = Math.max(size, Math.min(this.#maxBatch[model]! - 1, this.#maxQueue[model]!, size + this.#expectedArrivals(model)));
    this.#findLookAgain(model, most);
    let until = Math.floor(window[WINDOW_FOUND]!);
    // More requests make the start earlier: if so many would take it further than half-way here, only a few are let in.
    if (until < halfway) {
      until = halfway;
      most = Math.min(most, size + (size >> 1) + QUIET_ARRIVALS);
      this.#findLookAgain(model, most);
      if (window[WINDOW_FOUND]! < until) most = size;
    }
    if (this.#timerNs[model]! > until) {
      this.#timerNs[model] = until;
      this.#armTimer(model);
    }
    until = this.#timerNs[model]!;
    if (this.#condition[model] === WANT_ADAPTIVE) {
      const worth = this.#worthSize[model]!;
      if (size < worth && most >= worth) most = Math.ceil(worth) - 1;
      // What `#moved` says: more requests make the expected start earlier, and time without any makes it later.
      const gain = this.#gain[model]!;
      const slope = this.#slopeNs[model]! * gain;
      const alone = (window[WINDOW_END]! - this.#latencies[model]![1]! + this.#slopeNs[model]!) * gain;
      const published = this.#publishedExpectedNs[model]!;
      const movesNs = EXPECTED_MOVES * this.#sloNs[model]!;
      if (slope > 0) most = Math.max(size, Math.min(most, Math.floor((now * (1 - gain) + alone - published + movesNs) / slope)));
      if (gain < 1) until = Math.min(until, (published + movesNs - alone + slope * size) / (1 - gain));
    }
    window[WINDOW_FLOOR] = this.#queues[model]!.oldest[SUFFIX]!;
    window[WINDOW_UNTIL] = until;
    this.#openBuffer(model, most > size ? most - size : 0);
  }

  /** At most so many are expected until WINDOW_LOOK_AGAIN: to let in more makes the start that they would all bring needlessly early. */
  #expectedArrivals(model: number): number {
    const rate = this.#f64[((this.#rowsAt + model * MODEL_WORDS) >> 1) + SHARD_MODEL_RATE_PER_SECOND]!;
    if (rate === 0) return MOST_BUFFERED; // as a rule it is not known yet
    const seconds = (this.#window[WINDOW_LOOK_AGAIN]! - this.#window[WINDOW_NOW]!) / 1e9;
    return Math.min(MOST_BUFFERED, Math.ceil(MORE_ARRIVALS * rate * seconds) + QUIET_ARRIVALS);
  }

  /** So many more requests go only to the model's buffer, until WINDOW_UNTIL and if none is due before WINDOW_FLOOR. */
  #openBuffer(model: number, left: number): void {
    const window = this.#window;
    const row = this.#intakeAt + model * INTAKE_WORDS;
    const tickNs = this.#meter.nextTickNs[model]!;
    this.#i32[row + INTAKE_LEFT] = left;
    this.#f64[(row >> 1) + INTAKE_FLOOR_NS] = window[WINDOW_FLOOR]!;
    this.#f64[(row >> 1) + INTAKE_UNTIL_NS] = Math.min(window[WINDOW_UNTIL]!, tickNs < Infinity ? tickNs : 0); // who comes before the first sample begins it
    this.#f64[(row >> 1) + INTAKE_ALONE_NS] = this.#aloneNs[model]!;
  }

  /**
   * Whether the dispatcher has been told of a full batch, which is what would run now as well: the oldest are the same, and nothing is too late for it yet.
   * (`#publish` has set a timer for the moment when it is.) Whoever comes behind them changes nothing.
   */
  #staysFull(model: number, queue: DeadlineQueue): boolean {
    const size = this.#publishedSize[model]!;
    if (size !== this.#maxBatch[model]! || queue.count < size) return false;
    const window = this.#window;
    const now = window[WINDOW_NOW]!;
    const f64 = this.#f64;
    const lengthNs = this.#latencies[model]![size]!;
    const oldestNs = queue.oldest[queue.prefixCount > 0 ? PREFIX : SUFFIX]!;
    const lead = f64[this.#marginsAt + CONTROL_AT]! + f64[this.#marginsAt + TRANSFER_AT]! * size;
    // Nor have c and j changed: they are in what was told.
    if (oldestNs - f64[this.#marginsAt + JITTER_AT]! - lengthNs !== this.#publishedRankNs[model]! || lead !== this.#publishedLeadNs[model]!) return false;
    if (this.#isArmed[model] === 0) return false; // its time has come
    this.#policy.passTooMany(queue, size);
    f64[((this.#rowsAt + model * MODEL_WORDS) >> 1) + SHARD_MODEL_QUEUED] = queue.count;
    window[WINDOW_FLOOR] = oldestNs;
    window[WINDOW_UNTIL] = this.#timerNs[model]!;
    this.#openBuffer(model, Math.min(MOST_BUFFERED, this.#maxQueue[model]! - queue.count));
    if (this.#observer !== null) this.#observer.published(now, model, size, now + lead, this.#timerNs[model]!);
    return true;
  }

  /** WINDOW_FOUND: when `#canWait` will say no to a batch of this size, whose WINDOW_END is known. */
  #findLookAgain(model: number, size: number): void {
    const f64 = this.#f64;
    this.#window[WINDOW_FOUND] = this.#window[WINDOW_END]! - this.#latencies[model]![size + 1]! - f64[this.#marginsAt + CONTROL_AT]! - f64[this.#marginsAt + TRANSFER_AT]! * size - nearNs(f64[this.#marginsAt + JITTER_AT]!);
  }

  /** WINDOW_EXPECTED: when a batch that must end by WINDOW_END will be at its latest start, if requests go on to come at the mean rate. */
  #expectStart(model: number, size: number): void {
    const window = this.#window;
    const now = window[WINDOW_NOW]!;
    const slopeNs = this.#slopeNs[model]!;
    window[WINDOW_EXPECTED] = now + (window[WINDOW_END]! - now - this.#latencies[model]![1]! - slopeNs * (size - 1)) * this.#gain[model]!;
  }

  /** Whether the dispatcher must be told, so that it can look ahead. */
  #moved(model: number, size: number): boolean {
    const mayStart = size >= this.#worthSize[model]! ? CANDIDATE_MAY_START : 0;
    const movedNs = this.#window[WINDOW_EXPECTED]! - this.#publishedExpectedNs[model]!;
    return mayStart !== this.#publishedFlags[model] || Math.abs(movedNs) > EXPECTED_MOVES * this.#sloNs[model]!;
  }

  /** Runs the batch policy for a model and computes the window of the batch it chose. Ends what has expired. */
  #decide(model: number): void {
    const window = this.#window;
    const now = window[WINDOW_NOW]!;
    const f64 = this.#f64;
    const control = f64[this.#marginsAt + CONTROL_AT]!;
    const transfer = f64[this.#marginsAt + TRANSFER_AT]!;
    const policy = this.#policy;
    if (this.#states[model] === MODEL_FROZEN || this.#tags[model]! < 0) {
      policy.size = 0;
      return;
    }
    policy.cells[NOW_PLUS_CONTROL] = now + control;
    policy.cells[TRANSFER] = transfer;
    policy.cells[GPU_FREE] = window[WINDOW_GPU_FREE]!;
    const queue = this.#queueOf(model);
    const latencies = this.#latencies[model]!;
    const maxBatch = this.#maxBatch[model]!;
    const dropPolicy = this.#dropPolicy[model]!;
    let target = this.#target[model]!;
    if (dropPolicy === DROP_ADAPTIVE) target = Math.max(1, Math.floor(f64[this.#marginsAt + DROP_SHARE_AT]! * target));
    policy.choose(queue, latencies, maxBatch, target, dropPolicy, this.#hint[model]!);
    const size = policy.size;
    if (policy.expiredCount > 0) this.#endExpired(model);
    this.#hint[model] = size;
    if (size === 0) return;

    const deadline = policy.cells[DEADLINE]!;
    const jitter = f64[this.#marginsAt + JITTER_AT]!;
    const lead = control + transfer * size;
    const earliest = now + lead;
    window[WINDOW_LEAD] = lead;
    window[WINDOW_EARLIEST] = earliest;
    if (policy.overdue) {
      window[WINDOW_READY] = earliest;
      window[WINDOW_RANK] = deadline;
      window[WINDOW_INVALID_AFTER] = Infinity;
      window[WINDOW_EXPECTED] = earliest;
      window[WINDOW_DEADLINE] = earliest + latencies[size]!;
      return;
    }
    const latest = deadline - jitter - latencies[size]!;
    // Nothing more can join a full batch: frontrun is then -Infinity, because ℓ(maxBatch + 1) is +Infinity.
    const frontrun = deadline - jitter - latencies[size + 1]! - transfer;
    let want = frontrun;
    switch (this.#condition[model]) {
      case WANT_FRONTRUN:
      case WANT_ADAPTIVE:
        break;
      case WANT_LATEST:
        want = latest;
        break;
      case WANT_IMMEDIATE:
        want = earliest;
        break;
      case WANT_TARGET_SIZE:
        if (size >= this.#target[model]!) want = earliest;
        break;
      case WANT_TARGET_DELAY:
        want = this.#targetDelayNs(model);
        break;
      default:
        throw new Error(`model ${model}: no schedulable condition has number ${this.#condition[model]}`);
    }
    if (want > latest) want = latest;
    window[WINDOW_READY] = want > earliest ? want : earliest;
    window[WINDOW_RANK] = latest;
    window[WINDOW_INVALID_AFTER] = deadline - latencies[size]!;
    window[WINDOW_DEADLINE] = deadline;
    window[WINDOW_EXPECTED] = window[WINDOW_READY]!;
    if (this.#condition[model] === WANT_ADAPTIVE && size < maxBatch) {
      window[WINDOW_END] = deadline - jitter - transfer;
      this.#expectStart(model, size);
    }
  }

  #endExpired(model: number): void {
    const policy = this.#policy;
    for (let i = 0; i < policy.expiredCount; i++) {
      const slot = policy.expired[i]!;
      if (this.#observer !== null) this.#observer.expired(this.#window[WINDOW_NOW]!, model, slot, policy.expiredFor, this.#window[WINDOW_GPU_FREE]!);
      this.#ledger.endUnrun(slot, model, OUTCOME.expired);
    }
  }

  /** Last exec + t/λ; before a rate is known, t is half of what the SLO allows, and so is the delay. */
  #targetDelayNs(model: number): number {
    const delayNs = this.#meter.known(model)
      ? (this.#target[model]! / this.#meter.ratePerSecond(model)) * 1e9
      : this.#sloNs[model]! / 2;
    return Math.ceil(this.#lastExecNs[model]! + delayNs);
  }

  /** Makes the batch that `#decide` has chosen the model's candidate and sets its timer. Returns 1 if anything changed. */
  #publish(model: number): number {
    const size = this.#policy.size;
    const window = this.#window;
    const row = this.#rowsAt + model * MODEL_WORDS;
    const stamp = this.#i32[row + SHARD_MODEL_ANSWERED]!;
    this.#f64[(row >> 1) + SHARD_MODEL_QUEUED] = this.#queueOf(model).count;
    const exec = size === 0 ? Infinity : window[WINDOW_READY]!;
    const invalidAfter = size === 0 ? -Infinity : window[WINDOW_INVALID_AFTER]!;
    const rank = size === 0 ? Infinity : window[WINDOW_RANK]!;
    const adaptive = size > 0 && this.#condition[model] === WANT_ADAPTIVE;
    const published = this.#publishedStamp[model]!;
    // After this moment no grant can be made in time any more: decide again. An empty queue needs no timer.
    const timer = size === 0 ? Infinity : Math.floor(invalidAfter - window[WINDOW_LEAD]!) + 1;
    this.#timerNs[model] = timer;
    this.#armTimer(model);
    if (this.#observer !== null) this.#observer.published(this.cells[CELL_NOW]!, model, size, exec, timer);
    if (
      this.#publishedStamp[model] === stamp &&
      this.#publishedSize[model] === size &&
      this.#publishedExecNs[model] === exec &&
      this.#publishedInvalidNs[model] === invalidAfter &&
      this.#publishedRankNs[model] === rank &&
      !(adaptive && this.#moved(model, size))
    ) {
      return 0;
    }
    this.#publishedStamp[model] = stamp;
    this.#publishedSize[model] = size;
    this.#publishedExecNs[model] = exec;
    this.#publishedInvalidNs[model] = invalidAfter;
    this.#publishedRankNs[model] = rank;
    this.#publishedLeadNs[model] = window[WINDOW_LEAD]!;
    this.#publishedExpectedNs[model] = window[WINDOW_EXPECTED]!;
    this.#publishedFlags[model] = adaptive && size >= this.#worthSize[model]! ? CANDIDATE_MAY_START : 0;
    // The candidate before was granted, so the dispatcher has none: it need not be told that there is none.
    if (size === 0 && published !== stamp && published !== UNKNOWN) return 0;
    const mailboxes = this.#mailboxes;
    const at = mailboxes.slot(model);
    const f64 = mailboxes.f64;
    mailboxes.i32[at + CANDIDATE_STAMP] = stamp;
    mailboxes.i32[at + CANDIDATE_SIZE] = size;
    f64[(at >> 1) + CANDIDATE_EXEC_NS] = exec;
    f64[(at >> 1) + CANDIDATE_RANK_NS] = rank;
    f64[(at >> 1) + CANDIDATE_INVALID_AFTER_NS] = invalidAfter;
    f64[(at >> 1) + CANDIDATE_LEAD_NS] = window[WINDOW_LEAD]!;
    f64[(at >> 1) + CANDIDATE_EXPECTED_NS] = window[WINDOW_EXPECTED]!;
    f64[(at >> 1) + CANDIDATE_DEADLINE_NS] = window[WINDOW_DEADLINE]!;
    mailboxes.i32[at + CANDIDATE_FLAGS] = this.#publishedFlags[model]!;
    mailboxes.publish(model);
    this.#dirty.mark(model);
    return 1;
  }

  /** As of WINDOW_TICK. */
  #tick(model: number): void {
    this.#queueOf(model); // what lies in its buffer came before
    this.#meter.catchUp(model, this.#window[WINDOW_TICK]!);
    this.#retarget(model);
  }

  /** The target size, from the rate as far as it is known. */
  #retarget(model: number): void {
    const meter = this.#meter;
    this.#i32[this.#intakeAt + model * INTAKE_WORDS + INTAKE_LEFT] = 0;
    if (!meter.known(model)) {
      this.#target[model] = firstTargetBatch(this.#latencies[model]!, this.#maxBatch[model]!, this.#sloNs[model]!);
      this.#expect(model, 0);
      return;
    }
    const rate = meter.ratePerSecond(model);
    const f64 = this.#f64;
    const transfer = f64[this.#marginsAt + TRANSFER_AT]!;
    const budget = this.#sloNs[model]! - f64[this.#marginsAt + CONTROL_AT]! - f64[this.#marginsAt + MARGIN_RESPONSE]!;
    const target = targetBatch(this.#latencies[model]!, this.#maxBatch[model]!, budget, rate, transfer);
    this.#target[model] = target;
    const row = this.#rowsAt + model * MODEL_WORDS;
    this.#i32[row + SHARD_MODEL_TARGET] = target;
    f64[(row >> 1) + SHARD_MODEL_RATE_PER_SECOND] = rate;
    f64[(row >> 1) + SHARD_MODEL_DISPERSION] = meter.dispersion(model);
    f64[(row >> 1) + SHARD_MODEL_RATED_UNTIL_NS] = meter.nextTickNs[model]! - SAMPLE_NS;
    this.#expect(model, rate);
  }

  /** What `#expectStart` needs, from the chord of ℓ up to the target size. */
  #expect(model: number, ratePerSecond: number): void {
    if (this.#condition[model] !== WANT_ADAPTIVE) return;
    const latencyNs = this.#latencies[model]!;
    const slopeNs = slopeOf(latencyNs, this.#target[model]!, this.#maxBatch[model]!);
    this.#slopeNs[model] = slopeNs;
    this.#gain[model] = 1 / (1 + (slopeNs * ratePerSecond) / 1e9);
    this.#worthSize[model] = (WORTH_STARTING * (latencyNs[1]! - slopeNs) * ratePerSecond) / 1e9;
  }
}

