/** In what order the deadlines of a model's requests come: the scheduler keeps its queues ordered by deadline. */
import type { ClientPort } from '../protocol/client-port.js';

/**
 * `in-order`: every request has its model's SLO. `mixed`: the requests of a model have its SLO and half of it, alternately.
 * `random`: each request's SLO is drawn between half of its model's and the whole.
 */
export const DEADLINE_ORDERS = ['in-order', 'mixed', 'random'] as const;
export type DeadlineOrder = (typeof DEADLINE_ORDERS)[number];

/** The shortest SLO of a request, as a share of its model's. */
export const LEAST_SLO_SHARE = { 'in-order': 1, mixed: 0.5, random: 0.5 } as const satisfies Record<DeadlineOrder, number>;

/** Draws the SLOs of one client's requests. */
export class SloDrawer {
  readonly #order: DeadlineOrder;
  /** By model: 1 if its last request had half of the SLO. */
  readonly #short: Uint8Array;
  #state: number;

  constructor(order: DeadlineOrder, models: number, seed: number) {
    this.#order = order;
    this.#short = new Uint8Array(models);
    this.#state = seed | 0;
  }

  /** The share of its model's SLO that the next request of `model` has. */
  next(model: number): number {
    if (this.#order === 'in-order') return 1;
    if (this.#order === 'mixed') return (this.#short[model]! ^= 1) === 1 ? 0.5 : 1;
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) | 0;
    return 0.5 + (this.#state >>> 8) / 2 ** 25;
  }

  /** As `ClientPort.submitBulk`: submits and commits requests 0 to `count` - 1, returns how many were accepted. */
  submit(port: ClientPort, models: Int32Array, arrivalsNs: Float64Array, count: number): number {
    if (this.#order === 'in-order') return port.submitBulk(models, arrivalsNs, 0, count);
    let accepted = 0;
    for (let k = 0; k < count; k++) {
      const model = models[k]!;
      if (port.submit(model, arrivalsNs[k]!, this.next(model) * port.sloNs(model)) >= 0) accepted++;
    }
    port.commit();
    return accepted;
  }
}
