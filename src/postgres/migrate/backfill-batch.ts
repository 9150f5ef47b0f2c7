import type { TableName } from '../../plan/table-name.js';
import type { TableInfo } from '../catalog.js';
import type { Session } from '../session.js';
import { rangeKey, type RangeState } from './backfill-progress.js';
import { inRange, keyOf, Parameters, type KeyRange } from './key-range.js';
import type { RepeatedStatements } from './repeated-statements.js';
import { backendPid } from './step-context.js';

/** A batch: rows of `leaf` within `range`, brought in order by `update`, and the cursor behind them. */
export interface Batch {
  readonly runId: string;
  /** The table of the plan and the number of the range, under which the cursor is kept. */
  readonly table: TableName;
  readonly number: number;
  readonly leaf: TableInfo;
  readonly update: (leaf: TableName, where: string) => string;
  readonly range: KeyRange;
  readonly before: RangeState;
  /** Without what is counted only when the rows are written. */
  readonly after: Omit<RangeState, 'written'>;
  readonly done: boolean;
  /** Whether the commit waits until it is on the disk. Where there are synchronous standbys each one waits for them. */
  readonly durable: boolean;
}

export interface BatchResult {
  /** False when the range was no longer at `before`: somebody else has moved it, and nothing was done. */
  readonly moved: boolean;
  readonly written: number;
  /** Sessions of others that waited for the batch when its rows were written. */
  readonly held: number;
  /** Sessions of others that were at work in the database then, those that waited included. */
  readonly active: number;
}

/**
 * Does a batch in one statement, which is its own transaction: rows and cursor are committed together, a worker that is
 * frozen leaves no open transaction behind, and no round trip goes by while rows are locked. The row of the cursor is
 * locked first and must be where the batch starts; only then rows are touched.
 */
export async function runBatch(session: Session, statements: RepeatedStatements, batch: Batch): Promise<BatchResult> {
  const parameters = new Parameters();
  const key = rangeKey(batch.runId, batch.table, batch.number);
  const [run, step, object, cursor, after, done, pid, durable] = [
    ...[key.runId, key.step, key.object, JSON.stringify(batch.before.cursor)],
    ...[JSON.stringify({ cursor: batch.after.cursor, rows: batch.after.rows }), String(batch.done)],
    ...[String(backendPid(session)), String(batch.durable)],
  ].map((value) => parameters.add(value));
  const where = inRange(keyOf(batch.leaf), batch.range, parameters);
  const { rows } = await statements.query<Record<'moved' | 'written' | 'held' | 'active', string>>(
    `WITH verdigris_range AS (
       SELECT (state ->> 'written')::bigint AS written FROM verdigris.progress
        WHERE run_id = ${run ?? ''} AND step = ${step ?? ''} AND object = ${object ?? ''}
          AND NOT done AND state -> 'cursor' = ${cursor ?? ''}::jsonb
          FOR UPDATE
     ), verdigris_written AS (
       ${batch.update(batch.leaf.name, `${where} AND EXISTS (SELECT FROM verdigris_range)`)}
       RETURNING 1
     ), verdigris_moved AS (
       UPDATE verdigris.progress p
          SET state = p.state || ${after ?? ''}::jsonb
                      || jsonb_build_object('written', r.written + (SELECT count(*) FROM verdigris_written)),
              done = ${done ?? ''}::boolean, updated_at = clock_timestamp()
         FROM verdigris_range r
        WHERE p.run_id = ${run ?? ''} AND p.step = ${step ?? ''} AND p.object = ${object ?? ''}
       RETURNING 1
     )
     SELECT counted.moved, counted.written, others.held, others.active,
            -- Holds for this transaction, whose commit comes after it.
            CASE WHEN NOT ${durable ?? ''}::boolean AND current_setting('synchronous_standby_names') = ''
                 THEN set_config('synchronous_commit', 'off', true) END
       FROM (SELECT (SELECT count(*) FROM verdigris_moved) AS moved,
                    (SELECT count(*) FROM verdigris_written) AS written) counted,
            -- After the rows are written, since it looks at what has been counted.
            LATERAL (SELECT count(*) FILTER (WHERE a.backend_type = 'client backend' AND a.state = 'active') AS active,
                            count(*) FILTER (WHERE CASE WHEN a.wait_event_type = 'Lock' THEN
                                ${pid ?? ''}::int = ANY (pg_catalog.pg_blocking_pids(a.pid)) END) AS held
                       FROM pg_catalog.pg_stat_activity a
                      WHERE counted.moved > 0 AND a.datname = current_database()
                        AND a.backend_type <> 'autovacuum worker' AND a.application_name NOT LIKE 'verdigris %') others`,
    parameters.values,
  );
  const row = rows[0];
  return {
    moved: Number(row?.moved) === 1,
    written: Number(row?.written ?? 0),
    held: Number(row?.held ?? 0),
    active: Number(row?.active ?? 0),
  };
}
