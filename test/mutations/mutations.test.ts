import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { MUTATIONS } from './list.js';
import { occurrences } from './mutation.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/* The quick part of `npm run test:mutations`: that the list still fits the code. */
describe('the list of mutations', () => {
  it('finds each text exactly once in its file', () => {
    const wrong = MUTATIONS.flatMap(({ rule, edits }) =>
      edits.filter((one) => occurrences(ROOT, one) !== 1).map(({ file, find }) => `${rule}: ${file}: ${find}`),
    );
    expect(wrong).toEqual([]);
  });

  it('names tests that are there, and every rule once', () => {
    const missing = MUTATIONS.filter(({ test }) => !existsSync(join(ROOT, test.file)));
    expect(missing.map(({ rule }) => rule)).toEqual([]);
    expect(new Set(MUTATIONS.map(({ rule }) => rule)).size).toBe(MUTATIONS.length);
  });

  it('is told in docs/mistakes.md, which names no other file that is not there', () => {
    const page = readFileSync(join(ROOT, 'docs/mistakes.md'), 'utf8');
    const files = [...page.matchAll(/`((?:src|test|workflows|activities)\/[\w./-]+\.ts)`/g)].map(
      ([, file]) => file ?? '',
    );
    expect(files.length).toBeGreaterThan(20);
    expect([...new Set(files)].filter((file) => !existsSync(join(ROOT, file)))).toEqual([]);
    const untold = MUTATIONS.filter(({ test }) => !page.includes(test.file.split('/').at(-1) ?? ''));
    expect(untold.map(({ rule }) => rule)).toEqual([]);
  });
});
