/**
 * A record from one side of a ring to the other, both sides on one thread and nobody else on the memory:
 *
 *   ring         claimMany (or claim) … fill … commit ──▶ available … read … release
 *   ringbuf.js   fill an array … push (copy) ──▶ pop (copy) … read
 *   port         fill an array … postMessage (serialise) ──▶ receiveMessageOnPort … read
 *   set          TypedArray.set of the same bytes into the same amount of shared memory: the yardstick, a bare copy
 *
 * Every double of every record is written and read, and the sums are compared.
 */
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import { RingBuffer } from 'ringbuf.js';
import { RingReader, RingWriter, ringBytes } from '#rubato/ringbuf/spsc-ring.js';
import { always, type Case, type Group } from './harness.js';

export const BULKS = [1, 8, 64, 512];
const RECORD_BYTES = [8, 32, 64];
/** Records in the ring, whoever's it is. */
const CAPACITY = 1024;
/** Records per call, at least. */
const RECORDS = 64;

export const ring: Group = {
  name: 'ring',
  title: 'SPSC ring, one thread',
  unit: 'record',
  note: '`ring` claims a bulk at once, `ring.claim` record by record. `set` is TypedArray.set of the same bytes into shared memory, a bare copy.',
  open: () => ({
    cases: [
      ...RECORD_BYTES.flatMap((bytes) => BULKS.flatMap((bulk) => [byClaimMany(bytes, bulk), byRingbuf(bytes, bulk), bySet(bytes, bulk)])),
      ...BULKS.map(byClaim),
      byPort(32, 1),
      byPort(32, 64),
      privateSet(32, 64),
    ],
  }),
};

const nameOf = (what: string, bytes: number, bulk: number): string => `${what} ${bytes} B, bulk ${bulk}`;

export const ringName = (bytes: number, bulk: number): string => nameOf('ring', bytes, bulk);
export const setName = (bytes: number, bulk: number): string => nameOf('set', bytes, bulk);

/** What one call moves: `rounds` bulks, each with record k holding k, k + 1, … in its doubles. */
function callOf(bytes: number, bulk: number): { rounds: number; times: number; sum: number } {
  const rounds = Math.max(1, RECORDS / bulk);
  const doubles = bytes / 8;
  const perBulk = (doubles * bulk * (bulk - 1)) / 2 + (bulk * doubles * (doubles - 1)) / 2;
  return { rounds, times: rounds * bulk, sum: rounds * perBulk };
}

function makeRing(recordBytes: number): { writer: RingWriter; reader: RingReader } {
  const place = { buffer: new SharedArrayBuffer(ringBytes(CAPACITY, recordBytes)), byteOffset: 0, capacity: CAPACITY, recordBytes };
  return { writer: new RingWriter(place), reader: new RingReader(place) };
}

/**
 * A record is written and read as its user does it, one line per field, and a function for each size: a loop over the
 * fields, or a look at how many there are, would be most of what is measured.
 */
const OWN = new Map([[8, { write: write8, read: read8 }], [32, { write: write32, read: read32 }], [64, { write: write64, read: read64 }]]);

function write8(writer: RingWriter, bulk: number): void {
  const f64 = writer.f64;
  const count = writer.claimMany(bulk);
  for (let k = 0; k < count; k++) f64[writer.claimed(k) >> 1] = k;
  writer.commit();
}

function read8(reader: RingReader, bulk: number): number {
  const f64 = reader.f64;
  const count = reader.available(bulk);
  let sum = 0;
  for (let k = 0; k < count; k++) sum += f64[reader.word(k) >> 1]!;
  reader.release(count);
  return sum;
}

function write32(writer: RingWriter, bulk: number): void {
  const f64 = writer.f64;
  const count = writer.claimMany(bulk);
  for (let k = 0; k < count; k++) {
    const at = writer.claimed(k) >> 1;
    f64[at] = k;
    f64[at + 1] = k + 1;
    f64[at + 2] = k + 2;
    f64[at + 3] = k + 3;
  }
  writer.commit();
}

function read32(reader: RingReader, bulk: number): number {
  const f64 = reader.f64;
  const count = reader.available(bulk);
  let sum = 0;
  for (let k = 0; k < count; k++) {
    const at = reader.word(k) >> 1;
    sum += f64[at]! + f64[at + 1]! + f64[at + 2]! + f64[at + 3]!;
  }
  reader.release(count);
  return sum;
}

function write64(writer: RingWriter, bulk: number): void {
  const f64 = writer.f64;
  const count = writer.claimMany(bulk);
  for (let k = 0; k < count; k++) {
    const at = writer.claimed(k) >> 1;
    f64[at] = k;
    f64[at + 1] = k + 1;
    f64[at + 2] = k + 2;
    f64[at + 3] = k + 3;
    f64[at + 4] = k + 4;
    f64[at + 5] = k + 5;
    f64[at + 6] = k + 6;
    f64[at + 7] = k + 7;
  }
  writer.commit();
}

function read64(reader: RingReader, bulk: number): number {
  const f64 = reader.f64;
  const count = reader.available(bulk);
  let sum = 0;
  for (let k = 0; k < count; k++) {
    const at = reader.word(k) >> 1;
    sum += f64[at]! + f64[at + 1]! + f64[at + 2]! + f64[at + 3]! + f64[at + 4]! + f64[at + 5]! + f64[at + 6]! + f64[at + 7]!;
  }
  reader.release(count);
  return sum;
}

