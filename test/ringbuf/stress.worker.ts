/**
 * The threads of the stress tests: each does one job on shared memory as fast as it can, checks every value that it
 * sees, counts the outcomes and posts the counts. It throws (and so fails the test) on an outcome that is not legal.
 */
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { DirtyBitmap } from '#rubato/ringbuf/dirty-bitmap.js';
import { DOORBELL_BYTES, Doorbell } from '#rubato/ringbuf/doorbell.js';
import { BUCKETS, HistogramTable } from '#rubato/ringbuf/log-linear.js';
import { Mailboxes } from '#rubato/ringbuf/mailbox.js';
import { RingReader, RingWriter, type RingPlace } from '#rubato/ringbuf/spsc-ring.js';

/** Where the threads of one test meet before they start, and say that they are done. */
export interface Gate {
  readonly words: Int32Array;
  readonly threads: number;
}
export const GATE_ARRIVED = 0;
export const GATE_DONE = 1;
export const GATE_NEVER = 2;
export const GATE_TURN = 32;
export const GATE_WORDS = 64;

export interface MailboxPlace { readonly buffer: SharedArrayBuffer; readonly boxes: number; readonly recordBytes: number }
export interface BitmapPlace { readonly buffer: SharedArrayBuffer; readonly size: number; readonly values: Int32Array; readonly seen: Int32Array }
export interface RowsPlace { readonly buffer: SharedArrayBuffer; readonly rows: number }

export type Job =
  | { readonly kind: 'ring-write' | 'ring-read'; readonly gate: Gate; readonly place: RingPlace; readonly bells: SharedArrayBuffer; readonly records: number; readonly seed: number }
  | { readonly kind: 'mailbox-write' | 'mailbox-read'; readonly gate: Gate; readonly place: MailboxPlace; readonly values: number; readonly seed: number }
  | { readonly kind: 'mark'; readonly gate: Gate; readonly place: BitmapPlace; readonly marker: number; readonly marks: number; readonly seed: number }
  | { readonly kind: 'collect'; readonly gate: Gate; readonly place: BitmapPlace; readonly markers: number; readonly room: number }
  | { readonly kind: 'hand-off'; readonly gate: Gate; readonly bells: SharedArrayBuffer; readonly side: 0 | 1; readonly turns: number; readonly parkMs: number; readonly seed: number }
  | { readonly kind: 'record'; readonly gate: Gate; readonly place: RowsPlace; readonly row: number; readonly records: number }
  | { readonly kind: 'watch-rows'; readonly gate: Gate; readonly place: RowsPlace; readonly writers: number }
  | { readonly kind: 'ring-after'; readonly buffer: SharedArrayBuffer; readonly delayMs: number };

export type Counts = Record<string, number>;

/** xorshift: enough chance to vary bulks and pauses, and the same on every run of a seed. */
function random(seed: number): (below: number) => number {
  let x = seed | 1;
  return (below) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % below;
  };
}

function hash(value: number): number {
  const mixed = Math.imul(value ^ (value >>> 16), 0x45d9f3b);
  return mixed ^ (mixed >>> 15);
}

function illegal(what: string): never {
  throw new Error(`illegal outcome: ${what}`);
}

function meet({ words, threads }: Gate): void {
  Atomics.add(words, GATE_ARRIVED, 1);
  while (Atomics.load(words, GATE_ARRIVED) < threads) rest(words);
}

/** Fruitless looks before a thread sleeps: longer than the other side takes for its bulk if it runs at all. */
const LOOKS = 1000;
/** A thread that sleeps is woken; the bound only keeps a fault from becoming a hang. */
const SLEEP_MS = 1000;
/** A mark that is not seen for so long is lost. */
const LOST_MS = 5000;

/** A short sleep: the other thread may need this very core. */
function rest(words: Int32Array): void {
  Atomics.wait(words, GATE_NEVER, 0, 0.05);
}

// ── ring: each record arrives once, in order, whole ────────────────────────────────────────────────────────────────

