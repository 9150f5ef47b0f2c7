import { ident, literal } from '../postgres/identifier.js';
import { BEGIN, type Session } from '../postgres/session.js';
import { INVALID_PARAMETER_VALUE, NO_RIGHT, sqlState } from '../postgres/sqlstate.js';
import type { UserLookup } from './user-lookup.js';

/*
 * The query may call functions that others have written, and must not lend them the rights of the worker's user. SET ROLE
 * is left by a RESET ROLE of any of them; a function that is SECURITY DEFINER is left by nothing that it calls. So auth_user
 * gets one, a temporary one: no other session sees it, and it goes with this one, whatever happens.
 *
 * It is made in a transaction of its own: one that has written holds back whoever makes a slot meanwhile, and a query may
 * take seconds.
 */

/** What asks for one user, by name ($1): the columns `password`, a hash, and `isSalted`; a row for each that is found. */
export const ASK =
  'SELECT password, "isSalted" FROM pg_temp.verdigris_lookup($1) AS found (password text, "isSalted" boolean)';

/** Why auth_user can't be asked for. */
export interface NotMade {
  readonly is: 'no role' | 'untried';
  readonly why: string;
}

/** Makes what ASK calls, with the rights of auth_user alone. @returns why it could not; undefined when it is there */
export async function makeLookup(session: Session, { authUser, query }: UserLookup): Promise<NotMade | undefined> {
  await session.query(`${BEGIN}; SET LOCAL synchronous_commit = off; SAVEPOINT as_it_was`);
  try {
    await session.query(`SET LOCAL ROLE ${ident(authUser)}`);
    await session.query('ROLLBACK TO SAVEPOINT as_it_was');
    await session.query(functionOf(authUser, query));
    await session.query('COMMIT');
    return undefined;
  } catch (error) {
    await session.query('ROLLBACK');
    const state = sqlState(error);
    if (state === INVALID_PARAMETER_VALUE) return { is: 'no role', why: `there is no role "${authUser}"` };
    if (state !== NO_RIGHT) throw error;
    return { is: 'untried', why: await missingRight(session, authUser) };
  }
}

async function missingRight(session: Session, authUser: string): Promise<string> {
  const { rows } = await session.query<{ role: string }>(
    `SELECT role FROM (VALUES (current_user::text), ($1)) roles (role)
      WHERE NOT has_database_privilege(role, current_database(), 'TEMPORARY')`,
    [authUser],
  );
  return rows[0] === undefined
    ? `the user of the connection may not become "${authUser}" (SET ROLE)`
    : `"${rows[0].role}" may make nothing temporary in this database (TEMPORARY)`;
}

/**
 * The query is prepared first, as PgBouncer has it done: its parameter has the type that is found by what it stands beside.
 * Event triggers of the application are for its own DDL, and its default privileges for its own functions.
 */
function functionOf(authUser: string, query: string): string {
  const body = `
    BEGIN
      DEALLOCATE ALL;
      EXECUTE ${literal(`PREPARE verdigris_lookup AS ${hashesOf(query)}`)};
      RETURN QUERY EXECUTE pg_catalog.concat('EXECUTE verdigris_lookup(', pg_catalog.quote_literal(asked), ')');
    END`;
  return `SELECT set_config('session_replication_role', 'replica', true)
           WHERE has_parameter_privilege('session_replication_role', 'SET');
    CREATE FUNCTION pg_temp.verdigris_lookup(asked text) RETURNS SETOF record
      LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS ${literal(body)};
    GRANT EXECUTE ON FUNCTION pg_temp.verdigris_lookup(text) TO PUBLIC;
    ALTER FUNCTION pg_temp.verdigris_lookup(text) OWNER TO ${ident(authUser)}`;
}

/** Passwords leave no server. */
function hashesOf(query: string): string {
  return `SELECT encode(sha256(convert_to(found.password::text, 'UTF8')), 'hex') AS password,
                 coalesce(found.password::text LIKE 'SCRAM-SHA-256$%', false) AS "isSalted"
            FROM (${query.replace(/;\s*$/, '')}
                 ) AS found (name, password)
           WHERE found.name IS NOT NULL`;
}
