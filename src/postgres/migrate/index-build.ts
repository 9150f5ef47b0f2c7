import { withoutEventTriggers } from '../event-triggers.js';
import { setTimeout as sleep } from 'node:timers/promises';
import type { VerdigrisError } from '../../errors.js';
import type { TableName } from '../../plan/table-name.js';
import { ident } from '../identifier.js';
import { isOffline } from '../offline.js';
import type { Session } from '../session.js';
import {
  CANCELED,
  DEADLOCK_DETECTED,
  DUPLICATE_TABLE,
  isConnectionLost,
  LOCK_NOT_AVAILABLE,
  sqlState,
  UNIQUE_VIOLATION,
} from '../sqlstate.js';
import { findIndex, type FoundIndex } from './index-definition.js';
import type { IndexSettings } from './index-settings.js';
import { watched } from './index-watch.js';
import { aloneWithShortLocks } from './short-locks.js';
import { messageOf } from './step-failed.js';
import { cancellable, noted, type StepContext } from './step-context.js';

/** One index on one table that has rows: the plan's, or blue's. */
export interface Build {
  readonly table: TableName;
  /** The index, in the schema of its table. */
  readonly name: string;
  /** The index in progress reports. */
  readonly object: string;
  readonly searchPath: string;
  /** The statement that makes it. */
  readonly sql: (how: 'plain' | 'concurrently') => string;
  /** Throws when the index that is there under the name is not this one. */
  readonly accept: (found: FoundIndex) => void;
  /** What to tell when it can't be built. */
  readonly failed: (error: unknown, why: 'duplicates' | 'in the way' | 'refused') => VerdigrisError;
}

/** A build that holds up the application is cancelled and tried again so often, before its activity is. */
export const BUILD_TRIES = 5;

/**
 * Builds one index on the context's session, unless it is there: in one pass while nobody writes the table, else
 * CONCURRENTLY. An INVALID leftover is dropped and built again; a build that another session still runs (its worker
 * died, the server did not) is waited for.
 *
 * The session may wait for locks as long as it takes: those of CONCURRENTLY stop neither reads nor writes, and nobody
 * is there to be stopped by those of a plain build.
 */
export async function buildIndex(
  context: StepContext,
  build: Build,
  settings: IndexSettings,
): Promise<'built' | 'there'> {
  const { session } = context;
  await session.query(`SELECT set_config('search_path', $1, false)`, [build.searchPath]);
  for (let attempt = 1; ; attempt++) {
    if (attempt > 1) await context.join?.(session);
    if (await isThere(context, build)) return attempt === 1 ? 'there' : 'built';
    // Looked at before each try: a worker that wakes up late must not stop the apply worker a second time.
    const sql = build.sql((await isOffline(session)) ? 'plain' : 'concurrently');
    try {
      // Offline, whoever waits is a VACUUM or ANALYZE of somebody's schedule.
      const watch = { object: build.object, maxBlockingMs: settings.maxBlockingMs, isUnused: isOffline };
      await watched(context, session, watch, () =>
        withoutEventTriggers(session, () => cancellable(context, session, () => session.query(sql))),
      );
      return 'built';
    } catch (error) {
      await afterFailure(context, build, error, attempt);
    }
  }
}

/** Looks at what is there under the name, and clears away what is not usable. */
async function isThere(context: StepContext, build: Build): Promise<boolean> {
  for (;;) {
    context.signal.throwIfAborted();
    const found = await findIndex(context.session, build.table.schema, build.name);
    if (found === undefined) return false;
    if (found.valid) {
      build.accept(found);
      return true;
    }
    if (!(await isBeingBuilt(context.session, found.oid))) {
      await dropIndex(context, context.session, build.table.schema, build.name);
      return false;
    }
    context.onProgress(noted('index', build.object, 'another session builds it: waits for it'));
    await sleep(500, undefined, { signal: context.signal });
  }
}

/** What is left of a failed build goes at once: an INVALID unique index still refuses rows, and would stop the feed. */
async function afterFailure(context: StepContext, build: Build, error: unknown, attempt: number): Promise<void> {
  context.signal.throwIfAborted();
  if (isConnectionLost(error)) throw build.failed(error, 'refused');
  const { session } = context;
  const found = await findIndex(session, build.table.schema, build.name);
  let cleared = true;
  if (found !== undefined && !found.valid && !(await isBeingBuilt(session, found.oid))) {
    // What is more to say than that it is left, is what kept the build from its end. The next try drops it first.
    cleared = await dropIndex(context, session, build.table.schema, build.name).then(
      () => true,
      () => false,
    );
    context.signal.throwIfAborted();
  }
  const state = sqlState(error);
  const another = isNameTaken(error);
  if (cleared && (another || LOST_RACE.has(state ?? '')) && attempt < BUILD_TRIES) {
    if (state === CANCELED) {
      context.onProgress(noted('index', build.object, `gave way, and is tried again: ${messageOf(error)}`));
    }
    // Whoever had the name first is done with it; whoever was held up gets a pause.
    await sleep(another ? 0 : 1_000 + Math.random() * 2_000, undefined, { signal: context.signal });
    return;
  }
  if (state === UNIQUE_VIOLATION && !another) throw build.failed(error, 'duplicates');
  // Nothing is wrong with the index: whoever was held up is gone some time, and a rollback would cost all that is there.
  if (state === CANCELED) throw build.failed(error, 'in the way').tryingAgain();
  throw build.failed(error, 'refused');
}

/** Cancelled by the watcher, or others were first to a lock. */
const LOST_RACE: ReadonlySet<string> = new Set([CANCELED, DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE]);

/**
 * Another session made the index meanwhile: its name is taken when it was done before, and a duplicate in pg_class when it
 * was building (a plain build is not to be seen until it is over).
 */
function isNameTaken(error: unknown): boolean {
  const state = sqlState(error);
  if (state === DUPLICATE_TABLE) return true;
  const constraint =
    typeof error === 'object' && error !== null && 'constraint' in error ? error.constraint : undefined;
  return state === UNIQUE_VIOLATION && constraint === 'pg_class_relname_nsp_index';
}

export async function dropIndex(context: StepContext, session: Session, schema: string, name: string): Promise<void> {
  const locks = { object: `DROP INDEX of "${name}"`, patience: 'patient' } as const;
  await aloneWithShortLocks(context, session, locks, () =>
    session.query(`DROP INDEX CONCURRENTLY IF EXISTS ${ident(schema)}.${ident(name)}`),
  );
}

async function isBeingBuilt(session: Session, index: number): Promise<boolean> {
  const { rowCount } = await session.query(
    'SELECT FROM pg_stat_progress_create_index WHERE index_relid = $1::oid AND pid <> pg_backend_pid()',
    [index],
  );
  return rowCount !== 0;
}
