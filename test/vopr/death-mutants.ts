/** Schedulers whose recovery from a death has one fault each, as mutants.ts. The deaths must find every one of them. */
import type { Mutant } from './mutants.js';

export interface DeathMutant extends Mutant {
  /** The file in whose statements threads die: for a fault that only a few statements show, which 200 seeds would seldom draw of all. */
  readonly deathsIn?: string;
}

export const DEATH_MUTANTS: readonly DeathMutant[] = [
  {
    name: 'queues what runs',
    file: 'shards/survey', find: 'if (running.has(slot))', replace: 'if (false)',
  },
  {
    name: 'forgets what waited',
    file: 'shards/survey', find: 'waiting.push(slot);', replace: ';',
  },
  {
    name: 'says no completion again',
    file: 'shards/shard', find: 'this.#ledger.sayAgain(slot);', replace: ';',
  },
  {
    name: 'says completions again that lie in the lane',
    file: 'shards/survey', find: ' && said.get(slot) !== generation', replace: '',
  },
  {
    name: 'leaves the counters as they were found',
    file: 'shards/ledger', find: 'this.#takeOver();', replace: ';',
  },
  {
    name: 'ends a batch for the second time as if it were the first',
    file: 'shards/shard', find: 'this.#drainBatchDone(true);', replace: 'this.#drainBatchDone(false);',
  },
  {
    name: 'answers a grant anew whose batch is closed',
    file: 'shards/shard', find: 'i32[answeredAt] = number;', replace: ';',
    deathsIn: 'shards/shard',
  },
  {
    name: 'counts no request of the batches that run',
    file: 'shards/shard', find: 'running[model] += i32[header + BATCH_SIZE];', replace: '',
  },
  {
    name: 'forgets the cancels of what runs',
    file: 'shards/shard', find: 'if (this.#isCancelled(slot))\n                    this.#ledger.cancelRunning(slot);', replace: ';',
  },
  {
    name: 'answers no grant again',
    file: 'shards/shard', find: 'this.#answerAgain(model, number, gpu);', replace: ';',
  },
  {
    name: 'counts no grant that was made and not counted',
    file: 'dispatch/dispatcher', find: 'this.#i32[issuedAt] = grant.number;', replace: ';',
  },
  {
    name: 'makes no grant again',
    file: 'dispatch/dispatcher', find: 'this.#grantAgain(gpu, grants);', replace: ';',
  },
  {
    name: 'issues no batch again',
    file: 'dispatch/dispatcher', find: 'this.#issueAgain(gpu, batch, issues);', replace: ';',
    deathsIn: 'dispatch/dispatcher',
  },
  {
    name: 'takes no candidate that its predecessor had taken',
    file: 'dispatch/dispatcher', find: 'this.#takeCandidate(model, at < 0 ? this.#mailboxes.taken(model) : at);', replace: 'if (at >= 0) this.#takeCandidate(model, at);',
    deathsIn: 'dispatch/dispatcher',
  },
  {
    name: 'says no end again',
    file: 'dispatch/dispatcher', find: 'this.#sayDoneAgain(from, at);', replace: ';',
  },
  {
    name: 'leaves half-written rows of GPUs as they are',
    file: 'dispatch/gpu-pool', find: 'this.#mend(this.row(gpu));', replace: '',
    deathsIn: 'dispatch/gpu-pool',
  },
  {
    name: 'counts no batch that was ended and not counted',
    file: 'dispatch/gpu-pool', find: 'f64[double + GPU_BATCHES] += (i32[row + GPU_ENDED_BATCHES] - (f64[double + GPU_BATCHES] | 0)) | 0;', replace: '',
    deathsIn: 'dispatch/gpu-pool',
  },
  {
    name: 'counts a GPU that comes on from the one that had its number before',
    file: 'dispatch/dispatcher', find: 'this.pool.clear(gpu);', replace: ';',
  },
  {
    name: 'runs no batch again that its device had begun',
    file: 'devices/emulated', find: 'this.#takeOver();', replace: '',
  },
  {
    name: 'runs what it was issued twice',
    file: 'devices/emulated', find: 'this.#noteGiven(gpu, model, number);\n                if (', replace: 'if (',
  },
  {
    name: 'runs batches again whose end lies in the lane',
    file: 'devices/emulated', find: 'if (ended.has(batchKey(model, number)))', replace: 'if (false)',
  },
];
