/**
 * Clients in threads of their own, for test/scheduler/tickets.test.ts and test/long/clients.test.ts. `workerData.job`
 * says what the thread does; what it has to say it posts.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import type { RawClient } from '#rubato/scheduler/raw-client.js';
import { openClient, openRawClient, type Ticket, type TicketClient } from '#rubato/scheduler/ticket.js';

/** Both give 2 · x on a callback device. A request for `blob` takes more than a page. */
export interface Tensors {
  input: { x: Float32Array };
  output: { y: Float32Array };
}

// No interface: it would have no index signature.
export type Models = { double: Tensors; blob: Tensors };

export const LENGTHS: Readonly<Record<keyof Models, number>> = { double: 4, blob: 20_000 };

export type Ending = 'terminate' | 'exit' | 'throw' | 'memory';

export type Job =
  | { readonly name: 'methods' }
  | { readonly name: 'crowd'; readonly seed: number; readonly count: number; readonly model: keyof Models }
  | { readonly name: 'submit'; readonly count: number; readonly blockMs: number }
  | { readonly name: 'die'; readonly ending: Ending; readonly isRaw: boolean; readonly isCommitted: boolean; readonly count: number; readonly go: Int32Array }
  | { readonly name: 'flood'; readonly isRaw: boolean; readonly seed: number; readonly words: Int32Array }
  | { readonly name: 'serve' }
  | { readonly name: 'hold' }
  | { readonly name: 'leave' }
  | { readonly name: 'rawLoop' };

export interface ClientJob {
  readonly job: Job;
  readonly ticket: Ticket<Models> | null;
}

/** Results as plain data: an error as its name, code and text. */
export type Told = { readonly error: string; readonly code: string | undefined; readonly message: string } | unknown;

function tell(value: unknown): Told {
  if (!(value instanceof Error)) return value;
  return { error: value.name, code: (value as { code?: string }).code, message: value.message };
}

const settle = async (work: () => unknown): Promise<Told> => {
  try {
    return await work();
  } catch (error) {
    return tell(error);
  }
};

const X = Float32Array.of(1, 2, 3, 4);

const post = (message: unknown): void => parentPort!.postMessage(message);

function block(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

// ---------------------------------------------------------------- jobs

/** Every way to submit, once. */
async function methods(client: TicketClient<Models>): Promise<void> {
  const x = X;
  const lease = client.reserve('double');
  lease.inputs.x.set(x);
  const aborter = new AbortController();
  aborter.abort(new Error('not wanted'));
  const tried = client.trySubmit('double', { x });
  const { output, late, batchSize } = await client.submitDetailed('double', { x });
  post({
    submit: await client.submit('double', { x }),
    submitDetailed: { output, late, hasRun: batchSize > 0 },
    trySubmit: tried.accepted ? await tried.result : tell(tried.reason),
    submitMany: await client.submitMany('double', [{ x }, { x: Float32Array.of(5, 6, 7, 8) }]),
    lease: { ...(await lease.submit()) },
    credit: client.credit('double'),
    aborted: await settle(() => client.submit('double', { x }, { signal: aborter.signal })),
    infeasible: await settle(() => client.submit('double', { x }, { slo: '1us' })),
    wrongTensor: await settle(() => client.submit('double', { x: X.subarray(0, 2) })),
    unknown: await settle(() => client.submit('nobody' as 'double', { x })),
  });
  lease.release();
  await client.drain();
  const closed = client.close();
  post({
    samePromise: client.close() === closed,
    submitAfter: await settle(() => client.submit('double', { x })),
    tryAfter: ((tried) => (tried.accepted ? 'accepted' : tell(tried.reason)))(client.trySubmit('double', { x })),
    reserveAfter: await settle(() => client.reserve('double')),
    creditAfter: client.credit('double'),
    closed: await settle(() => closed),
    inFlight: client.inFlight,
  });
}

/** Numbers that no other client and no other request has. */
function tensor(length: number, seed: number, k: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => (seed * 4096 + k) * 4 + (i & 3));
}

function isDouble(x: Float32Array, y: Float32Array): boolean {
  return x.every((value, i) => y[i] === 2 * value);
}

/** Many requests at once, by three methods; posts how many gave what they should. */
async function crowd(client: TicketClient<Models>, { seed, count, model }: Job & { name: 'crowd' }): Promise<void> {
  const right = await Promise.all(Array.from({ length: count }, async (_, k) => {
    const x = tensor(LENGTHS[model], seed, k);
    if (k % 3 === 0) return isDouble(x, (await client.submit(model, { x })).y);
    if (k % 3 === 1) return isDouble(x, (await client.submitDetailed(model, { x })).output.y);
    const lease = client.reserve(model);
    lease.inputs.x.set(x);
    const isRight = isDouble(x, (await lease.submit()).y);
    lease.release();
    return isRight;
  }));
  await client.close();
  post({ right: right.filter(Boolean).length });
}

/** Submits, says so, blocks its thread, and tells how each has ended. */
async function submit(client: TicketClient<Models>, { count, blockMs }: Job & { name: 'submit' }): Promise<void> {
  const results = Array.from({ length: count }, () => settle(() => client.submit('double', { x: X })));
  await nextTurn();
  post('submitted');
  block(blockMs);
  post(await Promise.all(results));
  post(await settle(() => client.submit('double', { x: X })));
}

