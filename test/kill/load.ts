/**
 * The load under which scheduler threads are killed, and its books: every client counts by request what it has sent and how
 * each has ended, so that a request that is lost, or that ends twice, shows.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Batch, ModelOptions, RawClient, SchedulerOptions } from '#rubato/index.js';
import { OUTCOME, OUTCOME_CODES, outcomeOf } from '#rubato/protocol/outcome.js';
import type { AnyModels } from '#rubato/scheduler/types.js';
import type { Client } from '#rubato/scheduler/client.js';

/** A generator of whole numbers below n. */
export type Chance = (n: number) => number;

export function chanceOf(seed: number): Chance {
  let state = seed | 1;
  return (n) => (state = (Math.imul(state, 1664525) + 1013904223) | 0) && (state >>> 8) % n;
}

const TENSOR = { dtype: 'float32', shape: [4] } as const;
const MODEL = { profile: { alpha: 0.02, beta: 0.4, maxBatch: 16 }, condition: 'immediate' } as const;
const tensors = { inputs: { x: TENSOR }, outputs: { y: TENSOR } };

/** Each client has models of its own, two of a kind, so that with two shards each kind is in both. `tight` ones drop. */
export const OWN = ['own0', 'own1'];
export const FAR = ['far0', 'far1'];
export const RAW = ['raw0', 'raw1', 'tight0', 'tight1'];

const CALLBACKS = 2;

export const LOAD_OPTIONS: SchedulerOptions<never, unknown> = {
  models: [
    ...[...OWN, ...FAR].map((name): ModelOptions => ({ ...MODEL, name, slo: '60s', ...tensors })),
    ...RAW.map((name): ModelOptions => (name.startsWith('raw') ? { ...MODEL, name, slo: '60s' } : { ...MODEL, name, slo: '12ms', condition: 'adaptive', maxQueue: 64 })),
  ],
  devices: [
    { kind: 'callback', count: CALLBACKS, execute: execute as (batch: Batch<never>) => Promise<readonly unknown[]> },
    { kind: 'emulated', count: 3, failureRate: 0.01, jitter: 0.2 },
  ],
  maxInFlight: 1024,
  memoryLimit: '8MiB',
  waiting: 'park',
};

async function execute(batch: Batch<{ x: Float32Array } | undefined>): Promise<readonly unknown[]> {
  if (batch.size > 4) await sleep(1);
  return batch.inputs.map((input) => (input === undefined ? null : { y: input.x.map((value) => 2 * value) }));
}

/** What a client has counted. */
export interface Books {
  readonly sent: number;
  /** By name of the error; '' for a result. */
  readonly ended: Readonly<Record<string, number>>;
  /** What was not as it should be. */
  readonly faults: readonly string[];
}

const MOST_OPEN = 48;

/** Requests with promises, from whichever thread; some are aborted. */
export class PromiseLoad {
  readonly #client: Client<AnyModels>;
  readonly #models: readonly string[];
  readonly #chance: Chance;
  readonly #open = new Set<number>();
  readonly #ended: Record<string, number> = {};
  readonly #faults: string[] = [];
  #sent = 0;
  #isOver = false;

  constructor(client: Client<AnyModels>, models: readonly string[], seed: number) {
    this.#client = client;
    this.#models = models;
    this.#chance = chanceOf(seed);
  }

  get sent(): number {
    return this.#sent;
  }

  /** Number of the oldest request that has not ended; that of the next one if there is none. */
  get oldest(): number {
    const { value, done } = this.#open.values().next();
    return done === true ? this.#sent : value;
  }

