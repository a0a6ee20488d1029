/**
 * The dispatcher role: owns the GPUs and matches candidates to them. It sees batches, never requests.
 *
 * One poll: take the newest candidates, then all answers, then all ended batches, and only then match. In that
 * order the answer that a candidate's stamp stands for has always been seen before the candidate is used.
 *
 * Matching (ALGORITHM.md 1.5): a candidate becomes *due* at exec − lead. Due candidates wait, ordered by rank. When
 * a GPU will be free within the largest lead of those that wait, the first of them that can still start on it is
 * granted the lowest-numbered GPU that is free by its exec.
 */
import { TimeTree } from '../clock/time-tree.js';
import { DirtyBitmap } from '../ringbuf/dirty-bitmap.js';
import { Doorbell } from '../ringbuf/doorbell.js';
import { HistogramTable } from '../ringbuf/log-linear.js';
import { Mailboxes } from '../ringbuf/mailbox.js';
import { RingReader, RingWriter, type RingPlace, unreadRecords } from '../ringbuf/spsc-ring.js';
import { DelayMeter } from '../protocol/delay-meter.js';
import type { Observer } from '../protocol/observer.js';
import { WANT_ADAPTIVE } from '../protocol/config.js';
import { ANSWER, BATCH_DONE, CANDIDATE, CANDIDATE_MAY_START, DEVICE_DONE, GRANT, GRANT_EARLY, ISSUE, STATUS_LOST } from '../protocol/records.js';
import { CELL_NEXT, CELL_NOW, CELL_WORK, type Role, roleCells } from '../protocol/role.js';
import { MARGIN_CONTROL, MARGIN_JITTER, MARGIN_MOST, type SharedMemory } from '../protocol/shared-memory.js';
import { ACK_DISPATCHER, GPU_ACTIVE, GPU_NONE, GPU_SPEC, MODEL_NONE, MODEL_SPEC } from '../protocol/specs.js';
import { BATCH, BATCH_OPEN, batchKey, DISPATCH_MODEL, GPU, type HeldBatch, heldBatches, HISTOGRAM, SCHEDULER_HISTOGRAMS } from '../protocol/tables.js';
import { Advisor } from './advisor.js';
import { Cluster, TICK_NS } from './cluster.js';
import { BUCKETS_PER_SLO, LEARN_BATCH_NS, LEARN_WAIT_NS, LookAhead } from './look-ahead.js';
import { GpuPool, POOL_BUSY_UNTIL, POOL_END, POOL_EXEC, POOL_FREE_AT, POOL_LENGTH, POOL_NOW, POOL_PLANNED, POOL_READY, POOL_START } from './gpu-pool.js';
import { ReserveChoice } from './reserve-choice.js';

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
const {
  controlNs: DEVICE_DONE_CONTROL_NS,
  endNs: DEVICE_DONE_END_NS,
  gpu: DEVICE_DONE_GPU,
  model: DEVICE_DONE_MODEL,
  number: DEVICE_DONE_NUMBER,
  row: DEVICE_DONE_ROW,
  shard: DEVICE_DONE_SHARD,
  startNs: DEVICE_DONE_START_NS,
  status: DEVICE_DONE_STATUS,
} = DEVICE_DONE.at;
const { grants: DISPATCH_MODEL_GRANTS, issued: DISPATCH_MODEL_ISSUED, refusals: DISPATCH_MODEL_REFUSALS } = DISPATCH_MODEL.at;
const { grantedNs: GPU_GRANTED_NS } = GPU.at;
const { flags: GRANT_FLAGS, gpu: GRANT_GPU, gpuFreeNs: GRANT_GPU_FREE_NS, grantedNs: GRANT_GRANTED_NS, model: GRANT_MODEL, number: GRANT_NUMBER } = GRANT.at;
const {
  gpu: ISSUE_GPU,
  grantedNs: ISSUE_GRANTED_NS,
  lengthNs: ISSUE_LENGTH_NS,
  model: ISSUE_MODEL,
  number: ISSUE_NUMBER,
  readyNs: ISSUE_READY_NS,
  row: ISSUE_ROW,
  shard: ISSUE_SHARD,
  size: ISSUE_SIZE,
} = ISSUE.at;

/** A smaller delay is noise. */
const LEAST_MARGIN_NS = 5e3;
/** Half of those who come while a batch runs find more than half of its time left: they are lost if it takes twice as long as they can wait. */
const LONG = 2;
/** `#grantEarly` passes over so many: with a thousand models that gather, each poll would look at all of them. */
const MOST_HELD = 16;

