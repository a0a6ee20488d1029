import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import type { RingWriter as PlainWriter } from '#rubato/ringbuf/spsc-ring.js';
import { Copies, load } from '../sim/copies.js';
import { PARTS, partsOf } from '../vopr/parts.js';
import { type Scenario, scenarioOf } from '../vopr/scenario.js';
import { World } from '../vopr/world.js';
import { insert, instrument, type KillPoint } from './instrument.js';

/** Share of the points that may lie where no scenario goes: broken invariants, margins that are measured, doorbells that wait. */
const MOST_MISSED = 0.2;

const copies = new Copies();
after(() => copies.remove());

describe('kill points', () => {
  const of = (body: string): { text: string; points: string[] } => {
    const points: KillPoint[] = [];
    const text = insert('ringbuf/a', body, points);
    return { text: text.replace(/^import .*?; /, ''), points: points.map((point) => `${point.function}:${point.line} ${point.statement}`) };
  };

  it('stand before every statement of a function, also in blocks and cases', () => {
    const { text, points } = of('function f(a) {\n    a++;\n    if (a) {\n        g();\n    }\n    switch (a) {\n        case 1:\n            g();\n            break;\n    }\n}');
    assert.deepEqual(points, ['f:2 a++;', 'f:3 if (a) {', 'f:4 g();', 'f:6 switch (a) {', 'f:8 g();', 'f:9 break;']);
    assert.equal(text.split('\n')[1], '    __killPoint(0);a++;');
  });

  it('make a block of a branch or a body that has none', () => {
    const { text } = of('function f(a) {\n    if (a) g(); else if (b) h();\n    for (;;) if (c) return;\n}');
    assert.equal(text, 'function f(a) {\n    __killPoint(0);if (a) {__killPoint(1);g();} else {__killPoint(2);if (b) {__killPoint(3);h();}}\n    __killPoint(4);for (;;) {__killPoint(5);if (c) {__killPoint(6);return;}}\n}');
  });

  it('leave alone what is not run by a role: imports, constants and fields', () => {
    const { points } = of("import { a } from './b.js';\nconst { c } = a;\nclass B {\n    d = a();\n    get e() {\n        return c;\n    }\n}");
    assert.deepEqual(points, ['B.e:6 return c;']);
  });
});

describe('a copy with kill points', () => {
  it('runs as the plain one while it is not armed', async () => {
    const parts = await partsOf(instrument(copies).copy, true);
    for (let seed = 1; seed <= 25; seed++) {
      const drawn = scenarioOf(seed);
      const scenario = { ...drawn, events: drawn.events.filter(({ kind }) => kind !== 'kill') };
      assert.equal(new World(scenario, parts).play().hash, new World(scenario, PARTS).play().hash, `seed ${seed}`);
    }
  });

  it('has its points where roles go: scenarios pass nearly all of them', async (test) => {
    const { copy, points } = instrument(copies);
    const parts = await partsOf(copy, true);
    for (let seed = 1; seed <= 100; seed++) new World(scenarioOf(seed), parts).play();
    const missed = points.filter((_, n) => parts.kill!.passed[n] === 0);
    for (const { file, line, function: name, statement } of missed) test.diagnostic(`not passed: ${file}:${line} ${name}: ${statement}`);
    assert.ok(missed.length < points.length * MOST_MISSED, `${missed.length} of ${points.length}`);
  });

  it('lets any role die in a poll that finds nothing, and a new one goes on in its place', async () => {
    const parts = await partsOf(instrument(copies).copy, true);
    const scenario: Scenario = { ...scenarioOf(5), clients: 1, interrupt: 0, scramble: 0 };
    const load = scenario.events.filter(({ kind }) => kind === 'submit').map((event) => ({ ...event, at: event.at + 1e9 }));
    for (const role of ['device', 'shard', 'dispatcher'] as const) {
      for (let after = 0; after < 6; after++) {
        const { violation, deaths, batches } = new World({ ...scenario, single: false, deviceApart: false, events: [{ at: 0, kind: 'kill', role, index: 0, deaths: [{ left: after, share: null }], downNs: 0 }, ...load] }, parts).play();
        assert.equal(violation, null, `${role} after ${after} statements: ${violation?.message}`);
        assert.equal(deaths, 1);
        assert.ok(batches > 0);
      }
    }
  });

  it('throws at the point that was asked for, before its statement', async () => {
    const { copy, points } = instrument(copies);
    const parts = await partsOf(copy, true);
    const point = points.findIndex(({ function: name, statement }) => name === 'RingWriter.commit' && statement.startsWith('Atomics.store'));
    const { RingWriter } = await load<{ RingWriter: typeof PlainWriter }>(copy, 'ringbuf/spsc-ring');
    const buffer = new SharedArrayBuffer(1024);
    const ring = new RingWriter({ buffer, byteOffset: 0, capacity: 8, recordBytes: 8 });
    ring.claim();
    const { kill } = parts;
    const before = kill!.enter({ left: -1 });
    kill!.armAt(point, 1);
    assert.throws(() => ring.commit(), parts.kill!.KillError);
    assert.equal(new Int32Array(buffer)[0], 0);
    ring.commit(); // it throws once
    kill!.enter(before);
    assert.equal(new Int32Array(buffer)[0], 1);
  });
});
