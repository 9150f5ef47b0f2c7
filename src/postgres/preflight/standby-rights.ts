import { ident } from '../identifier.js';
import { oneRow, type Found, type PairContext, type SideContext } from './check.js';
import { sequencePrivileges, tableOwnership } from './privileges.js';

/**
 * What green's user may not do with what belongs to others there, once green is promoted and that can't be taken back. Where
 * it is blue's user, blue says the same.
 */
export async function ownersRights({ blue, green }: Pick<PairContext, 'blue' | 'green'>): Promise<Found[]> {
  if (green.isSuperuser) return [];
  const owner = await userOf(blue);
  if ((await userOf(green)) === owner) return [];
  const ofTables = [...(await tableOwnership.run(green)), ...(await sequencePrivileges.run(green))];
  return [
    ...(await ofState(green, owner)),
    ...ofTables.map((found) => ({ ...found, remedy: `On blue, whose roles and grants green has: ${found.remedy}` })),
  ];
}

async function userOf({ session }: SideContext): Promise<string> {
  return (await oneRow<{ user: string }>(session, 'SELECT current_user::text AS user')).user;
}

/** The run makes schema verdigris on blue, and green's copy of it is changed right after the promotion. */
async function ofState({ session }: SideContext, owner: string): Promise<Found[]> {
  const { rows } = await session.query<{ user: string }>(
    `SELECT current_user::text AS user FROM pg_roles WHERE rolname = $1 AND NOT pg_has_role(oid, 'USAGE')`,
    [owner],
  );
  return rows.map(({ user }) => ({
    severity: 'error',
    object: 'verdigris',
    message: `green's user "${user}" has not the rights of blue's user "${owner}", to whom green's copy of the schema verdigris will belong: right after its promotion, which can't be taken back, the run could not go on`,
    remedy: `Let green's connection log in as "${owner}" or as a superuser; or on blue, whose roles green has: GRANT ${ident(owner)} TO ${ident(user)}`,
  }));
}
