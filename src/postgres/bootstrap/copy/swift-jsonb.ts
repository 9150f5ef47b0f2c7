import { formatTableName } from '../../../plan/table-name.js';
import type { TableInfo } from '../../catalog.js';
import { ident, qualified } from '../../identifier.js';
import { partitionTree } from '../../partition-tree.js';
import type { Session } from '../../session.js';
import { sqlState } from '../../sqlstate.js';

/*
 * `verdigris.try_jsonb(column)` opens a subtransaction for each row, so that text that is not JSON becomes NULL. A cast
 * takes a quarter of the time (2 M rows of 80 bytes on PostgreSQL 15: 8.4 s and 2.1 s of CPU time), but it fails on such
 * text. Text that can't be JSON is mostly seen by its first character. So the copy casts what begins like JSON, and a
 * piece in which a cast fails all the same is copied again with the function: both give the same value wherever the cast
 * does not fail.
 */

/** A call for one column, with nothing around it: what the plan's `up` of a changed type mostly is. */
const CALL = /^\s*verdigris\.try_jsonb\s*\(\s*(?:"((?:[^"]|"")+)"|([a-z_][a-z0-9_$]*))\s*\)\s*$/i;
const TEXT_TYPE = /^(text|character varying|character|bpchar)\b/;

/** JSON's white space (RFC 8259), which is less than SQL's. */
const SPACE = String.raw`E' \t\n\r'`;
/** With what objects, arrays, strings and numbers begin. */
const BEGINNINGS = `'{["-0123456789'`;
const WORDS = String.raw`E'^[ \t\n\r]*(true|false|null)[ \t\n\r]*$'`;

/** Of about so many blocks it is asked whether a cast would fail. */
const SAMPLE_BLOCKS = 100;

/**
 * What gives the same as `up` and costs less, but fails where a text only looks like JSON. Undefined for any other `up`.
 *
 * @param table on blue.
 */
export function swiftJsonb(up: string, table: TableInfo): string | undefined {
  const column = columnOf(up, table);
  if (column === undefined) return undefined;
  const text = textOf(column);
  return `CASE WHEN ${looksLikeJson(text)} THEN ${text}::pg_catalog.jsonb END`;
}

/** Whether a cast fails on a row of a sample: then it would fail in every piece, and each would be copied twice. */
export async function castFailsInSample(blue: Session, up: string, table: TableInfo): Promise<boolean> {
  const column = columnOf(up, table);
  if (column === undefined) return true;
  const text = textOf(column);
  const { rows } = await blue.query<{ fails: boolean | null }>(
    `SELECT bool_or(${looksLikeJson(text)} AND verdigris.try_jsonb(${text}) IS NULL) AS fails
       FROM ${qualified(table.name)} TABLESAMPLE SYSTEM (${await samplePercent(blue, table)})`,
  );
  return rows[0]?.fails === true;
}

/** As the files are now: statistics may never have been collected, and each row of a sample is a subtransaction. */
async function samplePercent(blue: Session, { oid }: TableInfo): Promise<string> {
  const { rows } = await blue.query<{ blocks: number }>(
    `SELECT coalesce(sum(pg_relation_size(leaf.relid) / current_setting('block_size')::int), 0)::float8 AS blocks
       FROM ${partitionTree('$1::oid')} leaf`,
    [oid],
  );
  return Math.min(100, (SAMPLE_BLOCKS * 100) / Math.max(1, rows[0]?.blocks ?? 0)).toFixed(6);
}

/** Bytewise: PostgreSQL searches no text whose collation is nondeterministic. */
function textOf(column: string): string {
  return `(${ident(column)}::pg_catalog.text COLLATE pg_catalog."C")`;
}

function columnOf(up: string, table: TableInfo): string | undefined {
  const call = CALL.exec(up);
  const name = call?.[1]?.replaceAll('""', '"') ?? call?.[2]?.toLowerCase();
  return table.columns.find((column) => column.name === name && TEXT_TYPE.test(column.type))?.name;
}

/** NULL or false for text that is not JSON, as far as can be seen cheaply; never for text that is. */
function looksLikeJson(text: string): string {
  const first = `nullif(pg_catalog.left(pg_catalog.ltrim(${text}, ${SPACE}), 1), '')`;
  const begins = `pg_catalog.strpos(${BEGINNINGS}, ${first}) OPERATOR(pg_catalog.>) 0`;
  return `CASE WHEN ${begins} THEN true ELSE ${text} OPERATOR(pg_catalog.~) ${WORDS} END`;
}

/** Tables whose casts have failed, by run: each worker learns it from one piece. */
const FAILED = new Set<string>();

const keyOf = (runId: string, root: TableInfo['name']): string => `${runId} ${formatTableName(root)}`;

/** Whether this worker still tries the cast for a table of a run. */
export function triesCast(runId: string, root: TableInfo['name']): boolean {
  return !FAILED.has(keyOf(runId, root));
}

/** A cast failed on blue: an error of the data. @returns whether it may have been the cast's. */
export function castFailed(runId: string, root: TableInfo['name'], error: unknown): boolean {
  if (!(sqlState(error) ?? '').startsWith('22')) return false;
  FAILED.add(keyOf(runId, root));
  return true;
}
