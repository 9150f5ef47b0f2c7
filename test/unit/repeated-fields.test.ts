import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { repeatedFields } from '../../src/plan/repeated-fields.js';

const found = (text: string): string[] => repeatedFields(text).map(({ place, message }) => `${place}: ${message}`);

describe('a field that stands twice', () => {
  it('is told with its place and both lines', () => {
    const text = `{
      "name": "orders",
      "migrations": [{ "sql": {} }],
      "traffic": { "stages": [1, { "for": "1m",
        "for": "2m" }] },
      "migrations": []
    }`;
    expect(found(text)).toEqual([
      'traffic.stages[1].for: "for" in line 5 stands in line 4 already',
      'migrations: "migrations" in line 6 stands in line 3 already',
    ]);
    expect(found('{"a": 1, "a": 2}')).toEqual(['a: "a" stands twice in line 1']);
  });

  it('is told each time, and with every spelling of it', () => {
    expect(found('{"a": 1,\n"\\u0061": 2,\n"a": 3}')).toEqual([
      'a: "a" in line 2 stands in line 1 already',
      'a: "a" in line 3 stands in line 1 already',
    ]);
    expect(found('{"__proto__": 1, "__proto__": 2}')).toHaveLength(1);
  });

  it('is told to be a step of its own where it is an operation', () => {
    expect(repeatedFields('{"migrations": [{ "sql": {}, "sql": {} }]}')[0]?.instead).toMatch(/a step of its own/);
    expect(repeatedFields('{"tables": [], "tables": []}')[0]?.instead).toBe(
      'keep one "tables", with all that is meant',
    );
  });

  it('is none where two objects have it, or a text looks like it', () => {
    const text = JSON.stringify({ a: 'a', b: ['a', 'a', { a: '{"a":1,"a":2}' }, { a: '\\' }], c: { a: '"a",\n"a":' } });
    expect(found(text)).toEqual([]);
    fc.assert(
      fc.property(
        fc.json(),
        fc.nat(4),
        (json, indent) => found(JSON.stringify(JSON.parse(json), null, indent)).length === 0,
      ),
    );
  });

  it('is in none of the examples', () => {
    const folder = new URL('../../examples/', import.meta.url).pathname;
    for (const name of readdirSync(folder).filter((one) => one.endsWith('.json'))) {
      expect(found(readFileSync(join(folder, name), 'utf8')), name).toEqual([]);
    }
  });
});
