import { VerdigrisError } from '../../errors.js';
import type { AddConstraint, CreateIndex } from '../../plan/schema.js';
import { formatTableName, parseTableName, type TableName } from '../../plan/table-name.js';
import { readTables, sameTable, type TableInfo } from '../catalog.js';
import { ALL_TABLES } from '../catalog-pattern.js';
import { SILENCE_EVENT_TRIGGERS } from '../event-triggers.js';
import { ident, qualified } from '../identifier.js';
import { partitionTree } from '../partition-tree.js';
import { BEGIN, type Session } from '../session.js';
import { isConnectionLost, NO_RIGHT, sqlState } from '../sqlstate.js';
import { TRY_JSONB } from '../state.js';
import { addColumns } from './add-column.js';
import { expressionPath } from './changed-table.js';
import { constraintSql } from './constraint-definition.js';
import { checkedReads } from './expand-table.js';
import { createIndexSql } from './index-definition.js';
import type { Derived, NewColumn, Step, Work } from './plan-work.js';
import { refuseRefusedNull } from './refused-null.js';
import { messageOf } from './step-failed.js';
import { takenNames } from './taken-names.js';

/*
 * What a plan makes is tried before anything hangs on it: on empty copies of its tables, in transactions that are rolled
 * back. Else PostgreSQL would find a mistake (an unknown type, a method that has no operator class for a column, a foreign
 * key to columns without a key) when all rows have been copied, or a standby has been promoted. The copies are temporary
 * tables: of the tables themselves only ACCESS SHARE is taken, for a moment.
 *
 * Only what is sure is called a mistake. From the first `sql` step on nothing is tried, since that may make or change what
 * the steps behind it need; columns are made before it. An error that has another reason than the plan (a lock, a
 * privilege, an event trigger) says nothing.
 */

/** Something of the plan that PostgreSQL refuses. */
export interface Mistake {
  /** `index "a" on table public.orders` */
  readonly object: string;
  /** What PostgreSQL says, with its SQLSTATE. */
  readonly message: string;
  /** The SQLSTATE; undefined where it is no server that refuses it. */
  readonly state?: string | undefined;
}

export interface Trial {
  readonly mistakes: readonly Mistake[];
  /** Why some of the plan could not be tried; undefined when all of it was. */
  readonly untried: unknown;
}

export interface TrialInput {
  /** The server on which it is tried: it has the tables, and knows the types and functions that the plan's steps will find. */
  readonly session: Session;
  /** Where the indexes and foreign keys of the tables are: green may not have them yet. */
  readonly blue: Session;
  /** The tables of blue that the plan moves. */
  readonly moved: readonly TableInfo[];
  readonly work: Work;
}

/** Tries the plan. Leaves nothing behind. */
export async function tryPlan(input: TrialInput): Promise<Trial> {
  const tables = await readTables(input.session, ALL_TABLES);
  const early = stepsBeforeSql(input.work);
  const mistakes: Mistake[] = [...(await takenNames(input, early))];
  let untried: unknown;
  // Whatever is tried on a table whose columns are refused would be refused for them.
  const broken = new Set<string>();
  for (const attempt of attemptsOf(input, tables, early)) {
    const key = formatTableName(attempt.table);
    if (broken.has(key)) continue;
    try {
      await attempt.run();
    } catch (error) {
      if (isConnectionLost(error)) throw error;
      const message = error instanceof NotTried ? undefined : mistakeIn(error);
      if (message === undefined) untried ??= error instanceof NotTried ? error.cause : error;
      else {
        mistakes.push({ object: attempt.object, message, state: sqlState(causeOf(error)) });
        if (attempt.isOfColumns) broken.add(key);
      }
    }
  }
  return { mistakes, untried };
}

/**
 * Refuses a plan that green would refuse later.
 *
 * @throws VerdigrisError MigrationStepFailed with every mistake.
 */
