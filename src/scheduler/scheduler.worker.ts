/**
 * A thread of the scheduler: an endless loop over the roles that it hosts. Hosted by Piscina; ends when the control
 * word says so. Thread 0 is the dispatch thread; in `single` it hosts the shards as well.
 */
import { SystemClock } from '../clock/clock.js';
import { EmulatedDeviceRole } from '../devices/emulated.js';
import { loadCudaStreams, loadNative } from '../devices/cuda/native.js';
import { CudaDeviceRole } from '../devices/cuda/role.js';
import { DispatcherRole } from '../dispatch/dispatcher.js';
import { CELL_NEXT, CELL_NOW, CELL_WORK, type Role } from '../protocol/role.js';
import { CONTROL_STATE, type SharedMemory, STATE_STOPPED } from '../protocol/shared-memory.js';
import { Doorbell, useFutex } from '../ringbuf/doorbell.js';
import { LINE_BYTES } from '../ringbuf/layout.js';
import { ShardRole } from '../shards/shard.js';
import { Waiter, type WaitingStrategy } from './waiter.js';

export interface SchedulerTask {
  readonly memory: SharedMemory;
  readonly thread: number;
  readonly waiting: WaitingStrategy;
  /** The attachment to CUDA devices; null without any. */
  readonly cuda: number | null;
}

export default function runScheduler({ memory, thread, waiting, cuda }: SchedulerTask): void {
  const clock = new SystemClock(memory.config.origin);
  const i32 = new Int32Array(memory.buffer);
  const stateAt = (memory.control >> 2) + CONTROL_STATE;
  const heartbeatAt = (memory.heartbeats + thread * LINE_BYTES) >> 2;
  const bell = new Doorbell(memory.buffer, memory.roleBells[thread]!);
  const waiter = new Waiter(waiting, clock, bell);
  // Sleeps of this thread end when they should, not up to 50 µs later. One that spins never sleeps.
  if (waiting !== 'spin') loadNative().native?.setTimerSlackNs(1);
  const streams = cuda === null ? null : loadCudaStreams();
  if (streams !== null) useFutex(streams);
  const devices = cuda === null || thread > 0 ? null : new CudaDeviceRole(memory, streams!, cuda);
  const roles = rolesOf(memory, thread, devices);

  // Ends when the thread that made the scheduler stores STATE_STOPPED and rings.
  while (Atomics.load(i32, stateAt) !== STATE_STOPPED) {
    i32[heartbeatAt] = (i32[heartbeatAt]! + 1) | 0;
    if (pollAll(roles, clock)) {
      waiter.worked();
      continue;
    }
    const now = roles[0]!.cells[CELL_NOW]!;
    if (!waiter.shouldPark(now, nextEventNs(roles))) continue;
    // While a CUDA device runs, native threads ring.
    const native = devices !== null && devices.isRunning;
    if (native) bell.prepareNative();
    else bell.prepare();
    if (pollAll(roles, clock) || Atomics.load(i32, stateAt) === STATE_STOPPED) {
      bell.cancel();
      continue;
    }
    waiter.park(nextEventNs(roles), native);
  }
}

/** In `split`, each shard has a thread of its own, and the dispatcher one together with the emulated GPUs. */
function rolesOf(memory: SharedMemory, thread: number, devices: CudaDeviceRole | null): Role[] {
  const { shards, split } = memory.config;
  if (split === true && thread > 0) return [new ShardRole(memory, thread - 1)];
  const hosted = split === true ? [] : Array.from({ length: shards }, (_, shard) => new ShardRole(memory, shard));
  const dispatcher = new DispatcherRole(memory); // first: it mends the table of GPUs that the emulated device takes over from
  // CUDA devices last: what the dispatcher issues goes to them in the same round.
  return [new EmulatedDeviceRole(memory), ...hosted, dispatcher, ...(devices === null ? [] : [devices])];
}

/** Polls every role once at one time; whether any had work. */
function pollAll(roles: readonly Role[], clock: SystemClock): boolean {
  clock.read();
  const { cells } = clock;
  let work = 0;
  for (let i = 0; i < roles.length; i++) {
    const role = roles[i]!;
    role.cells[CELL_NOW] = cells[0]!;
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
