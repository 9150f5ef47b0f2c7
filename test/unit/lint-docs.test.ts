import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { PARSE_RULES } from '../../src/plan/parse.js';
import { CATALOG_RULES, RULES } from '../../src/plan/rules/index.js';

const text = readFileSync(new URL('../../docs/lint-rules.md', import.meta.url), 'utf8');
const sections = new Map(
  text
    .split(/^### /m)
    .slice(1)
    .map((section) => [/^`([a-z0-9-]+)`/.exec(section)?.[1] ?? '', section]),
);
const severities = new Map([
  ...PARSE_RULES.map((name): [string, string] => [name, 'error']),
  ...[...RULES, ...CATALOG_RULES].map(({ name, severity }): [string, string] => [name, severity]),
]);

describe('docs/lint-rules.md', () => {
  it('has a section for every rule, and for no other', () => {
    expect([...sections.keys()].sort()).toEqual([...severities.keys()].sort());
  });

  it.each([...severities])(
    'says of %s that it is an %s, why, what is refused, and what to write instead',
    (name, severity) => {
      const section = sections.get(name) ?? '';
      expect(section).toContain(`_${severity}_`);
      for (const part of ['**Why**: ', '**Refused**: ', '**Write instead**: ']) expect(section).toContain(part);
    },
  );
});
