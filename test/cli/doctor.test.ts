import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { doctor, printDoctor, topologies } from '#rubato/cli/doctor.js';

function printed(cores: number): string {
  let text = '';
  printDoctor({ ...doctor(), topology: topologies(cores) }, (part) => (text += part));
  return text;
}

describe('the doctor on threads', () => {
  test('reports a small and a big service under stable keys', () => {
    const report = doctor();
    assert.deepEqual(report.topology, topologies(report.cpu.usableCores));
    assert.equal(report.topology.length, 2);
    for (const entry of report.topology) assert.deepEqual(Object.keys(entry), ['load', 'kind', 'shards', 'threads', 'waiting', 'reason']);
  });

  test('gives the small service one thread, and the big one as many as its GPUs need and the cores allow', () => {
    const chosen = (cores: number) => topologies(cores).map(({ kind, shards, threads, waiting }) => [kind, shards, threads, waiting]);
    assert.deepEqual(chosen(1), [['single', 1, 1, 'park'], ['single', 1, 1, 'park']]);
    assert.deepEqual(chosen(2), [['single', 1, 1, 'balanced'], ['single', 1, 1, 'balanced']]);
    assert.deepEqual(chosen(6), [['single', 1, 1, 'balanced'], ['split', 4, 5, 'balanced']]);
    assert.deepEqual(chosen(64), [['single', 1, 1, 'balanced'], ['split', 7, 8, 'balanced']]);
  });

  test('prints both with their reason, and marks what the machine is too small for', () => {
    assert.match(printed(64), /^ok {2}threads +single +for titanx4 \(4 models, 8 GPUs\)\. One thread is enough: /m);
    assert.match(printed(64), /^ok {2}threads +split, 7 shards +for bench throughput \(64 models, 64 GPUs\)\. Split pays: .* 54\.6 M /m);
    assert.match(printed(2), /^ok {2}threads +single .*titanx4/m);
    assert.match(printed(2), /^-- {2}threads +single .*bench throughput .*this process has 2\.$/m);
    assert.match(printed(1), /^-- {2}threads +single .*titanx4 .*It parks and never spins: /m);
  });
});
