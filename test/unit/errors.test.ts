import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ERROR_TYPES } from '../../src/errors.js';

describe('the catalogue of errors', () => {
  it('is documented, each type once, and nothing else is', () => {
    const text = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8');
    const documented = [...text.matchAll(/^\| `(\w+)` +\|/gm)].map((match) => match[1]);
    expect(documented).toEqual([...ERROR_TYPES]);
  });
});
