import { describeValue } from './duration.js';
import { InvalidOptionError } from './errors.js';
import { LatencyProfile } from './latency-profile.js';

/** A model whose latency profile was measured on a real GPU. */
export interface ZooModel {
  readonly name: string;
  readonly profile: LatencyProfile;
  /** A latency objective under which batching pays. */
  readonly sloNs: number;
  /** Where its figures were measured and published. */
  readonly source: string;
}

/**
 * Measured on a TITAN X (Pascal): least-squares fits to the profiles that the Nexus project published, over batches of
 * 1 to 64 (yolo9000: all 24 that were measured). Above 64 the VGG models cost about 7 % more per request, so maxBatch
 * ends where the fit does. The objectives are ours.
 */
export const zoo: readonly ZooModel[] = [
  titanX('vgg16', 3_372_000, 1_944_000, 64, 100e6, 'caffe:vgg16:1.txt'),
  titanX('vgg-face', 3_364_000, 2_093_000, 64, 150e6, 'caffe:vgg_face:1.txt'),
  titanX('vgg-s', 826_000, 1_829_000, 64, 50e6, 'caffe:vgg_s:1.txt'),
  titanX('yolo9000', 19_430_000, 1_290_000, 24, 250e6, 'darknet:yolo9000:1.txt'),
];

/** @throws InvalidOptionError that lists the models there are. */
export function zooModel(name: unknown, path: string): ZooModel {
  for (const model of zoo) {
    if (model.name === name) return model;
  }
  const names = zoo.map((model) => model.name).join(', ');
  throw new InvalidOptionError(path, `got ${describeValue(name)}, must be a model of the zoo: ${names}`);
}

function titanX(name: string, alphaNs: number, betaNs: number, maxBatch: number, sloNs: number, file: string): ZooModel {
  const source = `uwsampl/nexus, tests/data/model_db/profiles/TITAN_X_(Pascal)/${file}`;
  return { name, profile: LatencyProfile.linear({ alphaNs, betaNs, maxBatch }, `zoo.${name}`), sloNs, source };
}
