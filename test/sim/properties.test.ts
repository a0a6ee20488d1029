import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Random } from '#rubato/model/random.js';
import { describeViolations, type ModelSpec, Run, type Scenario, type ScenarioEvent } from './harness.js';
import { cancelOfALateCandidate, inOrder, NO_MARGINS, scenarioArb } from './scenarios.js';

/** As fc.assert, and the report says which rule was broken. */
function holds(arb: fc.Arbitrary<Scenario>, check: (scenario: Scenario) => void, numRuns: number): void {
  const details = fc.check(fc.property(arb, check), { numRuns });
  if (!details.failed) return;
  const cause = details.errorInstance;
  assert.fail(`${fc.defaultReportMessage(details) ?? ''}\n${cause instanceof Error ? cause.message : ''}\nscenario: ${JSON.stringify(details.counterexample)}`);
}

function sound(scenario: Scenario): Run {
  const run = new Run(scenario).play();
  assert.equal(run.violations.length, 0, describeViolations(run));
  return run;
}

const check = (scenario: Scenario): void => void sound(scenario);

/** What was decided, and what became of each request, apart from the order within an instant. */
function account(scenario: Scenario): { decisions: string[]; endings: string[] } {
  const run = sound(scenario);
  const endings = Array.from({ length: run.endings.length / 3 }, (_, k) => run.endings.slice(3 * k, 3 * k + 3).join(' '));
  return { decisions: run.decisions.map(({ at, text }) => `${at} ${text}`), endings: endings.sort() };
}

const only = (part: Partial<ModelSpec>) => (scenario: Scenario): Scenario => ({ ...scenario, models: scenario.models.map((model) => ({ ...model, ...part })) });

describe('every rule of the scheduler holds at every instant', () => {
  it('when deadlines come in order', () => {
    holds(scenarioArb().map(inOrder), check, 500);
  });

  it('when deadlines come in any order, with ties, and requests are cancelled at every moment', () => {
    holds(scenarioArb(), check, 1500);
  });

  for (const drop of ['window', 'timeout', 'never', 'adaptive'] as const) {
    it(`under drop policy ${drop}, when too much is asked of too few GPUs`, () => {
      holds(scenarioArb({ gpus: 2, events: 120 }).map(only({ drop })), check, 300);
    });
  }

  it('under the condition adaptive, when many models share few GPUs', () => {
    holds(scenarioArb({ models: 9, gpus: 4, events: 150 }).map(only({ condition: 'adaptive' })), check, 400);
  });

  it('under the condition adaptive, on so many GPUs that some may be overbooked', () => {
    holds(scenarioArb({ models: 16, gpus: 16, events: 150 }).map(only({ condition: 'adaptive' })), check, 200);
  });

  it('when many models share few GPUs', () => {
    holds(scenarioArb({ models: 9, gpus: 3, events: 150 }), check, 300);
  });

  it('when slots run out and are used again and again', () => {
    holds(scenarioArb({ slotShift: [5, 5], burst: 40, events: 120 }), check, 300);
  });

  it('when queues hold only a few', () => {
    holds(scenarioArb({ burst: 30 }).map(only({ maxQueue: 3 })), check, 300);
  });

  it('when thousands come at once', () => {
    holds(scenarioArb({ slotShift: [13, 13], burst: 5_000, events: 24, models: 3 }), check, 60);
  });

  it('when devices are slower or faster than their profile, vary, and fail', () => {
    holds(scenarioArb({ faulty: true }), check, 800);
  });

  it('over seconds, with a rate that is known and changes', () => {
    for (let seed = 1; seed <= 5; seed++) check(longRun(seed));
  });

  it('when all has run dry and starts again, many times', () => {
    holds(scenarioArb({ events: 20 }).map(withPauses), check, 200);
  });
});

