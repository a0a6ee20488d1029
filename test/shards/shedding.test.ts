import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ClientPort } from '#rubato/protocol/client-port.js';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { MOST_TAKEN } from '#rubato/protocol/scratch.js';
import { CLIENT_OPEN } from '#rubato/protocol/shared-memory.js';
import { SpecTable } from '#rubato/protocol/specs.js';
import { VirtualHost, virtualConfig } from '#rubato/sim/virtual-host.js';

const MS = 1e6;
/** What a shard takes from a lane at a time: more than this at one instant is a backlog. */
const BULK = MOST_TAKEN;

/** Two clients, one model with an SLO of 100 ms, one GPU; at 200 ms. */
function open(shedShare: number): VirtualHost {
  const profile = LatencyProfile.linear({ alphaNs: 100, betaNs: 1000, maxBatch: 64 }, 'profile');
  const host = new VirtualHost(virtualConfig({
    models: [{ name: 'm', sloNs: 100 * MS, profile: 0, maxBatch: 64, dropPolicy: 0, condition: 0, maxQueue: 2 ** 16 }],
    profiles: [profile.ns],
    gpus: [{ host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 }],
    shedShare,
    maxClients: 2,
  }));
  host.advanceTo(200 * MS);
  return host;
}

/** Submits `count` requests that were due `ageMs` ago, all at one instant, and runs out. */
function burst(count: number, ageMs: number, shedShare: number): { queueFull: number; completed: number; accepted: number } {
  const host = open(shedShare);
  for (let i = 0; i < count; i++) host.client.submit(0, host.nowNs - ageMs * MS, 0);
  host.client.commit();
  host.settle();
  host.runOut();
  return host.stats.model(0);
}

describe('a shard that is behind its lane', () => {
  it('sheds what is no longer fresh until it is level, once the oldest has less than the share of its time left', () => {
    const { queueFull, completed, accepted } = burst(2 * BULK + 100, 60, 0.5);
    assert.equal(queueFull, 2 * BULK);
    assert.equal(completed, 100);
    assert.equal(accepted, queueFull + completed);
  });

  it('goes on with it although the lane of another client is level', () => {
    const host = open(0.5);
    for (let i = 0; i < BULK; i++) host.client.submit(0, host.nowNs - 60 * MS, 0);
    for (let i = 0; i < BULK; i++) host.client.submit(0, host.nowNs - 30 * MS, 0); // not fresh, but not old enough to begin with
    const specs = new SpecTable(host.memory, true);
    specs.setClientState(1, CLIENT_OPEN);
    specs.publish();
    const other = new ClientPort(host.memory, 1);
    other.submit(0, host.nowNs, 0);
    host.client.commit();
    other.commit();
    host.settle();
    assert.equal(host.stats.model(0).queueFull, 2 * BULK);
    host.runOut();
    assert.equal(host.stats.model(0).completed, 1, "the other's request");
  });

  it('sheds nothing while the oldest has more time left than that', () => {
    assert.equal(burst(2 * BULK + 100, 40, 0.5).queueFull, 0);
  });

  it('sheds nothing where shedding is off, as in virtual time', () => {
    assert.equal(burst(2 * BULK + 100, 60, 0).queueFull, 0);
  });
});

describe('a shard that is level', () => {
  it('sheds nothing, however old the requests are', () => {
    assert.equal(burst(BULK - 1, 90, 0.5).queueFull, 0);
  });
});
