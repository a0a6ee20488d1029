/**
 * Runs a scenario in virtual time and checks every rule of the scheduler at every instant.
 *
 *   scenario ─▶ Run ─▶ VirtualHost          the code under test
 *                │ ▲ Observer, completions
 *                ▼ │
 *              mirror: one sorted queue per model, the reference policy, the GPUs as planned, counts of its own
 *
 * The mirror learns what happens only from outside (what was submitted and cancelled, what the observer and the
 * completions say), decides by reference-policy.ts, and every difference is a violation of a *named* property. After
 * one it follows the scheduler again, so that one fault does not hide the next.
 */
import type { Observer } from '#rubato/protocol/observer.js';
import { REFUSED_INFEASIBLE, REFUSED_NO_SLOT } from '#rubato/protocol/client-port.js';
import { type Condition, CONDITIONS, type DropPolicy, DROP_NEVER, DROP_POLICIES, DROP_TIMEOUT, firstShardOf, type SchedulerConfig, WANT_ADAPTIVE, WANT_FRONTRUN } from '#rubato/protocol/config.js';
import { CELL_NOW } from '#rubato/protocol/role.js';
import { batchSizeOf, gpuOf, OUTCOME, outcomeOf } from '#rubato/protocol/outcome.js';
import { MARGIN_DROP_SHARE } from '#rubato/protocol/shared-memory.js';
import { SHARD_SLOT, SLOT, SLOT_DOUBLES, SLOT_WORDS } from '#rubato/protocol/tables.js';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { LEARN_BATCH_NS, LEARN_WAIT_NS, type LookAhead } from '#rubato/dispatch/look-ahead.js';
import { LEARNT } from '#rubato/dispatch/reserve-choice.js';
import { VirtualHost, virtualConfig } from '#rubato/sim/virtual-host.js';
import {
  aheadNs, bearableNs, decide, type Decision, dropShare, type Entry, finishNs, holdsUp, type PolicyMargins, type PolicyModel, ReferenceMeter, ReferenceQueue, reserveGivenUp, type SeenModel, targetSize, type Tight, tightModels, unreserved, type Window, windowOf, worthSize,
} from './reference-policy.js';

export interface ModelSpec {
  readonly alphaNs: number;
  readonly betaNs: number;
  readonly maxBatch: number;
  readonly sloNs: number;
  readonly drop: DropPolicy;
  readonly condition: Condition;
  readonly maxQueue: number;
}

export type ScenarioEvent =
  /** `sloNs` 0 = the model's own; `count` requests at once, that were due `lateNs` ago. */
  | { readonly at: number; readonly kind: 'submit'; readonly model: number; readonly sloNs: number; readonly count?: number; readonly lateNs?: number }
  /** Cancels the k-th submitted request of the run, whatever has become of it. */
  | { readonly at: number; readonly kind: 'cancel'; readonly request: number };

export interface Scenario {
  readonly models: readonly ModelSpec[];
  readonly gpus: number;
  readonly shards: number;
  readonly margins: PolicyMargins;
  readonly slotShift: number;
  readonly slowdown: number;
  readonly jitter: number;
  readonly failureRate: number;
  /**
   * 0: roles are polled one after the other. k: at every k-th publication the dispatcher is polled in between, as if it
   * ran on another core: it then sees what was published before, and the shard publishes without knowing of its grants.
   */
  readonly interleave?: number;
  /** Whether what happens outside at an instant is seen together with what falls due then, or after that has settled. */
  readonly together?: boolean;
  /** Whether the inner loops run as WebAssembly. */
  readonly compiledLoops?: boolean;
  readonly events: readonly ScenarioEvent[];
}

/** What can be violated. */
export type Property =
  /** Every accepted request gets exactly one outcome, once. */
  | 'one outcome'
  /** The outcome is the right one: late iff after the deadline, cancelled iff cancelled in time, refused for the reason at hand. */
  | 'right outcome'
  /** With exact profiles nothing that was not dropped is late, except under `never`. */
  | 'never late'
  /** No batch starts after its invalidAfter. */
  | 'invalidAfter'
  /** A GPU runs one batch at a time, and has at most one grant and one next batch. */
  | 'one batch per GPU'
  /** At each grant every lower-numbered GPU had freeAt > exec. */
  | 'lowest GPU'
  /** Granted only what can be free at exec; a refused or answered grant leaves the GPU as it was. */
  | 'grant'
  /** Of the candidates that wait and can still start, the one with the smallest latest is granted; none waits beside a GPU it could have. */
  | 'matching'
  /** Under `timeout` nothing is dropped that could still be met alone on a free GPU. */
  | 'timeout drop'
  /** Under `window` each dropped request fails finish(b) for the batch chosen then; under `never` none is dropped. */
  | 'window drop'
  /** No request waits without a timer. */
  | 'timer'
  /** accepted = endings + in flight, and each counter is what was counted outside. */
  | 'equation'
  /** No batch is larger than maxBatch, or empty. */
  | 'batch size'
  /** A batch is the oldest survivors in the order (deadline, arrival). */
  | 'oldest first'
  /** Size, drops, window and start are those of the reference policy. */
  | 'policy'
  /** θ is that of the reference, at each tick and unchanged between ticks. */
  | 'drop share'
  /** Only a model of the condition `adaptive` is granted a GPU before its batch is due; the look-ahead and the reserve are those of the reference. */
  | 'early'
  /** The scheduler came to rest and threw nothing. */
  | 'sound';

export interface Violation {
  readonly property: Property;
  readonly atNs: number;
  readonly text: string;
}

interface Request {
  readonly index: number;
  readonly slot: number;
  readonly model: number;
  readonly arrivalNs: number;
  readonly deadlineNs: number;
  readonly order: number;
  state: 'lane' | 'queued' | 'batched' | 'ended';
  cancelled: boolean;
  /** Could not be met any more when the shard saw it: it never waits. */
  hopeless: boolean;
  /** The outcome it must get, as soon as that is certain. */
  expected: number;
  batch: Batch | null;
}

/** What a model has published last, unless it was granted since. */
interface Candidate {
  readonly size: number;
  /** The size that is worth an early start, as of when it was published. */
  readonly worthSize: number;
  readonly rankNs: number;
  readonly window: Window;
}

interface Batch {
  readonly model: number;
  readonly gpu: number;
  readonly size: number;
  readonly execNs: number;
  readonly invalidAfterNs: number;
  readonly lengthNs: number;
  left: number;
  startNs: number;
  endNs: number;
}

