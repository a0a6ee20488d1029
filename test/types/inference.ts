/** What the compiler makes of options. Nothing here runs: the compiler is the test. */
import type { Equal, Expect } from './expect.js';
import { bert, image, lengths, resnet, timing } from './options.js';
import { type AnyModels, type Batch, createScheduler, type ModelOptions, type Scheduler, type SchedulerOptions, type SchedulerTypesOf, type TypesOf, value } from '#rubato/index.js';

type Tensors<I, O> = { input: I; output: O };
type ResnetTypes = Tensors<{ image: Float32Array }, { scores: Float32Array }>;
type BertTypes = Tensors<{ ids: BigInt64Array; mask: Uint8Array }, { embedding: Uint16Array }>;

const emulated = [{ kind: 'emulated' }] as const;
const callback = [{ kind: 'callback', execute: lengths }] as const;

/** Never called. */
export async function infers(): Promise<unknown[]> {
  const inline = await createScheduler({
    models: [
      { name: 'resnet', ...timing, inputs: { image: { dtype: 'float32', shape: [3, 224, 224] } }, outputs: { scores: { dtype: 'float32', shape: [1000] } } },
      { name: 'lengths', ...timing },
    ],
    devices: [{ kind: 'callback', execute: async (batch: Batch<string>) => batch.inputs.map((text) => text.length) }],
  });
  const inlineConst = await createScheduler({ models: [resnet, bert, { name: 'lengths', ...timing }] as const, devices: callback });
  const options = { models: [resnet, bert, { name: 'lengths', ...timing }], devices: callback } as const;
  const variable = await createScheduler(options);
  const emulatedOnly = await createScheduler({ models: [resnet, { name: 'other', ...timing }], devices: emulated });
  const marked = await createScheduler({ models: [{ name: 'tokenize', ...timing, value: value<string, number[]>() }, { name: 'lengths', ...timing }], devices: callback });
  const oneSided = await createScheduler({ models: [{ name: 'classify', ...timing, inputs: { image } }], devices: callback });
  const all = await createScheduler({
    models: [{
      name: 'all',
      ...timing,
      inputs: {
        float32: { dtype: 'float32', shape: [1] },
        float64: { dtype: 'float64', shape: [1] },
        float16: { dtype: 'float16', shape: [1] },
        int8: { dtype: 'int8', shape: [1] },
        uint8: { dtype: 'uint8', shape: [1] },
        int16: { dtype: 'int16', shape: [1] },
        uint16: { dtype: 'uint16', shape: [1] },
        int32: { dtype: 'int32', shape: [1] },
        uint32: { dtype: 'uint32', shape: [1] },
        int64: { dtype: 'int64', shape: [] },
        uint64: { dtype: 'uint64', shape: [] },
        bool: { dtype: 'bool', shape: [] },
      },
      outputs: {},
    }],
    devices: emulated,
  });
  const wide: ModelOptions = resnet;
  const wideName = await createScheduler({ models: [{ ...wide, name: 'late' as string }], devices: callback });
  const mixed = await createScheduler({ models: [resnet, wide], devices: emulated });
  const list = ['a', 'b'].map((name) => ({ name, slo: 5, profile: [1] }));
  const made = await createScheduler({ models: list, devices: callback });
  const spread = await createScheduler({ models: [...list, resnet], devices: callback });
  const explicit = await createScheduler<number, string>({ models: [{ name: 'm', ...timing }], devices: [{ kind: 'callback', execute: (batch) => batch.inputs.map((input) => input.toFixed()) }] });
  const contextual = await createScheduler({ models: [{ name: 'm', ...timing }], devices: [{ kind: 'callback', execute: (batch) => batch.inputs }] });
  const optionsOfUnknownNames: SchedulerOptions = { models: [resnet], devices: emulated };
  const unknownNames = await createScheduler(optionsOfUnknownNames);
  const schedulers = [inline, made, spread, inlineConst, variable, emulatedOnly, marked, oneSided, all, wideName, mixed, explicit, contextual, unknownNames];

  type Cases = [
    Expect<Equal<TypesOf<typeof inline>, { resnet: ResnetTypes; lengths: Tensors<string, number> }>>,
    Expect<Equal<TypesOf<typeof inlineConst>, { resnet: ResnetTypes; bert: BertTypes; lengths: Tensors<string, number> }>>,
    Expect<Equal<TypesOf<typeof variable>, TypesOf<typeof inlineConst>>>,
    Expect<Equal<TypesOf<typeof emulatedOnly>, { resnet: ResnetTypes; other: Tensors<unknown, unknown> }>>,
    Expect<Equal<TypesOf<typeof marked>, { tokenize: Tensors<string, number[]>; lengths: Tensors<string, number> }>>,
    Expect<Equal<TypesOf<typeof oneSided>, { classify: Tensors<{ image: Float32Array }, number> }>>,
    Expect<Equal<TypesOf<typeof all>['all'], Tensors<{
      float32: Float32Array; float64: Float64Array; float16: Uint16Array; int8: Int8Array; uint8: Uint8Array; int16: Int16Array;
      uint16: Uint16Array; int32: Int32Array; uint32: Uint32Array; int64: BigInt64Array; uint64: BigUint64Array; bool: Uint8Array;
    }, {}>>>,
    Expect<Equal<TypesOf<typeof wideName>, AnyModels<string, number>>>,
    Expect<Equal<TypesOf<typeof mixed>['resnet'], ResnetTypes>>,
    Expect<Equal<TypesOf<typeof mixed>['another'], Tensors<unknown, unknown>>>,
    Expect<Equal<TypesOf<typeof made>, AnyModels<string, number>>>,
    Expect<Equal<TypesOf<typeof spread>['resnet'], ResnetTypes>>,
    Expect<Equal<TypesOf<typeof spread>['another'], Tensors<string, number>>>,
    Expect<Equal<TypesOf<typeof explicit>, AnyModels<number, string>>>,
    Expect<Equal<typeof explicit, Scheduler<number, string>>>,
    Expect<Equal<TypesOf<typeof contextual>, { m: Tensors<unknown, unknown> }>>,
    Expect<Equal<typeof unknownNames, Scheduler>>,
    // The map of a scheduler that is not made here, and the two ways to name a scheduler's type.
    Expect<Equal<SchedulerTypesOf<typeof options>, TypesOf<typeof variable>>>,
    Expect<Equal<SchedulerTypesOf<{ models: readonly [typeof resnet]; devices: typeof emulated }>, { resnet: ResnetTypes }>>,
    Expect<Equal<SchedulerTypesOf<{ models: readonly [{ name: 'm' }]; devices: typeof emulated }>, { m: Tensors<unknown, unknown> }>>,
    Expect<Equal<SchedulerTypesOf<{ models: readonly [{ name: 'm' }]; devices: readonly [...typeof emulated, ...typeof callback] }>, { m: Tensors<string, number> }>>,
    Expect<Equal<SchedulerTypesOf<SchedulerOptions<string, number>>, AnyModels<string, number>>>,
    Expect<Equal<Scheduler<TypesOf<typeof variable>>, typeof variable>>,
    Expect<Equal<Scheduler<number>, Scheduler<number, unknown>>>,
    Expect<Equal<TypesOf<Scheduler>, AnyModels>>,
    Expect<Equal<TypesOf<number>, never>>,
  ];
  return [schedulers, true satisfies Cases[0]];
}

