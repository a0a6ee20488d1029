/**
 * Plays a scenario: the real roles under the virtual host, clients that come and go, changes that take their steps between
 * all that, faults. Every role's poll goes through here: it may be left out (a pause), be interrupted at its
 * atomic operations by other roles' polls, or die; and after each the checker looks at everything.
 */
import { Random } from '#rubato/model/random.js';
import type { ClientPort } from '#rubato/protocol/client-port.js';
import { CELL_NEXT, CELL_NOW, CELL_WORK, type Role } from '#rubato/protocol/role.js';
import { CLIENT_FREE, CLIENT_OPEN } from '#rubato/protocol/shared-memory.js';
import { MODEL_MASK, ACK_DISPATCHER, GPU_ACTIVE, GPU_NONE, GPU_SPEC as GPU_ROW, type SpecTable } from '#rubato/protocol/specs.js';
import type { ClientRegions } from '#rubato/scheduler/regions.js';
import type { RoleHost } from '#rubato/scheduler/engine.js';
import type { RoleKind, VirtualHost } from '#rubato/sim/virtual-host.js';
import { withAtomicsWatched } from '../ringbuf/interleave.js';
import { ChangeSteps, type Step } from '../sim/change-steps.js';
import type { Death } from '../kill/instrument.js';
import { Checker, type Request } from './checker.js';
import { Faults } from './faults.js';
import type { Parts } from './parts.js';
import { configOf, type DeathData, GPU_SPEC, MAX_BATCH, type Scenario, specOf, type VoprEvent } from './scenario.js';
import { Violation } from './tables.js';
import { Trace } from './trace.js';

/** Of a poll that is interrupted: its atomic operations before the first interruption, at most; then the share of those at which there is another. */
const MOST_OPERATIONS_BEFORE = 30;
const INTERRUPTED_SHARE = 0.4;
const MOST_INTERRUPTIONS = 8;
/** Rounds of commits, polls, reads and changes at one instant; events after the load has stopped. */
const MOST_ROUNDS = 2000;
const MOST_STEPS = 30_000;

interface Client {
  readonly port: ClientPort;
  pausedUntilNs: number;
  /** In the order in which they were submitted. */
  readonly requests: Request[];
}

interface Change {
  readonly step: Step;
  isReady: () => boolean;
  readonly ended: () => void;
}

/** A thread, which dies as a whole. */
interface Thread {
  /** In the order in which a new thread makes its roles. */
  readonly seats: Seat[];
  readonly mayDie: boolean;
  isDead: boolean;
  deadUntilNs: number;
  readonly death: Death;
  /** Of those that take its place. */
  deaths: readonly DeathData[];
  /** For how long nobody takes it. */
  downNs: number;
}

/** A role that is polled: which it is, and what the fault that is on it does. */
interface Seat {
  readonly kind: RoleKind;
  readonly index: number;
  readonly thread: Thread;
  role: Role;
  /** It is being polled, perhaps interrupted. */
  isBusy: boolean;
  /** It has polled, and so taken over from the one before it. */
  hasPolled: boolean;
  pausedUntilNs: number;
}

export interface Result {
  readonly violation: Violation | null;
  readonly hash: string;
  readonly trace: readonly string[] | null;
  /** Polls of roles. */
  readonly polls: number;
  readonly deaths: number;
  /** Requests by outcome, and batches. */
  readonly endings: Float64Array;
  readonly batches: number;
}

export class World {
  readonly #scenario: Scenario;
  readonly #parts: Parts;
  readonly #random: Random;
  readonly #trace: Trace;
  readonly #faults = new Faults();
  readonly #checker: Checker;
  readonly #host: VirtualHost;
  readonly #specs: SpecTable;
  readonly #steps: ChangeSteps;
  readonly #regions: ClientRegions;
  readonly #clients: (Client | null)[];
  readonly #seats: Seat[];
  #changes: Change[] = [];
  /** Numbers of models and GPUs that a change under way speaks of. */
  readonly #coming = new Set<number>();
  readonly #leaving = new Set<number>();
  /** Polls that are under way: one, and those that interrupt it. */
  #depth = 0;
  #polls = 0;
  /** What all polls so far have done, by their own count. */
  #done = 0;
  #deaths = 0;

