import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Mailboxes, initMailboxes, mailboxBytes } from '#rubato/ringbuf/mailbox.js';
import { atomicsOf, explore, withAtomicsWatched, type Thread, type Trial } from './interleave.js';

const RECORD_BYTES = 16;

function makeBuffer(count: number, recordBytes = RECORD_BYTES): SharedArrayBuffer {
  const buffer = new SharedArrayBuffer(mailboxBytes(count, recordBytes));
  initMailboxes(buffer, 0, count, recordBytes);
  return buffer;
}

function makeBoxes(count = 1): { buffer: SharedArrayBuffer; boxes: Mailboxes } {
  const buffer = makeBuffer(count);
  return { buffer, boxes: new Mailboxes(buffer, 0, count, RECORD_BYTES) };
}

/** Fills the writer's slot; `between` is called when only half of it is written. */
function fill(boxes: Mailboxes, box: number, value: number, between = (): void => {}): void {
  const at = boxes.slot(box) >> 1;
  boxes.f64[at] = value;
  between();
  boxes.f64[at + 1] = -value;
}

function publish(boxes: Mailboxes, box: number, value: number): void {
  fill(boxes, box, value);
  boxes.publish(box);
}

/** The newest value, or -1. Throws when it is torn. */
function take(boxes: Mailboxes, box: number, between = (): void => {}): number {
  const at = boxes.take(box);
  if (at < 0) return -1;
  const value = boxes.f64[at >> 1]!;
  between();
  assert.equal(boxes.f64[(at >> 1) + 1], -value, 'the value is torn');
  return value;
}

describe('mailboxes at construction', () => {
  it('refuse a count or a record size that makes no sense, and name it', () => {
    for (const count of [0, -1, 1.5, NaN]) assert.throws(() => mailboxBytes(count, 16), new RegExp(`RangeError: ${count} mailboxes`));
    for (const bytes of [0, 4, 12, -8, NaN]) assert.throws(() => mailboxBytes(1, bytes), new RegExp(`RangeError: mailbox record size ${bytes}: .*multiple of 8`));
  });

  it('refuse a buffer that is not shared, too small or crooked, with both numbers', () => {
    const bytes = mailboxBytes(3, 16);
    assert.throws(() => new Mailboxes(new ArrayBuffer(bytes) as unknown as SharedArrayBuffer, 0, 3, 16), /TypeError: mailboxes: .*SharedArrayBuffer/);
    assert.throws(() => new Mailboxes(new SharedArrayBuffer(bytes - 8), 0, 3, 16), new RegExp(`needs bytes 0 to ${bytes}, the buffer has ${bytes - 8}`));
    assert.throws(() => initMailboxes(new SharedArrayBuffer(bytes - 8), 0, 3, 16), new RegExp(`needs bytes 0 to ${bytes}, the buffer has ${bytes - 8}`));
    assert.throws(() => new Mailboxes(new SharedArrayBuffer(bytes + 8), 4, 3, 16), /starts at byte 4, .*multiple of 8/);
  });

  it('refuse memory that was never initialised, where both sides would own the same slot', () => {
    assert.throws(() => new Mailboxes(new SharedArrayBuffer(mailboxBytes(2, 16)), 0, 2, 16), /RangeError: mailbox 0 of 2: its state word is 0/);
  });
});