  get books(): Books {
    return { sent: this.#sent, ended: this.#ended, faults: this.#faults };
  }

  async run(): Promise<void> {
    while (!this.#isOver) {
      for (let k = this.#chance(12); k > 0 && this.#open.size < MOST_OPEN; k--) void this.#one(this.#sent++);
      await sleep(this.#chance(4));
    }
    while (this.#open.size > 0) await sleep(1);
  }

  stop(): void {
    this.#isOver = true;
  }

  async #one(number: number): Promise<void> {
    this.#open.add(number);
    const x = Float32Array.of(number, number + 1, number + 2, number + 3);
    const controller = new AbortController();
    if (this.#chance(6) === 0) setTimeout(() => controller.abort(), this.#chance(4));
    let how = '';
    try {
      const { output, gpu } = await this.#client.submitDetailed(this.#models[number & 1]!, { x }, { signal: controller.signal });
      const y = (output as { y: Float32Array }).y;
      const factor = gpu < CALLBACKS ? 2 : 0;
      if (!x.every((value, i) => y[i] === factor * value)) this.#faults.push(`request ${number} on GPU ${gpu} has the result ${y.join()}`);
    } catch (error) {
      how = (error as Error).name;
    }
    this.#ended[how] = (this.#ended[how] ?? 0) + 1;
    if (!this.#open.delete(number)) this.#faults.push(`request ${number} has ended twice`);
  }
}

/** Requests of a raw client: every end is counted by model and outcome. */
export class RawLoad {
  readonly #client: RawClient;
  readonly #models: readonly number[];
  readonly #chance: Chance;
  /** By slot: number and model of the request that is in it. */
  readonly #open = new Map<number, { readonly number: number; readonly model: number }>();
  readonly counts = new Map<number, Int32Array>();
  readonly faults: string[] = [];
  #sent = 0;
  #isOver = false;

  constructor(client: RawClient, seed: number) {
    this.#client = client;
    this.#models = RAW.map((name) => client.model(name));
    for (const model of this.#models) this.counts.set(model, new Int32Array(OUTCOME_CODES));
    this.#chance = chanceOf(seed);
  }

  get sent(): number {
    return this.#sent;
  }

  get oldest(): number {
    const { value, done } = this.#open.values().next();
    return done === true ? this.#sent : value.number;
  }

  async run(): Promise<void> {
    while (!this.#isOver || this.#open.size > 0) {
      this.#drain();
      if (!this.#isOver) this.#submit();
      await sleep(1);
    }
  }

  stop(): void {
    this.#isOver = true;
  }

  #submit(): void {
    for (let k = this.#chance(24); k > 0 && this.#open.size < 256; k--) {
      const model = this.#models[this.#chance(this.#models.length)]!;
      const slot = this.#client.submit(model, this.#client.nowNs());
      if (slot < 0) continue;
      if (this.#open.has(slot)) this.faults.push(`slot ${slot} was given twice`);
      this.#open.set(slot, { number: this.#sent++, model });
      this.counts.get(model)![0]!++;
      if (this.#chance(8) === 0) this.#client.cancel(slot);
    }
    this.#client.commit();
  }

  #drain(): void {
    for (let count = this.#client.drain(); count > 0; count = this.#client.drain()) {
      for (let k = 0; k < count; k++) {
        const slot = this.#client.slots[k]!;
        const request = this.#open.get(slot);
        if (request === undefined) this.faults.push(`a request in slot ${slot} has ended that nobody has sent, or twice`);
        else this.counts.get(request.model)![outcomeOf(this.#client.outcomes[k]!)]!++;
        this.#open.delete(slot);
      }
    }
  }
}

/** The scheduler's own counters of a model, in the order of OUTCOME, as `RawLoad` counts them: accepted first. */
export function countersOf(model: { readonly accepted: number } & Readonly<Record<keyof typeof OUTCOME, number>>): number[] {
  const counts = new Array<number>(OUTCOME_CODES).fill(0);
  counts[0] = model.accepted;
  for (const [name, code] of Object.entries(OUTCOME)) counts[code] = model[name as keyof typeof OUTCOME];
  return counts;
}

/** What holds when nothing is open: all that the client sent has ended once, and the scheduler has counted at least what the client has seen. */
export function checkBooks({ sent, ended, faults }: Books, models: readonly ({ readonly accepted: number } & Readonly<Record<keyof typeof OUTCOME, number>>)[], what: string): void {
  assert.deepEqual(faults, [], what);
  const sum = (name: keyof typeof OUTCOME): number => models.reduce((total, model) => total + model[name], 0);
  assert.equal(Object.values(ended).reduce((a, b) => a + b, 0), sent, `${what}: ended`);
  const accepted = models.reduce((total, model) => total + model.accepted, 0);
  assert.equal(accepted, sent - (ended.OverloadedError ?? 0), `${what}: accepted`);
  // The end of an aborted request is not seen by its client: it is one of those that the scheduler has counted more.
  const unseen = sum('completed') + sum('late') - (ended[''] ?? 0) + sum('failed') - (ended.DeviceError ?? 0) + sum('expired') - (ended.ExpiredError ?? 0) + sum('cancelled');
  assert.equal(unseen, ended.AbortError ?? 0, `${what}: aborted`);
  assert.equal(sum('closed') + sum('queueFull') + sum('infeasible'), 0, what);
}
