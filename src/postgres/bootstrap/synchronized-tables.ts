import { formatTableName, type TableName } from '../../plan/table-name.js';
import { briefLock } from '../brief-lock.js';
import { ident, qualified } from '../identifier.js';
import { lookUpTables, publishedTable } from '../publication.js';
import { peerFailed } from '../peer-failed.js';
import type { Database, Session } from '../session.js';

/** How far a table of a subscription is: `i` not begun, `d` rows are copied, `f` and `s` it catches up, `r` ready. */
export type SyncState = 'i' | 'd' | 'f' | 's' | 'r';

/** Tables of these subscriptions in one of the states. */
export async function tablesInState(
  green: Session,
  subscriptions: readonly string[],
  states: readonly SyncState[],
): Promise<TableName[]> {
  const { rows } = await green.query<TableName>(
    `SELECT n.nspname AS schema, c.relname AS name
       FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
       JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND s.subname = ANY ($1) AND r.srsubstate = ANY ($2::"char"[])
      ORDER BY 1, 2`,
    [subscriptions, states],
  );
  return rows;
}

/** Takes tables out of their publication; those that are not in it are passed over. */
export async function unpublish(blue: Session, publication: string, tables: readonly TableName[]): Promise<void> {
  const published = await publishedIn(blue, publication);
  const there = tables.filter((table) => published.has(formatTableName(table)));
  if (there.length === 0) return;
  const list = there.map((table) => publishedTable({ table })).join(', ');
  await briefLock(blue, `ALTER PUBLICATION ${publication} DROP TABLE`, () =>
    blue.query(`ALTER PUBLICATION ${ident(publication)} DROP TABLE ${list}`),
  );
}

/**
 * Puts tables (back) into their publication; those that are in it are passed over, and so are those that blue has no more:
 * they were dropped on green as well, or the run would not have gone on.
 */
export async function publishAgain(blue: Session, publication: string, tables: readonly TableName[]): Promise<void> {
  if (tables.length === 0) return;
  const published = await publishedIn(blue, publication);
  const missing = await stillThere(
    blue,
    tables.filter((table) => !published.has(formatTableName(table))),
  );
  if (missing.length === 0) return;
  const list = missing.map((table) => publishedTable({ table })).join(', ');
  await briefLock(blue, `ALTER PUBLICATION ${publication} ADD TABLE`, () =>
    blue.query(`ALTER PUBLICATION ${ident(publication)} ADD TABLE ${list}`),
  );
}

async function stillThere(blue: Session, tables: readonly TableName[]): Promise<TableName[]> {
  const { rows } = await blue.query<{ there: boolean }>(
    `SELECT to_regclass(name) IS NOT NULL AS there FROM unnest($1::text[]) WITH ORDINALITY wanted (name, n) ORDER BY n`,
    [tables.map(qualified)],
  );
  return tables.filter((_, i) => rows[i]?.there === true);
}

async function publishedIn(blue: Session, publication: string): Promise<ReadonlySet<string>> {
  const { rows } = await blue.query<TableName>(
    `SELECT n.nspname AS schema, c.relname AS name
       FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
       JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE p.pubname = $1`,
    [publication],
  );
  return new Set(rows.map(formatTableName));
}

/**
 * Tables that the subscription knows already are left as they are, so this may be run again.
 *
 * @throws VerdigrisError ConnectionFailed (retryable) when green's server can't reach blue
 */
export async function refresh(peer: Database, blue: Session, green: Session, subscription: string): Promise<void> {
  await lookUpTables(blue, subscription);
  await briefLock(green, `ALTER SUBSCRIPTION ${subscription} REFRESH PUBLICATION`, () =>
    green.query(`ALTER SUBSCRIPTION ${ident(subscription)} REFRESH PUBLICATION WITH (copy_data = true)`),
  ).catch((error: unknown) => {
    throw peerFailed(error, peer);
  });
}
