import type { Node } from 'libpg-query';
import { namesOf, type Statement } from '../../plan/sql-tree.js';
import type { TablePatterns } from '../catalog-pattern.js';
import type { Session } from '../session.js';
import { NOTHING_LEFT_OUT, readLeftOut, type LeftOut } from './left-out-extensions.js';
import { superuserOfPublic } from './ownership-given.js';
import { keyOfSystemObject, readSystemObjects, type SystemObjects } from './system-grants.js';

/*
 * What of a dump is run on green. pg_dump writes for psql and for a new, empty server of its own version: settings of a
 * session that is not ours, comments on extensions that only their owner may write, and options that a server keeps for
 * itself. The rest is taken as it is, but for extensions that green's server does not offer.
 */

/** What of blue green's server or its user can't take. */
export interface DumpFilter {
  /** What green's user may own or not: grants on it that are refused are left out. */
  readonly system: SystemObjects;
  readonly leftOut: LeftOut;
  /** What of `system` goes with the extensions that are left out: grants on it are none of green's. */
  readonly gone: SystemObjects;
  /** The superuser of blue that owns its schema public, where green's stays whose it is; else null. */
  readonly superuserOfPublic: string | null;
}

/** Takes everything. */
export const NO_FILTER: DumpFilter = {
  system: new Set(),
  leftOut: NOTHING_LEFT_OUT,
  gone: new Set(),
  superuserOfPublic: null,
};

export async function readDumpFilter(blue: Session, green: Session, tables: TablePatterns): Promise<DumpFilter> {
  const leftOut = await readLeftOut(blue, green, tables);
  return {
    system: await readSystemObjects(blue),
    leftOut,
    gone: leftOut.extensions.length === 0 ? new Set() : await readSystemObjects(blue, leftOut.extensions),
    superuserOfPublic: await superuserOfPublic(blue, green),
  };
}

/** The statements of pre-data that are run, as they are run. */
export function keepOfPreData(statements: readonly Statement[], filter: DumpFilter): string[] {
  return statements.flatMap((statement) => {
    if (isLeftOut(statement, filter)) return [];
    if (isGrantOn(statement, filter.gone)) return [unlessRefused(statement.text, 'undefined_object')];
    if (isGrantOn(statement, filter.system)) return [unlessRefused(statement.text)];
    const { node, text } = statement;
    if ('VariableSetStmt' in node) {
      // For the transaction only: the session outlives it.
      return KEPT_SETTINGS.has(node.VariableSetStmt.name ?? '') ? [text.replace(/^SET /, 'SET LOCAL ')] : [];
    }
    // `public` is there in every new database.
    if ('CreateSchemaStmt' in node) return [text.replace(/^CREATE SCHEMA /, 'CREATE SCHEMA IF NOT EXISTS ')];
    return keep(statement);
  });
}

/** Settings that decide what a statement makes. All others are the session's own, and some an older server refuses. */
const KEPT_SETTINGS = new Set(['check_function_bodies', 'xmloption', 'default_table_access_method']);

/** The statements of post-data that are run. Each one runs in a transaction of its own, so no setting is kept. */
export function keepOfPostData(statements: readonly Statement[]): Statement[] {
  return statements.flatMap((statement) =>
    'VariableSetStmt' in statement.node ? [] : keep(statement).map((text) => ({ ...statement, text })),
  );
}

/** Extensions that stay on blue, their schemas, and what the dump says of these. */
function isLeftOut({ node }: Statement, { leftOut, superuserOfPublic }: DumpFilter): boolean {
  const isOfSchema = (name: string | undefined): boolean => name !== undefined && leftOut.schemas.includes(name);
  if ('CreateExtensionStmt' in node) return leftOut.extensions.includes(node.CreateExtensionStmt.extname ?? '');
  if ('CreateSchemaStmt' in node) return isOfSchema(node.CreateSchemaStmt.schemaname);
  if ('CommentStmt' in node && node.CommentStmt.objtype === 'OBJECT_SCHEMA')
    return isOfSchema(nameIn(node.CommentStmt.object));
  if ('AlterOwnerStmt' in node && node.AlterOwnerStmt.objectType === 'OBJECT_SCHEMA') {
    const { object, newowner } = node.AlterOwnerStmt;
    const name = nameIn(object);
    return isOfSchema(name) || (name === 'public' && newowner?.rolename === superuserOfPublic);
  }
  if ('GrantStmt' in node) {
    const names = grantedNames(node.GrantStmt.objects?.[0]);
    return isOfSchema(node.GrantStmt.objtype === 'OBJECT_SCHEMA' ? names[0] : names.at(-2));
  }
  return false;
}