class Enough extends Error {}

const REQUESTS_PER_POLL = 512;
const TICK_NS = 50e6;
/** One poll of a shard collects at least this many cancels; more at one instant are spread over several settlements. */
const CANCELS_PER_SETTLE = 200;
/** A run ends with so many violations: a broken scheduler may never come to rest. */
const MOST_VIOLATIONS = 40;
/** Events after the last submission at which a run is given up. */
const MOST_STEPS = 200_000;

export function exact(scenario: Scenario): boolean {
  return scenario.slowdown === 1 && scenario.jitter === 0;
}

export function configOf(scenario: Scenario): SchedulerConfig {
  const profiles = scenario.models.map((model) => LatencyProfile.linear(model, 'model').ns);
  const config = virtualConfig({
    profiles,
    models: scenario.models.map((model, index) => ({
      name: `m${index}`,
      sloNs: model.sloNs,
      profile: index,
      maxBatch: model.maxBatch,
      dropPolicy: DROP_POLICIES.indexOf(model.drop),
      condition: CONDITIONS.indexOf(model.condition),
      maxQueue: model.maxQueue,
    })),
    gpus: Array.from({ length: scenario.gpus }, () => ({
      host: 0, slowdown: scenario.slowdown, jitter: scenario.jitter, failureRate: scenario.failureRate, seed: 7,
    })),
    shards: scenario.shards,
    slotShift: scenario.slotShift,
    compiledLoops: scenario.compiledLoops === true,
  });
  return { ...config, margins: { ...config.margins, ...scenario.margins } };
}

export class Run implements Observer {
  readonly violations: Violation[] = [];
  /** One line per batch: time, model, GPU, size, slots. In order of time; at one time in the order of the text. */
  readonly decisions: { readonly at: number; readonly text: string }[] = [];
  /** Request, outcome and end of each completion, as they came. */
  readonly endings: number[] = [];
  readonly host: VirtualHost;
  readonly requests: (Request | null)[] = [];

  readonly #scenario: Scenario;
  readonly #config: SchedulerConfig;
  readonly #exact: boolean;
  /** Exact, and the roles are polled one by one: what waits for a GPU is known at each grant. */
  readonly #oneByOne: boolean;
  readonly #models: PolicyModel[];
  readonly #margins: PolicyMargins;
  readonly #queues: ReferenceQueue[];
  readonly #meters: ReferenceMeter[];
  readonly #lastExecNs: Float64Array;
  /** By model: what its shard has seen when it looked last. */
  readonly #seen: (SeenModel | null)[];
  #nextTickNs = -Infinity;
  /** θ: as it must be, to the last digits, and as it is. */
  #dropShare = 0;
  /** H and R of the policy `adaptive`, and how many GPUs will be wanted at once within a time. */
  #aheadNs = 0;
  #tight: readonly Tight[] = [];
  #reserve = 0;
  /** What is kept instead of it, if anything. */
  #share: number = LEARNT;
  #wantedWithin: (aheadNs: number) => number = () => 0;
  /** By model: the timer published last, and whether a candidate stands that needs none. */
  readonly #timerNs: Float64Array;
  #bearableNs: number[] = [];
  readonly #overdue: Uint8Array;
  readonly #candidates: (Candidate | null)[];
  readonly #grants: ({ gpu: number; freeAtNs: number; early: boolean } | null)[];
  readonly #expiredNow: Request[][];
  readonly #lanes: Request[][];
  readonly #cancels: Request[][];
  readonly #bySlot = new Map<number, Request>();
  readonly #batchesOfGpu: Batch[][];
  readonly #grantOfGpu: Int32Array;
  readonly #counts: { accepted: number; refused: number; open: number; ended: Int32Array; batches: number; batched: number; grants: number; refusals: number }[];
  #records = 0;
  #publications = 0;
  #cancelled = 0;

  constructor(scenario: Scenario, HostType: typeof VirtualHost = VirtualHost) {
    const models = scenario.models.length;
    this.#scenario = scenario;
    this.#config = configOf(scenario);
    this.#exact = exact(scenario);
    this.#oneByOne = this.#exact && (scenario.interleave ?? 0) === 0;
    this.#margins = scenario.margins;
    this.#models = this.#config.models.map((model) => ({ ...model, latencyNs: this.#config.profiles[model.profile]! }));
    this.#queues = scenario.models.map(() => new ReferenceQueue());
    this.#meters = scenario.models.map(() => new ReferenceMeter());
    this.#seen = new Array<null>(models).fill(null);
    this.#lastExecNs = new Float64Array(models);
    this.#timerNs = new Float64Array(models).fill(Infinity);
    this.#overdue = new Uint8Array(models);
    this.#candidates = new Array<null>(models).fill(null);
    this.#grants = new Array<null>(models).fill(null);
    this.#expiredNow = scenario.models.map(() => []);
    this.#lanes = Array.from({ length: scenario.shards }, () => []);
    this.#cancels = Array.from({ length: scenario.shards }, () => []);
    this.#batchesOfGpu = Array.from({ length: scenario.gpus }, () => []);
    this.#grantOfGpu = new Int32Array(scenario.gpus).fill(-1);
    this.#counts = scenario.models.map(() => ({ accepted: 0, refused: 0, open: 0, ended: new Int32Array(9), batches: 0, batched: 0, grants: 0, refusals: 0 }));
    this.host = new HostType(this.#config, this);
    this.host.onCompleted = (slots, outcomes, count) => {
      for (let k = 0; k < count; k++) this.#completed(slots[k]!, outcomes[k]!, k);
    };
    this.host.onSettled = (nowNs) => this.#settled(nowNs);
    this.host.shards.forEach((shard, index) => {
      const poll = shard.poll.bind(shard);
      shard.poll = () => {
        this.#beforePoll(index);
        poll();
      };
    });
    const { dispatcher } = this.host;
    this.#watch(dispatcher.lookAhead);
    const poll = dispatcher.poll.bind(dispatcher);
    dispatcher.poll = () => {
      this.#tick();
      poll();
      this.#checkDropShare();
    };
  }

  /** Plays the scenario and lets it run out. */
  play(): this {
    try {
      this.#playEvents();
      this.#runOut();
      this.#finish();
    } catch (error) {
      if (!(error instanceof Enough)) this.#fail('sound', `threw ${error instanceof Error ? error.message : String(error)}`);
    }
    this.decisions.sort((a, b) => a.at - b.at || (a.text < b.text ? -1 : 1));
    return this;
  }

  /** Names of the violated properties. */
  violated(): Set<Property> {
    return new Set(this.violations.map((violation) => violation.property));
  }

  #fail(property: Property, text: string): void {
    this.violations.push({ property, atNs: this.host.nowNs, text });
    if (this.violations.length >= MOST_VIOLATIONS) throw new Enough();
  }

