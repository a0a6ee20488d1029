import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { LINE_BYTES } from '#rubato/ringbuf/layout.js';
import { RingReader, RingWriter, resetRing, ringBytes, type RingPlace } from '#rubato/ringbuf/spsc-ring.js';
import { atomicsOf } from './interleave.js';

/** Positions from which a test crosses the change of sign, and from which it crosses zero. */
const STARTS = [0, 0x7fffff00, 0xffffff00];
const HEAD = 0;
const TAIL = LINE_BYTES / 4;

function makePlace(capacity: number, recordBytes = 16, start = 0): RingPlace {
  const place = { buffer: new SharedArrayBuffer(ringBytes(capacity, recordBytes)), byteOffset: 0, capacity, recordBytes };
  resetRing(place, start);
  return place;
}

function makeRing(capacity: number, recordBytes = 16, start = 0): { place: RingPlace; writer: RingWriter; reader: RingReader } {
  const place = makePlace(capacity, recordBytes, start);
  return { place, writer: new RingWriter(place), reader: new RingReader(place) };
}

/** Claims one record and fills all of it with values that follow from `value`. Returns false when the ring is full. */
function put(writer: RingWriter, value: number): boolean {
  const at = writer.claim();
  if (at < 0) return false;
  fill(writer, at, value);
  return true;
}

function fill(writer: RingWriter, at: number, value: number): void {
  writer.i32[at] = value;
  writer.i32[at + 1] = ~value;
  writer.f64[(at >> 1) + 1] = value / 8;
}

/** The value of a record; throws when its parts do not belong together. */
function valueAt(reader: RingReader, at: number): number {
  const value = reader.i32[at]!;
  assert.equal(reader.i32[at + 1], ~value);
  assert.equal(reader.f64[(at >> 1) + 1], value / 8);
  return value;
}

function drain(reader: RingReader, limit: number): number[] {
  const values = Array.from({ length: reader.available(limit) }, (_, k) => valueAt(reader, reader.word(k)));
  reader.release(values.length);
  return values;
}

describe('a ring at construction', () => {
  it('refuses a capacity that is not a power of two between 1 and 2^30, and names it', () => {
    for (const capacity of [0, -4, 3, 6, 1000, 1.5, NaN, 2 ** 31]) {
      assert.throws(() => ringBytes(capacity, 16), new RegExp(`RangeError: ring capacity ${capacity}: .*power of two between 1 and 1073741824`));
    }
  });

  it('refuses a record size that is not a positive multiple of 8, and names it', () => {
    for (const bytes of [0, -8, 4, 12, 8.5, NaN]) assert.throws(() => ringBytes(8, bytes), new RegExp(`RangeError: ring record size ${bytes}: .*multiple of 8`));
  });

  it('refuses a buffer that is not shared', () => {
    const buffer = new ArrayBuffer(4096) as unknown as SharedArrayBuffer;
    assert.throws(() => new RingWriter({ buffer, byteOffset: 0, capacity: 8, recordBytes: 16 }), /TypeError: ring: .*SharedArrayBuffer/);
  });

  it('refuses a buffer that is too small, with both numbers', () => {
    const buffer = new SharedArrayBuffer(ringBytes(8, 16) - 8);
    const expected = /RangeError: ring: needs bytes 0 to 384, the buffer has 376/;
    assert.throws(() => new RingWriter({ buffer, byteOffset: 0, capacity: 8, recordBytes: 16 }), expected);
    assert.throws(() => new RingReader({ buffer, byteOffset: 0, capacity: 8, recordBytes: 16 }), expected);
  });

  it('refuses a start between two doubles', () => {
    const buffer = new SharedArrayBuffer(4096);
    assert.throws(() => new RingReader({ buffer, byteOffset: 4, capacity: 8, recordBytes: 16 }), /RangeError: ring: starts at byte 4, .*multiple of 8/);
  });

  it('keeps head, tail and records on lines of their own, inside its bytes', () => {
    const place = { buffer: new SharedArrayBuffer(512 + ringBytes(8, 16)), byteOffset: 512, capacity: 8, recordBytes: 16 };
    const writer = new RingWriter(place);
    const words = Array.from({ length: 8 }, () => writer.claim());
    assert.equal(words[0]! * 4, 512 + 2 * LINE_BYTES);
    assert.equal(words[7]! * 4 + 16, place.buffer.byteLength);
  });
});

