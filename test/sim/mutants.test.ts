/**
 * Proof that each property of the harness can fail. Each mutant is the compiled scheduler with one change of its text;
 * it is played through a fixed set of scenarios until the property that guards against it is violated.
 *
 * A mutant whose text is not found exactly once fails too: the code has moved on, and the mutant has to follow.
 */
import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import fc from 'fast-check';
import type { VirtualHost } from '#rubato/sim/virtual-host.js';
import { Copies, load, type Replacement } from './copies.js';
import { describeViolations, type Property, Run, type Scenario } from './harness.js';
import { cancelOfALateCandidate, scenarioArb } from './scenarios.js';

interface Mutant extends Replacement {
  readonly name: string;
  readonly caughtBy: Property;
}

const MUTANTS: readonly Mutant[] = [
  {
    name: 'drops the last request of each batch without a word',
    file: 'shards/ledger', find: '#endAll(slotsAt, size, model, packed, client) {', replace: '#endAll(slotsAt, size, model, packed, client) {\n        size--;',
    caughtBy: 'one outcome',
  },
  {
    name: 'ends a request that never ran twice',
    file: 'shards/ledger', find: 'endUnrun(slot, model, outcome) {', replace: 'endUnrun(slot, model, outcome) {\n        this.#end(slot, model, packOutcome(outcome, 0, 0), this.cells[LEDGER_NOW], 0);',
    caughtBy: 'one outcome',
  },
  {
    name: 'ends a cancelled request and leaves it in the queue',
    file: 'shards/shard', find: 'if (!this.#queueOf(model).remove(slot)) {', replace: 'if (false) {',
    caughtBy: 'one outcome',
  },
  {
    name: 'takes a cancelled request that runs for one that was served',
    file: 'shards/ledger', find: 'if (this.#cancelledRunning.size > 0 && this.#cancelledRunning.delete(slot))\n                    outcome = OUTCOME.cancelled;', replace: 'if (this.#cancelledRunning.size > 0 && this.#cancelledRunning.delete(slot))\n                    cancelled++;',
    caughtBy: 'right outcome',
  },
  {
    name: 'judges the end at the deadline itself as late',
    file: 'shards/ledger', find: 'const isLate = end > this.f64', replace: 'const isLate = end >= this.f64',
    caughtBy: 'right outcome',
  },
  {
    name: 'takes one request more into a queue than it may hold',
    file: 'shards/shard', find: 'queue.prefixCount + queue.suffixCount + count > this.#maxQueue[model]', replace: 'queue.prefixCount + queue.suffixCount + count > this.#maxQueue[model] + 1',
    caughtBy: 'right outcome',
  },
  {
    name: 'never passes a request over, so that no window closes',
    file: 'shards/batch-policy', find: 'if (queue.suffixCount > maxBatch)', replace: 'if (queue.suffixCount > 0)\n            return;\n        if (queue.suffixCount > maxBatch)',
    caughtBy: 'policy',
  },
  {
    name: 'grows every batch to all that wait',
    file: 'shards/batch-policy', find: 'if (deadline >= finishNs(cells, latencyNs, high)) {', replace: 'if (true) {',
    caughtBy: 'policy',
  },
  {
    name: 'takes a GPU for free as soon as its batch has started',
    file: 'dispatch/gpu-pool', find: 'start + f64[double + GPU_NEXT_LENGTH_NS]', replace: 'start',
    caughtBy: 'never late',
  },
  {
    name: 'expects every batch to end after half its time',
    file: 'dispatch/gpu-pool', find: 'start + f64[double + GPU_NEXT_LENGTH_NS]', replace: 'start + f64[double + GPU_NEXT_LENGTH_NS] / 2',
    caughtBy: 'invalidAfter',
  },
  {
    name: 'grants a GPU to a candidate that is not valid any more when it gets free',
    file: 'dispatch/dispatcher', find: 'if (soonest > this.#invalidAfterNs[model]) {', replace: 'if (false) {',
    caughtBy: 'invalidAfter',
  },
  {
    name: 'leaves a granted GPU free for the next grant',
    file: 'dispatch/gpu-pool', find: ' = model;\n        this.idle.delete(gpu);\n        this.running.clear(gpu);', replace: ' = model;',
    caughtBy: 'one batch per GPU',
  },
  {
    name: 'starts the next batch before the running one has ended',
    file: 'devices/emulated', find: 'Math.max(ready, this.#endNs[gpu])', replace: 'ready',
    caughtBy: 'one batch per GPU',
  },
  {
    name: 'takes the GPU that is free first',
    file: 'dispatch/dispatcher', find: 'this.#execNs[model]);\n            const gpu = this.pool.lowestFreeByExec();', replace: 'this.#execNs[model]);\n            const gpu = running.nodes[1] <= cells[POOL_EXEC] ? running.first() : idle.first();',
    caughtBy: 'lowest GPU',
  },
  {
    name: 'takes the highest-numbered GPU',
    file: 'dispatch/dispatcher', find: 'this.#execNs[model]);\n            const gpu = this.pool.lowestFreeByExec();', replace: 'this.#execNs[model]);\n            const gpu = Array.from({ length: running.size }, (_, g) => g).filter((g) => this.pool.freeAtNs(g) <= cells[POOL_EXEC]).at(-1);',
    caughtBy: 'lowest GPU',
  },
  {
    name: 'believes a candidate of before the grant',
    file: 'dispatch/dispatcher', find: 'if (mailboxes.i32[at + CANDIDATE_STAMP] !== ', replace: 'if (NaN === ',
    caughtBy: 'grant',
  },
  {
    name: 'loses the GPU of a refused grant',
    file: 'dispatch/gpu-pool', find: '_MODEL] = NONE;\n        this.#reposition(gpu);', replace: '_MODEL] = NONE;',
    caughtBy: 'matching',
  },
  {
    name: 'ranks waiting candidates by exec',
    file: 'dispatch/dispatcher', find: 'this.#waiting.nodes[leaves + model] = this.#rankNs[model];', replace: 'this.#waiting.nodes[leaves + model] = this.#execNs[model];',
    caughtBy: 'matching',
  },
  {
    name: 'does not publish a candidate of which only the rank has changed',
    file: 'shards/shard', find: 'this.#publishedRankNs[model] === rank', replace: 'true',
    caughtBy: 'matching',
  },
  {
    name: 'drops under `timeout` for the batch of the target size',
    file: 'shards/batch-policy', find: 'dropPolicy === DROP_TIMEOUT ? 1 : target', replace: 'target',
    caughtBy: 'timeout drop',
  },
  {
    name: 'drops for a batch that is one larger than the one it chooses',
    file: 'shards/batch-policy', find: 'const finish = finishNs(this.cells, latencyNs, size);', replace: 'const finish = finishNs(this.cells, latencyNs, size + 1);',
    caughtBy: 'window drop',
  },
  {
    name: 'strands what the window has passed over when nothing follows',
    file: 'shards/batch-policy', find: 'if (queue.prefixCount === 0)\n                return;', replace: 'return;',
    caughtBy: 'timer',
  },
  {
    name: 'sets no timer',
    file: 'shards/shard', find: 'this.#timerNs[model] = timer;\n        this.#armTimer(model);', replace: '',
    caughtBy: 'one outcome',
  },
  {
    name: 'does not look again at a batch that still gathers',
    file: 'shards/shard', find: 'if (this.#timerNs[model] > until)', replace: 'if (false)',
    caughtBy: 'timer',
  },
  {
    name: 'takes an earlier deadline for nothing new while a batch gathers',
    file: 'shards/inner-loops', find: 'deadlineNs >= f64[(row >> 1) + INTAKE_FLOOR_NS] &&', replace: '',
    caughtBy: 'policy',
  },
  {
    name: 'forgets requests that have changed nothing',
    file: 'shards/shard', find: 'if (buffered > 0) {', replace: 'if (buffered > 60) {',
    caughtBy: 'policy',
  },
  {
    name: 'lets any number of requests come unseen',
    file: 'shards/shard', find: 'most > size ? most - size : 0', replace: 'MOST_BUFFERED',
    caughtBy: 'policy',
  },
  {
    name: 'takes a full batch for the one that was told though its oldest are others',
    file: 'shards/shard', find: 'if (oldestNs - f64[this.#marginsAt + JITTER_AT] - lengthNs !== this.#publishedRankNs[model] || lead', replace: 'if (lead',
    caughtBy: 'timer',
  },
  {
    name: 'takes a full batch for the one that was told though it is too late for it',
    file: 'shards/shard', find: 'if (this.#isArmed[model] === 0)\n            return false; // its time', replace: '// its time',
    caughtBy: 'timer',
  },
  {
    name: 'passes nobody over while a full batch has been told',
    file: 'shards/shard', find: 'this.#policy.passTooMany(queue, size);', replace: '',
    caughtBy: 'policy',
  },
  {
    name: 'looks again one batch time too late',
    file: 'shards/shard', find: 'Math.floor(invalidAfter - window[WINDOW_LEAD]) + 1', replace: 'Math.floor(invalidAfter) + 1',
    caughtBy: 'timer',
  },
  {
    name: 'does not count late requests',
    file: 'shards/ledger', find: '_LATE] += late;', replace: '_LATE] += 0;',
    caughtBy: 'equation',
  },
  {
    name: 'does not count what a client has submitted',
    file: 'protocol/client-port', find: '_ACCEPTED] += 1;', replace: '_ACCEPTED] += 0;',
    caughtBy: 'equation',
  },
  {
    name: 'serves late requests in batches larger than maxBatch',
    file: 'shards/batch-policy', find: 'Math.min(target, count, maxBatch)', replace: 'count',
    caughtBy: 'batch size',
  },
  {
    name: 'takes the window before what it has passed over',
    file: 'shards/deadline-queue', find: 'let left = count;\n        if (this.#prefixHeap.count', replace: 'let left = count;\n        while (left > 0 && this.suffixCount > 0) out[at + count - left--] = this.shift(SUFFIX);\n        if (this.#prefixHeap.count',
    caughtBy: 'oldest first',
  },
  {
    name: 'forgets the deadlines that came out of order while others wait',
    file: 'shards/deadline-queue', find: 'if (heap.count === 0)\n            return false;', replace: 'if (heap.count >= 0 && (part === PREFIX ? this.#head !== this.#boundary : this.#boundary !== this.#tail))\n            return false;',
    caughtBy: 'oldest first',
  },
  {
    name: 'takes the youngest of equal deadlines first',
    file: 'shards/slot-heap', find: '(order - this.#orders[index]) | 0) < 0', replace: '(order - this.#orders[index]) | 0) > 0',
    caughtBy: 'oldest first',
  },
  {
    name: 'offers no free lunch',
    file: 'shards/batch-policy', find: 'let high = survivors < maxBatch ? survivors : maxBatch;', replace: 'let high = atLeast;',
    caughtBy: 'policy',
  },
  {
    name: 'defers by one request too few',
    file: 'shards/shard', find: 'const frontrun = deadline - jitter - latencies[size + 1] - transfer;', replace: 'const frontrun = deadline - jitter - latencies[size] - transfer;',
    caughtBy: 'policy',
  },
  {
    name: 'starts an issued batch before its time',
    file: 'devices/emulated', find: 'if (wasIdle && lane.f64[half + ISSUE_READY_NS] <= now)', replace: 'if (wasIdle)',
    caughtBy: 'policy',
  },
  {
    name: 'plans a batch for GPU time that is taken',
    file: 'shards/shard', find: 'const exec = Math.max(ready, gpuFreeNs);', replace: 'const exec = ready;',
    caughtBy: 'policy',
  },
  {
    name: 'measures no rate',
    file: 'shards/rate-meter', find: 'this.#push(model, this.arrivals[model]);', replace: 'this.#push(model, 0);',
    caughtBy: 'policy',
  },
  {
    name: 'drops under `adaptive` for the whole target size',
    file: 'shards/shard', find: 'Math.floor(f64[this.#marginsAt + DROP_SHARE_AT] * target)', replace: 'target',
    caughtBy: 'policy',
  },
  {
    name: 'drops under `adaptive` as under `timeout`',
    file: 'shards/shard', find: 'Math.floor(f64[this.#marginsAt + DROP_SHARE_AT] * target)', replace: '1',
    caughtBy: 'policy',
  },
  {
    name: 'rounds the share of the target size up',
    file: 'shards/shard', find: 'Math.floor(f64[this.#marginsAt + DROP_SHARE_AT] * target)', replace: 'Math.ceil(f64[this.#marginsAt + DROP_SHARE_AT] * target)',
    caughtBy: 'policy',
  },
  {
    name: 'takes the share of the load for the scale of the batches',
    file: 'dispatch/cluster', find: 'batchGpus / left', replace: 'batchGpus / gpus',
    caughtBy: 'drop share',
  },
  {
    name: 'lets the drop share grow to 1',
    file: 'dispatch/cluster', find: 'const LARGEST_SHARE = 0.8;', replace: 'const LARGEST_SHARE = 1;',
    caughtBy: 'drop share',
  },
  {
    name: 'counts a model that has fallen silent for ever',
    file: 'dispatch/cluster', find: 'if (silentNs <= 0)', replace: 'if (true)',
    caughtBy: 'drop share',
  },
  {
    name: 'computes the drop share at every poll',
    file: 'dispatch/cluster', find: 'nowNs + TICK_NS', replace: 'nowNs',
    caughtBy: 'drop share',
  },
  {
    name: 'computes the drop share on a grid instead of from the last tick on',
    file: 'dispatch/cluster', find: 'nowNs + TICK_NS', replace: '(Math.floor(nowNs / TICK_NS) + 1) * TICK_NS',
    caughtBy: 'drop share',
  },
  {
    name: 'does not publish until when a rate was measured',
    file: 'shards/shard', find: 'SHARD_MODEL_RATED_UNTIL_NS] = meter', replace: 'SHARD_MODEL_RATED_UNTIL_NS] = Infinity * meter',
    caughtBy: 'drop share',
  },
  {
    name: 'takes ℓ(1) for the fixed part of a batch',
    file: 'dispatch/cluster', find: '(latencyNs[1] - slopeNs)', replace: 'latencyNs[1]',
    caughtBy: 'drop share',
  },
  {
    name: 'grants a GPU early without saying so',
    file: 'dispatch/dispatcher', find: 'this.#grant(model, gpu, GRANT_EARLY);', replace: 'this.#grant(model, gpu, 0);',
    caughtBy: 'policy',
  },
  {
    name: 'may grant a GPU early to a model of any condition',
    file: 'shards/shard', find: 'adaptive && size >= this.#worthSize[model]', replace: 'size >= this.#worthSize[model]',
    caughtBy: 'early',
  },
  {
    name: 'starts every batch early for which there is a GPU',
    file: 'dispatch/dispatcher', find: '<= this.lookAhead.unreserved(this.pool.activeCount))', replace: '<= 0)',
    caughtBy: 'early',
  },
  {
    name: 'starts no batch early',
    file: 'dispatch/dispatcher', find: '<= this.lookAhead.unreserved(this.pool.activeCount))', replace: '< Infinity)',
    caughtBy: 'early',
  },
  {
    name: 'starts early what will hold up others',
    file: 'dispatch/dispatcher', find: 'if (this.#holdsUp(model)) {', replace: 'if (false) {',
    caughtBy: 'early',
  },
  {
    name: 'leaves one GPU too few to those who cannot wait',
    file: 'dispatch/dispatcher', find: '<= wanted)', replace: '< wanted)',
    caughtBy: 'early',
  },
  {
    name: 'forgets what it did not start early',
    file: 'dispatch/dispatcher', find: 'for (let k = 0; k < held; k++)', replace: 'for (let k = 0; k < 0; k++)',
    caughtBy: 'early',
  },
  {
    name: 'takes every batch for one that will hold up others',
    file: 'dispatch/dispatcher', find: 'if (this.#holdsUp(model)) {', replace: 'if (true) {',
    caughtBy: 'early',
  },
  {
    name: 'keeps no reserve',
    file: 'dispatch/look-ahead', find: '(gpus - kept)', replace: 'gpus',
    caughtBy: 'early',
  },
  {
    name: 'allows for no wait in the look-ahead',
    file: 'dispatch/look-ahead', find: 'const OVERBOOKED = 0.1;', replace: 'const OVERBOOKED = 0;',
    caughtBy: 'early',
  },
  {
    name: 'takes every wait for one that cannot be borne',
    file: 'dispatch/cluster', find: 'const SHARE_OF_BEARABLE = 0.7;', replace: 'const SHARE_OF_BEARABLE = 0;',
    caughtBy: 'early',
  },
  {
    name: 'lets whoever is due go before whoever gathers',
    file: 'dispatch/dispatcher', find: 'this.#grantEarly(true);', replace: '0;',
    caughtBy: 'early',
  },
  {
    name: 'looks ahead for half a batch only',
    file: 'dispatch/cluster', find: 'batches > 0 ? batchTime / batches', replace: 'batches > 0 ? batchTime / batches / 2',
    caughtBy: 'early',
  },
  {
    name: 'looks ahead on few GPUs for a mean batch only',
    file: 'dispatch/cluster', find: 'gpus < MANY_GPUS ? longestNs : meanNs', replace: 'meanNs',
    caughtBy: 'early',
  },
  {
    name: 'looks ahead for the longest batch on many GPUs too',
    file: 'dispatch/cluster', find: 'gpus < MANY_GPUS ? longestNs : meanNs', replace: 'longestNs',
    caughtBy: 'early',
  },
  {
    name: 'has as many batches miss on few GPUs as on many',
    file: 'dispatch/look-ahead', find: 'Math.min(MOST_MISSED_SHARE, MISSED_SHARE_PER_GPU * gpus)', replace: 'MOST_MISSED_SHARE',
    caughtBy: 'early',
  },
  {
    name: 'lets batches gather though every GPU is kept in reserve',
    file: 'dispatch/look-ahead', find: 'left > 0 ? left : NONE', replace: 'left',
    caughtBy: 'early',
  },
  {
    name: 'asks twice as much of a batch that is to start early',
    file: 'shards/shard', find: 'const WORTH_STARTING = 0.5;', replace: 'const WORTH_STARTING = 1;',
    caughtBy: 'early',
  },
  {
    name: 'forgets in the look-ahead what has begun',
    file: 'dispatch/look-ahead', find: 'this.#begun += value;\n            this.#add(', replace: 'this.#add(',
    caughtBy: 'early',
  },
  {
    name: 'looks ahead to the end of the ring only',
    file: 'dispatch/look-ahead', find: 'if (count > straight)', replace: 'if (false)',
    caughtBy: 'early',
  },
  {
    name: 'leaves the ends out of the look-ahead',
    file: 'dispatch/look-ahead', find: 'this.#mark(this.#to, index, -1);', replace: '',
    caughtBy: 'early',
  },
  {
    name: 'keeps every reserve that it has learnt',
    file: 'dispatch/look-ahead', find: 'this.#cells[RESERVE] -=', replace: 'this.#cells[RESERVE] -= 0 *',
    caughtBy: 'early',
  },
];

