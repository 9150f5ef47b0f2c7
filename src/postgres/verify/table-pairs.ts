import { VerdigrisError } from '../../errors.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { isOfUsers, readTables, type TableInfo } from '../catalog.js';
import { ALL_TABLES } from '../catalog-pattern.js';
import { expressionPath } from '../migrate/changed-table.js';
import { expressionTree } from '../migrate/expression-reads.js';
import { workOfTable, type Derived, type Work } from '../migrate/plan-work.js';
import { ident, qualified } from '../identifier.js';
import { partitionTree } from '../partition-tree.js';
import { answersBy, isSameEverywhere } from '../same-answers.js';
import { inTransaction } from '../session.js';
import { sqlState } from '../sqlstate.js';
import type { TableSize } from './cut-table.js';
import { filledValues } from './filled-values.js';
import { differentlyGenerated } from './generated-columns.js';
import { newColumns } from './new-columns.js';
import { OWN_PATH, type SideSessions } from './side-sessions.js';
import { tablePair, type TablePair } from './table-pair.js';

/** A table on both sides, and its size on the source. */
export interface SizedPair {
  readonly pair: TablePair;
  readonly size: TableSize;
}

/** Reads all tables with one look at each catalog, the largest first: lanes end at about the same time. */
export async function readTablePairs(
  sessions: SideSessions,
  tables: readonly TableName[],
  work: Work,
): Promise<SizedPair[]> {
  const [source, target] = await sessions.each(async (session) => {
    const all = await readTables(session, ALL_TABLES);
    return new Map(all.map((info) => [formatTableName(info.name), info]));
  });
  const [ofSource, ofTarget] = await sessions.each(answersBy);
  const alike = ofSource === ofTarget;
  const paths = new Map<string, string>();
  const pairs: TablePair[] = [];
  for (const table of tables) {
    const path =
      paths.get(table.schema) ?? (await sessions.on('target', (session) => expressionPath(session, table.schema)));
    paths.set(table.schema, path);
    const here = thereOn(source, table, sessions.sides.source.side);
    const there = thereOn(target, table, sessions.sides.target.side);
    const derived = workOfTable(work, table)?.derived ?? [];
    const incomparable = await incomparableFills(sessions, { here, there, derived, path, alike });
    const bySql = work.steps.some(({ kind }) => kind === 'sql');
    const generated = await differentlyGenerated(sessions, here, there, { derived, bySql, alike });
    const leftOut = new Set([...incomparable, ...generated]);
    const pair = tablePair(here, there, derived, sessions.sides.direction, path, leftOut);
    const whole =
      sessions.sides.direction === 'to_green' ? await withNewColumns(sessions, pair, here, there, work) : pair;
    pairs.push(needsNames(whole) ? whole : { ...whole, searchPath: OWN_PATH });
  }
  const sizes = await readSizes(sessions, pairs);
  return pairs
    .map((pair) => ({ pair, size: sizes.get(pair.sourceOid) ?? { bytes: 0, pages: 0 } }))
    .sort((a, b) => b.size.bytes - a.size.bytes);
}

/** Adds what the feed can't have written otherwise. Once the writes have moved, the application writes these columns. */
async function withNewColumns(
  sessions: SideSessions,
  pair: TablePair,
  source: TableInfo,
  target: TableInfo,
  work: Work,
): Promise<TablePair> {
  const ofTable = workOfTable(work, pair.table);
  if (ofTable === undefined) return pair;
  await sessions.prepare(pair.searchPath, 'all');
  const mayBeWritten = work.steps.some(({ kind }) => kind === 'sql');
  const added = await sessions.on('target', (session) => newColumns(session, target, ofTable, source, mayBeWritten));
  return { ...pair, checks: [...pair.checks, ...added.checks], leftOut: [...pair.leftOut, ...added.leftOut] };
}

/** Whether a pair has expressions of the plan, or a key whose operators may be elsewhere than in pg_catalog: of citext. */
function needsNames({ key, values, checks }: TablePair): boolean {
  return checks.length > 0 || Object.keys(values).length > 0 || key.some(isOfUsers);
}

interface Fills {
  readonly here: TableInfo;
  readonly there: TableInfo;
  readonly derived: readonly Derived[];
  readonly path: string;
  /** Whether the same expression gives the same on both servers, whatever it is. */
  readonly alike: boolean;
}

/**
 * Filled columns whose `up` one side can't compute: it names a column or a function that the plan makes. And those of which the
 * two sides need not compute the same.
 */
async function incomparableFills(
  sessions: SideSessions,
  { here, there, derived, path, alike }: Fills,
): Promise<ReadonlySet<string>> {
  const incomparable = new Set<string>();
  for (const { column, value, own, sources } of filledValues(here, derived)) {
    if (sources.some((source) => incomparable.has(source))) {
      incomparable.add(column);
      continue;
    }
    await sessions.prepare(path, 'all');
    try {
      await sessions.each(async (session) => {
        // Planned only.
        await session.query(`EXPLAIN SELECT ${value} FROM ${qualified(here.name)} AS ${ident(here.name.name)}`);
      });
      if (alike) continue;
      const treeOn = (side: 'source' | 'target'): Promise<string> =>
        sessions.on(side, (session) =>
          inTransaction(session, () => expressionTree(session, side === 'source' ? here : there, own)),
        );
      const tree = await treeOn('target');
      const same = await sessions.on('target', (session) => isSameEverywhere(session, tree, () => treeOn('source')));
      if (!same) incomparable.add(column);
    } catch (error) {
      if (!(sqlState(error) ?? '').startsWith('42')) throw error;
      incomparable.add(column);
    }
  }
  return incomparable;
}

function thereOn(tables: ReadonlyMap<string, TableInfo>, table: TableName, side: string): TableInfo {
  const found = tables.get(formatTableName(table));
  if (found !== undefined) return found;
  throw new VerdigrisError({
    type: 'VerificationFailed',
    message: `table ${formatTableName(table)} is not there on ${side}`,
    nextStep: 'find out who dropped or renamed it; blue must not be changed by DDL during a run',
  });
}

/** As the files are now: statistics may never have been collected. */
async function readSizes(sessions: SideSessions, pairs: readonly TablePair[]): Promise<Map<number, TableSize>> {
  const { rows } = await sessions.on('source', (session) =>
    session.query<{ oid: string; bytes: string; pages: string }>(
      `SELECT t.oid::text, coalesce(sum(pg_table_size(leaf.relid)), 0)::text AS bytes,
              coalesce(sum(pg_relation_size(leaf.relid) / current_setting('block_size')::int), 0)::bigint::text AS pages
         FROM unnest($1::oid[]) t (oid)
        CROSS JOIN LATERAL ${partitionTree('t.oid')} leaf
        WHERE leaf.isleaf
        GROUP BY t.oid`,
      [pairs.map(({ sourceOid }) => sourceOid)],
    ),
  );
  return new Map(rows.map(({ oid, bytes, pages }) => [Number(oid), { bytes: Number(bytes), pages: Number(pages) }]));
}
