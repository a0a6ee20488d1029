/**
 * What tests and the simulator may watch. Roles call it where a decision is made; live schedulers have none,
 * which costs one comparison per batch. All times in ns.
 */
export interface Observer {
  /** The dispatcher has granted `gpu` to `model`. `freeAtNs` of the GPU before the grant, `execNs` as expected now; `early`: before the batch was due. Called before the GPU is marked granted. */
  granted(nowNs: number, model: number, gpu: number, execNs: number, freeAtNs: number, early: boolean): void;
  /** A shard has closed a batch of `size`: `slots[from … from + size - 1]`. */
  planned(nowNs: number, model: number, gpu: number, size: number, execNs: number, invalidAfterNs: number, slots: Int32Array, from: number): void;
  /** A shard has refused a grant. */
  refused(nowNs: number, model: number, gpu: number): void;
  /** A shard has dropped a request as expired, while it chose a batch of `size` that could start no earlier than now + c + δ·size and `gpuFreeNs`. */
  expired(nowNs: number, model: number, slot: number, size: number, gpuFreeNs: number): void;
  /** A shard knows what the model would run next (size 0 = nothing); it tells the dispatcher when that comes near. `timerNs` is when it will look again by itself. */
  published(nowNs: number, model: number, size: number, execNs: number, timerNs: number): void;
}

const nothing = (): void => {};

/** Watches nothing: what an observer of less than all begins with. */
export const UNWATCHED: Observer = { granted: nothing, planned: nothing, refused: nothing, expired: nothing, published: nothing };
