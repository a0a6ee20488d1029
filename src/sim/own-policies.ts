/** Policies by name: our own scheduler with every schedulable condition and drop policy, and the rivals. */
import { describeValue } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { CONDITIONS, DROP_POLICIES } from '../protocol/config.js';
import { RIVALS } from './policies/index.js';
import { runRival } from './policies/run-rival.js';
import type { SimulationResult } from './result.js';
import { arrivalsOf, checkSimulation, type OwnOptions, type OwnPolicy, simulate, type TracedOptions } from './simulate.js';

/** Ours or a rival's: what is asked and what it answers. */
export type Policy = (options: TracedOptions) => SimulationResult;

/** Ours can also be given a number of shards. */
export const OWN_POLICIES: ReadonlyMap<string, (options: OwnOptions) => SimulationResult> = new Map(
  CONDITIONS.flatMap((word, condition) =>
    DROP_POLICIES.map((drop, dropPolicy) => {
      const name = `${word}+${drop}`;
      return [name, (options: OwnOptions) => simulate({ name, condition, dropPolicy }, options)] as const;
    }),
  ),
);

const RIVAL_POLICIES = Object.entries(RIVALS).map(([name, { make }]): [string, Policy] => [name, (options) => {
  checkSimulation(options);
  return { ...runRival(make, options, { arrivals: arrivalsOf(options) }), policy: name };
}]);

/** Every policy that can be named. */
export const POLICIES: ReadonlyMap<string, Policy> = new Map<string, Policy>([...OWN_POLICIES, ...RIVAL_POLICIES]);

/**
 * The schedulable condition and the drop policy of a full name.
 * @throws InvalidOptionError for a rival's: it has no dispatcher.
 */
export function ownPolicy(name: string, path: string): OwnPolicy {
  const [condition, drop] = name.split('+');
  const policy = { name, condition: CONDITIONS.findIndex((word) => word === condition), dropPolicy: DROP_POLICIES.findIndex((word) => word === drop) };
  if (OWN_POLICIES.has(name)) return policy;
  throw new InvalidOptionError(path, `got ${describeValue(name)}, must be one of our own: ${[...OWN_POLICIES.keys()].join(', ')}`);
}

const DEFAULT_DROP = 'window';

/**
 * The full name of a policy: `frontrun` is short for `frontrun+window`.
 * @throws InvalidOptionError that lists the known ones.
 */
export function policyName(given: string, path: string): string {
  if (POLICIES.has(given)) return given;
  if (given === 'adaptive') return 'adaptive+adaptive';
  const withDrop = `${given}+${DEFAULT_DROP}`;
  if (POLICIES.has(withDrop)) return withDrop;
  throw new InvalidOptionError(path, `got ${describeValue(given)}, must be one of ${[...POLICIES.keys()].join(', ')} (+${DEFAULT_DROP} may be left out)`);
}
