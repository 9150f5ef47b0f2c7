import { readRawSql, relationKey, objectKey } from '../../plan/raw-sql.js';
import { VerdigrisError } from '../../errors.js';
import type { Plan } from '../../plan/schema.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { sameTable, type TableInfo } from '../catalog.js';
import { qualified } from '../identifier.js';
import { planWork } from '../migrate/plan-work.js';
import type { Found, SideCheck } from './check.js';
import { listed } from './finding.js';

/** What replication tells the rows of a table by, in both directions. */
export const replicaIdentity: SideCheck = {
  name: 'replica-identity',
  sides: ['blue'],
  run: async ({ plan, tables }) => {
    const isWidened = await widenedBy(plan);
    return judgedByThemselves(await tables()).flatMap((table) => judgeIdentity(table, isWidened));
  },
};

/**
 * The same of tables that are about to be published, which may be days after the preflight: from CREATE PUBLICATION on the
 * application could neither update nor delete rows of one that has lost its key, or has come without one. Columns of the plan
 * are asked about at the promotion. The run is under way by then, and the watch of blue's schema would hold it for the same.
 *
 * @throws VerdigrisError IdentityMissing
 */
export function refuseWithoutIdentity(tables: readonly TableInfo[]): void {
  const found = judgedByThemselves(tables).flatMap((table) => judgeIdentity(table, () => false));
  if (found.length === 0) return;
  throw new VerdigrisError({
    type: 'IdentityMissing',
    message: `nothing is published on blue: ${listed(found.map(({ message }) => message))}`,
    nextStep: `drop on blue what has come since the run began; else ${listed(found.map(({ remedy }) => remedy))}; then resume (with another plan: roll back, and start again)`,
  });
}

/** Without partitions that lack a key because their topmost parent does: a key of that one is theirs, too. */
function judgedByThemselves(tables: readonly TableInfo[]): TableInfo[] {
  const isRoot = ({ name, root }: TableInfo): boolean => sameTable(name, root);
  const keyless = tables.filter((table) => isRoot(table) && table.key === null && table.replicaIdentity !== 'i');
  const roots = new Set(keyless.map(({ name }) => formatTableName(name)));
  const lacksKey = ({ key, replicaIdentity }: TableInfo): boolean =>
    key === null && (replicaIdentity === 'd' || replicaIdentity === 'f');
  return tables.filter((table) => isRoot(table) || !lacksKey(table) || !roots.has(formatTableName(table.root)));
}

/**
 * Tables whose columns on green will not be blue's: the way back publishes a list of columns of theirs then. Partitions are
 * published as their topmost parent. What else gives green columns is found before the way back is made (see
 * src/postgres/full-identity.ts).
 */
async function widenedBy(plan: Plan): Promise<(table: TableInfo) => boolean> {
  const { tables } = await planWork(plan);
  const widened = tables.filter(({ columns }) => columns.length > 0).map(({ table }) => table);
  const byHand = await columnsByHand(plan);
  const isOne = (name: TableName): boolean =>
    widened.some((one) => sameTable(one, name)) || byHand.has(objectKey(name.schema, name.name));
  return ({ name, root }) => isOne(name) || isOne(root);
}

/** Tables to which `sql` steps add columns, or whose columns they rename. */
async function columnsByHand(plan: Plan): Promise<ReadonlySet<string>> {
  const keys = new Set<string>();
  for (const { direction, statements } of await readRawSql(plan)) {
    if (direction === 'down') continue;
    for (const { node } of statements) {
      if ('RenameStmt' in node && node.RenameStmt.renameType === 'OBJECT_COLUMN') {
        keys.add(relationKey(node.RenameStmt.relation));
      }
      if (!('AlterTableStmt' in node)) continue;
      const { relation, cmds = [] } = node.AlterTableStmt;
      const adds = cmds.some((cmd) => 'AlterTableCmd' in cmd && cmd.AlterTableCmd.subtype === 'AT_AddColumn');
      if (adds) keys.add(relationKey(relation));
    }
  }
  return keys;
}

