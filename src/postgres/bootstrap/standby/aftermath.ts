import { setTimeout as sleep } from 'node:timers/promises';
import { isInRecovery } from '../../in-recovery.js';
import type { Session } from '../../session.js';
import type { Run } from '../../ownership.js';
import { hasState } from '../../state.js';
import { closeToWriters, mayCloseToWriters, openToWriters } from './read-only-default.js';
import { describePhysicalSlot, readPhysicalSlot } from './physical-slot.js';
import { readIntent, STANDBY_BOOTSTRAP } from './standby-run.js';

/**
 * The compensation of the promotion, as far as there is one, before the replication is taken down. A worker that was frozen
 * before it asked for the promotion must not ask when it wakes up: it can't without its session, which is ended first.
 *
 * A green that is a standby still goes on as before. One that has been promoted can't follow blue again; it keeps its
 * rows, takes writes of nobody by default, and what has to be done with it is told.
 *
 * @returns what could not be undone, for people; empty when nothing has happened to green.
 */
export async function settleGreen(blue: Session, green: Session, run: Run): Promise<string[]> {
  await endBootstrap(green);
  const intent = (await hasState(blue)) ? await readIntent(blue, run) : undefined;
  if (await staysStandby(green, intent?.asked === true)) {
    if (intent?.asked !== true) return [];
    if (intent.closed) await openToWriters(green);
    return [
      'green was asked to promote and is a standby still: see that it stays one (SELECT pg_is_in_recovery() on green)',
    ];
  }
  const closes = await mayCloseToWriters(green);
  if (closes) await closeToWriters(green);
  const slot = await readPhysicalSlot(blue, green);
  return [
    'green was promoted and can not follow blue again: make it a standby anew before the next run (pg_basebackup, or ' +
      `pg_rewind --target-pgdata=... --source-server=...), or remove it. Its rows are those of the moment of the rollback${closes ? '; its default_transaction_read_only is on, so that nobody writes there by mistake (ALTER SYSTEM RESET default_transaction_read_only takes that back)' : '; see that nobody writes there by mistake'}`,
    ...(slot === undefined ? [] : [describePhysicalSlot(slot)]),
  ];
}

/** Of the same user alone: it could not end those of others. */
async function endBootstrap(green: Session): Promise<void> {
  await green.query(
    `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
      WHERE application_name = $1 AND datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()`,
    [`verdigris ${STANDBY_BOOTSTRAP}`],
  );
}

/** A request to promote can't be taken back, and comes true when the server has replayed what has arrived. */
async function staysStandby(green: Session, asked: boolean): Promise<boolean> {
  for (let look = 0; asked && look < 50; look++) {
    if (!(await isInRecovery(green))) return false;
    await sleep(100);
  }
  return isInRecovery(green);
}
