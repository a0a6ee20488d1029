/** The compiler's answers to a user's program: that it finds the fault, and that its words name the thing. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { before, describe, test } from 'node:test';
import ts from 'typescript';
import { isValueTypes, value } from '#rubato/scheduler/types.js';

/** Where the snippets seem to lie: within the package, so that they find it by its name. */
const FOLDER = fileURLToPath(new URL('../../../test/types', import.meta.url));
const LIBRARY = 'rubato';

const PROGRAM = `
import { createScheduler, openClient, value, type Batch, type Client, type Scheduler, type SchedulerTypesOf, type TypesOf } from '${LIBRARY}';
import { workerData } from 'node:worker_threads';

const timing = { slo: '25ms', profile: { alpha: '1ms', beta: '5ms', maxBatch: 8 } };
const execute = async (batch: Batch<string>) => batch.inputs.map((text) => text.length);
const options = {
  models: [
    { name: 'resnet', ...timing, inputs: { image: { dtype: 'float32', shape: [3, 224, 224] } }, outputs: { scores: { dtype: 'float32', shape: [1000] } } },
    { name: 'bert', ...timing, inputs: { ids: { dtype: 'int64', shape: [128] }, mask: { dtype: 'bool', shape: [128] } }, outputs: { embedding: { dtype: 'float32', shape: [768] } } },
    { name: 'lengths', ...timing },
    { name: 'tokenize', ...timing, value: value<string, number[]>() },
  ],
  devices: [{ kind: 'callback', execute }],
} as const;
const scheduler = await createScheduler(options);
const image = new Float32Array(3 * 224 * 224);
const ids = new BigInt64Array(128);
`;

const RIGHT = `
const { scores } = await scheduler.submit('resnet', { image });
const best: number = scores.indexOf(Math.max(...scores));
const length: number = await scheduler.submit('lengths', 'a text');
const tokens: number[] = await scheduler.submit('tokenize', 'a text');
const worker: Client<TypesOf<typeof scheduler>> = openClient<SchedulerTypesOf<typeof options>>(workerData.ticket);
const results = await worker.submitMany('lengths', ['a', 'text']);
const wider = await scheduler.addModel({ name: 'late', ...timing, outputs: { x: { dtype: 'uint64', shape: [1] } } });
const late: bigint | undefined = (await wider.submit('late', 5)).x[0];
const anyScheduler: Scheduler = scheduler;
const numbers: Scheduler<number, number> = await createScheduler<number, number>({ models: [{ name: 'm', ...timing }], devices: [{ kind: 'callback', execute: (batch) => batch.inputs }] });
export default [best, length, tokens, results, late, anyScheduler, numbers];
`;

