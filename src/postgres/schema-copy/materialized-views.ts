import type { TableName } from '../../plan/table-name.js';
import { qualified } from '../identifier.js';
import { USER_SCHEMA } from '../catalog.js';
import { aloneWithShortLocks } from '../migrate/short-locks.js';
import type { StepContext } from '../migrate/step-context.js';
import { schemaCopyFailed } from './schema-copy-failed.js';

/**
 * Fills the materialized views of a database, those first that others read. A schema dump leaves them empty, and rows
 * of theirs are never replicated: so once before reads are sent to green, and whenever the application does it.
 *
 * @returns the views that were refreshed.
 */
export async function refreshMaterializedViews(context: StepContext): Promise<TableName[]> {
  const { session } = context;
  const { rows } = await session.query<TableName>(MATERIALIZED_VIEWS);
  for (const [i, view] of rows.entries()) {
    const statement = `REFRESH MATERIALIZED VIEW ${qualified(view)}`;
    try {
      await aloneWithShortLocks(context, session, { object: statement, patience: 'brief' }, () =>
        session.query(statement),
      );
    } catch (error) {
      context.signal.throwIfAborted();
      throw schemaCopyFailed(statement, error);
    }
    context.onProgress({
      step: 'materialized views',
      object: view.name,
      done: i + 1,
      total: rows.length,
      rowsPerSecond: 0,
      etaSeconds: null,
    });
  }
  return rows.map(({ schema, name }) => ({ schema, name }));
}

/** A view reads others through its rewrite rule; how deep it stands is the length of the longest way down. */
const MATERIALIZED_VIEWS = `
WITH RECURSIVE reads AS (
  SELECT DISTINCT r.ev_class AS view, d.refobjid AS relation
    FROM pg_rewrite r
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
), depth AS (
  SELECT c.oid AS view, 0 AS depth FROM pg_class c WHERE c.relkind IN ('m', 'v') AND c.oid >= 16384
  UNION
  SELECT reads.view, depth.depth + 1 FROM depth JOIN reads ON reads.relation = depth.view WHERE depth.depth < 100
)
SELECT n.nspname AS schema, c.relname AS name
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN depth ON depth.view = c.oid
 WHERE c.relkind = 'm' AND ${USER_SCHEMA}
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
 GROUP BY 1, 2
 ORDER BY max(depth.depth), 1, 2`;
