import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { backfillTable } from '../../src/postgres/migrate/backfill.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import type { Work } from '../../src/postgres/migrate/plan-work.js';
import type { Verification } from '../../src/postgres/verify/verify-tables.js';
import { NO_LAG, ReplicatedPair, workOf, type Comparison } from '../postgres/replicated-pair.js';

/*
 * New columns without an `up`: their default, or NULL, is what every row has as long as only the feed writes green.
 */

const DDL = `
  CREATE TYPE mood AS ENUM ('wild', 'calm');
  CREATE DOMAIN price AS numeric(8, 2) DEFAULT 5 CHECK (VALUE >= 0);
  CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
  CREATE TABLE tx (id int PRIMARY KEY, old text, state text);
  CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
  CREATE TABLE part_1 PARTITION OF part DEFAULT;`;
const ROWS = `
  INSERT INTO tx SELECT n, 'o', 's' FROM generate_series(1, 500) n; INSERT INTO part SELECT generate_series(1, 100)`;

/** Column, its type, its default, what is planted. */
const COMPARED: readonly (readonly [column: string, type: string, byDefault: string | undefined, other: string])[] = [
  ['version', 'integer', '1', '99'],
  ['processed_at', 'timestamptz', undefined, `'2026-01-01'`],
  ['below', 'bigint', '-1', 'NULL'],
  ['ratio', 'double precision', '0.1', '0.2'],
  ['amount', 'numeric(8,2)', '1', '1.01'],
  ['tags', 'text[]', `'{}'`, `'{a}'`],
  ['state2', 'mood', `'calm'`, `'wild'`],
  ['label', 'varchar(20)', `'a \\''b'`.replace(`\\'`, `'`), `'b'`],
  ['Größe "x"', 'json', `'{"a": 1}'`, `'{"a":1}'`],
  ['called', 'int', 'twice(4)', '9'],
  ['since', 'timestamptz', `'now'`, `'2026-01-01'`],
  ['carried', 'text', `'x'`, `'y'`],
];
const NOT_COMPARED: readonly (readonly [column: string, type: string, byDefault: string | undefined])[] = [
  ['stamp', 'timestamptz', 'now()'],
  ['who', 'text', 'CURRENT_USER'],
  ['cost', 'price', undefined],
];

const add = ([column, type, byDefault]: readonly [string, string, string | undefined, ...unknown[]]): object => ({
  addColumn: {
    ...{ table: 'tx', column, type },
    ...(byDefault === undefined ? {} : { default: byDefault }),
    ...(column === 'carried' ? { down: 'old = carried' } : {}),
  },
});
const MIGRATIONS = [
  ...[...COMPARED, ...NOT_COMPARED].map(add),
  { addColumn: { table: 'tx', column: 'loud', type: 'text', up: 'upper(old)' } },
  { addColumn: { table: 'part', column: 'n', type: 'int', default: '0' } },
];

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;

describe('new columns without "up", 15 to 18', () => {
  const server = 'pg15';
  let pair: ReplicatedPair;
  let work: Work;
  let passes = 0;

  beforeAll(async () => {
    pair = await ReplicatedPair.start(server, 'defaults', DDL, ROWS);
    work = await workOf(MIGRATIONS);
    for (const table of work.tables) await expandTable(pair.context(), table);
    for (const table of work.tables) await backfillTable(pair.context(), table, NO_LAG);
    await pair.blue.query(
      `INSERT INTO tx SELECT n, 'o', 's' FROM generate_series(501, 600) n; UPDATE tx SET state = 't' WHERE id < 9`,
    );
    await pair.caughtUp();
  });
  afterAll(() => pair.stop());

  function verify(options: Partial<Comparison> = {}): Promise<Verification> {
    return pair.verify({ pass: `pass ${++passes}`, tables: ['tx', 'part'], work, ...options });
  }

  /** Changes green behind the back of everybody; returns how it is undone. */
  async function planted(column: string, other: string, id: number): Promise<() => Promise<unknown>> {
    const table = column === 'n' ? 'part' : 'tx';
    const kept = (sql: string): Promise<unknown> =>
      pair.green.query(`BEGIN; SET LOCAL session_replication_role = replica; ${sql}; COMMIT`);
    await kept(`UPDATE ${table} SET ${quoted(column)} = ${other} WHERE id = ${id}`);
    return () =>
      kept(
        `UPDATE ${table} SET ${quoted(column)} = (SELECT ${quoted(column)} FROM ${table} WHERE id <> ${id} LIMIT 1) WHERE id = ${id}`,
      );
  }

  it('are equal to their default, and those are named of which that can not be said', async () => {
    const { notCompared, ...found } = await verify();
    expect(found).toMatchObject({ differingRows: 0, derivedChecked: 600 * (COMPARED.length + 1) + 100 });
    expect(notCompared).toEqual(NOT_COMPARED.map(([column]) => `public.tx.${column}`));
  });

  it.each([...COMPARED, ['n', 'int', '0', '7'] as const])(
    '%s: another value is found, in a pass over everything and in one over what has changed',
    async (column, _type, _default, other) => {
      const table = column === 'n' ? 'public.part' : 'public.tx';
      const difference = { table, key: '"id" = 7', kind: 'derived', columns: [column] };
      for (const scope of ['changed', 'all'] as const) {
        expect(await verify()).toMatchObject({ differingRows: 0 });
        const undo = await planted(column, other, 7);
        expect(await verify({ scope })).toMatchObject({ scope, differing: [difference] });
        await undo();
      }
    },
  );

  it('are all named where SQL of the plan may have written them', async () => {
    const undo = await planted('version', '99', 7);
    const withSql = await workOf([
      ...MIGRATIONS,
      { sql: { name: 'fill', up: 'UPDATE tx SET version = 2', down: 'SELECT 1' } },
    ]);
    const { differingRows, notCompared } = await verify({ work: withSql });
    await undo();
    const names = [...COMPARED, ...NOT_COMPARED].map(([column]) => `public.tx.${column}`);
    expect({ differingRows, notCompared }).toEqual({ differingRows: 0, notCompared: [...names, 'public.part.n'] });
  });

  it('are the application’s after the promotion', async () => {
    await pair.promoteGreen();
    await pair.green.query('UPDATE tx SET version = 2 WHERE id = 9');
    const back = { source: pair.greenDatabase, target: pair.blueDatabase, direction: 'to_blue' } as const;
    expect(await verify(back)).toMatchObject({ differingRows: 0, derivedChecked: 0 });
  });
});