describe('a mailbox', () => {
  it('is empty at first', () => {
    assert.equal(makeBoxes().boxes.take(0), -1);
  });

  it('gives the latest of several values, and each value once', () => {
    const { boxes } = makeBoxes();
    for (const value of [1, 2, 3]) publish(boxes, 0, value);
    assert.equal(take(boxes, 0), 3);
    assert.equal(take(boxes, 0), -1);
    publish(boxes, 0, 4);
    assert.equal(take(boxes, 0), 4);
    assert.equal(take(boxes, 0), -1);
  });

  it('shows nothing of a value that is not published', () => {
    const { boxes } = makeBoxes();
    fill(boxes, 0, 1);
    assert.equal(take(boxes, 0), -1);
    boxes.publish(0);
    fill(boxes, 0, 2);
    assert.equal(take(boxes, 0), 1);
  });

  it('leaves a taken value alone until the next take, whatever the writer does', () => {
    const { boxes } = makeBoxes();
    publish(boxes, 0, 1);
    const at = boxes.take(0) >> 1;
    for (let value = 2; value < 20; value++) {
      publish(boxes, 0, value);
      assert.deepEqual([boxes.f64[at], boxes.f64[at + 1]], [1, -1]);
    }
    assert.equal(take(boxes, 0), 19);
  });

  it('knows nothing of its neighbours', () => {
    const { boxes } = makeBoxes(5);
    for (let box = 0; box < 5; box++) publish(boxes, box, 10 + box);
    publish(boxes, 2, 99);
    assert.deepEqual([0, 1, 2, 3, 4].map((box) => take(boxes, box)), [10, 11, 99, 13, 14]);
    assert.deepEqual([0, 1, 2, 3, 4].map((box) => take(boxes, box)), [-1, -1, -1, -1, -1]);
  });

  it('throws when its state word is disturbed again and again, because it has two writers', () => {
    const { buffer, boxes } = makeBoxes();
    const rival = new Mailboxes(buffer, 0, 1, RECORD_BYTES);
    assert.throws(() => withAtomicsWatched((name) => {
      if (name === 'compareExchange') publish(rival, 0, 1);
    }, () => boxes.publish(0)), /mailbox 0: .*more than one writer/);
  });
});

describe('a mailbox whose writer or reader died', () => {
  it('lets a replacement go on in the middle of its life, whatever happened before', () => {
    const step = fc.constantFrom('publish', 'halfFill', 'take', 'newWriter', 'newReader');
    fc.assert(fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const { buffer, boxes } = makeBoxes(2);
      let writer = boxes;
      let reader = boxes;
      let last = 0;
      let fresh = false;
      for (const each of steps) {
        switch (each) {
          case 'publish':
            publish(writer, 1, ++last);
            fresh = true;
            break;
          case 'halfFill':
            writer.f64[writer.slot(1) >> 1] = 1e9; // what a dying writer leaves behind
            break;
          case 'take':
            assert.equal(take(reader, 1), fresh ? last : -1);
            fresh = false;
            break;
          case 'newWriter':
            writer = new Mailboxes(buffer, 0, 2, RECORD_BYTES);
            break;
          case 'newReader':
            reader = new Mailboxes(buffer, 0, 2, RECORD_BYTES);
            break;
        }
      }
      assert.equal(take(reader, 1), fresh ? last : -1);
      assert.equal(reader.take(0), -1);
    }), { numRuns: 500 });
  });
});

describe('the memory operations of a mailbox', () => {
  it('are one load and one exchange per publish, and the same per take', () => {
    const { boxes } = makeBoxes();
    assert.deepEqual(atomicsOf(() => boxes.publish(0)), ['load 0', 'compareExchange 0']);
    assert.deepEqual(atomicsOf(() => boxes.take(0)), ['load 0', 'compareExchange 0']);
  });

  it('are one load, and no write, when there is nothing to take', () => {
    const { boxes } = makeBoxes();
    assert.deepEqual(atomicsOf(() => boxes.take(0)), ['load 0']);
  });

  it('are one retry of a publish at most, however often the reader comes between', () => {
    const { boxes } = makeBoxes();
    publish(boxes, 0, 1);
    fill(boxes, 0, 2);
    let exchanges = 0;
    withAtomicsWatched((name) => {
      if (name === 'compareExchange') exchanges++;
      take(boxes, 0);
    }, () => boxes.publish(0));
    assert.ok(exchanges <= 2, `${exchanges} exchanges`);
    assert.equal(take(boxes, 0), 2);
  });
});

/** Runs `outer`, and at the n-th place where it can be interrupted `inner` if bit n of `mask` is set. Returns the number of places. */
function interrupted(mask: number, outer: (place: () => void) => void, inner: () => void): number {
  let places = 0;
  let inside = false;
  const place = (): void => {
    if (inside) return;
    inside = true;
    if ((mask & (1 << places++)) !== 0) inner();
    inside = false;
  };
  withAtomicsWatched(place, () => outer(place));
  return places;
}

