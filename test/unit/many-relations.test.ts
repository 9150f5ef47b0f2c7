import { expect, it } from 'vitest';
import { sourceTables } from '../../src/postgres/bootstrap/copy/copied-tables.js';
import type { TableInfo } from '../../src/postgres/catalog.js';
import { excludedRelations } from '../../src/postgres/schema-copy/excluded-relations.js';
import type { Session } from '../../src/postgres/session.js';

/*
 * What is done for each table, or each partition, must not look at all of them: twice as many would take four times as
 * long, during which the worker does nothing else.
 */

const MANY = 30_000;
const LIMIT_MS = 2_000;
const NUMBERS = Array.from({ length: MANY }, (_, n) => n);
const nameOf = (n: number) => ({ schema: 'public', name: `table_${n}` });

/** A session that gives these answers, in this order. */
function answering(...answers: readonly (readonly object[])[]): Session {
  const left = [...answers];
  const query = (): Promise<object> => Promise.resolve({ rows: left.shift() ?? [] });
  // Nothing but its answers is asked for.
  return { query } as unknown as Session;
}

async function within<T>(work: () => Promise<T>): Promise<T> {
  const began = performance.now();
  const result = await work();
  expect(performance.now() - began).toBeLessThan(LIMIT_MS);
  return result;
}

it('the place on green of each of many partitions is found in no time', async () => {
  const root = { schema: 'public', name: 'event' };
  const leaves = NUMBERS.map((n): TableInfo => ({
    ...{ oid: n, name: nameOf(n), kind: 'partition', root, columns: [], key: null, replicaIdentity: 'd' },
    ...{ estimatedRows: 0, bytes: 0, owner: 'o' },
  }));
  const sizes = NUMBERS.map((oid) => ({ oid, blocks: '1', bytes: '8192', node: '1' }));
  const streams = [{ number: 1, name: 's', tables: [root] }];
  const sources = await within(() => sourceTables(answering(sizes, []), leaves, leaves.slice(1), streams, true));
  expect(sources.map(({ target }) => target)).toEqual([root, ...leaves.slice(1).map(({ name }) => name)]);
});

it('the sequences of many tables that are left out are found in no time', async () => {
  const tables = NUMBERS.map((n) => ({
    ...{ oid: String(n), ...nameOf(n), relkind: 'r', relispartition: false, root_schema: 'public' },
    ...{ root_name: `table_${n}`, replica_identity: 'd', owner: 'o', rows: '0', bytes: '0', columns: [], key: null },
  }));
  const sequences = NUMBERS.map((n) => ({
    ...{ oid: String(n), schema: 'public', name: `sequence_${n}`, increment: '1', min: '1', max: '9', cycle: false },
    ...{ readable: false, owner_schema: 'public', owner_name: `table_${n}`, root_schema: null, root_name: null },
  }));
  const blue = answering(tables, sequences);
  const excluded = await within(() => excludedRelations(blue, { include: ['public.table_0'], exclude: [] }));
  expect(excluded).toHaveLength(2 * (MANY - 1));
});
