/**
 * `rubato doctor`: what this machine offers to rubato, and what each finding means for the user.
 * `doctor()` looks, `printDoctor()` tells; the report is plain JSON with stable keys.
 */
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { join } from 'node:path';

import { loadNative, type CudaProbe, type NativeAddon } from '../devices/cuda/native.js';

export interface DoctorReport {
  readonly node: {
    readonly version: string;
    readonly required: string;
    readonly supported: boolean;
  };
  readonly platform: {
    readonly os: string;
    readonly arch: string;
    /** Linux on x64 or arm64; elsewhere the TypeScript parts work as well as they can. */
    readonly supported: boolean;
  };
  readonly cpu: {
    readonly model: string;
    /** Cores that this process may use. */
    readonly cores: number;
    /** Cores' worth of CPU time that the container grants; null without a limit. */
    readonly quotaCores: number | null;
    readonly quotaSource: 'cgroup v1' | 'cgroup v2' | null;
    /** min(cores, quotaCores): with fewer than the threads in use, rubato never spins. */
    readonly usableCores: number;
  };
  readonly addon: {
    readonly loaded: boolean;
    readonly reason: string;
  };
  readonly cuda: CudaProbe;
  readonly timer: {
    /** How late a timed sleep wakes. */
    readonly wakeUpErrorUs: WakeUpError;
    /** The same with the thread's timer slack at 1 ns; null without the addon or where it cannot be set. */
    readonly wakeUpErrorTunedUs: WakeUpError | null;
  };
}

export interface WakeUpError {
  readonly p50: number;
  readonly max: number;
}

export interface CpuQuota {
  readonly cores: number;
  readonly source: 'cgroup v1' | 'cgroup v2';
}

const NODE_MINIMUM = [20, 19] as const;
/** Enough for a median that holds still, few enough that all of doctor stays below 100 ms. */
const SLEEPS = 15;
const SLEEP_MS = 1;

export function doctor(): DoctorReport {
  const { native, reason } = loadNative();
  const quota = cpuQuota();
  const cores = availableParallelism();
  return {
    node: {
      version: process.versions.node,
      required: `>=${NODE_MINIMUM.join('.')}`,
      supported: nodeIsSupported(process.versions.node),
    },
    platform: {
      os: process.platform,
      arch: process.arch,
      supported: process.platform === 'linux' && (process.arch === 'x64' || process.arch === 'arm64'),
    },
    cpu: {
      model: cpus()[0]?.model.trim() ?? 'unknown',
      cores,
      quotaCores: quota?.cores ?? null,
      quotaSource: quota?.source ?? null,
      usableCores: Math.min(cores, quota?.cores ?? cores),
    },
    addon: { loaded: native !== null, reason },
    cuda: native?.probeCuda() ?? {
      available: false,
      reason: 'not looked for: it takes the native addon',
      driverVersion: null,
      devices: [],
    },
    timer: {
      wakeUpErrorUs: measureWakeUpErrorUs(),
      wakeUpErrorTunedUs: native === null ? null : measureTunedWakeUpErrorUs(native),
    },
  };
}