export async function refuseMistakes(input: TrialInput): Promise<void> {
  const { mistakes } = await tryPlan(input);
  if (mistakes.length === 0) return;
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `green refuses what the plan says: ${mistakes.map(({ object, message }) => `${object}: ${message}`).join('; ')}`,
    nextStep: 'correct it in the plan and start again; no row has been copied',
  });
}

/** The steps before the first raw SQL. */
export function stepsBeforeSql({ steps }: Work): readonly Step[] {
  const first = steps.findIndex(({ kind }) => kind === 'sql');
  return first === -1 ? steps : steps.slice(0, first);
}

interface Attempt {
  readonly table: TableName;
  readonly object: string;
  readonly isOfColumns: boolean;
  readonly run: () => Promise<void>;
}

/** Everything that is tried, each in a transaction of its own. */
function* attemptsOf(input: TrialInput, tables: readonly TableInfo[], early: readonly Step[]): Generator<Attempt> {
  const trial = new CopyTrial(input, tables);
  for (const { table, columns, derived } of input.work.tables) {
    const of = formatTableName(table);
    const attempt = { table, isOfColumns: false };
    yield { ...attempt, object: `the new columns of table ${of}`, isOfColumns: true, run: () => trial.columns(table) };
    for (const item of derived) {
      const isNew = columns.some(({ name }) => name === item.column);
      const object = `${isNew ? 'new ' : ''}column "${item.column}" of table ${of}`;
      yield { ...attempt, object, run: () => trial.derived(table, item) };
    }
  }
  for (const [position, step] of early.entries()) {
    if (step.kind === 'indexes') {
      for (const { table, index } of step.indexes) {
        const object = `index "${index.name}" on table ${formatTableName(table)}`;
        yield { table, object, isOfColumns: false, run: () => trial.index(table, index) };
      }
    } else if (step.kind === 'constraint') {
      const { table, constraint } = step;
      const object = `constraint "${constraint.name}" on table ${formatTableName(table)}`;
      yield {
        table,
        object,
        isOfColumns: false,
        run: () => trial.constraint(table, constraint, early.slice(0, position)),
      };
    }
  }
}

/** What a copy is made for could not be tried: its table can't be copied here. */
class NotTried extends Error {
  constructor(cause: unknown) {
    super('not tried', { cause });
  }
}

/** A table, or a level of a partitioned one, that is copied. */
interface Copied {
  readonly name: TableName;
  readonly columns: TableInfo['columns'];
}

/** The referenced table of a foreign key, beside the copy of the table that refers to it. */
const REFERENCED = { schema: 'pg_temp', name: 'verdigris_referenced' } as const;

class CopyTrial {
  readonly #callsTryJsonb: boolean;

  constructor(
    private readonly input: TrialInput,
    private readonly tables: readonly TableInfo[],
  ) {
    this.#callsTryJsonb = JSON.stringify(input.work).includes('try_jsonb');
  }

