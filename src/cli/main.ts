/**
 * The command line. Exit codes: 0 = ran, 1 = bad input (one line, no stack) or a FAIL of bench stress, 2 = a broken invariant, 130 = interrupted.
 */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { CUDA_LOAD_LIMIT } from '../devices/cuda/native.js';
import { parsePositiveDurationNs } from '../model/duration.js';
import { InvalidOptionError, RubatoError } from '../model/errors.js';
import { type Condition, CONDITIONS, DROP_POLICIES, type DropPolicy } from '../protocol/config.js';
import { buildRunReport, printRunReport, type RunReport, type RunTotals } from '../report/run-report.js';
import { WAITING_STRATEGIES, type WaitingStrategy } from '../scheduler/waiter.js';
import { parseArrivals } from '../sim/arrivals.js';
import { isRecording } from '../sim/recording.js';
import { loadWorkload, shippedWorkloads } from '../sim/workload.js';
import { collect, integer, listOf, number, oneOf } from './arguments.js';
import { type AutoscaleFlags, autoscaleReport, plotAutoscale, printAutoscale } from './autoscale.js';
import { type DeadlineOrder, DEADLINE_ORDERS } from './deadline-order.js';
import { doctor, printDoctor } from './doctor.js';
import { type GoodputFlags, goodputReport, plotGoodput, printGoodput } from './goodput.js';
import { benchLoad, type LoadOptions } from './load.js';
import { benchMatrix, MATRIX_AXES, MATRIX_SECONDS, matrixHead, matrixLine, matrixPoints } from './matrix.js';
import { checkOutputs, type OutputOptions, screenIsTaken, writeHgrm, writeJson, writePlot } from './output.js';
import { type PlanFlags, planReport, plotPlan, printPlan } from './plan.js';
import type { TraceFlags } from './recorded.js';
import { type IsGiven, plotReplay, printReplay, type ReplayFlags, replayReport } from './replay.js';
import { plotSimulate, printSimulate, simulateReport } from './simulate.js';
import { benchStress, printStress } from './stress.js';
import { parseSynthetic, SYNTHETIC_DEFAULTS, type SyntheticFlags } from './synthetic.js';
import { benchThroughput, printThroughput } from './throughput.js';

const BAD_INPUT = 1;
const FAILED = 1;
const BROKEN = 2;
const INTERRUPTED = 130;

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };

/** Those of an axis have several values with --matrix, else one. */
interface ThroughputFlags extends OutputOptions, Omit<SyntheticFlags, 'models' | 'gpus' | 'shards' | 'order'> {
  matrix?: true;
  models: number[];
  gpus: number[];
  shards: number[];
  order: DeadlineOrder[];
  seconds: number;
}

interface StressFlags extends OutputOptions, SyntheticFlags {
  rate?: number;
  seconds: number;
}

interface LoadFlags extends OutputOptions, TraceFlags {
  workload?: string;
  rate?: number;
  seconds?: number;
  gpus?: number;
  arrivals?: string;
  dropPolicy: string;
  condition: string;
  record?: string;
  seed: number;
  waiting: WaitingStrategy;
}

interface StartFlags extends OutputOptions {
  seconds: number;
}

const program = new Command('rubato')
  .description('Deferred batch scheduling of inference requests inside a Node.js process.')
  .version(version)
  .configureOutput({ outputError: (text) => complain(`${text.replace(/^error: /, '')} (see --help)`) })
  .exitOverride()
  .addHelpText('after', '\nExamples:\n  rubato bench throughput\n  rubato bench load --workload mix3 --seconds 5\n  rubato bench load --workload titanx4 --trace arrivals.csv --speed 400 --json report.json\n  rubato simulate --workload r50 --load 0.8 --policy frontrun,immediate\n  rubato goodput --workload mix3 --policy frontrun,immediate\n  rubato plan --workload r50 --rate 5000\n  rubato doctor');

program
  .command('start')
  .description('run the built-in workload for five seconds, then a short throughput benchmark')
  .option('--seconds <n>', 'length of the workload run', number(0.1, 3600), 5)
  .option('--json <file>', 'write both reports as JSON (- for standard output)')
  .option('--hgrm <file>', 'write the latencies as an HdrHistogram percentile file')
  .action(runStart);

