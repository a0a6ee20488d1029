/**
 * Nexus (Shen et al., SOSP 2019) as the paper authors' baseline has it (PEER.md 9.2): models are placed on GPUs by
 * squishy bin packing from their measured rates; front ends deal requests out to a model's GPUs by deficit round
 * robin; each GPU runs its models in turn, in batches of the planned size. Rates are measured once per beacon, and the
 * placement is made anew when a model's rate has left its bounds, or every 30 s.
 *
 * What theirs leaves open: a model without a GPU drops its requests (`no-route`), and what waits on a GPU that loses
 * the model is dealt out again. A GPU chooses its next batch c + δb before the running one ends. Two things in theirs
 * are unfair to Nexus, and have options: it knows no rates before 30 beacons have passed, and its front ends deal to a
 * GPU with n times the rate of the least one n requests in a row, which are dropped where n is above its batch size.
 */
import type { MakePolicy, Policy, Stage } from './policy.js';
import { RequestQueue } from './queue.js';
import { type Load, SquishyPacking } from './squishy-packing.js';

export interface NexusOptions {
  /** Place anew after 1, 2, 4, 8 and 16 beacons too, before the history is full. Default false, as theirs. */
  readonly quickStart?: boolean;
  /** Deal to GPUs by turns as evenly as their rates allow, and not many requests in a row. Default false, as theirs. */
  readonly smoothRoutes?: boolean;
}

const BEACON_NS = 1e9;
const BEACONS_PER_AVERAGE = 10;
const HISTORY_BEACONS = 30;
const EPOCH_BEACONS = 30;
const LEAST_EPOCH_BEACONS = 10;
/** A model calls for a new placement when its rate is outside of these shares of what its GPUs could do. */
const TOO_LOW = 0.8;
const TOO_HIGH = 1.1;
/** A GPU looks at its models again no sooner than so long after it did. */
const ROUND_NS = 50e3;

export function nexus(options: NexusOptions = {}): MakePolicy {
  return (stage) => new Nexus(stage, options.quickStart ?? false, options.smoothRoutes ?? false);
}

/** Timers: one per GPU for its next turn, then one for the beacon. */
class Nexus implements Policy {
  readonly name: string;
  readonly timers: number;
  readonly #stage: Stage;
  readonly #quickStart: boolean;
  readonly #smoothRoutes: boolean;
  readonly #packing: SquishyPacking;
  readonly #gpus: readonly GpuLoop[];
  readonly #routes: Route[];
  readonly #rates: readonly RateAverage[];
  #beacons = 0;
  #lastEpoch = 0;

  constructor(stage: Stage, quickStart: boolean, smoothRoutes: boolean) {
    this.name = quickStart && smoothRoutes ? 'nexus' : 'nexus-authors';
    this.#stage = stage;
    this.#quickStart = quickStart;
    this.#smoothRoutes = smoothRoutes;
    this.timers = stage.gpus + 1;
    this.#packing = new SquishyPacking(stage.models, stage.gpus, stage.margins);
    this.#gpus = Array.from({ length: stage.gpus }, (_, gpu) => new GpuLoop(stage, gpu));
    this.#rates = stage.models.map(() => new RateAverage());
    this.#packing.placeUnknown();
    this.#routes = stage.models.map(() => new Route([], smoothRoutes));
    this.#pushRoutes();
  }

  begin(): void {
    this.#stage.setTimer(this.#stage.gpus, BEACON_NS);
  }

  onArrival(request: number, model: number): void {
    this.#rates[model]!.count++;
    this.#route(request, model);
  }

  onTimer(timer: number): void {
    if (timer === this.#stage.gpus) this.#beacon();
    else this.#gpus[timer]!.turn();
  }

  /** A GPU's next turn has its own timer. */
  onBatchEnd(): void {}

  #route(request: number, model: number): void {
    const gpu = this.#routes[model]!.next();
    if (gpu < 0) this.#stage.drop(request, 'no-route');
    else this.#gpus[gpu]!.enqueue(request, model);
  }

