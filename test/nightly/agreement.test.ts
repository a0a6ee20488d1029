/** What a simulation says of recorded traffic is what happened: the same requests live and in virtual time, on a machine that does little else. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const RUBATO = fileURLToPath(new URL('../../../bin/rubato', import.meta.url));
/** 30 % of the staggered optimum. */
const WORKLOADS = [
  { workload: 'r50', rate: 2094 },
  { workload: 'mix3', rate: 2494 },
] as const;
const MOST_GOODPUT_APART = 0.01;
const MOST_BATCH_APART = 0.05;

interface Outcome {
  readonly requests: number;
  readonly good: number;
  readonly meanBatch: number;
}

describe('live and in virtual time', () => {
  const folder = mkdtempSync(join(tmpdir(), 'rubato-'));
  after(() => rmSync(folder, { recursive: true }));

  for (const { workload, rate } of WORKLOADS) {
    test(`${workload} at 30 % of its optimum: goodput within 1 %, mean batch within 5 %`, { timeout: 120_000 }, async () => {
      const file = join(folder, `${workload}.csv.gz`);
      const run = promisify(execFile);
      await run(process.execPath, [RUBATO, 'bench', 'load', '--workload', workload, '--rate', String(rate), '--seconds', '10', '--record', file]);
      const { stdout } = await run(process.execPath, [RUBATO, 'simulate', '--trace', file, '--json', '-']);
      const { recorded, baseline } = JSON.parse(stdout) as { recorded: Outcome; baseline: Outcome };
      const text = JSON.stringify({ recorded, baseline });
      assert.ok(recorded.requests > 9 * rate, text);
      assert.ok(Math.abs(recorded.good - baseline.good) <= MOST_GOODPUT_APART * baseline.good, text);
      assert.ok(Math.abs(recorded.meanBatch - baseline.meanBatch) <= MOST_BATCH_APART * baseline.meanBatch, text);
    });
  }
});
