/** Noting a latency, reading a clock, and a step of the machine itself. */
import { build, initWebAssembly, type Histogram } from 'hdr-histogram-js';
import { SystemClock, clockOrigin } from '#rubato/clock/clock.js';
import { HistogramTable, RANGE_NS } from '#rubato/ringbuf/log-linear.js';
import { always, scrambled, type Case, type Group } from './harness.js';

const CALLS = 128;
/** As near to ours as whole digits come: its buckets are then at most 1/128 of their values wide, ours 1/64. */
const DIGITS = 2;

export const histogram: Group = {
  name: 'histogram',
  title: 'Histogram record, 1 µs to 0.1 s',
  unit: 'record',
  open: async () => {
    await initWebAssembly();
    const wasm = build({ useWebAssembly: true, highestTrackableValue: RANGE_NS, numberOfSignificantValueDigits: DIGITS });
    const script = build({ useWebAssembly: false, highestTrackableValue: RANGE_NS, numberOfSignificantValueDigits: DIGITS });
    const cases = [ownHistogram(), theirs('hdr-histogram-js, wasm', wasm), theirs('hdr-histogram-js', script)];
    return { cases, close: () => Promise.resolve(wasm.destroy()) };
  },
};

export const clock: Group = {
  name: 'clock',
  title: 'Clock read',
  unit: 'read',
  open: () => ({ cases: [ownClock(), performanceNow(), hrtimeBigint(), hrtimePair()] }),
};

export const REFERENCE_ROW = 'multiply + add';

export const reference: Group = {
  name: 'reference',
  title: 'Reference: a step that depends on nothing but the machine',
  unit: 'step',
  open: () => ({ cases: [referenceStep()] }),
};

/** Spread over the powers of two, in no order. */
const valuesNs = scrambled(CALLS, 1e6).map((value, k) => Math.round(1000 * 10 ** ((5 * ((k * 37) % CALLS)) / CALLS)) + (value % 100));

function ownHistogram(): Case {
  const table = new HistogramTable(new SharedArrayBuffer(HistogramTable.bytes(1)), 0, 1);
  const run = (): number => {
    for (let k = 0; k < CALLS; k++) table.record(0, valuesNs[k]!);
    return 0;
  };
  let before = 0;
  const check: Case['check'] = (_, calls) => {
    const after = table.counts(0).reduce((sum, count) => sum + (count >>> 0), 0);
    const noted = after - before;
    before = after;
    return noted === calls * CALLS;
  };
  return { name: 'histogram', times: CALLS, run, check, versus: ['hdr-histogram-js, wasm', 'hdr-histogram-js'] };
}

function theirs(name: string, histogram: Histogram): Case {
  const run = (): number => {
    for (let k = 0; k < CALLS; k++) histogram.recordValue(valuesNs[k]!);
    return 0;
  };
  let before = 0;
  const check: Case['check'] = (_, calls) => {
    const noted = histogram.totalCount - before;
    before = histogram.totalCount;
    return noted === calls * CALLS;
  };
  return { name, times: CALLS, run, check };
}

/** Each call counts the readings that are not before the one before. */
function ownClock(): Case {
  const system = new SystemClock(clockOrigin());
  const run = (): number => {
    let rising = 0;
    let last = 0;
    for (let k = 0; k < CALLS; k++) {
      const now = system.nowNs();
      if (now >= last) rising++;
      last = now;
    }
    return rising;
  };
  const name = 'SystemClock.nowNs';
  return { name, times: CALLS, run, check: always(CALLS), versus: ['process.hrtime.bigint', 'performance.now', 'process.hrtime'] };
}

function performanceNow(): Case {
  const run = (): number => {
    let rising = 0;
    let last = 0;
    for (let k = 0; k < CALLS; k++) {
      const now = performance.now();
      if (now >= last) rising++;
      last = now;
    }
    return rising;
  };
  return { name: 'performance.now', times: CALLS, run, check: always(CALLS) };
}

function hrtimeBigint(): Case {
  const run = (): number => {
    let rising = 0;
    let last = 0n;
    for (let k = 0; k < CALLS; k++) {
      const now = process.hrtime.bigint();
      if (now >= last) rising++;
      last = now;
    }
    return rising;
  };
  return { name: 'process.hrtime.bigint', times: CALLS, run, check: always(CALLS) };
}

function hrtimePair(): Case {
  const run = (): number => {
    let rising = 0;
    let last = 0;
    for (let k = 0; k < CALLS; k++) {
      const [seconds, nanoseconds] = process.hrtime();
      const now = seconds * 1e9 + nanoseconds;
      if (now >= last) rising++;
      last = now;
    }
    return rising;
  };
  return { name: 'process.hrtime', times: CALLS, run, check: always(CALLS) };
}

/** 1,000 dependent multiplications and additions. */
function referenceStep(): Case {
  const steps = 1000;
  const run = (): number => {
    let x = 1;
    for (let k = 0; k < steps; k++) x = (Math.imul(x, 1_664_525) + 1_013_904_223) | 0;
    return x;
  };
  return { name: REFERENCE_ROW, times: steps, run, check: always(run()) };
}
