import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { clip, columnsOf, printable, renderTable, wantsColour, widthOf, wrap } from '#rubato/report/table.js';
import { fixed, ms, percent, short, si, us } from '#rubato/report/units.js';

const name = fc.oneof(fc.string({ maxLength: 60 }), fc.string({ unit: 'grapheme', maxLength: 40 }));

function assertFits(text: string, columns: number): void {
  for (const line of text.split('\n')) assert.ok(widthOf(line) <= columns, `${widthOf(line)} > ${columns}: ${JSON.stringify(line)}`);
}

describe('numbers', () => {
  it('with a prefix have three digits', () => {
    const cases: [number, string][] = [
      [0, '0'], [7, '7'], [0.5, '0.500'], [12.345, '12.3'], [999, '999'], [999.6, '1.00 k'], [1000, '1.00 k'], [48_200, '48.2 k'],
      [6_420_000, '6.42 M'], [999_499, '999 k'], [999_999, '1.00 M'], [1.5e9, '1.50 G'], [2e12, '2.00 T'], [5e15, '5000 T'], [-6_420_000, '-6.42 M'],
      [NaN, '–'], [Infinity, '–'],
    ];
    for (const [value, text] of cases) assert.equal(si(value), text);
  });

  it('with a prefix are right to half a percent', () => {
    fc.assert(
      fc.property(fc.double({ min: 1, max: 1e14, noNaN: true }), (value) => {
        const [digits, prefix = ''] = si(value).split(' ');
        const shown = Number(digits) * 1000 ** ['', 'k', 'M', 'G', 'T'].indexOf(prefix);
        assert.ok(Math.abs(shown - value) <= value * 0.00501, `${value} shown as ${si(value)}`);
      }),
    );
  });

  it('without a prefix have three digits and no exponent', () => {
    const cases: [number, string][] = [[0, '0'], [1e-9, '0'], [0.0042, '0.0042'], [0.1234, '0.123'], [1.5, '1.50'], [9.999, '10.0'], [99.99, '100'], [512, '512'], [48_200.4, '48200'], [NaN, '–']];
    for (const [value, text] of cases) assert.equal(short(value), text);
  });

  it('in percent never round some to none or almost all to all', () => {
    const cases: [number, string][] = [[0, '0 %'], [1, '100 %'], [0.0123, '1.23 %'], [1e-6, '<0.01 %'], [0.999999, '>99.99 %'], [0.5, '50.00 %'], [NaN, '–']];
    for (const [share, text] of cases) assert.equal(percent(share), text);
    assert.equal(percent(0.9996, 1), '>99.9 %');
    assert.equal(percent(0.98765, 1), '98.8 %');
  });

  it('of time carry their unit', () => {
    assert.equal(ms(12.345), '12.3 ms');
    assert.equal(us(0.5), '0.500 µs');
    assert.equal(fixed(1.005, 1), '1.0');
    assert.equal(fixed(NaN, 1), '–');
  });
});

describe('a table', () => {
  const columns = [{ head: 'model' }, ...Array.from({ length: 9 }, (_, i) => ({ head: `figure\nnumber ${i}` }))];

  it('has no line longer than the terminal, whatever is in it', () => {
    fc.assert(
      fc.property(fc.array(fc.array(name, { minLength: 10, maxLength: 10 }), { maxLength: 6 }), fc.integer({ min: 20, max: 120 }), (rows, width) => {
        assertFits(renderTable(columns, rows, { columns: width, colour: false }), width);
      }),
      { numRuns: 100 },
    );
  });

  it('shows every cell on a narrow terminal, in blocks that repeat the first column', () => {
    const rows = ['vgg16', 'yolo9000'].map((model) => [model, ...Array.from({ length: 9 }, (_, i) => `${model.length}${i}.5 ms`)]);
    const text = renderTable(columns, rows, { columns: 60, colour: false });
    assertFits(text, 60);
    for (const cell of rows.flat()) assert.ok(text.includes(cell), cell);
    const blocks = text.split('\n\n');
    assert.ok(blocks.length > 1);
    for (const block of blocks) assert.match(block, /yolo9000/);
  });

  it('is one block where it fits, with numbers to the right and no borders', () => {
    const text = renderTable([{ head: 'name' }, { head: 'rate' }], [['a', '1'], ['bcd', '12345']], { columns: 60, colour: false });
    assert.equal(text, 'name   rate\n───────────\na         1\nbcd   12345');
  });

  it('prints no control characters that come in a name, and no colours unless asked', () => {
    const rows = [['a\x1b[31m\nb\tc', '1']];
    const plain = renderTable([{ head: 'name' }, { head: 'rate' }], rows, { columns: 60, colour: false });
    assert.match(plain, /a\?\[31m\?b\?c/);
    assert.doesNotMatch(plain, /\x1b/);
    assert.match(renderTable([{ head: 'name' }, { head: 'rate' }], rows, { columns: 60, colour: true }), /\x1b\[1mname\x1b\[22m/);
  });

  it('refuses a row of another length, with both numbers', () => {
    assert.throws(() => renderTable([{ head: 'a' }, { head: 'b' }], [['1']]), { name: 'RangeError', message: /1 cells.* 2 columns/ });
  });
});

describe('text', () => {
  it('is wrapped between words and never wider than asked', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ minLength: 1, maxLength: 40 }).map(printable), { maxLength: 30 }), fc.integer({ min: 20, max: 90 }), (words, width) => {
        assertFits(wrap(words.join(' '), width, 8), width);
      }),
    );
    assert.equal(wrap('one two three four', 9, 2), 'one two\n  three\n  four');
  });

  it('is clipped in its middle', () => {
    assert.equal(clip('llama-70b-instruct-a', 11), 'llama…uct-a');
    assert.equal(clip('short', 5), 'short');
    fc.assert(fc.property(name, fc.integer({ min: 0, max: 30 }), (text, width) => assert.ok(widthOf(clip(printable(text), width)) <= width)));
  });
});

describe('the terminal', () => {
  it('is coloured only if it is one and NO_COLOR is not set', () => {
    assert.equal(wantsColour({ isTTY: true }, {}), true);
    assert.equal(wantsColour({ isTTY: true }, { NO_COLOR: '' }), true);
    assert.equal(wantsColour({ isTTY: true }, { NO_COLOR: '1' }), false);
    assert.equal(wantsColour({ isTTY: true }, { TERM: 'dumb' }), false);
    assert.equal(wantsColour({}, {}), false);
  });

  it('is 80 columns wide where there is none', () => {
    assert.equal(columnsOf({}), 80);
    assert.equal(columnsOf({ isTTY: true, columns: 132 }), 132);
    assert.equal(columnsOf({ isTTY: true, columns: 0 }), 80);
    assert.equal(columnsOf({ isTTY: true, columns: 5 }), 20);
  });
});
