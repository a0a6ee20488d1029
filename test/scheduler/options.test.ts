import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createScheduler, InfeasibleError, InvalidOptionError, LatencyProfile, RubatoError, type SchedulerOptions, UnknownModelError } from '#rubato/index.js';
import { resolveOptions } from '#rubato/scheduler/options.js';

const MODEL = { name: 'm', slo: '25ms', profile: { alpha: '1ms', beta: '5ms', maxBatch: 8 } };
const EMULATED = { kind: 'emulated' };

const model = (changes: object): object => ({ models: [{ ...MODEL, ...changes }], devices: [EMULATED] });
const device = (changes: object | null): object => ({ models: [MODEL], devices: [changes] });
const option = (changes: object): object => ({ models: [MODEL], devices: [EMULATED], ...changes });

/** What is wrong, the options, the path of the error, and what its message must say after it. */
type Case = readonly [what: string, options: unknown, path: string, problem: RegExp];

const WHOLE: Case[] = [
  ['no options at all', undefined, 'options', /^is missing, must be an object$/],
  ['null', null, 'options', /^got null, must be an object$/],
  ['a number', 5, 'options', /^got 5, must be an object$/],
  ['no models', { devices: [EMULATED] }, 'models', /^is missing, must be an array$/],
  ['an empty list of models', { models: [], devices: [EMULATED] }, 'models', /^is empty, must have at least 1$/],
  ['a model without a list', { models: MODEL, devices: [EMULATED] }, 'models', /^got an object, must be an array$/],
  ['an option that does not exist', option({ maxInflight: 5 }), 'maxInflight', /^unknown option, allowed are models, devices, maxInFlight, maxClients, .*, waiting, margins, record, advice, cudaGrace, cudaLoadLimit, onDeviceLost$/],
  ['too few requests in flight', option({ maxInFlight: 0 }), 'maxInFlight', /^got 0, must be at least 32$/],
  ['too many requests in flight', option({ maxInFlight: 1e9 }), 'maxInFlight', /^got 1000000000, must be at most 4194304$/],
  ['a recording without a name', option({ record: '' }), 'record', /^got "", must be the name of a file, or \{ file, maxBytes \}$/],
  ['a recording that is a number', option({ record: 5 }), 'record', /^got 5, must be the name of a file/],
  ['a recording without a file', option({ record: { maxBytes: 5 } }), 'record.file', /^is missing, must be a string$/],
  ['a recording of no bytes', option({ record: { file: 'a', maxBytes: 0 } }), 'record.maxBytes', /^got 0, must be at least 1$/],
  ['a misspelled limit of a recording', option({ record: { file: 'a', maxbytes: 5 } }), 'record.maxbytes', /^unknown option, allowed are file, maxBytes$/],
  ['NaN requests in flight', option({ maxInFlight: NaN }), 'maxInFlight', /^got NaN, must be a finite number$/],
  ['a negative number of clients', option({ maxClients: -1 }), 'maxClients', /^got -1, must be at least 0$/],
  ['too many clients', option({ maxClients: 65 }), 'maxClients', /^got 65, must be at most 64$/],
  ['half a client', option({ maxClients: 0.5 }), 'maxClients', /^got 0\.5, must be an integer$/],
  ['an unknown waiting strategy', option({ waiting: 'sleep' }), 'waiting', /^got "sleep", must be one of 'balanced', 'spin', 'park'$/],
  ['margins that are no object', option({ margins: 5 }), 'margins', /^got 5, must be an object$/],
  ['an unknown margin', option({ margins: { delay: 1 } }), 'margins.delay', /^unknown option, allowed are control, transfer, response, jitter$/],
  ['a negative margin', option({ margins: { control: -1 } }), 'margins.control', /^got -1, must be a duration >= 0 such as "25ms"/],
  ['an unknown word of the advice', option({ advice: { period: 1 } }), 'advice.period', /^unknown option, allowed are epoch, hysteresis$/],
  ['an epoch that is too short', option({ advice: { epoch: '99ms' } }), 'advice.epoch', /^got "99ms", must be from 100 ms to 1 h$/],
  ['an epoch that is no duration', option({ advice: { epoch: 'often' } }), 'advice.epoch', /^got "often", must be a duration/],
  ['a hysteresis of no epoch', option({ advice: { hysteresis: 0 } }), 'advice.hysteresis', /^got 0, must be/],
  ['a margin that is no duration', option({ margins: { jitter: 'some' } }), 'margins.jitter', /^got "some", must be a duration >= 0/],
  ['a margin of NaN', option({ margins: { response: NaN } }), 'margins.response', /^got NaN, must be a duration/],
  ['a margin of the wrong type', option({ margins: { transfer: true } }), 'margins.transfer', /^got true, must be a duration/],
];

