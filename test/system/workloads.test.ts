/** docs/workloads.md and workloads/schema.json: what they say is what is read and run. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { recordedOf } from '#rubato/cli/recorded.js';
import { formatDurationNs } from '#rubato/model/duration.js';
import { zoo } from '#rubato/model/zoo.js';
import { POLICIES } from '#rubato/sim/own-policies.js';
import { workloadJsonSchema } from '#rubato/sim/workload-schema.js';
import { loadWorkload, parseWorkload, staggeredOptimum } from '#rubato/sim/workload.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const page = readFileSync(join(ROOT, 'docs/workloads.md'), 'utf8');
const folder = mkdtempSync(join(tmpdir(), 'rubato-workloads-'));
after(() => rmSync(folder, { recursive: true, force: true }));

interface JsonSchema {
  readonly properties: Readonly<Record<string, { readonly description: string; readonly items?: JsonSchema; readonly properties?: JsonSchema['properties'] }>>;
}

/** The page's files by name: a line that begins with `NAME`, then the block. */
const examples = new Map([...page.matchAll(/^`([\w-]+\.(?:yaml|json|csv))`[^\n]*:\n\n```\w+\n(.*?)^```/gms)].map((match) => [match[1]!, match[2]!]));
for (const [name, content] of examples) writeFileSync(join(folder, name), content);
const workloads = [...examples.keys()].filter((name) => !name.endsWith('.csv'));

const published = JSON.parse(readFileSync(join(ROOT, 'workloads/schema.json'), 'utf8')) as JsonSchema;

describe('docs/workloads.md', () => {
  test('has an example of each kind', () => {
    assert.deepEqual([...examples.keys()].sort(), ['day.yaml', 'hill.yaml', 'many.yaml', 'recorded.yaml', 'requests.csv', 'small.yaml', 'zoo.json']);
    assert.equal(page.match(/^```(yaml|json|csv)$/gm)!.length, examples.size, 'a block has no name');
  });

  for (const name of workloads) {
    test(`its ${name} is read and simulated`, () => {
      const loaded = loadWorkload(join(folder, name));
      const recorded = recordedOf({ speed: 1 }, loaded, 1);
      const workload = recorded?.workload ?? loaded;
      const ratePerSecond = workload.ratePerSecond ?? 0.2 * staggeredOptimum(workload);
      const trace = recorded === null ? {} : { traceNs: recorded.timesNs, traceModels: recorded.models };
      const result = POLICIES.get('adaptive+adaptive')!({
        workload, gpus: workload.gpus, ratePerSecond, seed: 1, seconds: 2, warmupSeconds: 0, margins: { controlNs: 0, transferNs: 0, responseNs: 0, jitterNs: 0 }, ...trace,
      });
      assert.ok(result.offered > 0 && result.good === result.offered, `${result.good} of ${result.offered}`);
      assert.equal(result.models.length, workload.models.length);
      if (recorded !== null) assert.deepEqual([result.offered, result.models.map(({ offered }) => offered)], [3, [2, 1]]);
    });
  }

  test('its commands run', { timeout: 300_000 }, async () => {
    const commands = /^```sh\n(.*?)^```/ms.exec(page)![1]!.trimEnd().split('\n');
    assert.ok(commands.length >= 3);
    for (const command of commands) {
      const [program, ...args] = command.split(' ');
      assert.equal(program, 'rubato');
      const { stdout } = await promisify(execFile)(process.execPath, [join(ROOT, 'bin/rubato'), ...args], { cwd: folder, timeout: 90_000 });
      assert.match(stdout, /^goodput \/s +\d/m, command);
    }
  });

  test('describes every field, of the workload and of what is in it', () => {
    const { models, segments, trace } = published.properties;
    const sections: [heading: string, fields: string[]][] = [
      ['The workload', Object.keys(published.properties)], ['A model', Object.keys(models!.items!.properties)],
      ['Segments', Object.keys(segments!.items!.properties)], ['A recorded trace', Object.keys(trace!.properties!)],
    ];
    for (const [heading, fields] of sections) {
      const section = page.split(/^## /m).find((part) => part.startsWith(`${heading}\n`))!;
      const described = [...section.matchAll(/^\| (`.*?) \|/gm)].flatMap((row) => [...row[1]!.matchAll(/`(.*?)`/g)].map((name) => name[1]!));
      assert.deepEqual(described.sort(), fields.sort(), heading);
    }
  });

  test('lists the models of the zoo as they are', () => {
    for (const { name, profile, sloNs, source } of zoo) {
      const figures = [formatDurationNs(profile.alphaNs), formatDurationNs(profile.betaNs), profile.maxBatch, formatDurationNs(sloNs), source];
      assert.ok(page.includes(`| \`${name}\` | ${figures.join(' | ')} |`), name);
    }
  });
});

describe('workloads/schema.json', () => {
  const accepts = z.fromJSONSchema(published as unknown as Parameters<typeof z.fromJSONSchema>[0]);

  test('is what npm run schema writes', () => {
    assert.deepEqual(published, JSON.parse(JSON.stringify(workloadJsonSchema())), 'run npm run schema');
  });

  test('accepts the workloads that ship and those of docs/workloads.md', () => {
    const named = JSON.parse(readFileSync(join(ROOT, 'workloads/named.json'), 'utf8')) as Record<string, unknown>;
    const single = readdirSync(join(ROOT, 'workloads')).filter((file) => file !== 'named.json' && file !== 'schema.json');
    const all = [...Object.values(named), ...single.map((file) => parseYaml(readFileSync(join(ROOT, 'workloads', file), 'utf8')) as unknown), ...workloads.map((name) => parseYaml(examples.get(name)!) as unknown)];
    assert.ok(all.length >= 15);
    for (const workload of all) assert.doesNotThrow(() => accepts.parse(workload), JSON.stringify(workload));
  });

  test('refuses what the reader refuses for the form of a field', () => {
    const model = { alphaUs: 1000, betaUs: 5000, slo: '50ms' };
    const good = { gpus: 1, models: [model], segments: [{ seconds: 1, scale: 1 }] };
    assert.doesNotThrow(() => accepts.parse(good));
    const wrong: object[] = [
      { models: [model] }, { ...good, gpus: 0 }, { ...good, gpu: 1 }, { ...good, models: [] }, { ...good, arrivals: 'bursty' }, { ...good, popularity: 'zipf:x' }, { ...good, rate: 0 },
      { ...good, models: [{ ...model, slo: '50 minutes' }] }, { ...good, models: [{ ...model, count: 0 }] }, { ...good, models: [{ zoo: 'vgg' }] }, { ...good, models: [{ ...model, profile: 'vgg16' }] },
      { ...good, models: [{ profile: { alpha: 1 }, slo: 50 }] }, { ...good, segments: [{ scale: 1 }] }, { ...good, segments: [{ seconds: 1, scale: 1, up: true }] }, { ...good, trace: {} },
    ];
    for (const workload of wrong) {
      assert.throws(() => accepts.parse(workload), JSON.stringify(workload));
      assert.throws(() => parseWorkload(workload, 'f', 'f'), JSON.stringify(workload));
    }
  });

  test('says of every field what it is for', () => {
    const fieldsOf = ({ properties }: JsonSchema): { description: string }[] => Object.values(properties).flatMap((field) => [field, ...(field.items?.properties ? fieldsOf(field.items) : []), ...(field.properties ? fieldsOf(field as JsonSchema) : [])]);
    const fields = fieldsOf(published);
    assert.ok(fields.length > 30);
    for (const field of fields) assert.ok(field.description?.length > 4, JSON.stringify(field));
  });
});
