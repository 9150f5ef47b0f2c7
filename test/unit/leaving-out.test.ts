import { expect, it } from 'vitest';
import { leavingOut, leavingOutByFilter } from '../../src/postgres/schema-copy/leaving-out.js';

it('a pg_dump without --filter is given names as arguments, and none that a command line has no room for', () => {
  const odd = [{ schema: 'odd "x"', name: 'a*b' }];
  expect(leavingOut(odd, 16)).toEqual({ args: ['--exclude-table="odd ""x"""."a*b"'], input: '' });
  expect(leavingOut([], 18)).toEqual({ args: [], input: '' });
  const many = Array.from({ length: 20_000 }, (_, i) => ({ schema: 'public', name: `events_${i}` }));
  expect(leavingOut(many, 16)).toBeUndefined();
  expect(leavingOut(many, 17)?.args).toEqual(['--filter=-']);
});

it('a filter escapes what it would read in a name', () => {
  expect(leavingOutByFilter([{ schema: 's', name: 'a\\n\n#b' }]).input).toBe('exclude table "s"."a\\\\n\\n#b"\n');
});
