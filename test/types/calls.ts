/** Calls on a scheduler whose models the compiler knows. Nothing here runs: the compiler is the test. */
import type { Equal, Expect } from './expect.js';
import { bert, lengths, resnet, timing } from './options.js';
import { type AnyModels, type Client, createScheduler, type Lease, openClient, type Scheduler, type SchedulerTypes, type SchedulerTypesOf, type Ticket, type TicketClient, type TypesOf } from '#rubato/index.js';

const options = { models: [resnet, bert, { name: 'lengths', ...timing }], devices: [{ kind: 'callback', execute: lengths }] } as const;
const start = () => createScheduler(options);
type Types = SchedulerTypesOf<typeof options>;
type Scores = { scores: Float32Array };

const image = new Float32Array(3);
const ids = new BigInt64Array(128);
const mask = new Uint8Array(128);

/** Never called. */
export async function accepts(scheduler: Scheduler<Types>, general: Scheduler, workerData: { ticket: Ticket<Types>; unknown: Ticket }): Promise<unknown[]> {
  const output = await scheduler.submit('resnet', { image });
  const text = await scheduler.submit('lengths', 'a text', { slo: '1s' });
  const detailed = await scheduler.submitDetailed('bert', { ids, mask });
  const tried = scheduler.trySubmit('resnet', { image });
  const many = await scheduler.submitMany('resnet', [{ image }, { image }]);
  const lease = scheduler.reserve('bert');
  lease.inputs.ids.set(ids);
  const embedding = await lease.submit();
  scheduler.credit('lengths');
  await scheduler.updateModel('bert', { slo: '50ms' });
  await scheduler.removeModel('resnet');

  const ticket = scheduler.ticket();
  const client = openClient(workerData.ticket);
  const named = openClient<Types>(JSON.parse('{}'));
  const unnamed = openClient(JSON.parse('{}'));
  const far = await client.submit('resnet', { image });

  const wider = await scheduler.addModel({ name: 'late', ...timing, inputs: { x: { dtype: 'int8', shape: [1] } }, outputs: { y: { dtype: 'uint8', shape: [1] } } });
  const late = await wider.submit('late', { x: new Int8Array(1) });
  const replaced = await scheduler.addModel({ ...bert, name: 'resnet' });
  const unknownName = await scheduler.addModel({ ...timing, name: 'late' as string });
  await unknownName.submit('whatever', 1);
  const generalWider = await general.addModel(resnet);

  const anything = await general.submit('whatever', { of: 'any type' });
  general.credit('whatever');

  // Where no names are wanted, any scheduler will do; where some are, one with more will.
  const asGeneral: Scheduler = scheduler;
  const asClient: Client = scheduler;
  const asFewer: Client<Pick<Types, 'resnet'>> = scheduler;
  const started = await start();

  type Cases = [
    Expect<Equal<typeof output, Scores>>,
    Expect<Equal<typeof text, number>>,
    Expect<Equal<typeof detailed.output, { embedding: Uint16Array }>>,
    Expect<Equal<Extract<typeof tried, { accepted: true }>['result'], Promise<Scores>>>,
    Expect<Equal<typeof many, PromiseSettledResult<Scores>[]>>,
    Expect<Equal<typeof lease, Lease<Types['bert']>>>,
    Expect<Equal<typeof lease.inputs, { ids: BigInt64Array; mask: Uint8Array }>>,
    Expect<Equal<typeof embedding, { embedding: Uint16Array }>>,
    Expect<Equal<typeof ticket, Ticket<Types>>>,
    Expect<Equal<TypesOf<typeof ticket>, Types>>,
    Expect<Equal<typeof client, TicketClient<Types>>>,
    Expect<Equal<typeof named, TicketClient<Types>>>,
    Expect<Equal<TypesOf<typeof unnamed>, AnyModels>>,
    Expect<Equal<typeof far, Scores>>,
    Expect<Equal<keyof TypesOf<typeof wider>, 'resnet' | 'bert' | 'lengths' | 'late'>>,
    Expect<Equal<TypesOf<typeof wider>['bert'], Types['bert']>>,
    Expect<Equal<typeof late, { y: Uint8Array }>>,
    Expect<Equal<TypesOf<typeof replaced>['resnet'], Types['bert']>>,
    Expect<Equal<TypesOf<typeof unknownName>['resnet'], Types['resnet']>>,
    Expect<Equal<TypesOf<typeof generalWider>['resnet'], Types['resnet']>>,
    Expect<Equal<TypesOf<typeof generalWider>['other'], { input: unknown; output: unknown }>>,
    Expect<Equal<typeof anything, unknown>>,
    Expect<Equal<typeof started, typeof scheduler>>,
  ];
  return [
    output, text, detailed, tried, many, embedding, ticket, named, unnamed, far, late, replaced, generalWider, anything, started,
    asGeneral, asClient, asFewer, true satisfies Cases[0],
  ];
}

