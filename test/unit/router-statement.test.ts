import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { doesMoreThanRead } from '../../src/router/besides-reading.js';
import { firstWordAt, firstWords } from '../../src/router/first-words.js';
import { mayCommitByItself } from '../../src/router/statement.js';
import { refuseUnsupported } from '../../src/router/supported.js';

describe('a write that may commit in its middle', () => {
  it.each(['CALL chunks()', ' do $$ begin end $$', 'INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2)'])(
    'is not run again: %s',
    (query) => {
      expect(mayCommitByItself({ query, values: undefined })).toBe(true);
    },
  );

  it('is not run again: several statements with an empty list of values, which is none to node-postgres', () => {
    expect(mayCommitByItself({ query: 'INSERT INTO t VALUES (1); COMMIT; SELECT 1', values: [] })).toBe(true);
  });

  it('is not run again: a call behind a comment', () => {
    expect(mayCommitByItself({ query: '/* app */ -- note\n CALL chunks()', values: undefined })).toBe(true);
  });

  it.each([
    '/* a /* b */ */ CALL p()',
    '-- note\rCALL p()',
    '; CALL p()',
    "INSERT INTO t VALUES (1);; -- and\n /* then */ COMMIT; SELECT 'x'",
    "INSERT INTO t VALUES ('; /* '); COMMIT",
    "INSERT INTO t VALUES ('; -- '); COMMIT",
  ])('is not run again: what a comment or an empty statement leads, %j', (query) => {
    expect(mayCommitByItself({ query, values: undefined })).toBe(true);
  });

  it.each([
    '/* POST /orders */ INSERT INTO t VALUES (1) ON CONFLICT (id) /* seen */ DO NOTHING',
    '/* a */ SELECT 1; /* b */ SELECT CASE WHEN true THEN 1 /* c */ END',
    '/* a /* b */ CALL p() */ SELECT 1',
    '-- note CALL p()',
    'INSERT INTO t VALUES (1)',
    'INSERT INTO t VALUES (1);',
    "UPDATE t SET note = 'commit; now'",
    'SELECT called()',
  ])('is not what others are: %s', (query) => {
    expect(mayCommitByItself({ query, values: query.includes('note') ? [1] : undefined })).toBe(false);
  });
});

describe('a read that notifies', () => {
  it.each([
    'NOTIFY jobs',
    'SELECT 1; NOTIFY jobs',
    "SELECT 1;\n-- a job\nnotify jobs, 'one'",
    'DO $$ BEGIN NOTIFY jobs; END $$',
    'DO $$ BEGIN PERFORM 1; NOTIFY "Jobs"; END $$',
    'DO $$ BEGIN IF true THEN NOTIFY jobs; ELSE NOTIFY others; END IF; END $$',
    "DO $$ BEGIN EXECUTE 'NOTIFY jobs'; END $$",
    "DO $$ BEGIN EXECUTE format('NOTIFY %I', 'jobs'); END $$",
  ])('does more than read: %j', (text) => {
    expect(doesMoreThanRead(text)).toBe(true);
    expect(doesMoreThanRead({ text })).toBe(true);
  });

  it.each([
    'SELECT notify FROM settings',
    "SELECT id FROM settings WHERE kind = 'notify'; SELECT 2",
    'SELECT CASE WHEN a THEN notify ELSE notify END FROM settings',
    'SELECT CASE WHEN a THEN notify WHEN b THEN notify AND c END FROM settings; SELECT 1',
  ])('is not one that only names a column or a value so: %j', (text) => {
    expect(doesMoreThanRead(text)).toBe(false);
  });
});

describe('a COMMIT behind a semicolon', () => {
  const WORDS = [';', '/*', '*/', '--', '-', '/', '*', '\n', '\r', ' ', "'", 'x', 'Commit', 'end', 'ends', 'prepare'];
  const COMMITS = /(?:commit|end|prepare\s+transaction)\b/iy;

  it('is found where a look at each semicolon finds it', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...WORDS, 'prepare\ttransaction'), { maxLength: 24 }), (words) => {
        const text = `x${words.join('')}`;
        const isFound = Array.from(text.matchAll(/;/g)).some(({ index }) => firstWords(COMMITS, text, index) !== null);
        expect(mayCommitByItself({ query: text, values: undefined })).toBe(isFound);
      }),
      { numRuns: 3_000 },
    );
  });

  it.each([';', ';\n', ';/*', ';-- x ', ';/* x */', '/*;', ';prepare '])(
    'is looked for in no time, however often a text has %j',
    (part) => {
      for (const close of ['', '*/'.repeat(50_000)]) {
        const text = `INSERT INTO t VALUES ('${part.repeat(50_000)}${close} x end')`;
        const begun = performance.now();
        expect(mayCommitByItself({ query: text, values: undefined })).toBe(false);
        expect(performance.now() - begun).toBeLessThan(500);
      }
    },
  );
});

describe('the first word of a text', () => {
  it.each([
    ['SELECT 1', 'SELECT 1'],
    [' \t\n\v\f\rSELECT 1', 'SELECT 1'],
    ['-- a\n--\r\n; SELECT 1', 'SELECT 1'],
    ['/**/SELECT 1', 'SELECT 1'],
    ['/*/ a */SELECT 1', 'SELECT 1'],
    ['/***/SELECT 1', 'SELECT 1'],
    ['/* a /* b */ -- c */SELECT 1', 'SELECT 1'],
    ['(SELECT 1)', '(SELECT 1)'],
    ['- 1', '- 1'],
    ['/ 2', '/ 2'],
    ['-- a', ''],
    ['/* a /* b */', ''],
    [' ; ', ''],
    ['', ''],
  ])('of %j is where PostgreSQL begins to read: %j', (text, rest) => {
    expect(text.slice(firstWordAt(text))).toBe(rest);
  });

  it('is found behind any number of comments in no time', () => {
    for (const [comments, withinMs] of [
      [25, 100],
      [50_000, 500],
    ] as const) {
      const text = `${'/* ------ */\n'.repeat(comments)}SELECT 1 /* more */`;
      const begun = performance.now();
      refuseUnsupported(text);
      expect(mayCommitByItself({ query: text, values: undefined })).toBe(false);
      expect(performance.now() - begun).toBeLessThan(withinMs);
    }
  });
});
