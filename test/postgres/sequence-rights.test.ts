import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readCarriedSequences } from '../../src/postgres/carried-sequences.js';
import type { TablePatterns } from '../../src/postgres/catalog-pattern.js';
import { examine } from '../../src/postgres/doctor/inventory.js';
import { openBlue, planOpeningBlue } from '../../src/postgres/doctor/open-blue.js';
import { claimDatabases } from '../../src/postgres/ownership.js';
import { preparePromotion } from '../../src/postgres/prepare-promotion.js';
import { tryPromotion } from '../../src/postgres/promote.js';
import { withSession, type Database, type Databases } from '../../src/postgres/session.js';
import { ensurePublications } from '../../src/postgres/streams.js';
import { asDatabase, testDatabase, withClient, type TestDatabase } from '../support/postgres.js';

/* A sequence need not belong to whoever owns the tables. From PostgreSQL 16 on the user of a run need be no superuser. */

const ROLE = `sequences_${process.pid}`;
const MIGRATION = 'sequence-rights';
const ORDERS = { table: { schema: 'public', name: 'orders' } };
const PROGRESS = `GRANT EXECUTE ON FUNCTION pg_catalog.pg_replication_origin_progress(text, boolean) TO ${ROLE}`;
const SCHEMA = 'CREATE SCHEMA "Odd one"; CREATE SEQUENCE "Odd one"."Invoice no"; CREATE SEQUENCE public.spare';

let own: Record<'blue' | 'green', TestDatabase>;
let databases: Databases;

beforeAll(async () => {
  own = { blue: await testDatabase('pg18', 'sequences blue'), green: await testDatabase('pg18', 'sequences green') };
  await sql('blue', `CREATE ROLE ${ROLE} LOGIN REPLICATION PASSWORD 'x'; GRANT pg_create_subscription TO ${ROLE}`);
  for (const side of ['blue', 'green'] as const) {
    await sql(side, `GRANT CREATE ON DATABASE ${own[side].database} TO ${ROLE}; ${PROGRESS}; ${SCHEMA}`);
  }
  await sql('blue', 'CREATE TABLE public.left_out (id serial PRIMARY KEY)');
  databases = { blue: asRole('blue'), green: asRole('green') };
  await claimDatabases(databases, { runId: 'run', migration: MIGRATION }, 'flag');
  for (const side of ['blue', 'green'] as const) {
    await sql(side, `CREATE TABLE public.orders (id int PRIMARY KEY); ALTER TABLE public.orders OWNER TO ${ROLE}`);
  }
  await withSession(databases.blue, { purpose: 'test' }, (session) =>
    ensurePublications(session, { migration: MIGRATION, direction: 'to_green', tables: [ORDERS], streams: 1 }),
  );
});

afterAll(async () => {
  const { config } = own.blue;
  await own.green.drop();
  await own.blue.drop();
  await withClient({ ...config, database: 'postgres' }, (client) => client.query(`DROP ROLE ${ROLE}`));
});

function sql(side: 'blue' | 'green', text: string): Promise<unknown> {
  return withClient(own[side].config, (client) => client.query(text));
}

function asRole(side: 'blue' | 'green'): Database {
  const database = asDatabase(own[side], side);
  return { ...database, config: { ...database.config, user: ROLE, password: 'x' } };
}

const SELECT_ONLY = `
  GRANT USAGE ON SCHEMA "Odd one" TO ${ROLE};
  GRANT SELECT ON SEQUENCE "Odd one"."Invoice no", public.spare TO ${ROLE}`;

const WITHOUT = { include: ['*.*'], exclude: ['"Odd one".*', 'public.spare'] };

const GRANT = `GRANT SELECT, UPDATE ON SEQUENCE "Odd one"."Invoice no", "public"."spare" TO "${ROLE}"`;

describe('sequences that the user of a side may read and not set', () => {
  const base = { migration: MIGRATION, from: 'blue' as const, fenced: [] };
  const refusal = (side: string): object => ({
    type: 'PromotionBlocked',
    message: expect.stringContaining(
      `the user "${ROLE}" of ${side} may not set the sequences "Odd one"."Invoice no", "public"."spare"`,
    ) as string,
    nextStep: expect.stringContaining(`on ${side}: ${GRANT};`) as string,
  });

  it('keep a promotion away that they would make one without a way back', async () => {
    await sql('blue', SELECT_ONLY);
    const prepared = (): Promise<unknown> => preparePromotion({ ...base, databases, wayBack: [ORDERS] });
    await expect(prepared()).rejects.toMatchObject(refusal('blue'));
    // Nobody was asked for rights on what the plan leaves out.
    const narrow = preparePromotion({ ...base, databases, wayBack: [ORDERS], patterns: WITHOUT });
    await expect(narrow).rejects.toThrow('green has no subscription');
    await sql('blue', GRANT);
    // What is looked at after the way back: this pair has no feed.
    await expect(prepared()).rejects.toThrow('green has no subscription');
  });

  it('are told with the GRANT when writes are to move to that side', async () => {
    await sql('green', SELECT_ONLY);
    const promotion = { ...base, databases, knownTables: [], maxHoldMs: 2_000, lockTimeoutMs: 40, sequenceGap: 1_000 };
    await expect(tryPromotion({ ...promotion, feedBack: true })).rejects.toMatchObject(refusal('green'));
    // Blue's may not even be read now.
    await sql('blue', `REVOKE ALL ON SEQUENCE "Odd one"."Invoice no", public.spare FROM ${ROLE}`);
    const carried = (patterns?: TablePatterns): Promise<unknown[]> =>
      withSession(databases.blue, { purpose: 'test' }, (blue) =>
        withSession(databases.green, { purpose: 'test' }, (green) => readCarriedSequences(blue, green, patterns)),
      );
    expect(await carried(WITHOUT)).toEqual([]);
    expect(await carried({ include: ['*.*'], exclude: [] })).toHaveLength(2);
    await sql('blue', GRANT);
    await sql('green', GRANT);
    // A table that is moved may take its values from one.
    expect(await carried(WITHOUT)).toHaveLength(2);
  });

  it('keep blue from being opened without green, unless the plan leaves them out', async () => {
    await sql('blue', `REVOKE UPDATE ON SEQUENCE "Odd one"."Invoice no", public.spare FROM ${ROLE}`);
    await sql('blue', `UPDATE verdigris.route SET writes_on = 'green', epoch = epoch + 1, opening = NULL`);
    const lost = { ...databases, green: { ...databases.green, config: { ...databases.green.config, port: 1 } } };
    const plan = async (exclude: string[]): ReturnType<typeof planOpeningBlue> =>
      planOpeningBlue(lost, await examine(lost), { state: 'over', why: 'the test says so' }, MIGRATION, {
        include: ['*.*'],
        exclude,
      });
    const exclude = ['public.left_out'];
    expect(await plan(exclude)).toMatchObject({ refused: true, next: `on blue: ${GRANT}; then ask again` });
    expect(await plan([])).toMatchObject({ refused: true, next: expect.stringContaining('left_out_id_seq') as string });
    await sql('blue', GRANT);
    const opened = await plan(exclude);
    if (opened.refused) throw new Error(opened.why);
    await openBlue(lost, opened);
    // Of PostgreSQL's own: nobody has asked it for a value.
    const last = await withSession(databases.blue, { purpose: 'test' }, async (session) => {
      const { rows } = await session.query<{ last: string }>('SELECT last_value::text AS last FROM public.spare');
      return rows[0]?.last;
    });
    expect(last).toBe('1001');
  });
});
