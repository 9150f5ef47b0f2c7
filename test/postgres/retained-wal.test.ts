import { MockActivityEnvironment } from '@temporalio/testing';
import { expect, it } from 'vitest';
import { replicateActivities } from '../../activities/replicate.js';
import { feedName } from '../../src/postgres/feed.js';
import { waitUntilCaughtUp } from '../../src/postgres/lag.js';
import { CopyPair } from './copy-pair.js';
import { MIGRATION, StreamPair } from './stream-pair.js';

/* A warning, giving way, and what the run says: test/long/retained-wal.long.ts, test/workflow/retained-wal.test.ts. */

const DDL = 'CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)';

/** Twice the least that a plan allows. */
const TWO_MB = `SELECT pg_logical_emit_message(false, 'test', repeat('x', 2 * 1024 * 1024))`;

const EXCEEDED = {
  type: 'RetainedWalExceeded',
  message: expect.stringMatching(/holds back .* of WAL; the plan allows/) as string,
};

it('more WAL than the plan allows ends the watch of a run, and the wait for a green that is late', async () => {
  const pair = await StreamPair.start({ blue: 'pg15', green: 'pg18' }, DDL);
  try {
    await pair.green.query('TRUNCATE public.t');
    await pair.publish(['t']);
    await pair.replicate();
    const late = waitUntilCaughtUp({
      source: pair.blue,
      target: pair.green,
      direction: 'to_green',
      feed: feedName(MIGRATION, 'to_green'),
      // No lag is so short.
      maxLagMs: 0,
      holdForMs: 1_000,
      maxRetainedWal: 1,
      signal: AbortSignal.timeout(20_000),
      report: () => undefined,
    });
    await expect(late).rejects.toMatchObject(EXCEEDED);
    await pair.disable();
    await pair.blue.query(TWO_MB);
    const { plan } = pair.ref;
    const ref = { ...pair.ref, plan: { ...plan, replicate: { ...plan.replicate, maxRetainedWal: '1MB' } } };
    const { watchRetainedWal } = replicateActivities(pair.dependencies);
    const watched = new MockActivityEnvironment().run(() => watchRetainedWal(ref, 'fine'));
    await expect(watched).rejects.toMatchObject(EXCEEDED);
  } finally {
    await pair.stop();
  }
});

it('more WAL than the plan allows ends the copy', async () => {
  const limit = { replicate: { maxRetainedWal: '1MB' } };
  const pair = await CopyPair.start(['pg15', 'pg18'], 'copy_wal', DDL, '', [], limit);
  try {
    await pair.planCopy();
    const holder = pair.hold();
    await pair.phase('ready');
    await pair.blue.query(TWO_MB);
    const cut = setTimeout(() => holder.stop(), 20_000);
    await expect(holder.ended).rejects.toMatchObject(EXCEEDED);
    clearTimeout(cut);
  } finally {
    await pair.stop();
  }
});
