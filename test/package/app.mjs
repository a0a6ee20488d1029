// An application to be bundled, and run where there is no node_modules.
import { createScheduler } from 'rubato';

const scheduler = await createScheduler({
  models: [{ name: 'm', slo: '5s', profile: ['1ms'], condition: 'immediate' }],
  devices: [{ kind: 'callback', execute: (batch) => batch.inputs.map((input) => 2 * input) }],
});
console.log(await scheduler.submit('m', 21));
await scheduler.close();
