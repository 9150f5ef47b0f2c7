import { VerdigrisError } from '../../errors.js';
import type { TableName } from '../../plan/table-name.js';
import { qualified } from '../identifier.js';
import { USER_SCHEMA, sameTable } from '../catalog.js';
import { aloneWithShortLocks } from '../migrate/short-locks.js';
import type { StepContext } from '../migrate/step-context.js';
import { isTransient, messageOf } from '../migrate/step-failed.js';
import type { Session } from '../session.js';
import { isRaisedByStatement, NOT_IN_STATE, sqlState } from '../sqlstate.js';
import { schemaCopyFailed } from './schema-copy-failed.js';

interface MaterializedView extends TableName {
  readonly oid: string;
  /** The materialized views that read it, through whatever lies between. */
  readonly readBy: readonly string[];
}

/** The materialized views of blue that hold nothing, not even no rows: WITH NO DATA. Nobody can read them there. */
export async function unpopulatedViews(blue: Session): Promise<TableName[]> {
  const { rows } = await blue.query<TableName>(
    `SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind = 'm' AND NOT c.relispopulated AND ${USER_SCHEMA}`,
  );
  return rows;
}

/**
 * Fills the materialized views of a database, those first that others read. A schema dump leaves them empty, and rows
 * of theirs are never replicated: so once before reads are sent to green, and whenever the application does it.
 *
 * @param left the views that are not populated on blue. They are not here either, but while others are filled from them.
 * @returns the views that are filled then.
 * @throws VerdigrisError BackfillFailed that names a view whose query fails.
 */
export async function refreshMaterializedViews(
  context: StepContext,
  left: readonly TableName[] = [],
): Promise<TableName[]> {
  const { session } = context;
  const { rows: views } = await session.query<MaterializedView>(MATERIALIZED_VIEWS);
  const filled = views.filter((view) => !left.some((other) => sameTable(view, other)));
  const isFilled = (oid: string): boolean => filled.some((view) => view.oid === oid);
  const rows = views.filter(({ oid, readBy }) => isFilled(oid) || readBy.some(isFilled));
  await fillAll(context, rows);
  for (const view of rows.filter(({ oid }) => !isFilled(oid))) {
    await refresh(context, `REFRESH MATERIALIZED VIEW ${qualified(view)} WITH NO DATA`);
  }
  return filled.map(({ schema, name }) => ({ schema, name }));
}

/**
 * One that fails since another is not filled yet comes again behind all others: it reads that one by a function, of which
 * the catalog does not know what it reads.
 */
async function fillAll(context: StepContext, views: readonly MaterializedView[]): Promise<void> {
  let done = 0;
  for (let waiting = views; waiting.length > 0;) {
    const early: { readonly view: MaterializedView; readonly error: unknown }[] = [];
    for (const view of waiting) {
      try {
        await refresh(context, `REFRESH MATERIALIZED VIEW ${qualified(view)}`);
        context.onProgress({
          step: 'materialized views',
          object: view.name,
          done: ++done,
          total: views.length,
          rowsPerSecond: 0,
          etaSeconds: null,
        });
      } catch (error) {
        if (!readsUnfilled(error)) throw error;
        early.push({ view, error });
      }
    }
    if (early.length === waiting.length) throw early[0]?.error;
    waiting = early.map(({ view }) => view);
  }
}

/** Whether it is said that `materialized view "..." has not been populated`. */
function readsUnfilled(error: unknown): boolean {
  return error instanceof VerdigrisError && sqlState(error.cause) === NOT_IN_STATE;
}

async function refresh(context: StepContext, statement: string): Promise<void> {
  const { session, signal } = context;
  try {
    await aloneWithShortLocks(context, session, { object: statement, patience: 'brief' }, () =>
      session.query(statement),
    );
  } catch (error) {
    signal.throwIfAborted();
    throw refreshFailed(statement, error);
  }
}

/**
 * Such as a row by which its query divides, or one too many for a unique index: blue has the view from before. That can
 * be mended, so the run holds; to go on would lead reads to a view that can't be read.
 */
function refreshFailed(statement: string, cause: unknown): VerdigrisError {
  const passes = isTransient(cause) && !isRaisedByStatement(cause);
  if (cause instanceof VerdigrisError || passes) return schemaCopyFailed(statement, cause);
  const mend = OF_ANOTHER_SERVER.test(sqlState(cause) ?? '') ? REACH_SOURCE : TRY_ON_BLUE;
  return new VerdigrisError({
    type: 'BackfillFailed',
    message: `green: ${statement}: ${messageOf(cause)}`,
    nextStep: `${mend}; or, if nobody reads the view, nor another one that is filled from it, ${statement} WITH NO DATA on blue, which leaves it so on green, too; then resume; or roll back`,
    cause,
  });
}

/**
 * The source of a foreign table or of dblink: it can't be connected to (class 08, of which postgres_fdw's are), the user
 * mapping has no password (2F003), the wrapper can't do it (class HV).
 */
const OF_ANOTHER_SERVER = /^(08|HV|2F003)/;

const REACH_SOURCE =
  "see that green's server reaches what the view reads on another server, with a user and password that it accepts (ALTER SERVER, ALTER USER MAPPING on green; its firewall and pg_hba.conf)";

const TRY_ON_BLUE =
  "try it on blue, and mend what its query meets (rows on blue, a function on both sides, a right of green's user on green)";

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
), below AS (
  SELECT c.oid AS view, c.oid AS relation FROM pg_class c WHERE c.relkind = 'm'
  UNION
  SELECT below.view, reads.relation FROM below JOIN reads ON reads.view = below.relation
)
SELECT c.oid::text AS oid, n.nspname AS schema, c.relname AS name,
       ARRAY(SELECT below.view::text FROM below WHERE below.relation = c.oid) AS "readBy"
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN depth ON depth.view = c.oid
 WHERE c.relkind = 'm' AND ${USER_SCHEMA}
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
 GROUP BY c.oid, n.nspname, c.relname
 ORDER BY max(depth.depth), n.nspname, c.relname`;
