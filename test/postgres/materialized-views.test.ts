import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { StepContext } from '../../src/postgres/migrate/step-context.js';
import { refreshMaterializedViews, unpopulatedViews } from '../../src/postgres/schema-copy/materialized-views.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

/** What a_report reads lies over stage, over base; nothing that is filled reads `alone`. */
const VIEWS = `
  CREATE TABLE t AS SELECT 1 AS v;
  CREATE MATERIALIZED VIEW base AS SELECT v FROM t;
  CREATE MATERIALIZED VIEW stage AS SELECT v FROM base;
  CREATE VIEW between AS SELECT v FROM stage;
  CREATE MATERIALIZED VIEW a_report AS SELECT v FROM between;
  CREATE MATERIALIZED VIEW alone AS SELECT 1 / (v - v) AS v FROM a_report WITH NO DATA;`;

function contextOf(database: TestDatabase, session: Session): StepContext {
  return {
    runId: 'run-1',
    session,
    connect: (purpose) => openSession(asDatabase(database, 'green'), { purpose }),
    signal: new AbortController().signal,
    onProgress: () => undefined,
  };
}

describe('materialized views over others that blue has not populated', () => {
  let databases: readonly TestDatabase[];
  let blue: Session;
  let green: Session;

  beforeAll(async () => {
    const both = [await testDatabase('pg15', 'views_blue'), await testDatabase('pg18', 'views_green')] as const;
    databases = both;
    for (const { config } of both) await withClient(config, (client) => client.query(VIEWS));
    blue = await openSession(asDatabase(both[0], 'blue'), { purpose: 'test' });
    green = await openSession(asDatabase(both[1], 'green'), { purpose: 'test' });
    await installState(green, 'green');
    await blue.query('REFRESH MATERIALIZED VIEW public.base WITH NO DATA');
    await blue.query('REFRESH MATERIALIZED VIEW public.stage WITH NO DATA');
    for (const view of ['base', 'stage', 'a_report'])
      await green.query(`REFRESH MATERIALIZED VIEW public.${view} WITH NO DATA`);
  });

  afterAll(async () => {
    await closeSession(blue);
    await closeSession(green);
    for (const database of databases) await database.drop();
  });

  it('are filled from these, which hold nothing afterwards either, and so once more', async () => {
    const context = contextOf(databases[1] as TestDatabase, green);
    for (const v of [1, 2]) {
      await green.query('UPDATE public.t SET v = $1', [v]);
      const filled = await refreshMaterializedViews(context, await unpopulatedViews(blue));
      expect(filled.map(({ name }) => name)).toEqual(['a_report']);
      expect((await green.query('SELECT v FROM public.a_report')).rows).toEqual([{ v }]);
      const left = (await unpopulatedViews(green)).map(({ name }) => name);
      expect(left.sort()).toEqual(['alone', 'base', 'stage']);
    }
  });
});

describe('a materialized view', () => {
  let database: TestDatabase;
  let green: Session;

  beforeAll(async () => {
    database = await testDatabase('pg18', 'views_of_functions');
    green = await openSession(asDatabase(database, 'green'), { purpose: 'test' });
    await installState(green, 'green');
  });

  afterAll(async () => {
    await closeSession(green);
    await database.drop();
  });

  it('that reads another one by a function is filled behind it; one that nothing fills is told', async () => {
    await green.query(`
      CREATE SCHEMA report;
      CREATE MATERIALIZED VIEW report.z_base AS SELECT 7 AS v WITH NO DATA;
      CREATE FUNCTION report.total() RETURNS bigint LANGUAGE sql AS 'SELECT sum(v) FROM report.z_base';
      CREATE MATERIALIZED VIEW report.a_summary AS SELECT report.total() AS v WITH NO DATA`);
    const context = contextOf(database, green);
    await expect(refreshMaterializedViews(context, [{ schema: 'report', name: 'z_base' }])).rejects.toMatchObject({
      type: 'BackfillFailed',
      message: expect.stringMatching(/a_summary": .*"z_base" has not been populated/) as string,
    });
    await refreshMaterializedViews(context);
    expect((await green.query('SELECT v FROM report.a_summary')).rows).toEqual([{ v: '7' }]);
    await green.query('DROP SCHEMA report CASCADE');
  });

  it('whose source on another server is away holds the run, and is not taken for a connection of ours that is lost', async () => {
    await green.query(`
      CREATE SCHEMA erp;
      CREATE EXTENSION postgres_fdw SCHEMA erp;
      CREATE SERVER erp FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
      CREATE USER MAPPING FOR CURRENT_USER SERVER erp;
      CREATE FOREIGN TABLE erp.customers (id int) SERVER erp;
      CREATE MATERIALIZED VIEW erp.seen AS SELECT id FROM erp.customers WITH NO DATA`);
    await expect(refreshMaterializedViews(contextOf(database, green))).rejects.toMatchObject({
      type: 'BackfillFailed',
      retryable: false,
      nextStep: expect.stringContaining('ALTER USER MAPPING') as string,
    });
    await green.query('DROP SCHEMA erp CASCADE');
  });
});
