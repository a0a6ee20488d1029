import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { InvalidOptionError } from '#rubato/model/errors.js';
import { drawModels, readTrace, type TraceOptions } from '#rubato/sim/trace.js';

// From build/test/sim/ to the folder beside the repository.
const SHARED_TRACES = new URL('../../../../shared/traces/', import.meta.url);
const skip = existsSync(SHARED_TRACES) ? false : 'no folder ../shared/traces beside the repository';

const folder = mkdtempSync(join(tmpdir(), 'rubato-trace-'));
after(() => rmSync(folder, { recursive: true }));
const file = join(folder, 'trace.csv');

function traceOf(content: string, options?: TraceOptions): number[] {
  writeFileSync(file, content);
  return Array.from(readTrace(file, options).timesNs);
}

function refuses(content: string, options: TraceOptions, path: string, problem: RegExp): void {
  assert.throws(() => traceOf(content, options), (error) => {
    assert(error instanceof InvalidOptionError);
    assert.equal(error.path, path);
    assert(!error.message.includes('\n'));
    assert.match(error.message, problem);
    return true;
  });
}

describe('readTrace', () => {
  it('reads seconds as nanoseconds after the first arrival', () => {
    assert.deepEqual(traceOf('time\n10\n10.5\n10.500000001\n12e0\n'), [0, 500_000_000, 500_000_001, 2_000_000_000]);
    assert.deepEqual(traceOf('time\n-1.5\n-0.5\n.5\n'), [0, 1_000_000_000, 2_000_000_000]);
  });

  it('keeps every digit of seconds since 1970', () => {
    assert.deepEqual(traceOf('timestamp\n1700158623.979960001\n1700158623.979960002\n'), [0, 1]);
  });

  it('keeps all seven fractional digits of a date and time', () => {
    assert.deepEqual(traceOf('TIMESTAMP\r\n2023-11-16 18:17:03.9799600\r\n2023-11-16 18:17:03.9799601\r\n2023-11-16 18:17:04.0319600\r\n'), [0, 100, 52_000_000]);
  });

  it('reads ISO 8601 with and without an offset, as UTC without', () => {
    assert.deepEqual(traceOf('time\n2023-11-16T18:17:03Z\n2023-11-16T18:17:04\n2023-11-16T19:17:05+01:00\n2023-11-16T13:47:06.5-0430\n'), [0, 1e9, 2e9, 3.5e9]);
    assert.deepEqual(traceOf('time\n2024-02-28 23:59:59\n2024-02-29 00:00:00\n2024-03-01 00:00\n'), [0, 1e9, 86_401e9]);
  });

  it('reads any dates back to the nanosecond', () => {
    const moment = fc.tuple(fc.integer({ min: 0, max: 4e9 }), fc.integer({ min: 0, max: 999_999_999 }));
    fc.assert(fc.property(moment, fc.integer({ min: 0, max: 1_000_000 }), fc.integer({ min: 0, max: 999_999_999 }), ([seconds, nanos], gapSeconds, gapNanos) => {
      const text = (s: number, n: number): string => `${new Date(s * 1000).toISOString().slice(0, 19).replace('T', ' ')}.${String(n).padStart(9, '0')}`;
      const sum = nanos + gapNanos;
      const later = text(seconds + gapSeconds + Math.floor(sum / 1e9), sum % 1e9);
      assert.deepEqual(traceOf(`time\n${text(seconds, nanos)}\n${later}\n`), [0, gapSeconds * 1e9 + gapNanos]);
    }), { numRuns: 50 });
  });

  it('finds the time column by its usual names, else takes the one that is named', () => {
    assert.deepEqual(traceOf('\uFEFFid,Arrival_Time\na,1\nb,2\n'), [0, 1e9]);
    assert.deepEqual(traceOf('start_time,x\n1,5\n2,6\n'), [0, 1e9]);
    assert.deepEqual(traceOf('a,b\n1,5\n2,7\n', { timeColumn: 'b' }), [0, 2e9]);
    assert.deepEqual(traceOf('a,End Time\n1,5\n2,7\n', { timeColumn: 'end time' }), [0, 2e9]);
    refuses('a,b\n1,2\n', {}, file, /no column of arrival times among "a", "b", name it with the option timeColumn/);
    refuses('a,b\n1,2\n', { timeColumn: 'c' }, 'timeColumn', /got "c", must be a column of .*: "a", "b"/);
  });

  it('takes a duration off the time where a trace records ends', () => {
    assert.deepEqual(traceOf('end,took\n5,1\n6,1.5\n', { timeColumn: 'end', durationColumn: 'took' }), [0, 500_000_000]);
    refuses('end,took\n5,-0.5\n', { timeColumn: 'end', durationColumn: 'took' }, file, /line 2, column took: got "-0.5", must be seconds >= 0/);
  });

  it('compresses time by its speed', () => {
    assert.deepEqual(traceOf('time\n0\n1\n3\n', { speed: 4 }), [0, 250_000_000, 750_000_000]);
    assert.deepEqual(traceOf('time\n0\n1\n', { speed: 0.5 }), [0, 2e9]);
    for (const speed of [0, -1, NaN, Infinity]) refuses('time\n0\n', { speed }, 'speed', /must be a finite number > 0/);
    refuses('time\n0\n1\n', { speed: 1e-9 }, 'speed', /must keep the trace shorter/);
  });

  it('refuses a time that goes back, naming the line and both times, unless it may sort', () => {
    refuses('time\n1\n3\n2\n', {}, file, /line 4: time 2 lies before 3 of line 3, times must not go back/);
    assert.deepEqual(traceOf('time\n3\n1\n2\n', { sort: true }), [0, 1e9, 2e9]);
    assert.deepEqual(traceOf('time\n1\n1\n'), [0, 0]);
  });

  it('reads each request’s model from a column, also when it sorts', () => {
    const models = ['cat', 'dog'];
    const content = 'time,what\n3,dog\n1,cat\n3,cat\n2,dog\n';
    writeFileSync(file, content);
    const { timesNs, models: numbers } = readTrace(file, { modelColumn: 'What', models, sort: true, speed: 2 });
    assert.deepEqual([Array.from(timesNs), Array.from(numbers!)], [[0, 0.5e9, 1e9, 1e9], [0, 1, 1, 0]]);
    assert.equal(readTrace(file, { models, sort: true }).models, null);
    refuses('time,what\n1,cat\n2,cow\n', { modelColumn: 'what', models }, file, /line 3, column what: got "cow", must be one of the models "cat", "dog"$/);
    refuses('time,what\n1,cat\n', { modelColumn: 'who', models }, 'modelColumn', /got "who", must be a column of .*: "time", "what"/);
  });

  it('refuses cells that are no time, with their line', () => {
    for (const cell of ['abc', '0x10', 'NaN', 'Infinity', '1;2', '2023-02-30 00:00:00', '2023-11-16 24:00:00', '2023-13-01 00:00:00', '2023-11-16', '9'.repeat(40)]) {
      refuses(`time,x\n1,"a\nb"\n\n${cell},2\n`, {}, file, /line 5, column time: got ".*", must be seconds/);
    }
    refuses('time,x\n1,2\n,3\n', {}, file, /line 3, column time: got ""/);
  });

  it('refuses files that are missing, empty, only a header or ragged', () => {
    refuses('', {}, file, /is empty/);
    refuses('\n\n', {}, file, /is empty/);
    refuses('time\n', {}, file, /has a header row only/);
    refuses('time,x\n1,2\n3\n', {}, file, /not a well-formed CSV file: .*line 3/);
    refuses('time,x\n1,"2\n', {}, file, /not a well-formed CSV file/);
    assert.throws(() => readTrace(join(folder, 'none.csv')), /none\.csv: there is no such file/);
  });

  it('has models drawn by their shares where no column says them, the same ones for a seed', () => {
    const drawn = drawModels(100_000, [0.5, 0, 0.125, 0.375], 7);
    const counts = [0, 0, 0, 0];
    for (const model of drawn) counts[model]! += 1;
    assert.equal(counts[1], 0);
    for (const [model, share] of [[0, 0.5], [2, 0.125], [3, 0.375]] as const) assert(Math.abs(counts[model]! / 100_000 - share) < 0.006, `${counts}`);
    assert.deepEqual(drawModels(1000, [0.5, 0, 0.125, 0.375], 7), drawn.slice(0, 1000));
    assert.notDeepEqual(drawModels(1000, [0.5, 0, 0.125, 0.375], 8), drawn.slice(0, 1000));
  });

  it('reads the Azure trace of a code-completion service', { skip }, () => {
    const { timesNs } = readTrace(fileURLToPath(new URL('AzureLLMInferenceTrace_code.csv', SHARED_TRACES)));
    assert.equal(timesNs.length, 8819);
    assert.equal(timesNs[1], 52_000_000);
    const ratePerSecond = timesNs.length / (timesNs.at(-1)! / 1e9);
    assert(ratePerSecond > 2.5 && ratePerSecond < 2.7, `${ratePerSecond}`);
  });

  it('reads the Azure Functions sample, whose rows are in order of arrival but not of end', { skip }, () => {
    const path = fileURLToPath(new URL('invitro_Azure2021_200.csv', SHARED_TRACES));
    const timeColumn = 'end_timestamp';
    assert.throws(() => readTrace(path, { timeColumn }), /times must not go back/);
    const endsNs = readTrace(path, { timeColumn, sort: true }).timesNs;
    const arrivalsNs = readTrace(path, { timeColumn, durationColumn: 'duration' }).timesNs;
    for (const timesNs of [endsNs, arrivalsNs]) {
      assert.equal(timesNs.length, 199);
      for (let i = 1; i < timesNs.length; i++) assert(timesNs[i]! >= timesNs[i - 1]!);
    }
  });
});
