import { formatTableName } from '../../plan/table-name.js';
import { readTables, type TableInfo } from '../catalog.js';
import type { TablePatterns } from '../catalog-pattern.js';
import { qualified } from '../identifier.js';
import { waitForMarker, writeMarker } from '../marker.js';
import type { ProgressKey } from '../migrate/progress-row.js';
import { partitionTree } from '../partition-tree.js';
import type { Session } from '../session.js';
import type { Difference } from './compare-facts.js';

/*
 * ATTACH PARTITION brings the rows that the table has by then, and none of them is replicated: they were written while it
 * was in no publication. So is what was written to a partition that was detached for a while.
 */

/** What is to be looked at on both sides. */
export interface Attached {
  readonly blue: Session;
  readonly green: Session;
  readonly patterns: TablePatterns;
  readonly differences: readonly Difference[];
  /** Of what blue's schema is compared with: what was attached later is looked at. */
  readonly baseline: ProgressKey;
  /** How long green may take for what was written before it is counted, ms. Default 10 s: two tries of an apply worker. */
  readonly markerMs?: number | undefined;
}

const MARKER_MS = 10_000;

/**
 * Partitions that were attached since the baseline, and of which green lacks rows. A line each, with the next step.
 *
 * Rows are counted, up to a million of each: whether they are the same rows the next comparison says.
 */
export async function attachedWithRows(attached: Attached): Promise<string[]> {
  const { blue, green, markerMs = MARKER_MS } = attached;
  const lacking: string[] = [];
  let isLate = false;
  for (const leaf of await newlyAttached(attached)) {
    // Before, the copy brings the rows; and those that it does not, the first comparison names, which comes before any traffic.
    if (!(await isFollowed(green, leaf)) || !(await hasRows(blue, leaf))) continue;
    const lack = await lookAt(leaf, blue, green, isLate ? 0 : markerMs);
    if (lack === undefined) continue;
    isLate ||= lack.because === 'late';
    lacking.push(describe(leaf, lack));
  }
  return lacking;
}

/** What was counted last. */
interface Lack {
  readonly blue: number;
  readonly green: number;
  readonly because: 'lacking' | 'late' | 'deleted';
}

function describe({ name }: TableInfo, { blue, green, because }: Lack): string {
  const counted = `(blue has ${blue}, green ${green})`;
  const table = `table ${formatTableName(name)}`;
  switch (because) {
    case 'lacking':
      return `${table} has rows from before it was attached, which are not replicated ${counted}: insert them on green as well; or detach it on both sides, empty it, attach it again and insert its rows into the parent`;
    case 'late':
      return `${table} was attached, and whether green has the rows that it had can't be told while green is behind ${counted}: resume again when it has caught up`;
    case 'deleted':
      return `${table} was attached, and whether green has the rows that it had can't be told while so many are deleted ${counted}: resume again`;
  }
}

async function newlyAttached({ blue, patterns, differences, baseline }: Attached): Promise<TableInfo[]> {
  const news = new Set(
    differences
      .filter(({ kind, before }) => before === null && (kind === 'table' || kind === 'partition'))
      .map(({ table }) => table),
  );
  const again = await attachedSince(blue, baseline);
  if (news.size === 0 && again.size === 0) return [];
  const tables = await readTables(blue, patterns);
  return tables.filter(
    ({ kind, name, oid }) => kind === 'partition' && (news.has(formatTableName(name)) || again.has(oid)),
  );
}

/** Also what was detached and attached again, of which no fact is another one. */
async function attachedSince(blue: Session, { runId, step, object }: ProgressKey): Promise<ReadonlySet<number>> {
  const { rows } = await blue.query<{ oid: number }>(
    `SELECT DISTINCT leaf.relid::int8::float8 AS oid
       FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition AND c.relkind IN ('r', 'p')
      CROSS JOIN LATERAL ${partitionTree('i.inhrelid')} leaf
      WHERE leaf.isleaf
        AND age(i.xmin) < (SELECT age(p.xmin) FROM verdigris.progress p
                            WHERE p.run_id = $1 AND p.step = $2 AND p.object = $3)`,
    [runId, step, object],
  );
  return new Set(rows.map(({ oid }) => oid));
}

/** Whether what blue writes into the table comes by a feed that has all that was there before. */
async function isFollowed(green: Session, { root }: TableInfo): Promise<boolean> {
  const { rowCount } = await green.query(
    `SELECT FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
      WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND r.srrelid = to_regclass($1) AND r.srsubstate = 'r'`,
    [qualified(root)],
  );
  return rowCount !== 0;
}

async function hasRows(session: Session, { name }: TableInfo): Promise<boolean> {
  const { rowCount } = await session.query(`SELECT FROM ${qualified(name)} LIMIT 1`);
  return rowCount === 1;
}

/** So often it is counted while the application writes: what is never found to be there is lacking. */
const LOOKS = 5;

/**
 * Whatever blue had before the marker green has behind it, but for what was deleted meanwhile.
 *
 * @returns undefined where green has as many
 */
async function lookAt(leaf: TableInfo, blue: Session, green: Session, markerMs: number): Promise<Lack | undefined> {
  let counted = { blue: await countRows(blue, leaf), green: await countRows(green, leaf) };
  if (counted.green >= counted.blue) return undefined;
  for (let look = 1; ; look++) {
    const follows =
      markerMs > 0 && (await waitForMarker(green, 'to_green', await writeMarker(blue, 'to_green'), markerMs));
    const onGreen = await countRows(green, leaf);
    const after = await countRows(blue, leaf);
    const because = judgeCounts(counted.blue, onGreen, after);
    counted = { blue: after, green: onGreen };
    if (because === 'there') return undefined;
    if (!follows) return { ...counted, because: 'late' };
    if (look === LOOKS) return { ...counted, because };
  }
}

/**
 * What three counts say, one after the other: of blue, of green when it has what blue had at the first one, of blue again.
 * Pure.
 */
export function judgeCounts(before: number, onGreen: number, after: number): 'there' | 'lacking' | 'deleted' {
  if (onGreen >= before) return 'there';
  return onGreen >= after ? 'deleted' : 'lacking';
}

const MOST = 1_000_000;

async function countRows(session: Session, { name }: TableInfo): Promise<number> {
  const there = await session.query<{ there: boolean }>('SELECT to_regclass($1) IS NOT NULL AS there', [
    qualified(name),
  ]);
  if (there.rows[0]?.there !== true) return 0;
  const { rows } = await session.query<{ n: number }>(
    `SELECT count(*)::float8 AS n FROM (SELECT FROM ${qualified(name)} LIMIT ${MOST}) counted`,
  );
  return rows[0]?.n ?? 0;
}