/** The same for every mutant: drawn once from a fixed seed, and the ones that were found by hand. */
const SCENARIOS: readonly Scenario[] = [
  ...fc.sample(scenarioArb({ models: 5, gpus: 4, events: 80 }), { seed: 20_240_229, numRuns: 500 }),
  ...fc.sample(scenarioArb({ models: 6, gpus: 2, events: 150, slotShift: [7, 7] }), { seed: 4, numRuns: 200 }),
  ...fc.sample(scenarioArb({ models: 9, gpus: 16, events: 80 }), { seed: 7, numRuns: 100 }),
  cancelOfALateCandidate(),
];

const copies = new Copies();
after(() => copies.remove());

/** The virtual host of a copy of the compiled scheduler, with one change. */
async function mutate(mutant: Mutant | null): Promise<typeof VirtualHost> {
  const copy = mutant === null ? copies.make((_, text) => text) : copies.mutate(mutant, mutant.name);
  return (await load<{ VirtualHost: typeof VirtualHost }>(copy, 'sim/virtual-host')).VirtualHost;
}

describe('each property fails for a scheduler that is broken', () => {
  it('and holds for an untouched copy', async () => {
    const HostType = await mutate(null);
    for (const scenario of SCENARIOS) {
      const run = new Run(scenario, HostType).play();
      assert.equal(run.violations.length, 0, describeViolations(run));
    }
  });

  for (const mutant of MUTANTS) {
    it(`${mutant.caughtBy}: one that ${mutant.name}`, async () => {
      const HostType = await mutate(mutant);
      const seen = new Map<Property, number>();
      for (const scenario of SCENARIOS) {
        for (const property of new Run(scenario, HostType).play().violated()) seen.set(property, (seen.get(property) ?? 0) + 1);
        if (seen.has(mutant.caughtBy)) return;
      }
      const others = [...seen].map(([property, count]) => `${property} (${count})`).join(', ');
      assert.fail(`${SCENARIOS.length} scenarios without a violation of "${mutant.caughtBy}"; ${others || 'no other property was violated either'}`);
    });
  }

  it('and every property is proven so', () => {
    const proven = new Set(MUTANTS.map((mutant) => mutant.caughtBy));
    const all: Record<Property, boolean> = {
      'one outcome': true, 'right outcome': true, 'never late': true, 'invalidAfter': true, 'one batch per GPU': true, 'lowest GPU': true, 'grant': true, 'matching': true,
      'timeout drop': true, 'window drop': true, 'timer': true, 'equation': true, 'batch size': true, 'oldest first': true, 'policy': true, 'drop share': true, 'early': true,
      sound: false, // what is thrown is not a rule of its own
    };
    assert.deepEqual(Object.entries(all).filter(([property, needed]) => needed && !proven.has(property as Property)), []);
  });
});
