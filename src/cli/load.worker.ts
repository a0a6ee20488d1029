/**
 * A thread that generates load, open loop, and reads the completions: one client of the scheduler. A request's
 * arrival is the time at which it was due, whenever it was really sent.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { SystemClock } from '../clock/clock.js';
import { ClientPort } from '../protocol/client-port.js';
import { BUCKETS, HistogramTable } from '../ringbuf/log-linear.js';
import { Waiter } from '../scheduler/waiter.js';
import { SloDrawer } from './deadline-order.js';
import { COUNT_WORD, type LoadThreadData, type PhaseOrder, type PhaseResult, STOP_WORD } from './load-protocol.js';
import { openSource } from './sources.js';
import { StallWatch } from './stalls.js';

/** How long after its end a phase still sends what was due before: longer than a stall of the machine. */
const TAIL_NS = 0.25e9;

const { memory, client, control } = workerData as LoadThreadData;
const clock = new SystemClock(memory.config.origin);
const port = new ClientPort(memory, client);
const words = new Int32Array(control);
/** Requests sent with one commit at most: as many as these hold. */
const { bulkModels: models, bulkArrivalsNs: timesNs } = port;
const lagBuffer = new SharedArrayBuffer(HistogramTable.bytes(1));
const lag = new HistogramTable(lagBuffer, 0, 1);

function runPhase({ source: spec, deadlines, startNs, countFromNs, endNs, settleNs }: PhaseOrder): PhaseResult {
  const source = openSource(spec, startNs);
  const slos = new SloDrawer(deadlines, memory.limits.models, 1 + client);
  const watch = new StallWatch(memory, countFromNs);
  const waiter = new Waiter('balanced', clock, port.bell);
  new Int32Array(lagBuffer).fill(0);
  let offered = 0;
  let nowNs = clock.nowNs();
  // Ends when all that was due by the end has been sent: what a late thread left out would flatter the scheduler.
  while (nowNs < endNs + TAIL_NS && Atomics.load(words, STOP_WORD) === 0) {
    const count = source.fill(Math.min(nowNs, endNs), models, timesNs);
    if (count === 0 && nowNs >= endNs) break;
    watch.turn(nowNs, count, nowNs - timesNs[0]!);
    if (count > 0) {
      lag.recordMany(0, nowNs - timesNs[0]!, count);
      const accepted = slos.submit(port, models, timesNs, count);
      if (accepted < count) watch.lost(count - accepted, nowNs);
      offered += count;
      words[COUNT_WORD] = offered;
    }
    const drained = drain(watch, nowNs);
    if (count + drained > 0) waiter.worked();
    else rest(waiter, watch, nowNs, Math.min(source.nextNs, endNs));
    nowNs = clock.nowNs();
  }
  const ended = nowNs;
  while (port.inFlight > 0 && nowNs < ended + settleNs) {
    watch.turn(nowNs, 0, 0);
    if (drain(watch, nowNs) === 0) rest(waiter, watch, nowNs, nowNs + 1e6);
    nowNs = clock.nowNs();
  }
  watch.lost(port.inFlight, nowNs);
  return { offered, endNs: Math.min(ended, endNs), lag: new Int32Array(lagBuffer.slice(0), 0, BUCKETS), inFlight: port.inFlight, stalls: watch.report(Math.min(ended, endNs)) };
}

function drain(watch: StallWatch, nowNs: number): number {
  const count = port.drain(nowNs);
  if (count > 0) watch.ended(port.drainedOutcomes, count, nowNs);
  return count;
}

/** Sleeps until a completion or `nextNs` if that is far enough away. */
function rest(waiter: Waiter, watch: StallWatch, nowNs: number, nextNs: number): void {
  if (!waiter.shouldPark(nowNs, nextNs)) return;
  port.bell.prepare();
  if (drain(watch, clock.nowNs()) > 0) port.bell.cancel();
  else waiter.park(nextNs);
}

parentPort!.on('message', (order: PhaseOrder) => parentPort!.postMessage(runPhase(order)));
