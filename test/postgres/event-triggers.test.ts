import { afterEach, describe, expect, it } from 'vitest';
import { readTables } from '../../src/postgres/catalog.js';
import { armFence, dropFence } from '../../src/postgres/fence.js';
import { dropDdlTriggers, installDdlTriggers } from '../../src/postgres/ddl/event-trigger.js';
import { dropPublications } from '../../src/postgres/feed-objects.js';
import { buildIndex } from '../../src/postgres/migrate/index-build.js';
import { DEFAULT_INDEX_SETTINGS } from '../../src/postgres/migrate/index-settings.js';
import { shapeOf } from '../../src/postgres/migrate/index-definition.js';
import { columnsRead } from '../../src/postgres/migrate/expression-reads.js';
import { shortLocks } from '../../src/postgres/migrate/short-locks.js';
import { runSql } from '../../src/postgres/migrate/sql-step.js';
import type { StepContext } from '../../src/postgres/migrate/step-context.js';
import { stepFailed } from '../../src/postgres/migrate/step-failed.js';
import { refreshMaterializedViews } from '../../src/postgres/schema-copy/materialized-views.js';
import { closeSession, inTransaction, openSession, type Session } from '../../src/postgres/session.js';
import { installState } from '../../src/postgres/state.js';
import { ensurePublications } from '../../src/postgres/streams.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

/** The usual audit of DDL, in a table that the plan moves. */
const AUDITED = `
  CREATE TABLE public.orders (id int PRIMARY KEY, body text);
  CREATE TABLE public.ddl_log (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tag text);
  CREATE MATERIALIZED VIEW public.sums AS SELECT count(*) FROM public.orders;
  CREATE FUNCTION public.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO public.ddl_log (tag) VALUES (TG_TAG); END';
  CREATE FUNCTION public.shout() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.body := upper(NEW.body); RETURN NEW; END';
  CREATE TRIGGER shout BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.shout();
  CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION public.log_ddl();`;

let db: TestDatabase;
let session: Session;
afterEach(async () => {
  await closeSession(session);
  await db.drop();
});

async function start(server: 'pg15' | 'pg18'): Promise<StepContext> {
  db = await testDatabase(server, 'event triggers');
  const green = asDatabase(db, 'green');
  session = await openSession(green, { purpose: 'test' });
  await installState(session, 'green');
  await withClient(db.config, (client) => client.query(AUDITED));
  const connect = (why: string): Promise<Session> => openSession(green, { purpose: why });
  return { runId: 'run-1', session, connect, signal: new AbortController().signal, onProgress: () => undefined };
}

const ORDERS = { schema: 'public', name: 'orders' };

async function logged(): Promise<string[]> {
  const { rows } = await session.query<{ tag: string }>('SELECT tag FROM public.ddl_log ORDER BY id');
  return rows.map(({ tag }) => tag);
}

describe.each(['pg15', 'pg18'] as const)('an event trigger that writes down DDL, on %s', (server) => {
  it('does not fire for ours, and fires for that of others all the while', async () => {
    const context = await start(server);
    await armFence(session, [ORDERS]);
    await dropFence(session);
    await refreshMaterializedViews(context);
    await ensurePublications(session, {
      migration: 'audited',
      direction: 'to_blue',
      tables: [{ table: ORDERS }],
      streams: 1,
    });
    await dropPublications(session, 'verdigris_audited_to_blue');
    expect(await installDdlTriggers(session)).toBe(true);
    await shortLocks(context, session, { object: 'test' }, () =>
      session.query('ALTER TABLE public.orders ADD COLUMN more int'),
    );
    const [orders] = await readTables(session, { include: ['public.orders'], exclude: [] });
    if (orders === undefined) throw new Error('the table is there');
    expect(await inTransaction(session, () => columnsRead(session, orders, 'body'))).toEqual(['body']);
    const index = {
      table: 'orders',
      name: 'by_body',
      columns: ['body'],
      unique: false,
      method: 'btree',
      include: [],
    } as const;
    await shapeOf(session, orders, { ...index, columns: [...index.columns], include: [] });
    const build = {
      table: ORDERS,
      name: 'by_body',
      object: 'by_body',
      searchPath: '',
      sql: () => 'CREATE INDEX by_body ON public.orders (body)',
      accept: () => undefined,
      failed: (error: unknown) => stepFailed('not built', error, 'see why'),
    };
    await buildIndex(context, build, DEFAULT_INDEX_SETTINGS);
    expect(await logged()).toEqual([]);

    // The session is an ordinary one again, and ours watch as before.
    await session.query(`INSERT INTO public.orders VALUES (1, 'a')`);
    expect((await session.query('SELECT body FROM public.orders')).rows).toEqual([{ body: 'A' }]);
    await withClient(db.config, (client) => client.query('CREATE TABLE public.theirs (id int)'));
    expect(await logged()).toEqual(['CREATE TABLE']);
    expect((await session.query('SELECT tag FROM verdigris.ddl')).rows).toEqual([{ tag: 'CREATE TABLE' }]);
    await dropDdlTriggers(session);
    expect(await logged()).toEqual(['CREATE TABLE']);
  });

  it('does not fire for SQL of the plan where the server can leave it at that, and the triggers of rows do', async () => {
    const context = await start(server);
    const up = `ALTER TABLE public.orders ADD COLUMN more int; INSERT INTO public.orders VALUES (1, 'a')`;
    await runSql(context, 0, { name: 'more', up, down: 'SELECT 1' }, 'up');
    expect((await session.query('SELECT body FROM public.orders')).rows).toEqual([{ body: 'A' }]);
    expect(await logged()).toEqual(server === 'pg15' ? ['ALTER TABLE'] : []);
    await session.query('CREATE TABLE public.after (id int)');
    expect((await logged()).at(-1)).toBe('CREATE TABLE');
  });
});

it('a fence that an event trigger refuses is told by its words, and not as a lock', async () => {
  await start('pg15');
  await session.query(`
    CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no DDL on Fridays'; END$$;
    CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION public.refuse();
    ALTER EVENT TRIGGER refuse ENABLE ALWAYS`);
  const armed = armFence(session, [ORDERS]);
  await expect(armed).rejects.toMatchObject({ type: 'PromotionBlocked' });
  await expect(armed).rejects.toThrow("the fence can't be put on public.orders: no DDL on Fridays (P0001)");
});