const MODELS: Case[] = [
  ['no name', model({ name: undefined }), 'models[0].name', /^is missing, must be a string$/],
  ['an empty name', model({ name: '' }), 'models[0].name', /^got "", must not be empty$/],
  ['a name that is a number', model({ name: 7 }), 'models[0].name', /^got 7, must be a string$/],
  ['a name that another model has', { models: [MODEL, { ...MODEL, name: 'n' }, MODEL], devices: [EMULATED] }, 'models[2].name', /^got 'm', which is the name of models\[0\] already$/],
  ['an option that does not exist', model({ priority: 1 }), 'models[0].priority', /^unknown option, allowed are name, slo, profile, .*maxQueue, .*/],
  ['no SLO', model({ slo: undefined }), 'models[0].slo', /^got undefined, must be a duration/],
  ['an SLO of 0', model({ slo: 0 }), 'models[0].slo', /^got 0, must be a duration > 0/],
  ['a negative SLO', model({ slo: -5 }), 'models[0].slo', /^got -5, must be a duration > 0/],
  ['a negative SLO with a unit', model({ slo: '-5ms' }), 'models[0].slo', /^got "-5ms", must be a duration > 0/],
  ['an SLO of NaN', model({ slo: NaN }), 'models[0].slo', /^got NaN, must be a duration/],
  ['an infinite SLO', model({ slo: Infinity }), 'models[0].slo', /^got Infinity, must be a duration/],
  ['an SLO without a unit', model({ slo: '25' }), 'models[0].slo', /^got "25", must be a duration > 0 such as "25ms"/],
  ['an SLO shorter than a batch of one', model({ slo: '5.999ms' }), 'models[0].slo', /^got 5\.999 ms, model 'm' takes 6 ms for a single request; it must be at least that$/],
  ['a largest batch of 0', model({ maxBatch: 0 }), 'models[0].maxBatch', /^got 0, must be at least 1$/],
  ['half a request', model({ maxBatch: 1.5 }), 'models[0].maxBatch', /^got 1\.5, must be an integer$/],
  ['a largest batch beyond the profile', model({ maxBatch: 9 }), 'models[0].maxBatch', /^got 9, the profile ends at 8$/],
  ['an unknown drop policy', model({ dropPolicy: 'all' }), 'models[0].dropPolicy', /^got "all", must be one of 'window', 'timeout', 'never', 'adaptive'$/],
  ['an unknown condition', model({ condition: 'soon' }), 'models[0].condition', /^got "soon", must be one of 'frontrun', /],
  ['an unknown onLate', model({ onLate: 'drop' }), 'models[0].onLate', /^got "drop", must be one of 'deliver', 'reject'$/],
  ['a queue for nobody', model({ maxQueue: 0 }), 'models[0].maxQueue', /^got 0, must be at least 1$/],
];

