import { connectedRoles, rolesOf } from './application-roles.js';
import { grouped } from './grouped.js';
import { ident } from './identifier.js';
import type { Session } from './session.js';

/*
 * What is stored for a role or the database (ALTER ROLE, ALTER DATABASE ... SET) is in no dump, and no DDL that a run
 * notices. Some of it decides what the statements of the application mean: they fail on green, or give other rows.
 */

/** A setting that sessions of a role get on blue, and not on green. */
export interface MissingSetting {
  readonly role: string;
  readonly name: string;
  /** It is stored for the role, not for the database. */
  readonly ofRole: boolean;
  /** Green's user may store it: a name that no module of green defines takes a superuser there, which services give nobody. */
  readonly maySet: boolean;
}

/** In lower case: what names mean, and times, and which rows are seen. Others make a session slower, or end it. */
const MEANINGFUL = new Set([
  'search_path',
  'default_transaction_isolation',
  'timezone',
  'datestyle',
  'intervalstyle',
  'role',
  'row_security',
]);

/** Settings of modules that only watch, and of services: nothing that the application asks for. */
const WATCHERS = new Set([
  ...['auto_explain', 'pgaudit', 'pg_stat_statements', 'pg_stat_monitor', 'pg_qualstats', 'pg_hint_plan'],
  ...['rds', 'apg_plan_mgmt', 'cloudsql', 'alloydb', 'google_columnar_engine', 'google_db_advisor', 'azure'],
  ...['pg_qs', 'pgms_wait_sampling'],
]);

interface Stored {
  /** Null: for the database. */
  readonly role: string | null;
  readonly name: string;
  readonly value: string;
}

/**
 * Of the roles that are connected to blue now. Another value is not missing: it may be meant, and so may a default of green's
 * server that is the same. Values may be secrets: they are in no text.
 */
export async function missingSettings(blue: Session, green: Session): Promise<MissingSetting[]> {
  const roles = await connectedRoles(blue);
  const wanted = (await readStored(blue, roles)).filter(({ name }) => isMeaningful(name));
  if (wanted.length === 0) return [];
  const there = await readStored(green, roles);
  const known = await rolesOf(green, roles);
  const names = wanted.map(({ name }) => name);
  const defaults = await readDefaults(green, names);
  const settable = await readSettable(green, names);
  const isThere = (role: string, name: string): boolean =>
    there.some((one) => one.name.toLowerCase() === name.toLowerCase() && (one.role === null || one.role === role));
  return roles
    .filter((role) => known.has(role))
    .flatMap((role) =>
      valuesOf(role, wanted)
        .filter(({ name, value }) => !isThere(role, name) && !isDefault(value, defaults.get(name.toLowerCase())))
        .map(({ name, role: of }) => ({ role, name, ofRole: of !== null, maySet: settable.has(name.toLowerCase()) })),
    );
}

function isMeaningful(name: string): boolean {
  const [module, own] = name.toLowerCase().split('.', 2);
  return own === undefined ? MEANINGFUL.has(name.toLowerCase()) : !WATCHERS.has(module ?? '');
}

/** What sessions of a role get: what is stored for it comes before what is for the database. */
function valuesOf(role: string, stored: readonly Stored[]): Stored[] {
  const values = new Map<string, Stored>();
  for (const one of stored) {
    if (one.role === null || one.role === role) values.set(one.name.toLowerCase(), one);
  }
  return [...values.values()];
}

/** Upper or lower case, quotes and spaces make no other value of those that are compared. */
function isDefault(value: string, ofServer: string | null | undefined): boolean {
  const plain = (text: string): string => text.toLowerCase().replaceAll(/["'\s]/gu, '');
  // Not known: the session that asks has its own. Nobody is kept waiting for what may be there.
  return ofServer === null || (ofServer !== undefined && plain(ofServer) === plain(value));
}

/** Those that come first are overruled by later ones. */
async function readStored(session: Session, roles: readonly string[]): Promise<Stored[]> {
  const { rows } = await session.query<Stored>(
    `SELECT r.rolname::text AS role, split_part(c, '=', 1) AS name, substr(c, strpos(c, '=') + 1) AS value
       FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c
      WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        AND (s.setrole = 0 OR r.rolname = ANY ($1))
      ORDER BY s.setrole <> 0, s.setdatabase <> 0`,
    [roles],
  );
  return rows;
}

/** What the server gives everybody, by lower-case name; null where what is stored for our own role hides it. */
async function readDefaults(session: Session, names: readonly string[]): Promise<ReadonlyMap<string, string | null>> {
  const { rows } = await session.query<{ name: string; value: string | null }>(
    // reset_val: what our session began with, before it made its own settings.
    `SELECT lower(s.name) AS name,
            CASE WHEN NOT EXISTS (SELECT FROM pg_db_role_setting d JOIN pg_roles r ON r.oid = d.setrole, unnest(d.setconfig) c
                                   WHERE r.rolname = session_user AND lower(split_part(c, '=', 1)) = lower(s.name))
                 THEN coalesce(s.reset_val, '') END AS value
       FROM pg_settings s WHERE lower(s.name) = ANY ($1)`,
    [names.map((name) => name.toLowerCase())],
  );
  return new Map(rows.map(({ name, value }) => [name, value]));
}

/** The lower-case names of those that our user may store for a role or the database. */
async function readSettable(session: Session, names: readonly string[]): Promise<ReadonlySet<string>> {
  const { rows } = await session.query<{ name: string }>(
    // A superuser has each privilege, also on what nobody knows.
    `SELECT w.name FROM unnest($1::text[]) AS w (name) LEFT JOIN pg_settings s ON lower(s.name) = w.name
      WHERE s.context = 'user' OR has_parameter_privilege(w.name, 'SET')`,
    [names.map((name) => name.toLowerCase())],
  );
  return new Set(rows.map(({ name }) => name));
}

/** Whoever asks may be the only one who sets up green: what it may not store is warned of, and keeps nothing waiting. */
export function settingsInTheWay(missing: readonly MissingSetting[]): MissingSetting[] {
  return missing.filter(({ maySet }) => maySet);
}

/** How many settings of one role are named. */
const NAMED = 5;

/** For people, with the statements that set them; empty when nothing is missing. */
export function describeMissingSettings(missing: readonly MissingSetting[]): string[] {
  return grouped(missing, ({ role }) => role).map(([{ role }, settings]) => {
    const statements = settings
      .slice(0, NAMED)
      .map(
        ({ name, ofRole }) =>
          `${ofRole ? `ALTER ROLE ${ident(role)}` : 'ALTER DATABASE ...'} SET ${/^[a-z_][\w.]*$/iu.test(name) ? name : ident(name)} as on blue`,
      );
    const more = settings.length > NAMED ? `; and ${settings.length - NAMED} more` : '';
    return `the role "${role}" is connected to blue and gets settings there that are not stored on green: ${statements.join('; ')}${more}`;
  });
}