function writeRing(gate: Gate, place: RingPlace, bells: SharedArrayBuffer, records: number, seed: number): Counts {
  const writer = new RingWriter(place);
  const mine = new Doorbell(bells, 0);
  const readers = new Doorbell(bells, DOORBELL_BYTES);
  const below = random(seed);
  const largest = Math.min(place.capacity, 512);
  const counts = { full: 0, aborts: 0, bulks: 0, sum: 0 };
  meet(gate);
  for (let next = 0, refused = 0; next < records;) {
    const way = below(8);
    const wanted = Math.min(1 + below(largest), records - next);
    if (way === 0) {
      // Claims that are never committed: what lies in them must not be seen.
      for (let k = 0; k < wanted; k++) {
        const at = writer.claim();
        if (at >= 0) writer.i32.fill(-7, at, at + 8);
      }
      writer.abort();
      counts.aborts++;
      continue;
    }
    let got = 0;
    if (way < 4) {
      got = writer.claimMany(wanted);
      for (let k = 0; k < got; k++) fillRecord(writer, writer.claimed(k), next + k);
    } else {
      for (let at = writer.claim(); at >= 0; at = got < wanted ? writer.claim() : -1) fillRecord(writer, at, next + got++);
    }
    for (let k = 0; k < got; k++) counts.sum = (counts.sum + hash(next + k)) | 0;
    next += got;
    writer.commit();
    readers.ring();
    counts.bulks++;
    if (got < wanted) counts.full++;
    refused = got > 0 ? 0 : refused + 1;
    if (refused > LOOKS) {
      mine.prepare();
      if (writer.room(1) > 0) mine.cancel();
      else mine.park(SLEEP_MS);
    }
  }
  return counts;
}

function fillRecord(writer: RingWriter, at: number, value: number): void {
  writer.i32[at] = value;
  writer.i32[at + 1] = hash(value);
  writer.f64[(at >> 1) + 1] = value / 4;
  writer.f64[(at >> 1) + 2] = -value;
  writer.i32[at + 6] = ~value;
  writer.i32[at + 7] = hash(~value);
}

function readRing(gate: Gate, place: RingPlace, bells: SharedArrayBuffer, records: number, seed: number): Counts {
  const reader = new RingReader(place);
  const mine = new Doorbell(bells, DOORBELL_BYTES);
  const writers = new Doorbell(bells, 0);
  const below = random(seed ^ 0x5555);
  const largest = Math.min(2 * place.capacity, 512);
  const counts = { empty: 0, bulks: 0, sum: 0, seen: 0 };
  meet(gate);
  for (let next = 0, missed = 0; next < records;) {
    const ready = reader.available(1 + below(largest));
    if (ready === 0) {
      counts.empty++;
      if (++missed > LOOKS) {
        mine.prepare();
        if (reader.available(1) > 0) mine.cancel();
        else mine.park(SLEEP_MS);
      }
      continue;
    }
    missed = 0;
    const taken = below(4) === 0 ? 1 + below(ready) : ready;
    for (let k = 0; k < taken; k++) {
      checkRecord(reader, reader.word(k), next);
      counts.sum = (counts.sum + hash(next)) | 0;
      next++;
    }
    reader.release(taken);
    writers.ring();
    counts.bulks++;
    counts.seen = next;
  }
  if (reader.available(1) !== 0) illegal('a record after the last one');
  return counts;
}

function checkRecord(reader: RingReader, at: number, value: number): void {
  const { i32, f64 } = reader;
  if (i32[at] !== value) illegal(`record ${i32[at]} where ${value} was due`);
  const half = at >> 1;
  if (i32[at + 1] !== hash(value) || f64[half + 1] !== value / 4 || f64[half + 2] !== -value) illegal(`record ${value} is torn`);
  if (i32[at + 6] !== ~value || i32[at + 7] !== hash(~value)) illegal(`record ${value} is torn at its end`);
}

// ── mailbox: values may be skipped, never go back, are never mixed, and the last one is seen ───────────────────────

function writeMailbox(gate: Gate, { buffer, boxes, recordBytes }: MailboxPlace, values: number, seed: number): Counts {
  const mailboxes = new Mailboxes(buffer, 0, boxes, recordBytes);
  const below = random(seed);
  meet(gate);
  for (let value = 1; value <= values; value++) {
    for (let box = 0; box < boxes; box++) {
      const at = mailboxes.slot(box) >> 1;
      for (let k = 0; k < recordBytes / 8; k++) mailboxes.f64[at + k] = value * 64 + box + k / 1024;
      mailboxes.publish(box);
    }
    if (below(1024) === 0) rest(gate.words);
  }
  Atomics.store(gate.words, GATE_DONE, 1);
  return { published: values * boxes };
}