const PROFILES: Case[] = [
  ['none', model({ profile: undefined }), 'models[0].profile', /^got undefined, must be a table of durations .* or \{ alpha, beta, maxBatch \}$/],
  ['a number', model({ profile: 5 }), 'models[0].profile', /^got 5, must be a table/],
  ['an empty table', model({ profile: [] }), 'models[0].profile', /^got a table of 0 latencies, must be 1 to 8191 of them$/],
  ['a table with a hole', model({ profile: [1, , 3] }), 'models[0].profile[1]', /^got undefined, must be a duration > 0/],
  ['a table that falls', model({ profile: ['5ms', '8ms', '4ms'] }), 'models[0].profile', /^falls from l\(2\) = 8 ms to l\(3\) = 4 ms, must not fall by more than 5 %/],
  ['a table with NaN', model({ profile: [1, NaN] }), 'models[0].profile[1]', /^got NaN, must be a duration > 0/],
  ['a table with 0', model({ profile: [0, 1] }), 'models[0].profile[0]', /^got 0, must be a duration > 0/],
  ['a table with a word', model({ profile: ['1ms', 'slow'] }), 'models[0].profile[1]', /^got "slow", must be a duration > 0/],
  ['a line without alpha', model({ profile: { beta: 1, maxBatch: 4 } }), 'models[0].profile.alpha', /^got undefined, must be a duration >= 0/],
  ['a line with a negative alpha', model({ profile: { alpha: -1, beta: 9, maxBatch: 4 } }), 'models[0].profile.alpha', /^got -1, must be a duration >= 0/],
  ['a line with a beta of NaN', model({ profile: { alpha: 1, beta: NaN, maxBatch: 4 } }), 'models[0].profile.beta', /^got NaN, must be a duration >= 0/],
  ['a line without maxBatch', model({ profile: { alpha: 1, beta: 1 } }), 'models[0].profile.maxBatch', /^got undefined, must be an integer from 1 to 8191$/],
  ['a line that is too long', model({ profile: { alpha: 1, beta: 1, maxBatch: 9000 } }), 'models[0].profile.maxBatch', /^got 9000, must be an integer from 1 to 8191$/],
  ['a line that takes no time', model({ profile: { alpha: 0, beta: 0, maxBatch: 4 } }), 'models[0].profile', /^got alpha \+ beta = 0 ns for a batch of 1, must be >= 1 ns$/],
  ['a line with another term', model({ profile: { alpha: 1, beta: 1, gamma: 1, maxBatch: 4 } }), 'models[0].profile.gamma', /^unknown field, allowed are alpha, beta, maxBatch$/],
];

const DEVICES: Case[] = [
  ['none', { models: [MODEL], devices: [] }, 'devices', /^is empty, must have at least 1$/],
  ['null', device(null), 'devices[0]', /^got null, must be an object$/],
  ['no kind', device({ count: 2 }), 'devices[0].kind', /^got undefined, must be 'emulated', 'callback' or 'cuda'$/],
  ['an unknown kind', device({ kind: 'tpu' }), 'devices[0].kind', /^got "tpu", must be 'emulated', 'callback' or 'cuda'$/],
  ['a kind that is a number', device({ kind: 3 }), 'devices[0].kind', /^got 3, must be 'emulated', 'callback' or 'cuda'$/],
  ['a callback without a function', device({ kind: 'callback' }), 'devices[0].execute', /^got undefined, must be a function$/],
  ['a callback that is no function', device({ kind: 'callback', execute: 'run' }), 'devices[0].execute', /^got "run", must be a function$/],
  ['an emulated one with a function', device({ ...EMULATED, execute: () => [] }), 'devices[0].execute', /^unknown option, allowed are kind, count, slowdown, jitter, failureRate, seed$/],
  ['zero of them', device({ ...EMULATED, count: 0 }), 'devices[0].count', /^got 0, must be at least 1$/],
  ['NaN of them', device({ ...EMULATED, count: NaN }), 'devices[0].count', /^got NaN, must be a finite number$/],
  ['one and a half', device({ ...EMULATED, count: 1.5 }), 'devices[0].count', /^got 1\.5, must be an integer$/],
  ['too many in one entry', device({ ...EMULATED, count: 16385 }), 'devices[0].count', /^got 16385, must be at most 16384$/],
  ['too many in all', { models: [MODEL], devices: [{ ...EMULATED, count: 16384 }, EMULATED] }, 'devices', /^got 16385 GPUs in all, at most 16384 are possible$/],
  ['a slowdown of 0', device({ ...EMULATED, slowdown: 0 }), 'devices[0].slowdown', /^got 0, must be greater than 0$/],
  ['negative jitter', device({ ...EMULATED, jitter: -0.1 }), 'devices[0].jitter', /^got -0\.1, must be at least 0$/],
  ['a failure rate above 1', device({ ...EMULATED, failureRate: 1.5 }), 'devices[0].failureRate', /^got 1\.5, must be at most 1$/],
  ['a failure rate of NaN', device({ ...EMULATED, failureRate: NaN }), 'devices[0].failureRate', /^got NaN, must be a finite number$/],
  ['half a seed', device({ ...EMULATED, seed: 0.5 }), 'devices[0].seed', /^got 0\.5, must be an integer$/],
];

