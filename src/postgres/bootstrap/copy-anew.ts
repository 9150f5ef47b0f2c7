import { VerdigrisError } from '../../errors.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { briefLock } from '../brief-lock.js';
import { feedName } from '../feed.js';
import { pastTheFence } from '../fence.js';
import { qualified } from '../identifier.js';
import { parseSize, refuseBrokenFeed, refuseTooMuchWal } from '../lag.js';
import { measureLag } from '../marker.js';
import { partitionTree } from '../partition-tree.js';
import { inTransaction, withSession, type Database, type Session } from '../session.js';
import { NO_RIGHT, sqlState } from '../sqlstate.js';
import { streamNames } from '../streams.js';
import {
  badRow,
  cantBeApplied,
  COPY_ANEW,
  FeedErrors,
  stuck,
  type FeedContext,
  type StuckTable,
} from '../stuck-feed.js';
import { FOLLOW_LOCK, takeOver } from './copy/copy-lock.js';
import { publishAgain, refresh, tablesInState, unpublish } from './synchronized-tables.js';
import { waitUntilReady } from './tablesync.js';

/*
 * A table of which green can't apply a change is copied anew by PostgreSQL: it is taken out of its publication, so that
 * the subscription forgets it and passes over the changes of it that are still on their way; emptied; and put back. Each
 * try does all of it again, in this order, so it may die anywhere. What was written down is forgotten when it is over.
 *
 * Only while green serves nobody: for as long as it takes, its table has too few rows.
 */

const MARKER_MS = 10_000;

/**
 * Copies anew what an earlier try has found stuck, unless green goes on by itself again. To be called before something
 * waits for green.
 *
 * @param green a session on green to ask by. Default: one of its own
 * @throws VerdigrisError BackfillFailed while there is still a row on blue that green can't take.
 */
export async function copyAnew(context: FeedContext & Reporting, green?: Session): Promise<void> {
  const { databases, run } = context;
  if (green !== undefined && (await tablesToCopy(green, run.runId)).length === 0) return;
  await withSession(databases.green, { purpose: 'copy anew' }, async (onGreen) => {
    const wanted = await tablesToCopy(onGreen, run.runId);
    if (wanted.length === 0) return;
    await withSession(databases.blue, { purpose: 'copy anew' }, (onBlue) =>
      copyTables(context, onBlue, onGreen, wanted),
    );
  });
}

interface Reporting {
  readonly report: (progress: object) => void;
  /** How long green may take for a marker before it is looked at what keeps it, ms. Default 10 s: two tries of an apply worker. */
  readonly markerMs?: number;
  /** So many errors at one position count as stuck. Default: as many as for FeedErrors. */
  readonly stuckErrors?: number;
}

async function copyTables(
  context: FeedContext & Reporting,
  blue: Session,
  green: Session,
  wanted: readonly StuckTable[],
): Promise<void> {
  const { databases, run, plan, signal, report } = context;
  // A frozen predecessor must not empty a table that has been filled since: its sessions are ended.
  for (const session of [blue, green]) await takeOver(session, FOLLOW_LOCK, signal);
  if (await isStuck(context, blue, green, wanted)) {
    const row = await badRow(context, blue, green);
    if (row !== undefined) throw cantBeApplied(row);
    const names = streamNames(run.migration, 'to_green', plan.replicate.streams);
    for (const name of names) {
      await copyTablesOf(
        databases.blue,
        blue,
        green,
        name,
        wanted.filter(({ stream }) => stream === name),
      );
    }
    await waitUntilReady(blue, green, names, {
      databases,
      migration: run.migration,
      direction: 'to_green',
      maxRetainedWal: parseSize(plan.replicate.maxRetainedWal),
      signal,
      report,
      whyStuck: (tables) => stuck(context, blue, green, tables),
    });
  }
  await green.query('DELETE FROM verdigris.progress WHERE run_id = $1 AND step = $2', [run.runId, COPY_ANEW]);
}

async function tablesToCopy(green: Session, runId: string): Promise<StuckTable[]> {
  const { rows } = await green.query<{ state: StuckTable }>(
    'SELECT state FROM verdigris.progress WHERE run_id = $1 AND step = $2 ORDER BY object',
    [runId, COPY_ANEW],
  );
  return rows.map(({ state }) => state);
}

