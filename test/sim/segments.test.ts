import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { parseArrivals } from '#rubato/sim/arrivals.js';
import { cycleSeconds, largestScale, meanScale, openArrivals, type Segment } from '#rubato/sim/segments.js';
import { ArrivalStream } from '#rubato/sim/policies/stream.js';
import { modelRates, parseWorkload } from '#rubato/sim/workload.js';

const steady = (seconds: number, scale: number): Segment => ({ seconds, fromScale: scale, toScale: scale, arrivals: null });
const ramp = (seconds: number, fromScale: number, toScale: number): Segment => ({ seconds, fromScale, toScale, arrivals: null });
/** 10 % → 100 % → 10 % */
const HILL = [steady(2, 0.1), ramp(4, 0.1, 1), steady(2, 1), ramp(4, 1, 0.1)];

interface Given {
  readonly rate: number;
  readonly segments: readonly Segment[];
  readonly untilSeconds: number;
  readonly leadInSeconds?: number;
  readonly seed?: number;
  readonly model?: number;
}

/** Arrival times in ns. */
function timesOf(pattern: string, { rate, segments, untilSeconds, leadInSeconds = 0, seed = 1, model = 0 }: Given): number[] {
  const load = { pattern: parseArrivals(pattern, 'a'), ratePerSecond: rate, segments, leadInNs: leadInSeconds * 1e9 };
  const arrivals = openArrivals(load, seed, model);
  const times: number[] = [];
  for (let now = arrivals.nextGapNs(); now < untilSeconds * 1e9; now += arrivals.nextGapNs()) times.push(now);
  return times;
}

const countIn = (times: readonly number[], from: number, to: number): number => times.filter((time) => time >= from * 1e9 && time < to * 1e9).length;

/** The line's area between two times, computed anew. */
function areaUpTo(segments: readonly Segment[], seconds: number): number {
  let left = seconds;
  let area = 0;
  for (let k = 0; left > 0; k = (k + 1) % segments.length) {
    const { seconds: length, fromScale, toScale } = segments[k]!;
    const part = Math.min(left, length);
    area += part * (fromScale + ((toScale - fromScale) * part) / length / 2);
    left -= part;
  }
  return area;
}

const segmentsArbitrary = fc.array(fc.record({
  seconds: fc.double({ min: 0.01, max: 5, noNaN: true }), fromScale: fc.constantFrom(0, 0.1, 1, 3), toScale: fc.constantFrom(0, 0.1, 1, 3), arrivals: fc.constant(null),
}), { minLength: 1, maxLength: 6 }).filter((segments) => meanScale(segments) > 0);