describe('the decisions are the same', () => {
  it('for 1 and 4 shards', () => {
    holds(scenarioArb({ models: 9, gpus: 4, events: 100 }), (scenario) => {
      const alone = { ...scenario, interleave: 0 };
      assert.deepEqual(account({ ...alone, shards: 4 }), account({ ...alone, shards: 1 }));
    }, 400);
  });

  it('for 1 and 4 shards over seconds', () => {
    for (let seed = 21; seed <= 22; seed++) {
      const scenario = longRun(seed);
      assert.deepEqual(account({ ...scenario, shards: 4 }), account({ ...scenario, shards: 1 }));
    }
  });

  it('whether the inner loops are compiled or not', () => {
    holds(scenarioArb({ slotShift: [5, 9], burst: 40, faulty: true }), (scenario) => {
      const [script, compiled] = [sound(scenario), sound({ ...scenario, compiledLoops: true })];
      assert.deepEqual(compiled.decisions, script.decisions);
      assert.deepEqual(compiled.endings, script.endings);
    }, 150);
  });

  it('when the same is played twice', () => {
    holds(scenarioArb({ faulty: true }), (scenario) => {
      const [first, second] = [sound(scenario), sound(scenario)];
      assert.deepEqual(first.decisions, second.decisions);
      assert.deepEqual(first.endings, second.endings);
    }, 150);
  });
});

describe('once found, never again', () => {
  it('a batch that has become smaller is not granted at the time of the larger one', () => {
    // Start and deadline of the batch stay when one of two is cancelled, but it needs less time before: 1 ms for 2.
    const model = { alphaNs: 0, betaNs: 1e6, maxBatch: 4, drop: 'window', condition: 'frontrun', maxQueue: 9, sloNs: 6e6 } as const;
    const events: ScenarioEvent[] = [{ at: 0, kind: 'submit', model: 0, sloNs: 0, count: 2 }, { at: 1e6, kind: 'cancel', request: 1 }];
    const run = sound({ models: [model], gpus: 1, shards: 1, margins: { ...NO_MARGINS, transferNs: 1e6 }, slotShift: 5, slowdown: 1, jitter: 0, failureRate: 0, events });
    assert.deepEqual(run.decisions, [{ at: 3e6, text: '0 0 1 0' }]);
    assert.equal(run.host.stats.model(0).refusedGrants, 0);
  });

  it('a late candidate whose oldest request is cancelled is ranked by the next one', () => {
    const order = sound(cancelOfALateCandidate()).decisions.map(({ text }) => Number(text.split(' ')[0]));
    assert.deepEqual(order, [2, 1, 0, 1]);
  });

  it('a candidate for which no GPU seemed free in time gets the one that an answer frees', () => {
    // At 17 GPU 0 turns out to be free again: model 3, whose latest start is the smallest, takes it before model 5.
    const lengths = [1, 40, 2, 10, 20, 30];
    const models = lengths.map((betaNs, model) => ({ alphaNs: 0, betaNs, maxBatch: model === 4 ? 4 : 1, drop: 'window', condition: 'immediate', maxQueue: 9, sloNs: 1000 }) as const);
    const submit = (at: number, model: number, sloNs: number, count = 1): ScenarioEvent => ({ at, kind: 'submit', model, sloNs, count });
    const events = [submit(0, 0, 12), submit(0, 1, 1000), submit(15, 2, 13), submit(15, 3, 25), submit(15, 4, 200, 4), submit(16, 5, 200)];
    const run = sound({ models, gpus: 2, shards: 1, margins: { ...NO_MARGINS, transferNs: 10 }, slotShift: 5, slowdown: 1, jitter: 0, failureRate: 0, events });
    assert.equal(run.host.stats.model(3).completed, 1);
  });

  it('a timer that was put off wakes nobody: the tick of the dispatcher would come sooner where shards are shared', () => {
    const model = (alphaMs: number, betaMs: number, sloMs: number, part: Partial<ModelSpec>): ModelSpec =>
      ({ alphaNs: alphaMs * 1e6, betaNs: betaMs * 1e6, sloNs: sloMs * 1e6, maxBatch: 8, drop: 'never', condition: 'immediate', maxQueue: 9, ...part });
    const models = [
      model(0, 4, 28, { maxBatch: 1, drop: 'timeout' }),
      model(4, 7, 64, { maxBatch: 5, condition: 'target-size', maxQueue: 3 }),
      model(1, 4, 38, { drop: 'timeout' }),
      model(4, 9, 64, { maxBatch: 42, condition: 'target-delay' }),
      model(5, 11, 75, { maxBatch: 3, drop: 'adaptive', condition: 'frontrun', maxQueue: 2 }),
      model(2, 9, 58, { maxBatch: 34, condition: 'adaptive', maxQueue: 1 }),
      model(3, 1, 78, { maxBatch: 23, drop: 'adaptive', condition: 'latest', maxQueue: 1 }),
    ];
    const submit = (atMs: number, to: number, sloMs = 0, more: object = {}): ScenarioEvent => ({ at: atMs * 1e6, kind: 'submit', model: to, sloNs: sloMs * 1e6, count: 1, ...more });
    const events: ScenarioEvent[] = [
      submit(8, 0, 1), { at: 10e6, kind: 'cancel', request: 0 }, submit(13, 4, 30), submit(22, 0, 0, { count: 3 }), submit(64, 1), submit(65, 5), submit(66, 0, 1), submit(67, 1),
      submit(72, 0, 33, { lateNs: 1e6 }),
    ];
    const scenario = { models, gpus: 1, shards: 1, together: true, margins: NO_MARGINS, slotShift: 9, slowdown: 1, jitter: 0, failureRate: 0, events };
    assert.deepEqual(account({ ...scenario, shards: 4 }), account(scenario));
  });
});

