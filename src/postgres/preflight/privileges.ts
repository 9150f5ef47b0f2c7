import { formatTableName } from '../../plan/table-name.js';
import { readMovedSequences } from '../catalog-sequences.js';
import { peerUser } from '../feed-timeouts.js';
import { ident } from '../identifier.js';
import { readWithheldSequences } from '../sequence-rights.js';
import { connectionVariable, type Database, type Session } from '../session.js';
import { BOTH_SIDES, oneRow, type Found, type SideCheck } from './check.js';
import { listed } from './finding.js';

/**
 * Roles of Amazon RDS that carry what the attribute REPLICATION gives elsewhere. No other managed service has made a role of
 * it: an attribute is not inherited, so their administrators need it themselves.
 */
const REPLICATION_ROLES = ['rds_replication', 'rds_superuser'];

export const privileges: SideCheck = {
  name: 'privileges',
  sides: BOTH_SIDES,
  run: async ({ session, isSuperuser, database: connected }) => {
    if (isSuperuser) return [];
    const { user, replication, create, database, origins } = await oneRow<{
      user: string;
      replication: boolean;
      create: boolean;
      database: string;
      origins: boolean;
    }>(
      session,
      `SELECT current_user AS user, current_database() AS database,
              r.rolreplication OR EXISTS (SELECT FROM pg_roles m WHERE m.rolname = ANY ($1) AND pg_has_role(m.oid, 'USAGE')) AS replication,
              has_database_privilege(current_database(), 'CREATE') AS create,
              has_function_privilege('pg_replication_origin_progress(text, boolean)', 'EXECUTE') AS origins
         FROM pg_roles r WHERE r.rolname = current_user`,
      [REPLICATION_ROLES],
    );
    const found: Found[] = [];
    if (!replication) {
      found.push({
        severity: 'error',
        object: user,
        message: `the user "${user}" has not the attribute REPLICATION: it can't make slots`,
        remedy: `ALTER ROLE ${ident(user)} REPLICATION (on Amazon RDS: GRANT rds_replication TO ${ident(user)})`,
      });
    }
    if (!create) {
      found.push({
        severity: 'error',
        object: user,
        message: `the user "${user}" may make neither schemas nor publications in the database "${database}"`,
        remedy: `GRANT CREATE ON DATABASE ${ident(database)} TO ${ident(user)}`,
      });
    }
    if (!origins) {
      found.push({
        severity: 'error',
        object: 'pg_replication_origin_progress',
        message: `the user "${user}" may not ask how far replication is: reads could not be sent to green safely`,
        remedy: `As a superuser: GRANT EXECUTE ON FUNCTION pg_catalog.pg_replication_origin_progress(text, boolean) TO ${ident(user)}`,
      });
    }
    return [...found, ...(await walSenders(session, connected))];
  },
};

/** The other server follows this one as a user whose sessions ours may not end: dropSlot() does, where one holds a slot. */
async function walSenders(session: Session, database: Database): Promise<Found[]> {
  const { rows } = await session.query<{ user: string; peer: string; superuser: boolean }>(
    `SELECT current_user::text AS user, rolname::text AS peer, rolsuper AS superuser FROM pg_roles
      WHERE rolname = $1 AND (rolsuper OR NOT (pg_has_role(oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')))`,
    [peerUser(database) ?? null],
  );
  return rows.map(({ user, peer, superuser }) => ({
    severity: 'warning',
    object: peer,
    message: `the user "${user}" may not end sessions of "${peer}", with whom the other server follows this one: a slot that is in use can't be dropped then, and keeps WAL`,
    remedy: superuser
      ? `Set VERDIGRIS_CONNECTION_${connectionVariable(database.connection)}_PEER with a user that is no superuser`
      : `GRANT pg_signal_backend TO ${ident(user)}`,
  }));
}

/** Publications, triggers and fences need the owner; the dump and the comparison need to read. */
export const tableOwnership: SideCheck = {
  name: 'table-ownership',
  sides: ['blue'],
  run: async ({ session, isSuperuser, tables }) => {
    if (isSuperuser) return [];
    const moved = await tables();
    const { rows } = await session.query<{ oid: string; user: string; owned: boolean; readable: boolean }>(
      `SELECT c.oid::text, current_user AS user, pg_has_role(c.relowner, 'USAGE') AS owned,
              has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(c.relnamespace, 'USAGE') AS readable
         FROM pg_class c WHERE c.oid = ANY ($1::oid[])`,
      [moved.map(({ oid }) => oid)],
    );
    const byOid = new Map(moved.map((table) => [String(table.oid), table]));
    const user = rows[0]?.user ?? '';
    const named = (wanted: (row: { owned: boolean; readable: boolean }) => boolean): string[] =>
      rows.filter(wanted).flatMap(({ oid }) => {
        const table = byOid.get(oid);
        return table === undefined ? [] : [formatTableName(table.name)];
      });
    const foreign = named((row) => !row.owned);
    const unreadable = named((row) => !row.readable);
    const owners = [...new Set(moved.map(({ owner }) => owner))].map(ident).join(', ');
    return [
      ...(foreign.length === 0
        ? []
        : [
            {
              severity: 'error',
              object: listed(foreign),
              message: `the user "${user}" is not an owner of ${foreign.length} tables: it can neither publish them nor fence them`,
              remedy: `GRANT ${owners} TO ${ident(user)}, or give the connection of the owner`,
            } as const,
          ]),
      ...(unreadable.length === 0
        ? []
        : [
            {
              severity: 'error',
              object: listed(unreadable),
              message: `the user "${user}" may not read ${unreadable.length} tables: neither the schema nor the rows can be copied`,
              remedy: `GRANT SELECT on these tables and USAGE on their schemas TO ${ident(user)}`,
            } as const,
          ]),
    ];
  },
};

/** Green gets the positions of blue's sequences, and with a way back after the promotion blue those of green's. */
export const sequencePrivileges: SideCheck = {
  name: 'sequence-privileges',
  sides: ['blue'],
  run: async ({ session, isSuperuser, plan }) => {
    if (isSuperuser) return [];
    const withheld = await readWithheldSequences(session, await readMovedSequences(session, plan.tables));
    if (withheld === undefined) return [];
    const { user, names, grants } = withheld;
    return [
      {
        severity: 'error',
        object: listed(names),
        message: `the user "${user}" may not both read and set ${names.length} sequences: green would hand out their values a second time, or blue after a rollback`,
        remedy: grants,
      },
    ];
  },
};
