/**
 * npm run vopr -- [--seeds N] [--from SEED] [--scenario FILE] [--points] [--trace]
 *
 * Plays N scenarios (default 1000), each drawn from its seed, and prints each seed's hash with --trace. On a violation it
 * prints the seed and the shortest scenario that it can find as JSON; --scenario plays such a file. --points lists the
 * statements at which threads have died, and those at which none has.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { instrument, type KillPoint, type KillSwitch } from '../kill/instrument.js';
import { Copies } from '../sim/copies.js';
import { type Parts, partsOf } from './parts.js';
import { type Scenario, scenarioOf } from './scenario.js';
import { shrink } from './shrink.js';
import { World } from './world.js';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1000' },
    from: { type: 'string', default: '1' },
    scenario: { type: 'string' },
    points: { type: 'boolean', default: false },
    trace: { type: 'boolean', default: false },
  },
});

function wholeNumber(name: 'seeds' | 'from'): number {
  const value = Number(values[name]);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  console.error(`--${name}: got '${values[name]}', must be a whole number from 0 on`);
  process.exit(2);
}

function playFile(file: string, parts: Parts): void {
  const { violation, hash, trace } = new World(JSON.parse(readFileSync(file, 'utf8')) as Scenario, parts, true).play();
  for (const line of trace!) console.log(line);
  console.log(violation === null ? `no rule was broken, hash ${hash}` : `${violation.message}\nhash ${hash}`);
  process.exitCode = violation === null ? 0 : 1;
}

function playSeeds(from: number, count: number, parts: Parts): void {
  let polls = 0;
  let deaths = 0;
  for (let seed = from; seed < from + count; seed++) {
    const scenario = scenarioOf(seed);
    const result = new World(scenario, parts).play();
    polls += result.polls;
    deaths += result.deaths;
    if (values.trace) console.log(`${seed} ${result.hash}`);
    if (result.violation === null) continue;
    console.log(`seed ${seed}: ${result.violation.message}`);
    const { rule } = result.violation;
    const { scenario: shortest, runs } = shrink(scenario, rule, (candidate) => new World(candidate, parts).play().violation?.rule ?? null);
    console.log(`the shortest scenario found in ${runs} runs, ${shortest.events.length} of ${scenario.events.length} events: ${new World(shortest, parts).play().violation?.message}`);
    console.log(JSON.stringify(shortest));
    process.exitCode = 1;
    return;
  }
  console.log(`${count} seeds from ${from}, ${polls} polls, ${deaths} deaths: no rule was broken`);
}

function listPoints(points: readonly KillPoint[], { died, passed }: KillSwitch): void {
  points.forEach(({ file, line, function: name, statement }, n) => console.log(`${died[n]} of ${passed[n]}  ${file}:${line} ${name}: ${statement}`));
  console.log(`${points.filter((_, n) => died[n]! > 0).length} of ${points.length} statements were the last of a thread, ${points.filter((_, n) => passed[n]! > 0).length} were passed`);
}

const copies = new Copies();
try {
  const { copy, points } = instrument(copies);
  const parts = await partsOf(copy, true);
  if (values.scenario !== undefined) playFile(values.scenario, parts);
  else playSeeds(wholeNumber('from'), wholeNumber('seeds'), parts);
  if (values.points) listPoints(points, parts.kill!);
} finally {
  copies.remove();
}
