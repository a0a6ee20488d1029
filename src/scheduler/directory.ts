/** The models of a scheduler by name, as a client on any thread knows them. Follows what is added and removed. */
import type { CellLayout } from '../model/tensor.js';
import { UnknownModelError } from './errors.js';

/** Plain data: cloned to clients on other threads. */
export interface ModelEntry {
  readonly name: string;
  readonly number: number;
  /** Number and use of the number (protocol/specs.ts): a removed model's entry fits nothing any more. */
  readonly tag: number;
  readonly rejectLate: boolean;
  /** Its tensors; null for a model that takes any value. */
  readonly layout: CellLayout | null;
}

export class ModelDirectory {
  readonly #byName = new Map<string, ModelEntry>();
  readonly #byNumber: (ModelEntry | null)[] = [];

  constructor(entries: readonly ModelEntry[] = []) {
    for (const entry of entries) this.set(entry);
  }

  set(entry: ModelEntry): void {
    this.#byName.set(entry.name, entry);
    this.#byNumber[entry.number] = entry;
  }

  /** Its name is unknown from now on; requests under way still find it by its number. */
  remove(name: string): void {
    this.#byName.delete(name);
  }

  has(name: string): boolean {
    return this.#byName.has(name);
  }

  /** Throws UnknownModelError. */
  find(name: string): ModelEntry {
    const entry = this.#byName.get(name);
    if (entry === undefined) throw new UnknownModelError(name, this.names());
    return entry;
  }

  /** The model that has, or had last, this number. */
  at(number: number): ModelEntry {
    return this.#byNumber[number]!;
  }

  names(): string[] {
    return [...this.#byName.keys()];
  }

  entries(): ModelEntry[] {
    return [...this.#byName.values()];
  }
}
