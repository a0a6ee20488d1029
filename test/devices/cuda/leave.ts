/** Threads that open a CUDA device and end in the middle of its work. */
import { Worker } from 'node:worker_threads';

/** Opens a device, issues a batch and leaves without a word. */
const LEAVES = `
  const { parentPort, workerData } = require('node:worker_threads');
  import(workerData.url).then(async ({ Direct }) => {
    const direct = new Direct(workerData.gpu);
    if (workerData.waits) await direct.attachment.ready();
    direct.issue(0, 3);
    direct.poll();
    parentPort.postMessage('runs');
    if (!workerData.terminated) process.exit(0);
    setInterval(() => {}, 1000);
  });
`;

/** Resolves when such a thread is gone: terminated or by itself, before or after the device was ready. */
export async function leave(gpu: number, round: number): Promise<void> {
  const terminated = round % 2 === 0;
  const worker = new Worker(LEAVES, { eval: true, workerData: { url: import.meta.resolve('./direct.js'), gpu, terminated, waits: round % 3 > 0 } });
  await new Promise<void>((resolve, reject) => {
    worker.on('error', reject);
    worker.on('message', () => terminated && void worker.terminate());
    worker.on('exit', () => resolve());
  });
}