const bench = program.command('bench').description('measure: throughput of the scheduler, or a workload under load');

/** What the commands under synthetic load have in common; `axis` makes of an option's parser and default those of an axis. */
function synthetic(name: string, description: string, axis: <T>(parse: (text: string) => T, usual: T) => [(text: string) => unknown, unknown]): Command {
  const usual = SYNTHETIC_DEFAULTS;
  return bench
    .command(name)
    .description(description)
    .option('--models <n>', 'models, all alike', ...axis(integer(1, 4096), usual.models))
    .option('--gpus <n>', 'emulated GPUs', ...axis(integer(1, 16384), usual.gpus))
    .option('--shards <n>', 'shards, all in the scheduler thread', ...axis(integer(1, 64), usual.shards))
    .option('--order <name>', 'deadlines of a model’s requests: in-order (all have its SLO), mixed (SLO and half of it, alternately), random (drawn between)', ...axis<DeadlineOrder>(oneOf(DEADLINE_ORDERS), usual.order))
    .option('--profile <alpha,beta>', 'time of a batch of b: ALPHA·b + BETA', usual.profile)
    .option('--max-batch <n>', 'largest batch', integer(1, 8191), usual.maxBatch)
    .option('--slo <duration>', 'latency objective of every model', usual.slo)
    .option('--drop-policy <name>', DROP_POLICIES.join(', '), oneOf<readonly DropPolicy[]>(DROP_POLICIES), usual.dropPolicy)
    .option('--condition <name>', CONDITIONS.join(', '), oneOf<readonly Condition[]>(CONDITIONS), usual.condition)
    .option('--clients <n>', 'threads that generate load', integer(1, 16), usual.clients)
    .option('--waiting <strategy>', `how the scheduler thread waits: ${WAITING_STRATEGIES.join(', ')}`, oneOf(WAITING_STRATEGIES), usual.waiting)
    .option('--json <file>', 'write the report as JSON (- for standard output)');
}

synthetic('throughput', 'find the highest open-loop rate with at most 1 % bad', (parse, usual) => [listOf(parse), [usual]])
  .option('--seconds <n>', `length of the confirming run (with --matrix: ${MATRIX_SECONDS})`, number(0.1, 600), 5)
  .option('--matrix', 'search at a base point (64 models, 64 GPUs, 1 shard, in order) and along each axis from there; --models, --gpus, --shards and --order take lists')
  .addHelpText('after', `
With --matrix the axes are models ${MATRIX_AXES.models.join(',')}, GPUs ${MATRIX_AXES.gpus.join(',')}, shards ${MATRIX_AXES.shards.join(',')} and order ${MATRIX_AXES.order.join(',')},
unless given; an axis with one value is fixed. Without --profile each point has one with which GPUs are not the limit.
A point takes 10 to 30 seconds. Ctrl-C keeps the points that are there.`)
  .addHelpText('after', `
Examples:
  rubato bench throughput
  rubato bench throughput --models 1 --gpus 8 --profile 0.05us,40us --max-batch 512
  rubato bench throughput --matrix --json matrix.json
  rubato bench throughput --matrix --models 1,64 --gpus 64 --shards 1 --order in-order,random`)
  .action(runThroughput);

synthetic('stress', 'pass or fail: is the load generator never late, and at most 1 % bad?', (parse, usual) => [parse, usual])
  .option('--rate <r>', 'requests per second (default: search for the highest that passes)', number(1, 25e6))
  .option('--seconds <n>', 'length of a run (those of the search: at most 3)', number(0.1, 600), 15)
  .addHelpText('after', `
A run passes if the load generator was at most 2 ms late at p99.9 and 20 ms at worst, and at most 1 % were bad. One that
fails is repeated once. Exit code 0: PASS, 1: FAIL.`)
  .addHelpText('after', `
Examples:
  rubato bench stress --rate 2e6
  rubato bench stress --models 1 --gpus 512 --profile 50us,2ms --max-batch 1024 --slo 50ms
  rubato bench stress --models 1 --gpus 1024 --profile 1.082ms,5.204ms --max-batch 1024 --slo 100ms --rate 800000`)
  .action(runStress);

