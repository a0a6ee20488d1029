import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { CONDITIONS, DROP_POLICIES } from '#rubato/protocol/config.js';
import { ClientPort } from '#rubato/protocol/client-port.js';
import { INTAKE } from '#rubato/protocol/scratch.js';
import { CLIENT_OPEN } from '#rubato/protocol/shared-memory.js';
import { SpecTable } from '#rubato/protocol/specs.js';
import { VirtualHost, virtualConfig } from '#rubato/sim/virtual-host.js';

const MS = 1e6;

/** Two clients and one model with an SLO of 100 ms, whose batches gather for nearly as long. */
function open(maxQueue: number, maxBatch = 256): VirtualHost {
  const profile = LatencyProfile.linear({ alphaNs: 100, betaNs: 1 * MS, maxBatch }, 'profile');
  return new VirtualHost(virtualConfig({
    models: [{ name: 'm', sloNs: 100 * MS, profile: 0, maxBatch, dropPolicy: DROP_POLICIES.indexOf('window'), condition: CONDITIONS.indexOf('frontrun'), maxQueue }],
    profiles: [profile.ns],
    gpus: [{ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 }],
    maxClients: 2,
  }));
}

const buffered = (host: VirtualHost): number => new Int32Array(host.memory.buffer, host.memory.shards[0]!.scratch.intake)[INTAKE.at.buffered]!;

function submit(host: VirtualHost, port: ClientPort, count: number, lateMs = 0): void {
  for (let k = 0; k < count; k++) port.submit(0, host.nowNs - lateMs * MS, 0);
  port.commit();
}

/** So many wait, and the batch has been told of: from now on requests change nothing. */
function gather(host: VirtualHost, count: number): void {
  host.advanceTo(10 * MS);
  submit(host, host.client, count - 1);
  host.settle();
  submit(host, host.client, 1);
  host.settle();
  assert.equal(buffered(host), 0);
}

describe('requests that change nothing', () => {
  it('are only buffered, count as queued, and run with the others', () => {
    const host = open(1000);
    gather(host, 2);
    for (let ms = 11; ms <= 40; ms++) {
      submit(host, host.client, 1);
      host.advanceTo(ms * MS);
    }
    assert.equal(buffered(host), 30);
    assert.equal(host.stats.model(0).queued, 32);
    host.runOut();
    const { completed, batches } = host.stats.model(0);
    assert.deepEqual([completed, batches, buffered(host)], [32, 1, 0]);
  });

  it('are no more than the queue may hold, also when they come from two clients at one instant', () => {
    const host = open(100);
    const specs = new SpecTable(host.memory, true);
    specs.setClientState(1, CLIENT_OPEN);
    specs.publish();
    const other = new ClientPort(host.memory, 1);
    gather(host, 60);
    host.advanceTo(11 * MS);
    submit(host, host.client, 40, 5); // due before the oldest, so they are looked at
    submit(host, other, 40); // not, but the queue is full by then
    host.settle();
    assert.deepEqual([host.stats.model(0).queued, host.stats.model(0).queueFull], [100, 40]);
    host.runOut();
    assert.equal(host.stats.model(0).completed, 100);
  });

  it('leave the buffer when one of them is cancelled', () => {
    const host = open(1000);
    gather(host, 2);
    const slot = host.client.submit(0, host.nowNs, 0);
    submit(host, host.client, 2);
    host.settle();
    assert.equal(buffered(host), 3);
    host.client.cancel(slot);
    host.settle();
    assert.deepEqual([buffered(host), host.stats.model(0).queued, host.stats.model(0).cancelled], [0, 4, 1]);
    host.runOut();
    assert.equal(host.stats.model(0).completed, 4);
  });
});
