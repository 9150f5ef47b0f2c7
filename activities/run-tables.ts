import type { Plan } from '../src/plan/schema.js';
import { parseTableName } from '../src/plan/table-name.js';
import { readTables, replicatedRoots, type TableInfo } from '../src/postgres/catalog.js';
import { reverseColumns } from '../src/postgres/migrate/plan-work.js';
import type { Run } from '../src/postgres/ownership.js';
import { refuseWithoutIdentity } from '../src/postgres/preflight/replica-identity.js';
import type { PublishedTable } from '../src/postgres/publication.js';
import type { Session } from '../src/postgres/session.js';
import type { TableLink } from '../src/postgres/stream-groups.js';
import { ensurePublications, isPublished, type StreamsSpec } from '../src/postgres/streams.js';

/** The tables of a side that the plan moves. */
export function movedTables(session: Session, plan: Plan): Promise<TableInfo[]> {
  return readTables(session, plan.tables);
}

/** What the forward feed publishes: every moved table with all its columns. */
export function publishedForward(blue: readonly TableInfo[]): PublishedTable[] {
  return replicatedRoots(blue).map(({ name }) => ({ table: name }));
}

/**
 * Makes the publications of the forward feed, unless they are there. Tables that the plan's new foreign keys bind stay in
 * one stream, too.
 *
 * @throws VerdigrisError IdentityMissing where a table is such that UPDATE and DELETE on blue would fail from then on
 */
export async function publishForward(blue: Session, run: Run, plan: Plan): Promise<readonly TableInfo[]> {
  const tables = await movedTables(blue, plan);
  const spec: StreamsSpec = {
    migration: run.migration,
    direction: 'to_green',
    tables: publishedForward(tables),
    streams: plan.replicate.streams,
    links: foreignKeysOf(plan),
  };
  // Of what is published already, one more look undoes nothing; and a table that has come since is in none of them.
  if (!(await isPublished(blue, spec))) refuseWithoutIdentity(tables);
  await ensurePublications(blue, spec);
  return tables;
}

function foreignKeysOf(plan: Plan): TableLink[] {
  return plan.migrations.flatMap((migration) => {
    const added = 'addConstraint' in migration ? migration.addConstraint : undefined;
    if (added?.foreignKey === undefined) return [];
    return [[parseTableName(added.table), parseTableName(added.foreignKey.references.table)] as const];
  });
}

/**
 * What the reverse feed publishes: blue's columns of each table. A column list only where green has more of them than
 * blue can take; generated columns are never published, each side computes its own.
 */
export function publishedBackward(blue: readonly TableInfo[], green: readonly TableInfo[]): PublishedTable[] {
  const key = (table: TableInfo): string => JSON.stringify([table.name.schema, table.name.name]);
  const onGreen = new Map(green.map((table) => [key(table), table]));
  return replicatedRoots(blue).flatMap((table) => {
    const other = onGreen.get(key(table));
    if (other === undefined) return [];
    const columns = reverseColumns(table, other);
    const all = other.columns.filter((column) => !column.generated).length;
    return [columns.length === all ? { table: table.name } : { table: table.name, columns }];
  });
}