  constructor(scenario: Scenario, parts: Parts, keepTrace = false) {
    this.#scenario = scenario;
    this.#parts = parts;
    this.#random = new Random(scenario.seed, 2);
    this.#trace = new Trace(keepTrace);
    this.#checker = new Checker(scenario.margins, this.#faults, this.#trace);
    this.#host = new parts.VirtualHost(configOf(scenario), this.#checker);
    const { memory, clock, stats } = this.#host;
    this.#specs = new parts.SpecTable(memory, true);
    this.#steps = new ChangeSteps(memory, this.#specs, stats, scenario.models.map(specOf));
    this.#checker.onPublish = () => this.#publishing();
    this.#checker.attach(this.#host, this.#specs, this.#steps);
    this.#regions = new parts.ClientRegions({ memory, clock, specs: this.#specs } as unknown as RoleHost);
    this.#clients = Array.from({ length: scenario.clients }, () => null);
    this.#clients[0] = { port: this.#host.client, pausedUntilNs: -Infinity, requests: [] };
    const drain = this.#host.client.drain.bind(this.#host.client);
    this.#host.client.drain = (nowNs) => (this.#isPaused(this.#clients[0]!) ? 0 : drain(nowNs));
    this.#seats = this.#seatRoles();
    for (const each of this.#seats) this.#watch(each);
    this.#checker.isWhole = () => this.#isWhole();
    const i32 = this.#checker.tables.i32;
    this.#faults.dispatcherKnowsAll = () => i32[(memory.acks >> 2) + ACK_DISPATCHER] === i32[memory.version >> 2];
  }

  play(): Result {
    let violation: Violation | null = null;
    try {
      this.#playEvents();
      this.#heal();
      this.#runOut();
    } catch (error) {
      if (error instanceof Violation) violation = error;
      else violation = new Violation('sound', this.#host.nowNs, error instanceof Error ? (error.stack ?? error.message) : String(error));
    }
    this.#parts.kill?.disarm();
    this.#regions.stop();
    const { endings, batchesRun } = this.#checker;
    return { violation, hash: this.#trace.hash, trace: this.#trace.lines, polls: this.#polls, deaths: this.#deaths, endings, batches: batchesRun };
  }

  /** As scheduler.worker.ts: the dispatcher mends the table of GPUs, which the device then takes over from. */
  #seatRoles(): Seat[] {
    const { single, deviceApart } = this.#scenario;
    const { shards, dispatcher, device } = this.#host;
    const thread = (mayDie: boolean): Thread => ({ seats: [], mayDie, isDead: false, deadUntilNs: 0, death: { left: -1 }, deaths: [], downNs: 0 });
    const seat = (kind: RoleKind, index: number, role: Role, on: Thread): Seat => {
      const made = { kind, index, thread: on, role, isBusy: false, hasPolled: true, pausedUntilNs: -Infinity };
      on.seats.push(made);
      return made;
    };
    const main = thread(true);
    const ofShards = shards.map((shard, index) => seat('shard', index, shard, single ? main : thread(true)));
    const ofDispatcher = seat('dispatcher', 0, dispatcher, main);
    return [seat('device', 0, device, deviceApart ? thread(false) : main), ...ofShards, ofDispatcher];
  }

  #isWhole(): boolean {
    return this.#seats.every(({ hasPolled, thread }) => hasPolled && !thread.isDead);
  }

  #int(below: number): number {
    return Math.floor(this.#random.uniform() * below);
  }

  #isPaused({ pausedUntilNs }: { readonly pausedUntilNs: number }): boolean {
    return pausedUntilNs > this.#host.nowNs;
  }

  // ---------------------------------------------------------------- polls

  /** Every poll of a role comes here, whoever asks for it. */
  #watch(seat: Seat): void {
    const { role } = seat;
    const poll = role.poll.bind(role);
    role.poll = () => {
      role.cells[CELL_WORK] = 0;
      if (seat.role !== role) return; // it has died, and who polls it does not know yet
      if (seat.thread.isDead) {
        role.cells[CELL_NEXT] = seat.thread.deadUntilNs;
        if (seat.thread.deadUntilNs <= this.#host.nowNs) this.#revive(seat.thread);
        return;
      }
      if (this.#isPaused(seat)) {
        role.cells[CELL_NEXT] = seat.pausedUntilNs;
        return;
      }
      this.#polls++;
      const before = this.#checker.polling;
      if (seat.kind === 'shard') this.#checker.polling = seat.index;
      const done = this.#done;
      seat.isBusy = true;
      this.#interruptible(seat, () => {
        if (this.#runOrDie(seat.thread, poll)) seat.hasPolled = true;
        else role.cells[CELL_WORK] = 1; // whoever polls all polls them once more
      });
      seat.isBusy = false;
      this.#checker.polling = before;
      // What others have done meanwhile may concern this one, which has looked before.
      const meanwhile = this.#done - done;
      this.#done += role.cells[CELL_WORK]!;
      const work = role.cells[CELL_WORK]! + meanwhile;
      if (this.#depth === 0) {
        this.#checker.stepped();
        if (meanwhile > 0 && seat.kind === 'shard' && this.#random.uniform() < 0.5) this.#pollSeat(this.#seats.at(-1)!);
      }
      role.cells[CELL_WORK] = work;
    };
  }

