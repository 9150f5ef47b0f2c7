import { ident } from '../postgres/identifier.js';
import type { Session } from '../postgres/session.js';
import { otherSide, type Side } from '../side.js';
import { refusedByHba, type HbaRefusal, type SeenAs } from './hba-rules.js';

/** Why a user of PgBouncer's clients may not get into a side, and what to do about it. */
export interface LoginTrouble {
  readonly user: string;
  readonly why: string;
  readonly remedy: string;
}

/** A role as one side has it. */
interface Role {
  readonly name: string;
  readonly login: boolean;
  /** VALID UNTIL a moment that is over. */
  readonly over: boolean;
  /** What tells one password from another; null without one, or where it may not be read. */
  readonly password: string | null;
}

/**
 * Whether users who get into the other side would get into this one, as far as the catalogs tell: nobody logs in. Passwords
 * are compared where both sides let their hashes be read, and leave no server.
 *
 * @param seenAs how this side sees them come. Default: not known, and its pg_hba.conf is not looked at
 */
export async function loginTroubles(
  sessions: Readonly<Record<Side, Session>>,
  side: Side,
  users: readonly string[],
  seenAs?: SeenAs,
): Promise<LoginTrouble[]> {
  const from = otherSide(side);
  const [blue, green] = [await mayReadPasswords(sessions.blue), await mayReadPasswords(sessions.green)];
  const comparable = blue && green;
  const [here, there] = [
    await readRoles(sessions[from], users, comparable),
    await readRoles(sessions[side], users, comparable),
  ];
  const comers = [...here.values()].filter(({ login }) => login);
  const troubles = comers.flatMap((role) => troubleOf(role, there.get(role.name), side));
  if (seenAs === undefined) return troubles;
  const refused = await refusedByHba(
    sessions[side],
    comers.map(({ name }) => name),
    seenAs,
  );
  return [...troubles, ...refused.map((refusal) => refusedAt(side, refusal, seenAs))];
}

function refusedAt(side: Side, { user, line }: HbaRefusal, { address, database }: SeenAs): LoginTrouble {
  const [type, from, mask] =
    address === null
      ? ['local', 'by a Unix socket', '']
      : ['host', `from ${address}`, ` ${address}/${address.includes(':') ? 128 : 32}`];
  const into = `the role "${user}" into "${database}" ${from}, as which it sees this PgBouncer`;
  const rule = `${type} ${ident(database)} ${ident(user)}${mask} scram-sha-256; then SELECT pg_reload_conf()`;
  if (line === null) {
    return {
      user,
      why: `pg_hba.conf of ${side} has no rule that lets ${into}`,
      remedy: `In pg_hba.conf of ${side}: ${rule}`,
    };
  }
  return {
    user,
    why: `pg_hba.conf of ${side} does not let ${into} (line ${line}: reject)`,
    remedy: `In pg_hba.conf of ${side}, before that line: ${rule}`,
  };
}

function troubleOf(here: Role, there: Role | undefined, side: Side): LoginTrouble[] {
  const [from, user, name] = [otherSide(side), here.name, ident(here.name)];
  if (there === undefined || !there.login) {
    const make = there === undefined ? `CREATE ROLE ${name} LOGIN, as it is on ${from}` : `ALTER ROLE ${name} LOGIN`;
    return [{ user, why: `${side} has no role "${here.name}" that may log in`, remedy: `On ${side}: ${make}` }];
  }
  if (there.over && !here.over) {
    return [
      {
        user,
        why: `the password of the role "${here.name}" is valid on ${side} until a moment that is over`,
        remedy: `On ${side}: ALTER ROLE ${name} VALID UNTIL '...', as it is on ${from}`,
      },
    ];
  }
  if (here.password === null || here.password === there.password) return [];
  const remedy = `On ${side}: ALTER ROLE ${name} PASSWORD '...', with the SCRAM-SHA-256$... or md5... that pg_dumpall --roles-only writes for ${from}`;
  if (there.password === null) return [{ user, why: `the role "${here.name}" has no password on ${side}`, remedy }];
  return [
    {
      user,
      why: `the role "${here.name}" has another password verifier on ${side} than on ${from}: it is another password, or the same one with another salt, which a PgBouncer that has the verifier (auth_file, auth_query) can't log in with`,
      remedy: `${remedy}; nothing where the password is the same and auth_file has it as plain text`,
    },
  ];
}

async function mayReadPasswords(session: Session): Promise<boolean> {
  const { rows } = await session.query<{ may: boolean }>(
    `SELECT has_column_privilege('pg_catalog.pg_authid', 'rolname', 'SELECT')
        AND has_column_privilege('pg_catalog.pg_authid', 'rolpassword', 'SELECT') AS may`,
  );
  return rows[0]?.may === true;
}

async function readRoles(
  session: Session,
  users: readonly string[],
  withPasswords: boolean,
): Promise<ReadonlyMap<string, Role>> {
  const password = withPasswords
    ? `(SELECT encode(sha256(convert_to(a.rolpassword, 'UTF8')), 'hex') FROM pg_catalog.pg_authid a WHERE a.rolname = r.rolname)`
    : 'NULL::text';
  const { rows } = await session.query<Role>(
    `SELECT r.rolname::text AS name, r.rolcanlogin AS login, coalesce(r.rolvaliduntil <= now(), false) AS over,
            ${password} AS password
       FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($1) ORDER BY 1`,
    [users],
  );
  return new Map(rows.map((role) => [role.name, role]));
}