/** Three models of different weight for two seconds, their rates halved and doubled every 300 ms. */
function longRun(seed: number): Scenario {
  const random = new Random(seed);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random.uniform() * list.length)]!;
  const models = [1, 3, 8].map((weight): ModelSpec => ({
    alphaNs: weight * 100e3, betaNs: weight * 500e3, maxBatch: 64, sloNs: 20e6 * weight, maxQueue: 10_000,
    drop: pick(['window', 'window', 'timeout', 'never', 'adaptive', 'adaptive']),
    condition: pick(['frontrun', 'frontrun', 'latest', 'immediate', 'target-size', 'target-delay', 'adaptive', 'adaptive']),
  }));
  const events: ScenarioEvent[] = [];
  models.forEach((model, index) => {
    const rate = 1.2 / model.alphaNs;
    for (let at = 0; at < 2e9; ) {
      at += Math.round(random.exponential() / (rate * pick([0.5, 1, 2])));
      events.push({ at, kind: 'submit', model: index, sloNs: random.uniform() < 0.2 ? Math.round(model.sloNs * (0.2 + 2 * random.uniform())) : 0 });
    }
  });
  events.sort((a, b) => a.at - b.at);
  const margins = random.uniform() < 0.5 ? NO_MARGINS : { controlNs: 100e3, transferNs: 5e3, responseNs: 500e3, jitterNs: 50e3 };
  return { models, gpus: 4, shards: 2, margins, slotShift: 14, slowdown: 1, jitter: 0, failureRate: 0, events };
}

/** The same, again and again, with pauses long enough for everything to end and for the rate to be forgotten. */
function withPauses(scenario: Scenario): Scenario {
  const pause = 7e9;
  const submits = scenario.events.reduce((sum, event) => sum + (event.kind === 'submit' ? (event.count ?? 1) : 0), 0);
  const again = (round: number) => (event: ScenarioEvent): ScenarioEvent => (
    event.kind === 'submit' ? { ...event, at: event.at + round * pause } : { ...event, at: event.at + round * pause, request: event.request + round * submits }
  );
  return { ...scenario, events: [0, 1, 2, 3].flatMap((round) => scenario.events.map(again(round))) };
}
