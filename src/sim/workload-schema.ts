/** The fields of a workload file: one schema for the checks, and for the JSON Schema that editors use (`workloads/schema.json`). */
import { z } from 'zod';
import { describeValue, DURATION } from '../model/duration.js';
import { InvalidOptionError } from '../model/errors.js';
import { LARGEST_BATCH } from '../model/latency-profile.js';
import { zoo } from '../model/zoo.js';

const LARGEST_GPUS = 4096;
export const LARGEST_MODELS = 4096;
const LARGEST_SEGMENTS = 10_000;
const LARGEST_SCALE = 1e6;
const LONGEST_SECONDS = 1e7;

const number = (rule: string): z.ZodNumber => z.number({ error: rule });
const positive = (rule: string): z.ZodNumber => number(rule).positive(rule);
const integer = (rule: string, largest: number): z.ZodNumber => number(rule).int(rule).min(1, rule).max(largest, rule);
const text = (rule: string): z.ZodString => z.string({ error: rule }).min(1, rule);
const flag = z.boolean({ error: 'must be true or false' });
const micros = number('must be microseconds >= 0').min(0, 'must be microseconds >= 0');
const rate = positive('must be requests per second > 0');
const seconds = positive(`must be seconds > 0, at most ${LONGEST_SECONDS}`).max(LONGEST_SECONDS, `must be seconds > 0, at most ${LONGEST_SECONDS}`);

/** Durations, profiles, arrivals and popularity have parsers of their own, whose errors say more than a schema's. */
const parsed = (description: string, anyOf: object[]): z.ZodUnknown => z.unknown().meta({ description, anyOf });
const durationForms = [{ type: 'string', pattern: DURATION.source }, { type: 'number', minimum: 0 }];
const arrivals = (description: string): z.ZodUnknown => parsed(description, [{ enum: ['const', 'poisson'] }, { type: 'string', pattern: '^gamma:(\\d+(\\.\\d*)?|\\.\\d+)$' }]);
const profile = parsed('Latency profile l(b): durations for b = 1, 2, …, or alpha·b + beta.', [
  { type: 'array', items: { anyOf: durationForms }, minItems: 1, maxItems: LARGEST_BATCH },
  {
    type: 'object',
    properties: { alpha: { anyOf: durationForms }, beta: { anyOf: durationForms }, maxBatch: { type: 'integer', minimum: 1, maximum: LARGEST_BATCH } },
    required: ['alpha', 'beta'],
    additionalProperties: false,
  },
]);

const modelSchema = z.strictObject({
  name: text('must be a name').describe('Default: that in the zoo, else m and its number.').optional(),
  count: integer(`must be an integer from 1 to ${LARGEST_MODELS}`, LARGEST_MODELS).describe('So many models like this one, each with its rate. Their names get -1, -2, ….').optional(),
  zoo: parsed('A model of the zoo: its profile and, unless stated, its SLO and name.', [{ enum: zoo.map(({ name }) => name) }]).optional(),
  profile: profile.optional(),
  alphaUs: micros.describe('Microseconds per request: l(b) = alphaUs·b + betaUs.').optional(),
  betaUs: micros.describe('Microseconds per batch.').optional(),
  maxBatch: integer(`must be an integer from 1 to ${LARGEST_BATCH}`, LARGEST_BATCH).describe('Largest batch. Default: where the profile ends, 1024 with alphaUs and betaUs.').optional(),
  slo: parsed('Latency objective: a duration such as 25ms, or a number of milliseconds.', durationForms).optional(),
  sloMs: positive('must be milliseconds > 0').describe('Latency objective in milliseconds.').optional(),
  rateShare: positive('must be a share > 0').describe('Part of the rate, relative to those of the other models.').optional(),
  rate: rate.describe('Requests per second of this model.').optional(),
  arrivals: arrivals('In place of the workload’s.').optional(),
}, { error: 'must be an object' });

const segmentSchema = z.strictObject({
  seconds: seconds.describe('Length.'),
  scale: number(`must be a number from 0 to ${LARGEST_SCALE}`).min(0, `must be a number from 0 to ${LARGEST_SCALE}`).max(LARGEST_SCALE, `must be a number from 0 to ${LARGEST_SCALE}`)
    .describe('Times the workload’s rate.').optional(),
  rate: number('must be requests per second >= 0').min(0, 'must be requests per second >= 0').describe('Requests per second of all models, in place of scale.').optional(),
  ramp: flag.describe('In a straight line from where the segment before ended (the first: the last one) to this scale or rate. Default false: constant.').optional(),
  arrivals: arrivals('Of all models, in this segment.').optional(),
}, { error: 'must be an object' });

