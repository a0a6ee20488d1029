/** Whether two types are the same: not merely assignable to each other, and `any` is equal to itself only. */
export type Equal<A, B> = (<X>() => X extends A ? 1 : 2) extends <X>() => X extends B ? 1 : 2 ? true : false;

/** Does not compile unless it is given `true`. */
export type Expect<T extends true> = T;
