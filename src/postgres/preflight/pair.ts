import { notOfExtension } from '../schema-copy/catalog-description.js';
import { notExcluded } from '../schema-copy/excluded-relations.js';
import { readLeftOut } from '../schema-copy/left-out-extensions.js';
import { canGiveOwnership, firstSuperuserNamed } from '../schema-copy/ownership-given.js';
import { ident } from '../identifier.js';
import { identityOf } from '../identity.js';
import type { Session } from '../session.js';
import { systemIdentifier } from '../system-identifier.js';
import { listed } from './finding.js';
import { NEW_GREEN, oneRow, type Found, type PairCheck, type SideContext } from './check.js';

/** Checks that compare the two servers. */

interface Identity {
  /** Null where the role may not ask for it. */
  readonly system: string | null;
  /** What is the same for one database of one server alone. */
  readonly one: string;
  readonly database: string;
  /** A standby has the identity of its primary. */
  readonly standby: boolean;
}

export const sameDatabase: PairCheck = {
  name: 'same-database',
  run: async ({ blue, green }) => {
    const identity = async ({ session }: SideContext): Promise<Identity> => ({
      ...(await oneRow<Pick<Identity, 'database' | 'standby'>>(
        session,
        'SELECT current_database() AS database, pg_is_in_recovery() AS standby',
      )),
      system: await systemIdentifier(session),
      one: await identityOf(session),
    });
    const [a, b] = [await identity(blue), await identity(green)];
    const ofOneCluster = a.system !== null && a.system === b.system;
    const isSame = ofOneCluster && a.database === b.database && a.standby === b.standby;
    if (!isSame && a.one !== b.one) return [];
    return [
      {
        side: 'both',
        severity: 'error',
        object: b.database,
        message: `blue and green are the same database: "${blue.database.connection}" and "${green.database.connection}" lead to "${b.database}" of one server`,
        remedy: 'Give green a database of its own, and mend the connection that is wrong',
      },
    ];
  },
};

export const versionOrder: PairCheck = {
  name: 'version-order',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    if (green.version >= blue.version) return [];
    return [
      {
        side: 'green',
        severity: 'error',
        object: `PostgreSQL ${green.version}`,
        message: `green is PostgreSQL ${green.version} and blue is ${blue.version}: a schema is not carried to an older version`,
        remedy: `Give green PostgreSQL ${blue.version} or later`,
      },
    ];
  },
};

interface Locale {
  readonly encoding: string;
  readonly collate: string;
  readonly ctype: string;
  readonly provider: string;
  readonly version: string | null;
  /** Of ICU and of PostgreSQL's own provider: what they order by; null with libc. */
  readonly locale: string | null;
  /** Somebody's own, of ICU. */
  readonly rules: string | null;
}

function readLocale({ session }: SideContext): Promise<Locale> {
  return oneRow(
    session,
    `SELECT pg_encoding_to_char(encoding) AS encoding, datcollate AS collate, datctype AS ctype, datlocprovider AS provider,
            -- Not datcollversion: a server that was upgraded where it is has that of before.
            pg_database_collation_actual_version(oid) AS version, coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale,
            to_jsonb(d) ->> 'daticurules' AS rules
       FROM pg_database d WHERE datname = current_database()`,
  );
}

export const encoding: PairCheck = {
  name: 'encoding',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    const [a, b] = [await readLocale(blue), await readLocale(green)];
    if (a.encoding === b.encoding) return [];
    return [
      {
        side: 'green',
        severity: 'error',
        object: 'server_encoding',
        message: `blue is encoded in ${a.encoding} and green in ${b.encoding}: not every text can be carried over`,
        remedy: `CREATE DATABASE ... ENCODING '${a.encoding}' TEMPLATE template0 for green`,
      },
    ];
  },
};

