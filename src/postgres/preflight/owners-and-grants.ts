import { USER_SCHEMA } from '../catalog.js';
import { formatTableName } from '../../plan/table-name.js';
import { ident } from '../identifier.js';
import { mayHideRows } from '../row-policies.js';
import { notOfExtension, USER_RELATION } from '../schema-copy/catalog-description.js';
import { type OwnershipObstacle, ownershipObstacles } from '../schema-copy/ownership-given.js';
import type { Session } from '../session.js';
import { NEW_GREEN, oneRow, type PairCheck, type PairContext } from './check.js';
import { listed, type PreflightFinding } from './finding.js';

/*
 * Where green's user may not give objects to other roles, everything on green belongs to it. That is more than a matter of
 * grants: policies do not apply to the owner of a table, views read with the rights of their owner, and functions with
 * SECURITY DEFINER run with those of theirs.
 */

type PairFinding = Omit<PreflightFinding, 'check'>;

export const ownership: PairCheck = {
  name: 'owners-and-grants',
  methods: NEW_GREEN,
  run: async (pair) => {
    const obstacles = await ownershipObstacles(pair.blue.session, pair.green.session, pair.blue.plan.tables);
    if (obstacles.length === 0) return [];
    const { user, database } = await oneRow<{ user: string; database: string }>(
      pair.green.session,
      'SELECT current_user::text AS user, current_database()::text AS database',
    );
    const reasons = obstacles.map((obstacle) => explain(obstacle, { user, database, version: pair.green.version }));
    const mend = `So that they are copied: ${atMost(reasons.flatMap(({ statements }) => statements)).join('; ')}`;
    return [
      {
        side: 'green',
        severity: 'warning',
        object: 'owners and grants',
        message: `everything on green will belong to "${user}", and grants are not copied: ${atMost(reasons.map(({ reason }) => reason)).join('; ')}`,
        remedy: `${mend}. Or give green the grants of blue before reads move there`,
      },
      ...(await hiddenRows(pair, user, mend)),
      ...(await openedViews(pair, user, mend)),
      ...(await openedFunctions(pair.blue.session, user, mend)),
    ];
  },
};

/** How many reasons are given, and statements: roles and schemas may be many. */
const REASONS = 12;

function atMost(texts: readonly string[]): readonly string[] {
  return texts.length > REASONS ? [...texts.slice(0, REASONS), `and ${texts.length - REASONS} more`] : texts;
}

interface Green {
  readonly user: string;
  readonly database: string;
  readonly version: number;
}

interface Reason {
  readonly reason: string;
  /** What takes it away, as a superuser or as whoever may grant it; on green where nothing else is said. */
  readonly statements: readonly string[];
}

function explain(obstacle: OwnershipObstacle, { user, database, version }: Green): Reason {
  switch (obstacle.kind) {
    case 'owner': {
      const { role, superuser, count, objects, absent, needsOptions } = obstacle;
      const more = count > objects.length ? ` and ${count - objects.length} more` : '';
      const owns = `"${role}" owns ${objects.join(', ')}${more} on blue`;
      if (superuser) {
        // To be a member of a superuser of green would be more than owners and grants are worth.
        return {
          reason: `${owns}, where it is a superuser, and "${user}" may not become it on green`,
          statements: [`on blue ALTER ... OWNER TO another role for what "${role}" owns`],
        };
      }
      const grant = `GRANT ${ident(role)} TO ${ident(user)}`;
      const withOptions =
        version >= 16 ? [`${grant} WITH INHERIT TRUE, SET TRUE`] : [`ALTER ROLE ${ident(user)} INHERIT`, grant];
      return {
        reason: absent ? `${owns}, and green has no such role` : `${owns}, and "${user}" may not become it on green`,
        statements: [
          ...(absent ? [`CREATE ROLE ${ident(role)}, as it is on blue`] : []),
          ...(needsOptions ? withOptions : [grant]),
        ],
      };
    }
    case 'create': {
      const { role, schema } = obstacle;
      return {
        reason: `"${role}" owns something in the schema ${ident(schema)} on blue, and may make nothing in it on green`,
        statements: [`GRANT CREATE ON SCHEMA ${ident(schema)} TO ${ident(role)}`],
      };
    }
    case 'public': {
      const { databaseOwner } = obstacle;
      return {
        reason: `green's schema public belongs neither to "${user}" nor to a role that it has`,
        statements: [
          databaseOwner === null
            ? `ALTER SCHEMA public OWNER TO ${ident(user)}`
            : `ALTER DATABASE ${ident(database)} OWNER TO ${ident(databaseOwner)}`,
        ],
      };
    }
    case 'schema': {
      const { schema, owner, ownerOnGreen } = obstacle;
      return {
        reason: `green's schema ${ident(schema)} belongs to "${ownerOnGreen}", and on blue to "${owner}": "${user}" may not give it away`,
        statements: [`ALTER SCHEMA ${ident(schema)} OWNER TO ${ident(owner)}`],
      };
    }
    case 'grant': {
      const { grants, count } = obstacle;
      const more = count > grants.length ? ` (and ${count - grants.length} more)` : '';
      return {
        reason: `on blue, ${grants.map(({ privilege, on, grantor }) => `${privilege} on ${on} was granted by "${grantor}"`).join(', ')}${more}, who does not own it`,
        statements: [
          `on blue ${grants
            .map(({ privilege, on, grantor, owner, grantee }) => {
              const to = grantee === null ? 'PUBLIC' : ident(grantee);
              const what = `${privilege} ON ${on}`;
              return `SET ROLE ${ident(owner)}; GRANT ${what} TO ${to}; SET ROLE ${ident(grantor)}; REVOKE ${what} FROM ${to}; RESET ROLE`;
            })
            .join('; ')}${more}`,
        ],
      };
    }
  }
}

