/** Options that the other files of this folder share. Nothing here runs: the compiler is the test. */
import type { Batch } from '#rubato/index.js';

export const timing = { slo: '25ms', profile: { alpha: '1ms', beta: '5ms', maxBatch: 8 } } as const;

export const image = { dtype: 'float32', shape: [3, 224, 224] } as const;
export const ids = { dtype: 'int64', shape: [128] } as const;
export const mask = { dtype: 'bool', shape: [128] } as const;

export const resnet = { name: 'resnet', ...timing, inputs: { image }, outputs: { scores: { dtype: 'float32', shape: [1000] } } } as const;
export const bert = { name: 'bert', ...timing, inputs: { ids, mask }, outputs: { embedding: { dtype: 'float16', shape: [768] } } } as const;

export const lengths = async (batch: Batch<string>): Promise<number[]> => batch.inputs.map((text) => text.length);
