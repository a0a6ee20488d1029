/** `bucketOf` of ../log-linear.ts in AssemblyScript, for the inner loops. */
// @ts-ignore: decorator
@inline
export function bucketOf(valueNs: f64): i32 {
  if (valueNs < 128) return valueNs > 0 ? <i32>valueNs : 0;
  if (!(valueNs < 137438953472)) return 2047;
  const value = <i64>valueNs;
  const shift = 57 - clz(value);
  return <i32>((shift << 6) + (value >> shift));
}
