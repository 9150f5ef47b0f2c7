import { literal } from '../../identifier.js';
import { LockWatch, lockNotHad, wasStopped } from '../../lock-watch.js';
import { backendPid } from '../../migrate/step-context.js';
import { setOnlyTables } from '../../only-tables.js';
import { NO_TIMEOUTS, openSession, type Database, type Session } from '../../session.js';
import { INVALID_PARAMETER_VALUE, NO_RIGHT, NOT_IN_STATE, sqlState, UNDEFINED_OBJECT } from '../../sqlstate.js';
import { rowSocket } from './row-socket.js';

/**
 * Opens a session on blue that reads a snapshot, or one of its own, in a transaction that can't write. Rows come in the order of their
 * blocks: without parallel workers, which blue needs for its own work, and without joining another session's scan. It reads
 * from tables alone: where it is to compute expressions of the plan, findNames() comes first.
 *
 * @returns undefined when the snapshot is gone.
 */
export async function openSnapshotSession(
  database: Database,
  purpose: string,
  snapshot: string | undefined,
  before?: (session: Session) => Promise<void>,
): Promise<Session | undefined> {
  const session = await openSession(database, { purpose, socket: rowSocket });
  try {
    await session.query(NO_TIMEOUTS);
    await session.query(
      `SELECT set_config('lock_timeout', '2000', false), set_config('max_parallel_workers_per_gather', '0', false),
              set_config('synchronize_seqscans', 'off', false), set_config('jit', 'off', false),
              ${setOnlyTables(true)}`,
    );
    await session.query(SAME_TEXT);
    await keepEncoding(session, session);
    await before?.(session);
    await session.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    try {
      if (snapshot !== undefined) await session.query(`SET TRANSACTION SNAPSHOT ${literal(snapshot)}`);
      return session;
    } catch (error) {
      if (!SNAPSHOT_GONE.has(sqlState(error) ?? '')) throw error;
      await session.end();
      return undefined;
    }
  } catch (error) {
    await session.end().catch(() => undefined);
    throw error;
  }
}

/**
 * Reads tables in a session of openSnapshotSession(). Its transaction keeps its locks between two statements, too: when
 * the application has waited for them too long, the session is ended.
 *
 * @param what is read, for people
 * @throws VerdigrisError LockNotHad (retryable) then, which names who has waited; the signal's reason when it is aborted.
 */
export async function whileWatched<T>(
  { database, session, signal, what }: WatchedReading,
  work: () => Promise<T>,
): Promise<T> {
  const watch = new LockWatch({
    connect: () => openSession(database, { purpose: 'watch locks' }),
    ours: { pid: backendPid(session) },
    stop: 'terminate',
  });
  const { result, met } = await watch.during(work);
  await watch.close();
  if (result.status === 'fulfilled') return result.value;
  signal.throwIfAborted();
  if (wasStopped(met)) throw lockNotHad(what, met, result.reason);
  throw result.reason;
}

export interface WatchedReading {
  readonly database: Database;
  readonly session: Session;
  readonly signal: AbortSignal;
  readonly what: string;
}

/**
 * Has the transaction of a session find what expressions of the plan name, in this path, and read the views that they may
 * read. With 'pg_catalog' it has no such expressions, and reads from tables alone.
 */
export async function findNames(session: Session, searchPath: string): Promise<void> {
  await session.query(
    `SELECT pg_catalog.set_config('search_path', $1, true), ${setOnlyTables(searchPath === 'pg_catalog', true)}`,
    [searchPath],
  );
}

/** As versions differ. */
const SNAPSHOT_GONE: ReadonlySet<string> = new Set([INVALID_PARAMETER_VALUE, NOT_IN_STATE, UNDEFINED_OBJECT]);

/**
 * Opens a session on green that writes rows as they come from blue: as a replica, so that the application's triggers,
 * which have fired on blue, do not fire again, while the up/down trigger sees rows of blue.
 *
 * It does not wait for the disk at COMMIT. If green crashes, the rows are lost together with what says that they are
 * there, which is in the same transaction; so the piece is found missing and copied again: the parcel is over only when
 * all is on the disk.
 */
export async function openTargetSession(database: Database, purpose: string, blue: Session): Promise<Session> {
  const session = await openSession(database, { purpose });
  try {
    await session.query(NO_TIMEOUTS);
    await session.query(
      `SELECT set_config('lock_timeout', '2000', false), set_config('synchronous_commit', 'off', false)`,
    );
    // A right that managed services give: without it, there is only the up/down trigger that could fire yet.
    await session.query(`SELECT set_config('session_replication_role', 'replica', false)`).catch((error: unknown) => {
      if (sqlState(error) !== NO_RIGHT) throw error;
    });
    await session.query(SAME_TEXT);
    await keepEncoding(session, blue);
    return session;
  } catch (error) {
    await session.end().catch(() => undefined);
    throw error;
  }
}

/**
 * What openSession leaves open of the text forms: of xml. That of money depends on lc_monetary, which both sides have alike
 * (a check of the preflight): set for the copy alone, `money::numeric` would be another amount than the trigger's.
 */
const SAME_TEXT = `SELECT set_config('xmloption', 'content', false)`;

const encodings = new WeakMap<Session, string>();

/**
 * The encoding in which text of a session's database is passed on as it is, by option of COPY: both sides have the same,
 * and not all bytes of all encodings can be converted. Undefined where nothing is converted anyway.
 */
export function rawEncoding(session: Session): string | undefined {
  return encodings.get(session);
}

/** Bytes in no encoding pass as they are in everything that a session is sent; a client of another one gets none. */
async function keepEncoding(session: Session, blue: Session): Promise<void> {
  const { rows } = await blue.query<{ encoding: string }>(`SELECT current_setting('server_encoding') AS encoding`);
  const encoding = rows[0]?.encoding ?? 'UTF8';
  if (encoding === 'SQL_ASCII') await session.query(`SELECT set_config('client_encoding', 'SQL_ASCII', false)`);
  else if (encoding !== 'UTF8') encodings.set(session, encoding);
}
