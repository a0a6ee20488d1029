/** The rival policies that rubato is compared with. */
import { clockwork } from './clockwork.js';
import { eager } from './eager.js';
import { fixedDelay } from './fixed-delay.js';
import { nexus } from './nexus.js';
import type { MakePolicy } from './policy.js';
import { shepherd } from './shepherd.js';
import { symphonyReference } from './symphony-reference.js';

export interface Rival {
  readonly make: MakePolicy;
  /** Where its rules are from. */
  readonly source: string;
  readonly description: string;
}

export const RIVALS: Readonly<Record<string, Rival>> = {
  'eager': {
    make: eager(),
    source: 'the plainest rule of serving systems without a configured delay',
    description: 'a free GPU takes the oldest request at once, with as many of its model as its deadline allows',
  },
  'fixed-delay': {
    make: fixedDelay(),
    source: 'Triton Inference Server, "Batchers" (dynamic_batching); TensorFlow Serving, batching guide',
    description: 'waits for a preferred batch size, at most for a fixed delay; with deadlines and drops of our own, to be fair',
  },
  'symphony-reference': {
    make: symphonyReference(),
    source: 'the paper authors’ own program (github abcdabcd987/nexuslb, 2023-12-22), from its description in words',
    description: 'deferred batch scheduling with frontrun windows and window drops, the authors’ defaults',
  },
  'shepherd': {
    make: shepherd(),
    source: 'Shepherd (NSDI 2023), its online policy as the paper authors’ baseline has it',
    description: 'the largest batch first, and one 3.03 times as large pre-empts; expired requests are removed from the front',
  },
  'shepherd-authors': {
    make: shepherd({ expireFrom: 'back' }),
    source: 'the paper authors’ Shepherd baseline, with its defect',
    description: 'as shepherd, but expired requests are looked for at the latest deadline only, so that one blocks its model',
  },
  'shepherd-nonpreemptive': {
    make: shepherd({ preemptAt: Infinity }),
    source: 'Shepherd (NSDI 2023), without its pre-emption',
    description: 'the largest batch first, expired requests are removed from the front, and what runs runs to its end',
  },
  'clockwork': {
    make: clockwork(),
    source: 'Clockwork (OSDI 2020)',
    description: 'the latest start first, batches of 1, 2, 4, 8 and 16, one batch ahead, predictions from the last ten runs',
  },
  'clockwork-largest': {
    make: clockwork({ upToLargest: true }),
    source: 'Clockwork (OSDI 2020), with more batch sizes',
    description: 'as clockwork, with batch sizes that go on doubling up to the largest that runs within the SLO',
  },
  'nexus': {
    make: nexus({ quickStart: true, smoothRoutes: true }),
    source: 'Nexus (SOSP 2019), as the paper authors’ baseline has it',
    description: 'squishy bin packing from measured rates, which are looked at after 1, 2, 4, 8 and 16 s too; GPUs are dealt to by turns',
  },
  'nexus-authors': {
    make: nexus(),
    source: 'the paper authors’ Nexus baseline',
    description: 'as nexus, but each model has one GPU for the first 30 s, as far as there are any, and GPUs are dealt many requests in a row',
  },
};
