// node scripts/wasm.mjs [--check]: src/shards/wasm/inner-loops.ts → src/shards/inner-loops-module.ts. With --check it only says whether that is up to date.
import asc from 'assemblyscript/asc';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './steps.mjs';

const SOURCE = 'src/shards/wasm/inner-loops.ts';
const MODULE = join(root, 'src/shards/inner-loops-module.ts');
const OPTIONS = ['-O3', '--converge', '--noAssert', '--runtime', 'stub', '--importMemory', '--sharedMemory', '--initialMemory', '1', '--maximumMemory', '65536', '--enable', 'threads'];

let binary = new Uint8Array();
const { error, stderr } = await asc.main([SOURCE, '--outFile', 'inner-loops.wasm', '--baseDir', root, ...OPTIONS], {
  writeFile(name, contents) {
    if (name === 'inner-loops.wasm') binary = contents;
  },
});
if (error) {
  console.error(stderr.toString());
  throw error;
}
const lines = Buffer.from(binary).toString('base64').match(/.{1,120}/g);
const text = `/** ${SOURCE} as WebAssembly, ${binary.length} bytes in base64. Written by \`node scripts/wasm.mjs\`. */
export const INNER_LOOPS =
${lines.map((line) => `  '${line}'`).join(' +\n')};
`;
if (!process.argv.includes('--check')) {
  writeFileSync(MODULE, text);
} else if (readFileSync(MODULE, 'utf8') !== text) {
  console.error(`${MODULE} is not what ${SOURCE} compiles to: run node scripts/wasm.mjs`);
  process.exit(1);
}
