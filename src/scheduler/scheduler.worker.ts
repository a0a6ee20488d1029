/**
 * The scheduler thread of the `single` topology: all shards, the dispatcher and the emulated GPUs in one endless
 * loop. Hosted by Piscina; ends when the control word says so.
 */
import { SystemClock } from '../clock/clock.js';
import { EmulatedDeviceRole } from '../devices/emulated.js';
import { DispatcherRole } from '../dispatch/dispatcher.js';
import { HOST_EMULATED } from '../protocol/config.js';
import { CELL_NEXT, CELL_NOW, CELL_WORK, type Role } from '../protocol/role.js';
import { CONTROL_HEARTBEAT, CONTROL_STATE, type SharedMemory, STATE_STOPPED } from '../protocol/shared-memory.js';
import { Doorbell } from '../ringbuf/doorbell.js';
import { ShardRole } from '../shards/shard.js';
import { Waiter, type WaitingStrategy } from './waiter.js';

export interface SchedulerTask {
  readonly memory: SharedMemory;
  readonly waiting: WaitingStrategy;
}

export default function runScheduler({ memory, waiting }: SchedulerTask): void {
  const { config } = memory;
  const clock = new SystemClock(config.origin);
  const control = new Int32Array(memory.buffer, memory.control);
  const bell = new Doorbell(memory.buffer, memory.dispatcherBell);
  const waiter = new Waiter(waiting, clock, bell);

  const roles: Role[] = [];
  if (config.gpus.some((gpu) => gpu.host === HOST_EMULATED)) roles.push(new EmulatedDeviceRole(memory));
  for (let shard = 0; shard < config.shards; shard++) roles.push(new ShardRole(memory, shard));
  roles.push(new DispatcherRole(memory));

  // Ends when the thread that made the scheduler stores STATE_STOPPED and rings.
  while (Atomics.load(control, CONTROL_STATE) !== STATE_STOPPED) {
    control[CONTROL_HEARTBEAT] = (control[CONTROL_HEARTBEAT]! + 1) | 0;
    if (pollAll(roles, clock)) {
      waiter.worked();
      continue;
    }
    const now = roles[0]!.cells[CELL_NOW]!;
    if (!waiter.shouldPark(now, nextEventNs(roles))) continue;
    bell.prepare();
    if (pollAll(roles, clock) || Atomics.load(control, CONTROL_STATE) === STATE_STOPPED) {
      bell.cancel();
      continue;
    }
    waiter.park(nextEventNs(roles));
  }
}

/** Polls every role once at one time; whether any had work. */
function pollAll(roles: readonly Role[], clock: SystemClock): boolean {
  const now = clock.nowNs();
  let work = 0;
  for (let i = 0; i < roles.length; i++) {
    const role = roles[i]!;
    role.cells[CELL_NOW] = now;
    role.poll();
    work += role.cells[CELL_WORK]!;
  }
  return work > 0;
}

function nextEventNs(roles: readonly Role[]): number {
  let next = Infinity;
  for (let i = 0; i < roles.length; i++) {
    const own = roles[i]!.cells[CELL_NEXT]!;
    if (own < next) next = own;
  }
  return next;
}
