import { MockActivityEnvironment } from '@temporalio/testing';
import { expect, it } from 'vitest';
import type { FeedNews } from '../../activities/feed-watch.js';
import { replicateActivities, type RetainedWal, type WalLevel } from '../../activities/replicate.js';
import { startPostgres } from '../../src/embedded/postgres-server.js';
import { StreamPair } from '../postgres/stream-pair.js';

const DDL = 'CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)';

/* On a server of its own: the WAL of other tests would count, too. */
it('the watch of the WAL that blue keeps says from half of the limit on, and again from four fifths on, how much it is', async () => {
  const blue = await startPostgres({ version: 15, name: 'retained-wal' });
  try {
    const pair = await StreamPair.start({ blue, green: 'pg18' }, DDL);
    try {
      await pair.green.query('TRUNCATE public.t');
      await pair.publish(['t']);
      await pair.replicate();
      await pair.disable();
      const { plan } = pair.ref;
      const ref = { ...pair.ref, plan: { ...plan, replicate: { ...plan.replicate, maxRetainedWal: '200MB' } } };
      const { watchRetainedWal } = replicateActivities(pair.dependencies);
      const watch = (known: WalLevel): Promise<RetainedWal | FeedNews> =>
        new MockActivityEnvironment().run(() => watchRetainedWal(ref, known));
      const upTo = async (megabytes: number): Promise<void> => {
        const { rows } = await pair.blue.query<{ missing: number }>(
          `SELECT $1 * 1024 * 1024 - max(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn))::float8 AS missing
             FROM pg_replication_slots`,
          [megabytes],
        );
        const length = Math.ceil(rows[0]?.missing ?? 0);
        await pair.blue.query(`SELECT pg_logical_emit_message(false, 'test', repeat('x', $1))`, [length]);
      };
      await upTo(110);
      expect(await watch('fine')).toEqual({
        level: 'warn',
        why: expect.stringMatching(
          /^blue holds back 0\.1 GB of WAL for green; at 0\.2 GB \(replicate\.maxRetainedWal\) the run is given up$/,
        ) as string,
      });
      await upTo(170);
      expect(await watch('warn')).toMatchObject({ level: 'hold' });
    } finally {
      await pair.stop();
    }
  } finally {
    await blue.stop();
  }
});
