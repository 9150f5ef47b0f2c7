import { readFileSync } from 'node:fs';

/** The end of a log, for an error message; the file itself is removed with the environment. */
export function lastLines(file: string, lines = 15): string {
  try {
    return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
  } catch {
    return '(no log)';
  }
}