/** What is wrong, the program's last line, and what the compiler must say about it. */
const WRONG: readonly (readonly [what: string, line: string, says: RegExp])[] = [
  ['a misspelled model, with those that there are', `await scheduler.submit('resnot', { image });`, /'"resnot"' is not assignable to parameter of type '"resnet" \| "bert" \| "lengths" \| "tokenize"'/],
  ['a missing tensor', `await scheduler.submit('bert', { ids });`, /Property 'mask' is missing in type .* but required in type '\{ ids: BigInt64Array<ArrayBufferLike>; mask: Uint8Array<ArrayBufferLike>; \}'/],
  ['an array of another dtype', `await scheduler.submit('resnet', { image: new Float64Array(3) });`, /'Float64Array<ArrayBuffer>' is not assignable to type 'Float32Array<ArrayBufferLike>'/],
  ['a tensor that the model does not have', `await scheduler.submit('resnet', { image, mask: image });`, /'mask' does not exist in type '\{ image: Float32Array<ArrayBufferLike>; \}'/],
  ['a value where tensors are wanted', `await scheduler.submit('resnet', 'cat.jpg');`, /'string' is not assignable to parameter of type '\{ image: Float32Array<ArrayBufferLike>; \}'/],
  ['tensors where a value is wanted', `await scheduler.submit('lengths', { image });`, /'\{ image: Float32Array<ArrayBuffer>; \}' is not assignable to parameter of type 'string'/],
  ['a misspelled output', `(await scheduler.submit('resnet', { image })).score;`, /'score' does not exist on type '\{ scores: Float32Array<ArrayBufferLike>; \}'. Did you mean 'scores'\?/],
  ['an output of another type', `const tokens: string[] = await scheduler.submit('tokenize', 'a text'); export default tokens;`, /'number\[\]' is not assignable to type 'string\[\]'/],
  ['a misspelled dtype', `await createScheduler({ models: [{ name: 'm', ...timing, inputs: { x: { dtype: 'float31', shape: [1] } } }], devices: options.devices });`, /'"float31"' is not assignable to type .*"float32"/s],
  ['a misspelled option of a model', `await createScheduler({ models: [{ name: 'm', ...timing, maxbatch: 5 }], devices: options.devices });`, /UnknownOption<"maxbatch">/],
  ['a misspelled option of the scheduler', `await createScheduler({ ...options, maxInflight: 64 });`, /'maxInflight' does not exist .* Did you mean to write 'maxInFlight'\?/s],
  ['a model that a ticket does not have', `openClient(scheduler.ticket()).credit('late');`, /'"late"' is not assignable to parameter of type '"resnet" \| /],
  ['a scheduler of unknown models where certain ones are wanted', `const client: Client<TypesOf<typeof scheduler>> = await createScheduler<string, number>({ models: [{ name: 'm', ...timing }], devices: options.devices }); export default client;`, /missing the following properties from type .*: resnet, bert, lengths, tokenize/s],
];

/** One program of all snippets: the standard library and the package are read once. */
function compile(snippets: ReadonlyMap<string, string>): ts.Program {
  const options: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    moduleDetection: ts.ModuleDetectionKind.Force,
    types: ['node'],
    typeRoots: [join(FOLDER, '../../node_modules/@types')],
    strict: true,
    noEmit: true,
  };
  const host = ts.createCompilerHost(options);
  const { fileExists, getSourceFile, readFile } = host;
  host.fileExists = (path) => snippets.has(path) || fileExists(path);
  host.readFile = (path) => snippets.get(path) ?? readFile(path);
  host.getSourceFile = (path, ...rest) => {
    const text = snippets.get(path);
    return text === undefined ? getSourceFile(path, ...rest) : ts.createSourceFile(path, text, rest[0], true);
  };
  return ts.createProgram([...snippets.keys()], options, host);
}

describe('a program of a user', () => {
  const pathOf = (name: string): string => join(FOLDER, `snippet-${name}.ts`).replaceAll('\\', '/');
  const snippets = new Map([[pathOf('right'), PROGRAM + RIGHT], ...WRONG.map(([, line], i) => [pathOf(`${i}`), PROGRAM + line] as const)]);
  let program: ts.Program;
  before(() => (program = compile(snippets)));

  const errorsIn = (path: string): string[] => {
    const file = program.getSourceFile(path);
    assert.ok(file, `${path} is no part of the program`);
    return [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)].map(({ messageText, start = 0 }) => {
      const { line } = file.getLineAndCharacterOfPosition(start);
      return `line ${line + 1}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
    });
  };

  test('compiles when it is right', () => {
    assert.deepEqual(errorsIn(pathOf('right')), []);
  });

  test('meets no error in the declarations of the package', () => {
    const ours = program.getSourceFiles().map(({ fileName }) => fileName).filter((path) => /\/dist\/.*\.d\.ts$/.test(path) && !path.includes('node_modules'));
    assert.ok(ours.some((path) => path.endsWith('/dist/scheduler/types.d.ts')));
    for (const path of ours) assert.deepEqual(errorsIn(path), [], path);
  });

  WRONG.forEach(([what, line, says], i) => {
    test(`is told of ${what}`, () => {
      const errors = errorsIn(pathOf(`${i}`));
      assert.equal(errors.length, 1, errors.join('\n') || `no error in: ${line}`);
      assert.match(errors[0]!, says);
      assert.ok(errors[0]!.startsWith(`line ${PROGRAM.split('\n').length}: `), errors[0]);
    });
  });
});

describe('value()', () => {
  test('is one frozen empty object, and nothing else is taken for it', () => {
    assert.equal(value<string, number>(), value());
    assert.deepEqual({ ...value() }, {});
    assert.ok(Object.isFrozen(value()));
    assert.deepEqual([value(), {}, value, null, undefined, 5].map(isValueTypes), [true, false, false, false, false, false]);
  });
});
