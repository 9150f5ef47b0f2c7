import type { TableName } from '../../plan/table-name.js';
import { type Statement, SqlSyntaxError } from '../../plan/sql-tree.js';
import { VerdigrisError } from '../../errors.js';
import { ident, qualified } from '../identifier.js';
import { keepOfPostData, keepOfPreData, NO_FILTER, type DumpFilter } from './dump-filter.js';
import { statementsInSlices } from './dump-slices.js';

/** What adds a constraint to a table. */
export interface ConstraintStatement {
  readonly table: TableName;
  readonly name: string;
  readonly add: string;
}

/** A foreign key in two halves: one takes locks for a moment, the other reads both tables without stopping writers. */
export interface ForeignKeyStatements extends ConstraintStatement {
  /** Null where PostgreSQL refuses NOT VALID (partitioned tables), or where blue's own key is not validated either. */
  readonly validate: string | null;
}

export interface IndexStatement {
  readonly table: TableName;
  readonly name: string;
  readonly create: string;
}

/** What makes a key of one table: a constraint, or a unique index that is a replica identity. */
export interface KeyStatement {
  readonly table: TableName;
  readonly name: string;
  readonly create: string;
}

/** The statements of a schema, by when they are best run. Within a group the order is pg_dump's. */
export interface SchemaStatements {
  /** What rows need: schemas, types, functions, tables, views, sequences. */
  readonly preData: readonly string[];
  /** Primary keys, unique and exclusion constraints, replica identities: before anybody writes the tables. */
  readonly keys: {
    /** Those of different tables may be made side by side. */
    readonly create: readonly KeyStatement[];
    /** Joins the keys of partitions to those of their parents, and names the replica identities: done at once. */
    readonly join: readonly string[];
  };
  readonly secondaryIndexes: {
    /** Of partitioned tables, on the parent only: no rows, made at once. */
    readonly parents: readonly IndexStatement[];
    /** CREATE INDEX as pg_dump writes it; see concurrently(). */
    readonly indexes: readonly IndexStatement[];
    /** Joins the indexes of partitions to those of their parents. */
    readonly attach: readonly string[];
  };
  readonly foreignKeys: readonly ForeignKeyStatements[];
  /** Triggers, rules, policies, statistics, comments, default privileges and what else is left. */
  readonly rest: readonly string[];
  /** What of `rest` adds a check: one that blue has not validated, all others come with their tables. */
  readonly checks: readonly ConstraintStatement[];
}

/**
 * Takes what pg_dump writes for --section=pre-data apart into statements that can be run one by one.
 *
 * @param filter default: green takes everything
 */
export async function readPreDataStatements(
  preData: string,
  filter: Partial<DumpFilter> = {},
): Promise<SchemaStatements['preData']> {
  const whole = { ...NO_FILTER, ...filter };
  return keptOf('pre-data', preData, (statements) => keepOfPreData(statements, whole));
}

/** The same for --section=post-data; each of its statements is run in a transaction of ours. */
export async function readPostDataStatements(postData: string): Promise<PostData> {
  return groupPostData(
    await keptOf('post-data', postData, (statements) => keepOfPostData(statements).map(postStatement)),
  );
}

/**
 * What is kept of each slice: their trees are let go.
 *
 * @throws VerdigrisError SchemaCopyFailed: the same dump would be written again.
 */
async function keptOf<Kept>(
  section: 'pre-data' | 'post-data',
  dump: string,
  keep: (statements: readonly Statement[]) => Kept[],
): Promise<Kept[]> {
  const kept: Kept[] = [];
  try {
    for await (const statements of statementsInSlices(withoutMetaCommands(dump))) {
      for (const one of keep(statements)) kept.push(one);
    }
  } catch (error) {
    if (!(error instanceof SqlSyntaxError)) throw error;
    throw new VerdigrisError({
      type: 'SchemaCopyFailed',
      message: `blue: the schema as pg_dump writes it (${section}) is no SQL of PostgreSQL 18: ${error.message}`,
      nextStep:
        'change the object on blue that has these words, or leave its table out by "tables.exclude"; then start the migration again',
      cause: error,
    });
  }
  return kept;
}

/** psql's \restrict and \unrestrict, whose key is new in each dump: only lines with that very key are taken out. */
export function withoutMetaCommands(dump: string): string {
  const key = /^\\restrict (\w+)$/m.exec(dump)?.[1];
  if (key === undefined) return dump;
  return dump.replace(`\\restrict ${key}\n`, '\n').replace(new RegExp(`^\\\\unrestrict ${key}$`, 'm'), '');
}

type PostData = Omit<SchemaStatements, 'preData'>;

/** What the groups are made by. */
interface PostStatement {
  readonly text: string;
  readonly command: AlterTableCommand | undefined;
  readonly index: NewIndex | undefined;
  /** A materialized view that pg_dump could only write after the data, since it needs a primary key; as `key` writes it. */
  readonly lateView: string | undefined;
}

interface NewIndex {
  readonly table: TableName;
  readonly name: string;
  /** Of a partitioned table, without its partitions. */
  readonly ofParentOnly: boolean;
}

function postStatement(statement: Statement): PostStatement {
  const { node, text } = statement;
  const view = 'CreateTableAsStmt' in node ? node.CreateTableAsStmt.into?.rel : undefined;
  return {
    text,
    command: alterTableCommand(statement),
    index: newIndex(statement),
    lateView: view === undefined ? undefined : key(view.schemaname ?? '', view.relname ?? ''),
  };
}