/** The same into an array of records, from which the rivals copy. */
const FILL = new Map([[8, fill8], [32, fill32], [64, fill64]]);

function fill8(array: Float64Array, bulk: number): void {
  for (let k = 0; k < bulk; k++) array[k] = k;
}

function fill32(array: Float64Array, bulk: number): void {
  for (let k = 0, at = 0; k < bulk; k++, at += 4) {
    array[at] = k;
    array[at + 1] = k + 1;
    array[at + 2] = k + 2;
    array[at + 3] = k + 3;
  }
}

function fill64(array: Float64Array, bulk: number): void {
  for (let k = 0, at = 0; k < bulk; k++, at += 8) {
    array[at] = k;
    array[at + 1] = k + 1;
    array[at + 2] = k + 2;
    array[at + 3] = k + 3;
    array[at + 4] = k + 4;
    array[at + 5] = k + 5;
    array[at + 6] = k + 6;
    array[at + 7] = k + 7;
  }
}

function total(array: Float64Array): number {
  let sum = 0;
  for (let k = 0; k < array.length; k++) sum += array[k]!;
  return sum;
}

function byClaimMany(bytes: number, bulk: number): Case {
  const { writer, reader } = makeRing(bytes);
  const { rounds, times, sum } = callOf(bytes, bulk);
  const { write, read } = OWN.get(bytes)!;
  const run = (): number => {
    let got = 0;
    for (let round = 0; round < rounds; round++) {
      write(writer, bulk);
      got += read(reader, bulk);
    }
    return got;
  };
  const versus = [nameOf('ringbuf.js', bytes, bulk), setName(bytes, bulk), ...(bytes === 32 && (bulk === 1 || bulk === 64) ? [nameOf('MessagePort', bytes, bulk)] : [])];
  return { name: ringName(bytes, bulk), times, run, check: always(sum), versus };
}

function writeByClaim(writer: RingWriter, bulk: number): void {
  const f64 = writer.f64;
  for (let k = 0; k < bulk; k++) {
    const at = writer.claim() >> 1;
    f64[at] = k;
    f64[at + 1] = k + 1;
    f64[at + 2] = k + 2;
    f64[at + 3] = k + 3;
  }
  writer.commit();
}

function byClaim(bulk: number): Case {
  const { writer, reader } = makeRing(32);
  const { rounds, times, sum } = callOf(32, bulk);
  const run = (): number => {
    let got = 0;
    for (let round = 0; round < rounds; round++) {
      writeByClaim(writer, bulk);
      got += read32(reader, bulk);
    }
    return got;
  };
  return { name: nameOf('ring.claim', 32, bulk), times, run, check: always(sum), versus: [nameOf('ringbuf.js', 32, bulk), setName(32, bulk)] };
}

function byRingbuf(bytes: number, bulk: number): Case {
  const { rounds, times, sum } = callOf(bytes, bulk);
  const doubles = bytes / 8;
  const buffer = new RingBuffer(RingBuffer.getStorageForCapacity(CAPACITY * doubles, Float64Array), Float64Array);
  const fill = FILL.get(bytes)!;
  const out = new Float64Array(bulk * doubles);
  const back = new Float64Array(bulk * doubles);
  const run = (): number => {
    let got = 0;
    for (let round = 0; round < rounds; round++) {
      fill(out, bulk);
      buffer.push(out, out.length);
      if (buffer.pop(back, back.length) === back.length) got += total(back);
    }
    return got;
  };
  return { name: nameOf('ringbuf.js', bytes, bulk), times, run, check: always(sum) };
}

/** One message per bulk. On one thread: no event loop, no wake-up, which is the port at its best. */
function byPort(bytes: number, bulk: number): Case {
  const { rounds, times, sum } = callOf(bytes, bulk);
  const fill = FILL.get(bytes)!;
  const { port1, port2 } = new MessageChannel();
  port1.unref();
  port2.unref();
  const out = new Float64Array((bulk * bytes) / 8);
  const run = (): number => {
    let got = 0;
    for (let round = 0; round < rounds; round++) {
      fill(out, bulk);
      port1.postMessage(out);
      got += total((receiveMessageOnPort(port2) as { message: Float64Array }).message);
    }
    return got;
  };
  return { name: nameOf('MessagePort', bytes, bulk), times, run, check: always(sum) };
}

function bySet(bytes: number, bulk: number): Case {
  return setter(setName(bytes, bulk), bytes, bulk, new SharedArrayBuffer(CAPACITY * bytes));
}

/** V8 copies into shared memory word by word, into private memory with the widest instructions. */
function privateSet(bytes: number, bulk: number): Case {
  return setter(nameOf('private set', bytes, bulk), bytes, bulk, new ArrayBuffer(CAPACITY * bytes));
}

function setter(name: string, bytes: number, bulk: number, buffer: ArrayBuffer | SharedArrayBuffer): Case {
  const { rounds, times } = callOf(bytes, bulk);
  const target = new Float64Array(buffer);
  const source = new Float64Array((bulk * bytes) / 8).fill(1.5);
  const mask = target.length - 1;
  let at = 0;
  const run = (): number => {
    let got = 0;
    for (let round = 0; round < rounds; round++) {
      target.set(source, at);
      got += target[at + source.length - 1]!;
      at = (at + source.length) & mask;
    }
    return got;
  };
  return { name, times, run, check: always(1.5 * rounds) };
}
