/**
 * Names the fields of a fixed-size record once and yields their offsets.
 *
 * Every record lies on an 8-byte boundary and is a multiple of 8 bytes, so that one pair of views
 * (Int32Array, Float64Array, Float32Array) over the buffer serves all of them: the word index `w` of a record is its
 * byte offset / 4, the double index is `w >> 1`. An i32 field is read as `i32[w + AT]`, an f32 field as `f32[w + AT]`,
 * an f64 field as `f64[(w >> 1) + AT]`.
 */

/** Distance in bytes between words written by different threads: two cache lines, because of the adjacent-line prefetcher. */
export const LINE_BYTES = 128;

export type FieldKind = 'i32' | 'f32' | 'f64';

export interface RecordLayout<F extends Record<string, FieldKind>> {
  /** Size of one record. */
  readonly bytes: number;
  /** Size of one record in 4-byte words. */
  readonly words: number;
  /** Offset of each field inside the record, in units of its own kind. */
  readonly at: { readonly [K in keyof F]: number };
}

/** Lays the fields out in the order given. Throws if a double would be misaligned, or if `bytes` is too small. */
export function defineRecord<const F extends Record<string, FieldKind>>(
  name: string,
  fields: F,
  bytes = 0,
): RecordLayout<F> {
  const at: Record<string, number> = {};
  let end = 0;
  for (const [field, kind] of Object.entries(fields)) {
    const size = kind === 'f64' ? 8 : 4;
    if (end % size !== 0) {
      throw new RangeError(`record ${name}: field ${field} would start at byte ${end}, which is not a multiple of ${size}`);
    }
    at[field] = end / size;
    end += size;
  }
  const wanted = bytes === 0 ? Math.ceil(end / 8) * 8 : bytes;
  if (wanted < end || wanted % 8 !== 0) {
    throw new RangeError(`record ${name}: its fields take ${end} bytes, its size is ${wanted}; it must be at least that and a multiple of 8`);
  }
  return { bytes: wanted, words: wanted / 4, at: at as RecordLayout<F>['at'] };
}

/** Hands out consecutive, line-aligned pieces of one shared buffer that is allocated when the plan is complete. */
export class BufferPlan {
  #end = 0;

  /** Reserves `bytes` and returns their byte offset. */
  take(bytes: number): number {
    if (!Number.isSafeInteger(bytes) || bytes < 0) throw new RangeError(`a piece of ${bytes} bytes was asked for; it must be a non-negative integer`);
    const offset = this.#end;
    this.#end = Math.ceil((offset + bytes) / LINE_BYTES) * LINE_BYTES;
    return offset;
  }

  get bytes(): number {
    return this.#end;
  }
}

/** Checks that a piece of a shared buffer can be viewed as words and doubles. Throws with both numbers if not. */
export function checkPiece(what: string, buffer: SharedArrayBuffer, byteOffset: number, bytes: number): void {
  if (!(buffer instanceof SharedArrayBuffer)) throw new TypeError(`${what}: the buffer must be a SharedArrayBuffer`);
  if (byteOffset % 8 !== 0) throw new RangeError(`${what}: starts at byte ${byteOffset}, which is not a multiple of 8`);
  if (byteOffset < 0 || byteOffset + bytes > buffer.byteLength) {
    throw new RangeError(`${what}: needs bytes ${byteOffset} to ${byteOffset + bytes}, the buffer has ${buffer.byteLength}`);
  }
}