for (const start of STARTS) {
  describe(`a ring that starts at position 0x${start.toString(16)}`, () => {
    it('hands every record over, in order, once, across several wrap-arounds', () => {
      const { writer, reader } = makeRing(8, 16, start);
      let sent = 0;
      let seen = 0;
      while (seen < 2000) {
        for (let k = 0; k < 1 + (sent % 8); k++) if (put(writer, sent)) sent++;
        writer.commit();
        for (const value of drain(reader, 1 + (seen % 7))) assert.equal(value, seen++);
      }
    });

    it('holds as many records as its capacity, and not one more', () => {
      for (const capacity of [1, 2, 64, 512]) {
        const { writer, reader } = makeRing(capacity, 16, start);
        for (let round = 0; round < 3; round++) {
          for (let k = 0; k < capacity; k++) assert.ok(put(writer, k), `record ${k} of ${capacity}`);
          assert.equal(writer.claim(), -1);
          writer.commit();
          assert.equal(writer.claim(), -1);
          assert.deepEqual(drain(reader, capacity + 1), Array.from({ length: capacity }, (_, k) => k));
          assert.equal(reader.available(1), 0);
        }
      }
    });

    it('shows nothing before commit, and all of it after', () => {
      const { writer, reader } = makeRing(512, 16, start);
      for (let k = 0; k < 400; k++) {
        put(writer, k);
        assert.equal(reader.available(1), 0, `after ${k + 1} claims`);
      }
      writer.commit();
      assert.equal(reader.available(512), 400);
    });

    it('forgets aborted claims, and claims the same records again', () => {
      const { writer, reader } = makeRing(8, 16, start);
      put(writer, 1);
      writer.commit();
      const first = writer.claim();
      fill(writer, first, 99);
      put(writer, 98);
      writer.abort();
      assert.equal(reader.available(8), 1);
      assert.equal(writer.claim(), first);
      fill(writer, first, 2);
      writer.commit();
      assert.deepEqual(drain(reader, 8), [1, 2]);
    });

    it('gives a replacement writer and a replacement reader their positions back', () => {
      const { place, writer, reader } = makeRing(512, 16, start);
      for (let k = 0; k < 300; k++) put(writer, k);
      writer.commit();
      put(writer, 1000); // claimed by one who died: never seen
      assert.deepEqual(drain(reader, 299).length, 299);
      const heir = new RingWriter(place);
      const heiress = new RingReader(place);
      assert.ok(put(heir, 300));
      heir.commit();
      assert.deepEqual(drain(heiress, 512), [299, 300]);
    });

    it('behaves like a queue of bounded length under any sequence of calls', () => {
      fc.assert(fc.property(fc.constantFrom(1, 2, 4, 16), fc.array(callArb, { maxLength: 200 }), (capacity, calls) => {
        compareWithQueue(makePlace(capacity, 16, start), calls);
      }), { numRuns: 400 });
    });

    it('behaves like a queue across its wrap-around as well', () => {
      fc.assert(fc.property(fc.array(callArb, { minLength: 100, maxLength: 300 }), (calls) => {
        compareWithQueue(makePlace(64, 16, start + 0xf0), calls);
      }), { numRuns: 100 });
    });
  });
}

type Call =
  | { readonly do: 'claim' | 'claimMany' | 'room' | 'drain' | 'peek'; readonly count: number }
  | { readonly do: 'commit' | 'abort' | 'newWriter' | 'newReader' };

const callArb: fc.Arbitrary<Call> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constantFrom('claim', 'claimMany', 'room', 'drain', 'peek'), count: fc.integer({ min: 0, max: 70 }) }) },
  { weight: 4, arbitrary: fc.constant<Call>({ do: 'commit' }) },
  { weight: 1, arbitrary: fc.constantFrom<Call>({ do: 'abort' }, { do: 'newWriter' }, { do: 'newReader' }) },
);

/** Does the same to a ring and to arrays, and compares every answer. */
function compareWithQueue(place: RingPlace, calls: readonly Call[]): void {
  let writer = new RingWriter(place);
  let reader = new RingReader(place);
  const committed: number[] = [];
  let claimed: number[] = [];
  let next = 0;
  const room = (): number => place.capacity - committed.length - claimed.length;
  for (const call of calls) {
    switch (call.do) {
      case 'claim':
        for (let k = 0; k < call.count; k++) {
          const fits = room() > 0;
          assert.equal(put(writer, next), fits);
          if (fits) claimed.push(next++);
        }
        break;
      case 'claimMany': {
        const wanted = Math.min(call.count, place.capacity);
        const got = writer.claimMany(wanted);
        assert.equal(got, Math.min(wanted, room()));
        for (let k = 0; k < got; k++) {
          fill(writer, writer.claimed(k), next);
          claimed.push(next++);
        }
        break;
      }
      case 'room':
        assert.equal(writer.room(Math.min(call.count, place.capacity)), Math.min(call.count, room()));
        break;
      case 'commit':
        writer.commit();
        committed.push(...claimed);
        claimed = [];
        break;
      case 'abort':
        writer.abort();
        claimed = [];
        break;
      case 'peek':
        assert.equal(reader.available(call.count), Math.min(call.count, committed.length));
        break;
      case 'drain':
        assert.deepEqual(drain(reader, call.count), committed.splice(0, call.count));
        break;
      case 'newWriter':
        writer = new RingWriter(place);
        claimed = [];
        break;
      case 'newReader':
        reader = new RingReader(place);
        break;
    }
  }
  writer.commit();
  assert.deepEqual(drain(reader, place.capacity), [...committed, ...claimed]);
}