/** Never called: wrong options, each refused where it is wrong. */
export const refuses = [
  // @ts-expect-error a dtype that does not exist
  () => createScheduler({ models: [{ name: 'm', ...timing, inputs: { x: { dtype: 'float31', shape: [1] } } }], devices: emulated }),
  // @ts-expect-error a tensor without its shape
  () => createScheduler({ models: [{ name: 'm', ...timing, inputs: { x: { dtype: 'float32' } } }], devices: emulated }),
  // @ts-expect-error a shape that is no list
  () => createScheduler({ models: [{ name: 'm', ...timing, outputs: { x: { dtype: 'float32', shape: 5 } } }], devices: emulated }),
  // @ts-expect-error a model without an SLO
  () => createScheduler({ models: [{ name: 'm', profile: [1] }], devices: emulated }),
  // @ts-expect-error a name that is a number
  () => createScheduler({ models: [{ ...timing, name: 7 }], devices: emulated }),
  // @ts-expect-error an option that models do not have
  () => createScheduler({ models: [{ name: 'm', ...timing, priority: 1 }], devices: emulated }),
  // @ts-expect-error an option that schedulers do not have
  () => createScheduler({ models: [{ name: 'm', ...timing }], devices: emulated, maxInflight: 64 }),
  // @ts-expect-error a kind of device that does not exist
  () => createScheduler({ models: [{ name: 'm', ...timing }], devices: [{ kind: 'emulted' }] }),
  // @ts-expect-error `value` itself, where its result belongs
  () => createScheduler({ models: [{ name: 'm', ...timing, value }], devices: emulated }),
  // @ts-expect-error values said to be numbers, and a device that takes strings
  () => createScheduler<number, number>({ models: [{ name: 'm', ...timing }], devices: callback }),
];
