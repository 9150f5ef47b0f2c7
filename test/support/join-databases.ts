import { tablesync } from '../../src/postgres/bootstrap/tablesync.js';
import { armFence, closeFence } from '../../src/postgres/fence.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { ensureSlot } from '../../src/postgres/replication-slot.js';
import { withSession, type Databases } from '../../src/postgres/session.js';
import { ensurePublications, streamNames } from '../../src/postgres/streams.js';
import type { TableName } from '../../src/plan/table-name.js';

/** Brings two databases with the same tables to where a run is before its promotion: green follows, fenced and closed. */
export async function joinDatabases(
  databases: Databases,
  migration: string,
  fenced: readonly TableName[],
): Promise<void> {
  const epoch = await claimDatabases(databases, { runId: 'run', migration }, 'flag');
  await withSession(databases.blue, { purpose: 'test' }, async (session) => {
    const tables = fenced.map((table) => ({ table }));
    await ensurePublications(session, { migration, direction: 'to_green', tables, streams: 1 });
    for (const name of streamNames(migration, 'to_green', 1)) await ensureSlot(session, name);
  });
  await tablesync.run({
    ...{ databases, migration, direction: 'to_green', streams: 1, maxRetainedWal: 1e12 },
    signal: new AbortController().signal,
    report: () => undefined,
  });
  await withSession(databases.green, { purpose: 'test' }, async (session) => {
    await closeFence(session, migration, epoch);
    await armFence(session, fenced);
  });
}
