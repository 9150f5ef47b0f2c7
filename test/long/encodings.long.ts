import { describe, expect, it } from 'vitest';
import { backfillTable } from '../../src/postgres/migrate/backfill.js';
import { expandTable } from '../../src/postgres/migrate/expand-table.js';
import type { Verification } from '../../src/postgres/verify/verify-tables.js';
import { CopyPair } from '../postgres/copy-pair.js';
import { NO_LAG, ReplicatedPair, workOf } from '../postgres/replicated-pair.js';

/** Encodings of databases, and bytes in them: such as UTF8 has no letter for, or that are in no encoding. */
const ENCODINGS = [
  ['LATIN1', 'fc'],
  ['WIN1252', '81fc'],
  ['EUC_JP', 'a4a2'],
  ['SQL_ASCII', '81fc'],
] as const;

const ROWS = 3_000;

const DDL = `
  CREATE TYPE kind AS ENUM ('one', 'two');
  CREATE TABLE people (name varchar(40) COLLATE "POSIX", part "char", kind kind, code char(6), body text, note json, n int,
                       PRIMARY KEY (name, code, kind));
  CREATE TABLE plain (id int PRIMARY KEY, body text, extra text[]);
  CREATE TABLE short (name text PRIMARY KEY, body text);`;

const fill = (encoding: string, hex: string): string => {
  const text = `convert_from('\\x${hex}', '${encoding}')`;
  return `
    INSERT INTO people SELECT 'M' || ${text} || n, 'x', (ARRAY['one', 'two'])[1 + n % 2]::kind, ${text} || n % 1000, ${text}, ('"' || ${text} || '"')::json, n
      FROM generate_series(1, ${ROWS}) n;
    INSERT INTO plain SELECT n, ${text} || n, ARRAY[${text}, NULL] FROM generate_series(1, ${ROWS}) n;
    INSERT INTO short VALUES (${text}, ${text})`;
};

const options = (encoding: string): string => `ENCODING '${encoding}' LOCALE 'C'`;

describe.each(ENCODINGS)('a database in %s', (encoding, hex) => {
  it('is copied as it is, in whatever format', async () => {
    const migrations = [{ addColumn: { table: 'plain', column: 'again', type: 'text', up: `'<' || body || '>'` } }];
    const pair = await CopyPair.start(
      ['pg15', 'pg18'],
      `encoded_${encoding}`,
      DDL,
      fill(encoding, hex),
      migrations,
      {},
      options(encoding),
    );
    try {
      const parcels = await pair.planCopy();
      const holder = pair.hold();
      await pair.phase('ready');
      await pair.copyAll(parcels);
      expect(await pair.finish()).toMatchObject({ left: [] });
      holder.stop();
      await pair.blue.query(
        `UPDATE people SET body = body || 'later' WHERE n < 100; UPDATE plain SET body = body || 'later'`,
      );
      await pair.follow();
      await pair.caughtUp();
      expect(await pair.differences()).toEqual([]);
      const { rows } = await pair.green.query(
        `SELECT count(*)::int AS n FROM plain WHERE again IS DISTINCT FROM '<' || body || '>'`,
      );
      expect(rows).toEqual([{ n: 0 }]);
    } finally {
      await pair.stop();
    }
  });

  it('is backfilled and compared along keys of text, and rows are named by their bytes', async () => {
    const pair = await ReplicatedPair.start(
      'pg15',
      `keyed_${encoding}`,
      DDL,
      fill(encoding, hex),
      undefined,
      options(encoding),
    );
    try {
      const work = await workOf([{ addColumn: { table: 'people', column: 'twice', type: 'int', up: '2 * n' } }]);
      for (const table of work.tables) await expandTable(pair.context(), table);
      for (const table of work.tables) {
        expect(await backfillTable(pair.context(), table, { ...NO_LAG, parallel: 2 })).toMatchObject({ written: ROWS });
      }
      const verify = (pass: string): Promise<Verification> =>
        pair.verify({ pass, tables: ['people', 'plain', 'short'], work, partSize: { rows: 500, bytes: 32 * 1024 } });
      expect(await verify('one')).toMatchObject({ differingRows: 0, rowsVerified: 2 * ROWS + 1 });
      await pair.green.query(
        `SET session_replication_role = replica; UPDATE people SET body = body || '!' WHERE n = 1234; DELETE FROM short`,
      );
      const letters = hex.replaceAll(/../g, '\\x$&');
      expect((await verify('two')).differing).toEqual([
        {
          table: 'public.people',
          key: `"name" = M${letters}1234, "code" = ${letters}234, "kind" = one`,
          kind: 'different',
          columns: ['body'],
        },
        { table: 'public.short', key: `"name" = ${letters}`, kind: 'missing' },
      ]);
    } finally {
      await pair.stop();
    }
  });
});
