import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join, posix, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, test } from 'node:test';
import ts from 'typescript';

/** The rooms of the house, top to bottom. A room imports only rooms below it, and itself. */
const FLOORS = [
  'testing', 'index', 'cli', 'scheduler', 'sim', 'report', 'devices', 'dispatch', 'shards', 'protocol', 'model', 'ringbuf', 'clock',
];
/** Rooms that do not know each other, although one lies above the other. */
const STRANGERS: readonly (readonly [string, string])[] = [
  ['dispatch', 'shards'], ['shards', 'dispatch'], ['dispatch', 'devices'], ['shards', 'devices'], ['testing', 'index'], ['testing', 'cli'],
];
/** Rooms of role code, which runs the same under a live and a virtual host. Worker entries (`*.worker.ts`) are hosts. */
const ROLE_ROOMS = ['dispatch', 'shards', 'protocol', 'ringbuf'];
/** The doorbell's client side waits with Atomics.waitAsync. */
const MAY_PROMISE = ['ringbuf/doorbell.ts'];

const PROMISE_NAMES = ['Promise', 'PromiseLike'];
const HOST_NAMES = [
  'process', 'performance', 'Date', 'setTimeout', 'setInterval', 'setImmediate', 'queueMicrotask', 'structuredClone',
];

describe('the floors of the house', () => {
  const files = sourceFiles();

  test('there is a house to look at', () => {
    assert.ok(files.length > 0, 'no file found below src/');
  });

  test('every file imports only what lies below it, and role code stays apart from the event loop', () => {
    const found = files.flatMap(({ path, text }) => violations(path, text));
    assert.deepEqual(found, [], found.join('\n'));
  });
});

