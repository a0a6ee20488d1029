/**
 * The promise path: one thread submits as fast as it can, awaits every result, and stays responsive: how many a second,
 * and how late is a timer of 10 ms that runs beside it?
 *
 *   main thread ──submit──▶ scheduler thread (emulated GPUs) ──completion──▶ main thread: promise settled
 *   main thread ──run─────▶ one Piscina thread (gives the value back) ─────▶ main thread: promise settled
 *
 * Closed loop with a window, the same for both: a turn of the event loop submits until `WINDOW` requests are in flight.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Piscina } from 'piscina';
import { createScheduler } from '#rubato/index.js';
import type { Group, Sample, TimedCase } from './harness.js';

const WINDOW = 16_384;
const PER_TURN = 1024;
const TIMER_MS = 10;
const RUN_MS = 2000;
const QUICK_RUN_MS = 300;
/** Before the first run. */
const WARM_UP_MS = 1000;

export const PROMISE_ROW = 'Scheduler.submit';
/** Of a sample. */
export const TIMER_LATE_P99_MS = 'timerLateP99Ms';

export const promise: Group = {
  name: 'promise',
  title: `Promises: submit → result, ${WINDOW} in flight`,
  unit: 'request',
  open: async () => {
    const scheduler = await createScheduler({
      models: [{ name: 'm', slo: '100ms', profile: { alpha: '0.2us', beta: '100us', maxBatch: 1024 } }],
      devices: [{ kind: 'emulated', count: 8 }],
    });
    // All that makes it faster: one thread for all, no histograms, and many tasks posted at a time.
    const pool = new Piscina({
      filename: fileURLToPath(new URL('./promise.worker.js', import.meta.url)),
      minThreads: 1, maxThreads: 1, concurrentTasksPerWorker: PER_TURN, idleTimeout: Infinity, recordTiming: false,
    });
    const cases = [
      // An emulated GPU gives no output for a model without tensors.
      closedLoop(PROMISE_ROW, (i) => scheduler.submit('m', i), () => undefined, ['piscina.run']),
      closedLoop('piscina.run', (i) => pool.run(i), (i) => i, []),
    ];
    const close = async (): Promise<void> => {
      await scheduler.close();
      await pool.destroy();
    };
    return { cases, close };
  },
};

function closedLoop(name: string, submit: (i: number) => Promise<unknown>, wanted: (i: number) => unknown, versus: readonly string[]): TimedCase {
  let inFlight = 0;
  let submitted = 0;
  let good = 0;
  let bad = 0;
  let wrong = 0;
  const send = (i: number): void => {
    inFlight++;
    submitted++;
    submit(i).then((result) => {
      inFlight--;
      good++;
      if (result !== wanted(i)) wrong++;
    }, () => {
      inFlight--;
      bad++;
    });
  };
  const loadUntil = async (untilMs: number): Promise<void> => {
    while (performance.now() < untilMs) {
      const room = Math.min(PER_TURN, WINDOW - inFlight);
      for (let i = 0; i < room; i++) send(i);
      await nextTurn();
    }
  };
  let warm = false;
  const measure = async (quick: boolean): Promise<Sample> => {
    if (!warm) await loadUntil(performance.now() + (quick ? QUICK_RUN_MS : WARM_UP_MS));
    warm = true;
    const timer = lateTimer();
    const endedBefore = good + bad;
    const badBefore = bad;
    const beganMs = performance.now();
    const cpu = process.cpuUsage();
    await loadUntil(beganMs + (quick ? QUICK_RUN_MS : RUN_MS));
    const elapsedMs = performance.now() - beganMs;
    const { user, system } = process.cpuUsage(cpu);
    const ended = good + bad - endedBefore;
    const badShare = (bad - badBefore) / ended;
    const late = timer.stop();
    while (inFlight > 0) await nextTurn();
    if (wrong > 0 || good + bad !== submitted) throw new Error(`${name}: of ${submitted} requests ${good + bad} ended, ${wrong} of them with a wrong result`);
    return { ns: (elapsedMs * 1e6) / ended, also: { [TIMER_LATE_P99_MS]: late, cpuNsPerRequest: ((user + system) * 1000) / ended, badShare } };
  };
  return { name, measure, versus };
}

/** A timer that notes how late it is. */
function lateTimer(): { stop: () => number } {
  const lateMs: number[] = [];
  let lastMs = performance.now();
  const timer = setInterval(() => {
    const nowMs = performance.now();
    lateMs.push(Math.max(0, nowMs - lastMs - TIMER_MS));
    lastMs = nowMs;
  }, TIMER_MS);
  const stop = (): number => {
    clearInterval(timer);
    lateMs.sort((a, b) => a - b);
    return lateMs[Math.floor(lateMs.length * 0.99)] ?? 0;
  };
  return { stop };
}
