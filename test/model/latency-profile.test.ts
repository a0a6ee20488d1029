import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { InvalidOptionError } from '#rubato/model/errors.js';
import { LatencyProfile, parseNexusProfile } from '#rubato/model/latency-profile.js';

// From build/test/model/ to the folder beside the repository.
const SHARED_PROFILES = new URL('../../../../shared/profiles/', import.meta.url);
const skip = existsSync(SHARED_PROFILES) ? false : 'no folder ../shared/profiles beside the repository';

function refuses(run: () => unknown, path: string, problem: RegExp): void {
  assert.throws(run, (error) => {
    assert(error instanceof InvalidOptionError);
    assert.equal(error.path, path);
    assert.match(error.message, problem);
    return true;
  });
}

describe('a linear profile', () => {
  const profile = LatencyProfile.linear({ alphaNs: 1_080_000, betaNs: 5_100_000, maxBatch: 64 }, 'profile');

  it('is alpha b + beta up to maxBatch and infinite above', () => {
    assert.equal(profile.maxBatch, 64);
    assert.equal(profile.ns.length, 66);
    assert.equal(profile.latencyNs(0), 0);
    assert.equal(profile.latencyNs(1), 6_180_000);
    assert.equal(profile.latencyNs(64), 74_220_000);
    assert.equal(profile.latencyNs(65), Infinity);
    assert.equal(profile.latencyNs(1000), Infinity);
    assert(profile.linear);
    assert.equal(profile.alphaNs, 1_080_000);
    assert.equal(profile.betaNs, 5_100_000);
  });

  it('refuses terms out of range', () => {
    refuses(() => LatencyProfile.linear({ alphaNs: -1, betaNs: 5, maxBatch: 1 }, 'p'), 'p.alphaNs', /got -1/);
    refuses(() => LatencyProfile.linear({ alphaNs: 1, betaNs: NaN, maxBatch: 1 }, 'p'), 'p.betaNs', /got NaN/);
    refuses(() => LatencyProfile.linear({ alphaNs: 0, betaNs: 0, maxBatch: 1 }, 'p'), 'p', /batch of 1/);
    for (const maxBatch of [0, -1, 1.5, 8192, NaN, undefined as unknown as number]) {
      refuses(() => LatencyProfile.linear({ alphaNs: 1, betaNs: 1, maxBatch }, 'p'), 'p.maxBatch', /must be an integer from 1 to 8191/);
    }
    assert.equal(LatencyProfile.linear({ alphaNs: 1, betaNs: 1, maxBatch: 8191 }, 'p').maxBatch, 8191);
  });

  it('takes a constant or a proportional latency', () => {
    assert.equal(LatencyProfile.linear({ alphaNs: 0, betaNs: 7, maxBatch: 3 }, 'p').latencyNs(3), 7);
    assert.equal(LatencyProfile.linear({ alphaNs: 7, betaNs: 0, maxBatch: 3 }, 'p').latencyNs(3), 21);
  });
});

describe('a table profile', () => {
  it('levels small dips by the running maximum', () => {
    const profile = LatencyProfile.table([10_000_000, 20_551_200, 20_461_300, 30_000_000], 'p');
    assert.deepEqual(Array.from(profile.ns), [0, 10_000_000, 20_551_200, 20_551_200, 30_000_000, Infinity]);
    assert(!profile.linear);
  });

  it('refuses a larger fall, also one in small steps, and names both ends', () => {
    refuses(() => LatencyProfile.table([5e6, 10e6, 9e6], 'p'), 'p', /falls from l\(2\) = 10 ms to l\(3\) = 9 ms, must not fall by more than 5 %/);
    refuses(() => LatencyProfile.table([10e6, 9.7e6, 9.4e6], 'p'), 'p', /from l\(1\) = 10 ms to l\(3\) = 9.4 ms/);
  });

  it('refuses holes, NaN and entries that are not positive, by index', () => {
    const holed = [1, 2, 3];
    delete holed[1];
    refuses(() => LatencyProfile.table(holed, 'p'), 'p[1]', /got undefined ns for a batch of 2/);
    for (const wrong of [NaN, 0, -5, Infinity, 0.2]) refuses(() => LatencyProfile.table([1, 2, wrong], 'p'), 'p[2]', /for a batch of 3/);
    refuses(() => LatencyProfile.table([], 'p'), 'p', /table of 0/);
    refuses(() => LatencyProfile.table(new Array(8192).fill(1), 'p'), 'p', /table of 8192/);
  });

  it('fits a straight line, exactly where the table is one', () => {
    const straight = LatencyProfile.table([7, 9, 11, 13, 15], 'p');
    assert.equal(straight.alphaNs, 2);
    assert.equal(straight.betaNs, 5);
    const single = LatencyProfile.table([7], 'p');
    assert.equal(single.alphaNs, 7);
    assert.equal(single.betaNs, 0);
  });

  it('never fits a negative beta', () => {
    const convex = LatencyProfile.table([1, 4, 9, 16, 25, 36], 'p');
    assert.equal(convex.betaNs, 0);
    assert(convex.alphaNs > 0);
  });
});

