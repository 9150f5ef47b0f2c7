import { readFileSync } from 'node:fs';
import { VerdigrisError } from '../errors.js';

/**
 * What a secret store has mounted as a file.
 *
 * @param variable which names the file, as the error says it
 * @throws VerdigrisError ConnectionUnknown
 */
export function readSecretFile(file: string, variable: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    throw new VerdigrisError({
      type: 'ConnectionUnknown',
      message: `the file that ${variable} names can't be read`,
      nextStep: 'see that the file is there and may be read by whoever runs this',
      cause: error,
    });
  }
}