export const collation: PairCheck = {
  name: 'collation',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    const [a, b] = [await readLocale(blue), await readLocale(green)];
    const shown = ({ collate, ctype, provider, ...more }: Locale): string => {
      const { locale, version, rules } = more;
      const known = Object.entries({ locale, version, rules }).filter(([, value]) => value !== null);
      return [`${collate}/${ctype}, provider ${provider}`, ...known.map(([what, value]) => `${what} ${value}`)].join(
        ', ',
      );
    };
    if (shown(a) === shown(b)) return [];
    return [
      {
        side: 'both',
        severity: 'warning',
        object: 'collation',
        message: `text is ordered by other rules on green (${shown(b)}) than on blue (${shown(a)}): ORDER BY, ranges and unique indexes on text may come out otherwise`,
        remedy:
          'Make green with the same locale and provider, or see that the application does not depend on the order',
      },
    ];
  },
};

/** Settings that decide what a statement means or gives; others are each server's own business. */
const MEANINGFUL = [
  'DateStyle',
  'IntervalStyle',
  'TimeZone',
  'bytea_output',
  'default_text_search_config',
  'default_transaction_isolation',
  'lc_monetary',
  'lc_numeric',
  'lc_time',
  'search_path',
  'standard_conforming_strings',
  'statement_timeout',
  'xmloption',
];

export const settings: PairCheck = {
  name: 'settings',
  run: async ({ blue, green }) => {
    const read = async ({ session }: SideContext): Promise<Map<string, string>> => {
      const { rows } = await session.query<{ name: string; value: string }>(
        // reset_val: what a new session gets; our own sessions set some of these.
        `SELECT name, coalesce(reset_val, '') AS value FROM pg_settings WHERE name = ANY ($1) ORDER BY name`,
        [MEANINGFUL],
      );
      return new Map(rows.map(({ name, value }) => [name, value]));
    };
    const [a, b] = [await read(blue), await read(green)];
    return [...a]
      .filter(([name, value]) => b.get(name) !== value)
      .map(([name, value]) => ({
        side: 'green' as const,
        severity: 'info' as const,
        object: name,
        message: `${name} is "${b.get(name) ?? ''}" on green and "${value}" on blue: a schema dump does not carry settings`,
        remedy: 'Set it on green as on blue (ALTER DATABASE or ALTER ROLE ... SET), unless it is meant to be new',
      }));
  },
};

export const roles: PairCheck = {
  name: 'roles',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    const { tables } = blue.plan;
    const leftOut = await readLeftOut(blue.session, green.session, tables);
    const { rows: used } = await blue.session.query<{ name: string; policy: boolean; login: boolean }>(
      `SELECT r.rolname AS name, bool_or(d.deptype = 'r') AS policy, bool_or(r.rolcanlogin) AS login
         FROM pg_shdepend d
         JOIN pg_roles r ON r.oid = d.refobjid
         LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
         LEFT JOIN pg_class c ON c.oid = CASE d.classid WHEN 'pg_class'::regclass THEN d.objid ELSE p.polrelid END
         LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE d.refclassid = 'pg_authid'::regclass AND r.rolname !~ '^pg_'
          AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND d.deptype IN ('o', 'a', 'r')
          -- A dump says nothing of whose extensions and their members are, and has no large objects.
          AND d.classid NOT IN ('pg_extension'::regclass, 'pg_largeobject'::regclass, 'pg_user_mapping'::regclass)
          AND NOT (d.deptype = 'o' AND EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e'))
          AND ${notExcluded('$1')}
          -- Nor of extensions that green's server does not offer, and green's public stays whose it is.
          AND NOT EXISTS (SELECT FROM pg_depend e JOIN pg_extension x ON e.refclassid = 'pg_extension'::regclass AND x.oid = e.refobjid
                           WHERE e.deptype = 'e' AND x.extname = ANY ($2::text[])
                             AND (e.classid = d.classid AND e.objid = d.objid OR e.classid = 'pg_class'::regclass AND e.objid = c.oid))
          AND NOT (d.classid = 'pg_namespace'::regclass
                   AND EXISTS (SELECT FROM pg_namespace s WHERE s.oid = d.objid
                                  AND (s.nspname = ANY ($3::text[]) OR s.nspname = 'public' AND d.deptype = 'o' AND r.rolsuper)))
        GROUP BY 1 ORDER BY 1`,
      [JSON.stringify(await blue.excluded()), leftOut.extensions, leftOut.schemas],
    );
    const { rows: there } = await green.session.query<{ name: string }>('SELECT rolname AS name FROM pg_roles');
    const known = new Set(there.map(({ name }) => name));
    const grantsAreCopied = await canGiveOwnership(blue.session, green.session, tables);
    const first = grantsAreCopied ? await firstSuperuserNamed(blue.session, tables, leftOut) : null;
    const mapped = await readMappedRoles(blue.session);
    const ofMappingAlone = mapped.filter(({ name }) => name !== first && !used.some((role) => role.name === name));
    return [
      ...used,
      ...(first === null ? [] : [{ name: first, policy: false, login: true }]),
      ...ofMappingAlone.map((role) => ({ ...role, policy: false })),
    ]
      .filter(({ name }) => !known.has(name))
      .map(({ name, policy, login }) => {
        const isMapped = mapped.some((role) => role.name === name);
        const what = isMapped ? 'has a user mapping on blue' : 'owns objects on blue or is granted some';
        return {
          side: 'green' as const,
          // Where grants are copied a role that is missing ends the copy; policies and user mappings name theirs in any case.
          severity: grantsAreCopied || policy || isMapped ? ('error' as const) : ('warning' as const),
          object: name,
          message: `the role "${name}" ${what}, and green has no such role`,
          remedy: `On green: CREATE ROLE ${ident(name)}${login ? ' LOGIN' : ''}, with the password, attributes (such as BYPASSRLS) and memberships that it has on blue (pg_dumpall --roles-only)${isMapped ? '; or DROP USER MAPPING on blue' : ''}`,
        };
      });
  },
};

