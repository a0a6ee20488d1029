/**
 * Kill points: a copy of the compiled package in which a call stands before every statement that a role runs. Armed, the
 * so-manieth call throws, and whoever polls the role throws the object away: the death of its thread at that statement.
 * The shared memory is then as the dead thread has left it, with every store before that statement and none after.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import type { Copies } from '../sim/copies.js';

export interface KillPoint {
  readonly file: string;
  readonly function: string;
  readonly line: number;
  readonly statement: string;
}

/** A thread dies at the point after `left` others; not by this while that is negative. */
export interface Death {
  left: number;
}

/** The module `kill` of such a copy. */
export interface KillSwitch {
  readonly KillError: new () => Error;
  /** From here on points are passed by a thread that may die so, null = by one that never dies; returns that of the one before, to be entered again. */
  enter(death: Death | null): Death | null;
  /** Whichever thread that may die passes this point for the `times`-th time from now on dies there. */
  armAt(point: number, times: number): void;
  /** No point is awaited any more. */
  disarm(): void;
  /** By point: how often it was passed, and how often a thread has died there. */
  readonly passed: Int32Array;
  readonly died: Int32Array;
}

/** What roles run: files below dist/. The client's side is not a role. */
const FILES = [
  /^shards\//, /^dispatch\//, /^clock\/time-tree$/, /^devices\/emulated$/,
  /^ringbuf\/(spsc-ring|dirty-bitmap|mailbox|doorbell|log-linear)$/, /^protocol\/(delay-meter|outcome|slope)$/,
];

const CALL = '__killPoint';

/** Makes the copy, of what `edit` leaves of each file; `points[n]` is where point n lies. */
export function instrument(copies: Copies, edit = (_file: string, text: string): string => text): { readonly copy: string; readonly points: readonly KillPoint[] } {
  const points: KillPoint[] = [];
  const copy = copies.make((file, text) => (FILES.some((pattern) => pattern.test(file)) ? insert(file, edit(file, text), points) : edit(file, text)));
  writeFileSync(join(copy, 'kill.js'), switchText(points.length));
  return { copy, points };
}

function switchText(points: number): string {
  return `
export class KillError extends Error {}
export const passed = new Int32Array(${points});
export const died = new Int32Array(${points});
const awaited = new Int32Array(${points});
let death = null;
export function enter(next) { const before = death; death = next; return before; }
export function armAt(point, times) { awaited[point] = times; }
export function disarm() { awaited.fill(0); }
export function killPoint(point) {
  passed[point]++;
  if (death === null) return;
  const isHere = awaited[point] > 0 && --awaited[point] === 0;
  if (!isHere && (death.left < 0 || death.left-- > 0)) return;
  died[point]++;
  throw new KillError();
}
`;
}

/** The text of a module with a call before each statement inside its functions. Lines stay where they are. */
export function insert(file: string, text: string, points: KillPoint[]): string {
  const source = ts.createSourceFile(`${file}.js`, text, ts.ScriptTarget.ES2022, true, ts.ScriptKind.JS);
  const inserts: { readonly at: number; readonly text: string }[] = [];
  const mark = (statement: ts.Statement, name: string): string => {
    const line = source.getLineAndCharacterOfPosition(statement.getStart(source)).line + 1;
    points.push({ file, function: name, line, statement: statement.getText(source).split('\n')[0]!.slice(0, 80) });
    return `${CALL}(${points.length - 1});`;
  };
  const visit = (node: ts.Node, name: string): void => {
    const inner = nameOf(node, name);
    const { parent } = node;
    if (inner !== '' && ts.isStatement(node) && !ts.isBlock(node)) {
      const at = node.getStart(source);
      if (ts.isBlock(parent) || ts.isCaseOrDefaultClause(parent)) {
        inserts.push({ at, text: mark(node, inner) });
      } else if (isBodyOf(node, parent)) {
        inserts.push({ at, text: `{${mark(node, inner)}` });
        ts.forEachChild(node, (child) => visit(child, inner));
        inserts.push({ at: node.end, text: '}' });
        return;
      }
    }
    ts.forEachChild(node, (child) => visit(child, inner));
  };
  visit(source, '');
  const depth = file.split('/').length - 1;
  let result = `import { killPoint as ${CALL} } from '${'../'.repeat(depth)}kill.js'; `;
  let from = 0;
  for (const { at, text: inserted } of inserts) {
    result += text.slice(from, at) + inserted;
    from = at;
  }
  return result + text.slice(from);
}

/** Whether a statement stands alone as a branch or a loop's body, where two would need braces. An `else if` counts too. */
function isBodyOf(node: ts.Node, parent: ts.Node): boolean {
  if (ts.isIfStatement(parent)) return parent.thenStatement === node || parent.elseStatement === node;
  return ts.isIterationStatement(parent, false) && parent.statement === node;
}

/** The innermost function or method that a node lies in; '' outside all of them. */
function nameOf(node: ts.Node, outer: string): string {
  if (ts.isClassDeclaration(node)) return '';
  if (ts.isConstructorDeclaration(node)) return `${(node.parent as ts.ClassDeclaration).name?.text ?? ''}.constructor`;
  if (ts.isMethodDeclaration(node) || ts.isGetAccessor(node) || ts.isSetAccessor(node)) return `${(node.parent as ts.ClassDeclaration).name?.text ?? ''}.${node.name.getText()}`;
  if (ts.isFunctionDeclaration(node)) return node.name?.text ?? 'default';
  if ((ts.isArrowFunction(node) || ts.isFunctionExpression(node)) && outer === '') return 'function';
  return outer;
}
