/**
 * What the shared-memory primitives cost, one thread, nobody else on the memory:
 *
 *   ring        claim … fill … commit ──▶ available … read … release      32-byte records, 32 KiB of them
 *   set         TypedArray.set of the same bytes into the same amount of shared memory: the yardstick
 *   mailbox     slot … fill … publish ──▶ take … read                     32-byte records
 *   doorbell    ring while the owner is awake
 *   bitmap      mark ──▶ collect
 *   histogram, clock, time tree                                          one call
 *
 * and of the ring between two threads:   writer ══ ring of 4096 ══▶ reader   on two cores.
 */
import { Worker } from 'node:worker_threads';
import { SystemClock, clockOrigin } from '#rubato/clock/clock.js';
import { TimeTree } from '#rubato/clock/time-tree.js';
import { DirtyBitmap, dirtyBitmapBytes } from '#rubato/ringbuf/dirty-bitmap.js';
import { DOORBELL_BYTES, Doorbell } from '#rubato/ringbuf/doorbell.js';
import { HistogramTable } from '#rubato/ringbuf/log-linear.js';
import { Mailboxes, initMailboxes, mailboxBytes } from '#rubato/ringbuf/mailbox.js';
import { RingReader, RingWriter, ringBytes, type RingPlace } from '#rubato/ringbuf/spsc-ring.js';
import type { TransferJob, TransferResult } from './ring.worker.js';

/** One thing to measure. `run` does it `times` times. */
export interface Case {
  readonly name: string;
  /** What is counted. */
  readonly unit: string;
  readonly times: number;
  readonly run: () => void;
  /** Name of the case whose time is the yardstick of this one. */
  readonly yardstick?: string;
}

const RECORD_BYTES = 32;
const RECORD_DOUBLES = RECORD_BYTES / 8;
const CAPACITY = 1024;
const BULKS = [1, 8, 64, 512];
/** Calls per run of cases that take a few nanoseconds each. */
const CALLS = 100;

/** Results end here, so that no compiler finds them useless. */
export const sink = new Float64Array(1);

export function cases(): Case[] {
  return [
    ...BULKS.map(setShared),
    ...BULKS.map(ringByClaim),
    ...BULKS.map(ringByClaimMany),
    setPrivate(64),
    mailbox(),
    doorbell(),
    bitmap(1024, 1),
    bitmap(1024, 64),
    histogram(),
    clock(),
    ...[64, 1024, 10_000].map(timeTree),
    reference(),
  ];
}

function makePlace(capacity: number): RingPlace {
  return { buffer: new SharedArrayBuffer(ringBytes(capacity, RECORD_BYTES)), byteOffset: 0, capacity, recordBytes: RECORD_BYTES };
}

function ringByClaim(bulk: number): Case {
  const place = makePlace(CAPACITY);
  const writer = new RingWriter(place);
  const reader = new RingReader(place);
  const run = (): void => {
    writeByClaim(writer, bulk);
    sink[0]! += readBulk(reader, bulk);
  };
  return { name: `ring claim, bulk ${bulk}`, unit: 'record', times: bulk, run, yardstick: setName(bulk) };
}

