import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { InvalidOptionError } from '#rubato/model/errors.js';
import { fluidBound, loadWorkload, parseWorkload, shippedWorkloads, staggeredOptimum, withArrivals } from '#rubato/sim/workload.js';

const folder = mkdtempSync(join(tmpdir(), 'rubato-workload-'));
after(() => rmSync(folder, { recursive: true }));

function fileOf(content: unknown, name = 'my.json'): string {
  const file = join(folder, name);
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
  return file;
}

const linear = { alpha: '1ms', beta: '5ms', maxBatch: 32 };
const model = { profile: linear, slo: '100ms' };

/** The error of a workload with these fields over `{ gpus: 1, models: [model] }`. */
function refuses(fields: object, message: string | RegExp): void {
  assert.throws(() => parseWorkload({ gpus: 1, models: [model], ...fields }, 'my.json', 'my'), (error) => {
    assert(error instanceof InvalidOptionError);
    assert(!error.message.includes('\n'));
    if (typeof message === 'string') assert.equal(error.message.slice(0, message.length), message);
    else assert.match(error.message, message);
    return true;
  });
}

describe('shipped workloads', () => {
  it('are the named ones and that of npm start', () => {
    assert.deepEqual(shippedWorkloads(), ['r50', 'mix3', 'r50x16', 'a100', 'tight', 'zipf32', 'held6', 'held2', 'titanx4']);
  });

  it('have the staggered optimum and fluid bound that they state', () => {
    for (const name of shippedWorkloads()) {
      const workload = loadWorkload(name);
      if (workload.staggeredOptimumPerSecond === null || workload.fluidBoundPerSecond === null) continue;
      const optimum = staggeredOptimum(workload) / workload.staggeredOptimumPerSecond;
      const bound = fluidBound(workload) / workload.fluidBoundPerSecond;
      assert(Math.abs(optimum - 1) < 1e-4, `${name}: staggered optimum off by ${optimum}`);
      assert(Math.abs(bound - 1) < 1e-4, `${name}: fluid bound off by ${bound}`);
    }
  });

  it('have shares that sum to 1, Poisson arrivals and profiles up to 1024', () => {
    for (const name of shippedWorkloads().filter((shipped) => shipped !== 'titanx4')) {
      const workload = loadWorkload(name);
      assert.equal(workload.name, name);
      assert.equal(workload.ratePerSecond, null);
      const sum = workload.models.reduce((total, each) => total + each.rateShare, 0);
      assert(Math.abs(sum - 1) < 1e-12);
      for (const each of workload.models) {
        assert.equal(each.arrivals.kind, 'poisson');
        assert.equal(each.profile.maxBatch, 1024);
      }
    }
    const [first] = loadWorkload('mix3').models;
    assert.equal(first!.profile.latencyNs(1), 6_180_000);
    assert.equal(first!.sloNs, 100e6);
  });

  it('have bursty variants', () => {
    const bursty = loadWorkload('mix3-b');
    assert.equal(bursty.name, 'mix3-b');
    for (const each of bursty.models) assert.deepEqual(each.arrivals, { kind: 'gamma', shape: 0.1 });
  });

  it('refuse an unknown name with the names there are', () => {
    for (const name of ['r51', 'r50-c', '', 'titanx4-b', 'toString', '__proto__-b']) {
      assert.throws(() => loadWorkload(name), /workload: got ".*", must be a \.json or \.yaml file or one of r50, mix3, .*titanx4/);
    }
  });

  it('titanx4 offers about 60 % of what its GPUs can carry, and each model a fifth to a third of it', () => {
    const workload = loadWorkload('titanx4');
    assert.equal(workload.gpus, 8);
    assert.deepEqual(workload.models.map((each) => each.name), ['vgg16', 'vgg-face', 'vgg-s', 'yolo9000']);
    const optimum = staggeredOptimum(workload);
    const load = workload.ratePerSecond! / optimum;
    assert(load > 0.57 && load < 0.63, `${load}`);
    for (const { name, profile, sloNs, rateShare } of workload.models) {
      const b = profile.largestBatchWithin(sloNs / 1.125);
      const part = (optimum * rateShare * profile.latencyNs(b)) / b / (8 * 1e9);
      assert(part > 0.18 && part < 0.34, `${name}: ${part}`);
    }
  });
});