  #beacon(): void {
    this.#beacons++;
    this.#stage.setTimer(this.#stage.gpus, this.#stage.nowNs + BEACON_NS);
    for (const rate of this.#rates) rate.seal();
    if (!this.#isEpoch()) return;
    this.#lastEpoch = this.#beacons;
    this.#packing.update(this.#rates.map((rate) => rate.perSecond));
    this.#pushRoutes();
  }

  #isEpoch(): boolean {
    const beacons = this.#beacons;
    if (beacons < HISTORY_BEACONS) return this.#quickStart && Number.isInteger(Math.log2(beacons));
    if (beacons - this.#lastEpoch >= EPOCH_BEACONS) return true;
    return beacons - this.#lastEpoch >= LEAST_EPOCH_BEACONS && this.#rates.some(({ perSecond }, model) => {
      const has = this.#packing.throughput(model);
      return perSecond < TOO_LOW * has || perSecond > TOO_HIGH * has;
    });
  }

  #pushRoutes(): void {
    const shares: GpuShare[][] = this.#stage.models.map(() => []);
    for (const [gpu, loads] of this.#packing.gpus.entries()) {
      for (const { model, ratePerSecond } of loads) shares[model]!.push({ gpu, ratePerSecond });
    }
    for (const [model, ofModel] of shares.entries()) this.#routes[model] = new Route(ofModel, this.#smoothRoutes);
    const homeless: [request: number, model: number][] = [];
    for (const [gpu, loop] of this.#gpus.entries()) homeless.push(...loop.setLoads(this.#packing.gpus[gpu]!));
    homeless.sort(([one], [other]) => one - other);
    for (const [request, model] of homeless) this.#route(request, model);
  }
}

interface GpuShare {
  readonly gpu: number;
  readonly ratePerSecond: number;
}

/**
 * Deals a model's requests out to its GPUs in proportion to their rates: by deficit round robin, where a GPU is used
 * while its credit lasts, or smoothly, where the one that is furthest behind its share comes next.
 */
export class Route {
  readonly #shares: readonly GpuShare[];
  readonly #smooth: boolean;
  /** By GPU: its rate as a multiple of the least one. */
  readonly #quanta: readonly number[];
  readonly #total: number;
  readonly #credits: number[];
  #at = 0;

  constructor(shares: readonly GpuShare[], smooth: boolean) {
    this.#shares = shares;
    this.#smooth = smooth;
    const least = shares.reduce((min, { ratePerSecond }) => Math.min(min, ratePerSecond), Infinity);
    this.#quanta = shares.map(({ ratePerSecond }) => ratePerSecond / least);
    this.#total = this.#quanta.reduce((sum, quantum) => sum + quantum, 0);
    this.#credits = shares.map(() => 0);
  }

  /** −1 when there is no GPU. */
  next(): number {
    if (this.#shares.length === 0) return -1;
    if (this.#smooth) this.#findFurthestBehind();
    else this.#findWithCredit();
    return this.#shares[this.#at]!.gpu;
  }

  #findWithCredit(): void {
    // Ends: every quantum is at least 1.
    while (this.#credits[this.#at]! < 1) {
      this.#credits[this.#at]! += this.#quanta[this.#at]!;
      this.#at = (this.#at + 1) % this.#shares.length;
    }
    this.#credits[this.#at]!--;
  }

  #findFurthestBehind(): void {
    this.#at = 0;
    for (let place = 0; place < this.#shares.length; place++) {
      this.#credits[place]! += this.#quanta[place]!;
      if (this.#credits[place]! > this.#credits[this.#at]!) this.#at = place;
    }
    this.#credits[this.#at]! -= this.#total;
  }
}

/** Requests per second: mean of the beacons so far, the newer ones weighing more. */
class RateAverage {
  count = 0;
  perSecond = 0;
  #weights = 0;

