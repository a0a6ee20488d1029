import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Worker } from 'node:worker_threads';
import { DOORBELL_BYTES, Doorbell, useFutex } from '#rubato/ringbuf/doorbell.js';
import { atomicsOf, explore, withAtomicsWatched, type Thread, type Trial } from './interleave.js';
import type { Job } from './stress.worker.js';

/** No test waits longer; a wake-up that takes this long was lost. */
const LOST_MS = 5000;

function makeBell(): Doorbell {
  return new Doorbell(new SharedArrayBuffer(DOORBELL_BYTES), 0);
}

function elapsedMs(body: () => void): number {
  const startMs = performance.now();
  body();
  return performance.now() - startMs;
}

describe('a doorbell at construction', () => {
  it('refuses a buffer that is not shared, too small or crooked, with both numbers', () => {
    assert.throws(() => new Doorbell(new ArrayBuffer(128) as unknown as SharedArrayBuffer, 0), /TypeError: doorbell: .*SharedArrayBuffer/);
    assert.throws(() => new Doorbell(new SharedArrayBuffer(120), 0), /RangeError: doorbell: needs bytes 0 to 128, the buffer has 120/);
    assert.throws(() => new Doorbell(new SharedArrayBuffer(256), 12), /RangeError: doorbell: starts at byte 12, .*multiple of 8/);
  });
});

describe('ringing a doorbell', () => {
  it('costs one load while the owner is awake', () => {
    const bell = makeBell();
    assert.deepEqual(atomicsOf(() => bell.ring()), ['load 0']);
  });

  it('wakes a sleeper once: the first who rings notifies, the next find it awake', () => {
    const bell = makeBell();
    bell.prepare();
    assert.deepEqual(atomicsOf(() => bell.ring()), ['load 0', 'compareExchange 0', 'notify 0']);
    assert.deepEqual(atomicsOf(() => bell.ring()), ['load 0']);
  });

  it('leaves the notifying to the one who won, when two ring at once', () => {
    const bell = makeBell();
    bell.prepare();
    const notified = { outer: 0, inner: 0 };
    withAtomicsWatched((name) => {
      if (name === 'notify') notified.outer++;
      if (name === 'compareExchange') notified.inner += atomicsOf(() => bell.ring()).filter((each) => each.startsWith('notify')).length;
    }, () => bell.ring());
    assert.deepEqual(notified, { outer: 0, inner: 1 });
  });

  it('before the owner prepares is not remembered: that is what its second look at the sources is for', () => {
    const bell = makeBell();
    bell.ring();
    bell.prepare();
    assert.ok(elapsedMs(() => bell.park(30)) >= 25);
  });

  it('between prepare and park makes the park return at once', () => {
    const bell = makeBell();
    bell.prepare();
    bell.ring();
    assert.ok(elapsedMs(() => bell.park(LOST_MS)) < LOST_MS / 2);
  });

  it('after cancel finds the owner awake', () => {
    const bell = makeBell();
    bell.prepare();
    bell.cancel();
    assert.deepEqual(atomicsOf(() => bell.ring()), ['load 0']);
  });

  it('after the park wakes the owner from another thread', async () => {
    const buffer = new SharedArrayBuffer(DOORBELL_BYTES);
    const bell = new Doorbell(buffer, 0);
    const job: Job = { kind: 'ring-after', buffer, delayMs: 50 };
    const worker = new Worker(new URL('./stress.worker.js', import.meta.url), { workerData: job });
    try {
      // The worker rings only once the word says "sleeping", and then still waits: this thread is in its park.
      bell.prepare();
      const waitedMs = elapsedMs(() => bell.park(LOST_MS * 2));
      assert.ok(waitedMs >= 45 && waitedMs < LOST_MS, `${waitedMs} ms`);
      assert.deepEqual(atomicsOf(() => bell.ring()), ['load 0'], 'awake again');
    } finally {
      await worker.terminate();
    }
  });
});

describe('parking at a doorbell', () => {
  it('ends after the time-out when nobody rings, and leaves the owner awake', () => {
    const bell = makeBell();
    bell.prepare();
    const waitedMs = elapsedMs(() => bell.park(40));
    assert.ok(waitedMs >= 35 && waitedMs < LOST_MS, `${waitedMs} ms`);
    assert.deepEqual(atomicsOf(() => bell.ring()), ['load 0']);
  });

  it('does not wait for a time-out of zero or below', () => {
    const bell = makeBell();
    for (const timeoutMs of [0, -1, -Infinity]) {
      bell.prepare();
      assert.ok(elapsedMs(() => bell.park(timeoutMs)) < LOST_MS / 2);
    }
  });

  it('refuses a time-out that is no number, which would be without end', async () => {
    const bell = makeBell();
    bell.prepare();
    assert.throws(() => bell.park(NaN), /RangeError: doorbell: .*NaN/);
    await assert.rejects(bell.parkAsync(NaN), /RangeError: doorbell: .*NaN/);
  });

  it('without having prepared does not wait at all', () => {
    assert.ok(elapsedMs(() => makeBell().park(LOST_MS)) < LOST_MS / 2);
  });
});

/** A pending parkAsync does not keep the process alive: the test has to. */
async function parkAsync(bell: Doorbell, timeoutMs: number): Promise<number> {
  const alive = setInterval(() => {}, 1000);
  const startMs = performance.now();
  try {
    await bell.parkAsync(timeoutMs);
  } finally {
    clearInterval(alive);
  }
  return performance.now() - startMs;
}

