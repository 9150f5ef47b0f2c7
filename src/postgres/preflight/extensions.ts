import { MANAGED_ADMINISTRATORS } from '../managed-administrators.js';
import { ident } from '../identifier.js';
import { leftOutAmong, readUnofferedExtensions } from '../schema-copy/left-out-extensions.js';
import type { Session } from '../session.js';
import { NEW_GREEN, type Found, type PairCheck, type PairContext, type SideContext } from './check.js';
import { listed } from './finding.js';

export const extensions: PairCheck = {
  name: 'extensions',
  methods: NEW_GREEN,
  run: async (pair) => {
    const { blue, green } = pair;
    const used = await readUsed(blue.session);
    const names = used.map(({ name }) => name);
    const onGreen = new Map((await readOffered(green.session, names)).map((extension) => [extension.name, extension]));
    const administrator = green.isSuperuser ? null : await administratorRole(green.session);
    const found = used.flatMap((extension): Found[] => {
      const other = onGreen.get(extension.name);
      if (other === undefined) return [];
      if (needsMore(other, green)) return [mustBeAllowed(extension, administrator)];
      if (other.schema !== null && other.schema !== extension.schema) return [inAnotherSchema(extension, other.schema)];
      return other.version === extension.version ? [] : [ofAnotherVersion(extension, other.version)];
    });
    return [...(await notOffered(pair, used)), ...found].map((one) => ({ side: 'green' as const, ...one }));
  },
};

interface Used {
  readonly name: string;
  readonly version: string;
  /** Quoted. */
  readonly schema: string;
  /** The same as it is. */
  readonly schemaName: string;
}

async function readUsed(blue: Session): Promise<Used[]> {
  const { rows } = await blue.query<Used>(
    `SELECT extname AS name, extversion AS version, extnamespace::regnamespace::text AS schema, nspname AS "schemaName"
       FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname <> 'plpgsql' ORDER BY 1`,
  );
  return rows;
}

/** An extension as green's server has it. */
export interface Offered {
  readonly name: string;
  readonly version: string;
  readonly installed: boolean;
  /** Whether who may CREATE in the database may install it: it is trusted, or needs no superuser at all. */
  readonly byAnybody: boolean;
  /** Quoted; null while it is not installed. */
  readonly schema: string | null;
}

/** Those of these extensions that green's server has, installed or not. */
export async function readOffered(green: Session, names: readonly string[]): Promise<Offered[]> {
  const { rows } = await green.query<Offered>(
    `SELECT e.name, coalesce(e.installed_version, e.default_version) AS version, e.installed_version IS NOT NULL AS installed,
            coalesce(bool_or(v.trusted OR NOT v.superuser), false) AS "byAnybody",
            (SELECT x.extnamespace::regnamespace::text FROM pg_extension x WHERE x.extname = e.name) AS schema
       FROM pg_available_extensions e
       LEFT JOIN pg_available_extension_versions v ON v.name = e.name AND v.version = e.default_version
      WHERE e.name = ANY ($1) GROUP BY 1, 2, 3`,
    [names],
  );
  return rows;
}

/** Whether it takes more than green's user has to install it. */
export function needsMore(
  { installed, byAnybody }: Offered,
  { isSuperuser }: Pick<SideContext, 'isSuperuser'>,
): boolean {
  return !installed && !byAnybody && !isSuperuser;
}

/** The first of them that green's user has; null when it has none. */
export async function administratorRole(green: Session): Promise<string | null> {
  const { rows } = await green.query<{ role: string }>(
    `SELECT rolname AS role FROM pg_roles WHERE rolname = ANY ($1) AND pg_has_role(oid, 'USAGE') ORDER BY 1 LIMIT 1`,
    [MANAGED_ADMINISTRATORS],
  );
  return rows[0]?.role ?? null;
}

/** Whether a service lets its administrator is found out by the copy of the schema, before any row is copied. */
function mustBeAllowed({ name, schema }: Used, administrator: string | null): Found {
  const create = `CREATE EXTENSION ${ident(name)}, in the schema in which it is on blue (${schema})`;
  if (administrator === null) {
    return {
      severity: 'error',
      object: name,
      message: `green's user may not install the extension ${name}: only a superuser may, or the administrator of a managed service`,
      remedy: `On green, as one of them: ${create}`,
    };
  }
  return {
    severity: 'info',
    object: name,
    message: `only a superuser may install the extension ${name}, or the administrator of a managed service, as green's user is (${administrator}): the copy of the schema installs it`,
    remedy: `Nothing, where the service has it among the extensions that it allows; to be sure, on green beforehand: ${create}`,
  };
}

function inAnotherSchema({ name, schema }: Used, there: string): Found {
  return {
    severity: 'error',
    object: name,
    message: `the extension ${name} is in the schema ${schema} on blue and in ${there} on green: what blue's schema calls by that name would not be found`,
    remedy: `On green: CREATE SCHEMA IF NOT EXISTS ${schema}; ALTER EXTENSION ${ident(name)} SET SCHEMA ${schema}; or DROP EXTENSION ${ident(name)}, if nothing uses it yet`,
  };
}

function ofAnotherVersion({ name, version }: Used, there: string): Found {
  return {
    severity: 'info',
    object: name,
    message: `the extension ${name} is ${version} on blue and ${there} on green`,
    remedy: 'Nothing, unless its release notes say that what it stores has changed',
  };
}

/** What green's server does not have is no harm where nobody needs it: a service's own extensions can't be dropped on blue. */
async function notOffered({ blue, green }: PairContext, used: readonly Used[]): Promise<Found[]> {
  const found = await readUnofferedExtensions(blue.session, green.session, blue.plan.tables);
  const unoffered = new Map(found.map((one) => [one.name, one.neededBy]));
  const leftOut = await leftOutAmong(blue.session, found);
  return used.flatMap(({ name, version, schema, schemaName }): Found | [] => {
    const neededBy = unoffered.get(name);
    if (neededBy === undefined) return [];
    if (neededBy.length > 0) {
      return {
        severity: 'error',
        object: name,
        message: `blue uses the extension ${name} ${version}, and green's server does not have it: ${listed(neededBy)} would not be there without it`,
        remedy:
          'Install its package on green\'s server (some also need shared_preload_libraries); or drop on blue what depends on it, or leave its tables out by "tables.exclude": then the extension is left out, too',
      };
    }
    const also = leftOut.schemas.includes(schemaName) ? ` with the schema ${schema}, in which nothing else is` : '';
    return {
      severity: 'warning',
      object: name,
      message: `blue has the extension ${name} ${version}, and green's server does not. No object that is copied depends on it, so it is left out${also}; calls of it in the body of a function, in the plan or in the application are not seen`,
      remedy:
        "Nothing, if it only serves blue's server; if something calls it, install its package on green's server before the run",
    };
  });
}