describe('the check of the floors finds', () => {
  const cases: [what: string, path: string, text: string, expected: RegExp][] = [
    ['an import from above', 'ringbuf/spsc-ring.ts', `import { a } from '../shards/queue.js';`, /ringbuf\/ imports shards\//],
    ['a type import from above', 'model/zoo.ts', `import type { A } from '../protocol/a.js';`, /model\/ imports protocol\//],
    ['an inline type import', 'clock/clock.ts', `let a: import('../model/a.js').A;`, /clock\/ imports model\//],
    ['a re-export from above', 'model/zoo.ts', `export * from '../sim/a.js';`, /model\/ imports sim\//],
    ['a dynamic import from above', 'sim/host.ts', `const a = import('../scheduler/a.js');`, /sim\/ imports scheduler\//],
    ['a worker file from above', 'report/a.ts', `new URL('../sim/a.worker.js', import.meta.url);`, /report\/ imports sim\//],
    ['an import in a nested folder', 'devices/cuda/a.ts', `import '../../cli/main.js';`, /devices\/ imports cli\//],
    ['the public face', 'scheduler/a.ts', `import '../index.js';`, /scheduler\/ imports index\//],
    ['a room that is not in the plan', 'cli/main.ts', `import '../attic/a.js';`, /attic\/ is no room/],
    ['shards/ knowing dispatch/', 'shards/a.ts', `import '../dispatch/a.js';`, /shards\/ imports dispatch\//],
    ['dispatch/ knowing shards/', 'dispatch/a.ts', `import '../shards/a.js';`, /dispatch\/ imports shards\//],
    ['testing/ knowing cli/', 'testing/a.ts', `import '../cli/a.js';`, /testing\/ imports cli\//],
    ['scheduler/ knowing testing/', 'scheduler/a.ts', `import '../testing.js';`, /scheduler\/ imports testing\//],
    ['dispatch/ knowing devices/', 'dispatch/a.ts', `import '../devices/a.js';`, /dispatch\/ imports devices\//],
    ['an async function in role code', 'shards/a.ts', `export const f = async () => 1;`, /shards\/a.ts:1 .*async/],
    ['an await in role code', 'dispatch/a.ts', `\nawait f();`, /dispatch\/a.ts:2 .*await/],
    ['a for await in role code', 'dispatch/a.ts', `for await (const a of b) f(a);`, /await/],
    ['a promise in role code', 'protocol/a.ts', `export let p: Promise<void>;`, /protocol\/a.ts:1 .*Promise/],
    ['a timer in role code', 'ringbuf/a.ts', `setTimeout(f, 1);`, /setTimeout/],
    ['a timer of globalThis', 'ringbuf/a.ts', `globalThis.setImmediate(f);`, /setImmediate/],
    ['a clock in role code', 'shards/a.ts', `const now = performance.now();`, /performance/],
    ['a date in role code', 'shards/a.ts', `const now = new Date();`, /Date/],
    ['process in role code', 'shards/a.ts', `const now = process.hrtime();`, /process/],
    ['a clock in the doorbell', 'ringbuf/doorbell.ts', `const now = Date.now();`, /Date/],
    ['a node module in role code', 'shards/a.ts', `import { threadId } from 'node:worker_threads';`, /node:worker_threads/],
    ['a package in role code', 'shards/a.ts', `import { build } from 'hdr-histogram-js';`, /hdr-histogram-js/],
  ];
  for (const [what, path, text, expected] of cases) {
    test(what, () => assert.match(violations(path, text).join('\n'), expected));
  }

  test('nothing in code that keeps to the rules', () => {
    assert.deepEqual(violations('shards/a.ts', `
      // A comment may say Promise, await and Date.
      import { ring } from '../ringbuf/ring.js';
      import './b.js';
      const word = 'process.exit';
      interface Row { date: number; process: number }
      export const f = (row: Row) => row.process + ring({ process: 1 }, word);
    `), []);
    assert.deepEqual(violations('dispatch/dispatch.worker.ts', `await run(process.pid);`), []);
    assert.deepEqual(violations('ringbuf/doorbell.ts', `export let p: Promise<void>;`), []);
    assert.deepEqual(violations('index.ts', `export { a } from './scheduler/a.js'; import 'piscina';`), []);
  });
});

/** Every breach in one file, as lines to print. `path` is relative to src/. */
function violations(path: string, text: string): string[] {
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  const room = roomOf(path);
  const isRole = ROLE_ROOMS.includes(room) && !path.endsWith('.worker.ts');
  const found: string[] = [];
  if (!FLOORS.includes(room)) found.push(`src/${path}: ${room}/ is no room of the house`);

  const visit = (node: ts.Node): void => {
    const breaches = [
      importBreach(path, room, isRole, importedBy(node)),
      isRole ? hostBreach(path, node) : null,
    ];
    for (const breach of breaches) {
      if (breach === null) continue;
      const { line } = file.getLineAndCharacterOfPosition(node.getStart(file));
      found.push(`src/${path}:${line + 1} ${breach}`);
    }
    ts.forEachChild(node, visit);
  };
  visit(file);
  return found;
}

/** What a node imports: by import, export from, import type, import() or new URL(…, import.meta.url); null for other nodes. */
function importedBy(node: ts.Node): string | null {
  let target: ts.Node | undefined;
  if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) target = node.moduleSpecifier;
  else if (ts.isImportTypeNode(node)) target = ts.isLiteralTypeNode(node.argument) ? node.argument.literal : undefined;
  else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) target = node.arguments[0];
  else if (ts.isNewExpression(node) && node.expression.getText() === 'URL') target = node.arguments?.[0];
  return target !== undefined && ts.isStringLiteralLike(target) ? target.text : null;
}

function importBreach(path: string, room: string, isRole: boolean, imported: string | null): string | null {
  if (imported === null) return null;
  if (!imported.startsWith('.')) return isRole ? `is role code and imports ${imported}` : null;
  const target = posix.join(posix.dirname(path), imported);
  if (target.startsWith('..')) return null; // package.json, the native addon: outside the house
  const other = roomOf(target);
  if (other === room) return null;
  if (!FLOORS.includes(other)) return `imports ${imported}, and ${other}/ is no room of the house`;
  const isStranger = STRANGERS.some(([one, another]) => one === room && another === other);
  const isBelow = FLOORS.indexOf(other) > FLOORS.indexOf(room);
  return isBelow && !isStranger ? null : `${room}/ imports ${other}/ (${imported})`;
}

function hostBreach(path: string, node: ts.Node): string | null {
  const mayPromise = MAY_PROMISE.includes(path);
  if (!mayPromise && (node.kind === ts.SyntaxKind.AsyncKeyword)) return 'is role code and has async';
  if (!mayPromise && (node.kind === ts.SyntaxKind.AwaitKeyword || ts.isAwaitExpression(node))) return 'is role code and has await';
  if (!ts.isIdentifier(node) || isMemberName(node)) return null;
  const isForbidden = HOST_NAMES.includes(node.text) || (!mayPromise && PROMISE_NAMES.includes(node.text));
  return isForbidden ? `is role code and mentions ${node.text}` : null;
}

/** Whether a name is that of a member, as `row.process` or `{ process: 1 }`; members of globalThis are the globals themselves. */
function isMemberName(node: ts.Identifier): boolean {
  const { parent } = node;
  if (ts.isPropertyAccessExpression(parent)) return parent.name === node && parent.expression.getText() !== 'globalThis';
  return (ts.isPropertyAssignment(parent) || ts.isPropertySignature(parent) || ts.isPropertyDeclaration(parent)
    || ts.isMethodDeclaration(parent) || ts.isMethodSignature(parent)) && parent.name === node;
}

/** `shards/queue.ts` → `shards`, `index.ts` → `index`. */
function roomOf(path: string): string {
  return (path.split('/', 1)[0] ?? '').replace(/\.[jt]s$/, '');
}

function sourceFiles(): { path: string; text: string }[] {
  // From build/test/system/ up to the package.
  const src = join(dirname(fileURLToPath(import.meta.url)), '../../../src');
  return readdirSync(src, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => ({ path: relative('.', file).replaceAll(sep, '/'), text: readFileSync(join(src, file), 'utf8') }));
}
