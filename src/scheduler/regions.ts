/**
 * The regions of clients: who has which, and what happens when a client's thread is gone. Lives on the thread that made
 * the scheduler.
 *
 *   free ──take──▶ ticket ──openClient──▶ open ──release──▶ dying ──drained──▶ free
 *
 * A dying region is taken over by a `ClientPort` of ours: its open requests are cancelled, the batches they are in are
 * waited for, their results thrown away, its tensor pages given back.
 */
import { clearInterval, setInterval } from 'node:timers';
import { freePagesOf } from '../protocol/arena.js';
import { ClientPort } from '../protocol/client-port.js';
import { CLIENT_DYING, CLIENT_FREE, CLIENT_OPEN, CLIENT_TICKET } from '../protocol/shared-memory.js';
import { InvalidOptionError } from './errors.js';
import { pageTable } from './client.js';
import type { RoleHost } from './engine.js';

/** Nobody waits for a dead client's batches. */
const DRAIN_EVERY_MS = 2;

export class ClientRegions {
  readonly #engine: RoleHost;
  readonly #dying = new Map<number, ClientPort>();
  #timer: NodeJS.Timeout | null = null;

  constructor(engine: RoleHost) {
    this.#engine = engine;
  }

  /** Regions that are being drained. */
  get dying(): number {
    return this.#dying.size;
  }

  /** Takes a free region; `word` is what its state word is in this use. Throws InvalidOptionError when all are in use. */
  take(isTicket: boolean): { readonly client: number; readonly word: number } {
    const { specs, memory } = this.#engine;
    const { maxClients } = memory.config;
    for (let client = 1; client < maxClients; client++) {
      if (specs.clientState(client) !== CLIENT_FREE) continue;
      const word = specs.takeClient(client, isTicket ? CLIENT_TICKET : CLIENT_OPEN);
      specs.publish();
      return { client, word };
    }
    const dying = this.#dying.size === 0 ? '' : ` (of ${this.#dying.size} the last batches are awaited)`;
    throw new InvalidOptionError('maxClients', `all ${maxClients - 1} clients are in use${dying}; close some, or raise it in the options`);
  }

  /** The client of this region is gone, and its thread does nothing with it any more. */
  release(client: number): void {
    const { specs, memory } = this.#engine;
    const state = specs.clientState(client);
    if (state === CLIENT_FREE || state === CLIENT_DYING) return;
    specs.setClientState(client, CLIENT_DYING);
    const port = new ClientPort(memory, client);
    port.takeOver();
    this.#dying.set(client, port);
    this.#timer ??= setInterval(() => this.poll(), DRAIN_EVERY_MS).unref();
    this.poll();
  }

  /** Drains what is dying, and frees what is drained. */
  poll(): void {
    const { specs, memory, clock } = this.#engine;
    for (const [client, port] of this.#dying) {
      while (port.drain(clock.nowNs()) > 0);
      if (port.inFlight > 0) continue;
      const cells = new Int32Array(memory.buffer, memory.cells + client * port.slots * 4, port.slots);
      // To what a lost CUDA device may still write stays in the client's name.
      if (memory.arena !== null && cells.every((cell) => cell >= 0)) freePagesOf(pageTable(memory), client);
      // A raw client that is next here brings no tensors, and must not be taken to bring these.
      cells.fill(0);
      this.#dying.delete(client);
      specs.setClientState(client, CLIENT_FREE);
      specs.publish();
    }
    if (this.#dying.size === 0) this.stop();
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }
}