/**
 * Tables whose owner passes by their policies on blue, and is an ordinary role on green: reads give it fewer rows there,
 * without an error, and to this run, as the owner, all of them.
 */
async function hiddenRows({ blue, green }: PairContext, user: string, mend: string): Promise<PairFinding[]> {
  const moved = await blue.tables();
  const { rows } = await blue.session.query<{ oid: string; roles: string[] }>(PASSED_BY, [moved.map(({ oid }) => oid)]);
  const asked = [...new Set(rows.flatMap(({ roles }) => roles))];
  const { rows: passing } = await green.session.query<{ role: string }>(
    `SELECT rolname AS role FROM pg_roles
      WHERE rolname = ANY ($1) AND (rolsuper OR rolbypassrls OR pg_has_role(oid, current_user, 'USAGE'))`,
    [asked],
  );
  const safe = new Set(passing.map(({ role }) => role));
  const losing = rows.filter(({ roles }) => roles.some((role) => !safe.has(role)));
  if (losing.length === 0) return [];
  const roles = asked.filter((role) => losing.some((row) => row.roles.includes(role)) && !safe.has(role));
  const oids = new Set(losing.map(({ oid }) => oid));
  return [
    {
      side: 'green',
      severity: 'error',
      object: listed(moved.filter(({ oid }) => oids.has(String(oid))).map(({ name }) => formatTableName(name))),
      message: `these tables have ROW LEVEL SECURITY, and ${listed(roles)} pass by it on blue as their owner (or its members): on green they would belong to "${user}", so policies would hide rows from these roles, without an error`,
      remedy: `${mend}. Or on green, if everything is to belong to "${user}": GRANT ${ident(user)} TO ${roles.map(ident).join(', ')}, or ALTER ROLE ... BYPASSRLS for each of them`,
    },
  ];
}

/** Roles that log in and have the rights of the owner; our own user is asked about only where it is the owner. */
const PASSED_BY = `
  SELECT c.oid::text, array_agg(r.rolname::text ORDER BY r.rolname) AS roles
    FROM pg_class c JOIN pg_roles r ON pg_has_role(r.oid, c.relowner, 'USAGE')
   WHERE c.relrowsecurity AND NOT c.relforcerowsecurity AND c.oid = ANY ($1::oid[])
     AND r.rolcanlogin AND NOT r.rolsuper AND NOT r.rolbypassrls AND (r.oid = c.relowner OR r.rolname <> current_user)
     AND ${mayHideRows('r.oid')}
   GROUP BY c.oid ORDER BY c.oid`;

/** Views that read with the rights of an owner to whom policies apply: on green they belong to the owner of the tables. */
async function openedViews({ blue }: PairContext, user: string, mend: string): Promise<PairFinding[]> {
  const { rows } = await blue.session.query<{ object: string }>(VIEWS_UNDER_POLICIES, [
    (await blue.tables()).map(({ oid }) => oid),
  ]);
  if (rows.length === 0) return [];
  return [
    {
      side: 'green',
      severity: 'warning',
      object: listed(rows.map(({ object }) => object)),
      message: `these views read tables with ROW LEVEL SECURITY, and policies apply to their owners on blue: on green they would belong to "${user}", as the tables, and show all rows`,
      remedy: `${mend}. Or on blue ALTER VIEW ... SET (security_invoker = true), if policies are to be those of whoever reads`,
    },
  ];
}

const VIEWS_UNDER_POLICIES = `
  SELECT DISTINCT c.oid::regclass::text AS object
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_roles o ON o.oid = c.relowner
    JOIN pg_rewrite w ON w.ev_class = c.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class t ON t.oid = d.refobjid AND t.relrowsecurity AND t.oid = ANY ($1::oid[])
   WHERE c.relkind IN ('v', 'm') AND ${USER_RELATION}
     AND NOT o.rolsuper AND NOT o.rolbypassrls AND (t.relforcerowsecurity OR NOT pg_has_role(o.oid, t.relowner, 'USAGE'))
     AND NOT coalesce((SELECT option_value::boolean FROM pg_options_to_table(c.reloptions) WHERE option_name = 'security_invoker'), false)
   ORDER BY 1`;

/** What a dump without grants leaves open: PostgreSQL gives EXECUTE on a new function to everybody. */
async function openedFunctions(blue: Session, user: string, mend: string): Promise<PairFinding[]> {
  const { rows } = await blue.query<{ object: string }>(RESTRICTED_DEFINERS);
  if (rows.length === 0) return [];
  const names = rows.map(({ object }) => object);
  return [
    {
      side: 'green',
      severity: 'warning',
      object: listed(names),
      message: `these functions are SECURITY DEFINER, and not everybody may call them on blue: on green everybody could, with the rights of "${user}"`,
      remedy: `${mend}. Or on green, once the schema has been copied and before reads move there: REVOKE EXECUTE ON ROUTINE ${listed(names)} FROM PUBLIC`,
    },
  ];
}

/** Nobody can call a function of a trigger. */
const RESTRICTED_DEFINERS = `
  SELECT i.identity AS object
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, pg_identify_object('pg_proc'::regclass, p.oid, 0) i
   WHERE p.prosecdef AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
     AND ${USER_SCHEMA} AND ${notOfExtension('pg_proc', 'p.oid')}
     AND NOT EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)
   ORDER BY 1`;
