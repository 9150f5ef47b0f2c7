import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../../errors.js';
import { formatTableName, type TableName } from '../../plan/table-name.js';
import { sameTable } from '../catalog.js';
import { feedName, sourceOf, targetOf } from '../feed.js';
import { copyTimeout, endTimeout, limitOf, type FeedTimeout } from '../feed-timeouts.js';
import { refuseTooMuchWal } from '../lag.js';
import { refuseNoLink, refuseNoRoom } from '../passing-obstacles.js';
import { majorVersion } from '../retry.js';
import { withSession, type Databases, type Session } from '../session.js';
import { SlotReaders } from '../slot-readers.js';
import { streamNames } from '../streams.js';
import { ensureSubscription, readSubscription } from '../subscription.js';
import { refusedRow } from './refused-row.js';
import { tablesInState } from './synchronized-tables.js';
import { SyncWatch } from './sync-watch.js';
import type { Bootstrap, BootstrapContext, BootstrapResult } from './bootstrap.js';

/**
 * After so many errors of the subscription, and so long, without a table becoming ready, waiting on is pointless once it
 * meets another one. Many errors are met in a minute where a link breaks off and on; when they are over, a large table
 * that is being copied takes longer than this.
 */
const HOPELESS = { errors: 20, ms: 600_000 };

/** How often it is looked who reads from the slots, ms. */
const READERS_EVERY_MS = 3_000;

/** Of tables that are catching up: a deadlock or a lock that was not to be had passes. */
const STUCK_ERRORS = 4;

/** PostgreSQL's own initial table synchronization: stock parts only, one worker a table. */
export const tablesync: Bootstrap = {
  method: 'tablesync',
  async run(context: BootstrapContext): Promise<BootstrapResult> {
    const { databases, direction } = context;
    const source = databases[sourceOf(direction)];
    return withSession(source, { purpose: 'bootstrap' }, async (from) => {
      const publisherVersion = await majorVersion(from);
      const names = streamNames(context.migration, direction, context.streams);
      return withSession(databases[targetOf(direction)], { purpose: 'bootstrap' }, async (to) => {
        for (const name of names) {
          await ensureSubscription(
            to,
            {
              ...{ name, conninfo: source.peerConninfo, peer: source, publisher: from, publisherVersion },
              ...{ copyData: true, enabled: true },
            },
            { signal: context.signal },
          );
        }
        return waitUntilReady(from, to, names, context);
      });
    });
  },
};

/**
 * Waits until every table of these subscriptions has its first rows, and says how far that is.
 *
 * @throws VerdigrisError BackfillFailed that names the row that green refuses; ReplicationBroken, RetainedWalExceeded;
 * retryable: SqlError where there is no room, ConnectionFailed where the other side is not reached
 */
export async function waitUntilReady(
  from: Session,
  to: Session,
  names: readonly string[],
  context: Omit<BootstrapContext, 'streams'> & WhileCatchingUp,
): Promise<BootstrapResult> {
  const feed = feedName(context.migration, context.direction);
  let errorsAtLastProgress = 0;
  let lastErrors = 0;
  let lookedAt = 0;
  let progressAt = performance.now();
  let lastNotReady = Number.POSITIVE_INFINITY;
  const { hopeless = HOPELESS } = context;
  const watch = new SyncWatch(from, to, names);
  const readers = new SlotReaders(from, to, names);
  let readersSeenAt = performance.now();
  for (;;) {
    context.signal.throwIfAborted();
    const { tables, notReady, errors } = await readStates(to, names);
    context.report({ tables, tablesReady: tables - notReady });
    for (const table of await watch.look()) context.report(table);
    if (notReady === 0) return { tables };
    if (notReady < lastNotReady) {
      lastNotReady = notReady;
      errorsAtLastProgress = errors;
      lookedAt = 0;
      progressAt = performance.now();
    }
    // They begin anew when green has crashed, or somebody resets them.
    if (errors < lastErrors) {
      errorsAtLastProgress = 0;
      lookedAt = 0;
    }
    const since = errors - errorsAtLastProgress;
    const hasMetAnother = errors > lastErrors;
    lastErrors = errors;
    // Errors of connections are counted, too, and a look reads a whole table: ever fewer of them.
    if (since >= Math.max(1, 2 * lookedAt)) {
      lookedAt = since;
      await refuseWhatPasses(to, context);
      await refuseBadRow(from, to, names, since, context);
    }
    // A worker that is ended counts no error.
    if (since === 0) await refuseEndedWorker(from, to, watch, context);
    if (hasMetAnother && since >= hopeless.errors && performance.now() - progressAt >= hopeless.ms) {
      await refuseWhatPasses(to, context);
      throw broken(feed, `${errors} errors, ${notReady} of ${tables} tables are not synchronized`);
    }
    await refuseTooMuchWal(from, feed, context.maxRetainedWal);
    if (performance.now() - readersSeenAt >= READERS_EVERY_MS) {
      await readers.refuseOthers();
      readersSeenAt = performance.now();
    }
    await sleep(200);
  }
}

