import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startPostgres } from '../../src/embedded/postgres-server.js';
import { planSchema, type PlanInput } from '../../src/plan/schema.js';
import { copyAnew } from '../../src/postgres/bootstrap/copy-anew.js';
import { refusedRow } from '../../src/postgres/bootstrap/refused-row.js';
import { openPace } from '../../src/postgres/bootstrap/copy/pace.js';
import { schemaCopyFailed } from '../../src/postgres/schema-copy/schema-copy-failed.js';
import { badRow, FeedErrors } from '../../src/postgres/stuck-feed.js';
import type { Side } from '../../src/side.js';
import { asDatabase, testDatabase, withClient } from '../support/postgres.js';
import { CopyPair } from '../postgres/copy-pair.js';

/** `big` is cut into three parcels, the small ones share another. */
const DDL = `
  CREATE FUNCTION length_of(body text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    $$BEGIN IF body = 'x' THEN RAISE EXCEPTION 'too short' USING ERRCODE = 'SHOP1'; END IF; RETURN length(body); END$$;
  CREATE TABLE big (id int, body text NOT NULL, n int NOT NULL DEFAULT 0);
  CREATE TABLE small (id int, body text);
  CREATE TABLE other (id int, body text);`;
const KEYS = `;
  ALTER TABLE big ADD PRIMARY KEY (id); ALTER TABLE small ADD PRIMARY KEY (id); ALTER TABLE other ADD PRIMARY KEY (id);`;
const ROWS = `
  INSERT INTO big SELECT n, repeat(md5(n::text), 58) FROM generate_series(1, 44000) n;
  INSERT INTO small SELECT n, 'b' || n FROM generate_series(1, 1000) n;
  INSERT INTO other SELECT n, n::text FROM generate_series(1, 1000) n;`;

async function withPair(
  purpose: string,
  work: (pair: CopyPair) => Promise<void>,
  migrations: PlanInput['migrations'] = [],
  more: Partial<PlanInput> = {},
  servers: Parameters<typeof CopyPair.start>[0] = ['pg15', 'pg18'],
): Promise<void> {
  const pair = await CopyPair.start(servers, purpose, DDL, ROWS + KEYS, migrations, more);
  try {
    await work(pair);
  } finally {
    await pair.stop();
  }
}

/** To the end, with changes that come after the copy. */
async function followed(pair: CopyPair): Promise<void> {
  await pair.addKeys(KEYS);
  await pair.blue.query(
    `UPDATE big SET n = n + 1 WHERE id <= 100; INSERT INTO small VALUES (5000, 'late'); DELETE FROM other WHERE id < 10`,
  );
  await pair.follow();
  await pair.caughtUp();
  expect(await pair.differences()).toEqual([]);
}

async function count(pair: CopyPair, table: string): Promise<number> {
  return (await pair.green.query<{ n: number }>(`SELECT count(*)::int AS n FROM ${table}`)).rows[0]?.n ?? -1;
}

async function endBackends(pair: CopyPair, name: string, side: Side = 'blue'): Promise<number> {
  const { rowCount } = await pair[side].query(
    `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1`,
    [name],
  );
  return rowCount ?? 0;
}

interface Worker {
  readonly process: ChildProcess;
  readonly bytes: Promise<void>;
  readonly outcome: Promise<string>;
  readonly ended: Promise<unknown>;
}

