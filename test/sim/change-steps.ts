/**
 * Changes of models and GPUs step by step, in the order of LiveChanges: write, publish, wait until every role has
 * acknowledged. A step is a generator that yields what it waits for, so whoever plays it decides what happens meanwhile.
 * Steps that were begun together take their turns as there: a removal waits for its requests without holding up others.
 */
import type { GpuConfig, ModelConfig } from '#rubato/protocol/config.js';
import type { SharedMemory } from '#rubato/protocol/shared-memory.js';
import { GPU_LEAVING, GPU_NONE, MODEL_ENDING, MODEL_FROZEN, MODEL_NONE, type SpecTable, TAG_MASK } from '#rubato/protocol/specs.js';
import type { StatsReader } from '#rubato/protocol/stats.js';
import { GPU } from '#rubato/protocol/tables.js';
import { isQuiet } from '#rubato/scheduler/live-changes.js';

export interface Spec {
  readonly config: ModelConfig;
  readonly profile: Float64Array;
}

/** A model as the roles know it by now. */
export interface Known {
  /** One, or while it is being changed both: a role goes by either. */
  specs: readonly Spec[];
  readonly tag: number;
  shard: number;
  isFrozen: boolean;
  /** It takes no requests any more; `ends`: and those that wait end as closed. */
  isClosed: boolean;
  ends: boolean;
}

/** What a change waits for before it goes on. */
export type Step = Generator<() => boolean, void>;

export class ChangeSteps {
  /** By number. */
  readonly known = new Map<number, Known>();
  /** GPUs that must not be granted any more, and those that must not be given anything. */
  readonly leavingGpus = new Set<number>();
  readonly closedGpus = new Set<number>();
  readonly #memory: SharedMemory;
  readonly #specs: SpecTable;
  readonly #stats: StatsReader;
  readonly #i32: Int32Array;
  #turns = 0;
  #turn = 0;

  constructor(memory: SharedMemory, specs: SpecTable, stats: StatsReader, first: readonly Spec[]) {
    this.#memory = memory;
    this.#specs = specs;
    this.#stats = stats;
    this.#i32 = new Int32Array(memory.buffer);
    first.forEach((spec, number) => this.#know(number, spec, specs.shardOf(number)));
  }

  #know(number: number, spec: Spec, shard: number): void {
    this.known.set(number, { specs: [spec], tag: this.#specs.tag(number) & TAG_MASK, shard, isFrozen: false, isClosed: false, ends: false });
  }

  *#inTurn(step: Step): Step {
    const turn = this.#turns++;
    if (turn !== this.#turn) yield () => turn === this.#turn;
    yield* step;
    this.#turn++;
  }

  *#publish(): Step {
    const version = this.#specs.publish();
    yield () => this.#specs.acknowledged(version);
  }

  isQuiet(number: number): boolean {
    return isQuiet(this.#memory, number);
  }

  add(number: number, spec: Spec, shard: number): Step {
    return this.#inTurn(this.#add(number, spec, shard));
  }

  *#add(number: number, spec: Spec, shard: number): Step {
    this.#specs.writeModel(number, spec.config, spec.profile, shard);
    yield* this.#publish();
    this.#know(number, spec, shard);
    this.#specs.open(number);
  }

  *remove(number: number, drain: boolean): Step {
    const known = this.known.get(number)!;
    this.#specs.close(number);
    known.isClosed = true;
    if (!drain) yield* this.#inTurn(this.#end(number, known));
    yield () => this.#stats.raw(number).inFlight === 0;
    yield* this.#inTurn(this.#forget(number));
  }

  *#end(number: number, known: Known): Step {
    known.ends = true;
    this.#specs.setState(number, MODEL_ENDING);
    yield* this.#publish();
  }

  *#forget(number: number): Step {
    this.#specs.setState(number, MODEL_NONE);
    yield* this.#publish();
    yield* this.#publish();
    yield () => this.isQuiet(number);
    this.known.delete(number);
  }

  /** Does nothing when the model has been removed by the time it is its turn. */
  update(number: number, spec: Spec): Step {
    return this.#inTurn(this.#update(number, spec));
  }

  *#update(number: number, spec: Spec): Step {
    const known = this.known.get(number);
    if (known === undefined || known.isClosed) return;
    this.#specs.writeModel(number, spec.config, spec.profile, this.#specs.shardOf(number));
    known.specs = [...known.specs, spec];
    yield* this.#publish();
    known.specs = [spec];
  }

  move(number: number, shard: number): Step {
    return this.#inTurn(this.#move(number, shard));
  }

  *#move(number: number, shard: number): Step {
    const known = this.known.get(number);
    if (known === undefined || known.isClosed || known.shard === shard) return;
    this.#specs.setState(number, MODEL_FROZEN);
    yield* this.#publish();
    known.isFrozen = true;
    yield* this.#publish();
    yield () => this.isQuiet(number);
    this.#specs.moveTo(number, shard);
    known.shard = shard;
    known.isFrozen = false;
    yield* this.#publish();
    this.#specs.route(number);
  }

  addGpu(gpu: number, config: GpuConfig): Step {
    return this.#inTurn(this.#addGpu(gpu, config));
  }

  *#addGpu(gpu: number, config: GpuConfig): Step {
    this.leavingGpus.delete(gpu);
    this.closedGpus.delete(gpu);
    this.#specs.writeGpu(gpu, config);
    yield* this.#publish();
  }

  *removeGpu(gpu: number): Step {
    yield* this.#inTurn(this.#leave(gpu));
    const at = (this.#memory.gpus >> 2) + gpu * GPU.words;
    yield () => [GPU.at.grantModel, GPU.at.nextRow, GPU.at.runRow].every((field) => this.#i32[at + field] === -1);
    this.closedGpus.add(gpu);
    yield* this.#inTurn(this.#gone(gpu));
  }

  *#leave(gpu: number): Step {
    this.#specs.setGpuState(gpu, GPU_LEAVING);
    yield* this.#publish();
    this.leavingGpus.add(gpu);
  }

  *#gone(gpu: number): Step {
    this.#specs.setGpuState(gpu, GPU_NONE);
    yield* this.#publish();
  }
}