  columns(table: TableName): Promise<void> {
    return this.#onCopyOf(table, (copy, info) => {
      const added = this.#columnsFor(info).map(({ name }) => name);
      return refuseRefusedNull(this.input.session, copy, table, added);
    });
  }

  derived(table: TableName, { column, up, down }: Derived): Promise<void> {
    const { session } = this.input;
    return this.#onCopyOf(table, async (copy, info) => {
      const { rows } = await session.query<{ oid: number }>('SELECT $1::regclass::int8::float8 AS oid', [
        qualified(copy),
      ]);
      const on = { ...info, name: copy, oid: rows[0]?.oid ?? 0 };
      if (up !== undefined) await checkedReads(session, on, column, up, '"up"');
      if (down !== undefined) await checkedReads(session, on, down.column, down.expression, '"down"');
    });
  }

  async index(table: TableName, index: CreateIndex): Promise<void> {
    const info = this.#find(table);
    if (info === undefined) return;
    const make = async (copy: TableName): Promise<void> => {
      const columns = [...info.columns, ...this.#columnsFor(info).map(({ name }) => ({ name }))];
      // Under a name that nothing has: whether the plan's is free is asked of the catalog.
      await this.input.session.query(
        createIndexSql({ columns }, index, { table: copy, name: 'verdigris_trial' }, 'plain'),
      );
    };
    // A unique index must have the columns by which each level is partitioned; expressions may name the table that they are on.
    const levels = info.kind === 'partitioned' ? await this.#levelsOf(info) : [info];
    for (const level of levels) await this.#onCopy(level, this.#columnsFor(info), make);
  }

  /** @param before the steps by which the key of a foreign key may have been made */
  async constraint(table: TableName, constraint: AddConstraint, before: readonly Step[]): Promise<void> {
    const { session } = this.input;
    if (constraint.foreignKey !== undefined) {
      const { columns, table: to } = constraint.foreignKey.references;
      const hasKey = await this.#mayHaveKey(parseTableName(to), columns, before);
      await this.#foreignKey(table, constraint, constraint.foreignKey, hasKey);
      return;
    }
    await this.#onCopyOf(table, async (copy) => {
      await session.query(
        `ALTER TABLE ${qualified(copy)} ADD CONSTRAINT ${ident(constraint.name)} ${constraintSql(constraint)}`,
      );
    });
  }

  async #foreignKey(
    table: TableName,
    constraint: AddConstraint,
    foreignKey: NonNullable<AddConstraint['foreignKey']>,
    hasKey: boolean,
  ): Promise<void> {
    const { session } = this.input;
    const target = parseTableName(foreignKey.references.table);
    const referenced = this.#find(target);
    if (referenced === undefined) return;
    const { columns } = foreignKey.references;
    await this.#onCopyOf(table, async (copy) => {
      const itself = sameTable(table, target);
      const to = itself ? copy : REFERENCED;
      await orNotTried(async () => {
        if (!itself) await this.#copy(referenced, REFERENCED, this.#columnsFor(referenced));
        if (hasKey) {
          await session.query(`ALTER TABLE ${qualified(to)} ADD UNIQUE (${columns.map(ident).join(', ')})`);
        }
      });
      const references = { ...foreignKey.references, table: formatTableName(to) };
      const sql = constraintSql({ ...constraint, foreignKey: { ...foreignKey, references } });
      await session.query(`ALTER TABLE ${qualified(copy)} ADD CONSTRAINT ${ident(constraint.name)} ${sql}`);
    });
  }

  /** Whether the columns have a key that a foreign key can refer to, on blue or from an earlier step. */
  async #mayHaveKey(table: TableName, columns: readonly string[], before: readonly Step[]): Promise<boolean> {
    const { rowCount } = await this.input.blue.query(HAS_KEY, [qualified(table), columns]);
    if (rowCount !== 0) return true;
    return before.some((step) => {
      if (step.kind === 'constraint') {
        const key = step.constraint.unique ?? step.constraint.primaryKey ?? [];
        return sameTable(step.table, table) && key.length === columns.length;
      }
      return (
        step.kind === 'indexes' &&
        step.indexes.some(
          ({ table: on, index }) =>
            sameTable(on, table) &&
            index.unique &&
            index.where === undefined &&
            index.columns.length === columns.length,
        )
      );
    });
  }

  #find(table: TableName): TableInfo | undefined {
    return this.tables.find(({ name }) => sameTable(name, table));
  }

  /** The plan's columns that the table has not got yet. */
  #columnsFor(info: TableInfo): readonly NewColumn[] {
    const work = this.input.work.tables.find(({ table }) => sameTable(table, info.name));
    return (work?.columns ?? []).filter(({ name }) => info.columns.every((column) => column.name !== name));
  }

  /** Every partitioned level of a table, and one that has rows. */
  async #levelsOf(info: TableInfo): Promise<readonly Copied[]> {
    const { rows } = await this.input.session.query<TableName & { isLeaf: boolean }>(
      `SELECT n.nspname AS schema, c.relname AS name, t.isleaf AS "isLeaf"
         FROM ${partitionTree('$1::oid')} t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
        ORDER BY t.level, 1, 2`,
      [info.oid],
    );
    const levels = [...rows.filter(({ isLeaf }) => !isLeaf), ...rows.filter(({ isLeaf }) => isLeaf).slice(0, 1)];
    return levels.map(({ schema, name }) => ({ name: { schema, name }, columns: info.columns }));
  }

  /** Runs `work` on a copy of a table; a table that is not there is for others to tell. */
  async #onCopyOf(table: TableName, work: (copy: TableName, info: TableInfo) => Promise<void>): Promise<void> {
    const info = this.#find(table);
    if (info !== undefined) await this.#onCopy(info, this.#columnsFor(info), (copy) => work(copy, info));
  }

  async #onCopy(table: Copied, columns: readonly NewColumn[], work: (copy: TableName) => Promise<void>): Promise<void> {
    const { session } = this.input;
    const copy = { schema: 'pg_temp', name: table.name.name };
    await session.query(BEGIN);
    try {
      await orNotTried(async () => {
        await session.query(SILENCE_EVENT_TRIGGERS);
        if (this.#callsTryJsonb) await session.query(MAKE_TRY_JSONB);
        await session.query(`SELECT set_config('search_path', $1, true)`, [
          await expressionPath(session, table.name.schema),
        ]);
      });
      await this.#copy(table, copy, columns);
      await work(copy);
    } finally {
      await session.query('ROLLBACK');
    }
  }

  async #copy(table: Copied, copy: TableName, columns: readonly NewColumn[]): Promise<void> {
    const { session } = this.input;
    await orNotTried(async () => {
      const { rows } = await session.query<{ key: string | null }>(
        `SELECT pg_get_partkeydef(oid) AS key FROM pg_class WHERE oid = $1::regclass`,
        [qualified(table.name)],
      );
      const key = rows[0]?.key ?? null;
      await session.query(
        `CREATE TEMPORARY TABLE ${ident(copy.name)} (LIKE ${qualified(table.name)} INCLUDING GENERATED)
           ${key === null ? '' : `PARTITION BY ${key}`}`,
      );
    });
    await addColumns(session, { name: copy, columns: [], oid: 0 }, columns);
  }
}

