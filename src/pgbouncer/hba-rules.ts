import type { Session } from '../postgres/session.js';

/** How a server sees the connections of a PgBouncer. */
export interface SeenAs {
  /** Of the PgBouncer, or of what stands between; null: they come by a Unix socket. */
  readonly address: string | null;
  readonly ssl: boolean;
  /** The database that they come to. */
  readonly database: string;
}

/** A user whom a server's pg_hba.conf does not let in. */
export interface HbaRefusal {
  readonly user: string;
  /** Of the rule that rejects; null: no rule is for this user. */
  readonly line: number | null;
}

/** A rule of pg_hba.conf. */
export interface HbaRule {
  readonly line: number;
  readonly type: string;
  readonly databases: readonly string[];
  readonly users: readonly string[];
  /** Whether its address is that of the PgBouncer; null: that can't be said of a name, `samehost` and `samenet`. */
  readonly isFromThere: boolean | null;
  readonly method: string;
}

/** A role as pg_hba.conf may name it. */
export interface HbaUser {
  readonly name: string;
  /** Roles of which it is a member, itself among them; null for a superuser, who counts as one of all but in pg_hba.conf. */
  readonly groups: readonly string[] | null;
}

/**
 * Those of these users whom pg_hba.conf, as it stands, would refuse whatever their password: the first rule that is for them
 * says `reject`, or none is. Only what is certain; nobody where the rules may not be read, or one of them is broken.
 */
export async function refusedByHba(session: Session, users: readonly string[], seenAs: SeenAs): Promise<HbaRefusal[]> {
  if (users.length === 0 || !(await mayRead(session))) return [];
  const { rows: rules } = await session.query<HbaRule & { readonly broken: boolean }>(
    // In the order of the file. Only a rule with a mask has an address that is one. One that can't be read has no type; an error
    // of one that has is a remark, such as on hostssl where TLS is off.
    `SELECT coalesce(line_number, 0) AS line, coalesce(type, '') AS type, coalesce(database, '{}') AS databases,
            coalesce(user_name, '{}') AS users, coalesce(auth_method, '') AS method, type IS NULL AS broken,
            CASE WHEN address = 'all' THEN true
                 WHEN netmask IS NULL OR $1::text IS NULL THEN NULL
                 WHEN family(address::inet) <> family($1::text::inet) THEN false
                 ELSE (address::inet & netmask::inet) = ($1::text::inet & netmask::inet) END AS "isFromThere"
       FROM pg_catalog.pg_hba_file_rules`,
    [seenAs.address],
  );
  if (rules.some(({ broken }) => broken)) return [];
  const { rows: known } = await session.query<HbaUser>(
    `SELECT u.rolname::text AS name,
            CASE WHEN NOT u.rolsuper THEN ARRAY(SELECT g.rolname::text FROM pg_catalog.pg_roles g
                                                 WHERE pg_has_role(u.oid, g.oid, 'MEMBER')) END AS groups
       FROM pg_catalog.pg_roles u WHERE u.rolname = ANY ($1) ORDER BY 1`,
    [users],
  );
  return known.flatMap((user) => refusal(rules, user, seenAs) ?? []);
}

async function mayRead(session: Session): Promise<boolean> {
  const { rows } = await session.query<{ may: boolean }>(
    `SELECT has_table_privilege('pg_catalog.pg_hba_file_rules', 'SELECT')
        AND has_function_privilege('pg_catalog.pg_hba_file_rules()', 'EXECUTE') AS may`,
  );
  return rows[0]?.may === true;
}

/** What the rules say for certain of a user; undefined when one lets in, or may. The first that fits counts. Pure. */
export function refusal(rules: readonly HbaRule[], user: HbaUser, seenAs: SeenAs): HbaRefusal | undefined {
  for (const rule of rules) {
    const fits = all([
      isOfType(rule.type, seenAs),
      seenAs.address === null ? true : rule.isFromThere,
      any(rule.databases.map((token) => isDatabase(token, user, seenAs.database))),
      any(rule.users.map((token) => isUser(token, user))),
    ]);
    if (fits === false) continue;
    if (rule.method !== 'reject') return undefined;
    if (fits === true) return { user: user.name, line: rule.line };
  }
  return { user: user.name, line: null };
}

/** True, false, or null: not known. */
type Maybe = boolean | null;

function all(parts: readonly Maybe[]): Maybe {
  if (parts.includes(false)) return false;
  return parts.includes(null) ? null : true;
}

function any(parts: readonly Maybe[]): Maybe {
  if (parts.includes(true)) return true;
  return parts.includes(null) ? null : false;
}

/** PgBouncer knows no encryption by GSSAPI. */
function isOfType(type: string, { address, ssl }: SeenAs): boolean {
  if (address === null) return type === 'local';
  if (type === 'hostssl') return ssl;
  if (type === 'hostnossl') return !ssl;
  return type === 'host' || type === 'hostnogssenc';
}

function isDatabase(token: string, user: HbaUser, database: string): Maybe {
  if (token === 'all' || token === database) return true;
  if (token === 'sameuser') return user.name === database;
  if (token === 'samerole' || token === 'samegroup') return isMember(user, database);
  return isPattern(token);
}

function isUser(token: string, user: HbaUser): Maybe {
  if (token === 'all' || token === user.name) return true;
  return token.startsWith('+') ? isMember(user, token.slice(1)) : isPattern(token);
}

function isMember({ name, groups }: HbaUser, role: string): Maybe {
  if (name === role) return true;
  return groups === null ? null : groups.includes(role);
}

/** From 16 on `/` begins a regular expression, of PostgreSQL's kind: whether it fits is left open. */
function isPattern(token: string): Maybe {
  return token.startsWith('/') ? null : false;
}
