/**
 * What a shard does per model, per batch and not per request:
 *
 *   policy   128 requests are queued in the order of their deadlines; the batch policy advances over them (passes heads
 *            over, drops some, sizes the batch), the batch is taken, and then the rest, so that the next call finds none
 *   window   a ShardRole over the shared memory of 64 models refuses grants, which come too early to be worth it: it decides
 *            twice (for the grant, then for the next candidate) and publishes frontrun, latest and the rest. The case plays
 *            the dispatcher: it writes the grants and takes answers and candidates
 */
import FlatQueue from 'flatqueue';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { ClientPort } from '#rubato/protocol/client-port.js';
import { CONDITIONS, DROP_ADAPTIVE, DROP_NEVER, DROP_POLICIES, DROP_TIMEOUT, DROP_WINDOW, WANT_ADAPTIVE, WANT_FRONTRUN, WANT_LATEST } from '#rubato/protocol/config.js';
import { ANSWER, CANDIDATE, GRANT } from '#rubato/protocol/records.js';
import { CELL_NOW } from '#rubato/protocol/role.js';
import { allocateSharedMemory } from '#rubato/protocol/shared-memory.js';
import { DirtyBitmap } from '#rubato/ringbuf/dirty-bitmap.js';
import { Mailboxes } from '#rubato/ringbuf/mailbox.js';
import { RingReader, RingWriter } from '#rubato/ringbuf/spsc-ring.js';
import { BatchPolicy, GPU_FREE, NOW_PLUS_CONTROL, TRANSFER } from '#rubato/shards/batch-policy.js';
import { DeadlineQueue } from '#rubato/shards/deadline-queue.js';
import { ShardRole } from '#rubato/shards/shard.js';
import { virtualConfig } from '#rubato/sim/virtual-host.js';
import { always, type Case, type Group } from './harness.js';

const MAX_BATCH = 128;
/** ℓ(b) = 0.5 µs·b + 86 µs. */
const profile = LatencyProfile.linear({ alphaNs: 500, betaNs: 86_000, maxBatch: MAX_BATCH }, 'profile');

const QUEUED = 128;
/** Between deadlines; and how long before the first of them the decision is made: half of the heads are passed over. */
const GAP_NS = 1000;
const AHEAD_NS = 54_000;
const TARGET = 32;
/** θ of drop policy `adaptive`: the shard takes this share of the target size. */
const DROP_SHARE = 0.5;

/** By hand from ALGORITHM.md 1.2. Request k has 54 + k µs left, so a batch of b can be met for k ≥ 32 + b/2. */
const EXPECTED = [
  { dropPolicy: DROP_WINDOW, target: TARGET, dropped: 48, size: 32 },
  { dropPolicy: DROP_TIMEOUT, target: TARGET, dropped: 33, size: 2 },
  { dropPolicy: DROP_NEVER, target: TARGET, dropped: 0, size: 32 },
  { dropPolicy: DROP_ADAPTIVE, target: TARGET * DROP_SHARE, dropped: 40, size: 16 },
];

const QUEUE_ROW = 'queue only: push, take all';
const HEAP_ROW = 'flatqueue: push, pop all';

export const policy: Group = {
  name: 'policy',
  title: `Batch policy over a full queue of ${QUEUED}`,
  unit: 'request',
  note: 'With putting them in and taking them out, as in the first row.',
  open: () => ({ cases: [queueOnly(), heapOnly(), ...EXPECTED.map(advance)] }),
};

const MODELS = 64;
const PER_MODEL = 16;
const SLO_NS = 20e6;

export const window: Group = {
  name: 'window',
  title: `Window update in the shard, ${MODELS} models, ${PER_MODEL} requests queued in each`,
  unit: 'grant',
  note: 'A grant is refused: two decisions and a new candidate.',
  open: () => ({ cases: [WANT_FRONTRUN, WANT_LATEST, WANT_ADAPTIVE].map(windowUpdate) }),
};

function fill(queue: DeadlineQueue, firstNs: number): void {
  for (let k = 0; k < QUEUED; k++) queue.push(k, firstNs + k * GAP_NS);
}

/** Slots are 0 … 127, so their sum tells whether all were taken. */
const SLOTS = (QUEUED * (QUEUED - 1)) / 2;

function sumOf(slots: Int32Array, count: number): number {
  let sum = 0;
  for (let k = 0; k < count; k++) sum += slots[k]!;
  return sum;
}

function queueOnly(): Case {
  const queue = new DeadlineQueue(new Int32Array(QUEUED));
  const taken = new Int32Array(QUEUED);
  let nowNs = 0;
  const run = (): number => {
    nowNs += 1e6;
    fill(queue, nowNs);
    queue.takeOldest(QUEUED, taken, 0);
    return sumOf(taken, QUEUED);
  };
  return { name: QUEUE_ROW, times: QUEUED, run, check: always(SLOTS), versus: [HEAP_ROW] };
}

