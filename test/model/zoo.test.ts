import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { it } from 'node:test';
import { zoo, zooModel } from '#rubato/model/zoo.js';

// From build/test/model/ to the folder beside the repository.
const SHARED_PROFILES = new URL('../../../../shared/profiles/', import.meta.url);
const skip = existsSync(SHARED_PROFILES) ? false : 'no folder ../shared/profiles beside the repository';

/** Slope and intercept in us, by least squares over the batches 1 … maxBatch of a Nexus profile file, as measured. */
function fitUs(text: string, maxBatch: number): { alphaUs: number; betaUs: number } {
  const points = text.split('\n').map((line) => line.split(',').map(Number)).filter(([b]) => b! >= 1 && b! <= maxBatch).slice(0, maxBatch);
  assert.deepEqual(points.map(([b]) => b), Array.from({ length: maxBatch }, (_, i) => i + 1));
  const meanB = (maxBatch + 1) / 2;
  const meanUs = points.reduce((sum, [, us]) => sum + us!, 0) / maxBatch;
  const covariance = points.reduce((sum, [b, us]) => sum + (b! - meanB) * (us! - meanUs), 0);
  const variance = points.reduce((sum, [b]) => sum + (b! - meanB) ** 2, 0);
  const alphaUs = covariance / variance;
  return { alphaUs, betaUs: meanUs - alphaUs * meanB };
}

it('every model of the zoo can batch within its SLO, also staggered over two GPUs', () => {
  for (const { name, profile, sloNs } of zoo) {
    assert(profile.largestBatchWithin(sloNs / 1.5) >= 4, name);
  }
});

it('every model of the zoo says where its figures were published', () => {
  for (const { name, source } of zoo) assert.match(source, /^uwsampl\/nexus, tests\/data\/model_db\/profiles\/TITAN_X_\(Pascal\)\/\w+:\w+:1\.txt$/, name);
});

it('a model of the zoo is found by name, and an unknown name lists them', () => {
  assert.equal(zooModel('vgg-s', 'models[0].profile').profile.alphaNs, 826_000);
  assert.throws(() => zooModel('vgg', 'models[0].profile'), /models\[0\]\.profile: got "vgg", must be a model of the zoo: vgg16, vgg-face, vgg-s, yolo9000/);
});

it('the lines of the zoo are least-squares fits to the published profiles', { skip }, () => {
  for (const { name, profile, source } of zoo) {
    // The copies have _ for the : of the published names.
    const file = source.split('/').at(-1)!.replace('.txt', '').replaceAll(':', '_');
    const { alphaUs, betaUs } = fitUs(readFileSync(new URL(`nexus_TITANX_${file}.txt`, SHARED_PROFILES), 'utf8'), profile.maxBatch);
    assert(Math.abs(alphaUs * 1e3 / profile.alphaNs - 1) < 0.001, `${name}: alpha ${alphaUs} us against ${profile.alphaNs} ns`);
    assert(Math.abs(betaUs * 1e3 / profile.betaNs - 1) < 0.005, `${name}: beta ${betaUs} us against ${profile.betaNs} ns`);
  }
});
