import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findNames, openSnapshotSession } from '../../src/postgres/bootstrap/copy/copy-sessions.js';
import { closeSession, type Session } from '../../src/postgres/session.js';
import { comparePart } from '../../src/postgres/verify/compare-part.js';
import { SideSessions } from '../../src/postgres/verify/side-sessions.js';
import { readTablePairs } from '../../src/postgres/verify/table-pairs.js';
import { testedVersion } from '../support/tested-version.js';
import { ReplicatedPair, workOf } from './replicated-pair.js';

/* What an ordinary role makes in a database must not run as our user. */

const DDL = `
  CREATE TABLE public.codes (code varchar(20) PRIMARY KEY, body varchar(20));
  CREATE TABLE public.mine (id int PRIMARY KEY);
  CREATE SEQUENCE public.called;`;
const ROWS = `
  INSERT INTO public.codes SELECT 'c' || n, 'b' FROM generate_series(1, 3000) n;
  INSERT INTO public.mine VALUES (1);`;

/** Its last value says how often it was called, whatever became of the transaction. */
const NOTES = (name: string, types: string, returns: string, value: string): string =>
  `CREATE FUNCTION public.${name}(${types}) RETURNS ${returns} LANGUAGE plpgsql AS
     $$ BEGIN PERFORM nextval('public.called'); RETURN ${value}; END $$;`;

describe.each([testedVersion('pg15')])('functions of others on blue, %s', (server) => {
  let pair: ReplicatedPair;
  beforeAll(async () => {
    pair = await ReplicatedPair.start(server, 'others', DDL, ROWS);
  });
  afterAll(() => pair.stop());

  async function calls(): Promise<number> {
    const { rows } = await pair.blue.query<{ n: number }>(
      'SELECT CASE WHEN is_called THEN last_value::int ELSE 0 END AS n FROM public.called',
    );
    return rows[0]?.n ?? -1;
  }

  it('are not called by the verification, although they fit the types of a key better than those of PostgreSQL', async () => {
    const [two, yes] = ['varchar, varchar', 'boolean'];
    await pair.blue.query(`
      ${['>', '<=', '='].map((_, i) => NOTES(`taken_${i}`, two, yes, 'true')).join('\n')}
      CREATE OPERATOR public.> (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = public.taken_0);
      CREATE OPERATOR public.<= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = public.taken_1);
      CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = public.taken_2);`);
    await pair.withoutPublishing('public.codes', () =>
      pair.blue.query(`UPDATE public.codes SET body = 'other' WHERE code OPERATOR(pg_catalog.=) 'c7'::text`),
    );
    const { differing, rowsVerified } = await pair.verify({
      ...{ pass: 'keys', tables: ['codes'], work: await workOf([]) },
      partSize: { rows: 500, bytes: 64 * 1024 },
    });
    expect(differing).toMatchObject([{ key: '"code" = c7', columns: ['body'] }]);
    expect(rowsVerified).toBe(3000);
    expect(await calls()).toBe(0);
  });

  it('are not called by a view that its owner has put in the place of a table', async () => {
    const sides = { source: pair.blueDatabase, target: pair.greenDatabase, direction: 'to_green' as const };
    const sessions = await SideSessions.open({ ...sides, signal: new AbortController().signal });
    let copying: Session | undefined;
    try {
      const [sized] = await readTablePairs(sessions, [{ schema: 'public', name: 'mine' }], await workOf([]));
      if (sized === undefined) throw new Error('no pair');
      copying = await openSnapshotSession(pair.blueDatabase, 'test', undefined);
      await pair.blue.query(`
        ${NOTES('evil', '', 'int', '1')}
        ALTER TABLE public.mine RENAME TO former;
        CREATE VIEW public.mine AS SELECT public.evil() AS id`);
      const rows = { where: 'true', values: [], read: 'all' as const };
      await expect(comparePart(sessions, sized.pair, rows, undefined)).rejects.toThrow('"mine"');
      await expect(copying?.query('SELECT id FROM ONLY public.mine')).rejects.toThrow('"mine"');
      expect(await calls()).toBe(0);
    } finally {
      await sessions.close();
      if (copying !== undefined) await closeSession(copying);
    }
  });

  it('are called where an expression of the plan asks for them, of views as well', async () => {
    await pair.blue.query('CREATE VIEW public.rates AS SELECT 2 AS rate');
    const copying = await openSnapshotSession(pair.blueDatabase, 'test', undefined);
    if (copying === undefined) throw new Error('no session');
    try {
      await findNames(copying, 'pg_catalog, public');
      expect((await copying.query('SELECT rate FROM rates')).rows).toEqual([{ rate: 2 }]);
      await findNames(copying, 'pg_catalog');
      await expect(copying.query('SELECT rate FROM public.rates')).rejects.toThrow('"rates"');
    } finally {
      await closeSession(copying);
    }
  });
});
