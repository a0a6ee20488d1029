import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Progress } from '#rubato/report/progress.js';
import { widthOf } from '#rubato/report/table.js';

class FakeTerminal {
  readonly written: string[] = [];
  readonly isTTY: boolean;
  readonly columns: number;

  constructor(isTTY = true, columns = 80) {
    this.isTTY = isTTY;
    this.columns = columns;
  }

  write(text: string): void {
    this.written.push(text);
  }

  /** What the last line looks like, without the codes that erase and colour it. */
  line(): string {
    return this.written.at(-1)!.replace(/\r|\x1b\[[0-9;]*[mK]/g, '');
  }
}

describe('a progress bar', () => {
  it('is silent where there is no terminal, or one that is too narrow or dumb', () => {
    const quiet: [FakeTerminal, NodeJS.ProcessEnv][] = [[new FakeTerminal(false), {}], [new FakeTerminal(true, 30), {}], [new FakeTerminal(), { TERM: 'dumb' }]];
    for (const [stream, env] of quiet) {
      const bar = new Progress('bench', 10, { stream, env });
      bar.update(5, 'note');
      bar.end();
      assert.deepEqual(stream.written, []);
    }
  });

  it('shows label, share and note on one line that fits', () => {
    for (const columns of [40, 60, 80, 200]) {
      const stream = new FakeTerminal(true, columns);
      const bar = new Progress('throughput search', 10, { stream, env: {} });
      bar.update(4, `6.42 M good requests/s ${'and so on '.repeat(20)}`);
      assert.match(stream.line(), / 40 %/);
      assert.ok(widthOf(stream.line()) < columns, stream.line());
      assert.doesNotMatch(stream.line(), /\n/);
    }
  });

  it('shortens itself before it shortens the note', () => {
    const stream = new FakeTerminal(true, 60);
    new Progress('bench throughput', 10, { stream, env: {} }).update(3, '6.42 M good/s');
    assert.match(stream.line(), /█+░+ +30 %  6\.42 M good\/s$/);
  });

  it('has no colour under NO_COLOR', () => {
    const stream = new FakeTerminal();
    new Progress('bench', 10, { stream, env: { NO_COLOR: '1' } }).update(5);
    assert.doesNotMatch(stream.written.join(''), /\x1b\[[0-9;]*m/);
  });

  it('redraws ten times a second at most, but always at the end', () => {
    const stream = new FakeTerminal();
    let nowMs = 0;
    const bar = new Progress('bench', 1000, { stream, env: {}, now: () => nowMs });
    for (let done = 0; done < 1000; done++, nowMs++) bar.update(done);
    assert.equal(stream.written.length, 10);
    bar.update(1000);
    assert.match(stream.line(), /100 %/);
  });

  it('erases itself and stays erased', () => {
    const stream = new FakeTerminal();
    const bar = new Progress('bench', 10, { stream, env: {} });
    bar.update(5);
    bar.end();
    assert.equal(stream.written.at(-1), '\r\x1b[2K');
    const { length } = stream.written;
    bar.update(10);
    bar.end();
    assert.equal(stream.written.length, length);
  });

  it('takes any figure: more than the total, less than nothing, no number, no total', () => {
    for (const done of [20, -5, NaN, Infinity]) {
      const stream = new FakeTerminal();
      new Progress('bench', 10, { stream, env: {} }).update(done);
      assert.match(stream.line(), / (0|100) %/);
    }
    const stream = new FakeTerminal();
    new Progress('searching', 0, { stream, env: {} }).update(3, 'step 3\x1b[2J');
    assert.equal(stream.line(), 'searching  step 3?[2J');
  });
});
