// A CommonJS program in TypeScript must see the types as well.
import rubato = require('rubato');

const make = (): Promise<rubato.Scheduler<number, string>> =>
  rubato.createScheduler<number, string>({
    models: [{ name: 'm', slo: '5s', profile: ['1ms'] }],
    devices: [{ kind: 'callback', execute: (batch) => batch.inputs.map(String) }],
  });
void make;
