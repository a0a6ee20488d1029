// npm run build: src/ → dist/ and the native addon. Folders named as arguments (test, bench) go to build/ as well.
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ADDON_FILE, addonSourcesMs, buildAddon } from './addon.mjs';
import { filesBelow, installIfNeeded, modifiedMs, root, typescript } from './steps.mjs';

installIfNeeded();
typescript('tsconfig.json');
removeOrphans('dist', 'src');
for (const folder of process.argv.slice(2)) {
  typescript(`${folder}/tsconfig.json`);
  removeOrphans(`build/${folder}`, folder);
}
const addon = join(root, 'native/cuda/build/Release', ADDON_FILE);
const missing = modifiedMs(addon) > addonSourcesMs() ? null : buildAddon(join(root, 'native/cuda'));
if (missing) console.error(`The native addon was not built: ${missing}. Everything but CUDA works.`);

/** What was compiled from a source that is gone would still be packed, imported and tested. */
function removeOrphans(output, source) {
  for (const file of filesBelow(output)) {
    const name = file.replace(/(\.d\.ts|\.js\.map|\.js)$/, '');
    if (name !== file && !existsSync(join(root, source, `${name}.ts`))) rmSync(join(root, output, file), { force: true });
  }
}