export function nodeIsSupported(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > NODE_MINIMUM[0] || (major === NODE_MINIMUM[0] && minor >= NODE_MINIMUM[1]);
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

function measureTunedWakeUpErrorUs(native: NativeAddon): WakeUpError | null {
  if (!native.setTimerSlackNs(1)) return null;
  const tuned = measureWakeUpErrorUs();
  native.setTimerSlackNs(0);
  return tuned;
}

function measureWakeUpErrorUs(): WakeUpError {
  const word = new Int32Array(new SharedArrayBuffer(4));
  const lateUs = new Float64Array(SLEEPS);
  for (let sleep = 0; sleep < SLEEPS; sleep += 1) {
    const startMs = performance.now();
    Atomics.wait(word, 0, 0, SLEEP_MS);
    lateUs[sleep] = (performance.now() - startMs - SLEEP_MS) * 1000;
  }
  lateUs.sort();
  const rounded = (index: number) => Math.round((lateUs[index] ?? 0) * 10) / 10;
  return { p50: rounded(SLEEPS >> 1), max: rounded(SLEEPS - 1) };
}

/** `good`: as wished. `note`: works, with a limit to know. `bad`: has to be put right. */
type Mark = 'good' | 'note' | 'bad';
type Finding = readonly [mark: Mark, what: string, value: string, meaning: string];

const SIGNS: Record<Mark, string> = { good: 'ok', note: '--', bad: '!!' };

export function printDoctor(report: DoctorReport, write = (text: string): unknown => process.stdout.write(text)): void {
  const findings = [
    nodeFinding(report),
    platformFinding(report),
    ...cpuFindings(report),
    addonFinding(report),
    ...cudaFindings(report),
    ...timerFindings(report),
  ];
  const whatWidth = Math.max(...findings.map(([, what]) => what.length));
  const valueWidth = Math.max(...findings.map(([, , value]) => value.length));
  for (const [mark, what, value, meaning] of findings) {
    write(`${SIGNS[mark]}  ${what.padEnd(whatWidth)}  ${value.padEnd(valueWidth)}  ${meaning}\n`);
  }
}

function nodeFinding({ node }: DoctorReport): Finding {
  if (node.supported) return ['good', 'Node.js', node.version, `supported (${node.required})`];
  return ['bad', 'Node.js', node.version, `too old: rubato needs ${node.required}`];
}

function platformFinding({ platform }: DoctorReport): Finding {
  const value = `${platform.os} ${platform.arch}`;
  if (platform.supported) return ['good', 'platform', value, 'supported'];
  return ['note', 'platform', value, 'not tested: the TypeScript parts should work, CUDA does not'];
}

function cpuFindings({ cpu }: DoctorReport): Finding[] {
  const cores: Finding = cpu.cores >= 2
    ? ['good', 'cores', String(cpu.cores), 'your program and the scheduler each have one']
    : ['note', 'cores', String(cpu.cores), 'your program and the scheduler share it: it parks and never spins'];
  if (cpu.quotaCores === null) return [cores, ['good', 'CPU quota', 'none', 'no container limit is in force']];
  const value = `${Number(cpu.quotaCores.toFixed(2))} of ${cpu.cores}`;
  if (cpu.quotaCores >= 2) return [cores, ['good', 'CPU quota', value, `${cpu.quotaSource}: enough for two busy threads`]];
  return [cores, ['note', 'CPU quota', value, `${cpu.quotaSource}: busy threads are throttled, so rubato parks and never spins`]];
}

function addonFinding({ addon }: DoctorReport): Finding {
  if (addon.loaded) return ['good', 'native addon', 'loaded', 'CUDA can be looked for, and sleeps end sooner'];
  return ['note', 'native addon', 'not loaded', `${addon.reason}; everything but CUDA works, sleeps wake a little later`];
}

function cudaFindings({ cuda }: DoctorReport): Finding[] {
  if (!cuda.available) {
    const value = cuda.driverVersion === null ? 'not available' : `driver for ${cuda.driverVersion}`;
    return [['note', 'CUDA', value, `${cuda.reason}; emulated and callback devices work`]];
  }
  const driver: Finding = ['good', 'CUDA', `driver for ${cuda.driverVersion}`, `${cuda.devices.length} GPU(s) can be used`];
  return [driver, ...cuda.devices.map(({ index, name, memoryBytes }): Finding =>
    ['good', `GPU ${index}`, name, `${(memoryBytes / 2 ** 30).toFixed(1)} GiB of memory`])];
}

function timerFindings({ timer }: DoctorReport): Finding[] {
  const plain = wakeUpFinding('wake-up error', timer.wakeUpErrorUs, 'how late a sleep ends; the scheduler wakes that much earlier');
  if (timer.wakeUpErrorTunedUs === null) return [plain];
  return [plain, wakeUpFinding('  with slack 1 ns', timer.wakeUpErrorTunedUs, 'the same once the addon has asked the kernel to be exact')];
}

function wakeUpFinding(what: string, { p50, max }: WakeUpError, meaning: string): Finding {
  const value = `${Math.round(p50)} µs, at most ${Math.round(max)} µs`;
  if (p50 <= 250) return ['good', what, value, meaning];
  return ['note', what, value, `${meaning}; this machine's timers are coarse, so expect late batches under tight SLOs`];
}
