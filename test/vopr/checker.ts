/**
 * Holds a run against the rules (tables.ts). It learns what happens from outside only: what clients do, what the roles say
 * to their observer, the records in the lanes and the shared tables. It decides nothing by itself: which batch is the best
 * one is held against a reference in test/sim/harness.ts, for machines without faults.
 */
import type { Observer } from '#rubato/protocol/observer.js';
import { batchSizeOf, gpuOf, OUTCOME, outcomeOf } from '#rubato/protocol/outcome.js';
import { DROP_NEVER, DROP_TIMEOUT } from '#rubato/protocol/config.js';
import { COMPLETION, DEVICE_DONE, STATUS_OK } from '#rubato/protocol/records.js';
import { MODEL_MASK, type SpecTable, GPU_ACTIVE } from '#rubato/protocol/specs.js';
import { BATCH, BATCH_OPEN, COUNTER_OF_OUTCOME, SHARD_MODEL, SHARD_SLOT, SLOT } from '#rubato/protocol/tables.js';
import type { VirtualHost } from '#rubato/sim/virtual-host.js';
import type { ChangeSteps, Known, Spec } from '../sim/change-steps.js';
import { finishNs, type PolicyMargins } from '../sim/reference-policy.js';
import type { Faults } from './faults.js';
import { type Batch, type Rule, Tables, Tap, Violation } from './tables.js';
import type { Trace } from './trace.js';

export interface Request {
  readonly index: number;
  readonly client: number;
  readonly slot: number;
  readonly generation: number;
  readonly tag: number;
  readonly arrivalNs: number;
  readonly deadlineNs: number;
  state: 'open' | 'batched' | 'ended';
  /** Whether its shard can see it. */
  isCommitted: boolean;
  cancel: 'no' | 'asked' | 'known';
  /** Given up in this step. */
  isExpired: boolean;
  /** Where its completion stands: it is read when the lane's tail has passed it. */
  lane: Tap | null;
  position: number;
  /** Where its end was said last, and how often its shard had died by then. */
  saidAt: number;
  deaths: number;
}

export class Checker implements Observer {
  /** By slot: the request that had it last. */
  readonly requests = new Map<number, Request>();
  /** By outcome. */
  readonly endings = new Float64Array(16);
  batchesRun = 0;
  host!: VirtualHost;
  changes!: ChangeSteps;
  specs!: SpecTable;
  tables!: Tables;
  /** Called before a candidate is published. */
  onPublish: () => void = () => {};
  /** Whether every role is as after a poll of its own: no thread is dead, or has not got over the death of the one before. */
  isWhole: () => boolean = () => true;
  /** The shard that is being polled. */
  polling = -1;
  open = 0;
  readonly #margins: PolicyMargins;
  readonly #faults: Faults;
  readonly #trace: Trace;
  readonly #batches = new Map<string, Batch>();
  /** Those whose row is another's already. */
  readonly #ending = new Set<Batch>();
  readonly #batchOf = new Map<number, Batch>();
  readonly #lastOfGpu = new Map<number, Batch>();
  #completions: Tap[] = [];
  #done!: Tap;
  #expired: Request[] = [];
  /** Deaths by shard. */
  #deaths = new Float64Array(0);
  /** By model number: requests without an end, and of these those in no batch. */
  #openOf = new Float64Array(0);
  #waiting = new Float64Array(0);
  /** The most that may have been in the queue in the course of this step: what was there before it, and has come since. */
  #waitedBefore = new Float64Array(0);
  #submitted = 0;
  /** By model number and outcome. */
  readonly #endingsOf = new Map<string, number>();
  readonly #batchesOf = new Map<number, { batches: number; requests: number }>();
  /** Of the GPUs that have their numbers now. */
  readonly #usedOf = new Map<number, { batches: number; busyNs: number }>();

  constructor(margins: PolicyMargins, faults: Faults, trace: Trace) {
    this.#margins = margins;
    this.#faults = faults;
    this.#trace = trace;
  }

