/** All roles and one client in one thread, under the virtual clock, with models that are all alike: what `scale.ts` and `turns.ts` measure. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { ParseArgsConfig } from 'node:util';
import * as config from '#rubato/protocol/config.js';
import * as virtual from '#rubato/sim/virtual-host.js';

export interface LoadOptions {
  readonly policy: 'adaptive' | 'window';
  readonly models: number;
  readonly gpus: number;
  readonly shards: number;
  readonly alphaNs: number;
  readonly betaNs: number;
  readonly maxBatch: number;
  readonly sloNs: number;
  readonly ratePerSecond: number;
  /** Requests that are submitted at once. */
  readonly bulk: number;
  readonly compiledLoops: boolean;
}

/** What is needed of a build of the project. */
export interface Build {
  readonly config: Pick<typeof config, 'CONDITIONS' | 'DROP_POLICIES' | 'HOST_EMULATED'>;
  readonly virtual: Pick<typeof virtual, 'VirtualHost' | 'virtualConfig'>;
}

export const OWN_BUILD: Build = { config, virtual };

/** The one in the folder `root`. */
export async function buildIn(root: string): Promise<Build> {
  const load = async (file: string): Promise<unknown> => import(pathToFileURL(join(root, 'dist', file)).href);
  return { config: (await load('protocol/config.js')) as Build['config'], virtual: (await load('sim/virtual-host.js')) as Build['virtual'] };
}

export const LOAD_FLAGS = {
  policy: { type: 'string', default: 'adaptive' },
  models: { type: 'string', default: '64' },
  gpus: { type: 'string', default: '64' },
  shards: { type: 'string', default: '1' },
  profile: { type: 'string', default: '500,86000' },
  'max-batch': { type: 'string', default: '128' },
  'slo-ms': { type: 'string', default: '20' },
  rate: { type: 'string', default: '10000000' },
  bulk: { type: 'string', default: '64' },
  loops: { type: 'string', default: 'compiled' },
} as const satisfies ParseArgsConfig['options'];

/** The options that the flags stand for. Throws RangeError with what is allowed. */
export function loadOptions(flags: Record<keyof typeof LOAD_FLAGS, string>): LoadOptions {
  const { policy, loops } = flags;
  if (policy !== 'adaptive' && policy !== 'window') throw new RangeError(`--policy: got ${policy}, allowed are adaptive and window`);
  if (loops !== 'compiled' && loops !== 'script') throw new RangeError(`--loops: got ${loops}, allowed are compiled and script`);
  const profile = flags.profile.split(',');
  if (profile.length !== 2) throw new RangeError(`--profile: got ${flags.profile}, two numbers above 0 with a comma between are needed`);
  return {
    policy,
    models: aboveZero('--models', flags.models),
    gpus: aboveZero('--gpus', flags.gpus),
    shards: aboveZero('--shards', flags.shards),
    alphaNs: aboveZero('--profile', profile[0]!),
    betaNs: aboveZero('--profile', profile[1]!),
    maxBatch: aboveZero('--max-batch', flags['max-batch']),
    sloNs: aboveZero('--slo-ms', flags['slo-ms']) * 1e6,
    ratePerSecond: aboveZero('--rate', flags.rate),
    bulk: aboveZero('--bulk', flags.bulk),
    compiledLoops: loops === 'compiled',
  };
}

/** Throws RangeError. */
export function aboveZero(name: string, text: string): number {
  if (!(Number(text) > 0)) throw new RangeError(`${name}: got ${text}, a number above 0 is needed`);
  return Number(text);
}

export interface LoadTotals {
  readonly good: number;
  readonly batches: number;
  readonly batched: number;
}

export class VirtualLoad {
  readonly #host: virtual.VirtualHost;
  readonly #stepNs: number;
  readonly #models: number;
  readonly #bulkModels: Int32Array;
  readonly #bulkArrivalsNs: Float64Array;
  #nowNs = 0;
  #seed = 12345;
  /** Requests until batches come and go as they will: four SLOs. */
  readonly untilSteady: number;

  constructor(options: LoadOptions, build = OWN_BUILD) {
    const { alphaNs, betaNs, bulk, maxBatch, models, ratePerSecond, sloNs } = options;
    const { CONDITIONS, DROP_POLICIES, HOST_EMULATED } = build.config;
    const latencyNs = Float64Array.from({ length: maxBatch + 2 }, (_, b) => (b === 0 ? 0 : b > maxBatch ? Infinity : Math.round(alphaNs * b + betaNs)));
    const adaptive = options.policy === 'adaptive';
    const dropPolicy = DROP_POLICIES.indexOf(adaptive ? 'adaptive' : 'window');
    const condition = CONDITIONS.indexOf(adaptive ? 'adaptive' : 'frontrun');
    this.#host = new build.virtual.VirtualHost(
      build.virtual.virtualConfig({
        models: Array.from({ length: models }, (_, model) => ({ name: `m${model}`, sloNs, profile: 0, maxBatch, dropPolicy, condition, maxQueue: 100_000 })),
        profiles: [latencyNs],
        gpus: Array.from({ length: options.gpus }, (_, seed) => ({ host: HOST_EMULATED, slowdown: 1, jitter: 0, failureRate: 0, seed })),
        slotShift: Math.max(10, Math.ceil(Math.log2((1.5 * ratePerSecond * sloNs) / 1e9))),
        shards: options.shards,
        compiledLoops: options.compiledLoops,
      }),
    );
    this.#stepNs = (bulk / ratePerSecond) * 1e9;
    this.#models = models;
    this.#bulkModels = new Int32Array(bulk);
    this.#bulkArrivalsNs = new Float64Array(bulk);
    this.untilSteady = (4 * ratePerSecond * sloNs) / 1e9;
  }

  /** Submits so many, in bulks, and lets the time pass that they take to come. */
  run(requests: number): void {
    const bulk = this.#bulkModels.length;
    for (let left = requests; left > 0; left -= bulk) {
      for (let i = 0; i < bulk; i++) {
        this.#seed = (Math.imul(this.#seed, 1103515245) + 12345) | 0;
        this.#bulkModels[i] = Math.floor(((this.#seed >>> 8) / 2 ** 24) * this.#models);
        this.#bulkArrivalsNs[i] = this.#nowNs;
      }
      this.#host.client.submitBulk(this.#bulkModels, this.#bulkArrivalsNs, 0, bulk);
      this.#nowNs += this.#stepNs;
      this.#host.advanceTo(this.#nowNs);
    }
  }

  totals(): LoadTotals {
    return this.#host.stats.models().reduce((sum, each) => ({ good: sum.good + each.completed, batches: sum.batches + each.batches, batched: sum.batched + each.batched }), { good: 0, batches: 0, batched: 0 });
  }
}

/** Processor time of the process so far. */
export function usedNs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) * 1e3;
}
