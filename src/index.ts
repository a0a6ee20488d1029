/**
 * rubato: deferred batch scheduling of inference requests inside a Node.js process.
 *
 * `createScheduler` starts one; `submit` a request and its batch is formed, started and delivered for you. The object
 * that it gives is a {@link Scheduler!Scheduler | Scheduler}.
 *
 * @module rubato
 */
import { Scheduler as SchedulerClass } from './scheduler/scheduler.js';
import type { AnyModels, ByName, TypesFromArguments } from './scheduler/types.js';

export { createScheduler, type RemoveOptions } from './scheduler/scheduler.js';
/** `Scheduler<Types>` by its map of models, or `Scheduler<Input, Output>` where any name will do. */
export type Scheduler<A = AnyModels, B = ByName> = SchedulerClass<TypesFromArguments<A, B>>;
export const Scheduler: typeof SchedulerClass = SchedulerClass;
export { Client, type DetailedResult, type SubmitOptions, type TrySubmit } from './scheduler/client.js';
export { Lease } from './scheduler/lease.js';
export { openClient, openRawClient, type Ticket, TicketClient } from './scheduler/ticket.js';
export type {
  AdviceOptions,
  Batch,
  CallbackDeviceOptions,
  CudaDeviceOptions,
  Condition,
  DeviceOptions,
  DropPolicy,
  Duration,
  EmulatedDeviceOptions,
  ExecuteBatch,
  MarginOptions,
  ModelChanges,
  ModelOptions,
  ProfileOption,
  RecordOptions,
  SchedulerOptions,
  Topology,
  WaitingStrategy,
} from './scheduler/options.js';
export type { StackedOutputs } from './devices/callback.js';
export type { AdviceEvidence, AdviceReason, GpuAdvice } from './protocol/advice.js';
export type { ThreadStats } from './scheduler/host-thread.js';
export type { GpuStats, ModelStats, SchedulerStats } from './scheduler/stats.js';
export { type AnyModels, type ModelTypes, type SchedulerTypes, type SchedulerTypesOf, type TypesOf, value, type ValueTypes } from './scheduler/types.js';
export type { Dtype, TensorArray, TensorArrayOf, TensorOption } from './model/tensor.js';
export { batchSizeOf, gpuOf, OUTCOME, outcomeOf, RawClient, REFUSED_INFEASIBLE, REFUSED_NO_MODEL, REFUSED_NO_SLOT } from './scheduler/raw-client.js';
export { type CudaDevice, cudaDevices, type CudaModelStats, type CudaProbe } from './devices/cuda/native.js';
export { DeviceLostError } from './devices/cuda/attachment.js';
export { CudaModelError } from './devices/cuda/model-file.js';
export { LatencyProfile } from './model/latency-profile.js';
export {
  ClosedError,
  DeviceError,
  ExpiredError,
  InfeasibleError,
  InvalidInputError,
  InvalidOptionError,
  InvalidOutputError,
  LateError,
  LeaseError,
  OverloadedError,
  RubatoError,
  TicketError,
  UnknownModelError,
} from './scheduler/errors.js';
