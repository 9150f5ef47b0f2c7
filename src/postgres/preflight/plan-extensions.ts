import { readRawSql } from '../../plan/raw-sql.js';
import type { Statement } from '../../plan/sql-tree.js';
import type { Plan } from '../../plan/schema.js';
import { ident } from '../identifier.js';
import type { Session } from '../session.js';
import { readOwner } from '../state.js';
import type { Found, PairCheck } from './check.js';
import { administratorRole, needsMore, readOffered } from './extensions.js';

/** CREATE EXTENSION in the plan's SQL: green would refuse it when all rows are there, and the run with it. */
export const planExtensions: PairCheck = {
  name: 'plan-extensions',
  run: async ({ blue, green }) => {
    const planned = await plannedBy(green.plan);
    if (planned.length === 0) return [];
    const names = planned.map(({ name }) => name);
    const onGreen = new Map((await readOffered(green.session, names)).map((extension) => [extension.name, extension]));
    const ofBlue = await installedAmong(blue.session, names);
    // Also one whose files are gone from its server.
    const installed = await installedAmong(green.session, [...names, TRUSTED_LANGUAGE_EXTENSIONS]);
    // What a first try of this very run has made is no surprise.
    const isOurs = (await readOwner(green.session))?.runId === green.runId;
    const administrator = green.isSuperuser ? null : await administratorRole(green.session);
    const found = planned.flatMap((extension): Found | [] => {
      const other = onGreen.get(extension.name);
      if (installed.has(extension.name) || (ofBlue.has(extension.name) && other !== undefined)) {
        return extension.ifNotExists || isOurs ? [] : thereAlready(extension);
      }
      if (other === undefined) return notThere(extension, installed.has(TRUSTED_LANGUAGE_EXTENSIONS));
      return needsMore(other, green) && !extension.asAnother ? mayNot(extension, administrator) : [];
    });
    return found.map((one) => ({ side: 'green' as const, ...one }));
  },
};

/** An extension that a step makes. */
interface Planned {
  readonly name: string;
  /** `migrations[2].sql.up` */
  readonly place: string;
  readonly ifNotExists: boolean;
  /** Whether the step becomes another role, by SET ROLE: whether that one may is not known. */
  readonly asAnother: boolean;
}

async function plannedBy(plan: Plan): Promise<Planned[]> {
  const raw = (await readRawSql(plan)).filter(({ direction }) => direction === 'up');
  return raw.flatMap(({ place, statements }) =>
    statements.flatMap(({ node }): Planned | [] => {
      if (!('CreateExtensionStmt' in node)) return [];
      const { extname: name = '', if_not_exists: ifNotExists = false } = node.CreateExtensionStmt;
      return { name, place, ifNotExists, asAnother: statements.some(setsRole) };
    }),
  );
}

function setsRole({ node }: Statement): boolean {
  return 'VariableSetStmt' in node && ['role', 'session_authorization'].includes(node.VariableSetStmt.name ?? '');
}

/** What blue has comes to green with the schema, or with the standby. */
async function installedAmong(blue: Session, names: readonly string[]): Promise<ReadonlySet<string>> {
  const { rows } = await blue.query<{ name: string }>(
    'SELECT extname::text AS name FROM pg_extension WHERE extname = ANY ($1)',
    [names],
  );
  return new Set(rows.map(({ name }) => name));
}

/** Keeps extensions of its own, which `pg_available_extensions` does not have. */
const TRUSTED_LANGUAGE_EXTENSIONS = 'pg_tle';

function notThere({ name, place }: Planned, mayBeTrustedLanguage: boolean): Found {
  return {
    severity: mayBeTrustedLanguage ? 'warning' : 'error',
    object: name,
    message: `${place} makes the extension ${name}, and green's server does not have it: the step would fail behind the copy of all rows`,
    remedy:
      "Install its package on green's server (some also need shared_preload_libraries), or take it out of the plan",
  };
}

function thereAlready({ name, place }: Planned): Found {
  return {
    severity: 'error',
    object: name,
    message: `${place} makes the extension ${name}, which green has by then: the step would fail behind the copy of all rows`,
    remedy: `Write CREATE EXTENSION IF NOT EXISTS ${ident(name)}, or take it out of the plan`,
  };
}

function mayNot({ name, place, ifNotExists }: Planned, administrator: string | null): Found {
  const beforehand = `On green, as one of them, before the run: CREATE EXTENSION ${ident(name)}${ifNotExists ? '' : ', and IF NOT EXISTS in the plan'}`;
  const only = 'only a superuser may, or the administrator of a managed service';
  if (administrator === null) {
    return {
      severity: 'error',
      object: name,
      message: `${place} makes the extension ${name}, and green's user may not: ${only}. The step would fail behind the copy of all rows`,
      remedy: beforehand,
    };
  }
  return {
    severity: 'info',
    object: name,
    message: `${place} makes the extension ${name}: ${only}, as green's user is (${administrator})`,
    remedy: `Nothing, where the service has it among the extensions that it allows. ${beforehand}, to be sure`,
  };
}
