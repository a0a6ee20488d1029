import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { Mailboxes } from '#rubato/ringbuf/mailbox.js';
import { VirtualHost, virtualConfig } from '#rubato/sim/virtual-host.js';

const MS = 1e6;

/** Candidates told per batch, with a request every 0.1 ms for 2 s, an SLO of 20 ms, and a margin j. */
function toldPerBatch(jitterNs: number): number {
  const profile = LatencyProfile.linear({ alphaNs: 1000, betaNs: MS, maxBatch: 512 }, 'profile');
  const host = new VirtualHost(virtualConfig({
    models: [{ name: 'm', sloNs: 20 * MS, profile: 0, maxBatch: 512, dropPolicy: 0, condition: 0, maxQueue: 1000 }],
    profiles: [profile.ns],
    gpus: [{ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 }],
    margins: { controlNs: 1e5, transferNs: 0, responseNs: 0, jitterNs, measureControl: false, measureResponse: false, measureJitter: false },
  }));
  const publish = Mailboxes.prototype.publish;
  let told = 0;
  Mailboxes.prototype.publish = function (box) {
    told++;
    publish.call(this, box);
  };
  try {
    for (let nowNs = 0; nowNs < 2e9; nowNs += 0.1 * MS) {
      host.advanceTo(nowNs);
      host.client.submit(0, nowNs, 0);
      host.client.commit();
      host.settle();
    }
    host.runOut();
  } finally {
    Mailboxes.prototype.publish = publish;
  }
  const { batches, completed, accepted } = host.stats.model(0);
  assert.equal(completed, accepted);
  return told / batches;
}

describe('what a shard tells of a batch that gathers', () => {
  it('is a few candidates of some hundred arrivals', () => {
    const told = toldPerBatch(0.1 * MS);
    assert.ok(told > 1 && told < 10, `${told} per batch`);
  });

  it('is not more because the thread has been late: it would be later still', () => {
    const told = toldPerBatch(3 * MS);
    assert.ok(told <= toldPerBatch(0.1 * MS) + 1, `${told} per batch`);
  });
});
