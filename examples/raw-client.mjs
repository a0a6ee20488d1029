// The bulk path: numbers in and out, no promise per request. Run it: node examples/raw-client.mjs
// It keeps 32,768 requests in flight for a second and counts those that end in time.
import { createScheduler, OUTCOME, outcomeOf } from 'rubato';

const IN_FLIGHT = 32_768;
const BULK = 1024;

const scheduler = await createScheduler({
  models: Array.from({ length: 16 }, (_, i) => ({ name: `model ${i}`, slo: '100ms', profile: { alpha: '0.5us', beta: '86us', maxBatch: 128 } })),
  devices: [{ kind: 'emulated', count: 16 }],
});
const client = scheduler.client();

const models = Int32Array.from({ length: BULK }, (_, i) => i % 16);
const arrivalsNs = new Float64Array(BULK);
let ended = 0;
let good = 0;

/** Reads what has ended; `client.slots` would say which request each one was. */
function drain() {
  const count = client.drain();
  for (let k = 0; k < count; k++) if (outcomeOf(client.outcomes[k]) === OUTCOME.completed) good++;
  ended += count;
}

const startNs = client.nowNs();
while (client.nowNs() < startNs + 1e9) {
  if (client.inFlight + BULK <= IN_FLIGHT) {
    arrivalsNs.fill(client.nowNs());
    client.submitBulk(models, arrivalsNs);
  }
  drain();
}
const seconds = (client.nowNs() - startNs) / 1e9;
const figure = (good / seconds / 1e6).toFixed(2);
while (client.inFlight > 0) drain();
console.log(`${figure} million requests/s within their deadline, ${(100 * (good / ended)).toFixed(1)} % of all; ${ended} in all`);
await scheduler.close();
