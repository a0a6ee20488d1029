/**
 * Clients on other threads. `scheduler.ticket()` makes a ticket; it goes to a worker thread of the same process, with
 * its port in the transfer list, and is opened there.
 *
 *   const worker = new Worker('./worker.js', { workerData: { ticket }, transferList: [ticket.port] });
 *   // in worker.js
 *   const client = openClient(workerData.ticket);
 *
 * The port carries no requests. It tells the client of models that come and go and of the scheduler's end, and its
 * closing tells the scheduler that the client is gone, however its thread has ended.
 */
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { SystemClock } from '../clock/clock.js';
import { type RubatoError } from '../model/errors.js';
import { ClientPort } from '../protocol/client-port.js';
import { CLIENT_OPEN, CLIENT_STATE_MASK, CONTROL_STATE, type SharedMemory, STATE_RUNNING, STATE_STOPPED } from '../protocol/shared-memory.js';
import { Client } from './client.js';
import { ModelDirectory, type ModelEntry } from './directory.js';
import { ClosedError, InvalidInputError, TicketError } from './errors.js';
import { RawClient } from './raw-client.js';
import type { AnyModels, SchedulerTypes, Typed } from './types.js';

/** The right to open one client on a thread of this process. Goes by `postMessage` or `workerData`, its port by transfer. */
export interface Ticket<T extends SchedulerTypes = AnyModels> extends Typed<T> {
  readonly port: MessagePort;
  /** @internal */
  readonly client: number;
  /** The state word of the client's region for as long as this ticket can be opened. @internal */
  readonly word: number;
  /** @internal */
  readonly memory: SharedMemory;
  /** @internal */
  readonly models: readonly ModelEntry[];
}

/** What the scheduler tells its clients on other threads. @internal */
export type TicketMessage = { readonly set: ModelEntry } | { readonly remove: ModelEntry } | { readonly stopped: string };

/** A client on the thread that opened its ticket. */
export class TicketClient<T extends SchedulerTypes = AnyModels> extends Client<T> implements AsyncDisposable {
  readonly #port: MessagePort;
  #reason: RubatoError | null = null;
  #closed: Promise<void> | null = null;

  /** @internal */
  constructor(ticket: Ticket<T>) {
    super(ticket.memory, new SystemClock(ticket.memory.config.origin), ticket.client, new ModelDirectory(ticket.models));
    this.#port = ticket.port;
    this.#port.on('message', (message: TicketMessage) => this.#take(message));
    this.#port.on('close', () => this.#stop(new ClosedError('the thread that made the scheduler has ended')));
    this.#port.unref();
    receiveNow(this.#port, (message) => this.#take(message));
    void this.pump();
  }

  #take(message: TicketMessage): void {
    if ('set' in message) this.directory.set(message.set);
    else if ('remove' in message) this.forget(message.remove);
    else this.#stop(new ClosedError(message.stopped));
  }

  #stop(reason: RubatoError): void {
    if (this.#reason !== null) return;
    while (this.turn() > 0); // what has ended before, and was not looked at yet
    this.#reason = reason;
    this.end(reason);
    this.#port.close();
  }

  protected override closedReason(): RubatoError {
    return this.#reason ?? super.closedReason();
  }

  /** Values that are no tensors stay on their thread: only the scheduler's own can give them to a callback. */
  protected override checkValue(model: ModelEntry, input: unknown): void {
    if (input === undefined) return;
    throw new InvalidInputError(model.name, null, 'it takes JavaScript values, which only the thread that made the scheduler can submit; declare its inputs and outputs as tensors, or submit undefined');
  }

  /**
   * Waits until every request of this client has ended, then gives its place back. New requests reject with ClosedError
   * from now on. Calling it again gives the same promise.
   */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    if (this.#reason !== null) return;
    this.refuseMore();
    await this.drain();
    this.#stop(new ClosedError('the client is closed'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/**
 * Opens a client on this thread, with the methods of the scheduler that submit. Any worker thread of the process that
 * made the scheduler will do.
 * Throws TicketError for a ticket that was opened already, or that has come from another process.
 */
export function openClient<T extends SchedulerTypes = AnyModels>(ticket: Ticket<T>): TicketClient<T> {
  claim(ticket);
  return new TicketClient<T>(ticket);
}

/** As `openClient`: numbers in and out, in bulk. `close()` it, or let its thread end. */
export function openRawClient(ticket: Ticket): RawClient {
  claim(ticket);
  const { memory, client, models, port } = ticket;
  const states = new Int32Array(memory.buffer);
  const stateAt = (memory.control >> 2) + CONTROL_STATE;
  let stopped: RubatoError | null = null;
  const directory = new ModelDirectory(models);
  const take = (message: TicketMessage): void => {
    if ('set' in message) directory.set(message.set);
    else if ('remove' in message) directory.remove(message.remove.name);
    else stopped = new ClosedError(message.stopped);
  };
  port.on('message', take);
  port.on('close', () => (stopped ??= new ClosedError('the thread that made the scheduler has ended')));
  port.unref();
  receiveNow(port, take);
  return new RawClient(new ClientPort(memory, client), new SystemClock(memory.config.origin), directory, {
    memory,
    // The state as well: a loop that polls receives no messages.
    closed: () => stopped ?? (states[stateAt] === STATE_RUNNING ? null : new ClosedError()),
    stopped: () => stopped ?? (Atomics.load(states, stateAt) === STATE_STOPPED ? new ClosedError('the scheduler was closed while the request ran') : null),
    close: () => {
      stopped ??= new ClosedError('the client is closed');
      port.close();
    },
  });
}

/** What has changed since the ticket was made: a client must not have to wait a turn for it. */
function receiveNow(port: MessagePort, take: (message: TicketMessage) => void): void {
  for (let next = receiveMessageOnPort(port); next !== undefined; next = receiveMessageOnPort(port)) take(next.message as TicketMessage);
}

function claim(ticket: unknown): void {
  if (!isTicket(ticket)) {
    throw new TicketError('this is no ticket of a scheduler in this process; a ticket goes to worker threads only (a forked process or a cluster worker shares no memory: make a scheduler there)');
  }
  const states = new Int32Array(ticket.memory.buffer);
  const at = (ticket.memory.clientStates >> 2) + ticket.client;
  if (Atomics.compareExchange(states, at, ticket.word, (ticket.word & ~CLIENT_STATE_MASK) | CLIENT_OPEN) !== ticket.word) {
    throw new TicketError('this ticket was opened already, or its scheduler is closed; make one per client with scheduler.ticket()');
  }
}

function isTicket(value: unknown): value is Ticket {
  if (typeof value !== 'object' || value === null) return false;
  const { memory, port, client, word } = value as Partial<Ticket>;
  if (Object.prototype.toString.call(memory?.buffer) !== '[object SharedArrayBuffer]' || typeof port?.postMessage !== 'function' || !Number.isInteger(word)) return false;
  return Number.isInteger(client) && client! > 0 && client! < (memory!.config?.maxClients ?? 0) && memory!.clientStates < memory!.buffer.byteLength;
}
