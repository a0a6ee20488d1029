/**
 * A role is a plain object over shared memory. The host writes the time into `cells[CELL_NOW]`, calls `poll()`,
 * and finds in `cells[CELL_NEXT]` when the role wants to be polled even if nothing arrives, and in
 * `cells[CELL_WORK]` how much it has done. Numbers pass through cells because V8 boxes doubles that cross
 * calls which it does not inline. A role never waits and never reads a clock.
 */
export interface Role {
  readonly cells: Float64Array;
  poll(): void;
}

export const CELL_NOW = 0;
export const CELL_NEXT = 1;
export const CELL_WORK = 2;

export function roleCells(): Float64Array {
  return new Float64Array(16);
}
