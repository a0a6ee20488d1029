/** What a rival scheduling policy is told and what it may do, in virtual time. All times are whole nanoseconds. */
import type { LatencyProfile } from '../../model/latency-profile.js';
import type { SimulationMargins } from '../result.js';

/** What a policy knows of a model: neither its rate nor its pattern of arrivals. */
export interface PolicyModel {
  readonly name: string;
  readonly profile: LatencyProfile;
  readonly sloNs: number;
}

/**
 * The world as a policy sees it. Requests are numbered from 0 in the order of their arrival, which within a model is
 * the order of their deadlines. The arrays hold something for those that have arrived, and may be exchanged for
 * longer ones: read them through the stage.
 */
export interface Stage {
  readonly nowNs: number;
  readonly models: readonly PolicyModel[];
  readonly gpus: number;
  readonly margins: SimulationMargins;
  /** By request. */
  readonly modelOf: Int32Array;
  /** By request. */
  readonly arrivalsNs: Float64Array;
  /** By request: arrival + SLO − r. */
  readonly deadlinesNs: Float64Array;
  /** By GPU: when the last batch that was issued to it ends; at most `nowNs` for an idle one. */
  readonly busyUntilNs: Float64Array;

  /**
   * Issues a batch, which runs for ℓ(b) from `startNs` on.
   * @throws Error unless every request waits, the size is one the model has, its inputs can be there in time
   *   (`startNs` ≥ now + c + δb), and the GPU is free by then.
   */
  start(gpu: number, model: number, requests: Int32Array, startNs: number): void;
  /** Ends a waiting request as dropped. */
  drop(request: number, reason: string): void;
  /** Takes back the batch that was last issued to the GPU: what it did is lost, its requests wait again. */
  preempt(gpu: number): Int32Array;
  /** Calls `onTimer(timer)` at `atNs`, or at once if that is past; +Infinity cancels. A timer has one time: the last one set. */
  setTimer(timer: number, atNs: number): void;
}

/**
 * A policy. Within one instant batch ends come first (by GPU), then arrivals (by model), then timers (by number);
 * what a policy sets for this same instant comes after.
 */
export interface Policy {
  readonly name: string;
  /** How many timers it uses: 0 … timers − 1. */
  readonly timers: number;
  /** Called once, at time 0. */
  begin?(): void;
  onArrival(request: number, model: number): void;
  onTimer(timer: number): void;
  /** A batch has ended, and the GPU is free unless another was issued to it. */
  onBatchEnd(gpu: number): void;
}

export type MakePolicy = (stage: Stage) => Policy;
