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

/** The module `kill` of such a copy. */
export interface KillSwitch {
  readonly KillError: new () => Error;
  /** From now on points count; the one after `left` others throws. */
  arm(left: number): void;
  /** Points are passed without a count; returns how many were left. */
  disarm(): number;
  /** As `arm`, for a certain point when it is reached for the `times`-th time. */
  armAt(point: number, times: number): void;
  /** By point: how often it was passed while armed. */
  readonly passed: Int32Array;
}

/** What roles run: files below dist/. The client's side is not a role. */
const FILES = [
  /^shards\//, /^dispatch\//, /^clock\/time-tree$/, /^devices\/emulated$/,
  /^ringbuf\/(spsc-ring|dirty-bitmap|mailbox|doorbell|log-linear)$/, /^protocol\/(delay-meter|outcome|slope)$/,
];

const CALL = '__killPoint';

/** Makes the copy; `points[n]` is where point n lies. */
export function instrument(copies: Copies): { readonly copy: string; readonly points: readonly KillPoint[] } {
  const points: KillPoint[] = [];
  const copy = copies.make((file, text) => (FILES.some((pattern) => pattern.test(file)) ? insert(file, text, points) : text));
  writeFileSync(join(copy, 'kill.js'), switchText(points.length));
  return { copy, points };
}

function switchText(points: number): string {
  return `
export class KillError extends Error {}
export const passed = new Int32Array(${points});
let isArmed = false;
let left = 0;
let wanted = -1;
export function arm(count) { isArmed = true; left = count; wanted = -1; }
export function armAt(point, times) { isArmed = true; left = times - 1; wanted = point; }
export function disarm() { isArmed = false; return left; }
export function killPoint(point) {
  if (!isArmed) return;
  passed[point]++;
  if (wanted >= 0 && wanted !== point) return;
  if (left-- === 0) { isArmed = false; throw new KillError(); }
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
