import type { SettableRole } from './application-roles.js';
import { grouped } from './grouped.js';
import { ident } from './identifier.js';
import type { Session } from './session.js';

/** A role that a connected one can become on blue by SET ROLE, and not on green. */
export interface Membership {
  readonly role: string;
  /** Green has no such role. */
  readonly absent: boolean;
}

/**
 * By the roles that are connected, of which green has these. Only of memberships that are for nothing else: where the rights
 * of a role are inherited, its members may have them on green in another way, and that is what is compared of them.
 */
export async function missingMemberships(
  green: Session,
  settable: readonly SettableRole[],
  known: readonly string[],
): Promise<ReadonlyMap<string, readonly Membership[]>> {
  const onGreen = new Set(known);
  const pairs = settable
    .flatMap(({ role, onlyBySet }) => onlyBySet.flatMap((member) => (onGreen.has(member) ? [{ member, role }] : [])))
    // In the order of the members: the server remembers what the last one it was asked about may become.
    .toSorted((one, other) => one.member.localeCompare(other.member));
  if (pairs.length === 0) return new Map();
  const { rows } = await green.query<{ i: number; absent: boolean }>(MISSING, [
    pairs.map(({ member }) => member),
    pairs.map(({ role }) => role),
  ]);
  const missing = rows.flatMap(({ i, absent }) => {
    const pair = pairs[i];
    return pair === undefined ? [] : [{ ...pair, absent }];
  });
  return new Map(grouped(missing, ({ member }) => member).map(([{ member }, ofMember]) => [member, ofMember]));
}

/** Before 16 every member may SET ROLE. */
const MISSING = `
  SELECT asked.i::int - 1 AS i, r.oid IS NULL AS absent
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (member, role, i)
    JOIN pg_roles m ON m.rolname = asked.member LEFT JOIN pg_roles r ON r.rolname = asked.role
   WHERE r.oid IS NULL
      OR NOT pg_has_role(m.oid, r.oid, CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END)
   ORDER BY 1`;

/** For people, with the statements that give them. */
export function describeMemberships(
  who: string,
  member: string,
  missing: readonly Membership[],
  named: number,
): string[] {
  if (missing.length === 0) return [];
  const grants = missing
    .slice(0, named)
    .map(
      ({ role, absent }) => `${absent ? `CREATE ROLE ${ident(role)}; ` : ''}GRANT ${ident(role)} TO ${ident(member)}`,
    );
  const more = missing.length > named ? `; and ${missing.length - named} more` : '';
  return [`${who} and can become there by SET ROLE what it can't on green: ${grants.join('; ')}${more}`];
}
