/**
 * What the compiler knows of a scheduler: its models by name, and of each the type of one input and one output.
 *
 * `createScheduler` infers that map from its options (`TypesFromModels`); everything else only looks names up in it.
 * A model that declares tensors has an object of typed arrays for each side; one that says `value: value<I, O>()` has
 * these two; any other takes what the callback devices' `execute` takes and gives, or `unknown`. Names that are no
 * literals, as of options put together at run time, give a map of `string`: any name is then accepted.
 */
import type { ExecuteBatch } from '../devices/callback.js';
import type { Dtype, TensorArrayOf, TensorOption } from '../model/tensor.js';

/** What one request of a model takes and gives. */
export interface ModelTypes {
  input: unknown;
  output: unknown;
}

/** Any map of models, as in `{ resnet50: { input: …; output: … } }`. */
export type SchedulerTypes = { readonly [name: string]: ModelTypes };

/** The map where names are not known to the compiler: any name, all models alike. */
export type AnyModels<I = unknown, O = unknown> = { [name: string]: { input: I; output: O } };

/** A model's names of tensors, and of each its dtype and its shape without the batch axis. */
export type TensorOptions = Readonly<Record<string, TensorOption>>;

/** A key that no value has. */
declare const phantom: unique symbol;

/** Says the value types of one model to the compiler; made by `value`. */
export interface ValueTypes<I = unknown, O = unknown> {
  /** Never there at run time. */
  readonly [phantom]?: { readonly input: I; readonly output: O };
}

const VALUE_TYPES: ValueTypes = Object.freeze({});

/** For a model without tensors: `{ name: 'tokenize', …, value: value<string, number[]>() }`. Only the compiler sees it. */
export function value<I, O>(): ValueTypes<I, O> {
  return VALUE_TYPES as ValueTypes<I, O>;
}

/** Whether it is what `value()` gives. */
export function isValueTypes(given: unknown): given is ValueTypes {
  return given === VALUE_TYPES;
}

/** The part of a model's options that its types come from. */
export interface TypedModelOptions {
  /** What `submit` calls it. */
  name: string;
  /** Tensors that one request brings. Without them a request is any JavaScript value, which callback devices take. */
  inputs?: TensorOptions;
  /** Tensors that one request gets. */
  outputs?: TensorOptions;
  /** Types of a model without tensors, if not those of the devices' `execute`. */
  value?: ValueTypes;
}

/** Written out, so that an editor shows the fields and not how they were found. */
export type Flat<T> = T extends infer U ? { [K in keyof U]: U[K] } : never;

type TensorsOf<S extends TensorOptions> = Flat<{ -readonly [K in keyof S]: TensorArrayOf<S[K]['dtype'] & Dtype> }>;

/** Optional and wide `inputs`, as of a variable of type `ModelOptions`, say nothing: hence the test for a required key. */
type InputFrom<M, I> = M extends { readonly inputs: infer S extends TensorOptions } ? TensorsOf<S> : M extends { readonly value: ValueTypes<infer V, unknown> } ? V : I;
type OutputFrom<M, O> = M extends { readonly outputs: infer S extends TensorOptions } ? TensorsOf<S> : M extends { readonly value: ValueTypes<unknown, infer V> } ? V : O;

/** The map of a list of model options; I and O are those of `execute`. */
export type TypesFromModels<M extends readonly TypedModelOptions[], I = unknown, O = unknown> = Flat<{
  [E in M[number] as E['name']]: { input: InputFrom<E, I>; output: OutputFrom<E, O> };
}>;

/** The map with one more model, or with that model's types in place of those it had. */
export type WithModel<T, M extends TypedModelOptions> = Flat<{ [N in keyof T as N extends LiteralName<M> ? never : N]: T[N] } & TypesFromModels<readonly [M]>>;
type LiteralName<M extends TypedModelOptions> = string extends M['name'] ? never : M['name'];

type ExecuteOf<D> = D extends { readonly execute: infer E } ? E : never;
type ValuesOf<E> = [E] extends [ExecuteBatch<infer I, infer O>] ? [I, O] : [unknown, unknown];

/** The map of a scheduler that has not been made yet: `SchedulerTypesOf<typeof options>`, options declared `as const`. */
export type SchedulerTypesOf<S extends { readonly models: readonly TypedModelOptions[]; readonly devices: readonly unknown[] }> = TypesFromModels<
  S['models'],
  ValuesOf<ExecuteOf<S['devices'][number]>>[0],
  ValuesOf<ExecuteOf<S['devices'][number]>>[1]
>;

/** The key of `Typed`: one of its own, so that nothing else has it. */
export declare const schedulerTypes: unique symbol;

/** Has a map of models: schedulers, clients, tickets. */
export interface Typed<T> {
  /** Never there at run time. */
  readonly [schedulerTypes]?: T;
}

/** The map of a scheduler, a client or a ticket: `TypesOf<typeof scheduler>`. */
export type TypesOf<S> = S extends Typed<infer T> ? T : never;

/** The type of an option that does not exist. No value has it, so the error at that option shows its name. */
export interface UnknownOption<Name> {
  readonly [phantom]: Name;
}

/** Wrong for options that have keys which `Known` has not. A model's own type is inferred, so nothing else would refuse them. */
export type NoUnknownOptions<Given, Known> = { readonly [K in Exclude<keyof Given, keyof Known>]: UnknownOption<K> };

/** As `NoUnknownOptions`, for each element of a list whose length is known; a list made at run time is checked there. */
export type NoUnknownOptionsIn<Given extends readonly unknown[], Known> = number extends Given['length'] ? unknown : { readonly [K in keyof Given]: NoUnknownOptions<Given[K], Known> };

/** Stands for a second type argument that was not given. */
export interface ByName {
  readonly [phantom]: 'by name';
}

/** `Scheduler<T>` has a map, `Scheduler<I, O>` any names with these values, and so has `Scheduler<I>`. */
export type TypesFromArguments<A, B> = [B] extends [ByName] ? (A extends SchedulerTypes ? A : AnyModels<A>) : AnyModels<A, B>;
