import type { Node } from 'libpg-query';
import { attempt } from './expressions.js';
import type { Plan } from './schema.js';
import type { Statement } from './sql-tree.js';
import { isObject, namesOf, parseStatements } from './sql-tree.js';

/** One side of a `sql` step. */
export interface RawSql {
  readonly index: number;
  /** `migrations[2].sql.up` */
  readonly place: string;
  readonly direction: 'up' | 'down';
  readonly sql: string;
  readonly statements: readonly Statement[];
  /** The parser's message when the text is not SQL. */
  readonly error: string | undefined;
}

/** `up` and `down` of every `sql` step, parsed. */
export async function readRawSql(plan: Plan): Promise<RawSql[]> {
  const facts: RawSql[] = [];
  for (const [index, migration] of plan.migrations.entries()) {
    if (!('sql' in migration)) continue;
    for (const direction of ['up', 'down'] as const) {
      const sql = migration.sql[direction];
      const { parsed, error } = await attempt(() => parseStatements(sql));
      facts.push({
        index,
        place: `migrations[${index}].sql.${direction}`,
        direction,
        sql,
        statements: parsed ?? [],
        error,
      });
    }
  }
  return facts;
}

/** A relation or a type as the rules compare it: `schema.name`, `public` where the SQL names no schema. */
export function objectKey(schema: string | undefined, name: string): string {
  return `${schema ?? 'public'}.${name}`;
}

/** The key of a relation in the tree. */
export function relationKey(relation: unknown): string {
  if (!isObject(relation)) return '';
  const { schemaname, relname } = relation;
  return objectKey(typeof schemaname === 'string' ? schemaname : undefined, String(relname));
}

/** The key of a name given as a list of strings. */
export function nameKey(list: unknown): string {
  const names = namesOf(list);
  return objectKey(names.at(-2), names.at(-1) ?? '');
}

/** What the `up` statements create. On these any lock is harmless and any change is free: nobody uses them yet. */
export function createdByPlan(raw: readonly RawSql[]): Set<string> {
  const created = new Set<string>();
  for (const { statements } of raw.filter(({ direction }) => direction === 'up')) {
    for (const { node } of statements) {
      const key = createdBy(node);
      if (key !== undefined) created.add(key);
    }
  }
  return created;
}

function createdBy(node: Node): string | undefined {
  if ('CreateStmt' in node) return relationKey(node.CreateStmt.relation);
  if ('CreateTableAsStmt' in node) return relationKey(node.CreateTableAsStmt.into?.rel);
  if ('ViewStmt' in node) return node.ViewStmt.replace === true ? undefined : relationKey(node.ViewStmt.view);
  if ('CreateSeqStmt' in node) return relationKey(node.CreateSeqStmt.sequence);
  if ('CreateEnumStmt' in node) return nameKey(node.CreateEnumStmt.typeName);
  if ('CompositeTypeStmt' in node) return relationKey(node.CompositeTypeStmt.typevar);
  if ('CreateDomainStmt' in node) return nameKey(node.CreateDomainStmt.domainname);
  if ('CreateSchemaStmt' in node) return objectKey('schema', node.CreateSchemaStmt.schemaname ?? '');
  return undefined;
}

/** What a plan's `up` statements make that was surely not there before, by its key; the value is the place that makes it. */
export interface MadeByPlan {
  readonly tables: ReadonlyMap<string, string>;
  readonly types: ReadonlyMap<string, string>;
  readonly functions: ReadonlyMap<string, string>;
}

export function madeByPlan(raw: readonly RawSql[]): MadeByPlan {
  const tables = new Map<string, string>();
  const types = new Map<string, string>();
  const functions = new Map<string, string>();
  for (const { place, statements } of raw.filter(({ direction }) => direction === 'up')) {
    for (const { node } of statements) {
      if ('CreateStmt' in node && node.CreateStmt.if_not_exists !== true) {
        tables.set(relationKey(node.CreateStmt.relation), place);
      } else if ('CreateTableAsStmt' in node && node.CreateTableAsStmt.if_not_exists !== true) {
        tables.set(relationKey(node.CreateTableAsStmt.into?.rel), place);
      } else if ('CreateEnumStmt' in node) types.set(nameKey(node.CreateEnumStmt.typeName), place);
      else if ('CreateRangeStmt' in node) types.set(nameKey(node.CreateRangeStmt.typeName), place);
      else if ('CompositeTypeStmt' in node) types.set(relationKey(node.CompositeTypeStmt.typevar), place);
      else if ('CreateDomainStmt' in node) types.set(nameKey(node.CreateDomainStmt.domainname), place);
      else if ('CreateFunctionStmt' in node && node.CreateFunctionStmt.replace !== true) {
        functions.set(nameKey(node.CreateFunctionStmt.funcname), place);
      }
    }
  }
  return { tables, types, functions };
}
