import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { MARGIN_CONTROL } from '#rubato/protocol/shared-memory.js';
import { Mailboxes } from '#rubato/ringbuf/mailbox.js';
import { VirtualHost, virtualConfig } from '#rubato/sim/virtual-host.js';

const MS = 1e6;

/** Candidates that are told while `body` runs. */
function toldDuring(body: () => void): number {
  const publish = Mailboxes.prototype.publish;
  let told = 0;
  Mailboxes.prototype.publish = function (box) {
    told++;
    publish.call(this, box);
  };
  try {
    body();
  } finally {
    Mailboxes.prototype.publish = publish;
  }
  return told;
}

/** Candidates told per batch, with a request every 0.1 ms for 2 s, an SLO of 20 ms, and a margin j. */
function toldPerBatch(jitterNs: number): number {
  const profile = LatencyProfile.linear({ alphaNs: 1000, betaNs: MS, maxBatch: 512 }, 'profile');
  const host = new VirtualHost(virtualConfig({
    models: [{ name: 'm', sloNs: 20 * MS, profile: 0, maxBatch: 512, dropPolicy: 0, condition: 0, maxQueue: 1000 }],
    profiles: [profile.ns],
    gpus: [{ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 }],
    margins: { controlNs: 1e5, transferNs: 0, responseNs: 0, jitterNs, measureControl: false, measureResponse: false, measureJitter: false },
  }));
  const told = toldDuring(() => {
    for (let nowNs = 0; nowNs < 2e9; nowNs += 0.1 * MS) {
      host.advanceTo(nowNs);
      host.client.submit(0, nowNs, 0);
      host.client.commit();
      host.settle();
    }
    host.runOut();
  });
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

/** A full batch of 4 (1 ms on the GPU, due 20 ms after 10 ms) is told of, while a batch keeps the only GPU for 100 ms. */
function fullBatchWaits(): { host: VirtualHost; submit: (count: number) => void; setControl: (ns: number) => void } {
  const profile = LatencyProfile.linear({ alphaNs: 0, betaNs: MS, maxBatch: 4 }, 'profile');
  const host = new VirtualHost(virtualConfig({
    models: [{ name: 'm', sloNs: 20 * MS, profile: 0, maxBatch: 4, dropPolicy: 0, condition: 0, maxQueue: 1000 }],
    profiles: [profile.ns],
    gpus: [{ host: 0, slowdown: 100, jitter: 0, failureRate: 0, seed: 1 }],
    margins: { controlNs: 1e5, transferNs: 0, responseNs: 0, jitterNs: 0, measureControl: false, measureResponse: false, measureJitter: false },
  }));
  const submit = (count: number): void => {
    for (let k = 0; k < count; k++) host.client.submit(0, host.nowNs, 0);
    host.client.commit();
    host.settle();
  };
  submit(4);
  host.advanceTo(10 * MS);
  assert.equal(host.stats.model(0).queued, 0);
  submit(4);
  const margins = new Float64Array(host.memory.buffer, host.memory.margins);
  return { host, submit, setControl: (ns) => { margins[MARGIN_CONTROL] = ns; } };
}

describe('a full batch that has been told of', () => {
  it('is not told of again because more come, who wait behind it', () => {
    const { host, submit } = fullBatchWaits();
    const told = toldDuring(() => {
      for (let k = 0; k < 100; k++) {
        host.advanceTo(host.nowNs + 0.1 * MS);
        submit(1);
      }
    });
    assert.deepEqual([told, host.stats.model(0).queued], [0, 104]);
  });

  it('is decided again in time though c has fallen', () => {
    const { host, setControl } = fullBatchWaits();
    setControl(0);
    host.advanceTo(28.95 * MS);
    assert.equal(host.stats.model(0).expired, 0);
    host.advanceTo(29.01 * MS);
    assert.equal(host.stats.model(0).expired, 4);
  });

  it('is decided again when one more comes and c has grown, so that it is too late for it', () => {
    const { host, submit, setControl } = fullBatchWaits();
    host.advanceTo(28 * MS);
    setControl(1.5 * MS);
    submit(1);
    assert.deepEqual([host.stats.model(0).expired, host.stats.model(0).queued], [4, 1]);
  });
});
