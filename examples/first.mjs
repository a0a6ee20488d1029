// The first program: one model, one device, one result. Run it: node examples/first.mjs
import { createScheduler } from 'rubato';

/** Stands for your model: takes a batch, gives one output per input. */
async function classify(batch) {
  return batch.inputs.map((image) => `label of ${image}`);
}

const scheduler = await createScheduler({
  models: [{
    name: 'resnet50',
    slo: '250ms', // every request is to be answered within this time
    profile: { alpha: '1.053ms', beta: '5.072ms', maxBatch: 64 }, // a batch of b takes 1.053 ms · b + 5.072 ms
    condition: 'immediate', // start when a GPU is free; the default would wait for more requests while there is time
  }],
  devices: [{ kind: 'callback', execute: classify }],
});

console.log(await scheduler.submit('resnet50', 'cat.jpg'));

// What comes together runs together.
const images = Array.from({ length: 64 }, (_, i) => `image ${i}`);
const results = await Promise.all(images.map((image) => scheduler.submitDetailed('resnet50', image)));
console.log(`${results.length} images in ${scheduler.stats().models[0].batches - 1} batches, the last result: ${results.at(-1).output}`);

await scheduler.close(); // or `await using scheduler = …`, or neither: a program that is done ends by itself
