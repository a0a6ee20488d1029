/**
 * Looks for a shorter scenario that breaks the same rule: fewer events (halves first, then single ones), fewer requests per
 * event, fewer models, GPUs, shards and clients, no chance where none is needed. Greedy, and bounded by a number of runs.
 */
import type { Scenario, VoprEvent } from './scenario.js';
import type { Rule } from './tables.js';

export interface Shrunk {
  readonly scenario: Scenario;
  readonly runs: number;
}

export function shrink(scenario: Scenario, rule: Rule, ruleBroken: (scenario: Scenario) => Rule | null, mostRuns = 1500): Shrunk {
  let best = scenario;
  let runs = 0;
  const isAsBad = (candidate: Scenario): boolean => {
    if (runs >= mostRuns) return false;
    runs++;
    if (ruleBroken(candidate) !== rule) return false;
    best = candidate;
    return true;
  };
  for (let size = -1; size !== sizeOf(best) && runs < mostRuns; ) {
    size = sizeOf(best);
    for (const simpler of simplifications(best)) isAsBad({ ...best, ...simpler });
    dropEvents(() => best, isAsBad);
    for (let k = 0; k < best.events.length; k++) {
      while (simplerEvents(best.events[k]!).some((event) => isAsBad({ ...best, events: best.events.with(k, event) })));
    }
  }
  return { scenario: best, runs };
}

/** What must fall from pass to pass. */
function sizeOf({ events, models, gpus, shards, clients, scramble, interrupt }: Scenario): number {
  const requests = events.reduce((sum, event) => sum + (event.kind === 'submit' || event.kind === 'cancel' ? event.count : 0), 0);
  return events.length + requests + models.length + gpus + shards + clients + scramble + (interrupt > 0 ? 1 : 0);
}

function simplifications({ margins, models, gpus, shards, clients }: Scenario): Partial<Scenario>[] {
  const none = { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 };
  return [
    { interrupt: 0 },
    { scramble: 0 },
    { single: false },
    { deviceApart: true },
    ...(shards > 1 ? [{ shards: 1 }, { shards: shards - 1 }] : []),
    ...(clients > 1 ? [{ clients: 1 }, { clients: clients - 1 }] : []),
    ...(models.length > 1 ? [{ models: models.slice(0, 1) }, { models: models.slice(0, -1) }] : []),
    ...(gpus > 1 ? [{ gpus: 1 }, { gpus: gpus - 1 }] : []),
    ...(Object.values(margins).some((ns) => ns > 0) ? [{ margins: none }] : []),
  ];
}

/** Leaves out runs of events, from half of all down to single ones. */
function dropEvents(best: () => Scenario, isAsBad: (candidate: Scenario) => boolean): void {
  for (let length = best().events.length >> 1; length >= 1; length >>= 1) {
    for (let from = 0; from < best().events.length; ) {
      const { events } = best();
      if (!isAsBad({ ...best(), events: [...events.slice(0, from), ...events.slice(from + length)] })) from += length;
    }
  }
}

function simplerEvents(event: VoprEvent): VoprEvent[] {
  if (event.kind === 'submit') {
    return [
      ...(event.count > 1 ? [{ ...event, count: event.count >> 1 }, { ...event, count: event.count - 1 }] : []),
      ...(event.lateNs > 0 ? [{ ...event, lateNs: 0 }] : []),
      ...(event.sloNs > 0 ? [{ ...event, sloNs: 0 }] : []),
    ];
  }
  if (event.kind === 'kill') {
    return [
      ...(event.deaths.length > 1 ? [{ ...event, deaths: event.deaths.slice(0, -1) }, { ...event, deaths: event.deaths.slice(1) }] : []),
      ...(event.downNs > 0 ? [{ ...event, downNs: 0 }] : []),
    ];
  }
  if (event.kind === 'cancel' && event.count > 1) return [{ ...event, count: 1 }];
  return [];
}
