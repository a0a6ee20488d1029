import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { InvalidOptionError } from '#rubato/model/errors.js';
import { LatencyProfile } from '#rubato/model/latency-profile.js';
import { isRecording, profileOf, readRecording, type RecordedModel, recordedProfile, type RecordedTotals } from '#rubato/sim/recording.js';
import { type Change, differenceOf, figuresOf, NO_CHANGE, recordedFigures, replayOf, runReplay } from '#rubato/sim/replay.js';

const folder = mkdtempSync(join(tmpdir(), 'rubato-recording-'));
after(() => rmSync(folder, { recursive: true, force: true }));
let files = 0;

function write(content: string | Buffer): string {
  const file = join(folder, `${files++}.csv`);
  writeFileSync(file, content);
  return file;
}

const MARGINS = { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 };
/** One GPU takes 5 ms for one, 10 ms for two. */
const MODEL: RecordedModel = { number: 0, name: 'm', sloNs: 20e6, profile: [5e6, 10e6], condition: 'immediate', dropPolicy: 'timeout' };
const OTHER: RecordedModel = { ...MODEL, number: 1, name: 'n', profile: { alphaNs: 1e6, betaNs: 4e6, maxBatch: 8 } };

const head = (models: readonly object[] = [MODEL], gpus = 1): string => `#rubato-recording,1,${JSON.stringify({ gpus, margins: MARGINS, models })}\ndelta_us,model,slo_us\n`;

const TOTALS: RecordedTotals = {
  requests: 3, lost: 0, accepted: 3, refused: 1, completed: 1, late: 1, expired: 1, queueFull: 0, infeasible: 0, cancelled: 0, failed: 0, closed: 0, inFlight: 0,
  batches: 2, batched: 2, gpuSeconds: 0.5, gpusUsed: 1, seconds: 1, margins: { ...MARGINS, controlNs: 7 },
};

describe('a recording is read', () => {
  test('with times after the first, models and SLOs, and what became of all', () => {
    const recording = readRecording(write(`${head([MODEL, OTHER], 3)}500\n10,1\n0,0,15000\n#end,${JSON.stringify(TOTALS)}\n`));
    assert.deepEqual([...recording.timesNs], [0, 10e3, 10e3]);
    assert.deepEqual([...recording.modelOf], [0, 1, 0]);
    assert.deepEqual([...recording.slosNs], [0, 0, 15e6]);
    assert.deepEqual(recording.totals, TOTALS);
    assert.deepEqual([recording.gpus, recording.margins.controlNs, recording.hasChanges], [3, 7, false]);
    assert.deepEqual(recording.models, [MODEL, OTHER]);
  });

  test('in order of time, those of one time in the order of the file', () => {
    const recording = readRecording(write(`${head([MODEL, OTHER])}100\n-50,1\n0\n80,1\n`));
    assert.deepEqual([...recording.timesNs], [0, 0, 50e3, 80e3]);
    assert.deepEqual([...recording.modelOf], [1, 0, 0, 1]);
  });

  test('with models that came, changed and gave their number to another', () => {
    const updated = { ...MODEL, sloNs: 30e6, dropPolicy: 'window' };
    const successor = { ...OTHER, number: 0, name: 'o' };
    const recording = readRecording(write(`${head()}1\n#model,${JSON.stringify(updated)}\n1\n1,0,7\n#gpus,4\n#model,${JSON.stringify(successor)}\n1\n#gpus,2\n1\n`));
    assert.deepEqual([...recording.modelOf], [0, 0, 0, 1, 1]);
    assert.deepEqual([...recording.slosNs], [0, 30e6, 7e3, 0, 0]);
    assert.deepEqual(recording.models.map(({ name, sloNs, dropPolicy }) => [name, sloNs, dropPolicy]), [['m', 20e6, 'window'], ['o', 20e6, 'timeout']]);
    assert.deepEqual([recording.gpus, recording.hasChanges], [4, true]);
  });

  test('up to its last whole line where it was cut off', () => {
    const whole = `${head()}1\n22\n333`;
    assert.deepEqual([...readRecording(write(whole)).timesNs], [0, 22e3]);
    assert.equal(readRecording(write(whole)).totals, null);
    const zipped = gzipSync(`${head()}${'12345\n'.repeat(50_000)}`);
    const { timesNs } = readRecording(write(zipped.subarray(0, zipped.length - 40)));
    assert.ok(timesNs.length > 10_000 && timesNs.length < 50_000, `${timesNs.length}`);
  });

  test('for what it is, and no other file', () => {
    assert.ok(isRecording(write(head())));
    assert.ok(isRecording(write(gzipSync(head()))));
    for (const other of ['', 'timestamp\n1\n', '#rubato', 'x#rubato-recording,1']) assert.equal(isRecording(write(other)), false);
    assert.equal(isRecording(join(folder, 'nowhere')), false);
    assert.equal(isRecording(folder), false);
  });

  test('with the very profile that was recorded', () => {
    const linear = LatencyProfile.linear({ alphaNs: 1_053_000, betaNs: 5_072_000, maxBatch: 1024 }, 'p');
    const odd = LatencyProfile.linear({ alphaNs: 333.3, betaNs: 17.2, maxBatch: 500 }, 'p');
    const table = LatencyProfile.table([5, 5, 9, 100], 'p');
    const one = LatencyProfile.table([7], 'p');
    for (const { ns, maxBatch } of [linear, odd, table, one]) {
      const profile = JSON.parse(JSON.stringify(recordedProfile(ns, maxBatch))) as RecordedModel['profile'];
      assert.deepEqual(profileOf({ ...MODEL, profile }).ns, ns);
    }
    assert.deepEqual(recordedProfile(linear.ns, 1024), { alphaNs: 1_053_000, betaNs: 5_072_000, maxBatch: 1024 });
  });
});

