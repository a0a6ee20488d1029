/**
 * Scenarios for two and three real threads, one per primitive, of any size: each starts its threads, waits for their
 * counts under a watchdog and holds them against the outcomes that are legal.
 */
import assert from 'node:assert/strict';
import { Worker } from 'node:worker_threads';
import { dirtyBitmapBytes } from '#rubato/ringbuf/dirty-bitmap.js';
import { DOORBELL_BYTES } from '#rubato/ringbuf/doorbell.js';
import { HistogramTable } from '#rubato/ringbuf/log-linear.js';
import { initMailboxes, mailboxBytes } from '#rubato/ringbuf/mailbox.js';
import { resetRing, ringBytes } from '#rubato/ringbuf/spsc-ring.js';
import { GATE_TURN, GATE_WORDS, type Counts, type Gate, type Job } from './stress.worker.js';

/** A scenario that takes longer hangs. */
const WATCHDOG_MS = 120_000;
/** Far longer than any wake-up takes: who sleeps this long with work at hand was not woken. */
const PARK_MS = 5000;

function makeGate(threads: number): Gate {
  return { words: new Int32Array(new SharedArrayBuffer(GATE_WORDS * 4)), threads };
}

/** Runs each job in a thread of its own and answers their counts; fails when one throws, or hangs. */
async function together(jobs: readonly Job[]): Promise<Counts[]> {
  const workers = jobs.map((job) => new Worker(new URL('./stress.worker.js', import.meta.url), { workerData: job }));
  let watchdog: NodeJS.Timeout | undefined;
  const hung = new Promise<never>((_, reject) => {
    watchdog = setTimeout(() => reject(new Error(`the threads (${jobs.map(({ kind }) => kind)}) hang: no end within ${WATCHDOG_MS} ms`)), WATCHDOG_MS);
  });
  try {
    return await Promise.race([hung, Promise.all(workers.map(countsOf))]);
  } finally {
    clearTimeout(watchdog);
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

function countsOf(worker: Worker): Promise<Counts> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', (code) => reject(new Error(`a thread exited with code ${code} before it had counted`)));
  });
}

/**
 * Legal: every record arrives once, whole, in the order of the claims; nothing of an aborted claim arrives; both sides
 * agree on the sum. The writer finds the ring full, and the reader empty, any number of times.
 */
export async function stressRing(options: { capacity: number; records: number; start: number; seed: number }): Promise<void> {
  const { capacity, records, start, seed } = options;
  const place = { buffer: new SharedArrayBuffer(ringBytes(capacity, 32)), byteOffset: 0, capacity, recordBytes: 32 };
  resetRing(place, start);
  const gate = makeGate(2);
  const bells = new SharedArrayBuffer(2 * DOORBELL_BYTES);
  const [writer, reader] = await together([
    { kind: 'ring-write', gate, place, bells, records, seed },
    { kind: 'ring-read', gate, place, bells, records, seed },
  ]);
  assert.equal(reader!['seen'], records);
  assert.equal(reader!['sum'], writer!['sum']);
  assert.ok(records < 100_000 || writer!['full']! + reader!['empty']! > 0, 'neither side ever had to wait: the threads did not overlap');
}

/**
 * Legal: a value is skipped, or taken once; values of a box rise; all parts of a value belong together.
 * After the writer's end one more take gives the last value, unless it was taken before.
 */
export async function stressMailboxes(options: { boxes: number; recordBytes: number; values: number; seed: number }): Promise<void> {
  const { boxes, recordBytes, values, seed } = options;
  const place = { buffer: new SharedArrayBuffer(mailboxBytes(boxes, recordBytes)), boxes, recordBytes };
  initMailboxes(place.buffer, 0, boxes, recordBytes);
  const gate = makeGate(2);
  const [, reader] = await together([
    { kind: 'mailbox-write', gate, place, values, seed },
    { kind: 'mailbox-read', gate, place, values, seed },
  ]);
  assert.equal(reader!['lastSeen'], boxes, 'boxes whose last value was seen');
  assert.equal(reader!['taken']! + reader!['skipped']!, boxes * values);
}

/**
 * Legal: an index is collected when its value was seen already (the mark came between clearing and reading);
 * several marks are collected as one. Not legal: at the end a value that was marked and not seen.
 */
export async function stressBitmap(options: { size: number; markers: number; marks: number; room: number; seed: number }): Promise<void> {
  const { size, markers, marks, room, seed } = options;
  const place = {
    buffer: new SharedArrayBuffer(dirtyBitmapBytes(size)),
    size,
    values: new Int32Array(new SharedArrayBuffer(markers * size * 4)),
    seen: new Int32Array(new SharedArrayBuffer(markers * size * 4)),
  };
  const gate = makeGate(markers + 1);
  const counts = await together([
    { kind: 'collect', gate, place, markers, room },
    ...Array.from({ length: markers }, (_, marker): Job => ({ kind: 'mark', gate, place, marker, marks, seed: seed + marker })),
  ]);
  assert.equal(counts[0]!['missing'], 0, 'values that were marked and never seen');
  assert.ok(counts[0]!['collected']! <= markers * marks, 'more was collected than marked');
}

/**
 * Legal: the one whose turn it is finds out before it lies down, at its second look, or because it is woken.
 * Not legal: it sleeps until the time-out although its turn has come.
 */
export async function stressDoorbell(options: { handOffs: number; seed: number }): Promise<void> {
  const { handOffs, seed } = options;
  const gate = makeGate(2);
  const bells = new SharedArrayBuffer(2 * DOORBELL_BYTES);
  const sides = await together([0, 1].map((side): Job => ({ kind: 'hand-off', gate, bells, side: side as 0 | 1, turns: handOffs, parkMs: PARK_MS, seed })));
  assert.equal(gate.words[GATE_TURN], handOffs);
  assert.equal(sides[0]!['handOffs']! + sides[1]!['handOffs']!, handOffs);
  assert.equal(sides[0]!['lost']! + sides[1]!['lost']!, 0, 'lost wake-ups');
  assert.ok(sides[0]!['parks']! + sides[1]!['parks']! > 0, 'nobody ever slept: nothing was tested');
}

/** Legal: a reader sees each count at some recent moment; counts never fall. At the end each row has all its records. */
export async function stressRows(options: { writers: number; records: number }): Promise<void> {
  const { writers, records } = options;
  const place = { buffer: new SharedArrayBuffer(HistogramTable.bytes(writers)), rows: writers };
  const gate = makeGate(writers + 1);
  const [watcher] = await together([
    { kind: 'watch-rows', gate, place, writers },
    ...Array.from({ length: writers }, (_, row): Job => ({ kind: 'record', gate, place, row, records })),
  ]);
  for (let row = 0; row < writers; row++) assert.equal(watcher![`row${row}`], records, `row ${row}`);
}