bench
  .command('load')
  .description('run a workload on emulated GPUs in real time, open loop')
  .option('--workload <name|file>', `a shipped one (${shippedWorkloads().join(', ')}; NAME-b is bursty) or a JSON or YAML file`)
  .option('--trace <file>', 'recorded requests: a CSV file with a column of times')
  .option('--speed <x>', 'compress the time of the trace', number(1e-6, 1e9), 1)
  .option('--time-column <name>', 'the column of the trace that holds the times')
  .option('--model-column <name>', 'the column of the trace that names each request’s model (default: drawn by the models’ shares)')
  .option('--rate <r>', 'requests per second (default: the workload’s, else 60 % of its staggered optimum)', number(1e-3, 1e9))
  .option('--seconds <t>', 'length of the run (default: the workload’s, else 10; with a trace: all of it)', number(0.1, 3600))
  .option('--gpus <n>', 'emulated GPUs (default: the workload’s)', integer(1, 16384))
  .option('--arrivals <kind>', 'const, poisson or gamma:SHAPE, instead of the workload’s')
  .option('--drop-policy <name>', DROP_POLICIES.join(', '), oneOf(DROP_POLICIES), 'adaptive' as const)
  .option('--condition <name>', CONDITIONS.join(', '), oneOf(CONDITIONS), 'adaptive' as const)
  .option('--seed <n>', 'seed of the arrivals', integer(0, 2 ** 31 - 2), 1)
  .option('--waiting <strategy>', `how the scheduler thread waits: ${WAITING_STRATEGIES.join(', ')}`, oneOf(WAITING_STRATEGIES), 'balanced' as const)
  .option('--json <file>', 'write the report as JSON (- for standard output)')
  .option('--hgrm <file>', 'write the latencies as an HdrHistogram percentile file (- for standard output)')
  .option('--record <file>', 'write every arrival into a file that simulate --trace replays (compressed if it ends in .gz)')
  .addHelpText('after', '\nExamples:\n  rubato bench load --workload mix3\n  rubato bench load --workload titanx4 --trace arrivals.csv --time-column TIMESTAMP --speed 400')
  .action(runLoad);

/** What the commands in virtual time have in common. */
function simulated(name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .option('--workload <name|file>', `a shipped one (${shippedWorkloads().join(', ')}; NAME-b is bursty) or a JSON or YAML file`)
    .option('--gpus <n>', 'emulated GPUs (default: the workload’s)', integer(1, 4096))
    .option('--policy <a,b,…>', 'policies to compare, each a condition + a drop policy, or a rival’s name', 'adaptive')
    .option('--arrivals <kind>', 'const, poisson or gamma:SHAPE, instead of the workload’s')
    .option('--seed <n>', 'seed of the arrivals, the first of several', integer(0, 2 ** 31 - 2), 1)
    .option('--warmup <t>', 'seconds before those that count', number(0, 1e6))
    .option('--control <duration>', 'delay from a grant to the device, per batch', '0ms')
    .option('--transfer <duration>', 'delay of the input transfer, per request', '0ms')
    .option('--response <duration>', 'delay from the device to the client', '0ms')
    .option('--jitter <duration>', 'margin kept off the schedulable window for the error of timers', '0ms')
    .option('--shards <n>', 'shards of our own policies; the result does not depend on it', integer(1, 64), 1)
    .option('--json <file>', 'write the report as JSON (- for standard output)')
    .option('--plot <file>', 'write a page with charts, HTML that needs no network');
}

simulated('simulate', 'run a workload in virtual time, policies side by side')
  .option('--seconds <t>', 'simulated seconds that count (default: the workload’s, else 60; with a trace: all of it)', number(1e-3, 1e7))
  .option('--rate <r>', 'requests per second (default: the workload’s, else 60 % of its staggered optimum)', number(1e-3, 1e9))
  .option('--load <x>', 'the rate as a share of the staggered optimum', number(1e-6, 1e3))
  .option('--trace <file>', 'recorded requests: a CSV file with a column of times')
  .option('--speed <x>', 'compress the time of the trace', number(1e-6, 1e9), 1)
  .option('--time-column <name>', 'the column of the trace that holds the times')
  .option('--model-column <name>', 'the column of the trace that names each request’s model (default: drawn by the models’ shares)')
  .option('--slo <model=duration>', 'another SLO for a model of a recording (may be repeated)', collect)
  .option('--slo-scale <x>', 'every SLO of a recording times this', number(1e-3, 1e3))
  .addHelpText('after', '\nA --trace that bench load --record or the option record of createScheduler has written is replayed with its own models,\nGPUs, policies and delays, beside what --gpus, --slo, --slo-scale, --speed and --policy change.')
  .addHelpText('after', '\nExamples:\n  rubato simulate --workload r50 --load 0.8 --policy frontrun,immediate\n  rubato simulate --workload titanx4 --trace arrivals.csv --speed 400 --plot report.html\n  rubato simulate --trace recorded.csv.gz --gpus 4 --slo-scale 1.5')
  .action(runSimulate);

