import { VerdigrisError } from '../errors.js';
import { formatTableName, type TableName } from '../plan/table-name.js';
import type { Direction } from '../side.js';
import { briefLock } from './brief-lock.js';
import { compareNames } from './catalog.js';
import { feedName, sourceOf } from './feed.js';
import { ident } from './identifier.js';
import { createPublication, type PublishedTable } from './publication.js';
import type { LockRetryOptions } from './retry.js';
import type { Session } from './session.js';
import { readStreamCount } from './state.js';
import { readTableBytes, readTableLinks, spreadTables, type TableLink } from './stream-groups.js';

/*
 * A feed is made of one stream or several, each with a publication, a slot and a subscription of one name and a marker
 * of its own. Which tables a stream carries is decided once, when the publications are made, and is read from them
 * ever after: a table that moved to another stream would be applied twice or not at all.
 */

/** One stream of a feed. */
export interface Stream {
  /** From 1. */
  readonly number: number;
  /** Of its publication, slot and subscription. */
  readonly name: string;
  /** Ordinary tables and topmost parents of partitioned ones, without the marker table, by schema and name. */
  readonly tables: readonly TableName[];
}

export interface StreamsSpec {
  readonly migration: string;
  readonly direction: Direction;
  readonly tables: readonly PublishedTable[];
  /** How many streams the run has: fixed when it claims the databases. */
  readonly streams: number;
  /** Streams of the other direction: their tables stay together. */
  readonly like?: readonly Stream[];
  /** Tables to keep together beside those that foreign keys of the source bind, such as by foreign keys of the plan. */
  readonly links?: readonly TableLink[];
}

/** The names of a feed's streams. The first is the name of the feed; all are below 63 bytes and allowed for slots. */
export function streamNames(migration: string, direction: Direction, count: number): string[] {
  return numberedNames(feedName(migration, direction), count);
}

/** The same from the name of the feed. */
export function numberedNames(feed: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => (i === 0 ? feed : `${feed}_${i + 1}`));
}

/** The names of a feed's streams in the run that owns the session's database, whichever side that is. */
export async function streamsOfRun(session: Session, feed: string): Promise<string[]> {
  return numberedNames(feed, await readStreamCount(session));
}

/**
 * Makes the publications of a feed on its source, unless they are there. All or none, in one transaction: were some
 * left by a crash, the rest might be made later by other sizes, with a table in two of them or in none.
 *
 * @throws VerdigrisError ReplicationBroken when some are there and others are not; LockNotHad (retryable)
 */
export async function ensurePublications(
  source: Session,
  spec: StreamsSpec,
  patience?: LockRetryOptions,
): Promise<void> {
  const names = streamNames(spec.migration, spec.direction, spec.streams);
  const rows = await readPublications(source, names);
  if (rows.length === names.length) return;
  if (rows.length > 0) throw incomplete(spec.direction, names, rows);
  const make = async (): Promise<void> => {
    // One stream has all tables, whatever they weigh and refer to.
    const isSpread = spec.streams > 1;
    const bytes = isSpread ? await readTableBytes(source) : undefined;
    const spread = spreadTables(
      spec.tables.map(({ table }) => ({ table, bytes: bytes?.get(formatTableName(table)) ?? 0 })),
      isSpread ? [...(await readTableLinks(source)), ...(spec.links ?? [])] : [],
      spec.streams,
      spec.like,
    );
    const published = new Map(spec.tables.map((one) => [formatTableName(one.table), one]));
    const statements = names.map((name, i) =>
      createPublication(
        name,
        spec.direction,
        (spread[i] ?? []).flatMap((table) => published.get(formatTableName(table)) ?? []),
        i + 1,
      ),
    );
    await source.query(statements.join(';'));
  };
  await briefLock(source, `CREATE PUBLICATION ${names.join(', ')}`, make, patience);
}

/** Whether publications of a feed are there. */
export async function isPublished(source: Session, spec: StreamsSpec): Promise<boolean> {
  return (await readPublications(source, streamNames(spec.migration, spec.direction, spec.streams))).length > 0;
}

async function readPublications(source: Session, names: readonly string[]): Promise<{ name: string }[]> {
  const { rows } = await source.query<{ name: string }>(
    'SELECT pubname AS name FROM pg_publication WHERE pubname = ANY ($1)',
    [names],
  );
  return rows;
}

/**
 * Whether a feed's publications are there, and do not publish what they should: other tables, or other columns of one.
 * In which stream a table is does not matter.
 */
export async function publishesOther(source: Session, spec: StreamsSpec): Promise<boolean> {
  const names = streamNames(spec.migration, spec.direction, spec.streams);
  const { rows } = await source.query<TableName & { columns: string[] | null }>(
    `SELECT n.nspname AS schema, c.relname AS name,
            (SELECT json_agg(a.attname) FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum = ANY (r.prattrs) AND NOT a.attisdropped) AS columns
       FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
       JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE p.pubname = ANY ($1) AND n.nspname <> 'verdigris'`,
    [names],
  );
  const described = (table: TableName, columns: readonly string[] | null | undefined): string =>
    JSON.stringify([formatTableName(table), columns === null || columns === undefined ? null : [...columns].sort()]);
  const is = new Set(rows.map((row) => described(row, row.columns)));
  const should = new Set(spec.tables.map(({ table, columns }) => described(table, columns)));
  const { rowCount } = await source.query('SELECT FROM pg_publication WHERE pubname = ANY ($1)', [names]);
  return rowCount === names.length && (is.size !== should.size || [...should].some((one) => !is.has(one)));
}

/** Removes the publications of a feed that nobody uses yet, all or none. */
export async function dropUnused(source: Session, spec: StreamsSpec, patience?: LockRetryOptions): Promise<void> {
  const names = streamNames(spec.migration, spec.direction, spec.streams);
  const drop = (): Promise<unknown> => source.query(`DROP PUBLICATION IF EXISTS ${names.map(ident).join(', ')}`);
  await briefLock(source, `DROP PUBLICATION ${names.join(', ')}`, drop, patience);
}

/**
 * The streams of a feed as its publications say, in their order.
 *
 * @throws VerdigrisError ReplicationBroken when a publication is gone.
 */
export async function readStreams(
  source: Session,
  migration: string,
  direction: Direction,
  count: number,
): Promise<readonly Stream[]> {
  const names = streamNames(migration, direction, count);
  const { rows } = await source.query<{ name: string; tables: TableName[] }>(
    `SELECT p.pubname AS name,
            coalesce(json_agg(json_build_object('schema', n.nspname, 'name', c.relname))
                       FILTER (WHERE n.nspname <> 'verdigris'), '[]') AS tables
       FROM pg_publication p
       LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid
       LEFT JOIN pg_class c ON c.oid = r.prrelid
       LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE p.pubname = ANY ($1)
      GROUP BY p.pubname`,
    [names],
  );
  const found = new Map(rows.map((row) => [row.name, row.tables]));
  if (found.size < names.length) throw incomplete(direction, names, rows);
  return names.map((name, i) => ({ number: i + 1, name, tables: (found.get(name) ?? []).sort(compareNames) }));
}

function incomplete(
  direction: Direction,
  names: readonly string[],
  there: readonly { readonly name: string }[],
): VerdigrisError {
  const missing = names.filter((name) => !there.some((one) => one.name === name));
  return new VerdigrisError({
    type: 'ReplicationBroken',
    message: `${sourceOf(direction)}: ${missing.length} of the ${names.length} publications of the feed are missing: ${missing.join(', ')}`,
    nextStep: 'find out who dropped them; roll back, which removes the others too, and start again',
  });
}
