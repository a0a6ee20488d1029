// A service that batches what its clients ask for, one by one. Run it: node examples/http-server.mjs, then
//   curl -d 'a nice day' http://localhost:8080/
// With --once it serves a hundred requests of its own and ends.
import { once } from 'node:events';
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { createScheduler, ExpiredError, OverloadedError } from 'rubato';

const isTrial = process.argv.includes('--once');

/** Stands for your model: slow to start, quick per input. */
async function countWords(batch) {
  await sleep(10);
  return batch.inputs.map((sentence) => sentence.split(/\s+/).filter((word) => word !== '').length);
}

const scheduler = await createScheduler({
  models: [{ name: 'count-words', slo: '1s', profile: { alpha: '0.1ms', beta: '15ms', maxBatch: 32 }, condition: 'immediate' }],
  devices: [{ kind: 'callback', execute: countWords, count: 2 }],
});

const server = createServer(async (request, response) => {
  // Who hangs up needs no answer: the request leaves its queue, and its place goes to another.
  const gone = new AbortController();
  response.on('close', () => gone.abort());
  try {
    const { output, batchSize } = await scheduler.submitDetailed('count-words', await text(request), { signal: gone.signal });
    response.end(`${JSON.stringify({ words: output, batchSize })}\n`);
  } catch (error) {
    if (gone.signal.aborted) return;
    if (error instanceof OverloadedError) response.setHeader('Retry-After', Math.ceil(error.retryAfterMs / 1000));
    response.statusCode = error instanceof OverloadedError || error instanceof ExpiredError ? 503 : 500;
    response.end(`${error.message}\n`);
  }
});
server.listen(isTrial ? 0 : 8080, isTrial ? '127.0.0.1' : undefined);
await once(server, 'listening');
const { port } = server.address();
console.log(`listening on port ${port}`);

if (isTrial) {
  const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => ask('word '.repeat(i))));
  const right = answers.filter(({ words }, i) => words === i).length;
  const largest = Math.max(...answers.map(({ batchSize }) => batchSize));
  console.log(`${right} of ${answers.length} answers are right; the largest batch had ${largest} requests`);
  await stop();
} else {
  process.once('SIGINT', stop);
}

async function ask(sentence) {
  const response = await fetch(`http://127.0.0.1:${port}/`, { method: 'POST', body: sentence });
  return response.json();
}

/** What has been accepted is answered, then the program ends. */
async function stop() {
  server.close();
  await scheduler.drain();
  await scheduler.close();
  server.closeAllConnections();
}