describe('a mailbox, when one side interrupts the other at every place,', () => {
  it('never shows a torn value or an old one, and shows the last one at last (takes inside publishes)', () => {
    for (let mask = 0, masks = 1; mask < masks; mask++) {
      const { boxes } = makeBoxes();
      let seen = 0;
      const look = (): void => {
        const value = take(boxes, 0);
        if (value !== -1) {
          assert.ok(value > seen, `${value} after ${seen}`);
          seen = value;
        }
      };
      const places = interrupted(mask, (place) => {
        for (const value of [1, 2, 3]) {
          fill(boxes, 0, value, place);
          boxes.publish(0);
        }
      }, look);
      masks = Math.max(masks, 2 ** Math.min(places, 14));
      look();
      assert.equal(seen, 3, `mask ${mask}`);
    }
  });

  it('never shows a torn value or an old one, and shows the last one at last (publishes inside takes)', () => {
    for (let mask = 0, masks = 1; mask < masks; mask++) {
      const { boxes } = makeBoxes();
      let last = 1;
      let seen = 0;
      publish(boxes, 0, 1);
      const look = (place = (): void => {}): void => {
        const value = take(boxes, 0, place);
        if (value !== -1) {
          assert.ok(value > seen, `${value} after ${seen}`);
          seen = value;
        }
      };
      const places = interrupted(mask, (place) => {
        for (let k = 0; k < 3; k++) look(place);
      }, () => publish(boxes, 0, ++last));
      masks = Math.max(masks, 2 ** Math.min(places, 12));
      look();
      assert.equal(seen, last, `mask ${mask}`);
    }
  });
});

// ── the protocol as a model, step by step ──────────────────────────────────────────────────────────────────────────

const FRESH = 64;

interface Box { state: number; readonly slots: [number, number][] }
interface Fault { readonly writerStores?: boolean; readonly readsFirst?: boolean }

function* modelWriter(box: Box, values: number, { writerStores }: Fault): Thread {
  for (let value = 1; value <= values; value++) {
    const slot = box.slots[box.state & 3]!;
    yield;
    slot[0] = value;
    yield;
    slot[1] = value;
    for (;;) {
      yield;
      const state = box.state;
      yield;
      if (state !== box.state && writerStores !== true) continue;
      box.state = ((state >> 2) & 3) | ((state & 3) << 2) | (state & 48) | FRESH;
      break;
    }
  }
}

function* modelReader(box: Box, takes: number, seen: number[], { readsFirst }: Fault): Thread {
  for (let k = 0; k < takes; k++) {
    yield;
    const state = box.state;
    if ((state & FRESH) === 0) continue;
    const slot = box.slots[(state >> 2) & 3]!;
    let first = 0;
    if (readsFirst === true) {
      yield;
      first = slot[0];
    }
    yield;
    if (box.state !== state) {
      k--;
      continue;
    }
    box.state = (state & 3) | (((state >> 4) & 3) << 2) | (((state >> 2) & 3) << 4);
    if (readsFirst !== true) {
      yield;
      first = slot[0];
    }
    yield;
    seen.push(first, slot[1]);
  }
}

function modelTrial(values: number, takes: number, fault: Fault): Trial {
  const box: Box = { state: 0 | (1 << 2) | (2 << 4), slots: [[0, 0], [0, 0], [0, 0]] };
  const seen: number[] = [];
  return {
    threads: [modelWriter(box, values, fault), modelReader(box, takes, seen, fault)],
    check() {
      for (const rest of modelReader(box, 1, seen, fault)) assert.equal(rest, undefined);
      for (let k = 0; k < seen.length; k += 2) {
        assert.equal(seen[k], seen[k + 1], `torn: ${seen}`);
        assert.ok(k === 0 || seen[k]! > seen[k - 2]!, `old: ${seen}`);
      }
      assert.equal(seen.at(-1), values, `the last value is missing: ${seen}`);
    },
  };
}

describe('the protocol of the mailbox, in all interleavings of its steps,', () => {
  it('gives whole values, in order, and the last one at last', () => {
    assert.ok(explore(() => modelTrial(2, 4, {})) > 5000);
    assert.ok(explore(() => modelTrial(3, 3, {})) > 100_000);
  });

  it('would fail if the writer stored the state word instead of exchanging it', () => {
    assert.throws(() => explore(() => modelTrial(3, 2, { writerStores: true })), /torn|old|missing/);
  });

  it('would fail if the reader read a slot before it owned it, and trusted the part that it had', () => {
    // An unchanged state word proves nothing: with two publishes in between it has come back to the same number.
    assert.throws(() => explore(() => modelTrial(4, 1, { readsFirst: true })), /torn|old|missing/);
  });
});
