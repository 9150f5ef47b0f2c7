import { VerdigrisError } from '../../errors.js';
import type { AddConstraint } from '../../plan/schema.js';
import { parseTableName, type TableName } from '../../plan/table-name.js';
import { SILENCE_EVENT_TRIGGERS } from '../event-triggers.js';
import { ident, qualified } from '../identifier.js';
import { BEGIN, type Session } from '../session.js';
import type { ChangedTable } from './changed-table.js';

/** A constraint as it stands in ALTER TABLE ... ADD CONSTRAINT. */
export function constraintSql(constraint: AddConstraint): string {
  const { check, foreignKey, unique, primaryKey } = constraint;
  if (unique !== undefined) return `UNIQUE (${unique.map(ident).join(', ')})`;
  if (primaryKey !== undefined) return `PRIMARY KEY (${primaryKey.map(ident).join(', ')})`;
  if (foreignKey === undefined) return `CHECK (${check ?? 'true'}\n)`;
  const { columns, references, onDelete, onUpdate } = foreignKey;
  return (
    `FOREIGN KEY (${columns.map(ident).join(', ')}) ` +
    `REFERENCES ${qualified(parseTableName(references.table))} (${references.columns.map(ident).join(', ')}) ` +
    `ON DELETE ${onDelete} ON UPDATE ${onUpdate}`
  );
}

/** A constraint that is there. */
export interface FoundConstraint {
  readonly valid: boolean;
  readonly definition: string;
}

/** Looks a constraint up; undefined when the table has none of that name. */
export async function findConstraint(
  session: Session,
  table: TableName,
  name: string,
): Promise<FoundConstraint | undefined> {
  const { rows } = await session.query<FoundConstraint>(
    `SELECT convalidated AS valid, pg_get_constraintdef(oid) AS definition
       FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = $2`,
    [qualified(table), name],
  );
  return rows[0];
}

/** @throws VerdigrisError MigrationStepFailed when the constraint of that name is not the plan's. */
export async function refuseAnotherConstraint(
  session: Session,
  table: ChangedTable,
  constraint: AddConstraint,
  found: FoundConstraint,
  object: string,
): Promise<void> {
  const expected = await definitionOf(session, table, constraint);
  if (withoutNotValid(found.definition) === expected) return;
  throw new VerdigrisError({
    type: 'MigrationStepFailed',
    message: `${object}: there is another constraint of that name: ${found.definition}; the plan says ${expected}`,
    nextStep: 'give the new constraint another name in the plan',
  });
}

/** A definition of pg_get_constraintdef, whether the constraint has been validated or not. */
export function withoutNotValid(definition: string): string {
  return definition.replace(/ NOT VALID$/, '');
}

/**
 * The constraint in PostgreSQL's own words. A check or a key is made on an empty copy of the table, which is rolled back,
 * so that PostgreSQL itself reads the plan's SQL. A foreign key is written as pg_get_constraintdef writes it: to make one
 * would lock the table that it refers to.
 */
async function definitionOf(session: Session, table: ChangedTable, constraint: AddConstraint): Promise<string> {
  if (constraint.foreignKey !== undefined) return foreignKeyDefinition(session, constraint.foreignKey);
  const copy = { schema: 'pg_temp', name: table.info.name.name };
  await session.query(BEGIN);
  try {
    await session.query(SILENCE_EVENT_TRIGGERS);
    await session.query(`SELECT set_config('search_path', $1, true)`, [table.searchPath]);
    await session.query(
      `CREATE TEMPORARY TABLE ${ident(copy.name)} (LIKE ${qualified(table.info.name)} INCLUDING GENERATED)`,
    );
    await session.query(
      `ALTER TABLE ${qualified(copy)} ADD CONSTRAINT ${ident(constraint.name)} ${constraintSql(constraint)}`,
    );
    // As findConstraint reads the other one: what a definition qualifies depends on the path.
    await session.query(`SELECT set_config('search_path', 'pg_catalog', true)`);
    return (await findConstraint(session, copy, constraint.name))?.definition ?? '';
  } finally {
    await session.query('ROLLBACK');
  }
}

/** A foreign key as pg_get_constraintdef writes it. */
export async function foreignKeyDefinition(
  session: Session,
  { columns, references, onDelete, onUpdate }: NonNullable<AddConstraint['foreignKey']>,
): Promise<string> {
  const { schema, name } = parseTableName(references.table);
  const { rows } = await session.query<{ definition: string }>(
    `SELECT format('FOREIGN KEY (%s) REFERENCES %I.%I(%s)',
                   (SELECT string_agg(quote_ident(c), ', ' ORDER BY n) FROM unnest($1::text[]) WITH ORDINALITY l (c, n)),
                   $2::text, $3::text,
                   (SELECT string_agg(quote_ident(c), ', ' ORDER BY n) FROM unnest($4::text[]) WITH ORDINALITY l (c, n)))
              AS definition`,
    [columns, schema, name, references.columns],
  );
  const actions = [
    onUpdate === 'NO ACTION' ? '' : ` ON UPDATE ${onUpdate}`,
    onDelete === 'NO ACTION' ? '' : ` ON DELETE ${onDelete}`,
  ];
  return `${rows[0]?.definition ?? ''}${actions.join('')}`;
}
