import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** One place in the code: `find` is its exact text, which is there once. */
export interface Edit {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

/** A rule taken out of the code, and the test that must notice. */
export interface Mutation {
  /** What is so as long as the code is left alone. */
  readonly rule: string;
  readonly edits: readonly Edit[];
  readonly test: TestOf;
}

export interface TestOf {
  readonly file: string;
  /** Part of the test's name with that of its `describe`: a regular expression, as `vitest -t` takes it. */
  readonly name: string;
}

export function edit(file: string, find: string, replace: string): Edit {
  return { file, find, replace };
}

/** How many times the text of an edit is in its file: anything but once is a mistake in the list. */
export function occurrences(root: string, { file, find }: Edit): number {
  return readFileSync(join(root, file), 'utf8').split(find).length - 1;
}