describe('a refused call on a ring', () => {
  it('changes nothing when the ring is full', () => {
    const { place, writer, reader } = makeRing(4);
    for (let k = 0; k < 4; k++) put(writer, k);
    writer.commit();
    const before = new Uint8Array(place.buffer).slice();
    assert.equal(writer.claim(), -1);
    assert.equal(writer.claimMany(4), 0);
    assert.equal(writer.room(1), 0);
    writer.commit();
    assert.deepEqual(new Uint8Array(place.buffer).slice(), before);
    assert.deepEqual(drain(reader, 4), [0, 1, 2, 3]);
  });

  it('refuses a claim larger than the ring, or negative, and leaves the next claim as it was', () => {
    const { writer, reader } = makeRing(8);
    for (const count of [9, 1000, -1, 2 ** 32 - 1]) {
      assert.throws(() => writer.claimMany(count), new RegExp(`RangeError: .* ${count} records .* 0 and 8`));
      assert.throws(() => writer.room(count), new RegExp(`RangeError: .* ${count} records .* 0 and 8`));
    }
    put(writer, 7);
    writer.commit();
    assert.deepEqual(drain(reader, 8), [7]);
  });

  it('refuses the release of records that were not seen, and releases nothing', () => {
    const { writer, reader } = makeRing(8);
    for (let k = 0; k < 3; k++) put(writer, k);
    writer.commit();
    assert.equal(reader.available(2), 2);
    for (const count of [4, -1]) assert.throws(() => reader.release(count), new RegExp(`RangeError: .* ${count} records`));
    assert.deepEqual(drain(reader, 8), [0, 1, 2]);
  });
});

describe('a bulk on a ring', () => {
  it('lies where single claims would have put it, also around the end', () => {
    const { writer, reader } = makeRing(8);
    for (let k = 0; k < 5; k++) put(writer, k);
    writer.commit();
    drain(reader, 8);
    const words = Array.from({ length: writer.claimMany(8) }, (_, k) => writer.claimed(k));
    writer.abort();
    assert.deepEqual(words, Array.from({ length: 8 }, () => writer.claim()));
  });

  it('is drained in the pieces that the reader asks for', () => {
    const { writer, reader } = makeRing(64);
    for (let k = 0; k < 64; k++) put(writer, k);
    writer.commit();
    const pieces = [1, 2, 3, 5, 8, 13, 21, 34].map((limit) => drain(reader, limit));
    assert.deepEqual(pieces.map((piece) => piece.length), [1, 2, 3, 5, 8, 13, 21, 11]);
    assert.deepEqual(pieces.flat(), Array.from({ length: 64 }, (_, k) => k));
  });

  it('can be looked at, and released in part', () => {
    const { writer, reader } = makeRing(8);
    for (let k = 0; k < 6; k++) put(writer, k);
    writer.commit();
    assert.equal(reader.available(6), 6);
    reader.release(4);
    assert.equal(writer.room(8), 6);
    assert.deepEqual(drain(reader, 8), [4, 5]);
  });
});

describe('the memory operations of a ring', () => {
  it('are no atomic at all while the known room lasts, and one load when it is used up', () => {
    const { writer } = makeRing(8);
    assert.deepEqual(atomicsOf(() => { for (let k = 0; k < 8; k++) put(writer, k); }), []);
    assert.deepEqual(atomicsOf(() => writer.claim()), [`load ${TAIL}`]);
  });

  it('are one store of the head per commit, whatever its length', () => {
    const { writer } = makeRing(64);
    assert.deepEqual(atomicsOf(() => { writer.claimMany(64); writer.commit(); }), [`store ${HEAD}`]);
  });

  it('are one load of the head and one store of the tail per drained bulk', () => {
    const { writer, reader } = makeRing(64);
    for (let k = 0; k < 64; k++) put(writer, k);
    writer.commit();
    assert.deepEqual(atomicsOf(() => drain(reader, 32)), [`load ${HEAD}`, `store ${TAIL}`]);
    assert.deepEqual(atomicsOf(() => drain(reader, 32)), [`store ${TAIL}`]);
  });

  it('write each word from one side only', () => {
    const { writer, reader } = makeRing(4);
    const writes = (body: () => void): string[] => atomicsOf(body).filter((operation) => !operation.startsWith('load'));
    for (let round = 0; round < 10; round++) {
      assert.deepEqual(writes(() => { writer.claim(); writer.room(1); writer.commit(); writer.claim(); writer.abort(); }), [`store ${HEAD}`]);
      assert.deepEqual(writes(() => { reader.available(4); reader.release(1); }), [`store ${TAIL}`]);
    }
  });
});