describe('a recording is refused with its name and the line', () => {
  const end = `#end,${JSON.stringify(TOTALS)}\n`;
  const cases: [what: string, content: string | Buffer, problem: RegExp][] = [
    ['nothing', '', /: line 1: the file is empty/],
    ['half a header', head().slice(0, 60), /: line 1: is cut off, must be the whole header/],
    ['another file', 'timestamp\n1\n', /: line 1: must begin with #rubato-recording/],
    ['another version', head().replace(',1,', ',2,'), /: line 1: got version "2", must be 1/],
    ['no version', '#rubato-recording\n', /: line 1: got version undefined, must be 1/],
    ['a header that is no JSON', head().replace('{', '{{'), /: line 1: is not valid JSON/],
    ['a header without models', head([]), /: line 1: models: /],
    ['a header without GPUs', head([MODEL], 0), /: line 1: gpus: /],
    ['an unknown policy', head([{ ...MODEL, dropPolicy: 'none' }]), /: line 1: models\.0\.dropPolicy: .*"window"/],
    ['a profile that falls', head([{ ...MODEL, profile: [9, 1] }]), /: line 1: model m: falls from l\(1\)/],
    ['no columns', head().replace(/delta.*\n/, ''), /: line 2: is missing, must be delta_us,model,slo_us/],
    ['other columns', head().replace('model,slo', 'slo,model'), /: line 2: got "delta_us,slo,model_us", must be/],
    ['no request', head(), /: line 3: holds no request/],
    ['a model that nobody named', `${head()}1\n2,5\n`, /: line 4: got model 5, must be one of those named before \(0\)/],
    ['a gap that is no integer', `${head()}1\n1.5\n`, /: line 4: must be integers/],
    ['a gap that is missing', `${head()}1\n,0\n`, /: line 4: delta_us must be an integer/],
    ['a word', `${head()}one\n`, /: line 3: delta_us must be an integer/],
    ['a column too many', `${head()}1,0,1,1\n`, /: line 3: must be integers/],
    ['a negative SLO', `${head()}1,0,-4\n`, /: line 3: got slo_us -4, must be > 0/],
    ['an empty line', `${head()}1\n\n1\n`, /: line 4: delta_us must be an integer/],
    ['an unknown line', `${head()}1\n#stop,1\n`, /: line 4: got "#stop", must be #model, #gpus or #end/],
    ['a request after the end', `${head()}1\n${end}1\n`, /: line 5: stands after the #end line/],
    ['an end without counts', `${head()}1\n#end,{}\n`, /: line 4: requests: /],
    ['a broken compressed file', Buffer.concat([Buffer.from([0x1f, 0x8b]), Buffer.alloc(40, 9)]), /: cannot be decompressed: /],
  ];
  for (const [what, content, problem] of cases) {
    test(what, () => {
      const file = write(content);
      assert.throws(() => readRecording(file), (error) => error instanceof InvalidOptionError && error.path === file && problem.test(error.message) || assert.fail(String(error)));
    });
  }

  test('where there is none', () => {
    assert.throws(() => readRecording(join(folder, 'nowhere')), /nowhere: there is no such file/);
    assert.throws(() => readRecording(folder), /cannot be read \(EISDIR\)/);
  });
});

describe('a replay', () => {
  /** Every 4 ms one request: more than one GPU can do, since batches of two are no faster. */
  const busy = write(`${head()}${'4000\n'.repeat(1000)}`);
  const figures = (change: Partial<Change> = {}, policy: string | null = null, file = busy) => figuresOf(runReplay(replayOf(readRecording(file), { ...NO_CHANGE, ...change }), policy));

  test('is the same every time', () => {
    const recording = readRecording(busy);
    const run = () => runReplay(replayOf(recording, NO_CHANGE), null);
    assert.deepEqual(run(), run());
  });

  test('of one request after the other takes their time, to the nanosecond', () => {
    const { requests, good, gpuSeconds, meanBatch, gpusUsed } = figures({}, null, write(`${head()}${'6000\n'.repeat(100)}`));
    assert.deepEqual([requests, good, gpuSeconds, meanBatch, gpusUsed], [100, 100, 0.5, 1, 1]);
  });

  test('with more GPUs drops fewer and keeps them busier, with fewer the other way round', () => {
    const [one, two] = [figures(), figures({ gpus: 2 })];
    assert.ok(one.dropped > 100 && two.dropped === 0, `${one.dropped}`);
    const more = differenceOf(two, one);
    assert.deepEqual([more.requests, more.good, more.dropped, more.droppedByReason], [0, one.dropped, -one.dropped, { expired: -one.dropped, 'queue-full': 0, infeasible: 0 }]);
    assert.ok(more.badRate < 0 && more.gpuSeconds > 0 && more.gpusUsed === 1);
    const fewer = differenceOf(one, two);
    assert.ok(fewer.good < 0 && fewer.dropped > 0 && fewer.badRate > 0 && fewer.gpuSeconds < 0 && fewer.gpusUsed === -1);
  });

  test('with a longer SLO drops fewer, faster drops more', () => {
    const plain = figures();
    assert.ok(differenceOf(figures({ slosNs: new Map([['m', 200e6]]) }), plain).dropped < 0);
    assert.deepEqual(figures({ sloScale: 10 }), figures({ slosNs: new Map([['m', 200e6]]) }));
    assert.ok(differenceOf(figures({ speed: 2 }), plain).dropped > 0);
    assert.equal(figures({ speed: 0.5 }).dropped, 0);
  });

  test('holds each request to its own SLO, ours and a rival’s', () => {
    // Each alone takes 5 ms: an SLO of 4 ms cannot be met, one of 5 ms is.
    const own = write(`${head()}${'20000,0,4000\n20000,0,5000\n20000\n'.repeat(10)}`);
    for (const policy of [null, 'eager']) assert.deepEqual([figures({}, policy, own).good, figures({}, policy, own).dropped], [20, 10]);
    assert.equal(figures({ sloScale: 1.3 }, null, own).good, 30, 'scaled like those of models');
    assert.equal(figures({ slosNs: new Map([['m', 6e6]]) }, null, own).good, 20, 'kept when their model gets another');
  });

  test('schedules every model as it was recorded', () => {
    const mixed = (dropPolicy: string): string => write(`${head([MODEL, { ...MODEL, number: 1, name: 'n', dropPolicy }])}${'4000\n1,1\n'.repeat(500)}`);
    assert.equal(figures({}, null, mixed('timeout')).late, 0);
    const never = figures({}, null, mixed('never'));
    assert.ok(never.late > 0 && never.dropped > 0, JSON.stringify(never));
  });

  test('is refused for a model that is not in it', () => {
    assert.throws(() => replayOf(readRecording(busy), { ...NO_CHANGE, slosNs: new Map([['x', 1]]) }), /slo: got model "x", must be one of m/);
    assert.throws(() => replayOf(readRecording(busy), { ...NO_CHANGE, speed: 1e-9 }), /speed: got 1e-9, must keep the recording shorter/);
  });

  test('stands beside what happened', () => {
    assert.deepEqual(recordedFigures(TOTALS), {
      requests: 3, good: 1, late: 1, dropped: 1, droppedByReason: { expired: 1, 'queue-full': 0, infeasible: 0 }, badRate: 1 - 1 / 3, meanBatch: 1, gpuSeconds: 0.5, gpusUsed: 1,
    });
  });
});
