/** Schedulers with one fault each, as changes of the compiled text: the checks must find every one of them. */
import type { Replacement } from '../sim/copies.js';

export interface Mutant extends Replacement {
  readonly name: string;
}

export const MUTANTS: readonly Mutant[] = [
  {
    name: 'drops the last request of each batch without a word',
    file: 'shards/ledger', find: '#endAll(slotsAt, size, model, packed, client) {', replace: '#endAll(slotsAt, size, model, packed, client) {\n        size--;',
  },
  {
    name: 'ends a request that never ran twice',
    file: 'shards/ledger', find: 'endUnrun(slot, model, outcome) {', replace: 'endUnrun(slot, model, outcome) {\n        this.#end(slot, model, packOutcome(outcome, 0, 0), this.cells[LEDGER_NOW], 0);',
  },
  {
    name: 'counts no late request',
    file: 'shards/ledger', find: '_LATE] += late;', replace: '_LATE] += 0;',
  },
  {
    name: 'issues a grant twice',
    file: 'dispatch/dispatcher', find: 'this.#noteGrant(model, gpu, at);', replace: 'this.#noteGrant(model, gpu, at);\n        if (flags < 2) return this.#grant(model, gpu, flags | 2);',
  },
  {
    name: 'grants a GPU to a candidate that is not valid any more when it gets free',
    file: 'dispatch/dispatcher', find: 'if (soonest > this.#invalidAfterNs[model]) {', replace: 'if (false) {',
  },
  {
    name: 'does not compare the stamp of a candidate',
    file: 'dispatch/dispatcher', find: 'if (mailboxes.i32[at + CANDIDATE_STAMP] !== ', replace: 'if (NaN === ',
  },
  {
    name: 'clears the dirty bits after it has read the mailboxes',
    file: 'dispatch/dispatcher', find: 'this.#takeCandidate(this.#fresh[k], at);\n        }\n        return count;', replace: 'this.#takeCandidate(this.#fresh[k], at);\n        }\n        this.#dirty.collect(new Int32Array(64));\n        return count;',
  },
  {
    name: 'takes a GPU for free as soon as its batch has started',
    file: 'dispatch/gpu-pool', find: 'start + f64[double + GPU_NEXT_LENGTH_NS]', replace: 'start',
  },
  {
    name: 'leaves a granted GPU free for the next grant',
    file: 'dispatch/gpu-pool', find: '_GRANT_MODEL] = model;\n        this.idle.delete(gpu);\n        this.running.clear(gpu);', replace: '_GRANT_MODEL] = model;',
  },
  {
    name: 'loses the GPU of a refused grant',
    file: 'dispatch/gpu-pool', find: '_MODEL] = NONE;\n        this.#reposition(gpu);', replace: '_MODEL] = NONE;',
  },
  {
    name: 'gives batches to a GPU that leaves',
    file: 'dispatch/dispatcher', find: 'this.pool.setActive(gpu, i32[row + GPU_SPEC.at.state] === GPU_ACTIVE);', replace: 'this.pool.setActive(gpu, i32[row + GPU_SPEC.at.state] !== 0);',
  },
  {
    name: 'takes the GPU that is free first',
    file: 'dispatch/dispatcher', find: 'this.#execNs[model]);\n            const gpu = this.pool.lowestFreeByExec();', replace: 'this.#execNs[model]);\n            const gpu = running.nodes[1] <= cells[POOL_EXEC] ? running.first() : idle.first();',
  },
  {
    name: 'starts the next batch before the running one has ended',
    file: 'devices/emulated', find: 'Math.max(ready, this.#endNs[gpu])', replace: 'ready',
  },
  {
    name: 'forgets the cancel of a request that waits',
    file: 'shards/shard', find: 'if (!this.#queueOf(model).remove(slot)) {', replace: 'if (true) {',
  },
  {
    name: 'forgets the cancel of a request that runs',
    file: 'shards/ledger', find: 'if (this.#cancelledRunning.size > 0 && this.#cancelledRunning.delete(slot))\n                    outcome = OUTCOME.cancelled;', replace: 'if (this.#cancelledRunning.size > 0 && this.#cancelledRunning.delete(slot))\n                    cancelled++;',
  },
  {
    name: 'ends a cancelled request and leaves it in the queue',
    file: 'shards/shard', find: 'if (!this.#queueOf(model).remove(slot)) {', replace: 'if (false) {',
  },
  {
    name: 'uses a slot again before its completion was read',
    file: 'protocol/client-port', find: 'free[word] = bits ^ bit;', replace: 'free[word] = bits;',
  },
  {
    name: 'sets no timer',
    file: 'shards/shard', find: 'this.#timerNs[model] = timer;\n        this.#armTimer(model);', replace: '',
  },
  {
    name: 'drops for a batch that is one larger than the one it chooses',
    file: 'shards/batch-policy', find: 'const finish = finishNs(this.cells, latencyNs, size);', replace: 'const finish = finishNs(this.cells, latencyNs, size + 1);',
  },
  {
    name: 'keeps the row of an ended batch',
    file: 'shards/ledger', find: ' = BATCH_FREE;\n', replace: ' = BATCH_OPEN;\n',
  },
  {
    name: 'goes on with a model that is frozen',
    file: 'shards/shard', find: 'if (this.#states[model] === MODEL_FROZEN || ', replace: 'if (',
  },
  {
    name: 'loses the queue of a model that is moved',
    file: 'shards/shard', find: 'this.#resendsOf[owner].mark(slot);', replace: '',
  },
  {
    name: 'acknowledges changes of model 0 without having taken them in',
    file: 'shards/shard', find: 'this.#version = Atomics.load(i32, memory.version >> 2);\n        for (let model = 0; model < this.#versions.length; model++) {', replace: 'this.#version = Atomics.load(i32, memory.version >> 2);\n        for (let model = 1; model < this.#versions.length; model++) {',
  },
  {
    name: 'forgets what a dead client had not committed',
    file: 'protocol/client-port', find: '].mark(this.#firstSlot + index);', replace: '];',
  },
];
