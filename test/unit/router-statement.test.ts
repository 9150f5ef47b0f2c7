import { describe, expect, it } from 'vitest';
import { mayCommitByItself } from '../../src/router/statement.js';

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
    'INSERT INTO t VALUES (1)',
    'INSERT INTO t VALUES (1);',
    "UPDATE t SET note = 'commit; now'",
    'SELECT called()',
  ])('is not what others are: %s', (query) => {
    expect(mayCommitByItself({ query, values: query.includes('note') ? [1] : undefined })).toBe(false);
  });
});
