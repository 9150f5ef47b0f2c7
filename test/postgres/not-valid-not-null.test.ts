import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { readTables } from '../../src/postgres/catalog.js';
import { ALL_TABLES } from '../../src/postgres/catalog-pattern.js';
import { revertMigrations } from '../../src/postgres/migrate/revert.js';
import { setNotNull } from '../../src/postgres/migrate/set-not-null.js';
import type { StepContext } from '../../src/postgres/migrate/step-context.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, type TestDatabase } from '../support/postgres.js';
import { contextOn, workOf } from './replicated-pair.js';

const T = { schema: 'public', name: 't' };

describe('a NOT NULL that is NOT VALID, as PostgreSQL 18 has them', () => {
  let db: TestDatabase;
  let session: Session;
  let app: pg.Client;
  let context: StepContext;

  beforeAll(async () => {
    db = await testDatabase('pg18', 'not valid');
    const database = asDatabase(db, 'green');
    session = await openSession(database, { purpose: 'test' });
    await installState(session, 'green');
    context = contextOn(database, session);
    app = new pg.Client(db.config);
    await app.connect();
  });
  afterAll(async () => {
    await closeSession(session);
    await app.end();
    await db.drop();
  });
  beforeEach(() =>
    app.query(`
      DROP TABLE IF EXISTS t; TRUNCATE verdigris.progress;
      CREATE TABLE t (id int PRIMARY KEY, note text);
      INSERT INTO t SELECT n, nullif('n' || n, 'n7') FROM generate_series(1, 100) n;
      ALTER TABLE t ADD CONSTRAINT "Note given" NOT NULL note NOT VALID`),
  );

  async function constraints(): Promise<unknown[]> {
    const { rows } = await app.query(
      `SELECT conname AS name, convalidated AS valid FROM pg_constraint
        WHERE conrelid = 't'::regclass AND contype IN ('n', 'c') AND conname <> 't_id_not_null'`,
    );
    return rows;
  }

  it('is not taken for one that holds: a row with NULL is named, and nothing is made', async () => {
    await expect(setNotNull(context, T, 'note')).rejects.toMatchObject({
      type: 'BackfillFailed',
      message: expect.stringMatching(/there are rows in which it is NULL: \("id" = 7\)/) as string,
    });
    expect(await constraints()).toEqual([{ name: 'Note given', valid: false }]);
  });

  it('is validated, and stays where the migrations are taken back: it is not of the run', async () => {
    await app.query(`UPDATE t SET note = 'n' WHERE id = 7`);
    await setNotNull(context, T, 'note');
    expect(await constraints()).toEqual([{ name: 'Note given', valid: true }]);
    const [table] = await readTables(session, ALL_TABLES);
    expect(table?.columns.map(({ notNull }) => notNull)).toEqual([true, true]);
    // Begun again by another worker.
    await setNotNull(context, T, 'note');
    const work = await workOf([{ setNotNull: { table: 't', column: 'note' } }]);
    await revertMigrations(context, work);
    expect(await constraints()).toEqual([{ name: 'Note given', valid: true }]);
  });
});
