/** Workloads drawn from a seed, to compare policies on what nobody has chosen. */
import { describeValue } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { Random } from '../model/random.js';
import { parseWorkload, type Workload } from './workload.js';

const MOST_MODELS = 64;
const MOST_GPUS = 64;
/** A bursty model's gaps have a shape between these. */
const SHAPES = [0.05, 0.5] as const;

/**
 * One to 64 models on one to 64 GPUs. α from 50 µs to 3 ms, β from 2 to 20 α, SLOs from 3 to 16 ℓ(1), but at least 10 ms; popularity
 * even or by Zipf's law; arrivals of all models Poisson, or gamma of one shape. The same seed and number give the same.
 * @throws InvalidOptionError for a seed or number that is not an integer of at least 0.
 */
export function drawnWorkload(seed: number, number: number): Workload {
  if (!(Number.isInteger(number) && number >= 0 && number < 2 ** 32)) throw new InvalidOptionError('number', `got ${describeValue(number)}, must be an integer from 0 to 2^32 - 1`);
  const random = new Random(seed, number);
  const between = (low: number, high: number): number => low * (high / low) ** random.uniform();
  const count = Math.round(between(1, MOST_MODELS));
  const gpus = Math.round(between(1, MOST_GPUS));
  const exponent = random.uniform() < 0.5 ? 0 : between(0.5, 1.2);
  const arrivals = random.uniform() < 0.5 ? 'poisson' : `gamma:${between(...SHAPES).toFixed(3)}`;
  const models = Array.from({ length: count }, (_, rank) => {
    const alphaUs = Math.round(between(50, 3000));
    const betaUs = Math.round(alphaUs * between(2, 20));
    const sloMs = Math.max(10, Math.round(((alphaUs + betaUs) / 1e3) * between(3, 16)));
    return { alphaUs, betaUs, sloMs, rateShare: (rank + 1) ** -exponent };
  });
  const name = `drawn ${seed}/${number}`;
  return parseWorkload({ gpus, arrivals, models }, name, name);
}
