/** The rival policies that rubato is compared with. */
import { eager } from './eager.js';
import { fixedDelay } from './fixed-delay.js';
import type { MakePolicy } from './policy.js';
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
};
