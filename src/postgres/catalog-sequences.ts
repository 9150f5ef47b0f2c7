import type { TableName } from '../plan/table-name.js';
import type { TablePatterns } from './catalog-pattern.js';
import { parseTablePattern, tableFilter } from './catalog-pattern.js';
import { USER_SCHEMA, compareNames } from './catalog.js';
import { literal, qualified } from './identifier.js';
import type { Session } from './session.js';

export interface SequenceInfo {
  readonly schema: string;
  readonly name: string;
  /** last_value of the sequence; null when this session's role may not read it. */
  readonly lastValue: bigint | null;
  /** Whether lastValue has been handed out; false also when it can't be read. */
  readonly isCalled: boolean;
  readonly increment: bigint;
  readonly min: bigint;
  readonly max: bigint;
  readonly cycle: boolean;
  /** The table whose column owns it (serial, identity); null for a sequence on its own. */
  readonly ownedBy: TableName | null;
}

/**
 * The sequences that move: all but those that belong to a table that is not moved, and those that "exclude" names. A
 * sequence on its own always moves: nothing in the catalog says for sure who calls it.
 */
export async function readSequences(session: Session, patterns: TablePatterns): Promise<SequenceInfo[]> {
  const sequences = await readMoved(session, patterns);
  const values = await readValues(
    session,
    sequences.filter((row) => row.readable),
  );
  return sequences.map((row) => sequenceOf(row, values.get(row.oid)));
}

/** The names of the same, without a look at their values. */
export async function readMovedSequences(session: Session, patterns: TablePatterns): Promise<TableName[]> {
  return (await readMoved(session, patterns)).map(({ schema, name }) => ({ schema, name }));
}

async function readMoved(session: Session, patterns: TablePatterns): Promise<SequenceRow[]> {
  const moved = tableFilter(patterns);
  const excluded = patterns.exclude.map(parseTablePattern);
  const { rows } = await session.query<SequenceRow>(SEQUENCES);
  return rows
    .filter((row) => {
      const root = rootOf(row);
      return root === null ? !excluded.some((pattern) => pattern.matches(row)) : moved(root);
    })
    .sort(compareNames);
}

interface SequenceRow extends TableName {
  oid: string;
  increment: string;
  min: string;
  max: string;
  cycle: boolean;
  readable: boolean;
  owner_schema: string | null;
  owner_name: string | null;
  root_schema: string | null;
  root_name: string | null;
}

interface SequenceValue {
  readonly lastValue: bigint;
  readonly isCalled: boolean;
}

function rootOf(row: SequenceRow): TableName | null {
  return row.root_schema === null || row.root_name === null ? null : { schema: row.root_schema, name: row.root_name };
}

function sequenceOf(row: SequenceRow, value: SequenceValue | undefined): SequenceInfo {
  return {
    schema: row.schema,
    name: row.name,
    lastValue: value?.lastValue ?? null,
    isCalled: value?.isCalled ?? false,
    increment: BigInt(row.increment),
    min: BigInt(row.min),
    max: BigInt(row.max),
    cycle: row.cycle,
    ownedBy:
      row.owner_schema === null || row.owner_name === null ? null : { schema: row.owner_schema, name: row.owner_name },
  };
}

/** pg_sequences hides last_value until nextval was called, and setval(..., false) is lost: so each one is asked. */
async function readValues(session: Session, sequences: readonly SequenceRow[]): Promise<Map<string, SequenceValue>> {
  const values = new Map<string, SequenceValue>();
  for (let from = 0; from < sequences.length; from += SEQUENCES_A_STATEMENT) {
    const statement = sequences
      .slice(from, from + SEQUENCES_A_STATEMENT)
      .map((row) => `SELECT ${literal(row.oid)} AS oid, last_value::text, is_called FROM ${qualified(row)}`)
      .join(' UNION ALL ');
    const { rows } = await session.query<{ oid: string; last_value: string; is_called: boolean }>(statement);
    for (const row of rows) values.set(row.oid, { lastValue: BigInt(row.last_value), isCalled: row.is_called });
  }
  return values;
}

/** Each one takes a lock of its own until the statement ends: well below max_locks_per_transaction (64 by default x connections). */
const SEQUENCES_A_STATEMENT = 200;

const SEQUENCES = `
SELECT c.oid::text, n.nspname AS schema, c.relname AS name,
       s.seqincrement::text AS increment, s.seqmin::text AS min, s.seqmax::text AS max, s.seqcycle AS cycle,
       has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AS readable,
       tn.nspname AS owner_schema, t.relname AS owner_name, rn.nspname AS root_schema, r.relname AS root_name
  FROM pg_sequence s
  JOIN pg_class c ON c.oid = s.seqrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
  LEFT JOIN pg_class t ON t.oid = d.refobjid
  LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
  LEFT JOIN pg_class r ON r.oid = coalesce(pg_partition_root(t.oid), t.oid)
  LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
 WHERE c.relpersistence <> 't' AND ${USER_SCHEMA}
   AND NOT EXISTS (SELECT FROM pg_depend e
                    WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')`;
