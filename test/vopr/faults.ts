/** The faults that a run has had so far, and what they excuse: a late start is a violation only where none explains it. */
import type { Batch } from './tables.js';

interface DeviceState {
  readonly fromNs: number;
  readonly slowdown: number;
  readonly jitter: number;
  readonly failureRate: number;
}

export class Faults {
  /** When roles were not polled. Ends may lie ahead. */
  readonly #pauses: { readonly fromNs: number; toNs: number }[] = [];
  /** By GPU, in order of time. */
  readonly #devices = new Map<number, DeviceState[]>();
  /** Whether the dispatcher has taken in every change by now. */
  dispatcherKnowsAll: () => boolean = () => true;

  paused(fromNs: number, toNs: number): void {
    this.#pauses.push({ fromNs, toNs });
  }

  /** Everybody goes on. */
  resumed(nowNs: number): void {
    for (const pause of this.#pauses) pause.toNs = Math.min(pause.toNs, nowNs);
  }

  device(gpu: number, state: DeviceState): void {
    this.#devices.set(gpu, [...(this.#devices.get(gpu) ?? []), state]);
  }

  mayFail(gpu: number): boolean {
    return this.#devices.get(gpu)?.some(({ failureRate }) => failureRate > 0) === true;
  }

  /** Whether batches that were started on this GPU at some time never end. */
  isLost(gpu: number): boolean {
    return this.#devices.get(gpu)?.some(({ slowdown }) => slowdown === Infinity) === true;
  }

  /** Whether a batch that has ended may have started late or taken another time than planned. */
  excuse(batch: Batch): boolean {
    const { gpu, plannedNs, startNs, endNs, previous } = batch;
    if (batch.wasInterrupted) return true;
    if (this.#pauses.some(({ fromNs, toNs }) => fromNs <= endNs && toNs >= plannedNs)) return true;
    const states = this.#devices.get(gpu) ?? [];
    const isFaulty = states.some(({ fromNs, slowdown, jitter }, k) => (slowdown !== 1 || jitter !== 0) && fromNs <= startNs && startNs <= (states[k + 1]?.fromNs ?? Infinity));
    if (isFaulty) return true;
    // Planned by the prediction for the one before, which was wrong.
    return previous !== null && plannedNs <= previous.endNs && !isAsPlanned(previous);
  }
}

function isAsPlanned({ startNs, endNs, execNs, lengthsNs }: Batch): boolean {
  return startNs === execNs && lengthsNs.includes(endNs - startNs);
}