function readMailbox(gate: Gate, { buffer, boxes, recordBytes }: MailboxPlace, values: number): Counts {
  const mailboxes = new Mailboxes(buffer, 0, boxes, recordBytes);
  const last = new Int32Array(boxes);
  const counts = { taken: 0, nothing: 0, skipped: 0, lastSeen: 0 };
  meet(gate);
  for (let rounds = 1; rounds > 0;) {
    if (Atomics.load(gate.words, GATE_DONE) !== 0) rounds = 0; // one more round, after the writer's end
    for (let box = 0; box < boxes; box++) {
      const at = mailboxes.take(box);
      if (at < 0) {
        counts.nothing++;
        continue;
      }
      const first = mailboxes.f64[at >> 1]!;
      for (let k = 1; k < recordBytes / 8; k++) {
        if (mailboxes.f64[(at >> 1) + k] !== first + k / 1024) illegal(`box ${box} holds parts of different values`);
      }
      if ((first & 63) !== box) illegal(`box ${box} holds a value of box ${first & 63}`);
      const value = (first - box) / 64;
      if (!(value > last[box]!)) illegal(`box ${box} went from ${last[box]} back to ${value}`);
      counts.skipped += value - last[box]! - 1;
      last[box] = value;
      counts.taken++;
    }
  }
  counts.lastSeen = last.filter((value) => value === values).length;
  return counts;
}

// ── dirty bitmap: after a mark its value, or a later one, is seen ──────────────────────────────────────────────────

function mark(gate: Gate, { buffer, size, values, seen }: BitmapPlace, marker: number, marks: number, seed: number): Counts {
  const bitmap = new DirtyBitmap(buffer, 0, size);
  const below = random(seed);
  meet(gate);
  for (let k = 1; k <= marks; k++) {
    // Half of the marks crowd into few words, where both markers and the reader meet.
    const index = below(below(2) === 0 ? size : Math.min(size, 40));
    const at = marker * size + index;
    Atomics.store(values, at, values[at]! + 1);
    bitmap.mark(index);
    // A lost mark would be healed by the next one of its index: so wait now and then until this one is seen.
    if (k % 64 === 0) awaitSeen(gate, seen, at, values[at]!);
  }
  Atomics.add(gate.words, GATE_DONE, 1);
  return { marks };
}

function awaitSeen({ words }: Gate, seen: Int32Array, at: number, value: number): void {
  const startMs = performance.now();
  for (let looks = 0; Atomics.load(seen, at) < value; looks++) {
    if (looks < LOOKS) continue;
    rest(words);
    if (performance.now() - startMs > LOST_MS) illegal(`the mark of value ${value} was lost`);
  }
}

function collect(gate: Gate, { buffer, size, values, seen }: BitmapPlace, markers: number, room: number): Counts {
  const bitmap = new DirtyBitmap(buffer, 0, size);
  const out = new Int32Array(room);
  const counts = { collected: 0, empty: 0, nothingNew: 0, missing: 0 };
  meet(gate);
  for (let last = false, idle = 0; ;) {
    const count = bitmap.collect(out);
    counts.collected += count;
    for (let n = 0; n < count; n++) {
      const index = out[n]!;
      if (index < 0 || index >= size) illegal(`${index} was never marked`);
      if (n > 0 && index <= out[n - 1]!) illegal(`${index} comes after ${out[n - 1]}`);
      let news = 0;
      for (let at = index; at < markers * size; at += size) {
        const value = Atomics.load(values, at);
        if (value < seen[at]!) illegal(`a value went back from ${seen[at]} to ${value}`);
        news += value - seen[at]!;
        if (value !== seen[at]) Atomics.store(seen, at, value);
      }
      if (news === 0) counts.nothingNew++;
    }
    if (count > 0) {
      idle = 0;
      continue;
    }
    counts.empty++;
    if (last) break;
    // Everything was marked before a marker said that it is done: what is collected from here on must be all.
    last = Atomics.load(gate.words, GATE_DONE) === markers;
    if (!last && ++idle > LOOKS) rest(gate.words);
  }
  for (let at = 0; at < seen.length; at++) if (seen[at] !== values[at]) counts.missing++;
  return counts;
}

// ── doorbell: the turn passes to and fro, and no wake-up is lost ───────────────────────────────────────────────────

