/** npm run bench [-- OPTIONS]: the microbenchmarks, in groups, each beside what a reader would otherwise pick. */
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import { pool, timers } from './gpus.js';
import { measureGroup, type Effort, type Group } from './harness.js';
import { clock, histogram, reference } from './meters.js';
import { policy, window } from './policy.js';
import { promise } from './promise.js';
import { closingText, jsonOf, textOf, type Measured } from './report.js';
import { ring } from './ring.js';
import { bitmap, doorbell, mailbox } from './signals.js';
import { roundtrip, transfer } from './threads.js';

const GROUPS: readonly Group[] = [reference, ring, transfer, mailbox, bitmap, doorbell, roundtrip, window, policy, pool, timers, histogram, clock, promise];
const MOST_RUNS = 100;

interface Options {
  readonly only?: readonly Group[];
  readonly runs?: number;
  readonly quick: boolean;
  /** true: to stdout. */
  readonly json?: string | true;
}

function groupsOf(text: string): Group[] {
  return text.split(',').map((name) => {
    const group = GROUPS.find((each) => each.name === name);
    if (group === undefined) throw new InvalidArgumentError(`No group is called "${name}"; there are ${GROUPS.map((each) => each.name).join(', ')}.`);
    return group;
  });
}

function runsOf(text: string): number {
  const runs = Number(text);
  if (!Number.isInteger(runs) || runs < 1 || runs > MOST_RUNS) throw new InvalidArgumentError(`It must be an integer from 1 to ${MOST_RUNS}.`);
  return runs;
}

const command = new Command('npm run bench --')
  .description('Microbenchmarks: median, least and most of some runs, and how many times as fast as a rival.')
  .option('--only <names>', `groups, with commas between: ${GROUPS.map((each) => each.name).join(', ')}`, groupsOf)
  .option('--runs <number>', 'runs of each case (default: 5, with --quick 1)', runsOf)
  .option('--quick', 'short runs: whether everything works, not how fast it is', false)
  .option('--json [file]', 'everything as JSON into a file; without a file to stdout, instead of the tables')
  .parse();
const { only, runs, quick, json } = command.opts<Options>();
const effort: Effort = { runs: runs ?? (quick ? 1 : 5), quick };
const toStdout = json === true || json === '-';
if (typeof json === 'string' && !toStdout) checkWritable(json);

const measured: Measured[] = [];
for (const group of only === undefined ? GROUPS : [reference, ...only.filter((each) => each !== reference)]) {
  const result = { group, rows: await measureGroup(group, effort) };
  measured.push(result);
  if (!toStdout) console.log(`${textOf(result)}\n`);
}
if (!toStdout) console.log(closingText(measured, effort));
if (json !== undefined) {
  const text = jsonOf(measured, measured[0]!.rows[0]!, effort);
  if (toStdout) process.stdout.write(text);
  else writeFileSync(json as string, text);
}

/** Now, and not when all has been measured. */
function checkWritable(file: string): void {
  try {
    closeSync(openSync(file, 'a'));
  } catch (error) {
    command.error(`error: --json ${file}: ${(error as Error).message}`);
  }
}
