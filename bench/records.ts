/** Records in an array, as those write and read them who copy. */
export const RECORD_DOUBLES = 4;

/** Fills `count` records; returns their sum. */
export function fill(array: Float64Array, from: number, count: number): number {
  let sum = 0;
  for (let k = 0, at = 0; k < count; k++, at += RECORD_DOUBLES) {
    const value = (from + k) & 0xfff;
    array[at] = value;
    array[at + 1] = 1;
    array[at + 2] = 2;
    array[at + 3] = 3;
    sum += value + 6;
  }
  return sum;
}

export function total(array: Float64Array, doubles: number): number {
  let sum = 0;
  for (let k = 0; k < doubles; k++) sum += array[k]!;
  return sum;
}
