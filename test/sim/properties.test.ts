import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { describeViolations, Run, type Scenario } from './harness.js';
import { inOrder, scenarioArb } from './scenarios.js';

function sound(scenario: Scenario): void {
  const run = new Run(scenario).play();
  assert.equal(run.violations.length, 0, describeViolations(run));
}

/** What was decided, and what became of each request, apart from the order within an instant. */
function outcomeOf(scenario: Scenario): unknown {
  const run = new Run(scenario).play();
  assert.equal(run.violations.length, 0, describeViolations(run));
  const endings = Array.from({ length: run.endings.length / 3 }, (_, k) => run.endings.slice(3 * k, 3 * k + 3).join(' '));
  return { decisions: run.decisions.map(({ at, text }) => `${at} ${text}`), endings: endings.sort() };
}

describe('every rule of the scheduler holds at every instant', () => {
  it('with deadlines in order', () => {
    fc.assert(fc.property(scenarioArb().map(inOrder), sound), { numRuns: 400 });
  });

  it('with deadlines out of order, ties, cancels at every moment', () => {
    fc.assert(fc.property(scenarioArb(), sound), { numRuns: 1000 });
  });
});
