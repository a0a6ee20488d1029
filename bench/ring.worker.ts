/** One side of the two-thread measurement of bench/ring.ts. */
import { parentPort, workerData } from 'node:worker_threads';
import { DOORBELL_BYTES, Doorbell } from '#rubato/ringbuf/doorbell.js';
import { RingReader, RingWriter, type RingPlace } from '#rubato/ringbuf/spsc-ring.js';

export interface TransferJob {
  readonly side: 'write' | 'read';
  readonly place: RingPlace;
  /** Counts who is ready. */
  readonly gate: Int32Array;
  /** As every lane has: the writer's doorbell, then the reader's. */
  readonly bells: SharedArrayBuffer;
  readonly bulk: number;
  readonly records: number;
}

export interface TransferResult {
  readonly seconds: number;
  readonly sum: number;
}

/** Fruitless looks before a side sleeps, because the other one may need its core. */
const LOOKS = 20_000;
const SLEEP_MS = 1000;

function transfer({ side, place, gate, bells, bulk, records }: TransferJob): TransferResult {
  // Once for the compiler, once for the clock.
  const writers = new Doorbell(bells, 0);
  const readers = new Doorbell(bells, DOORBELL_BYTES);
  const end = side === 'write' ? new RingWriter(place) : new RingReader(place);
  let result: TransferResult = { seconds: 0, sum: 0 };
  for (const [round, amount] of [records / 10, records].entries()) {
    Atomics.add(gate, 0, 1);
    while (Atomics.load(gate, 0) < 2 * (round + 1));
    const startMs = performance.now();
    const sum = end instanceof RingWriter ? write(end, writers, readers, bulk, amount) : read(end, readers, writers, bulk, amount);
    result = { seconds: (performance.now() - startMs) / 1000, sum };
  }
  return result;
}

function write(writer: RingWriter, mine: Doorbell, other: Doorbell, bulk: number, records: number): number {
  const f64 = writer.f64;
  let sum = 0;
  let looks = 0;
  for (let done = 0; done < records;) {
    const count = writer.claimMany(Math.min(bulk, records - done));
    if (count === 0) {
      if (++looks > LOOKS) {
        mine.prepare();
        if (writer.room(1) > 0) mine.cancel();
        else mine.park(SLEEP_MS);
      }
      continue;
    }
    looks = 0;
    for (let k = 0; k < count; k++) {
      const at = writer.claimed(k) >> 1;
      const value = (done + k) & 0xfff;
      f64[at] = value;
      f64[at + 1] = 1;
      f64[at + 2] = 2;
      f64[at + 3] = 3;
      sum += value + 6;
    }
    writer.commit();
    other.ring();
    done += count;
  }
  return sum;
}

function read(reader: RingReader, mine: Doorbell, other: Doorbell, bulk: number, records: number): number {
  const f64 = reader.f64;
  let sum = 0;
  let looks = 0;
  for (let done = 0; done < records;) {
    const count = reader.available(bulk);
    if (count === 0) {
      if (++looks > LOOKS) {
        mine.prepare();
        if (reader.available(1) > 0) mine.cancel();
        else mine.park(SLEEP_MS);
      }
      continue;
    }
    looks = 0;
    for (let k = 0; k < count; k++) {
      const at = reader.word(k) >> 1;
      sum += f64[at]! + f64[at + 1]! + f64[at + 2]! + f64[at + 3]!;
    }
    reader.release(count);
    other.ring();
    done += count;
  }
  return sum;
}

parentPort!.postMessage(transfer(workerData as TransferJob));