/** Before the run has claimed a database it has no schema verdigris; the plan's expressions may call its function. */
const MAKE_TRY_JSONB = `
DO $do$
BEGIN
  IF to_regprocedure('verdigris.try_jsonb(text)') IS NULL THEN
    CREATE SCHEMA IF NOT EXISTS verdigris;
    ${TRY_JSONB}
  END IF;
END $do$`;

const HAS_KEY = `
SELECT FROM pg_index i
 WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate
   AND i.indpred IS NULL AND i.indexprs IS NULL
   AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C") FROM pg_attribute a
         WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
       = (SELECT array_agg(name ORDER BY name COLLATE "C") FROM unnest($2::text[]) name)`;

async function orNotTried<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (isConnectionLost(error) || error instanceof NotTried) throw error;
    throw new NotTried(error);
  }
}

/** SQLSTATE classes by which PostgreSQL refuses a text for what it says: data, features, syntax and names, limits. */
const REFUSED: ReadonlySet<string> = new Set(['22', '0A', '42', '54']);

function causeOf(error: unknown): unknown {
  return error instanceof VerdigrisError && error.cause !== undefined ? error.cause : error;
}

/** What PostgreSQL has against the plan; undefined where the error may have another reason. */
function mistakeIn(error: unknown): string | undefined {
  const cause = causeOf(error);
  if (cause instanceof VerdigrisError) return cause.what;
  const state = sqlState(cause) ?? '';
  // A privilege may be missing here and not there; and the type of the copy's rows is not that of the table's.
  if (!REFUSED.has(state.slice(0, 2)) || state === NO_RIGHT || messageOf(cause).includes('pg_temp')) return undefined;
  return error instanceof VerdigrisError ? error.what : messageOf(cause);
}
