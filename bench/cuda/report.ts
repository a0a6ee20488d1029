/** What was measured as Markdown, for docs/performance.md, and beside what DESIGN.md and the budgets ask for. */
import { fixed, percent, short, si } from '#rubato/report/units.js';
import type { CopiesReport } from './copies.js';
import type { DispatchReport } from './dispatch.js';
import type { GoodputReport } from './goodput.js';
import type { Spread } from './models.js';
import type { OverheadReport } from './overhead.js';
import type { ProfileReport } from './profile.js';

/** What each step has found; nothing of one that was left out. */
export interface Results {
  readonly profile?: readonly ProfileReport[];
  readonly dispatch?: readonly DispatchReport[];
  readonly overhead?: readonly OverheadReport[];
  readonly copies?: readonly CopiesReport[];
  readonly goodput?: readonly GoodputReport[];
}

export interface Budget {
  readonly what: string;
  readonly limit: number;
  readonly bound: 'least' | 'most';
  readonly measured: number;
  readonly met: boolean;
}

const DISPATCH_BUDGET_US = 25;
const BUSY_BUDGET = 0.95;
const BANDWIDTH_BUDGET = 0.9;

export function budgetsOf({ dispatch = [], copies = [], goodput = [] }: Results): Budget[] {
  const budget = (bound: 'least' | 'most', limit: number, what: string, measured: number): Budget => ({ what, limit, bound, measured, met: bound === 'most' ? measured <= limit : measured >= limit });
  const busy = goodput.find(({ model, policy, sustained }) => model === 'spin' && policy === 'adaptive' && sustained);
  return [
    ...dispatch.map(({ model, dispatchToStart }) => budget('most', DISPATCH_BUDGET_US, `dispatch to start of ${model}, p50, µs`, dispatchToStart.p50Us)),
    ...copies.flatMap(({ bytes, direction, bare }) => (bare === null ? [] : [budget('least', BANDWIDTH_BUDGET, `registered beside allocated memory, ${bytes / 1024} KiB ${direction}`, bare.registeredGBps / bare.allocatedGBps)])),
    ...(busy === undefined ? [] : [budget('least', BUSY_BUDGET, 'share of the time that the GPU is busy, spin, adaptive', busy.busyShare)]),
  ];
}

export function markdownOf(results: Results): string {
  const parts = [profileTable(results.profile), dispatchTable(results.dispatch), overheadTable(results.overhead), copiesTable(results.copies), goodputTable(results.goodput), budgetTable(budgetsOf(results))];
  return parts.filter((part) => part !== '').join('\n');
}

function table(title: string, head: readonly string[], rows: readonly (readonly string[])[], note: string): string {
  if (rows.length === 0) return '';
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [`**${title}** ${note}`.trim(), '', line(head), line(head.map(() => '---')), ...rows.map(line), ''].join('\n');
}

const us = ({ p50Us, p99Us }: Pick<Spread, 'p50Us' | 'p99Us'>): string => `${fixed(p50Us, 1)} / ${fixed(p99Us, 1)}`;
/** Where native/cuda/bare was not built, or has failed. */
const NOTHING = '–';

function profileTable(reports: readonly ProfileReport[] = []): string {
  const sizes = reports[0]?.sizes.map(({ batch }) => batch) ?? [];
  const rows = reports.map(({ model, sizes: measured, alphaUs, betaUs, worstResidualUs, worstResidualShare }) =>
    [model, ...sizes.map((batch) => us(measured.find((each) => each.batch === batch)!)), fixed(alphaUs, 2), fixed(betaUs, 1), `${fixed(worstResidualUs, 1)} (${percent(worstResidualShare)})`]);
  return table('ℓ(b).', ['model', ...sizes.map((batch) => `b = ${batch}`), 'α', 'β', 'worst residual'], rows, 'From start to end of batches, by the GPU’s events; p50 / p99, all in µs. The line goes through the medians.');
}

function dispatchTable(reports: readonly DispatchReport[] = []): string {
  const rows = reports.map(({ model, dispatchToStart, requestToStart }) => [model, us(dispatchToStart), us(requestToStart), `${dispatchToStart.count}`]);
  return table('To the start.', ['model', 'dispatch → start', 'request → start', 'batches'], rows, 'Idle GPU, one batch of one at a time; p50 / p99 in µs. The copy of the input lies before the start.');
}

function overheadTable(reports: readonly OverheadReport[] = []): string {
  const rows = reports.map(({ model, batch, bare, oneByOne, backToBackPerSecond, meanBatch }) => [
    model, `${batch}`,
    bare === null ? NOTHING : us({ p50Us: bare.oneByOneUs.p50, p99Us: bare.oneByOneUs.p99 }), us(oneByOne), bare === null ? NOTHING : fixed(oneByOne.p50Us - bare.oneByOneUs.p50, 1),
    bare === null ? NOTHING : si(bare.backToBackPerSecond), si(backToBackPerSecond), fixed(meanBatch, 1), bare === null ? NOTHING : fixed(1e6 / backToBackPerSecond - 1e6 / bare.backToBackPerSecond, 1),
  ]);
  const head = ['model', 'b', 'graph alone, one by one', 'submit → results', 'more', 'graph alone, batches/s', 'scheduler, batches/s', 'its mean batch', 'more per batch'];
  return table('Overhead.', head, rows, 'The whole stack beside a C++ program that launches the same graph; times in µs, p50 / p99.');
}

function copiesTable(reports: readonly CopiesReport[] = []): string {
  const rows = reports.map(({ bytes, direction, bare, scheduler }) => [
    `${bytes / 1024} KiB`, direction, ...(bare === null ? [NOTHING, NOTHING, NOTHING] : [fixed(bare.registeredGBps, 2), fixed(bare.allocatedGBps, 2), percent(bare.registeredGBps / bare.allocatedGBps, 1)]), scheduler === null ? NOTHING : fixed(scheduler, 2),
  ]);
  return table('Copies.', ['bytes', 'direction', 'registered', 'allocated by the driver', 'share', 'through the scheduler'], rows, 'GB/s.');
}

function goodputTable(reports: readonly GoodputReport[] = []): string {
  const rows = reports.map((each) => [
    each.model, `${each.sloMs} ms`, each.policy, `${fixed(each.alphaUs, 1)}·b + ${fixed(each.betaUs, 0)} µs`, si(each.capacityPerSecond), `${si(each.goodPerSecond)}${each.sustained ? '' : ' (not sustained)'}`, percent(each.badShare),
    fixed(each.meanBatch, 1), percent(each.busyShare, 1), short(each.lagP999Ms),
  ]);
  const head = ['model', 'SLO', 'policy', 'ℓ(b)', 'GPU could run/s', 'good/s', 'bad', 'mean batch', 'busy', 'generator late p99.9 ms'];
  return table('Goodput.', head, rows, 'The highest rate that was found with at most 1 % bad, Poisson arrivals. Busy: share of the time from starts to ends of batches, by the GPU’s events.');
}

function budgetTable(budgets: readonly Budget[]): string {
  const rows = budgets.map(({ what, bound, limit, measured, met }) => [what, short(measured), `at ${bound} ${short(limit)}`, met ? 'met' : 'MISSED']);
  return table('Budgets.', ['what', 'measured', 'budget', ''], rows, '');
}