/** Never called: a function over any client, of known models or not. */
export function submitTwice<T extends SchedulerTypes, N extends keyof T & string>(client: Client<T>, model: N, input: T[N]['input']): Promise<T[N]['output']>[] {
  return [client.submit(model, input), client.submit(model, input)];
}

/** Never called. */
export function refuses(scheduler: Scheduler<Types>, general: Scheduler, fewer: Scheduler<Pick<Types, 'resnet'>>): unknown[] {
  return [
    // @ts-expect-error a misspelled model
    () => scheduler.submit('resnot', { image }),
    // @ts-expect-error a tensor is missing
    () => scheduler.submit('bert', { ids }),
    // @ts-expect-error an array of another dtype
    () => scheduler.submit('resnet', { image: new Float64Array(3) }),
    // @ts-expect-error an ordinary array
    () => scheduler.submit('resnet', { image: [1, 2, 3] }),
    // @ts-expect-error a tensor that the model does not have
    () => scheduler.submit('resnet', { image, mask }),
    // @ts-expect-error a value where tensors are wanted
    () => scheduler.submit('resnet', 'cat.jpg'),
    // @ts-expect-error tensors where a string is wanted
    () => scheduler.submit('lengths', { image }),
    // @ts-expect-error no input
    () => scheduler.submit('lengths'),
    // @ts-expect-error an option that does not exist
    () => scheduler.submit('lengths', 'a text', { slow: '1s' }),
    // @ts-expect-error an output that the model does not have
    async () => (await scheduler.submit('resnet', { image })).embedding,
    // @ts-expect-error the output is a number
    async () => (await scheduler.submitDetailed('lengths', 'a text')).output.length,
    // @ts-expect-error one input where many are wanted
    () => scheduler.submitMany('resnet', { image }),
    // @ts-expect-error one of the inputs is wrong
    () => scheduler.submitMany('lengths', ['a text', 5]),
    // @ts-expect-error trySubmit knows the names as well
    () => scheduler.trySubmit('resnot', { image }),
    // @ts-expect-error a misspelled tensor of a lease
    () => scheduler.reserve('resnet').inputs.img,
    // @ts-expect-error a misspelled model
    () => scheduler.reserve('resnot'),
    // @ts-expect-error a misspelled model
    () => scheduler.credit('resnot'),
    // @ts-expect-error a misspelled model
    () => scheduler.removeModel('resnot'),
    // @ts-expect-error a misspelled model
    () => scheduler.updateModel('resnot', { slo: 5 }),
    // @ts-expect-error a model's tensors stay
    () => scheduler.updateModel('resnet', { inputs: {} }),
    // @ts-expect-error a dtype that does not exist
    () => scheduler.addModel({ ...timing, name: 'late', inputs: { x: { dtype: 'int7', shape: [1] } } }),
    // @ts-expect-error an option that models do not have
    () => scheduler.addModel({ ...timing, name: 'late', priority: 1 }),
    // @ts-expect-error the scheduler's old type does not know the new model
    () => scheduler.addModel({ ...timing, name: 'late' }).then(() => scheduler.credit('late')),
    // @ts-expect-error a ticket of a scheduler without these models
    () => openClient<Types>(fewer.ticket()),
    // @ts-expect-error a model that the ticket's scheduler does not have
    () => openClient(fewer.ticket()).credit('bert'),
    // @ts-expect-error a scheduler of unknown models, where a certain one is wanted
    (): Client<Types> => general,
  ];
}
