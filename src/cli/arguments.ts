/** Parsers of the command line's option values, for commander: each throws what commander puts behind the option's name. */
import { InvalidArgumentError } from 'commander';

export function integer(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text.trim()) || value < least || value > most) throw new InvalidArgumentError(`It must be an integer from ${least} to ${most}.`);
    return value;
  };
}

export function number(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !(value >= least && value <= most)) throw new InvalidArgumentError(`It must be a number from ${least} to ${most}.`);
    return value;
  };
}

/** For an option that may be repeated. */
export function collect(text: string, before: readonly string[] = []): string[] {
  return [...before, text];
}

export function oneOf<const T extends readonly string[]>(allowed: T): (text: string) => T[number] {
  return (text) => {
    if (!allowed.includes(text)) throw new InvalidArgumentError(`It must be one of ${allowed.join(', ')}.`);
    return text as T[number];
  };
}

/** Several values with commas between them, none twice. */
export function listOf<T>(one: (text: string) => T): (text: string) => T[] {
  return (text) => {
    const values = text.split(',').map((part) => one(part.trim()));
    if (new Set(values).size < values.length) throw new InvalidArgumentError('It has the same value twice.');
    return values;
  };
}
