/**
 * What else threads tell each other by, measured on one thread with nobody else on the memory:
 *
 *   mailbox    slot … fill … publish ──▶ take … read        32-byte values, the latest wins
 *   bitmap     mark ──▶ collect
 *   doorbell   ring while its owner is awake                 (asleep: bench/threads.ts)
 */
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import { DirtyBitmap, dirtyBitmapBytes } from '#rubato/ringbuf/dirty-bitmap.js';
import { DOORBELL_BYTES, Doorbell } from '#rubato/ringbuf/doorbell.js';
import { Mailboxes, initMailboxes, mailboxBytes } from '#rubato/ringbuf/mailbox.js';
import { always, type Case, type Group } from './harness.js';

const BOXES = 64;
const BYTES = 32;
const CALLS = 100;
/** Doubles of value n: n, 1, 2, 3. */
const SUM = (BOXES * (BOXES - 1)) / 2 + 6 * BOXES;

export const mailbox: Group = {
  name: 'mailbox',
  title: 'Mailbox, publish + take of 32 bytes, one thread',
  unit: 'value',
  open: () => ({ cases: [ownMailbox(), portMailbox()] }),
};

export const bitmap: Group = {
  name: 'bitmap',
  title: 'Dirty bitmap, mark + collect, one thread',
  unit: 'mark',
  open: () => ({ cases: [marks(1024, 1), marks(1024, 64)] }),
};

export const doorbell: Group = {
  name: 'doorbell',
  title: 'Doorbell, nobody asleep',
  unit: 'ring',
  open: () => ({ cases: [ring(), notify()] }),
};

function ownMailbox(): Case {
  const buffer = new SharedArrayBuffer(mailboxBytes(BOXES, BYTES));
  initMailboxes(buffer, 0, BOXES, BYTES);
  const mailboxes = new Mailboxes(buffer, 0, BOXES, BYTES);
  const run = (): number => {
    const f64 = mailboxes.f64;
    for (let box = 0; box < BOXES; box++) {
      const to = mailboxes.slot(box) >> 1;
      f64[to] = box;
      f64[to + 1] = 1;
      f64[to + 2] = 2;
      f64[to + 3] = 3;
      mailboxes.publish(box);
    }
    let sum = 0;
    for (let box = 0; box < BOXES; box++) {
      const from = mailboxes.take(box) >> 1;
      sum += f64[from]! + f64[from + 1]! + f64[from + 2]! + f64[from + 3]!;
    }
    return sum;
  };
  return { name: 'mailbox', times: BOXES, run, check: always(SUM), versus: ['MessagePort'] };
}

/** The same 64 values under way at once. Unlike a mailbox, a port delivers every one, needed or not. */
function portMailbox(): Case {
  const { port1, port2 } = new MessageChannel();
  port1.unref();
  port2.unref();
  const value = new Float64Array(BYTES / 8);
  const run = (): number => {
    for (let box = 0; box < BOXES; box++) {
      value[0] = box;
      value[1] = 1;
      value[2] = 2;
      value[3] = 3;
      port1.postMessage(value);
    }
    let sum = 0;
    for (let box = 0; box < BOXES; box++) {
      const got = (receiveMessageOnPort(port2) as { message: Float64Array }).message;
      sum += got[0]! + got[1]! + got[2]! + got[3]!;
    }
    return sum;
  };
  return { name: 'MessagePort', times: BOXES, run, check: always(SUM) };
}

function marks(size: number, count: number): Case {
  const set = new DirtyBitmap(new SharedArrayBuffer(dirtyBitmapBytes(size)), 0, size);
  const out = new Int32Array(size + 32);
  const step = size / count;
  const rounds = 64 / count;
  const run = (): number => {
    let found = 0;
    for (let round = 0; round < rounds; round++) {
      for (let k = 0; k < count; k++) set.mark(k * step);
      found += set.collect(out);
    }
    return found;
  };
  return { name: `${count} of ${size}`, times: rounds * count, run, check: always(rounds * count) };
}

function ring(): Case {
  const bell = new Doorbell(new SharedArrayBuffer(DOORBELL_BYTES), 0);
  const run = (): number => {
    for (let k = 0; k < CALLS; k++) bell.ring();
    return CALLS;
  };
  return { name: 'ring', times: CALLS, run, check: always(CALLS), versus: ['Atomics.notify'] };
}

function notify(): Case {
  const word = new Int32Array(new SharedArrayBuffer(DOORBELL_BYTES));
  const run = (): number => {
    let woken = 0;
    for (let k = 0; k < CALLS; k++) woken += Atomics.notify(word, 0, 1);
    return woken;
  };
  return { name: 'Atomics.notify', times: CALLS, run, check: always(0) };
}
