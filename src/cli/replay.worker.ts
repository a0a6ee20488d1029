/** Replays a recording under one policy in a thread of its own. */
import { RubatoError } from '../model/errors.js';
import { type Replay, runReplay } from '../sim/replay.js';
import type { SimulationResult } from '../sim/result.js';
import type { Answer } from './policy.worker.js';

export interface ReplayTask {
  readonly replay: Replay;
  readonly policy: string | null;
}

export default function run({ replay, policy }: ReplayTask): Answer<SimulationResult> {
  try {
    const startMs = performance.now();
    const result = runReplay(replay, policy);
    return { result, wallSeconds: (performance.now() - startMs) / 1e3 };
  } catch (error) {
    if (error instanceof RubatoError) return { code: error.code, message: error.message };
    throw error;
  }
}
