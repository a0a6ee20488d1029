import { describe, it } from 'node:test';
import { stressBitmap, stressDoorbell, stressMailboxes, stressRing, stressRows } from './stress.js';

describe('two threads on a ring', () => {
  it('hand over ten million records, with full and empty at every turn', () => stressRing({ capacity: 256, records: 10_000_000, start: 0xffffff00, seed: 1 }));
  it('hand over records one by one through a ring of one', () => stressRing({ capacity: 1, records: 30_000, start: 0x7fffff00, seed: 2 }));
  it('hand over long bulks', () => stressRing({ capacity: 4096, records: 5_000_000, start: 0x7fffff00, seed: 3 }));
});

describe('two threads on mailboxes', () => {
  it('see whole values that rise, and the last one at last', () => stressMailboxes({ boxes: 1, recordBytes: 64, values: 2_000_000, seed: 4 }));
  it('see the same with several boxes of an odd size', () => stressMailboxes({ boxes: 7, recordBytes: 200, values: 200_000, seed: 5 }));
});

describe('three threads on a dirty bitmap', () => {
  it('lose no mark in a bitmap of one word', () => stressBitmap({ size: 32, markers: 2, marks: 300_000, room: 32, seed: 6 }));
  it('lose no mark in a bitmap of three levels, collected in small parts', () => stressBitmap({ size: 1025, markers: 2, marks: 300_000, room: 50, seed: 7 }));
});

describe('two threads at doorbells', () => {
  it('hand over a hundred thousand times and lose no wake-up', () => stressDoorbell({ handOffs: 100_000, seed: 8 }));
});

describe('three threads on histogram rows', () => {
  it('lose no record, and no count falls', () => stressRows({ writers: 2, records: 5_000_000 }));
});
