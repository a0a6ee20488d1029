/**
 * Every interleaving of a few small threads. A thread is a generator that stops before each of its atomic steps:
 * `yield` when the next step can be taken at any time, `yield () => condition` when it has to wait for something.
 */
export type Thread = Generator<undefined | (() => boolean), void, void>;

export interface Trial {
  readonly threads: readonly Thread[];
  /** Looks at the outcome once all threads have ended. */
  readonly check: () => void;
}

interface Choice {
  taken: number;
  readonly of: number;
}

/**
 * Runs fresh trials until each order of steps was seen; returns how many there were. Throws what `check` throws, and
 * when threads wait for each other for ever, with the order of the steps (thread numbers) in the text.
 */
export function explore(makeTrial: () => Trial, most = 2_000_000): number {
  const choices: Choice[] = [];
  for (let runs = 1; ; runs++) {
    if (runs > most) throw new Error(`more than ${most} interleavings: make the case smaller`);
    runOnce(makeTrial(), choices);
    while (choices.length > 0 && choices.at(-1)!.taken === choices.at(-1)!.of - 1) choices.pop();
    if (choices.length === 0) return runs;
    choices.at(-1)!.taken++;
  }
}

/** One run; takes the choices that are given and appends the first alternative of each further one. */
function runOnce({ threads, check }: Trial, choices: Choice[]): void {
  const waits = threads.map((thread) => thread.next());
  const order: number[] = [];
  for (let depth = 0; ; depth++) {
    const ready: number[] = [];
    let left = 0;
    for (let t = 0; t < threads.length; t++) {
      const wait = waits[t]!;
      if (wait.done === true) continue;
      left++;
      if (wait.value === undefined || wait.value()) ready.push(t);
    }
    if (left === 0) break;
    if (ready.length === 0) throw new Error(`nobody can go on after the steps ${order.join('')}`);
    if (depth === choices.length) choices.push({ taken: 0, of: ready.length });
    const thread = ready[choices[depth]!.taken]!;
    order.push(thread);
    waits[thread] = threads[thread]!.next();
  }
  try {
    check();
  } catch (error) {
    throw new Error(`after the steps ${order.join('')}: ${(error as Error).message}`, { cause: error });
  }
}

type AtomicName = 'load' | 'store' | 'exchange' | 'compareExchange' | 'or' | 'notify' | 'wait';
const NAMES: readonly AtomicName[] = ['load', 'store', 'exchange', 'compareExchange', 'or', 'notify', 'wait'];

/** Calls `before` ahead of each atomic operation that `body` does itself (not of those that `before` does). */
export function withAtomicsWatched<T>(before: (name: AtomicName, index: number) => void, body: () => T): T {
  const table = Atomics as unknown as Record<AtomicName, (...args: unknown[]) => unknown>;
  const originals = NAMES.map((name) => table[name]);
  let watching = true;
  NAMES.forEach((name, n) => {
    table[name] = (...args) => {
      if (watching) {
        watching = false;
        try {
          before(name, args[1] as number);
        } finally {
          watching = true;
        }
      }
      return originals[n]!.apply(Atomics, args);
    };
  });
  try {
    return body();
  } finally {
    NAMES.forEach((name, n) => { table[name] = originals[n]!; });
  }
}

/** Names and indices of the atomic operations that `body` does, in their order: `store 0`. */
export function atomicsOf(body: () => void): string[] {
  const seen: string[] = [];
  withAtomicsWatched((name, index) => seen.push(`${name} ${index}`), body);
  return seen;
}
