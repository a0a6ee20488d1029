/** Scenarios by hand with a log to compare, and the rules that hold for every policy on any small workload. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import fc from 'fast-check';
import type { MakePolicy } from '#rubato/sim/policies/policy.js';
import { runRival } from '#rubato/sim/policies/run-rival.js';
import { ListedArrivals } from '#rubato/sim/policies/stream.js';
import type { SimulationMargins, SimulationOptions, SimulationResult } from '#rubato/sim/result.js';
import { parseWorkload, type Workload } from '#rubato/sim/workload.js';

export const MS = 1e6;
export const NO_MARGINS: SimulationMargins = { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 };

/** ℓ(b) = alpha·b + beta, all in ms. */
export interface ScenarioModel {
  readonly alpha: number;
  readonly beta: number;
  readonly slo: number;
  readonly maxBatch?: number;
}

export interface ByHand {
  readonly models: readonly ScenarioModel[];
  readonly gpus?: number;
  /** In ms, and the model, 0 when absent. Requests are numbered from 0 in this order. */
  readonly arrivals: readonly (readonly [atMs: number, model?: number])[];
  readonly margins?: Partial<SimulationMargins>;
  readonly seconds?: number;
}

export interface Played {
  /** `at: GPU g runs m[requests] from start to end`, `at: GPU g loses [requests]`, `at: drops request (reason)`; times in ms. */
  readonly log: string[];
  readonly result: SimulationResult;
}

export function workloadOf(models: readonly ScenarioModel[], gpus: number): Workload {
  const inputs = models.map(({ alpha, beta, slo, maxBatch }) => ({ alphaUs: alpha * 1e3, betaUs: beta * 1e3, sloMs: slo, maxBatch: maxBatch ?? 64 }));
  return parseWorkload({ gpus, models: inputs }, 'scenario', 'scenario');
}

export function play(make: MakePolicy, { models, gpus = 1, arrivals, margins, seconds = 3600 }: ByHand): Played {
  const log: string[] = [];
  const list = arrivals.map(([atMs, model = 0]) => [Math.round(atMs * MS), model] as const);
  const options: SimulationOptions = {
    workload: workloadOf(models, gpus), gpus, ratePerSecond: 1, seed: 1, seconds, warmupSeconds: 0, margins: { ...NO_MARGINS, ...margins },
  };
  const result = runRival(make, options, {
    arrivals: new ListedArrivals(list),
    observer: {
      started: (now, gpu, model, requests, start, end) =>
        void log.push(`${now / MS}: GPU ${gpu} runs ${model}[${requests.join(' ')}] from ${start / MS} to ${end / MS}`),
      preempted: (now, gpu, requests) => void log.push(`${now / MS}: GPU ${gpu} loses [${requests.join(' ')}]`),
      dropped: (now, request, reason) => void log.push(`${now / MS}: drops ${request} (${reason})`),
    },
  });
  return { log, result };
}

const modelArb = fc.record({
  alphaUs: fc.integer({ min: 0, max: 2_000 }),
  betaUs: fc.integer({ min: 1, max: 9_000 }),
  sloMs: fc.integer({ min: 15, max: 120 }),
  maxBatch: fc.integer({ min: 1, max: 40 }),
  arrivals: fc.constantFrom('const', 'poisson', 'gamma:0.1'),
});

const optionsArb: fc.Arbitrary<SimulationOptions> = fc.record({
  models: fc.array(modelArb, { minLength: 1, maxLength: 5 }),
  gpus: fc.integer({ min: 1, max: 5 }),
  ratePerSecond: fc.integer({ min: 1, max: 3_000 }),
  seed: fc.integer({ min: 0, max: 1_000 }),
  margins: fc.constantFrom(NO_MARGINS, { controlNs: 100e3, transferNs: 50e3, responseNs: 2e6, jitterNs: 100e3 }),
}).map(({ models, ...options }) => ({
  ...options, workload: parseWorkload({ gpus: options.gpus, models }, 'random', 'random'), seconds: 0.7, warmupSeconds: 0.3,
}));

/** Plays the run and follows what is done by accounts of its own, which do not trust those of the run. */
function follow(make: MakePolicy, options: SimulationOptions): { result: SimulationResult; log: string } {
  const lines: string[] = [];
  const fates = new Map<number, 'issued' | 'dropped'>();
  const lastEndNs = new Float64Array(options.gpus);
  const result = runRival(make, options, {
    observer: {
      started: (now, gpu, model, requests, start, end) => {
        assert.ok(start >= now && start >= lastEndNs[gpu]!, `GPU ${gpu} starts at ${start}, now ${now}, busy until ${lastEndNs[gpu]}`);
        lastEndNs[gpu] = end;
        for (const request of requests) {
          assert.equal(fates.get(request), undefined, `request ${request} is started`);
          fates.set(request, 'issued');
        }
        lines.push(`${now} ${gpu} ${model} ${requests.join(' ')} ${start} ${end}`);
      },
      preempted: (now, gpu, requests) => {
        lastEndNs[gpu] = now;
        for (const request of requests) fates.delete(request);
        lines.push(`${now} ${gpu} loses ${requests.join(' ')}`);
      },
      dropped: (now, request, reason) => {
        assert.equal(fates.get(request), undefined, `request ${request} is dropped`);
        fates.set(request, 'dropped');
        lines.push(`${now} drops ${request} ${reason}`);
      },
    },
  });
  for (let request = 0; request < fates.size; request++) assert.ok(fates.has(request), `request ${request} has an end`);
  return { result, log: lines.join('\n') };
}

/** Every request ends, every figure adds up, and the same seed gives the same run. */
export function holdsOnRandomWorkloads(make: MakePolicy, check: (result: SimulationResult) => void = () => {}, numRuns = 150): void {
  it('keeps the rules of a run on random workloads, where everything ends and all figures add up', () => {
    fc.assert(fc.property(optionsArb, (options) => {
      const { result, log } = follow(make, options);
      const dropped = Object.values(result.droppedByReason).reduce((sum, count) => sum + count, 0);
      assert.equal(result.offered, result.good + result.late + dropped);
      assert.equal(result.models.reduce((sum, model) => sum + model.offered, 0), result.offered);
      for (const [gpu, busyNs] of result.busyNs.entries()) assert.ok(busyNs >= 0 && busyNs <= 0.7e9, `GPU ${gpu} is busy for ${busyNs}`);
      check(result);
      const again = follow(make, options);
      assert.deepEqual(again.result, result);
      assert.equal(again.log, log);
    }), { numRuns });
  });
}
