import { readFileSync } from 'node:fs';
import { VerdigrisError } from '../errors.js';
import type { Environment } from './connections.js';

/**
 * What a variable holds, or the file that `<variable>_FILE` names. One that is empty counts as not set, as in a compose
 * file's `${NAME:-}`: it hides no file.
 *
 * @throws VerdigrisError ConnectionUnknown
 */
export function valueOf(variable: string, environment: Environment): string | undefined {
  const value = unlessEmpty(environment[variable]);
  if (value !== undefined) return value;
  const file = unlessEmpty(environment[`${variable}_FILE`]);
  return file === undefined ? undefined : unlessEmpty(readSecretFile(file, `${variable}_FILE`));
}

/** A variable that is empty is not set. */
export function unlessEmpty(value: string | undefined): string | undefined {
  return value === '' ? undefined : value;
}

/** What was read from files: a store may mount another secret at any time, and the one before may still be in some text. */
const read = new Set<string>();

/** So many are remembered, the latest ones: those that are made anew every few minutes are of no use after that. */
const REMEMBERED = 1_000;

/** What files of secrets have held, as far as this process has read it. */
export function filesRead(): readonly string[] {
  return [...read];
}

function remember(text: string): string {
  read.delete(text);
  read.add(text);
  const [oldest] = read;
  if (read.size > REMEMBERED && oldest !== undefined) read.delete(oldest);
  return text;
}

/**
 * What a secret store has mounted as a file, as it is now.
 *
 * @param variable which names the file, as the error says it
 * @throws VerdigrisError ConnectionUnknown
 */
export function readSecretFile(file: string, variable: string): string {
  try {
    return remember(readFileSync(file, 'utf8').trim());
  } catch (error) {
    throw new VerdigrisError({
      type: 'ConnectionUnknown',
      message: `the file that ${variable} names can't be read`,
      nextStep: 'see that the file is there and may be read by whoever runs this',
      cause: error,
    });
  }
}
