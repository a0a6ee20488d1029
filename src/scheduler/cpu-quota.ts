/** The CPU time that a container grants to this process: what Linux control groups (v1 and v2) say. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface CpuQuota {
  readonly cores: number;
  readonly source: 'cgroup v1' | 'cgroup v2';
}

/**
 * The tightest CPU limit of this process's control groups, which nest: each folder from the process's own up to the
 * root may set one. `root` is where the file system begins; tests put a small tree there.
 */
export function cpuQuota(root = '/'): CpuQuota | null {
  let tightest: CpuQuota | null = null;
  for (const line of (readText(join(root, 'proc/self/cgroup')) ?? '').split('\n')) {
    const [, controllers, group] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (controllers === undefined || group === undefined) continue;
    const found = controllers === '' ? quotaV2(root, group)
      : controllers.split(',').includes('cpu') ? quotaV1(root, group)
      : null;
    if (found !== null && (tightest === null || found.cores < tightest.cores)) tightest = found;
  }
  return tightest;
}

function quotaV2(root: string, group: string): CpuQuota | null {
  // "200000 100000" is two cores' worth per period, "max 100000" no limit.
  return tightestOf(join(root, 'sys/fs/cgroup'), group, 'cgroup v2', (folder) => {
    const [quotaUs, periodUs] = (readText(join(folder, 'cpu.max')) ?? '').split(/\s+/);
    return Number(quotaUs) / Number(periodUs);
  });
}

function quotaV1(root: string, group: string): CpuQuota | null {
  // The quota is -1 without a limit.
  return tightestOf(join(root, 'sys/fs/cgroup/cpu'), group, 'cgroup v1', (folder) => {
    const quotaUs = Number(readText(join(folder, 'cpu.cfs_quota_us')) ?? NaN);
    return quotaUs / Number(readText(join(folder, 'cpu.cfs_period_us')) ?? NaN);
  });
}

function tightestOf(
  mount: string,
  group: string,
  source: CpuQuota['source'],
  coresOf: (folder: string) => number,
): CpuQuota | null {
  let tightest = Infinity;
  const parts = group.split('/').filter((part) => part !== '' && part !== '..');
  for (let depth = parts.length; depth >= 0; depth -= 1) {
    const cores = coresOf(join(mount, ...parts.slice(0, depth)));
    if (cores > 0 && cores < tightest) tightest = cores;
  }
  return tightest === Infinity ? null : { cores: tightest, source };
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}