/**
 * Whether green still can't go on. One that is late, such as after a disk that was full for long, is waited for. A try that
 * died has left a table out of its publication: green goes on then, without it.
 */
async function isStuck(
  context: FeedContext & Reporting,
  blue: Session,
  green: Session,
  wanted: readonly StuckTable[],
): Promise<boolean> {
  const { run, plan, signal, markerMs = MARKER_MS, stuckErrors } = context;
  const errors = new FeedErrors(context, blue, green, stuckErrors);
  const feed = feedName(run.migration, 'to_green');
  do {
    if (await errors.isStuck()) return true;
    await refuseBrokenFeed(green, feed, 'to_green');
    await refuseTooMuchWal(blue, feed, parseSize(plan.replicate.maxRetainedWal));
  } while (!Number.isFinite(await measureLag(blue, green, 'to_green', markerMs, signal)));
  const names = streamNames(run.migration, 'to_green', plan.replicate.streams);
  const ready = new Set((await tablesInState(green, names, ['r'])).map(formatTableName));
  return wanted.some((table) => !ready.has(formatTableName(table)));
}

async function copyTablesOf(
  peer: Database,
  blue: Session,
  green: Session,
  name: string,
  mine: readonly TableName[],
): Promise<void> {
  if (mine.length === 0) return;
  await unpublish(blue, name, mine);
  await refresh(peer, blue, green, name);
  await emptyTables(green, mine);
  await publishAgain(blue, name, mine);
  await refresh(peer, blue, green, name);
}

/**
 * As a replica, so that nothing of the application fires. Tables that foreign keys of others point to can't be
 * truncated: their rows are deleted, and the keys hold again when they have been copied.
 */
async function emptyTables(green: Session, tables: readonly TableName[]): Promise<void> {
  const { rows } = await green.query<{ name: string; referenced: boolean }>(
    `WITH emptied AS (
       SELECT t.name, c.relkind, tree.relid
         FROM unnest($1::text[]) t (name) JOIN pg_class c ON c.oid = to_regclass(t.name)
        CROSS JOIN LATERAL ${partitionTree('c.oid')} tree)
     SELECT CASE relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || name AS name,
            bool_or(EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = emptied.relid
                               AND k.conrelid NOT IN (SELECT relid FROM emptied))) AS referenced
       FROM emptied GROUP BY 1`,
    [tables.map(qualified)],
  );
  const names = rows.map(({ name }) => name);
  // Dropped on both sides meanwhile.
  if (names.length === 0) return;
  const isReplica = await actAsReplica(green);
  try {
    if (!rows.some(({ referenced }) => referenced)) {
      const truncate = `TRUNCATE ${names.join(', ')}`;
      await briefLock(green, truncate, () => unfenced(green, [truncate]));
    } else if (isReplica) {
      await unfenced(
        green,
        names.map((name) => `DELETE FROM ${name}`),
      );
    } else throw notAllowed(names);
  } finally {
    if (isReplica) await green.query('RESET session_replication_role');
  }
}

/** Once green is compared it takes writes of nobody but the feed, whose workers fill the table again. */
function unfenced(green: Session, statements: readonly string[]): Promise<void> {
  return inTransaction(green, () =>
    pastTheFence(green, async () => {
      for (const statement of statements) await green.query(statement);
    }),
  );
}

async function actAsReplica(green: Session): Promise<boolean> {
  try {
    await green.query(`SELECT set_config('session_replication_role', 'replica', false)`);
    return true;
  } catch (error) {
    if (sqlState(error) !== NO_RIGHT) throw error;
    return false;
  }
}

function notAllowed(names: readonly string[]): VerdigrisError {
  return new VerdigrisError({
    type: 'BackfillFailed',
    message: `green: ${names.join(', ')} must be copied anew, but foreign keys of other tables point to it, and this role may not set session_replication_role, without which they would delete rows of those`,
    nextStep:
      'GRANT SET ON PARAMETER session_replication_role (PostgreSQL 15 and later) or make the role a superuser, then resume; or roll back',
  });
}
