import { setTimeout as sleep } from 'node:timers/promises';
import { VerdigrisError } from '../../errors.js';
import { feedName, sourceOf, targetOf } from '../feed.js';
import { refuseTooMuchWal } from '../lag.js';
import { majorVersion } from '../retry.js';
import { withSession, type Session } from '../session.js';
import { streamNames } from '../streams.js';
import { ensureSubscription, readSubscription } from '../subscription.js';
import type { Bootstrap, BootstrapContext, BootstrapResult } from './bootstrap.js';
import { SyncWatch } from './sync-watch.js';

/** After so many errors of the subscription without a table becoming ready, waiting on is pointless. */
const HOPELESS_ERRORS = 20;

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
          await ensureSubscription(to, {
            name,
            conninfo: source.peerConninfo,
            copyData: true,
            enabled: true,
            publisherVersion,
          });
        }
        return waitUntilReady(from, to, names, context);
      });
    });
  },
};

/** Waits until every table of these subscriptions has its first rows, and says how far that is. */
export async function waitUntilReady(
  from: Session,
  to: Session,
  names: readonly string[],
  context: Omit<BootstrapContext, 'databases' | 'streams'>,
): Promise<BootstrapResult> {
  const feed = feedName(context.migration, context.direction);
  let errorsAtLastProgress = 0;
  let lastNotReady = Number.POSITIVE_INFINITY;
  const watch = new SyncWatch(from, to, names);
  for (;;) {
    context.signal.throwIfAborted();
    const { tables, notReady, errors } = await readStates(to, names);
    context.report({ tables, tablesReady: tables - notReady });
    for (const table of await watch.look()) context.report(table);
    if (notReady === 0) return { tables };
    if (notReady < lastNotReady) {
      lastNotReady = notReady;
      errorsAtLastProgress = errors;
    }
    if (errors - errorsAtLastProgress >= HOPELESS_ERRORS) {
      throw broken(feed, `${errors} errors, ${notReady} of ${tables} tables are not synchronized`);
    }
    await refuseTooMuchWal(from, feed, context.maxRetainedWal);
    await sleep(200);
  }
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
