/**
 * `rubato doctor`: what this machine offers to rubato, and what each finding means for the user.
 * `doctor()` looks, `printDoctor()` tells; the report is plain JSON with stable keys.
 */
import { availableParallelism, cpus } from 'node:os';

import { chipFor } from '../devices/cuda/model-file.js';
import { CUDA_LOAD_LIMIT, cudaDevices, loadNative, type CudaProbe, type NativeAddon } from '../devices/cuda/native.js';
import type { Duration } from '../model/duration.js';
import { LatencyProfile } from '../model/latency-profile.js';
import { cpuQuota, type CpuQuota } from '../scheduler/cpu-quota.js';
import { chooseTopology, poolCapacityPerSecond, type ProfiledModel, type Topology, usableCores } from '../scheduler/topology.js';
import { loadWorkload } from '../sim/workload.js';

export { cpuQuota };

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
    readonly quotaSource: CpuQuota['source'] | null;
    /** min(cores, quotaCores rounded up): with fewer than the threads in use, rubato never spins. */
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
  /** The threads that a scheduler starts on this machine: for a small service, then for a big one. */
  readonly topology: readonly LoadTopology[];
}

export interface LoadTopology extends Topology {
  /** What the scheduler would serve. */
  readonly load: string;
}

export interface WakeUpError {
  readonly p50: number;
  readonly max: number;
}

const NODE_MINIMUM = [20, 19] as const;
/** Enough for a median that holds still, few enough that all of doctor stays below 100 ms. */
const SLEEPS = 15;
const SLEEP_MS = 1;

/** `cudaLimit`: how long the CUDA driver may take to answer. */
export function doctor(cudaLimit: Duration = CUDA_LOAD_LIMIT): DoctorReport {
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
      usableCores: usableCores(cores, quota),
    },
    addon: { loaded: native !== null, reason },
    cuda: native === null ? { available: false, reason: 'not looked for: it takes the native addon', driverVersion: null, devices: [] } : cudaDevices(cudaLimit),
    timer: {
      wakeUpErrorUs: measureWakeUpErrorUs(),
      wakeUpErrorTunedUs: native === null ? null : measureTunedWakeUpErrorUs(native),
    },
    topology: topologies(usableCores(cores, quota)),
  };
}

/** Exported for its tests: `doctor` calls it with the cores of this machine. */
export function topologies(cores: number): LoadTopology[] {
  return [smallService(), bigService()].map(({ load, models, gpus }) => {
    const capacityPerSecond = poolCapacityPerSecond(models, new Array<{ slowdown: number }>(gpus).fill({ slowdown: 1 }));
    return { load, ...chooseTopology({}, { usableCores: cores }, { models: models.length, capacityPerSecond }) };
  });
}

interface Service {
  readonly load: string;
  readonly models: readonly ProfiledModel[];
  readonly gpus: number;
}

function smallService(): Service {
  const { name, models, gpus } = loadWorkload('titanx4');
  return { load: `${name} (${models.length} models, ${gpus} GPUs)`, models: models.map(profiled), gpus };
}

const BIG_LOAD = 'bench throughput (64 models, 64 GPUs)';

/** What `rubato bench throughput` runs by default: more than one thread serves. */
function bigService(): Service {
  const profile = LatencyProfile.linear({ alphaNs: 500, betaNs: 86_000, maxBatch: 128 }, 'bigService');
  return { load: BIG_LOAD, models: new Array<ProfiledModel>(64).fill(profiled({ profile, sloNs: 20e6 })), gpus: 64 };
}

function profiled({ profile, sloNs }: { readonly profile: LatencyProfile; readonly sloNs: number }): ProfiledModel {
  return { profile: profile.ns, maxBatch: profile.maxBatch, sloNs };
}

export function nodeIsSupported(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > NODE_MINIMUM[0] || (major === NODE_MINIMUM[0] && minor >= NODE_MINIMUM[1]);
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
    ...topologyFindings(report),
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
  const meaning = cpu.quotaCores > 1 ? 'two busy threads are throttled at times, expect late batches then' : 'busy threads are throttled, so rubato parks and never spins';
  return [cores, ['note', 'CPU quota', value, `${cpu.quotaSource}: ${meaning}`]];
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
  return [driver, ...cuda.devices.map(({ index, name, memoryBytes, capability }): Finding =>
    ['good', `GPU ${index}`, name, `${(memoryBytes / 2 ** 30).toFixed(1)} GiB of memory, compute capability ${capability}; ${kernelsFor(capability)}`])];
}

function kernelsFor(capability: string): string {
  const chip = chipFor(Number(capability.replace('.', '')));
  return chip === null ? 'its driver compiles the kernels at the first load' : `runs kernels compiled for sm_${chip}`;
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

function topologyFindings({ topology }: DoctorReport): Finding[] {
  return topology.map(({ load, kind, shards, waiting, reason }) => {
    const limited = waiting === 'park' || (load === BIG_LOAD && kind === 'single');
    const value = kind === 'single' ? 'single' : `split, ${shards} shards`;
    return [limited ? 'note' : 'good', 'threads', value, `for ${load}. ${reason}`];
  });
}
