// node scripts/wasm.mjs [--check]: compiles the inner loops, src/*/wasm/*.ts → src/*/*-module.ts. With --check it only says whether those are up to date.
import asc from 'assemblyscript/asc';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './steps.mjs';

const OPTIONS = ['-O3', '--converge', '--noAssert', '--runtime', 'stub', '--importMemory', '--sharedMemory', '--initialMemory', '1', '--maximumMemory', '65536', '--enable', 'threads'];

/** [directory, file, name of the constant] */
const SOURCES = [
  ['src/protocol', 'client-loops', 'CLIENT_LOOPS'],
  ['src/shards', 'inner-loops', 'INNER_LOOPS'],
];

for (const [directory, file, constant] of SOURCES) {
  const source = `${directory}/wasm/${file}.ts`;
  const module = join(root, directory, `${file}-module.ts`);
  const text = await compiled(source, constant);
  if (!process.argv.includes('--check')) {
    writeFileSync(module, text);
  } else if (readFileSync(module, 'utf8') !== text) {
    console.error(`${module} is not what ${source} compiles to: run node scripts/wasm.mjs`);
    process.exit(1);
  }
}

async function compiled(source, constant) {
  let binary = new Uint8Array();
  const { error, stderr } = await asc.main([source, '--outFile', 'loops.wasm', '--baseDir', root, ...OPTIONS], {
    writeFile(name, contents) {
      if (name === 'loops.wasm') binary = contents;
    },
  });
  if (error) {
    console.error(stderr.toString());
    throw error;
  }
  const lines = Buffer.from(binary).toString('base64').match(/.{1,120}/g);
  return `/** ${source} as WebAssembly, ${binary.length} bytes in base64. Written by \`node scripts/wasm.mjs\`. */
export const ${constant} =
${lines.map((line) => `  '${line}'`).join(' +\n')};
`;
}