/** A partition is left out with its topmost parent. */
function leaveOut({ root }: TableInfo): string {
  return `put "${formatTableName(root)}" into "tables.exclude"`;
}

function judgeIdentity(table: TableInfo, isWidened: (table: TableInfo) => boolean): Found[] {
  const name = formatTableName(table.name);
  const columns = table.kind === 'partitioned' ? '..., with all columns that it is partitioned by' : '...';
  const makeKey = `ALTER TABLE ${qualified(table.name)} ADD PRIMARY KEY (${columns}) on blue, or ${leaveOut(table)}`;
  const error = (message: string, remedy: string): Found[] => [{ severity: 'error', object: name, message, remedy }];
  switch (table.replicaIdentity) {
    case 'f':
      return table.key === null
        ? error(
            `${name} has REPLICA IDENTITY FULL and no primary key (or a deferrable one): its rows can be neither backfilled nor compared in parts`,
            makeKey,
          )
        : judgeFull(table, isWidened(table));
    case 'n':
      return error(
        `${name} has REPLICA IDENTITY NOTHING: once it is published, UPDATE and DELETE on blue fail`,
        table.key === null ? makeKey : `ALTER TABLE ${qualified(table.name)} REPLICA IDENTITY DEFAULT on blue`,
      );
    case 'i':
      return table.key?.kind === 'replicaIdentity'
        ? judgeGenerated(table)
        : error(
            `${name} names an index as its replica identity that is gone or not valid: UPDATE and DELETE on blue fail once it is published`,
            `ALTER TABLE ${qualified(table.name)} REPLICA IDENTITY USING INDEX ... on blue, with a unique index on NOT NULL columns`,
          );
    case 'd':
      return table.key !== null
        ? judgeGenerated(table)
        : error(
            `${name} has no primary key (or a deferrable one): UPDATE and DELETE on blue fail once it is published, and rows can be neither backfilled nor compared in parts`,
            makeKey,
          );
  }
}

/** Whoever applies the changes finds a row by the primary key all the same; but all columns have to be published. */
function judgeFull(table: TableInfo, isWidened: boolean): Found[] {
  const name = formatTableName(table.name);
  const generated = table.columns.filter((column) => column.generated);
  const found = (message: string): Found => ({
    severity: 'error',
    object: name,
    message,
    remedy: `ALTER TABLE ${qualified(table.name)} REPLICA IDENTITY DEFAULT on blue: the table has a primary key. Whoever reads its old values out of blue's changes (other-consumers: "before" of Debezium) gets none from then on; set it to FULL again on green when the run has ended`,
  });
  if (isWidened) {
    return [
      found(
        `${name} has REPLICA IDENTITY FULL, and the plan gives it columns: after the promotion every UPDATE and DELETE on green would fail, since green publishes only blue's columns (42P10)`,
      ),
    ];
  }
  if (generated.length === 0) return [];
  return [
    found(
      `${name} has REPLICA IDENTITY FULL and generated columns (${listed(generated.map((column) => column.name))}), which are not published: PostgreSQL 18 and later refuse UPDATE and DELETE then (42P10)`,
    ),
  ];
}

/** Generated columns are not published, so rows of blue could not be told apart by them on green. */
function judgeGenerated(table: TableInfo): Found[] {
  const generated = (table.key?.columns ?? []).filter(({ name }) =>
    table.columns.some((column) => column.name === name && column.generated),
  );
  if (generated.length === 0) return [];
  const name = formatTableName(table.name);
  return [
    {
      severity: 'error',
      object: name,
      message: `${name} is told by a generated column (${listed(generated.map((column) => column.name))}), which is not replicated: once it is published, UPDATE and DELETE fail, on blue (42P10, PostgreSQL 18 and later) or when green applies them`,
      remedy: `ALTER TABLE ${qualified(table.name)} REPLICA IDENTITY USING INDEX ... on blue, with a unique index on NOT NULL columns that are not generated, or ${leaveOut(table)}`,
    },
  ];
}