  seal(): void {
    const fade = Math.exp(-1 / BEACONS_PER_AVERAGE);
    this.#weights = this.#weights * fade + 1;
    this.perSecond += (this.count / (BEACON_NS / 1e9) - this.perSecond) / this.#weights;
    this.count = 0;
  }
}

/** One GPU: runs its models in a fixed order, each in a batch of at most its planned size. */
class GpuLoop {
  readonly #stage: Stage;
  readonly #gpu: number;
  #loads: readonly Load[] = [];
  #queues: RequestQueue[] = [];
  /** The model whose turn is next. */
  #at = 0;
  /** When the next round may begin. */
  #nextRoundNs = 0;
  /** Nothing waits, and no turn is set: rounds go on unseen, `ROUND_NS` apart. */
  #asleep = true;

  constructor(stage: Stage, gpu: number) {
    this.#stage = stage;
    this.#gpu = gpu;
  }

  /** Returns what waits for models that are no longer here. */
  setLoads(loads: readonly Load[]): [request: number, model: number][] {
    const homeless: [number, number][] = [];
    const queues = loads.map(() => new RequestQueue());
    for (const [place, { model }] of this.#loads.entries()) {
      const at = loads.findIndex((load) => load.model === model);
      if (at >= 0) queues[at] = this.#queues[place]!;
      else while (this.#queues[place]!.length > 0) homeless.push([this.#queues[place]!.shift(), model]);
    }
    this.#loads = [...loads];
    this.#queues = queues;
    this.#at = Math.min(this.#at, loads.length);
    return homeless;
  }

  enqueue(request: number, model: number): void {
    const queue = this.#queues[this.#loads.findIndex((load) => load.model === model)]!;
    const isYoungest = queue.length === 0 || request > queue.at(queue.length - 1);
    if (isYoungest) queue.push(request);
    else queue.putBack(Int32Array.of(request));
    if (!this.#asleep) return;
    this.#asleep = false;
    const unseen = Math.max(0, Math.ceil((this.#stage.nowNs - this.#nextRoundNs) / ROUND_NS));
    this.#stage.setTimer(this.#gpu, this.#nextRoundNs + unseen * ROUND_NS);
  }

  /** Goes on with the round until a batch is issued. */
  turn(): void {
    if (this.#at === 0) this.#nextRoundNs = this.#stage.nowNs + ROUND_NS;
    while (this.#at < this.#loads.length) {
      const place = this.#at++;
      if (!this.#runBatch(this.#loads[place]!, this.#queues[place]!)) continue;
      const { controlNs, transferNs } = this.#stage.margins;
      const nextBatch = this.#loads[this.#at % this.#loads.length]!.batch;
      this.#stage.setTimer(this.#gpu, this.#stage.busyUntilNs[this.#gpu]! - controlNs - transferNs * nextBatch);
      return;
    }
    this.#at = 0;
    this.#nextRoundNs = Math.max(this.#stage.nowNs, this.#nextRoundNs);
    this.#asleep = this.#queues.every((queue) => queue.length === 0);
    if (!this.#asleep) this.#stage.setTimer(this.#gpu, this.#nextRoundNs);
  }

  /** False when there is nothing to run. */
  #runBatch({ model, batch }: Load, queue: RequestQueue): boolean {
    const { nowNs, models, margins, deadlinesNs, busyUntilNs } = this.#stage;
    const latencyNs = models[model]!.profile.ns;
    const startNs = (size: number): number => Math.max(nowNs + margins.controlNs + margins.transferNs * size, busyUntilNs[this.#gpu]!);
    const taken: number[] = [];
    let expect = Math.min(batch, queue.length);
    while (taken.length < expect) {
      const request = queue.shift();
      if (deadlinesNs[request]! < startNs(expect) + latencyNs[expect]!) this.#stage.drop(request, 'expired');
      else taken.push(request);
      expect = Math.min(expect, taken.length + queue.length);
    }
    if (taken.length === 0) return false;
    this.#stage.start(this.#gpu, model, Int32Array.from(taken), startNs(taken.length));
    return true;
  }
}