  #check(holds: boolean, property: Property, text: () => string): void {
    if (!holds) this.#fail(property, text());
  }

  // ---------------------------------------------------------------- playing

  #playEvents(): void {
    const events = this.#scenario.events.map((event, index) => ({ event, index })).sort((a, b) => a.event.at - b.event.at || a.index - b.index);
    for (let from = 0; from < events.length; ) {
      const at = events[from]!.event.at;
      if (this.#scenario.together === true) this.#runUpTo(at);
      else this.host.advanceTo(at);
      for (; from < events.length && events[from]!.event.at === at; from++) this.#play(events[from]!.event);
      this.#settle(at);
    }
  }

  /** Plays everything that falls due before `at`. */
  #runUpTo(at: number): void {
    for (let next = this.host.nextEventNs(); next < at; next = this.host.nextEventNs()) this.host.runOut(next);
  }

  #settle(at: number): void {
    this.#cancelled = 0;
    this.host.client.commit();
    this.host.advanceTo(at);
  }

  #play(event: ScenarioEvent): void {
    if (event.kind === 'submit') {
      for (let k = event.count ?? 1; k > 0; k--) this.#submit(event.model, event.at - (event.lateNs ?? 0), event.sloNs);
    } else {
      this.#cancel(event.request, event.at);
    }
  }

  #submit(model: number, arrivalNs: number, givenSloNs: number): void {
    const counts = this.#counts[model]!;
    const sloNs = givenSloNs === 0 ? this.#models[model]!.sloNs : givenSloNs;
    const slot = this.host.client.submit(model, arrivalNs, givenSloNs);
    const full = this.#bySlot.size === this.host.client.slots;
    const expected = sloNs < this.#models[model]!.latencyNs[1]! ? REFUSED_INFEASIBLE : full ? REFUSED_NO_SLOT : 0;
    this.#check(Math.min(slot, 0) === expected, 'right outcome', () => `submit answered ${slot}, expected ${expected === 0 ? 'a slot' : expected}`);
    if (slot < 0) {
      counts.refused++;
      this.requests.push(null);
      return;
    }
    this.#check(!this.#bySlot.has(slot), 'one outcome', () => `slot ${slot} was given to a second request`);
    counts.accepted++;
    counts.open++;
    const index = this.requests.length;
    const request: Request = {
      index, slot, model, arrivalNs, deadlineNs: arrivalNs + sloNs - this.#margins.responseNs, order: index,
      state: 'lane', cancelled: false, hopeless: false, expected: 0, batch: null,
    };
    this.requests.push(request);
    this.#bySlot.set(slot, request);
    this.#lanes[firstShardOf(this.#config, model)]!.push(request);
  }

  #cancel(index: number, at: number): void {
    const request = this.requests[index];
    if (request === null || request === undefined) return;
    const owner = this.#bySlot.get(request.slot);
    // A client cancels what it has; after the end that does nothing, while nobody else has the slot.
    if (owner !== undefined && owner !== request) return;
    if (++this.#cancelled > CANCELS_PER_SETTLE) this.#settle(at);
    this.host.client.cancel(request.slot);
    if (request.state === 'ended' || request.cancelled) return;
    request.cancelled = true;
    this.#cancels[firstShardOf(this.#config, request.model)]!.push(request);
  }

  #runOut(): void {
    let steps = 0;
    for (let next = this.host.nextEventNs(); next < Infinity; next = this.host.nextEventNs()) {
      this.host.runOut(next);
      if (++steps > MOST_STEPS) {
        this.#fail('sound', `still busy ${MOST_STEPS} events after the last submission`);
        return;
      }
    }
  }

  // ---------------------------------------------------------------- the mirror takes in what a shard is about to

  #beforePoll(shard: number): void {
    const now = this.host.nowNs;
    for (const request of this.#lanes[shard]!.splice(0, REQUESTS_PER_POLL)) this.#admit(request, now);
    for (const request of this.#cancels[shard]!.splice(0)) {
      if (request.state !== 'queued') continue;
      this.#queues[request.model]!.remove(request.slot);
      request.expected = OUTCOME.cancelled;
    }
  }

  #admit(request: Request, now: number): void {
    const { model } = request;
    const queue = this.#queues[model]!;
    const aloneNs = this.#margins.controlNs + this.#margins.transferNs + this.#models[model]!.latencyNs[1]!;
    this.#look(model, now);
    this.#meters[model]!.arrive(now);
    request.state = 'queued';
    if (request.cancelled) request.expected = OUTCOME.cancelled;
    else if (request.deadlineNs < now + aloneNs && this.#models[model]!.dropPolicy !== DROP_NEVER) {
      // Too short from the start, or too late by now. (The slot keeps the time that was given as a float32.)
      request.expected = Math.fround(request.deadlineNs - request.arrivalNs) < aloneNs ? OUTCOME.infeasible : OUTCOME.expired;
      request.hopeless = true;
    }
    else if (queue.count >= this.#config.models[model]!.maxQueue) request.expected = OUTCOME.queueFull;
    else queue.push({ deadline: request.deadlineNs, order: request.order, slot: request.slot });
  }

  /** A shard brings the rate of a model up to date whenever it takes a request in or decides. */
  #look(model: number, now: number): void {
    const ratePerSecond = this.#meters[model]!.ratePerSecond(now);
    if (ratePerSecond === null) return;
    const policyModel = this.#models[model]!;
    const target = targetSize(policyModel, this.#margins, ratePerSecond);
    this.#seen[model] = { model: policyModel, ratePerSecond, target, ratedUntilNs: this.#meters[model]!.wholeUntilNs(now) };
  }

  /** Keeps what the look-ahead is told in plain lists, and compares each of its answers with a scan of all times. */
  #watch(lookAhead: LookAhead): void {
    const bucketNs = Math.ceil(Math.max(...this.#models.map((model) => model.sloNs)) / 512);
    const bucketOf = (timeNs: number): number => Math.floor(timeNs / bucketNs);
    /** A deadline of more than twice the longest SLO is beyond what is looked at: it is taken for the end of that. */
    const seen = (timeNs: number): number => (timeNs === Infinity ? Infinity : Math.min(bucketOf(timeNs), bucketOf(this.host.nowNs) + 1023));
    const spans = new Map<string, { from: number; to: number }>();
    const { note, most, learn, keep } = lookAhead;
    lookAhead.note = (index) => {
      const toNs = lookAhead.saidToNs[index]!;
      const isModel = index < lookAhead.gpuAt;
      const name = isModel ? `model ${index}` : `gpu ${index - lookAhead.gpuAt}`;
      if (toNs === -Infinity) spans.delete(name);
      else spans.set(name, { from: isModel ? seen(lookAhead.saidFromNs[index]!) : 0, to: seen(toNs) });
      note.call(lookAhead, index);
    };
    this.#wantedWithin = (aheadNs) => {
      const now = bucketOf(this.host.nowNs);
      const last = Math.min(now + 1023, now + Math.ceil(aheadNs / bucketNs));
      // occ grows only where something begins.
      const times = [now, ...[...spans.values()].map(({ from }) => from).filter((from) => from > now && from <= last)];
      const occ = (at: number): number => [...spans.values()].filter(({ from, to }) => from <= at && at < to).length;
      return Math.max(...times.map(occ));
    };
    lookAhead.most = () => {
      const { aheadNs } = lookAhead;
      const actual = most.call(lookAhead);
      const expected = this.#wantedWithin(aheadNs);
      this.#check(Math.abs(aheadNs - this.#aheadNs) <= 1e-9 * aheadNs, 'early', () => `looks ahead ${aheadNs} ns, expected ${this.#aheadNs}`);
      this.#aheadNs = aheadNs; // the same; which bucket it ends in may be a matter of the last digit
      this.#check(actual === expected, 'early', () => `within ${aheadNs} ns at most ${actual} GPUs are wanted at once, expected ${expected}`);
      return actual;
    };
    lookAhead.keep = (share) => {
      keep.call(lookAhead, share);
      this.#share = share;
    };
    lookAhead.learn = (gpus) => {
      const waitNs = lookAhead.learnFrom[LEARN_WAIT_NS]!;
      const batchNs = lookAhead.learnFrom[LEARN_BATCH_NS]!;
      learn.call(lookAhead, gpus);
      const step = this.#share !== LEARNT ? 0 : waitNs > 0 ? 0.25 * Math.min(1, waitNs / (0.1 * batchNs)) : -reserveGivenUp(gpus);
      this.#reserve = Math.min(this.#scenario.gpus, Math.max(0, this.#reserve + step));
      this.#check(Math.abs(lookAhead.reserve - this.#reserve) < 1e-9, 'early', () => `the reserve is ${lookAhead.reserve}, expected ${this.#reserve}`);
    };
  }

  #unreserved(): number {
    const { gpus } = this.#scenario;
    return unreserved(gpus, this.#share === LEARNT ? this.#reserve : this.#share * gpus);
  }

  /** The dispatcher computes θ and H when it is polled and 50 ms have passed since it has done so. */
  #tick(): void {
    const now = this.host.nowNs;
    if (now < this.#nextTickNs) return;
    this.#nextTickNs = now + TICK_NS;
    const seen = this.#seen.filter((model) => model !== null);
    this.#tight = tightModels(seen, this.#scenario.gpus, now);
    this.#dropShare = dropShare(seen, this.#scenario.gpus, now);
    this.#aheadNs = aheadNs(seen, this.#scenario.gpus, now);
    this.#bearableNs = this.#seen.map((model) => (model === null ? 0 : bearableNs(model, this.#dropShare, this.#scenario.gpus)));
  }

  #checkDropShare(): void {
    const { memory } = this.host;
    const actual = new Float64Array(memory.buffer, memory.margins)[MARGIN_DROP_SHARE]!;
    const same = Math.abs(actual - this.#dropShare) <= 1e-9 * this.#dropShare;
    this.#check(same, 'drop share', () => `the drop share is ${actual}, expected ${this.#dropShare}`);
    this.#dropShare = actual; // the same; which of two sizes it means at a whole number is a matter of the last digit
    this.#bearableNs.forEach((expected, model) => {
      const bears = this.host.dispatcher.cluster.bearsNs[model]!;
      this.#check(Math.abs(bears - expected) <= 1e-9 * expected + 1e-3, 'early', () => `model ${model} bears a wait of ${bears} ns, expected ${expected}`);
    });
  }

  // ---------------------------------------------------------------- what the roles say

  granted(nowNs: number, model: number, gpu: number, execNs: number, freeAtNs: number, early: boolean): void {
    const { pool } = this.host.dispatcher;
    this.#counts[model]!.grants++;
    this.#check(this.#grants[model] === null, 'grant', () => `model ${model} was granted GPU ${gpu} while a grant of it is not answered`);
    this.#check(this.#grantOfGpu[gpu] === -1, 'one batch per GPU', () => `GPU ${gpu} was granted to model ${model} while granted to model ${this.#grantOfGpu[gpu]}`);
    this.#check(this.#heldBy(gpu, nowNs) < 2, 'one batch per GPU', () => `GPU ${gpu} was granted while it has a next batch`);
    this.#check(freeAtNs <= execNs, 'grant', () => `GPU ${gpu} was granted for ${execNs} but is free at ${freeAtNs} only`);
    for (let lower = 0; lower < gpu; lower++) {
      this.#check(pool.freeAtNs(lower) > execNs, 'lowest GPU', () => `GPU ${gpu} was granted for ${execNs} though GPU ${lower} is free at ${pool.freeAtNs(lower)}`);
      const known = this.#freeAtNs(lower, nowNs);
      this.#check(!this.#exact || known > execNs, 'lowest GPU', () => `GPU ${gpu} was granted for ${execNs} though GPU ${lower} is free at ${known}, by its batches`);
    }
    const known = this.#freeAtNs(gpu, nowNs);
    this.#check(!this.#exact || known === freeAtNs || Math.max(known, freeAtNs) <= nowNs, 'grant', () => `GPU ${gpu} was said to be free at ${freeAtNs}, it is at ${known}`);
    const candidate = this.#candidates[model];
    this.#check(candidate !== null, 'grant', () => `model ${model} was granted a GPU on a candidate of before its last answer`);
    this.#check(!candidate || execNs <= candidate.window.invalidAfterNs, 'invalidAfter', () => `model ${model} was granted a GPU for ${execNs}, not valid after ${candidate!.window.invalidAfterNs}`);
    if (early) {
      this.#check(this.#models[model]!.condition === WANT_ADAPTIVE, 'early', () => `model ${model} was granted a GPU early, its condition is another`);
      this.#check(!candidate || !this.#oneByOne || !isDue(candidate, nowNs), 'early', () => `model ${model} was granted a GPU early, its batch was due`);
      this.#check(!candidate || !this.#oneByOne || candidate.size > candidate.worthSize - 1e-9, 'early', () => `model ${model} was granted a GPU early for ${candidate!.size}, worth it would be ${candidate!.worthSize}`);
      const wanted = this.#wantedWithin(this.#aheadNs);
      this.#check(wanted > this.#unreserved(), 'early', () => `model ${model} was granted a GPU early though of ${this.#unreserved()} only ${wanted} are wanted at once`);
      // What the dispatcher knows of it may be of a time when it was smaller.
      const { latencyNs } = this.#models[model]!;
      this.#check(!this.#oneByOne || !this.#holdsUp(latencyNs[1]!, nowNs), 'early', () => `model ${model} was granted a GPU early though it will hold up others for ${latencyNs[1]!} at least`);
    } else if (this.#oneByOne) {
      this.#checkRank(nowNs, model);
      this.#checkNotBefore(nowNs, model);
    }
    this.#candidates[model] = null;
    this.#grants[model] = { gpu, freeAtNs, early };
    this.#grantOfGpu[gpu] = model;
  }

  /** `holdsUp`, with the GPUs as they are. */
  #holdsUp(lengthNs: number, nowNs: number): boolean {
    const { pool } = this.host.dispatcher;
    const gpus = Array.from({ length: this.#scenario.gpus }, (_, gpu) => gpu);
    return holdsUp(lengthNs, this.#tight, (waitNs) => gpus.filter((gpu) => pool.freeAtNs(gpu) <= nowNs + waitNs).length);
  }

  /** While too many GPUs will be wanted at once, one that gathers is granted a GPU before one that is due, if it must start sooner. */
  #checkNotBefore(nowNs: number, model: number): void {
    const own = this.#candidates[model];
    const firstFreeNs = this.#firstFreeNs(nowNs);
    const wanted = this.#wantedWithin(this.#aheadNs);
    if (!own || wanted <= this.#unreserved()) return;
    this.#candidates.forEach((other, number) => {
      const { condition, latencyNs, sloNs } = this.#models[number]!;
      if (other === null || number === model || condition !== WANT_ADAPTIVE || isDue(other, nowNs) || other.size < other.worthSize + 1e-9) return;
      if (nowNs + this.#margins.controlNs + this.#margins.transferNs < firstFreeNs) return;
      if (this.#holdsUp(latencyNs[other.size]!, nowNs)) return;
      // What the dispatcher knows of it may be of a time when it was smaller, and up to 1/64 of an SLO old.
      const rankNs = other.window.invalidAfterNs + latencyNs[other.size]! - latencyNs[1]! + sloNs / 32;
      this.#check(rankNs >= own.rankNs, 'early', () => `model ${model} of rank ${own.rankNs} was granted a GPU before model ${number}, which must start before ${rankNs}`);
    });
  }

  #firstFreeNs(nowNs: number): number {
    return Math.min(...this.#batchesOfGpu.map((_, gpu) => this.#freeAtNs(gpu, nowNs)));
  }

  /** ALGORITHM 1.5: no other candidate that is due and could start on the GPU that is free first has a smaller rank. */
  #checkRank(nowNs: number, model: number): void {
    const firstFreeNs = this.#firstFreeNs(nowNs);
    const own = this.#candidates[model];
    this.#check(!own || isDue(own, nowNs), 'matching', () => `model ${model} was granted a GPU before its candidate was due`);
    this.#candidates.forEach((other, number) => {
      if (!own || other === null || number === model || !isDue(other, nowNs)) return;
      if (Math.max(nowNs + other.window.leadNs, firstFreeNs) > other.window.invalidAfterNs) return;
      const first = own.rankNs < other.rankNs || (own.rankNs === other.rankNs && model < number);
      this.#check(first, 'matching', () => `model ${model} of rank ${own.rankNs} was granted a GPU before model ${number} of rank ${other.rankNs}`);
    });
  }

  planned(nowNs: number, model: number, gpu: number, size: number, execNs: number, invalidAfterNs: number, slots: Int32Array, from: number): void {
    const { maxBatch, latencyNs } = this.#models[model]!;
    this.#check(size >= 1 && size <= maxBatch, 'batch size', () => `model ${model} closed a batch of ${size}, its maxBatch is ${maxBatch}`);
    const early = this.#grants[model]?.early === true;
    const freeAtNs = this.#answered(model, gpu);
    const { decision, window } = this.#compare(nowNs, model, freeAtNs, size);
    const soonest = Math.max(window.earliestNs, freeAtNs);
    const invalidAfter = decision.size === size ? window.invalidAfterNs : invalidAfterNs;
    this.#check(execNs <= invalidAfter, 'invalidAfter', () => `model ${model} plans to start at ${execNs}, not valid after ${invalidAfter}`);
    if (decision.size === size) {
      const ready = early ? window.earliestNs : window.readyNs;
      const exec = Math.max(ready, freeAtNs);
      this.#check(exec === execNs && window.invalidAfterNs === invalidAfterNs, 'policy', () =>
        `model ${model} plans to start at ${execNs}, valid until ${invalidAfterNs}; expected ${exec} and ${window.invalidAfterNs}`);
      this.#check(ready <= soonest + this.#margins.jitterNs, 'policy', () => `model ${model} closed a batch at ${nowNs} that is worth deferring to ${window.readyNs}`);
    }
    this.#lastExecNs[model] = execNs;

    const batch: Batch = { model, gpu, size, execNs, invalidAfterNs: invalidAfter, lengthNs: latencyNs[size]!, left: size, startNs: NaN, endNs: NaN };
    this.#batchesOfGpu[gpu]!.push(batch);
    const actual = Array.from(slots.subarray(from, from + size));
    this.#close(model, batch, actual);
    this.decisions.push({ at: nowNs, text: `${model} ${gpu} ${size} ${actual.join(',')}` });
  }

  /** The batch must be the oldest of the mirror; whatever it is, the mirror follows. */
  #close(model: number, batch: Batch, actual: number[]): void {
    const queue = this.#queues[model]!;
    const expected = queue.takeOldest(batch.size);
    const same = expected.length === actual.length && expected.every((entry, i) => entry.slot === actual[i]);
    this.#check(same, 'oldest first', () => `model ${model} took slots ${actual.join(' ')}, the oldest are ${expected.map((entry) => entry.slot).join(' ')}`);
    if (!same) {
      const taken = new Set(actual);
      for (const entry of expected) if (!taken.has(entry.slot)) queue.push(entry);
      for (const slot of actual) queue.remove(slot);
    }
    for (const slot of actual) {
      const request = this.#bySlot.get(slot);
      const waited = request !== undefined && request.state === 'queued' && request.expected === 0;
      this.#check(waited, 'one outcome', () => `slot ${slot} went into a batch of model ${model} but its request is ${request?.expected ? 'over' : request?.state}`);
      if (request === undefined) continue;
      request.state = 'batched';
      request.batch = batch;
    }
  }

  refused(nowNs: number, model: number, gpu: number): void {
    this.#counts[model]!.refusals++;
    const early = this.#grants[model]?.early === true;
    const freeAtNs = this.#answered(model, gpu);
    const { decision, window } = this.#compare(nowNs, model, freeAtNs, null);
    const worthDeferring = !early && window.readyNs > Math.max(window.earliestNs, freeAtNs) + this.#margins.jitterNs;
    this.#check(decision.size === 0 || worthDeferring, 'policy', () => `model ${model} refused GPU ${gpu} though a batch of ${decision.size} should start`);
  }

  expired(nowNs: number, model: number, slot: number, size: number, gpuFreeNs: number): void {
    const request = this.#bySlot.get(slot);
    if (request === undefined || request.state !== 'queued' || (request.expected !== 0 && !request.hopeless)) {
      this.#fail('one outcome', `slot ${slot} expired but its request is ${request?.expected ? 'over' : request?.state}`);
      return;
    }
    const policyModel = this.#models[model]!;
    const { deadlineNs } = request;
    // One at a time, a grant is always of the newest candidate, and its GPU is free in time for the oldest request.
    const freeNs = (this.#scenario.interleave ?? 0) > 0 ? gpuFreeNs : -Infinity;
    const alone = finishNs(policyModel, this.#margins, nowNs, freeNs, 1);
    const finish = finishNs(policyModel, this.#margins, nowNs, gpuFreeNs, size);
    switch (policyModel.dropPolicy) {
      case DROP_TIMEOUT:
        this.#check(deadlineNs < alone, 'timeout drop', () => `deadline ${deadlineNs} was given up, but alone it would end at ${alone} on a free GPU`);
        break;
      case DROP_NEVER:
        this.#fail('window drop', `slot ${slot} expired under the policy \`never\``);
        break;
      default:
        this.#check(deadlineNs < finish, 'window drop', () => `deadline ${deadlineNs} was given up, but a batch of ${size} would end at ${finish}`);
    }
    if (request.hopeless) return;
    this.#expiredNow[model]!.push(request);
    request.expected = OUTCOME.expired;
  }

  published(nowNs: number, model: number, size: number, execNs: number, timerNs: number): void {
    const interleave = this.#scenario.interleave ?? 0;
    const share = this.#dropShare;
    this.#look(model, nowNs);
    if (interleave > 0 && ++this.#publications % interleave === 0) {
      this.host.dispatcher.cells[CELL_NOW] = nowNs;
      this.host.dispatcher.poll();
    }
    const { decision, window } = this.#compare(nowNs, model, -Infinity, size, share);
    this.#timerNs[model] = timerNs;
    this.#overdue[model] = decision.overdue && size > 0 && execNs < Infinity ? 1 : 0;
    this.#candidates[model] = null;
    if (decision.size !== size || size === 0) return;
    // Granted meanwhile: this candidate bears the stamp of before, and must not be used.
    const stale = this.#grants[model] !== null;
    const latest = decision.deadline - this.#margins.jitterNs - this.#models[model]!.latencyNs[size]!;
    this.#candidates[model] = stale ? null : { size, worthSize: this.#seen[model] === null ? 0 : worthSize(this.#seen[model]!), rankNs: decision.overdue ? decision.deadline : latest, window };
    const timer = Math.floor(window.invalidAfterNs - window.leadNs) + 1;
    this.#check(execNs === window.readyNs, 'policy', () => `model ${model} published a start at ${execNs}, expected ${window.readyNs}`);
    // Sooner is allowed: a batch that still gathers is looked at again on the way.
    this.#check(timerNs > nowNs && timerNs <= timer, 'timer', () => `model ${model} looks again at ${timerNs}, expected at most ${timer}`);
  }

  #answered(model: number, gpu: number): number {
    const grant = this.#grants[model];
    this.#check(grant?.gpu === gpu, 'grant', () => `model ${model} answered a grant of GPU ${gpu}, it was granted ${grant?.gpu}`);
    this.#grants[model] = null;
    this.#grantOfGpu[gpu] = -1;
    this.#candidates[model] = null;
    return grant?.freeAtNs ?? -Infinity;
  }

  /** Decides by the reference, in the mirror, and holds the scheduler's drops and size against it. */
  #compare(nowNs: number, model: number, gpuFreeNs: number, size: number | null, share = this.#dropShare): { decision: Decision; window: Window } {
    const policyModel = this.#models[model]!;
    const queue = this.#queues[model]!;
    this.#look(model, nowNs);
    const rate = this.#meters[model]!.ratePerSecond(nowNs);
    const target = targetSize(policyModel, this.#margins, rate);
    const decision = decide(queue, policyModel, this.#margins, nowNs, gpuFreeNs, target, share);
    const actual = this.#expiredNow[model]!.splice(0);
    const same = actual.length === decision.expired.length && actual.every((request, i) => request.slot === decision.expired[i]!.slot);
    this.#check(same, 'policy', () => `model ${model} gave up slots [${slotsOf(actual)}], expected [${slotsOf(decision.expired)}]`);
    if (!same) this.#followDrops(queue, actual, decision.expired);
    const describe = (): string => `model ${model} chose ${size}, expected ${decision.size} (target ${target}, ${queue.prefix.length} + ${queue.suffix.length} waiting)`;
    this.#check(size === null || size === decision.size, 'policy', describe);
    const delay = rate === null ? policyModel.sloNs / 2 : (target / rate) * 1e9;
    return { decision, window: windowOf(decision, policyModel, this.#margins, nowNs, target, Math.ceil(this.#lastExecNs[model]! + delay)) };
  }

  #followDrops(queue: ReferenceQueue, actual: readonly Request[], expected: readonly Entry[]): void {
    const dropped = new Set(actual.map((request) => request.slot));
    for (const entry of expected) if (!dropped.has(entry.slot)) queue.push(entry);
    for (const slot of dropped) queue.remove(slot);
  }

  // ---------------------------------------------------------------- endings

  #completed(slot: number, packed: number, place: number): void {
    const now = this.host.nowNs;
    const request = this.#bySlot.get(slot);
    if (request === undefined) {
      this.#fail('one outcome', `slot ${slot} got outcome ${outcomeOf(packed)} though it has no open request`);
      return;
    }
    const ending = this.host.client.completion(place);
    this.#bySlot.delete(slot);
    this.#records++;
    const counts = this.#counts[request.model]!;
    counts.open--;
    counts.ended[ending.outcome]!++;
    this.endings.push(request.index, ending.outcome, ending.endNs);
    const facts = ending.model === request.model && ending.deadlineNs === request.deadlineNs && ending.endNs === now &&
      Math.abs(ending.arrivalNs - request.arrivalNs) <= 1 + (request.deadlineNs - request.arrivalNs) * 2 ** -22;
    this.#check(facts, 'right outcome', () => `request ${request.index} ended at ${now} with the wrong model, arrival, deadline or end`);
    if (request.batch === null) {
      this.#check(ending.outcome === request.expected, 'right outcome', () => `request ${request.index} ended with ${ending.outcome}, expected ${request.expected}`);
    } else {
      this.#ranIn(request, request.batch, ending.outcome, ending.startNs, ending.endNs);
      const same = batchSizeOf(packed) === request.batch.size && gpuOf(packed) === request.batch.gpu;
      this.#check(same, 'right outcome', () => `request ${request.index} ran in a batch of ${request.batch!.size} on GPU ${request.batch!.gpu}, its outcome says otherwise`);
    }
    request.state = 'ended';
  }

  #ranIn(request: Request, batch: Batch, outcome: number, startNs: number, endNs: number): void {
    const late = endNs > request.deadlineNs;
    const mayFail = outcome === OUTCOME.failed && this.#scenario.failureRate > 0;
    const expected = request.cancelled ? OUTCOME.cancelled : mayFail ? OUTCOME.failed : late ? OUTCOME.late : OUTCOME.completed;
    this.#check(outcome === expected, 'right outcome', () => `request ${request.index} ended at ${endNs} with ${outcome}, expected ${expected} (deadline ${request.deadlineNs})`);
    if (this.#exact && this.#models[request.model]!.dropPolicy !== DROP_NEVER) {
      this.#check(!late, 'never late', () => `request ${request.index} ended at ${endNs}, after its deadline ${request.deadlineNs}`);
    }
    if (Number.isNaN(batch.endNs)) this.#ended(batch, startNs, endNs);
    if (--batch.left === 0) {
      this.#counts[batch.model]!.batches++;
      this.#counts[batch.model]!.batched += batch.size;
    }
  }

  /** The first completion of a batch tells when it ran. */
  #ended(batch: Batch, startNs: number, endNs: number): void {
    batch.endNs = endNs;
    // The slot keeps the duration as a float32; an exact device makes it known to the nanosecond.
    batch.startNs = this.#exact ? endNs - batch.lengthNs : startNs;
    const tolerance = this.#exact ? 0 : (endNs - startNs) * 2 ** -22 + 1;
    if (this.#exact) {
      this.#check(Math.abs(startNs - batch.startNs) <= batch.lengthNs * 2 ** -22 + 1, 'right outcome', () => `a batch of ${batch.size} took ${endNs - startNs} ns, its profile says ${batch.lengthNs}`);
      this.#check(batch.startNs === batch.execNs, 'policy', () => `a batch that was planned for ${batch.execNs} started at ${batch.startNs}`);
      this.#check(batch.startNs <= batch.invalidAfterNs, 'invalidAfter', () => `a batch started at ${batch.startNs}, not valid after ${batch.invalidAfterNs}`);
    }
    const batches = this.#batchesOfGpu[batch.gpu]!;
    const previous = batches[batches.indexOf(batch) - 1];
    this.#check(previous === undefined || previous.endNs <= batch.startNs + tolerance, 'one batch per GPU', () =>
      `GPU ${batch.gpu} ran a batch from ${batch.startNs}, the one before ended at ${previous!.endNs}`);
  }

  /** Batches of a GPU that have not ended by now: the running one and the next. Ends of this instant are known. */
  #heldBy(gpu: number, nowNs: number): number {
    let held = 0;
    for (const batch of this.#batchesOfGpu[gpu]!.slice(-3)) if (Number.isNaN(batch.endNs) && !(this.#exact && batch.execNs + batch.lengthNs <= nowNs)) held++;
    // Without exact profiles an end of this very instant is not known yet.
    return this.#exact ? held : Math.min(held, 1);
  }

  /** With exact profiles: when a GPU can take a grant, by what was planned on it. */
  #freeAtNs(gpu: number, nowNs: number): number {
    const last = this.#batchesOfGpu[gpu]!.at(-1);
    if (this.#grantOfGpu[gpu] !== -1 || this.#heldBy(gpu, nowNs) > 1) return Infinity;
    return last === undefined ? 0 : last.execNs + last.lengthNs;
  }

  // ---------------------------------------------------------------- at rest

  #settled(nowNs: number): void {
    const { host } = this;
    let open = 0;
    for (let model = 0; model < this.#models.length; model++) {
      const counts = this.#counts[model]!;
      const queued = this.#queues[model]!.count;
      open += counts.open;
      this.#equation(model);
      this.#check(this.#grants[model] === null, 'grant', () => `a grant of model ${model} is not answered at rest`);
      if (queued === 0) continue;
      if (this.#oneByOne) {
        this.#checkNotLeft(model, nowNs);
        this.#checkSeen(model, nowNs);
        this.#checkNotHeldBack(model, nowNs);
      }
      const timer = this.#timerNs[model]!;
      this.#check(this.#overdue[model] === 1 || (timer > nowNs && timer < Infinity), 'timer', () => `model ${model} has ${queued} requests waiting and its timer is ${timer}`);
    }
    this.#check(open === host.client.inFlight, 'equation', () => `the client has ${host.client.inFlight} requests in flight, ${open} are open`);
    this.#check(open === 0 || host.nextEventNs() < Infinity, 'timer', () => `${open} requests are in flight and nothing is due`);
  }

  /** Requests may come unseen to a batch that gathers, but not so many, or so urgent ones, that it is due with them. */
  #checkSeen(model: number, nowNs: number): void {
    const candidate = this.#candidates[model]!;
    const { condition, maxBatch, latencyNs } = this.#models[model]!;
    const { suffix, prefix } = this.#queues[model]!;
    if (candidate === null || prefix.length > 0 || (condition !== WANT_ADAPTIVE && condition !== WANT_FRONTRUN) || isDue(candidate, nowNs)) return;
    const { jitterNs, controlNs, transferNs } = this.#margins;
    const size = suffix.length;
    const dueNs = size < maxBatch ? suffix[0]!.deadline - jitterNs - latencyNs[size + 1]! - transferNs - controlNs - transferNs * size : -Infinity;
    this.#check(dueNs > nowNs, 'policy', () => `model ${model} has ${size} requests waiting, a batch of which was due at ${dueNs}, and was not looked at again`);
  }

  /** A candidate that is due does not wait beside a GPU that will be free when it could start. */
  #checkNotLeft(model: number, nowNs: number): void {
    const candidate = this.#candidates[model]!;
    if (candidate === null || !isDue(candidate, nowNs)) return;
    const start = nowNs + candidate.window.leadNs;
    if (start > candidate.window.invalidAfterNs) return;
    this.#batchesOfGpu.forEach((_, gpu) => {
      const freeAt = this.#freeAtNs(gpu, nowNs);
      this.#check(freeAt > start, 'matching', () => `model ${model} waits for a GPU to start at ${start} though GPU ${gpu} is free at ${freeAt}`);
    });
  }

  /** While too many GPUs will be wanted at once, none is idle beside a batch that is worth an early start. */
  #checkNotHeldBack(model: number, nowNs: number): void {
    const candidate = this.#candidates[model]!;
    if (candidate === null || this.#models[model]!.condition !== WANT_ADAPTIVE || isDue(candidate, nowNs)) return;
    if (candidate.size < candidate.worthSize + 1e-9) return;
    const wanted = this.#wantedWithin(this.#aheadNs);
    if (wanted <= this.#unreserved() || this.#holdsUp(this.#models[model]!.latencyNs[candidate.size]!, nowNs)) return;
    // What the dispatcher knows of the batch may be of a time when it was smaller.
    const start = nowNs + this.#margins.controlNs + this.#margins.transferNs;
    this.#batchesOfGpu.forEach((_, gpu) => {
      const freeAt = this.#freeAtNs(gpu, nowNs);
      this.#check(freeAt > start, 'early', () => `model ${model} gathers beside GPU ${gpu}, free at ${freeAt}, though ${wanted} GPUs are wanted at once, of ${this.#unreserved()}`);
    });
  }

  #equation(model: number): void {
    const counts = this.#counts[model]!;
    const stats = this.host.stats.model(model);
    const { completed, late, expired, queueFull, infeasible, cancelled, failed, closed } = stats;
    const endings = { completed, late, expired, queueFull, infeasible, cancelled, failed, closed };
    let ended = 0;
    for (const [name, counted] of Object.entries(endings)) {
      const seen = counts.ended[OUTCOME[name as keyof typeof OUTCOME]]!;
      ended += counted;
      this.#check(counted === seen, 'equation', () => `model ${model} counts ${counted} as ${name}, ${seen} ended so`);
    }
    // In flight is what has been submitted and not come back, counted here one by one.
    this.#check(stats.accepted === ended + counts.open, 'equation', () => `model ${model}: accepted ${stats.accepted} ≠ ended ${ended} + in flight ${counts.open}`);
    const others: [string, number, number][] = [
      ['accepted', stats.accepted, counts.accepted],
      ['refused', stats.refused, counts.refused],
      ['in flight', stats.inFlight, counts.open],
      ['queued', stats.queued, this.#queues[model]!.count],
      ['queued in the shard', this.host.shards[firstShardOf(this.#config, model)]!.queued(model), this.#queues[model]!.count],
      ['batches', stats.batches, counts.batches],
      ['requests in batches', stats.batched, counts.batched],
      ['grants', stats.grants, counts.grants],
      ['refused grants', stats.refusedGrants, counts.refusals],
    ];
    for (const [name, counted, seen] of others) this.#check(counted === seen, 'equation', () => `model ${model}: ${name} is ${counted}, it should be ${seen}`);
  }

  /** When nothing is under way any more. */
  #finish(): void {
    const { memory, client, stats } = this.host;
    for (const request of this.#bySlot.values()) this.#fail('one outcome', `request ${request.index} of model ${request.model} never ended`);
    const i32 = new Int32Array(memory.buffer);
    const f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    for (let slot = 0; slot < client.slots; slot++) {
      const word = (memory.slots >> 2) + slot * SLOT_WORDS;
      const ended = i32[(memory.shardSlots >> 2) + slot * SHARD_SLOT.words + SHARD_SLOT.at.outcomeGeneration] === i32[word + SLOT.at.generation];
      this.#check(ended, 'one outcome', () => `slot ${slot} is open in the slot table, deadline ${f64[(memory.slots >> 3) + slot * SLOT_DOUBLES + SLOT.at.deadlineNs]}`);
    }
    // The lanes tell how many completions were written; a client would not show a second one for a generation.
    let written = 0;
    for (const lane of memory.clients[0]!.completions) written += i32[lane.byteOffset >> 2]!;
    this.#check(written === this.#records, 'one outcome', () => `${written} completions were written for ${this.#records} requests`);
    if (!this.#exact) return;
    for (let gpu = 0; gpu < this.#scenario.gpus; gpu++) {
      const batches = this.#batchesOfGpu[gpu]!;
      const busy = batches.reduce((sum, batch) => sum + batch.lengthNs, 0);
      this.#check(stats.gpu(gpu).busyNs === busy && stats.gpu(gpu).batches === batches.length, 'equation', () => `GPU ${gpu} counts ${stats.gpu(gpu).batches} batches, ${batches.length} ran`);
    }
  }
}

function isDue(candidate: Candidate, nowNs: number): boolean {
  return candidate.window.readyNs - candidate.window.leadNs <= nowNs;
}

function slotsOf(list: readonly { readonly slot: number }[]): string {
  return list.map((entry) => entry.slot).join(' ');
}

/** One line per violation, for a message. */
export function describeViolations(run: Run): string {
  return run.violations.slice(0, 8).map(({ property, atNs, text }) => `[${property}] at ${atNs}: ${text}`).join('\n');
}