/** A class, a code, a path, and one line that begins with the path. */
function checkRefusal(error: unknown, path: string, problem: RegExp): true {
  assert.ok(error instanceof InvalidOptionError && error instanceof RubatoError);
  assert.equal(error.name, 'InvalidOptionError');
  assert.equal(error.code, 'ERR_RUBATO_INVALID_OPTION');
  assert.equal(error.path, path);
  assert.ok(error.message.startsWith(`${path}: `), error.message);
  assert.match(error.message.slice(path.length + 2), problem);
  assert.doesNotMatch(error.message, /\n/);
  return true;
}

for (const [part, cases] of Object.entries({ options: WHOLE, models: MODELS, profiles: PROFILES, devices: DEVICES })) {
  describe(`among ${part}, createScheduler refuses`, () => {
    for (const [what, options, path, problem] of cases) {
      test(what, async () => {
        await assert.rejects(createScheduler(options as SchedulerOptions), (error) => checkRefusal(error, path, problem));
      });
    }
  });
}

describe('options that are right', () => {
  test('get their defaults', () => {
    const { config, topology, models, executes, arenaBytes } = resolveOptions({ models: [MODEL], devices: [EMULATED] }, 2);
    assert.deepEqual([topology.kind, topology.shards, topology.threads, topology.waiting], ['single', 1, 1, 'balanced']);
    assert.deepEqual(models.map(({ rejectLate, layout }) => [rejectLate, layout]), [[false, null]]);
    assert.equal(arenaBytes, 0, 'no memory for tensors where no model has any');
    assert.deepEqual(executes, [null]);
    assert.equal(2 ** config.slotShift, 65_536);
    assert.deepEqual([config.maxClients, config.maxModels, config.maxGpus, config.maxBatch], [17, 64, 64, 8]);
    assert.deepEqual({ ...config.models[0] }, { name: 'm', sloNs: 25e6, profile: 0, maxBatch: 8, dropPolicy: 3, condition: 5, maxQueue: 65_536 });
    assert.ok(config.margins.measureControl && config.margins.measureResponse && config.margins.measureJitter);
  });

  test('take a duration as text or as milliseconds, and a profile as a line, a table or an object', () => {
    const table = [6, '7ms', '8000us', 9, 10, 11, 12, 13];
    const object = LatencyProfile.parse(MODEL.profile, 'profile');
    const models = [MODEL, { ...MODEL, name: 'table', slo: 25, profile: table }, { ...MODEL, name: 'object', slo: '0.025s', profile: object }];
    const { config } = resolveOptions({ models, devices: [EMULATED] });
    assert.deepEqual(config.models.map(({ sloNs, profile }) => [sloNs, profile]), [[25e6, 0], [25e6, 0], [25e6, 0]], 'equal profiles are one');
    assert.deepEqual(Array.from(config.profiles[0]!), [0, 6e6, 7e6, 8e6, 9e6, 10e6, 11e6, 12e6, 13e6, Infinity]);
  });

  test('round maxInFlight up to a power of two, and give maxBatch its own end of the profile', () => {
    const { config } = resolveOptions({ ...option({ maxInFlight: 33 }), models: [{ ...MODEL, maxBatch: 3 }] });
    assert.equal(config.slotShift, 6);
    assert.equal(config.models[0]!.maxBatch, 3);
    assert.deepEqual(Array.from(config.profiles[0]!), [0, 6e6, 7e6, 8e6, Infinity]);
  });

  test('number the GPUs in the order of the devices', () => {
    const execute = async (): Promise<never[]> => [];
    const { executes, config } = resolveOptions({ models: [MODEL], devices: [{ ...EMULATED, count: 2 }, { kind: 'callback', execute, count: 2 }, EMULATED] });
    assert.deepEqual(executes, [null, null, execute, execute, null]);
    assert.deepEqual(config.gpus.map(({ host }) => host), [0, 0, 1, 1, 0]);
  });

  test('say how often the GPUs that are wanted are counted', () => {
    assert.deepEqual(resolveOptions(option({})).config.advice, { epochNs: 1e9, hysteresis: 3 });
    assert.deepEqual(resolveOptions(option({ advice: { epoch: '500ms', hysteresis: 5 } })).config.advice, { epochNs: 5e8, hysteresis: 5 });
  });

  test('leave a margin that is given as it is', () => {
    const { margins } = resolveOptions(option({ margins: { control: '3ms', jitter: 0 } })).config;
    assert.deepEqual([margins.controlNs, margins.jitterNs, margins.measureControl, margins.measureResponse, margins.measureJitter], [3e6, 0, false, true, false]);
  });
});

