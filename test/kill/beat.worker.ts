/** A thread that beats, as a scheduler thread does, until it is told to stop or to get stuck: so many lives, one after the other. */
export const BEAT = 0;
export const STOP = 1;
export const STUCK = 2;
/** So many lives after one that got stuck do not even begin. */
export const LATE = 3;

export default function beat({ words }: { readonly words: Int32Array }): void {
  if (Atomics.load(words, BEAT) > 0 && Atomics.load(words, STUCK) === 0 && Atomics.load(words, LATE) > 0) {
    Atomics.sub(words, LATE, 1);
    for (;;);
  }
  while (Atomics.load(words, STOP) === 0) {
    Atomics.add(words, BEAT, 1);
    if (Atomics.load(words, STUCK) > 0) {
      Atomics.sub(words, STUCK, 1);
      for (;;);
    }
    Atomics.wait(words, STOP, 0, 5);
  }
}
