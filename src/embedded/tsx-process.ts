import { createRequire } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';

const TSX = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;

/**
 * The arguments with which Node runs a file of this project that is written in TypeScript, from any working directory.
 * No wrapper process stands between: a signal reaches the program itself.
 */
export function tsxArguments(file: URL, ...rest: string[]): string[] {
  return ['--import', TSX, fileURLToPath(file), ...rest];
}