describe('parking at a doorbell without blocking', () => {
  it('resolves when somebody rings', async () => {
    const bell = makeBell();
    bell.prepare();
    const parked = parkAsync(bell, LOST_MS * 2);
    setTimeout(() => bell.ring(), 20);
    assert.ok((await parked) < LOST_MS);
    assert.deepEqual(atomicsOf(() => bell.ring()), ['load 0']);
  });

  it('resolves at once when somebody rang since prepare', async () => {
    const bell = makeBell();
    bell.prepare();
    bell.ring();
    assert.ok((await parkAsync(bell, LOST_MS)) < LOST_MS / 2);
  });

  it('resolves after the time-out when nobody rings, and leaves the owner awake', async () => {
    const bell = makeBell();
    bell.prepare();
    const waitedMs = await parkAsync(bell, 40);
    assert.ok(waitedMs >= 35 && waitedMs < LOST_MS, `${waitedMs} ms`);
    assert.deepEqual(atomicsOf(() => bell.ring()), ['load 0']);
  });

  it('can be done again and again', async () => {
    const bell = makeBell();
    for (let round = 0; round < 50; round++) {
      bell.prepare();
      const parked = parkAsync(bell, LOST_MS);
      if (round % 2 === 0) bell.ring();
      else setImmediate(() => bell.ring());
      assert.ok((await parked) < LOST_MS / 2);
    }
  });
});

// ── the protocol as a model, step by step ──────────────────────────────────────────────────────────────────────────

interface Bell { sleeping: boolean; parked: boolean; work: number; done: number }
interface Fault { readonly noSecondLook?: boolean; readonly looksFirst?: boolean; readonly ringsFirst?: boolean }

function* modelOwner(bell: Bell, amount: number, { noSecondLook, looksFirst }: Fault): Thread {
  while (bell.done < amount) {
    yield;
    if (bell.work > bell.done) {
      bell.done = bell.work;
      continue;
    }
    let found = false;
    if (looksFirst === true) {
      yield;
      found = bell.work > bell.done;
    }
    yield;
    bell.sleeping = true;
    if (looksFirst !== true && noSecondLook !== true) {
      yield;
      found = bell.work > bell.done;
    }
    if (!found) {
      yield; // Atomics.wait compares and falls asleep in one step
      if (bell.sleeping) {
        bell.parked = true;
        yield () => !bell.parked;
      }
    }
    yield;
    bell.sleeping = false;
  }
}

function* modelRinger(bell: Bell, { ringsFirst }: Fault): Thread {
  for (const step of ringsFirst === true ? ['ring', 'work'] : ['work', 'ring']) {
    yield;
    if (step === 'work') {
      bell.work++;
      continue;
    }
    if (!bell.sleeping) continue;
    yield;
    if (!bell.sleeping) continue;
    bell.sleeping = false;
    yield;
    bell.parked = false;
  }
}

function modelTrial(ringers: number, fault: Fault): Trial {
  const bell: Bell = { sleeping: false, parked: false, work: 0, done: 0 };
  return {
    threads: [modelOwner(bell, ringers, fault), ...Array.from({ length: ringers }, () => modelRinger(bell, fault))],
    check: () => assert.equal(bell.done, ringers),
  };
}

describe('a doorbell whose owner sleeps in the futex', () => {
  const buffer = new SharedArrayBuffer(DOORBELL_BYTES);
  const words = new Int32Array(buffer);
  const bell = new Doorbell(buffer, 0);
  const slept: [seen: number, ms: number][] = [];
  let woken = 0;

  it('cannot be woken at once by a thread that knows no futex, and sleeps no longer than it may', () => {
    bell.prepareNative();
    assert.deepEqual(atomicsOf(() => bell.ring()), ['load 0', 'compareExchange 0']);
    assert.deepEqual([words[0], words[1]], [0, 1]);
  });

  it('wakes by a counter that has moved since it prepared, and not by Atomics.notify', () => {
    useFutex({ futexWait: (_word, seen, ms) => slept.push([seen, ms]), futexWake: () => woken++ });
    bell.prepareNative();
    bell.ring();
    bell.ring();
    assert.equal(woken, 1);
    bell.parkNative(500);
    assert.notEqual(words[1], slept[0]![0], 'what it would sleep on is not what is there');
    assert.equal(slept[0]![1], 1, 'a millisecond at most');
    assert.equal(words[0], 0);
  });

  it('is told apart from one that sleeps in Atomics.wait', () => {
    bell.prepare();
    bell.ring();
    assert.equal(woken, 1);
  });

  it('refuses a time-out of NaN', () => {
    assert.throws(() => bell.parkNative(NaN), /time-out of NaN/);
  });
});

describe('the protocol of the doorbell, in all interleavings of its steps,', () => {
  it('loses no wake-up of one ringer or of two', () => {
    assert.ok(explore(() => modelTrial(1, {})) > 20);
    assert.ok(explore(() => modelTrial(2, {})) > 1000);
  });

  it('would sleep for ever if the owner did not look again after it prepared', () => {
    assert.throws(() => explore(() => modelTrial(1, { noSecondLook: true })), /nobody can go on/);
    assert.throws(() => explore(() => modelTrial(1, { looksFirst: true })), /nobody can go on/);
  });

  it('would sleep for ever if the work came after the ring', () => {
    assert.throws(() => explore(() => modelTrial(1, { ringsFirst: true })), /nobody can go on/);
  });
});
