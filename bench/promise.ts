/**
 * The promise path: one thread submits as fast as it can, awaits every result, and stays responsive: how many a second,
 * and how late is a timer of 10 ms that runs beside it?
 *
 *   main thread ──submit──▶ scheduler thread (emulated GPUs) ──completion──▶ main thread: promise settled
 *
 * Closed loop with a window: a turn of the event loop submits until `WINDOW` requests are in flight.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { createScheduler } from '#rubato/index.js';
import { fixed, si } from '#rubato/report/units.js';

const WINDOW = 16_384;
const PER_TURN = 1024;
const TIMER_MS = 10;

export interface PromiseRun {
  readonly perSecond: number;
  readonly timerLateP99Ms: number;
  readonly cpuNsPerRequest: number;
  readonly badShare: number;
}

/** Runs for `seconds` after a warm-up of one. */
export async function runPromisePath(seconds: number): Promise<PromiseRun> {
  await using scheduler = await createScheduler({
    models: [{ name: 'm', slo: '100ms', profile: { alpha: '0.2us', beta: '100us', maxBatch: 1024 } }],
    devices: [{ kind: 'emulated', count: 8 }],
  });
  let good = 0;
  let bad = 0;
  const onGood = (): void => void good++;
  const onBad = (): void => void bad++;
  const lateMs: number[] = [];
  let lastMs = performance.now();
  const timer = setInterval(() => {
    const nowMs = performance.now();
    lateMs.push(Math.max(0, nowMs - lastMs - TIMER_MS));
    lastMs = nowMs;
  }, TIMER_MS);
  const loadUntil = async (untilMs: number): Promise<void> => {
    while (performance.now() < untilMs) {
      const room = Math.min(PER_TURN, WINDOW - scheduler.inFlight);
      for (let i = 0; i < room; i++) scheduler.submit('m', i).then(onGood, onBad);
      await nextTurn();
    }
  };
  await loadUntil(performance.now() + 1000);
  good = bad = 0;
  lateMs.length = 0;
  const beganMs = performance.now();
  const cpu = process.cpuUsage();
  await loadUntil(beganMs + seconds * 1000);
  const { user, system } = process.cpuUsage(cpu);
  const elapsedMs = performance.now() - beganMs;
  const ended = good + bad;
  clearInterval(timer);
  await scheduler.drain();
  lateMs.sort((a, b) => a - b);
  return {
    perSecond: (ended / elapsedMs) * 1000,
    timerLateP99Ms: lateMs[Math.floor(lateMs.length * 0.99)] ?? 0,
    cpuNsPerRequest: ((user + system) * 1000) / ended,
    badShare: bad / ended,
  };
}

export function describePromiseRun(run: PromiseRun): string {
  return `${si(run.perSecond)}/s submitted and settled, bad ${fixed(100 * run.badShare, 2)} %, a ${TIMER_MS} ms timer ${fixed(run.timerLateP99Ms, 2)} ms late at p99, ${fixed(run.cpuNsPerRequest, 0)} ns of CPU per request (both threads)`;
}