/** Another worker, as a process of its own. */
function worker(pair: CopyPair, parcel: number): Worker {
  const { databases, run, plan } = pair.context();
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', fileURLToPath(new URL('../postgres/copy-child.ts', import.meta.url))],
    {
      env: { ...process.env, COPY_ORDER: JSON.stringify({ databases, run, plan, parcel }) },
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const ended = once(child, 'exit');
  let text = '';
  const seen = async (pattern: RegExp): Promise<string> => {
    for (;;) {
      const match = pattern.exec(text);
      if (match !== null) return match[1] ?? '';
      await sleep(5);
      if (child.exitCode !== null && pattern.exec(text) === null) throw new Error(`the worker ended: ${text}`);
    }
  };
  child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const bytes = seen(/bytes [1-9](.*)/).then(() => undefined);
  const outcome = seen(/outcome (.*)/);
  outcome.catch(() => undefined);
  return { process: child, bytes, outcome, ended };
}

describe('the pace of a copy', () => {
  it('is watched again after the watch has lost its session', async () => {
    const own = await testDatabase('pg15', 'copy_pace');
    const watch = async (sql: string): Promise<readonly number[]> =>
      withClient(own.config, async (client) => {
        const { rows } = await client.query<{ pid: number }>(
          `${sql} FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'verdigris copy pace'`,
        );
        return rows.map(({ pid }) => pid);
      });
    const { bootstrap } = planSchema.parse({
      version: 1,
      name: 'pace',
      blue: { connection: 'b' },
      green: { connection: 'g' },
    });
    const pace = openPace('copy_pace', asDatabase(own, 'blue'), bootstrap, {});
    try {
      await expect.poll(() => watch('SELECT pid'), { timeout: 5_000 }).toHaveLength(1);
      const [first] = await watch('SELECT pid, pg_terminate_backend(pid, 5000)');
      await expect
        .poll(async () => (await watch('SELECT pid')).filter((pid) => pid !== first), { timeout: 5_000 })
        .toHaveLength(1);
    } finally {
      pace.close();
      await own.drop();
    }
  });
});

describe('a copy', () => {
  it('whose slot somebody drops is given up at once', () =>
    withPair('slot gone', async (pair) => {
      await pair.planCopy();
      const held = pair.hold();
      await pair.phase('ready');
      await pair.blue.query(
        'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()',
      );
      await expect(held.ended).rejects.toMatchObject({ type: 'ReplicationBroken' });
    }));

  it('whose holder died keeps the tables that are finished and leaves the rest to tablesync', () =>
    withPair('copy_lost', async (pair) => {
      const parcels = await pair.planCopy();
      expect(parcels.length).toBeGreaterThanOrEqual(3);
      const holder = pair.hold();
      await pair.phase('ready');
      const smallOnes = parcels.find(({ pieces }) => pieces.length > 1);
      const [first, second] = parcels.filter((parcel) => parcel !== smallOnes);
      expect((await pair.copyParcel(smallOnes?.id ?? -1)).outcome).toBe('copied');
      expect((await pair.copyParcel(first?.id ?? -1)).outcome).toBe('copied');
      expect(await endBackends(pair, 'verdigris copy snapshot')).toBe(1);
      await expect(holder.ended).rejects.toThrow('the connection that holds the snapshot was lost');
      expect((await pair.copyParcel(second?.id ?? -1)).outcome).toBe('lost');
      expect(await pair.hold().ended).toBe('lost');
      expect(await pair.finish()).toEqual({ tables: 2, left: ['public.big'] });
      expect([await count(pair, 'big'), await count(pair, 'small')]).toEqual([0, 1000]);
      expect((await pair.copyParcel(second?.id ?? -1)).outcome).toBe('lost');
      await followed(pair);
    }));

  it('keeps its snapshot when the holder loses its session on green, and hears there that it is closed', () =>
    withPair('copy_green', async (pair) => {
      const parcels = await pair.planCopy();
      const holder = pair.hold();
      await pair.phase('ready');
      const [first] = parcels;
      expect((await pair.copyParcel(first?.id ?? -1)).outcome).toBe('copied');
      for (let restart = 0; restart < 2; restart++) {
        await expect.poll(() => endBackends(pair, 'verdigris copy holder', 'green'), { timeout: 5_000 }).toBe(1);
      }
      const results = await pair.copyAll(parcels);
      expect(results.map(({ outcome }) => outcome)).toEqual(parcels.map(() => 'copied'));
      expect(await pair.finish()).toEqual({ tables: 3, left: [] });
      expect(await holder.ended).toBe('released');
      expect(await count(pair, 'big')).toBe(44_000);
      await followed(pair);
    }));

  it('loses no parcel that is done when green crashes', async () => {
    // Only processes crash here; what no commit waits for stays in memory for long.
    const settings = { wal_writer_delay: '10s', checkpoint_timeout: '1h', autovacuum: 'off', fsync: 'off' };
    const server = await startPostgres({ version: 18, name: 'copy-crash-green', settings });
    const pair = await CopyPair.start(['pg15', server], 'copy_crash', DDL, ROWS + KEYS);
    try {
      const parcels = await pair.planCopy();
      const [small, ...others] = [...parcels].sort((a, b) => b.pieces.length - a.pieces.length);
      const holder = pair.hold();
      await pair.phase('ready');
      expect(await pair.copyParcel(small?.id ?? -1)).toMatchObject({ outcome: 'copied', rows: 2000 });
      // Frozen first: none of them writes anything more.
      server.kill('SIGSTOP', 'all');
      server.kill('SIGKILL', 'all');
      await sleep(300);
      await server.restart();
      await pair.reachGreenAgain();
      await pair.copyAll(others);
      expect(await pair.finish()).toEqual({ tables: 3, left: [] });
      expect(await holder.ended).toBe('released');
      expect(await count(pair, 'small')).toBe(1000);
    } finally {
      await pair.stop();
      await server.stop();
    }
  });

  it('whose holder died before anything was copied begins anew', () =>
    withPair('copy_anew', async (pair) => {
      const parcels = await pair.planCopy();
      const holder = pair.hold();
      await pair.phase('ready');
      await pair.blue.query(`INSERT INTO small VALUES (2000, 'between')`);
      await endBackends(pair, 'verdigris copy snapshot');
      await expect(holder.ended).rejects.toThrow();
      const early = pair.copyParcel(0);
      await sleep(300);
      pair.hold();
      expect((await early).outcome).toBe('copied');
      await pair.copyAll(parcels);
      expect(await pair.finish()).toEqual({ tables: 3, left: [] });
      await followed(pair);
    }));

  it('survives a worker that is killed, and one that is frozen and wakes up late', () =>
    withPair(
      'copy_killed',
      async (pair) => {
        const parcels = await pair.planCopy();
        pair.hold();
        await pair.phase('ready');
        const [first, second] = parcels.filter(({ pieces }) => pieces.length === 1);
        const killed = worker(pair, first?.id ?? -1);
        const frozen = worker(pair, second?.id ?? -1);
        await Promise.all([killed.bytes, frozen.bytes]);
        killed.process.kill('SIGKILL');
        frozen.process.kill('SIGSTOP');
        const results = await pair.copyAll(parcels);
        expect(results.map(({ outcome }) => outcome)).toEqual(parcels.map(() => 'copied'));
        frozen.process.kill('SIGCONT');
        await frozen.outcome;
        expect(await pair.finish()).toEqual({ tables: 3, left: [] });
        expect(await count(pair, 'big')).toBe(44_000);
        await frozen.ended;
        await followed(pair);
      },
      [],
      // Slow enough to be met in the middle.
      { bootstrap: { method: 'copy', maxRate: '40MB' } },
    ));

  it('lets those through who want a table of blue for themselves, names them, and goes on with what is left', () =>
    withPair(
      'copy_lock',
      async (pair) => {
        const parcels = await pair.planCopy();
        pair.hold();
        await pair.phase('ready');
        const copying = Promise.allSettled(parcels.map(({ id }) => pair.copyParcel(id)));
        for (;;) {
          const { rowCount } = await pair.blue.query(
            // Autovacuum may have it, and looks at its size take it for a moment only.
            `SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
              WHERE relation = 'big'::regclass AND granted AND application_name LIKE 'verdigris%' AND query LIKE 'COPY %'`,
          );
          // All parcels of it: one alone would be done before anybody has waited for two seconds.
          if ((rowCount ?? 0) >= 3) break;
        }
        const started = performance.now();
        await pair.blue.query(
          `SET application_name = 'the shop'; BEGIN; LOCK TABLE big IN ACCESS EXCLUSIVE MODE; COMMIT`,
        );
        expect(performance.now() - started).toBeLessThan(4_000);
        const failed = (await copying).flatMap((result) =>
          result.status === 'rejected' ? [String(result.reason)] : [],
        );
        expect(failed.join('\n')).toMatch(
          /copying of .* it was stopped, since pid \d+ \(the shop, user postgres: .*waited for it for 2\.\d s/,
        );
        const again = await pair.copyAll(parcels);
        expect(again.map(({ outcome }) => outcome)).toEqual(parcels.map(() => 'copied'));
        expect(await pair.finish()).toEqual({ tables: 3, left: [] });
        expect(await count(pair, 'big')).toBe(44_000);
      },
      [],
      { bootstrap: { method: 'copy', maxRate: '20MB' } },
    ));

  it('and whatever looks for a row that is to blame lets those through who want its table of blue', () =>
    withPair(
      'copy_search',
      async (pair) => {
        // The last one fails, and each takes its time.
        const slow = `
          CREATE OR REPLACE FUNCTION length_of(body text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
            $$BEGIN IF body = 'x' THEN RAISE EXCEPTION 'too short' USING ERRCODE = 'SHOP1'; END IF;
                    PERFORM pg_catalog.pg_sleep(0.01); RETURN length(body); END$$`;
        for (const side of [pair.blue, pair.green]) await side.query(slow);
        await pair.blue.query(`UPDATE small SET body = 'x' WHERE id = 1000; SET application_name = 'the shop'`);
        const parcels = await pair.planCopy();
        const small = parcels.find(({ pieces }) => pieces.some(({ root }) => root.name === 'small'));
        pair.hold();
        await pair.phase('ready');
        await pair.green.query(`
          CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END';
          CREATE TRIGGER slow BEFORE INSERT ON big FOR EACH ROW EXECUTE FUNCTION slow();
          ALTER TABLE big ENABLE ALWAYS TRIGGER slow`);
        const { databases, signal } = pair.context();
        const searches: readonly (readonly [string, string, RegExp, () => Promise<unknown>])[] = [
          [
            'small',
            'copy failing row',
            /search for the row of table public\.small/,
            () => pair.copyParcel(small?.id ?? -1),
          ],
          ['small', 'find refused row', /search for a row/, () => badRow(pair.context(), pair.ourBlue, pair.ourGreen)],
          [
            'big',
            'copy for trial',
            /trial copy/,
            () => refusedRow(databases, { schema: 'public', name: 'big' }, signal),
          ],
        ];
        for (const [table, application, what, search] of searches) {
          // What is written since the slot was made is what the search of a feed looks at.
          await pair.blue.query('UPDATE small SET body = body');
          const searching = expect(search(), application).rejects.toMatchObject({
            ...{ type: 'LockNotHad', retryable: true },
            message: expect.stringMatching(
              new RegExp(`${what.source}.* since pid .*the shop.* has waited for it for 2`),
            ) as string,
          });
          await expect
            .poll(
              async () =>
                (
                  await pair.blue.query(
                    `SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                      WHERE relation = $1::regclass AND granted AND application_name = $2`,
                    [table, `verdigris ${application}`],
                  )
                ).rowCount,
              { interval: 20, timeout: 30_000 },
            )
            .toBe(1);
          const started = performance.now();
          await pair.blue.query(`BEGIN; LOCK TABLE ${table} IN ACCESS EXCLUSIVE MODE; COMMIT`);
          expect.soft(performance.now() - started, application).toBeLessThan(4_000);
          await searching;
        }
      },
      [{ addColumn: { table: 'small', column: 'length', type: 'int', up: 'public.length_of(body)' } }],
      {},
      // Twins: blue computes what functions of the application give.
      ['pg18', 'pg18'],
    ));

  it('names the row on which blue fails, and goes on by tablesync once it is corrected', () =>
    withPair(
      'copy_bad',
      async (pair) => {
        await pair.blue.query(`UPDATE big SET body = 'x' WHERE id = 18234`);
        const parcels = await pair.planCopy();
        const holder = pair.hold();
        await pair.phase('ready');
        const results = await Promise.allSettled(parcels.map(({ id }) => pair.copyParcel(id)));
        const failed = results.flatMap((result) => (result.status === 'rejected' ? [String(result.reason)] : []));
        expect(failed).toHaveLength(1);
        expect(failed[0]).toMatch(/table public\.big failed on the row with "id" = 18234: too short \(SHOP1\)/);
        expect(failed[0]).toMatch(/Next step: correct the row on blue, then resume: all of its table is copied anew/);
        holder.stop();
        await holder.ended;
        await pair.blue.query(`UPDATE big SET body = 'corrected' WHERE id = 18234`);
        expect(await pair.planCopy()).toEqual(parcels);
        expect(await pair.hold().ended).toBe('lost');
        expect(await pair.finish()).toEqual({ tables: 2, left: ['public.big'] });
        await followed(pair);
        expect(await count(pair, 'big WHERE ratio IS DISTINCT FROM 100 / (length(body) - 1)')).toBe(0);
      },
      [{ addColumn: { table: 'big', column: 'ratio', type: 'int', up: '100 / (public.length_of(body) - 1)' } }],
    ));

  it('names the row that green refuses', () =>
    withPair(
      'copy_long',
      async (pair) => {
        await pair.blue.query(`UPDATE other SET body = '1234567' WHERE id = 777`);
        const parcels = await pair.planCopy();
        pair.hold();
        await pair.phase('ready');
        await expect(pair.copyAll(parcels)).rejects.toThrow(
          /table public\.other failed on the row with "id" = 777: value too long for type character varying\(5\)/,
        );
        expect(await count(pair, 'other')).toBe(0);
      },
      [{ addColumn: { table: 'other', column: 'cut', type: 'varchar(5)', up: 'body' } }],
    ));

  it('that is stopped by a row brings the other tables of its parcel, and names a row of each that is stopped', () =>
    withPair(
      'copy_beside',
      async (pair) => {
        // The larger one comes first.
        await pair.blue.query(`INSERT INTO small SELECT n, '' FROM generate_series(10001, 15000) n;
                               UPDATE small SET body = '1234567' WHERE id = 777`);
        const parcels = await pair.planCopy();
        pair.hold();
        await pair.phase('ready');
        const [bundle, ...rest] = [...parcels].sort((a, b) => b.pieces.length - a.pieces.length);
        expect(bundle?.pieces.map(({ root }) => root.name)).toEqual(['small', 'other']);
        const copying = (): Promise<unknown> => pair.copyParcel(bundle?.id ?? -1);
        await pair.green.query('ALTER TABLE other ADD CONSTRAINT low CHECK (id < 900)');
        await expect(copying()).rejects.toThrow(
          /^the copy of table public\.small failed on the row with "id" = 777: .*; the copy of table public\.other failed on the row with "id" = 900: [^]*\nNext step: correct the row/,
        );
        await pair.green.query('ALTER TABLE other DROP CONSTRAINT low');
        await expect(copying()).rejects.toThrow(/^the copy of table public\.small failed on the row with "id" = 777: /);
        expect([await count(pair, 'small'), await count(pair, 'other')]).toEqual([0, 1000]);
        await pair.copyAll(rest);
        expect(await pair.finish()).toEqual({ tables: 2, left: ['public.small'] });
      },
      [{ addColumn: { table: 'small', column: 'cut', type: 'varchar(5)', up: 'body' } }],
    ));

  it('that finds no room on green can be tried again, and nothing is half there', () =>
    withPair('copy_full', async (pair) => {
      const parcels = await pair.planCopy();
      pair.hold();
      await pair.phase('ready');
      await pair.green.query(`
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
          $$BEGIN IF NEW.id = 900 THEN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END IF; RETURN NEW; END$$;
        CREATE TRIGGER full_disk BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION full_disk();
        ALTER TABLE other ENABLE ALWAYS TRIGGER full_disk`);
      await expect(pair.copyAll(parcels)).rejects.toMatchObject({
        retryable: true,
        message: expect.stringMatching(
          /^green: the copy of table public\.other ran out of something: no space left/,
        ) as string,
      });
      expect(await count(pair, 'other')).toBe(0);
      await pair.green.query('DROP TRIGGER full_disk ON other');
      await pair.copyAll(parcels);
      expect(await pair.finish()).toEqual({ tables: 3, left: [] });
      expect(await count(pair, 'other')).toBe(1000);
    }));

  it('leaves a table to tablesync that was rewritten in the middle', () =>
    withPair('copy_rewritten', async (pair) => {
      const parcels = await pair.planCopy();
      pair.hold();
      await pair.phase('ready');
      await pair.blue.query('VACUUM FULL small');
      await pair.copyAll(parcels);
      expect(await pair.finish()).toEqual({ tables: 2, left: ['public.small'] });
      await followed(pair);
    }));

  it('that is cancelled leaves nothing half there, and can be taken up again', () =>
    withPair(
      'copy_cancel',
      async (pair) => {
        const parcels = await pair.planCopy();
        pair.hold();
        await pair.phase('ready');
        const cancel = new AbortController();
        const seen: object[] = [];
        const copying = pair.copyParcel(0, cancel.signal, seen);
        const early = copying.then(
          () => true,
          () => true,
        );
        while (seen.length < 2 && !(await Promise.race([early, sleep(5, false)])));
        cancel.abort();
        await expect(copying).rejects.toThrow();
        expect(await count(pair, 'big')).toBe(0);
        await pair.copyAll(parcels);
        expect(await pair.finish()).toMatchObject({ left: [] });
        expect(await count(pair, 'big')).toBe(44_000);
      },
      [],
      { bootstrap: { method: 'copy', maxRate: '80MB' } },
    ));

  it('waits for whoever is in the way of its beginning and its end, and says for whom', () =>
    withPair('copy_wait', async (pair) => {
      await pair.planCopy();
      const seen: object[] = [];
      const noteOf = (): string => JSON.stringify(seen.at(-1) ?? {});
      const waits = async (statement: string): Promise<void> => {
        const words = statement.split(' ', 3).join(' ');
        await expect
          .poll(noteOf)
          .toMatch(new RegExp(String.raw`state of the copy.*waits for pid \d+ \(the shop.*${words}`));
        await pair.green.query('COMMIT');
      };
      const state = `SELECT state FROM verdigris.progress WHERE step = 'copy' FOR SHARE`;
      await pair.green.query(`SET application_name = 'the shop'; BEGIN`);
      await pair.green.query(state);
      pair.hold(seen);
      await waits(state);
      await pair.phase('ready');
      // Nothing says any more that it waits.
      await expect.poll(noteOf).toMatch(/"done":1/);
      const lock = 'LOCK TABLE small IN SHARE UPDATE EXCLUSIVE MODE';
      await pair.green.query('BEGIN');
      await pair.green.query(lock);
      const finishing = pair.finish(seen);
      await waits(lock);
      expect(await finishing).toMatchObject({ tables: 0 });
    }));

  it('waits for an old transaction and says for whose, and can be cancelled there', () =>
    withPair('copy_old', async (pair) => {
      await pair.planCopy();
      await pair.blue.query(`BEGIN; INSERT INTO small VALUES (9000, 'open')`);
      const seen: object[] = [];
      const holder = pair.hold(seen);
      while (seen.length === 0) await sleep(20);
      expect(JSON.stringify(seen[0])).toMatch(/waitingFor.*pid \d+/);
      holder.stop();
      expect(await holder.ended).toBe('cancelled');
      expect(
        (await pair.ourBlue.query('SELECT FROM pg_replication_slots WHERE database = current_database()')).rowCount,
      ).toBe(0);
      await pair.blue.query('ROLLBACK');
    }));
});

describe('a function that names something without its schema', () => {
  const NAMES = `
    CREATE FUNCTION base(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)';
    CREATE FUNCTION loud(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN base($1); END';
    CREATE FUNCTION louder(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT base($1)';
    CREATE TABLE checked (id int, body text, CHECK (loud(body) = body));
    CREATE TABLE made (id int, body text, made text GENERATED ALWAYS AS (louder(body)) STORED);
    CREATE TABLE named (id int, ref regclass);`;
  const NAMED_ROWS = `
    CREATE TABLE only_here (id int PRIMARY KEY);
    INSERT INTO checked VALUES (1, 'A'); INSERT INTO made VALUES (1, 'a'); INSERT INTO named VALUES (1, 'made'), (2, 'only_here');
    ALTER TABLE checked ADD PRIMARY KEY (id); ALTER TABLE made ADD PRIMARY KEY (id); ALTER TABLE named ADD PRIMARY KEY (id);`;

  it('is blamed where green refuses rows or an index for it, and a row is where its value names nothing', async () => {
    const pair = await CopyPair.start(['pg15', 'pg18'], 'copy_names', NAMES, NAMED_ROWS, [], {
      tables: { include: ['public.*'], exclude: ['public.only_here'] },
    });
    try {
      const parcels = await pair.planCopy();
      pair.hold();
      await pair.phase('ready');
      const told = await pair.copyAll(parcels).then(
        () => '',
        (error: unknown) => String(error),
      );
      expect(told).toContain(
        'the copy of table public.checked failed in a function: function base(text) does not exist',
      );
      expect(told).toContain('the copy of table public.made failed in a function: function base(text) does not exist');
      expect(told).toContain('the copy of table public.named failed on the row with "id" = 2');
      const databases = { blue: pair.blueDatabase, green: pair.greenDatabase };
      const refused = async (name: string): Promise<string> =>
        String(await refusedRow(databases, { schema: 'public', name }, new AbortController().signal));
      expect(await refused('checked')).toMatch(
        /rows of table public.checked: function base\(text\).*\n.*ALTER FUNCTION/,
      );
      expect(await refused('named')).toContain('"id" = 2');
      const index = 'CREATE INDEX by_louder ON public.checked USING btree (public.louder(body))';
      const failed = await pair.ourGreen.query(index).catch((error: unknown) => schemaCopyFailed(index, error));
      expect(failed).toMatchObject({
        type: 'SchemaCopyFailed',
        nextStep: expect.stringContaining('ALTER FUNCTION') as string,
      });
    } finally {
      await pair.stop();
    }
  });
});

describe('rows that green refuses', () => {
  const ITEMS = `
    CREATE TABLE item (id int, body text NOT NULL, n int NOT NULL DEFAULT 0);
    CREATE TABLE line (id int, item int);`;
  const ITEM_KEYS = `
    ALTER TABLE item ADD PRIMARY KEY (id); ALTER TABLE line ADD PRIMARY KEY (id);`;
  const REFERENCE = `;
    ALTER TABLE line ADD FOREIGN KEY (item) REFERENCES item ON DELETE CASCADE;`;
  const ITEM_ROWS = `
    INSERT INTO item SELECT n, 'body ' || n FROM generate_series(1, 1000) n;
    INSERT INTO line SELECT n, n FROM generate_series(1, 1000) n;`;
  const bad = (because: string): object => ({
    type: 'BackfillFailed',
    message: expect.stringMatching(new RegExp(because)) as string,
  });
  let pair: CopyPair;

  beforeAll(async () => {
    pair = await CopyPair.start(['pg15', 'pg18'], 'copy_refused', ITEMS, ITEM_ROWS + ITEM_KEYS + REFERENCE, [
      { addColumn: { table: 'item', column: 'ratio', type: 'int', up: '100 / (length(body) - 1)', notNull: true } },
    ]);
  });

  afterAll(() => pair.stop());

  it('are named one after the other when PostgreSQL copies the table itself, and it goes on once they are corrected', async () => {
    const parcels = await pair.planCopy();
    pair.hold();
    await pair.phase('ready');
    await pair.blue.query('VACUUM FULL item');
    await pair.blue.query(`UPDATE item SET body = 'x' WHERE id IN (10, 20)`);
    await pair.blue.query(`UPDATE item SET n = -1 WHERE id = 30`);
    await pair.copyAll(parcels);
    expect(await pair.finish()).toEqual({ tables: 1, left: ['public.item'] });
    // A constraint of the plan is there before green follows.
    await pair.addKeys(`${ITEM_KEYS} ALTER TABLE item ADD CHECK (n >= 0)`);
    for (const [because, correct] of [
      ['"id" = 10: division by zero', `UPDATE item SET body = 'corrected' WHERE id = 10`],
      ['"id" = 20: division by zero', `UPDATE item SET body = 'corrected' WHERE id = 20`],
      ['"id" = 30: .*check constraint "item_n_check"', `UPDATE item SET n = 0 WHERE id = 30`],
    ] as const) {
      await expect(pair.follow()).rejects.toMatchObject(bad(`refuses the row of table public.item with ${because}`));
      await pair.blue.query(correct);
    }
    await pair.follow();
    await pair.addKeys(REFERENCE);
    await expectFollowed();
  });

  it('are named when they come by replication, and their table is copied anew once they are corrected', async () => {
    await pair.blue.query(`INSERT INTO item VALUES (5000, 'x'); INSERT INTO line VALUES (5000, 5000)`);
    await expect(stuck()).rejects.toMatchObject(bad('row of table public.item with "id" = 5000.*division by zero'));
    await expect(anew()).rejects.toMatchObject(bad('"id" = 5000'));
    await pair.blue.query(`UPDATE item SET body = 'corrected' WHERE id = 5000`);
    await anew();
    await expectFollowed();
  });

  it('and are not on blue any more stop nothing for good either', async () => {
    await pair.blue.query(`INSERT INTO item VALUES (6000, 'x')`);
    await pair.blue.query(`UPDATE item SET body = 'corrected' WHERE id = 6000`);
    await expect(stuck()).rejects.toMatchObject(
      bad('no row that is on blue now is to blame[^]*public.item will be copied'),
    );
    await anew();
    await expectFollowed();
    // Nothing is copied twice.
    await anew();
  });

  /** Watches the feed as whoever waits for green does. */
  async function stuck(): Promise<void> {
    const errors = new FeedErrors(pair.context(), pair.ourBlue, pair.ourGreen);
    for (const end = Date.now() + 30_000; Date.now() < end; await sleep(300)) await errors.refuse();
  }

  function anew(): Promise<void> {
    return copyAnew({ ...pair.context(), markerMs: 500, stuckErrors: 2 });
  }

  async function expectFollowed(): Promise<void> {
    await pair.caughtUp();
    expect(await pair.differences()).toEqual([]);
    expect(await count(pair, 'item WHERE ratio IS DISTINCT FROM 100 / (length(body) - 1)')).toBe(0);
    expect(await count(pair, 'line')).toBeGreaterThanOrEqual(1000);
  }
});

describe('hundreds of small tables', () => {
  it('are copied in a few parcels, quickly', async () => {
    const each = (sql: (n: number) => string): string => Array.from({ length: 500 }, (_, n) => sql(n)).join('');
    const pair = await CopyPair.start(
      ['pg15', 'pg18'],
      'copy_many',
      each((n) => `CREATE TABLE t${n} (id int PRIMARY KEY, body text);`),
      each((n) => `INSERT INTO t${n} VALUES (1, 'a'), (2, 'b');`),
    );
    try {
      const parcels = await pair.planCopy();
      expect(parcels.length).toBeLessThan(30);
      pair.hold();
      await pair.phase('ready');
      const started = performance.now();
      await pair.copyAll(parcels);
      expect(performance.now() - started).toBeLessThan(15_000);
      expect(await pair.finish()).toEqual({ tables: 500, left: [] });
      expect(await count(pair, 't499')).toBe(2);
    } finally {
      await pair.stop();
    }
  });
});
