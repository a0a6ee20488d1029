import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { InvalidOptionError } from '#rubato/model/errors.js';
import { fluidBound, loadWorkload, parseWorkload, shippedWorkloads, staggeredOptimum } from '#rubato/sim/workload.js';

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
      assert.throws(() => loadWorkload(name), /workload: got ".*", must be a \.json file or one of r50, mix3, .*titanx4/);
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
      { profile: 'vgg16' },
      { alphaUs: 1000, betaUs: 2000, sloMs: 20, maxBatch: 4 },
    ] }, 'f', 'f');
    assert.deepEqual(models.map((each) => each.profile.maxBatch), [2, 16, 16, 64, 4]);
    assert.deepEqual(models.map((each) => each.sloNs), [20e6, 50e6, 50e6, 100e6, 20e6]);
    assert.equal(models[3]!.name, 'vgg16');
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
    refuses({ models: [{ ...model, profile: 'vgg' }] }, 'my.json: models[0].profile: got "vgg", must be a model of the zoo');
    refuses({ rate: 0 }, 'my.json: rate: got 0, must be requests per second > 0');
    refuses({ seconds: '5' }, 'my.json: seconds: got "5", must be seconds > 0');
  });

  it('refuses unknown fields by name, with the ones there are', () => {
    refuses({ gpu: 1 }, 'my.json: gpu: unknown field, allowed are name, gpus, models, arrivals, rate');
    refuses({ models: [model, { ...model, sloms: 1 }] }, 'my.json: models[1].sloms: unknown field, allowed are name, profile, alphaUs');
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
    refuses({ models: [{ ...model, name: 'a' }, { ...model, name: 'a' }] }, 'my.json: models[1].name: got "a", must differ from that of models[0]');
    refuses({ models: [{ ...model, slo: '5.9ms' }] }, 'my.json: models[0].slo: got 5.9 ms, must be at least l(1) = 6 ms');
  });

  it('must exist, be JSON, and hold one workload', () => {
    assert.throws(() => loadWorkload(join(folder, 'none.json')), /none\.json: there is no such file/);
    assert.throws(() => loadWorkload(fileOf('{ "gpus": }', 'broken.json')), /broken\.json: is not valid JSON: /);
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
