/** The requests that a simulated run is offered: the same ones to every policy, ours or a rival's. */
import { TimeTree } from '../../clock/time-tree.js';
import type { ArrivalProcess } from '../arrivals.js';
import { openArrivals } from '../segments.js';
import { modelRates, type Workload } from '../workload.js';

/** Arrivals of all models in order of time. */
export interface ArrivalSource {
  /** Time and model of the next arrival; Infinity and -1 when none is left. */
  readonly nextNs: number;
  readonly model: number;
  /** Its own SLO; its model's where absent or 0. */
  readonly sloNs?: number;
  advance(): void;
}

/**
 * Each model has its own process, random stream and share of the rate, and begins at time 0 with a gap. Segments begin
 * after the lead-in, the warm-up of a run.
 * Arrivals at the same instant come by model number.
 */
export class ArrivalStream implements ArrivalSource {
  readonly #processes: readonly ArrivalProcess[];
  readonly #next: TimeTree;
  nextNs = 0;
  model = 0;

  constructor(workload: Workload, ratePerSecond: number, seed: number, leadInNs = 0) {
    const rates = modelRates(workload, ratePerSecond);
    this.#processes = workload.models.map(({ arrivals }, model) =>
      openArrivals({ pattern: arrivals, ratePerSecond: rates[model]!, segments: workload.segments, leadInNs }, seed, model));
    this.#next = new TimeTree(this.#processes.length);
    for (const [model, process] of this.#processes.entries()) this.#next.set(model, process.nextGapNs());
    this.#look();
  }

  advance(): void {
    this.#next.set(this.model, this.nextNs + this.#processes[this.model]!.nextGapNs());
    this.#look();
  }

  #look(): void {
    this.nextNs = this.#next.min();
    this.model = this.#next.first();
  }
}

/** Arrivals that are written down: for scenarios worked by hand. */
export class ListedArrivals implements ArrivalSource {
  readonly #list: readonly (readonly [atNs: number, model: number])[];
  #at = 0;

  /** @param list in order of time, and of model at the same time. */
  constructor(list: readonly (readonly [atNs: number, model: number])[]) {
    this.#list = list;
  }

  get nextNs(): number {
    return this.#list[this.#at]?.[0] ?? Infinity;
  }

  get model(): number {
    return this.#list[this.#at]?.[1] ?? -1;
  }

  advance(): void {
    this.#at++;
  }
}