export class DispatcherRole implements Role {
  readonly cells = roleCells();
  readonly pool: GpuPool;
  readonly cluster: Cluster;
  readonly #advisor: Advisor;
  readonly lookAhead: LookAhead;
  readonly #reserveChoice = new ReserveChoice();
  readonly #observer: Observer | null;
  readonly #memory: SharedMemory;
  /** Of the specs that were taken in last, and of each GPU's. */
  #version = 0;
  readonly #versions: Int32Array;
  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  readonly #models: number;
  /** Measure c and j; null when they are given. */
  readonly #controlMeter: DelayMeter | null;
  readonly #jitterMeter: DelayMeter | null;
  readonly #shards: number;
  readonly #rowsAt: number;
  readonly #dirty: DirtyBitmap;
  readonly #fresh: Int32Array;
  readonly #mailboxes: Mailboxes;
  readonly #answers: RingReader[];
  readonly #grants: RingWriter[];
  readonly #grantsPending: Int32Array;
  readonly #batchDone: RingWriter[];
  readonly #donePending: Int32Array;
  readonly #shardBells: Doorbell[];
  readonly #hostBells: Doorbell[];
  readonly #deviceDone: RingReader[];
  /** By host of devices: ends that were taken in and are not released. */
  readonly #doneTaken: Int32Array;
  readonly #issues: RingWriter[];
  readonly #issuesPending: Int32Array;
  readonly #hostOfGpu: Uint8Array;
  readonly #histograms: HistogramTable;

  /** The newest usable candidate of each model; void while `execNs` is +Infinity. */
  readonly #execNs: Float64Array;
  readonly #rankNs: Float64Array;
  readonly #invalidAfterNs: Float64Array;
  readonly #leadNs: Float64Array;
  /** Due candidates for which no GPU would be free in time. */
  readonly #isAside: Uint8Array;
  #asideCount = 0;
  /** Whether the candidate was to wait when it came. */
  readonly #isDeferred: Uint8Array;
  /** When each candidate becomes due. */
  readonly #due: TimeTree;
  /** The due ones that wait for a GPU, by rank, and by −lead. */
  readonly #waiting: TimeTree;
  readonly #waitingLead: TimeTree;
  /** Whether a model's condition is `adaptive`, and whether there is one whose batches can gather: nobody else needs the look-ahead. */
  readonly #isAdaptive: Uint8Array;
  #looksAhead = false;
  #tookOver = false;
  /** The candidates that are not due and may be granted a GPU early, by rank. */
  readonly #early: TimeTree;
  /** Of them, those that `#grantEarly` has passed over so far. */
  readonly #heldBack = new Int32Array(MOST_HELD);
  readonly #deadlineNs: Float64Array;
  /** Since when the model has a candidate that is due: the start that it wanted. +Infinity: it has none. */
  readonly #wantedNs: Float64Array;

  constructor(memory: SharedMemory, observer: Observer | null = null) {
    this.#observer = observer;
    const config = memory.config;
    const models = memory.limits.models;
    this.#memory = memory;
    this.pool = new GpuPool(memory);
    this.cluster = new Cluster(memory);
    this.#advisor = new Advisor(memory, this.cluster, this.pool);
    this.lookAhead = new LookAhead(models, memory.limits.gpus, Math.ceil(Math.max(...config.models.map((model) => model.sloNs)) / BUCKETS_PER_SLO));
    this.#i32 = new Int32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#models = models;
    const most = (memory.margins >> 3) + MARGIN_MOST;
    this.#controlMeter = config.margins.measureControl ? new DelayMeter(this.#f64, (memory.margins >> 3) + MARGIN_CONTROL, LEAST_MARGIN_NS, most) : null;
    this.#jitterMeter = config.margins.measureJitter ? new DelayMeter(this.#f64, (memory.margins >> 3) + MARGIN_JITTER, LEAST_MARGIN_NS, most) : null;
    this.#shards = config.shards;
    this.#rowsAt = memory.dispatchModels >> 2;
    this.#dirty = new DirtyBitmap(memory.buffer, memory.candidateDirty, models);
    this.#fresh = new Int32Array(models + 32);
    this.#mailboxes = new Mailboxes(memory.buffer, memory.candidates, models, CANDIDATE.bytes);
    this.#answers = memory.shards.map((shard) => new RingReader(shard.answers));
    this.#grants = memory.shards.map((shard) => new RingWriter(shard.grants));
    this.#grantsPending = new Int32Array(config.shards);
    this.#batchDone = memory.shards.map((shard) => new RingWriter(shard.batchDone));
    this.#donePending = new Int32Array(config.shards);
    this.#shardBells = memory.shards.map((shard) => new Doorbell(memory.buffer, shard.bell));
    this.#hostBells = memory.hosts.map((host) => new Doorbell(memory.buffer, host.bell));
    this.#deviceDone = memory.hosts.map((host) => new RingReader(host.done));
    this.#doneTaken = new Int32Array(memory.hosts.length);
    this.#issues = memory.hosts.map((host) => new RingWriter(host.issues));
    this.#issuesPending = new Int32Array(memory.hosts.length);
    this.#hostOfGpu = new Uint8Array(memory.limits.gpus);
    this.#versions = new Int32Array(memory.limits.gpus);
    this.#histograms = new HistogramTable(memory.buffer, memory.histograms, SCHEDULER_HISTOGRAMS * models);
    this.#execNs = new Float64Array(models).fill(Infinity);
    this.#rankNs = new Float64Array(models);
    this.#invalidAfterNs = new Float64Array(models);
    this.#leadNs = new Float64Array(models);
    this.#isDeferred = new Uint8Array(models);
    this.#isAside = new Uint8Array(models);
    this.#due = new TimeTree(models);
    this.#isAdaptive = new Uint8Array(models);
    this.#early = new TimeTree(models);
    this.#deadlineNs = new Float64Array(models);
    this.#wantedNs = new Float64Array(models).fill(Infinity);
    this.#waiting = new TimeTree(models);
    this.#waitingLead = new TimeTree(models);
    this.#takeChanges();
  }

