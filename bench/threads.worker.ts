/** One of the two threads of bench/threads.ts: performs one side of each task that it is sent. */
import { parentPort } from 'node:worker_threads';
import { perform, type Job } from './sides.js';

parentPort!.on('message', (job: Job) => {
  perform(job).then((result) => parentPort!.postMessage(result), (error: unknown) => {
    // As an error of the thread, which whoever waits for the result hears of.
    setImmediate(() => { throw error; });
  });
});
