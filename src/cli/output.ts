/** Where results go besides the screen: `--json FILE`, `--hgrm FILE` and `--plot FILE`, `-` for standard output. */
import { accessSync, constants, existsSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { InvalidOptionError } from '../model/errors.js';
import { hgrm, histogramOf } from '../report/histogram.js';
import type { RunTotals } from '../report/run-report.js';

export interface OutputOptions {
  readonly json?: string;
  readonly hgrm?: string;
  readonly plot?: string;
}

/** Whether the screen is taken by machine-readable output, so that nothing else may be printed there. */
export function screenIsTaken(options: OutputOptions): boolean {
  return options.json === '-' || options.hgrm === '-' || options.plot === '-';
}

/** Finds out before a run of minutes whether its results can be written. Creates nothing. */
export function checkOutputs(options: OutputOptions): void {
  let onScreen: string | null = null;
  for (const [option, file] of [['--json', options.json], ['--hgrm', options.hgrm], ['--plot', options.plot]] as const) {
    if (file === '-' && onScreen !== null) throw new InvalidOptionError(option, `got -, but ${onScreen} has standard output already; give one of them a file`);
    if (file === '-') onScreen = option;
    if (file === undefined || file === '-') continue;
    try {
      if (statSync(file, { throwIfNoEntry: false })?.isDirectory() === true) throw new Error('it is a folder');
      accessSync(existsSync(file) ? file : dirname(file), constants.W_OK);
    } catch (error) {
      throw unwritable(option, file, error);
    }
  }
}

export function writeJson(options: OutputOptions, report: object): void {
  if (options.json !== undefined) write('--json', options.json, `${JSON.stringify(report, null, 2)}\n`);
}

/** `page` makes the file's text, and is called only if it is wanted. */
export function writePlot(options: OutputOptions, page: () => string): void {
  if (options.plot !== undefined) write('--plot', options.plot, page());
}

/** The latencies of all models together, in ms, as an HdrHistogram percentile file. */
export function writeHgrm(options: OutputOptions, totals: RunTotals): void {
  if (options.hgrm === undefined) return;
  const rows = totals.models.map((model) => model.latency).filter((row) => row !== undefined);
  write('--hgrm', options.hgrm, hgrm(histogramOf(...rows)));
}

function write(option: string, file: string, text: string): void {
  if (file === '-') {
    process.stdout.write(text);
    return;
  }
  try {
    writeFileSync(file, text);
  } catch (error) {
    throw unwritable(option, file, error);
  }
}

function unwritable(option: string, file: string, error: unknown): InvalidOptionError {
  return new InvalidOptionError(option, `cannot write ${file}: ${error instanceof Error ? error.message : String(error)}`);
}
