import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { buildRunReport, machineFacts, printRunReport } from '#rubato/report/run-report.js';
import type { ModelTotals, RunReport, RunTotals } from '#rubato/report/run-report.js';
import { widthOf } from '#rubato/report/table.js';
import { BUCKETS, bucketOf } from '#rubato/ringbuf/log-linear.js';

function rowOf(...valuesNs: number[]): Int32Array {
  const row = new Int32Array(BUCKETS);
  for (const value of valuesNs) row[bucketOf(value)]!++;
  return row;
}

function model(overrides: Partial<ModelTotals> = {}): ModelTotals {
  return {
    name: 'vgg16',
    offered: 1000,
    refused: 10,
    completed: 900,
    late: 20,
    dropped: { expired: 15, 'queue-full': 4, infeasible: 1 },
    cancelled: 25,
    failed: 5,
    closed: 8,
    batches: 230,
    batchedRequests: 920,
    latency: rowOf(10e6, 20e6),
    queue: rowOf(5e6),
    exec: rowOf(8e6),
    delivery: rowOf(40e3),
    ...overrides,
  };
}

function run(overrides: Partial<RunTotals> = {}): RunTotals {
  return {
    title: 'a test',
    seconds: 10,
    cpuSeconds: 0.5,
    grants: 250,
    gpuCapacityPerSecond: 120,
    gpuBusySeconds: [9, 6, 0],
    lateness: rowOf(50e3),
    models: [model()],
    machine: { cpu: 'a cpu', cores: 2, memoryGiB: 8, node: 'v20.0.0', platform: 'linux', arch: 'x64' },
    ...overrides,
  };
}

function textOf(report: RunReport, columns = 80, colour = false): string {
  let text = '';
  printRunReport(report, (part) => (text += part), { columns, colour });
  return text;
}

const counts = fc.record({
  name: fc.string({ maxLength: 50 }),
  refused: fc.nat(1e6),
  completed: fc.nat(1e9),
  late: fc.nat(1e5),
  expired: fc.nat(1e5),
  queueFull: fc.nat(1e5),
  infeasible: fc.nat(1e5),
  cancelled: fc.nat(1e5),
  failed: fc.nat(1e5),
  closed: fc.nat(1e5),
  inFlight: fc.nat(1e3),
});

const anyModel = counts.map((c) =>
  model({
    ...c,
    dropped: { expired: c.expired, 'queue-full': c.queueFull, infeasible: c.infeasible },
    offered: c.refused + c.completed + c.late + c.expired + c.queueFull + c.infeasible + c.cancelled + c.failed + c.closed + c.inFlight,
  }),
);

describe('a run report', () => {
  it('counts as bad what was refused, dropped, failed or late, and not what the caller cancelled', () => {
    const report = buildRunReport(run());
    assert.equal(report.badRate, (10 + 20 + 5 + 20) / 1000);
    assert.equal(report.models[0]!.badRate, report.badRate);
    const cancelled = buildRunReport(run({ models: [model({ completed: 0, cancelled: 925 })] }));
    assert.equal(cancelled.badRate, report.badRate);
  });

  it('has the rates and counts of the totals', () => {
    const report = buildRunReport(run());
    assert.equal(report.goodRequestsPerSecond, 90);
    assert.equal(report.goodput, 90);
    assert.equal(report.offeredPerSecond, 100);
    assert.equal(report.accepted, 990);
    assert.equal(report.dropped, 20);
    assert.equal(report.inFlight, 990 - 900 - 20 - 20 - 25 - 5 - 8);
    assert.equal(report.decisionsPerSecond, (990 - report.inFlight) / 10);
    assert.equal(report.grantsPerSecond, 25);
    assert.equal(report.gpuCapacityPerSecond, 120);
    assert.equal(report.meanBatch, 4);
    assert.equal(report.gpusUsed, 2);
    assert.equal(report.gpusTotal, 3);
    assert.equal(report.gpusBusyMean, 1.5);
    assert.ok(Math.abs(report.cpuSecondsPerMillion - (0.5 / (990 - report.inFlight)) * 1e6) < 1e-9);
  });

  it('has the percentiles of each stage in its unit', () => {
    const report = buildRunReport(run());
    const near = (actual: number, expected: number): void => assert.ok(Math.abs(actual - expected) < expected * 0.01, `${actual} for ${expected}`);
    near(report.latencyMs.p50, 10);
    near(report.latencyMs.max, 20);
    near(report.latenessUs.p99, 50);
    near(report.models[0]!.queueMs.p99, 5);
    near(report.models[0]!.execMs.p99, 8);
    near(report.models[0]!.deliveryUs.p99, 40);
    assert.equal(report.latencyMs.count, 2);
  });

  it('keeps the outcome equation in every model and in the sum', () => {
    fc.assert(
      fc.property(fc.array(anyModel, { maxLength: 5 }), (models) => {
        const report = buildRunReport(run({ models }));
        for (const part of [report, ...report.models]) {
          assert.equal(part.offered, part.refused + part.accepted);
          assert.equal(part.accepted, part.completed + part.late + part.dropped + part.cancelled + part.failed + part.closed + part.inFlight);
          assert.equal(part.dropped, Object.values(part.droppedByReason).reduce((sum, count) => sum + count, 0));
          assert.ok(part.badRate >= 0 && part.badRate <= 1);
        }
        assert.equal(report.completed, report.models.reduce((sum, part) => sum + part.good, 0));
      }),
      { numRuns: 30 },
    );
  });

  it('has exactly the documented keys, and survives JSON', () => {
    const report = buildRunReport(run());
    const outcomes = ['offered', 'refused', 'accepted', 'completed', 'late', 'dropped', 'droppedByReason', 'cancelled', 'failed', 'closed', 'inFlight', 'badRate'];
    const expected = [
      ...outcomes, 'title', 'seconds', 'goodRequestsPerSecond', 'goodput', 'offeredPerSecond', 'decisionsPerSecond', 'grantsPerSecond',
      'gpuCapacityPerSecond', 'meanBatch', 'latencyMs', 'latenessUs', 'gpusUsed', 'gpusTotal', 'gpusBusyMean', 'cpuSecondsPerMillion', 'models', 'machine',
    ];
    assert.deepEqual(Object.keys(report).sort(), expected.sort());
    const perModel = [...outcomes, 'name', 'good', 'offeredPerSecond', 'goodRequestsPerSecond', 'meanBatch', 'latencyMs', 'queueMs', 'execMs', 'deliveryUs'];
    assert.deepEqual(Object.keys(report.models[0]!).sort(), perModel.sort());
    assert.deepEqual(Object.keys(report.droppedByReason), ['expired', 'queue-full', 'infeasible']);
    assert.deepEqual(Object.keys(report.latencyMs), ['p50', 'p90', 'p99', 'p999', 'max', 'count']);
    assert.deepEqual(JSON.parse(JSON.stringify(report)), report);
  });

  it('of a run without requests is all zeros, not NaN', () => {
    const report = buildRunReport(run({ models: [], gpuBusySeconds: [], lateness: undefined, grants: 0 }));
    assert.doesNotMatch(JSON.stringify(report), /null|NaN/);
    assert.equal(report.badRate, 0);
    assert.match(textOf(report), /No request was offered/);
  });

  it('refuses more outcomes than accepted requests, and names the model and both numbers', () => {
    const broken = run({ models: [model({ completed: 940 })] });
    assert.throws(() => buildRunReport(broken), { code: 'ERR_RUBATO_BROKEN_INVARIANT', message: /vgg16: 1018 outcomes of 990/ });
  });

  it('refuses a run without length', () => {
    for (const seconds of [0, -1, NaN, Infinity]) assert.throws(() => buildRunReport(run({ seconds })), { name: 'RangeError', message: /seconds/ });
  });

  it('describes the machine without naming it', () => {
    const facts = machineFacts(1.25);
    assert.deepEqual(Object.keys(facts), ['cpu', 'cores', 'memoryGiB', 'node', 'platform', 'arch', 'referenceLoopNs']);
    assert.ok(facts.cores >= 1);
  });
});

