import { expect, it } from 'vitest';
import { refusal, type HbaRule, type HbaUser, type SeenAs } from '../../src/pgbouncer/hba-rules.js';

const WEB: HbaUser = { name: 'web', groups: ['web', 'staff'] };
const SEEN: SeenAs = { address: '10.0.0.11', ssl: false, database: 'shop' };

function rule(line: number, method: string, more: Partial<HbaRule> = {}): HbaRule {
  return { line, type: 'host', databases: ['all'], users: ['all'], isFromThere: true, method, ...more };
}

const REFUSED = { user: 'web', line: null };
const REJECTED = { user: 'web', line: 9 };
const REJECT = rule(9, 'reject');

it.each<[string, readonly HbaRule[], typeof REFUSED | typeof REJECTED | undefined, Partial<SeenAs>?]>([
  ['the first rule that fits counts', [rule(1, 'md5'), REJECT], undefined],
  ['a rule that rejects', [rule(1, 'md5', { users: ['other'] }), REJECT], REJECTED],
  ['no rule for the user', [rule(1, 'md5', { users: ['other'] })], REFUSED],
  ['no rule for the database', [rule(1, 'md5', { databases: ['hr', 'replication', 'sameuser'] })], REFUSED],
  ['no rule for the address', [rule(1, 'md5', { isFromThere: false })], REFUSED],
  ['a rule for TLS alone', [rule(1, 'md5', { type: 'hostssl' })], REFUSED],
  ['a rule for TLS alone, with TLS', [rule(1, 'md5', { type: 'hostssl' })], undefined, { ssl: true }],
  ['a rule for GSSAPI alone', [rule(1, 'gss', { type: 'hostgssenc' })], REFUSED],
  ['a rule for Unix sockets alone', [rule(1, 'md5', { type: 'local', isFromThere: null })], REFUSED],
  ['a Unix socket', [rule(1, 'md5', { type: 'local', isFromThere: null })], undefined, { address: null }],
  ['a group of the user', [rule(1, 'md5', { users: ['+staff'] }), REJECT], undefined],
  ['a group of others', [rule(1, 'md5', { users: ['+admins'] }), REJECT], REJECTED],
  [
    'a database named as a role of the user',
    [rule(1, 'md5', { databases: ['samerole'] })],
    undefined,
    { database: 'staff' },
  ],
  // What is not known may let in, and does not reject for certain.
  ['a name of a host', [rule(1, 'md5', { isFromThere: null }), REJECT], undefined],
  ['a pattern', [rule(1, 'md5', { users: ['/^we'] }), REJECT], undefined],
  ['a pattern that may reject', [rule(1, 'reject', { users: ['/^we'] }), rule(2, 'md5')], undefined],
])('pg_hba.conf: %s', (_, rules, expected, seen = {}) => {
  expect(refusal(rules, WEB, { ...SEEN, ...seen })).toEqual(expected);
});

it('pg_hba.conf does not count a superuser as a member of every group, so nothing is said', () => {
  const rules = [rule(1, 'md5', { users: ['+staff'] }), REJECT];
  expect(refusal(rules, { name: 'web', groups: null }, SEEN)).toBeUndefined();
});
