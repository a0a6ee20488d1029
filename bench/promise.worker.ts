/** The task of bench/promise.ts in a Piscina of one thread: gives back what it was given. */
export default function echo(value: number): number {
  return value;
}
