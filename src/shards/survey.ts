/**
 * What a shard that takes over finds in the durable tables: its predecessor may have died between any two stores.
 *
 * For each slot in use, by what its words say:
 *
 *   outcome stands, admitted here                 ended: its completion may be uncommitted, so it is said again
 *   no outcome, admitted here, in an open batch   runs (the batch table has it)
 *   no outcome, admitted here otherwise           waits, or, if the model is another shard's by now, is to be passed on
 *   no outcome, passed on by another shard        waits here: the mark that said so may have been taken and lost
 *   no outcome, passed on from here               is to be passed on again: so may that mark
 *   no outcome, of a client that is gone          waits here if the model does (its record may never have been committed),
 *                                                 unless another shard has it and is about to pass it on
 *   no outcome, otherwise                         still in its lane, or not committed: not this shard's yet
 */
import { unreadRecords } from '../ringbuf/spsc-ring.js';
import { COMPLETION } from '../protocol/records.js';
import { CLIENT_DYING, CLIENT_FREE, CLIENT_STATE_MASK, type SharedMemory } from '../protocol/shared-memory.js';
import { MODEL_MASK, MODEL_SPEC } from '../protocol/specs.js';
import { BATCH, BATCH_OPEN, CLIENT_MODEL, passedOn, SHARD_SLOT, SLOT, SLOT_DOUBLES, SLOT_WORDS } from '../protocol/tables.js';

export interface Survey {
  /** To be queued, by deadline. */
  readonly waiting: readonly number[];
  /** To be passed on to the owners of their models. */
  readonly passing: readonly number[];
  /** Ended, and perhaps not said. */
  readonly ended: readonly number[];
}

/** Word indices of the headers of a shard's open batches, with their rows. */
export function openRows(memory: SharedMemory, shard: number): { row: number; header: number }[] {
  const place = memory.shards[shard]!;
  const i32 = new Int32Array(memory.buffer);
  const rows = Array.from({ length: place.batchRows }, (_, row) => ({ row, header: (place.batchHeaders >> 2) + row * BATCH.words }));
  return rows.filter(({ header }) => i32[header + BATCH.at.state] === BATCH_OPEN);
}

/** Slots of a batch. */
export function slotsOfRow(memory: SharedMemory, shard: number, row: number): Int32Array {
  const place = memory.shards[shard]!;
  const i32 = new Int32Array(memory.buffer);
  const size = i32[(place.batchHeaders >> 2) + row * BATCH.words + BATCH.at.size]!;
  return i32.subarray((place.batchSlots >> 2) + row * place.batchStride, (place.batchSlots >> 2) + row * place.batchStride + size);
}

/** `isMine`: whether the model takes or has taken requests here; one that was removed is nobody's, but still has its last owner. */
export function survey(memory: SharedMemory, shard: number, isMine: (model: number) => boolean): Survey {
  const i32 = new Int32Array(memory.buffer);
  const f64 = new Float64Array(memory.buffer, 0, memory.buffer.byteLength >> 3);
  const slotsAt = memory.slots >> 2;
  const shardSlotsAt = memory.shardSlots >> 2;
  const admittedAt = memory.shards.map((place) => place.admitted >> 2);
  const running = new Set(openRows(memory, shard).flatMap(({ row }) => [...slotsOfRow(memory, shard, row)]));
  const waiting: number[] = [];
  const passing: number[] = [];
  const ended: number[] = [];
  const perClient = 2 ** memory.config.slotShift;
  const isOwner = (model: number): boolean => i32[(memory.specs >> 2) + model * MODEL_SPEC.words + MODEL_SPEC.at.shard] === shard;
  for (const [client] of memory.clients.entries()) {
    const state = Atomics.load(i32, (memory.clientStates >> 2) + client) & CLIENT_STATE_MASK;
    if (state === CLIENT_FREE || !everSubmitted(memory, client, f64)) continue;
    const said = saidTo(memory, client, shard, i32);
    for (let slot = client * perClient; slot < (client + 1) * perClient; slot++) {
      const word = slotsAt + slot * SLOT_WORDS;
      const generation = i32[word + SLOT.at.generation]!;
      if (generation === 0) continue; // never used
      const admitted = i32[admittedAt[shard]! + slot]!;
      if (i32[shardSlotsAt + slot * SHARD_SLOT.words + SHARD_SLOT.at.outcomeGeneration] === generation) {
        if (admitted === generation && said.get(slot) !== generation) ended.push(slot);
        continue;
      }
      if (running.has(slot)) continue;
      const model = i32[word + SLOT.at.model]! & MODEL_MASK;
      const isKnown = admitted === generation || admitted === passedOn(generation);
      const wasPassedOn = admittedAt.some((at) => i32[at + slot] === passedOn(generation));
      const isElsewhere = !isKnown && admittedAt.some((at) => i32[at + slot] === generation);
      if (isMine(model)) {
        if (!isElsewhere && (isKnown || wasPassedOn || state === CLIENT_DYING)) waiting.push(slot);
      } else if (isKnown || (wasPassedOn && isOwner(model))) {
        passing.push(slot);
      }
    }
  }
  const deadline = (slot: number): number => f64[(memory.slots >> 3) + slot * SLOT_DOUBLES + SLOT.at.deadlineNs]!;
  waiting.sort((a, b) => deadline(a) - deadline(b));
  return { waiting, passing, ended };
}

/** Whether a region was ever used: an untouched one need not be read, which would make it take memory. */
function everSubmitted(memory: SharedMemory, client: number, f64: Float64Array): boolean {
  const at = memory.clients[client]!.models >> 3;
  for (let model = 0; model < memory.limits.models; model++) {
    if (f64[at + model * (CLIENT_MODEL.words / 2) + CLIENT_MODEL.at.accepted]! > 0) return true;
  }
  return false;
}

/** Generations by slot of the completions that wait in a client's lane: said already, and there is room for each but once. */
function saidTo(memory: SharedMemory, client: number, shard: number, i32: Int32Array): Map<number, number> {
  const records = unreadRecords(memory.clients[client]!.completions[shard]!);
  return new Map(records.map((at) => [i32[at + COMPLETION.at.slot]!, i32[at + COMPLETION.at.generation]!]));
}