  poll(): void {
    const now = this.cells[CELL_NOW]!;
    this.pool.cells[POOL_NOW] = now;
    const changed = this.#i32[this.#memory.version >> 2] !== this.#version || !this.#tookOver;
    if (changed) this.#takeChanges();
    // Nobody waits for the tick: it comes with the first poll after its time.
    if (now >= this.cluster.nextTickNs) {
      this.cluster.tick(now, this.pool.activeCount);
      this.lookAhead.aheadNs = this.cluster.aheadNs;
      if (this.#looksAhead) this.#chooseReserve();
      if (now >= this.#advisor.nextEpochNs) this.#advisor.endEpoch(now);
    }
    if (this.#looksAhead) {
      this.lookAhead.nowNs[0] = now;
      this.lookAhead.advance();
    }
    let work = this.#tookOver ? this.#takeCandidates(this.#dirty.collect(this.#fresh)) : this.#takeAllCandidates();
    const news = this.#takeAnswers() + this.#takeDeviceDone();
    if ((news > 0 || changed) && this.#asideCount > 0) this.#takeBackAside();
    if (!this.#tookOver) work += this.#takeOver();
    work += news;
    work += this.#match();
    if (work > 0 || changed) this.#commit();
    if (changed) Atomics.store(this.#i32, (this.#memory.acks >> 2) + ACK_DISPATCHER, this.#version);
    this.cells[CELL_WORK] = work;
    this.#setNext();
  }

  #chooseReserve(): void {
    const { badCount, endedCount, longestSloNs } = this.cluster;
    this.#reserveChoice.look(badCount, endedCount, Math.ceil(longestSloNs / TICK_NS));
    this.lookAhead.keep(this.#reserveChoice.share);
  }

  /** GPUs that have come or are to leave, and models (specs.ts). */
  #takeChanges(): void {
    const i32 = this.#i32;
    this.#version = Atomics.load(i32, this.#memory.version >> 2);
    for (let gpu = 0; gpu < this.#versions.length; gpu++) {
      const row = (this.#memory.gpuSpecs >> 2) + gpu * GPU_SPEC.words;
      const version = Atomics.load(i32, row + GPU_SPEC.at.version);
      if (version === this.#versions[gpu]) continue;
      this.#versions[gpu] = version;
      this.#hostOfGpu[gpu] = i32[row + GPU_SPEC.at.host]!;
      if (i32[row + GPU_SPEC.at.state] === GPU_NONE) this.pool.clear(gpu);
      this.pool.setActive(gpu, i32[row + GPU_SPEC.at.state] === GPU_ACTIVE);
    }
    this.cluster.takeChanges();
    this.#looksAhead = false;
    for (let model = 0; model < this.#models; model++) {
      const row = (this.#memory.specs >> 2) + model * MODEL_SPEC.words;
      const adaptive = i32[row + MODEL_SPEC.at.state] !== MODEL_NONE && i32[row + MODEL_SPEC.at.condition] === WANT_ADAPTIVE;
      this.#isAdaptive[model] = adaptive ? 1 : 0;
      // A batch of one that may not grow is due at once: nobody starts it early.
      if (adaptive && i32[row + MODEL_SPEC.at.maxBatch]! > 1) this.#looksAhead = true;
    }
    for (let gpu = 0; gpu < this.#versions.length; gpu++) this.#noteGpu(gpu);
  }

  // ---------------------------------------------------------------- taking over

  /**
   * The end of the first poll's reading: says again what a dispatcher before this one had decided and perhaps not said. The
   * GPU table is as its last stores have left it (`GpuPool` has mended what was half written), and what the shards and
   * devices had said by then is read. Nothing, at a fresh start.
   */
  #takeOver(): number {
    this.#tookOver = true;
    const grants = this.#memory.shards.map((shard) => this.#unread(shard.grants, GRANT_MODEL, GRANT_NUMBER));
    // After the look at the grants: one that is gone from its lane by then has been answered.
    this.#takeAnswers();
    this.#commit();
    const issues = this.#memory.hosts.map((host) => this.#unread(host.issues, ISSUE_MODEL, ISSUE_NUMBER));
    for (let gpu = 0; gpu < this.#versions.length; gpu++) {
      this.#grantAgain(gpu, grants);
      for (const batch of heldBatches(this.#memory, gpu)) this.#issueAgain(gpu, batch, issues);
    }
    return 1; // others must look at what was said
  }

  /** What waits in a lane of ours, as `model:number`. */
  #unread(place: RingPlace, modelAt: number, numberAt: number): Set<string> {
    return new Set(unreadRecords(place).map((at) => batchKey(this.#i32[at + modelAt]!, this.#i32[at + numberAt]!)));
  }

  #grantAgain(gpu: number, unread: readonly Set<string>[]): void {
    const grant = this.pool.grantOf(gpu);
    if (grant === null || unread[this.#shardOf(grant.model)]!.has(batchKey(grant.model, grant.number))) return;
    const at = this.#sayGrant(gpu, grant.model, grant.number, grant.flags);
    this.#f64[(at >> 1) + GRANT_GPU_FREE_NS] = grant.gpuFreeNs;
    this.#f64[(at >> 1) + GRANT_GRANTED_NS] = grant.grantedNs;
  }

  #issueAgain(gpu: number, batch: HeldBatch, unread: readonly Set<string>[]): void {
    if (unread[this.#hostOfGpu[gpu]!]!.has(batchKey(batch.model, batch.number))) return;
    const header = this.#headerOf(batch.shard, batch.row);
    if (!this.#isOpen(header, batch.model, batch.number)) throw new Error(`GPU ${gpu} holds grant ${batch.number} of model ${batch.model}, which row ${batch.row} of shard ${batch.shard} does not have`);
    this.pool.cells[POOL_LENGTH] = this.#f64[(header >> 1) + BATCH.at.lengthNs]!;
    this.pool.cells[POOL_READY] = this.#f64[(header >> 1) + BATCH.at.readyNs]!;
    this.#issue(gpu, batch.shard, batch.row, batch.model, batch.number, this.#i32[header + BATCH.at.size]!);
  }

  #headerOf(shard: number, row: number): number {
    return (this.#memory.shards[shard]!.batchHeaders >> 2) + row * BATCH.words;
  }

  /** Whether a row of a batch table holds this batch, and it has not ended. */
  #isOpen(header: number, model: number, number: number): boolean {
    const i32 = this.#i32;
    return i32[header + BATCH.at.state] === BATCH_OPEN && i32[header + BATCH.at.model] === model && i32[header + BATCH.at.number] === number;
  }

  /** Candidates that the dispatcher before this one had taken are lost with it; the mailboxes still have them. */
  #takeAllCandidates(): number {
    while (this.#dirty.collect(this.#fresh) > 0);
    for (let gpu = 0; gpu < this.#versions.length; gpu++) {
      const grant = this.pool.grantOf(gpu);
      if (grant === null) continue;
      const issuedAt = this.#rowsAt + grant.model * DISPATCH_MODEL.words + DISPATCH_MODEL_ISSUED;
      if (((grant.number - this.#i32[issuedAt]!) | 0) > 0) this.#i32[issuedAt] = grant.number;
    }
    let taken = 0;
    for (let model = 0; model < this.#models; model++) {
      const row = this.#rowsAt + model * DISPATCH_MODEL.words;
      const granted = this.#f64[(row >> 1) + DISPATCH_MODEL_GRANTS]!;
      this.#f64[(row >> 1) + DISPATCH_MODEL_GRANTS] = granted + ((this.#i32[row + DISPATCH_MODEL_ISSUED]! - (granted | 0)) | 0);
      const at = this.#mailboxes.take(model);
      this.#takeCandidate(model, at < 0 ? this.#mailboxes.taken(model) : at);
      if (at >= 0) taken++;
    }
    return taken;
  }

  // ---------------------------------------------------------------- what the shards say

  /** The first `count` of `#fresh` have a new one. */
  #takeCandidates(count: number): number {
    for (let k = 0; k < count; k++) {
      const at = this.#mailboxes.take(this.#fresh[k]!);
      if (at >= 0) this.#takeCandidate(this.#fresh[k]!, at);
    }
    return count;
  }

  #takeCandidate(model: number, at: number): void {
    const mailboxes = this.#mailboxes;
    const now = this.cells[CELL_NOW]!;
    // Any other stamp speaks of a state before an answer that is still under way; the shard publishes again after it.
    if (mailboxes.i32[at + CANDIDATE_STAMP] !== this.#i32[this.#rowsAt + model * DISPATCH_MODEL.words + DISPATCH_MODEL_ISSUED]) return;
    this.#measureLateness(model);
    if (mailboxes.i32[at + CANDIDATE_SIZE] === 0) {
      this.#forget(model);
      this.#noteGivenUp(model);
      return;
    }
    const double = at >> 1;
    const lead = mailboxes.f64[double + CANDIDATE_LEAD_NS]!;
    const rank = mailboxes.f64[double + CANDIDATE_RANK_NS]!;
    const dueNs = mailboxes.f64[double + CANDIDATE_EXEC_NS]! - lead;
    const isDue = dueNs <= now;
    this.#leaveAside(model);
    this.#execNs[model] = mailboxes.f64[double + CANDIDATE_EXEC_NS]!;
    this.#rankNs[model] = rank;
    this.#invalidAfterNs[model] = mailboxes.f64[double + CANDIDATE_INVALID_AFTER_NS]!;
    this.#leadNs[model] = lead;
    this.#isDeferred[model] = isDue ? 0 : 1;
    if (this.#looksAhead) this.#expect(model, at, isDue);
    if (isDue) {
      this.#due.clear(model);
      this.#wait(model);
      return;
    }
    this.#due.nodes[this.#due.leaves + model] = dueNs;
    this.#due.settle(model);
    this.#waiting.clear(model);
    this.#waitingLead.clear(model);
    if ((mailboxes.i32[at + CANDIDATE_FLAGS]! & CANDIDATE_MAY_START) !== 0) {
      this.#early.nodes[this.#early.leaves + model] = rank;
      this.#early.settle(model);
    } else {
      this.#early.clear(model);
    }
  }

  /** The model's new candidate lies at `at`. */
  #expect(model: number, at: number, isDue: boolean): void {
    const f64 = this.#mailboxes.f64;
    const deadline = f64[(at >> 1) + CANDIDATE_DEADLINE_NS]!;
    if (!isDue) {
      // Its oldest request is another: the one before is gone.
      if (deadline > this.#deadlineNs[model]!) this.#noteGivenUp(model);
      this.#wantedNs[model] = Infinity;
    }
    this.#deadlineNs[model] = deadline;
    const { lookAhead } = this;
    lookAhead.saidFromNs[model] = f64[(at >> 1) + CANDIDATE_EXPECTED_NS]!;
    lookAhead.saidToNs[model] = deadline;
    lookAhead.note(model);
  }

  /**
   * Measures j: how late a due candidate is noticed, whether this thread slept or was busy. One that came when it was due
   * says nothing; one that was replaced because it was noticed too late says most.
   */
  #measureLateness(model: number): void {
    if (this.#jitterMeter === null || this.#isDeferred[model] === 0) return;
    const now = this.cells[CELL_NOW]!;
    const lateNs = now - this.#due.nodes[this.#due.leaves + model]!;
    if (lateNs >= 0) this.#jitterMeter.add(lateNs, now);
  }

  /** The model has no candidate any more. */
  #forget(model: number): void {
    this.#leaveAside(model);
    this.#execNs[model] = Infinity;
    this.#due.clear(model);
    this.#waiting.clear(model);
    this.#waitingLead.clear(model);
    this.#early.clear(model);
    if (this.#looksAhead) this.lookAhead.forget(model);
  }

  /** What a GPU is busy with has changed. */
  #noteGpu(gpu: number): void {
    if (!this.#looksAhead) return;
    this.pool.findBusyUntil(gpu);
    this.#occupy(gpu);
  }

  /** Until POOL_BUSY_UNTIL. */
  #occupy(gpu: number): void {
    const { lookAhead } = this;
    lookAhead.saidToNs[lookAhead.gpuAt + gpu] = this.pool.cells[POOL_BUSY_UNTIL]!;
    lookAhead.note(lookAhead.gpuAt + gpu);
  }

  #takeAnswers(): number {
    let work = 0;
    for (let shard = 0; shard < this.#answers.length; shard++) {
      const lane = this.#answers[shard]!;
      const count = lane.available(lane.capacity);
      for (let k = 0; k < count; k++) this.#takeAnswer(lane, lane.word(k), shard);
      if (count > 0) lane.release(count);
      work += count;
    }
    return work;
  }

  #takeAnswer(lane: RingReader, at: number, shard: number): void {
    const words = lane.i32;
    const gpu = words[at + ANSWER_GPU]!;
    const model = words[at + ANSWER_MODEL]!;
    const number = words[at + ANSWER_NUMBER]!;
    if (!this.pool.granted(gpu, model, number)) return;
    const batchRow = words[at + ANSWER_ROW]!;
    if (batchRow < 0) {
      this.pool.refuse(gpu);
      this.#noteGpu(gpu);
      this.#f64[((this.#rowsAt + model * DISPATCH_MODEL.words) >> 1) + DISPATCH_MODEL_REFUSALS]! += 1;
      return;
    }
    const size = words[at + ANSWER_SIZE]!;
    const pool = this.pool;
    pool.cells[POOL_EXEC] = lane.f64[(at >> 1) + ANSWER_EXEC_NS]!;
    pool.cells[POOL_READY] = lane.f64[(at >> 1) + ANSWER_READY_NS]!;
    pool.cells[POOL_LENGTH] = lane.f64[(at >> 1) + ANSWER_LENGTH_NS]!;
    pool.plan(gpu, shard, batchRow, model, number);
    this.#noteGpu(gpu);
    this.#issue(gpu, shard, batchRow, model, number, size);
  }

  /** `pool.cells`: ready and length. */
  #issue(gpu: number, shard: number, batchRow: number, model: number, number: number, size: number): void {
    const host = this.#hostOfGpu[gpu]!;
    const lane = this.#issues[host]!;
    const at = lane.claim();
    if (at < 0) throw new Error('issue lane is full: more batches under way than its GPUs can hold');
    lane.i32[at + ISSUE_GPU] = gpu;
    lane.i32[at + ISSUE_SHARD] = shard;
    lane.i32[at + ISSUE_ROW] = batchRow;
    lane.i32[at + ISSUE_MODEL] = model;
    lane.i32[at + ISSUE_NUMBER] = number;
    lane.i32[at + ISSUE_SIZE] = size;
    lane.f64[(at >> 1) + ISSUE_READY_NS] = this.pool.cells[POOL_READY]!;
    lane.f64[(at >> 1) + ISSUE_LENGTH_NS] = this.pool.cells[POOL_LENGTH]!;
    lane.f64[(at >> 1) + ISSUE_GRANTED_NS] = this.#f64[(this.pool.row(gpu) >> 1) + GPU_GRANTED_NS]!;
    this.#issuesPending[host]!++;
  }

  // ---------------------------------------------------------------- what the devices say

  #takeDeviceDone(): number {
    let work = 0;
    for (let host = 0; host < this.#deviceDone.length; host++) {
      const lane = this.#deviceDone[host]!;
      const count = lane.available(lane.capacity);
      for (let k = 0; k < count; k++) this.#takeDone(lane, lane.word(k));
      this.#doneTaken[host] = count; // released when the shards have been told
      work += count;
    }
    return work;
  }

  #takeDone(from: RingReader, at: number): void {
    const gpu = from.i32[at + DEVICE_DONE_GPU]!;
    const shard = from.i32[at + DEVICE_DONE_SHARD]!;
    const batchRow = from.i32[at + DEVICE_DONE_ROW]!;
    const model = from.i32[at + DEVICE_DONE_MODEL]!;
    const pool = this.pool;
    if (!pool.runs(gpu, shard, batchRow, model, from.i32[at + DEVICE_DONE_NUMBER]!)) {
      this.#sayDoneAgain(from, at);
      return;
    }
    const start = from.f64[(at >> 1) + DEVICE_DONE_START_NS]!;
    const end = from.f64[(at >> 1) + DEVICE_DONE_END_NS]!;
    pool.cells[POOL_START] = start;
    pool.cells[POOL_END] = end;
    pool.ended(gpu);
    if (from.i32[at + DEVICE_DONE_STATUS] === STATUS_LOST) pool.setActive(gpu, false);
    this.#noteGpu(gpu);
    this.#histograms.record(HISTOGRAM.lateness * this.#models + model, start - pool.cells[POOL_PLANNED]!);

    if (this.#controlMeter !== null) this.#controlMeter.add(from.f64[(at >> 1) + DEVICE_DONE_CONTROL_NS]!, this.cells[CELL_NOW]!);
    this.#sayDone(from, at);
  }

  /** A dispatcher before this one has freed the GPU, and may have died before it told the shard. */
  #sayDoneAgain(from: RingReader, at: number): void {
    const shard = from.i32[at + DEVICE_DONE_SHARD]!;
    const model = from.i32[at + DEVICE_DONE_MODEL]!;
    const number = from.i32[at + DEVICE_DONE_NUMBER]!;
    if (!this.#isOpen(this.#headerOf(shard, from.i32[at + DEVICE_DONE_ROW]!), model, number)) return;
    if (this.#unread(this.#memory.shards[shard]!.batchDone, BATCH_DONE_MODEL, BATCH_DONE_NUMBER).has(batchKey(model, number))) return;
    this.#sayDone(from, at);
  }

  #sayDone(from: RingReader, at: number): void {
    const shard = from.i32[at + DEVICE_DONE_SHARD]!;
    const to = this.#batchDone[shard]!;
    const out = to.claim();
    if (out < 0) throw new Error(`batch-done lane of shard ${shard} is full: more batches than rows`);
    to.i32[out + BATCH_DONE_ROW] = from.i32[at + DEVICE_DONE_ROW]!;
    to.i32[out + BATCH_DONE_MODEL] = from.i32[at + DEVICE_DONE_MODEL]!;
    to.i32[out + BATCH_DONE_NUMBER] = from.i32[at + DEVICE_DONE_NUMBER]!;
    to.i32[out + BATCH_DONE_STATUS] = from.i32[at + DEVICE_DONE_STATUS]!;
    to.f64[(out >> 1) + BATCH_DONE_START_NS] = from.f64[(at >> 1) + DEVICE_DONE_START_NS]!;
    to.f64[(out >> 1) + BATCH_DONE_END_NS] = from.f64[(at >> 1) + DEVICE_DONE_END_NS]!;
    this.#donePending[shard]!++;
  }

  // ---------------------------------------------------------------- matching

  #match(): number {
    const work = this.#moveDueToWaiting();
    const granted = this.#grantWaiting();
    return work + granted + (this.#looksAhead ? this.#grantEarly(false) : 0);
  }

  #moveDueToWaiting(): number {
    const now = this.cells[CELL_NOW]!;
    const due = this.#due;
    let moved = 0;
    while (due.nodes[1]! <= now) {
      const model = due.first();
      this.#measureLateness(model);
      due.clear(model);
      moved++;
      this.#leaveAside(model);
      this.#wait(model);
    }
    return moved;
  }

  #grantWaiting(): number {
    const now = this.cells[CELL_NOW]!;
    const cells = this.pool.cells;
    const waiting = this.#waiting;
    const { idle, running } = this.pool;
    let granted = 0;
    while (waiting.nodes[1]! < Infinity) {
      // While too many GPUs are wanted, whoever gathers competes with who is due: models with a large α are due long before their
      // latest start, and would otherwise always go before those with a small one.
      if (this.#looksAhead) granted += this.#grantEarly(true);
      const largestLead = -this.#waitingLead.nodes[1]!;
      if (idle.size === 0 && (this.pool.firstRunning() < 0 || running.nodes[1]! > now + largestLead)) break;
      const model = waiting.first();
      let soonest = now + this.#leadNs[model]!;
      if (idle.size === 0 && running.nodes[1]! > soonest) soonest = running.nodes[1]!;
      if (soonest > this.#invalidAfterNs[model]!) {
        this.#setAside(model);
        continue;
      }
      cells[POOL_EXEC] = Math.max(soonest, this.#execNs[model]!);
      const gpu = this.pool.lowestFreeByExec();
      if (this.#observer !== null) this.#observer.granted(this.cells[CELL_NOW]!, model, gpu, cells[POOL_EXEC]!, this.pool.freeAtNs(gpu), false);
      this.#grant(model, gpu, 0);
      granted++;
    }
    return granted;
  }

  /**
   * While more GPUs will be wanted at once, within the time of a batch (`Cluster.aheadNs`), than there are without the reserve, those that
   * are idle are given to candidates that are not due yet (ALGORITHM.md 1.7): the one with the smallest latest first, and, if
   * `beforeWaiting`, only one that has a smaller one than all that wait. One that would hold up others has to wait until it is due.
   */
  #grantEarly(beforeWaiting: boolean): number {
    const now = this.cells[CELL_NOW]!;
    const cells = this.pool.cells;
    const early = this.#early;
    let granted = 0;
    let held = 0;
    while (held < MOST_HELD && early.nodes[1]! < (beforeWaiting ? this.#waiting.nodes[1]! : Infinity)) {
      const model = early.first();
      const earliest = now + this.#leadNs[model]!;
      if (earliest > this.#invalidAfterNs[model]!) {
        early.clear(model);
        continue;
      }
      cells[POOL_EXEC] = earliest;
      const gpu = this.pool.lowestFreeByExec();
      if (gpu < 0 || this.lookAhead.most() <= this.lookAhead.unreserved(this.pool.activeCount)) break;
      if (this.#holdsUp(model)) {
        early.clear(model);
        this.#heldBack[held++] = model;
        continue;
      }
      if (this.#observer !== null) this.#observer.granted(this.cells[CELL_NOW]!, model, gpu, earliest, this.pool.freeAtNs(gpu), true);
      this.#grant(model, gpu, GRANT_EARLY);
      granted++;
    }
    for (let k = 0; k < held; k++) early.set(this.#heldBack[k]!, this.#rankNs[this.#heldBack[k]!]!);
    return granted;
  }

  /**
   * Whether the model's batch takes at least twice as long as requests of others can wait, and leaves too few GPUs for those: an own rule
   * (docs/policies.md). Nobody is interrupted, so on few GPUs what starts early and runs long is what tight models lose their requests by.
   */
  #holdsUp(model: number): boolean {
    const { tightNs } = this.cluster;
    const lengthNs = this.#deadlineNs[model]! - this.#invalidAfterNs[model]!;
    const now = this.cells[CELL_NOW]!;
    for (let wanted = 1; wanted < tightNs.length && lengthNs > LONG * tightNs[wanted]!; wanted++) {
      if (this.pool.countFreeBy(now + tightNs[wanted]!) <= wanted) return true;
    }
    return false;
  }

  /** No GPU will be free in time for this candidate, so the next one gets its turn. When one turns out to be, or at the last moment, it asks again. */
  #setAside(model: number): void {
    const lastChance = this.#invalidAfterNs[model]! - this.#leadNs[model]!;
    if (lastChance <= this.cells[CELL_NOW]!) {
      this.#forget(model);
      return;
    }
    this.#waiting.clear(model);
    this.#waitingLead.clear(model);
    this.#due.set(model, lastChance);
    this.#isAside[model] = 1;
    this.#asideCount++;
  }

  #leaveAside(model: number): void {
    if (this.#isAside[model] === 0) return;
    this.#isAside[model] = 0;
    this.#asideCount--;
  }

  /** A GPU may be free sooner than was thought: whoever was set aside waits again. Rare, so a plain scan. */
  #takeBackAside(): void {
    for (let model = 0; model < this.#models && this.#asideCount > 0; model++) {
      if (this.#isAside[model] === 0) continue;
      this.#leaveAside(model);
      this.#due.clear(model);
      this.#wait(model);
    }
  }

  /** A due candidate waits for a GPU, unless it is too late for it: then the shard's own timer makes the next one. */
  #wait(model: number): void {
    if (this.cells[CELL_NOW]! + this.#leadNs[model]! > this.#invalidAfterNs[model]!) {
      this.#forget(model);
      return;
    }
    const { leaves } = this.#waiting;
    this.#waiting.nodes[leaves + model] = this.#rankNs[model]!;
    this.#waiting.settle(model);
    this.#waitingLead.nodes[leaves + model] = -this.#leadNs[model]!;
    this.#waitingLead.settle(model);
    this.#early.clear(model);
    if (this.#wantedNs[model] === Infinity) this.#wantedNs[model] = this.#execNs[model]!;
  }

  /** Grants it the GPU from `pool.cells[POOL_EXEC]` on. */
  #grant(model: number, gpu: number, flags: number): void {
    const row = this.#rowsAt + model * DISPATCH_MODEL.words;
    const number = (this.#i32[row + DISPATCH_MODEL_ISSUED]! + 1) | 0;
    const at = this.#sayGrant(gpu, model, number, flags);
    this.pool.findFreeAt(gpu);
    this.#f64[(at >> 1) + GRANT_GPU_FREE_NS] = this.pool.cells[POOL_FREE_AT]!;
    this.#f64[(at >> 1) + GRANT_GRANTED_NS] = this.cells[CELL_NOW]!;
    this.pool.grant(gpu, model, number, flags);
    this.#i32[row + DISPATCH_MODEL_ISSUED] = number;
    this.#f64[(row >> 1) + DISPATCH_MODEL_GRANTS]! += 1;
    if (this.#looksAhead) this.#noteGrant(model, gpu, at);
    this.#wantedNs[model] = Infinity;
    this.#forget(model);
  }

  #shardOf(model: number): number {
    return this.#i32[(this.#memory.specs >> 2) + model * MODEL_SPEC.words + MODEL_SPEC.at.shard]!;
  }

  /** Claims the record of a grant, and returns its word; its times are the caller's to write. */
  #sayGrant(gpu: number, model: number, number: number, flags: number): number {
    const shard = this.#shardOf(model);
    const lane = this.#grants[shard]!;
    const at = lane.claim();
    if (at < 0) throw new Error(`grant lane of shard ${shard} is full: more than one grant under way per model`);
    lane.i32[at + GRANT_MODEL] = model;
    lane.i32[at + GRANT_NUMBER] = number;
    lane.i32[at + GRANT_GPU] = gpu;
    lane.i32[at + GRANT_FLAGS] = flags;
    this.#grantsPending[shard]!++;
    return at;
  }

  /**
   * The GPU is taken for as long as the batch would be now; the answer says it better. The reserve learns from a wait that costs something, if it was one for
   * the GPU: not by what this thread is late, which no reserve would help. The grant's record is at `at`.
   */
  #noteGrant(model: number, gpu: number, at: number): void {
    const exec = this.pool.cells[POOL_EXEC]!;
    const freeNs = this.#f64[(at >> 1) + GRANT_GPU_FREE_NS]!;
    const lengthNs = this.#deadlineNs[model]! - this.#invalidAfterNs[model]!;
    this.pool.cells[POOL_BUSY_UNTIL] = lengthNs > -Infinity ? exec + lengthNs : Infinity;
    this.#occupy(gpu);
    if (this.#isAdaptive[model] === 0) return;
    const wanted = this.#wantedNs[model]!;
    const batchNs = this.cluster.batchNs[model]!;
    this.lookAhead.learnFrom[LEARN_WAIT_NS] = Math.min(exec, freeNs) - wanted - this.cluster.bearsNs[model]!;
    this.lookAhead.learnFrom[LEARN_BATCH_NS] = batchNs > 0 ? batchNs : lengthNs;
    this.lookAhead.learn(this.pool.activeCount);
  }

  /** The model has no batch that is due any more. If it had one, and its oldest request is gone now, a wait for a GPU has cost that. */
  #noteGivenUp(model: number): void {
    if (this.#wantedNs[model] === Infinity) return;
    this.#wantedNs[model] = Infinity;
    if (this.#looksAhead && this.#isAdaptive[model] === 1) this.lookAhead.lost(this.pool.activeCount);
  }

  // ---------------------------------------------------------------- end of a poll

  #commit(): void {
    for (let host = 0; host < this.#issues.length; host++) {
      if (this.#issuesPending[host] === 0) continue;
      this.#issuesPending[host] = 0;
      this.#issues[host]!.commit();
      this.#hostBells[host]!.ring();
    }
    for (let shard = 0; shard < this.#shards; shard++) {
      if (this.#grantsPending[shard]! + this.#donePending[shard]! === 0) continue;
      this.#grants[shard]!.commit();
      this.#batchDone[shard]!.commit();
      this.#grantsPending[shard] = 0;
      this.#donePending[shard] = 0;
      this.#shardBells[shard]!.ring();
    }
    for (let host = 0; host < this.#deviceDone.length; host++) {
      if (this.#doneTaken[host] === 0) continue;
      this.#deviceDone[host]!.release(this.#doneTaken[host]!);
      this.#doneTaken[host] = 0;
    }
  }

  /** Says when it is to be polled next though nothing new is heard until then. */
  #setNext(): void {
    const { cells } = this;
    const now = cells[CELL_NOW]!;
    cells[CELL_NEXT] = this.#due.nodes[1]!;
    if (this.#looksAhead && this.#early.nodes[1] !== Infinity) this.#setLookAgain();
    if (this.#waiting.nodes[1] === Infinity || this.pool.idle.size > 0) return;
    const freeAt = this.pool.running.nodes[1]! + this.#waitingLead.nodes[1]!;
    // A GPU that is free by now and still not granted is overdue: its end will wake us.
    if (freeAt > now && freeAt < cells[CELL_NEXT]!) cells[CELL_NEXT] = freeAt;
  }

  /** A GPU might be granted early then. */
  #setLookAgain(): void {
    const { cells } = this;
    this.lookAhead.findAbove(this.lookAhead.unreserved(this.pool.activeCount));
    const { aboveNs } = this.lookAhead;
    let next = aboveNs;
    if (this.pool.idle.size === 0) {
      const soonestNs = this.pool.running.nodes[1]! - this.#leadNs[this.#early.first()]!;
      // Above it by now: then it was no GPU that kept a candidate from being granted, and the next one may be free soon.
      if (aboveNs === Infinity) next = soonestNs > cells[CELL_NOW]! ? soonestNs : Infinity;
      else if (soonestNs > aboveNs) next = soonestNs;
    }
    if (next < cells[CELL_NEXT]!) cells[CELL_NEXT] = next;
  }
}