const traceSchema = z.strictObject({
  file: text('must be the path of a CSV file').describe('CSV file with a header row; a relative path starts at the workload file.'),
  timeColumn: text('must be the name of a column').describe('Column of the arrival times. Default: found by its usual names.').optional(),
  durationColumn: text('must be the name of a column').describe('Column of seconds to take off the time, where that is when a request ended.').optional(),
  modelColumn: text('must be the name of a column').describe('Column with the name of each request’s model. Default: drawn by the models’ shares.').optional(),
  speed: positive('must be a number > 0').describe('2 plays it twice as fast. Default 1.').optional(),
  sort: flag.describe('Whether rows may come in any order. Default false: then it is an error.').optional(),
}, { error: 'must be an object with a file' });

export const workloadSchema = z.strictObject({
  $schema: z.string({ error: 'must be the address of a schema' }).describe('For editors.').optional(),
  name: text('must be a name').describe('Default: that of the file.').optional(),
  gpus: integer(`must be an integer from 1 to ${LARGEST_GPUS}`, LARGEST_GPUS).describe('Emulated GPUs.'),
  models: z.array(modelSchema, { error: 'must be an array of models' })
    .min(1, 'must hold at least one model').max(LARGEST_MODELS, `must hold at most ${LARGEST_MODELS} models`)
    .describe('Add new ones at the end: arrivals depend on the number of a model.'),
  popularity: parsed('Shares of the rate where the models state none: equal (the default), or zipf:S, by which the k-th model has 1/k^S.', [{ enum: ['equal', 'zipf'] }, { type: 'string', pattern: '^zipf:(\\d+(\\.\\d*)?|\\.\\d+)$' }]).optional(),
  arrivals: arrivals('How requests arrive: const, poisson (the default), or gamma:SHAPE, bursty below 1.').optional(),
  rate: rate.describe('Requests per second of all models. Default: left to the command.').optional(),
  seconds: seconds.describe('How long to offer it. Default: the segments, once; else left to the command.').optional(),
  segments: z.array(segmentSchema, { error: 'must be an array of segments' })
    .min(1, 'must hold at least one segment').max(LARGEST_SEGMENTS, `must hold at most ${LARGEST_SEGMENTS} segments`)
    .describe('How the rate changes over time; after the last the first comes again.').optional(),
  trace: traceSchema.describe('Recorded requests in place of a rate.').optional(),
  staggeredOptimumPerSecond: rate.describe('A bound that is known; rubato computes its own.').optional(),
  fluidBoundPerSecond: rate.describe('A bound that is known; rubato computes its own.').optional(),
}, { error: 'must be an object with gpus and models' });

export type ModelInput = z.output<typeof modelSchema>;
export type SegmentInput = z.output<typeof segmentSchema>;
export type TraceInput = z.output<typeof traceSchema>;
export type WorkloadInput = z.output<typeof workloadSchema>;

/** The content of `workloads/schema.json`. What excludes what, such as slo and sloMs, only the reader checks. */
export function workloadJsonSchema(): object {
  const { $schema, ...rest } = z.toJSONSchema(workloadSchema, { target: 'draft-7', io: 'input' });
  return { $schema, title: 'rubato workload', ...rest };
}

/** The fields, checked one by one. */
export function checkFields(input: unknown, source: string): WorkloadInput {
  const checked = workloadSchema.safeParse(input);
  if (!checked.success) throw issueError(checked.error.issues[0]!, input, source);
  return checked.data;
}

function issueError(issue: z.core.$ZodIssue, input: unknown, source: string): InvalidOptionError {
  if (issue.code === 'unrecognized_keys') {
    const path = fieldPath(source, [...issue.path, issue.keys[0]!]);
    return new InvalidOptionError(path, `unknown field, allowed are ${Object.keys(schemaAt(issue.path[0]).shape).join(', ')}`);
  }
  let value: unknown = input;
  for (const key of issue.path) value = (value as Record<PropertyKey, unknown>)[key];
  const got = value === undefined ? 'is missing' : `got ${describeValue(value)}`;
  return new InvalidOptionError(fieldPath(source, issue.path), `${got}, ${issue.message}`);
}

function schemaAt(field: PropertyKey | undefined): { shape: object } {
  if (field === 'models') return modelSchema;
  if (field === 'segments') return segmentSchema;
  return field === 'trace' ? traceSchema : workloadSchema;
}

/** `my.json: models[1].slo` */
function fieldPath(source: string, keys: readonly PropertyKey[]): string {
  let path = '';
  for (const key of keys) {
    if (typeof key === 'number') path += `[${key}]`;
    else path += path === '' ? String(key) : `.${String(key)}`;
  }
  return path === '' ? source : `${source}: ${path}`;
}
