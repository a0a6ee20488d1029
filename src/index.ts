/**
 * rubato: deferred batch scheduling of inference requests inside a Node.js process.
 *
 * `createScheduler` starts one; `submit` a request and its batch is formed, started and delivered for you.
 */
export { createScheduler, type DetailedResult, Scheduler, type SubmitOptions, type TrySubmit } from './scheduler/scheduler.js';
export type {
  Batch,
  CallbackDeviceOptions,
  Condition,
  DeviceOptions,
  DropPolicy,
  Duration,
  EmulatedDeviceOptions,
  ExecuteBatch,
  MarginOptions,
  ModelOptions,
  ProfileOption,
  SchedulerOptions,
  WaitingStrategy,
} from './scheduler/options.js';
export type { GpuStats, ModelStats, SchedulerStats } from './scheduler/stats.js';
export { batchSizeOf, gpuOf, OUTCOME, outcomeOf, RawClient, REFUSED_INFEASIBLE, REFUSED_NO_SLOT } from './scheduler/raw-client.js';
export { LatencyProfile } from './model/latency-profile.js';
export {
  ClosedError,
  DeviceError,
  ExpiredError,
  InfeasibleError,
  InvalidOptionError,
  LateError,
  OverloadedError,
  RubatoError,
  UnknownModelError,
} from './scheduler/errors.js';
