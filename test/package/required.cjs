// A CommonJS program: Node.js from 20.19 on requires ES modules without a flag and without a warning.
const assert = require('node:assert/strict');
const { createScheduler } = require('rubato');

async function main() {
  const scheduler = await createScheduler({
    models: [{ name: 'm', slo: '5s', profile: ['1ms'], condition: 'immediate' }],
    devices: [{ kind: 'emulated' }],
  });
  await scheduler.submit('m', 1);
  await scheduler.close();
  assert.equal((await import('rubato')).createScheduler, createScheduler); // one module, however it is loaded
}
process.on('warning', (warning) => {
  throw warning;
});
void main();
