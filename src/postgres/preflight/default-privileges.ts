import { USER_SCHEMA } from '../catalog.js';
import { NO_ARRAY_OF_ANOTHER, notOfExtension, notPartOfAnother } from '../schema-copy/catalog-description.js';
import { canGiveOwnership } from '../schema-copy/ownership-given.js';
import type { Session } from '../session.js';
import { NEW_GREEN, type Found, type PairCheck } from './check.js';
import { listed } from './finding.js';

/*
 * ALTER DEFAULT PRIVILEGES on green holds for what the copy makes there. A dump writes only in what an object's grants
 * differ from PostgreSQL's own defaults, so what green's say beside that is never taken back.
 */

interface DefaultPrivileges {
  readonly kind: 'tables' | 'sequences' | 'functions' | 'types' | 'schemas';
  /** To whom they grant more than PostgreSQL does. */
  readonly grantees: readonly string[];
  /** Whether PUBLIC has lost there what it has by PostgreSQL's own defaults. */
  readonly closed: boolean;
}

export const defaultPrivileges: PairCheck = {
  name: 'default-privileges',
  methods: NEW_GREEN,
  run: async ({ blue, green }) => {
    const { rows } = await green.session.query<DefaultPrivileges>(DEFAULT_PRIVILEGES);
    const more = rows.filter(({ grantees }) => grantees.length > 0);
    const found: Found[] = more.length === 0 ? [] : [grantsMore(more)];
    const grantsAreCopied = await canGiveOwnership(blue.session, green.session, blue.plan.tables);
    for (const { kind, closed } of rows) {
      if (!closed || (kind !== 'functions' && kind !== 'types')) continue;
      const open = await openToPublic(blue.session, kind);
      if (open.length > 0) found.push(grantsLess(kind, open, grantsAreCopied));
    }
    return found.map((one) => ({ side: 'green' as const, ...one }));
  },
};

function grantsMore(privileges: readonly DefaultPrivileges[]): Found {
  return {
    severity: 'warning',
    object: listed(privileges.map(({ kind, grantees }) => `${kind}: ${grantees.join(', ')}`)),
    message:
      "green's user has default privileges there: what the copy makes is granted to these roles, beside what blue grants",
    remedy: 'ALTER DEFAULT PRIVILEGES ... REVOKE on green, unless they are meant to have it',
  };
}

function grantsLess(kind: 'functions' | 'types', open: readonly string[], grantsAreCopied: boolean): Found {
  return {
    severity: grantsAreCopied ? 'error' : 'warning',
    object: listed(open),
    message: `everybody may use these ${kind} on blue, and could not on green: default privileges of green's user take that away from whatever the copy makes`,
    remedy: `ALTER DEFAULT PRIVILEGES GRANT ${kind === 'functions' ? 'EXECUTE' : 'USAGE'} ON ${kind.toUpperCase()} TO PUBLIC on green, as its user, until the run has ended; or REVOKE it on blue`,
  };
}

async function openToPublic(session: Session, kind: 'functions' | 'types'): Promise<string[]> {
  const { rows } = await session.query<{ object: string }>(OPEN_TO_PUBLIC[kind]);
  return rows.map(({ object }) => object);
}

/** Whatever the copy makes is made by the user of its connection, and given to its owner then. */
const DEFAULT_PRIVILEGES = `
  SELECT CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions'
                              WHEN 'T' THEN 'types' ELSE 'schemas' END AS kind,
         ARRAY(SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END
                 FROM aclexplode(d.defaclacl) a
                WHERE a.grantee <> d.defaclrole AND NOT (a.grantee = 0 AND d.defaclobjtype IN ('f', 'T')) ORDER BY 1) AS grantees,
         d.defaclnamespace = 0 AND d.defaclobjtype IN ('f', 'T')
           AND NOT EXISTS (SELECT FROM aclexplode(d.defaclacl) a WHERE a.grantee = 0) AS closed
    FROM pg_default_acl d
   WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = current_user) AND d.defaclobjtype IN ('r', 'S', 'f', 'T', 'n')
   ORDER BY 1`;

const OPEN_TO_PUBLIC = {
  functions: `
    SELECT p.oid::regprocedure::text AS object FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE ${USER_SCHEMA} AND ${notOfExtension('pg_proc', 'p.oid')} AND ${notPartOfAnother('pg_proc', 'p.oid')}
       AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)
     ORDER BY 1`,
  types: `
    SELECT t.oid::regtype::text AS object FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
     WHERE ${USER_SCHEMA} AND ${notOfExtension('pg_type', 't.oid')} AND ${notPartOfAnother('pg_type', 't.oid')} AND ${NO_ARRAY_OF_ANOTHER}
       AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
       AND EXISTS (SELECT FROM aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) a WHERE a.grantee = 0)
     ORDER BY 1`,
};
