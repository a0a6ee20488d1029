/**
 * What records arrivals: a buffer of its own, which a scheduler has only while it records.
 *
 *   per shard   lost      f64, a line   records that found the ring full   written by the shard, any recent value is right
 *               ring      16-byte records, shard ▶ the thread that made the scheduler
 *   per slot    recorded  i32           the generation recorded last       written by the shard that sees the request
 *               own SLO   i32 generation, i32 µs                           written by the client, published by the request lane's head
 *
 * A shard records a request when it first sees it, by whichever way it came. One that is sent again (its client has died, its
 * model was given to another shard, its thread was replaced) is known by its generation. A full ring loses the record
 * and counts it: the shard never waits for whoever writes the file.
 */
import { BufferPlan, defineRecord, LINE_BYTES } from '../ringbuf/layout.js';
import { ringBytes, type RingPlace, type RingReader, RingWriter } from '../ringbuf/spsc-ring.js';
import type { SchedulerConfig } from './config.js';
import { REQUEST } from './records.js';
import type { SharedMemory } from './shared-memory.js';
import { MODEL_MASK } from './specs.js';
import { SLOT, SLOT_DOUBLES, SLOT_WORDS } from './tables.js';

/** shard → the thread that writes the file. */
export const ARRIVAL = defineRecord('arrival', {
  timeNs: 'f64',
  model: 'i32',
  /** The request's own SLO, 0 = its model's. */
  sloUs: 'i32',
});

export interface RecordingPlace {
  readonly buffer: SharedArrayBuffer;
  /** Byte offsets. By shard: */
  readonly lost: readonly number[];
  readonly rings: readonly RingPlace[];
  readonly recorded: number;
  readonly ownSlos: number;
}

const { model: ARRIVAL_MODEL, sloUs: ARRIVAL_SLO_US, timeNs: ARRIVAL_TIME_NS } = ARRIVAL.at;
const { generation: REQUEST_GENERATION, slot: REQUEST_SLOT } = REQUEST.at;
const { budgetNs: SLOT_BUDGET_NS, deadlineNs: SLOT_DEADLINE_NS, generation: SLOT_GENERATION, model: SLOT_MODEL } = SLOT.at;

/** Of all rings together: 50 ms of 5 M requests/s, until the event loop comes round again. */
const RECORDS = 2 ** 18;
const LEAST_RECORDS = 2 ** 13;
const OWN_SLO_BYTES = 8;
const LONGEST_SLO_US = 2 ** 31 - 1;

/** Takes the memory to record with; null when the configuration does not ask for it. */
export function allocateRecording(config: SchedulerConfig): RecordingPlace | null {
  if (config.recording !== true) return null;
  const plan = new BufferPlan();
  const slots = config.maxClients * 2 ** config.slotShift;
  let capacity = RECORDS;
  while (capacity > LEAST_RECORDS && capacity * config.shards > RECORDS) capacity /= 2;
  const shards = Array.from({ length: config.shards }, () => ({ lost: plan.take(LINE_BYTES), ring: plan.take(ringBytes(capacity, ARRIVAL.bytes)) }));
  const recorded = plan.take(slots * 4);
  const ownSlos = plan.take(slots * OWN_SLO_BYTES);
  const buffer = new SharedArrayBuffer(plan.bytes);
  return {
    buffer,
    lost: shards.map(({ lost }) => lost),
    rings: shards.map(({ ring }) => ({ buffer, byteOffset: ring, capacity, recordBytes: ARRIVAL.bytes })),
    recorded,
    ownSlos,
  };
}

/** A client's side: what its shard cannot see. */
export class OwnSlos {
  readonly #i32: Int32Array;
  readonly #base: number;

  constructor({ buffer, ownSlos }: RecordingPlace) {
    this.#i32 = new Int32Array(buffer);
    this.#base = ownSlos >> 2;
  }

  /** The request in `slot` has an SLO of its own. Before `commit`. */
  note(slot: number, generation: number, sloNs: number): void {
    const at = this.#base + 2 * slot;
    this.#i32[at] = generation;
    this.#i32[at + 1] = Math.min(LONGEST_SLO_US, Math.max(1, Math.round(sloNs / 1e3)));
  }
}

/** A shard's side. */
export class ArrivalRecorder {
  readonly #i32: Int32Array;
  readonly #f32: Float32Array;
  readonly #f64: Float64Array;
  readonly #slotWord: number;
  readonly #slotDouble: number;
  readonly #ring: RingWriter;
  /** Of the recording's buffer. */
  readonly #words: Int32Array;
  readonly #doubles: Float64Array;
  readonly #lostAt: number;
  readonly #recordedAt: number;
  readonly #ownSlosAt: number;

  constructor(memory: SharedMemory, place: RecordingPlace, shard: number) {
    this.#i32 = new Int32Array(memory.buffer);
    this.#f32 = new Float32Array(memory.buffer);
    this.#f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
    this.#slotWord = memory.slots >> 2;
    this.#slotDouble = memory.slots >> 3;
    this.#ring = new RingWriter(place.rings[shard]!);
    this.#words = new Int32Array(place.buffer);
    this.#doubles = new Float64Array(place.buffer, 0, place.buffer.byteLength >> 3);
    this.#lostAt = place.lost[shard]! >> 3;
    this.#recordedAt = place.recorded >> 2;
    this.#ownSlosAt = place.ownSlos >> 2;
  }

  /** Records the next `count` requests of a request lane, before they are admitted. */
  recordLane(lane: RingReader, count: number): void {
    const laneWords = lane.i32;
    const i32 = this.#i32;
    const base = this.#slotWord + SLOT_GENERATION;
    for (let k = 0; k < count; k++) {
      const at = lane.word(k);
      const slot = laneWords[at + REQUEST_SLOT]!;
      // A record whose request has ended by another way was recorded when it came that way.
      const generation = laneWords[at + REQUEST_GENERATION]!;
      if (generation === i32[base + slot * SLOT_WORDS]) this.#record(slot, generation);
    }
    this.#ring.commit();
  }

  /** Records a request that did not come by its lane, unless it had come by it before. */
  recordSlot(slot: number, generation: number): void {
    this.#record(slot, generation);
    this.#ring.commit();
  }

  #record(slot: number, generation: number): void {
    const words = this.#words;
    if (words[this.#recordedAt + slot] === generation) return;
    words[this.#recordedAt + slot] = generation;
    const at = this.#ring.claim();
    if (at < 0) {
      this.#doubles[this.#lostAt]! += 1;
      return;
    }
    const word = this.#slotWord + slot * SLOT_WORDS;
    const ownAt = this.#ownSlosAt + 2 * slot;
    this.#doubles[(at >> 1) + ARRIVAL_TIME_NS] = this.#f64[this.#slotDouble + slot * SLOT_DOUBLES + SLOT_DEADLINE_NS]! - this.#f32[word + SLOT_BUDGET_NS]!;
    words[at + ARRIVAL_MODEL] = this.#i32[word + SLOT_MODEL]! & MODEL_MASK;
    words[at + ARRIVAL_SLO_US] = words[ownAt] === generation ? words[ownAt + 1]! : 0;
  }
}