simulated('goodput', 'find the highest rate with at most 1 % bad, in virtual time')
  .option('--seconds <t>', 'simulated seconds that count, per run (default: 30)', number(1e-3, 1e7))
  .option('--seeds <n>', 'arrival sequences to average over', integer(1, 100), 3)
  .option('--resolution <x>', 'distance of the rates that are tried, as a share of the staggered optimum', number(1e-5, 0.5), 0.005)
  .addHelpText('after', '\nExamples:\n  rubato goodput --workload mix3 --policy frontrun,immediate,immediate+timeout\n  rubato goodput --workload r50 --gpus 64 --seeds 1 --plot goodput.html')
  .action(runGoodput);

simulated('plan', 'find the fewest GPUs for a rate with at most 1 % bad, in virtual time')
  .option('--seconds <t>', 'simulated seconds that count, per run (default: 30)', number(1e-3, 1e7))
  .option('--seeds <n>', 'arrival sequences per number of GPUs', integer(1, 100), 3)
  .option('--rate <r>', 'requests per second (default: the workload’s, else 60 % of its staggered optimum)', number(1e-3, 1e9))
  .option('--load <x>', 'the rate as a share of the staggered optimum of the workload’s GPUs', number(1e-6, 1e3))
  .addHelpText('after', '\nExamples:\n  rubato plan --workload r50 --rate 5000\n  rubato plan --workload mix3 --load 0.5 --policy frontrun,immediate')
  .action(runPlan);

simulated('autoscale', 'follow the scheduler’s advice on GPUs through a day, in virtual time, beside the fewest that would do')
  .option('--rate <r>', 'requests per second at the peak (default: the workload’s, else 60 % of its staggered optimum)', number(1e-3, 1e9))
  .option('--load <x>', 'the peak as a share of the staggered optimum of the workload’s GPUs', number(1e-6, 1e3))
  .option('--minute <duration>', 'simulated time for each of the 1440 minutes', '2s')
  .option('--startup <duration>', 'simulated time that a GPU takes to start', '5s')
  .option('--most-gpus <n>', 'GPUs at once (default: twice --gpus)', integer(1, 4096))
  .option('--epoch <duration>', 'how often it is advised', '1s')
  .option('--hysteresis <n>', 'epochs for which a GPU must be idle', integer(1, 1000), 3)
  .option('--seconds <t>', 'simulated seconds that count, per run that finds the fewest GPUs (default: 10)', number(1e-3, 1e7))
  .option('--seeds <n>', 'arrival sequences per number of GPUs', integer(1, 100), 1)
  .addHelpText('after', '\nExamples:\n  rubato autoscale --workload r50 --load 0.95 --plot day.html\n  rubato autoscale --workload mix3 --load 0.95 --minute 4s --startup 10s --policy adaptive,frontrun')
  .action(runAutoscale);

program
  .command('doctor')
  .description('say what this machine offers and what is missing')
  .option('--cuda-limit <duration>', 'how long the CUDA driver may take to answer', CUDA_LOAD_LIMIT)
  .option('--json <file>', 'write the findings as JSON (- for standard output)')
  .action((options: OutputOptions & { cudaLimit: string }) => {
    parsePositiveDurationNs(options.cudaLimit, '--cuda-limit');
    const report = doctor(options.cudaLimit);
    if (!screenIsTaken(options)) printDoctor(report);
    writeJson(options, report);
  });

// ---------------------------------------------------------------- the commands