/** Submits, and ends its thread when it is told to: with nothing between the two, not even an end of the turn. */
async function die(ticket: Ticket<Models>, { ending, isRaw, isCommitted, count, go }: Job & { name: 'die' }): Promise<void> {
  if (isRaw) {
    const client = openRawClient(ticket);
    for (let k = 0; k < count; k++) client.submit(client.model('double'), client.nowNs());
    if (isCommitted) client.commit();
  } else {
    const client = openClient(ticket);
    for (let k = 0; k < count; k++) client.submit('double', { x: X }).catch(() => {});
    if (isCommitted) await nextTurn();
  }
  post('submitted');
  Atomics.wait(go, 0, 0);
  if (ending === 'terminate') for (;;);
  if (ending === 'exit') process.exit(3);
  if (ending === 'throw') throw new Error('meant to');
  const held: number[][] = [];
  for (;;) held.push(Array.from({ length: 10_000 }, (_, i) => i));
}

/** Submits at full speed until its thread is ended; word 0 counts the rounds. */
async function flood(ticket: Ticket<Models>, { isRaw, seed, words }: Job & { name: 'flood' }): Promise<void> {
  let chance = seed | 1;
  const below = (n: number): number => (chance = Math.imul(chance, 1664525) + 1013904223) && (chance >>> 8) % n;
  if (isRaw) {
    const client: RawClient = openRawClient(ticket);
    const model = client.model('double');
    const models = new Int32Array(64).fill(model);
    const arrivalsNs = new Float64Array(64);
    post('ready');
    for (;;) {
      Atomics.add(words, 0, 1);
      if (below(2) === 0) client.submitBulk(models, arrivalsNs.fill(client.nowNs()), 0, below(64));
      else for (let k = below(64); k > 0; k--) client.submit(model, client.nowNs());
      if (below(3) > 0) client.commit();
      while (client.drain() > 0);
      if (below(8) === 0) client.cancel(ticket.client * 2 ** ticket.memory.config.slotShift + below(32));
    }
  }
  const client = openClient(ticket);
  const ignore = (): void => {};
  post('ready');
  for (;;) {
    Atomics.add(words, 0, 1);
    for (let k = below(32); k > 0; k--) {
      const model = below(20) === 0 ? 'blob' : 'double';
      const signal = below(4) === 0 ? AbortSignal.timeout(below(3)) : undefined;
      if (below(3) === 0) {
        try {
          const lease = client.reserve(model);
          lease.submit({ signal }).catch(ignore).then(() => lease.release(), ignore);
        } catch {
          // no memory left just now
        }
      } else {
        client.submit(model, { x: new Float32Array(LENGTHS[model]) }, { signal }).catch(ignore);
      }
    }
    if (below(2) === 0) await nextTurn();
    else await Promise.resolve();
  }
}

/** Takes commands by messages, each answered by one. Holds one client at a time. */
function serve(): void {
  let client: TicketClient<Models> | null = null;
  const commands: Record<string, (ticket: Ticket<Models>, ms: number) => unknown> = {
    open: (ticket) => void (client = openClient(ticket)),
    submit: () => client!.submit('double', { x: X }),
    added: () => (client as unknown as TicketClient).submit('added', { x: X }),
    value: () => (client as unknown as TicketClient).submit('value', 7),
    noValue: () => (client as unknown as TicketClient).submit('value', undefined),
    close: () => client!.close(),
    closeAndBlock: async (_, ms) => {
      await client!.close();
      block(ms);
    },
    turn: async (ticket) => {
      client = openClient(ticket);
      const { y } = await client.submit('double', { x: X });
      await client.close();
      return y;
    },
    keep: () => undefined,
    resources: () => process.getActiveResourcesInfo(),
    throwIt: () => setImmediate(() => { throw new Error('meant to'); }),
  };
  parentPort!.on('message', ({ command, ticket, ms }: { command: string; ticket: Ticket<Models>; ms: number }) => {
    void settle(() => commands[command]!(ticket, ms)).then((answer) => post({ answer }));
  });
}

/** A raw client that never lets its event loop turn: what it must know it has to see in shared memory. */
function rawLoop(ticket: Ticket<Models>): void {
  const client = openRawClient(ticket);
  const model = client.model('double');
  post('ready');
  try {
    for (;;) {
      if (client.inFlight < 8) client.submit(model, client.nowNs());
      client.commit();
      client.drain();
    }
  } catch (error) {
    post(tell(error));
  }
}

async function run({ job, ticket }: ClientJob): Promise<void> {
  switch (job.name) {
    case 'methods':
      return methods(openClient(ticket!));
    case 'crowd':
      return crowd(openClient(ticket!), job);
    case 'submit':
      return submit(openClient(ticket!), job);
    case 'die':
      return die(ticket!, job);
    case 'flood':
      return flood(ticket!, job);
    case 'serve':
      return serve();
    case 'hold': // and nothing else: its thread ends when nothing holds it
      return void openClient(ticket!).submit('double', { x: X }).then(post);
    case 'leave':
      return;
    case 'rawLoop':
      return rawLoop(ticket!);
  }
}

/** In another process: tries what it gets. */
function child(): void {
  process.on('message', (ticket: Ticket<Models>) => {
    void settle(() => void openClient(ticket)).then((answer) => process.send!(answer));
  });
  process.send!('ready');
}

if (!isMainThread) await run(workerData as ClientJob);
else if (process.argv[2] === 'child') child();