  attach(host: VirtualHost, specs: SpecTable, changes: ChangeSteps): void {
    this.host = host;
    this.specs = specs;
    this.changes = changes;
    this.tables = new Tables(host.memory, (rule, text) => this.fail(rule, text));
    this.#completions = host.memory.clients.flatMap((client) => client.completions.map((lane) => new Tap(lane)));
    this.#done = new Tap(host.memory.hosts[0]!.done);
    this.#deaths = new Float64Array(host.memory.shards.length);
    this.#openOf = new Float64Array(host.memory.limits.models);
    this.#waiting = new Float64Array(host.memory.limits.models);
    this.#waitedBefore = new Float64Array(host.memory.limits.models);
  }

  fail(rule: Rule, text: string): never {
    throw new Violation(rule, this.host.nowNs, text);
  }

  #check(holds: boolean, rule: Rule, text: () => string): void {
    if (!holds) this.fail(rule, text());
  }

  #specsOf(model: number): readonly Spec[] {
    return this.changes.known.get(model)?.specs ?? [];
  }

  // ---------------------------------------------------------------- what clients do

  submitted(client: number, slot: number, tag: number, arrivalNs: number): Request {
    const before = this.requests.get(slot);
    if (before !== undefined) {
      this.#check(before.state === 'ended', 'slot reused', () => `slot ${slot} was given to a second request while request ${before.index} has it`);
      this.#check(((before.lane!.tail - before.position) | 0) > 0, 'slot reused', () => `slot ${slot} was given to a second request before the completion of request ${before.index} was read`);
    }
    this.#check(tag >= 0, 'legal outcome', () => 'a closed model has taken a request');
    const { i32, f64 } = this.tables;
    const at = (this.host.memory.slots >> 2) + slot * SLOT.words;
    const request: Request = {
      index: this.#submitted++, client, slot, generation: i32[at + SLOT.at.generation]!, tag, arrivalNs, deadlineNs: f64[(at >> 1) + SLOT.at.deadlineNs]!,
      state: 'open', isCommitted: false, cancel: 'no', isExpired: false, lane: null, position: 0, saidAt: 0, deaths: 0,
    };
    this.requests.set(slot, request);
    this.open++;
    this.#openOf[tag & MODEL_MASK]!++;
    this.#waiting[tag & MODEL_MASK]!++;
    this.#waitedBefore[tag & MODEL_MASK]!++;
    this.#trace.note('submit', client, slot, request.generation);
    return request;
  }

  cancelling(request: Request): void {
    if (request.state !== 'ended' && request.cancel === 'no') request.cancel = 'asked';
    this.#trace.note('cancel', request.index);
  }

  // ---------------------------------------------------------------- what roles say

  granted(nowNs: number, model: number, gpu: number, execNs: number, freeAtNs: number, early: boolean): void {
    const { tables } = this;
    this.#trace.note('grant', nowNs, model, gpu, execNs);
    this.#check(tables.issued(model) === tables.answered(model), 'grant', () => `model ${model} was granted GPU ${gpu} though ${tables.issued(model)} grants were issued and ${tables.answered(model)} answered`);
    const { stamp, invalidAfterNs } = tables.candidate(model);
    this.#check(stamp === tables.issued(model), 'grant', () => `model ${model} was granted GPU ${gpu} on a candidate of stamp ${stamp}, ${tables.issued(model)} grants were issued`);
    this.#check(execNs <= invalidAfterNs, 'grant', () => `model ${model} was granted GPU ${gpu} for ${execNs}, its candidate is not valid after ${invalidAfterNs}`);
    this.#check(!this.changes.leavingGpus.has(gpu), 'gpu', () => `GPU ${gpu} was granted, though it is to leave`);
    this.#check(tables.gpu(gpu, 'grantModel') === -1 && tables.gpu(gpu, 'nextRow') === -1, 'gpu', () => `GPU ${gpu} was granted to model ${model} though it holds a grant or a next batch`);
    this.#check(freeAtNs <= execNs, 'grant', () => `GPU ${gpu} was granted for ${execNs}, it is free at ${freeAtNs}${early ? ', early' : ''}`);
    if (!this.#faults.dispatcherKnowsAll()) return;
    for (let lower = 0; lower < gpu; lower++) {
      if (this.specs.gpuState(lower) !== GPU_ACTIVE) continue;
      const lowerFreeNs = tables.freeAtNs(lower, nowNs);
      this.#check(lowerFreeNs > execNs, 'grant', () => `GPU ${gpu} was granted for ${execNs}, GPU ${lower} is free at ${lowerFreeNs}`);
    }
  }

  planned(nowNs: number, model: number, gpu: number, size: number, execNs: number, invalidAfterNs: number, slots: Int32Array, from: number): void {
    const known = this.changes.known.get(model);
    if (known === undefined || known.isFrozen || known.shard !== this.polling) this.fail('batch', `shard ${this.polling} has closed a batch of model ${model}, which ${known === undefined ? 'is not there' : known.isFrozen ? 'is frozen' : `is shard ${known.shard}'s`}`);
    const place = this.host.memory.shards[this.polling]!;
    const row = (from - (place.batchSlots >> 2)) / place.batchStride;
    this.#closed(nowNs, model, gpu, this.polling, row, execNs, invalidAfterNs, Array.from(slots.subarray(from, from + size)));
  }

  #closed(nowNs: number, model: number, gpu: number, shard: number, row: number, execNs: number, invalidAfterNs: number, slots: readonly number[]): void {
    const known = this.changes.known.get(model);
    const size = slots.length;
    const maxBatch = Math.max(...known!.specs.map(({ config }) => config.maxBatch));
    this.#check(size >= 1 && size <= maxBatch, 'batch', () => `model ${model} has closed a batch of ${size}, at most ${maxBatch} may be in one`);
    this.#check(!this.changes.closedGpus.has(gpu), 'gpu', () => `a batch for GPU ${gpu}, which has left`);
    const batch: Batch = {
      model, gpu, execNs, invalidAfterNs, row, shard, plannedNs: nowNs, slots, wasInterrupted: false,
      number: this.tables.i32[(this.host.memory.shards[shard]!.batchHeaders >> 2) + row * BATCH.words + BATCH.at.number]!,
      lengthsNs: known!.specs.map(({ profile }) => profile[size] ?? Infinity), previous: this.#lastOfGpu.get(gpu) ?? null,
      mayBeLate: known!.specs.some(({ config }) => config.dropPolicy === DROP_NEVER), startNs: NaN, endNs: NaN, failed: false, left: size,
    };
    this.#trace.note('plan', nowNs, model, gpu, execNs, ...batch.slots);
    const key = `${batch.shard} ${row}`;
    this.#takeDone(); // within one step several roles may have been polled
    // Ended and closed in the same poll: its requests' completions are committed at the end of it.
    const before = this.#batches.get(key);
    this.#check(before === undefined || !Number.isNaN(before.endNs), 'batch', () => `row ${row} of shard ${batch.shard} was used again before its batch had ended`);
    if (before !== undefined) this.#ending.add(before);
    this.#batches.set(key, batch);
    this.#lastOfGpu.set(gpu, batch);
    for (const slot of batch.slots) this.#join(slot, batch, known!);
  }

  #join(slot: number, batch: Batch, known: Known): void {
    const request = this.requests.get(slot);
    if (request === undefined || request.state !== 'open' || request.isExpired) this.fail('batch', `slot ${slot} went into a batch of model ${batch.model} though its request is ${request?.isExpired === true ? 'given up' : request?.state}`);
    this.#check(request!.tag === known.tag, 'batch', () => `request ${request!.index} has come to another model than it was for`);
    this.#check(request!.cancel !== 'known', 'cancel', () => `request ${request!.index} was cancelled, and still went into a batch`);
    request!.state = 'batched';
    this.#batchOf.set(slot, batch);
    this.#waiting[batch.model]!--;
  }

  /**
   * The thread of a shard has died. What it was about to say is known from the tables: a batch is closed from the last word of
   * its row on, a request is given up when its outcome stands.
   */
  shardDied(shard: number): void {
    const { i32, f64 } = this.tables;
    const { memory } = this.host;
    this.#takeSaid();
    this.#deaths[shard]!++;
    for (const request of this.#expired) {
      const at = (memory.shardSlots >> 2) + request.slot * SHARD_SLOT.words;
      request.isExpired = i32[at + SHARD_SLOT.at.outcomeGeneration] === request.generation;
    }
    this.#expired = this.#expired.filter(({ isExpired }) => isExpired);
    const place = memory.shards[shard]!;
    for (let row = 0; row < place.batchRows; row++) {
      const header = (place.batchHeaders >> 2) + row * BATCH.words;
      if (i32[header + BATCH.at.state] !== BATCH_OPEN) continue;
      const model = i32[header + BATCH.at.model]!;
      const before = this.#batches.get(`${shard} ${row}`);
      if (before !== undefined && before.model === model && before.number === i32[header + BATCH.at.number]) continue;
      const from = (place.batchSlots >> 2) + row * place.batchStride;
      const slots = Array.from(i32.subarray(from, from + i32[header + BATCH.at.size]!));
      if (slots.every((slot) => this.requests.get(slot)?.state === 'ended')) continue; // its row was not closed yet when its client went
      const deadlineNs = Math.min(...slots.map((slot) => this.requests.get(slot)!.deadlineNs));
      const mayBeLate = this.#specsOf(model).some(({ config }) => config.dropPolicy === DROP_NEVER);
      const execNs = f64[(header >> 1) + BATCH.at.execNs]!;
      this.#closed(this.host.nowNs, model, i32[header + BATCH.at.gpu]!, shard, row, execNs, mayBeLate ? Infinity : deadlineNs - f64[(header >> 1) + BATCH.at.lengthNs]!, slots);
    }
  }

  /** The thread of the device has died: what ran begins once more. */
  deviceDied(): void {
    this.#takeDone();
    for (const batch of this.#batches.values()) if (Number.isNaN(batch.endNs) && batch.execNs <= this.host.nowNs) batch.wasInterrupted = true;
  }

  /** What is counted for a GPU counts from its coming on. */
  gpuGone(gpu: number): void {
    this.#usedOf.delete(gpu);
  }

  refused(nowNs: number, model: number, gpu: number): void {
    this.#trace.note('refuse', nowNs, model, gpu);
  }

  expired(nowNs: number, model: number, slot: number, size: number, gpuFreeNs: number): void {
    const request = this.requests.get(slot);
    if (request === undefined || request.state !== 'open' || request.isExpired) this.fail('one outcome', `slot ${slot} was given up though its request is ${request?.state}`);
    this.#check(this.changes.known.get(model)?.shard === this.polling, 'batch', () => `shard ${this.polling} has given up a request of model ${model}`);
    // While a model is being changed, either of its profiles may be the one in use.
    const inVain = this.#specsOf(model).every(({ config, profile }) => {
      const policy = { ...config, latencyNs: profile };
      if (config.dropPolicy === DROP_NEVER) return true;
      if (config.dropPolicy === DROP_TIMEOUT) return request!.deadlineNs >= finishNs(policy, this.#margins, nowNs, gpuFreeNs, 1);
      return size <= config.maxBatch && request!.deadlineNs >= finishNs(policy, this.#margins, nowNs, gpuFreeNs, size);
    });
    this.#check(!inVain, 'dropped in vain', () => `request ${request!.index} was given up at ${nowNs}, its deadline ${request!.deadlineNs} could be met in a batch of ${size}, on a GPU that is free at ${gpuFreeNs}`);
    request!.isExpired = true;
    this.#expired.push(request!);
  }

  published(): void {
    this.onPublish();
  }

  // ---------------------------------------------------------------- after every step

  stepped(): void {
    this.#takeSaid();
    this.tables.checkLanes();
    if (!this.isWhole()) return; // the step that a dead thread has begun is not over
    this.#waitedBefore.set(this.#waiting);
    for (const request of this.#expired.splice(0)) this.#check(request.state === 'ended', 'one outcome', () => `request ${request.index} was given up and has not ended`);
    for (const { gpu } of this.#ending) this.fail('one outcome', `not all requests of a batch of GPU ${gpu} have ended with it`);
    this.tables.check(this.#batches);
    for (let model = 0; model < this.#openOf.length; model++) {
      const { inFlight } = this.host.stats.raw(model);
      this.#check(inFlight === this.#openOf[model], 'accounting', () => `model ${model} counts ${inFlight} requests in flight, ${this.#openOf[model]} are open`);
      this.#checkCounters(model);
    }
  }

  #checkCounters(model: number): void {
    const row = ((this.host.memory.shardModels >> 2) + model * SHARD_MODEL.words) >> 1;
    for (const [name, outcome] of Object.entries(OUTCOME)) {
      const counted = this.tables.f64[row + COUNTER_OF_OUTCOME + outcome]!;
      const ended = this.#endingsOf.get(`${model} ${outcome}`) ?? 0;
      this.#check(counted === ended, 'accounting', () => `model ${model} counts ${counted} requests as ${name}, ${ended} have ended so`);
    }
    const batches = this.tables.f64[row + SHARD_MODEL.at.batches]!;
    const batched = this.tables.f64[row + SHARD_MODEL.at.batched]!;
    const ran = this.#batchesOf.get(model) ?? { batches: 0, requests: 0 };
    this.#check(batches === ran.batches && batched === ran.requests, 'accounting', () => `model ${model} counts ${batches} batches of ${batched} requests, it was ${ran.batches} of ${ran.requests}`);
  }

  /** What devices and shards have said by now. */
  #takeSaid(): void {
    this.#takeDone();
    for (const lane of this.#completions) for (let at = lane.next(); at >= 0; at = lane.next()) this.#completed(lane, at);
  }

  #takeDone(): void {
    for (let at = this.#done.next(); at >= 0; at = this.#done.next()) this.#deviceDone(at);
  }

  #deviceDone(at: number): void {
    const { i32, f64 } = this.#done;
    const gpu = i32[at + DEVICE_DONE.at.gpu]!;
    const batch = this.#batches.get(`${i32[at + DEVICE_DONE.at.shard]!} ${i32[at + DEVICE_DONE.at.row]!}`);
    if (batch === undefined || batch.gpu !== gpu || batch.number !== i32[at + DEVICE_DONE.at.number] || !Number.isNaN(batch.endNs)) this.fail('gpu', `GPU ${gpu} has ended a batch that it does not have`);
    batch!.startNs = f64[(at >> 1) + DEVICE_DONE.at.startNs]!;
    batch!.endNs = f64[(at >> 1) + DEVICE_DONE.at.endNs]!;
    batch!.failed = i32[at + DEVICE_DONE.at.status] !== STATUS_OK;
    this.batchesRun++;
    const used = this.#usedOf.get(gpu) ?? { batches: 0, busyNs: 0 };
    this.#usedOf.set(gpu, { batches: used.batches + 1, busyNs: used.busyNs + batch!.endNs - batch!.startNs });
    this.#trace.note('done', gpu, batch!.startNs, batch!.endNs, batch!.failed ? 1 : 0);
    const { previous, startNs } = batch!;
    this.#check(previous === null || previous.endNs <= startNs, 'gpu', () => `GPU ${gpu} ran a batch from ${startNs}, the one before ended at ${previous!.endNs}`);
    this.#check(!batch!.failed || this.#faults.mayFail(gpu), 'legal outcome', () => `GPU ${gpu} failed a batch without a fault`);
    if (this.#faults.excuse(batch!)) return;
    this.#check(startNs === batch!.execNs, 'invalidAfter', () => `a batch that was planned for ${batch!.execNs} started at ${startNs}`);
    this.#check(startNs <= batch!.invalidAfterNs, 'invalidAfter', () => `a batch started at ${startNs}, not valid after ${batch!.invalidAfterNs}`);
    this.#check(batch!.lengthsNs.includes(batch!.endNs - startNs), 'gpu', () => `a batch took ${batch!.endNs - startNs}, its profile says ${batch!.lengthsNs.join(' or ')}`);
  }

  #completed(lane: Tap, at: number): void {
    const { i32, f64 } = lane;
    const slot = i32[at + COMPLETION.at.slot]!;
    const packed = i32[at + COMPLETION.at.outcome]!;
    const request = this.requests.get(slot);
    const shard = this.#completions.indexOf(lane) % this.#deaths.length;
    if (request !== undefined && request.state === 'ended' && this.#isSaidAgain(request, lane, at, shard)) return;
    if (request === undefined || request.state === 'ended' || request.generation !== i32[at + COMPLETION.at.generation]) this.fail('one outcome', `slot ${slot} got outcome ${outcomeOf(packed)} though its request is ${request?.state}`);
    const word = (this.host.memory.shardSlots >> 2) + slot * SHARD_SLOT.words;
    this.#check(i32[word + SHARD_SLOT.at.outcomeGeneration] === request!.generation && i32[word + SHARD_SLOT.at.outcome] === packed, 'one outcome', () => `the slot table does not know outcome ${outcomeOf(packed)} of slot ${slot}`);
    this.#ended(request!, packed, f64[(at >> 1) + COMPLETION.at.endNs]!, lane, this.#deaths[shard]!, this.#deaths[shard]! > 0);
  }

  /** `deaths`: those of its shard before it was said. */
  #ended(request: Request, packed: number, endNs: number, lane: Tap, deaths: number, maybeAgain: boolean): void {
    const outcome = outcomeOf(packed);
    const batch = this.#batchOf.get(request.slot);
    if (batch === undefined) this.#endedUnrun(request, outcome);
    else this.#ranIn(request, batch, outcome, packed, endNs, maybeAgain);
    request.state = 'ended';
    request.deaths = deaths;
    request.lane = lane;
    request.position = request.saidAt = (lane.position - 1) | 0;
    this.open--;
    this.#openOf[request.tag & MODEL_MASK]!--;
    this.endings[outcome]!++;
    const ending = `${request.tag & MODEL_MASK} ${outcome}`;
    this.#endingsOf.set(ending, (this.#endingsOf.get(ending) ?? 0) + 1);
    this.#trace.note('end', request.index, outcome, endNs);
  }

  /**
   * The client of a request is gone while the thread of its shard is dead. An outcome that stands in the slot table by then
   * was counted, or will be; whether it was said does not matter any more.
   */
  orphaned(request: Request, shard: number): void {
    const { i32, f64 } = this.tables;
    const f32 = new Float32Array(this.host.memory.buffer);
    const word = (this.host.memory.shardSlots >> 2) + request.slot * SHARD_SLOT.words;
    if (request.state === 'ended' || i32[word + SHARD_SLOT.at.outcomeGeneration] !== request.generation) return;
    const endNs = f64[(word >> 1) + SHARD_SLOT.at.deadlineNs]! - f32[word + SHARD_SLOT.at.budgetNs]! + f32[word + SHARD_SLOT.at.endedNs]!;
    const lane = this.#completions[(request.slot >> this.host.memory.config.slotShift) * this.#deaths.length + shard]!;
    this.#ended(request, i32[word + SHARD_SLOT.at.outcome]!, endNs, lane, this.#deaths[shard]! - 1, true);
  }

  /** A shard that takes over says again what its clients may not have heard, once. */
  #isSaidAgain(request: Request, lane: Tap, at: number, shard: number): boolean {
    const { i32 } = lane;
    const word = (this.host.memory.shardSlots >> 2) + request.slot * SHARD_SLOT.words;
    const isSame = lane === request.lane && i32[at + COMPLETION.at.generation] === request.generation && i32[at + COMPLETION.at.outcome] === i32[word + SHARD_SLOT.at.outcome];
    if (!isSame || request.deaths === this.#deaths[shard]) return false;
    this.#check(((lane.tail - request.saidAt) | 0) > 0, 'lane', () => `the end of request ${request.index} was said again, and its client has not read it yet`);
    request.saidAt = (lane.position - 1) | 0;
    request.deaths = this.#deaths[shard]!;
    this.#trace.note('again', request.index);
    return true;
  }

  #endedUnrun(request: Request, outcome: number): void {
    const number = request.tag & MODEL_MASK;
    this.#waiting[number]!--;
    const known = this.changes.known.get(number);
    const { controlNs, transferNs } = this.#margins;
    const budgetNs = Math.fround(request.deadlineNs - request.arrivalNs);
    // The slot keeps the budget as a float32, and the arrival is known only by it.
    const legal =
      outcome === OUTCOME.expired ? request.isExpired
      : outcome === OUTCOME.cancelled ? request.cancel !== 'no'
      : outcome === OUTCOME.closed ? known?.ends === true && known.tag === request.tag
      : outcome === OUTCOME.queueFull ? this.#specsOf(number).some(({ config }) => this.#waitedBefore[number]! > config.maxQueue)
      : outcome === OUTCOME.infeasible ? this.#specsOf(number).some(({ profile }) => budgetNs < controlNs + transferNs + profile[1]!)
      : false;
    this.#check(legal, 'legal outcome', () => `request ${request.index} of model ${number} never ran and ended with ${outcome}`);
    this.#check(request.cancel !== 'known' || outcome === OUTCOME.cancelled, 'cancel', () => `request ${request.index} was cancelled and ended with ${outcome}`);
  }

  #ranIn(request: Request, batch: Batch, outcome: number, packed: number, saidNs: number, maybeAgain: boolean): void {
    this.#batchOf.delete(request.slot);
    // Said again, it is known by the slot's words, which are float32.
    const endNs = maybeAgain && Math.abs(saidNs - batch.endNs) <= 2 ** -22 * (batch.endNs - request.arrivalNs + request.deadlineNs - request.arrivalNs) ? batch.endNs : saidNs;
    this.#check(endNs === batch.endNs, 'legal outcome', () => `request ${request.index} ended at ${endNs}, its batch at ${batch.endNs}`);
    this.#check(batchSizeOf(packed) === batch.slots.length && gpuOf(packed) === batch.gpu, 'legal outcome', () => `request ${request.index} ran in a batch of ${batch.slots.length} on GPU ${batch.gpu}, its outcome says otherwise`);
    const late = endNs > request.deadlineNs;
    const served = batch.failed ? OUTCOME.failed : late ? OUTCOME.late : OUTCOME.completed;
    const legal = outcome === OUTCOME.cancelled ? request.cancel !== 'no' : outcome === served && request.cancel !== 'known';
    this.#check(legal, request.cancel === 'known' ? 'cancel' : 'legal outcome', () => `request ${request.index} ended at ${endNs} with ${outcome}, expected ${served} (deadline ${request.deadlineNs}, cancel ${request.cancel})`);
    this.#check(!late || batch.mayBeLate || this.#faults.excuse(batch), 'invalidAfter', () => `request ${request.index} was late by ${endNs - request.deadlineNs} without a fault`);
    if (--batch.left > 0) return;
    const ran = this.#batchesOf.get(batch.model) ?? { batches: 0, requests: 0 };
    this.#batchesOf.set(batch.model, { batches: ran.batches + 1, requests: ran.requests + batch.slots.length });
    if (this.#ending.delete(batch)) return;
    this.#batches.delete(`${batch.shard} ${batch.row}`);
  }

  // ---------------------------------------------------------------- when all have come to rest

  /** Nobody is paused, and nothing more changes at this instant. */
  settled(): void {
    const { nowNs } = this.host;
    const isTimed = this.host.nextEventNs() < Infinity;
    for (const request of this.requests.values()) {
      if (request.state === 'ended' || !request.isCommitted) continue;
      if (request.cancel === 'asked') {
        this.#check(request.state === 'batched', 'cancel', () => `request ${request.index} was cancelled and still waits`);
        request.cancel = 'known';
      }
      const number = request.tag & MODEL_MASK;
      const mayStay = request.state === 'batched'
        ? this.#faults.isLost(this.#batchOf.get(request.slot)!.gpu)
        : this.tables.isFrozen(number) || this.#specsOf(number).some(({ config }) => config.dropPolicy === DROP_NEVER);
      if (mayStay) continue;
      this.#check(isTimed, 'timer', () => `request ${request.index} is in flight and nothing is due`);
      this.#check(request.state === 'batched' || request.deadlineNs >= nowNs, 'timer', () => `request ${request.index} waits, its deadline was ${request.deadlineNs}`);
    }
    for (let gpu = 0; gpu < this.host.memory.limits.gpus; gpu++) {
      const model = this.tables.gpu(gpu, 'grantModel');
      this.#check(model === -1, 'grant', () => `the grant of GPU ${gpu} to model ${model} is not answered at rest`);
      const used = this.#usedOf.get(gpu);
      if (used === undefined) continue;
      const batches = this.tables.gpu(gpu, 'batches');
      const busyNs = this.tables.gpu(gpu, 'busyNs');
      this.#check(batches === used.batches && busyNs === used.busyNs, 'accounting', () => `GPU ${gpu} counts ${batches} batches and ${busyNs} ns, it was ${used.batches} and ${used.busyNs} ns`);
    }
  }

  /** The load has stopped and nothing is due any more. */
  finished(): void {
    for (const request of this.requests.values()) {
      const isLost = request.state === 'batched' && this.#faults.isLost(this.#batchOf.get(request.slot)!.gpu);
      this.#check(request.state === 'ended' || isLost, 'quiescence', () => `request ${request.index} of model ${request.tag & MODEL_MASK} never ended`);
    }
    for (const { gpu } of this.#batches.values()) this.#check(this.#faults.isLost(gpu), 'quiescence', () => `a batch of GPU ${gpu} never ended`);
    this.tables.checkAtRest();
  }
}
