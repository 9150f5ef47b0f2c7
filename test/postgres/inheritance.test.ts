import { describe, expect, it } from 'vitest';
import { publishedBackward } from '../../activities/run-tables.js';
import { readTables } from '../../src/postgres/catalog.js';
import { ensurePublications, publishesOther } from '../../src/postgres/streams.js';
import { CopyPair } from './copy-pair.js';
import { ReplicatedPair } from './replicated-pair.js';
import { testedVersion } from '../support/tested-version.js';

const ALL = { include: ['public.*'], exclude: [] };
const BOTH = `CREATE TABLE parent (id int, body text); CREATE TABLE child (extra int) INHERITS (parent);`;
const KEYS = `ALTER TABLE parent ADD PRIMARY KEY (id); ALTER TABLE child ADD PRIMARY KEY (id);`;
const ROWS = `INSERT INTO parent SELECT n, 'p' || n FROM generate_series(1, 100) n;
              INSERT INTO child SELECT 1000 + n, 'c' || n, n FROM generate_series(1, 100) n;`;

/** Tables that inherit in the old way: each is moved by itself, or not at all. */
describe.each([testedVersion('pg15')])('a table from which another one inherits, from %s', (server) => {
  it('goes back without it where only that one has a new column', async () => {
    const pair = await ReplicatedPair.start(server, 'inherits_back', `${BOTH} ${KEYS}`, ROWS, {
      blue: '',
      green: 'ALTER TABLE child ADD COLUMN new int',
    });
    try {
      const [blue, green] = [await readTables(pair.ourBlue, ALL), await readTables(pair.ourGreen, ALL)];
      const tables = publishedBackward(blue, green);
      expect(tables.map(({ table, columns }) => [table.name, columns])).toEqual([
        ['child', ['id', 'body', 'extra']],
        ['parent', undefined],
      ]);
      const spec = { migration: 'inherits', direction: 'to_blue' as const, tables, streams: 1 };
      await ensurePublications(pair.ourGreen, spec);
      expect(await publishesOther(pair.ourGreen, spec)).toBe(false);
      await pair.promoteGreen();
      await pair.green.query(
        `INSERT INTO parent VALUES (500, 'late'); UPDATE parent SET body = 'changed' WHERE id = 1001`,
      );
      await pair.caughtUpOnBlue();
      const { rows } = await pair.blue.query(
        'SELECT tableoid::regclass::text AS table, id, body FROM parent WHERE id IN (500, 1001) ORDER BY id',
      );
      expect(rows).toEqual([
        { table: 'parent', id: 500, body: 'late' },
        { table: 'child', id: 1001, body: 'changed' },
      ]);
    } finally {
      await pair.stop();
    }
  });

  it('is copied by PostgreSQL itself without it, where only that one was copied whole', async () => {
    const pair = await CopyPair.start([server, 'pg18'], 'inherits_left', BOTH, `${ROWS} ${KEYS}`);
    try {
      const parcels = await pair.planCopy();
      pair.hold();
      await pair.phase('ready');
      await pair.blue.query('CLUSTER parent USING parent_pkey');
      await pair.copyAll(parcels);
      expect(await pair.finish()).toEqual({ tables: 1, left: ['public.parent'] });
      await pair.addKeys(KEYS);
      await pair.follow(AbortSignal.timeout(30_000));
      await pair.caughtUp();
      expect(await pair.differences()).toEqual([]);
    } finally {
      await pair.stop();
    }
  });

  it('is moved without it where the plan leaves that one out', async () => {
    const pair = await CopyPair.start([server, 'pg18'], 'inherits_out', BOTH, `${ROWS} ${KEYS}`, [], {
      tables: { include: ['public.*'], exclude: ['public.child'] },
    });
    try {
      await pair.green.query('DROP TABLE child');
      const parcels = await pair.planCopy();
      pair.hold();
      await pair.phase('ready');
      await pair.copyAll(parcels);
      expect(await pair.finish()).toEqual({ tables: 1, left: [] });
      await pair.addKeys('ALTER TABLE parent ADD PRIMARY KEY (id)');
      await pair.follow();
      await pair.blue.query(`INSERT INTO child VALUES (5000, 'c', 1); INSERT INTO parent VALUES (5001, 'p')`);
      await pair.caughtUp();
      expect(await pair.differences()).toEqual([]);
    } finally {
      await pair.stop();
    }
  });
});
