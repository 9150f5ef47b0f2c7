import { expect, it, vi } from 'vitest';
import { planSchema } from '../../src/plan/schema.js';
import { readTables } from '../../src/postgres/catalog.js';
import type { Found, SideCheck, SideContext } from '../../src/postgres/preflight/check.js';
import { rowsByPosition } from '../../src/postgres/preflight/rows-by-position.js';
import { typeOids } from '../../src/postgres/preflight/type-oids.js';
import { closeSession, openSession } from '../../src/postgres/session.js';
import { errorsOf, only, preflightPair, RUN } from '../support/preflight-pair.js';

const pair = preflightPair('many');
const { check, onBlue, undo } = pair;

const PARTITIONS = 2_000;
const FUNCTIONS = 1_000;

it('checks that only warn look at thousands of partitions and functions in a moment', async () => {
  await onBlue(`
    CREATE SCHEMA many;
    CREATE TYPE many.mood AS ENUM ('well');
    CREATE TABLE many.event (id int PRIMARY KEY, body text, more text, at timestamptz, m many.mood) PARTITION BY RANGE (id);
    CREATE FUNCTION many.history() RETURNS trigger LANGUAGE plpgsql AS
      $x$ BEGIN INSERT INTO many.h SELECT OLD.*; RETURN NULL; END $x$;
    CREATE TRIGGER history AFTER DELETE ON many.event FOR EACH ROW EXECUTE FUNCTION many.history();
    CREATE FUNCTION many.of_part() RETURNS void LANGUAGE plpgsql AS
      $x$ BEGIN INSERT INTO many.h SELECT * FROM many.event_1999; END $x$`);
  undo.push(() => onBlue('DROP SCHEMA many'));
  // In parts, here and at the end: locks of one transaction are limited.
  const inParts = async (count: number, sql: (n: string) => string): Promise<void> => {
    for (let from = 0; from < count; from += 250) {
      await onBlue(
        `DO $do$ BEGIN FOR n IN ${from} .. ${Math.min(from + 250, count) - 1} LOOP EXECUTE ${sql('n')}; END LOOP; END $do$`,
      );
    }
  };
  undo.push(() => onBlue('DROP TABLE many.event; DROP FUNCTION many.history, many.of_part; DROP TYPE many.mood'));
  undo.push(() => inParts(FUNCTIONS, (n) => `format('DROP FUNCTION many.f_%s', ${n})`));
  undo.push(() => inParts(PARTITIONS, (n) => `format('DROP TABLE many.event_%s', ${n})`));
  await inParts(
    PARTITIONS,
    (n) =>
      `format('CREATE TABLE many.event_%s PARTITION OF many.event FOR VALUES FROM (%s) TO (%s)', ${n}, ${n}, ${n} + 1)`,
  );
  await inParts(
    FUNCTIONS,
    (n) =>
      `format('CREATE FUNCTION many.f_%s() RETURNS bigint LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO many.log SELECT count(*) FROM many.t_%s; END $f$', ${n}, ${n})`,
  );
  const session = await openSession(pair.blue, { purpose: 'test' });
  undo.push(() => closeSession(session));
  const sides = { blue: { connection: 'test_blue' }, green: { connection: 'test_green' } };
  const add = { addColumn: { table: 'many.event', column: 'loud', type: 'text', up: 'upper(body)' } };
  const plan = planSchema.parse({ version: 1, name: 'many', ...sides, migrations: [add] });
  const tables = await readTables(session, plan.tables);
  const context: SideContext = {
    ...{ side: 'blue', database: pair.blue, session, plan, runId: RUN, version: 15, isSuperuser: true },
    tables: () => Promise.resolve(tables),
    excluded: () => Promise.resolve([]),
  };
  const timed = async ({ run }: SideCheck): Promise<{ found: readonly Found[]; tookMs: number }> => {
    const from = performance.now();
    const found = await run(context);
    return { found, tookMs: performance.now() - from };
  };
  const byPosition = await timed(rowsByPosition);
  expect(byPosition.found).toMatchObject([
    {
      object: 'many.event',
      message: expect.stringContaining('many.history(), many.of_part() put whole rows') as string,
    },
  ]);
  expect(byPosition.tookMs).toBeLessThan(2_500);
  const byType = await timed(typeOids);
  expect(byType.found).toMatchObject([{ severity: 'info', object: 'many.mood (many.event.m)' }]);
  expect(byType.tookMs).toBeLessThan(1_000);
});

it('a check that only warns, and takes too long, refuses nothing', async () => {
  const slow = vi.spyOn(typeOids, 'run').mockImplementation(async ({ session }) => {
    await session.query('SELECT pg_sleep(60)');
    return [];
  });
  undo.push(() => Promise.resolve(slow.mockRestore()));
  const findings = await check();
  expect(errorsOf(findings)).toEqual([]);
  expect(only(findings, 'check-failed')).toMatchObject([
    {
      severity: 'warning',
      side: 'blue',
      object: 'type-oids',
      message: expect.stringContaining('what type-oids warns of could not be looked at: ') as string,
    },
  ]);
});
