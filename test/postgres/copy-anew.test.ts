import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { copyAnew } from '../../src/postgres/bootstrap/copy-anew.js';
import { refresh, unpublish } from '../../src/postgres/bootstrap/synchronized-tables.js';
import { tablesync } from '../../src/postgres/bootstrap/tablesync.js';
import { feedName } from '../../src/postgres/feed.js';
import { armFence, isFenceOpen } from '../../src/postgres/fence.js';
import { writeProgress } from '../../src/postgres/migrate/progress-row.js';
import { ensureSlot } from '../../src/postgres/replication-slot.js';
import { FENCE_CLOSED } from '../../src/postgres/state.js';
import { COPY_ANEW } from '../../src/postgres/stuck-feed.js';
import { testedPairs } from '../support/tested-version.js';
import { CopyPair } from './copy-pair.js';

const DDL = `
  CREATE TABLE item (id int PRIMARY KEY, body text);
  CREATE TABLE line (id int PRIMARY KEY, item int REFERENCES item ON DELETE CASCADE);`;
const ROWS = `
  INSERT INTO item SELECT n, 'body ' || n FROM generate_series(1, 1000) n;
  INSERT INTO line SELECT n, 1 + n % 500 FROM generate_series(1, 1000) n`;

describe.each(
  testedPairs([
    ['pg15', 'pg18'],
    ['pg18', 'pg15'],
  ] as const),
)('a table of a green that is fenced, %s -> %s', (...servers) => {
  let pair: CopyPair;
  let feed: string;

  beforeAll(async () => {
    pair = await CopyPair.start(servers, 'copy_anew', DDL, ROWS);
    feed = feedName(pair.run.migration, 'to_green');
    await pair.planCopy();
    await ensureSlot(pair.ourBlue, feed);
    await tablesync.run({
      ...pair.context(),
      ...{ migration: pair.run.migration, direction: 'to_green', streams: 1, maxRetainedWal: 1e12 },
    });
    const tables = ['item', 'line'].map((name) => ({ schema: 'public', name }));
    await armFence(pair.ourGreen, tables);
    await pair.green.query(`SELECT setval('verdigris.fence', ${FENCE_CLOSED})`);
  });

  afterAll(() => pair.stop());

  // The one can be truncated, the other is referred to: its rows are deleted.
  it.each(['line', 'item'])('is copied anew, and nobody else writes there: %s', async (name) => {
    const table = { schema: 'public', name };
    const key = { runId: pair.run.runId, step: COPY_ANEW, object: `public.${name}` };
    await writeProgress(pair.ourGreen, key, { ...table, stream: feed }, false);
    // As a try that died has left it: without the table, and without what blue has written since.
    await unpublish(pair.ourBlue, feed, [table]);
    await refresh(pair.blueDatabase, pair.ourBlue, pair.ourGreen, feed);
    await pair.blue.query(`UPDATE ${name} SET id = id + 5000 WHERE id = 1000; DELETE FROM ${name} WHERE id = 700`);
    await copyAnew(pair.context());
    await pair.caughtUp();
    expect(await pair.differences()).toEqual([]);
    expect(await isFenceOpen(pair.ourGreen)).toBe(false);
    for (const statement of [`DELETE FROM ${name}`, `TRUNCATE ${name} CASCADE`]) {
      await expect(pair.green.query(statement)).rejects.toMatchObject({ code: '25006' });
    }
  });
});