function heapOnly(): Case {
  const heap = new FlatQueue<number>(QUEUED);
  const taken = new Int32Array(QUEUED);
  let nowNs = 0;
  const run = (): number => {
    nowNs += 1e6;
    for (let k = 0; k < QUEUED; k++) heap.push(k, nowNs + k * GAP_NS);
    for (let k = 0; k < QUEUED; k++) taken[k] = heap.pop()!;
    return sumOf(taken, QUEUED);
  };
  return { name: HEAP_ROW, times: QUEUED, run, check: always(SLOTS) };
}

function advance({ dropPolicy, target, dropped, size }: (typeof EXPECTED)[number]): Case {
  const queue = new DeadlineQueue(new Int32Array(QUEUED));
  const choice = new BatchPolicy();
  const taken = new Int32Array(QUEUED);
  choice.cells[TRANSFER] = 0;
  choice.cells[GPU_FREE] = -Infinity;
  let nowNs = 0;
  const run = (): number => {
    nowNs += 1e6;
    fill(queue, nowNs + AHEAD_NS);
    choice.cells[NOW_PLUS_CONTROL] = nowNs;
    choice.choose(queue, profile.ns, MAX_BATCH, target, dropPolicy, 0);
    const ran = choice.size;
    const gone = choice.expiredCount;
    queue.takeOldest(ran, taken, 0);
    queue.takeOldest(QUEUED - gone - ran, taken, ran);
    const slots = sumOf(choice.expired, gone) + sumOf(taken, QUEUED - gone);
    return slots === SLOTS && queue.count === 0 ? ran + 1000 * gone : NaN;
  };
  return { name: `drop policy ${DROP_POLICIES[dropPolicy]}`, times: QUEUED, run, check: always(size + 1000 * dropped) };
}

function windowUpdate(condition: number): Case {
  const dropPolicy = condition === WANT_ADAPTIVE ? DROP_ADAPTIVE : DROP_WINDOW;
  const models = Array.from({ length: MODELS }, (_, n) => ({ name: `m${n}`, sloNs: SLO_NS, profile: 0, maxBatch: MAX_BATCH, dropPolicy, condition, maxQueue: 1000 }));
  const gpu = { host: 0, slowdown: 1, jitter: 0, failureRate: 0, seed: 1 };
  const memory = allocateSharedMemory(virtualConfig({ models, profiles: [profile.ns], gpus: [gpu], slotShift: 11 }));
  const shard = new ShardRole(memory, 0);
  const client = new ClientPort(memory, 0);
  for (let model = 0; model < MODELS; model++) for (let k = 0; k < PER_MODEL; k++) client.submit(model, 0, 0);
  client.commit();
  shard.cells[CELL_NOW] = 1000;
  shard.poll();

  const grants = new RingWriter(memory.shards[0]!.grants);
  const answers = new RingReader(memory.shards[0]!.answers);
  const candidates = new Mailboxes(memory.buffer, memory.candidates, MODELS, CANDIDATE.bytes);
  const dirty = new DirtyBitmap(memory.buffer, memory.candidateDirty, MODELS);
  const marked = new Int32Array(MODELS + 32);
  let number = 0;
  const run = (): number => {
    number++;
    grant(grants, number);
    shard.poll();
    const refused = takeRefusals(answers);
    const count = dirty.collect(marked);
    let execNs = 0;
    for (let k = 0; k < count; k++) {
      const at = candidates.take(marked[k]!);
      if (candidates.i32[at + CANDIDATE.at.stamp] === number) execNs += candidates.f64[(at >> 1) + CANDIDATE.at.execNs]!;
    }
    return refused === MODELS ? execNs / MODELS : NaN;
  };
  // Frontrun is when one more would no longer fit, latest when these would not (ALGORITHM.md 1.3, 1.4).
  const execNs = SLO_NS - profile.latencyNs(condition === WANT_LATEST ? PER_MODEL : PER_MODEL + 1);
  return { name: `condition ${CONDITIONS[condition]}`, times: MODELS, run, check: always(execNs) };
}

function grant(grants: RingWriter, number: number): void {
  const { i32, f64 } = grants;
  const count = grants.claimMany(MODELS);
  for (let model = 0; model < count; model++) {
    const at = grants.claimed(model);
    i32[at + GRANT.at.model] = model;
    i32[at + GRANT.at.number] = number;
    i32[at + GRANT.at.gpu] = 0;
    i32[at + GRANT.at.flags] = 0;
    f64[(at >> 1) + GRANT.at.gpuFreeNs] = 0;
    f64[(at >> 1) + GRANT.at.grantedNs] = 1000;
  }
  grants.commit();
}

function takeRefusals(answers: RingReader): number {
  const count = answers.available(MODELS);
  let refused = 0;
  for (let k = 0; k < count; k++) if (answers.i32[answers.word(k) + ANSWER.at.row] === -1) refused++;
  answers.release(count);
  return refused;
}