describe('submit refuses', () => {
  const start = (): ReturnType<typeof createScheduler> => createScheduler({ models: [{ ...MODEL, slo: '500ms' }], devices: [{ kind: 'emulated' }], maxInFlight: 32 });

  test('a model that does not exist, and names those that do', async () => {
    await using scheduler = await start();
    const check = (error: unknown): true => {
      assert.ok(error instanceof UnknownModelError);
      assert.equal(error.code, 'ERR_RUBATO_UNKNOWN_MODEL');
      assert.equal(error.model, 'resnet');
      assert.equal(error.message, `no model 'resnet'; there are: m`);
      return true;
    };
    await assert.rejects(scheduler.submit('resnet', 1), check);
    await assert.rejects(scheduler.submitDetailed('resnet', 1), check);
    await assert.rejects(scheduler.submitMany('resnet', [1]), check);
    assert.throws(() => scheduler.trySubmit('resnet', 1), check);
    assert.equal(scheduler.stats().refused, 0, 'what names no model counts for none');
  });

  test('an SLO that is no positive duration', async () => {
    await using scheduler = await start();
    for (const [slo, shown] of [[0, '0'], [-1, '-1'], [NaN, 'NaN'], [Infinity, 'Infinity'], ['soon', '"soon"'], [null, 'null']] as const) {
      await assert.rejects(scheduler.submit('m', 1, { slo: slo as number }), (error) => checkRefusal(error, 'slo', new RegExp(`^got ${shown}, must be a duration > 0`)));
    }
  });

  test('an SLO shorter than a batch of one, at once', async () => {
    await using scheduler = await start();
    await assert.rejects(scheduler.submit('m', 1, { slo: '5ms' }), (error) => {
      assert.ok(error instanceof InfeasibleError);
      assert.equal(error.code, 'ERR_RUBATO_INFEASIBLE');
      assert.equal(error.model, 'm');
      assert.equal(error.sloMs, 5);
      assert.match(error.message, /^model 'm': an SLO of 5 ms cannot be met, a batch of one takes 6 ms .* give it a longer SLO$/);
      return true;
    });
    const tried = scheduler.trySubmit('m', 1, { slo: 5 });
    assert.ok(!tried.accepted && tried.reason instanceof InfeasibleError);
    const [settled] = await scheduler.submitMany('m', [1], { slo: 5 });
    assert.ok(settled?.status === 'rejected' && settled.reason instanceof InfeasibleError);
    assert.equal(scheduler.stats().refused, 3);
    assert.equal(scheduler.stats().accepted, 0);
  });

  test('a signal that is none', async () => {
    await using scheduler = await start();
    await assert.rejects(scheduler.submit('m', 1, { signal: {} as AbortSignal }), (error) => checkRefusal(error, 'signal', /must be an AbortSignal$/));
  });
});
