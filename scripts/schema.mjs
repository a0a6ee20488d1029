// npm run schema: writes workloads/schema.json from the schema that checks workload files. A test holds that it is fresh.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { workloadJsonSchema } from '../dist/sim/workload-schema.js';
import { root } from './steps.mjs';

writeFileSync(join(root, 'workloads/schema.json'), `${JSON.stringify(workloadJsonSchema(), null, 2)}\n`);
