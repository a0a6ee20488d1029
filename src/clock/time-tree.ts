/**
 * A time (or any number) for each index 0 … size-1, ordered by (time, index): timers, free times, ranks.
 * A complete binary tournament in one Float64Array: node n holds the smaller of its children 2n and 2n + 1,
 * leaf i is node `leaves + i`. An update is O(log size) and stops as soon as a parent does not change.
 * +Infinity means "not there".
 *
 * Doubles that cross calls which V8 does not inline are boxed, so the hot callers read `nodes` themselves
 * where that matters: `tree.nodes[1]` is the smallest time.
 */
export class TimeTree {
  readonly size: number;
  readonly leaves: number;
  readonly nodes: Float64Array;
  /** What `lowestUpToAsked` is given. */
  readonly asked = new Float64Array(1);

  constructor(size: number) {
    if (!Number.isInteger(size) || size < 1) throw new RangeError(`a time tree of ${size} was asked for; the size must be a positive integer`);
    this.size = size;
    let leaves = 2;
    while (leaves < size) leaves *= 2;
    this.leaves = leaves;
    this.nodes = new Float64Array(2 * leaves).fill(Infinity);
  }

  /** The time of `index`. */
  get(index: number): number {
    return this.nodes[this.leaves + index]!;
  }

  /** Smallest time of all, +Infinity when none is there. */
  min(): number {
    return this.nodes[1]!;
  }

  set(index: number, time: number): void {
    const node = this.leaves + index;
    if (this.nodes[node] === time) return;
    this.nodes[node] = time;
    this.settle(index);
  }

  /** Takes `index` out. */
  clear(index: number): void {
    const node = this.leaves + index;
    if (this.nodes[node] === Infinity) return;
    this.nodes[node] = Infinity;
    this.settle(index);
  }

  /** The time of `index` was stored in `nodes[leaves + index]` by the caller, who so passes no double. */
  settle(index: number): void {
    const nodes = this.nodes;
    let node = this.leaves + index;
    while (node > 1) {
      const a = nodes[node]!;
      const b = nodes[node ^ 1]!;
      const smaller = a < b ? a : b;
      node >>= 1;
      if (nodes[node] === smaller) return;
      nodes[node] = smaller;
    }
  }

  /** Index with the smallest time, the lowest of several; -1 when none is there. */
  first(): number {
    const { leaves, nodes } = this;
    if (nodes[1] === Infinity) return -1;
    let node = 1;
    while (node < leaves) {
      node *= 2;
      if (nodes[node + 1]! < nodes[node]!) node++;
    }
    return node - leaves;
  }

  /** How many times are <= `time`: looks at twice as many nodes on each level. */
  countUpTo(time: number, node = 1): number {
    if (!(this.nodes[node]! <= time)) return 0;
    return node >= this.leaves ? 1 : this.countUpTo(time, 2 * node) + this.countUpTo(time, 2 * node + 1);
  }

  /** Lowest index whose time is <= `time`, or -1. */
  lowestUpTo(time: number): number {
    this.asked[0] = time;
    return this.lowestUpToAsked();
  }

  /** As `lowestUpTo`, of the time that the caller has stored in `asked[0]`. */
  lowestUpToAsked(): number {
    const nodes = this.nodes;
    const time = this.asked[0]!;
    if (!(nodes[1]! <= time)) return -1;
    const leaves = this.leaves;
    let node = 1;
    while (node < leaves) {
      node *= 2;
      if (!(nodes[node]! <= time)) node++;
    }
    return node - leaves;
  }
}
