// What a user's test does, for Jest and Vitest (`test` and `expect` are their globals). scripts/check-package.mjs runs it
// beside the packed package, as it stands and with the import turned into a require.
import { createScheduler, InfeasibleError } from 'rubato';

const options = {
  models: [{ name: 'm', slo: '5s', profile: ['100ms'], condition: 'immediate' }],
  devices: [{ kind: 'emulated' }],
};

test('a scheduler answers, lets go of what is aborted, and closes', async () => {
  const scheduler = await createScheduler(options);
  expect(await scheduler.submit('m', 1)).toBeUndefined();

  const controller = new AbortController();
  const aborted = scheduler.submit('m', 2, { signal: controller.signal });
  controller.abort(new Error('not wanted'));
  await expect(aborted).rejects.toThrow('not wanted');
  await expect(scheduler.submit('m', 3, { signal: AbortSignal.timeout(5) })).rejects.toThrow(/timeout/);

  await expect(scheduler.submit('m', 4, { slo: '1ms' })).rejects.toBeInstanceOf(InfeasibleError);
  await scheduler.close();
});

test('a scheduler that nobody closes does not keep the runner', async () => {
  const scheduler = await createScheduler(options);
  expect(await scheduler.submit('m', 1)).toBeUndefined();
});
