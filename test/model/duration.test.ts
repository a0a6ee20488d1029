import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { describeValue, formatDurationNs, parseDurationNs, parsePositiveDurationNs } from '#rubato/model/duration.js';
import { InvalidOptionError } from '#rubato/model/errors.js';

describe('parseDurationNs', () => {
  it('reads every unit, and a plain number as milliseconds', () => {
    const cases: [unknown, number][] = [
      ['25ms', 25e6], ['500us', 500e3], ['500µs', 500e3], ['1.053ms', 1_053_000], ['2s', 2e9], ['300ns', 300], ['1m', 60e9],
      [25, 25e6], [0.5, 500e3], [0, 0], ['0ms', 0], [' 25 ms ', 25e6], ['.5s', 500e6],
    ];
    for (const [written, ns] of cases) assert.equal(parseDurationNs(written, 'slo'), ns, String(written));
  });

  it('rounds to whole nanoseconds', () => {
    assert.equal(parseDurationNs('0.0015us', 'slo'), 2);
    assert.equal(parseDurationNs(1 / 3, 'slo'), 333_333);
  });

  it('refuses everything else, naming the option, the value and the forms', () => {
    const wrong = ['', '25', 'ms', '-1ms', '1e3ms', '1,5ms', '25 hours', '9'.repeat(400) + 's', -1, NaN, Infinity, 1e300, null, undefined, {}, [], true, 5n];
    for (const value of wrong) {
      assert.throws(() => parseDurationNs(value, 'models[2].slo'), (error) => {
        assert(error instanceof InvalidOptionError);
        assert.equal(error.path, 'models[2].slo');
        assert.match(error.message, /^models\[2\]\.slo: got .+, must be a duration >= 0 such as "25ms"/);
        assert(!error.message.includes('\n') && error.message.length < 250);
        return true;
      });
    }
  });

  it('reads what formatDurationNs writes', () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 1e15 }), (ns) => {
      assert.equal(parseDurationNs(formatDurationNs(ns), 'slo'), ns);
    }));
  });
});

it('parsePositiveDurationNs refuses zero', () => {
  assert.equal(parsePositiveDurationNs('1ns', 'slo'), 1);
  assert.throws(() => parsePositiveDurationNs(0, 'slo'), /slo: got 0, must be a duration > 0 such as "25ms"/);
});

it('formatDurationNs takes the largest unit that is not above the time', () => {
  const cases: [number, string][] = [
    [0, '0 ns'], [300, '300 ns'], [999, '999 ns'], [86e3, '86 us'], [25e6, '25 ms'], [1_053_000, '1.053 ms'], [90e9, '90 s'],
    [-5e6, '-5 ms'], [Infinity, 'Infinity ns'], [86_000.4, '86 us'],
  ];
  for (const [ns, text] of cases) assert.equal(formatDurationNs(ns), text);
});

it('describeValue keeps a value on one short line', () => {
  assert.equal(describeValue('a\nb'), '"a\\nb"');
  assert.equal(describeValue([1, 2]), 'an array of 2');
  assert.equal(describeValue({}), 'an object');
  assert.equal(describeValue(undefined), 'undefined');
  assert(describeValue('x'.repeat(1000)).length < 60);
});
