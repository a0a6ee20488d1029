/**
 * Hosts every role of a scheduler in one thread under a virtual clock: the same code that runs live.
 *
 * At each instant the roles are polled in a fixed order, each until it has nothing left, and the round is repeated
 * until nothing changes. So a run depends on its inputs only, and not on the number of shards.
 */
import { VirtualClock } from '../clock/clock.js';
import { EmulatedDeviceRole } from '../devices/emulated.js';
import { DispatcherRole } from '../dispatch/dispatcher.js';
import { ShardRole } from '../shards/shard.js';
import { ClientPort } from '../protocol/client-port.js';
import type { SchedulerConfig } from '../protocol/config.js';
import type { Observer } from '../protocol/observer.js';
import { CELL_NEXT, CELL_NOW, CELL_WORK, type Role } from '../protocol/role.js';
import { allocateSharedMemory, type SharedMemory } from '../protocol/shared-memory.js';
import { StatsReader } from '../protocol/stats.js';

/** Rounds at one instant after which it is certain that they will not end. */
const MOST_ROUNDS = 100_000;

/** The virtual clock and the loop over what is polled; what that is, and who reads completions, its subclasses say. */
export abstract class VirtualLoop {
  readonly clock = new VirtualClock();
  /** In the order in which they are polled. */
  protected abstract get roles(): readonly Role[];

  get nowNs(): number {
    return this.clock.nowNs();
  }

  /** Reads completions; whether there were any. */
  protected abstract takeCompletions(nowNs: number): boolean;

  /** After every instant, when nothing more changes. */
  protected settled(_nowNs: number): void {}

  /** When the next role wants to be polled; +Infinity when nothing is under way. */
  nextEventNs(): number {
    let next = Infinity;
    for (const role of this.roles) next = Math.min(next, role.cells[CELL_NEXT]!);
    return next;
  }

  /** Moves to `timeNs`, stopping at every event on the way and settling there and at the end. */
  advanceTo(timeNs: number): void {
    for (;;) {
      const next = this.nextEventNs();
      if (next >= timeNs) break;
      this.#settleAt(next);
    }
    this.#settleAt(timeNs);
  }

  /** Runs until nothing is under way any more, at most to `limitNs`. */
  runOut(limitNs = Infinity): void {
    for (let next = this.nextEventNs(); next < Infinity && next <= limitNs; next = this.nextEventNs()) this.#settleAt(next);
  }

  /** Polls until nothing changes at this instant; whether anything did. To be called after submitting or cancelling. */
  settle(): boolean {
    return this.#settleAt(this.clock.nowNs());
  }

  #settleAt(timeNs: number): boolean {
    this.clock.advanceTo(Math.max(timeNs, this.clock.nowNs()));
    const now = this.clock.nowNs();
    let round = 0;
    for (; this.#pollAll(now); round++) {
      if (round === MOST_ROUNDS) throw new Error(`at ${now} ns the roles have not come to rest after ${MOST_ROUNDS} rounds`);
    }
    this.settled(now);
    return round > 0;
  }

  #pollAll(now: number): boolean {
    let worked = false;
    for (const role of this.roles) {
      role.cells[CELL_NOW] = now;
      for (let polls = 0; ; polls++) {
        role.poll();
        if (role.cells[CELL_WORK] === 0) break;
        worked = true;
        if (polls === MOST_ROUNDS) throw new Error(`at ${now} ns a role still had work after ${MOST_ROUNDS} polls`);
      }
    }
    return this.takeCompletions(now) || worked;
  }
}

export type RoleKind = 'device' | 'shard' | 'dispatcher';

export class VirtualHost extends VirtualLoop {
  readonly memory: SharedMemory;
  readonly client: ClientPort;
  readonly stats: StatsReader;
  readonly #observer: Observer | null;
  #shards: readonly ShardRole[];
  #dispatcher: DispatcherRole;
  #device: EmulatedDeviceRole;
  /** In the order in which they are polled. */
  #roles: readonly Role[];
  /** Called with slots and packed outcomes of completions as they are read, at the instant they happen. */
  onCompleted: (slots: Int32Array, outcomes: Int32Array, count: number) => void = () => {};
  /** Called after every instant, when nothing more changes. */
  onSettled: (nowNs: number) => void = () => {};

  constructor(config: SchedulerConfig, observer: Observer | null = null) {
    super();
    this.memory = allocateSharedMemory(config);
    this.#observer = observer;
    this.client = new ClientPort(this.memory, 0);
    this.#shards = Array.from({ length: config.shards }, (_, shard) => new ShardRole(this.memory, shard, observer));
    this.#dispatcher = new DispatcherRole(this.memory, observer);
    this.#device = new EmulatedDeviceRole(this.memory);
    this.#roles = [this.#device, ...this.#shards, this.#dispatcher];
    this.stats = new StatsReader(this.memory);
  }

  get shards(): readonly ShardRole[] {
    return this.#shards;
  }

  get dispatcher(): DispatcherRole {
    return this.#dispatcher;
  }

  get device(): EmulatedDeviceRole {
    return this.#device;
  }

  protected get roles(): readonly Role[] {
    return this.#roles;
  }

  /** Throws a role object away, as the death of its thread would, and puts a new one over the same memory in its place. */
  restartRole(kind: RoleKind, shard = 0): Role {
    switch (kind) {
      case 'device':
        this.#device = new EmulatedDeviceRole(this.memory);
        break;
      case 'dispatcher':
        this.#dispatcher = new DispatcherRole(this.memory, this.#observer);
        break;
      case 'shard':
        if (this.#shards[shard] === undefined) throw new RangeError(`there is no shard ${shard}, the last one is ${this.#shards.length - 1}`);
        this.#shards = this.#shards.with(shard, new ShardRole(this.memory, shard, this.#observer));
        break;
    }
    this.#roles = [this.#device, ...this.#shards, this.#dispatcher];
    return kind === 'device' ? this.#device : kind === 'dispatcher' ? this.#dispatcher : this.#shards[shard]!;
  }

  protected override takeCompletions(nowNs: number): boolean {
    let any = false;
    for (let count = this.client.drain(nowNs); count > 0; count = this.client.drain(nowNs)) {
      this.onCompleted(this.client.drainedSlots, this.client.drainedOutcomes, count);
      any = true;
    }
    return any;
  }

  protected override settled(nowNs: number): void {
    this.onSettled(nowNs);
  }
}

/** A configuration in which every margin is 0 and everything has its default: what virtual runs start from. */
export function virtualConfig(given: Pick<SchedulerConfig, 'models' | 'profiles' | 'gpus'> & Partial<SchedulerConfig>): SchedulerConfig {
  return {
    shards: 1,
    maxClients: 1,
    slotShift: 16,
    margins: { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0, measureControl: false, measureResponse: false, measureJitter: false },
    shedShare: 0,
    origin: { high: 0, low: 0 },
    ...given,
  };
}