async function runThroughput(flags: ThroughputFlags, command: Command): Promise<void> {
  checkOutputs(flags);
  if (flags.matrix === true) return runMatrix(flags, (flag) => command.getOptionValueSource(flag) === 'cli');
  const { seconds, matrix: _, ...rest } = flags;
  const load = parseSynthetic({ ...rest, models: single('--models', flags.models), gpus: single('--gpus', flags.gpus), shards: single('--shards', flags.shards), order: single('--order', flags.order) });
  const report = await benchThroughput({ ...load, seconds }, stopOnInterrupt);
  if (!screenIsTaken(flags)) printThroughput(report, print);
  writeJson(flags, report);
}

async function runMatrix(flags: ThroughputFlags, isGiven: (flag: keyof ThroughputFlags) => boolean): Promise<void> {
  const axisOf = <Axis extends keyof typeof MATRIX_AXES>(axis: Axis): (typeof MATRIX_AXES)[Axis] => (isGiven(axis) ? flags[axis] : MATRIX_AXES[axis]);
  const axes = { models: axisOf('models'), gpus: axisOf('gpus'), shards: axisOf('shards'), order: axisOf('order') };
  const seconds = isGiven('seconds') ? flags.seconds : MATRIX_SECONDS;
  const show = screenIsTaken(flags) ? (): void => undefined : print;
  const report = await benchMatrix(axes, { ...flags, seconds, profile: isGiven('profile') ? flags.profile : null }, {
    onInterrupt: stopOnInterrupt,
    onRow: (row, index) => show((index === 0 ? matrixHead(matrixPoints(axes).length, seconds) : '') + matrixLine(row)),
  });
  if (report.missing > 0) show(`Interrupted: ${report.missing} points are missing.\n`);
  writeJson(flags, report);
}

async function runStress(flags: StressFlags): Promise<void> {
  checkOutputs(flags);
  const report = await benchStress({ ...parseSynthetic(flags), ratePerSecond: flags.rate ?? null, seconds: flags.seconds }, stopOnInterrupt);
  if (!screenIsTaken(flags)) printStress(report, print);
  else if (report.verdict === 'FAIL') complain(`FAIL: ${report.reasons.join('; ')}`);
  writeJson(flags, report);
  if (report.verdict === 'FAIL') process.exitCode = FAILED;
}

function single<T>(option: string, values: readonly T[]): T {
  if (values.length > 1) throw new InvalidOptionError(option, `got ${values.join(',')}; several values are for --matrix`);
  return values[0]!;
}

async function runLoad(flags: LoadFlags): Promise<void> {
  // Not a requiredOption: that would be asked for before a misspelled one is noticed.
  if (flags.workload === undefined) throw new InvalidOptionError('--workload', `is missing, must be one of ${shippedWorkloads().join(', ')} or a JSON or YAML file`);
  checkOutputs(flags);
  const { totals, report } = await load({
    workload: loadWorkload(flags.workload),
    gpus: flags.gpus,
    ratePerSecond: flags.rate ?? null,
    seconds: flags.seconds ?? null,
    arrivals: flags.arrivals === undefined ? null : parseArrivals(flags.arrivals, '--arrivals'),
    trace: flags,
    dropPolicy: flags.dropPolicy,
    condition: flags.condition,
    waiting: flags.waiting,
    record: flags.record ?? null,
    seed: flags.seed,
  });
  if (!screenIsTaken(flags)) printRunReport(report, print, pageOptions());
  writeJson(flags, report);
  writeHgrm(flags, totals);
}

async function load(options: Omit<LoadOptions, 'gpus'> & { gpus: number | undefined }): Promise<{ totals: RunTotals; report: RunReport }> {
  const totals = await benchLoad({ ...options, gpus: options.gpus ?? options.workload.gpus }, stopOnInterrupt);
  return { totals, report: buildRunReport(totals) };
}

async function runSimulate(flags: ReplayFlags, command: Command): Promise<void> {
  checkOutputs(flags);
  if (flags.trace !== undefined && isRecording(flags.trace)) return runReplay(flags, flags.trace, (flag) => command.getOptionValueSource(flag) === 'cli');
  for (const flag of ['slo', 'sloScale'] as const) {
    if (flags[flag] !== undefined) throw new InvalidOptionError(flag === 'slo' ? '--slo' : '--slo-scale', 'is for recorded traffic: give --trace a recording');
  }
  const report = await simulateReport(flags);
  if (!screenIsTaken(flags)) printSimulate(report, { write: print, ...pageOptions() });
  writeJson(flags, report);
  writePlot(flags, () => plotSimulate(report));
}

