/** Nothing grows: 100 million requests by the raw path and 20 million by promises, in a process whose memory is watched. */
import assert from 'node:assert/strict';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, test } from 'node:test';
import { createScheduler } from '#rubato/index.js';

const OPTIONS = {
  models: [{ name: 'm', slo: '200ms', profile: { alpha: '0.05us', beta: '40us', maxBatch: 1024 } }],
  devices: [{ kind: 'emulated', count: 8 }],
} as const;
const RAW = 100e6;
const PROMISES = 20e6;
/** The heap breathes, and pages of the lanes are touched for the first time. */
const MOST_GROWTH_MB = 64;

const rssMb = (): number => process.memoryUsage.rss() / 2 ** 20;

describe('memory', () => {
  test(`stays where it is over ${RAW / 1e6} million raw requests`, { timeout: 300_000 }, async () => {
    await using scheduler = await createScheduler(OPTIONS);
    const client = scheduler.client();
    const models = new Int32Array(256).fill(client.model('m'));
    const arrivalsNs = new Float64Array(256);
    let ended = 0;
    const runTo = async (wanted: number): Promise<void> => {
      while (ended < wanted) {
        if (client.inFlight < 32_768) {
          arrivalsNs.fill(client.nowNs());
          client.submitBulk(models, arrivalsNs);
        }
        const count = client.drain();
        ended += count;
        if (count === 0) await nextTurn();
      }
    };
    await runTo(RAW / 10);
    const before = rssMb();
    await runTo(RAW);
    const grown = rssMb() - before;
    assert.equal(scheduler.stats().accepted, ended + client.inFlight, 'every one is accounted for');
    assert.ok(grown < MOST_GROWTH_MB, `the resident set has grown by ${grown.toFixed(0)} MB`);
  });

  test(`stays where it is over ${PROMISES / 1e6} million promises`, { timeout: 300_000 }, async () => {
    await using scheduler = await createScheduler(OPTIONS);
    let ended = 0;
    const onEnd = (): void => void ended++;
    const runTo = async (wanted: number): Promise<void> => {
      while (ended < wanted) {
        for (let room = Math.min(1024, 16_384 - scheduler.inFlight); room > 0; room--) scheduler.submit('m', 0).then(onEnd, onEnd);
        await nextTurn();
      }
      await scheduler.drain();
    };
    await runTo(PROMISES / 4);
    const before = rssMb();
    await runTo(PROMISES);
    const grown = rssMb() - before;
    assert.ok(grown < MOST_GROWTH_MB, `the resident set has grown by ${grown.toFixed(0)} MB`);
  });
});