  /** Whether the thread has lived through `work`. */
  #runOrDie(thread: Thread, work: () => void): boolean {
    const { kill } = this.#parts;
    if (kill === null) {
      work();
      return true;
    }
    const before = kill.enter(thread.mayDie ? thread.death : null);
    try {
      work();
      return true;
    } catch (error) {
      if (!(error instanceof kill.KillError)) throw error;
      this.#bury(thread);
      return false;
    } finally {
      kill.enter(before);
    }
  }

  #bury(thread: Thread): void {
    const { nowNs } = this.#host;
    thread.isDead = true;
    thread.deadUntilNs = nowNs + thread.downNs;
    if (thread.downNs > 0) this.#faults.paused(nowNs, thread.deadUntilNs);
    thread.downNs = 0;
    this.#awaitNext(thread);
    this.#deaths++;
    for (const { kind, index, role } of thread.seats) {
      role.cells[CELL_NEXT] = thread.deadUntilNs;
      if (kind === 'shard') this.#checker.shardDied(index);
      if (kind === 'device') this.#checker.deviceDied();
      this.#trace.note(`death of ${kind}`, index);
    }
  }

  /** A death at a statement is that of the first thread that passes it. */
  #awaitNext(thread: Thread): void {
    const { kill, deadly } = this.#parts;
    const [next] = thread.deaths;
    thread.deaths = thread.deaths.slice(1);
    thread.death.left = next?.share === null ? next.left : -1;
    if (kill === null || next === undefined || next.share === null) return;
    const drawn = Math.floor(next.share * (deadly ?? kill.passed).length);
    kill.armAt(deadly === null ? drawn : deadly[drawn]!, next.left + 1);
  }

  /** The one that takes its place may die in the middle of it. */
  #revive(thread: Thread): void {
    thread.isDead = false;
    for (const seat of thread.seats) {
      seat.role.cells[CELL_WORK] = 1; // there is something new: whoever polls all polls them once more
      seat.hasPolled = false;
      seat.isBusy = true; // the roles of the dead thread must not be polled while those that replace them are made
    }
    this.#runOrDie(thread, () => {
      for (const seat of thread.seats) {
        seat.role = this.#host.restartRole(seat.kind, seat.index);
        this.#watch(seat);
      }
    });
    for (const seat of thread.seats) seat.isBusy = false;
  }

  /** Does `work`, a poll of `self` or what a client does; now and then others are polled at its atomic operations, as if it ran on another core. */
  #interruptible(self: Seat | null, work: () => void): void {
    const isInterrupted = this.#depth === 0 && this.#random.uniform() < this.#scenario.interrupt;
    this.#depth++;
    try {
      if (isInterrupted) this.#interrupted(self, work);
      else work();
    } finally {
      this.#depth--;
    }
  }

  #interrupted(self: Seat | null, work: () => void): void {
    let before = this.#int(MOST_OPERATIONS_BEFORE);
    let left = MOST_INTERRUPTIONS;
    withAtomicsWatched(() => {
      if (before-- > 0 || left === 0) return;
      if (left-- < MOST_INTERRUPTIONS && this.#random.uniform() > INTERRUPTED_SHARE) return;
      // Most often one that exchanges words with this one.
      const seat = self?.kind === 'shard' && this.#random.uniform() < 0.5 ? this.#seats.at(-1)! : this.#seats[this.#int(this.#seats.length)]!;
      this.#pollSeat(seat);
    }, work);
  }

  /** A shard is about to publish a candidate: the moment at which a grant of the one before makes it stale. */
  #publishing(): void {
    const dispatcher = this.#seats.at(-1)!;
    if (this.#depth !== 1 || this.#random.uniform() >= this.#scenario.interrupt) return;
    this.#pollSeat(dispatcher);
  }

  /** Nothing happens when it is being polled: a thread does not interrupt itself. */
  #pollSeat(seat: Seat): void {
    const { role } = seat;
    if (seat.thread.seats.some(({ isBusy }) => isBusy)) return;
    role.cells[CELL_NOW] = this.#host.nowNs;
    role.poll();
  }

  // ---------------------------------------------------------------- time

  #playEvents(): void {
    const events = this.#scenario.events.map((event, index) => ({ event, index })).sort((a, b) => a.event.at - b.event.at || a.index - b.index);
    for (let from = 0; from < events.length; ) {
      const { at } = events[from]!.event;
      this.#runUpTo(at);
      this.#host.clock.advanceTo(at);
      for (; from < events.length && events[from]!.event.at === at; from++) {
        this.#play(events[from]!.event);
        this.#checker.stepped();
        this.#scramble();
      }
      this.#settle();
    }
  }

  #nextEventNs(): number {
    const { nowNs } = this.#host;
    let next = this.#host.nextEventNs();
    for (const client of this.#clients) if (client !== null && client.pausedUntilNs > nowNs) next = Math.min(next, client.pausedUntilNs);
    return next;
  }

  /** Plays everything that falls due before `at`. */
  #runUpTo(at: number): void {
    for (let next = this.#nextEventNs(); next < at; next = this.#nextEventNs()) this.#goTo(next);
  }

  #goTo(timeNs: number): void {
    this.#host.clock.advanceTo(Math.max(timeNs, this.#host.nowNs));
    this.#scramble();
    this.#settle();
  }

  /** Single polls in any order. */
  #scramble(): void {
    if (this.#scenario.scramble === 0) return;
    for (let polls = this.#int(this.#scenario.scramble + 1); polls > 0; polls--) {
      const kind = this.#int(this.#seats.length + 1);
      if (kind < this.#seats.length) this.#pollSeat(this.#seats[kind]!);
      else this.#commit();
    }
  }

  /** Until nothing changes at this instant. */
  #settle(): void {
    for (let round = 0; ; round++) {
      if (round === MOST_ROUNDS) this.#checker.fail('quiescence', `still busy after ${MOST_ROUNDS} rounds at this instant`);
      this.#commit();
      this.#host.settle();
      const read = this.#drain();
      if (!this.#goOn() && !read) break;
    }
    if (this.#isWhole() && this.#seats.every((seat) => !this.#isPaused(seat))) this.#checker.settled();
  }

  /** Clients show what they have submitted. */
  #commit(): void {
    for (const client of this.#clients) {
      if (client === null || this.#isPaused(client)) continue;
      for (let k = client.requests.length - 1; k >= 0 && !client.requests[k]!.isCommitted; k--) client.requests[k]!.isCommitted = true;
      this.#interruptible(null, () => client.port.commit());
      this.#checker.stepped();
    }
  }

  /** Clients read what has ended; whether any has. */
  #drain(): boolean {
    let any = false;
    for (const client of this.#clients.slice(1)) {
      if (client === null || this.#isPaused(client)) continue;
      while (client.port.drain(this.#host.nowNs) > 0) any = true;
    }
    const { dying } = this.#regions;
    this.#regions.poll();
    return any || this.#regions.dying !== dying;
  }

  // ---------------------------------------------------------------- events

  #play(event: VoprEvent): void {
    switch (event.kind) {
      case 'submit':
        for (let k = 0; k < event.count; k++) this.#submit(event.client, event.model, this.#host.nowNs - event.lateNs, event.sloNs);
        break;
      case 'cancel':
        this.#cancel(event.client, event.back, event.count);
        break;
      case 'device':
        this.#setDevice(event.gpu, { ...event, slowdown: event.slowdown ?? Infinity });
        break;
      case 'pause':
        this.#pause(event.role, event.index, event.forNs);
        break;
      case 'open':
        this.#open(event.client);
        break;
      case 'die':
        this.#die(event.client);
        break;
      case 'kill':
        this.#kill(event);
        break;
      default:
        this.#change(event);
    }
  }

  #submit(index: number, model: number, arrivalNs: number, sloNs: number): void {
    const client = this.#clients[index];
    if (client === null || client === undefined || model >= this.#scenario.maxModels) return;
    const tag = client.port.tag(model);
    const slot = client.port.submit(model, arrivalNs, sloNs);
    if (slot >= 0) client.requests.push(this.#checker.submitted(index, slot, tag, arrivalNs));
  }

  #cancel(index: number, back: number, count: number): void {
    const client = this.#clients[index];
    if (client === null || client === undefined) return;
    const { requests, port } = client;
    const last = requests.length - 1 - back;
    for (let k = last; k > last - count && k >= 0; k--) {
      const request = requests[k]!;
      // A client cancels what it has; after the end that does nothing, while nobody else has the slot.
      if (this.#checker.requests.get(request.slot) !== request) continue;
      this.#checker.cancelling(request);
      this.#interruptible(null, () => port.cancel(request.slot));
    }
  }

  /** What the emulated device reads, as a person would write it who breaks the device: beside the changes that are under way. */
  #setDevice(gpu: number, { slowdown, jitter, failureRate }: { slowdown: number; jitter: number; failureRate: number }): void {
    if (gpu >= this.#scenario.maxGpus || this.#faults.isLost(gpu)) return;
    const { memory, nowNs } = this.#host;
    const { i32, f64 } = this.#checker.tables;
    const at = (memory.gpuSpecs >> 2) + gpu * GPU_ROW.words;
    if (i32[at + GPU_ROW.at.version] === 0) return; // there was never such a GPU
    f64[(at >> 1) + GPU_ROW.at.slowdown] = slowdown;
    f64[(at >> 1) + GPU_ROW.at.jitter] = jitter;
    f64[(at >> 1) + GPU_ROW.at.failureRate] = failureRate;
    i32[at + GPU_ROW.at.version]!++;
    this.#faults.device(gpu, { fromNs: nowNs, slowdown, jitter, failureRate });
    this.#specs.publish();
  }

  #pause(role: RoleKind | 'client' | 'all', index: number, forNs: number): void {
    const untilNs = this.#host.nowNs + forNs;
    if (role === 'client') {
      const client = this.#clients[index];
      if (client !== null && client !== undefined) client.pausedUntilNs = Math.max(client.pausedUntilNs, untilNs);
      return;
    }
    for (const seat of this.#seats) {
      if (role === 'all' || (seat.kind === role && seat.index === index)) seat.pausedUntilNs = Math.max(seat.pausedUntilNs, untilNs);
    }
    this.#faults.paused(this.#host.nowNs, untilNs);
  }

  #open(index: number): void {
    if (index === 0 || index >= this.#clients.length || this.#specs.clientState(index) !== CLIENT_FREE) return;
    this.#specs.takeClient(index, CLIENT_OPEN);
    this.#specs.publish();
    this.#clients[index] = { port: new this.#parts.ClientPort(this.#host.memory, index), pausedUntilNs: -Infinity, requests: [] };
  }

  /** With what it has not committed, and has not read. */
  #die(index: number): void {
    const client = this.#clients[index];
    if (index === 0 || client === null || client === undefined) return;
    this.#clients[index] = null;
    for (const request of client.requests) {
      if (this.#checker.requests.get(request.slot) !== request) continue;
      this.#checker.cancelling(request);
      request.isCommitted = true; // from now on it is known from the slot table
      const shard = this.#steps.known.get(request.tag & MODEL_MASK)?.shard;
      if (shard !== undefined && this.#seats.some(({ kind, index: of, thread }) => kind === 'shard' && of === shard && thread.isDead)) this.#checker.orphaned(request, shard);
    }
    this.#interruptible(null, () => this.#regions.release(index));
  }

  #kill({ role, index, deaths, downNs }: VoprEvent & { kind: 'kill' }): void {
    const thread = this.#seats.find((each) => each.kind === role && each.index === index)?.thread;
    if (thread === undefined || !thread.mayDie || thread.isDead) return;
    thread.downNs = downNs;
    if (this.#parts.kill === null) {
      this.#bury(thread);
      return;
    }
    thread.deaths = deaths;
    this.#awaitNext(thread);
  }

  // ---------------------------------------------------------------- changes

  #change(event: VoprEvent & { kind: 'add' | 'remove' | 'update' | 'move' | 'add-gpu' | 'remove-gpu' }): void {
    const { known } = this.#steps;
    const coming = this.#coming;
    switch (event.kind) {
      case 'add':
        if (known.has(event.number) || coming.has(event.number) || event.number >= this.#scenario.maxModels || event.model.maxBatch > MAX_BATCH) return;
        coming.add(event.number);
        this.#begin(this.#steps.add(event.number, specOf(event.model), event.shard), () => coming.delete(event.number));
        break;
      case 'remove':
        if (known.get(event.model)?.isClosed === false) this.#begin(this.#steps.remove(event.model, event.drain));
        break;
      case 'update':
        if (known.has(event.model)) this.#begin(this.#steps.update(event.model, specOf(event.to)));
        break;
      case 'move':
        if (known.has(event.model) && event.shard < this.#scenario.shards) this.#begin(this.#steps.move(event.model, event.shard));
        break;
      case 'add-gpu':
        this.#addGpu(event.gpu);
        break;
      case 'remove-gpu':
        if (event.gpu < this.#scenario.maxGpus && this.#specs.gpuState(event.gpu) === GPU_ACTIVE && !this.#leaving.has(event.gpu)) {
          this.#leaving.add(event.gpu);
          this.#begin(this.#steps.removeGpu(event.gpu), () => {
            this.#leaving.delete(event.gpu);
            this.#checker.gpuGone(event.gpu);
          });
        }
        break;
    }
  }

  #addGpu(gpu: number): void {
    if (gpu >= this.#scenario.maxGpus || this.#specs.gpuState(gpu) !== GPU_NONE || this.#leaving.has(gpu) || this.#faults.isLost(gpu)) return;
    this.#leaving.add(gpu);
    this.#faults.device(gpu, { fromNs: this.#host.nowNs, slowdown: 1, jitter: 0, failureRate: 0 });
    this.#begin(this.#steps.addGpu(gpu, { ...GPU_SPEC, seed: this.#scenario.seed + gpu }), () => this.#leaving.delete(gpu));
  }

  #begin(step: Step, ended: () => void = () => {}): void {
    this.#changes.push({ step, isReady: () => true, ended });
  }

  /** Every change goes on as far as it can; whether any has. */
  #goOn(): boolean {
    let any = false;
    for (const change of this.#changes) {
      if (!change.isReady()) continue;
      const { done, value } = change.step.next();
      any = true;
      change.isReady = done === true ? () => false : value;
      if (done === true) {
        change.ended();
        this.#changes = this.#changes.filter((each) => each !== change);
      }
    }
    return any;
  }

  // ---------------------------------------------------------------- the end

  /** The faults are over. What was lost stays lost. */
  #heal(): void {
    const { nowNs } = this.#host;
    for (const each of [...this.#seats, ...this.#clients]) if (each !== null) each.pausedUntilNs = Math.min(each.pausedUntilNs, nowNs);
    for (const { thread, role } of this.#seats) {
      role.cells[CELL_NEXT] = nowNs;
      thread.deadUntilNs = Math.min(thread.deadUntilNs, nowNs);
      thread.death.left = -1;
      thread.deaths = [];
    }
    this.#parts.kill?.disarm();
    this.#faults.resumed(nowNs);
    for (let gpu = 0; gpu < this.#scenario.maxGpus; gpu++) this.#setDevice(gpu, { slowdown: 1, jitter: 0, failureRate: 0 });
    this.#settle();
  }

  /** Whether batches can be run; once nothing else is under way a GPU is added if not. */
  #provideGpu(): void {
    const isUsable = Array.from({ length: this.#scenario.maxGpus }, (_, gpu) => gpu).some((gpu) => this.#specs.gpuState(gpu) === GPU_ACTIVE && !this.#leaving.has(gpu) && !this.#faults.isLost(gpu));
    if (isUsable) return;
    this.#addGpu(this.#scenario.maxGpus - 1);
    this.#settle();
  }

  #runOut(): void {
    this.#provideGpu();
    let steps = 0;
    for (let next = this.#nextEventNs(); next < Infinity; next = this.#nextEventNs()) {
      if (++steps > MOST_STEPS) this.#checker.fail('quiescence', `still busy ${MOST_STEPS} events after the load has stopped`);
      this.#goTo(next);
      this.#provideGpu();
    }
    const isLost = Array.from({ length: this.#scenario.maxGpus }, (_, gpu) => gpu).some((gpu) => this.#faults.isLost(gpu));
    if (this.#changes.length > 0 && !isLost) this.#checker.fail('quiescence', `${this.#changes.length} changes have not come to their end`);
    for (const client of this.#clients) {
      if (client === null) continue;
      const open = client.requests.filter(({ state }) => state !== 'ended').length;
      if (client.port.inFlight !== open) this.#checker.fail('one outcome', `a client has ${client.port.inFlight} requests in flight, ${open} are open`);
    }
    this.#checker.finished();
  }
}