describe('arrivals in segments', () => {
  it('that are const come whenever the area below the line has grown by one gap, through any number of cycles', () => {
    fc.assert(fc.property(segmentsArbitrary, fc.double({ min: 1, max: 60, noNaN: true }), (segments, rate) => {
      const times = timesOf('const', { rate, segments, untilSeconds: 20 });
      for (const [k, time] of times.entries()) {
        const requests = rate * areaUpTo(segments, time / 1e9);
        assert(Math.abs(requests - (k + 1)) < 1e-4, `request ${k} comes at ${time} ns, when the area holds ${requests}`);
      }
      const whole = rate * areaUpTo(segments, 20);
      assert(times.length <= whole + 1e-4 && times.length > whole - 1 - 1e-4, `${times.length} requests for an area of ${whole}`);
    }), { numRuns: 100 });
  });

  it('never go back and come at whole nanoseconds, whatever the pattern', () => {
    fc.assert(fc.property(segmentsArbitrary, fc.constantFrom('const', 'poisson', 'gamma:0.1', 'gamma:3'), fc.double({ min: 1e-3, max: 1e9, noNaN: true }), (segments, pattern, rate) => {
      const arrivals = openArrivals({ pattern: parseArrivals(pattern, 'a'), ratePerSecond: rate, segments, leadInNs: 0 }, 1, 3);
      for (let k = 0; k < 50; k++) {
        const gap = arrivals.nextGapNs();
        assert(Number.isSafeInteger(gap) && gap >= 0, `${gap}`);
      }
    }));
  });

  it('follow 10 % → 100 % → 10 % with every pattern', () => {
    for (const [pattern, tolerance] of [['const', 0.001], ['poisson', 0.03], ['gamma:0.5', 0.05]] as const) {
      const times = timesOf(pattern, { rate: 20_000, segments: HILL, untilSeconds: 12 });
      for (const [from, to, scale] of [[0, 2, 0.1], [2, 4, 0.325], [4, 6, 0.775], [6, 8, 1], [8, 10, 0.775], [10, 12, 0.325]] as const) {
        const offered = countIn(times, from, to) / (to - from) / 20_000;
        assert(Math.abs(offered / scale - 1) < tolerance + 0.03 * Number(pattern !== 'const' && scale < 0.2), `${pattern}, ${from} to ${to} s: ${offered} for ${scale}`);
      }
    }
  });

  it('are none where the scale is 0', () => {
    const times = timesOf('poisson', { rate: 1000, segments: [steady(1, 0), steady(1, 1), steady(1, 0)], untilSeconds: 9 });
    for (let cycle = 0; cycle < 3; cycle++) {
      assert.equal(countIn(times, 3 * cycle, 3 * cycle + 1) + countIn(times, 3 * cycle + 2, 3 * cycle + 3), 0);
      assert(countIn(times, 3 * cycle + 1, 3 * cycle + 2) > 850);
    }
    assert.equal(openArrivals({ pattern: parseArrivals('poisson', 'a'), ratePerSecond: 0, segments: [], leadInNs: 0 }, 1, 0).nextGapNs(), Infinity);
  });

  it('have gaps of the segment’s pattern, in place of the model’s', () => {
    const times = timesOf('poisson', { rate: 100, segments: [steady(10, 1), { ...steady(10, 1), arrivals: parseArrivals('const', 'a') }], untilSeconds: 20 });
    const gaps = times.slice(1).map((time, k) => time - times[k]!);
    const even = gaps.filter((gap) => Math.abs(gap - 10e6) <= 1).length;
    assert(even >= 995 && even <= 1001, `${even}`);
    assert(gaps.length - even > 850);
  });

  it('stay at the beginning of the first segment during the lead-in, and are the same after it', () => {
    const given = { rate: 1000, segments: [ramp(2, 0.5, 1), steady(1, 0.5)] };
    const times = timesOf('const', { ...given, untilSeconds: 9, leadInSeconds: 3 });
    assert.equal(countIn(times, 0, 3), 1499); // the 1500th comes at 3 s itself
    assert.deepEqual(times.filter((time) => time > 3e9).map((time) => time - 3e9), timesOf('const', { ...given, untilSeconds: 6 }));
  });

  it('skip thousands of empty cycles between rare requests', () => {
    const times = timesOf('const', { rate: 1e-3, segments: [steady(0.001, 1), steady(0.001, 0)], untilSeconds: 10_001 });
    assert.equal(times.length, 5);
    for (const [k, time] of times.entries()) assert(Math.abs(time - (k + 1) * 2000e9) <= 0.001e9 + 1, `${time}`);
  });

  it('are known by their mean, largest scale and length', () => {
    assert.equal(cycleSeconds(HILL), 12);
    assert(Math.abs(meanScale(HILL) - 6.6 / 12) < 1e-12);
    assert.deepEqual([largestScale(HILL), largestScale([]), meanScale([])], [1, 1, 1]);
  });
});

describe('the arrivals of one model', () => {
  const model = { alphaUs: 1000, betaUs: 5000, sloMs: 50 };
  const rates = [7.1, 300, 41.7];
  const streamOf = (count: number, more: object): [time: number, model: number][] => {
    const workload = parseWorkload({ gpus: 1, models: rates.slice(0, count).map((rate) => ({ ...model, rate })), ...more }, 'w', 'w');
    const stream = new ArrivalStream(workload, workload.ratePerSecond!, 9, 1e9);
    const seen: [number, number][] = [];
    for (; stream.nextNs < 20e9; stream.advance()) seen.push([stream.nextNs, stream.model]);
    return seen;
  };

  it('do not change when another model is added', () => {
    for (const more of [{}, { arrivals: 'const' }, { arrivals: 'gamma:0.1', segments: [{ seconds: 3, scale: 1 }, { seconds: 2, scale: 0.2, ramp: true }] }]) {
      const [two, three] = [streamOf(2, more), streamOf(3, more)];
      assert(three.length > two.length);
      assert.deepEqual(three.filter(([, number]) => number < 2), two);
    }
  });

  it('are exactly as many as it states where the rate is that of the file, and in proportion where it is not', () => {
    const workload = parseWorkload({ gpus: 1, models: rates.map((rate) => ({ ...model, rate })) }, 'w', 'w');
    assert.deepEqual(modelRates(workload, workload.ratePerSecond!), rates);
    assert.deepEqual(modelRates(workload, 2 * workload.ratePerSecond!), rates.map((rate) => 2 * rate));
  });
});