export interface WhileCatchingUp {
  /** What is wrong with tables whose rows are there, when the changes since can't be applied. */
  readonly whyStuck?: (tables: readonly TableName[]) => Promise<VerdigrisError>;
  /** When it is given up. Default: HOPELESS. */
  readonly hopeless?: { readonly errors: number; readonly ms: number };
}

/** What is asked before a row is blamed, or the feed: nothing of it is wrong, and it goes on by itself. */
async function refuseWhatPasses(
  to: Session,
  { databases, direction, signal }: Pick<BootstrapContext, 'databases' | 'direction' | 'signal'>,
): Promise<void> {
  if (direction !== 'to_green') return;
  await refuseNoRoom(to);
  await refuseNoLink(databases, signal);
}

/** PostgreSQL says why a table can't be synchronized only in its log, so the reason is looked for. */
async function refuseBadRow(
  from: Session,
  to: Session,
  names: readonly string[],
  errors: number,
  { databases, direction, signal, whyStuck }: Omit<BootstrapContext, 'streams'> & WhileCatchingUp,
): Promise<void> {
  if (direction !== 'to_green') return;
  const limit = await copyTimeout(databases, from, to);
  for (const table of await tablesInState(to, names, ['d'])) {
    const refused = await refusedInTime(databases, table, limit, signal);
    // Where it has become complete meanwhile, its rows were in the way of the trial.
    const still = refused === undefined ? [] : await tablesInState(to, names, ['d']);
    if (refused !== undefined && still.some((one) => sameTable(one, table))) throw refused;
  }
  const catchingUp = await tablesInState(to, names, ['f', 's']);
  if (errors >= STUCK_ERRORS && catchingUp.length > 0 && whyStuck !== undefined) throw await whyStuck(catchingUp);
}

/**
 * A trial takes about as long as PostgreSQL's own copy: one that is not over when that one is ended has shown why it never
 * ends. Without a limit the whole table is tried.
 */
async function refusedInTime(
  databases: Databases,
  table: TableName,
  limit: FeedTimeout | undefined,
  signal: AbortSignal,
): Promise<VerdigrisError | undefined> {
  if (limit === undefined) return refusedRow(databases, table, signal);
  const over = AbortSignal.timeout(limit.ms);
  try {
    return await refusedRow(databases, table, AbortSignal.any([signal, over]));
  } catch (error) {
    signal.throwIfAborted();
    if (over.aborted) return copyIsEnded(formatTableName(table), limit);
    throw error;
  }
}

/** So often a table is begun anew before it is told: a worker that was ended once may have been ended by somebody. */
const ENDED_AGAIN = 3;

async function refuseEndedWorker(
  from: Session,
  to: Session,
  watch: SyncWatch,
  { databases, direction }: Pick<BootstrapContext, 'databases' | 'direction'>,
): Promise<void> {
  const table = direction === 'to_green' ? watch.begunAnew(ENDED_AGAIN) : undefined;
  const limit = table === undefined ? undefined : await copyTimeout(databases, from, to);
  if (table !== undefined && limit !== undefined) throw copyIsEnded(table, limit);
}

/** Of a type that holds the run: with the limit gone, PostgreSQL copies the table by itself. */
function copyIsEnded(table: string, limit: FeedTimeout): VerdigrisError {
  return new VerdigrisError({
    type: 'BackfillFailed',
    message: `PostgreSQL's own copy of table ${table} can't end: it takes longer than ${limitOf(limit)}, and is begun anew each time`,
    nextStep: `on ${limit.side}: ${endTimeout(limit)}; then resume: the table is copied by itself; or roll back`,
  });
}

/** All streams together. */
async function readStates(
  to: Session,
  names: readonly string[],
): Promise<{ tables: number; notReady: number; errors: number }> {
  const sum = { tables: 0, notReady: 0, errors: 0 };
  for (const name of names) {
    const state = await readSubscription(to, name);
    if (state === undefined) throw broken(name, 'it is gone');
    if (!state.enabled && state.tablesNotReady > 0) throw broken(name, 'it has been disabled');
    sum.tables += state.tables;
    sum.notReady += state.tablesNotReady;
    sum.errors += state.errors;
  }
  return sum;
}

function broken(subscription: string, why: string): VerdigrisError {
  return new VerdigrisError({
    type: 'ReplicationBroken',
    message: `green: the subscription ${subscription} can't copy the rows: ${why}`,
    nextStep: "read the reason in green's server log (PostgreSQL shows it nowhere else), mend it and start again",
  });
}
