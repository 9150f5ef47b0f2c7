import { readFileSync, readdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SHOP_TABLES } from '../../src/embedded/shop/shop-schema.js';
import { lintAgainstCatalog } from '../../src/plan/lint.js';
import { parsePlan } from '../../src/plan/parse.js';
import { readTables } from '../../src/postgres/catalog.js';
import { readPartitionKeys } from '../../src/postgres/partition-keys.js';
import type { CatalogSummary } from '../../src/postgres/catalog-summary.js';
import { toCatalogSummary } from '../../src/postgres/catalog-summary.js';
import { withSession } from '../../src/postgres/session.js';
import type { TestDatabase } from '../support/postgres.js';
import { asDatabase, testDatabase } from '../support/postgres.js';

const folder = new URL('../../examples/', import.meta.url);
const examples = readdirSync(folder).filter((name) => name.endsWith('.json'));

let shop: TestDatabase | undefined;
let catalog: CatalogSummary = { tables: [] };
beforeAll(async () => {
  shop = await testDatabase('pg15', 'lint shop');
  catalog = await withSession(asDatabase(shop, 'blue'), { purpose: 'test' }, async (session) => {
    await session.query(`SET search_path = public; ${SHOP_TABLES}
      CREATE SCHEMA "Back Office";
      CREATE TABLE "Back Office"."Order Items" ("Order No" bigint PRIMARY KEY, "Net price" numeric(12,2) NOT NULL);
      SET search_path = pg_catalog`);
    const tables = await readTables(session, { include: ['*.*'], exclude: [] });
    return toCatalogSummary(tables, await readPartitionKeys(session));
  });
});
afterAll(async () => shop?.drop());

describe('the examples against the tables of the sample shop', () => {
  it.each(examples)('%s is not refused', async (name) => {
    const parsed = parsePlan(JSON.parse(readFileSync(new URL(name, folder), 'utf8')));
    if (!('plan' in parsed)) throw new Error(`${name} is not a plan`);
    const findings = await lintAgainstCatalog(parsed.plan, catalog, new Set(['SHOP_BLUE', 'SHOP_GREEN']));
    expect(findings.filter(({ severity }) => severity === 'error')).toEqual([]);
    // numeric(12,3) holds larger quantities than the integer of blue: that should be said.
    expect(findings.map(({ rule }) => rule)).toEqual(name === '02-change-a-type.json' ? ['down-may-not-fit'] : []);
  });

  it('a misspelt table, and types as PostgreSQL writes them, are found', async () => {
    const parsed = parsePlan({
      name: 'wrong',
      blue: { connection: 'shop_blue' },
      green: { connection: 'shop_green' },
      migrations: [
        { addColumn: { table: 'transaction', column: 'x', type: 'text' } },
        {
          changeType: {
            table: 'transactions',
            column: 'payload',
            newColumn: 'short',
            type: 'varchar(100)',
            up: 'left(payload, 100)',
            down: 'short',
          },
        },
        {
          changeType: {
            table: 'transactions',
            column: 'created_at',
            newColumn: 'day',
            type: 'date',
            up: 'created_at::date',
            down: 'day',
          },
        },
      ],
    });
    if (!('plan' in parsed)) throw new Error('not a plan');
    const findings = await lintAgainstCatalog(parsed.plan, catalog, new Set(['shop_blue', 'shop_green']));
    expect(findings.map(({ rule, place }) => [rule, place])).toEqual([
      ['unknown-table', 'migrations[0].addColumn.table'],
      ['narrowing', 'migrations[1].changeType.type'],
      ['narrowing', 'migrations[2].changeType.type'],
    ]);
    expect(findings[0]?.instead).toBe('write "public.transactions"');
  });
});