async function runReplay(flags: ReplayFlags, file: string, isGiven: IsGiven): Promise<void> {
  const report = await replayReport(flags, file, isGiven);
  if (!screenIsTaken(flags)) printReplay(report, { write: print, ...pageOptions() });
  writeJson(flags, report);
  writePlot(flags, () => plotReplay(report));
}

async function runGoodput(flags: GoodputFlags): Promise<void> {
  checkOutputs(flags);
  const report = await goodputReport(flags);
  if (!screenIsTaken(flags)) printGoodput(report, { write: print, ...pageOptions() });
  writeJson(flags, report);
  writePlot(flags, () => plotGoodput(report));
}

async function runPlan(flags: PlanFlags): Promise<void> {
  checkOutputs(flags);
  const report = await planReport(flags);
  if (!screenIsTaken(flags)) printPlan(report, { write: print, ...pageOptions() });
  writeJson(flags, report);
  writePlot(flags, () => plotPlan(report));
}

async function runAutoscale(flags: AutoscaleFlags): Promise<void> {
  checkOutputs(flags);
  const report = await autoscaleReport(flags);
  if (!screenIsTaken(flags)) printAutoscale(report, { write: print, ...pageOptions() });
  writeJson(flags, report);
  writePlot(flags, () => plotAutoscale(report));
}

async function runStart(flags: StartFlags): Promise<void> {
  checkOutputs(flags);
  const quiet = screenIsTaken(flags);
  const common = { gpus: undefined, ratePerSecond: null, arrivals: null, trace: { speed: 1 }, dropPolicy: 'adaptive', condition: 'adaptive', waiting: 'balanced', record: null, seed: 1 } as const;
  const { totals, report } = await load({ ...common, workload: loadWorkload('titanx4'), seconds: flags.seconds });
  if (!quiet) printRunReport(report, print, pageOptions());
  writeHgrm(flags, totals);
  if (process.exitCode === INTERRUPTED) return;
  const speed = await benchThroughput({ ...parseSynthetic(SYNTHETIC_DEFAULTS), seconds: Math.min(2, flags.seconds), searchSeconds: 8 }, stopOnInterrupt);
  if (!quiet) {
    printThroughput(speed, print);
    print('\nWhat to try next:\n  bin/rubato bench load --workload mix3-b      three models, bursty arrivals\n  bin/rubato bench throughput --models 1 --gpus 8 --profile 0.05us,40us --max-batch 512\n  bin/rubato doctor                            what this machine offers\n  README.md                                    fifteen lines to put it into your service\n');
  }
  writeJson(flags, { load: report, throughput: speed });
}

// ---------------------------------------------------------------- around them

function print(text: string): void {
  process.stdout.write(text);
}

/** One line, whatever a file name or a parser's message holds. */
function complain(problem: string): void {
  process.stderr.write(`rubato: ${problem.trim().replace(/\s*\n\s*/g, ' ')}\n`);
}

/** Where the screen is a file or a pipe, COLUMNS says how wide the text shall be. */
function pageOptions(): { columns?: number } {
  const columns = Number(process.env['COLUMNS']);
  return !process.stdout.isTTY && columns >= 40 ? { columns } : {};
}

/** The first Ctrl-C ends the run early and reports what there is, the second ends the program. */
let stopRun: (() => void) | null = null;

function stopOnInterrupt(stop: () => void): void {
  stopRun = stop;
}

process.on('SIGINT', () => {
  if (stopRun === null || process.exitCode === INTERRUPTED) process.exit(INTERRUPTED);
  process.exitCode = INTERRUPTED;
  stopRun();
});

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : BAD_INPUT; // commander has printed it
  } else if (error instanceof RubatoError) {
    complain(error.message);
    process.exitCode = error.code === 'ERR_RUBATO_BROKEN_INVARIANT' || error.code === 'ERR_RUBATO_THREAD_DIED' ? BROKEN : BAD_INPUT;
  } else {
    process.stderr.write(`rubato: ${error instanceof Error ? error.stack : String(error)}\n`);
    process.exitCode = BROKEN;
  }
}
