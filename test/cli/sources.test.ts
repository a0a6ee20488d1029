import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { openSource, type SourceSpec } from '#rubato/cli/sources.js';
import { ArrivalStream } from '#rubato/sim/policies/stream.js';
import { modelRates, parseWorkload } from '#rubato/sim/workload.js';

const START_NS = 5e9;
const model = { alphaUs: 1000, betaUs: 5000, sloMs: 50 };

/** All requests of the first seconds, asked for in steps and bulks of awkward sizes. */
function drained(spec: SourceSpec, untilNs: number): [timeNs: number, model: number][] {
  const source = openSource(spec, START_NS);
  const models = new Int32Array(7);
  const timesNs = new Float64Array(7);
  const seen: [number, number][] = [];
  for (let now = START_NS; now < START_NS + untilNs; now += 3_333_333) {
    for (let count = 7; count === 7; ) {
      count = source.fill(now, models, timesNs);
      for (let k = 0; k < count; k++) seen.push([timesNs[k]! - START_NS, models[k]!]);
    }
    assert.ok(source.nextNs > now);
  }
  return seen;
}

describe('the load of a live run', () => {
  test('comes as in the simulator, in segments as well', () => {
    for (const segments of [undefined, [{ seconds: 0.5, scale: 0.1 }, { seconds: 0.5, scale: 1, ramp: true, arrivals: 'gamma:0.3' }]]) {
      const workload = parseWorkload({ gpus: 1, rate: 3000, models: [model, { ...model, arrivals: 'const' }, model], ...(segments === undefined ? {} : { segments }) }, 'w', 'w');
      const rates = modelRates(workload, 3000);
      const models = workload.models.map(({ arrivals }, i) => ({ pattern: arrivals, ratePerSecond: rates[i]! }));
      const live = drained({ kind: 'mix', models, segments: workload.segments, seed: 4 }, 2e9);
      assert.ok(live.length > 2000);
      const stream = new ArrivalStream(workload, 3000, 4);
      for (const [k, [timeNs, number]] of live.entries()) {
        assert.deepEqual([timeNs, number], [stream.nextNs, stream.model], `request ${k}`);
        stream.advance();
      }
    }
  });

  test('has nothing of a model without a rate', () => {
    const models = [0, 500].map((ratePerSecond) => ({ pattern: { kind: 'poisson', shape: 1 } as const, ratePerSecond }));
    const seen = drained({ kind: 'mix', models, segments: [], seed: 4 }, 1e9);
    assert.ok(seen.length > 400 && seen.every(([, number]) => number === 1));
  });

  test('is a trace request by request, each of its model', () => {
    const timesNs = Float64Array.from({ length: 50 }, (_, k) => Math.floor(k / 3) * 1e7);
    const models = Int32Array.from(timesNs, (_, k) => (k * 7) & 3);
    const seen = drained({ kind: 'trace', timesNs, models }, 1e9);
    assert.deepEqual(seen, Array.from(timesNs, (timeNs, k) => [timeNs, models[k]]));
  });
});