function ringByClaimMany(bulk: number): Case {
  const place = makePlace(CAPACITY);
  const writer = new RingWriter(place);
  const reader = new RingReader(place);
  const run = (): void => {
    writeByClaimMany(writer, bulk);
    sink[0]! += readBulk(reader, bulk);
  };
  return { name: `ring claimMany, bulk ${bulk}`, unit: 'record', times: bulk, run, yardstick: setName(bulk) };
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

function writeByClaimMany(writer: RingWriter, bulk: number): void {
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

function readBulk(reader: RingReader, bulk: number): number {
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

function setName(bulk: number): string {
  return `set, shared, bulk ${bulk}`;
}

function setShared(bulk: number): Case {
  return { name: setName(bulk), unit: 'record', times: bulk, run: setter(bulk, new SharedArrayBuffer(CAPACITY * RECORD_BYTES)) };
}

/** V8 copies into shared memory word by word, into private memory with the widest instructions. */
function setPrivate(bulk: number): Case {
  return { name: `set, private, bulk ${bulk}`, unit: 'record', times: bulk, run: setter(bulk, new ArrayBuffer(CAPACITY * RECORD_BYTES)) };
}

function setter(bulk: number, buffer: ArrayBuffer | SharedArrayBuffer): () => void {
  const target = new Float64Array(buffer);
  const source = new Float64Array(bulk * RECORD_DOUBLES).fill(1.5);
  const mask = CAPACITY * RECORD_DOUBLES - 1;
  let at = 0;
  return () => {
    target.set(source, at);
    at = (at + bulk * RECORD_DOUBLES) & mask;
  };
}

function mailbox(): Case {
  const boxes = 64;
  const buffer = new SharedArrayBuffer(mailboxBytes(boxes, RECORD_BYTES));
  initMailboxes(buffer, 0, boxes, RECORD_BYTES);
  const mailboxes = new Mailboxes(buffer, 0, boxes, RECORD_BYTES);
  const run = (): void => {
    const f64 = mailboxes.f64;
    for (let box = 0; box < boxes; box++) {
      const to = mailboxes.slot(box) >> 1;
      f64[to] = box;
      f64[to + 1] = 1;
      f64[to + 2] = 2;
      f64[to + 3] = 3;
      mailboxes.publish(box);
    }
    let sum = 0;
    for (let box = 0; box < boxes; box++) {
      const from = mailboxes.take(box) >> 1;
      sum += f64[from]! + f64[from + 1]! + f64[from + 2]! + f64[from + 3]!;
    }
    sink[0]! += sum;
  };
  return { name: 'mailbox publish + take', unit: 'value', times: boxes, run };
}

function doorbell(): Case {
  const bell = new Doorbell(new SharedArrayBuffer(DOORBELL_BYTES), 0);
  const run = (): void => {
    for (let k = 0; k < CALLS; k++) bell.ring();
  };
  return { name: 'doorbell ring, awake', unit: 'ring', times: CALLS, run };
}

function bitmap(size: number, marks: number): Case {
  const set = new DirtyBitmap(new SharedArrayBuffer(dirtyBitmapBytes(size)), 0, size);
  const out = new Int32Array(size + 32);
  const step = size / marks;
  const run = (): void => {
    for (let k = 0; k < marks; k++) set.mark(k * step);
    sink[0]! += set.collect(out);
  };
  return { name: `bitmap mark + collect, ${marks} of ${size}`, unit: 'mark', times: marks, run };
}

function histogram(): Case {
  const table = new HistogramTable(new SharedArrayBuffer(HistogramTable.bytes(1)), 0, 1);
  const valuesNs = Float64Array.from({ length: CALLS }, (_, k) => Math.round(1000 * 1.1 ** k));
  const run = (): void => {
    for (let k = 0; k < CALLS; k++) table.record(0, valuesNs[k]!);
  };
  return { name: 'histogram record', unit: 'record', times: CALLS, run };
}

function clock(): Case {
  const system = new SystemClock(clockOrigin());
  const run = (): void => {
    let sum = 0;
    for (let k = 0; k < CALLS; k++) sum += system.nowNs();
    sink[0]! += sum;
  };
  return { name: 'clock read', unit: 'read', times: CALLS, run };
}

/** As timers are used: any index gets a time somewhat after the present. */
function timeTree(size: number): Case {
  const tree = new TimeTree(size);
  const calls = 4096;
  const indices = Int32Array.from({ length: calls }, (_, k) => (k * 7919) % size);
  const laterNs = Float64Array.from({ length: calls }, (_, k) => (k * 104_729) % 1_000_000);
  let nowNs = 0;
  for (let index = 0; index < size; index++) tree.set(index, laterNs[index % calls]!);
  let from = 0;
  const run = (): void => {
    for (let k = from; k < from + 64; k++) tree.set(indices[k]!, nowNs + laterNs[k]!);
    from = (from + 64) % calls;
    nowNs += 64_000;
  };
  return { name: `time tree set, ${size}`, unit: 'set', times: 64, run };
}

/** A loop whose time depends on nothing but the machine: 1,000 dependent multiplications and additions. */
function reference(): Case {
  const run = (): void => {
    let x = 1;
    for (let k = 0; k < 1000; k++) x = (Math.imul(x, 1_664_525) + 1_013_904_223) | 0;
    sink[0]! += x;
  };
  return { name: 'reference: multiply + add', unit: 'step', times: 1000, run };
}

// ── two threads ────────────────────────────────────────────────────────────────────────────────────────────────────

const TRANSFER_CAPACITY = 4096;
const TRANSFER_RECORDS = 5_000_000;

export interface Transfer {
  readonly perSecond: number;
  /** CPU time / time: near 1, the two threads had to share a core and the rate says nothing. */
  readonly coresUsed: number;
}

/** From one thread to another; one fills and one reads every double, and the sums are compared. */
export async function transfer(bulk: number): Promise<Transfer> {
  const cpuBefore = process.cpuUsage();
  const startMs = performance.now();
  const gate = new Int32Array(new SharedArrayBuffer(128));
  const bells = new SharedArrayBuffer(2 * DOORBELL_BYTES);
  const place = makePlace(TRANSFER_CAPACITY);
  const workers = (['write', 'read'] as const).map((side) => {
    const job: TransferJob = { side, place, gate, bells, bulk, records: TRANSFER_RECORDS };
    return new Worker(new URL('./ring.worker.js', import.meta.url), { workerData: job });
  });
  try {
    const [written, read] = await Promise.all(workers.map(resultOf));
    if (written!.sum !== read!.sum) throw new Error(`ring transfer: ${written!.sum} was written, ${read!.sum} read`);
    const cpu = process.cpuUsage(cpuBefore);
    const coresUsed = (cpu.user + cpu.system) / 1000 / (performance.now() - startMs);
    return { perSecond: TRANSFER_RECORDS / read!.seconds, coresUsed };
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

function resultOf(worker: Worker): Promise<TransferResult> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}
