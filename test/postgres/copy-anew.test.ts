import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { copyAnew } from '../../src/postgres/bootstrap/copy-anew.js';
import { refresh, unpublish } from '../../src/postgres/bootstrap/synchronized-tables.js';
import { tablesync } from '../../src/postgres/bootstrap/tablesync.js';
import { feedName } from '../../src/postgres/feed.js';
import { armFence, isFenceOpen } from '../../src/postgres/fence.js';
import { writeProgress } from '../../src/postgres/migrate/progress-row.js';
import { ensureSlot } from '../../src/postgres/replication-slot.js';
import { FENCE_CLOSED } from '../../src/postgres/state.js';
import { COPY_ANEW, stuck } from '../../src/postgres/stuck-feed.js';
import { testedPairs } from '../support/tested-version.js';
import { CopyPair } from './copy-pair.js';

const DDL = `
  CREATE TABLE item (id int PRIMARY KEY, body text);
  CREATE TABLE line (id int PRIMARY KEY, item int REFERENCES item ON DELETE CASCADE);
  CREATE TABLE grade (id int PRIMARY KEY, body text);
  CREATE TABLE mark (id int PRIMARY KEY, grade int);
  CREATE TABLE term (id int PRIMARY KEY);`;
const ROWS = `
  INSERT INTO item SELECT n, 'body ' || n FROM generate_series(1, 1000) n;
  INSERT INTO line SELECT n, 1 + n % 500 FROM generate_series(1, 1000) n;
  INSERT INTO grade SELECT n, 'grade ' || n FROM generate_series(1, 10) n;
  INSERT INTO mark SELECT n, 1 + n % 10 FROM generate_series(1, 1000) n;
  INSERT INTO term VALUES (1)`;
/** Keys that blue has not. */
const KEYS = ['grade', 'term'].map((table, i) => ({
  addConstraint: {
    ...{ table: 'mark', name: `mark_${table}` },
    foreignKey: { columns: [i === 0 ? 'grade' : 'id'], references: { table, columns: ['id'] } },
  },
}));

describe.each(
  testedPairs([
    ['pg15', 'pg18'],
    ['pg18', 'pg15'],
  ] as const),
)('a table of a green that is fenced, %s -> %s', (...servers) => {
  let pair: CopyPair;
  let feed: string;

  beforeAll(async () => {
    pair = await CopyPair.start(servers, 'copy_anew', DDL, ROWS, KEYS);
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

  it('of which green refuses a TRUNCATE that blue allows is copied anew, and the feed goes on', async () => {
    await pair.green.query(
      `ALTER TABLE mark ADD CONSTRAINT mark_grade FOREIGN KEY (grade) REFERENCES grade,
                        ADD CONSTRAINT mark_term FOREIGN KEY (id) REFERENCES term NOT VALID`,
    );
    await pair.blue.query(
      `BEGIN; TRUNCATE grade; INSERT INTO grade SELECT n, 'anew ' || n FROM generate_series(1, 10) n; COMMIT`,
    );
    const error = await stuck(pair.context(), pair.ourBlue, pair.ourGreen);
    expect(error).toMatchObject({
      type: 'BackfillFailed',
      message: expect.stringMatching(/a TRUNCATE of public\.grade alone would be such a change/) as string,
      nextStep: expect.stringMatching(/public\.mark, public\.grade will be copied anew/) as string,
    });
    await copyAnew({ ...pair.context(), markerMs: 500, stuckErrors: 1 });
    await pair.caughtUp();
    expect(await pair.differences()).toEqual([]);
  });
});