/** The roles of user mappings, the first superuser among them, of which PostgreSQL records nothing. */
async function readMappedRoles(blue: Session): Promise<{ name: string; login: boolean }[]> {
  const { rows } = await blue.query<{ name: string; login: boolean }>(
    `SELECT DISTINCT r.rolname AS name, r.rolcanlogin AS login
       FROM pg_user_mappings m JOIN pg_roles r ON r.oid = m.umuser
      WHERE r.rolname !~ '^pg_' AND ${notOfExtension('pg_foreign_server', 'm.srvid')} ORDER BY 1`,
  );
  return rows;
}

/** ALTER DATABASE/ROLE ... SET: values may be secrets, so names only are told, and sums of values are compared. */
export const storedSettings: PairCheck = {
  name: 'stored-settings',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    const read = async ({ session }: SideContext): Promise<ReadonlyMap<string, string>> => {
      const { rows } = await session.query<{ setting: string; sum: string }>(
        `SELECT coalesce('role ' || pg_get_userbyid(nullif(s.setrole, 0)) || ': ', '') || split_part(c, '=', 1) AS setting,
                string_agg(md5(c), ' ' ORDER BY s.setdatabase) AS sum
           FROM pg_db_role_setting s, unnest(s.setconfig) c
          WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
          GROUP BY 1 ORDER BY 1`,
      );
      return new Map(rows.map(({ setting, sum }) => [setting, sum]));
    };
    const [wanted, there] = [await read(blue), await read(green)];
    const missing = [...wanted.keys()].filter((setting) => !there.has(setting));
    const others = [...wanted].filter(([setting, sum]) => (there.get(setting) ?? sum) !== sum).map(([name]) => name);
    const found = (object: readonly string[], what: string): (Found & { side: 'green' })[] =>
      object.length === 0
        ? []
        : [
            {
              side: 'green',
              severity: 'warning',
              object: listed(object),
              message: `settings that are stored for the database or its roles on blue ${what}: a schema dump does not carry them`,
              remedy: 'ALTER DATABASE ... SET or ALTER ROLE ... SET on green, where the application relies on them',
            },
          ];
    return [...found(missing, 'are not on green'), ...found(others, 'have other values on green')];
  },
};
