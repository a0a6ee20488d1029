/** Copies of the compiled package whose text is changed before they are loaded: mutants, and roles that can be killed. */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const dist = fileURLToPath(import.meta.resolve('#rubato/sim/virtual-host.js')).replace(/sim.virtual-host\.js$/, '');
const ROOMS = ['clock', 'devices', 'dispatch', 'model', 'protocol', 'report', 'ringbuf', 'scheduler', 'shards', 'sim'];

export interface Replacement {
  /** Below dist/, without its ending. */
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

/** One folder of copies; they lie below the package, so that they find what it depends on. Remove it at the end. */
export class Copies {
  readonly folder = mkdtempSync(join(dist, '../build/copies-'));
  #count = 0;

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** A new copy; returns its folder. `edit` gets each file's name (as `shards/shard`) and text, and returns the text to load. */
  make(edit: (file: string, text: string) => string): string {
    const copy = join(this.folder, String(this.#count++));
    for (const room of ROOMS) {
      cpSync(join(dist, room), join(copy, room), {
        recursive: true,
        filter: (source) => !/\.(ts|map)$/.test(source),
      });
    }
    for (const file of filesIn(copy)) {
      const path = join(copy, `${file}.js`);
      const text = readFileSync(path, 'utf8');
      const edited = edit(file, text);
      if (edited !== text) writeFileSync(path, edited);
    }
    return copy;
  }

  /** A copy with one change of its text. Fails unless what is to be replaced is there exactly once. */
  mutate({ file, find, replace }: Replacement, name: string): string {
    return this.make(edited({ file, find, replace }, name));
  }
}

/** The edit of `Copies.make` that a replacement is. */
export function edited({ file, find, replace }: Replacement, name: string): (file: string, text: string) => string {
  return (each, text) => {
    if (each !== file) return text;
    const parts = text.split(find);
    assert.equal(parts.length, 2, `${file}.js holds ${parts.length - 1} times what mutant "${name}" is to replace: ${find}`);
    return parts.join(replace);
  };
}

function filesIn(copy: string): string[] {
  return ROOMS.flatMap((room) => readdirSync(join(copy, room), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.js'))
    .map((file) => `${room}/${file.replace(/\.js$/, '').replaceAll('\\', '/')}`));
}

/** A module of a copy. */
export async function load<T>(copy: string, file: string): Promise<T> {
  return (await import(pathToFileURL(join(copy, `${file}.js`)).href)) as T;
}
