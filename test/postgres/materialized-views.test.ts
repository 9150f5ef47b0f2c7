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
    const context: StepContext = {
      runId: 'run-1',
      session: green,
      connect: (purpose) => openSession(asDatabase(databases[1] as TestDatabase, 'green'), { purpose }),
      signal: new AbortController().signal,
      onProgress: () => undefined,
    };
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