function handOff(gate: Gate, bells: SharedArrayBuffer, side: 0 | 1, turns: number, parkMs: number, seed: number): Counts {
  const mine = new Doorbell(bells, side * DOORBELL_BYTES);
  const other = new Doorbell(bells, (1 - side) * DOORBELL_BYTES);
  const below = random(seed + side);
  const { words } = gate;
  const counts = { handOffs: 0, parks: 0, foundAtSecondLook: 0, woken: 0, lost: 0 };
  meet(gate);
  for (let turn: number = side; turn < turns; turn += 2) {
    // Sometimes this thread looks for a while before it lies down: it meets the ring in each phase.
    for (let spins = below(3) === 0 ? below(3000) : 0; spins > 0 && Atomics.load(words, GATE_TURN) < turn; spins--);
    while (Atomics.load(words, GATE_TURN) < turn) {
      mine.prepare();
      if (Atomics.load(words, GATE_TURN) >= turn) {
        mine.cancel();
        counts.foundAtSecondLook++;
        continue;
      }
      const startMs = performance.now();
      mine.park(parkMs);
      counts.parks++;
      // Its turn had come, and yet it slept until the time-out (or nearly: the turn may come in the last moment).
      if (performance.now() - startMs >= parkMs && Atomics.load(words, GATE_TURN) >= turn) counts.lost++;
      else counts.woken++;
    }
    Atomics.store(words, GATE_TURN, turn + 1);
    other.ring();
    counts.handOffs++;
  }
  return counts;
}

function ringAfter(buffer: SharedArrayBuffer, delayMs: number): Counts {
  const word = new Int32Array(buffer);
  const never = new Int32Array(new SharedArrayBuffer(4));
  while (Atomics.load(word, 0) === 0) Atomics.wait(never, 0, 0, 1);
  Atomics.wait(never, 0, 0, delayMs);
  new Doorbell(buffer, 0).ring();
  return {};
}

// ── histogram rows: one writer each, any reader: counts never fall, and none is lost ───────────────────────────────

function record(gate: Gate, { buffer, rows }: RowsPlace, row: number, records: number): Counts {
  const table = new HistogramTable(buffer, 0, rows);
  meet(gate);
  for (let k = 0; k < records; k++) table.record(row, hash(k) & 0xfffff);
  Atomics.add(gate.words, GATE_DONE, 1);
  return { records };
}

function watchRows(gate: Gate, { buffer, rows }: RowsPlace, writers: number): Counts {
  const table = new HistogramTable(buffer, 0, rows);
  const before = new Int32Array(rows * BUCKETS);
  const counts: Counts = { looks: 0 };
  meet(gate);
  for (let last = false; ;) {
    for (let row = 0; row < rows; row++) {
      const now = table.counts(row);
      let total = 0;
      for (let bucket = 0; bucket < BUCKETS; bucket++) {
        const count = now[bucket]!;
        if (count < before[row * BUCKETS + bucket]!) illegal(`row ${row}, bucket ${bucket} fell to ${count}`);
        before[row * BUCKETS + bucket] = count;
        total += count;
      }
      counts[`row${row}`] = total;
    }
    counts['looks']!++;
    if (last) return counts;
    last = Atomics.load(gate.words, GATE_DONE) === writers;
    rest(gate.words);
  }
}

function run(job: Job): Counts {
  switch (job.kind) {
    case 'ring-write': return writeRing(job.gate, job.place, job.bells, job.records, job.seed);
    case 'ring-read': return readRing(job.gate, job.place, job.bells, job.records, job.seed);
    case 'mailbox-write': return writeMailbox(job.gate, job.place, job.values, job.seed);
    case 'mailbox-read': return readMailbox(job.gate, job.place, job.values);
    case 'mark': return mark(job.gate, job.place, job.marker, job.marks, job.seed);
    case 'collect': return collect(job.gate, job.place, job.markers, job.room);
    case 'hand-off': return handOff(job.gate, job.bells, job.side, job.turns, job.parkMs, job.seed);
    case 'record': return record(job.gate, job.place, job.row, job.records);
    case 'watch-rows': return watchRows(job.gate, job.place, job.writers);
    case 'ring-after': return ringAfter(job.buffer, job.delayMs);
  }
}

if (!isMainThread) parentPort!.postMessage(run(workerData as Job));