function keep(statement: Statement): string[] {
  const { node, text } = statement;
  // set_config('search_path', ...): every name in a dump is qualified, and our transactions have an empty one.
  if ('SelectStmt' in node) return [];
  if ('CommentStmt' in node && node.CommentStmt.objtype === 'OBJECT_EXTENSION') return [];
  if (isDefaultOfPublic(statement) || isOurEventTrigger(text)) return [];
  return setsColumnOptions(statement) ? withoutPrivateOptions(text) : [text];
}

/**
 * The comment that every new database has, which only the owner of `public` may write. pg_dump leaves it out by itself, but
 * not where it quotes all names.
 */
function isDefaultOfPublic({ node }: Statement): boolean {
  if (!('CommentStmt' in node) || node.CommentStmt.objtype !== 'OBJECT_SCHEMA') return false;
  const { object, comment } = node.CommentStmt;
  return nameIn(object) === 'public' && comment === 'standard public schema';
}

function nameIn(object: Node | undefined): string | undefined {
  return object !== undefined && 'String' in object ? object.String.sval : undefined;
}

/** Ours watch blue; a dump has them although it leaves schema verdigris out. */
function isOurEventTrigger(text: string): boolean {
  return /^(CREATE EVENT TRIGGER|ALTER EVENT TRIGGER|COMMENT ON EVENT TRIGGER) "?verdigris_/.test(text);
}

function isGrantOn({ node }: Statement, system: SystemObjects): boolean {
  if (!('GrantStmt' in node)) return false;
  const names = grantedNames(node.GrantStmt.objects?.[0]);
  const name = names.at(-1);
  return name !== undefined && system.has(keyOfSystemObject(names.at(-2) ?? null, name));
}

/** The name of what a GRANT is on, in its parts. */
function grantedNames(object: Node | undefined): string[] {
  if (object === undefined) return [];
  if ('RangeVar' in object)
    return [object.RangeVar.schemaname, object.RangeVar.relname].filter((name) => name !== undefined);
  if ('ObjectWithArgs' in object) return namesOf(object.ObjectWithArgs.objname);
  if ('List' in object) return namesOf(object.List.items);
  return namesOf([object]);
}

/**
 * Only the owner of a built-in object or of a member of an extension may grant on it, which another user than a superuser
 * hardly is. What green lacks for it is told when both schemas are compared; a version may also have done away with the object.
 *
 * @param more conditions under which the grant is left out, too
 */
function unlessRefused(grant: string, ...more: readonly string[]): string {
  return `DO $verdigris$ BEGIN
${grant};
EXCEPTION WHEN ${['insufficient_privilege', 'undefined_function', 'undefined_table', ...more].join(' OR ')} THEN NULL;
END $verdigris$`;
}

function setsColumnOptions({ node }: Statement): boolean {
  const first = 'AlterTableStmt' in node ? node.AlterTableStmt.cmds?.[0] : undefined;
  return first !== undefined && 'AlterTableCmd' in first && first.AlterTableCmd.subtype === 'AT_SetOptions';
}

/**
 * PostgreSQL 15.20 keeps pg_attver=N among a column's options; a pg_dump that does not know it writes it out, and every
 * other server refuses it.
 */
function withoutPrivateOptions(text: string): string[] {
  const options = /\bSET \(([^()]*)\)$/.exec(text);
  if (options === null) return [text];
  const kept = (options[1] ?? '').split(', ').filter((option) => !option.startsWith('pg_attver='));
  return kept.length === 0 ? [] : [`${text.slice(0, options.index)}SET (${kept.join(', ')})`];
}
