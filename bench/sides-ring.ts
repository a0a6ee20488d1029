/** Both sides of a transfer by ring: they look for a while, then sleep on their doorbells. */
import type { RingBuffer } from 'ringbuf.js';
import type { Doorbell } from '#rubato/ringbuf/doorbell.js';
import type { RingReader, RingWriter } from '#rubato/ringbuf/spsc-ring.js';
import { fill, RECORD_DOUBLES, total } from './records.js';

/** Before a side sleeps: the other one may need its core. */
const LOOKS = 20_000;
const SLEEP_MS = 1000;

export function writeRing(writer: RingWriter, mine: Doorbell, other: Doorbell, bulk: number, records: number): number {
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

export function readRing(reader: RingReader, mine: Doorbell, other: Doorbell, bulk: number, records: number): number {
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

/** Whole bulks, so that no record is pushed in halves. */
export function writeRingbuf(ring: RingBuffer, mine: Doorbell, other: Doorbell, bulk: number, records: number): number {
  const out = new Float64Array(bulk * RECORD_DOUBLES);
  let sum = 0;
  let looks = 0;
  for (let done = 0; done < records;) {
    const count = Math.min(bulk, records - done);
    const doubles = count * RECORD_DOUBLES;
    if (ring.available_write() < doubles) {
      if (++looks > LOOKS) {
        mine.prepare();
        if (ring.available_write() >= doubles) mine.cancel();
        else mine.park(SLEEP_MS);
      }
      continue;
    }
    looks = 0;
    sum += fill(out, done, count);
    ring.push(out, doubles);
    other.ring();
    done += count;
  }
  return sum;
}

export function readRingbuf(ring: RingBuffer, mine: Doorbell, other: Doorbell, bulk: number, records: number): number {
  const back = new Float64Array(bulk * RECORD_DOUBLES);
  let sum = 0;
  let looks = 0;
  for (let done = 0; done < records;) {
    const doubles = ring.pop(back, back.length);
    if (doubles === 0) {
      if (++looks > LOOKS) {
        mine.prepare();
        if (ring.available_read() > 0) mine.cancel();
        else mine.park(SLEEP_MS);
      }
      continue;
    }
    looks = 0;
    sum += total(back, doubles);
    other.ring();
    done += doubles / RECORD_DOUBLES;
  }
  return sum;
}