it('largestBatchWithin is what a scan finds, for any table and budget', () => {
  const steps = fc.array(fc.integer({ min: 0, max: 1000 }), { minLength: 1, maxLength: 50 });
  fc.assert(fc.property(steps, fc.integer({ min: -10, max: 60_000 }), (gaps, budgetNs) => {
    let latencyNs = 1;
    const profile = LatencyProfile.table(gaps.map((gap) => (latencyNs += gap)), 'p');
    let scanned = 0;
    for (let b = 1; b <= profile.maxBatch; b++) if (profile.latencyNs(b) <= budgetNs) scanned = b;
    assert.equal(profile.largestBatchWithin(budgetNs), scanned);
  }));
  const profile = LatencyProfile.table([5, 6], 'p');
  assert.equal(profile.largestBatchWithin(Infinity), 2);
  assert.equal(profile.largestBatchWithin(NaN), 0);
  assert.equal(profile.largestBatchWithin(-1), 0);
});

describe('LatencyProfile.parse', () => {
  it('reads alpha, beta and maxBatch', () => {
    const profile = LatencyProfile.parse({ alpha: '1.053ms', beta: 5, maxBatch: 8 }, 'p');
    assert.equal(profile.latencyNs(1), 6_053_000);
    assert.equal(profile.maxBatch, 8);
  });

  it('reads a table of durations', () => {
    assert.deepEqual(Array.from(LatencyProfile.parse(['500us', 1, '2ms'], 'p').ns), [0, 500e3, 1e6, 2e6, Infinity]);
  });

  it('hands back a profile as it is', () => {
    const profile = LatencyProfile.table([1, 2], 'p');
    assert.equal(LatencyProfile.parse(profile, 'p'), profile);
  });

  it('names what is wrong', () => {
    refuses(() => LatencyProfile.parse({ alpha: '1ms', beta: '1ms' }, 'models[0].profile'), 'models[0].profile.maxBatch', /got undefined/);
    refuses(() => LatencyProfile.parse({ alpha: 'x', beta: 1, maxBatch: 1 }, 'p'), 'p.alpha', /got "x"/);
    refuses(() => LatencyProfile.parse({ alpha: 1, beta: 1, maxbatch: 1 }, 'p'), 'p.maxbatch', /unknown field, allowed are alpha, beta, maxBatch/);
    refuses(() => LatencyProfile.parse([1, '0ms'], 'p'), 'p[1]', /got "0ms"/);
    refuses(() => LatencyProfile.parse([1, , 3], 'p'), 'p[1]', /got undefined/);
    for (const wrong of [null, 5, 'vgg', undefined]) refuses(() => LatencyProfile.parse(wrong, 'p'), 'p', /must be a table of durations/);
  });
});

describe('parseNexusProfile', () => {
  const text = [
    'caffe:tiny:1', 'TITAN_X_(Pascal)', 'Forward latency', 'batch,latency(us),std(us),memory(B)',
    '1,6277.4,22.3,949944320', '2,20551.2,20.6,1061093376', '3,20461.3,20.6,1061093376',
    'Preprocess latency', 'mean(us),std(us)', '3306.44,1535.62', '',
  ];

  it('reads the mean forward latencies, with either line ending', () => {
    for (const ending of ['\n', '\r\n']) {
      assert.deepEqual(Array.from(parseNexusProfile(text.join(ending), 'f').ns), [0, 6_277_400, 20_551_200, 20_551_200, Infinity]);
    }
  });

  it('names the line that is wrong', () => {
    refuses(() => parseNexusProfile('batch\n', 'f'), 'f', /no line "Forward latency"/);
    refuses(() => parseNexusProfile(text.toSpliced(3, 1).join('\n'), 'f'), 'f', /line 4: got "1,6277/);
    refuses(() => parseNexusProfile(text.toSpliced(5, 1).join('\n'), 'f'), 'f', /line 6: got batch "3", must be 2/);
    refuses(() => parseNexusProfile(text.with(4, '1,abc,1,1').join('\n'), 'f'), 'f', /line 5: got latency "abc"/);
    refuses(() => parseNexusProfile(text.toSpliced(4, 3).join('\n'), 'f'), 'f', /table of 0/);
  });

  it('reads the published profiles', { skip }, () => {
    const sizes = { caffe_vgg16_1: 174, caffe_vgg_face_1: 173, caffe_vgg_s_1: 512, darknet_yolo9000_1: 24 };
    for (const [file, maxBatch] of Object.entries(sizes)) {
      const profile = parseNexusProfile(readFileSync(new URL(`nexus_TITANX_${file}.txt`, SHARED_PROFILES), 'utf8'), file);
      assert.equal(profile.maxBatch, maxBatch);
      for (let b = 1; b <= maxBatch; b++) assert(profile.latencyNs(b) >= profile.latencyNs(b - 1));
    }
  });
});
