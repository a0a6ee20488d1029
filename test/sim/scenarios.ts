/** Scenarios drawn by fast-check: small machines, every policy, times that tie often. */
import fc from 'fast-check';
import type { ModelSpec, Scenario, ScenarioEvent } from './harness.js';
import { CONDITIONS, DROP_POLICIES } from '#rubato/protocol/config.js';

export interface ScenarioLimits {
  readonly models?: number;
  readonly gpus?: number;
  readonly events?: number;
  /** Requests that one event may submit at once. */
  readonly burst?: number;
  /** log2 of the slots, at least and at most. */
  readonly slotShift?: readonly [number, number];
  /** Devices that run slower than their profile, jitter, or fail. */
  readonly faulty?: boolean;
}

/**
 * Times are whole multiples of a unit, so that ends, deadlines and arrivals meet. At 7 ns they are odd, and everything
 * is near; at 100 us a batch that gathers is now near and now far off; at 1 ms the rate meter ticks.
 */
const UNITS = [7, 100_000, 1_000_000];

export const NO_MARGINS = { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 };

const modelArb = fc.record({
  alpha: fc.nat(6),
  beta: fc.integer({ min: 1, max: 12 }),
  maxBatch: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 9, max: 64 })),
  slack: fc.oneof(fc.nat(10), fc.integer({ min: 11, max: 80 })),
  drop: fc.constantFrom(...DROP_POLICIES),
  condition: fc.constantFrom(...CONDITIONS),
  maxQueue: fc.oneof({ weight: 1, arbitrary: fc.integer({ min: 1, max: 6 }) }, { weight: 4, arbitrary: fc.constant(100_000) }),
});

const marginsArb = fc.oneof(
  fc.constant({ control: 0, transfer: 0, response: 0, jitter: 0 }),
  fc.record({ control: fc.nat(6), transfer: fc.nat(2), response: fc.nat(4), jitter: fc.nat(3) }),
);

function eventArb(models: number, burst: number) {
  const at = fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 5, arbitrary: fc.integer({ min: 1, max: 4 }) }, { weight: 1, arbitrary: fc.integer({ min: 5, max: 60 }) });
  return fc.record({
    gap: at,
    kind: fc.oneof({ weight: 7, arbitrary: fc.constant('submit' as const) }, { weight: 2, arbitrary: fc.constant('cancel' as const) }),
    model: fc.nat(models - 1),
    /** 0: the model's own SLO. */
    slo: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 2, arbitrary: fc.integer({ min: 1, max: 60 }) }),
    count: fc.oneof({ weight: 6, arbitrary: fc.constant(1) }, { weight: 2, arbitrary: fc.integer({ min: 2, max: 12 }) }, { weight: burst > 12 ? 1 : 0, arbitrary: fc.integer({ min: 2, max: burst }) }),
    late: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: 1, max: 30 }) }),
    /** Which request a cancel means: so many before the newest, or after a hundred, one long over. */
    back: fc.oneof({ weight: 4, arbitrary: fc.nat(6) }, { weight: 1, arbitrary: fc.nat(200) }),
  });
}

export function scenarioArb(limits: ScenarioLimits = {}): fc.Arbitrary<Scenario> {
  const { models = 4, gpus = 9, events = 60, burst = 12, slotShift = [5, 9], faulty = false } = limits;
  return fc
    .record({
      unit: fc.constantFrom(...UNITS),
      models: fc.array(modelArb, { minLength: 1, maxLength: models }),
      gpus: fc.integer({ min: 1, max: gpus }),
      shards: fc.constantFrom(1, 2, 4),
      interleave: fc.constantFrom(0, 0, 1, 2, 3),
      together: fc.boolean(),
      margins: marginsArb,
      slotShift: fc.integer({ min: slotShift[0], max: slotShift[1] }),
      slowdown: faulty ? fc.constantFrom(1, 0.5, 1.3) : fc.constant(1),
      jitter: faulty ? fc.constantFrom(0, 0.2) : fc.constant(0),
      failureRate: faulty ? fc.constantFrom(0, 0.3) : fc.constant(0),
    })
    .chain((machine) => fc.array(eventArb(machine.models.length, burst), { minLength: 1, maxLength: events, size: 'max' }).map((steps) => {
      const { unit } = machine;
      const specs: ModelSpec[] = machine.models.map(({ alpha, beta, slack, ...rest }) => ({
        ...rest, alphaNs: alpha * unit, betaNs: beta * unit, sloNs: (alpha + beta + slack) * unit,
      }));
      const list: ScenarioEvent[] = [];
      let at = 0;
      let submitted = 0;
      for (const step of steps) {
        at += step.gap * unit;
        if (step.kind === 'submit') {
          list.push({ at, kind: 'submit', model: step.model, sloNs: step.slo * unit, count: step.count, lateNs: step.late * unit });
          submitted += step.count;
        } else if (submitted > 0) {
          list.push({ at, kind: 'cancel', request: Math.max(0, submitted - 1 - step.back) });
        }
      }
      const margins = Object.fromEntries(Object.entries(machine.margins).map(([name, value]) => [`${name}Ns`, value * unit])) as unknown as typeof NO_MARGINS;
      return { ...machine, models: specs, margins, events: list };
    }));
}

/** The same with every SLO its model's own, so that deadlines come in order. */
export function inOrder(scenario: Scenario): Scenario {
  return { ...scenario, events: scenario.events.map((event) => (event.kind === 'submit' ? { ...event, sloNs: 0 } : event)) };
}


/**
 * Everybody is late and served in the order of deadlines. At 100 model 1 gets the GPU with its first request; its
 * candidate is then the second, due since 40, which is cancelled at the same instant: nothing but the rank of the
 * candidate changes, from 40 to 60. At 110 it is the turn of model 0, due since 50.
 */
export function cancelOfALateCandidate(): Scenario {
  const late = { alphaNs: 0, betaNs: 10, sloNs: 20, maxBatch: 1, drop: 'never', condition: 'immediate', maxQueue: 9 } as const;
  const events: ScenarioEvent[] = [
    { at: 0, kind: 'submit', model: 2, sloNs: 0 },
    { at: 10, kind: 'submit', model: 1, sloNs: 20 },
    { at: 10, kind: 'submit', model: 1, sloNs: 30 },
    { at: 10, kind: 'submit', model: 1, sloNs: 50 },
    { at: 10, kind: 'submit', model: 0, sloNs: 40 },
    { at: 100, kind: 'cancel', request: 2 },
  ];
  return {
    models: [late, late, { ...late, betaNs: 100, sloNs: 100 }],
    gpus: 1, shards: 1, margins: NO_MARGINS, slotShift: 5, slowdown: 1, jitter: 0, failureRate: 0, events,
  };
}