describe('the printed report', () => {
  it('begins with the headline and explains its words', () => {
    const text = textOf(buildRunReport(run()));
    assert.match(text, /^a test\nGoodput 90 requests\/s: 90\.00 % of 1\.00 k offered/);
    assert.match(text, /Goodput counts .* deadline/);
    assert.match(text, /Lateness: how long after its planned moment/);
    assert.match(text, /Latency: from the intended arrival/);
    assert.match(text, /GPUs +2 of 3 used, 1\.5 busy/);
  });

  it('says what bad consists of, and whether the load is sustained', () => {
    const text = textOf(buildRunReport(run())).replace(/\s+/g, ' ');
    assert.match(text, /bad 5\.50 % of offered, not sustained \(more than 1 %\): refused 1\.00 %, dropped \(expired\) 1\.50 %/);
    const good = model({ offered: 900, refused: 0, completed: 900, late: 0, dropped: { expired: 0, 'queue-full': 0, infeasible: 0 }, cancelled: 0, failed: 0, closed: 0 });
    assert.match(textOf(buildRunReport(run({ models: [good] }))), /bad +0 % of offered, sustained .*: none was/);
  });

  it('has no line longer than the terminal, for any totals', () => {
    fc.assert(
      fc.property(fc.array(anyModel, { maxLength: 4 }), fc.constantFrom(40, 60, 80, 120), (models, columns) => {
        for (const line of textOf(buildRunReport(run({ models })), columns).split('\n')) {
          assert.ok(widthOf(line) <= columns, `${widthOf(line)} > ${columns}: ${line}`);
        }
      }),
      { numRuns: 60 },
    );
  });

  it('shows a model table of one block at 80 columns', () => {
    const models = ['vgg16', 'vgg-face', 'vgg-s', 'yolo9000'].map((name) => model({ name }));
    const text = textOf(buildRunReport(run({ models })));
    for (const { name } of models) assert.equal(text.split(`\n${name} `).length, 2, name);
  });

  it('shows a dash where nothing was recorded', () => {
    const text = textOf(buildRunReport(run({ models: [model({ delivery: undefined })] })));
    assert.match(text, /\nvgg16 .* –\n/);
  });

  it('shows the worst of many models and says how many it leaves out', () => {
    const models = Array.from({ length: 100 }, (_, i) => model({ name: `m${i}`, late: i === 77 ? 25 : 20 }));
    const text = textOf(buildRunReport(run({ models })));
    assert.match(text, /\nm77 /);
    assert.match(text, /76 more are in the JSON/);
  });

  it('has colours only if asked', () => {
    assert.doesNotMatch(textOf(buildRunReport(run())), /\x1b/);
    assert.match(textOf(buildRunReport(run()), 80, true), /\x1b\[1mGoodput/);
  });
});
