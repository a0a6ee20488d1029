import { InvalidOptionError } from './errors.js';
import { LatencyProfile } from './latency-profile.js';

/** A model whose latency profile was measured on a real GPU. */
export interface ZooModel {
  readonly name: string;
  readonly profile: LatencyProfile;
  /** A latency objective under which batching pays. */
  readonly sloNs: number;
}

/**
 * Measured on a TITAN X (Pascal): least-squares fits to the profiles that the Nexus project published
 * (uwsampl/nexus, tests/data/model_db/profiles), over batches of 1 to 64 (yolo9000: all 24 that were measured).
 * Above 64 the VGG models cost about 7 % more per request, so maxBatch ends where the fit does.
 */
export const zoo: readonly ZooModel[] = [
  titanX('vgg16', 3_372_000, 1_944_000, 64, 100e6),
  titanX('vgg-face', 3_364_000, 2_093_000, 64, 150e6),
  titanX('vgg-s', 826_000, 1_829_000, 64, 50e6),
  titanX('yolo9000', 19_430_000, 1_290_000, 24, 250e6),
];

/** @throws InvalidOptionError that lists the models there are. */
export function zooModel(name: string, path: string): ZooModel {
  for (const model of zoo) {
    if (model.name === name) return model;
  }
  const names = zoo.map((model) => model.name).join(', ');
  throw new InvalidOptionError(path, `got ${JSON.stringify(name)}, must be a model of the zoo: ${names}`);
}

function titanX(name: string, alphaNs: number, betaNs: number, maxBatch: number, sloNs: number): ZooModel {
  return { name, profile: LatencyProfile.linear({ alphaNs, betaNs, maxBatch }, `zoo.${name}`), sloNs };
}
