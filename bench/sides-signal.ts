/** Both sides of what goes by message ports, and of a round trip by doorbells. */
import type { MessagePort } from 'node:worker_threads';
import type { Doorbell } from '#rubato/ringbuf/doorbell.js';
import { fill, RECORD_DOUBLES, total } from './records.js';

const SLEEP_MS = 1000;

// ── ports ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Waits while `inFlight` records were not counted by the reader yet. */
export function post(port: MessagePort, taken: Int32Array, bulk: number, inFlight: number, records: number): number {
  const out = new Float64Array(bulk * RECORD_DOUBLES);
  const before = Atomics.load(taken, 0);
  let sum = 0;
  for (let done = 0; done < records;) {
    const seen = Atomics.load(taken, 0);
    if (done + bulk - (seen - before) > inFlight) {
      Atomics.wait(taken, 0, seen, SLEEP_MS);
      continue;
    }
    sum += fill(out, done, bulk);
    port.postMessage(out);
    done += bulk;
  }
  // The rounds must not overlap: the reader says when it has them all.
  for (let seen = before; seen - before < records; seen = Atomics.load(taken, 0)) Atomics.wait(taken, 0, seen, SLEEP_MS);
  return sum;
}

export function receive(port: MessagePort, taken: Int32Array, inFlight: number, records: number): Promise<number> {
  const before = Atomics.load(taken, 0);
  const each = inFlight / 4;
  let sum = 0;
  let done = 0;
  let told = 0;
  return new Promise((resolve) => {
    const take = (array: Float64Array): void => {
      sum += total(array, array.length);
      done += array.length / RECORD_DOUBLES;
      if (done - told < each && done < records) return;
      told = done;
      if (done === records) port.off('message', take);
      Atomics.store(taken, 0, before + done);
      Atomics.notify(taken, 0);
      if (done === records) resolve(sum);
    };
    port.on('message', take);
  });
}

export function postAndAwait(port: MessagePort, trips: number): Promise<number> {
  let sum = 0;
  let sent = 1;
  return new Promise((resolve) => {
    const next = (value: number): void => {
      sum += value;
      if (sent === trips) {
        port.off('message', next);
        resolve(sum);
        return;
      }
      port.postMessage(++sent);
    };
    port.on('message', next);
    port.postMessage(1);
  });
}

export function echo(port: MessagePort, trips: number): Promise<number> {
  let sum = 0;
  let answered = 0;
  return new Promise((resolve) => {
    const answer = (value: number): void => {
      sum += value;
      answered++;
      if (answered === trips) port.off('message', answer);
      port.postMessage(value);
      if (answered === trips) resolve(sum);
    };
    port.on('message', answer);
  });
}

// ── doorbells ──────────────────────────────────────────────────────────────────────────────────────────────────────

const PING = 0;
const PONG = 32;

/** The other side's count is one more than `last`; returns it when it is there. */
function awaitNext(i32: Int32Array, at: number, last: number, mine: Doorbell, mostLooks: number): number {
  for (let looks = 0; ; looks++) {
    const seen = Atomics.load(i32, at);
    if (seen !== last) return seen;
    if (looks < mostLooks) continue;
    mine.prepare();
    if (Atomics.load(i32, at) !== last) mine.cancel();
    else mine.park(SLEEP_MS);
  }
}

export function ping(i32: Int32Array, mine: Doorbell, other: Doorbell, looks: number, trips: number): number {
  let sum = 0;
  let count = Atomics.load(i32, PING);
  for (let trip = 0; trip < trips; trip++) {
    Atomics.store(i32, PING, count + 1);
    other.ring();
    count = awaitNext(i32, PONG, count, mine, looks);
    sum += count;
  }
  return sum;
}

export function pong(i32: Int32Array, mine: Doorbell, other: Doorbell, looks: number, trips: number): number {
  let sum = 0;
  let count = Atomics.load(i32, PONG);
  for (let trip = 0; trip < trips; trip++) {
    count = awaitNext(i32, PING, count, mine, looks);
    sum += count;
    Atomics.store(i32, PONG, count);
    other.ring();
  }
  return sum;
}
