import { ident } from '../identifier.js';
import { canGiveOwnership } from '../schema-copy/ownership-given.js';
import { NEW_GREEN, oneRow, type PairCheck, type SideContext } from './check.js';
import type { PreflightFinding } from './finding.js';

/*
 * What a server keeps about a database as a whole is in no dump of its schema: who owns it, who may connect and make
 * something, how many sessions it takes. Also with a superuser on green nothing of it comes along.
 */

interface DatabaseRights {
  readonly database: string;
  /** Of our connection. */
  readonly user: string;
  readonly owner: string;
  readonly ownerIsSuperuser: boolean;
  /** -1: none. */
  readonly limit: number;
  /** Without the owner's own, and those of superusers and of our connection. */
  readonly grants: readonly DatabaseGrant[];
  /** Whether everybody may make something in the schema public, as in databases that began before PostgreSQL 15. */
  readonly openPublic: boolean;
  readonly roles: readonly string[];
}

interface DatabaseGrant {
  readonly privilege: 'CONNECT' | 'CREATE' | 'TEMPORARY';
  /** Null for PUBLIC. */
  readonly grantee: string | null;
}

export const databaseRights: PairCheck = {
  name: 'database-rights',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    const [onBlue, onGreen] = [await readRights(blue), await readRights(green)];
    const found: Omit<PreflightFinding, 'check'>[] = [];
    const statements = statementsFor(onBlue, onGreen);
    if (statements.length > 0) {
      const named = statements.map(({ role }) => role).filter((role) => role !== null);
      const absent = [...new Set(named)].filter((role) => !onGreen.roles.includes(role));
      const first =
        absent.length === 0 ? '' : ` (roles that green has not yet: ${absent.map((role) => `"${role}"`).join(', ')})`;
      found.push({
        side: 'green',
        severity: 'warning',
        object: onGreen.database,
        message:
          'the database has another owner, other rights or another limit of connections on green than on blue: no dump of a schema carries them',
        remedy: `On green, as a superuser or the owner of the database: ${statements.map(({ sql }) => sql).join('; ')}${first}`,
      });
    }
    if (
      onBlue.openPublic &&
      !onGreen.openPublic &&
      !(await canGiveOwnership(blue.session, green.session, blue.plan.tables))
    ) {
      found.push({
        side: 'green',
        severity: 'warning',
        object: 'schema public',
        message:
          'on blue everybody may make something in the schema public, as in every database that began before PostgreSQL 15; not so on green, and grants are not copied',
        remedy:
          'On green, for the roles of the application that make tables: GRANT CREATE ON SCHEMA public TO ...; or TO PUBLIC, as on blue',
      });
    }
    return found;
  },
};

interface Statement {
  readonly sql: string;
  /** Whom it names; null for PUBLIC and nobody. */
  readonly role: string | null;
}

/** What gives green's database the rights of blue's. */
function statementsFor(blue: DatabaseRights, green: DatabaseRights): Statement[] {
  const database = ident(green.database);
  const statements: Statement[] = [];
  // A superuser passes by all rights, and what it owns on blue need not belong to one on green.
  if (
    !blue.ownerIsSuperuser &&
    blue.owner !== green.owner &&
    !(blue.owner === blue.user && green.owner === green.user)
  ) {
    statements.push({ sql: `ALTER DATABASE ${database} OWNER TO ${ident(blue.owner)}`, role: blue.owner });
  }
  const lacking = withoutNeedless(blue).filter((one) => one.grantee !== green.owner && !has(green, one));
  // A role that only green knows is none of the application.
  const open = withoutNeedless(green).filter(
    (one) =>
      (one.grantee === null || blue.roles.includes(one.grantee)) &&
      ![blue.owner, blue.user].includes(one.grantee ?? '') &&
      !has(blue, one) &&
      !has(blue, { ...one, grantee: null }),
  );
  statements.push(
    ...lacking.map(({ privilege, grantee: role }) => ({
      ...{ sql: `GRANT ${privilege} ON DATABASE ${database} TO ${roleOf(role)}`, role },
    })),
    ...open.map(({ privilege, grantee: role }) => ({
      ...{ sql: `REVOKE ${privilege} ON DATABASE ${database} FROM ${roleOf(role)}`, role },
    })),
  );
  if (blue.limit !== green.limit) {
    statements.push({ sql: `ALTER DATABASE ${database} CONNECTION LIMIT ${blue.limit}`, role: null });
  }
  return statements;
}

/** What everybody has a role need not be given. */
function withoutNeedless(side: DatabaseRights): DatabaseGrant[] {
  return side.grants.filter((one) => one.grantee === null || !has(side, { ...one, grantee: null }));
}

function has({ grants }: DatabaseRights, { privilege, grantee }: DatabaseGrant): boolean {
  return grants.some((grant) => grant.privilege === privilege && grant.grantee === grantee);
}

function roleOf(grantee: string | null): string {
  return grantee === null ? 'PUBLIC' : ident(grantee);
}

function readRights({ session }: SideContext): Promise<DatabaseRights> {
  return oneRow(
    session,
    `SELECT d.datname::text AS database, current_user::text AS user, pg_get_userbyid(d.datdba)::text AS owner,
            coalesce((SELECT rolsuper FROM pg_roles WHERE oid = d.datdba), false) AS "ownerIsSuperuser", d.datconnlimit AS limit,
            (SELECT coalesce(json_agg(json_build_object('privilege', a.privilege_type, 'grantee', r.rolname)
                                      ORDER BY r.rolname NULLS FIRST, a.privilege_type), '[]')
               FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a LEFT JOIN pg_roles r ON r.oid = a.grantee
              WHERE a.grantee <> d.datdba AND (a.grantee = 0 OR NOT r.rolsuper AND r.rolname <> current_user)) AS grants,
            EXISTS (SELECT FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
                     WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE') AS "openPublic",
            ARRAY(SELECT rolname::text FROM pg_roles) AS roles
       FROM pg_database d WHERE d.datname = current_database()`,
  );
}
