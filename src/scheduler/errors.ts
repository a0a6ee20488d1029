/** What `submit` rejects with. Each names the model and the times involved, and says what to do. */
import { formatDurationNs } from '../model/duration.js';
import { RubatoError } from '../model/errors.js';

export { DeviceError } from '../devices/callback.js';
export { InvalidInputError, InvalidOutputError } from '../model/tensor.js';
export { InvalidOptionError, RubatoError } from '../model/errors.js';

/** The scheduler has no model of that name. */
export class UnknownModelError extends RubatoError {
  readonly model: string;

  constructor(model: string, known: readonly string[]) {
    const shown = known.slice(0, 8).join(', ') + (known.length > 8 ? `, … (${known.length} in all)` : '');
    super('ERR_RUBATO_UNKNOWN_MODEL', `no model '${model}'; there are: ${shown}`);
    this.model = model;
  }
}

/** The request could not have met its deadline even alone and at once. Give it a longer SLO. */
export class InfeasibleError extends RubatoError {
  readonly model: string;
  readonly sloMs: number;

  constructor(model: string, sloNs: number, soonestNs: number) {
    super('ERR_RUBATO_INFEASIBLE', `model '${model}': an SLO of ${formatDurationNs(sloNs)} cannot be met, a batch of one takes ${formatDurationNs(soonestNs)} and its delays; give it a longer SLO`);
    this.model = model;
    this.sloMs = sloNs / 1e6;
  }
}

/** Too many requests are in flight or queued. Try again after `retryAfterMs`. */
export class OverloadedError extends RubatoError {
  readonly model: string;
  readonly retryAfterMs: number;

  constructor(model: string, problem: string, retryAfterMs: number) {
    super('ERR_RUBATO_OVERLOADED', `model '${model}': ${problem}; try again in ${retryAfterMs} ms`);
    this.model = model;
    this.retryAfterMs = retryAfterMs;
  }
}

/** The request was dropped because its deadline could no longer be met: the load exceeds what the GPUs can do in time. */
export class ExpiredError extends RubatoError {
  readonly model: string;
  /** How long it had waited. */
  readonly waitedMs: number;

  constructor(model: string, sloNs: number, waitedNs: number) {
    super('ERR_RUBATO_EXPIRED', `model '${model}': dropped after ${formatDurationNs(waitedNs)}, its SLO of ${formatDurationNs(sloNs)} could no longer be met; send less, add GPUs or give it a longer SLO`);
    this.model = model;
    this.waitedMs = waitedNs / 1e6;
  }
}

/** The result came after the deadline, and the model was given `onLate: 'reject'`. */
export class LateError extends RubatoError {
  readonly model: string;
  readonly lateMs: number;

  constructor(model: string, lateNs: number) {
    super('ERR_RUBATO_LATE', `model '${model}': the result came ${formatDurationNs(lateNs)} after its deadline; onLate: 'deliver' would have given it`);
    this.model = model;
    this.lateMs = lateNs / 1e6;
  }
}

/** The scheduler was closed before the request ran. */
export class ClosedError extends RubatoError {
  constructor(problem = 'the scheduler is closed', options?: ErrorOptions) {
    super('ERR_RUBATO_CLOSED', problem, options);
  }
}

/** A lease was used against its rules: released twice, or used after its release or while its request is in flight. */
export class LeaseError extends RubatoError {
  readonly model: string;

  constructor(model: string, problem: string) {
    super('ERR_RUBATO_LEASE', `lease for model '${model}': ${problem}`);
    this.model = model;
  }
}

/** A ticket that cannot be used here: opened already, or not shared memory of this process. */
export class TicketError extends RubatoError {
  constructor(problem: string) {
    super('ERR_RUBATO_TICKET', problem);
  }
}
