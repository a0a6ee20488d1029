/** A client in a thread of its own, for the kills: submits until it is told to stop, then posts its books. */
import { parentPort, workerData } from 'node:worker_threads';
import { openClient, type Ticket } from '#rubato/scheduler/ticket.js';
import { FAR, PromiseLoad } from './load.js';

export interface FarJob {
  readonly ticket: Ticket;
  readonly seed: number;
  /** What it has sent, and the oldest that has not ended, as of the last look. */
  readonly words: Int32Array;
}

const { ticket, seed, words } = workerData as FarJob;
const client = openClient(ticket);
const load = new PromiseLoad(client, FAR, seed);
const look = setInterval(() => {
  Atomics.store(words, 1, load.oldest);
  Atomics.store(words, 0, load.sent);
}, 2);
const running = load.run();
parentPort!.once('message', () => {
  load.stop();
  void running.then(async () => {
    clearInterval(look);
    parentPort!.postMessage(load.books);
    await client.close();
  });
});