function newIndex({ node }: Statement): NewIndex | undefined {
  if (!('IndexStmt' in node)) return undefined;
  const { idxname: name = '', relation } = node.IndexStmt;
  const table = { schema: relation?.schemaname ?? '', name: relation?.relname ?? '' };
  return { table, name, ofParentOnly: relation?.inh !== true };
}

function groupPostData(statements: readonly PostStatement[]): PostData {
  const keyIndexes = namesOfKeyIndexes(statements);
  const lateViews = new Set(statements.map(({ lateView }) => lateView));
  const keys: KeyStatement[] = [];
  const join: string[] = [];
  const parents: IndexStatement[] = [];
  const indexes: IndexStatement[] = [];
  const attach: string[] = [];
  const foreignKeys: ForeignKeyStatements[] = [];
  const rest: string[] = [];
  const checks: ConstraintStatement[] = [];
  for (const { text, command, index } of statements) {
    if (command?.kind === 'check') checks.push({ ...constraintOf(command), add: text });
    if (index !== undefined) {
      const { table, name, ofParentOnly } = index;
      if (keyIndexes.has(key(table.schema, name))) keys.push({ table, name, create: text });
      // A view that is made after the indexes can't have one before.
      else if (lateViews.has(key(table.schema, table.name))) rest.push(text);
      else if (ofParentOnly) parents.push({ table, name, create: text });
      else indexes.push({ table, name, create: text });
    } else if (command === undefined || command.kind === 'check') rest.push(text);
    else if (command.kind === 'foreignKey') foreignKeys.push(foreignKey(command, text));
    else if (command.kind === 'key') {
      const table = { schema: command.schema, name: command.relation };
      keys.push({ table, name: command.constraint, create: text });
    } else if (command.kind === 'replicaIdentity') join.push(text);
    else if (keyIndexes.has(key(command.schema, command.relation))) join.push(text);
    else attach.push(text);
  }
  return { keys: { create: keys, join }, secondaryIndexes: { parents, indexes, attach }, foreignKeys, rest, checks };
}

interface AlterTable {
  readonly schema: string;
  readonly relation: string;
}

type AlterTableCommand = AlterTable &
  (
    | { readonly kind: 'key' | 'check'; readonly constraint: string }
    | { readonly kind: 'foreignKey'; readonly canBeLeftForLater: boolean; readonly constraint: string }
    | { readonly kind: 'replicaIdentity'; readonly index: string }
    | { readonly kind: 'attachIndex' }
  );

/** The statements of ALTER TABLE and ALTER INDEX that have a group of their own; undefined for every other one. */
function alterTableCommand({ node }: Statement): AlterTableCommand | undefined {
  if (!('AlterTableStmt' in node)) return undefined;
  const { relation, cmds, objtype } = node.AlterTableStmt;
  const first = cmds?.[0];
  if (first === undefined || !('AlterTableCmd' in first)) return undefined;
  const { subtype, def } = first.AlterTableCmd;
  const names = { schema: relation?.schemaname ?? '', relation: relation?.relname ?? '' };
  if (subtype === 'AT_AttachPartition' && objtype === 'OBJECT_INDEX') return { kind: 'attachIndex', ...names };
  if (def !== undefined && 'ReplicaIdentityStmt' in def) {
    return { kind: 'replicaIdentity', index: def.ReplicaIdentityStmt.name ?? '', ...names };
  }
  if (def === undefined || !('Constraint' in def)) return undefined;
  const { contype, conname: constraint = '', initially_valid: valid } = def.Constraint;
  if (contype === 'CONSTR_PRIMARY' || contype === 'CONSTR_UNIQUE' || contype === 'CONSTR_EXCLUSION') {
    return { kind: 'key', constraint, ...names };
  }
  if (contype === 'CONSTR_CHECK') return { kind: 'check', constraint, ...names };
  if (contype !== 'CONSTR_FOREIGN') return undefined;
  // pg_dump writes ONLY for every table but partitioned ones, where NOT VALID is refused before PostgreSQL 18.
  const partitioned = relation?.inh === true;
  return { kind: 'foreignKey', constraint, canBeLeftForLater: valid === true && !partitioned, ...names };
}

function foreignKey(command: AlterTableCommand & { readonly kind: 'foreignKey' }, text: string): ForeignKeyStatements {
  const constraint = constraintOf(command);
  if (!command.canBeLeftForLater) return { ...constraint, add: text, validate: null };
  return {
    ...constraint,
    add: `${text} NOT VALID`,
    validate: `ALTER TABLE ONLY ${qualified(constraint.table)} VALIDATE CONSTRAINT ${ident(constraint.name)}`,
  };
}

function constraintOf({
  schema,
  relation,
  constraint,
}: AlterTable & { readonly constraint: string }): Omit<ConstraintStatement, 'add'> {
  return { table: { schema, name: relation }, name: constraint };
}

/** Indexes that belong to a key or are a replica identity, as schema and name. */
function namesOfKeyIndexes(statements: readonly PostStatement[]): ReadonlySet<string> {
  const names = new Set<string>();
  for (const { command } of statements) {
    if (command?.kind === 'key') names.add(key(command.schema, command.constraint));
    if (command?.kind === 'replicaIdentity') names.add(key(command.schema, command.index));
  }
  return names;
}

function key(schema: string, name: string): string {
  return JSON.stringify([schema, name]);
}

/** The same index, made without stopping writers. pg_get_indexdef always begins so. */
export function concurrently(create: string): string {
  return create.replace(/^CREATE (UNIQUE )?INDEX /, 'CREATE $1INDEX CONCURRENTLY ');
}