describe('a workload file', () => {
  it('is read with its defaults', () => {
    const workload = loadWorkload(fileOf({ gpus: 2, models: [model, { ...model, name: 'second', arrivals: 'const' }] }));
    assert.equal(workload.name, 'my');
    assert.equal(workload.ratePerSecond, null);
    assert.equal(workload.seconds, null);
    assert.deepEqual(workload.models.map((each) => each.name), ['m0', 'second']);
    assert.deepEqual(workload.models.map((each) => each.rateShare), [0.5, 0.5]);
    assert.deepEqual(workload.models.map((each) => each.arrivals.kind), ['poisson', 'const']);
  });

  it('may give each model a rate', () => {
    const workload = parseWorkload({ gpus: 1, models: [{ ...model, rate: 30 }, { ...model, rate: 10 }] }, 'f', 'f');
    assert.equal(workload.ratePerSecond, 40);
    assert.deepEqual(workload.models.map((each) => each.rateShare), [0.75, 0.25]);
  });

  it('may take a table, a shorter maxBatch, or a model of the zoo', () => {
    const { models } = parseWorkload({ gpus: 1, models: [
      { profile: ['2ms', '3ms', '4ms'], slo: 20, maxBatch: 2 },
      { profile: { alpha: '1ms', beta: '5ms' }, slo: '50ms', maxBatch: 16 },
      { profile: linear, slo: '50ms', maxBatch: 16 },
      { zoo: 'vgg16' },
      { zoo: 'vgg-s', slo: '40ms', name: 'mine', maxBatch: 8 },
      { alphaUs: 1000, betaUs: 2000, sloMs: 20, maxBatch: 4 },
    ] }, 'f', 'f');
    assert.deepEqual(models.map((each) => each.profile.maxBatch), [2, 16, 16, 64, 8, 4]);
    assert.deepEqual(models.map((each) => each.sloNs), [20e6, 50e6, 50e6, 100e6, 40e6, 20e6]);
    assert.deepEqual(models.slice(3).map(({ name }) => name), ['vgg16', 'mine', 'm5']);
  });

  it('may be YAML', () => {
    const yaml = '\uFEFF# two models\ngpus: 2\narrivals: gamma:0.5\nmodels:\n  - { zoo: vgg16, slo: 120ms }\n  - profile: [2ms, 3ms]\n    slo: 20\n';
    const workload = loadWorkload(fileOf(yaml, 'two.YAML'));
    assert.equal(workload.name, 'two');
    assert.deepEqual(workload.arrivals, { kind: 'gamma', shape: 0.5 });
    assert.deepEqual(workload.models.map(({ name, sloNs }) => [name, sloNs]), [['vgg16', 120e6], ['m1', 20e6]]);
  });

  it('may repeat a model, each with the rate it states', () => {
    const { models, ratePerSecond } = parseWorkload({ gpus: 1, models: [{ ...model, name: 'a', count: 2, rate: 10 }, { ...model, count: 1, rate: 20 }, { zoo: 'vgg16', count: 1, rate: 1 }] }, 'f', 'f');
    assert.deepEqual(models.map(({ name }) => name), ['a-1', 'a-2', 'm2', 'vgg16-1']);
    assert.equal(ratePerSecond, 41);
    assert.deepEqual(models.map((each) => each.ratePerSecond), [10, 10, 20, 1]);
    const shared = parseWorkload({ gpus: 1, models: [{ ...model, count: 64, rateShare: 2 }, { ...model, rateShare: 128 }] }, 'f', 'f');
    assert.deepEqual([shared.models.length, shared.models[0]!.rateShare, shared.models[64]!.rateShare], [65, 1 / 128, 0.5]);
  });

  it('may have popularity by rank, as that of zipf32', () => {
    const shipped = loadWorkload('zipf32').models.map(({ rateShare }) => rateShare);
    const own = parseWorkload({ gpus: 1, popularity: 'zipf:0.9', models: [{ ...model, count: 32 }] }, 'f', 'f').models;
    for (const [i, { rateShare }] of own.entries()) assert(Math.abs(rateShare / shipped[i]! - 1) < 1e-3, `model ${i}: ${rateShare}`);
    const shares = (popularity: string): number[] => parseWorkload({ gpus: 1, popularity, models: [{ ...model, count: 2 }] }, 'f', 'f').models.map(({ rateShare }) => rateShare);
    assert.deepEqual([shares('equal'), shares('zipf').map((share) => Math.round(share * 3)), shares('zipf:0')], [[0.5, 0.5], [2, 1], [0.5, 0.5]]);
  });

  it('may change its rate over time, by scales or by rates', () => {
    const scaled = parseWorkload({ gpus: 1, rate: 50, models: [model], segments: [{ seconds: 1, scale: 0.5 }, { seconds: 2, scale: 1, ramp: true, arrivals: 'const' }] }, 'f', 'f');
    assert.deepEqual([scaled.ratePerSecond, scaled.seconds], [50, 3]);
    assert.deepEqual(scaled.segments, [
      { seconds: 1, fromScale: 0.5, toScale: 0.5, arrivals: null },
      { seconds: 2, fromScale: 0.5, toScale: 1, arrivals: { kind: 'const', shape: Infinity } },
    ]);
    const rated = parseWorkload({ gpus: 1, seconds: 9, models: [model], segments: [{ seconds: 1, rate: 40, ramp: true }, { seconds: 1, rate: 10 }] }, 'f', 'f');
    assert.deepEqual([rated.ratePerSecond, rated.seconds], [40, 9]);
    assert.deepEqual(rated.segments.map(({ fromScale, toScale }) => [fromScale, toScale]), [[0.25, 1], [0.25, 0.25]], 'the first ramp starts where the last segment ended');
    assert.deepEqual(withArrivals(scaled, { kind: 'poisson', shape: 1 }).segments.map(({ arrivals }) => arrivals), [null, null]);
  });

  it('refuses segments that say too little or too much', () => {
    const steady = { seconds: 1, scale: 1 };
    refuses({ segments: [] }, 'my.json: segments: got an array of 0, must hold at least one segment');
    refuses({ segments: [steady, 5] }, 'my.json: segments[1]: got 5, must be an object');
    refuses({ segments: [{ scale: 1 }] }, 'my.json: segments[0].seconds: is missing, must be seconds > 0');
    refuses({ segments: [{ seconds: -1, scale: 1 }] }, 'my.json: segments[0].seconds: got -1, must be seconds > 0');
    refuses({ segments: [{ seconds: 1, scale: -1 }] }, 'my.json: segments[0].scale: got -1, must be a number from 0 to 1000000');
    refuses({ segments: [{ seconds: 1, rate: '5' }] }, 'my.json: segments[0].rate: got "5", must be requests per second >= 0');
    refuses({ segments: [{ ...steady, ramp: 'yes' }] }, 'my.json: segments[0].ramp: got "yes", must be true or false');
    refuses({ segments: [{ ...steady, arrivals: 'evenly' }] }, 'my.json: segments[0].arrivals: got "evenly", must be "const"');
    refuses({ segments: [steady, { seconds: 1 }] }, 'my.json: segments[1].scale: is missing');
    refuses({ segments: [{ seconds: 1, rate: 5 }, { seconds: 1 }] }, 'my.json: segments[1].rate: is missing');
    refuses({ segments: [steady, { seconds: 1, rate: 5 }] }, 'my.json: segments[1].rate: stands beside a scale');
    refuses({ segments: [{ ...steady, rate: 5 }] }, 'my.json: segments[0].scale: stands beside a rate');
    refuses({ segments: [{ seconds: 1, scale: 0 }, { seconds: 1, scale: 0, ramp: true }] }, 'my.json: segments: have a scale of 0 throughout, one must be > 0');
    refuses({ rate: 5, segments: [{ seconds: 1, rate: 5 }] }, 'my.json: rate: stands beside rates of segments');
    refuses({ models: [{ ...model, rate: 5 }], segments: [{ seconds: 1, rate: 5 }] }, 'my.json: models[].rate: stands beside rates of segments');
  });

  it('may name a trace, from its own folder', () => {
    const file = fileOf({ gpus: 1, models: [model], trace: { file: 'day/a.csv', speed: 3, modelColumn: 'func', sort: true } }, 'traced.json');
    assert.deepEqual(loadWorkload(file).trace, { file: join(folder, 'day/a.csv'), timeColumn: null, durationColumn: null, modelColumn: 'func', speed: 3, sort: true });
    assert.equal(parseWorkload({ gpus: 1, models: [model], trace: { file: '/a.csv' } }, 'f', 'f', 'x').trace!.file, '/a.csv');
  });

  it('refuses a trace beside what it would overrule', () => {
    const trace = { file: 'a.csv' };
    const byColumn = { file: 'a.csv', modelColumn: 'func' };
    refuses({ trace: {} }, 'my.json: trace.file: is missing, must be the path of a CSV file');
    refuses({ trace: 'a.csv' }, 'my.json: trace: got "a.csv", must be an object with a file');
    refuses({ trace: { ...trace, speed: 0 } }, 'my.json: trace.speed: got 0, must be a number > 0');
    refuses({ trace: { ...trace, timeColumn: '' } }, 'my.json: trace.timeColumn: got "", must be the name of a column');
    refuses({ trace, rate: 5 }, 'my.json: rate: stands beside a trace');
    refuses({ trace, arrivals: 'const' }, 'my.json: arrivals: stands beside a trace');
    refuses({ trace, segments: [{ seconds: 1, scale: 1 }] }, 'my.json: segments: stands beside a trace');
    refuses({ trace, models: [{ ...model, rate: 5 }] }, 'my.json: models[0].rate: stands beside a trace');
    refuses({ trace, models: [{ ...model, arrivals: 'const' }] }, 'my.json: models[0].arrivals: stands beside a trace');
    refuses({ trace: byColumn, popularity: 'zipf' }, 'my.json: popularity: stands beside a trace');
    refuses({ trace: byColumn, models: [{ ...model, rateShare: 1 }] }, 'my.json: models[0].rateShare: stands beside a trace');
    assert.equal(parseWorkload({ gpus: 1, trace, popularity: 'zipf', models: [{ ...model, count: 2 }] }, 'f', 'f').models[0]!.rateShare, 2 / 3);
  });

  it('names the path of a wrong field', () => {
    refuses({ models: [model, { ...model, slo: -5 }] }, 'my.json: models[1].slo: got -5, must be a duration > 0 such as "25ms"');
    refuses({ models: [model, { profile: linear }] }, 'my.json: models[1].slo: got undefined, must be a duration > 0');
    refuses({ gpus: 0 }, 'my.json: gpus: got 0, must be an integer from 1 to 4096');
    refuses({ gpus: 'eight' }, 'my.json: gpus: got "eight", must be an integer from 1 to 4096');
    refuses({ gpus: undefined }, 'my.json: gpus: is missing, must be an integer from 1 to 4096');
    refuses({ models: [] }, 'my.json: models: got an array of 0, must hold at least one model');
    refuses({ models: {} }, 'my.json: models: got an object, must be an array of models');
    refuses({ models: [5] }, 'my.json: models[0]: got 5, must be an object');
    refuses({ arrivals: 'burst' }, 'my.json: arrivals: got "burst", must be "const"');
    refuses({ models: [{ ...model, arrivals: 'gamma:0' }] }, 'my.json: models[0].arrivals: got "gamma:0", must be');
    refuses({ models: [{ ...model, rateShare: -1 }] }, 'my.json: models[0].rateShare: got -1, must be a share > 0');
    refuses({ models: [{ ...model, maxBatch: 9000 }] }, 'my.json: models[0].maxBatch: got 9000, must be an integer from 1 to 8191');
    refuses({ models: [{ ...model, maxBatch: 33 }] }, "my.json: models[0].maxBatch: got 33, must be at most the profile's own 32");
    refuses({ models: [{ ...model, profile: ['1ms', 'x'] }] }, 'my.json: models[0].profile[1]: got "x"');
    refuses({ models: [{ ...model, profile: { alpha: 1, beta: 1 } }] }, 'my.json: models[0].profile.maxBatch: got undefined');
    refuses({ models: [{ ...model, profile: 'vgg16' }] }, 'my.json: models[0].profile: got "vgg16", must be a table of durations or { alpha, beta, maxBatch }; a model of the zoo is named by the field zoo');
    refuses({ models: [{ zoo: 'vgg' }] }, 'my.json: models[0].zoo: got "vgg", must be a model of the zoo: vgg16, ');
    refuses({ models: [{ zoo: 5 }] }, 'my.json: models[0].zoo: got 5, must be a model of the zoo');
    refuses({ models: [{ ...model, count: 0 }] }, 'my.json: models[0].count: got 0, must be an integer from 1 to 4096');
    refuses({ popularity: 'zipf:x' }, 'my.json: popularity: got "zipf:x", must be "equal", "zipf" (exponent 1) or "zipf:EXPONENT" with one from 0 to 10');
    refuses({ popularity: 'zipf:11' }, 'my.json: popularity: got "zipf:11", must be');
    refuses({ popularity: 1 }, 'my.json: popularity: got 1, must be');
    refuses({ seconds: 1e8 }, 'my.json: seconds: got 100000000, must be seconds > 0, at most 10000000');
    refuses({ rate: 0 }, 'my.json: rate: got 0, must be requests per second > 0');
    refuses({ seconds: '5' }, 'my.json: seconds: got "5", must be seconds > 0');
  });

  it('refuses unknown fields by name, with the ones there are', () => {
    refuses({ gpu: 1 }, 'my.json: gpu: unknown field, allowed are $schema, name, gpus, models, popularity, arrivals, rate, seconds, segments, trace');
    refuses({ segments: [{ seconds: 1, scale: 1, rampe: true }] }, 'my.json: segments[0].rampe: unknown field, allowed are seconds, scale, rate, ramp, arrivals');
    refuses({ trace: { file: 'a.csv', colum: 'x' } }, 'my.json: trace.colum: unknown field, allowed are file, timeColumn, durationColumn, modelColumn, speed, sort');
    refuses({ models: [model, { ...model, sloms: 1 }] }, 'my.json: models[1].sloms: unknown field, allowed are name, count, zoo, profile, alphaUs');
    refuses({ models: [{ ...model, profile: { ...linear, gamma: 1 } }] }, 'my.json: models[0].profile.gamma: unknown field, allowed are alpha, beta, maxBatch');
  });

  it('refuses fields that contradict each other or leave a gap', () => {
    refuses({ models: [{ ...model, sloMs: 5 }] }, 'my.json: models[0].slo: stands beside sloMs');
    refuses({ models: [{ ...model, alphaUs: 5 }] }, 'my.json: models[0].profile: stands beside alphaUs or betaUs');
    refuses({ models: [{ alphaUs: 5, slo: 5 }] }, 'my.json: models[0].betaUs: is missing');
    refuses({ models: [{ slo: 5 }] }, 'my.json: models[0].profile: is missing');
    refuses({ models: [{ ...model, rate: 5 }, { ...model, rateShare: 1 }] }, 'my.json: models[1].rateShare: stands beside a rate');
    refuses({ models: [{ ...model, rate: 5 }, model] }, 'my.json: models[1].rate: is missing');
    refuses({ models: [model, { ...model, rateShare: 1 }] }, 'my.json: models[0].rateShare: is missing');
    refuses({ rate: 5, models: [{ ...model, rate: 5 }] }, 'my.json: rate: got 5, must be absent');
    refuses({ models: [{ ...model, zoo: 'vgg16' }] }, 'my.json: models[0].zoo: stands beside profile');
    refuses({ models: [{ zoo: 'vgg16', alphaUs: 5 }] }, 'my.json: models[0].zoo: stands beside alphaUs or betaUs');
    refuses({ popularity: 'zipf', models: [{ ...model, rate: 5 }] }, "my.json: popularity: stands beside the models' rate,");
    refuses({ popularity: 'equal', models: [{ ...model, rateShare: 5 }] }, "my.json: popularity: stands beside the models' rateShare,");
    refuses({ models: [{ ...model, count: 4000 }, { ...model, count: 97 }] }, 'my.json: models: are 4097 by their count, must be at most 4096');
    refuses({ models: [{ ...model, name: 'a-2' }, { ...model, name: 'a', count: 2 }] }, 'my.json: models[1].name: got "a-2", must differ from that of models[0]');
    refuses({ models: [{ ...model, name: 'a' }, { ...model, name: 'a' }] }, 'my.json: models[1].name: got "a", must differ from that of models[0]');
    refuses({ models: [{ ...model, slo: '5.9ms' }] }, 'my.json: models[0].slo: got 5.9 ms, must be at least l(1) = 6 ms');
  });

  it('must exist, be JSON or YAML, and hold one workload', () => {
    assert.throws(() => loadWorkload(join(folder, 'none.json')), /none\.json: there is no such file/);
    assert.throws(() => loadWorkload(fileOf('{ "gpus": }', 'broken.json')), /broken\.json: is not valid JSON: /);
    assert.throws(() => loadWorkload(fileOf('gpus: 2\nmodels: [\n', 'broken.yaml')), /broken\.yaml: is not valid YAML: .* at line 3, column 1$/);
    assert.throws(() => loadWorkload(fileOf('gpus: 2\ngpus: 3\n', 'twice.yml')), /twice\.yml: is not valid YAML: Map keys must be unique at line 2/);
    const bomb = ['a: &a [x, x, x, x, x, x, x, x, x, x]', ...'bcdef'.split('').map((name, i) => `${name}: &${name} [${Array(10).fill(`*${'abcde'[i]}`).join(', ')}]`)].join('\n');
    assert.throws(() => loadWorkload(fileOf(bomb, 'bomb.yaml')), /bomb\.yaml: is not valid YAML: Excessive alias count/);
    assert.throws(() => loadWorkload(fileOf('', 'empty.yaml')), /empty\.yaml: got null, must be an object with gpus and models/);
    assert.throws(() => loadWorkload(fileOf('5', 'five.json')), /five\.json: got 5, must be an object with gpus and models/);
    const map = { a: { gpus: 1, models: [model] }, b: { gpus: 1, models: [model] } };
    assert.throws(() => loadWorkload(fileOf(map, 'map.json')), /map\.json: holds a map of 2 workloads \(a, b\), must hold one/);
  });
});

describe('fluidBound and staggeredOptimum', () => {
  it('agree on a table that is a straight line', () => {
    const line = Array.from({ length: 64 }, (_, i) => i + 1 + 5);
    const asTable = parseWorkload({ gpus: 4, models: [{ profile: line, slo: 60 }] }, 'f', 'f');
    const asLine = parseWorkload({ gpus: 4, models: [{ profile: { alpha: 1, beta: 5, maxBatch: 64 }, slo: 60 }] }, 'f', 'f');
    assert.equal(staggeredOptimum(asTable), staggeredOptimum(asLine));
    assert(Math.abs(fluidBound(asTable) / fluidBound(asLine) - 1) < 1e-9);
  });

  it('are limited by maxBatch, and by one request at a time where the SLO allows no more', () => {
    const capped = parseWorkload({ gpus: 2, models: [{ ...model, maxBatch: 1, slo: '6ms' }] }, 'f', 'f');
    assert(Math.abs(fluidBound(capped) - 2 / 0.006) < 1e-6);
    assert(Math.abs(staggeredOptimum(capped) - 2 / 0.006) < 1e-6);
  });
});
