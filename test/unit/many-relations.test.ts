import { beforeEach, expect, it, vi } from 'vitest';
import { sourceTables } from '../../src/postgres/bootstrap/copy/copied-tables.js';
import type * as Catalog from '../../src/postgres/catalog.js';
import { sameTable, type TableInfo } from '../../src/postgres/catalog.js';
import { excludedRelations } from '../../src/postgres/schema-copy/excluded-relations.js';
import type { Session } from '../../src/postgres/session.js';

/*
 * What is done for each table, or each partition, must not look at all of them: twice as many would take four times as
 * long, during which the worker does nothing else.
 */

vi.mock('../../src/postgres/catalog.js', async (original) => {
  const all = await original<typeof Catalog>();
  return { ...all, sameTable: vi.fn(all.sameTable) };
});

const MANY = 500;
const NUMBERS = Array.from({ length: MANY }, (_, n) => n);
const nameOf = (n: number): { schema: string; name: string } => ({ schema: 'public', name: `table_${n}` });

beforeEach(() => {
  vi.mocked(sameTable).mockClear();
});

/** A session that gives these answers, in this order. */
function answering(...answers: readonly (readonly object[])[]): Session {
  const left = [...answers];
  const query = (): Promise<object> => Promise.resolve({ rows: left.shift() ?? [] });
  // Nothing but its answers is asked for.
  return { query } as unknown as Session;
}

it("no partition's place on green is looked for among all of them", async () => {
  const root = { schema: 'public', name: 'event' };
  const leaves = NUMBERS.map((n): TableInfo => ({
    ...{ oid: n, name: nameOf(n), kind: 'partition', root, columns: [], key: null, replicaIdentity: 'd' },
    ...{ estimatedRows: 0, bytes: 0, owner: 'o' },
  }));
  const sizes = NUMBERS.map((oid) => ({ oid, blocks: '1', bytes: '8192', node: '1' }));
  const streams = [{ number: 1, name: 's', tables: [root] }];
  const sources = await sourceTables(answering(sizes, []), leaves, leaves.slice(1), streams, true);
  expect(sources.map(({ target }) => target)).toEqual([root, ...leaves.slice(1).map(({ name }) => name)]);
  expect(sameTable).toHaveBeenCalledTimes(MANY - 1);
});

it("no sequence's table is looked for among all that are left out", async () => {
  const tables = NUMBERS.map((n) => ({
    ...{ oid: String(n), ...nameOf(n), relkind: 'r', relispartition: false, root_schema: 'public' },
    ...{ root_name: `table_${n}`, replica_identity: 'd', owner: 'o', rows: '0', bytes: '0', columns: [], key: null },
  }));
  const sequences = NUMBERS.map((n) => ({
    ...{ oid: String(n), schema: 'public', name: `sequence_${n}`, increment: '1', min: '1', max: '9', cycle: false },
    ...{ readable: false, owner_schema: 'public', owner_name: `table_${n}`, root_schema: null, root_name: null },
  }));
  const blue = answering(tables, sequences);
  const excluded = await excludedRelations(blue, { include: ['public.table_0'], exclude: [] });
  expect(excluded).toHaveLength(2 * (MANY - 1));
  expect(sameTable).not.toHaveBeenCalled();
});
